"""Where a network of one's own comes from: a file, an installed package or Python, known by the hash of its source.

A file may import others that lie beside it. Nothing is downloaded or unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

Make = Callable[..., nn.Module]
# Where no file of a user's own lies: Python's library, and this package.
INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Source:
    """A file that was run, as a module; the files by which it is known, with those that it imports; their hash."""

    module: types.ModuleType
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
    name, function = model["name"], model.get("function", "make")
    if not callable(function):
        function = _installed(name, model) if name in installed() else _of_file(model)
    if isinstance(function, nn.Module):
        raise ValueError("model: is a network; must be a function make(shape, classes) that returns a new one")
    return function


def _installed(name: str, model: Mapping[str, Any]) -> Any:
    point = installed()[name]
    _check_unchanged(model, f"model.name={name}", _hash(_files_of(point)))
    try:
        return point.load()
    except Exception as error:
        raise ValueError(f"model.name={name}: {told(error)}") from error


def _of_file(model: Mapping[str, Any]) -> Any:
    """The function that a config names of its file. Raises ValueError."""
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
    defined = vars(source.module)
    found = defined.get(str(function))
    if callable(found):
        return found
    own = [key for key, value in defined.items() if getattr(value, "__module__", "") == source.module.__name__]
    raise ValueError(f"model.function={function}: {file} has no such function; it has {', '.join(own) or 'none'}")


def _check_unchanged(model: Mapping[str, Any], what: str, source_hash: str) -> None:
    if model.get("source_hash") not in (None, source_hash):
        raise ValueError(f"{what}: has changed since the sweep began; choose another name=")


def _source(file: Path) -> Source:
    """A file's source as it is now."""
    known = RUN.get(file)
    if known is None or known.hash != _hash(known.files):
        known = RUN[file] = _run(file)
    return known


def _run(file: Path) -> Source:
    """Run a file. Its imports find what lies beside it too, and load what is a user's own anew: two files may have
    helpers of one name, and one that was edited counts as it is now.
    """
    # Of two files of one name each has its own: a network is saved by the name of its module.
    module = types.ModuleType(f"own_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}")
    module.__file__ = str(file)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ValueError(f"model.file={file}: cannot be read: {error.strerror}") from error
    path, before = [*sys.path], _own_modules()
    for name in before:
        del sys.modules[name]
    sys.modules[module.__name__] = module  # where a dataclass looks for its own module
    sys.path.append(str(file.parent))  # last: what lies there hides no installed module
    importlib.invalidate_caches()
    try:
        exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        hint = (
            "; name a file beside its package, which imports the function from it" if "relative" in str(error) else ""
        )
        raise ValueError(f"model.file={file}: {told(error)}{hint}") from error
    finally:
        sys.path[:] = path
        imported = _own_modules()
        sys.modules.update(before | imported)
    files = [Path(str(each.__file__)) for each in imported.values() if getattr(each, "__file__", None)]
    files = [file, *sorted({*files} - {file})]
    return Source(module, files, _hash(files))


@contextmanager
def loading_nothing(model: Mapping[str, Any]) -> Iterator[None]:
    """A function of a file imports no further file of a user's own: its file is not known by that one."""
    before = _own_modules().keys()
    yield
    if model.get("file") and (late := _own_modules().keys() - before):
        for name in late:
            del sys.modules[name]
        raise ImportError(f"it imports {', '.join(sorted(late))}")


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
