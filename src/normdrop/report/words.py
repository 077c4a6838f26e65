"""From verdicts to the word of a claim, by a rule that is declared before anything runs: the page ends with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from normdrop.report import mechanism, tables
from normdrop.report.compare import head
from normdrop.report.study import MAIN, Study
from normdrop.report.verdicts import DECLARED, HARNESS

POOLED_WORDS = {
    "better": "Yes",
    "worse": "No: the opposite",
    "equivalent": "No practical difference",
    "inconclusive": "Inconclusive",
    "refused": "Refused",
}


def counts(verdicts: Iterable[str]) -> dict[str, int]:
    heads = Counter(map(head, verdicts))
    named = {word: heads[word] for word in ("better", "worse", "equivalent", "refused")}
    return named | {"open": heads["inconclusive"], "n": heads.total()}


def counted_word(better: int, worse: int, equivalent: int, refused: int, open: int, n: int) -> str:
    """The word of a claim by counts over its family; a refused verdict counts as one that is on no side."""
    if refused == n:
        return "Refused"
    if better and worse:
        return "It depends"
    if 4 * better >= 3 * n:
        return "Yes"
    if 4 * worse >= 3 * n:
        return "No: the opposite"
    if better:
        return f"Sometimes: {better} of {n}"
    if worse:
        return f"Sometimes the opposite: {worse} of {n}"
    return "No practical difference" if 4 * equivalent >= 3 * n else "Inconclusive"


def pooled_word(verdict: str, prediction: tuple[float, float], rope: float) -> str:
    """The word of the mean over data sets; prediction: its interval, in the metric's unit."""
    if head(verdict) != "refused" and prediction[0] < -rope and prediction[1] > rope:
        return "It depends"
    return POOLED_WORDS[head(verdict)]


def family(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that a claim's word is of: the declared family at the grid proper, and of a ladder the trend."""
    own = rows[rows["family"].eq(DECLARED) & ~rows["beyond"].astype(bool)]
    return own[own["part"] == study.kind.answer]


def words(study: Study, rows: pd.DataFrame, over_sets: pd.DataFrame) -> pd.DataFrame:
    """One row per position of the main claim and of mechanism, else one: what the study answers.

    rows, over_sets: its `verdicts.rows` and `pooled.pooled`. Columns: experiment, claim, sentence, position ("": all),
    setting (what tells several means at a position apart, in words), word ("" where none is due: nothing was declared,
    or a study of the order that cannot speak "in general"), better, worse, equivalent, refused, open, n (counts over
    the family: for new samples where each row has that scope, else on these data), scope (of the word).
    """
    base, declared = family(study, rows), study.declared
    column, scope = "verdict", "these data"
    asked = base if len(base) else rows[rows["family"] != HARNESS]
    tested = asked[asked["p_value"].notna()]  # where all seeds diverged there is nothing to be tested in any scope
    if tested["p_new_data"].notna().all():
        column, scope = "verdict_new_data", "new samples"
    found = []

    def tell(where: dict[str, Any], word: str, setting: str = "", of: str = scope) -> None:
        """A row with the word of what stands at these position and keys."""
        own = base[(base[[*where]] == pd.Series(where)).all(axis=1)]
        row = {"experiment": study.name, "claim": declared.claim, "sentence": declared.sentence}
        row |= {"position": where.get("position", ""), "setting": setting, "word": word}
        found.append(row | counts(own[column]) | {"scope": of})

    if declared.kind == "mechanism" and len(base):
        for row in mechanism.shares(study, mechanism.recalibration(study, rows)).to_dict("records"):
            tell({"position": row["position"]}, row["word"])
    elif declared.claim == MAIN:
        means = over_sets[over_sets["family"].eq(DECLARED) & over_sets["metric"].eq(declared.metric)]
        means = means[means["part"].eq(study.kind.answer)]
        apart = tables.varying(means, ["rate", *study.keys])
        for mean in means.to_dict("records"):
            word = pooled_word(mean["verdict"], (mean["pi_low"], mean["pi_high"]), study.rope(mean["metric"]))
            where = {key: mean[key] for key in ("position", *apart)}
            tell(where, word, tables.place(mean, apart), "data sets at large")
        # A position on too few data sets has no mean.
        for position in sorted({*base["position"]} - {*means["position"]}):
            tell({"position": position}, "")
    elif len(base):
        tell({}, counted_word(**counts(base[column])))
    if not found:  # of mechanism none where all is refused
        refused = len(base) and set(map(head, base[column])) == {"refused"}
        tell({}, "Refused" if refused else "")
    return pd.DataFrame(found)
