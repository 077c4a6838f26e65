"""The machine code of the compiled engine: forward, backward and the optimizer's rule of one replicate after the other.

h is a block's output so far, d the gradient of the loss with respect to it: (features, positions · batch) both. Without
numba these functions are plain Python that nobody calls.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from normdrop.compiling import cached, numba

f32 = np.float32
LINEAR, CONVOLUTION, BATCH_NORM, LAYER_NORM, LEAKY_RELU, GELU, TANH, BERNOULLI, UNIFORM = range(9)
# inputs: of each feature, at each position. below, patches, out, kept: where in the work space its block's input, that
# in patches, its block's output and what it keeps begin. units: of the input. table: where its part of the table of
# patches begins. weight: the number of a parameter; the bias is the next. stream: the number of a noise layer. mean,
# var: addresses. threshold: the smallest int16 that keeps a unit. number: eps, negative slope, rate, or the factor of
# what is kept.
_NAMES = ("kind", "inputs", "features", "positions", "below", "patches", "units", "out", "kept", "table", "weight")
LAYER = np.dtype(
    [(n, "i8") for n in (*_NAMES, "stream", "mean", "var", "threshold")] + [("momentum", "f8"), ("number", "f8")]
)
# Addresses; the floats of one replicate; where its gradients begin.
PARAMETER = np.dtype([(n, "i8") for n in ("values", "first", "second", "size", "begin")])
RULE = np.dtype([(n, "f8") for n in ("adam", "done", "decay", "shrink", "beta1", "beta2", "eps", "momentum", "clip")])


def _kernel(function: Any, exact: bool = False) -> Any:
    """Divisions are unchecked and, unless exact, sums in any order; NaN and infinity are what they are.

    All kernels become part of `train`: called, a process that compiles would run those it compiled for themselves, and
    one that reads numba's cache those of the cache, which round otherwise.
    """
    relaxed = set() if exact else {"reassoc", "contract", "nsz"}
    return numba.njit(fastmath=relaxed, error_model="numpy", forceinline=True)(function) if numba else function


if numba:
    _char, _int, _floats = numba.types.char, numba.types.intp, numba.types.CPointer(numba.types.float32)
    _sizes, _operands = (_char, _char, _char, _int, _int, _int), (_floats, _floats, _int, _floats, _int)
    # What numba calls for a product of arrays: the BLAS of scipy, column-major.
    _gemm = numba.types.ExternalFunction("numba_xxgemm", numba.types.intc(*_sizes, *_operands, _floats, _floats, _int))

    @numba.extending.intrinsic
    def _pointer(_: Any, address: Any) -> Any:
        def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return _floats(numba.types.int64), cast


# A replicate's slice of a stacked tensor at an address; a matrix in a work space.
_slice = _kernel(lambda address, size, replicate: numba.carray(_pointer(address + 4 * size * replicate), (size,)))
_matrix = _kernel(lambda space, begin, rows, columns: space[begin : begin + rows * columns].reshape(rows, columns))


@_kernel
def _product(a, flip_a, b, flip_b, c):
    """c = a b, of matrices or, where flipped, their transposes.

    Row by tile of rows, each small enough (10⁶ multiplications) for OpenBLAS to take the kernels that copy nothing.
    """
    (rows, columns), depth, factors = c.shape, len(a) if flip_a else a.shape[1], np.array([1, 0], f32)
    tile = rows if flip_b else min(32, 10**6 // (columns * depth) // 8 * 8) or rows
    form_a, form_b = ord("t") if flip_a else ord("n"), ord("t") if flip_b else ord("n")
    for i in range(0, rows, tile):
        above, height = a.reshape(-1)[i if flip_a else i * depth :].ctypes, min(tile, rows - i)
        operands = (factors.ctypes, b.ctypes, b.shape[1], above, a.shape[1], factors[1:].ctypes, c[i:].ctypes, columns)
        _gemm(ord("s"), form_b, form_a, columns, height, depth, *operands)


@partial(_kernel, exact=True)
def _exp(x):
    """s and t of e^x = s + s t, s a power of two and t near 0, as vectors can compute it (Cephes' expf)."""
    x = f32(-87) if x < f32(-87) else (f32(88) if x > f32(88) else x)
    power = np.floor(x * f32(1.44269504) + f32(0.5))
    x = x - power * f32(0.693359375) + power * f32(2.12194440e-4)
    p = (f32(1.9875691500e-4) * x + f32(1.3981999507e-3)) * x + f32(8.3334519073e-3)
    p = ((p * x + f32(4.1665795894e-2)) * x + f32(1.6666665459e-1)) * x + f32(5.0000001201e-1)
    return np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32), p * x * x + x


@partial(_kernel, exact=True)
def _change(kind, h, kept, all_bits, positions, number, threshold):
    """An activation or noise, whose derivative is kept; h (units, batch), noise bits (features, batch)."""
    for i in range(h.shape[0]):
        bits = all_bits[i // positions]
        for j in range(h.shape[1]):
            x = h[i, j]
            if kind == GELU:  # x Φ(x), Φ to 10⁻⁷ (Abramowitz and Stegun, 7.1.26)
                s, t = _exp(f32(-0.5) * x * x)
                u, bell = f32(1) / (f32(1) + f32(0.3275911 * math.sqrt(0.5)) * abs(x)), s + s * t
                p = ((f32(1.061405429) * u - f32(1.453152027)) * u + f32(1.421413741)) * u - f32(0.284496736)
                tail = f32(0.5) * (p * u + f32(0.254829592)) * u * bell
                below = f32(1) - tail if x > f32(0) else tail
                h[i, j], kept[i, j] = x * below, below + x * f32(1 / math.sqrt(2 * math.pi)) * bell
            elif kind == TANH:
                s, t = _exp(f32(2) * x)
                less = s * t + (s - f32(1))  # e^2x − 1, as precise for small x as for others
                h[i, j] = less / (less + f32(2))
                kept[i, j] = f32(1) - h[i, j] * h[i, j]
            else:
                if kind == UNIFORM:
                    kept[i, j] = f32(1) + number * (f32(bits[j]) + f32(0.5)) / f32(2**15)
                elif kind == BERNOULLI:
                    kept[i, j] = number if bits[j] >= threshold else f32(0)
                else:
                    kept[i, j] = number if x <= f32(0) else f32(1)
                h[i, j] = x * kept[i, j]


@_kernel
def _draw(state, words):
    """The next words of SFC64, numpy's generator of that name."""
    a, b, c, counter = state
    for i in range(words.size):
        words[i] = a + b + counter
        a, b = b ^ (b >> np.uint64(11)), c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + words[i]
        counter += np.uint64(1)
    state[0], state[1], state[2], state[3] = a, b, c, counter


@_kernel
def _cross_entropy(z, y, d):
    """The mean loss (nats) of logits z (classes, batch); its gradient goes to d."""
    count, top, total, loss = f32(z.shape[1]), z[0].copy(), np.zeros(z.shape[1], f32), f32(0)
    for row in z:
        np.maximum(top, row, top)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            s, t = _exp(z[i, j] - top[j])
            d[i, j] = s + s * t
            total[j] += d[i, j]
    for j in range(z.shape[1]):
        loss += np.log(total[j]) + top[j] - z[y[j], j]
        d[y[j], j] -= total[j]
        total[j] = f32(1) / (total[j] * count)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            d[i, j] *= total[j]
    return loss / count


@_kernel
def _spaces(layer, parameters, replicate, rows, work):
    """A replicate's output of a layer, (features, positions · rows), what it keeps (two), its weight and bias."""
    columns = layer.positions * rows
    h, kept = _matrix(work, layer.out, layer.features, columns), _matrix(work, layer.kept, layer.features, columns)
    spread, own, other = work[layer.kept + h.size :], parameters[layer.weight], parameters[layer.weight + 1]
    return h, kept, spread, _slice(own.values, own.size, replicate), _slice(other.values, other.size, replicate)


@_kernel
def _unfold(x, table, patches):
    """x (units, batch) in patches (inputs · positions, batch)."""
    for i in range(len(table)):
        if table[i] < 0:
            patches[i] = f32(0)
        else:
            patches[i] = x[table[i]]


@_kernel
def _fold(patches, table, x):
    """The sum in x of all that `_unfold` takes from it."""
    x[:] = f32(0)
    for i in range(len(table)):
        if table[i] >= 0:
            x[table[i]] += patches[i]


@_kernel
def _forward(layers, table, parameters, replicate, rows, width, states, words, work):
    """All layers on the batch at the start of `work`."""
    for layer in layers:
        kind, features, number = layer.kind, layer.features, f32(layer.number)
        units, columns = features * layer.positions, layer.positions * rows
        h, kept, spread, weight, bias = _spaces(layer, parameters, replicate, rows, work)
        if kind in (LINEAR, CONVOLUTION):
            if kind == CONVOLUTION:
                size = layer.inputs * layer.positions
                below, patches = _matrix(work, layer.below, layer.units, rows), _matrix(work, layer.patches, size, rows)
                _unfold(below, table[layer.table : layer.table + size], patches)
            inputs = _matrix(work, layer.patches, layer.inputs, columns)
            _product(_matrix(weight, 0, features, layer.inputs), False, inputs, False, h)
            for i in range(features):
                offset = bias[i]
                for j in range(columns):
                    h[i, j] += offset
        elif kind in (BATCH_NORM, LAYER_NORM):
            mean, var = _slice(layer.mean, features, replicate), _slice(layer.var, features, replicate)
            across = kind == LAYER_NORM  # which normalises columns, by way of a transposed copy
            x, normal = (h.reshape((units, rows)).T.copy(), np.empty((rows, units), f32)) if across else (h, kept)
            count, momentum = f32(x.shape[1]), f32(layer.momentum)
            for i in range(len(x)):
                middle, squares = x[i].sum() / count, f32(0)
                for j in range(x.shape[1]):
                    squares += (x[i, j] - middle) * (x[i, j] - middle)
                spread[i] = inverse = f32(1) / np.sqrt(squares / count + number)
                for j in range(x.shape[1]):
                    normal[i, j] = (x[i, j] - middle) * inverse
                if not across:
                    mean[i] += momentum * (middle - mean[i])
                    var[i] += momentum * (squares / (count - f32(1)) - var[i])
            if across:
                kept.reshape((units, rows))[:] = normal.T
            for i in range(features):
                factor, offset = weight[i], bias[i]
                for j in range(columns):
                    h[i, j] = kept[i, j] * factor + offset
        else:
            drawn = words[: (features * width + 3) // 4]
            if kind in (BERNOULLI, UNIFORM):
                _draw(states[layer.stream], drawn)
            bits, shape = _matrix(drawn.view(np.int16), 0, features, width), (units, rows)
            _change(kind, h.reshape(shape), kept.reshape(shape), bits, layer.positions, number, layer.threshold)


@_kernel
def _backward(layers, table, parameters, replicate, rows, work, slopes, gradients):
    """From the gradient of the logits in `slopes` to those of all parameters."""
    for layer in layers[::-1]:
        kind, features = layer.kind, layer.features
        units, columns = features * layer.positions, layer.positions * rows
        _, kept, spread, weight, _ = _spaces(layer, parameters, replicate, rows, work)
        d = _matrix(slopes, layer.out, features, columns)
        weight_slope = gradients[parameters[layer.weight].begin :]
        bias_slope = gradients[parameters[layer.weight + 1].begin :]
        if kind in (LINEAR, CONVOLUTION, BATCH_NORM, LAYER_NORM):
            for i in range(features):
                bias_slope[i] = d[i].sum()
        if kind in (LINEAR, CONVOLUTION):
            inputs = _matrix(work, layer.patches, layer.inputs, columns)
            _product(d, False, inputs, True, _matrix(weight_slope, 0, features, layer.inputs))
            if layer.below:
                above = _matrix(weight, 0, features, layer.inputs)
                _product(above, True, d, False, _matrix(slopes, layer.patches, layer.inputs, columns))
                if kind == CONVOLUTION:
                    size = layer.inputs * layer.positions
                    patches, e = (
                        _matrix(slopes, layer.patches, size, rows),
                        _matrix(slopes, layer.below, layer.units, rows),
                    )
                    _fold(patches, table[layer.table : layer.table + size], e)
        elif kind in (BATCH_NORM, LAYER_NORM):
            for i in range(features):
                along, factor = f32(0), weight[i]
                for j in range(columns):
                    along += d[i, j] * kept[i, j]
                    d[i, j] *= factor
                weight_slope[i] = along
            shape = (units, rows)
            rowwise = kind == LAYER_NORM
            e, normal = (d.reshape(shape).T.copy(), kept.reshape(shape).T.copy()) if rowwise else (d, kept)
            count = f32(e.shape[1])
            for i in range(len(e)):
                along, inverse = f32(0), spread[i]
                for j in range(e.shape[1]):
                    along += e[i, j] * normal[i, j]
                middle, along = e[i].sum() / count, along / count
                for j in range(e.shape[1]):
                    e[i, j] = inverse * (e[i, j] - middle - normal[i, j] * along)
            if rowwise:
                d.reshape(shape)[:] = e.T
        else:
            for i in range(features):
                for j in range(columns):
                    d[i, j] *= kept[i, j]


@_kernel
def _update(rule, values, first, second, gradient, share, rate, step):
    """One step of torch.optim's rule; `share` is what clipping leaves of the gradient."""
    shrink, decay, momentum = f32(1 - rate * rule.shrink), f32(rule.decay), f32(rule.momentum)
    old1, new1, old2, new2 = f32(rule.beta1), f32(1 - rule.beta1), f32(rule.beta2), f32(1 - rule.beta2)
    size, root = f32(rate / (1 - rule.beta1**step)), f32(1 / math.sqrt(1 - rule.beta2**step))
    for i in range(values.size):
        value = shrink * values[i]
        slope = share * gradient[i] + decay * value
        if rule.adam:
            first[i] = old1 * first[i] + new1 * slope
            second[i] = old2 * second[i] + new2 * slope * slope
            values[i] = value - size * first[i] / (root * np.sqrt(second[i]) + f32(rule.eps))
        else:
            first[i] = momentum * first[i] + slope
            values[i] = value - size * first[i]


@_kernel
def train(layers, table, parameters, rule, data, width, states, size, losses):
    x, y, drift, rates, active = data
    features, top, clip = x.shape[2], layers[-1], f32(rule.clip)
    work, slopes, words = np.empty(size, f32), np.empty(size, f32), np.empty(size, np.uint64)
    gradients = np.zeros(parameters[-1].begin + parameters[-1].size, f32)  # the padding stays 0
    for replicate in np.flatnonzero(active):
        for step in range(len(rates)):
            now, (factor, offset) = x[replicate, step * width : (step + 1) * width], drift[step]
            labels, rows = y[replicate, step * width : (step + 1) * width], len(now)
            batch, place = _matrix(work, 0, features, rows), (top.out, top.features, rows)
            for j in range(rows):
                for i in range(features):
                    batch[i, j] = now[j, i] * factor + offset
            _forward(layers, table, parameters, replicate, rows, width, states[:, replicate], words, work)
            losses[step, replicate] = _cross_entropy(_matrix(work, *place), labels, _matrix(slopes, *place))
            _backward(layers, table, parameters, replicate, rows, work, slopes, gradients)
            share = f32(1)
            if clip < math.inf:  # as torch's clip_grad_norm_
                share = min(f32(1), clip / (np.sqrt(np.dot(gradients, gradients)) + f32(1e-6)))
            for own in parameters:
                values, first = _slice(own.values, own.size, replicate), _slice(own.first, own.size, replicate)
                second, gradient = _slice(own.second, own.size, replicate), gradients[own.begin : own.begin + own.size]
                _update(rule, values, first, second, gradient, share, rates[step], rule.done + step + 1)


if numba:
    train = cached(train)
