"""A network of one's own: any nn.Module, arranged where its BN layers stand.

`make(shape, classes)` returns a module that maps (batch, *shape) to logits (batch, classes). It stands in a
file, in an installed package (an entry point of the group normdrop.models), or is given from Python.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import math
import random
import site
import sys
import sysconfig
import textwrap
import traceback
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.utils import checkpoint

from normdrop.arrangement import operations
from normdrop.asked import check_arguments, count
from normdrop.networks.layers import BATCH_NORMS, OPERATIONS, WEIGHTS, Identity, dropout
from normdrop.networks.noise import StackedNoise
from normdrop.networks.side_by_side import DROPOUTS, replace
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream

Make = Callable[..., nn.Module]
# Where nothing of a user's own lies.
INSTALLED = (
    *map(sysconfig.get_path, ("stdlib", "platstdlib")),
    *site.getsitepackages(),
    str(Path(__file__).parents[1]),
)
# Modules that are not installed, by the folder of the file whose network has imported them.
IMPORTED: dict[Path, set[str]] = defaultdict(set)
# What a model config of such a network holds beside the arguments of `make`.
KEYS = ("name", "file", "function", "layers", "keep_dropout", "init_gain", "source_hash")


def settle(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config by which it is known: its file by an absolute path, and by a hash what stands in it and in the
    files of its own that it imports.

    Raises ValueError for a file that cannot be read.
    """
    if (name := model.get("name")) in installed():
        return {**model, "source_hash": _source_hash(*_place_of(installed()[name]))}
    if not model.get("file"):
        return dict(model)
    path = Path(str(model["file"])).expanduser().absolute()
    with _beside(path):
        known = _source_hash(path)
        _executed(str(path), known)
    return {**model, "file": str(path), "source_hash": known}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"model.file={path}: cannot be read: {error.strerror}") from error


@cache
def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The networks that other packages register, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group="normdrop.models")}


def _place_of(point: importlib.metadata.EntryPoint) -> tuple[Path, Path | None]:
    """The file of an installed network's module, and the folder of its package, if it has one. Raises ValueError."""
    top = point.module.partition(".")[0]
    try:
        package, module = importlib.util.find_spec(top), importlib.util.find_spec(point.module)
    except ImportError:
        package = module = None
    if package is None or module is None or not module.origin:
        raise ValueError(f"model.name={point.name}: its module {point.module} is not there")
    folders = list(package.submodule_search_locations or [])
    return Path(module.origin), Path(folders[0]) if folders else None


def function_of(model: Mapping[str, Any]) -> Make:
    """The function that makes a config's network. Raises ValueError."""
    name, function, file = model["name"], model.get("function") or "make", model.get("file")
    _no_network(function)
    if callable(function):
        return function
    if name in installed():
        _unchanged(model, f"model.name={name}", *_place_of(installed()[name]))
        return _no_network(installed()[name].load())
    if "function" in model and model["function"] is None:
        raise ValueError(
            "model.function=null: a checkpoint holds no function; make the module anew by build() with model=, and "
            "give load_from_checkpoint its config=, or its Trainer the ckpt_path="
        )
    if not file:
        raise ValueError(
            f"model.file: model={name} needs a file with a function make(shape, classes); installed are "
            f"{', '.join(installed()) or 'none'}"
        )
    with _beside(Path(file)):
        functions = _executed(file, _unchanged(model, f"model.file={file}", Path(file)))
    made = _no_network(functions.get(str(function)))
    if not callable(made):
        defined = [key for key, value in functions.items() if inspect.isfunction(value)]
        defined.sort(key=lambda key: functions[key].__module__ != functions["__name__"])  # imported ones last
        raise ValueError(
            f"model.function={function}: {file} has no such function; it has {', '.join(defined) or 'none'}"
        )

    @functools.wraps(made)
    def beside(*arguments: Any, **named: Any) -> nn.Module:
        with _beside(Path(file)):  # what it imports when it is called
            return made(*arguments, **named)

    return beside


def _no_network(function: Any) -> Any:
    """What may be a function. Raises ValueError for a network."""
    if isinstance(function, nn.Module):
        raise ValueError(
            "model: is a network; must be a function make(shape, classes) that returns a new one each time"
        )
    return function


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Imports find what lies beside a file, and no module that another folder's network has imported by that name.
    The working folder is the same behind it."""
    folder = file.parent
    for other in IMPORTED.keys() - {folder}:
        _forget(other)
    before = sys.modules.keys() - IMPORTED[folder]
    sys.path.append(str(folder))  # last: what lies there hides no module
    importlib.invalidate_caches()
    try:
        with chdir("."):  # goes back to where it began
            yield
    finally:
        sys.path.remove(str(folder))
        new = {name: getattr(sys.modules[name], "__file__", None) for name in sys.modules.keys() - before}
        IMPORTED[folder] |= {name for name, path in new.items() if path and not _is_installed(Path(path))}


def _forget(folder: Path) -> None:
    """Let what networks of a folder have imported be imported anew."""
    for name in IMPORTED.pop(folder, ()):
        sys.modules.pop(name, None)


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(str(place)) for place in INSTALLED)


@cache
def _executed(file: str, source_hash: str) -> dict[str, Any]:
    """What a file defines, which is known by this hash."""
    _forget(Path(file).parent)
    module = types.ModuleType(f"own_{Path(file).stem}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where a dataclass looks for its own module
    try:
        exec(compile(_read(Path(file)), file, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        raise ValueError(f"model.file={file}: {told(error)}") from error
    return module.__dict__


def _unchanged(model: Mapping[str, Any], what: str, file: Path, package: Path | None = None) -> str:
    """A network's source hash. Raises ValueError if it is not the one that the config has."""
    known = _source_hash(file, package)
    if model.get("source_hash") not in (None, known):
        raise ValueError(f"{what}: has changed since the sweep began; choose another name=")
    return known


def _source_hash(file: Path, package: Path | None = None) -> str:
    """The hash of a file and of all that it imports, directly or not, from files that are not installed or lie in its
    own package."""
    imported, todo = set[Path](), [file]
    while todo:
        path = todo.pop()
        own = package is not None and path.is_relative_to(package)
        if path not in imported and (own or not _is_installed(path)):
            imported.add(path)
            todo += _imports(path)
    digest = hashlib.sha256(_read(file))
    for path in sorted(imported - {file}):
        digest.update(_read(path))
    return digest.hexdigest()


def _imports(file: Path) -> list[Path]:
    """The files that a file's import statements name, wherever these stand in it; packages with their modules."""
    try:
        tree = ast.parse(_read(file))
    except SyntaxError:  # whoever imports it catches that
        return []
    files: list[Path] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        module, level = getattr(node, "module", None), getattr(node, "level", 0)
        for alias in node.names:
            parts = [*module.split("."), alias.name] if module else alias.name.split(".")
            folder = file.parents[level - 1] if level else _folder_of(parts[0])
            places = [folder.joinpath(*parts[:end]) for end in range(len(parts) + 1)] if folder else []
            files += [place.with_suffix(".py") for place in places[1:]]
            files += [place / "__init__.py" for place in (places if level else places[1:])]
    return [path for path in files if path.is_file()]


def _folder_of(module: str) -> Path | None:
    """Where a module that is imported by its name lies, if it is a file or a folder."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None
    inside = list(spec.submodule_search_locations or [])
    return Path(inside[0] if inside else str(spec.origin)).parent


def check_keys(
    given: Mapping[str, Any], functions: Sequence[Callable[..., Any]], model: str, besides: Sequence[str] = ()
) -> None:
    """Raise ValueError for a model's key that the functions that make it do not take, or a value of another kind."""
    takes: list[inspect.Parameter] = []
    for function in functions:
        named = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        takes += [parameter for parameter in named[2:] if parameter.name not in besides]
    check_arguments("model", given, takes, model)


def made(config: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """One replicate's network, arranged: flat rows (batch, features) → logits (batch, classes).

    Its weights are those that `make` draws from PyTorch's generator, started from the replicate's own stream:
    the same for each arrangement. Raises ValueError.
    """
    model = config["model"]
    if config["position"] != "after":
        raise ValueError(f"position={config['position']}: leave it out; in this model it is as written there")
    make = function_of(model)
    named = getattr(make, "__name__", type(make).__name__)
    extra = {key: value for key, value in model.items() if key not in KEYS}
    check_keys(extra, [make], f"model.function={named}")
    number = int(stream(seed, "init", rerun=config["rerun"]).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        try:
            network = make(tuple(shape), classes, **extra)
        except (Exception, SystemExit) as error:
            raise ValueError(f"model.function={named}: {told(error)}") from error
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        kind = type(network).__name__
        raise ValueError(f"model.function={named}: returns {kind}; must be an nn.Module, and not scripted")
    if any(map(is_lazy, network.parameters())):
        raise ValueError(f"model.function={named}: a layer is lazy; call the network once in it, on rows {(2, *shape)}")
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"model.function={named}: its parameter {name} is {kind}; must be float32")
    network.train()  # whatever mode `make` left it in
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in network.parameters()):
        raise ValueError(
            f"model.function={named}: a parameter has a hook, which a stack loses: compute it in forward()"
        )
    _scale(network, model["init_gain"])
    if not model.get("keep_dropout"):
        silence(network)
    layers = model.get("layers") or "*"
    arrange(network, config["arrangement"], config["rate"], config["noise"], layers)
    return nn.Sequential(nn.Unflatten(1, tuple(shape)), network)


def _scale(network: nn.Module, gain: float) -> None:
    """Multiply the initial weights of a module's linear layers and convolutions, those that layers share once."""
    if gain == 1:
        return
    weights = set()
    for layer in network.modules():
        if isinstance(layer, WEIGHTS) and is_parametrized(layer, "weight"):
            try:
                layer.weight = gain * layer.weight.detach()
            except Exception as error:  # of a parametrization that cannot be turned around
                raise ValueError(f"model.init_gain={gain}: must be 1 for this network: {told(error)}") from error
        elif isinstance(layer, WEIGHTS):
            weights.add(layer.weight)
    for weight in weights:
        weight.data.mul_(gain)


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
    norms: dict[str, Any] = {}
    for name, layer in network.named_modules():
        if type(layer) in BATCH_NORMS:
            norms[name] = layer
            if layer.running_mean is None:
                raise ValueError(f"model: its layer {name} has track_running_stats=False; must be true")
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            kind = type(layer).__name__
            raise ValueError(f"model: its layer {name} is {kind}; must be nn.BatchNorm1d, 2d or 3d, not a kind of it")
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
        if all(operation == "dropout" for operation in operations(arrangement)):
            new.append(Identity())
        replace(network, name, new[0] if len(new) == 1 else nn.Sequential(*new))
    return found


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
    others = [*(of(calm, seed) for seed in (0, 0, 1)), of(written, 1)]
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
            ours, theirs = _check_alone(others, name, math.prod(shape))
            _check_memory(others[0], others[1], name, math.prod(shape))
            if not _close(ours, theirs):
                raise ValueError(f"model: {name}: what is taken out of a stack is another network than the one in it")
    except Exception as error:
        if str(error).startswith(("model", "noise")):  # one of ours
            raise
        if any(frame.filename == checkpoint.__file__ for frame in traceback.extract_tb(error.__traceback__)):
            raise ValueError(
                f"model: {name} computes again in the backward pass: leave out {checkpoint.__name__}"
            ) from error
        raise ValueError(f"model: {name} cannot train in a stack: {told(error)}") from error


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
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
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


def _check_alone(networks: Sequence[nn.Sequential], name: str, features: int) -> tuple[Tensor, Tensor]:
    """A trained replicate's logits in a stack, and taken out of it. Raises ValueError where one without noise is in a
    stack another than alone, with its BN layers as they are written."""
    x = _rows(1, 4, features)
    *networks, written = networks
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
    taken = stacked.eval().replicate(2).eval()
    return _called(stacked, x)[2], _called(taken, x)


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
        elif isinstance(value, Tensor):
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


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' …')}"
