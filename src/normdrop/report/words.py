"""From verdicts to the word of a claim, by a rule that is declared before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from normdrop.report import mechanism
from normdrop.report.compare import head
from normdrop.report.study import MAIN, Study
from normdrop.report.verdicts import DECLARED

RULE = (
    "The main claim has one word per position, of the mean over data sets: Yes (better, not equivalent), No: the "
    "opposite, No practical difference (equivalent), Inconclusive; It depends where the prediction interval reaches "
    "beyond the ROPE on both sides. Another claim is told by counts over its declared family after Holm: Yes or No: "
    "the opposite (at least three quarters, none against), No practical difference (likewise), It depends (some each "
    "way), Sometimes (some, none against), else Inconclusive. Fewer than six seeds: refused."
)
POOLED_WORDS = {
    "better": "Yes",
    "worse": "No: the opposite",
    "equivalent": "No practical difference",
    "inconclusive": "Inconclusive",
    "refused": "Refused",
}


def counted_word(verdicts: Sequence[str]) -> str:
    """The word of a claim by counts over its family; a refused verdict counts as one that is on no side."""
    heads = Counter(map(head, verdicts))
    total, better, worse = len(verdicts), heads["better"], heads["worse"]
    if not total:
        raise ValueError("no verdict: a claim needs at least one")
    if heads["refused"] == total:
        return "Refused"
    if better and worse:
        return "It depends"
    if 4 * better >= 3 * total:
        return "Yes"
    if 4 * worse >= 3 * total:
        return "No: the opposite"
    if better:
        return f"Sometimes: {better} of {total}"
    if worse:
        return f"Sometimes the opposite: {worse} of {total}"
    return "No practical difference" if 4 * heads["equivalent"] >= 3 * total else "Inconclusive"


def pooled_word(verdict: str, prediction: tuple[float, float], rope: float) -> str:
    """The word of the mean over data sets; prediction: its interval, in the metric's unit."""
    if head(verdict) != "refused" and prediction[0] < -rope and prediction[1] > rope:
        return "It depends"
    return POOLED_WORDS[head(verdict)]


def counts(verdicts: Iterable[str]) -> dict[str, int]:
    heads = Counter(map(head, verdicts))
    named = {word: heads[word] for word in ("better", "worse", "equivalent", "refused")}
    return named | {"open": heads["inconclusive"], "n": heads.total()}


def family(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that a claim's word is of: the declared family at the grid proper, and of a ladder the trend."""
    kept = (rows["family"] == DECLARED) & ~rows["beyond"].astype(bool) & (rows["part"] == study.kind.answer)
    return rows[kept]


def words(study: Study, rows: pd.DataFrame, over_sets: pd.DataFrame) -> pd.DataFrame:
    """One row per position of the main claim and of mechanism, else one: what the study answers.

    rows, over_sets: its `verdicts.rows` and `pooled.pooled`. Columns: experiment, claim, sentence, position ("": all),
    word ("" where none is due: nothing was declared, or a study of the order that cannot speak "in general"), better,
    worse, equivalent, open, refused, n (counts over the family), scope.
    """
    base = family(study, rows)
    new = base["p_new_data"].notna().all()
    column, scope = ("verdict_new_data", "new samples") if new else ("verdict", "these data")
    named: dict[str, Any] = {"experiment": study.name, "claim": study.declared.claim}
    named |= {"sentence": study.declared.sentence, "scope": scope}
    means = over_sets[over_sets["family"] == DECLARED] if len(over_sets) else over_sets
    found = []
    if study.declared.kind == "mechanism":
        for share in mechanism.shares(study, mechanism.recalibration(study, rows)).to_dict("records"):
            own = base[base["position"] == share["position"]]
            found.append({"position": share["position"], "word": share["word"]} | counts(own[column]))
    elif study.declared.claim == MAIN and len(means):
        for mean in means.to_dict("records"):
            own = base[(base["position"] == mean["position"]) & (base["metric"] == mean["metric"])]
            word = pooled_word(mean["verdict"], (mean["pi_low"], mean["pi_high"]), study.rope(mean["metric"]))
            place = {"position": mean["position"], "word": word, "scope": "data sets at large"}
            found.append(place | counts(own[column]))
    elif study.declared.claim == MAIN:
        for position, own in base.groupby("position"):
            found.append({"position": position, "word": ""} | counts(own[column]))
    elif len(base):
        found.append({"position": "", "word": counted_word(list(base[column]))} | counts(base[column]))
    found = found or [{"position": "", "word": ""} | counts([])]
    columns = ["experiment", "claim", "sentence", "position", "word", *counts([]), "scope"]
    return pd.DataFrame([named | row for row in found])[columns]
