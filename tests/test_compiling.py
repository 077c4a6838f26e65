"""The door to numba: nothing that is wrong with numba or its cache stops anything, and it is told in one line."""

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from fitting import forget, in_a_copy
from normdrop import compiling

numba = pytest.importorskip("numba")

SUM = """
from normdrop.compiling import compiled, door
import numpy as np
def twice(x):
    for i in range(len(x)):
        x[i] *= 2
x = np.arange(3.0)
function = compiled(twice)
(function or twice)(x)
print(x.sum(), door()[1])
"""


def run(folder: Path, settings: Mapping[str, Any] | None = None, first: str = "") -> tuple[str, list[str]]:
    """What a process that compiles a function prints, and its lines on stderr. first: where it looks for modules."""
    (folder / "script.py").write_text(SUM, encoding="utf-8")
    loader = SourceFileLoader("script", str(folder / "script.py"))

    def process() -> tuple[str, list[str]]:
        sys.path.insert(0, first or sys.path[0])
        forget("normdrop.compiling", *(["numba"] if first else []))
        for name, value in (settings or {}).items():
            setattr(numba.config, name, value)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
            loader.exec_module(module_from_spec(spec_from_loader("script", loader)))
        return out.getvalue().strip(), error.getvalue().splitlines()

    return in_a_copy(process)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_cache_that_a_power_cut_truncated_is_made_anew(tmp_path, ending):
    cache = tmp_path / "cache"
    settings = {"CACHE_DIR": str(cache)}
    assert run(tmp_path, settings) == ("6.0", [])
    (kept,) = cache.rglob(f"*.{ending}")
    whole = kept.read_bytes()
    for size in (0, len(whole) // 2):
        kept.write_bytes(whole[:size])
        assert run(tmp_path, settings) == ("6.0", [])
        assert len(next(cache.rglob(f"*.{ending}")).read_bytes()) == len(whole)


def test_without_a_folder_to_write_to_it_is_told_in_one_line(capsys):
    class Dispatcher:
        def enable_caching(self):
            raise RuntimeError("cannot cache function 'twice': no locator available for file 'x.py'\nmore")

    compiling.told.cache_clear()
    dispatcher = Dispatcher()
    assert compiling.cached(dispatcher) is dispatcher
    (line,) = capsys.readouterr().err.splitlines()
    assert "no locator available for file 'x.py'" in line


def test_a_full_disk_is_told_once(capsys):
    class Full:
        def save_overload(self, *_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def load_overload(self, *_):
            raise EOFError

        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    compiling.told.cache_clear()
    guarded = Full()
    compiling._guard(guarded)
    assert guarded.load_overload(1, 2) is None
    guarded.save_overload(1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert os.strerror(errno.ENOSPC) in line


BROKEN = {  # a numba that does not fit, one of which a part is left, one that fails when it is used
    "raise ImportError('Numba needs NumPy 1.26 or less.\\nmore')": "Numba needs NumPy 1.26 or less.",
    "x = 1": "module 'numba' has no attribute 'njit'",
    "def njit(*_, **__):\n    raise AttributeError('no long')": "no long",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_numba_that_does_not_work_is_told_in_one_line(tmp_path, code):
    (tmp_path / "numba.py").write_text(code, encoding="utf-8")
    printed, (line,) = run(tmp_path, first=str(tmp_path))
    assert printed.startswith("6.0 numba ") and printed.endswith(BROKEN[code])
    assert BROKEN[code] in line


def test_a_numba_that_is_switched_off_is_none(tmp_path):
    printed, (line,) = run(tmp_path, {"DISABLE_JIT": 1})
    assert printed == "6.0 NUMBA_DISABLE_JIT is set" and "NUMBA_DISABLE_JIT" in line


def test_training_by_torch_needs_no_numba():
    def imported() -> bool:
        forget("normdrop", "numba")
        for name in ("normdrop", "normdrop.training.check", "normdrop.study.app"):
            importlib.import_module(name)
        return "numba" in sys.modules

    assert not in_a_copy(imported)
