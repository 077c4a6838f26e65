"""A network of one's own: any nn.Module, arranged where its BN layers stand.

`make(shape, classes)` returns a module that maps (batch, *shape) to logits (batch, classes). It stands in a
file, in an installed package (an entry point of the group normdrop.models), or is given from Python.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.arrangement import operations
from normdrop.networks.layers import BATCH_NORMS, OPERATIONS, WEIGHTS, dropout
from normdrop.networks.side_by_side import DROPOUTS, replace
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream

Make = Callable[..., nn.Module]
# What a model config of such a network holds beside the arguments of `make`.
KEYS = ("name", "file", "function", "layers", "keep_dropout", "init_gain", "source_hash")


def settle(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config by which it is known: its file by an absolute path, and what stands in it by a hash.

    Raises ValueError for a file that cannot be read.
    """
    if not model.get("file"):
        return dict(model)
    path = Path(str(model["file"])).expanduser().absolute()
    return {**model, "file": str(path), "source_hash": hashlib.sha256(_read(path)).hexdigest()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"model.file={path}: cannot be read: {error.strerror}") from error


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The networks that other packages register, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group="normdrop.models")}


def function_of(model: Mapping[str, Any]) -> Make:
    """The function that makes a config's network. Raises ValueError."""
    name, function, file = model["name"], model.get("function"), model.get("file")
    if callable(function):
        return function
    if name in installed():
        return installed()[name].load()
    if not file:
        raise ValueError(
            f"model.file: model={name} needs a file with a function make(shape, classes); installed are "
            f"{', '.join(installed()) or 'none'}"
        )
    source = _read(Path(file))
    if model.get("source_hash") not in (None, hashlib.sha256(source).hexdigest()):
        raise ValueError(f"model.file={file}: has changed since the sweep began; choose another name=")
    functions = _executed(file, source)
    if not callable(functions.get(str(function))):
        defined = ", ".join(key for key, value in functions.items() if inspect.isfunction(value))
        raise ValueError(f"model.function={function}: {file} has no such function; it has {defined}")
    return functions[str(function)]


@cache
def _executed(file: str, source: bytes) -> dict[str, Any]:
    module = types.ModuleType(Path(file).stem)
    module.__file__ = file
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except Exception as error:
        raise ValueError(f"model.file={file}: {told(error)}") from error
    return module.__dict__


def refuse_unknown(
    given: Iterable[str], functions: Sequence[Callable[..., Any]], model: str, besides: Sequence[str] = ()
) -> None:
    """Raise ValueError for a model's key that the functions that make it do not take."""
    takes: list[str] = []
    for function in functions:
        named = [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        takes += [name for name in named[2:] if name not in besides]
    for key in given:
        if key not in takes:
            raise ValueError(f"model.{key}: {model} has no such key; it has {', '.join(takes) or 'none'}")


def made(config: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """One replicate's network, arranged: flat rows (batch, features) → logits (batch, classes).

    Its weights are those that `make` draws from PyTorch's generator, started from the replicate's own stream:
    the same for each arrangement. Raises ValueError.
    """
    model = config["model"]
    if config["position"] != "after":
        raise ValueError(f"position={config['position']}: leave it out; in this model it is as written there")
    make = function_of(model)
    extra = {key: value for key, value in model.items() if key not in KEYS}
    refuse_unknown(extra, [make], f"model.function={make.__name__}")
    number = int(stream(seed, "init", rerun=config["rerun"]).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        try:
            network = make(tuple(shape), classes, **extra)
        except Exception as error:
            raise ValueError(f"model.function={make.__name__}: {told(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"model.function={make.__name__}: returns {type(network).__name__}; must be an nn.Module")
    for layer in network.modules():
        if isinstance(layer, WEIGHTS):
            layer.weight.data.mul_(model["init_gain"])
    if not model.get("keep_dropout"):
        silence(network)
    layers = model.get("layers") or "*"
    arrange(network, config["arrangement"], config["rate"], config["noise"], layers)
    return nn.Sequential(nn.Unflatten(1, tuple(shape)), network)


def silence(network: nn.Module) -> None:
    """Set the rate of a module's own dropout to 0."""
    for layer in network.modules():
        if isinstance(layer, (*DROPOUTS, nn.AlphaDropout, nn.FeatureAlphaDropout)):
            setattr(layer, "p" if hasattr(layer, "p") else "rate", 0.0)
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0


def arrange(
    network: nn.Module, arrangement: str, rate: float, noise: str = "bernoulli", layers: str = "*"
) -> list[str]:
    """Put the operations of an arrangement, in its order, where a module's BN layers stand; the names of
    those layers.

    layers: a pattern of names (`layer4.*`); other BN layers stay. Positions relative to the activation stay
    as they are written. Raises ValueError.
    """
    norms: dict[str, Any] = {name: layer for name, layer in network.named_modules() if type(layer) in BATCH_NORMS}
    if not norms:
        why = "put nn.BatchNorm1d, 2d or 3d where the operations shall stand: the arrangement goes there"
        raise ValueError(f"model: {type(network).__name__} has no BatchNorm layer; {why}")
    found = fnmatch.filter(norms, layers)
    if not found:
        raise ValueError(f"model.layers={layers}: matches none of the BN layers; they are {', '.join(norms)}")
    for name in found:
        norm, new = norms[name], list[nn.Module]()
        space = BATCH_NORMS.index(type(norm)) + 1
        for operation in operations(arrangement):
            if operation == "bn":
                new.append(norm)
            elif operation == "dropout":
                new.append(dropout(noise, rate, space))
            else:
                new.append(OPERATIONS[operation](norm.num_features, space, norm.eps, norm.momentum or 0.1))
        if len(new) < 2:
            replace(network, name, new[0] if new else nn.Identity())
        else:
            replace(network, name, nn.Sequential(*new))
    return found


def check(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> None:
    """Raise ValueError in one line for a network that cannot be a replicate of a study.

    Two replicates of one seed on the same rows must come out of a stack bit for bit the same: they do not if
    a network draws random numbers of its own or counts its steps. Nor may it write into a buffer, but for
    BN, nor may a row's output in eval mode depend on the rows beside it.
    """
    networks = [made(config, shape, classes, seed=0) for _ in range(2)]
    name = type(networks[0][1]).__name__
    numbers = np.random.default_rng(0).normal(size=(4, math.prod(shape)))
    x = torch.from_numpy(numbers).float()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        logits = _called(networks[1].eval(), x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), classes):
            returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model: returns {returned} for {len(x)} rows; must be logits {(len(x), classes)}")
        stacked = StackedNetwork(networks, [0, 0], len(x)).train()
        one, other = _called(stacked, torch.stack([x, x]))
        _called(networks[1].train(), x)
        kept = _written(*networks)
        among, fewer = _called(stacked.eval(), x), _called(stacked, x[:2])
    if kept:
        raise ValueError(f"model: {name} keeps a state of its own from step to step, {kept}; only BN may")
    if not torch.equal(one, other):
        raise ValueError(
            f"model: {name}: two replicates of one seed differ: it keeps a state of its own from step to step, draws "
            "random numbers in training (use nn.Dropout, whose masks are paired) or weights elsewhere (use torch alone)"
        )
    if not torch.allclose(among[:, :2], fewer, rtol=1e-4, atol=1e-5):
        raise ValueError(f"model: {name} mixes rows: in eval mode a row's output changes with the rows beside it")


def _called(network: nn.Module, x: Tensor) -> Any:
    try:
        return network(x)
    except Exception as error:
        raise ValueError(f"model: its forward pass fails on rows {tuple(x.shape)}: {told(error)}") from error


def _written(fresh: nn.Module, used: nn.Module) -> str | None:
    """The first buffer outside BN layers that a network's steps have written into."""
    norms = [part for part, layer in fresh.named_modules() if type(layer) in BATCH_NORMS]
    for (name, before), after in zip(fresh.named_buffers(), used.buffers(), strict=True):
        if name.rpartition(".")[0] not in norms and not torch.equal(before, after):
            return name
    return None


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
