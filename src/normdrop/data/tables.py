"""A user's table: from columns to rows. The rules:

Text is text. A feature is a column of numbers if each of its values reads as one (or all of them as true or false), but
for what is missing there: an empty cell and the usual words (NA, NaN, null …). Where zeros in front tell values apart
(01 beside 1), they are codes and no numbers. In the target and in the columns named in data.categorical only an empty
cell is missing; data.missing adds words everywhere. There a text is a label, and numbers are spelled alike (1, 1.0)
before they count as one, but for classes with data.classes=as_is. Labels sort as numbers if they all are, else as text.
Every column that is read has a name of its own. One decimal sign holds for the whole table.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normdrop.asked import check_memory, count, longer, override, quoted, require
from normdrop.data import files
from normdrop.data.files import clean
from normdrop.data.rows import SMALL, Rows

# What numeric columns write where there is no value, in any case.
NO_VALUE = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
CODE = r"[+-]?0\d+"
# Whole numbers with signs of thousands, which look like fractions with three digits.
THOUSANDS = r"[+-]?[1-9]\d{0,2}([.,]\d{3})+"
# What pandas calls a column without a name, and how it stores one: mostly a row index.
NAMELESS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
# Values (rows,), and which of them (rows,) bool are no numbers; numbers of labels (rows,), −1 for none, and the labels.
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
    """The user's own table: text (UTF-8), Parquet, or NPZ; conf/data/table.yaml says what each key does.

    In an NPZ each array is a column, or several if it has more than one dimension; a row of signals (rows, channels,
    length) or images (rows, channels, height, width; or channels last) keeps its shape, and square images without
    channels (rows, n, n) have one. A target (rows, classes) is one-hot. What is wrong raises ValueError, in one line.
    """
    if group_column is not None and order_column is not None:
        raise ValueError("data.order_column: must be null beside data.group_column; the latest rows are of any group")
    frame = files.read(path, target, drop, separator, header)
    roles = {"split_column": split_column, "group_column": group_column, "order_column": order_column}
    where = f"data.path={path!r}"
    return table_rows(frame, where, target, categorical, drop, impute, missing, decimal, classes, roles)


def table_rows(
    frame: pd.DataFrame,
    where: str,
    target: str | None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    impute: bool = False,
    missing: Sequence[str | float] = (),
    decimal: str | None = None,
    classes: str | None = None,
    roles: Mapping[str, str | None] | None = None,
) -> Rows:
    """Columns to features and classes; errors name the column and what to type.

    roles: the columns of data.split_column, group_column and order_column, if any.
    """
    for key, value in {"categorical": categorical, "drop": drop, "missing": missing}.items():
        require(f"data.{key}", value, isinstance(value, (list, tuple)), "a list, e.g. [a, b]")
    require("data.impute", impute, isinstance(impute, bool), "true or false")
    require("data.decimal", decimal, decimal in (None, ".", ","), "'.', ',', or null to find it")
    require("data.classes", classes, classes in (None, "as_is"), "as_is, or null for whole numbers or text")
    if len(frame) == 0:
        raise ValueError(f"{where}: the table has no rows")
    read = {"shape": (), "notes": ()} | frame.attrs
    asked: dict[str, Sequence[Any]] = {key: [name] for key, name in (roles or {}).items() if name is not None}
    asked |= {"target": [target], "categorical": categorical, "drop": drop}
    frame, given = _named(frame, where, asked)
    typed = given | {"missing": [*map(str, missing)]}
    frame, unmet = _blanked(frame, typed["missing"])
    own = {key: frame.pop(given[key][0]) for key in given if key not in ("categorical", "drop")}
    if frame.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {target!r}")
    decimal = decimal or _decimal_of(frame.drop(columns=given["categorical"]))
    y, names = _classes(own.pop("target"), decimal, classes)
    kept, told = _roles(own, decimal)
    blocks, alike = _features(frame, decimal, where, impute, typed)
    x = np.concatenate([*blocks.values()], axis=1)
    columns = tuple(name for name, block in blocks.items() for _ in range(block.shape[1]))
    kept["notes"] = (*read["notes"], *alike, *told, *unmet)
    kept["shape"] = read["shape"] if math.prod(read["shape"]) == x.shape[1] else ()  # none if others stand beside it
    kept["one_hot"] = sum(map(columns.count, given["categorical"]))
    kept["missing"] = sum(int(np.isnan(block[:, 0]).sum()) for block in blocks.values())
    return Rows(x, y, names, columns=columns, typed=typed, **kept)


def _named(
    frame: pd.DataFrame, where: str, asked: Mapping[str, Sequence[Any]]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The table without data.drop, its columns' names cleaned, and the names that each key asks for, as text."""
    columns = [clean(name) or f"Unnamed: {i}" for i, name in enumerate(frame.columns)]
    listed = ", ".join(columns[:12])
    if len(columns) > 12:
        listed += f", … ({len(columns)} columns)"
    target = asked["target"][0]
    one = isinstance(target, (str, int, float))
    require("data.target", target, one, f"the column to predict, a single one; {where} has: {listed}")
    given = {key: [*map(clean, names)] for key, names in asked.items()}
    taken: dict[str, str] = {}
    for key, names in given.items():
        for name in names:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, n=1)
                hint = f" (did you mean {quoted(near[0])}?)" if near else ""
                raise ValueError(f"data.{key}={name!r}: the table has no such column{hint}; it has: {listed}")
            if taken.setdefault(name, key) != key:
                raise ValueError(f"data.{key}={name!r}: this column is data.{taken[name]}")
    frame = frame.set_axis(columns, axis=1).drop(columns=given["drop"])
    for name in frame.columns:
        if NAMELESS.fullmatch(name):
            way = f"name it, or leave it out: {longer(given, 'drop', [name])}"
            raise ValueError(f"{where}: column {columns.index(name) + 1} has no name (a row index?): {way}")
    for name in frame.columns[frame.columns.duplicated()]:
        raise ValueError(f"{where}: two columns are named {name}: rename one in the file")
    return frame, given


# --- cells


def _text(column: pd.Series) -> pd.Series:
    if column.dtype == object:  # pandas would decode bytes, or fail to
        column = column.map(str, na_action="ignore")
    return column.astype("string")


def _blanked(frame: pd.DataFrame, words: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table with nothing in the cells that hold one of data.missing, and a note for each word that none holds.

    A number is the same in any spelling, with a decimal comma too, but for a code like 01.
    """
    unmet = {_spelled(word, ","): word for word in words}
    wanted = {*unmet}
    for name in frame if words else ():
        cells = _text(frame[name])
        spelled = {cell: _spelled(cell.strip(), ",") for cell in cells.dropna().unique()}
        told = [cell for cell in spelled if spelled[cell] in wanted]
        for cell in told:
            unmet.pop(spelled[cell], None)
        if told:
            frame[name] = frame[name].mask(cells.isin(told))
    return frame, [f"data.missing: no cell holds {word!r}" for word in unmet.values()]


def _decimal_of(frame: pd.DataFrame) -> str:
    """The decimal sign of all columns: a comma where one can be read in no other way, else a point.

    Raises ValueError for a column of cells like 1,234, which may be thousands or fractions. Fractions with a point
    often have three digits: they are in doubt only beside whole numbers of three digits.
    """
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        cells = _text(frame[name]).drop_duplicates().dropna().str.strip()
        signed = cells[cells.str.contains("[.,]")]
        comma = signed.str.contains(",").any()
        doubtful = comma or cells.str.fullmatch("[1-9][0-9]{2,}").any()
        if len(signed) and doubtful and signed.str.fullmatch(THOUSANDS).all():
            said = f"data.decimal: column {name!r} holds {signed.iloc[0]!r}: thousands or fractions?"
            way = override("data.decimal", "," if comma else ".")
            raise ValueError(f"{said} {way} takes fractions; else remove the signs of thousands")
        if comma and not _numbers(frame[name], ",")[1].any():
            return ","
    return "."


def _numbers(column: pd.Series, decimal: str) -> Numbers:
    """Values are float64, or as they came where that is one of SMALL; NaN where missing."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        kind: Any = getattr(column.dtype, "numpy_dtype", column.dtype)
        if kind not in SMALL or (kind == np.uint8 and column.isna().any()):
            kind = np.float64
        return column.to_numpy(kind, na_value=np.nan), np.zeros(len(column), bool)
    text = _text(column).str.strip()
    pointed = text
    if decimal == ",":
        pointed = text.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False)
    values = pd.to_numeric(pointed, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    odd = np.isnan(values)
    if odd.any():
        words = text.fillna("").str.lower()
        truth = odd.all()
        odd &= ~words.isin(NO_VALUE).to_numpy(bool)
        if truth and words[odd].isin(["true", "false"]).all():
            values[odd] = words[odd] == "true"
            odd[:] = False
    code = text.str.fullmatch(CODE).fillna(False).to_numpy(bool)
    if code.any():
        bare = text.drop_duplicates().str.replace(r"^([+-]?)0+(?=\d)", r"\1", regex=True)
        odd |= code & bare.duplicated().any()
    return values, odd


def _labels(column: pd.Series, decimal: str, as_is: bool = False) -> Labels:
    """as_is: numbers stay as they were typed, too."""
    text = _text(column)
    if not as_is:
        text = text.map({label: _spelled(label, decimal) for label in text.dropna().unique()}).astype("string")
    text = text.mask(text.str.strip() == "")
    names = text.dropna().unique().tolist()
    if all(map(NUMBER.fullmatch, names)):
        names.sort(key=lambda name: (float(name), name))
    else:
        names.sort()
    return pd.Categorical(text, categories=names).codes.astype(np.int64), tuple(names)


def _spelled(text: str, decimal: str) -> str:
    """The one spelling of a number (1.0 is 1); what may be a code (01, 1e2) and all else as they are."""
    number = text.strip().replace(decimal, ".")
    if not NUMBER.fullmatch(number) or re.match(CODE, number) or "e" in number.lower():
        return text
    whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", number)
    return str(int(whole[1])) if whole else repr(float(number))  # by its digits: a float holds but fifteen


def _alike(names: Sequence[str]) -> str:
    """The first two labels that differ by blanks, case, or what no eye sees; or nothing."""
    seen: dict[str, str] = {}
    for name in names:
        key = clean(name).casefold()
        if key in seen:
            return f"{seen[key]!r} and {name!r} differ only by blanks, case or invisible characters"
        seen[key] = name
    return ""


# --- features


def _features(
    frame: pd.DataFrame, decimal: str, where: str, impute: bool, typed: Mapping[str, Sequence[str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each column's features, (rows, features), NaN where it has no value, and notes."""
    blocks: dict[str, np.ndarray] = {}
    notes = []
    for name in map(str, frame):
        if name in typed["categorical"]:
            codes, labels = _labels(frame[name], decimal)
            check_memory(2 * len(frame) * len(labels), f"{where}: column {name!r}")
            block = np.eye(max(len(labels), 1), dtype=np.float16)[codes]
            block[codes < 0] = np.nan
            if alike := _alike(labels):
                notes.append(f"column {name!r}: {alike}")
        else:
            values, odd = _numbers(frame[name], decimal)
            if odd.any():
                raise ValueError(f"{where}: {_not_a_number(frame, name, decimal, typed)}")
            if np.isinf(values).any():
                raise ValueError(f"{where}: column {name!r} has infinite values")
            block = values[:, None]
        empty = np.isnan(block[:, 0]).sum()
        if empty == len(frame):
            raise ValueError(f"{where}: column {name!r} has no values; leave it out: {longer(typed, 'drop', [name])}")
        if empty and not impute:
            way = "data.impute=true puts the training mean there"
            raise ValueError(f"{where}: column {name!r} has {count(empty, 'missing value')}; {way}")
        blocks[name] = block
    return blocks, notes


def _not_a_number(frame: pd.DataFrame, name: str, decimal: str, typed: Mapping[str, Sequence[str]]) -> str:
    """The first cell of a column that is no number, and what to type."""
    odd = {other: _numbers(frame[other], decimal)[1] for other in frame if other not in typed["categorical"]}
    row = int(odd[name].argmax())
    word = " ".join(str(frame[name].iloc[row]).split())[:40]
    words = [str(other) for other in odd if odd[other].mean() >= 0.5]
    ways = [f"make it one-hot: {longer(typed, 'categorical', words if name in words else [name])}"]
    if name not in words:
        ways.append(f"the word means missing: {longer(typed, 'missing', [word])}")
    if decimal == ",":
        ways.append(f"its point is a decimal sign: {override('data.decimal', '.')}; signs of thousands must go")
    ways.append(f"leave it out: {longer(typed, 'drop', [name])}")
    return f"column {name!r} holds {word!r} (row {row + 1}), which is not a number: {'; '.join(ways)}"


# --- the target, and columns with a role


def _classes(column: pd.Series, decimal: str, classes: str | None) -> Labels:
    """Class numbers (rows,) and names."""
    where = f"data.target={column.name!r}"
    y, names = _labels(column, decimal, as_is=classes == "as_is")
    if (y < 0).any():
        raise ValueError(f"{where}: {count((y < 0).sum(), 'row')} with no value there")
    if len(names) < 2:
        raise ValueError(f"{where}: it holds one class only ('{names[0]}'); at least two are needed")
    if classes is None:
        if all(map(NUMBER.fullmatch, names)) and not all(float(name).is_integer() for name in names):
            raise ValueError(f"{where}: it holds fractions and looks continuous; data.classes=as_is makes each a class")
        if alike := _alike(names):
            ways = "write them alike in the file, or take them as two with data.classes=as_is"
            raise ValueError(f"{where}: the classes {alike}: {ways}")
    if 3 * len(names) > len(column):
        raise ValueError(f"{where}: {len(names)} distinct values in {len(column)} rows; classes are needed")
    return y, names


def _roles(columns: Mapping[str, pd.Series], decimal: str) -> tuple[dict[str, Any], list[str]]:
    """What `Rows` has of the columns of data.split_column, group_column and order_column, and notes."""
    kept: dict[str, Any] = {}
    notes = []
    for key, column in columns.items():
        text = _text(column).fillna("").str.strip()
        where = f"data.{key}={column.name!r}"
        if key == "split_column":
            part = text.str.lower().str.extract("^(train|val|test)(?:ing|id|idation)?$")[0].fillna("").to_numpy(str)
            odd, allowed = part == "", "train, val or test"
            kept |= {which: part == which for which in ("val", "test") if which in part}
        elif key == "group_column":
            codes, names = _labels(column, decimal)
            odd, allowed = codes < 0, "a value in each row"
            if alike := _alike(names):
                raise ValueError(f"{where}: the groups {alike}: write them alike in the file")
            kept["groups"] = pd.factorize(codes)[0]  # numbered as they come
        else:
            times = _times(column, text, decimal)
            odd, allowed = np.isnan(times), "numbers, or dates like 2024-12-31"
            kept["order"] = np.unique(times, return_inverse=True)[1]
            if "test" not in kept:
                first, last = text.iloc[times.argmin()], text.iloc[times.argmax()]
                span = f"in order from {first!r} to {last!r}, equal ones as the file has them"
                notes.append(f"{column.name}: {span}; the latest are tested")
        if odd.any():
            row = int(np.argmax(odd))
            raise ValueError(f"{where}: row {row + 1} holds {text.iloc[row]!r}; it must be {allowed}")
    return kept, notes


def _times(column: pd.Series, text: pd.Series, decimal: str) -> np.ndarray:
    """Each row's place in time, (rows,), equal times alike, of numbers or of ISO dates; NaN for what is neither."""
    values, odd = _numbers(column, decimal)
    if not odd.any():
        return values
    dated = text.where(text.str.match(r"\d{4}\D"))  # to pandas "today" is a date
    return pd.to_datetime(dated, format="ISO8601", errors="coerce", utc=True).rank(method="dense").to_numpy()
