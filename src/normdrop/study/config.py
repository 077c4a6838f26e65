"""A condition's config: composed from conf/, one clear line for what it may not hold, and which condition it is."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import joblib
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS, has, same_network
from normdrop.data import SERVED
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.study.app import CONF
from normdrop.study.record import NOT_HASHED
from normdrop.training import on_gpu


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


def _text(what: str) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v != "", what)


def _folder(path: str, what: str) -> Rule:
    def allowed(value: Any) -> bool:
        names = [name.casefold().removesuffix(".part").removesuffix(".new") for name in str(value).split("/")]
        return re.fullmatch(path, str(value), re.ASCII) is not None and not {*names} & {*RESERVED}

    return Rule(allowed, f"{what}: letters, digits, '_', '.' and '-' only, none of {', '.join(RESERVED)}")


RULES: dict[str, Rule] = {
    "arrangement": _one_of(*ARRANGEMENTS),
    "position": _one_of(*POSITIONS),
    "rate": _number(0, 1),
    "noise": _one_of(*NOISES),
    "replicates": _integer(1, 100_000),
    "first_seed": _integer(0),
    "precision": _or_null(_number(0, 1, strict=True)),
    "replicates_max": _integer(1, 100_000),
    "seeds": _or_null(_list_of(_integer(0), least=1)),
    "rerun": _one_of(0, 1),
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
    "model.name": _text("a name"),
    "model.init_gain": _number(0, strict=True),
    "optimizer._target_": _text("a name"),
    "optimizer.lr": _number(0, strict=True),
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
    "name": _folder(r"\w[\w.-]*(/\w[\w.-]*)*", "a folder below outputs, or folders with '/' between their names"),
    "data.name": _folder(r"\w[\w.-]*", "the name of a folder"),
}

# Not every model, optimizer or trainer has these.
_OPTIONAL: dict[str, Rule] = {
    # Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
    "model.width": _either(_integer(2), _WIDTHS),
    "model.depth": _integer(1, 1000),
    "model.activation": _one_of(*ACTIVATIONS),
    "model.output_activation": _one_of(None, *ACTIVATIONS),
    "model.dropout_layers": _one_of("all", "last"),
    "model.bn_momentum": _number(0, 1, strict=True),
    "model.bn_eps": _number(0, strict=True),
    "optimizer.clip": _or_null(_number(0, strict=True)),
    "optimizer.momentum": _number(0, 1),
    # Lightning's other arguments of which our training loop leaves the meaning whole; they are added with +trainer.
    "trainer.max_steps": _integer(1),
    "trainer.limit_train_batches": _share("batches"),
    "trainer.deterministic": _one_of(True, False, "warn"),
}
_DATA = ("name", "level", "source", *SERVED)

_SIDE = _either(_one_of(*ARRANGEMENTS), _list_of(_one_of(*ARRANGEMENTS), least=1))

# What an experiment declares.
_DECLARED: dict[str, Rule] = {
    "study.claim": _text("a name for the claim"),
    "study.sentence": _text("the claim in words"),
    "study.contrast": Rule(
        lambda v: isinstance(v, dict) and v.keys() == {"a", "b"} and all(map(_SIDE.allowed, v.values())),
        f"{{a: …, b: …}}, each {_SIDE.text}",
    ),
    "study.metric": _either(_one_of(*METRICS), _list_of(_one_of(*METRICS), least=1)),
    "study.secondary": _list_of(_one_of(*METRICS)),
    "study.kind": _one_of(*KINDS),
    "study.over": _or_null(_text("a key of the grid")),
    "study.core": Rule(lambda v: v is None or (isinstance(v, list) and len(v) > 1), "null or two or more of `over`"),
    "study.tuned": _list_of(_text("a key of the grid")),
    "study.rope": Rule(
        lambda v: (
            isinstance(v, dict) and all(k in METRICS and type(x) is float and 0 < x < math.inf for k, x in v.items())
        ),
        "{metric: a number > 0, …}",
        float,
    ),
    "study.alpha": _number(0, 1, strict=True),
    "study.apart": _list_of(_text("the name of a data set")),
    "study.family": _one_of("best_vs_best", "same_rate", None),
}

RULES |= _OPTIONAL | _DECLARED
_NUMBERS = {key: rule.number for key, rule in RULES.items()}
# What names columns or words of a table stays as it was typed.
_NUMBERS |= dict.fromkeys((f"data.{key}" for key in ("target", "categorical", "drop", "missing", "split_column")), None)


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
    model = config["model"]["name"] in ("mlp", "cnn") and not config["model"].get("residual")
    plain = config["optimizer"]["_target_"] in (f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD"))
    known = model and plain and not {"amsgrad", "maximize", "nesterov", "dampening"} & config["optimizer"].keys()
    able = known and "max_steps" not in config["trainer"] and not on_gpu(config["trainer"]["accelerator"])
    return "compiled" if able and importlib.util.find_spec("numba") else "torch"


def _stem(path: str | None) -> str:
    """A file's name without its ending, and without that of a packed one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(re.sub(r"\.(gz|bz2|xz)$", "", path or "table")).stem)


OmegaConf.register_new_resolver("workers", workers, replace=True)
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
    """The resolved config of a condition without Hydra's own part."""
    return resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config's values, none of them an interpolation."""
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()}


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError with one line for the first key or value that is not allowed."""
    groups = ("data", "model", "optimizer", "trainer", "measure", "drift", "study")
    declared = config.get("study") is not None
    for group in groups if declared else groups[:-1]:
        if not isinstance(config.get(group), dict):
            raise ValueError(f"{group}={config.get(group, 'nothing')}: must hold the keys that it has in conf/")
    if lost := [key for key in _DATA if key not in config["data"]]:
        raise ValueError(f"data.{lost[0]}: is missing; a file of conf/data begins with defaults: [_split, _self_]")
    from normdrop.data.sources import arguments, source_of  # here: pandas and scikit-learn take a second to import

    own = arguments(source_of(str(config["data"]["source"])))
    known = {*groups, *RULES, *(f"data.{key}" for key in (*_DATA, *own))}
    for key in keys(config):
        # A model's and an optimizer's further keys are the arguments of a function: `training.check` asks it.
        if key.split(".")[0] not in ("model", "optimizer") and ".".join(key.split(".")[:2]) not in known:
            raise ValueError(unknown_key(key, known))
    for key, rule in RULES.items():
        try:
            value = lookup(config, key)
        except KeyError:
            if key in _OPTIONAL or (key in _DECLARED and not declared):
                continue
            raise ValueError(f"{key}: is missing; it must be {rule.text}") from None
        if not rule.allowed(_spelled(value, rule.number)):
            names = rule.text.removeprefix("one of ").split(", ") if rule.text.startswith("one of ") else []
            raise ValueError(f"{key}={value}: must be {rule.text}{_nearest(value, names)}")
    width, depth = (config["model"].get(key) for key in ("width", "depth"))
    last, measured, numbers = config["trainer"]["max_epochs"], config["measure"], seeds(config)
    epochs, named = f"epochs from 1 to trainer.max_epochs={last}", config["seeds"] or f"{numbers[0]} to {numbers[-1]}"
    together = {
        "precision": (
            declared and config["study"]["family"] and config["seeds"] is None,
            "null but for declared studies: choose an experiment=, and seeds=null",
        ),
        "patience": (config["select_epoch"] == "best", "null unless select_epoch=best"),
        "model.width": (not isinstance(width, list) or len(width) == depth, f"model.depth={depth} numbers"),
        "measure.shift_epochs": (max(measured["shift_epochs"], default=0) <= last, epochs),
        "measure.activation_epochs": (max(measured["activation_epochs"], default=0) <= last, epochs),
        "measure.activation_seed": (measured["activation_seed"] in numbers, f"null or one of the seeds, {named}"),
    }
    for key, (right, allowed) in together.items():
        if not right and (value := lookup(config, key)) is not None:
            raise ValueError(f"{key}={value}: must be {allowed}")
    if declared:
        _check_keys(config, config["study"])


def _check_keys(config: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Raise ValueError with one line for a key named in a study that there is not, or that its kind cannot consume."""
    kind = KINDS[study["kind"]]
    named = [("study.tuned", name) for name in study["tuned"]] + [("study.over", study["over"])] * kind.consumes
    for where, name in named:
        try:
            value = lookup(config, str(name))
        except KeyError:
            close = _nearest(name, sorted(keys(config)))
            raise ValueError(f"{where}={name}: must be a key of the config that the grid varies{close}") from None
        over = where == "study.over"
        if over and (name in ("arrangement", "position", "rate", "rerun") or isinstance(value, (dict, list))):
            raise ValueError(f"{where}={name}: must be a key with one value, and none of arrangement, position, rate")
        if over and kind.of_numbers and type(value) not in (int, float):
            raise ValueError(f"{where}={name}: must be a key whose values are numbers, for study.kind={study['kind']}")


def keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config, those of its groups among them."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key. Raises KeyError."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[name]
    return value


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One line for a key that there is not, with the nearest one that there is."""
    group, of_trainer = key.split(".")[0], key.startswith("trainer.")
    names = [
        name.removeprefix(f"{group}.")
        for name in (RULES if of_trainer else sorted(known))
        if name.startswith(f"{group}.")
    ]
    why = "; replicates train as one stack on one device (see optimizer.clip, logging)" if of_trainer else ""
    why += f"; allowed are {', '.join(names)}" if names else ""
    return f"{key}: there is no such key{_nearest(key, sorted(known))}{why}"


def _nearest(value: Any, names: list[str]) -> str:
    close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.75)
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
    _, position = stands_for(config)[0]
    rate = config["rate"] if has(config["arrangement"], "dropout") else 0.0
    if config["model"].get("file"):
        from normdrop.networks.own import settle  # here: PyTorch takes seconds to import

        config["model"] = settle(config["model"])
    return config | {"position": position, "rate": rate, "engine": engine(config)}


def stands_for(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The arrangements and positions whose network a condition's is, those first by which it is known."""
    return same_network(config["arrangement"], config["position"], config["model"].get("activation", "relu"))


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
