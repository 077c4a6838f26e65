"""Every knob of a configuration: its type, its range, and what goes together. One class for each group of conf/.

`checked` is the one door: a config in its one spelling (2.0 seeds are 2; twelve digits; no −0), or one line that names
the key, its value and what is allowed there. What only the data or the networks know is checked by them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS
from normdrop.data import SERVED
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.study.told import nearest, unknown_key

# The names that a study's folder uses itself.
RESERVED = ("report", "overview", "seeds", "plan.json", "record.json", "replicates.csv", "history.csv", "error.txt")
RESERVED += ("networks.pt",)
LARGEST = 2**31 - 1
AS_TYPED = ("target", "categorical", "drop", "missing", "split_column")  # they name columns or words of a table


def canonical_number(value: float) -> float:
    """Twelve digits, no −0."""
    return float(f"{value:.12g}") + 0.0


def canonical_numbers(value: Any) -> Any:
    """One spelling of the numbers in a value whose type nobody declared: whole ones are int."""
    if isinstance(value, dict):
        return {key: canonical_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [canonical_numbers(inner) for inner in value]
    if type(value) is not float or not math.isfinite(value):
        return value
    value = canonical_number(value)
    return int(value) if value.is_integer() else value


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a value stands twice")
    return values


def _folder(value: str) -> str:
    names = {name.casefold().removesuffix(".part") for name in value.split("/")}
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value, re.ASCII) or names & {*RESERVED}:
        raise ValueError("no folder of its own")
    return value


def _one_folder(value: str) -> str:
    if "/" in value:
        raise ValueError("two folders")
    return _folder(value)


_LETTERS = f"letters, digits, '_', '.' and '-' only, none of {', '.join(RESERVED)}"
Whole = Annotated[int, BeforeValidator(_whole), Le(LARGEST)]
Positive = Annotated[Whole, Ge(1)]
Natural = Annotated[Whole, Ge(0)]
Number = Annotated[float, AfterValidator(canonical_number)]
Above0 = Annotated[Number, Gt(0)]
From0 = Annotated[Number, Ge(0)]
Rate = Annotated[Number, Ge(0), Lt(1)]
Open01 = Annotated[Number, Gt(0), Lt(1)]
Epochs = Annotated[list[Positive], AfterValidator(_distinct), "a list of distinct integers ≥ 1"]
Interval = Annotated[
    Annotated[int, Ge(1), Le(LARGEST)] | Annotated[Number, Gt(0), Le(1)],
    "an integer ≥ 1 (optimizer steps) or a number with a point > 0 and ≤ 1.0 (share of an epoch)",
]
Text = Annotated[str, Field(min_length=1), "text"]
Folder = Annotated[
    str, AfterValidator(_folder), f"a folder below outputs, or folders with '/' between their names: {_LETTERS}"
]
DataName = Annotated[
    str, BeforeValidator(str), AfterValidator(_one_folder), f"the name of a folder: {_LETTERS}"
]  # of OpenML a number
Arrangement = Literal[ARRANGEMENTS]  # type: ignore[valid-type]
Position = Literal[POSITIONS]  # type: ignore[valid-type]
Noise = Literal[NOISES]  # type: ignore[valid-type]
Activation = Literal[tuple(ACTIVATIONS)]  # type: ignore[valid-type]
MetricName = Literal[tuple(METRICS)]  # type: ignore[valid-type]
KindName = Literal[tuple(KINDS)]  # type: ignore[valid-type]
Side = Arrangement | Annotated[list[Arrangement], Field(min_length=1), AfterValidator(_distinct)]
# Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
Units = Annotated[Whole, Ge(2)]
Width = Annotated[
    Units | Annotated[list[Units], Field(min_length=1)],
    "an integer ≥ 2, or a list with one integer ≥ 2 for each hidden layer",
]
# A key that not every configuration has: where it is absent, it stays absent.
ABSENT: Any = None


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Open(BaseModel):
    """A group whose further keys are the arguments of a function, which is asked what it takes before training."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Drift(Group):
    scale: Rate
    offset: Number
    cycles: From0


class Trainer(Group):
    max_epochs: Positive
    accelerator: Literal["auto", "cpu", "gpu"]
    val_check_interval: Interval


class Measure(Group):
    shift: bool
    shift_epochs: Epochs
    silencing: bool


class Model(Open):
    name: Text
    init_gain: Above0
    width: Width = ABSENT
    depth: Annotated[Positive, Le(1000)] = ABSENT
    activation: Activation = ABSENT
    output_activation: Activation | None = ABSENT
    dropout_layers: Literal["all", "last"] = ABSENT
    bn_momentum: Open01 = ABSENT
    bn_eps: Above0 = ABSENT


class Optimizer(Open):
    target: Text = Field(alias="_target_")
    lr: Above0
    weight_decay: From0
    schedule: Literal["constant", "cosine"]
    clip: Above0 | None = ABSENT
    momentum: Rate = ABSENT


class Data(Open):
    name: DataName
    level: Above0
    source: Text
    target: Annotated[str | int | float | None, "the name of a column; in YAML in quotes where it reads as true"] = ABSENT


class Contrast(Group):
    a: Side
    b: Side


class Declaration(Group):
    claim: Text
    sentence: Text
    contrast: Contrast
    metric: MetricName | Annotated[list[MetricName], Field(min_length=1), AfterValidator(_distinct)]
    secondary: Annotated[list[MetricName], AfterValidator(_distinct)]
    kind: KindName
    over: Text | None
    core: Annotated[list[Any], Field(min_length=2)] | None
    tuned: list[Text]
    rope: Annotated[dict[MetricName, Above0], "{metric: a number > 0, …}"]
    alpha: Open01
    apart: list[Text]
    family: Literal["best_vs_best", "same_rate"] | None


class Config(Group):
    arrangement: Arrangement
    position: Position
    rate: Rate
    noise: Noise
    replicates: Annotated[Positive, Le(100_000)]
    first_seed: Natural
    rerun: Annotated[Literal[0, 1], BeforeValidator(_whole)]
    replicates_at_a_time: Positive | None
    batch_size: Positive
    engine: Literal["auto", "torch", "compiled"]
    select_epoch: Literal["last", "best"]
    patience: Positive | None
    drift: Drift
    trainer: Trainer
    measure: Measure
    data: Data
    model: Model
    optimizer: Optimizer
    checkpoint_minutes: From0
    save_networks: bool
    logging: Literal["minimal", "full", "per_seed"]
    name: Folder
    study: Declaration | None

    @model_validator(mode="after")
    def _together(self) -> Config:
        width, depth, last = self.model.width, self.model.depth, self.trainer.max_epochs
        if self.patience is not None and self.select_epoch != "best":
            raise ValueError(f"patience={self.patience}: must be null unless select_epoch=best")
        if isinstance(width, list) and len(width) != depth:
            raise ValueError(f"model.width={width}: must be model.depth={depth} numbers")
        if max(self.measure.shift_epochs, default=0) > last:
            said = f"measure.shift_epochs={self.measure.shift_epochs}"
            raise ValueError(f"{said}: must be epochs from 1 to trainer.max_epochs={last}")
        return self


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its one spelling. Raises ValueError with one line for the first key that is wrong."""
    for key in ("name", "level", "source", *SERVED):
        if isinstance(config.get("data"), dict) and key not in config["data"]:
            raise ValueError(f"data.{key}: is missing; a file of conf/data begins with defaults: [_split, _self_]")
    try:
        valid = Config.model_validate(dict(config))
    except ValidationError as error:
        raise ValueError(_said(error.errors(include_url=False)[0], config)) from None
    known = valid.model_dump(by_alias=True, exclude_unset=True)
    for group, kind in (("data", Data), ("model", Model), ("optimizer", Optimizer)):
        for key in known[group].keys() - {field.alias or name for name, field in kind.model_fields.items()}:
            if group != "data" or key not in AS_TYPED:
                known[group][key] = canonical_numbers(known[group][key])
    if known["study"] is not None:
        _check_names(known, known["study"])
    return known


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


def _check_names(config: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Raise ValueError for a key named in a study that there is not, or that its kind cannot consume."""
    kind = KINDS[study["kind"]]
    named = [("study.tuned", name) for name in study["tuned"]]
    if kind.consumes:
        named.append(("study.over", study["over"]))
    for where, name in named:
        try:
            value = lookup(config, str(name))
        except KeyError:
            close = nearest(name, keys(config))
            raise ValueError(f"{where}={name}: must be a key of the config that the grid varies{close}") from None
        over = where == "study.over"
        if over and (name in ("arrangement", "position", "rate", "rerun") or isinstance(value, (dict, list))):
            raise ValueError(f"{where}={name}: must be a key with one value, and none of arrangement, position, rate")
        if over and kind.of_numbers and type(value) not in (int, float):
            raise ValueError(f"{where}={name}: must be a key whose values are numbers, for study.kind={study['kind']}")


def _said(error: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """One line for an error of pydantic's: key=value: must be what its type allows."""
    path: list[str] = []
    kind: Any = Config
    for part in error["loc"]:
        fields = _fields(kind)
        if fields is None or (part not in fields and error["type"] != "extra_forbidden"):
            break  # inside a value: the key is what a person typed
        path.append(str(part))
        kind = fields.get(str(part))
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return unknown_key(key, known_keys())
    if error["type"] == "value_error" and (not path or _fields(kind) is not None):
        return str(error["ctx"]["error"])  # of several keys together
    group = _fields(kind) is not None
    if error["type"] == "missing":
        return f"{key}: is missing; it must be {'a group' if group else allowed(kind)}"
    try:
        value = lookup(config, key)
    except KeyError:
        value = "nothing"
    if group:
        return f"{key}={value}: must hold the keys that it has in conf/"
    text = "null" if value is None else value
    text = str(text).lower() if isinstance(text, bool) else text
    return f"{key}={text}: must be {allowed(kind)}{nearest(value, _choices(kind))}"


def _fields(kind: Any) -> dict[str, Any] | None:
    """The types of a group's fields by key; None for what is no group."""
    if get_origin(kind) in (Union, UnionType):  # a group or null
        kind = next((part for part in get_args(kind) if part is not NoneType), None)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return None
    hints = get_type_hints(kind, include_extras=True)
    return {field.alias or name: hints[name] for name, field in kind.model_fields.items()}


def known_keys(kind: Any = Config, prefix: str = "") -> list[str]:
    """All dotted keys that are declared above."""
    found = []
    for name, inner in (_fields(kind) or {}).items():
        found.append(f"{prefix}{name}")
        found += known_keys(inner, f"{prefix}{name}.")
    return found


def allowed(kind: Any) -> str:
    """What a value of this type may be, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = [note for note in parts[1:] if isinstance(note, str)]
        return said[0] if said else allowed(parts[0]) + _bounds(parts[1:])
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(allowed(part) for part in sorted(parts, key=lambda part: part is not NoneType))
    if origin is list:
        return f"a list of distinct values, each {allowed(parts[0])}" if parts[0] is not Any else "a list"
    return {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "null"}[kind]


def _bounds(notes: tuple[Any, ...]) -> str:
    words = []
    for note in notes:
        for sign, name in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le")):
            limit = getattr(note, name, None)
            if isinstance(note, (Ge, Gt, Le, Lt)) and limit is not None and limit != LARGEST:
                words.append(f"{sign} {limit}")
    return " " + " and ".join(words) if words else ""


def _choices(kind: Any) -> list[str]:
    """The names that a value of this type may have."""
    if get_origin(kind) is Literal:
        return [str(name) for name in get_args(kind)]
    return [name for part in get_args(kind) for name in _choices(part)]
