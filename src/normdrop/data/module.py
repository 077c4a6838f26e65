"""The LightningDataModule: all replicates' parts of a data set, and the order in which training meets them.

The rows of a large table are resident once, on the device, whatever the number of replicates. A replicate owns the
numbers of its rows and the scale of its training part, and sees its rows standardised when a batch of them is gathered.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import UserList
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from normdrop.asked import check_memory, is_int, require
from normdrop.compiling import compiled
from normdrop.data.rows import Rows
from normdrop.data.sources import bound
from normdrop.data.split import project, scale_of, split, standardise
from normdrop.streams import restore, state_of, stream

# Rows at a time where a whole part is evaluated.
CHUNK = 512
# Bytes of standardised rows that a replicate may own: below, they are computed once and not with each batch.
OWNED = 2**21


@dataclass(frozen=True, eq=False)
class Table:
    """Resident rows, (rows, features), and how each replicate standardises them.

    `scaling` is mean and scale, (2, replicates, 1, features): a replicate sees (x − mean) / scale, which is computed in
    float64, so that no unit and no distance from 0 changes what the network is given as float32. It is None where the
    rows are standardised already. A missing value, NaN, is seen as 0, the training mean.
    """

    x: Tensor
    y: Tensor
    scaling: Tensor | None = None
    missing: bool = False

    @classmethod
    def of(cls, rows: Rows, scales: Sequence[tuple[np.ndarray, np.ndarray]]) -> Table:
        """scales: mean and standard deviation of each replicate."""
        scaling = torch.from_numpy(np.stack([np.stack(own) for own in scales], axis=1)[:, :, None])
        return cls(torch.tensor(rows.x), torch.tensor(rows.y), scaling, bool(np.isnan(rows.x).any()))

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x (replicates, batch, features) and y (replicates, batch) of row numbers (replicates, batch)."""
        gather = compiled(_standardised) if rows.device.type == "cpu" and self.x.dtype != torch.float16 else None
        if gather and self.scaling is not None:
            x = torch.empty(*rows.shape, self.x.shape[1])
            gather(*(tensor.numpy() for tensor in (self.x, rows.contiguous(), self.scaling, x)))
        else:
            x = self.x.index_select(0, rows.flatten()).view(*rows.shape, -1)  # several times as fast as x[rows]
            if self.scaling is not None:
                mean, scale = self.scaling
                x = (x - mean).div_(scale).float()
        if self.missing:
            x.masked_fill_(x.isnan(), 0.0)
        return x, self.y[rows]

    def to(self, device: torch.device | str) -> Table:
        scaling = None if self.scaling is None else self.scaling.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), scaling=scaling)


def _standardised(x: np.ndarray, rows: np.ndarray, scaling: np.ndarray, out: np.ndarray) -> None:
    """`Table.gather` in one pass, the same to the last bit: a tenth of the time, where rows are wide."""
    for replicate in range(len(rows)):
        for row in range(rows.shape[1]):
            for i in range(x.shape[1]):
                distance = np.float64(x[rows[replicate, row], i]) - scaling[0, replicate, 0, i]
                out[replicate, row, i] = np.float32(distance / scaling[1, replicate, 0, i])


@dataclass(frozen=True, eq=False)
class Part:
    """One part of all replicates: the numbers of their rows in a table, (replicates, rows)."""

    table: Table
    rows: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Part:
        """Rows that are standardised already, other ones for each replicate: (replicates, rows, features)."""
        return cls(Table(x.flatten(0, 1), y.flatten()), torch.arange(y.numel()).view(y.shape))

    @property
    def x(self) -> Tensor:
        return self.table.gather(self.rows)[0]

    @property
    def y(self) -> Tensor:
        return self.table.y[self.rows]

    def batches(self, rows: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in their order, in chunks of so many."""
        yield from map(self.table.gather, self.rows.split(rows, dim=1))


def batches(order: Tensor, batch_size: int, stretch: int = 1) -> Sequence[Tensor]:
    """Split row numbers (replicates, rows) into stretches of so many batches, the last one maybe smaller.

    A last batch of one row, which batch normalization cannot train on, is left out whatever the arrangement, so that
    all of them see the same batches; in a random order it is another row each time.
    """
    rows = order.shape[1]
    if batch_size > 1 and rows % batch_size == 1:
        rows -= 1
    return order[:, :rows].split(batch_size * stretch, dim=1)


class BatchOrder:
    """The row numbers of every optimizer step of an epoch, (replicates, batch) int64: `batches` in a random order.

    rows: the numbers of the training rows, (replicates, rows). Each replicate shuffles with its own stream, which goes
    on from epoch to epoch: every iteration is a new epoch, but after `restore` the rest of the one that was saved.
    """

    def __init__(self, rows: Tensor, seeds: Sequence[int], batch_size: int, rerun: int = 0) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.stretch = 1  # batches that are given at once
        self._generators = [stream(seed, "order", rerun=rerun) for seed in seeds]
        self._first = self._began = [state_of(generator) for generator in self._generators]
        self._given = self._skip = 0

    def __len__(self) -> int:
        return len(batches(self.rows, self.batch_size, self.stretch))

    # A generator function: an iterator that is made and never asked (Lightning makes one at set-up) draws nothing.
    def __iter__(self) -> Iterator[Tensor]:
        skip, self._skip = self._skip, 0
        self._began = [state_of(generator) for generator in self._generators]
        drawn = np.stack([generator.permutation(self.rows.shape[1]) for generator in self._generators])
        # A whole epoch's order moves at once: one transfer, not one a step.
        order = self.rows.gather(1, torch.from_numpy(drawn).to(self.rows.device))
        for number, batch in enumerate(batches(order, self.batch_size, self.stretch), start=1):
            self._given = number
            if number > skip:
                yield batch

    def restart(self) -> None:
        self.restore({"skip": 0, "streams": self._first})

    # Not by the names that Lightning looks for in a loader: it restores one too late where a schedule asks for steps.
    def state(self, steps: float) -> dict[str, Any]:
        """Where the order stands, of `steps` an epoch."""
        ended = self._given == steps
        streams = [state_of(generator) for generator in self._generators] if ended else self._began
        return {"skip": 0 if ended else self._given, "streams": streams}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._given = self._skip = state["skip"]
        self._began = [*state["streams"]]  # of what is saved again before it goes on
        for generator, its in zip(self._generators, state["streams"], strict=True):
            restore(generator, its)


class ReplicateData(lightning.LightningDataModule):
    """All replicates' parts of a data set. A batch is x (replicates, batch, features) and y (replicates, batch).

    source: a data config, or what returns Rows; called with each replicate's `seed` if `fresh`, once
    without otherwise. seeds: one per replicate. pca: the number of principal components to use instead of
    the features, or None. shape: of a row, (channels, *space), in place of what the source says.
    batch_norm: whether the network has batch normalization, which cannot train on a batch of one row. rerun: another
    number gives other batch orders of the same parts. sizes: of the parts, see `split`.

    After `setup()`: `parts` ("train", "val", "test"), `features` and `classes` (numbers), the `shape` of a row, and the
    `fingerprint` of the rows, of fresh ones that of the last seed's.
    Anything wrong with the data or these arguments raises ValueError there. Rows are on the trainer's device from its
    first dataloader on.
    """

    parts: dict[str, Part]
    features: int
    shape: tuple[int, ...]
    classes: int
    fingerprint: str
    order: BatchOrder

    def __init__(
        self,
        source: Callable[..., Rows] | Mapping[str, Any],
        seeds: Sequence[int],
        batch_size: int,
        *,
        fresh: bool = False,
        pca: int | None = None,
        shape: Sequence[int] | None = None,
        batch_norm: bool = False,
        rerun: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__()
        if isinstance(source, Mapping):  # of a data config a checkpoint can keep what makes this again
            self.save_hyperparameters()
            source = bound(source)
        self.source, self.seeds, self.batch_size = source, list(seeds), batch_size
        self.fresh, self.pca, self.batch_norm, self.rerun = fresh, pca, batch_norm, rerun
        self.given_shape, self.sizes = shape, sizes

    def setup(self, stage: str = "fit") -> None:
        if hasattr(self, "parts"):  # Lightning calls this again for each stage, before it takes up a checkpoint
            if stage == "fit" and self.trainer and not self.trainer.fit_loop.epoch_loop.batch_progress.total.ready:
                self.order.restart()  # another fit may have gone on with it
            return
        require("data.fresh", self.fresh, isinstance(self.fresh, bool), "true or false")
        if self.fresh and "seed" not in inspect.signature(self.source).parameters:
            raise ValueError("data.fresh=true: these rows are given; only synthetic and mnist1d can draw fresh ones")
        given = None if self.fresh else self.source()
        if given is None or self.pca is not None or 4 * given.x.size <= OWNED:
            parts = self._own(given)
        else:
            parts = self._shared(given)
        rows, batch = parts["train"].rows.shape[1], self.batch_size
        least, why = (2, "; batch normalization cannot train on one row") if self.batch_norm else (1, "")
        ok = is_int(batch) and least <= batch <= rows
        require("batch_size", batch, ok, f"a whole number from {least} to {rows}, the number of training rows{why}")
        self.parts, self.features = parts, parts["train"].table.x.shape[1]
        if self.pca is not None:
            self.shape = (self.features,)
        drawn = parts["train"].rows, self.seeds, self.batch_size, self.rerun
        self.order, self.preview = BatchOrder(*drawn), BatchOrder(*drawn)

    def _shared(self, given: Rows) -> dict[str, Part]:
        self._describe(given)
        index = [split(given, seed, **self.sizes) for seed in self.seeds]
        table = Table.of(given, [scale_of(given.x, own["train"]) for own in index])
        return {name: Part(table, torch.from_numpy(np.stack([own[name] for own in index]))) for name in index[0]}

    def _own(self, given: Rows | None) -> dict[str, Part]:
        """Rows of each replicate's own: fresh ones, principal components, and few enough to be standardised once."""
        parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for replicate, seed in enumerate(self.seeds):
            rows = self.source(seed=seed) if given is None else given
            self._describe(rows)
            index = split(rows, seed, **self.sizes)
            values = standardise({name: rows.x[own] for name, own in index.items()})
            if self.pca is not None:
                values = project(values, self.pca)
            if replicate == 0:
                check_memory(4 * len(self.seeds) * sum(x.size for x in values.values()), "data: it")
                # Filled replicate by replicate: a list to stack would need the memory twice.
                for name, x in values.items():
                    sizes = (len(self.seeds), *x.shape)
                    parts[name] = (np.empty(sizes, np.float32), np.empty(sizes[:2], np.int64))
            for name, (x, y) in parts.items():
                x[replicate], y[replicate] = values[name], rows.y[index[name]]
        return {name: Part.of(torch.from_numpy(x), torch.from_numpy(y)) for name, (x, y) in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        # Infinity before there is a loader.
        return self.order.state(self.trainer.num_training_batches) | {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.setup()
        if state_dict.get("fingerprint", self.fingerprint) != self.fingerprint:  # older checkpoints have none
            raise ValueError("data: its rows are others than those that the checkpoint's networks were trained on")
        self.order.restore(state_dict)

    def _describe(self, rows: Rows) -> None:
        self.classes, self.shape, self.fingerprint = len(rows.classes), rows.shape, rows.fingerprint
        if (given := self.given_shape) is not None:
            features = rows.x.shape[1]
            ok = isinstance(given, (list, tuple)) and all(is_int(size) and size >= 1 for size in given)
            allowed = f"null, or a list of integers ≥ 1 whose product is the {features} features"
            require("data.shape", given, ok and math.prod(given) == features, allowed)
            self.shape = tuple(given)

    def _resident(self) -> dict[str, Part]:
        """The parts, on the device of the trainer if there is one."""
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            tables = {table: table.to(device) for table in {part.table for part in self.parts.values()}}
            self.parts = {name: Part(tables[part.table], part.rows.to(device)) for name, part in self.parts.items()}
            self.order.rows = self.preview.rows = self.parts["train"].rows
        return self.parts

    def train_dataloader(self) -> BatchOrder | UserList[Tensor]:
        """The order in which a trainer trains; outside of one another of the same streams, which shifts nothing."""
        self._resident()
        if self.trainer is None or not self.trainer.training:
            return self.preview
        if getattr(self.trainer, "overfit_batches", 0):  # the same batches in each epoch
            return UserList(copy.deepcopy(self.order))
        return self.order

    # To Lightning a plain list would be several loaders.
    def val_dataloader(self) -> UserList[Tensor]:
        return UserList(self._resident()["val"].rows.split(CHUNK, dim=1))

    def test_dataloader(self) -> UserList[Tensor]:
        return UserList(self._resident()["test"].rows.split(CHUNK, dim=1))

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Row numbers → x and y."""
        assert self.trainer is not None
        evaluated = "val" if self.trainer.validating or self.trainer.sanity_checking else "test"
        return self.parts["train" if self.trainer.training else evaluated].table.gather(batch)
