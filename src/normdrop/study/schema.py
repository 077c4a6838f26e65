"""Every knob of a configuration: its type, its range, and what goes together. One class for each group of conf/.

`checked` is the one door: a config in its one spelling (2.0 seeds are 2; twelve digits; no −0), or one line that names
the key, its value and what is allowed there. What only the data or the networks know is checked by them.
"""

# mypy: disable-error-code="valid-type"
from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS
from normdrop.data import SERVED
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.study.told import nearest, unknown_key

# The names that a study's folder uses itself.
RESERVED = (
    *("report", "overview", "seeds", "plan.json", "record.json", "replicates.csv", "history.csv", "error.txt"),
    "networks.pt",
)
# They name columns or words of a table.
AS_TYPED = ("target", "categorical", "drop", "missing", "split_column", "group_column", "order_column")


def canonical(value: Any) -> Any:
    """One spelling of the numbers in a value: twelve digits, no −0, and whole ones int."""
    if isinstance(value, dict):
        return {key: canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [canonical(inner) for inner in value]
    if type(value) is not float or not math.isfinite(value):
        return value
    value = float(f"{value:.12g}") + 0.0
    return int(value) if value.is_integer() else value


def _integer(low: int, high: int = 2**31 - 1) -> Any:
    """The type of whole numbers from low to high, however they are typed: 2, 2.0, 2e0."""

    def check(value: Any) -> int:
        value = canonical(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"an integer ≥ {low}" + (f" and ≤ {high}" if high < 2**31 - 1 else ""))
        return value

    return Annotated[int, BeforeValidator(check)]


def _number(low: float, *, above: bool = False, below: float = math.inf) -> Any:
    """The type of numbers from low, or above it, and below a limit."""

    def check(value: Any) -> float:
        number = type(value) in (int, float) and abs(value) < 2**1023  # nor nan, inf, what floats lack
        value = canonical(float(value)) if number else value
        if not number or value < low or (above and value == low) or value >= below:
            limits = f" {'>' if above else '≥'} {low:g}" if low > -math.inf else ""
            raise ValueError(f"a number{limits}" + (f" and < {below:g}" if below < math.inf else ""))
        return float(value)

    return Annotated[float, BeforeValidator(check)]


def _distinct(kind: Any, least: int = 0) -> Any:
    """The type of lists whose values are distinct."""

    def check(values: Any) -> Any:
        if not isinstance(values, list) or len(values) < least or len({*map(str, values)}) < len(values):
            raise ValueError(f"a list of distinct values{', not empty' if least else ''}")
        return values

    return Annotated[list[kind], BeforeValidator(check)]


def _interval(value: Any) -> Any:
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value <= 1):
        return value
    raise ValueError("an integer ≥ 1 (optimizer steps) or a float > 0 and ≤ 1 (share of an epoch)")


def _width(value: Any) -> Any:
    # Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
    value = canonical(value)
    units = value if isinstance(value, list) else [value]
    if not units or not all(type(unit) is int and unit >= 2 for unit in units):
        raise ValueError("an integer ≥ 2, or a list with one integer ≥ 2 for each hidden layer")
    return value


def _folder(path: str, what: str) -> Any:
    def check(value: Any) -> str:
        names = {name.casefold().removesuffix(".part") for name in str(value).split("/")}
        if not re.fullmatch(path, str(value), re.ASCII) or names & {*RESERVED}:
            raise ValueError(f"{what}: letters, digits, '_', '.' and '-' only, none of {', '.join(RESERVED)}")
        return str(value)  # a data set of OpenML may be a number

    return Annotated[str, BeforeValidator(check)]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


def _column(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise ValueError("the name of a column; in YAML in quotes where it reads as true: 'on'")
    return value


Text = Annotated[Any, BeforeValidator(_text)]
Positive, Rate = _integer(1), _number(0, below=1)
Above0, Open01 = _number(0, above=True), _number(0, above=True, below=1)
Arrangement: Any = Literal[ARRANGEMENTS]
Activation: Any = Literal[tuple(ACTIVATIONS)]
Measured: Any = Literal[tuple(METRICS)]
Side: Any = Arrangement | _distinct(Arrangement, least=1)
ABSENT: Any = None  # of a key that not every configuration has: where it is absent, it stays absent


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Open(BaseModel):
    """A group whose further keys are the arguments of a function, which is asked what it takes before training."""

    model_config = ConfigDict(extra="allow", strict=True)


class Drift(Group):
    scale: Rate
    offset: _number(-math.inf)
    cycles: _number(0)


class Trainer(Group):
    max_epochs: Positive
    accelerator: Literal["auto", "cpu", "gpu"]
    val_check_interval: Annotated[int | float, BeforeValidator(_interval)]


class Measure(Group):
    shift: bool
    shift_epochs: _distinct(Positive)
    silencing: bool


class Model(Open):
    name: Text
    init_gain: Above0
    width: Annotated[Any, BeforeValidator(_width)] = ABSENT
    depth: _integer(1, 1000) = ABSENT
    activation: Activation = ABSENT
    output_activation: Activation | None = ABSENT
    dropout_layers: Literal["all", "last"] = ABSENT
    bn_momentum: Open01 = ABSENT
    bn_eps: Above0 = ABSENT


class Optimizer(Open):
    target: Text = Field(alias="_target_")
    lr: Above0
    weight_decay: _number(0)
    schedule: Literal["constant", "cosine"]
    clip: Above0 | None = ABSENT
    momentum: Rate = ABSENT


class Data(Open):
    name: _folder(r"\w[\w.-]*", "the name of a folder")
    level: Above0
    source: Text
    target: Annotated[Any, BeforeValidator(_column)] = ABSENT


class Contrast(Group):
    a: Side
    b: Side


class Declaration(Group):
    claim: Text
    sentence: Text
    contrast: Contrast
    metric: Measured | _distinct(Measured, least=1)
    secondary: _distinct(Measured)
    kind: Literal[tuple(KINDS)]
    over: Text | None
    core: Annotated[list[Any], Field(min_length=2)] | None
    tuned: list[Text]
    rope: dict[Measured, Above0]
    alpha: Open01
    apart: list[Text]
    family: Literal["best_vs_best", "same_rate"] | None


class Config(Group):
    arrangement: Arrangement
    position: Literal[POSITIONS]
    rate: Rate
    noise: Literal[NOISES]
    replicates: _integer(1, 100_000)
    first_seed: _integer(0)
    rerun: _integer(0, 1)
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
    checkpoint_minutes: _number(0)
    save_networks: bool
    logging: Literal["minimal", "full", "per_seed"]
    name: _folder(r"\w[\w.-]*(/\w[\w.-]*)*", "a folder below outputs, or folders with '/' between their names")
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
    for group in ("data", "model", "optimizer"):
        declared = getattr(valid, group).model_fields_set - (getattr(valid, group).model_extra or {}).keys()
        for key in known[group].keys() - declared - {*AS_TYPED, "_target_"}:
            known[group][key] = canonical(known[group][key])
    if known["study"] is not None:
        _check_names(known, known["study"])
    return known


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


def _said(error: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """One line for an error of pydantic's: key=value: must be what is allowed."""
    value: Any = config
    path: list[str] = []
    for part in error["loc"]:
        if not isinstance(value, dict):
            break  # inside a value: the key is what a person typed
        path.append(str(part))
        value = value.get(part)
    key, text = ".".join(path), str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return unknown_key(key, {*keys(config)} - {key})
    if error["type"] == "missing":
        return f"{key}: is missing"
    if isinstance(value, dict) and error["type"] == "value_error":
        return text  # of several keys together
    if "dict" in error["type"] or error["type"].startswith("model"):
        return f"{key}={value}: must hold the keys that it has in conf/"
    names = re.findall(r"'([^']*)'", text) if error["type"] == "literal_error" else []
    text = f"one of {', '.join(names)}" if names else text.removeprefix("Input should be ")
    given = str(value).lower() if isinstance(value, bool) else value
    given = "null" if value is None else given
    return f"{key}={given}: must be {text}{nearest(value, names)}"
