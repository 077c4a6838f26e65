"""The one door to numba, which the extra `fast` brings: None where it is not installed."""

import contextlib
import importlib
import importlib.util
from typing import Any

numba: Any = importlib.import_module("numba") if importlib.util.find_spec("numba") else None


def cached(compiled: Any) -> Any:
    """A compiled function whose machine code the next process finds, if there is a folder to write it to."""
    with contextlib.suppress(RuntimeError):
        compiled.enable_caching()
    return compiled
