"""The compiled engine behind one seam: `reason`, `reason_for` and `Compiled`; numba is imported when one is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from normdrop.compiling import door

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from normdrop.engine.compiled import Compiled
    from normdrop.networks.stacked import StackedNetwork

__all__ = ["Compiled", "reason", "reason_for"]
# Of every network the engine knows the layers or does not, whatever its rows; a CNN must not run out of pixels.
ANY_SHAPE = (1, 1024, 1024)


def reason(network: StackedNetwork, optimizer: Optimizer) -> str | None:
    """Why the compiled engine cannot train this network with this optimizer, in words; None if it can."""
    numba, why = door()
    if numba is None:
        return why
    import torch

    from normdrop.engine.compiled import unknown

    tensors = list(network.parameters())
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return "it trains float32 on the CPU alone"
    return unknown(network, optimizer)


def reason_for(config: Mapping[str, Any]) -> str | None:
    """As `reason`, of what a condition's config trains, whatever its data; nothing is trained and no data are read.

    A config that no network can be made of has no reason: what is wrong with it, its check tells.
    """
    numba, why = door()
    if numba is None:
        return why
    import torch

    from normdrop.engine.compiled import unknown
    from normdrop.networks.stacked import StackedNetwork
    from normdrop.training import on_gpu
    from normdrop.training.fit import plain_network
    from normdrop.training.module import optimizer_of

    if on_gpu(config["trainer"]["accelerator"]):
        return "it trains float32 on the CPU alone"
    if "max_steps" in config["trainer"]:
        return "it counts no trainer.max_steps"
    try:
        optimizer = optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
        with torch.device("meta"):  # shapes without memory
            plain = plain_network(config, ANY_SHAPE, 2)
            network = StackedNetwork([plain], [0], config["batch_size"])
    except (ValueError, TypeError, RuntimeError):
        return None
    return unknown(network, optimizer)


def __getattr__(name: str) -> Any:
    if name != "Compiled":
        raise AttributeError(name)
    from normdrop.engine.compiled import Compiled

    return Compiled
