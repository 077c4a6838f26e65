"""What a condition's config may hold: one clear line for what it may not, and which condition it is."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from normdrop import data
from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS, same_network

Rule = tuple[Callable[[Any], bool], str]


def _integer(low: int, high: int = 2**31 - 1) -> Rule:
    ceiling = "" if high == 2**31 - 1 else f" and ≤ {high}"
    return lambda v: type(v) is int and low <= v <= high, f"an integer ≥ {low}{ceiling}"


def _number(low: float, high: float = math.inf, *, strict: bool = False) -> Rule:
    def allowed(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return (low < value if strict else low <= value) and value < high

    ceiling = "" if high == math.inf else f" and < {high:g}"
    return allowed, f"a number {'>' if strict else '≥'} {low:g}{ceiling}"


def _one_of(*names: Any) -> Rule:
    return lambda v: v in names, "one of " + ", ".join("null" if n is None else str(n) for n in names)


def _list_of(rule: Rule, least: int = 0) -> Rule:
    return (
        lambda v: isinstance(v, list) and len(v) >= least and all(map(rule[0], v)) and len(set(v)) == len(v),
        f"a list of distinct values, each {rule[1]}",
    )


def _either(*rules: Rule) -> Rule:
    return lambda v: any(allowed(v) for allowed, _ in rules), ", or ".join(text for _, text in rules)


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"null or {rule[1]}"


_FLAG: Rule = (lambda v: type(v) is bool, "true or false")
_WIDTHS: Rule = (
    lambda v: isinstance(v, list) and len(v) > 0 and all(type(w) is int and w >= 2 for w in v),
    "a list with one integer ≥ 2 for each hidden layer",
)

RULES: dict[str, Rule] = {
    "arrangement": _one_of(*ARRANGEMENTS),
    "position": _one_of(*POSITIONS),
    "rate": _number(0, 1),
    "noise": _one_of(*NOISES),
    "replicates": _integer(1, 100_000),
    "seeds": _or_null(_list_of(_integer(0), least=1)),
    "rerun": _integer(0),
    "replicates_at_a_time": _or_null(_integer(1)),
    "batch_size": _integer(1),
    "drift.scale": _number(0, 1),
    "drift.offset": _number(-math.inf),
    "drift.cycles": _number(0),
    # Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
    "model.width": _either(_integer(2), _WIDTHS),
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
    "measure.activation_epochs": _list_of(_integer(1)),
    "measure.activation_seed": _or_null(_integer(0)),
    "logging": _one_of("minimal", "full", "per_seed"),
    "data.level": _number(0, strict=True),
    "data.fresh": _FLAG,
    "name": (
        lambda v: re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", str(v), re.ASCII) is not None,
        "a folder below outputs: letters, digits, '_', '.' and '-' only, and '/' between the names of folders",
    ),
}

# Lightning's other arguments of which our training loop leaves the meaning whole; they are added with +trainer.
TRAINER: dict[str, Rule] = {
    "max_steps": _integer(1),
    "limit_train_batches": (
        lambda v: (type(v) is int and v >= 1) or (type(v) is float and 0 < v <= 1),
        "an integer ≥ 1 (batches) or a float > 0 and ≤ 1 (share of an epoch)",
    ),
    "deterministic": _one_of(True, False, "warn"),
    "profiler": _one_of(None, "simple", "advanced"),
    "detect_anomaly": _FLAG,
    "benchmark": _FLAG,
}

# Columns of replicates.csv that a study can be about.
METRICS = (
    *("test_acc", "test_nll", "test_ece", "gap", "nll_gap", "steps_to_level", "reliance", "train_mode_acc"),
    *("recal_test_acc", "recal_test_nll", "train_acc", "train_nll", "train_ece", "val_acc", "val_nll", "val_ece"),
    *(f"silenced_{share}" for share in (10, 20, 30, 40, 50)),
)
_SIDE = _either(_one_of(*ARRANGEMENTS), _list_of(_one_of(*ARRANGEMENTS), least=1))

STUDY: dict[str, Rule] = {
    "claim": _one_of(
        *("ordering", "overfitting", "reliance", "speed", "initialisation", "drift", "complexity", "together"),
        "mechanism",
    ),
    "sentence": (lambda v: isinstance(v, str), "the claim in words"),
    "contrast": (
        lambda v: isinstance(v, dict) and v.keys() == {"a", "b"} and all(map(_SIDE[0], v.values())),
        f"{{a: …, b: …}}, each {_SIDE[1]}",
    ),
    "metric": _either(_one_of(*METRICS), _list_of(_one_of(*METRICS), least=1)),
    "secondary": _list_of(_one_of(*METRICS)),
    "kind": _one_of("difference", "ratio", "spread", "loss", "ladder", "mechanism"),
    "over": (lambda v: v is None or isinstance(v, str), "null or a key of the grid"),
    "tuned": _list_of((lambda v: isinstance(v, str), "a key of the grid")),
    "rope": (
        lambda v: isinstance(v, dict) and all(k in METRICS and _number(0, strict=True)[0](x) for k, x in v.items()),
        "{metric: a number > 0, …}",
    ),
    "alpha": _number(0, 1, strict=True),
    "family": _one_of("best_vs_best", "same_rate", None),
}

# What changes no number in a replicate's row: who trains beside it, where, under which name, and what is drawn of it.
NOT_HASHED = (
    *("seeds", "replicates", "replicates_at_a_time", "name", "logging", "study"),
    *("measure.activation_epochs", "measure.activation_seed"),
)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config of a condition without Hydra's own part."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    resolved = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError with one line for the first key or value that is not allowed."""
    known = {*RULES, *(f"trainer.{key}" for key in TRAINER), "study", *(f"data.{key}" for key in _data_keys(config))}
    for key in _leaves(config):
        if key not in known and not key.startswith(("data.source.", "study.")):
            raise ValueError(f"{key}: there is no such key{_nearest(key, sorted(known))}")
    for key, rule in RULES.items():
        _check(key, lookup(config, key), rule)
    for key, rule in TRAINER.items():
        if key in config["trainer"]:
            _check(f"trainer.{key}", config["trainer"][key], rule)
    width, depth = lookup(config, "model.width"), lookup(config, "model.depth")
    if isinstance(width, list) and len(width) != depth:
        raise ValueError(f"model.width={width}: must have one number for each of the model.depth={depth} hidden layers")
    last = lookup(config, "trainer.max_epochs")
    for key in ("measure.shift_epochs", "measure.activation_epochs"):
        if max(epochs := lookup(config, key), default=0) > last:
            raise ValueError(f"{key}={epochs}: must be epochs from 1 to trainer.max_epochs={last}")
    seed = lookup(config, "measure.activation_seed")
    if seed is not None and seed not in seeds(config):
        allowed = config["seeds"] or f"0 to {config['replicates'] - 1}"
        raise ValueError(f"measure.activation_seed={seed}: must be null or one of the condition's seeds, {allowed}")
    if config["study"] is not None:
        _check_study(config["study"])


def _check(key: str, value: Any, rule: Rule) -> None:
    allowed, text = rule
    if not allowed(value):
        raise ValueError(f"{key}={value}: must be {text}{_nearest(value, text.removeprefix('one of ').split(', '))}")


def _check_study(study: Any) -> None:
    if not isinstance(study, dict):
        raise ValueError(f"study={study}: must be null or what conf/experiment/ordering.yaml declares")
    for key in study:
        if key not in STUDY:
            raise ValueError(f"study.{key}: there is no such key{_nearest(key, [*STUDY])}")
    for key, rule in STUDY.items():
        if key not in study:
            raise ValueError(f"study.{key}: is missing; it must be {rule[1]}")
        _check(f"study.{key}", study[key], rule)


def _data_keys(config: Mapping[str, Any]) -> set[str]:
    """The keys of a data config: every data set's, and its own source's arguments."""
    target = str(lookup(config, "data.source._target_"))
    module, _, name = target.rpartition(".")
    # Only ours: to instantiate any name there is would be a way to run anything from a config.
    if module != data.__name__ or name not in data.SOURCES:
        allowed = ", ".join(f"{data.__name__}.{source}" for source in data.SOURCES)
        raise ValueError(f"data.source._target_={target}: must be one of {allowed}")
    nested = set(_leaves(lookup(config, "data.source"))) - {"_target_", "_partial_", "_convert_"}
    arguments = inspect.signature(data.SOURCES[name]).parameters.keys()
    if unknown := sorted(key for key in nested if key.partition(".")[0] not in arguments or key.endswith("._target_")):
        raise ValueError(f"data.source.{unknown[0]}: there is no such key{_nearest(unknown[0], sorted(arguments))}")
    common = {"name", "level", "fresh", "test_fraction", "val_fraction", "train_size", "pca", "source"}
    return common | arguments


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


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
    decisive = {key: value for key, value in config.items() if key not in NOT_HASHED}
    decisive["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("accelerator", "devices")}
    decisive["measure"] = {k: v for k, v in config["measure"].items() if f"measure.{k}" not in NOT_HASHED}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
