"""N convolutions as one: batched products on unfolded patches, feature-major with the batch last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]
Index = tuple[slice | int, ...]

# Patches of so many elements at a time, at least one replicate's: on a CPU they then stay in its cache
# between the unfolding and the product, which halves the time of wide layers; a GPU wants few and large
# products.
AT_A_TIME = {"cpu": 2**18, "cuda": 2**28}


class Convolution(torch.autograd.Function):
    """x (replicates, channels, height, width, batch), weight (replicates, fan_out, channels · kernel), bias
    (replicates, fan_out, 1) → (replicates, fan_out, height, width, batch).

    Patches are unfolded again in the backward pass: kept, they would take as many times the memory of the
    input as the kernel has elements.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        sizes = zip(x.shape[2:4], kernel, stride, padding, strict=True)
        positions = [(size + 2 * p - k) // s + 1 for size, k, s, p in sizes]
        ctx.patches = x.shape[1], *kernel, *positions, x.shape[-1]
        ctx.windows = list(windows(x.shape[2:4], positions, kernel, stride, padding))
        out = x.new_empty(*weight.shape[:2], *positions, x.shape[-1])
        columns = out.flatten(2)
        for group, space in groups(x, ctx.patches):
            patches = unfolded(x[group], space, ctx.windows)
            if patches.shape[-1] == 1:  # see StackedLinear
                columns[group] = torch.baddbmm(bias[group], weight[group], patches.expand(-1, -1, 2))[..., :1]
            else:
                torch.baddbmm(bias[group], weight[group], patches, out=columns[group])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        columns = gradients[0].flatten(2)
        x_gradient = x.new_zeros(x.shape) if ctx.needs_input_grad[0] else None
        weight_gradient = weight.new_empty(weight.shape)
        for group, space in groups(x, ctx.patches):
            torch.bmm(columns[group], unfolded(x[group], space, ctx.windows).mT, out=weight_gradient[group])
        if x_gradient is not None:
            for group, space in groups(x, ctx.patches):
                torch.bmm(weight[group].mT, columns[group], out=space.flatten(4).flatten(1, 3))
                for patch, image in ctx.windows:
                    x_gradient[group][image] += space[patch]
        return x_gradient, weight_gradient, columns.sum(dim=-1, keepdim=True), None, None, None


def groups(x: Tensor, patches: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """The replicates that are convolved together, and space for their patches, zeros at first: the padding's
    value.

    One space for all: memory that is always new takes longer than what is written into it.
    """
    size = max(1, AT_A_TIME["cpu" if x.device.type == "cpu" else "cuda"] // math.prod(patches))
    space = x.new_zeros(min(size, len(x)), *patches)
    for start in range(0, len(x), size):
        yield slice(start, start + size), space[: len(x) - start]


def unfolded(x: Tensor, patches: Tensor, windows: Iterable[tuple[Index, Index]]) -> Tensor:
    """x (replicates, channels, height, width, batch) in patches (replicates, channels · kernel, columns)."""
    for patch, image in windows:
        patches[patch] = x[image]
    return patches.flatten(4).flatten(1, 3)


def windows(size: Sequence[int], positions: Sequence[int], *geometry: Pair) -> Iterator[tuple[Index, Index]]:
    """For each element of the kernel: where its values stand in patches, and where in an image."""
    whole = slice(None)
    rows, columns = (meetings(*along) for along in zip(size, positions, *geometry, strict=True))
    for (i, (of_patches, of_image)), (j, (across_patches, across_image)) in product(
        enumerate(rows), enumerate(columns)
    ):
        yield (whole, whole, i, j, of_patches, across_patches), (whole, whole, of_image, across_image)


def meetings(size: int, positions: int, kernel: int, stride: int, padding: int) -> list[tuple[slice, slice]]:
    """Along one dimension, for each element of the kernel: the positions where it meets the image, and what
    of it.
    """
    found = []
    for offset in range(-padding, kernel - padding):
        first, last = max(0, -(offset // stride)), min(positions - 1, (size - 1 - offset) // stride)
        start, stop = first * stride + offset, last * stride + offset + 1
        found.append((slice(first, last + 1), slice(start, max(start, stop), stride)))  # both may be empty
    return found
