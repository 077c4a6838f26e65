"""The machine code of the compiled engine: forward, backward and the optimizer's rule of one replicate after the other.

h is a block's output so far, d the gradient of the loss with respect to it: (features, positions · batch) both. Written
for LLVM to make vectors of the innermost loops: one kind of layer in each, sums in float32 of its own, and what a loop
reads of a record read before it. This file is imported where numba is at hand only.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # here, not at the first product: its threads are limited before that

from normdrop.compiling import cached, door

f32 = np.float32
numba: Any = door()[0]
LINEAR, CONVOLUTION, BATCH_NORM, LAYER_NORM, LEAKY_RELU, GELU, BERNOULLI, UNIFORM = range(8)
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
    return numba.njit(fastmath=relaxed, error_model="numpy", forceinline=True)(function)


_char, _int, _floats = numba.types.char, numba.types.intp, numba.types.CPointer(numba.types.float32)
_sizes, _operands = (_char, _char, _char, _int, _int, _int), (_floats, _floats, _int, _floats, _int)
# What numba calls for a product of arrays: the BLAS of scipy, column-major.
_gemm = numba.types.ExternalFunction("numba_xxgemm", numba.types.intc(*_sizes, *_operands, _floats, _floats, _int))


@numba.extending.intrinsic
def _pointer(_: Any, address: Any) -> Any:
    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return _floats(numba.types.int64), cast


# A replicate's slice of a stacked tensor at an address; a matrix in a work space at an address.
_slice = _kernel(lambda address, size, replicate: numba.carray(_pointer(address + 4 * size * replicate), (size,)))
_matrix = _kernel(lambda space, begin, rows, columns: numba.carray(_pointer(space + 4 * begin), (rows, columns)))


@_kernel
def _product(a, flip_a, b, flip_b, c, tiled):
    """c = a b, of matrices or, where flipped, their transposes.

    tiled: row by tile of rows, each small enough (10⁶ multiplications) for the kernels of OpenBLAS that copy nothing,
    which it has for AVX-512 alone.
    """
    rows, columns = c.shape
    depth = a.shape[0] if flip_a else a.shape[1]
    factors = np.array([1, 0], f32)
    height = rows
    if tiled and not flip_b:
        height = min(32, 10**6 // (columns * depth) // 8 * 8) or rows
    form_a, form_b = ord("t") if flip_a else ord("n"), ord("t") if flip_b else ord("n")
    for i in range(0, rows, height):
        left = a[:, i:] if flip_a else a[i:]
        shape = (columns, min(height, rows - i), depth)
        operands = (factors.ctypes, b.ctypes, b.shape[1], left.ctypes, a.shape[1], factors[1:].ctypes)
        _gemm(ord("s"), form_b, form_a, *shape, *operands, c[i:].ctypes, columns)


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
def _activate(kind, h, kept, number):
    """An activation of h (features, columns), whose derivative is kept."""
    for i in range(h.shape[0]):
        if kind == GELU:  # x Φ(x), Φ to 10⁻⁷ (Abramowitz and Stegun, 7.1.26)
            for j in range(h.shape[1]):
                x = h[i, j]
                s, t = _exp(f32(-0.5) * x * x)
                u = f32(1) / (f32(1) + f32(0.3275911 * math.sqrt(0.5)) * abs(x))
                bell = s + s * t
                p = ((f32(1.061405429) * u - f32(1.453152027)) * u + f32(1.421413741)) * u - f32(0.284496736)
                tail = f32(0.5) * (p * u + f32(0.254829592)) * u * bell
                below = f32(1) - tail if x > f32(0) else tail
                h[i, j] = x * below
                kept[i, j] = below + x * f32(1 / math.sqrt(2 * math.pi)) * bell
        else:
            for j in range(h.shape[1]):
                factor = number if h[i, j] <= f32(0) else f32(1)
                h[i, j] *= factor
                kept[i, j] = factor


@_kernel
def _disturb(kind, h, kept, all_bits, positions, number, threshold):
    """Noise of h (units, rows), whose factors are kept, from bits (features, rows or more)."""
    for i in range(h.shape[0]):
        bits = all_bits[i // positions]
        if kind == UNIFORM:
            for j in range(h.shape[1]):
                factor = f32(1) + number * (f32(bits[j]) + f32(0.5)) / f32(2**15)
                h[i, j] *= factor
                kept[i, j] = factor
        else:
            for j in range(h.shape[1]):
                factor = number if bits[j] >= threshold else f32(0)
                h[i, j] *= factor
                kept[i, j] = factor


@_kernel
def _draw(state, words):
    """The next words of SFC64, numpy's generator of that name."""
    a, b, c, counter = state
    for i in range(words.size):
        word = a + b + counter
        a, b = b ^ (b >> np.uint64(11)), c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
        counter += np.uint64(1)
        words[i] = word
    state[0], state[1], state[2], state[3] = a, b, c, counter


@_kernel
def _batch_norm(h, normal, inverses, weight, bias, mean, var, momentum, eps):
    """Each row of h less its mean, over its standard deviation (`normal`), then times weight plus bias."""
    count = f32(h.shape[1])
    for i in range(h.shape[0]):
        middle, squares = f32(0), f32(0)
        for j in range(h.shape[1]):
            middle += h[i, j]
        middle /= count
        for j in range(h.shape[1]):
            distance = h[i, j] - middle
            squares += distance * distance
        inverse = f32(1) / np.sqrt(squares / count + eps)
        factor, offset = weight[i], bias[i]
        for j in range(h.shape[1]):
            x = (h[i, j] - middle) * inverse
            normal[i, j] = x
            h[i, j] = x * factor + offset
        inverses[i] = inverse
        mean[i] += momentum * (middle - mean[i])
        var[i] += momentum * (squares / (count - f32(1)) - var[i])


@_kernel
def _batch_norm_back(d, normal, inverses, weight, weight_slope, bias_slope):
    count = f32(d.shape[1])
    for i in range(d.shape[0]):
        total, along = f32(0), f32(0)
        for j in range(d.shape[1]):
            total += d[i, j]
            along += d[i, j] * normal[i, j]
        bias_slope[i], weight_slope[i] = total, along
        total, along, factor = total / count, along / count, weight[i] * inverses[i]
        for j in range(d.shape[1]):
            d[i, j] = factor * (d[i, j] - total - normal[i, j] * along)


@_kernel
def _layer_norm(h, normal, inverses, weight, bias, positions, eps):
    """Each column of h (units, rows), as `_batch_norm` does rows; weight and bias belong to features."""
    count, rows = f32(h.shape[0]), h.shape[1]
    middle, squares = np.zeros(rows, f32), np.zeros(rows, f32)
    for i in range(h.shape[0]):
        for j in range(rows):
            middle[j] += h[i, j]
    for j in range(rows):
        middle[j] /= count
    for i in range(h.shape[0]):
        for j in range(rows):
            distance = h[i, j] - middle[j]
            normal[i, j] = distance
            squares[j] += distance * distance
    for j in range(rows):
        inverses[j] = f32(1) / np.sqrt(squares[j] / count + eps)
    for i in range(h.shape[0]):
        factor, offset = weight[i // positions], bias[i // positions]
        for j in range(rows):
            x = normal[i, j] * inverses[j]
            normal[i, j] = x
            h[i, j] = x * factor + offset


@_kernel
def _layer_norm_back(d, normal, inverses, weight, weight_slope, bias_slope, positions):
    count, rows = f32(d.shape[0]), d.shape[1]
    middle, along = np.zeros(rows, f32), np.zeros(rows, f32)
    for i in range(d.shape[0]):
        feature = i // positions
        if i % positions == 0:
            weight_slope[feature] = bias_slope[feature] = f32(0)
        factor, weight_part, bias_part = weight[feature], f32(0), f32(0)
        for j in range(rows):
            bias_part += d[i, j]
            weight_part += d[i, j] * normal[i, j]
        for j in range(rows):
            x = d[i, j] * factor
            d[i, j] = x
            middle[j] += x
            along[j] += x * normal[i, j]
        weight_slope[feature] += weight_part
        bias_slope[feature] += bias_part
    for i in range(d.shape[0]):
        for j in range(rows):
            d[i, j] = inverses[j] * (d[i, j] - (middle[j] + normal[i, j] * along[j]) / count)


@_kernel
def _cross_entropy(z, y, d):
    """The mean loss (nats) of logits z (classes, batch); its gradient goes to d."""
    count, loss = f32(z.shape[1]), f32(0)
    top, total = z[0].copy(), np.zeros(z.shape[1], f32)
    for i in range(1, z.shape[0]):
        for j in range(z.shape[1]):
            top[j] = z[i, j] if not z[i, j] <= top[j] else top[j]  # NaN stays
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            s, t = _exp(z[i, j] - top[j])
            d[i, j] = s + s * t
            total[j] += s + s * t
    for j in range(z.shape[1]):
        loss += np.log(total[j]) + top[j] - z[y[j], j]
        d[y[j], j] -= total[j]
        total[j] = f32(1) / (total[j] * count)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            d[i, j] *= total[j]
    return loss / count


@_kernel
def _unfold(x, table, patches):
    """x (units, batch) in patches (inputs · positions, batch)."""
    for i in range(len(table)):
        unit = table[i]
        for j in range(x.shape[1]):
            patches[i, j] = f32(0) if unit < 0 else x[unit, j]


@_kernel
def _fold(patches, table, x):
    """The sum in x of all that `_unfold` takes from it."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = f32(0)
    for i in range(len(table)):
        unit = table[i]
        if unit >= 0:
            for j in range(x.shape[1]):
                x[unit, j] += patches[i, j]


@_kernel
def _views(layer, parameters, replicate, rows, space, work):
    """A layer's place in a space, (features, positions · rows) and (units, rows), the same of what it keeps, what it
    keeps of each feature or row, and its weight and bias."""
    features, units, columns = layer.features, layer.features * layer.positions, layer.positions * rows
    own, other = parameters[layer.weight], parameters[layer.weight + 1]
    return (
        _matrix(space, layer.out, features, columns),
        _matrix(space, layer.out, units, rows),
        _matrix(work, layer.kept, features, columns),
        _matrix(work, layer.kept, units, rows),
        _slice(work + 4 * (layer.kept + units * rows), max(features, rows), 0),
        _slice(own.values, own.size, replicate),
        _slice(other.values, other.size, replicate),
    )


@_kernel
def _image(layer, table, rows, space):
    """A convolution's input and its patches in a space, and its part of the table."""
    size = layer.inputs * layer.positions
    image, patches = _matrix(space, layer.below, layer.units, rows), _matrix(space, layer.patches, size, rows)
    return image, patches, table[layer.table : layer.table + size]


@_kernel
def _forward(layers, table, parameters, replicate, rows, width, states, words, work, tiled):
    """All layers on the batch at the start of `work`."""
    for layer in layers:
        kind, features, number = layer.kind, layer.features, f32(layer.number)
        views = _views(layer, parameters, replicate, rows, work, work)
        h, by_row, kept, kept_by_row, inverses, weight, bias = views
        if kind in (LINEAR, CONVOLUTION):
            if kind == CONVOLUTION:
                image, patches, own_table = _image(layer, table, rows, work)
                _unfold(image, own_table, patches)
            matrix = weight[: features * layer.inputs].reshape((features, layer.inputs))
            _product(matrix, False, _matrix(work, layer.patches, layer.inputs, h.shape[1]), False, h, tiled)
            for i in range(features):
                offset = bias[i]
                for j in range(h.shape[1]):
                    h[i, j] += offset
        elif kind == BATCH_NORM:
            mean, var = _slice(layer.mean, features, replicate), _slice(layer.var, features, replicate)
            _batch_norm(h, kept, inverses, weight, bias, mean, var, f32(layer.momentum), number)
        elif kind == LAYER_NORM:
            _layer_norm(by_row, kept_by_row, inverses, weight, bias, layer.positions, number)
        elif kind in (BERNOULLI, UNIFORM):
            drawn = words[: (features * width + 3) // 4]
            _draw(states[layer.stream], drawn)
            bits = drawn.view(np.int16)[: features * width].reshape((features, width))
            _disturb(kind, by_row, kept_by_row, bits, layer.positions, number, np.int16(layer.threshold))
        else:
            _activate(kind, h, kept, number)


@_kernel
def _backward(layers, table, parameters, replicate, rows, work, slopes, gradients, tiled):
    """From the gradient of the logits in `slopes` to those of all parameters."""
    for number in range(len(layers) - 1, -1, -1):
        layer = layers[number]
        kind, features = layer.kind, layer.features
        views = _views(layer, parameters, replicate, rows, slopes, work)
        d, by_row, kept, kept_by_row, inverses, weight, _ = views
        weight_slope = gradients[parameters[layer.weight].begin :]
        bias_slope = gradients[parameters[layer.weight + 1].begin :]
        if kind in (LINEAR, CONVOLUTION):
            for i in range(features):
                total = f32(0)
                for j in range(d.shape[1]):
                    total += d[i, j]
                bias_slope[i] = total
            count, shape = features * layer.inputs, (features, layer.inputs)
            inputs = _matrix(work, layer.patches, layer.inputs, d.shape[1])
            _product(d, False, inputs, True, weight_slope[:count].reshape(shape), tiled)
            if layer.below:
                below = _matrix(slopes, layer.patches, layer.inputs, d.shape[1])
                _product(weight[:count].reshape(shape), True, d, False, below, tiled)
                if kind == CONVOLUTION:
                    image, patches, own_table = _image(layer, table, rows, slopes)
                    _fold(patches, own_table, image)
        elif kind == BATCH_NORM:
            _batch_norm_back(d, kept, inverses, weight, weight_slope, bias_slope)
        elif kind == LAYER_NORM:
            _layer_norm_back(by_row, kept_by_row, inverses, weight, weight_slope, bias_slope, layer.positions)
        else:
            for i in range(features):
                for j in range(d.shape[1]):
                    d[i, j] *= kept[i, j]


@_kernel
def _update(rule, values, first, second, gradient, share, rate, step):
    """One step of torch.optim's rule; `share` is what clipping leaves of the gradient."""
    shrink, decay, momentum = f32(1 - rate * rule.shrink), f32(rule.decay), f32(rule.momentum)
    old1, new1, old2, new2 = f32(rule.beta1), f32(1 - rule.beta1), f32(rule.beta2), f32(1 - rule.beta2)
    size, root, eps = f32(rate / (1 - rule.beta1**step)), f32(1 / math.sqrt(1 - rule.beta2**step)), f32(rule.eps)
    if rule.adam:
        for i in range(values.size):
            value = shrink * values[i]
            slope = share * gradient[i] + decay * value
            mean = old1 * first[i] + new1 * slope
            square = old2 * second[i] + new2 * slope * slope
            first[i] = mean
            second[i] = square
            values[i] = value - size * mean / (root * np.sqrt(square) + eps)
    else:
        for i in range(values.size):
            value = shrink * values[i]
            mean = momentum * first[i] + share * gradient[i] + decay * value
            first[i] = mean
            values[i] = value - size * mean


@_kernel
def train(layers, table, parameters, rule, data, width, states, spaces, tiled, losses):
    x, y, drift, rates, active = data
    features, top, clip = x.shape[2], layers[len(layers) - 1], f32(rule.clip)
    work, slopes, words, gradients = spaces
    work_at, slopes_at = work.ctypes.data, slopes.ctypes.data
    for replicate in range(len(active)):
        for step in range(len(rates) if active[replicate] else 0):
            begin, end = step * width, min((step + 1) * width, x.shape[1])
            rows, factor, offset = end - begin, drift[step, 0], drift[step, 1]
            batch = _matrix(work_at, 0, features, rows)
            for i in range(features):
                for j in range(rows):
                    batch[i, j] = x[replicate, begin + j, i] * factor + offset
            streams = states[:, replicate]
            _forward(layers, table, parameters, replicate, rows, width, streams, words, work_at, tiled)
            logits = _matrix(work_at, top.out, top.features, rows)
            slope = _matrix(slopes_at, top.out, top.features, rows)
            losses[step, replicate] = _cross_entropy(logits, y[replicate, begin:end], slope)
            _backward(layers, table, parameters, replicate, rows, work_at, slopes_at, gradients, tiled)
            share = f32(1)
            if clip < math.inf:  # as torch's clip_grad_norm_
                norm = f32(0)
                for i in range(gradients.size):
                    norm += gradients[i] * gradients[i]
                share = min(f32(1), clip / (np.sqrt(norm) + f32(1e-6)))
            for own in parameters:
                values, first = _slice(own.values, own.size, replicate), _slice(own.first, own.size, replicate)
                second, gradient = _slice(own.second, own.size, replicate), gradients[own.begin : own.begin + own.size]
                _update(rule, values, first, second, gradient, share, rates[step], rule.done + step + 1)


train = cached(train)
