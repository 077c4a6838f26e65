"""Where a network of one's own comes from: a file, an installed package or Python, known by the hash of its source.

A file may import others that lie beside it. Nothing is downloaded or unpickled.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

Make = Callable[..., nn.Module]
# Where no file of a user's own lies: Python's library, and this package.
INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Source:
    """The modules of a file and of what it imports of a user's own, by name, the file's first; their files, by which it
    is known, and the hash of these.
    """

    modules: Mapping[str, types.ModuleType]
    files: Sequence[Path]
    hash: str


RUN: dict[Path, Source] = {}  # a file runs once, until it or what it imports changes


def settle(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config by which it is known: its file by an absolute path, and its source by a hash.

    Raises ValueError for a file that cannot be read or run.
    """
    name = model.get("name")
    if name in installed():
        return {**model, "source_hash": _hash(_files_of(installed()[name]))}
    if not model.get("file"):
        return dict(model)
    file = Path(str(model["file"])).expanduser().absolute()
    return {**model, "file": str(file), "source_hash": _source(file).hash}


@cache
def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The networks that other packages register, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group="normdrop.models")}


def function_of(model: Mapping[str, Any]) -> Make:
    """The function that makes a config's network. Raises ValueError."""
    name, function, source = model["name"], model.get("function", "make"), None
    if not callable(function) and name in installed():
        function = _installed(name, model)
    elif not callable(function):
        function, source = _of_file(model)
    if isinstance(function, nn.Module):
        raise ValueError("model: is a network; must be a function make(shape, classes) that returns a new one")
    return _without_imports(function, source) if source else function


def _installed(name: str, model: Mapping[str, Any]) -> Any:
    point = installed()[name]
    _check_unchanged(model, f"model.name={name}", _hash(_files_of(point)))
    try:
        return point.load()
    except Exception as error:
        raise ValueError(f"model.name={name}: {told(error)}") from error


def _of_file(model: Mapping[str, Any]) -> tuple[Any, Source]:
    """The function that a config names of its file, and that file's source. Raises ValueError."""
    function = model.get("function", "make")
    if function is None:
        raise ValueError(
            "model.function=null: a checkpoint holds no function; make the module anew by build() with model=, and "
            "give load_from_checkpoint its config=, or its Trainer the ckpt_path="
        )
    if not model.get("file"):
        needs = f"model={model['name']} needs a file with a function make(shape, classes)"
        raise ValueError(f"model.file: {needs}; installed are {', '.join(installed()) or 'none'}")
    file = Path(model["file"])
    source = _source(file)
    _check_unchanged(model, f"model.file={file}", source.hash)
    module, defined = next((name, vars(module)) for name, module in source.modules.items())
    found = defined.get(str(function))
    if callable(found):
        return found, source
    own = [key for key, value in defined.items() if getattr(value, "__module__", "") == module]
    raise ValueError(f"model.function={function}: {file} has no such function; it has {', '.join(own) or 'none'}")


def _check_unchanged(model: Mapping[str, Any], what: str, source_hash: str) -> None:
    if model.get("source_hash") not in (None, source_hash):
        raise ValueError(f"{what}: has changed since the sweep began; choose another name=")


def _without_imports(make: Make, source: Source) -> Make:
    """A function that refuses to import further modules of a user's own: its file is not known by these."""
    file = source.files[0]

    @functools.wraps(make)
    def called(*arguments: Any, **named: Any) -> nn.Module:
        with _beside(file, source.modules):
            network = make(*arguments, **named)
            late = [name for name, module in _own_modules().items() if not {*_files([module])} <= {*source.files}]
        if late:
            names = ", ".join(late)
            raise ImportError(f"{names}: import it at the top of {file}, which is known by what it imports there")
        return network

    return called


def _source(file: Path) -> Source:
    """A file's source as it is now."""
    known = RUN.get(file)
    if known is None or known.hash != _hash(known.files):
        known = RUN[file] = _run(file)
    return known


def _run(file: Path) -> Source:
    # Of two files of one name each has its own: a network is saved by the name of its module.
    module = types.ModuleType(f"own_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}")
    module.__file__ = str(file)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ValueError(f"model.file={file}: cannot be read: {error.strerror}") from error
    with _beside(file), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what it draws at its top is the same in each process
        sys.modules[module.__name__] = module  # where a dataclass looks for its own module
        try:
            exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            package = "; name a file beside its package, which imports the function from it"
            hint = package if "relative import" in str(error) else ""
            raise ValueError(f"model.file={file}: {told(error)}{hint}") from error
        modules = {module.__name__: module} | _own_modules()
    sys.modules[module.__name__] = module
    files = [file, *sorted({*_files(modules.values())} - {file})]
    return Source(modules, files, _hash(files))


@contextmanager
def _beside(file: Path, modules: Mapping[str, types.ModuleType] | None = None) -> Iterator[None]:
    """Imports find what lies beside a file too, and of a user's own modules these alone, or load them anew, so that two
    files may have helpers of one name. Behind it Python's path and modules are as before."""
    path, aside = [*sys.path], _own_modules()
    for name in aside:
        del sys.modules[name]
    sys.modules.update(modules or {})
    sys.path.append(str(file.parent))  # last: what lies there hides no installed module
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in _own_modules():
            del sys.modules[name]
        sys.modules.update(aside)
        sys.path[:] = path


def _own_modules() -> dict[str, types.ModuleType]:
    """The modules in memory from files that are not installed, by name."""
    found = {}
    for name, module in [*sys.modules.items()]:  # another thread may import
        about = getattr(module, "__dict__", {})  # unlike getattr this imports nothing
        file = about.get("__file__") or next(iter(about.get("__path__") or []), None)  # a folder without __init__.py
        if not file or name.startswith("__") or file.startswith(INSTALLED):
            continue
        if "site-packages" not in file and "dist-packages" not in file:
            found[name] = module
    return found


def _files(modules: Iterable[types.ModuleType]) -> list[Path]:
    return [Path(str(module.__file__)) for module in modules if getattr(module, "__file__", None)]


def _files_of(point: importlib.metadata.EntryPoint) -> list[Path]:
    """The files of an installed network's package, or of its one module. Raises ValueError."""
    spec = importlib.util.find_spec(point.module.partition(".")[0])
    if spec is None:
        raise ValueError(f"model.name={point.name}: its module {point.module} is not there")
    if not spec.submodule_search_locations:
        return [Path(str(spec.origin))]
    return sorted(file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.py"))


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' …')}"
