"""N convolutions as one: batched products on unfolded patches, feature-major with the batch last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

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
        ctx.positions = [(size + 2 * p - k) // s + 1 for size, k, s, p in sizes]
        ctx.kernel, ctx.stride, ctx.padding = kernel, stride, padding
        out = x.new_empty(*weight.shape[:2], *ctx.positions, x.shape[-1])
        columns = out.flatten(2)
        for group, space in groups(ctx, x):
            patches = unfolded(ctx, x[group], space)
            if patches.shape[-1] == 1:  # see StackedLinear
                columns[group] = torch.baddbmm(bias[group], weight[group], patches.expand(-1, -1, 2))[..., :1]
            else:
                torch.baddbmm(bias[group], weight[group], patches, out=columns[group])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        columns = gradients[0].flatten(2)
        weight_gradient = weight.new_empty(weight.shape)
        for group, space in groups(ctx, x):
            torch.bmm(columns[group], unfolded(ctx, x[group], space).mT, out=weight_gradient[group])
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.empty_like(x)
            for group, space in groups(ctx, x):
                torch.bmm(weight[group].mT, columns[group], out=space.flatten(4).flatten(1, 3))
                x_gradient[group] = folded(ctx, space, x[group])
        return x_gradient, weight_gradient, columns.sum(dim=-1, keepdim=True), None, None, None


def groups(ctx: Any, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The replicates that are convolved together, and space for their patches, (replicates, channels, *kernel,
    *positions, batch).

    One space for all: memory that is always new takes longer than what is written into it.
    """
    shape = x.shape[1], *ctx.kernel, *ctx.positions, x.shape[-1]
    size = max(1, AT_A_TIME["cpu" if x.device.type == "cpu" else "cuda"] // math.prod(shape))
    space = x.new_empty(min(size, len(x)), *shape)
    for start in range(0, len(x), size):
        yield slice(start, start + size), space[: len(x) - start]


def unfolded(ctx: Any, x: Tensor, space: Tensor) -> Tensor:
    """Images in patches, (replicates, channels · kernel, positions · batch)."""
    (top, left), (down, across) = ctx.padding, ctx.stride
    padded = F.pad(x, (0, 0, left, left, top, top))
    patches = padded.unfold(2, ctx.kernel[0], down).unfold(3, ctx.kernel[1], across)
    space.copy_(patches.permute(0, 1, 5, 6, 2, 3, 4))
    return space.flatten(4).flatten(1, 3)


def folded(ctx: Any, space: Tensor, x: Tensor) -> Tensor:
    """The sum of what stands in patches for each element of images like x."""
    (top, left), (down, across), (rows, columns) = ctx.padding, ctx.stride, ctx.positions
    height, width = x.shape[2:4]
    padded = x.new_zeros(*x.shape[:2], height + 2 * top, width + 2 * left, x.shape[-1])
    for i, j in itertools.product(*map(range, ctx.kernel)):
        met = slice(i, i + down * rows, down), slice(j, j + across * columns, across)
        padded[:, :, *met] += space[:, :, i, j]
    return padded[:, :, top : top + height, left : left + width]
