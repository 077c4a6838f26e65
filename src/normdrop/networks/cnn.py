"""The configurable CNN, plain `nn` modules throughout, in one dimension or two by the shape of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from normdrop.networks.layers import Residual, block


def cnn(
    features: int | Sequence[int],
    classes: int,
    *,
    arrangement: str,
    position: str,
    rate: float,
    noise: str = "bernoulli",
    channels: Sequence[int] = (8, 16),
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 2,
    activation: str = "relu",
    residual: bool = False,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Sequential:
    """A CNN of one hidden block for each of `channels` and a Linear output.

    features: the shape of a row, (channels, length) or (channels, height, width). `kernel` and `stride` are
    one number for all blocks, or a list with one for each; the padding is (kernel − 1) // 2. With `residual`
    a block whose input and output have one shape becomes x + block(x). Raises ValueError for what cannot be.
    """
    shape = [features] if isinstance(features, int) else list(features)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] <= 4 and shape[0] > shape[2]):
        raise ValueError(
            f"model=cnn: rows have the shape {tuple(shape)}; it must be (channels, length) or (channels, height, "
            "width), channels first; give flat columns theirs, e.g. data.shape=[1,8,8], and take no data.pca"
        )
    convolution = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    if not (isinstance(channels, (list, tuple)) and channels and all(type(c) is int and c >= 2 for c in channels)):
        # Not 1: as for an MLP's width.
        raise ValueError(f"model.channels={channels}: must be a list with one integer ≥ 2 for each hidden block")
    layers: list[nn.Module] = [nn.Unflatten(1, tuple(shape))]
    added = 0
    sizes = (per_block(key, value, len(channels)) for key, value in (("kernel", kernel), ("stride", stride)))
    for number, (width, size, step) in enumerate(zip(channels, *sizes, strict=True), start=1):
        if max(size, step) > min(shape[1:]):
            of, has = ("kernel" if size >= step else "stride"), " × ".join(map(str, shape[1:]))
            size_is = f"the input of block {number} is {has}, smaller than its {of} of {max(size, step)}"
            raise ValueError(f"model.kernel={kernel}, model.stride={stride}: {size_is}")
        weights = convolution(shape[0], width, size, step, padding=(size - 1) // 2)
        hidden = block(weights, arrangement, position, rate, noise, activation, bn_momentum, bn_eps)
        out = [width, *((length + 2 * ((size - 1) // 2) - size) // step + 1 for length in shape[1:])]
        layers += [Residual(*hidden)] if residual and out == shape else hidden
        added += out == shape
        shape = out
    if residual and not added:
        raise ValueError("model.residual=true: no hidden block has an output of its input's shape, so nothing is added")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(shape), classes))


def per_block(key: str, value: int | Sequence[int], blocks: int) -> list[int]:
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * blocks
    if len(values) != blocks or not all(type(v) is int and v >= 1 for v in values):
        raise ValueError(
            f"model.{key}={value}: must be an integer ≥ 1, or a list of one for each of the {blocks} blocks"
        )
    return values
