"""Networks: plain ones by name or of one's own, and N of them as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from normdrop.networks import own
from normdrop.networks.cnn import cnn
from normdrop.networks.layers import WEIGHTS
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream

# A model is a function of the shape of a row, of the classes, of the arrangement, and of the keys of its own
# config.
MODELS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}

PLACED = ("arrangement", "position", "rate", "noise")


def plain(config: Mapping[str, Any], shape: int | Sequence[int], classes: int, seed: int = 0) -> nn.Sequential:
    """One seed's plain network as it begins: flat rows (batch, features) → logits (batch, classes).

    shape: of a row. Raises ValueError for a model's key or value that cannot be.
    """
    name = config["model"]["name"]
    if name not in MODELS:
        return own.made(config, [shape] if isinstance(shape, int) else shape, classes, seed)
    gain = config["model"]["init_gain"]
    return initialise(plain_network(config, shape, classes), stream(seed, "init", rerun=config["rerun"]), gain)


def plain_network(config: Mapping[str, Any], shape: int | Sequence[int], classes: int) -> nn.Sequential:
    """`plain` with weights of no meaning."""
    name = config["model"]["name"]
    if name not in MODELS:
        return plain(config, shape, classes)
    given = {key: value for key, value in config["model"].items() if key not in ("name", "init_gain")}
    takes = [*inspect.signature(MODELS[name]).parameters][2:]
    if unknown := [key for key in given if key not in takes]:
        keys = ", ".join(key for key in takes if key not in PLACED)
        raise ValueError(f"model.{unknown[0]}: model={name} has no such key; it has {keys}")
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights when they are made
        try:
            return MODELS[name](shape, classes, **{key: config[key] for key in PLACED}, **given)
        except (TypeError, RuntimeError) as error:  # a value of the wrong type
            values = ", ".join(f"model.{key}={value}" for key, value in given.items())
            raise ValueError(f"model={name} cannot be made: {own.told(error)}; it was given {values}") from error


def network_of(
    config: Mapping[str, Any], shape: int | Sequence[int], classes: int, seeds: Sequence[int]
) -> StackedNetwork:
    """The stacked network of a condition, each replicate's weights drawn from its own stream."""
    networks = [plain(config, shape, classes, seed) for seed in seeds]
    return StackedNetwork(networks, seeds, config["batch_size"], config["rerun"])


def check(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> None:
    """Raise ValueError in one line for a model that cannot train on such rows."""
    if config["model"]["name"] in MODELS:
        plain_network(config, shape, classes)
    elif config["measure"]["silencing"]:
        raise ValueError("measure.silencing=true: must be false for a network of one's own, whose units are not known")
    else:
        own.check(config, shape, classes)


def shown(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> list[str]:
    """What a sweep says of a network of one's own before it trains; of a built-in one nothing."""
    if config["model"]["name"] in MODELS:
        return []
    text = describe(plain(config, shape, classes))
    return [f"{config['arrangement']}, positions as the module has them:", *text.splitlines()]


def describe(network: nn.Module) -> str:
    """A network's layers as text: a line from each layer with weights on; equal lines once, counted."""
    lines: list[list[str]] = [[]]
    for layer in network.modules():
        if [*layer.children()]:
            continue
        if isinstance(layer, WEIGHTS):
            lines.append([])
        lines[-1].append(repr(layer))
    counted = [(" → ".join(line), sum(1 for _ in same)) for line, same in groupby(lines)]
    return "\n".join(text + (f"   × {times}" if times > 1 else "") for text, times in counted if text)
