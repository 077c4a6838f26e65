"""Variance shift: how far evaluation is from what batch normalization saw in training; predicted; removed.

Dropout before a BN layer makes the variance of its input differ between the two modes (Li, Chen, Hu, Yang, CVPR 2019).
Δ is Var[input in eval mode] / Var[input in train mode], for each unit (in a CNN for each channel, over rows and
positions); a layer's figure is the median over its units.

What a prediction assumes. The nearest noise above a BN layer is integrated out: factors independent between units, so
that the noise adds to the variance of a row's value q/(1 − q) x² directly before BN and q/(1 − q) Σ wᵢ² xᵢ² behind a
Linear layer or a convolution with weights w (β²/3 in place of q/(1 − q) for uniform noise; Σ runs over channels, and xᵢ
is what channel i adds, where whole channels are dropped); averaged over the rows these are Li et al.'s forms. Where an
activation follows the Linear layer, a row's value there is taken as Gaussian, with this variance: an approximation, the
better the more units enter the sum. What enters the noise is taken as it is in each mode, measured (in train mode with
the noise and the batch statistics of the blocks above), since those blocks shift it too. Below the first noise nothing
is taken over: the prediction follows from eval mode alone. Without any noise above it is 1, which holds once running
statistics have left their initial values. There is no formula across the sum of a residual block.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.data.module import Part, batches
from normdrop.networks.layers import ACTIVATIONS
from normdrop.networks.stacked import (
    StackedBatchNorm,
    StackedConv,
    StackedLinear,
    StackedNetwork,
    StackedNoise,
    StackedResidual,
)
from normdrop.streams import stream
from normdrop.training.module import measured

# Passes over the training rows with noise on. Three leave an error of a few percent in a unit's variance on 1,000 rows
# and of about half a percent in the median over 256 units, for 7 to 10 % of the time of 30 epochs of training.
PASSES = 3

BUCKETS = 30  # of a histogram of activations

DIRECT = "noise→bn"
LINEAR = "noise→linear→bn"
APPROXIMATE = "noise→linear→activation→bn (approximate)"
NO_NOISE = "no noise above"
NO_FORMULA = "no formula"
# By what stands between the nearest noise above a BN layer and that layer: weights (w) and activations (a), in order.
CASES = {"": DIRECT, "a": DIRECT, "w": LINEAR, "aw": LINEAR, "wa": APPROXIMATE, "awa": APPROXIMATE}


@torch.no_grad()
def recalibrated(network: StackedNetwork, part: Part) -> StackedNetwork:
    """A copy in eval mode with the running statistics of training rows, noise off.

    Layer by layer: each BN layer sees the recalibrated ones before it. The statistics are of all rows at once, the
    variance unbiased as in BatchNorm1d's running_var.
    """
    network = copy.deepcopy(network).eval()
    for layer in _norms(network):
        moments = _eval_moments(network, part, [layer])[layer]
        layer.running_mean.copy_(moments.mean.flatten())
        layer.running_var.copy_(moments.variance.flatten() * moments.rows / (moments.rows - 1))
    return network


@torch.no_grad()
def measure(
    network: StackedNetwork, parts: Mapping[str, Part], batch_size: int, rerun: int, epoch: int | str
) -> list[dict[str, Any]]:
    """The shift at every BN layer of every replicate: one entry each, layers from 1, None where a number is not finite.

    Train mode is estimated afresh on the training rows, in random batches of `batch_size`, with draws of its own:
    nothing of the network or of its streams changes. All are medians over the layer's units:

    measured: eval-mode variance over train-mode variance; predicted: the same by closed form, see `case`; running:
    eval-mode variance over the running variance, which adds the moving average's lag and noise (and, below a BN layer,
    (rows − 1)/rows of a batch: running variances are unbiased, the normalisation in training is not); mean_shift,
    running_mean_shift: the absolute difference of the means in standard deviations of that reference. With val_ before:
    validation rows in eval mode against the same references. units: those counted; set_aside: those whose variance in
    either mode is below the layer's eps, which BN does not normalise.
    """
    own = copy.deepcopy(network).eval()
    layers, norms = [layer for layer in _in_order(own.layers) if getattr(layer, "rate", 1)], _norms(own)
    if not norms:
        return []
    paths = [_Path(layers[: layers.index(norm)], norm) for norm in norms]
    seen = {name: _eval_moments(own, parts[name], norms) for name in ("train", "val")}
    _measuring(own, batch_size, rerun)
    train = {norm: _Moments() for norm in norms}
    for x, _ in _batches(own, parts["train"], batch_size, rerun, PASSES):
        for layer, values in _inputs(own, x, norms[-1]):
            if isinstance(layer, StackedBatchNorm):
                train[layer].add(_by_channel(values, layer))
            for path in paths:
                if path.noise_layer is layer:
                    path.add(values)

    entries = []
    for number, (layer, at, path) in enumerate(zip(_norms(network), norms, paths, strict=True), start=1):
        running = [values.double().view(-1, layer.features) for values in (layer.running_mean, layer.running_var)]
        references = {"": (train[at].mean, train[at].variance), "running_": running}
        here = seen["train"][at]
        counted = ((here.variance >= layer.eps) & (train[at].variance >= layer.eps)).cpu().numpy()
        figures = {}
        for prefix, name in (("", "train"), ("val_", "val")):
            moments = seen[name][at]
            for which, (mean, variance) in references.items():
                figures[prefix + ("running" if which else "measured")] = moments.variance / variance
                figures[f"{prefix}{which}mean_shift"] = (moments.mean - mean).abs() / variance.sqrt()
        predicted = path.ratio(here.variance)
        if predicted is not None:
            figures["predicted"] = predicted
        arrays = {key: value.cpu().numpy() for key, value in figures.items()}
        for replicate, seed in enumerate(network.seeds):
            mask = counted[replicate]
            medians = {key: _median(values[replicate][mask]) for key, values in arrays.items()}
            entry: dict[str, Any] = {"layer": number, "seed": seed, "epoch": epoch, "case": path.case}
            entry |= {"units": int(mask.sum()), "set_aside": int((~mask).sum()), "predicted": None}
            entries.append(entry | medians)
    return entries


@torch.no_grad()
def train_mode_accuracy(network: StackedNetwork, part: Part, batch_size: int, rerun: int) -> Tensor:
    """Accuracy (replicates,) on a part with BN and noise in train mode: one pass in random batches; changes nothing."""
    own = copy.deepcopy(network)
    _measuring(own, batch_size, rerun)
    return measured([(own(x), y) for x, y in _batches(own, part, batch_size, rerun, passes=1)], ["acc"])["acc"]


@torch.no_grad()
def activations(
    network: StackedNetwork, part: Part, batch_size: int, rerun: int, seed: int
) -> dict[tuple[int, str, str], Tensor]:
    """What each BN layer of one replicate is given and passes on, over the rows of a part, in either mode.

    Returns (units or channels, values) by (layer from 1, `before_bn` or `after_bn`, `train` or `eval`). Train mode is
    one pass in random batches, as in `measure`; nothing of the network or of its streams changes.
    """
    index = network.seeds.index(seed)
    own = StackedNetwork([network.replicate(index)], [seed], batch_size, rerun).to(part.rows.device)
    alone, norms = part.replicate(index), _norms(own)
    seen: dict[tuple[int, str, str], list[Tensor]] = {}
    for mode in ("eval", "train") if norms else ():  # in this order: train mode moves the copy's running statistics
        _measuring(own, batch_size, rerun)
        own.train(mode == "train")
        for x, _ in _batches(own, alone, batch_size, rerun, passes=1):
            for layer, values in _inputs(own, x, norms[-1]):
                if isinstance(layer, StackedBatchNorm):
                    for where, these in (("before_bn", values), ("after_bn", layer(values))):
                        seen.setdefault((norms.index(layer) + 1, where, mode), []).append(_by_channel(these, layer)[0])
    return {key: torch.cat(batches, dim=1) for key, batches in seen.items()}


def histograms(seen: Mapping[tuple[int, str, str], Tensor]) -> list[dict[str, Any]]:
    """`activations` in equal buckets from the smallest value to the largest; none at all if one is not finite."""
    entries = []
    for (layer, where, mode), values in seen.items():
        values = values.double()
        low, high = values.aminmax()
        if not (low.isfinite() and high.isfinite()):
            return []
        # The last bucket has its right edge too, and all that there is if every value is the same: 0 / 0 counts as 1.
        parts = ((values - low) / (high - low)).nan_to_num(1.0).flatten()
        counts = (BUCKETS * parts).long().clamp(max=BUCKETS - 1).bincount(minlength=BUCKETS).tolist()
        edges = [float(f"{edge:.6g}") for edge in np.linspace(low.item(), high.item(), BUCKETS + 1)]
        entries.append({"layer": layer, "where": where, "mode": mode, "edges": edges, "counts": counts})
    return entries


class _Moments:
    """Mean and biased variance, (replicates, units), of all that was added."""

    def __init__(self) -> None:
        self.rows = 0
        self.sum: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Tensor) -> None:
        """values: (replicates, units, rows)."""
        # torch.var_mean takes 20 times as long on a CPU.
        rows, mean = values.shape[-1], values.mean(dim=-1)
        variance, mean = (values - mean[..., None]).square().mean(dim=-1), mean.double()
        self.rows += rows
        self.sum += rows * mean
        self.squares += rows * (variance + mean.square())

    @property
    def mean(self) -> Tensor:
        return self.sum / self.rows

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.rows - self.mean.square()).clamp_min(0)


class _Path:
    """The layers from the nearest noise above a BN layer down to it, and what they make of the noise's variance."""

    def __init__(self, above: Sequence[nn.Module], norm: StackedBatchNorm) -> None:
        self.case, self.norm = NO_NOISE, norm
        self.noise_layer: Any = None
        self.behind: list[Any] = []
        self.signal, self.noise = _Moments(), _Moments()
        noises = [number for number, layer in enumerate(above) if isinstance(layer, StackedNoise)]
        if not noises:
            return
        self.noise_layer, *self.behind = above[noises[-1] :]
        self.points = _noise_points(self.noise_layer)
        kinds = "".join(_kind(layer) for layer in self.behind)
        self.case = CASES.get(kinds, NO_FORMULA)
        # An activation right behind the noise is still one of each unit alone.
        self.alone = self.behind.pop(0) if kinds.startswith("a") else nn.Identity()

    def add(self, values: Tensor) -> None:
        """Take in the noise's input in train mode, (replicates, units, rows)."""
        if self.case == NO_FORMULA:
            return
        # The mean and variance of each unit in each row, over the noise alone.
        outcomes = [(weight, self.alone(factor * values)) for weight, factor in self.points]
        mean, variance = _weighted(outcomes)
        for layer in self.behind:
            if _kind(layer) == "a":
                mean, variance = _activated(layer, mean, variance)
                continue
            if self.noise_layer.features != values.shape[1]:  # whole channels
                variance = torch.stack([w * layer.spread_of_channels(out - mean) for w, out in outcomes]).sum(0)
            else:
                if layer is self.behind[-1]:  # only their mean over rows counts then: one product less
                    variance = variance.mean(dim=-1, keepdim=True)
                variance = layer.spread(variance)
            mean = layer(mean)
        self.signal.add(_by_channel(mean, self.norm))
        self.noise.add(_by_channel(variance.expand(mean.shape), self.norm))

    def ratio(self, variance: Tensor) -> Tensor | None:
        """Δ for each unit, from the variance of BN's input in eval mode."""
        if self.case == NO_FORMULA:
            return None
        if self.case == NO_NOISE:
            return torch.ones_like(variance)
        return variance / (self.signal.variance + self.noise.mean)  # the law of total variance


def _kind(layer: nn.Module) -> str:
    """How CASES names a layer; `?` for what has no formula."""
    if isinstance(layer, StackedLinear | StackedConv):
        return "w"
    return "a" if isinstance(layer, tuple(ACTIVATIONS.values())) else "?"


def _noise_points(noise: Any) -> list[tuple[float, float]]:
    """(weight, factor) of a noise: all there are of Bernoulli; Gauss-Legendre of uniform, exact to degree 9."""
    if noise.uniform:
        nodes, weights = np.polynomial.legendre.leggauss(5)
        return list(zip((weights / 2).tolist(), (1 + noise.rate * nodes).tolist(), strict=True))
    return [(1 - noise.keep, 0.0), (noise.keep, 1 / noise.keep)]


def _activated(activation: nn.Module, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of an activation of a Gaussian.

    ReLU and leaky ReLU exactly, by the moments of the rectified Gaussian (Frey and Hinton, Neural Computation 11,
    1999); smooth activations by Gauss-Hermite quadrature.
    """
    sd = variance.clamp_min(1e-30).sqrt()
    if isinstance(activation, nn.ReLU | nn.LeakyReLU):
        slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
        z = mean / sd
        positive, density = torch.special.ndtr(z), torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        square = mean.square() + variance
        first = slope * mean + (1 - slope) * (mean * positive + sd * density)
        second = slope**2 * square + (1 - slope**2) * (square * positive + mean * sd * density)
        return first, (second - first.square()).clamp_min(0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights /= weights.sum()
    points = zip(weights.tolist(), nodes.tolist(), strict=True)
    return _weighted([(weight, activation(mean + node * sd)) for weight, node in points])


def _weighted(outcomes: Sequence[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance over (weight, outcome), element by element; the weights sum to 1."""
    mean = torch.stack([weight * outcome for weight, outcome in outcomes]).sum(dim=0)
    return mean, torch.stack([weight * (outcome - mean).square() for weight, outcome in outcomes]).sum(dim=0)


def _norms(network: StackedNetwork) -> list[StackedBatchNorm]:
    return [layer for layer in network.modules() if isinstance(layer, StackedBatchNorm)]


def _in_order(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The layers as values pass them, a residual block's own before the block, which stands for its sum."""
    order: list[nn.Module] = []
    for layer in layers:
        order += [*_in_order(layer), layer] if isinstance(layer, StackedResidual) else [layer]
    return order


def _inputs(network: StackedNetwork, x: Tensor, last: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each layer with its input, (replicates, features, rows), as x (replicates, rows, features) goes up to `last`."""

    def passed(layers: Iterable[nn.Module], values: Tensor) -> Generator[tuple[nn.Module, Tensor], None, Tensor]:
        for layer in layers:
            yield layer, values
            if isinstance(layer, StackedResidual):
                values = values + (yield from passed(layer, values))
            else:
                values = layer(values)
        return values

    for layer, values in passed(network.layers, x.transpose(1, 2)):
        yield layer, values
        if layer is last:  # nothing behind it is computed
            return


def _by_channel(values: Tensor, norm: StackedBatchNorm) -> Tensor:
    """(replicates, channels · positions, rows) → (replicates, channels, positions · rows), as BN sees it."""
    return values.reshape(len(values), norm.features, -1)


def _eval_moments(
    network: StackedNetwork, part: Part, norms: Sequence[StackedBatchNorm]
) -> dict[StackedBatchNorm, _Moments]:
    """Moments of the inputs of these layers, over the rows of a part."""
    moments = {layer: _Moments() for layer in norms}
    for x, _ in part.batches():
        for chunk in x.split(network.rows_at_a_time, dim=1):
            for layer, values in _inputs(network, chunk, norms[-1]):
                if layer in moments:
                    moments[layer].add(_by_channel(values, layer))
    return moments


def _measuring(network: StackedNetwork, batch_size: int, rerun: int) -> None:
    """Put a copy in train mode with noise from the streams of this room."""
    network.train()
    noises = [layer for layer in network.modules() if isinstance(layer, StackedNoise)]
    for number, layer in enumerate(noises, start=1):
        streams = [stream(seed, "shift", rerun=rerun, layer=number) for seed in network.seeds]
        layer.bits, layer.batch_size = type(layer.bits)(streams), batch_size


def _batches(
    network: StackedNetwork, part: Part, batch_size: int, rerun: int, passes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """x (replicates, batch, features) and y (replicates, batch), each pass in another random order."""
    orders = [stream(seed, "shift", rerun=rerun) for seed in network.seeds]
    for _ in range(passes):
        order = torch.from_numpy(np.stack([generator.permutation(part.rows.shape[1]) for generator in orders]))
        for rows in batches(part.rows.gather(1, order.to(part.rows.device)), batch_size):
            yield part.table.gather(rows)


def _median(values: np.ndarray) -> float | None:
    median = float(np.median(values)) if len(values) else math.nan
    return median if math.isfinite(median) else None
