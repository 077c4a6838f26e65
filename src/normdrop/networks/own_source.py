"""Where a network of one's own comes from: a file, an installed package or Python, known by the hash of its code.

A file may import what lies beside it. Nothing is downloaded or unpickled.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import site
import sys
import sysconfig
import textwrap
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

Make = Callable[..., nn.Module]
# Where nothing of a user's own lies.
INSTALLED = (
    *map(sysconfig.get_path, ("stdlib", "platstdlib")),
    *site.getsitepackages(),
    str(Path(__file__).parents[1]),
)
# Modules that are not installed, by the folder of the file whose network has imported them.
IMPORTED: dict[Path, set[str]] = defaultdict(set)
# Where else such a file has said that imports are found, by its folder.
ADDED: dict[Path, list[str]] = defaultdict(list)


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
        _executed(str(path), _source_hash(path))
        return {**model, "file": str(path), "source_hash": _source_hash(path)}  # it may add to where it imports from


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
        functions = _executed(file, _source_hash(Path(file)))
        _unchanged(model, f"model.file={file}", Path(file))
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
    """Imports find what lies beside a file and where it says itself, and no module that another folder's network has
    imported by that name. The working folder and Python's path are the same behind it."""
    folder = file.parent
    for other in IMPORTED.keys() - {folder}:
        _forget(other)
    before, path = sys.modules.keys() - IMPORTED[folder], [*sys.path]
    sys.path[:] = [*ADDED[folder], *path, str(folder)]  # last: what lies there hides no module
    importlib.invalidate_caches()
    try:
        with chdir("."):  # goes back to where it began
            yield
    finally:
        ADDED[folder] = [place for place in dict.fromkeys(sys.path) if place not in (*path, str(folder))]
        sys.path[:] = path
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


def _unchanged(model: Mapping[str, Any], what: str, file: Path, package: Path | None = None) -> None:
    """Raise ValueError if a network's source hash is not the one that the config has."""
    if model.get("source_hash") not in (None, _source_hash(file, package)):
        raise ValueError(f"{what}: has changed since the sweep began; choose another name=")


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


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' …')}"
