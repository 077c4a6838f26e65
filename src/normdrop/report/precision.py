"""How many replicates a study's data sets need for intervals of a given width: the second stage of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normdrop.report.contrasts import contrasts
from normdrop.report.records import load
from normdrop.report.statistics import replicates_needed
from normdrop.report.verdicts import DECLARED, each, verdicts


def replicates_for(directory: Path, half_width: float, first: Sequence[int], most: int) -> dict[tuple[str, str], int]:
    """Replicates by data set and position: the most that a comparison of the declared family needs, `most` at most.

    half_width: of the interval on these rows, in the primary metric's unit. first: the seeds of the first stage, from
    which alone the standard deviation is taken, so that the interval covers exactly (Stein 1945). Raises ValueError if
    no study is declared there.
    """
    needed: dict[tuple[str, str], int] = {}
    for study in load(directory).studies:
        study.replicates = study.replicates[study.replicates["seed"].isin(first)]
        rows = verdicts(study, contrasts(study))
        for row in each(rows[(rows["family"] == DECLARED) & (rows["metric"] == study.metric) & rows["sd"].notna()]):
            place = row.dataset, row.position
            wanted = replicates_needed(row.sd, row.n, half_width, study.declaration["alpha"])
            needed[place] = min(max(needed.get(place, 0), wanted), most)
    if not needed:
        raise ValueError(f"precision={half_width:g}: {directory} holds no declared study; precision is for experiments")
    return needed
