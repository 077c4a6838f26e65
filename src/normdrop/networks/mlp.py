"""The configurable MLP, plain `nn` modules throughout; the blog's three networks are configurations of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from normdrop.networks.layers import ACTIVATIONS, NOISES, Residual, block


def mlp(
    features: int | Sequence[int],
    classes: int,
    *,
    width: int | Sequence[int] = 256,
    depth: int = 2,
    output_activation: str | None = None,
    dropout_layers: str = "all",
    residual: bool = False,
    **placed: Any,
) -> nn.Sequential:
    """An MLP of `depth` hidden blocks and a Linear output: (batch, features) → logits (batch, classes).

    `width` is one number for all hidden layers, or a list with one number for each. With
    `dropout_layers="last"` only the last hidden block keeps its dropout. `output_activation` stands on the
    logits (the blog's networks end in a ReLU). With `residual` a block of one width in and out becomes x +
    block(x). placed: what `block` takes. Rows are flat: of `features` with more than one dimension only the
    product counts. Raises ValueError for what cannot be.
    """
    widths = [width] * depth if isinstance(width, int) else list(width)
    layers: list[nn.Module] = []
    fan_in = features if isinstance(features, int) else math.prod(features)
    if residual and not any(a == b for a, b in itertools.pairwise([fan_in, *widths])):
        sizes = ", ".join(map(str, [fan_in, *widths]))
        raise ValueError(f"model.residual=true: no block has as many inputs as outputs ({sizes}): nothing is added")
    for number, fan_out in enumerate(widths, start=1):
        hidden = block(nn.Linear(fan_in, fan_out), **placed)
        if dropout_layers == "last" and number < len(widths):
            hidden = [layer for layer in hidden if not isinstance(layer, tuple(NOISES.values()))]
        layers += [Residual(*hidden)] if residual and fan_in == fan_out else hidden
        fan_in = fan_out
    layers.append(nn.Linear(fan_in, classes))
    if output_activation:
        layers.append(ACTIVATIONS[output_activation]())
    return nn.Sequential(*layers)


@torch.no_grad()
def initialise(network: nn.Sequential, generator: np.random.Generator, gain: float = 1.0) -> nn.Sequential:
    """Draw PyTorch's default initialisation, U(±1/√fan_in), from `generator`; multiply the weights by `gain`.

    Only linear layers and convolutions draw, in order, so that networks which differ in BN or dropout alone
    start from the same weights. On the meta device, where there are no numbers, nothing is drawn.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and not layer.weight.is_meta:
            bound = layer.weight[0].numel() ** -0.5
            assert layer.bias is not None
            for parameter, scale in ((layer.weight, gain), (layer.bias, 1.0)):
                draw = generator.uniform(-bound, bound, size=tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(scale * draw))
    return network
