"""N convolutions as one: batched products on unfolded patches, feature-major with the batch last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

# Patches of so many elements at a time, at least one replicate's: on a CPU they then stay in its cache between the
# unfolding and the product, which halves the time of wide layers; a GPU wants few and large products.
AT_A_TIME = {"cpu": 2**18, "cuda": 2**28}


class Convolution(torch.autograd.Function):
    """x (replicates, channels, height, width, batch), weight (replicates, fan_out, channels · kernel), bias
    (replicates, fan_out, 1) → (replicates, fan_out, height, width, batch).

    Patches are unfolded again in the backward pass: kept, they would take as many times the memory of the input as the
    kernel has elements.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = kernel, stride, padding
        height, width = (
            (size + 2 * p - k) // s + 1 for size, k, s, p in zip(x.shape[2:4], kernel, stride, padding, strict=True)
        )
        out = x.new_empty(*weight.shape[:2], height, width, x.shape[-1])
        columns = out.flatten(2)
        for group in groups(x, columns.shape[-1] * weight.shape[-1]):
            patches = unfolded(x[group], kernel, stride, padding)
            if patches.shape[-1] == 1:  # see StackedLinear
                columns[group] = torch.baddbmm(bias[group], weight[group], patches.expand(-1, -1, 2))[..., :1]
            else:
                torch.baddbmm(bias[group], weight[group], patches, out=columns[group])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        columns = gradients[0].flatten(2)
        x_gradient = torch.empty_like(x, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
        for group in groups(x, columns.shape[-1] * weight.shape[-1]):
            patches = unfolded(x[group], *ctx.geometry)
            torch.bmm(columns[group], patches.mT, out=weight_gradient[group])
            if x_gradient is not None:
                patches = weight[group].mT @ columns[group]
                x_gradient[group] = folded(patches, gradients[0].shape[2:4], x.shape[1:4], *ctx.geometry)
        return x_gradient, weight_gradient, columns.sum(dim=-1, keepdim=True), None, None, None


def groups(x: Tensor, elements: int) -> Iterator[slice]:
    """The replicates that are convolved together, with so many elements of patches each."""
    size = max(1, AT_A_TIME["cpu" if x.device.type == "cpu" else "cuda"] // elements)
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def unfolded(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """(replicates, channels, height, width, batch) → patches (replicates, channels · kernel, positions · batch)."""
    x = F.pad(x, (0, 0, *[padding[1]] * 2, *[padding[0]] * 2))
    x = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return x.permute(0, 1, 5, 6, 2, 3, 4).flatten(1, 3).flatten(2)


def folded(
    patches: Tensor, positions: torch.Size, shape: torch.Size, kernel: Pair, stride: Pair, padding: Pair
) -> Tensor:
    """The sum of patches at each element of x that they were unfolded from; shape: (channels, height, width) of x."""
    channels, height, width = shape
    patches = patches.unflatten(1, (channels, *kernel)).unflatten(-1, (*positions, -1))
    out = patches.new_zeros(len(patches), channels, height + 2 * padding[0], width + 2 * padding[1], patches.shape[-1])
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i, i + stride[0] * (positions[0] - 1) + 1, stride[0])
            out[:, :, rows, j : j + stride[1] * (positions[1] - 1) + 1 : stride[1]] += patches[:, :, i, j]
    return out[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
