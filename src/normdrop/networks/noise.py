"""Dropout and uniform noise with one random stream for each replicate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.networks.layers import CHANNEL_NOISES, UniformNoise
from normdrop.streams import restore, state_of, stream


class StackedNoise(nn.Module):
    """Noise of N replicates: (replicates, units, batch), same out.

    `features` of a row have a factor each: its units, or its channels where whole channels are dropped. A
    factor comes from 16 random bits. The streams advance by whole training steps of `batch_size` rows,
    whatever the size of the batch at hand, so that a short last batch moves no later mask.

    Inside copies that run side by side, `turn` is the replicate whose own rows (batch, *shape) are given.
    """

    def __init__(self, layer: nn.Module, features: int, batch_size: int, seeds: Sequence[int], rerun: int, number: int):
        super().__init__()
        self.uniform = isinstance(layer, UniformNoise)
        self.channels = isinstance(layer, CHANNEL_NOISES)
        self.rate: Any = layer.rate if self.uniform else layer.p
        self.features, self.batch_size = features, batch_size
        self.turn: int | None = None
        self.name = type(layer).__name__
        self.bits = _Bits([stream(seed, "masks", rerun=rerun, layer=number) for seed in seeds])

    @property
    def p(self) -> Any:
        """The rate, as nn.Dropout names it: a network may read it, and not set it."""
        return self.rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if self.turn is None:
            factors = self._drawn(x, self.features, x.shape[-1], slice(None))
            return (x.unflatten(1, (self.features, -1)) * factors[:, :, None]).flatten(1, 2)
        if self.channels and x.dim() < 3:
            raise ValueError(f"noise: {self.name} of rows without channels: must be nn.Dropout, or noise=bernoulli")
        shape = x.shape[1:2] if self.channels else x.shape[1:]
        factors = self._drawn(x, shape.numel(), len(x), slice(self.turn, self.turn + 1))[0].T
        if self.channels:
            return x * factors.view(*factors.shape, *[1] * (x.dim() - 2))
        return x * factors.reshape(x.shape)

    def _drawn(self, x: Tensor, features: int, rows: int, of: slice) -> Tensor:
        """The factors of the rows at hand, (replicates, features, rows)."""
        steps = -(-rows // self.batch_size)  # more than one where a network makes several rows of one
        columns = steps * self.batch_size
        bits = self.bits.draw(features * columns, x.device, of)
        return self.factors(bits.view(-1, features, columns)[..., :rows], x.dtype)

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
        self.keys = torch.from_numpy(np.array([generator.integers(2**63) for generator in streams]))
        self.drawn = torch.zeros(len(streams), dtype=torch.int64)  # words by counting

    def state(self) -> tuple[list[int], list[list[int]]]:
        """Where the streams stand."""
        return self.drawn.tolist(), [state_of(generator) for generator in self.streams]

    def restore(self, drawn: Sequence[int], states: Sequence[Sequence[int]]) -> None:
        self.drawn = torch.tensor(drawn)
        for generator, state in zip(self.streams, states, strict=True):
            restore(generator, state)

    def draw(self, count: int, device: torch.device, of: slice = slice(None)) -> Tensor:
        """The next numbers of all replicates, or of some."""
        words = -(-count // 4)
        if device.type != "cpu":
            return self.by_counting(words, device, of)[:, :count]
        # SFC64's raw words are the cheapest random bits there are on a CPU, ten times faster than bernoulli_.
        drawn = [generator.bit_generator.random_raw(words) for generator in self.streams[of]]
        return torch.from_numpy(np.stack(drawn).view(np.int16))[:, :count]

    def by_counting(self, words: int, device: torch.device, of: slice = slice(None)) -> Tensor:
        self.keys, self.drawn = self.keys.to(device), self.drawn.to(device)
        counter = self.drawn[of, None] + torch.arange(words, device=device)
        self.drawn[of] += words
        return splitmix64(self.keys[of, None] + counter * -0x61C8864680B583EB).view(torch.int16)


def splitmix64(state: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on int64, wrapping as uint64: random
    words by counting, all replicates at once, where a device has no generator for each.
    """

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & (2 ** (64 - bits) - 1)  # a logical shift: int64's own repeats the sign

    state = (state ^ shifted(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ shifted(state, 27)) * -0x6B2FB644ECCEEE15
    return state ^ shifted(state, 31)
