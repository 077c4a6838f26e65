"""A user's table: from columns to rows. The rules:

Text is text. A feature is a column of numbers if each of its values reads as one (or all of them as true or false), but
for what is missing there: an empty cell and the usual words (NA, NaN, null …). Where zeros in front tell values apart
(01 beside 1), they are codes and no numbers. In the target and in the columns named in data.categorical only an empty
cell is missing; data.missing adds words everywhere. There a text is a label, and numbers are spelled alike (1, 1.0)
before they count as one. Labels sort as numbers if they all are, else as text. Every column that is read has a name of
its own. Separator and decimal sign are found where only one fits, and asked for otherwise.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from normdrop.data import files
from normdrop.data.asked import check_memory, override, require
from normdrop.data.files import clean
from normdrop.data.rows import SMALL, Rows
from normdrop.data.suspects import NAMED_SO

# What numeric columns write where there is no value, in any case; the words that pandas reads so.
NO_VALUE = (
    *("", "na", "n/a", "#n/a", "#na", "#n/a n/a", "<na>", "nan", "-nan", "null", "none"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
CODE = r"[+-]?0\d+"
# What pandas calls a column without a name, and how it stores one: mostly a row index.
NAMELESS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
COLUMNS = "columns, e.g. [a, b]"
LISTS = {"categorical": COLUMNS, "drop": COLUMNS, "missing": "words or numbers, e.g. ['?', -999]"}
# Values (rows,), and which of them (rows,) bool are no numbers; numbers of labels (rows,), and the labels.
Numbers = tuple[np.ndarray, np.ndarray]
Labels = tuple[np.ndarray, tuple[str, ...]]


def table(
    path: str | None,
    target: str | None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    impute: bool = False,
    missing: Sequence[str | float] = (),
    separator: str | None = None,
    header: bool | None = None,
    decimal: str | None = None,
    classes: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    order_column: str | None = None,
) -> Rows:
    """The user's own table: text (UTF-8), Parquet, or NPZ, with the target's column named.

    In an NPZ each array is a column, or several if it has more than one dimension; a row of signals (rows, channels,
    length) or images (rows, channels, height, width; or channels last) keeps its shape, and square images without
    channels (rows, n, n) have one. A target (rows, classes) is one-hot. categorical: columns to make one-hot. drop:
    columns to leave out. impute: let missing values stand as NaN, to be given the training part's mean. missing:
    further words for a missing value. separator, header, decimal: of a text file, None to find them. classes: "as_is"
    takes fractions, and labels that differ only by blanks or case, as they are. No features are: split_column, which
    says train, val or test; group_column, whose equal values stay in one part; order_column, numbers or ISO dates, the
    latest of which are tested.
    """
    frame = files.read(path, target, drop, separator, header)
    roles = {"split_column": split_column, "group_column": group_column, "order_column": order_column}
    where = f"data.path={path!r}"
    return table_rows(frame, where, target, categorical, drop, impute, missing, decimal, classes, roles)


def table_rows(
    frame: pd.DataFrame,
    where: str,
    target: str | None,
    categorical: Sequence[str] | None = (),
    drop: Sequence[str] = (),
    impute: bool = False,
    missing: Sequence[str | float] = (),
    decimal: str | None = None,
    classes: str | None = None,
    roles: Mapping[str, str | None] | None = None,
) -> Rows:
    """Columns to features and classes; errors name the column and what to type.

    categorical: None for all text. roles: the columns of data.split_column, group_column and order_column, if any.
    """
    require("data.impute", impute, isinstance(impute, bool), "true or false")
    require("data.decimal", decimal, decimal in (None, ".", ","), "'.', ',', or null to find it")
    require("data.classes", classes, classes in (None, "as_is"), "as_is, or null for whole numbers or text")
    for key, value in {"categorical": categorical or (), "drop": drop, "missing": missing}.items():
        require(f"data.{key}", value, isinstance(value, (list, tuple)), f"a list of {LISTS[key]}")
    if len(frame) == 0:
        raise ValueError(f"{where}: the table has no rows")
    attrs = {"shape": (), "notes": (), "dropped": ()} | frame.attrs
    asked: dict[str, Any] = {key: [name] for key, name in (roles or {}).items() if name is not None}
    asked |= {
        "target": [target],
        "categorical": categorical or (),
        "drop": [name for name in drop if str(name) not in attrs["dropped"]],
    }
    frame, given = _named(frame, where, asked)
    goal = given["target"][0]
    features = frame.drop(columns=[given[key][0] for key in ("target", *ROLES) if key in given])
    if features.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {goal!r}")
    cells, read = _read(features, given["categorical"], [*map(str, missing)], decimal)
    y, names = _classes(frame[goal], cells, classes)
    one_hot = given["categorical"] if categorical is not None else [name for name in read if read[name][1].any()]
    levels = {name: cells.labels(features[name]) for name in one_hot}
    x, columns, notes = _features(features, levels, read, cells, where)
    holes = _missing(x, columns, impute, where)
    notes += [f"data.missing: no cell holds {word!r}" for word in cells.missing if word not in cells.heard]
    rows = Rows(x, y, names, one_hot=sum(map(columns.count, one_hot)), missing=holes, columns=tuple(columns))
    shape = attrs["shape"] if math.prod(attrs["shape"]) == x.shape[1] else ()  # with other features there is none
    parts: list[Any] = [ROLES[key](frame[given[key][0]], key) for key in ROLES if key in given]
    return replace(rows, notes=(*attrs["notes"], *notes), shape=shape, **dict(ChainMap(*parts)))


def _named(
    frame: pd.DataFrame, where: str, asked: Mapping[str, Sequence[Any]]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The table without data.drop, its columns' names cleaned, and the names that each key asks for."""
    columns = [clean(name) or f"Unnamed: {i}" for i, name in enumerate(frame.columns)]
    listed = ", ".join(columns[:12]) + (f", … ({len(columns)} columns)" if len(columns) > 12 else "")
    given: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for key, names in asked.items():
        for name in names:
            one = name is not None and not isinstance(name, (list, tuple))
            require(f"data.{key}", name, one, f"the column to predict, a single one; {where} has: {listed}")
            if isinstance(name, bool):
                word = "on or yes" if name else "off or no"
                raise ValueError(f"data.{key}={name}: YAML reads {word} as {name}; put the column's name in quotes")
            text = clean(name)
            if text not in columns:
                near = difflib.get_close_matches(text, columns, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"data.{key}={text!r}: the table has no such column{hint}; it has: {listed}")
            if taken.setdefault(text, key) != key:
                raise ValueError(f"data.{key}={text!r}: this column is data.{taken[text]}")
        given[key] = [clean(name) for name in names]
    frame = frame.set_axis(columns, axis=1).drop(columns=given["drop"])
    for name in frame.columns:
        places = [i + 1 for i, other in enumerate(columns) if other == name]
        if NAMELESS.fullmatch(name):  # mostly a row index
            way = f"name it, or leave it out: {override('data.drop', [name])}"
            raise ValueError(f"{where}: column {places[0]} has no name (a row index?): {way}")
        if len(places) > 1:
            both = " and ".join(map(str, places))
            raise ValueError(f"{where}: two columns are named {name} (columns {both}): rename one in the file")
    return frame, given


# --- features


def _missing(x: np.ndarray, columns: list[str], impute: bool, where: str) -> int:
    """How many cells have no value. Raises ValueError where that is not allowed."""
    holes = {name: int(np.isnan(x[:, columns.index(name)]).sum()) for name in dict.fromkeys(columns)}
    for name, count in holes.items():
        if count == len(x):
            raise ValueError(f"{where}: column {name!r} has no values; leave it out: {override('data.drop', [name])}")
        if count and not impute:
            way = "data.impute=true gives them the training mean"
            raise ValueError(f"{where}: column {name!r} has {count} missing values; {way}")
    return sum(holes.values())


def _features(
    features: pd.DataFrame, levels: Mapping[str, Labels], read: Mapping[str, Numbers], cells: Cells, where: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """x, (rows, features), the column of each feature, and notes. levels: the labels of what becomes one-hot."""
    names = [str(name) for name in features]
    columns = [name for name in names for _ in ((name in levels and levels[name][1]) or "1")]
    small = np.result_type(np.uint8, *(read[name][0] for name in names if name not in levels))
    check_memory(len(features), len(columns), 2 * small.itemsize, where)
    blocks, notes = [], []
    for name in names:
        if name in levels:
            codes, of = levels[name]
            block = np.eye(len(of) + 1, max(len(of), 1), dtype=np.float16)[codes]
            block[codes < 0] = np.nan
            if alike := _alike(of):
                notes.append(f"column {name!r}: {alike} differ only by blanks, case or invisible characters")
        else:
            values, odd = read[name]
            if odd.any():
                raise ValueError(f"{where}: {cells.not_a_number(features[name], odd)}")
            if (np.abs(values.astype(np.float64)) > 1e300).any():
                raise ValueError(f"{where}: column {name!r} has infinite values (or beyond ±1e300)")
            block = values[:, None]
        blocks.append(block)
    return np.concatenate(blocks, axis=1), columns, notes


@dataclass
class Cells:
    """How cells are read: further words for a missing value, and the decimal sign. heard: the words that were met."""

    missing: Sequence[str]
    decimal: str
    heard: set[str] = field(default_factory=set)

    def numbers(self, column: pd.Series) -> Numbers:
        """A column's values (rows,), NaN where missing, and which of them (rows,) bool are no numbers.

        They are float64, or as they came where that is one of SMALL.
        """
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
            kind: Any = getattr(column.dtype, "numpy_dtype", column.dtype)
            small = kind in SMALL and not (kind == np.uint8 and column.isna().any())
            values, odd = column.to_numpy(kind if small else np.float64, na_value=np.nan), np.zeros(len(column), bool)
        else:
            values, odd = self._of_text(_text(column).str.strip())
        for word in self.missing:
            if NUMBER.fullmatch(word):
                # of float32, −99.9 is another number
                told = values == (values.dtype.type(word) if values.dtype.kind == "f" else float(word))
                if told.any():
                    values = np.where(told, np.nan, values)
                    self.heard.add(word)
        return values, odd

    def _of_text(self, text: pd.Series) -> Numbers:
        text = text.mask(text == "")
        pointed = text
        if self.decimal == ",":
            pointed = text.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False)
        values = pd.to_numeric(pointed, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        odd = np.isnan(values) & text.notna().to_numpy(bool)
        self.heard.update(text[odd & text.isin(self.missing).to_numpy(bool)])
        odd[odd] = ~(text[odd].str.lower().isin(NO_VALUE) | text[odd].isin(self.missing)).to_numpy(bool)
        truth = text[odd].str.lower()
        if np.isnan(values).all() and truth.isin(["true", "false"]).all():
            values[odd], odd = truth == "true", odd & False
        if (values == np.round(values)).any() and (code := text.str.fullmatch(CODE).fillna(False).to_numpy(bool)).any():
            bare = text.drop_duplicates().str.replace(r"^([+-]?)0+(?=\d)", r"\1", regex=True)
            odd |= code & bare.duplicated().any()
        return values, odd

    def labels(self, column: pd.Series) -> Labels:
        """A column's labels: numbers (rows,) int64 from 0, −1 where missing, and their names, sorted."""
        text = _text(column)
        spelled = {label: self.spelled(label) for label in text.dropna().unique()}
        empty = {self.spelled(word): word for word in self.missing}
        self.heard.update(empty[name] for name in spelled.values() if name in empty)
        names = {name for name in spelled.values() if name.strip() and name not in empty}
        number = all(map(NUMBER.fullmatch, names))
        order = sorted(names, key=lambda name: (float(name) if number else 0, name))
        place = {name: i for i, name in enumerate(order)}
        codes = {label: place[name] for label, name in spelled.items() if name in place}
        return text.map(codes).to_numpy(np.int64, na_value=-1), tuple(order)

    def spelled(self, text: str) -> str:
        """The one spelling of a number (1.0 is 1); what may be a code (01, 1e2) and all else as they are."""
        number = text.strip().replace(self.decimal, ".")
        if not NUMBER.fullmatch(number) or re.match(CODE, number) or "e" in number.lower():
            return text
        return str(int(number.split(".")[0] or 0)) if float(number).is_integer() else repr(float(number))

    def not_a_number(self, column: pd.Series, odd: np.ndarray) -> str:
        row, name = int(odd.argmax()), str(column.name)
        word = " ".join(str(column.iloc[row]).split())[:40]
        ways = [f"make the column one-hot: {override('data.categorical', [name])}"]
        if odd.mean() < 0.5:
            ways.append(f"the word means missing: {override('data.missing', [*self.missing, word])}")
        if not Cells(self.missing, ",").numbers(column)[1].any():
            ways.append(f"its comma is a decimal sign: {override('data.decimal', ',')}")
        ways.append(f"leave it out: {override('data.drop', [name])}")
        if NAMED_SO.fullmatch(name):
            ways.append(f"it says which rows belong together: {override('data.group_column', name)}")
        return f"column {name!r} holds {word!r} (row {row + 1}), which is not a number: {'; '.join(ways)}"


def _read(
    features: pd.DataFrame, one_hot: Sequence[str], missing: Sequence[str], decimal: str | None
) -> tuple[Cells, dict[str, Numbers]]:
    """How cells are read, the decimal sign found if it is not given, and all columns but `one_hot` read as numbers."""
    numeric = [str(name) for name in features if name not in one_hot]
    cells = Cells(missing, decimal or ".")
    read = {name: cells.numbers(features[name]) for name in numeric}
    for name in numeric if decimal is None else ():
        if read[name][1].any() and not Cells(missing, ",").numbers(features[name])[1].any():
            thousands = _text(features[name]).str.strip().str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+|[^,]*")
            if not thousands.fillna(True).all():  # whole numbers with thousands look alike
                return _read(features, one_hot, missing, ",")
    return cells, read


def _text(column: pd.Series) -> pd.Series:
    # pandas would decode bytes, or fail to
    return (column.map(str, na_action="ignore") if column.dtype == object else column).astype("string")


# --- labels and roles


def _alike(names: Sequence[str]) -> str:
    """The first two labels that differ by blanks, case, or what no eye sees; or nothing."""
    seen: dict[str, str] = {}
    for name in names:
        key = clean(unicodedata.normalize("NFKC", name)).casefold()
        if key in seen:
            return f"{seen[key]!r} and {name!r}"
        seen[key] = name
    return ""


def _classes(column: pd.Series, cells: Cells, classes: str | None) -> Labels:
    """Class numbers (rows,) and names."""
    where = f"data.target={column.name!r}"
    y, names = cells.labels(column)
    if empty := int((y < 0).sum()):
        raise ValueError(f"{where}: {empty} rows have no value there")
    if len(names) < 2:
        raise ValueError(f"{where}: it holds one class only ('{names[0]}'); at least two are needed")
    if classes != "as_is" and all(map(NUMBER.fullmatch, names)) and not all(float(n).is_integer() for n in names):
        raise ValueError(f"{where}: it holds fractions and looks continuous; data.classes=as_is makes each a class")
    if classes != "as_is" and (alike := _alike(names)):
        ways = "write them alike in the file, or take them as two with data.classes=as_is"
        raise ValueError(f"{where}: the classes {alike} differ only by blanks, case or invisible characters: {ways}")
    if 3 * len(names) > len(column):
        raise ValueError(f"{where}: {len(names)} distinct values in {len(column)} rows; classes are needed")
    return y, names


def _split(column: pd.Series, key: str) -> dict[str, np.ndarray]:
    """The validation and the test rows (rows,) bool that a column names, where it names them."""
    part = _text(column).str.strip().str.lower().str.extract("^(train|val|test)(?:ing|id|idation)?$")[0]
    _check_all(column, part.isna(), key, "train, val or test")
    if not (part == "train").any():
        raise ValueError(f"data.{key}={column.name!r}: no row is train; it must be train, val or test")
    return {which: (part == which).to_numpy(bool) for which in ("val", "test") if (part == which).any()}


def _groups(column: pd.Series, key: str) -> dict[str, np.ndarray]:
    """A number for each row, the same for equal texts."""
    text = _text(column).str.strip()
    _check_all(column, text.isna() | (text == ""), key, "a value in each row")
    return {"groups": pd.factorize(text)[0]}


def _order(column: pd.Series, key: str) -> dict[str, np.ndarray]:
    """Each row's place in time, equal times alike: of numbers, or of ISO dates."""
    values, odd = Cells([], ".").numbers(column)
    if odd.any():
        dates = pd.to_datetime(_text(column).str.strip(), format="ISO8601", errors="coerce", utc=True)
        values = dates.dt.as_unit("ns").astype("int64").to_numpy()
        odd = dates.isna().to_numpy()
    else:
        odd = np.isnan(values)
    _check_all(column, odd, key, "numbers, or dates like 2024-12-31")
    return {"order": np.unique(values, return_inverse=True)[1]}


def _check_all(column: pd.Series, odd: Any, key: str, allowed: str) -> None:
    if odd.any():
        row = int(np.argmax(odd))
        wrong = f"row {row + 1} holds {str(column.iloc[row])!r}"
        raise ValueError(f"data.{key}={column.name!r}: {wrong}; it must be {allowed}")


ROLES = {"split_column": _split, "group_column": _groups, "order_column": _order}
