"""Studies in memory with known effects, for tests of the page: nothing is trained, and nothing is read."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normdrop.report.study import Declared, Study

ORDERING = {"claim": "ordering", "sentence": "BN should come first.", "family": "best_vs_best"}


def made(
    name: str,
    *,
    datasets: int = 8,
    arrangements: Sequence[str] = ("none", "bn_dropout", "dropout_bn"),
    positions: Sequence[str] = ("after", "before"),
    rates: Sequence[float] = (0.1, 0.5),
    sizes: Sequence[int] = (),
    effect: Callable[[str, float, int], float] = lambda position, rate, size: 0.03 if position == "before" else 0.0,
    seeds: int = 6,
    **declared: Any,
) -> Study:
    """bn_dropout is `effect(position, rate, size)` ahead; declared: as of `Declared`, none for a sweep."""
    rng = np.random.default_rng(0)
    rows = []
    for number, size in itertools.product(range(datasets), sizes or (0,)):
        level, shared = rng.uniform(0.7, 0.9), rng.normal(0, 0.02, seeds)
        for arrangement, position in itertools.product(arrangements, positions):
            for rate in rates if "dropout" in arrangement else (0.0,):
                ahead = effect(position, rate, size) if arrangement == "bn_dropout" else 0.0
                accuracy = level + shared + ahead + rng.normal(0, 0.002, seeds)
                place = {"dataset": f"d{number}", "arrangement": arrangement, "position": position, "rate": rate}
                place |= {"data.train_size": size} if sizes else {}
                place["condition"] = f"d{number}/{arrangement}/{position}/q{rate:g}/{size}"
                values = {"seed": range(seeds), "test_acc": accuracy, "test_nll": 1 - accuracy}
                values |= {"gap": 0.2 - accuracy / 5}
                values |= {"val_acc": accuracy - rate / 10, "val_nll": 1 - accuracy, "diverged": False}
                rows.append(pd.DataFrame(place | values))
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(rerun=0, stands_in=False, beyond=False, fresh_rows=False, test_train_ratio=0.5, test_rows=200)
    table["fingerprint"] = table["served"] = table["dataset"]
    records = [
        {"condition": condition, "seeds": [*range(seeds)], "choices": {}, "study": {}, "setting": {}}
        | {key: own[key].iloc[0] for key in ("dataset", "arrangement", "position", "rate")}
        | {"config": {"model": {"name": "mlp"}}, "finished": 1e9, "wall_seconds": 60.0, "commit": None, "shift": []}
        for condition, own in table.groupby("condition", sort=False)
    ]
    return Study(name, Path("nowhere") / name, Declared(**declared), records, table, [])
