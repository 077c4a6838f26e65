"""The compiled engine: a stretch of optimizer steps of a stacked network as one function of machine code.

It trains one replicate after the other through the whole stretch, so that the weights, gradients and moments of one
stay in cache, on the tensors of the StackedNetwork and of the torch optimizer: everything else goes on in torch, which
stays the reference; both agree within rounding. A network is a list of LAYER records, walked forward and backward. All
but Linear layers and convolutions change the output of the last of these in place, and keep what their backward pass
needs. A convolution is a Linear layer on patches; the features of a CNN are its channels, each with many positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from normdrop.asked import first_line
from normdrop.engine.kernels import (
    BATCH_NORM,
    BERNOULLI,
    CONVOLUTION,
    GELU,
    LAYER,
    LAYER_NORM,
    LEAKY_RELU,
    LINEAR,
    PARAMETER,
    RULE,
    UNIFORM,
    train,
)
from normdrop.networks.stacked import (
    StackedBatchNorm,
    StackedConv,
    StackedLayerNorm,
    StackedLinear,
    StackedNetwork,
    StackedNoise,
)

# What a layer's record says whatever its place.
DESCRIBED: dict[type[nn.Module], Callable[[Any], dict[str, float]]] = {
    StackedLinear: lambda layer: {"kind": LINEAR, "inputs": layer.fan_in, "units": layer.fan_in},
    StackedConv: lambda layer: {"kind": CONVOLUTION, "inputs": layer.fan_in, "units": math.prod(layer.shape)},
    StackedBatchNorm: lambda layer: {
        **{"kind": BATCH_NORM, "number": layer.eps, "momentum": layer.momentum},
        **{"mean": layer.running_mean.data_ptr(), "var": layer.running_var.data_ptr()},
    },
    StackedLayerNorm: lambda layer: {"kind": LAYER_NORM, "number": layer.eps},
    StackedNoise: lambda layer: (
        {"kind": UNIFORM, "number": layer.rate}
        if layer.uniform
        else {"kind": BERNOULLI, "number": 1 / layer.keep, "threshold": layer.dropped - 2**15}
    ),
    nn.Identity: lambda _: {},
    nn.ReLU: lambda _: {"kind": LEAKY_RELU, "number": 0},
    nn.LeakyReLU: lambda layer: {"kind": LEAKY_RELU, "number": layer.negative_slope},
    nn.GELU: lambda _: {"kind": GELU},
}

# OpenBLAS's names of the processors for which it has kernels of small matrices.
AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")


def unknown(network: StackedNetwork, optimizer: Optimizer) -> str | None:
    """The first that the engine does not know, in words; None if it knows all."""
    on = {(tensor.device.type, tensor.dtype) for tensor in network.parameters()}
    if not on <= {("cpu", torch.float32), ("meta", torch.float32)}:
        return "it trains float32 on the CPU alone"
    for layer in network.layers:
        if type(layer) not in DESCRIBED or getattr(layer, "approximate", "none") != "none":
            name, *_ = str(layer).splitlines()  # of a block its name alone
            return f"it does not know the layer {name.removesuffix('(')}"
    name, groups = type(optimizer).__name__, optimizer.param_groups
    if type(optimizer) not in (Adam, AdamW, SGD) or len(groups) > 1:
        return f"it does not know the optimizer {name}"
    foreign = [key for key in ("amsgrad", "maximize", "nesterov", "dampening", "differentiable") if groups[0].get(key)]
    return f"it does not know {name} with {foreign[0]}" if foreign else None


class Compiled:
    """Trains a StackedNetwork where reason() is None, in batches of `batch_size` rows.

    clip: the largest L2 norm of one replicate's gradients, to which longer ones are scaled, or None.
    """

    def __init__(self, network: StackedNetwork, batch_size: int, clip: float | None = None):
        self.network, self.batch_size, self.clip = network, batch_size, clip or math.inf
        self.threads = ThreadpoolController()
        self.tiled = any(library.get("architecture") in AVX512 for library in self.threads.info())

    def run(
        self, optimizer: Optimizer, x: Tensor, y: Tensor, rates: np.ndarray, drift: np.ndarray, active: Tensor
    ) -> Tensor:
        """Train a stretch; the mean loss of each batch before its step, (steps, replicates).

        x (replicates, rows, features) float32 and y (replicates, rows) int64 are cut into batches, the last maybe
        smaller. rates: the learning rate of each step. drift: (steps, 2), the factor and the offset of its inputs.
        active (replicates,): the others stay as they are, with losses of 0.
        """
        # Contiguous: for another layout another code, with other roundings, would be compiled.
        x, y = x.contiguous(), y.contiguous()
        data = (x.numpy(), y.numpy(), np.ascontiguousarray(drift, np.float32), rates, active.numpy())
        assert len(rates) == len(drift) == -(-y.shape[1] // self.batch_size)
        losses = np.zeros((len(rates), len(y)), np.float32)
        layers, table, noises, work = self._layers()
        generators = [generator.bit_generator for noise in noises for generator in noise.bits.streams]
        told = [generator.state for generator in generators]
        states = np.array([state["state"]["state"] for state in told], np.uint64).reshape(-1, len(y), 4)
        parameters, rule = self._optimizer(optimizer, len(rates))
        # Behind the gradients the padding stays 0.
        gradients = np.zeros(parameters["begin"][-1] + parameters["size"][-1], np.float32)
        spaces = (np.empty(work, np.float32), np.empty(work, np.float32), np.empty(work, np.uint64), gradients)
        with self.threads.limit(limits=1, user_api="blas"):
            try:
                train(layers, table, parameters, rule, data, self.batch_size, states, spaces, self.tiled, losses)
            except Exception as error:  # it runs in machine code: this is of numba, which makes that
                raise RuntimeError(f"numba cannot compile here: {first_line(error)}; take engine=torch") from error
        for generator, state, now in zip(generators, told, states.reshape(-1, 4), strict=True):
            generator.state = {**state, "state": {"state": now}}
        return torch.from_numpy(losses)

    def _layers(self) -> tuple[np.ndarray, np.ndarray, list[StackedNoise], int]:
        """The layers' records, the table of patches (see `StackedConv.patches`) of all convolutions, the noise among
        the layers, and how many floats the work space of one replicate has."""
        # For a rate of 0 torch draws nothing either.
        layers: list[Any] = [layer for layer in self.network.layers if getattr(layer, "rate", 1)]
        noises = [layer for layer in layers if isinstance(layer, StackedNoise)]
        records, tables, out, weight, units, work = [], [np.empty(0, np.int64)], 0, 0, 0, 0

        def take(numbers: int) -> int:
            """Where the next so many numbers of each row of a batch begin in the work space."""
            nonlocal work
            begin, work = work, work + numbers * self.batch_size
            return begin

        for layer in layers:
            if not (own := DESCRIBED[type(layer)](layer)):
                continue
            if "inputs" in own:
                if not work:
                    take(int(own["units"]))  # the rows themselves, at 0
                own |= {"below": out, "patches": out}
                place = {"features": layer.fan_out, "positions": 1}
                if own["kind"] == CONVOLUTION:
                    own["table"] = sum(map(len, tables))
                    tables.append(layer.patches().numpy())
                    own["patches"] = take(len(tables[-1]))
                    place["positions"] = len(tables[-1]) // layer.fan_in
                units = layer.fan_out * place["positions"]
                out = own["kept"] = take(units)
            else:
                own["kept"] = take(units + math.ceil(units / self.batch_size))  # its like, and one for a feature or row
                if isinstance(layer, StackedNoise):  # of channels, or of units, each a channel of its own
                    own |= {"features": layer.features, "positions": units // layer.features}
                    own["stream"] = noises.index(layer)
            own = place | {"out": out, "weight": weight} | own
            weight += len(list(layer.parameters()))
            records.append(tuple(own.get(name, 0) for name in LAYER.names or ()))
        return np.array(records, LAYER), np.concatenate(tables), noises, work

    def _optimizer(self, optimizer: Optimizer, steps: int) -> tuple[np.ndarray, Any]:
        """The parameters' records, with a state made as torch makes it that counts `steps` more, and the rule's."""
        group, records, done, begin = optimizer.param_groups[0], [], 0, 0
        names = ("exp_avg", "exp_avg_sq", "step") if "betas" in group else ("momentum_buffer",)
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            for name in (name for name in names if state.get(name) is None):
                state[name] = torch.zeros(() if name == "step" else parameter.shape)
            tensors = (parameter, state[names[0]], state[names[len(names) // 2]])
            records.append((*(tensor.data_ptr() for tensor in tensors), parameter.shape[1], begin))
            begin += parameter.shape[1]
            if "step" in state:
                done, state["step"] = int(state["step"]), state["step"] + steps
        decay, decoupled = group["weight_decay"], group.get("decoupled_weight_decay", False)
        numbers = (*group.get("betas", (0, 0)), group.get("eps", 0), group.get("momentum", 0), self.clip)
        rule = ("betas" in group, done, decay * (not decoupled), decay * decoupled, *numbers)
        return np.array(records, PARAMETER), np.array([rule], RULE)[0]
