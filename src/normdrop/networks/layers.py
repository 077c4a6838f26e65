"""The plain layers that a config can name, and the hidden block that they make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normdrop import arrangement as names
from normdrop.streams import stream

ACTIVATIONS: dict[str, type[nn.Module]] = {name: getattr(nn, layer) for name, layer in names.ACTIVATIONS.items()}
WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class UniformNoise(nn.Module):
    """x (1 + r), r ~ U(−rate, rate) for every unit of every row; the identity in eval mode (Li et al.'s Uout)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.new_empty(x.shape).uniform_(-self.rate, self.rate)) if self.training else x

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Identity(nn.Identity):
    """The identity as a tensor of its own, as BN's output is: what works in place behind it leaves its input alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class Residual(nn.Sequential):
    """x + block(x), the block being these layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


# By unit; `channel` drops whole channels, in as many dimensions as these have.
NOISES: dict[str, type[nn.Module]] = {"bernoulli": nn.Dropout, "uniform": UniformNoise}
CHANNEL_NOISES = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# What an arrangement may name beside dropout, of so many units or channels, in 0 to 3 dimensions of space, and
# BN's eps and momentum. GroupNorm of one group is layer normalization with a weight for each channel; its eps is
# PyTorch's.
OPERATIONS: dict[str, Callable[[int, int, float, float], nn.Module]] = {
    "bn": lambda width, space, eps, momentum: BATCH_NORMS[max(space - 1, 0)](width, eps, momentum),
    "ln": lambda width, space, eps, momentum: nn.GroupNorm(1, width) if space else nn.LayerNorm(width),
}


@contextmanager
def seeded(seed: int, rerun: int) -> Iterator[None]:
    """What layers draw when they are made is a replicate's own for a while, and PyTorch's generator stays as it is."""
    number = int(stream(seed, "init", rerun=rerun).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        yield


def dropout(noise: str, rate: float, space: int) -> nn.Module:
    """Noise behind a layer with so many dimensions of space. Raises ValueError for noise of channels without any."""
    if noise != "channel":
        return NOISES[noise](rate)
    if space == 0:
        raise ValueError(f"noise={noise}: an MLP has no channels; use model=cnn, or noise=bernoulli")
    return CHANNEL_NOISES[space - 1](rate)


def block(
    weights: Any,
    *,
    arrangement: str,
    position: str,
    rate: float,
    noise: str = "bernoulli",
    activation: str = "relu",
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> list[nn.Module]:
    """The layers of one hidden block, from its weights on. `bn_momentum` is a batch's share in the running
    statistics. Raises ValueError for noise of channels without channels.
    """
    width, space = len(weights.weight), weights.weight.dim() - 2
    noisy = dropout(noise, rate, space)  # refused for its noise whether or not the arrangement has any
    layers = [weights]
    for name in names.order(arrangement, position):
        if name == "activation":
            layers.append(ACTIVATIONS[activation]())
        elif name == "dropout":
            layers.append(noisy)
        else:
            layers.append(OPERATIONS[name](width, space, bn_eps, bn_momentum))
    return layers


def shape_behind(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a row that a layer makes of one."""
    alone = copy.deepcopy(layer).eval()
    like = next(alone.parameters(), torch.empty(0))
    with torch.no_grad():
        return tuple(alone(like.new_zeros(2, *shape)).shape[1:])
