"""A study's verdicts in words: the answer in one sentence, and what must be said beside it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from normdrop.arrangement import operations, order
from normdrop.metrics import METRICS
from normdrop.report.records import Found, Study, setting_value
from normdrop.report.statistics import AA_ALARM, MIN_DATA_SETS, MIN_REPLICATES, aa_tail
from normdrop.report.verdicts import DECLARED, HARNESS, each, units_in
from normdrop.report.words import claim_word, head


@dataclass
class Answer:
    word: str
    """Yes, No, … : of the claim, over the declared family at the base setting"""
    sentence: str
    """what it says, for whoever has met none of this before"""
    rule: str = ""
    """how the word follows from the verdicts"""
    these_rows: str = ""
    """the word by the verdicts on these rows"""
    new_data: str = ""
    """the word for new data, where something can be said of it"""
    amount: str = ""
    """by how much, in one cell of a table"""
    first: list[str] = field(default_factory=list)
    """what takes trust away, told before anything else"""
    beside: list[str] = field(default_factory=list)
    """what belongs to the answer: other metrics, other settings, what was held fixed"""
    caveats: list[str] = field(default_factory=list)


@dataclass
class Harness:
    """What all A/A rows of a page say together."""

    sentence: str
    alarm: bool
    """more of them claim a difference than chance allows: distrust the whole report"""


def say(verdict: str) -> str:
    """The first word of a verdict: better, worse, equivalent, inconclusive or refused."""
    return verdict.partition(",")[0].partition(":")[0]


def partial(found: Found) -> str:
    """One line on a sweep that is not done, empty if it is."""
    if not found.unfinished:
        return ""
    known = f" of {found.planned} planned" if found.planned else ""
    return f"Partial: {found.finished}{known} conditions are finished, {len(found.unfinished)} are not."


def answer(study: Study, rows: pd.DataFrame, pooled: pd.DataFrame | None = None) -> Answer:
    """pooled: `population.pooled`'s table, if there is one."""
    declared = study.declaration["family"]
    a, b = (" or ".join(side) for side in study.sides)
    family = rows[rows["family"] == DECLARED]
    part = study.kind.answer.format(over=study.over)  # of a ladder the trend is the answer
    proper = [",".join(filter(None, [base, part])) for base in study.base_settings]
    base = family[family["setting"].isin(proper)]
    if declared is None:
        sentence = "No study was declared for these conditions: every row is exploratory, and none is an answer."
        result = Answer("Nothing declared", sentence)
    elif base.empty:
        result = Answer("No answer yet", f"No finished conditions to compare {a} with {b}.")
    else:
        over_sets = family.iloc[:0] if pooled is None else pooled[pooled["family"] == DECLARED]
        word, rule = claim(study, base, over_sets)
        new = word if len(over_sets) or scope(base) == "verdict_new_data" else "cannot be told"
        said, amounts = plain(study, base, over_sets), amount(study, base, over_sets)
        result = Answer(word, said, rule, claim_word(base["verdict"].to_list()), new, amounts)
    others = family[~family.index.isin(base.index)]
    if len(others) and len(base):
        rest = "At the single rungs" if study.over else "Under the other settings"
        result.beside.append(f"{rest} ({len(others)} comparisons of the same family): {tally(others['verdict'])}.")
    result.beside.append(_held_fixed(study))
    result.caveats = _caveats(study, rows, base)
    return result


def harness(rows: pd.DataFrame, alpha: float) -> Harness | None:
    """Whether the A/A rows of a whole page claim more differences than chance: a binomial tail of at most AA_ALARM.

    Rows count once for each pair of distinct networks. None where all is as it should be without a claim, or nothing
    was trained twice.
    """
    tested = rows[rows["family"] == HARNESS]
    # Several studies may have trained the same two networks: to the last bit, so they are told by their numbers.
    tested = tested.drop_duplicates(["dataset", "a", "comparison", "metric", "n", "estimate", "ci_low", "ci_high"])
    claiming = tested[tested["verdict"].map(say).isin(["better", "worse"])]
    if claiming.empty:
        return None
    named = "; ".join(
        f"{row.a} on {row.dataset}, {row.position}, rate {row.rate_a:g}: {number(row.estimate, row)}, "
        f"p = {row.p_value:.3g}"
        for row in each(claiming.head(5))
    )
    chance = aa_tail(len(claiming), len(tested), alpha)
    alarm = chance <= AA_ALARM
    luck = f"So many or more come up by chance with probability {chance:.2g}: an alarm starts at {AA_ALARM}."
    return Harness(
        f"{len(claiming)} of {len(tested)} A/A rows of distinct networks claim a difference of an arrangement from "
        f"itself, where chance gives {alpha * len(tested):.2g} ({named}). "
        + ("Until that is ruled out, distrust what follows." if alarm else luck),
        alarm,
    )


def measured(study: Study, metric: str) -> str:
    """What a study compares, in words."""
    return study.kind_of(metric).quantity.format(metric=METRICS[metric].words, over=study.over)


def number(value: float, row: pd.Series | object) -> str:
    """A value of the row's unit, as text."""
    symbol, scale = units_in(row)
    if pd.isna(value):
        return "—"
    digits = 3 if symbol == "nats" else 2
    # Without + 0 what rounds to 0 from below would be −0.00.
    return f"×{value:.3g}" if symbol == "×" else f"{round(value * scale, digits) + 0:+.{digits}f} {symbol}"


def interval(low: float, high: float, row: pd.Series | object) -> str:
    """Both ends in the row's unit, without its name."""
    symbol = units_in(row)[0]
    ends = [number(end, row).removeprefix("×").removesuffix(f" {symbol}") for end in (low, high)]
    return "—" if pd.isna(low) else " to ".join(ends)


RULE = (
    "The word follows from a rule. {unit}, in the scope {scope}: Yes is better, and not merely by less than matters "
    "(on three quarters of several data sets, worse on none); No: the opposite is the same with worse; No practical "
    "difference is equivalence likewise; It depends is better here and worse there, or a prediction interval that "
    "reaches beyond the ROPE on both sides; Sometimes is better on some and worse on none; all else is Not shown."
)
SCOPES = {"verdict_new_data": "new data like it", "verdict": "these rows"}
SPOKEN = {"bn": "batch normalization", "ln": "layer normalization"}
NAMES = {"rate": "dropout rate", "optimizer.lr": "learning rate"}


def scope(rows: pd.DataFrame) -> str:
    """The column that a claim's verdicts are read from: new data where it can be had for every row."""
    return "verdict_new_data" if rows["p_new_data"].notna().all() else "verdict"


def claim(study: Study, base: pd.DataFrame, pooled: pd.DataFrame) -> tuple[str, str]:
    """The word of the claim by the rule, and the rule. base: the declared rows of the grid proper."""
    column = scope(base)
    if pooled.empty:
        rule = RULE.format(unit="Each comparison of the declared family is asked, Holm included", scope=SCOPES[column])
        return claim_word(base[column].to_list()), rule
    words = {}
    for row in each(pooled):
        own = base[base[["position", "metric", "setting"]].eq([row.position, row.metric, row.setting]).all(axis=1)]
        words[_place(study, row)] = claim_word(
            own[scope(own)].to_list(),
            pooled=row.verdict,
            prediction=(row.pi_low, row.pi_high),
            rope=study.rope(row.metric),
        )
    distinct = set(words.values())
    word = distinct.pop() if len(distinct) == 1 else "; ".join(f"{word} ({place})" for place, word in words.items())
    return word, RULE.format(unit="The mean over data sets is asked", scope="new data sets")


def _place(study: Study, row: Any) -> str:
    return ", ".join(filter(None, [row.position, row.setting, row.metric * (len(study.metrics) > 1)]))


def spoken(study: Study) -> tuple[str, str]:
    """A and B for a reader: of two orders which comes first."""
    if _reversed(study):
        a, b = (operations(side[0])[0] for side in study.sides)
        return f"{SPOKEN.get(a, a)} first", f"{SPOKEN.get(b, b)} first"

    def holding(arm: str) -> str:
        return " and ".join(SPOKEN.get(part, part) for part in operations(arm)) or "a network with neither"

    names = [" or ".join(map(holding, side)) for side in study.sides]
    return names[0], f"the better of {names[1]}" if len(study.sides[1]) > 1 else names[1]


def _reversed(study: Study) -> bool:
    """Whether the two sides are the same operations in two orders."""
    a, b = ([operations(arrangement) for arrangement in side] for side in study.sides)
    return len(a) == len(b) == 1 and a != b and a[0][::-1] == b[0]


def plain(study: Study, base: pd.DataFrame, pooled: pd.DataFrame) -> str:
    """The answer as one tells it: what was tuned, who was ahead by how much, in which scope, and the verdict."""
    a, b = spoken(study)
    keys = [NAMES.get(key, key.rpartition(".")[2]) for key in study.declaration["tuned"]]
    chosen = {"best_vs_best": f"With each side at its own best {' and '.join(keys)}, ", "same_rate": "At equal rates, "}
    start = chosen[study.declaration["family"]] if base[["rate_a", "rate_b"]].any(axis=None) else ""
    said = []
    for metric, group in base.groupby("metric", sort=False):
        what, column, rope = measured(study, str(metric)), scope(group), study.rope(str(metric))
        row: Any = next(each(group))
        symbol, factor = units_in(row)
        no_matter = f"×{rope:g}" if row.null == 1 else f"{rope * factor:g} {symbol}"
        region = "" if math.isnan(rope) else f" (up to {no_matter} would not matter)"
        for mean in each(pooled[pooled["metric"] == metric]):
            said.append(
                f"on average over {mean.k} data sets ({mean.position}) {_ahead(mean.estimate, what, row, a, b)}, "
                f"{_between(mean.ci_low, mean.ci_high, row)}; a new data set would lie "
                f"{_between(mean.pi_low, mean.pi_high, row)}: {_phrase(mean.verdict)}{region}"
            )
        if len(pooled):
            continue
        if len(group) == 1:
            ends = (row.ci_low, row.ci_high) if column == "verdict" else (row.new_low, row.new_high)
            said.append(
                f"{_ahead(row.estimate, what, row, a, b)}, {_between(*ends, row)} for {SCOPES[column]}: "
                f"{_phrase(getattr(row, column))}{region}"
            )
        else:
            said.append(
                f"{a} differed from {b} in {what} by {_range(group, row)} in {len(group)} comparisons; for "
                f"{SCOPES[column]}: {tally(group[column]).replace('**', '')}{region}"
            )
    said[0] = start + said[0]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in said)


def _range(group: pd.DataFrame, row: Any) -> str:
    return f"{number(group['estimate'].min(), row)} to {number(group['estimate'].max(), row)}"


def _ahead(estimate: float, what: str, row: Any, a: str, b: str) -> str:
    if row.null == 1:
        return f"{what} with {a} came to ×{estimate:.3g} of those with {b}"
    size, side = number(abs(estimate), row).lstrip("+"), "higher" if estimate >= 0 else "lower"
    return f"{what} was {size} {side} with {a} than with {b}"


def _between(low: float, high: float, row: Any) -> str:
    return f"between {interval(low, high, row).replace(' to ', ' and ')}"


def _phrase(verdict: str) -> str:
    word = head(verdict)
    spoken_words = {"equivalent": "no practical difference", "inconclusive": "not settled"}
    return verdict if word == "refused" else spoken_words.get(word, word)


def amount(study: Study, base: pd.DataFrame, pooled: pd.DataFrame) -> str:
    """The declared differences in few words: pooled means, else the one estimate, else their range and a count."""
    said = [
        f"{_place(study, row)}: {number(row.estimate, row)} ({interval(row.ci_low, row.ci_high, row)})"
        for row in each(pooled)
    ]
    for metric, group in base.groupby("metric", sort=False) if pooled.empty else ():
        row: Any = next(each(group))
        name = f"{METRICS[str(metric)].words}: " * (len(study.metrics) > 1)
        if len(group) == 1:
            said.append(f"{name}{number(row.estimate, row)} ({interval(row.ci_low, row.ci_high, row)})")
        else:
            tallied = tally(group["verdict"]).replace("**", "")
            said.append(f"{name}{_range(group, row)}: {tallied}")
    return "; ".join(said)


def tally(verdicts: pd.Series) -> str:
    words = Counter(map(say, verdicts))
    return ", ".join(f"**{word}** in {words[word]}" for word in sorted(words, key=lambda w: -words[w]))


def _held_fixed(study: Study) -> str:
    tuned = study.declaration["tuned"]
    if any(key.startswith("optimizer") for key in tuned):
        return f"Tuned for each arrangement on validation, with an equal budget: {', '.join(tuned)}."
    used = {
        f"{str(setting_value(record, 'optimizer._target_')).rpartition('.')[2]}, "
        f"learning rate {setting_value(record, 'optimizer.lr')}"
        for record in study.records
    }
    held = "; ".join(sorted(used))
    return f"The optimizer and the learning rate were held fixed ({held}), not tuned for each arrangement."


def _caveats(study: Study, rows: pd.DataFrame, base: pd.DataFrame) -> list[str]:
    lines = list(study.told_apart)
    if study.published and "curves" in study.kind.figures:
        lines.append(
            "Learning curves are not published: their figure, and those of the single networks, are left out here."
        )
    if study.told_apart:
        lines.append("Those conditions are told apart above by these keys, and never compared with each other.")
    own = study.replicates[~study.replicates["stands_in"]]
    diverged = own[own["diverged"].astype(bool)]
    if len(diverged):
        counts = diverged.groupby("condition").size().to_dict()
        worst = sorted(counts, key=lambda c: -counts[c])[:8]
        named = "; ".join(f"{c} ({counts[c]})" for c in worst) + ("; …" if len(counts) > 8 else "")
        lines.append(
            f"{len(diverged)} of {len(own)} replicates diverged: {named}. A pair with one of them is left out."
        )
    else:
        lines.append(f"None of {len(own)} replicates diverged.")
    refused = rows[rows["verdict"].str.startswith("refused")]
    for reason, group in refused.groupby("verdict"):
        lines.append(f"{len(group)} rows {reason}.")
    if not rows["family"].eq(HARNESS).any():
        lines.append(
            "There is no A/A row: nothing was trained twice (`rerun=1`), so the harness itself went untested here."
        )
    names = study.replicates["dataset"].nunique()
    if names < MIN_DATA_SETS:
        lines.append(
            f"No pooled test over data sets: this is {names} of them, and the mean of fewer than {MIN_DATA_SETS} says "
            "little about data sets at large. Replicates of one data set are not a sample of data sets."
        )
    if (base["position"] == "around").any() and _reversed(study):
        one, other = (" → ".join(order(side[0], "around")) for side in study.sides)
        lines.append(
            f"`around` compares {one} with {other}: each operation changes its side of the activation, so the "
            "difference is not of the order alone."
        )
    lines.append(
        f"Intervals ({100 - 100 * study.declaration['alpha']:g} %) and p-values are for these rows, re-split, unless "
        "a column says new data: that scope uses the corrected resampled t test, which no number of replicates makes "
        "narrow. Where every replicate drew fresh rows the two are one."
    )
    lines.append(
        f"Rows outside the declared family are exploratory: not adjusted for their number. Fewer than {MIN_REPLICATES} "
        "replicates get no verdict."
    )
    return lines
