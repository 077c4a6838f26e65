"""Whether a network of one's own can be a replicate of a study: it is tried, alone and in a stack, before training."""

from __future__ import annotations

import math
import random
import traceback
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from normdrop.asked import count
from normdrop.networks.layers import BATCH_NORMS
from normdrop.networks.noise import StackedNoise
from normdrop.networks.own import made
from normdrop.networks.own_source import told
from normdrop.networks.side_by_side import DROPOUTS
from normdrop.networks.stacked import StackedNetwork


def check(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> None:
    """Raise ValueError in one line for a network that cannot be a replicate of a study.

    Whatever is asked for, it is tried with both operations. Two replicates of one seed on the same rows must come out
    of a stack bit for bit the same: they do not if a network draws random numbers of its own. One of another seed must
    come out as it is alone and as it is written: it does not if it computes with tensors that are no parameters and no
    buffers, or asks whether a layer is BN. Nor may a network write into a buffer, but for BN, or remember earlier rows,
    nor may a row's output in eval mode depend on the rows beside it; and what was arranged must take part in training.
    """
    tried = {**config, "arrangement": "bn_dropout", "rate": config["rate"] or 0.5}
    calm = {**tried, "rate": 0.0, "model": {**config["model"], "keep_dropout": False}}
    written = {**calm, "arrangement": "bn"}

    def of(asked: Mapping[str, Any], seed: int) -> nn.Sequential:
        return _moved(made(asked, shape, classes, seed), seed)

    networks = [of(tried, seed) for seed in (0, 0, 1, 0)]
    others = [of(calm, seed) for seed in (0, 0, 1, 0)]
    parameters = [{id(parameter) for parameter in network.parameters()} for network in networks]
    if networks[0][1] is networks[1][1] or parameters[0] & parameters[1]:
        raise ValueError(
            "model: make returns the same network, or a part of it, twice; it must make a new one each time"
        )
    name = type(networks[0][1]).__name__
    try:
        with torch.random.fork_rng(devices=[]):
            with torch.no_grad():
                _check(networks, name, math.prod(shape), classes)
            bare = made({**calm, "arrangement": "none"}, shape, classes, 1)
            _check_bare(bare, of(written, 1), name, math.prod(shape))
            stacked = _check_alone(others[:3], of(written, 1), name, math.prod(shape))
            _check_memory(others[1], others[3], name, math.prod(shape))
            check_alike([of(calm, seed) for seed in (0, 1)])
            x = _rows(7, 4, math.prod(shape))
            if not _close(_called(stacked.eval(), x)[2], _called(stacked.replicate(2).eval(), x)):
                raise ValueError(f"model: {name}: what is taken out of a stack is another network than the one in it")
    except Exception as error:
        if str(error).startswith(("model", "noise")):  # one of ours
            raise
        if "deepcopy protocol" in str(error):
            way = "torch.nn.utils.parametrizations does so in forward()"
            raise ValueError(f"model: {name} keeps a tensor that it has computed before: {way}") from error
        if any(frame.filename == checkpoint.__file__ for frame in traceback.extract_tb(error.__traceback__)):
            raise ValueError(
                f"model: {name} computes again in the backward pass: leave out {checkpoint.__name__}"
            ) from error
        raise ValueError(f"model: {name} cannot train in a stack: {told(error)}") from error


def check_alike(networks: Sequence[nn.Module]) -> None:
    """Raise ValueError where networks of several seeds differ in more than their parameters and buffers."""
    for network in networks[1:]:
        for kept in _apart(networks[0], network):
            raise ValueError(f"model: its {kept} differs between seeds: a stack has one for all; make it a buffer")


def _check(networks: Sequence[nn.Sequential], name: str, features: int, classes: int) -> None:
    for layer in networks[0].modules():
        if type(layer).train is not nn.Module.train:
            raise ValueError(
                f"model: {type(layer).__name__} has a train() of its own, which nothing calls: leave it out"
            )
    x = _rows(0, 4, features)
    *networks, plain = networks
    logits = _logits(plain.eval(), x, classes)
    try:
        _logits(plain, x[:1], classes)
    except ValueError as error:
        if "more than 1 value" in str(error):  # of a norm's statistics
            raise
        raise ValueError(f"{error}; a lone row must do: squeeze() drops its batch, flatten(1) does not") from error
    idle = _idle(plain.train(), x, classes)
    kept = _written(networks[0], plain)
    stacked = StackedNetwork(networks, [0, 0, 1], len(x)).eval()
    generators = _generators()
    among, fewer = _called(stacked, x), _called(stacked, x[:1])
    with torch.enable_grad():
        outputs = _called(stacked.train(), torch.stack([x, x, x]))
        masks = _masks(stacked)
        outputs.sum().backward()
    if kept:
        raise _keeps(name, kept)
    if _masks(stacked) != masks:
        raise ValueError(
            f"model: {name} calls dropout again in the backward pass, with other masks: leave it out of what "
            "torch.utils.checkpoint computes"
        )
    if torch.allclose(logits.sum(dim=1), torch.ones(len(x)), atol=1e-4) and (logits >= 0).all():
        raise ValueError(f"model: {name} returns probabilities; must be logits, without a Softmax at the end")
    if _generators() != generators or not torch.equal(outputs[0], outputs[1]):
        raise ValueError(
            f"model: {name} is not the same each time: it keeps a state of its own from step to step, draws "
            "random numbers (use nn.Dropout, whose masks are paired) or weights elsewhere (use torch alone)"
        )
    if idle:
        raise ValueError(
            f"model: {name}: its layer {idle} has no effect in training: forward() leaves it out, or puts it in eval "
            "mode; let it call each BN layer as it is, and drop those that it does not need"
        )
    if not _close(among[:, :1], fewer, 1e-4):
        raise ValueError(f"model: {name} mixes rows: in eval mode a row's output changes with the rows beside it")


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
    return torch.from_numpy(np.random.default_rng(number).normal(size=size)).float()


def _keeps(name: str, kept: str) -> ValueError:
    return ValueError(f"model: {name} keeps a state of its own from step to step, {kept}; only BN may: leave it out")


def _asks(name: str) -> ValueError:
    return ValueError(
        f"model: {name} is another network once an arrangement stands in place of its BN layers: forward() asks of "
        "what kind a layer is; let it call each by its name"
    )


@torch.no_grad()
def _check_bare(bare: nn.Module, written: nn.Module, name: str, features: int) -> None:
    """Raise ValueError where a network without its BN layers is another than with these and without their effect."""
    x = _rows(4, 4, features)
    bare.load_state_dict(written.state_dict(), strict=False)
    for part, layer in written.named_modules():
        if type(layer) in BATCH_NORMS and type(layer) is not type(bare.get_submodule(part)):
            layer.forward = torch.clone  # type: ignore[method-assign]
    for training in (False, True):
        if not _close(*(_called(network.train(training), x) for network in (bare, written))):
            raise _asks(name)


def _check_alone(networks: Sequence[nn.Sequential], written: nn.Module, name: str, features: int) -> StackedNetwork:
    """A stack. Raises ValueError where a replicate without noise is another in it than alone, with its BN layers as
    they are written."""
    x = _rows(1, 4, features)
    stacked, alone = StackedNetwork(networks, [0, 0, 1], len(x)), networks[2]
    places = [parameter.data_ptr() for parameter in alone.parameters()]
    for training in (False, True):
        among = _called(stacked.train(training), torch.stack([x, x, x]))[2]
        arranged, as_written = (_called(network.train(training), x) for network in (alone, written))
        if places != [parameter.data_ptr() for parameter in alone.parameters()]:
            raise ValueError(f"model: {name}: its forward() puts another tensor into a parameter; use .data.copy_()")
        if not _close(arranged, as_written):
            raise _asks(name)
        if not _close(among, arranged):
            raise ValueError(
                f"model: {name}: a replicate is not among others what it is alone: it has tensors or counters that "
                "are neither parameters nor buffers (make them nn.Parameter, or use register_buffer)"
            )
    return stacked


def _check_memory(used: nn.Module, fresh: nn.Module, name: str, features: int) -> None:
    """Raise ValueError where an attribute of one of two equal networks tells that it has seen other rows before (what
    each pass writes anew is no state), or a parameter's gradient that it is there for other rows only."""
    x, later = _rows(2, 2, 4, features)
    later[2:] = later[:2]  # fewer rows that differ, which need fewer parameters
    apart = {*_apart(used, fresh)}  # as they were made
    for training in (False, True):
        for network, rows in ((used, x), (used, later), (fresh, later)):
            logits = _called(network.train(training), rows)
            if training:
                logits.sum().backward()  # hooks of it may remember too
        for kept in _apart(used, fresh):
            if kept not in apart:
                raise _keeps(name, kept)
    for (part, parameter), its in zip(used.named_parameters(), fresh.parameters(), strict=True):
        if parameter.grad is not None and its.grad is None:
            raise ValueError(
                f"model: {name}: its parameter {part.partition('.')[2]} plays no part for some rows: its gradient is "
                "then none alone, and 0 in a stack; let each batch use it, be it times 0"
            )


def _close(one: Tensor, other: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether logits are equal but for rounding, which the largest of them tells."""
    largest = max(0.1, other.nan_to_num(0, 0, 0).abs().max().item())
    return one.shape == other.shape and torch.allclose(one, other, 0, tolerance * largest, equal_nan=True)


def _apart(network: nn.Module, its: nn.Module) -> Iterator[str]:
    """The plain attributes in whose numbers two networks of a kind differ."""
    for (part, layer), other in zip(network.named_modules(), its.modules(), strict=True):
        for key in vars(layer).keys() - {"_buffers", "_parameters"}:
            ours, theirs = ([*_numbers(vars(one).get(key))] for one in (layer, other))
            if len(ours) != len(theirs) or not all(map(_same, ours, theirs)):
                yield f"{part}.{key}".partition(".")[2]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _numbers(value: Any) -> Iterator[Tensor]:
    """The numbers, arrays and texts in an attribute and in all that it holds. Submodules are looked at by themselves;
    what a closure, a class or a global holds is not seen."""
    todo, seen = [value], set[int]()
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            value = np.array([*value.encode()])
        if isinstance(value, np.floating | np.integer | np.bool_ | float | int):
            yield torch.tensor(float(value))
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            yield torch.from_numpy(value.astype(np.float64))
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            if value.layout == torch.strided:
                yield torch.view_as_real(value).double() if value.is_complex() else value.double()
        elif id(value) not in seen and not isinstance(value, nn.Module | type | types.ModuleType):
            seen.add(id(value))
            todo += getattr(value, "__dict__", {}).values()
            if isinstance(value, dict):
                todo += value.values()
            elif isinstance(value, list | tuple | deque | set | frozenset):
                todo += sorted(value, key=repr) if isinstance(value, set | frozenset) else value


def _generators() -> list[Any]:
    """Where the random generators stand that all share."""
    _, words, *others = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), list(words), others]


def _masks(stacked: nn.Module) -> list[Any]:
    """Where the streams of a stack's dropout stand."""
    return [layer.bits.state() for layer in stacked.modules() if isinstance(layer, StackedNoise)]


def _logits(network: nn.Module, x: Tensor, classes: int) -> Tensor:
    logits, expected = _called(network, x), (len(x), classes)
    returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if returned != expected or logits.dtype != torch.float32:
        mode = "training" if network.training else "eval mode"
        raise ValueError(
            f"model: returns {returned} for {count(len(x), 'row')} in {mode}; must be logits {expected} in float32"
        )
    return logits


def _called(network: nn.Module, x: Tensor) -> Any:
    try:
        return network(x.clone())  # it may write into what it is given
    except Exception as error:
        lent = "0 of Unbind" in str(error)  # a replicate's share of a parameter
        why = "it changes a parameter; use .data.copy_() there" if lent else told(error)
        raise ValueError(f"model: its forward pass fails on rows {tuple(x.shape)}: {why}") from error


def _idle(network: nn.Module, x: Tensor, classes: int) -> str | None:
    """The first BN or dropout layer that a pass in training leaves out, or takes in eval mode."""
    layers: dict[str, nn.Module] = {}
    for name, layer in network.named_modules():
        drops = type(layer) in DROPOUTS and 0 not in (getattr(layer, "p", None), getattr(layer, "rate", None))
        if type(layer) in BATCH_NORMS or drops:
            layers[name] = layer
    active = set()

    def seen(layer: nn.Module, *_: Any) -> None:
        if layer.training:
            active.add(layer)

    hooks = [layer.register_forward_hook(seen) for layer in layers.values()]
    _logits(network, x, classes)
    for hook in hooks:
        hook.remove()
    return next((name.partition(".")[2] for name, layer in layers.items() if layer not in active), None)


def _written(fresh: nn.Module, used: nn.Module) -> str | None:
    """The first buffer outside BN layers that a network's steps have written into."""
    norms = [part for part, layer in fresh.named_modules() if type(layer) in BATCH_NORMS]
    for (name, before), after in zip(fresh.named_buffers(), used.buffers(), strict=True):
        if name.rpartition(".")[0] not in norms and not torch.equal(before, after):
            return name
    return None
