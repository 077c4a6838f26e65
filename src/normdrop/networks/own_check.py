"""Whether a network of one's own can be a replicate of a study: it is tried, alone and in a stack, before training."""

from __future__ import annotations

import copy
import math
import random
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.asked import count
from normdrop.networks.layers import BATCH_NORMS
from normdrop.networks.own import made
from normdrop.networks.own_source import told
from normdrop.networks.side_by_side import Place, pair_noise
from normdrop.networks.stacked import StackedNetwork

SEEDS = (0, 1)
ROWS = 8, 6  # of a trial's batches: the second is short
# By how much numbers may differ, as a share of the largest.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
EVERY = vars(nn.Module()).keys()  # attributes of any module
FROZEN = "the frozen weights"
Of = Callable[..., nn.Sequential]  # from a seed and changes of the config to a network
AGAIN = (
    "is not the same each time: it keeps a state of its own from step to step, or draws random numbers (use "
    "nn.Dropout, whose masks are paired; a library's stochastic depth must have rate 0)"
)


def check(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> None:
    """Raise ValueError in one line for a network that cannot be a replicate of a study.

    Whatever is asked for, it is tried with both operations, first alone and without noise, then in a stack.
    """
    tried = {**config, "arrangement": "bn_dropout", "rate": config["rate"] or 0.5}
    name = type(made(tried, shape, classes, 0)[1]).__name__

    def of(seed: int, **changes: Any) -> nn.Sequential:
        return _moved(made({**tried, **changes}, shape, classes, seed), seed)

    calm = {"rate": 0.0, "noise": "bernoulli", "model": {**config["model"], "keep_dropout": False}}
    try:
        with torch.random.fork_rng(devices=[]):
            _check_made(of(0), of(0))
            _check_alone(lambda **changes: of(0, **calm | changes), math.prod(shape), classes)
            try:
                _check_stacked(of, math.prod(shape), torch.float32)
            except Refused as refused:
                try:  # single precision's rounding grows in a deep network
                    _check_stacked(of, math.prod(shape), torch.float64)
                except Exception:
                    raise refused from None
    except Refused as error:
        raise ValueError(f"model: {name} {error}") from error
    except Exception as error:
        if str(error).startswith(("model", "noise")):  # one of ours
            raise
        why = told(error)
        if any("checkpoint" in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
            why += "; torch.utils.checkpoint cannot"
        if isinstance(error, AttributeError) and "'Sequential' object" in why:
            why += "; the arrangement stands in place of its BN layers, which forward() may only call"
        raise ValueError(f"model: {name} cannot train in a stack on rows {tuple(shape)}: {why}") from error


@torch.no_grad()
def check_alike(networks: Sequence[nn.Sequential], seeds: Sequence[int], shape: Sequence[int]) -> None:
    """Raise ValueError where a seed's network is another one than the first, and not its weights and buffers alone: in
    a stack all seeds have the first one's layers, numbers and branches.
    """
    first, x = networks[0], _rows(0, ROWS[0], math.prod(shape))
    known = _described(first)
    for network, seed in zip(networks[1:], seeds[1:], strict=True):
        differing = [name for name, value in _described(network).items() if not _equal(known.get(name), value)]
        if not differing:
            continue
        its, lent = copy.deepcopy(network).eval(), copy.deepcopy(first).eval()
        try:  # what differs may be a name, or a number that nothing asks for
            for ours, theirs in zip(_tensors(lent), _tensors(its), strict=True):
                ours.copy_(theirs)
            if FROZEN not in differing and _same(lent(x.clone()), its(x.clone())):
                continue
        except Exception:  # of other layers
            pass
        what = f"at seed {seed} {', '.join(differing[:4])} are others than at seed {seeds[0]}"
        raise ValueError(f"model: {what}: seeds may differ in weights and buffers, not in layers, numbers or branches")


def _described(network: nn.Sequential) -> dict[str, Any]:
    """What a network is beside its parameters and buffers, by name."""
    buffers = {name for name, _ in network.named_buffers()}
    held = {name: value for name, value in _held(network).items() if name not in buffers}
    held[FROZEN] = str([name for name, parameter in network.named_parameters() if not parameter.requires_grad])
    for name, layer in network.named_modules():
        held[f"layer {name}"] = type(layer).__name__
        for key, value in vars(layer).items():
            if key not in EVERY and callable(value):
                held[f"{name}.{key}"] = getattr(value, "__name__", type(value).__name__)
    return held


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


class Refused(Exception):
    """What a network is or does that a replicate may not."""


def _moved(network: nn.Sequential, seed: int) -> nn.Sequential:
    """A network away from initial weights of 0 or 1, behind which much would not show: each seed's in its own way."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            signed = torch.copysign(parameter + noise, parameter)  # some may have to stay above 0
            parameter.copy_(torch.where(parameter == 0, noise, signed))
    return network


def _rows(number: int, *size: int) -> Tensor:
    """Rows to try a network on, the same each time."""
    return torch.randn(size, generator=torch.Generator().manual_seed(number))


def _check_made(one: nn.Module, other: nn.Module) -> None:
    """Refuse two networks of one seed that share a part, or are not alike."""
    own, its = [*one.parameters()], [*other.parameters()]
    if {*map(id, own)} & {*map(id, its)}:
        raise Refused("is the same network twice, or a part of it is: make must make a new one each time")
    if not all(map(torch.equal, own, its)):
        raise Refused("has other initial weights each time: draw them from torch alone")
    memory = [parameter.data_ptr() for parameter in own if parameter.numel()]
    if len({*memory}) < len(memory):
        raise Refused("has two parameters in one memory, by .data: share the parameter itself")
    if any(buffer.data_ptr() in memory for buffer in one.buffers()):
        raise Refused("has a buffer in a parameter's memory, which changes with it: clone() it")
    if any(parameter._backward_hooks for parameter in own):  # one that clips shows in no trial
        raise Refused("has a hook on a parameter, which a stack would lose: put it on the layer, or leave it out")


def _check_alone(of: Of, features: int, classes: int) -> None:
    """Refuse a network, here without noise, that returns no logits, or others than of its weights and the rows."""
    used, fresh, written = of(), of(), of(arrangement="bn")
    x, later = (_rows(number, ROWS[0], features) for number in (0, 1))
    mine, other = _held(used[1]), _held(fresh[1])
    known = [name for name in mine if name in other and _equal(mine[name], other[name])]
    begun, drawn = [parameter.detach() for parameter in used.parameters()], _drawn()
    for layer in written.modules():
        if type(layer) in BATCH_NORMS:
            layer.register_forward_pre_hook(_check_called)
    logits = _passed(used, x)
    if drawn != _drawn():
        raise Refused(AGAIN)
    if any(old.data_ptr() != now.data_ptr() for old, now in zip(begun, used.parameters(), strict=True)):
        raise Refused("puts another tensor into a parameter, which a stack would not see: use .data.copy_()")
    for values, mode in zip(logits, ("training", "eval mode"), strict=True):
        _check_logits(values, (len(x), classes), mode)
    _check_logits(used(x[:1].clone()), (1, classes), "eval mode")
    if (logits[1] >= 0).all() and torch.allclose(logits[1].sum(dim=1), torch.ones(len(x)), atol=1e-4):
        raise Refused("returns probabilities; must be logits, without a Softmax at the end")
    untouched = dict(written[1].named_modules())  # by these names; an arranged one stands one level deeper
    for part, layer in used[1].named_modules():
        if type(layer) not in BATCH_NORMS:
            continue
        if not layer.num_batches_tracked and part not in untouched:
            why = "forward() leaves it out, or puts it in eval mode: let it call each BN layer, drop spare ones, or "
            why += "name the others in model.layers"
            raise Refused(f"has a layer without effect in training, {part}: {why}")
        fresh[1].get_submodule(part).load_state_dict(layer.state_dict())
    outcomes = [torch.cat(_passed(network, later)) for network in (used, fresh)]
    before, after = _held(fresh[1]), _held(used[1])
    for name in known:  # a cache may have more than another
        if name in before and name in after and not _equal(before[name], after[name]):
            raise Refused(f"keeps a state of its own from step to step, {name}; only BN may: leave it out")
    if not _same(*outcomes):
        raise Refused(AGAIN)
    if not all(map(_same, logits, _passed(written, x))):
        why = "forward() asks of what kind a layer is; let it call each by its name"
        raise Refused(f"is another network once an arrangement stands in place of its BN layers: {why}")
    _check_apart(of(arrangement="none"), x, later)


def _check_apart(bare: nn.Module, x: Tensor, later: Tensor) -> None:
    """Refuse a network that mixes rows in training, too, if no BN is left in it, which does."""
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in bare.modules()):
        return
    among, _ = _passed(bare, x)
    first, _ = _passed(bare, torch.cat([x[:1], later[1:]]))
    last, _ = _passed(bare, torch.cat([later[:-1], x[-1:]]))
    if not _same(torch.stack([first[0], last[-1]]), among[[0, -1]]):
        raise Refused("mixes rows: in training, without BN, a row's output changes with the rows beside it")


def _drawn() -> list[Any]:
    """Where the generators stand that a network may draw from: PyTorch's, Python's and NumPy's."""
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


def _check_called(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    if not arguments:
        raise Refused(f"gives a {type(layer).__name__} its rows by keyword: call it with the rows alone")


@torch.no_grad()
def _passed(network: nn.Module, x: Tensor) -> list[Any]:
    """What a network returns in training, then in eval mode."""
    return [network.train(training)(x.clone()) for training in (True, False)]  # it may write into what it is given


def _check_logits(logits: Any, expected: tuple[int, int], mode: str) -> None:
    returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if returned != expected:
        raise Refused(f"returns {returned} for {count(expected[0], 'row')} in {mode}; must be logits {expected}")


def _held(network: nn.Module) -> dict[str, Any]:
    """What a network holds beside parameters and BN layers, by name: numbers, texts, tensors, also in lists and the
    like and in plain objects.
    """
    held: dict[str, Any] = {}
    for part, layer in network.named_modules():
        if type(layer) not in BATCH_NORMS:
            values = {key: value for key, value in vars(layer).items() if key not in EVERY}
            values |= dict(layer.named_buffers(recurse=False))
            held |= dict(_numbers_in(values, part))
    return held


def _numbers_in(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, int | float | str):
        yield name, value
    elif isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter) and value.layout is torch.strided:
            yield name, value.detach().clone()
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "biuf":
            yield name, torch.tensor(value)
    elif depth < 4 and not isinstance(value, nn.Module | type | types.ModuleType):
        inner = value
        if isinstance(value, list | tuple | deque):
            yield name, len(value)  # of those that grow; a dict may be a cache
            inner = dict(enumerate(value))
        inner = inner if isinstance(inner, dict) else getattr(value, "__dict__", {})
        for key, one in inner.items():
            yield from _numbers_in(one, f"{name}.{key}".removeprefix("."), depth + 1)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.to(torch.complex128), other.to(torch.complex128)  # whatever kind they are of
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True)
    return type(one) is type(other) and one == other


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether numbers are equal but for rounding."""
    largest = theirs.nan_to_num(0, 0, 0).abs().max().item()
    tolerance = TOLERANCE.get(theirs.dtype, 1e-3) * largest
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True)


def _check_stacked(of: Of, features: int, dtype: torch.dtype) -> None:
    """Refuse a network that is another in a stack than alone, with the same masks, or whose rows mix."""
    stacked = StackedNetwork([of(seed).to(dtype) for seed in SEEDS], SEEDS, ROWS[0])
    alone = [of(seed).to(dtype) for seed in SEEDS]
    for network, seed in zip(alone, SEEDS, strict=True):
        for noise in pair_noise(network, Place((seed,), ROWS[0], 0, ())):
            noise.turn = 0
    drawn = _drawn()
    x = _rows(2, ROWS[0], features).to(dtype)
    among = alone[0].eval()(x.clone())
    lone = torch.cat([alone[0](x[place].clone()) for place in (slice(0, 1), slice(-1, None))])
    if not _same(lone, among[[0, -1]]):
        raise Refused("mixes rows: in eval mode a row's output changes with the rows beside it")
    for number, rows in enumerate(ROWS):
        x = _rows(3 + number, len(SEEDS), rows, features).to(dtype)
        for training in (False, True):
            ours = _trace(stacked.train(training), x)
            theirs = [_trace(network.train(training), own) for network, own in zip(alone, x, strict=True)]
            if drawn != _drawn():
                raise Refused(AGAIN)
            _check_same("logits", ours, theirs)
    for what in ("weights or buffers", "gradients"):
        theirs = [_values(network) for network in alone]
        _check_same(what, [_values(stacked.replicate(number)) for number in range(len(SEEDS))], theirs)
        for each in (stacked, *alone):  # next the gradients, in place of the weights
            for parameter in each.parameters():
                parameter.data = torch.full_like(parameter, math.nan) if parameter.grad is None else parameter.grad


def _trace(network: nn.Module, x: Tensor) -> Tensor:
    """What a network returns; its parameters get the gradients of the sum of squares."""
    network.zero_grad()
    logits = network(x.clone())
    logits.square().sum().backward()
    return logits.detach()


def _values(network: nn.Module) -> Tensor:
    """All parameters and buffers in one; a stack does not count the batches that BN has seen."""
    state = {name: values for name, values in network.state_dict().items() if "num_batches_tracked" not in name}
    return torch.cat([values.flatten() for values in state.values()])


def _check_same(what: str, ours: Sequence[Tensor] | Tensor, theirs: Sequence[Tensor]) -> None:
    if not all(map(_same, ours, theirs)):
        why = "every tensor must be a parameter or a buffer (register_buffer), which no forward() or hook may change; "
        why += "each parameter must play a part for all rows"
        raise Refused(f"has in a stack other {what} than alone: {why}")
