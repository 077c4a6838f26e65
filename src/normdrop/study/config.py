"""A condition's config: composed from conf/, one clear line for what it may not hold, and which condition it is."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
import joblib
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS, has, same_network
from normdrop.data.sources import arguments, source_of
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS

HERE = Path(__file__).parents[1]
CONF = next(path for path in (HERE / "conf", HERE.parents[1] / "conf") if path.is_dir())

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
    "select_epoch": _one_of("last", "best"),
    "patience": _or_null(_integer(1)),
    "drift.scale": _number(0, 1),
    "drift.offset": _number(-math.inf),
    "drift.cycles": _number(0),
    # Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
    "model.width": _either(_integer(2), _WIDTHS),
    "model.depth": _integer(1, 1000),
    "model.activation": _one_of(*ACTIVATIONS),
    "model.output_activation": _one_of(None, *ACTIVATIONS),
    "model.dropout_layers": _one_of("all", "last"),
    "model.init_gain": _number(0, strict=True),
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

_SIDE = _either(_one_of(*ARRANGEMENTS), _list_of(_one_of(*ARRANGEMENTS), least=1))

STUDY: dict[str, Rule] = {
    "claim": (lambda v: isinstance(v, str) and bool(v), "a name for the claim"),
    "sentence": (lambda v: isinstance(v, str), "the claim in words"),
    "contrast": (
        lambda v: isinstance(v, dict) and v.keys() == {"a", "b"} and all(map(_SIDE[0], v.values())),
        f"{{a: …, b: …}}, each {_SIDE[1]}",
    ),
    "metric": _either(_one_of(*METRICS), _list_of(_one_of(*METRICS), least=1)),
    "secondary": _list_of(_one_of(*METRICS)),
    "kind": _one_of(*KINDS),
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


def workers(accelerator: str) -> int:
    """How many conditions train side by side: one on a GPU, else one for each core that this process may use."""
    if accelerator != "cpu":
        import torch  # here, since a config is read where nothing trains

        if torch.cuda.is_available():
            return 1
    return joblib.cpu_count()


def _stem(path: str | None) -> str:
    return "table" if path is None else re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(path).stem)


OmegaConf.register_new_resolver("workers", workers, replace=True)
OmegaConf.register_new_resolver("stem", _stem, replace=True)  # conf/data/table.yaml names a table after its file


def compose(*overrides: str) -> DictConfig:
    """The config that these overrides of conf/ make, unresolved and unchecked."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


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
        # A model's and an optimizer's further keys are the arguments of a function: `training.check` asks it.
        if key not in known and not key.startswith(("study.", "model.", "optimizer.")):
            raise ValueError(f"{key}: there is no such key{_nearest(key, sorted(known))}")
    for key, rule in RULES.items():
        group, _, name = key.partition(".")
        if group not in ("model", "optimizer") or name in config[group]:
            _check(key, lookup(config, key), rule)
    for key, rule in TRAINER.items():
        if key in config["trainer"]:
            _check(f"trainer.{key}", config["trainer"][key], rule)
    width, depth = (config["model"].get(key) for key in ("width", "depth"))
    if isinstance(width, list) and len(width) != depth:
        raise ValueError(f"model.width={width}: must have one number for each of the model.depth={depth} hidden layers")
    if config["patience"] is not None and config["select_epoch"] != "best":
        raise ValueError(f"patience={config['patience']}: must be null unless select_epoch=best")
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
    common = {
        "name",
        "level",
        "fresh",
        "test_fraction",
        "val_fraction",
        "train_size",
        "pca",
        "shape",
        "standardise",
        "source",
    }
    return common | set(arguments(source_of(str(lookup(config, "data.source")))))


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
    return {"position": position, "rate": config["rate"] if has(arrangement, "dropout") else 0.0}


def seeds(config: Mapping[str, Any]) -> list[int]:
    """The seeds of a condition's replicates, ascending."""
    return sorted(config["seeds"]) if config["seeds"] is not None else list(range(config["replicates"]))


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of all that a replicate's numbers depend on, but its seed."""
    decisive = {key: value for key, value in config.items() if key not in NOT_HASHED}
    decisive["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("accelerator", "devices")}
    decisive["measure"] = {k: v for k, v in config["measure"].items() if f"measure.{k}" not in NOT_HASHED}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
