"""The compiled engine behind one seam: `reason` and `Compiled`; numba is imported when one of them is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normdrop.compiling import door

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from normdrop.engine.compiled import Compiled
    from normdrop.networks.stacked import StackedNetwork

__all__ = ["Compiled", "reason"]


def reason(network: StackedNetwork, optimizer: Optimizer) -> str | None:
    """Why the compiled engine cannot train this network with this optimizer, in words; None if it can."""
    numba, why = door()
    if numba is None:
        return why
    from normdrop.engine.compiled import unknown

    return unknown(network, optimizer)


def __getattr__(name: str) -> Any:
    if name != "Compiled":
        raise AttributeError(name)
    from normdrop.engine.compiled import Compiled

    return Compiled
