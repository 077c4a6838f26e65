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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normdrop.asked import check_memory, count, longer, override, quoted, require
from normdrop.data import files
from normdrop.data.files import clean
from normdrop.data.rows import SMALL, Rows
from normdrop.data.suspects import like_group, may_have_role

# What numeric columns write where there is no value, in any case.
NO_VALUE = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
CODE = r"[+-]?0\d+"
# Whole numbers with signs of thousands, which look like fractions with three digits.
THOUSANDS, WHOLE = re.compile(r"\s*[+-]?[1-9]\d{0,2}([.,]\d{3})+\s*"), re.compile(r"\s*[1-9]\d{2,}\s*")
# Dates that look like numbers, but sort by the day or the month; of 2010.10 the month reads as 1.
DAY, MONTH = r"(0?[1-9]|[12]\d|3[01])", r"(0?[1-9]|1[0-2])"
YEAR_LAST = rf"({DAY}?{MONTH}|{MONTH}{DAY})[.,]?(19|20)\d\d|(19|20)\d\d[.,]([1-9]|1[0-2])"
SURELY = r"\d{6,}|.*[.,](1[0-2]|\d{4})"  # and not 12000, 12001 … or quarters
# What pandas calls a column without a name, and how it stores one: mostly a row index.
NAMELESS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
# Text with so many levels or fewer, or one for each ten rows, may be one-hot.
MOST_LEVELS = 20
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
    frame, dropped, given = _named(frame, where, asked)
    typed = given | {"missing": ["null" if word is None else str(word) for word in missing]}
    if roles is None:  # a source that has no such key
        typed["group_column"] = []
    frame, unmet = _blanked(frame, typed["missing"])
    own = {key: frame.pop(given[key][0]) for key in given if key not in ("categorical", "drop")}
    if frame.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {target!r}")
    others = [name for name in frame if name not in given["categorical"]]
    decimal = decimal or _decimal_of(frame[name] for name in others) or _decimal_of(own.values()) or "."
    y, names = _classes(own.pop("target"), decimal, classes)
    kept, told = _roles(own, decimal)
    blocks, alike = _features(frame, y, decimal, where, impute, typed)
    x = np.concatenate([*blocks.values()], axis=1)
    columns = tuple(name for name, block in blocks.items() for _ in range(block.shape[1]))
    kept["notes"] = (*read["notes"], *alike, *told, *unmet)
    kept["shape"] = read["shape"] if math.prod(read["shape"]) == x.shape[1] else ()  # none if others stand beside it
    kept["one_hot"] = sum(map(columns.count, given["categorical"]))
    kept["missing"] = sum(int(np.isnan(block[:, 0]).sum()) for block in blocks.values())
    kept["left_out"] = tuple(str(name) for name, column in dropped.items() if _left_out(column, y, decimal))
    return Rows(x, y, names, columns=columns, typed=typed, **kept)


def _named(
    frame: pd.DataFrame, where: str, asked: Mapping[str, Sequence[Any]]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, list[str]]]:
    """The table without data.drop, and what that leaves out, names cleaned; the names each key asks for, as text."""
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
        for name, value in zip(names, asked[key], strict=True):
            if name not in columns:
                hint = _instead(key, names, name, value, columns) + _one_hot(name, frame.set_axis(columns, axis=1))
                raise ValueError(f"data.{key}={name!r}: the table has no such column{hint}; it has: {listed}")
            if taken.setdefault(name, key) != key:
                raise ValueError(f"data.{key}={name!r}: this column is data.{taken[name]}")
    frame = frame.set_axis(columns, axis=1)
    dropped = frame[given["drop"]]
    frame = frame.drop(columns=given["drop"])
    for name in frame.columns[frame.columns.duplicated()]:
        raise ValueError(f"{where}: two columns are named {name}: rename one in the file")
    return frame, dropped, given


def _instead(key: str, names: Sequence[str], name: str, value: object, columns: Sequence[str]) -> str:
    """What may be meant by one of the names that a key asks for; value: as it came from the configuration."""
    number = isinstance(value, (int, float))
    near = [column for column in columns if number and NUMBER.fullmatch(column) and float(column) == value]
    near += difflib.get_close_matches(name, columns, n=1)
    hint = f" (did you mean {quoted(near[0])}?)" if near else ""
    if number:
        hint += "; it came as a number, and digits that are a name are typed in quotes"
    if number and near:
        meant = [near[0] if one == name else one for one in names]
        hint += f": {override(f'data.{key}', meant if key in ('categorical', 'drop') else near[0])}"
    return hint


def _one_hot(name: str, frame: pd.DataFrame) -> str:
    """That a name may stand for columns name_0, name_1 … of which each row has one."""
    parts = [column for column in map(str, frame) if column.startswith(f"{name}_")]
    if len(parts) < 2 or len({*parts}) < len(parts):
        return ""
    block = np.stack([_numbers(frame[column], ".")[0] for column in parts])
    if not np.isin(block, (0, 1)).all() or (block.sum(axis=0) != 1).any():
        return ""
    way = f"a target is one column of the classes, or in an NPZ one array {name} of (rows, classes)"
    return f"; {', '.join(parts[:3])}{' …' if len(parts) > 3 else ''} look one-hot: {way}"


# --- cells


def _text(column: pd.Series) -> pd.Series:
    if column.dtype == object:  # pandas would decode bytes, or fail to
        column = column.map(str, na_action="ignore")
    return column.astype("string")


def _blanked(frame: pd.DataFrame, words: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table with nothing in the cells that hold one of data.missing, and a note for each word that none holds.

    A number is the same in any spelling, with a decimal comma too, but for a code like 01.
    """
    unmet = {_value(word): word for word in words}
    wanted = {*unmet}
    for name in frame if words else ():
        cells = _text(frame[name])
        values = {cell: _value(cell) for cell in cells.dropna().unique()}
        told = [cell for cell, value in values.items() if value in wanted]
        for cell in told:
            unmet.pop(values[cell], None)
        if told:
            frame[name] = frame[name].mask(cells.isin(told))
    return frame, [f"data.missing: no cell holds {word!r}" for word in unmet.values()]


def _value(cell: str) -> str | float:
    """A number, but for a code like 01; or the text, of which Hydra has some in one spelling alone."""
    text = cell.strip()
    pointed = text.replace(",", ".")
    if NUMBER.fullmatch(pointed) and not re.match(CODE, pointed):
        return float(pointed)
    return text.lower() if text.lower() in ("null", "nan", "inf", "true", "false") else text


def _decimal_of(columns: Iterable[pd.Series]) -> str | None:
    """The decimal sign of all columns: a comma where most of one reads as numbers with it alone; None: there is none.

    Raises ValueError for a column of cells like 1,234, which may be thousands or fractions. Fractions with a point
    often have three digits: they are in doubt only beside whole numbers of three digits.
    """
    found = None
    for column in columns:
        if pd.api.types.is_numeric_dtype(column):
            continue
        cells = [*map(str, column.dropna().tolist())]
        comma = any("," in cell for cell in cells)
        signed = next((cell for cell in cells if "," in cell or "." in cell), "")
        doubtful = signed and all(THOUSANDS.fullmatch(cell) for cell in cells if "," in cell or "." in cell)
        if doubtful and (comma or any(map(WHOLE.fullmatch, cells))):
            said = f"data.decimal: column {column.name!r} holds {signed!r}: thousands or fractions?"
            way = override("data.decimal", "," if comma else ".")
            raise ValueError(f"{said} {way} takes fractions; else remove the signs of thousands, or leave it out")
        if comma:
            odd, other = (_numbers(column, sign)[1].sum() for sign in ",.")
            if odd < other and 2 * odd < len(cells):
                return ","
        if NUMBER.fullmatch(signed.strip()):
            found = "."
    return found


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
    frame: pd.DataFrame, y: np.ndarray, decimal: str, where: str, impute: bool, typed: Mapping[str, Sequence[str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each column's features, (rows, features), NaN where it has no value, and notes."""
    blocks: dict[str, np.ndarray] = {}
    notes, width = [], frame.shape[1]
    text: dict[str, str] = {}  # columns of it, each with a cell
    gaps: dict[str, int] = {}
    for name in map(str, frame):
        if name in typed["categorical"]:
            codes, labels = _labels(frame[name], decimal)
            width += len(labels)
            check_memory(8 * len(frame) * width, f"{where}: with column {name!r} as one-hot it")
            block = np.eye(max(len(labels), 1), dtype=np.float16)[codes]
            block[codes < 0] = np.nan
            if alike := _alike(labels):
                notes.append(f"column {name!r}: {alike}")
        else:
            values, odd = _numbers(frame[name], decimal)
            if odd.any():
                text[name] = " ".join(str(frame[name].iloc[odd.argmax()]).split())[:40]
                filled = len(frame) - (np.isnan(values) & ~odd).sum()
                if 2 * odd.sum() < filled or NUMBER.fullmatch(text[name]):  # a column of numbers
                    raise ValueError(f"{where}: {_not_a_number(frame[name], odd, text[name], decimal, typed)}")
                values = np.where(odd, 0.0, values)
            if (np.abs(values) > np.float64(1e300)).any():
                raise ValueError(f"{where}: column {name!r} has infinite values (or beyond ±1e300)")
            block = values[:, None]
        empty = int(np.isnan(block[:, 0]).sum())
        if empty == len(frame):
            raise ValueError(f"{where}: column {name!r} has no values; leave it out: {longer(typed, 'drop', [name])}")
        if empty and not impute:
            gaps[name] = empty
        blocks[name] = block
    grouped = [name for name in text if _like_group(frame[name], y, decimal)]
    if wrong := _all_at_once(frame, text, gaps, grouped, typed):
        raise ValueError(f"{where}: {wrong}")
    return blocks, notes


def _all_at_once(
    frame: pd.DataFrame,
    text: Mapping[str, str],
    gaps: Mapping[str, int],
    grouped: Sequence[str],
    typed: Mapping[str, Sequence[str]],
) -> str:
    """What is wrong with whole columns, and what to type about all of it; or nothing.

    text: columns of text, each with a cell; grouped: those that look like a group of rows. gaps: columns with cells
    without a value, and how many.
    """
    nameless = [name for name in map(str, frame) if NAMELESS.fullmatch(name)]
    levels = {name: _text(frame[name]).nunique() for name in text if name not in nameless}
    few = [name for name in levels if levels[name] <= max(MOST_LEVELS, len(frame) / 10)]
    empty = {name: int(_blank(_text(frame[name])).sum()) for name in levels}
    groups = [name for name in grouped if name in levels and name not in few and not empty[name]][:1]
    if not may_have_role(typed):
        groups = []
    drop = [*nameless, *(name for name in levels if name not in (*few, *groups))]
    # In text only an empty cell is one: NA may be a level.
    gaps = {name: empty.get(name, number) for name, number in gaps.items() if name not in drop and empty.get(name, 1)}
    found, ways = [], []
    if nameless:
        found.append(f"{count(len(nameless), 'column')} without a name (a row index?)")
    if levels:
        found.append("text in " + ", ".join(f"{name!r} ({text[name]!r})" for name in [*levels][:5]))
    if gaps:
        missing = count(sum(gaps.values()), "missing value")
        found.append(f"{missing} in {', '.join(map(repr, [*gaps][:5]))}")
    if drop:
        ways.append(f"leave out: {longer(typed, 'drop', drop)}")
    if few:
        ways.append(f"make one-hot: {longer(typed, 'categorical', few)}")
    if groups:
        ways.append(f"keep the rows of one {groups[0]} in one part: {override('data.group_column', groups[0])}")
    if gaps:
        ways.append("put the training mean there: data.impute=true")
    return f"{'; '.join(found)}: {'; '.join(ways)}" if found else ""


def _left_out(column: pd.Series, y: np.ndarray, decimal: str) -> bool:
    """Whether a column of data.drop looks like a group, and may be one: each row has a value."""
    text = _text(column)
    if text.nunique() > len(column) / 2:  # told without a look at long text
        return False
    return not _blank(text).any() and _like_group(column, y, decimal)


def _blank(text: pd.Series) -> pd.Series:
    """Which cells of text have nothing in them."""
    return text.fillna("").str.strip().eq("")


def _like_group(column: pd.Series, y: np.ndarray, decimal: str) -> bool:
    values, odd = _numbers(column, decimal)
    if odd.any():
        codes, levels = _labels(column, decimal)
        values = np.random.default_rng(0).permutation(len(levels))[codes]  # the order of text means nothing
    return like_group(str(column.name), values, y)


def _not_a_number(
    column: pd.Series, odd: np.ndarray, word: str, decimal: str, typed: Mapping[str, Sequence[str]]
) -> str:
    """What is wrong with cells among numbers, the first of which is `word`, and what to type."""
    name, row = str(column.name), int(odd.argmax())
    ways = [f"make it one-hot: {longer(typed, 'categorical', [name])}"]
    ways.append(f"the word means missing: {longer(typed, 'missing', [word])}")
    if _text(column)[odd].nunique() == 1:  # one word is mostly that
        ways.reverse()
    if decimal == ",":
        ways.append(f"its point is a decimal sign: {override('data.decimal', '.')}; signs of thousands must go")
    elif "," in word:
        ways.append("remove signs of thousands from the file")
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
            if not odd.any() and "train" not in part:
                raise ValueError(f"{where}: no row is train")
            kept |= {which: part == which for which in ("val", "test") if which in part}
        elif key == "group_column":
            codes, _ = _labels(_text(column).map(lambda name: clean(name).casefold(), na_action="ignore"), decimal)
            odd, allowed = codes < 0, "a value in each row: a name of its own where it belongs to no group"
            kept["groups"] = pd.factorize(codes)[0]  # numbered as they come
        else:
            times = _times(column, text, decimal)
            odd, allowed = np.isnan(times), "numbers, or dates with the year first like 2024-12-31"
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
        unsorted = text.str.fullmatch(YEAR_LAST).all() and text.str.fullmatch(SURELY).any()
        return np.full(len(values), np.nan) if unsorted else values
    dated = text.where(text.str.match(r"\d{4}(\D|\d{4}\D)"))  # to pandas "today" is a date
    return pd.to_datetime(dated, format="ISO8601", errors="coerce", utc=True).rank(method="dense").to_numpy()
