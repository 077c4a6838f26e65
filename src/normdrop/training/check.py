"""What only the data or the machine can tell to be wrong with a condition, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from normdrop.networks import check, network_of
from normdrop.training.compiled import reason
from normdrop.training.fit import data_of
from normdrop.training.module import optimizer_of


def check_fit(config: Mapping[str, Any], seed: int) -> dict[str, int]:
    """The rows of each part. Raises ValueError for what only the data or the machine can tell to be wrong."""
    accelerator, interval = config["trainer"]["accelerator"], config["trainer"]["val_check_interval"]
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu: no CUDA device is available here; allowed are auto and cpu")
    optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
    data = data_of(config, [seed])
    data.setup()
    steps = len(data.train_dataloader())
    first = interval if type(interval) is int else int(steps * interval)
    if not 1 <= first <= steps:
        raise ValueError(f"trainer.val_check_interval={interval}: must come to between 1 and {steps} steps, an epoch's")
    check(config, data.shape, data.classes)
    if config["engine"] == "compiled":  # last: for this the network itself is made
        network = network_of(config, data.shape, data.classes, [seed])
        if why := reason(network, optimizer_of(network.parameters(), config["optimizer"])):
            raise ValueError(f"engine=compiled: {why}; engine=torch trains everything")
    return {name: part.rows.shape[1] for name, part in data.parts.items()}
