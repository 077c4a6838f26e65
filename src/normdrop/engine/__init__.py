"""The compiled engine: `reason`, and in `compiled` the engine itself, which imports numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normdrop.compiling import door

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from normdrop.networks.stacked import StackedNetwork


def reason(network: StackedNetwork, optimizer: Optimizer) -> str | None:
    """Why the compiled engine cannot train this network with this optimizer, in words; None if it can."""
    numba, why = door()
    if numba is None:
        return why
    from normdrop.engine.compiled import unknown

    return unknown(network, optimizer)
