"""The replicate axis: N seeds of one network trained as one stacked network.

Every stacked tensor has the replicates first. Inside the stack activations are feature-major, (replicates,
features, batch): matrix products are then plain batched products, and the batch statistics of BN are sums
over contiguous memory. The features of a CNN are its channels, and within each its positions: a view tells
them apart, and Flatten does nothing. A layer that has no stacked form runs as N copies side by side, each on
its own replicate's rows.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.networks.convolution import Convolution
from normdrop.networks.layers import ACTIVATIONS, CHANNEL_NOISES, Identity, Residual, shape_behind
from normdrop.networks.noise import StackedNoise
from normdrop.networks.side_by_side import DROPOUTS, Place, SideBySide, padded, unpadded


class _Stacked(nn.Module):
    """The weights and biases of N layers of one shape.

    Each replicate's slice of a parameter is padded to a multiple of 16 floats: a fused optimizer rounds the
    last elements of a tensor differently (scalar code in place of vectors), and padding keeps every real
    element out of that tail, so that a replicate's bits do not depend on how many replicates stand behind it.
    """

    def __init__(self, layers: Sequence[Any], place: Place):
        super().__init__()
        self.weight = nn.Parameter(padded([layer.weight for layer in layers]))
        self.bias = nn.Parameter(padded([layer.bias for layer in layers]))
        self.fan_out, self.fan_in = len(layers[0].weight), layers[0].weight[0].numel()

    @property
    def matrix(self) -> Tensor:
        """The weights of a layer that multiplies, (replicates, fan_out, fan_in)."""
        return unpadded(self.weight, (self.fan_out, self.fan_in))


class StackedLinear(_Stacked):
    """N Linear layers of one shape: (replicates, fan_in, batch) → (replicates, fan_out, batch)."""

    def forward(self, x: Tensor) -> Tensor:
        bias = unpadded(self.bias, (self.fan_out, 1))
        if x.shape[-1] == 1:  # MKL takes another routine, with other bits, for a single row of a single replicate
            return torch.baddbmm(bias, self.matrix, x.expand(-1, -1, 2))[..., :1]
        return torch.baddbmm(bias, self.matrix, x)

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input meets, (replicates, fan_in)."""
        return self.matrix.abs().sum(dim=1)


class StackedConv(_Stacked):
    """N Conv1d or Conv2d layers: (replicates, channels · positions, batch) → the same of the output's."""

    def __init__(self, layers: Sequence[Any], place: Place):
        super().__init__(layers, place)
        # One dimension is an image of a row.
        first, (channels, *space) = layers[0], place.shape
        self.shape = (channels, *[1] * (2 - len(space)), *space)
        kernel, stride, padding = (1, *first.kernel_size), (1, *first.stride), (0, *first.padding)
        self.geometry = kernel[-2:], stride[-2:], padding[-2:]

    def forward(self, x: Tensor) -> Tensor:
        image, bias = x.unflatten(1, self.shape), unpadded(self.bias, (self.fan_out, 1))
        return Convolution.apply(image, self.matrix, bias, *self.geometry).flatten(1, 3)

    def patches(self) -> Tensor:
        """Which unit of the input stands where in its unfolded patches, (fan_in · positions,); -1 is the
        padding.
        """
        numbers = torch.arange(1.0, math.prod(self.shape) + 1, dtype=torch.float64).view(1, *self.shape)
        kernel, stride, padding = self.geometry
        return F.unfold(numbers, kernel, padding=padding, stride=stride).flatten().long() - 1

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input channel meets, (replicates, channels)."""
        return self.matrix.unflatten(2, (self.shape[0], -1)).abs().sum(dim=(1, 3))


class StackedBatchNorm(_Stacked):
    """N BatchNorm layers as one over replicates × channels: (replicates, channels · positions, batch), same
    out.

    A channel of an MLP is a unit, with one position.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layers: Sequence[Any], place: Place):
        super().__init__(layers, place)
        self.features, self.momentum, self.eps = self.fan_out, layers[0].momentum, layers[0].eps
        self.register_buffer("running_mean", torch.cat([layer.running_mean for layer in layers]))
        self.register_buffer("running_var", torch.cat([layer.running_var for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        weight = unpadded(self.weight, (self.features,)).reshape(-1)
        bias = unpadded(self.bias, (self.features,)).reshape(-1)
        channels, mean, var = x.reshape(1, len(weight), -1), self.running_mean, self.running_var
        return F.batch_norm(channels, mean, var, weight, bias, self.training, self.momentum, self.eps).view(x.shape)


class StackedLayerNorm(_Stacked):
    """N LayerNorm layers, or GroupNorm layers of one group, over all units of each row, with a weight and a
    bias for each channel: (replicates, channels · positions, batch), same out.
    """

    def __init__(self, layers: Sequence[Any], place: Place):
        super().__init__(layers, place)
        self.features, self.eps = layers[0].weight.numel(), layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = unpadded(self.weight, (self.features, 1, 1)), unpadded(self.bias, (self.features, 1, 1))
        # Row-major for this layer alone: PyTorch's kernel sums each row by itself, whatever stands beside it.
        rows = F.layer_norm(x.transpose(1, 2).contiguous(), x.shape[1:2], eps=self.eps)
        channels = rows.transpose(1, 2).contiguous().unflatten(1, (self.features, -1))
        return torch.addcmul(bias, channels, weight).flatten(1, 2)


class StackedResidual(Residual):
    """N residual blocks, of stacked layers."""

    @property
    def fan_out(self) -> int:
        return self[0].fan_out  # type: ignore[return-value]

    def outgoing(self) -> Tensor:
        """The sum of the absolute weights that each input meets; the way around the block is one of 1."""
        return 1 + self[0].outgoing()  # type: ignore[operator]


def _noise(layers: Sequence[Any], place: Place) -> nn.Module:
    channels = isinstance(layers[0], CHANNEL_NOISES)
    return place.noise(layers[0], place.shape[0] if channels else math.prod(place.shape))


def _sequential(blocks: Sequence[Any], place: Place) -> nn.Module:
    return nn.Sequential(OrderedDict(zip(blocks[0]._modules, stack(blocks, place), strict=True)))


def _activation(layers: Sequence[Any], place: Place) -> nn.Module:
    """Never in place: where it stands first it would write into the data."""
    layer = copy.deepcopy(layers[0])
    layer.inplace = False
    return layer


# From N plain layers at a place to their stacked form, with parameters and buffers of the same names, which
# holds for a `usual` layer. Activations have no replicates to tell apart.
Form = Callable[[Sequence[Any], Place], nn.Module]
STACKED: dict[type[nn.Module], Form] = {
    nn.Linear: StackedLinear,
    nn.Conv1d: StackedConv,
    nn.Conv2d: StackedConv,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.LayerNorm: StackedLayerNorm,
    nn.GroupNorm: StackedLayerNorm,
    nn.Unflatten: lambda layers, place: nn.Identity(),
    nn.Flatten: lambda layers, place: nn.Identity(),
    **dict.fromkeys((nn.Identity, Identity), lambda layers, place: layers[0]),
    nn.Sequential: _sequential,
    Residual: lambda blocks, place: StackedResidual(*stack(blocks, place)),
    **dict.fromkeys(DROPOUTS, _noise),
    **dict.fromkeys(ACTIVATIONS.values(), _activation),
}

# What a stacked form takes for granted of its layer, wherever a layer has such an attribute.
USUAL = {"groups": 1, "num_groups": 1, "padding_mode": "zeros", "dim": 1, "start_dim": 1, "end_dim": -1}
NEEDED = ("weight", "bias", "running_mean", "momentum")

# Begins a hidden block, or the output.
WEIGHTED = (StackedLinear, StackedConv, StackedResidual)


def usual(layer: Any, shape: tuple[int, ...]) -> bool:
    """Whether a layer, of rows of this shape, is what its stacked form computes."""
    if any(getattr(layer, name, value) != value for name, value in USUAL.items()):
        return False
    if any(getattr(layer, name, 0) is None for name in NEEDED):
        return False
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return False
    if not all(parameter.requires_grad for parameter in layer.parameters(recurse=False)):  # frozen
        return False
    if isinstance(layer, nn.Sequential):  # nothing of it but activations stands there twice
        held = [*layer.state_dict(keep_vars=True).values()]
        held += [part for _, part in layer.named_modules(remove_duplicate=False) if type(part) in DROPOUTS]
        return len({*map(id, held)}) == len(held)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return set(layer.dilation) == {1} and not isinstance(layer.padding, str)
    if isinstance(layer, nn.Linear):
        return shape == (layer.in_features,)
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape == shape
    if isinstance(layer, CHANNEL_NOISES):
        return len(shape) > 1
    return not isinstance(layer, nn.Unflatten) or len(shape) == 1


def stack(networks: Sequence[nn.Sequential], place: Place) -> list[nn.Module]:
    """The stacked layers of networks of one shape, the first at `place`, which moves behind the last.

    Raises ValueError for a stacked form that is not equal to its plain layer.
    """
    stacked: list[nn.Module] = []
    for layers in zip(*networks, strict=True):
        first, before = layers[0], place.shape
        if len({repr(layer) for layer in layers}) > 1:
            kind = " ".join(repr(first).split())
            raise ValueError(f"model: its layers differ between seeds: {kind} and others; must be the same for all")
        form = STACKED.get(type(first))
        if form is None or not usual(first, before):
            stacked.append(SideBySide(layers, place))
        else:
            stacked.append(form(layers, place))
            if not [*first.children()]:  # of a block each layer is proved and counted by itself
                prove(first, form, before)
                place.passed(first)
        place.shape = shape_behind(first, before)
    return stacked


_proved: set[Any] = set()


def prove(layer: nn.Module, form: Form, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the stacked form of two layers differs from the two side by side: in output,
    gradients or buffers, in double precision.

    Looked at once for each layer and shape. Noise is compared where it is off: its streams are its own. On
    the meta device, where there are no numbers, nothing is looked at.
    """
    key = type(layer), form, repr(layer), shape
    if key in _proved or torch.empty(0).is_meta:
        return
    plain = [copy.deepcopy(layer).double(), copy.deepcopy(layer).double()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for own in plain:
            for parameter in own.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)
        x = torch.randn(2, math.prod(shape), 3, dtype=torch.float64)
    stacked = form(plain, Place((0, 1), 3, 0, shape))
    copies = SideBySide(plain, Place((0, 1), 3, 0, shape))
    for training in (False,) if isinstance(stacked, StackedNoise) else (True, False):
        ours, theirs = _trace(stacked.train(training), x), _trace(copies.train(training), x)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9):
            raise ValueError(f"{layer}: its stacked form is not equal to it; correct STACKED")
    _proved.add(key)


@torch.enable_grad()
def _trace(module: nn.Module, x: Tensor) -> Tensor:
    """The output for x, the gradients of the sum of its squares, and all buffers, in one."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    output = module(x)
    output.square().sum().backward()
    found = [output, x.grad, *(parameter.grad for parameter in module.parameters())]
    # A stack does not count the batches that BN has seen.
    found += [values for values in module.buffers() if values.is_floating_point()]
    return torch.cat([values.detach().flatten() for values in found])


class StackedNetwork(nn.Module):
    """N plain networks of one shape as one: x (replicates, batch, features) → logits (replicates, batch,
    classes).

    `networks` are Sequentials, one for each seed, that begin with a Linear or an Unflatten layer. The noise
    of a replicate in training comes from the stream of its own seed; nothing of it depends on the rest.
    `batch_size` is the rows of a full training batch. Rows (batch, features) are given to every replicate.
    """

    def __init__(self, networks: Sequence[nn.Sequential], seeds: Sequence[int], batch_size: int, rerun: int = 0):
        super().__init__()
        self.seeds = list(seeds)
        first = next(module for module in networks[0].modules() if isinstance(module, nn.Linear | nn.Unflatten))
        self.features = first.in_features if isinstance(first, nn.Linear) else math.prod(first.unflattened_size)
        self.layers = nn.ModuleList(stack(networks, Place(self.seeds, batch_size, rerun, shape=(self.features,))))
        convolutions = [layer for layer in self.modules() if isinstance(layer, StackedConv)]
        units = max((layer.fan_out * math.prod(layer.shape[1:]) for layer in convolutions), default=1)
        if any(isinstance(layer, SideBySide) for layer in self.modules()):
            units = max(units, 2**14)  # what stands in there is not known
        self.rows_at_a_time = max(1, min(512, 2**20 // units))  # in evaluation: a large image's channels take memory
        self.template = [networks[0]]  # in a list: a description of the shape, not a submodule with weights of its own

    @property
    def weighted(self) -> list[Any]:
        """The layers that begin a block; all but the first read what a hidden block puts out."""
        return [layer for layer in self.layers if isinstance(layer, WEIGHTED)]

    @property
    def widths(self) -> list[int]:
        """The units, in a CNN the channels, of each hidden block."""
        return [layer.fan_out for layer in self.weighted[:-1]]

    def forward(self, x: Tensor, keep: Sequence[Tensor] | None = None) -> Tensor:
        """`keep` silences units or channels: one factor (replicates, width, 1) for the output of each hidden
        block.
        """
        if x.dtype != torch.float32:  # whole numbers, and what NumPy makes
            x = x.to(next(self.parameters()).dtype)
        if x.dim() == 2:
            x = x.expand(len(self.seeds), -1, -1)
        if x.dim() != 3 or (len(x), x.shape[2]) != (len(self.seeds), self.features):
            allowed = f"({len(self.seeds)} replicates, batch, {self.features} features), or (batch, features)"
            raise ValueError(f"x has the shape {tuple(x.shape)}: must be {allowed}")
        if not self.training and x.shape[1] > self.rows_at_a_time:
            return torch.cat([self(rows, keep) for rows in x.split(self.rows_at_a_time, dim=1)], dim=1)
        x = x.transpose(1, 2)
        kept = dict(zip(self.weighted[1:], keep, strict=True)) if keep else {}
        for layer in self.layers:
            if layer in kept:
                x = (x.unflatten(1, (kept[layer].shape[1], -1)) * kept[layer][:, :, None]).flatten(1, 2)
            x = layer(x)
        return x.transpose(1, 2)

    @torch.no_grad()
    def used(self, chunks: Iterable[Tensor]) -> list[Tensor]:
        """How much is made of each unit or channel of each hidden block, (replicates, width) for every block.

        Sum over the rows of its absolute value times the absolute weights that it meets: its outgoing
        contribution, of which the ranking counts.
        """
        readers = self.weighted[1:]
        totals: dict[nn.Module, Any] = dict.fromkeys(readers, 0)

        def add(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            totals[layer] = totals[layer] + inputs[0].abs().sum(dim=2)

        hooks = [layer.register_forward_pre_hook(add) for layer in readers]
        for x in chunks:
            self(x)
        for hook in hooks:
            hook.remove()
        return [
            (totals[layer].unflatten(1, (width, -1)) * layer.outgoing().unflatten(1, (width, -1))).sum(dim=2)
            for layer, width in zip(readers, self.widths, strict=True)
        ]

    @torch.no_grad()
    def replicate(self, index: int) -> nn.Sequential:
        """Replicate `index` as a plain network with the same weights and running statistics."""
        network = copy.deepcopy(self.template[0])
        # Buffers that no state has may differ between replicates too.
        held = self.layers.state_dict() | dict(self.layers.named_buffers())
        held = {name.replace(".copies.", ".", 1): values for name, values in held.items()}
        for name, values in (network.state_dict() | dict(network.named_buffers())).items():
            if values.numel() and not name.endswith(".num_batches_tracked"):  # a stack does not count batches
                values.copy_(held[name].view(len(self.seeds), -1)[index, : values.numel()].view_as(values))
        return network
