"""What the tests train: a condition by the sweep's own fit, or a command in this process, or what they do in a copy."""

import multiprocessing
import signal
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

from normdrop.study import app
from normdrop.training import fit


def trained(config: dict[str, Any], seeds: list[int]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The replicates, the history and the facts of a fit."""
    fitted = fit.fit(config, seeds)
    return fitted.replicates, fitted.history, fitted.facts


def of(frame: pd.DataFrame, *seeds: int) -> str:
    """The lines of some seeds, each number with every digit."""
    return frame[frame["seed"].isin(seeds)].to_csv(index=False)


def normdrop(*arguments: str) -> str:
    """What `normdrop` says at its end with these arguments, in this process and folder: "" where nothing is wrong."""
    handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setenv("PYTHONSAFEPATH", "1")
        patch.setattr(sys, "argv", ["normdrop", *arguments])
        try:
            app.main()
        except SystemExit as end:
            return str(end.code)
        finally:
            GlobalHydra.instance().clear()
            for sign, handler in handlers.items():
                signal.signal(sign, handler)
    return ""


def in_a_copy(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a copy of this process, which has imported everything and may change what it likes."""
    context: Any = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    copy = context.Process(target=lambda: tell.send(function(*arguments)))
    copy.start()
    tell.close()
    try:
        return told.recv()
    finally:
        copy.join()


def forget(*packages: str) -> None:
    """Let the next import of these packages load them anew."""
    for name in [*sys.modules]:
        if any(f"{name}.".startswith(f"{package}.") for package in packages):
            del sys.modules[name]
