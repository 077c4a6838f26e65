"""The configurable MLP, plain `nn` modules throughout; the blog's three networks are configurations of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from normdrop.arrangement import order
from normdrop.networks.layers import ACTIVATIONS, NOISES


def mlp(
    features: int,
    classes: int,
    *,
    arrangement: str,
    position: str,
    rate: float,
    noise: str = "bernoulli",
    width: int | Sequence[int] = 256,
    depth: int = 2,
    activation: str = "relu",
    output_activation: str | None = None,
    dropout_layers: str = "all",
) -> nn.Sequential:
    """An MLP of `depth` hidden blocks and a Linear output: (batch, features) → logits (batch, classes).

    `width` is one number for all hidden layers, or a list with one number for each. With `dropout_layers="last"` only
    the last hidden block keeps its dropout. `output_activation` stands on the logits (the blog's networks end in a
    ReLU).
    """
    widths = [width] * depth if isinstance(width, int) else list(width)
    layers: list[nn.Module] = []
    fan_in = features
    for number, fan_out in enumerate(widths, start=1):
        hidden = block(fan_in, fan_out, arrangement, position, rate, noise, activation)
        if dropout_layers == "last" and number < len(widths):
            hidden = [layer for layer in hidden if not isinstance(layer, tuple(NOISES.values()))]
        layers += hidden
        fan_in = fan_out
    layers.append(nn.Linear(fan_in, classes))
    if output_activation:
        layers.append(ACTIVATIONS[output_activation]())
    return nn.Sequential(*layers)


def block(
    fan_in: int, width: int, arrangement: str, position: str, rate: float, noise: str, activation: str
) -> list[nn.Module]:
    """The layers of one hidden block: (batch, fan_in) → (batch, width)."""
    layers = {
        "activation": lambda: ACTIVATIONS[activation](),
        "bn": lambda: nn.BatchNorm1d(width),
        "ln": lambda: nn.LayerNorm(width),
        "dropout": lambda: NOISES[noise](rate),
    }
    return [nn.Linear(fan_in, width), *(layers[name]() for name in order(arrangement, position))]


@torch.no_grad()
def initialise(network: nn.Sequential, generator: np.random.Generator, gain: float = 1.0) -> nn.Sequential:
    """Draw PyTorch's default Linear initialisation, U(±1/√fan_in), from `generator`; multiply the weights by `gain`.

    Only Linear layers draw, in order, so that networks which differ in BN or dropout alone start from the same weights.
    """
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter, scale in ((layer.weight, gain), (layer.bias, 1.0)):
                draw = generator.uniform(-bound, bound, size=tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(scale * draw))
    return network
