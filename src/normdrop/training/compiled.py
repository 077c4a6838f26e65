"""The compiled engine: a stretch of optimizer steps of a stacked network as one function of machine code.

It trains one replicate after the other through the whole stretch, so that the weights, gradients and moments of one
stay in cache. What it reads and writes are the tensors of the StackedNetwork and of the torch optimizer: whatever stands
around a stretch goes on in torch. The plain torch engine is the reference; both agree within rounding.

A network is a list of LAYER records, walked forward and backward. An activation, a normalisation and a noise change the
output of the Linear layer before them in place, and keep what their backward pass needs: the derivative, the normalised
values, the factors.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from normdrop.replicates import StackedBatchNorm, StackedLinear, StackedNetwork, StackedNoise

try:
    import numba
    import scipy.linalg.blas  # noqa: F401 (numba's matrix products are scipy's)
except ImportError:  # the extra `fast` is not installed, see reason()
    numba = None

LINEAR, BATCH_NORM, LAYER_NORM, RELU, LEAKY_RELU, GELU, TANH, BERNOULLI, UNIFORM = range(9)
ACTIVATIONS = {nn.ReLU: RELU, nn.LeakyReLU: LEAKY_RELU, nn.GELU: GELU, nn.Tanh: TANH}
ADAM, ADAMW, SGD = range(3)
RULES = {torch.optim.Adam: ADAM, torch.optim.AdamW: ADAMW, torch.optim.SGD: SGD}
# What an optimizer may be asked for beyond its numbers: nothing that changes the rule.
PLAIN = {"amsgrad": False, "maximize": False, "nesterov": False, "dampening": 0, "differentiable": False}

LAYER = np.dtype(
    [
        ("kind", np.int64),
        ("inputs", np.int64),
        ("features", np.int64),
        ("parameter", np.int64),  # the number of its weight; the bias is the next
        ("kept", np.int64),  # where in the work space a Linear layer's output, or what another layer keeps, begins
        ("stream", np.int64),  # of noise: its number among the noise layers
        ("running_mean", np.uint64),  # addresses
        ("running_var", np.uint64),
        ("momentum", np.float32),
        ("number", np.float32),  # eps, negative slope, rate or factor of what is kept
        ("threshold", np.int64),  # of Bernoulli noise: the smallest int16 that keeps a unit
    ],
    align=True,
)
PARAMETER = np.dtype([(name, np.uint64) for name in ("weights", "first", "second", "size", "begin")], align=True)
RULE = np.dtype(
    [("kind", np.int64)]
    + [(name, np.float64) for name in ("beta1", "beta2", "eps", "weight_decay", "momentum", "clip")],
    align=True,
)


def reason(network: StackedNetwork, optimizer: torch.optim.Optimizer) -> str | None:
    """Why the compiled engine cannot train this network with this optimizer, in words; None if it can."""
    if numba is None:
        return "numba is not installed (pip install 'normdrop[fast]')"
    for parameter in network.parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return f"it trains float32 on the CPU, not {parameter.dtype} on {parameter.device.type}"
    if not isinstance(network.layers[0], StackedLinear):
        return f"it wants a Linear layer first, not {type(network.layers[0]).__name__}"
    for layer in network.layers:
        try:
            _described(layer)
        except TypeError as error:
            return str(error)
    if type(optimizer) not in RULES or len(optimizer.param_groups) != 1:
        return f"it does not know the optimizer {type(optimizer).__name__}"
    changed = [key for key, value in PLAIN.items() if optimizer.param_groups[0].get(key, value) != value]
    return f"it does not know {type(optimizer).__name__} with {changed[0]}" if changed else None


def _described(layer: nn.Module) -> dict[str, Any]:
    """The fields of a layer's record that do not depend on its place. Raises TypeError for a layer it does not know."""
    if isinstance(layer, StackedLinear):
        return {"kind": LINEAR, "inputs": layer.fan_in, "features": layer.fan_out}
    if isinstance(layer, StackedBatchNorm):
        return {"kind": BATCH_NORM, "momentum": layer.momentum, "number": layer.eps}
    if type(layer).__name__ == "StackedLayerNorm":
        return {"kind": LAYER_NORM, "number": layer.eps}
    if isinstance(layer, StackedNoise) and layer.uniform:
        return {"kind": UNIFORM, "number": layer.rate}
    if isinstance(layer, StackedNoise):
        factors = layer.factors(torch.arange(-(2**15), 2**15).to(torch.int16))
        threshold = int((factors == 0).sum()) - 2**15
        return {"kind": BERNOULLI, "number": factors[-1].item(), "threshold": threshold}
    if type(layer) in ACTIVATIONS and getattr(layer, "approximate", "none") == "none":
        return {"kind": ACTIVATIONS[type(layer)], "number": getattr(layer, "negative_slope", 0)}
    raise TypeError(f"it does not know the layer {layer}")


class Compiled:
    """Trains a StackedNetwork with a torch optimizer, of which reason() is None.

    clip: the largest L2 norm of one replicate's gradients in a step (longer ones are scaled down to it), or None.
    """

    def __init__(
        self, network: StackedNetwork, optimizer: torch.optim.Optimizer, batch_size: int, clip: float | None = None
    ):
        self.network, self.optimizer, self.batch_size, self.clip = network, optimizer, batch_size, clip
        self.noises = [layer for layer in network.layers if isinstance(layer, StackedNoise) and layer.rate]
        self.blas = ThreadpoolController()

    def run(
        self,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        rates: np.ndarray,
        drift: np.ndarray | None = None,
        scaling: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Train a stretch; the losses (steps, replicates) before each step.

        x: (replicates or 1, rows, features) float32; y: (replicates or 1, rows) int64. rows: (replicates, any) int64,
        cut into batches, the last maybe smaller. rates: the learning rate of each step. drift: (steps,
        2), the scale and the offset of each step's inputs. scaling: mean and scale, each (replicates, features).
        """
        layers, work = self._layers()
        parameters, rule = self._parameters(), self._rule()
        states = [[s.bit_generator.state for s in noise.bits.streams] for noise in self.noises]
        words = np.array([[s["state"]["state"] for s in each] for each in states], np.uint64)
        words = words.reshape(len(self.noises), len(self.network.seeds), 4)
        steps = [self.optimizer.state[p]["step"] for p in self.network.parameters() if "step" in self.optimizer.state[p]]
        losses = np.empty((len(rates), len(self.network.seeds)), np.float32)
        if scaling is None:
            scaling = torch.zeros(len(self.network.seeds), x.shape[2]), torch.ones(len(self.network.seeds), x.shape[2])
        with self.blas.limit(limits=1, user_api="blas"):
            _train(
                layers,
                parameters,
                rule,
                x.numpy(),
                y.numpy(),
                rows.numpy(),
                scaling[0].numpy(),
                scaling[1].numpy(),
                np.array([[1, 0]] * len(rates), np.float32) if drift is None else drift.astype(np.float32),
                rates,
                self.batch_size,
                int(steps[0]) if steps else 0,
                words,
                work,
                losses,
            )
        for noise, each, now in zip(self.noises, states, words, strict=True):
            for generator, state, numbers in zip(noise.bits.streams, each, now, strict=True):
                state["state"]["state"] = numbers
                generator.bit_generator.state = state
        for step in steps:
            step += len(rates)
        return torch.from_numpy(losses)

    def _layers(self) -> tuple[np.ndarray, int]:
        """The records of the layers and the number of floats that one replicate's step works in."""
        records, features, parameter, work = [], 0, 0, 0
        for layer in self.network.layers:
            if isinstance(layer, StackedNoise) and not layer.rate:
                continue
            record = np.zeros((), LAYER)
            for key, value in _described(layer).items():
                record[key] = value
            features = record["features"] = int(record["features"]) or features
            record["kept"], work = work, work + features * self.batch_size + max(features, self.batch_size)
            if isinstance(layer, StackedNoise):
                record["stream"] = self.noises.index(layer)
            if record["kind"] in (LINEAR, BATCH_NORM, LAYER_NORM):
                record["parameter"], parameter = parameter, parameter + 2
            if isinstance(layer, StackedBatchNorm):
                record["running_mean"], record["running_var"] = layer.running_mean.data_ptr(), layer.running_var.data_ptr()
            records.append(record)
        return np.array(records), work

    def _parameters(self) -> np.ndarray:
        """The records of the parameters, with the addresses of the optimizer's state, made as torch makes it."""
        table, begin = np.zeros(len(list(self.network.parameters())), PARAMETER), 0
        for record, parameter in zip(table, self.network.parameters(), strict=True):
            state = self.optimizer.state[parameter]
            adam = "betas" in self.optimizer.param_groups[0]
            names = ["exp_avg", "exp_avg_sq"] if adam else ["momentum_buffer"]
            if adam and not state:
                state["step"] = torch.zeros(())
            for field, name in zip(("first", "second"), names, strict=False):
                if state.get(name) is None:
                    state[name] = torch.zeros_like(parameter)
                record[field] = state[name].data_ptr()
            record["weights"], record["size"], record["begin"] = parameter.data_ptr(), parameter.shape[1], begin
            begin += parameter.shape[1]
        return table

    def _rule(self) -> np.ndarray:
        rule, group = np.zeros(1, RULE), self.optimizer.param_groups[0]
        rule["kind"], rule["clip"] = RULES[type(self.optimizer)], math.inf if self.clip is None else self.clip
        rule["weight_decay"], rule["momentum"] = group["weight_decay"], group.get("momentum", 0)
        (rule["beta1"], rule["beta2"]), rule["eps"] = group.get("betas", (0, 0)), group.get("eps", 0)
        return rule


# ---------------------------------------------------------------------------------------------------------------------
# The machine code. h is what a block has so far, d the gradient of the loss with respect to it: (features, batch) both.
# Sums may be reordered and products contracted, but NaN and infinity are what they are: a diverged replicate shows.

f32 = np.float32


def _kernel(function: Any) -> Any:
    return numba.njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")(function) if numba else function


def _exact(function: Any) -> Any:
    return numba.njit(error_model="numpy")(function) if numba else function


if numba:

    @numba.extending.intrinsic
    def _pointer(_: Any, address: Any) -> Any:
        """The float32 numbers at an address."""

        def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return numba.types.CPointer(numba.types.float32)(numba.types.uint64), cast

    _number = numba.types.CPointer(numba.types.float32)
    _char, _int = numba.types.char, numba.types.intp
    # What numba calls for a product of arrays: scipy's BLAS, column-major.
    _gemm = numba.types.ExternalFunction(
        "numba_xxgemm",
        numba.types.intc(
            *(_char, _char, _char, _int, _int, _int, _number, _number, _int, _number, _int, _number, _number, _int)
        ),
    )


@_kernel
def _slice(address, size, replicate):
    """A replicate's slice of a stacked tensor."""
    return numba.carray(_pointer(address + np.uint64(4 * replicate) * size), (np.int64(size),))


@_kernel
def _product(a, flip_a, b, flip_b, c):
    """c = a b, of matrices or, where flipped, their transposes.

    Row by tile of rows, each small enough (10⁶ multiplications) for OpenBLAS to take the kernels that copy nothing.
    """
    rows, columns, depth, one = c.shape[0], c.shape[1], a.shape[0] if flip_a else a.shape[1], np.ones(2, f32)
    one[1] = 0
    tile = min(32, 10**6 // (columns * depth) // 8 * 8)
    if flip_b or tile == 0:
        tile = rows
    for i in range(0, rows, tile):
        _gemm(
            np.int8(115),
            np.int8(116 if flip_b else 110),
            np.int8(116 if flip_a else 110),
            columns,
            min(tile, rows - i),
            depth,
            one.ctypes,
            b.ctypes,
            b.shape[1],
            a.reshape(-1)[i if flip_a else i * depth :].ctypes,
            a.shape[1],
            one[1:].ctypes,
            c[i:].ctypes,
            columns,
        )


@_exact
def _exp_parts(x):
    """s and t of e^x = s + s t, s a power of two and t near 0, as a processor's vectors can compute it (Cephes' expf)."""
    x = f32(-87) if x < f32(-87) else (f32(88) if x > f32(88) else x)
    power = np.floor(x * f32(1.44269504) + f32(0.5))
    x = x - power * f32(0.693359375) + power * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * x + f32(1.3981999507e-3)
    p = p * x + f32(8.3334519073e-3)
    p = p * x + f32(4.1665795894e-2)
    p = p * x + f32(1.6666665459e-1)
    p = p * x + f32(5.0000001201e-1)
    return np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32), p * x * x + x


@_exact
def _exp(x):
    s, t = _exp_parts(x)
    return s + s * t


@_exact
def _tanh(x):
    s, t = _exp_parts(f32(2) * x)
    e = s * t + (s - f32(1))  # e^2x − 1, as precise for small x as for others
    return e / (e + f32(2))


@_kernel
def _normal_cdf(x):
    """Φ(x) to 10⁻⁷ (Abramowitz and Stegun, 7.1.26)."""
    t = f32(1) / (f32(1) + f32(0.3275911 * math.sqrt(0.5)) * abs(x))
    p = f32(1.061405429) * t - f32(1.453152027)
    p = p * t + f32(1.421413741)
    p = p * t - f32(0.284496736)
    p = p * t + f32(0.254829592)
    tail = f32(0.5) * p * t * _exp(f32(-0.5) * x * x)
    return f32(1) - tail if x > f32(0) else tail


@_kernel
def _activate(kind, h, kept, slope):
    for i in range(h.shape[0]):
        if kind == TANH:
            for j in range(h.shape[1]):
                h[i, j] = _tanh(h[i, j])
                kept[i, j] = f32(1) - h[i, j] * h[i, j]
        elif kind == GELU:
            for j in range(h.shape[1]):
                x = h[i, j]
                cdf = _normal_cdf(x)
                h[i, j] = x * cdf
                kept[i, j] = cdf + x * f32(1 / math.sqrt(2 * math.pi)) * _exp(f32(-0.5) * x * x)
        else:  # ReLU is a leaky one of slope 0
            for j in range(h.shape[1]):
                kept[i, j] = slope if h[i, j] <= f32(0) else f32(1)
                h[i, j] = f32(0) if (kind == RELU and h[i, j] <= f32(0)) else h[i, j] * kept[i, j]


@_exact
def _uniform(bits, rate):
    return f32(1) + rate * (f32(bits) + f32(0.5)) / f32(2**15)


@_kernel
def _noise(kind, h, kept, bits, number, threshold):
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            if kind == BERNOULLI:
                kept[i, j] = number if bits[i, j] >= threshold else f32(0)
            else:
                kept[i, j] = _uniform(bits[i, j], number)
            h[i, j] *= kept[i, j]


@_kernel
def _multiply(d, kept):
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            d[i, j] *= kept[i, j]


@_kernel
def _add_bias(h, bias):
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            h[i, j] += bias[i]


@_kernel
def _row_sums(d, sums):
    for i in range(d.shape[0]):
        total = f32(0)
        for j in range(d.shape[1]):
            total += d[i, j]
        sums[i] = total


@_kernel
def _batch_norm(h, kept, spread, weight, bias, mean, var, momentum, eps):
    rows = f32(h.shape[1])
    for i in range(h.shape[0]):
        total = f32(0)
        for j in range(h.shape[1]):
            total += h[i, j]
        middle, total = total / rows, f32(0)
        for j in range(h.shape[1]):
            total += (h[i, j] - middle) * (h[i, j] - middle)
        spread[i] = f32(1) / np.sqrt(total / rows + eps)
        mean[i] += momentum * (middle - mean[i])
        var[i] += momentum * (total / (rows - f32(1)) - var[i])
        for j in range(h.shape[1]):
            kept[i, j] = (h[i, j] - middle) * spread[i]
            h[i, j] = kept[i, j] * weight[i] + bias[i]


@_kernel
def _batch_norm_backward(d, kept, spread, weight, weight_gradient, bias_gradient):
    rows = f32(d.shape[1])
    for i in range(d.shape[0]):
        total, along = f32(0), f32(0)
        for j in range(d.shape[1]):
            total += d[i, j]
            along += d[i, j] * kept[i, j]
        weight_gradient[i], bias_gradient[i] = along, total
        for j in range(d.shape[1]):
            d[i, j] = weight[i] * spread[i] * (d[i, j] - total / rows - kept[i, j] * (along / rows))


@_kernel
def _layer_norm(h, kept, spread, weight, bias, eps):
    features, middle = f32(h.shape[0]), np.zeros(h.shape[1], f32)
    spread[:] = f32(0)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            middle[j] += h[i, j] / features
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            spread[j] += (h[i, j] - middle[j]) * (h[i, j] - middle[j])
    for j in range(h.shape[1]):
        spread[j] = f32(1) / np.sqrt(spread[j] / features + eps)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            kept[i, j] = (h[i, j] - middle[j]) * spread[j]
            h[i, j] = kept[i, j] * weight[i] + bias[i]


@_kernel
def _layer_norm_backward(d, kept, spread, weight, weight_gradient, bias_gradient):
    features, total, along = f32(d.shape[0]), np.zeros(d.shape[1], f32), np.zeros(d.shape[1], f32)
    for i in range(d.shape[0]):
        own, own_along = f32(0), f32(0)
        for j in range(d.shape[1]):
            own += d[i, j]
            own_along += d[i, j] * kept[i, j]
        weight_gradient[i], bias_gradient[i] = own_along, own
        for j in range(d.shape[1]):
            d[i, j] *= weight[i]
            total[j] += d[i, j] / features
            along[j] += d[i, j] * kept[i, j] / features
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            d[i, j] = spread[j] * (d[i, j] - total[j] - kept[i, j] * along[j])


@_kernel
def _cross_entropy(z, y, d):
    """The mean loss (nats) of logits z (classes, batch); its gradient goes to d."""
    rows, top, total, loss = f32(z.shape[1]), z[0].copy(), np.zeros(z.shape[1], f32), f32(0)
    for i in range(1, z.shape[0]):
        for j in range(z.shape[1]):
            top[j] = z[i, j] if z[i, j] > top[j] else top[j]
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            d[i, j] = _exp(z[i, j] - top[j])
            total[j] += d[i, j]
    for j in range(z.shape[1]):
        loss += np.log(total[j]) + top[j] - z[y[j], j]
        total[j] = f32(1) / (total[j] * rows)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            d[i, j] *= total[j]
    for j in range(z.shape[1]):
        d[y[j], j] -= f32(1) / rows
    return loss / rows


@_kernel
def _update(rule, weights, first, second, gradient, scale, rate, step):
    """One step of torch.optim's rule; `scale` is what clipping leaves of the gradient."""
    decoupled = rule.kind == ADAMW
    shrink, decay = f32(1 - rate * rule.weight_decay if decoupled else 1), f32(0 if decoupled else rule.weight_decay)
    if rule.kind == SGD:
        momentum, rate = f32(rule.momentum), f32(rate)
        for i in range(weights.size):
            first[i] = momentum * first[i] + (scale * gradient[i] + decay * weights[i])
            weights[i] -= rate * first[i]
        return
    beta1, beta2, eps = f32(rule.beta1), f32(rule.beta2), f32(rule.eps)
    size = f32(rate / (1 - rule.beta1**step))
    correction = f32(1 / math.sqrt(1 - rule.beta2**step))
    new1, new2 = f32(1 - rule.beta1), f32(1 - rule.beta2)
    for i in range(weights.size):
        weight = shrink * weights[i]
        slope = scale * gradient[i] + decay * weight
        first[i] = beta1 * first[i] + new1 * slope
        second[i] = beta2 * second[i] + new2 * slope * slope
        weights[i] = weight - size * first[i] / (np.sqrt(second[i]) * correction + eps)


@_kernel
def _draw(state, words):
    """SFC64's next words (numpy's BitGenerator of that name)."""
    a, b, c, counter = state
    for i in range(words.size):
        words[i] = a + b + counter
        counter += np.uint64(1)
        a, b = b ^ (b >> np.uint64(11)), c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + words[i]
    state[0], state[1], state[2], state[3] = a, b, c, counter


@_kernel
def _gather(x, rows, mean, scale, drift, batch):
    """The rows of a batch, standardised and drifted, feature-major: (features, batch)."""
    for j in range(rows.size):
        for i in range(x.shape[1]):
            batch[i, j] = x[rows[j], i]
    for i in range(batch.shape[0]):
        for j in range(batch.shape[1]):
            batch[i, j] = (batch[i, j] - mean[i]) / scale[i] * drift[0] + drift[1]


@_kernel
def _gradients(layers, parameters, replicate, batch, y, width, states, words, work, deltas, gradients):
    """Forward and backward through all layers: the mean loss of the batch; `gradients` gets those of all parameters."""
    rows = batch.shape[1]
    h = batch
    for k in range(len(layers)):
        layer = layers[k]
        kind, features, end = layer.kind, layer.features, layer.kept + layer.features * rows
        kept, spread = work[layer.kept : end].reshape(features, rows), work[end : end + max(features, rows)]
        own, bias = parameters[layer.parameter], parameters[layer.parameter + 1]
        weight = _slice(own.weights, own.size, replicate)
        if kind == LINEAR:
            _product(weight[: features * layer.inputs].reshape(features, layer.inputs), False, h, False, kept)
            h = kept
            _add_bias(h, _slice(bias.weights, bias.size, replicate))
        elif kind == BATCH_NORM:
            mean = _slice(layer.running_mean, np.uint64(features), replicate)
            var = _slice(layer.running_var, np.uint64(features), replicate)
            offset = _slice(bias.weights, bias.size, replicate)
            _batch_norm(h, kept, spread, weight, offset, mean, var, layer.momentum, layer.number)
        elif kind == LAYER_NORM:
            _layer_norm(h, kept, spread, weight, _slice(bias.weights, bias.size, replicate), layer.number)
        elif kind == BERNOULLI or kind == UNIFORM:
            drawn = words[: (features * width + 3) // 4]
            _draw(states[layer.stream], drawn)
            bits = drawn.view(np.int16)[: features * width].reshape(features, width)
            _noise(kind, h, kept, bits, layer.number, layer.threshold)
        else:
            _activate(kind, h, kept, layer.number)
    d = deltas[0, : h.size].reshape(h.shape)
    loss = _cross_entropy(h, y, d)
    side = 0
    for k in range(len(layers) - 1, -1, -1):
        layer = layers[k]
        kind, features, end = layer.kind, layer.features, layer.kept + layer.features * rows
        kept, spread = work[layer.kept : end].reshape(features, rows), work[end : end + max(features, rows)]
        own, bias = parameters[layer.parameter], parameters[layer.parameter + 1]
        weight = _slice(own.weights, own.size, replicate)
        slope, bias_slope = gradients[np.int64(own.begin) :], gradients[np.int64(bias.begin) :]
        if kind == LINEAR:
            size = features * layer.inputs
            _row_sums(d, bias_slope)
            below = batch
            if k:
                before = k - 1
                while layers[before].kind != LINEAR:
                    before -= 1
                at = layers[before].kept
                below = work[at : at + layer.inputs * rows].reshape(layer.inputs, rows)
            _product(d, False, below, True, slope[:size].reshape(features, layer.inputs))
            if k:
                side = 1 - side
                above, d = d, deltas[side, : layer.inputs * rows].reshape(layer.inputs, rows)
                _product(weight[:size].reshape(features, layer.inputs), True, above, False, d)
        elif kind == BATCH_NORM:
            _batch_norm_backward(d, kept, spread, weight, slope, bias_slope)
        elif kind == LAYER_NORM:
            _layer_norm_backward(d, kept, spread, weight, slope, bias_slope)
        else:
            _multiply(d, kept)
    return loss


@_kernel
def _train(layers, parameters, rule, x, y, rows, mean, scale, drift, rates, width, steps, states, size, losses):
    features, widest = x.shape[2], 0
    for k in range(len(layers)):
        widest = max(widest, layers[k].features)
    last = parameters[len(parameters) - 1]
    gradients = np.zeros(np.int64(last.begin + last.size), f32)  # the padding stays zero
    work, inputs, deltas = np.empty(size, f32), np.empty(features * width, f32), np.empty((2, widest * width), f32)
    words = np.empty((widest * width + 3) // 4, np.uint64)
    for replicate in range(rows.shape[0]):
        own_x, own_y = x[replicate % len(x)], y[replicate % len(y)]
        for step in range(len(rates)):
            now = rows[replicate, step * width : (step + 1) * width]
            batch = inputs[: features * now.size].reshape(features, now.size)
            _gather(own_x, now, mean[replicate], scale[replicate], drift[step], batch)
            losses[step, replicate] = _gradients(
                layers, parameters, replicate, batch, own_y[now], width, states[:, replicate], words, work, deltas, gradients
            )
            keep = f32(1)
            if rule[0].clip < math.inf:
                norm = f32(0)
                for i in range(gradients.size):
                    norm += gradients[i] * gradients[i]
                left = f32(rule[0].clip) / (np.sqrt(norm) + f32(1e-6))
                keep = f32(1) if left > f32(1) else left
            for k in range(len(parameters)):
                own = parameters[k]
                begin, end = np.int64(own.begin), np.int64(own.begin + own.size)
                _update(
                    rule[0],
                    _slice(own.weights, own.size, replicate),
                    _slice(own.first, own.size, replicate),
                    _slice(own.second, own.size, replicate),
                    gradients[begin:end],
                    keep,
                    rates[step],
                    steps + step + 1,
                )


if numba:
    with contextlib.suppress(RuntimeError):  # no folder to write to: every process compiles for itself
        _train.enable_caching()
