"""A condition's config: composed from conf/, one clear line for what it may not hold, and which condition it is."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import joblib
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS, has, same_network
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.study.app import CONF
from normdrop.study.record import NOT_HASHED


class Rule(NamedTuple):
    """What a key may hold, in code and in words, and the type of its numbers; None where 1 and 1.0 mean two things."""

    allowed: Callable[[Any], bool]
    text: str
    number: type[int | float] | None = int


def _integer(low: int, high: int = 2**31 - 1) -> Rule:
    ceiling = "" if high == 2**31 - 1 else f" and ≤ {high}"
    return Rule(lambda v: type(v) is int and low <= v <= high, f"an integer ≥ {low}{ceiling}")


def _number(low: float, high: float = math.inf, *, strict: bool = False) -> Rule:
    def allowed(value: Any) -> bool:
        return type(value) is float and (low < value if strict else low <= value) and value < high

    ceiling = "" if high == math.inf else f" and < {high:g}"
    return Rule(allowed, f"a number {'>' if strict else '≥'} {low:g}{ceiling}", float)


def _one_of(*names: Any) -> Rule:
    return Rule(lambda v: v in names, "one of " + ", ".join("null" if n is None else str(n) for n in names))


def _list_of(rule: Rule, least: int = 0) -> Rule:
    return Rule(
        lambda v: isinstance(v, list) and len(v) >= least and all(map(rule.allowed, v)) and len(set(v)) == len(v),
        f"a list of distinct values, each {rule.text}",
        rule.number,
    )


def _either(*rules: Rule) -> Rule:
    return Rule(lambda v: any(rule.allowed(v) for rule in rules), ", or ".join(rule.text for rule in rules))


def _or_null(rule: Rule) -> Rule:
    return Rule(lambda v: v is None or rule.allowed(v), f"null or {rule.text}", rule.number)


_TEXT = Rule(lambda v: isinstance(v, str) and v != "", "a name")
_FLAG = Rule(lambda v: type(v) is bool, "true or false")
_WIDTHS = Rule(
    lambda v: isinstance(v, list) and len(v) > 0 and all(type(w) is int and w >= 2 for w in v),
    "a list with one integer ≥ 2 for each hidden layer",
)


def _share(unit: str) -> Rule:
    return Rule(
        lambda v: (type(v) is int and v >= 1) or (type(v) is float and 0 < v <= 1),
        f"an integer ≥ 1 ({unit}) or a float > 0 and ≤ 1 (share of an epoch)",
        None,
    )


# The names that a study's folder uses itself.
RESERVED = ("report", "seeds", "plan.json", "record.json", "replicates.csv", "history.csv", "error.txt", "networks.pt")


def _free(name: str) -> bool:
    return name.casefold().removesuffix(".part").removesuffix(".new") not in RESERVED


RULES: dict[str, Rule] = {
    "study": Rule(lambda v: v is None or isinstance(v, dict), "null or what conf/experiment/ordering.yaml declares"),
    "arrangement": _one_of(*ARRANGEMENTS),
    "position": _one_of(*POSITIONS),
    "rate": _number(0, 1),
    "noise": _one_of(*NOISES),
    "replicates": _integer(1, 100_000),
    "first_seed": _integer(0),
    "precision": _or_null(_number(0, 1, strict=True)),
    "replicates_max": _integer(1, 100_000),
    "seeds": _or_null(_list_of(_integer(0), least=1)),
    "rerun": _integer(0),
    "replicates_at_a_time": _or_null(_integer(1)),
    "batch_size": _integer(1),
    "engine": _one_of("auto", "torch", "compiled"),
    "select_epoch": _one_of("last", "best"),
    "patience": _or_null(_integer(1)),
    "checkpoint_minutes": _number(0),
    "save_networks": _FLAG,
    "drift.scale": _number(0, 1),
    "drift.offset": _number(-math.inf),
    "drift.cycles": _number(0),
    "model.name": _TEXT,
    # Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
    "model.width": _either(_integer(2), _WIDTHS),
    "model.depth": _integer(1, 1000),
    "model.activation": _one_of(*ACTIVATIONS),
    "model.output_activation": _one_of(None, *ACTIVATIONS),
    "model.dropout_layers": _one_of("all", "last"),
    "model.init_gain": _number(0, strict=True),
    "model.bn_momentum": _number(0, 1, strict=True),
    "model.bn_eps": _number(0, strict=True),
    "optimizer.clip": _or_null(_number(0, strict=True)),
    "optimizer._target_": _TEXT,
    "optimizer.lr": _number(0, strict=True),
    "optimizer.momentum": _number(0, 1),
    "optimizer.weight_decay": _number(0),
    "optimizer.schedule": _one_of("constant", "cosine"),
    "trainer.max_epochs": _integer(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu"),
    "trainer.val_check_interval": _share("optimizer steps"),
    "measure.shift": _FLAG,
    "measure.shift_epochs": _list_of(_integer(1)),
    "measure.silencing": _FLAG,
    "measure.activation_epochs": _list_of(_integer(1)),
    "measure.activation_seed": _or_null(_integer(0)),
    "logging": _one_of("minimal", "full", "per_seed"),
    "data.level": _number(0, strict=True),
    "data.fresh": _FLAG,
    "name": Rule(
        lambda v: (
            re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", str(v), re.ASCII) is not None and all(map(_free, str(v).split("/")))
        ),
        "a folder below outputs: letters, digits, '_', '.' and '-' only, and '/' between the names of folders, none of "
        + ", ".join(RESERVED),
    ),
    "data.name": Rule(
        lambda v: re.fullmatch(r"\w[\w.-]*", str(v), re.ASCII) is not None and _free(str(v)),
        "the name of a folder: letters, digits, '_', '.' and '-' only, not starting with '.' or '-', none of "
        + ", ".join(RESERVED),
    ),
}

# Not every model nor every optimizer has these.
_OPTIONAL = (
    *("model.width", "model.depth", "model.activation", "model.output_activation", "model.dropout_layers"),
    *("model.bn_momentum", "model.bn_eps", "optimizer.momentum", "optimizer.clip"),
)
_DATA = (
    "name",
    "level",
    "source",
    "fresh",
    "test_fraction",
    "val_fraction",
    "train_size",
    "train_most",
    "pca",
    "shape",
    "standardise",
)

# Lightning's other arguments of which our training loop leaves the meaning whole; they are added with +trainer.
TRAINER: dict[str, Rule] = {
    "max_steps": _integer(1),
    "limit_train_batches": _share("batches"),
    "deterministic": _one_of(True, False, "warn"),
    "profiler": _one_of(None, "simple", "advanced"),
    "detect_anomaly": _FLAG,
    "benchmark": _FLAG,
}

_OWN_TRAINER = ("max_epochs", "accelerator", "val_check_interval")
# Why others have no place here.
_REFUSED = {
    "one fit is one process on one device, and conditions train side by side: hydra.launcher.n_jobs": (
        *("devices", "num_nodes", "strategy", "plugins", "sync_batchnorm", "use_distributed_sampler"),
    ),
    "it would clip the norm of all replicates together; optimizer.clip clips each one's": (
        *("gradient_clip_val", "gradient_clip_algorithm"),
    ),
    "each optimizer step is one batch; choose batch_size": ("accumulate_grad_batches",),
    "a replicate's numbers must not depend on what the device rounds": ("precision",),
    "validation and test always read the whole part": (
        *("limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches", "fast_dev_run"),
        *("num_sanity_val_steps", "check_val_every_n_epoch"),
    ),
    "what is written and shown is the sweep's; see logging": (
        *("logger", "callbacks", "log_every_n_steps", "default_root_dir", "enable_progress_bar"),
        *("enable_model_summary", "enable_checkpointing"),
    ),
}
_WHY = {name: why for why, names in _REFUSED.items() for name in names}

_SIDE = _either(_one_of(*ARRANGEMENTS), _list_of(_one_of(*ARRANGEMENTS), least=1))

STUDY: dict[str, Rule] = {
    "claim": Rule(lambda v: isinstance(v, str) and bool(v), "a name for the claim"),
    "sentence": Rule(lambda v: isinstance(v, str), "the claim in words"),
    "contrast": Rule(
        lambda v: isinstance(v, dict) and v.keys() == {"a", "b"} and all(map(_SIDE.allowed, v.values())),
        f"{{a: …, b: …}}, each {_SIDE.text}",
    ),
    "metric": _either(_one_of(*METRICS), _list_of(_one_of(*METRICS), least=1)),
    "secondary": _list_of(_one_of(*METRICS)),
    "kind": _one_of(*KINDS),
    "over": Rule(lambda v: v is None or isinstance(v, str), "null or a key of the grid"),
    "core": Rule(lambda v: v is None or (isinstance(v, list) and len(v) > 1), "null or two or more values of `over`"),
    "tuned": _list_of(Rule(lambda v: isinstance(v, str), "a key of the grid")),
    "rope": Rule(
        lambda v: (
            isinstance(v, dict) and all(k in METRICS and type(x) is float and 0 < x < math.inf for k, x in v.items())
        ),
        "{metric: a number > 0, …}",
        float,
    ),
    "alpha": _number(0, 1, strict=True),
    "apart": _list_of(Rule(lambda v: isinstance(v, str), "the name of a data set")),
    "family": _one_of("best_vs_best", "same_rate", None),
}

_NUMBERS = {key: rule.number for key, rule in RULES.items() if key != "study"}
# What names columns or words of a table stays as it was typed.
_NUMBERS |= dict.fromkeys((f"data.{key}" for key in ("target", "categorical", "drop", "missing", "split_column")), None)
_NUMBERS |= {
    f"{group}.{key}": r.number for group, rules in (("trainer", TRAINER), ("study", STUDY)) for key, r in rules.items()
}

_DEVICES = ("nvidiactl", "dxg", "kfd")  # NVIDIA's, under Windows' Linux, and AMD's


def on_gpu(accelerator: str) -> bool:
    """Whether a condition trains on a GPU."""
    # Without a device's file PyTorch, which takes seconds to import, need not be asked.
    if accelerator == "cpu" or (sys.platform == "linux" and not any(Path("/dev", d).exists() for d in _DEVICES)):
        return False
    import torch

    return torch.cuda.is_available()


def workers(accelerator: str) -> int:
    """How many conditions train side by side: one on each GPU, else one for each core that this process may use."""
    if not on_gpu(accelerator):
        return joblib.cpu_count()
    import torch

    return torch.cuda.device_count()


def engine(config: Mapping[str, Any]) -> str:
    """What takes a condition's steps: with `auto` the compiled engine, where numba is at hand and it can."""
    if config["engine"] != "auto":
        return config["engine"]
    mlp = config["model"]["name"] == "mlp" and not config["model"]["residual"]
    plain = config["optimizer"]["_target_"] in (f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD"))
    known = mlp and plain and not {"amsgrad", "maximize", "nesterov", "dampening"} & config["optimizer"].keys()
    able = known and "max_steps" not in config["trainer"] and not on_gpu(config["trainer"]["accelerator"])
    return "compiled" if able and importlib.util.find_spec("numba") else "torch"


def _stem(path: str | None) -> str:
    """A file's name without its ending, and without that of a packed one."""
    if path is None:
        return "table"
    packed = Path(path).suffix in (".gz", ".bz2", ".xz", ".zip", ".zst")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(Path(path).stem).stem if packed else Path(path).stem)


OmegaConf.register_new_resolver("workers", workers, replace=True)
OmegaConf.register_new_resolver("stem", _stem, replace=True)  # conf/data/table.yaml names a table after its file


def compose(*overrides: str) -> DictConfig:
    """The config that these overrides of conf/ make, unresolved and unchecked."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config of a condition without Hydra's own part."""
    return resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config's values, none of them an interpolation."""
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()}


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError with one line for the first key or value that is not allowed."""
    for group in ("data", "model", "optimizer", "trainer", "measure", "drift"):
        if not isinstance(config.get(group), dict):
            raise ValueError(f"{group}={config.get(group, 'nothing')}: must hold the keys that it has in conf/")
    if lost := [key for key in _DATA if key not in config["data"]]:
        raise ValueError(f"data.{lost[0]}: is missing; a file of conf/data begins with defaults: [_split, _self_]")
    known = sorted({*RULES, *(f"trainer.{key}" for key in TRAINER), *(f"data.{key}" for key in _data_keys(config))})
    for key in _leaves(config):
        # A model's and an optimizer's further keys are the arguments of a function: `training.check` asks it.
        if key not in known and not key.startswith(("study.", "model.", "optimizer.")):
            raise ValueError(_reason(key) or f"{key}: there is no such key{_nearest(key, known)}")
    for key, rule in RULES.items():
        try:
            _check(key, lookup(config, key), rule)
        except KeyError:
            if key not in _OPTIONAL:
                raise ValueError(f"{key}: is missing; it must be {rule.text}") from None
    for key, rule in TRAINER.items():
        if key in config["trainer"]:
            _check(f"trainer.{key}", config["trainer"][key], rule)
    if config["precision"] is not None and not (config["study"] or {}).get("family"):
        raise ValueError(f"precision={config['precision']}: is for declared studies; choose one with experiment=")
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
        allowed = config["seeds"] or f"{seeds(config)[0]} to {seeds(config)[-1]}"
        raise ValueError(f"measure.activation_seed={seed}: must be null or one of the condition's seeds, {allowed}")
    if config["study"] is not None:
        _check_study(config["study"])


def _check(key: str, value: Any, rule: Rule) -> None:
    if not rule.allowed(_spelled(value, rule.number)):
        near = _nearest(value, rule.text.removeprefix("one of ").split(", ") if rule.text.startswith("one of ") else [])
        raise ValueError(f"{key}={value}: must be {rule.text}{near}")


def _check_study(study: Mapping[str, Any]) -> None:
    for key in study:
        if key not in STUDY:
            raise ValueError(f"study.{key}: there is no such key{_nearest(key, [*STUDY])}")
    for key, rule in STUDY.items():
        if key not in study:
            raise ValueError(f"study.{key}: is missing; it must be {rule.text}")
        _check(f"study.{key}", study[key], rule)


def _data_keys(config: Mapping[str, Any]) -> set[str]:
    """The keys of a data config: every data set's, and its own source's arguments."""
    from normdrop.data.sources import arguments, source_of  # here: pandas and scikit-learn take a second to import

    return {*_DATA, *arguments(source_of(str(config["data"]["source"])))}


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
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[name]
    return value


def unknown_key(key: str, config: DictConfig) -> str:
    """One line for a key that no config has, with the nearest one that exists."""
    keys = [*_keys(OmegaConf.to_container(config, resolve=False)), "experiment"]
    group = key.partition(".")[0]
    where = f"{group}/, each file with its own" if (CONF / group).is_dir() else "config.yaml"
    return f"{key}: there is no such key{_nearest(key, keys) or f'; the keys stand in conf/{where}'}"


def _keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        if key != "hydra":
            keys.append(f"{prefix}{key}")
            keys += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return keys


def _reason(key: str) -> str | None:
    """Why an argument of Lightning's Trainer is refused."""
    group, _, name = key.partition(".")
    if group != "trainer" or (_nearest(name, names := [*_OWN_TRAINER, *TRAINER]) and name not in _WHY):
        return None
    why = _WHY.get(name, "it is none of Lightning's arguments that leave the training of a stack as it must be")
    return f"{key}: {why}; allowed are {', '.join(names)}"


def _nearest(value: Any, names: list[str]) -> str:
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"; did you mean {close[0]}?" if close and close[0] != str(value) else ""


def _spelled(value: Any, number: type[int | float] | None, key: str = "") -> Any:
    """One spelling of the numbers in a value: twelve digits, no −0, and whole ones int unless the key's are floats."""
    if isinstance(value, dict):
        below = {name: f"{key}.{name}".removeprefix(".") for name in value}
        return {name: _spelled(v, _NUMBERS.get(below[name], number), below[name]) for name, v in value.items()}
    if isinstance(value, list):
        return [_spelled(v, number) for v in value]
    if type(value) is int and number is float and abs(value) < 2**1023:
        value = float(value)
    if type(value) is float and math.isfinite(value):
        value = float(f"{value:.12g}") + 0.0
        return int(value) if number is int and value.is_integer() else value
    return value


def spelled(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in its one spelling. Raises KeyError."""
    return _spelled(lookup(config, key), _NUMBERS.get(key, int), key)


def canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The config that a condition is hashed, named and recorded by, and that trains.

    One spelling of every number, the data's path absolute, of equal networks one, rate 0 without dropout, and the
    engine that trains it here.
    """
    config = dict(_spelled(config, int))
    data = config["data"]
    data["name"] = str(data["name"])  # of OpenML a number
    if isinstance(data.get("path"), str):
        data["path"] = str(Path(data["path"]).expanduser().absolute())
    arrangement = config["arrangement"]
    _, position = same_network(arrangement, config["position"], config["model"].get("activation", "relu"))[0]
    rate = config["rate"] if has(arrangement, "dropout") else 0.0
    return config | {"position": position, "rate": rate, "engine": engine(config)}


def seeds(config: Mapping[str, Any]) -> list[int]:
    """The seeds of a condition's replicates, ascending."""
    first = config["first_seed"]
    return sorted(config["seeds"]) if config["seeds"] is not None else [*range(first, first + config["replicates"])]


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of all that a replicate's numbers depend on, but its seed: of given data, the rows themselves."""
    decisive = {key: value for key, value in config.items() if key not in NOT_HASHED}
    decisive["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("accelerator", "devices")}
    decisive["measure"] = {k: v for k, v in config["measure"].items() if f"measure.{k}" not in NOT_HASHED}
    if not config["data"]["fresh"] and "fingerprint" in config["data"]:
        decisive["data"] = {key: config["data"][key] for key in (*_DATA, "fingerprint")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
