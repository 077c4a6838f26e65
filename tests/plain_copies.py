"""Plain networks that draw the masks of their seeds: what a stacked network must train like, step by step."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.networks.cnn import cnn
from normdrop.networks.layers import NOISES, Residual, UniformNoise
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training.module import cross_entropy

CLASSES, BATCH = 3, 8
SEEDS = [4, 0, 9]
CHANNEL_NOISES = (nn.Dropout1d, nn.Dropout2d)
FLAT, SIGNAL, IMAGE = (6,), (2, 11), (2, 5, 6)


class GivenNoise(nn.Module):
    """The noise of one replicate, recomputed from its stream for a plain layer: (batch, channels, …), same out."""

    def __init__(self, layer: nn.Module, seed: int, number: int, rerun: int):
        super().__init__()
        self.layer = layer
        self.generator = stream(seed, "masks", rerun=rerun, layer=number)
        self.generator.integers(2**63)  # the key of the counting generator comes first

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = x.shape[1:2] if isinstance(self.layer, CHANNEL_NOISES) else x.shape[1:]
        count = math.prod(shape) * BATCH
        raw = self.generator.bit_generator.random_raw(-(-count // 4)).view(np.int16)[:count].astype(np.float64)
        if isinstance(self.layer, UniformNoise):
            factors = 1 + self.layer.rate * (raw + 0.5) / 2**15
        else:
            dropped = round(self.layer.p * 2**16)
            factors = (raw + 2**15 >= dropped) / (1 - dropped / 2**16)
        given = torch.from_numpy(factors.reshape(*shape, BATCH).copy()).movedim(-1, 0)[: len(x)]
        return x * given.view(*given.shape, *[1] * (x.dim() - given.dim()))


def with_given_noise(network: nn.Sequential, seed: int, rerun: int = 0) -> nn.Sequential:
    number = itertools.count(1)
    at = 0

    def given(layers: nn.Sequential) -> list[nn.Module]:
        nonlocal at
        made: list[nn.Module] = []
        for layer in layers:
            if isinstance(layer, Residual):
                layer = Residual(*given(layer))
            elif isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                at = next(number)
            elif isinstance(layer, (*NOISES.values(), *CHANNEL_NOISES)):
                layer = GivenNoise(layer, seed, at, rerun)
            made.append(layer)
        return made

    return nn.Sequential(*given(copy.deepcopy(network)))


def plain_networks(shape: Sequence[int], seeds: Sequence[int] = SEEDS, **changes: Any) -> list[nn.Sequential]:
    """Of flat rows MLPs of two layers, of others CNNs of two; float32."""
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.4}
    if len(shape) == 1:
        network = mlp(shape, CLASSES, **block | {"width": [20, 13], "depth": 2} | changes)
    else:
        network = cnn(shape, CLASSES, **block | {"channels": [5, 3], "stride": [2, 1]} | changes)
    return [initialise(copy.deepcopy(network), stream(seed, "init")) for seed in seeds]


def rows(shape: Sequence[int], count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(SEEDS), count, math.prod(shape)))
    return torch.from_numpy(x), torch.from_numpy(generator.integers(CLASSES, size=(len(SEEDS), count)))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)


def adam(parameters: Any) -> torch.optim.Optimizer:
    # Adam divides by the gradient's size, so that a gradient of mere rounding would move a weight by a whole step; this
    # epsilon is above double precision's rounding.
    return torch.optim.Adam(parameters, lr=0.01, eps=1e-6, fused=True)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-7, atol=1e-10)


def gradients_of(stacked: StackedNetwork) -> list[list[Tensor]]:
    """Those of each replicate, in the shape of the plain network's parameters."""
    weights = [parameter.data for parameter in stacked.parameters()]
    for parameter in stacked.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = [[*stacked.replicate(k).parameters()] for k in range(len(stacked.seeds))]
    for parameter, values in zip(stacked.parameters(), weights, strict=True):
        parameter.data = values
    return gradients


def assert_trains_like_plain_networks(
    shape: Sequence[int],
    optimizer: Callable[..., torch.optim.Optimizer] = sgd,
    rerun: int = 0,
    steps: Sequence[int] = (BATCH, 5, BATCH),
    **block: Any,
) -> None:
    """A short batch among them."""
    networks = [network.double() for network in plain_networks(shape, **block)]
    stacked = StackedNetwork(networks, SEEDS, BATCH, rerun).double()
    plain = [with_given_noise(network, seed, rerun) for network, seed in zip(networks, SEEDS, strict=True)]
    assert_trains_alike(stacked, plain, [rows(shape, size, number) for number, size in enumerate(steps)], optimizer)


def assert_trains_alike(
    stacked: StackedNetwork,
    plain: Sequence[nn.Module],
    steps: Sequence[tuple[Tensor, Tensor]],
    optimizer: Callable[..., torch.optim.Optimizer] = sgd,
) -> None:
    """Outputs, gradients, weights and buffers of every replicate and its plain network, step by step."""
    stacked_optimizer, optimizers = optimizer(stacked.parameters()), [optimizer(n.parameters()) for n in plain]
    for x, y in steps:
        stacked_optimizer.zero_grad()
        outputs = stacked.train()(x)
        cross_entropy(outputs, y).mean(dim=1).sum().backward()
        gradients = gradients_of(stacked)
        stacked_optimizer.step()
        evaluated = stacked.eval()(x)
        for k, (network, its_optimizer) in enumerate(zip(plain, optimizers, strict=True)):
            its_optimizer.zero_grad()
            output = network.train()(x[k].clone())  # it may write into what it is given
            nn.functional.cross_entropy(output, y[k]).backward()
            its_optimizer.step()
            exported = stacked.replicate(k)
            assert_close(outputs[k], output)
            assert_close(evaluated[k], network.eval()(x[k].clone()))
            for ours, theirs in zip(gradients[k], network.parameters(), strict=True):
                if theirs.grad is not None:
                    assert_close(ours, theirs.grad)
            for name, values in network.state_dict().items():
                if values.is_floating_point():  # not the count of batches, which nothing reads
                    assert_close(exported.state_dict()[name], values)
