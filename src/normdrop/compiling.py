"""The one guarded door to numba, which the extra `fast` brings: what is wrong with it never stops a training by torch.

numba is imported when it is first asked for. What stands in its way is told once, in one line on stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from normdrop.asked import first_line


@cache
def told(line: str) -> None:
    """Say a line on stderr, once for each process."""
    print(f"normdrop: {line}", file=sys.stderr)


@cache
def door() -> tuple[Any, str]:
    """numba and "", or None and why it is not to be had."""
    if importlib.util.find_spec("numba") is None:
        return None, "numba is not installed (pip install 'normdrop[fast]')"
    why = "NUMBA_DISABLE_JIT is set"
    try:
        numba = importlib.import_module("numba")
        numba.njit(cached, error_model="numpy")
        if numba.types.Array and not numba.config.DISABLE_JIT:
            return numba, ""
    except Exception as error:  # a numba that does not fit numpy, or half of one, raises what it likes
        why = f"numba does not work here: {first_line(error)}"
    told(f"{why}; going on without the compiled engine")
    return None, why


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None] | None:
    """A function as machine code, kept for the next process, or None without numba."""
    numba, _ = door()
    return cached(numba.njit(function, error_model="numpy")) if numba else None


def cached(dispatcher: Any) -> Any:
    """A compiled function whose machine code the next process finds, if there is a folder to write it to."""
    try:
        dispatcher.enable_caching()
    except (RuntimeError, OSError) as error:
        _without_cache(error)
    else:
        _guard(dispatcher._cache)
    return dispatcher


def _guard(cache: Any) -> None:
    """Empty numba's cache of a function where it cannot be read, and do without it where it cannot be written."""
    load, save = cache.load_overload, cache.save_overload

    def guarded(operation: Callable[..., None], *arguments: Any) -> None:
        try:
            operation(*arguments)
        except Exception as error:
            _without_cache(error)

    def loaded(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # a file that a power cut has truncated fails as pickle likes
            guarded(cache.flush)

    cache.load_overload = loaded
    cache.save_overload = partial(guarded, save)


def _without_cache(error: Exception) -> None:
    told(f"numba keeps no machine code, each process compiles for about 20 s: {first_line(error)} (NUMBA_CACHE_DIR)")
