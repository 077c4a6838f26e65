"""Any module in a stack: N copies of it side by side, each on its own replicate's rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from normdrop.networks.layers import CHANNEL_NOISES, NOISES, WEIGHTS
from normdrop.networks.noise import StackedNoise

DROPOUTS: tuple[type[nn.Module], ...] = (*NOISES.values(), *CHANNEL_NOISES)


@dataclass
class Place:
    """Where in a stack a layer stands; it moves on from layer to layer."""

    seeds: Sequence[int]
    batch_size: int
    rerun: int
    shape: tuple[int, ...]
    """of a row of its input: (units,), or (channels, *positions)"""
    weights: int = 0
    """layers with weights so far"""
    noises: int = 0
    """noise layers since the last of them"""

    def noise(self, layer: nn.Module, features: int = 0) -> StackedNoise:
        """The noise of this place. Its stream is told by the layers with weights before it, so that
        arrangements whose dropout stands elsewhere in the block draw the same masks.
        """
        number = self.weights + 10_000 * self.noises
        self.noises += 1
        return StackedNoise(layer, features, self.batch_size, self.seeds, self.rerun, number)

    def passed(self, layer: nn.Module) -> None:
        if isinstance(layer, WEIGHTS):
            self.weights, self.noises = self.weights + 1, 0


class SideBySide(nn.Module):
    """N copies of a module: (replicates, features, batch) in and out, (batch, *shape) for each copy.

    One module holds the parameters and buffers of all copies, the replicates first, and is lent those of each
    in turn. Its dropout draws from the replicates' streams, as in a stack.
    """

    def __init__(self, copies: Sequence[nn.Module], place: Place):
        super().__init__()
        self.shape = place.shape
        self.copies = copy.deepcopy(copies[0])
        # By name: of weights that two layers share by both, of a layer that has two names by the first.
        self.sizes: dict[str, tuple[int, ...]] = {}
        stacked: dict[int, nn.Parameter] = {}  # weights that two layers share stay shared
        for name, layer in self.copies.named_modules():
            theirs = [its.get_submodule(name) for its in copies]
            for key, first in [*layer.named_parameters(recurse=False, remove_duplicate=False)]:
                if id(first) not in stacked:
                    values = padded([its.get_parameter(key) for its in theirs])
                    stacked[id(first)] = nn.Parameter(values, requires_grad=first.requires_grad)
                setattr(layer, key, stacked[id(first)])
                self.sizes[f"{name}.{key}" if name else key] = tuple(first.shape)
            for key, _ in [*layer.named_buffers(recurse=False)]:
                layer._buffers[key] = torch.stack([its.get_buffer(key) for its in theirs])
        self.noises = [*pair_noise(self.copies, place)]
        self.turn = 0  # the replicate whose rows pass now

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).unflatten(2, self.shape)
        # All slices at once: their gradients then meet in one tensor, not in one for each replicate.
        own = {name: unpadded(self.copies.get_parameter(name), size).unbind() for name, size in self.sizes.items()}
        buffers = dict(self.copies.named_buffers())
        outputs = []
        for replicate in range(len(x)):
            self.turn = replicate
            for noise in self.noises:
                noise.turn = replicate
            lent = {name: values[replicate] for name, values in own.items()}
            lent |= {name: values[replicate] for name, values in buffers.items()}  # views: BN writes into them
            given = rows[replicate].clone()  # it may write into what it is given
            outputs.append(functional_call(self.copies, lent, (given,), tie_weights=False).flatten(1))
        return torch.stack(outputs).transpose(1, 2)


def pair_noise(module: nn.Module, place: Place) -> Iterator[StackedNoise]:
    """Put noise from the replicates' streams where a module's dropout stands; each that was put there."""
    for name, layer in [*module.named_modules()]:
        place.passed(layer)
        if type(layer) in DROPOUTS:  # a kind of one may do otherwise
            noise = place.noise(layer)
            replace(module, name, noise)
            yield noise


def replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module where the one of this name stands, wherever else it stands too."""
    old = module.get_submodule(name)
    for holder in [*module.modules()]:
        for key, child in [*holder._modules.items()]:
            if child is old:
                holder._modules[key] = new


def padded(slices: Sequence[Tensor]) -> Tensor:
    """(replicates, elements rounded up to a multiple of 16, not 0), zeros behind the elements."""
    flat = torch.stack([values.detach().reshape(-1) for values in slices])
    return F.pad(flat, (0, -flat.shape[1] % 16 if flat.shape[1] else 16))


def unpadded(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A padded parameter's real elements as (replicates, *shape)."""
    elements = math.prod(shape)
    if parameter.shape[1] != elements:  # a slice, even a full one, costs a copy in the backward pass
        parameter = parameter[:, :elements]
    return parameter.reshape(len(parameter), *shape)
