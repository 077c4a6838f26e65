"""Every knob of a configuration: its type, its range, and what goes together. One class for each group of conf/.

`checked` is the one door: a config in its one spelling (2.0 seeds are 2; twelve digits; no −0), or one line that names
the key, its value and what is allowed there. What only the data or the networks know is checked by them.
"""

# mypy: disable-error-code="valid-type"
from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS
from normdrop.asked import dotted, override, quoted
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.study.told import nearest, unknown_key

# The names that a study's folder uses itself.
RESERVED = {
    *("report", "overview", "seeds", "plan.json", "record.json", "replicates.csv", "history.csv", "error.txt"),
    "networks.pt",
}


def spelled(value: Any) -> Any:
    """One spelling of the numbers in a value: twelve digits, no −0, and whole ones int."""
    if isinstance(value, dict):
        return {key: spelled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [spelled(inner) for inner in value]
    if type(value) is not float or not math.isfinite(value):
        return value
    value = float(f"{value:.12g}") + 0.0
    return int(value) if value.is_integer() else value


def _real(value: Any) -> Any:
    if type(value) is int and abs(value) < 2**1023:  # larger ones no float can hold
        value = float(value)
    return spelled(value)


def _as_text(value: Any) -> Any:
    """A whole number as text: layers of an nn.Sequential have numbers for names."""
    return str(value) if type(value) is int else value


def _words(value: Any, info: ValidationInfo) -> Any:
    """Names of columns, or words in them, of which none became a boolean or null on its way."""
    words = value if isinstance(value, list) else [value]
    texts = [json.dumps(word) if word is None or isinstance(word, bool) else str(word) for word in words]
    for word, text in zip(words, texts, strict=True):
        # No column at all is null, and data.missing looks for the word.
        null = word is None and words is value and info.field_name != "missing"
        if null or isinstance(word, bool):
            listed = words is value or info.field_name in ("categorical", "drop", "missing")
            way = override(f"data.{info.field_name}", texts if listed else text)
            raise ValueError(f"text, and {text} is none: put it in quotes, {way} (in YAML on, off, yes, no and ~ too)")
    return value


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a list of distinct values")
    return values


def _folder(value: Any) -> str:
    """A data set's name, which is that of a folder; at OpenML it may be a number."""
    name = str(value).casefold().removesuffix(".part")
    if value is None or not re.fullmatch(r"\w[\w.-]*", str(value), re.ASCII) or name in RESERVED:
        taken = ", ".join(sorted(RESERVED))
        raise ValueError(f"the name of a folder: letters, digits, '_', '.' and '-' only, none of {taken}")
    return str(value)


def _below_outputs(value: Any) -> str:
    for name in [value] if value is None else str(value).split("/"):
        _folder(name)
    return str(value)


Spelled = Annotated[Any, BeforeValidator(spelled)]
Whole = Annotated[int, BeforeValidator(spelled)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
Positive = Annotated[Whole, Field(ge=1)]
Rate = Annotated[Real, Field(ge=0, lt=1)]
AtLeast0 = Annotated[Real, Field(ge=0)]
Above0 = Annotated[Real, Field(gt=0)]
Open01 = Annotated[Real, Field(gt=0, lt=1)]
# Not 1: the products of a lone replicate with one unit round differently from those of several replicates.
Units = Annotated[Whole, Field(ge=2)]
Steps = Annotated[int, Field(ge=1)]
ShareOfAnEpoch = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Words = Annotated[Any, BeforeValidator(_words)]
Arrangement: Any = Literal[ARRANGEMENTS]
Activation: Any = Literal[tuple(ACTIVATIONS)]
Metric: Any = Literal[tuple(METRICS)]
Arrangements = Annotated[list[Arrangement], Field(min_length=1), AfterValidator(_distinct)]
Metrics = Annotated[list[Metric], AfterValidator(_distinct)]
ABSENT: Any = None  # of a key that not every configuration has: where it is absent, it stays absent


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Open(BaseModel):
    """A group whose further keys are the arguments of a function, which is asked what it takes before training."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Spelled]


class Drift(Group):
    scale: Rate
    offset: Real
    cycles: AtLeast0


class Trainer(Group):
    max_epochs: Positive
    accelerator: Literal["auto", "cpu", "gpu"]
    val_check_interval: Steps | ShareOfAnEpoch


class Measure(Group):
    shift: bool
    shift_epochs: Annotated[list[Positive], AfterValidator(_distinct)]
    silencing: bool


class Model(Open):
    name: Text
    init_gain: Above0
    # Of a network of one's own, whose further keys are arguments of its function.
    file: Text | None = ABSENT
    function: Text = ABSENT
    layers: Annotated[Text, BeforeValidator(_as_text)] = ABSENT
    keep_dropout: bool = ABSENT


class BuiltInModel(Model):
    width: Units | Annotated[list[Units], Field(min_length=1)] = ABSENT
    depth: Annotated[Positive, Field(le=1000)] = ABSENT
    activation: Activation = ABSENT
    output_activation: Activation | None = ABSENT
    dropout_layers: Literal["all", "last"] = ABSENT
    bn_momentum: Open01 = ABSENT
    bn_eps: Above0 = ABSENT


class Optimizer(Open):
    target: Text = Field(alias="_target_")
    lr: Above0
    weight_decay: AtLeast0
    schedule: Literal["constant", "cosine"]
    clip: Above0 | None = ABSENT
    momentum: Rate = ABSENT


class Data(Open):
    name: Annotated[str, BeforeValidator(_folder)]
    level: Above0
    source: Text
    # What every data set has, conf/data/_split.yaml; the data module knows what each may be.
    fresh: Spelled
    test_fraction: Spelled
    val_fraction: Spelled
    train_size: Spelled
    train_most: Spelled
    copies: Spelled
    pca: Spelled
    shape: Spelled
    # Of a table: names of columns and words in it, which stay as they are typed.
    target: Annotated[str | int | float | None, BeforeValidator(_words)] = ABSENT
    categorical: Words = ABSENT
    drop: Words = ABSENT
    missing: Words = ABSENT
    split_column: Words = ABSENT
    group_column: Words = ABSENT
    order_column: Words = ABSENT


class Contrast(Group):
    a: Arrangement | Arrangements
    b: Arrangement | Arrangements


class Declaration(Group):
    claim: Text
    sentence: Text
    contrast: Contrast
    metric: Metric | Annotated[Metrics, Field(min_length=1)]
    secondary: Metrics
    kind: Literal[tuple(KINDS)]
    over: Text | None
    core: Annotated[list[Any], Field(min_length=2)] | None
    tuned: list[Text]
    rope: dict[Metric, Above0]
    alpha: Open01
    apart: list[Text]
    family: Literal["best_vs_best", "same_rate"] | None


class Config(Group):
    arrangement: Arrangement
    position: Literal[POSITIONS]
    rate: Rate
    noise: Literal[NOISES]
    replicates: Annotated[Positive, Field(le=100_000)]
    first_seed: Annotated[Whole, Field(ge=0, lt=2**31)]
    rerun: Annotated[Whole, Field(ge=0, le=1)]
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
    checkpoint_minutes: AtLeast0
    save_networks: bool
    logging: Literal["minimal", "full", "per_seed"]
    name: Annotated[str, BeforeValidator(_below_outputs)]
    study: Declaration | None

    @model_validator(mode="after")
    def _together(self) -> Config:
        last = self.trainer.max_epochs
        if self.patience is not None and self.select_epoch != "best":
            raise ValueError(f"patience={self.patience}: must be null unless select_epoch=best")
        epochs = self.measure.shift_epochs
        if max(epochs, default=0) > last:
            raise ValueError(f"measure.shift_epochs={epochs}: must be epochs from 1 to trainer.max_epochs={last}")
        return self


class BuiltIn(Config):
    model: BuiltInModel

    @model_validator(mode="after")
    def _layers(self) -> BuiltIn:
        width, depth = self.model.width, self.model.depth
        if isinstance(width, list) and len(width) != depth:
            raise ValueError(f"model.width={width}: must be model.depth={depth} numbers")
        return self


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its one spelling. Raises ValueError with one line for the first key that is wrong."""
    model = config.get("model")
    kind = Config if isinstance(model, Mapping) and "file" in model else BuiltIn
    try:
        valid = kind.model_validate(dict(config))
    except ValidationError as error:
        raise ValueError(_said(error.errors(include_url=False), config)) from None
    known = valid.model_dump(by_alias=True, exclude_unset=True)
    if valid.study is not None:
        _check_names(known, valid.study)
    return known


def _check_names(config: Mapping[str, Any], study: Declaration) -> None:
    """Raise ValueError for a key named in a study that there is not, or that its kind cannot consume."""
    kind, known = KINDS[study.kind], dotted(config)
    named = [("study.tuned", name) for name in study.tuned]
    if kind.consumes:
        named.append(("study.over", str(study.over)))
    for where, name in named:
        if name not in known:
            close = nearest(name, known)
            raise ValueError(f"{where}={name}: must be a key of the config that the grid varies{close}")
        value = known[name]
    if kind.consumes and (name in ("arrangement", "position", "rate", "rerun") or isinstance(value, (dict, list))):
        raise ValueError(f"{where}={name}: must be a key with one value, and none of arrangement, position, rate")
    if kind.of_numbers and type(value) not in (int, float):
        raise ValueError(f"{where}={name}: must be a key whose values are numbers, for study.kind={study.kind}")


def _said(errors: Sequence[Any], config: Mapping[str, Any]) -> str:
    """One line for the first key of pydantic's errors: key=value: must be what is allowed, of several types each."""
    first = errors[0]
    value: Any = config
    path: list[Any] = []
    for part in first["loc"]:
        if not isinstance(value, dict):
            break  # inside a value: the key is what a person typed
        path.append(part)
        value = value.get(part)
    key = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        return unknown_key(key, {*dotted(config)} - {key})
    if first["type"] == "missing":
        return f"{key}: is missing"
    allowed: dict[str, None] = {}
    names: list[str] = []
    for error in errors:
        if list(error["loc"][: len(path)]) != path:
            continue
        text = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if error["type"] == "literal_error":
            names = re.findall(r"'([^']*)'", text)
            text = f"one of {', '.join(names)}"
        allowed[text] = None
    if not key:
        return " or ".join(allowed)  # of several keys together
    if value is None or isinstance(value, bool):
        value = json.dumps(value)
    elif isinstance(value, str) and first["type"].endswith("_type"):  # "0.3" is no number
        value = quoted(value)
    return f"{key}={value}: must be {' or '.join(allowed)}{nearest(value, names)}"
