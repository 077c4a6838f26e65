"""What only the data or the machine can tell to be wrong with a condition, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from normdrop.data.rows import memory
from normdrop.engine import reason
from normdrop.networks.stacked import StackedNetwork
from normdrop.training import on_gpu
from normdrop.training.fit import AT_A_TIME, data_of, plain_network
from normdrop.training.module import optimizer_of

# Whether the compiled engine knows a network's layers does not depend on its rows; a CNN must not run out of pixels.
ANY_SHAPE = (1, 1024, 1024)


def reason_for(config: Mapping[str, Any]) -> str | None:
    """Why the compiled engine cannot train what a config describes, in words, or None: without data and weights.

    A config that no network can be made of has no reason: what is wrong with it, its check tells.
    """
    if on_gpu(config["trainer"]["accelerator"]):
        return "it trains float32 on the CPU alone"
    try:
        optimizer = optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
        with torch.device("meta"):  # shapes without memory
            plain = plain_network(config, ANY_SHAPE, 2)
            return reason(StackedNetwork([plain], [0], config["batch_size"]), optimizer)
    except (ValueError, TypeError, RuntimeError):
        return None


def check_fit(config: Mapping[str, Any], seed: int) -> dict[str, int]:
    """The rows of each part. Raises ValueError for what only the data or the machine can tell to be wrong."""
    accelerator, interval = config["trainer"]["accelerator"], config["trainer"]["val_check_interval"]
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu: no CUDA device is available here; allowed are auto and cpu")
    optimizer_of([torch.nn.Parameter(torch.zeros(1))], config["optimizer"])
    data = data_of(config, [seed])
    data.setup()
    steps, limit = len(data.train_dataloader()), config["trainer"].get("limit_train_batches", 1.0)
    steps = min(limit, steps) if type(limit) is int else int(steps * limit)  # as Lightning counts
    if steps == 0:
        raise ValueError(f"trainer.limit_train_batches={limit}: leaves no batch of an epoch to train on")
    first = interval if type(interval) is int else int(steps * interval)
    if not 1 <= first <= steps:
        raise ValueError(f"trainer.val_check_interval={interval}: must come to between 1 and {steps} steps, an epoch's")
    if (most := config["trainer"].get("max_steps", first)) < first:
        raise ValueError(f"trainer.max_steps={most}: must reach the first validation, after {first} steps")
    seeds = config["replicates"]
    together = min(config["replicates_at_a_time"] or AT_A_TIME["cpu"], seeds)
    with torch.device("meta"):  # shapes without memory
        weights = sum(p.numel() for p in plain_network(config, data.shape, data.classes).parameters())
    # float32, and beside each weight its gradient, Adam's two moments and the best one so far
    needed = (20 if config["select_epoch"] == "best" else 16) * weights * together
    here, device = memory(), "machine"
    if on_gpu(accelerator):
        here, device = torch.cuda.get_device_properties(0).total_memory, "GPU"
    taken = data.taken(together)
    if needed + taken > here:
        model = {key: value for key, value in config["model"].items() if key in ("width", "depth", "channels")}
        large = ", ".join(f"model.{key}={value}" for key, value in model.items())
        of_weights, of_rows, there = (f"{size / 2**30:.1f} GiB" for size in (needed, taken, here))
        asked = f"{together} replicates at a time train {of_weights} of weights on {of_rows} of rows"
        raise ValueError(f"{large}, replicates_at_a_time={together}: {asked}; this {device} has {there}")
    if config["engine"] == "compiled" and (why := reason_for(config)):
        raise ValueError(f"engine=compiled: {why}; engine=torch trains everything")
    return {name: part.rows.shape[1] for name, part in data.parts.items()}
