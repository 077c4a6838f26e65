"""The configurable CNN, plain `nn` modules throughout, in one dimension or two by the shape of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from normdrop.networks.layers import Residual, block, shape_behind


def cnn(
    shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (8, 16),
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 2,
    residual: bool = False,
    **placed: Any,
) -> nn.Sequential:
    """A CNN of one hidden block for each of `channels` and a Linear output.

    shape: of a row, (channels, length) or (channels, height, width). `kernel` and `stride` are one number for
    all blocks, or a list with one for each; the padding is (kernel − 1) // 2. With `residual` a block whose
    input and output have one shape becomes x + block(x). placed: what `block` takes. Raises ValueError for
    what cannot be.
    """
    shape = tuple(shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] <= 4 and shape[0] > shape[2]):
        raise ValueError(
            f"model=cnn: rows have the shape {shape}; it must be (channels, length) or (channels, height, "
            "width), channels first; give flat columns theirs, e.g. data.shape=[1,8,8], and take no data.pca"
        )
    if not isinstance(channels, (list, tuple)) or not channels or not integers(channels, 2):  # not 1: as for a width
        raise ValueError(f"model.channels={channels}: must be a list with one integer ≥ 2 for each hidden block")
    convolution = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    added = False
    kernels = per_block("kernel", kernel, len(channels))
    strides = per_block("stride", stride, len(channels))
    for width, size, step in zip(channels, kernels, strides, strict=True):
        if max(size, step) > min(shape[1:]):
            smaller = f"a block's input of {shape[1:]} is smaller than its kernel of {size} or its stride of {step}"
            raise ValueError(f"model.kernel={kernel}, model.stride={stride}: {smaller}")
        weights = convolution(shape[0], width, size, step, padding=(size - 1) // 2)
        hidden, out = block(weights, **placed), shape_behind(weights, shape)
        layers += [Residual(*hidden)] if residual and out == shape else hidden
        added = added or out == shape
        shape = out
    if residual and not added:
        raise ValueError("model.residual=true: no hidden block has an output of its input's shape, so nothing is added")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(shape), classes))


def integers(values: Sequence[Any], least: int) -> bool:
    return all(type(value) is int and value >= least for value in values)


def per_block(key: str, value: int | Sequence[int], blocks: int) -> list[int]:
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * blocks
    if len(values) != blocks or not integers(values, 1):
        raise ValueError(
            f"model.{key}={value}: must be an integer ≥ 1, or a list of one for each of the {blocks} blocks"
        )
    return values
