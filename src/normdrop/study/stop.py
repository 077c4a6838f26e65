"""The wish to stop: the first SIGINT or SIGTERM raises KeyboardInterrupt, and `check` does where that was lost."""

from __future__ import annotations

import signal
import time

_asked: list[float] = []  # when


def listen() -> None:
    """Hear SIGINT and SIGTERM from now on; what follows within two seconds is the same wish."""
    _asked.clear()
    for sign in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(sign) is not signal.SIG_IGN:  # as nohup, and a shell in the background, ask
            signal.signal(sign, _stop)


def _stop(*_: object) -> None:
    before = _asked[-1:]
    _asked.append(time.monotonic())
    if not before or _asked[-1] - before[0] >= 2:
        raise KeyboardInterrupt


def asked() -> bool:
    return bool(_asked)


def check() -> None:
    """Raise KeyboardInterrupt once a stop was asked for: Python drops what is raised in a destructor or a callback."""
    if _asked:
        raise KeyboardInterrupt
