"""The replicate axis: N seeds of one network trained as one stacked network.

Every stacked tensor has the replicates first. Inside the stack activations are feature-major, (replicates, features,
batch): matrix products are then plain batched products, and the batch statistics of BN are sums over contiguous memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.networks.layers import ACTIVATIONS, NOISES, UniformNoise
from normdrop.streams import restore, state_of, stream


class StackedLinear(nn.Module):
    """N Linear layers of one shape: (replicates, fan_in, batch) → (replicates, fan_out, batch).

    Each replicate's slice of a parameter is padded to a multiple of 16 floats: a fused optimizer rounds the last
    elements of a tensor differently (scalar code in place of vectors), and padding keeps every real element out of that
    tail, so that a replicate's bits do not depend on how many replicates stand behind it.
    """

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.fan_in, self.fan_out = layers[0].in_features, layers[0].out_features
        self.weight = nn.Parameter(padded([layer.weight for layer in layers]))
        self.bias = nn.Parameter(padded([layer.bias for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        weight = unpadded(self.weight, (self.fan_out, self.fan_in))
        bias = unpadded(self.bias, (self.fan_out, 1))
        if x.shape[-1] == 1:  # MKL takes another routine, with other bits, for a single row of a single replicate
            return torch.baddbmm(bias, weight, x.expand(-1, -1, 2))[..., :1]
        return torch.baddbmm(bias, weight, x)

    def write_to(self, layer: nn.Linear, replicate: int) -> None:
        layer.weight.copy_(unpadded(self.weight, (self.fan_out, self.fan_in))[replicate])
        layer.bias.copy_(unpadded(self.bias, (self.fan_out,))[replicate])


class StackedBatchNorm(nn.Module):
    """N BatchNorm1d layers as one over replicates × features channels: (replicates, features, batch), same out."""

    def __init__(self, layers: Sequence[nn.BatchNorm1d]):
        super().__init__()
        self.replicates, self.features = len(layers), layers[0].num_features
        self.momentum: float = layers[0].momentum  # type: ignore[assignment]
        self.eps = layers[0].eps
        self.weight = nn.Parameter(padded([layer.weight for layer in layers]))
        self.bias = nn.Parameter(padded([layer.bias for layer in layers]))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.cat([layer.running_mean for layer in layers]))  # type: ignore[misc]
        self.register_buffer("running_var", torch.cat([layer.running_var for layer in layers]))  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        weight = unpadded(self.weight, (self.features,)).reshape(-1)
        bias = unpadded(self.bias, (self.features,)).reshape(-1)
        channels = x.reshape(1, -1, x.shape[-1])
        out = F.batch_norm(
            channels, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
        )
        return out.view(x.shape)

    def write_to(self, layer: nn.BatchNorm1d, replicate: int) -> None:
        layer.weight.copy_(unpadded(self.weight, (self.features,))[replicate])
        layer.bias.copy_(unpadded(self.bias, (self.features,))[replicate])
        for own, its in ((self.running_mean, layer.running_mean), (self.running_var, layer.running_var)):
            assert its is not None
            its.copy_(own.view(self.replicates, -1)[replicate])


class StackedLayerNorm(nn.Module):
    """N LayerNorm layers over the features of each row: (replicates, features, batch), same out."""

    def __init__(self, layers: Sequence[nn.LayerNorm]):
        super().__init__()
        (self.features,), self.eps = layers[0].normalized_shape, layers[0].eps
        self.weight = nn.Parameter(padded([layer.weight for layer in layers]))
        self.bias = nn.Parameter(padded([layer.bias for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (unpadded(parameter, (self.features, 1)) for parameter in (self.weight, self.bias))
        # Row-major for this layer alone: PyTorch's kernel sums each row by itself, whatever stands beside it.
        rows = F.layer_norm(x.transpose(1, 2).contiguous(), (self.features,), eps=self.eps)
        return torch.addcmul(bias, rows.transpose(1, 2).contiguous(), weight)

    def write_to(self, layer: nn.LayerNorm, replicate: int) -> None:
        layer.weight.copy_(unpadded(self.weight, (self.features,))[replicate])
        layer.bias.copy_(unpadded(self.bias, (self.features,))[replicate])


class StackedNoise(nn.Module):
    """Dropout or uniform noise with one random stream per replicate: (replicates, features, batch), same out.

    A unit's factor comes from 16 random bits. The streams advance by whole training steps of `batch_size` rows,
    whatever the size of the batch at hand, so that a short last batch moves no later mask.
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
        return x * self.factors(bits, x.dtype)

    def factors(self, bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The factor of each unit, with mean 1, from int16 bits."""
        if self.uniform:
            return 1 + self.rate * (bits.to(dtype) + 0.5) / 2**15
        threshold = min(round(self.rate * 2**16), 2**16 - 1)
        keep = 1 - threshold / 2**16  # the keep probability that 16 bits realise, within 2⁻¹⁷ of the one asked for
        # Compared as floats, which hold int16 exactly: a bool mask on the way takes a CPU four times as long.
        return bits.to(dtype).ge_(threshold - 2**15).mul_(1 / keep)


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
    features: int = 0
    """of its input"""


# The stacked form of each plain layer; activations have no replicates to tell apart.
STACKED: dict[type[nn.Module], Callable[[Sequence[Any], Place], nn.Module]] = {
    nn.Linear: lambda layers, _: StackedLinear(layers),
    nn.BatchNorm1d: lambda layers, _: StackedBatchNorm(layers),
    nn.LayerNorm: lambda layers, _: StackedLayerNorm(layers),
    **dict.fromkeys(
        NOISES.values(),
        lambda layers, at: StackedNoise(layers[0], at.features, at.batch_size, at.seeds, at.rerun, at.number),
    ),
    **dict.fromkeys(ACTIVATIONS.values(), lambda layers, _: layers[0]),
}


class StackedNetwork(nn.Module):
    """N plain networks of one shape as one: x (replicates, batch, features) → logits (replicates, batch, classes).

    `networks` are Sequentials of layers that STACKED knows, one for each seed. The noise of replicate k in training
    comes from the stream of its own seed; nothing of a replicate depends on the rest. `batch_size` is the rows of a
    full training batch.
    """

    def __init__(self, networks: Sequence[nn.Sequential], seeds: Sequence[int], batch_size: int, rerun: int = 0):
        super().__init__()
        self.seeds = list(seeds)
        self.layers = nn.ModuleList()
        place = Place(self.seeds, batch_size, rerun)
        for layers in zip(*networks, strict=True):
            first = layers[0]
            if type(first) not in STACKED:
                raise TypeError(f"no stacked form of {type(first).__name__}")
            if isinstance(first, nn.Linear):
                place = replace(place, number=place.number + 1, features=first.out_features)
            self.layers.append(STACKED[type(first)](layers, place))
        self.template = [networks[0]]  # in a list: a description of the shape, not a submodule with weights of its own

    def forward(self, x: Tensor, keep: Sequence[Tensor] | None = None) -> Tensor:
        """`keep` silences hidden units: one factor (replicates, width, 1) for the output of each hidden block."""
        x = x.transpose(1, 2)
        factors = iter(keep or ())
        for position, layer in enumerate(self.layers):
            if keep is not None and position and isinstance(layer, StackedLinear):
                x = x * next(factors)
            x = layer(x)
        return x.transpose(1, 2)

    @torch.no_grad()
    def replicate(self, index: int) -> nn.Sequential:
        """Replicate `index` as a plain network with the same weights and running statistics."""
        network = copy.deepcopy(self.template[0])
        for stacked, layer in zip(self.layers, network, strict=True):
            if isinstance(stacked, StackedLinear | StackedBatchNorm | StackedLayerNorm):
                stacked.write_to(layer, index)  # type: ignore[arg-type]
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
