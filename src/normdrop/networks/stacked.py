"""The replicate axis: N seeds of one network trained as one stacked network.

Every stacked tensor has the replicates first. Inside the stack activations are feature-major, (replicates, features,
batch): matrix products are then plain batched products, and the batch statistics of BN are sums over contiguous memory.
The features of a CNN are its channels, and within each its positions: a view tells them apart, and Flatten does
nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.networks.convolution import Convolution
from normdrop.networks.layers import ACTIVATIONS, NOISES, Residual, UniformNoise
from normdrop.streams import restore, state_of, stream


class _Stacked(nn.Module):
    """The weights and biases of N layers of one shape.

    Each replicate's slice of a parameter is padded to a multiple of 16 floats: a fused optimizer rounds the last
    elements of a tensor differently (scalar code in place of vectors), and padding keeps every real element out of that
    tail, so that a replicate's bits do not depend on how many replicates stand behind it.
    """

    def __init__(self, layers: Sequence[Any]):
        super().__init__()
        self.weight = nn.Parameter(padded([layer.weight for layer in layers]))
        self.bias = nn.Parameter(padded([layer.bias for layer in layers]))

    @property
    def matrix(self) -> Tensor:
        """The weights of a layer that multiplies, (replicates, fan_out, fan_in)."""
        return unpadded(self.weight, (self.fan_out, self.fan_in))  # type: ignore[arg-type]


class StackedLinear(_Stacked):
    """N Linear layers of one shape: (replicates, fan_in, batch) → (replicates, fan_out, batch)."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__(layers)
        self.fan_in, self.fan_out = layers[0].in_features, layers[0].out_features

    def forward(self, x: Tensor) -> Tensor:
        bias = unpadded(self.bias, (self.fan_out, 1))
        if x.shape[-1] == 1:  # MKL takes another routine, with other bits, for a single row of a single replicate
            return torch.baddbmm(bias, self.matrix, x.expand(-1, -1, 2))[..., :1]
        return torch.baddbmm(bias, self.matrix, x)

    def spread(self, variance: Tensor) -> Tensor:
        """The variance of the output, from that of independent inputs."""
        return self.matrix.square() @ variance

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input meets, (replicates, fan_in)."""
        return self.matrix.abs().sum(dim=1)


class StackedConv(_Stacked):
    """N Conv1d or Conv2d layers: (replicates, channels · positions, batch) → the same of the output's."""

    def __init__(self, layers: Sequence[nn.Conv1d | nn.Conv2d], shape: Sequence[int]):
        super().__init__(layers)
        layer = layers[0]
        self.fan_in, self.fan_out = layer.weight[0].numel(), layer.out_channels
        self.shape = (shape[0], 1, shape[1]) if len(shape) == 2 else tuple(shape)  # one dimension is an image of a row
        two = lambda values, fill: (fill, *values)[-2:]  # noqa: E731
        padding: Any = layer.padding
        self.geometry = two(layer.kernel_size, 1), two(layer.stride, 1), two(padding, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.matrix, unpadded(self.bias, (self.fan_out, 1)))

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        channels = weight.shape[-1] // math.prod(self.geometry[0])
        image = x.unflatten(1, (channels, *self.shape[1:]))
        return Convolution.apply(image, weight, bias, *self.geometry).flatten(1, 3)

    def patches(self) -> Tensor:
        """Which unit of the input stands where in its unfolded patches, (fan_in · positions,); -1 is the padding."""
        numbers = torch.arange(1.0, math.prod(self.shape) + 1, dtype=torch.float64).view(1, *self.shape)
        kernel, stride, padding = self.geometry
        return F.unfold(numbers, kernel, padding=padding, stride=stride).flatten().long() - 1

    def spread(self, variance: Tensor) -> Tensor:
        """The variance of the output, from that of independent inputs."""
        return self.convolve(variance, self.matrix.square(), torch.zeros_like(self.matrix[..., :1]))

    def spread_of_channels(self, x: Tensor) -> Tensor:
        """Σ over input channels of the square of what each alone adds to the output."""
        weight = self.matrix.unflatten(2, (self.shape[0], -1))
        channels = zip(x.unflatten(1, (self.shape[0], -1)).unbind(1), weight.unbind(2), strict=True)
        bias = torch.zeros_like(weight[:, :, 0, :1])
        return torch.stack([self.convolve(values, own, bias).square() for values, own in channels]).sum(dim=0)

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input channel meets, (replicates, channels)."""
        return self.matrix.unflatten(2, (self.shape[0], -1)).abs().sum(dim=(1, 3))


class StackedBatchNorm(_Stacked):
    """N BatchNorm layers as one over replicates × channels: (replicates, channels · positions, batch), same out.

    A channel of an MLP is a unit, with one position.
    """

    def __init__(self, layers: Sequence[nn.BatchNorm1d | nn.BatchNorm2d]):
        super().__init__(layers)
        self.features = layers[0].num_features
        self.momentum: float = layers[0].momentum  # type: ignore[assignment]
        self.eps = layers[0].eps
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.cat([layer.running_mean for layer in layers]))  # type: ignore[misc]
        self.register_buffer("running_var", torch.cat([layer.running_var for layer in layers]))  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (unpadded(parameter, (self.features,)).reshape(-1) for parameter in (self.weight, self.bias))
        channels, running = x.reshape(1, len(weight), -1), (self.running_mean, self.running_var)
        return F.batch_norm(channels, *running, weight, bias, self.training, self.momentum, self.eps).view(x.shape)


class StackedLayerNorm(_Stacked):
    """N LayerNorm layers, or GroupNorm layers of one group, over all units of each row, with a weight and a bias for
    each channel: (replicates, channels · positions, batch), same out.
    """

    def __init__(self, layers: Sequence[nn.LayerNorm | nn.GroupNorm]):
        super().__init__(layers)
        self.features, self.eps = layers[0].weight.numel(), layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (unpadded(parameter, (self.features, 1, 1)) for parameter in (self.weight, self.bias))
        # Row-major for this layer alone: PyTorch's kernel sums each row by itself, whatever stands beside it.
        rows = F.layer_norm(x.transpose(1, 2).contiguous(), x.shape[1:2], eps=self.eps)
        channels = rows.transpose(1, 2).contiguous().unflatten(1, (self.features, -1))
        return torch.addcmul(bias, channels, weight).flatten(1, 2)


class StackedMean(nn.Module):
    """The mean of each channel: (replicates, channels · positions, batch) → (replicates, channels, batch)."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.channels, -1)).mean(dim=2)


class StackedResidual(Residual):
    """N residual blocks, of stacked layers."""

    @property
    def fan_out(self) -> int:
        return self[0].fan_out  # type: ignore[return-value]

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input meets; the way around the block is one of 1."""
        return 1 + self[0].outgoing()  # type: ignore[operator]


class StackedNoise(nn.Module):
    """Dropout or uniform noise with one random stream per replicate: (replicates, units, batch), same out.

    `features` of a row have a factor each: its units, or its channels where whole channels are dropped. A factor comes
    from 16 random bits. The streams advance by whole training steps of `batch_size` rows, whatever the size of the
    batch at hand, so that a short last batch moves no later mask.
    """

    def __init__(self, layer: nn.Module, features: int, batch_size: int, seeds: Sequence[int], rerun: int, number: int):
        super().__init__()
        self.uniform = isinstance(layer, UniformNoise)
        self.rate: float = layer.rate if self.uniform else layer.p  # type: ignore[assignment]
        self.features, self.batch_size = features, batch_size
        self.bits = _Bits([stream(seed, "masks", rerun=rerun, layer=number) for seed in seeds])

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        bits = self.bits.draw(self.features * self.batch_size, x.device)
        bits = bits.view(-1, self.features, self.batch_size)[..., : x.shape[-1]]
        factors = self.factors(bits, x.dtype)
        if self.features == x.shape[1]:
            return x * factors
        return (x.unflatten(1, (self.features, -1)) * factors[:, :, None]).flatten(1, 2)

    def factors(self, bits: Tensor, dtype: torch.dtype) -> Tensor:
        """The factor of each unit, with mean 1, from int16 bits."""
        if self.uniform:
            return 1 + self.rate * (bits.to(dtype) + 0.5) / 2**15
        # Compared as floats, which hold int16 exactly: a bool mask on the way takes a CPU four times as long.
        return bits.to(dtype).ge_(self.dropped - 2**15).mul_(1 / self.keep)

    @property
    def dropped(self) -> int:
        """How many of the 2¹⁶ values of a unit's bits drop it, the lowest ones."""
        return min(round(self.rate * 2**16), 2**16 - 1)

    @property
    def keep(self) -> float:
        """The keep probability that 16 bits realise, within 2⁻¹⁷ of the one asked for."""
        return 1 - self.dropped / 2**16


class _Bits:
    """Random int16 numbers (replicates, count), each replicate from its own stream."""

    def __init__(self, streams: Sequence[np.random.Generator]):
        self.streams = streams
        self.keys = torch.from_numpy(np.array([s.integers(2**63) for s in streams]))
        self.drawn = 0

    def state(self) -> tuple[int, list[list[int]]]:
        """Where the streams stand."""
        return self.drawn, [state_of(generator) for generator in self.streams]

    def restore(self, drawn: int, states: Sequence[Sequence[int]]) -> None:
        self.drawn = drawn
        for generator, state in zip(self.streams, states, strict=True):
            restore(generator, state)

    def draw(self, count: int, device: torch.device) -> Tensor:
        words = -(-count // 4)
        bits = self.from_generators(words) if device.type == "cpu" else self.by_counting(words, device)
        return bits[:, :count]

    def from_generators(self, words: int) -> Tensor:
        # SFC64's raw words are the cheapest random bits there are on a CPU, ten times faster than bernoulli_.
        out = np.empty((len(self.streams), words), np.uint64)
        for row, generator in zip(out, self.streams, strict=True):
            row[:] = generator.bit_generator.random_raw(words)
        return torch.from_numpy(out.view(np.int16))

    def by_counting(self, words: int, device: torch.device) -> Tensor:
        self.keys = self.keys.to(device)
        counter = torch.arange(self.drawn, self.drawn + words, device=device)
        self.drawn += words
        return splitmix64(self.keys[:, None] + counter * -0x61C8864680B583EB).view(torch.int16)


def splitmix64(state: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on int64 tensors, wrapping as uint64.

    A stream by counting: every word of every replicate at once, where a device has no generator per replicate.
    """

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & (2 ** (64 - bits) - 1)  # a logical shift: int64's own repeats the sign

    state = (state ^ shifted(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ shifted(state, 27)) * -0x6B2FB644ECCEEE15
    return state ^ shifted(state, 31)


@dataclass(frozen=True)
class Place:
    """What a stacked layer must know of the stack it stands in."""

    seeds: Sequence[int]
    batch_size: int
    rerun: int
    number: int = 0
    """layers with weights so far"""
    shape: tuple[int, ...] = ()
    """of a row of its input: (units,), or (channels, *positions)"""


def _noise(layers: Sequence[nn.Module], at: Place) -> StackedNoise:
    features = at.shape[0] if isinstance(layers[0], nn.Dropout1d | nn.Dropout2d) else math.prod(at.shape)
    return StackedNoise(layers[0], features, at.batch_size, at.seeds, at.rerun, at.number)


# The stacked form of each plain layer; activations have no replicates to tell apart.
STACKED: dict[type[nn.Module], Callable[[Sequence[Any], Place], nn.Module]] = {
    nn.Linear: lambda layers, _: StackedLinear(layers),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), lambda layers, at: StackedConv(layers, at.shape)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), lambda layers, _: StackedBatchNorm(layers)),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm), lambda layers, _: StackedLayerNorm(layers)),
    **dict.fromkeys((*NOISES.values(), nn.Dropout1d, nn.Dropout2d), _noise),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), lambda _, at: StackedMean(at.shape[0])),
    **dict.fromkeys((nn.Unflatten, nn.Flatten), lambda *_: nn.Identity()),
    Residual: lambda blocks, at: StackedResidual(*stack(blocks, at)),
    **dict.fromkeys(ACTIVATIONS.values(), lambda layers, _: layers[0]),
}


# Begins a hidden block, or the output.
WEIGHTED = (StackedLinear, StackedConv, StackedResidual)


def stack(networks: Sequence[nn.Sequential], place: Place) -> list[nn.Module]:
    """The stacked layers of networks of one shape, the first at `place`. Raises TypeError for what STACKED lacks."""
    stacked = []
    for layers in zip(*networks, strict=True):
        first = layers[0]
        if type(first) not in STACKED:
            raise TypeError(f"no stacked form of {type(first).__name__}")
        stacked.append(STACKED[type(first)](layers, place))
        weights = sum(isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) for module in first.modules())
        alone = copy.deepcopy(first).eval().to("meta", torch.float32)  # shapes without memory
        shape = alone(torch.empty(1, *place.shape, device="meta")).shape[1:]
        place = replace(place, number=place.number + weights, shape=tuple(shape))
    return stacked


class StackedNetwork(nn.Module):
    """N plain networks of one shape as one: x (replicates, batch, features) → logits (replicates, batch, classes).

    `networks` are Sequentials of layers that STACKED knows, one for each seed. The noise of replicate k in training
    comes from the stream of its own seed; nothing of a replicate depends on the rest. `batch_size` is the rows of a
    full training batch.
    """

    def __init__(self, networks: Sequence[nn.Sequential], seeds: Sequence[int], batch_size: int, rerun: int = 0):
        super().__init__()
        self.seeds = list(seeds)
        first = next(module for module in networks[0].modules() if isinstance(module, nn.Linear | nn.Unflatten))
        features = first.in_features if isinstance(first, nn.Linear) else math.prod(first.unflattened_size)
        self.layers = nn.ModuleList(stack(networks, Place(self.seeds, batch_size, rerun, shape=(features,))))
        convolutions = [layer for layer in self.modules() if isinstance(layer, StackedConv)]
        units = max((layer.fan_out * math.prod(layer.shape[1:]) for layer in convolutions), default=1)
        self.rows_at_a_time = max(1, min(512, 2**20 // units))  # in evaluation: a large image's channels take memory
        self.template = [networks[0]]  # in a list: a description of the shape, not a submodule with weights of its own

    @property
    def weighted(self) -> list[Any]:
        """The layers that begin a block; all but the first read what a hidden block puts out."""
        return [layer for layer in self.layers if isinstance(layer, WEIGHTED)]

    @property
    def widths(self) -> list[int]:
        """The units, in a CNN the channels, of each hidden block."""
        return [layer.fan_out for layer in self.weighted[:-1]]

    def forward(self, x: Tensor, keep: Sequence[Tensor] | None = None) -> Tensor:
        """`keep` silences units or channels: one factor (replicates, width, 1) for the output of each hidden block."""
        if not self.training and x.shape[1] > self.rows_at_a_time:
            return torch.cat([self(rows, keep) for rows in x.split(self.rows_at_a_time, dim=1)], dim=1)
        x = x.transpose(1, 2)
        kept = dict(zip(self.weighted[1:], keep, strict=True)) if keep else {}
        for layer in self.layers:
            if layer in kept:
                x = (x.unflatten(1, (kept[layer].shape[1], -1)) * kept[layer][:, :, None]).flatten(1, 2)
            x = layer(x)
        return x.transpose(1, 2)

    @torch.no_grad()
    def used(self, chunks: Iterable[Tensor]) -> list[Tensor]:
        """How much is made of each unit or channel of each hidden block, (replicates, width) for every block.

        Mean over the rows of its absolute value times the absolute weights that it meets: its outgoing contribution.
        """
        readers = self.weighted[1:]
        totals: dict[nn.Module, Any] = dict.fromkeys(readers, 0)

        def add(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            totals[layer] = totals[layer] + inputs[0].abs().sum(dim=2)

        hooks = [layer.register_forward_pre_hook(add) for layer in readers]
        for x in chunks:
            self(x)
        for hook in hooks:
            hook.remove()
        return [
            (totals[layer].unflatten(1, (width, -1)) * layer.outgoing().unflatten(1, (width, -1))).sum(dim=2)
            for layer, width in zip(readers, self.widths, strict=True)
        ]

    @torch.no_grad()
    def replicate(self, index: int) -> nn.Sequential:
        """Replicate `index` as a plain network with the same weights and running statistics."""
        network, stacked = copy.deepcopy(self.template[0]), self.layers.state_dict()
        for name, values in network.state_dict().items():
            if name in stacked:  # a stack does not count the batches that BN has seen
                values.copy_(stacked[name].view(len(self.seeds), -1)[index, : values.numel()].view_as(values))
        return network


def padded(slices: Sequence[Tensor]) -> Tensor:
    """(replicates, elements rounded up to a multiple of 16), zeros behind the elements."""
    flat = torch.stack([s.detach().reshape(-1) for s in slices])
    return F.pad(flat, (0, -flat.shape[1] % 16))


def unpadded(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A padded parameter's real elements as (replicates, *shape)."""
    elements = math.prod(shape)
    if parameter.shape[1] != elements:  # a slice, even a full one, costs a copy in the backward pass
        parameter = parameter[:, :elements]
    return parameter.reshape(-1, *shape)
