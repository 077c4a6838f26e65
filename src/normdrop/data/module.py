"""The LightningDataModule: all replicates' parts of a data set, and the order in which training meets them.

All parts of all replicates are stacked and stay in memory (on the device, after `Part.to`), so that a
batch is no more than a tensor of row numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from normdrop.data.rows import Rows, check_memory, is_int, require
from normdrop.data.split import project, split, standardise
from normdrop.streams import stream


@dataclass(frozen=True, eq=False)
class Part:
    """One part of all replicates. x: (replicates, rows, features) float32; y: (replicates, rows) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Part:
        return Part(self.x.to(device), self.y.to(device))


class BatchOrder:
    """The row numbers of every optimizer step of an epoch: (replicates, batch) int64, the last batch maybe smaller.

    Each replicate shuffles with its own stream, which goes on from epoch to epoch: every iteration is a new epoch.
    """

    def __init__(self, seeds: Sequence[int], rows: int, batch_size: int, rerun: int = 0) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.device: torch.device | str = "cpu"
        self._generators = [stream(seed, "order", rerun=rerun) for seed in seeds]

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    # A generator function: an iterator that is made and never asked (Lightning makes one at set-up) draws nothing.
    def __iter__(self) -> Iterator[Tensor]:
        order = torch.from_numpy(np.stack([generator.permutation(self.rows) for generator in self._generators]))
        yield from order.to(self.device).split(self.batch_size, dim=1)


class ReplicateData(lightning.LightningDataModule):
    """All replicates' parts of a data set, standardised and stacked.

    source: returns Rows; called with each replicate's `seed` if `fresh`, once without otherwise. seeds: one per
    replicate. train_size, val_fraction, test_fraction: see `split`. pca: the number of principal components to use
    instead of the features, or None. batch_norm: whether the network has batch normalization, which cannot train on a
    batch of one row. rerun: another number gives other batch orders of the same parts.

    After `setup()`: `parts` ("train", "val", "test"), `features` and `classes` (numbers). Anything wrong with the data
    or these arguments raises ValueError there.
    """

    parts: dict[str, Part]
    features: int
    classes: int

    def __init__(
        self,
        source: Callable[..., Rows],
        seeds: Sequence[int],
        batch_size: int,
        *,
        fresh: bool = False,
        train_size: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        pca: int | None = None,
        batch_norm: bool = False,
        rerun: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.seeds, self.batch_size = source, list(seeds), batch_size
        self.fresh, self.pca, self.batch_norm, self.rerun = fresh, pca, batch_norm, rerun
        self.sizes: dict[str, Any] = {
            "train_size": train_size,
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
        }

    def setup(self, stage: str = "fit") -> None:
        if hasattr(self, "parts"):  # Lightning calls this again for each stage
            return
        require("data.fresh", self.fresh, isinstance(self.fresh, bool), "true or false")
        if self.fresh and "seed" not in inspect.signature(self.source).parameters:
            raise ValueError("data.fresh=true: these rows are given; only synthetic and mnist1d can draw fresh ones")
        rows = None if self.fresh else self.source()
        stacked: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for replicate, seed in enumerate(self.seeds):
            own = self.source(seed=seed) if rows is None else rows
            index = split(own, seed, **self.sizes)
            if replicate == 0:
                check_batches(len(index["train"]), self.batch_size, self.batch_norm)
            values = standardise({name: own.x[i] for name, i in index.items()})
            if self.pca is not None:
                values = project(values, self.pca)
            if replicate == 0:
                self.features, self.classes = values["train"].shape[1], len(own.classes)
                check_memory(sum(map(len, index.values())), self.features, len(self.seeds), "data")
                # Filled replicate by replicate: a list to stack would need the memory twice.
                stacked = {
                    name: (
                        np.empty((len(self.seeds), *x.shape), np.float32),
                        np.empty((len(self.seeds), len(x)), np.int64),
                    )
                    for name, x in values.items()
                }
            for name, (x, y) in stacked.items():
                x[replicate], y[replicate] = values[name], own.y[index[name]]
        self.parts = {name: Part(torch.from_numpy(x), torch.from_numpy(y)) for name, (x, y) in stacked.items()}
        self.order = BatchOrder(self.seeds, self.parts["train"].y.shape[1], self.batch_size, self.rerun)

    def train_dataloader(self) -> BatchOrder:
        if self.trainer is not None:  # a whole epoch's order moves at once: one transfer, not one a step
            self.order.device = self.trainer.strategy.root_device
        return self.order

    def val_dataloader(self) -> range:
        """One item without meaning: a validation step reads the whole resident part."""
        return range(1)


def check_batches(train_rows: int, batch_size: int, batch_norm: bool) -> None:
    """Refuse a batch larger than the training part, and a last batch of one row under batch normalization."""
    require("batch_size", batch_size, is_int(batch_size) and batch_size >= 1, "a whole number, 1 or more")
    if batch_size > train_rows:
        raise ValueError(f"batch_size={batch_size}: there are only {train_rows} training rows")
    # batch_size=1 leaves no remainder, but all of its batches have one row.
    if batch_norm and (train_rows % batch_size == 1 or batch_size == 1):
        raise ValueError(
            f"batch_size={batch_size}: {train_rows} training rows leave a batch of one row, which batch normalization "
            "cannot train on; choose another batch_size or data.train_size"
        )
