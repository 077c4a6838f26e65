"""What a condition's config may hold: one clear line for what it may not, and which condition it is."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS, same_network

Rule = tuple[Callable[[Any], bool], str]


def _integer(low: int) -> Rule:
    return lambda v: type(v) is int and v >= low, f"an integer ≥ {low}"


def _number(low: float, high: float = math.inf, *, strict: bool = False) -> Rule:
    def allowed(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return (low < value if strict else low <= value) and value < high

    ceiling = "" if high == math.inf else f" and < {high:g}"
    return allowed, f"a number {'>' if strict else '≥'} {low:g}{ceiling}"


def _one_of(*names: Any) -> Rule:
    return lambda v: v in names, "one of " + ", ".join("null" if n is None else str(n) for n in names)


def _list_of(rule: Rule) -> Rule:
    return (
        lambda v: isinstance(v, list) and all(map(rule[0], v)) and len(set(v)) == len(v),
        f"a list of distinct values, each {rule[1]}",
    )


def _either(*rules: Rule) -> Rule:
    return lambda v: any(allowed(v) for allowed, _ in rules), ", or ".join(text for _, text in rules)


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"null or {rule[1]}"


_FLAG: Rule = (lambda v: type(v) is bool, "true or false")
_WIDTHS: Rule = (
    lambda v: isinstance(v, list) and len(v) > 0 and all(type(w) is int and w >= 1 for w in v),
    "a list with one integer ≥ 1 for each hidden layer",
)

RULES: dict[str, Rule] = {
    "arrangement": _one_of(*ARRANGEMENTS),
    "position": _one_of(*POSITIONS),
    "rate": _number(0, 1),
    "noise": _one_of(*NOISES),
    "replicates": _integer(1),
    "seeds": _or_null(_list_of(_integer(0))),
    "rerun": _integer(0),
    "replicates_at_a_time": _or_null(_integer(1)),
    "batch_size": _integer(1),
    "drift.scale": _number(0, 1),
    "drift.offset": _number(-math.inf),
    "drift.cycles": _number(0),
    "model.width": _either(_integer(1), _WIDTHS),
    "model.depth": _integer(1),
    "model.activation": _one_of(*ACTIVATIONS),
    "model.output_activation": _one_of(None, *ACTIVATIONS),
    "model.dropout_layers": _one_of("all", "last"),
    "model.init_gain": _number(0, strict=True),
    "optimizer.name": _one_of("adam", "adamw", "sgd"),
    "optimizer.lr": _number(0, strict=True),
    "optimizer.momentum": _number(0, 1),
    "optimizer.weight_decay": _number(0),
    "optimizer.schedule": _one_of("constant", "cosine"),
    "trainer.max_epochs": _integer(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu"),
    "trainer.val_check_interval": (
        lambda v: (type(v) is int and v >= 1) or (type(v) is float and 0 < v <= 1),
        "an integer ≥ 1 (optimizer steps) or a float > 0 and ≤ 1 (share of an epoch)",
    ),
    "measure.shift": _FLAG,
    "measure.shift_epochs": _list_of(_integer(1)),
    "measure.silencing": _FLAG,
    "logging": _one_of("minimal", "full", "per_seed"),
    "data.level": _number(0, strict=True),
    "data.fresh": _FLAG,
}

# Lightning's other arguments of which our training loop leaves the meaning whole; they are added with +trainer.
TRAINER = ("max_steps", "limit_train_batches", "deterministic", "profiler", "detect_anomaly", "benchmark")

# What changes no number in a replicate's row: who trains beside it, where, and under which name.
_NOT_HASHED = ("seeds", "replicates", "replicates_at_a_time", "name", "logging", "study")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config of a condition without Hydra's own part."""
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    resolved = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError with one line for the first value that is not allowed."""
    for key, (allowed, text) in RULES.items():
        value = lookup(config, key)
        if not allowed(value):
            raise ValueError(
                f"{key}={value}: must be {text}{_nearest(value, text.removeprefix('one of ').split(', '))}"
            )
    for key in config["trainer"]:
        if f"trainer.{key}" not in RULES and key not in TRAINER:
            raise ValueError(
                f"trainer.{key}: is not open here; add one of {', '.join(TRAINER)}{_nearest(key, [*TRAINER])}"
            )
    width, depth = lookup(config, "model.width"), lookup(config, "model.depth")
    if isinstance(width, list) and len(width) != depth:
        raise ValueError(f"model.width={width}: must have one number for each of the model.depth={depth} hidden layers")
    study = config["study"]
    if study is not None and not 0 < study["alpha"] < 1:
        raise ValueError(f"study.alpha={study['alpha']}: must be a number > 0 and < 1")


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key. Raises KeyError."""
    value: Any = config
    for name in key.split("."):
        value = value[name]
    return value


def unknown_key(key: str, config: DictConfig) -> str:
    """One line for a key that no config has, with the nearest one that exists."""
    keys = [*_keys(OmegaConf.to_container(config, resolve=False)), "experiment"]
    return f"{key}: there is no such key{_nearest(key, keys) or '; the keys stand in conf/config.yaml'}"


def _keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        if key != "hydra":
            keys.append(f"{prefix}{key}")
            keys += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return keys


def _nearest(value: Any, names: list[str]) -> str:
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"; did you mean {close[0]}?" if close and close[0] != str(value) else ""


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a condition is recorded under: of equal networks one, and rate 0 where there is no dropout."""
    arrangement, position = config["arrangement"], config["position"]
    _, position = same_network(arrangement, position, config["model"]["activation"])[0]
    return {"position": position, "rate": config["rate"] if "dropout" in arrangement else 0.0}


def seeds(config: Mapping[str, Any]) -> list[int]:
    """The seeds of a condition's replicates, ascending."""
    return sorted(config["seeds"]) if config["seeds"] is not None else list(range(config["replicates"]))


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of all that a replicate's numbers depend on, but its seed."""
    decisive = {key: value for key, value in config.items() if key not in _NOT_HASHED}
    decisive["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("accelerator", "devices")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
