"""normdrop: does batch normalization go before dropout, or after?"""

import os
import sys

# `python -m normdrop` puts the working folder first, where a file may have the name of a module imported from here on.
if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    del sys.path[0]

from typing import Any

# Before MKL's first call: unless told not to, it rounds a matrix product by where the operands lie in memory,
# and so by a replicate's place in the stack. Where every slice is aligned no bit differs.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__all__ = ["build", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from normdrop.study import api  # here: PyTorch takes seconds to import, and the report does without it

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*(name for name in globals() if name.startswith("__")), *__all__]
