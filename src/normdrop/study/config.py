"""A configuration: composed from conf/, checked, in its one spelling, and which one it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import has, same_network
from normdrop.data import SERVED
from normdrop.study.conf import CONF
from normdrop.study.record import FIXED
from normdrop.study.schema import checked, keys, lookup

__all__ = ["CONF", "canonical", "check", "compose", "config_hash", "keys", "lookup", "plain", "seeds", "stands_for"]


def _stem(path: str | None) -> str:
    """A file's name without its ending, and without that of a packed one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(re.sub(r"\.(gz|bz2|xz)$", "", path or "table")).stem)


OmegaConf.register_new_resolver("stem", _stem, replace=True)  # conf/data/table.yaml names a table after its file


def compose(*overrides: str) -> DictConfig:
    """The config that these overrides of conf/ make, unresolved and unchecked."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def keys_of(config: DictConfig) -> set[str]:
    """All dotted keys of a config, whose values may still be missing."""
    values: Any = OmegaConf.to_container(config, resolve=False)
    return {*keys(values)}


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config of a configuration without Hydra's own part."""
    return resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config's values, none of them an interpolation."""
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()}


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its one spelling. Raises ValueError with one line for what is not allowed."""
    return checked(config)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a configuration is hashed, named and recorded by, from any that may be asked for."""
    return known_as(checked(config))


def known_as(config: dict[str, Any]) -> dict[str, Any]:
    """Of a config in its one spelling: the data's path absolute, of equal networks one, and rate 0 without dropout. Its
    engine may still be `auto`."""
    config = config | {"data": dict(config["data"])}
    if isinstance(path := config["data"].get("path"), str):
        config["data"]["path"] = str(Path(path).expanduser().absolute())
    if config["model"].get("file"):
        from normdrop.networks.own import settle  # here: it imports torch

        config["model"] = settle(config["model"])
    _, position = stands_for(config)[0]
    rate = config["rate"] if has(config["arrangement"], "dropout") else 0.0
    return config | {"position": position, "rate": rate}


def stands_for(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The arrangements and positions whose network this one is, those first by which it is known."""
    return same_network(config["arrangement"], config["position"], config["model"].get("activation", "relu"))


def seeds(config: Mapping[str, Any]) -> list[int]:
    """The seeds that a configuration is trained with, ascending."""
    return [*range(config["first_seed"], config["first_seed"] + config["replicates"])]


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of all that a seed's numbers depend on, but the seed: of given data, the rows themselves."""
    decisive = {key: value for key, value in config.items() if key not in FIXED}
    decisive["trainer"] = {key: value for key, value in config["trainer"].items() if key != "accelerator"}
    data = config["data"]
    if not data["fresh"] and "fingerprint" in data:
        data = {key: data[key] for key in ("name", "level", "source", *SERVED, "fingerprint")}
    decisive["data"] = data | {"standardise": "feature"}  # a key of earlier versions, whose finished folders go on
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
