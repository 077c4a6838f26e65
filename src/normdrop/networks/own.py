"""A network of one's own: any nn.Module, arranged where its BN layers stand.

`make(shape, classes)` returns a module that maps (batch, *shape) to logits (batch, classes). It stands in a
file, in an installed package (an entry point of the group normdrop.models), or is given from Python.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normdrop.arrangement import operations
from normdrop.networks.layers import BATCH_NORMS, OPERATIONS, WEIGHTS, dropout
from normdrop.networks.side_by_side import DROPOUTS, Place, pair_noise, replace
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
    return {**model, "file": str(path), "source_hash": _read(path)[0]}


def _read(path: Path) -> tuple[str, bytes]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ValueError(f"model.file={path}: cannot be read: {error.strerror}") from error
    return hashlib.sha256(source).hexdigest(), source


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The networks that other packages register, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group="normdrop.models")}


def function_of(model: Mapping[str, Any]) -> Make:
    """The function that makes a config's network. Raises ValueError."""
    name, function = model["name"], model.get("function")
    if callable(function):
        return function
    function = str(function)
    if name in installed():
        return installed()[name].load()
    if not model.get("file"):
        more = f"; installed are {', '.join(installed())}" if installed() else ""
        raise ValueError(f"model.file: model={name} needs a file with a function make(shape, classes){more}")
    path = Path(str(model["file"]))
    found, source = _read(path)
    if model.get("source_hash") not in (None, found):
        raise ValueError(f"model.file={path}: has changed since the sweep began; choose another name=")
    functions = _executed(path, source)
    if not callable(functions.get(function)):
        defined = [key for key, value in functions.items() if inspect.isfunction(value)]
        raise ValueError(f"model.function={function}: {path} has no such function; it has {', '.join(defined)}")
    return functions[function]


@cache
def _executed(path: Path, source: bytes) -> dict[str, Any]:
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        raise ValueError(f"model.file={path}: {told(error)}") from error
    return module.__dict__


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
    takes = [*inspect.signature(make).parameters][2:]
    for key in extra:
        if key not in takes:
            raise ValueError(f"model.{key}: {make.__name__} takes {', '.join(takes) or 'no such argument'}")
    number = int(stream(seed, "init", rerun=config["rerun"]).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        try:
            network = make(tuple(shape), classes, **extra)
        except Exception as error:
            raise ValueError(f"model.function={make.__name__}: {told(error)}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"model.function={make.__name__}: returns {kind}; must be an nn.Module")
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
    """Raise ValueError in one line for a network that cannot be a replicate of a study."""
    network, again = (made(config, shape, classes, seed=0) for _ in range(2))
    name = type(network[1]).__name__
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        if not torch.equal(one, other):
            raise ValueError(f"model: {name} draws weights elsewhere than from torch's generator; use torch alone")
    for part, layer in network.named_modules():
        if type(layer) in BATCH_NORMS and layer.running_mean is None:
            raise ValueError(f"model: {name}: {part} keeps no running statistics; give it track_running_stats=True")
    numbers = np.random.default_rng(0).normal(size=(2, 4, int(np.prod(shape))))
    x, beside_others = torch.from_numpy(numbers).float()
    beside_others[0] = x[0]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _check_training(again.train(), x, classes, name)
        evaluated, differently = (_logits(network.eval(), rows, classes)[0] for rows in (x, beside_others))
    if not torch.allclose(evaluated, differently, rtol=1e-4, atol=1e-5):
        raise ValueError(f"model: {name} mixes rows: in eval mode a row's output changes with the rows beside it")


def _check_training(network: nn.Module, x: Tensor, classes: int, name: str) -> None:
    """Raise ValueError for random numbers and states that no stream and no checkpoint knows."""
    noises = [*pair_noise(network, Place((0,), len(x), 0, ()))]
    for noise in noises:
        noise.turn = 0
    masks = [noise.bits.state() for noise in noises]
    before = torch.get_rng_state()
    fresh = {part: values.clone() for part, values in network.named_buffers()}
    first = _logits(network, x, classes)
    if not torch.equal(before, torch.get_rng_state()):
        raise ValueError(f"model: {name} draws random numbers in training; use nn.Dropout, whose masks are paired")
    for noise, state in zip(noises, masks, strict=True):
        noise.bits.restore(*state)
    norms = {part for part, layer in network.named_modules() if type(layer) in BATCH_NORMS}
    for part, values in network.named_buffers():
        if part.rpartition(".")[0] not in norms and not torch.equal(values, fresh[part]):
            raise ValueError(f"model: {name} keeps a state of its own from step to step, {part}; only BN may")
    if not torch.equal(first, _logits(network, x, classes)):
        raise ValueError(f"model: {name} keeps a state of its own from step to step; only BN may")


def _logits(network: nn.Module, x: Tensor, classes: int) -> Tensor:
    """A network's output. Raises ValueError if it is none of (batch, classes)."""
    try:
        output = network(x)
    except Exception as error:
        raise ValueError(f"model: its forward pass fails on rows {tuple(x.shape)}: {told(error)}") from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (len(x), classes):
        raise ValueError(f"model: returns {shape} for {len(x)} rows; must be logits {(len(x), classes)}")
    return output


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
