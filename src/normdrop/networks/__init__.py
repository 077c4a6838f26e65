"""Networks: plain ones by name or of one's own, and N of them as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from normdrop.arrangement import has
from normdrop.networks import own, own_check
from normdrop.networks.cnn import cnn
from normdrop.networks.layers import BATCH_NORMS, block, seeded
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.own_source import told
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream

# A model is a function of the shape of a row, of the classes, of the arrangement, and of the keys of its own
# config.
MODELS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}

PLACED = ("arrangement", "position", "rate", "noise")


def has_bn(config: Mapping[str, Any]) -> bool:
    """Whether a config's network has BN: that of the arrangement, or layers where it is not put (`model.layers`)."""
    return has(config["arrangement"], "bn") or config["model"].get("layers", "*") != "*"


def plain(config: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int = 0) -> nn.Sequential:
    """One seed's plain network as it begins: flat rows (batch, features) → logits (batch, classes).

    shape: of a row. Raises ValueError for a model's key or value that cannot be.
    """
    name, gain = config["model"]["name"], config["model"]["init_gain"]
    if name not in MODELS:
        return own.made(config, shape, classes, seed)
    given = {key: value for key, value in config["model"].items() if key not in ("name", "init_gain")}
    own.check_keys(given, [MODELS[name], block], f"model={name}", PLACED)
    with seeded(seed, config["rerun"]):  # for what `initialise` leaves
        try:
            network = MODELS[name](shape, classes, **{key: config[key] for key in PLACED}, **given)
        except (TypeError, RuntimeError) as error:  # a value of the wrong type
            values = ", ".join(f"model.{key}={value}" for key, value in given.items())
            raise ValueError(f"model={name} cannot be made: {told(error)}; it was given {values}") from error
    return initialise(network, stream(seed, "init", rerun=config["rerun"]), gain)


def network_of(config: Mapping[str, Any], shape: Sequence[int], classes: int, seeds: Sequence[int]) -> StackedNetwork:
    """The stacked network of a condition, each replicate's weights drawn from its own stream."""
    networks = [plain(config, shape, classes, seed) for seed in seeds]
    if config["model"]["name"] not in MODELS:
        own_check.check_alike(networks, seeds, shape)
    return StackedNetwork(networks, seeds, config["batch_size"], config["rerun"])


def check(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> None:
    """Raise ValueError in one line for a model that cannot train on such rows."""
    if config["model"]["name"] in MODELS:
        plain(config, shape, classes)
    elif config["measure"]["silencing"]:
        raise ValueError("measure.silencing=true: must be false for a network of one's own, whose units are not known")
    else:
        own_check.check(config, shape, classes)


# Lines of a block that a sweep shows.
SHOWN = 24


def shown(config: Mapping[str, Any], shape: Sequence[int], classes: int) -> list[str]:
    """What a sweep says of a network of one's own before it trains: the block around its last arranged BN layer, as
    PyTorch shows it. Of a built-in one nothing.
    """
    if config["model"]["name"] in MODELS:
        return []
    network, other = (own.written(config, shape, classes, seed) for seed in (0, 1))
    same_weights = all(map(torch.equal, network.parameters(), other.parameters()))
    place = own.arrange(network, config)[-1].rpartition(".")[0]
    while place and type(network.get_submodule(place)) is nn.Sequential:  # of a block a part alone
        place = place.rpartition(".")[0]
    where = f"{config['arrangement']} in {type(network).__name__}, positions as the module has them"
    block = str(network.get_submodule(place)).splitlines()
    if len(block) > SHOWN:
        last = max(i for i, line in enumerate(block) if re.search("Norm|Dropout|Noise|Identity", line))
        first = max(0, last - SHOWN // 2)
        block = ["  …", *block[first : first + SHOWN], "  …"]
    said = [f"{where}; {place or 'all of it'}:", "\n".join(block)]
    if same_weights:
        said.append("every seed begins with the same weights: make loads them, or sets a seed of its own")
    norms = sum(isinstance(layer, BATCH_NORMS) for layer in network.modules())
    if config["measure"]["shift"] and norms >= config["trainer"]["max_epochs"]:
        time = f"takes {norms} passes over the training part, one for each BN layer"
        said.append(f"BN recalibration after training {time}; measure.shift=false leaves it out")
    return said
