"""A configuration: composed from conf/, checked, in its one spelling, and which one it is."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import has, same_network
from normdrop.data import SERVED
from normdrop.study import CONF
from normdrop.study.record import FIXED
from normdrop.study.schema import checked

__all__ = ["canonical", "checked", "compose", "config_hash", "plain", "seeds", "stands_for"]


def _stem(path: str | None) -> str:
    """A file's name without its ending, and without that of a packed one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(re.sub(r"\.(gz|bz2|xz)$", "", path or "table")).stem)


OmegaConf.register_new_resolver("stem", _stem, replace=True)  # conf/data/table.yaml names a table after its file


COMPOSING = threading.Lock()  # Hydra composes in a context that is one for the process


def compose(*overrides: str) -> DictConfig:
    """The config that these overrides of conf/ make, unresolved and unchecked; a caller's Hydra context stays."""
    with COMPOSING:
        return _composed(*overrides)


def _composed(*overrides: str) -> DictConfig:
    before, job = GlobalHydra.instance().hydra, JobRuntime.instance().get("name")
    GlobalHydra.instance().hydra = None
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    finally:
        GlobalHydra.instance().hydra = before  # by now another instance: Hydra puts back a copy
        JobRuntime.instance().set("name", job)


def plain(config: DictConfig, resolve: bool = True) -> Any:
    """The values of a config without Hydra's own part; unresolved some may still be missing."""
    names = [str(key) for key in config if key != "hydra"]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, names), resolve=resolve, throw_on_missing=resolve)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a configuration is hashed, named and recorded by, from one that may be asked for: checked, the
    data's path absolute, of equal networks one, and rate 0 without dropout. Raises ValueError with one line.
    """
    known = checked(config)
    if isinstance(path := known["data"].get("path"), str):
        known["data"]["path"] = str(Path(path).expanduser().absolute())
    if "function" in known["model"]:  # of one's own
        from normdrop.networks.own_source import settle  # here: it imports torch

        known["model"] = settle(known["model"])
    known["position"] = stands_for(known)[0][1]
    if not has(known["arrangement"], "dropout"):
        known["rate"] = 0.0
    return known


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
