"""Variance shift: how far evaluation is from what batch normalization saw in training, measured and removed.

Dropout before a BN layer makes the variance of its input differ between the two modes (Li, Chen, Hu, Yang,
CVPR 2019). Δ is Var[input in eval mode] / Var[input in train mode], for each unit (in a CNN for each channel,
over rows and positions); a layer's figure is the median over its units. Without dropout above a layer it is
1, once running statistics have left their initial values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.data.module import Part, batches
from normdrop.networks.layers import BATCH_NORMS
from normdrop.networks.noise import StackedNoise
from normdrop.networks.side_by_side import SideBySide
from normdrop.networks.stacked import StackedBatchNorm, StackedNetwork
from normdrop.streams import stream

# Passes over the training rows with noise on. Three leave an error of a few percent in a unit's variance on
# 1,000 rows and of about half a percent in the median over 256 units, for 7 to 10 % of the time of 30 epochs
# of training.
PASSES = 3

# Whether dropout stands anywhere before a BN layer.
NO_NOISE, NOISE = "no noise above", "noise above"


@torch.no_grad()
def recalibrated(network: StackedNetwork, part: Part) -> StackedNetwork:
    """A copy in eval mode with the running statistics of training rows, noise off.

    Layer by layer: each BN layer sees the recalibrated ones before it. The statistics are of all rows at
    once, the variance unbiased as in BatchNorm1d's running_var. A layer that its network keeps in eval mode stays.
    """
    network = copy.deepcopy(network).train()
    for layer in network.modules():
        if isinstance(layer, StackedNoise):
            layer.eval()
    first = _moments(network, [next(part.batches(rows=2))])
    network.eval()
    for layer in [layer for layer, moments in first.items() if moments.moving]:
        moments = _moments(network, part.batches())[layer]
        count = moments.count[:, None]
        unbiased = moments.variance * count / (count - 1)
        layer.running_mean.copy_(moments.mean.view_as(layer.running_mean))
        layer.running_var.copy_(unbiased.view_as(layer.running_var))
    return network


@torch.no_grad()
def measure(network: StackedNetwork, part: Part, batch_size: int, rerun: int, epoch: int | str) -> list[dict[str, Any]]:
    """The shift at every BN layer of every replicate, an entry each, layers from 1; None where it is not finite.

    part: the training rows. Train mode is estimated afresh, in random batches of `batch_size`, with draws of its
    own: nothing of the network or of its streams changes. Both are medians over the layer's units:

    measured: eval-mode variance over train-mode variance; running: eval-mode variance over the running
    variance, which adds the moving average's lag and noise (and, below a BN layer, (rows − 1)/rows of a
    batch: running variances are unbiased, the normalisation in training is not). case: whether noise stands
    above. units: those counted; not those whose variance in either mode is below the layer's eps, which BN does
    not normalise.
    """
    own = copy.deepcopy(network).eval()
    evaluated = _moments(own, part.batches())
    # Of the network as it is: a pass in train mode moves the copy's running statistics.
    running = {layer: layer.running_var.double().clone().view(len(own.seeds), -1) for layer in evaluated}
    trained = _moments(own, _in_train_mode(own, part, batch_size, rerun))
    entries = []
    for number, (layer, seen) in enumerate(evaluated.items(), start=1):
        variance, its = seen.variance, trained[layer].variance
        counted = (variance >= layer.eps) & (its >= layer.eps)
        for replicate, seed in enumerate(own.seeds):
            units = counted[replicate]
            entry: dict[str, Any] = {"layer": number, "seed": seed, "epoch": epoch, "case": seen.case}
            entry["units"] = int(units.sum())
            entry["measured"] = _median((variance / its)[replicate][units])
            entry["running"] = _median((variance / running[layer])[replicate][units])
            entries.append(entry)
    return entries


class _Moments:
    """Mean and biased variance, (replicates, units), of all that was added."""

    def __init__(self, replicates: int, case: str, moving: bool) -> None:
        self.case, self.moving = case, moving
        self.count = torch.zeros(replicates, dtype=torch.float64)
        self.sum: Any = None
        self.squares: Any = None

    def add(self, which: slice, values: Tensor) -> None:
        """values: (replicates, units, values) of some of the replicates."""
        if self.sum is None:
            self.count = self.count.to(values.device)
            self.sum = values.new_zeros(len(self.count), values.shape[1], dtype=torch.float64)
            self.squares = self.sum.clone()
        # torch.var_mean takes 20 times as long on a CPU.
        rows, mean = values.shape[-1], values.mean(dim=-1)
        variance, mean = (values - mean[..., None]).square().mean(dim=-1), mean.double()
        self.count[which] += rows
        self.sum[which] += rows * mean
        self.squares[which] += rows * (variance + mean.square())

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count[:, None]

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count[:, None] - self.mean.square()).clamp_min(0)


def _moments(network: StackedNetwork, chunks: Iterable[tuple[Tensor, Tensor]]) -> dict[Any, _Moments]:
    """Moments of what each BN layer is given as rows pass, the layers in the order in which they pass them."""
    seen: dict[nn.Module, _Moments] = {}
    noises: list[nn.Module] = []

    def noise(layer: StackedNoise, _: tuple[Tensor]) -> None:
        if layer.rate:
            noises.append(layer)

    def norm(layer: Any, inputs: tuple[Tensor], copies: SideBySide | None = None) -> None:
        (x,) = inputs
        if layer not in seen:
            seen[layer] = _Moments(len(network.seeds), NOISE if noises else NO_NOISE, layer.training)
        if copies is None:
            seen[layer].add(slice(None), x.reshape(len(network.seeds), layer.features, -1))
        else:  # the rows of one replicate
            seen[layer].add(slice(copies.turn, copies.turn + 1), x.movedim(1, 0).flatten(1)[None])

    hooks = []
    for module in network.modules():
        if isinstance(module, StackedNoise):
            hooks.append(module.register_forward_pre_hook(noise))
        elif isinstance(module, StackedBatchNorm):
            hooks.append(module.register_forward_pre_hook(norm))
        elif isinstance(module, SideBySide):
            for layer in module.copies.modules():
                if isinstance(layer, BATCH_NORMS):
                    hooks.append(layer.register_forward_pre_hook(partial(norm, copies=module)))
    for x, _ in chunks:
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


def _in_train_mode(network: StackedNetwork, part: Part, batch_size: int, rerun: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Put a network in train mode, with noise of streams that are no training's, and give it random batches."""
    network.train()
    noises = [layer for layer in network.modules() if isinstance(layer, StackedNoise)]
    for number, layer in enumerate(noises, start=1):
        streams = [stream(seed, "shift", rerun=rerun, layer=number) for seed in network.seeds]
        layer.bits, layer.batch_size = type(layer.bits)(streams), batch_size
    orders = [stream(seed, "shift", rerun=rerun) for seed in network.seeds]
    for _ in range(PASSES):
        order = torch.from_numpy(np.stack([generator.permutation(part.rows.shape[1]) for generator in orders]))
        for rows in batches(part.rows.gather(1, order.to(part.rows.device)), batch_size):
            yield part.table.gather(rows)


def _median(values: Tensor) -> float | None:
    median = float(np.median(values.cpu().numpy())) if len(values) else math.nan
    return median if math.isfinite(median) else None
