"""A user's table: from columns to rows. The rules:

Text is text. A feature is a column of numbers if each of its values reads as one (or all of them as true or false), but
for what is missing there: an empty cell and the usual words (NA, NaN, null …). Where zeros in front tell values apart
(01 beside 1), they are codes and no numbers. In the target and in the columns named in data.categorical only an empty
cell is missing; data.missing adds words everywhere. There a text is a label, and numbers are spelled alike (1, 1.0)
before they count as one, but for classes with data.classes=as_is. Labels sort as numbers if they all are, else as text.
Every column that is read has a name of its own. Separator and decimal sign are found where only one fits, and asked for
otherwise.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normdrop.asked import check_memory, count, longer, override, require
from normdrop.data import files
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
# Words that are none to Hydra, in any case.
BARE = ("null", "nan", "inf", "true", "false")
# Whole numbers with thousands, at a sign, look like fractions with three digits.
THOUSANDS = r"[+-]?[1-9]\d{{0,2}}([{0}]\d{{3}})+|[^{0}]*"
# Dates that look like numbers, but sort by the day or the month, which is the group; a zero in front may be lost.
DAY, MONTH = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
YEAR_LAST = rf"^({DAY}?{MONTH}|{MONTH}{DAY})[.,]?(?:19|20)\d\d$"
# Months, the group, of which 10 reads as 1 and 11 sorts before 2.
UNPADDED = r"^(?:19|20)\d\d[.,]([1-9]|1[0-2])$"
# Of six digits: a date with the year last, with the year first, and a time of day.
SIX = [rf"({DAY}{MONTH}|{MONTH}{DAY})..", f"..{MONTH}{DAY}", "([01].|2[0-3])([0-5].)+"]
# What pandas calls a column without a name, and how it stores one: mostly a row index.
NAMELESS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
COLUMNS = "columns, e.g. [a, b]"
LISTS = {"categorical": COLUMNS, "drop": COLUMNS, "missing": "words or numbers, e.g. ['?', -999]"}
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
    """The user's own table: text (UTF-8), Parquet, or NPZ, with the target's column named.

    In an NPZ each array is a column, or several if it has more than one dimension; a row of signals (rows, channels,
    length) or images (rows, channels, height, width; or channels last) keeps its shape, and square images without
    channels (rows, n, n) have one. A target (rows, classes) is one-hot. categorical: columns to make one-hot. drop:
    columns to leave out. impute: let missing values stand as NaN, to be given the training part's mean. missing:
    further words for a missing value. separator, header, decimal: of a text file, None to find them. classes: "as_is"
    takes fractions, and labels that differ only by blanks, case or spelling (1.1 and 1.10), as they are. No features
    are: split_column, which says train, val or test; group_column, whose equal values stay in one part; order_column,
    numbers or ISO dates, the latest of which are tested.
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
    lists: dict[str, Sequence[Any]] = {"categorical": categorical or (), "drop": drop, "missing": missing}
    for key, value in lists.items():
        require(f"data.{key}", value, isinstance(value, (list, tuple)), f"a list of {LISTS[key]}")
    if len(frame) == 0:
        raise ValueError(f"{where}: the table has no rows")
    read_already = {"shape": (), "notes": (), "dropped": ()} | frame.attrs
    asked: dict[str, Sequence[Any]] = {key: [name] for key, name in (roles or {}).items() if name is not None}
    left = [name for name in drop if str(name) not in read_already["dropped"]]
    asked |= {"target": [target], "categorical": categorical or (), "drop": left}
    frame, given = _named(frame, where, asked)
    goal = given["target"][0]
    typed = given | {"drop": [*read_already["dropped"], *given["drop"]], "missing": [*map(_word, missing)]}
    frame, unmet = _blanked(frame, typed["missing"])
    with_role = {key: frame.pop(given[key][0]) for key in ROLES if key in given}
    features = frame.drop(columns=goal)
    if features.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {goal!r}")
    numbers, decimal = _numbers_of(features.drop(columns=given["categorical"]), decimal)
    kept: dict[str, Any] = {}
    for key in with_role:
        kept |= ROLES[key](with_role[key], key, decimal)
    y, names = _classes(frame[goal], decimal, classes)
    words = [name for name, (_, odd) in numbers.items() if odd.any()]
    one_hot = words if categorical is None else given["categorical"]
    levels = {name: _labels(features[name], decimal) for name in one_hot}
    x, columns, holes, notes = _features(features, levels, numbers, where, impute, typed)
    if "order" in kept and "test" not in kept:
        notes.append(_span(with_role["order_column"], kept["order"]))
    shape = read_already["shape"] if math.prod(read_already["shape"]) == x.shape[1] else ()  # none beside others
    kept |= {"notes": (*read_already["notes"], *notes, *unmet), "shape": shape, "missing": holes}
    return Rows(x, y, names, one_hot=sum(map(columns.count, levels)), columns=tuple(columns), typed=typed, **kept)


def _named(
    frame: pd.DataFrame, where: str, asked: Mapping[str, Sequence[Any]]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The table without data.drop, its columns' names cleaned, and the names that each key asks for."""
    columns = [clean(name) or f"Unnamed: {i}" for i, name in enumerate(frame.columns)]
    places: dict[str, list[str]] = {}
    for place, name in enumerate(columns, start=1):
        places.setdefault(name, []).append(str(place))
    listed = ", ".join(columns[:12])
    if len(columns) > 12:
        listed += f", … ({len(columns)} columns)"
    target = asked["target"][0]
    one = isinstance(target, (str, int, float))
    require("data.target", target, one, f"the column to predict, a single one; {where} has: {listed}")
    given = {key: _meant(key, names, places) for key, names in asked.items()}
    taken: dict[str, str] = {}
    for key, names in given.items():
        for name in names:
            if name not in places:
                near = difflib.get_close_matches(name, columns, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"data.{key}={name!r}: the table has no such column{hint}; it has: {listed}")
            if taken.setdefault(name, key) != key:
                raise ValueError(f"data.{key}={name!r}: this column is data.{taken[name]}")
    frame = frame.set_axis(columns, axis=1).drop(columns=given["drop"])
    for name in frame.columns:
        if NAMELESS.fullmatch(name):
            way = f"name it, or leave it out: {longer(given, 'drop', [name])}"
            raise ValueError(f"{where}: column {places[name][0]} has no name (a row index?): {way}")
        if len(places[name]) > 1:
            both = " and ".join(places[name])
            raise ValueError(f"{where}: two columns are named {name} (columns {both}): rename one in the file")
    return frame, given


def _meant(key: str, names: Sequence[Any], columns: Iterable[str]) -> list[str]:
    """Names as columns have them: one that Hydra has read as a number, or as true, stands for the column of its value.

    Hydra reads 1.10 as 1.1. Raises ValueError where several columns have the value.
    """
    words = [*map(_word, names)]
    values: dict[object, list[str]] = {}
    for column in columns:
        values.setdefault(_value(column), []).append(column)
    for place, name in enumerate(names):
        same = values.get(_value(words[place]), [])
        if not isinstance(name, str) and len(same) > 1:
            each = [[*words[:place], column, *words[place + 1 :]] for column in same]
            ways = " or ".join(override(f"data.{key}", way if key in LISTS else way[0]) for way in each)
            raise ValueError(f"data.{key}={words[place]}: {len(same)} columns have this value; quote one: {ways}")
        if not isinstance(name, str) and same:
            words[place] = same[0]
    return [*map(clean, words)]


# --- cells


def _text(column: pd.Series) -> pd.Series:
    if column.dtype == object:  # pandas would decode bytes, or fail to
        column = column.map(str, na_action="ignore")
    return column.astype("string")


def _blanked(frame: pd.DataFrame, words: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table with nothing in the cells that hold one of data.missing, and a note for each word that none holds.

    A number is the same in any spelling, with a decimal comma too, but for a code like 01.
    """
    unmet = list(words)
    for name in frame:
        for word in words:
            column = frame[name]
            if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
                kind = getattr(column.dtype, "numpy_dtype", column.dtype)
                with np.errstate(over="ignore"):
                    # Of float32, −99.9 is another number.
                    value = kind.type(word) if kind.kind == "f" and NUMBER.fullmatch(word) else _value(word)
                told = (column == value).fillna(False) & (value not in (np.inf, -np.inf))
            else:
                text = _text(column)
                told = text.isin([cell for cell in text.dropna().unique() if _value(cell) == _value(word)])
            if told.any():
                frame[name] = column.mask(told.astype(bool))
                unmet = [other for other in unmet if other != word]
    return frame, [f"data.missing: no cell holds {word!r}" for word in unmet]


def _word(typed: object) -> str:
    return "null" if typed is None else str(typed)


def _value(cell: str) -> str | float:
    """A number, or the text; what Hydra has other values for, has one spelling."""
    text = cell.strip()
    pointed = text.replace(",", ".")
    if NUMBER.fullmatch(pointed) and not re.match(CODE, pointed):
        return float(pointed)
    return text.lower() if text.lower() in BARE else text


def _numbers_of(features: pd.DataFrame, decimal: str | None) -> tuple[dict[str, Numbers], str | None]:
    """All columns read as numbers, and the decimal sign of all: a comma where a column can be read in no other way."""
    numbers = {str(name): _numbers(features[name], decimal or ".") for name in features}
    if decimal is None:
        if any(odd.any() and _sign(features[name], None) == "," for name, (_, odd) in numbers.items()):
            return _numbers_of(features, ",")
        for name, (values, _) in numbers.items():
            if ((values == np.rint(values)) & (np.abs(values) >= 100)).any():
                _check_thousands(features[name])
    return numbers, decimal


def _sign(column: pd.Series, decimal: str | None) -> str:
    """The decimal sign of a column: that of all, or a comma where this one can be read in no other way."""
    if decimal or not _numbers(column, ".")[1].any() or _in_thousands(column, ","):
        return decimal or "."
    return "." if _numbers(column, ",")[1].any() else ","


def _in_thousands(column: pd.Series, sign: str) -> bool:
    form = THOUSANDS.format(sign)
    some = (column.iloc[:1000], column)  # most columns differ early
    return all(_text(part).str.strip().str.fullmatch(form).fillna(True).all() for part in some)


def _check_thousands(column: pd.Series) -> None:
    """Refuse fractions that may be thousands: each has three digits, and beside them stand whole numbers of three."""
    if pd.api.types.is_numeric_dtype(column) or not _in_thousands(column, "."):
        return
    text = _text(column).str.strip()
    pointed, whole = (text[text.str.fullmatch(form).fillna(False)] for form in (r"[^.]*[.].*", r"[+-]?[1-9]\d{2,}"))
    if len(pointed) and len(whole):
        cells = f"{pointed.iloc[0]!r} beside {whole.iloc[0]!r}"
        ways = f"{override('data.decimal', '.')} takes fractions; else remove the points"
        ways += ", or name a word for no value in data.missing"
        raise ValueError(f"data.decimal: column {column.name!r} holds {cells}: thousands or fractions? {ways}")


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


def _labels(column: pd.Series, decimal: str | None, typed: bool = False) -> Labels:
    """typed: text stays as it was typed, numbers too."""
    text = _text(column)
    if not typed or pd.api.types.is_numeric_dtype(column):
        sign = _sign(column, decimal)
        text = text.map({label: _spelled(label, sign) for label in text.dropna().unique()}).astype("string")
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
    if not float(number).is_integer():
        return repr(float(number))
    return str(int(number.split(".")[0].rstrip("+-") or 0))  # by its digits: a float holds but fifteen


def _folded(label: str) -> str:
    """A label without what no eye sees, in small letters."""
    return clean(unicodedata.normalize("NFKC", label)).casefold()


def _alike(names: Sequence[str]) -> str:
    """The first two labels that differ by blanks, case, or what no eye sees; or nothing."""
    seen: dict[str, str] = {}
    for name in names:
        key = _folded(name)
        if key in seen:
            return f"{seen[key]!r} and {name!r} differ only by blanks, case or invisible characters"
        seen[key] = name
    return ""


# --- features


def _features(
    features: pd.DataFrame,
    levels: Mapping[str, Labels],
    numbers: Mapping[str, Numbers],
    where: str,
    impute: bool,
    typed: Mapping[str, Sequence[str]],
) -> tuple[np.ndarray, list[str], int, list[str]]:
    """x, (rows, features), the column of each feature, how many cells have no value, and notes.

    levels: the labels of the columns that become one-hot. typed: data.categorical, drop and missing.
    """
    blocks, columns, notes, holes = [], list[str](), [], 0
    words = [name for name in numbers if numbers[name][1].mean() >= 0.5 and name not in levels]
    for name in map(str, features):
        if name in levels:
            codes, labels = levels[name]
            check_memory(8 * len(features) * (len(columns) + len(labels)), f"{where}: it")
            block = np.eye(max(len(labels), 1), dtype=np.float16)[codes]
            block[codes < 0] = np.nan
            if alike := _alike(labels):
                notes.append(f"column {name!r}: {alike}")
        else:
            values, odd = numbers[name]
            if odd.any():
                said = _not_a_number(features[name], odd, typed)
                if {*words} - {name}:
                    said += f"; words stand in {count(len(words), 'column')}: {longer(typed, 'categorical', words)}"
                raise ValueError(f"{where}: {said}")
            if (np.abs(values.astype(np.float64)) > 1e300).any():
                raise ValueError(f"{where}: column {name!r} has infinite values (or beyond ±1e300)")
            block = values[:, None]
        empty = int(np.isnan(block[:, 0]).sum())
        if empty == len(features):
            raise ValueError(f"{where}: column {name!r} has no values; leave it out: {longer(typed, 'drop', [name])}")
        if empty and not impute:
            way = "data.impute=true puts the training mean there"
            raise ValueError(f"{where}: column {name!r} has {count(empty, 'missing value')}; {way}")
        holes += empty
        blocks.append(block)
        columns += [name] * block.shape[1]
    return np.concatenate(blocks, axis=1), columns, holes, notes


def _not_a_number(column: pd.Series, odd: np.ndarray, typed: Mapping[str, Sequence[str]]) -> str:
    """The first cell that is no number, and what to type."""
    row, name = int(odd.argmax()), str(column.name)
    word = " ".join(str(column.iloc[row]).split())[:40]
    ways = [f"make the column one-hot: {longer(typed, 'categorical', [name])}"]
    if odd.mean() < 0.5:
        ways.append(f"the word means missing: {longer(typed, 'missing', [word])}")
    for sign, said in ((",", "comma"), (".", "point")):
        if not _numbers(column, sign)[1].any():
            ways.append(f"its {said} is a decimal sign: {override('data.decimal', sign)}")
    if {",", "."} <= {*word} and re.fullmatch("[+-]?[0-9.,]+", word):
        ways.insert(0, "remove the signs of thousands from the file")
    ways.append(f"leave it out: {longer(typed, 'drop', [name])}")
    if NAMED_SO.fullmatch(name):
        ways.append(f"it says which rows belong together: {override('data.group_column', name)}")
    return f"column {name!r} holds {word!r} (row {row + 1}), which is not a number: {'; '.join(ways)}"


# --- the target, and columns with a role


def _classes(column: pd.Series, decimal: str | None, classes: str | None) -> Labels:
    """Class numbers (rows,) and names."""
    where = f"data.target={column.name!r}"
    y, names = _labels(column, decimal, typed=classes == "as_is")
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


def _split(column: pd.Series, key: str, _: str | None) -> dict[str, np.ndarray]:
    """The validation and the test rows (rows,) bool that a column names, where it names them."""
    part = _text(column).str.strip().str.lower().str.extract("^(train|val|test)(?:ing|id|idation)?$")[0]
    _check_all(column, part.isna(), key, "train, val or test")
    if not (part == "train").any():
        raise ValueError(f"data.{key}={column.name!r}: no row is train; it must be train, val or test")
    return {which: (part == which).to_numpy(bool) for which in ("val", "test") if (part == which).any()}


def _groups(column: pd.Series, key: str, decimal: str | None) -> dict[str, np.ndarray]:
    """A number for each row, the same for texts that are equal or look alike (P1 and p1, 1 and 1.0)."""
    text = _text(column).str.strip()
    _check_all(column, text.isna() | (text == ""), key, "a value in each row")
    sign = _sign(column, decimal)
    return {"groups": pd.factorize(text.map({name: _folded(_spelled(name, sign)) for name in text.unique()}))[0]}


def _order(column: pd.Series, key: str, decimal: str | None) -> dict[str, np.ndarray]:
    """Each row's place in time, equal times alike: of numbers, or of ISO dates."""
    values, odd = _numbers(column, _sign(column, decimal))
    text = _text(column).str.strip()
    if _year_last(text):
        _check_all(column, np.ones(len(column), bool), key, "a date with the year first, like 2024-12-31")
    if odd.any():
        values = _times(text)
    elif text.str.fullmatch(r"[+-]?\d+").fillna(False).all():  # a float holds but fifteen digits
        values = np.array([*map(int, text)], dtype=object)
    _check_all(column, pd.isna(values), key, "numbers, or dates like 2024-12-31")
    return {"order": np.unique(values, return_inverse=True)[1]}


def _times(text: pd.Series) -> np.ndarray:
    """ISO dates as whole numbers, None for what is none.

    Nanoseconds reach over 584 years: those of other centuries are read as so many times 400 years later or earlier,
    after which the calendar repeats.
    """
    year = text.str.extract(r"^(\d{4})")[0].astype(float)
    times = (year - 1800) // 400
    near = (year - 400 * times).map("{:04.0f}".format) + text.str[4:]
    dates = pd.to_datetime(near, format="ISO8601", errors="coerce", utc=True).dt.as_unit("ns")
    nanoseconds, times = (part.fillna(0).astype("int64").astype(object) for part in (dates.astype("int64"), times))
    return np.where(dates.isna(), np.array(None), nanoseconds + times * 146_097 * 86_400 * 10**9)


def _span(column: pd.Series, order: np.ndarray) -> str:
    first, last = (str(column.iloc[row]) for row in (order.argmin(), order.argmax()))
    return f"{column.name}: in order from {first!r} to {last!r}, the latest of which are tested"


def _year_last(text: pd.Series) -> bool:
    """Whether all are dates that sort, as numbers, by something else than the year."""
    front = text.str.extract(YEAR_LAST)[0]
    if front.notna().all():
        return front.nunique() > 1  # a counter may look so, but has one front throughout
    month = text.str.extract(UNPADDED)[0]
    if month.notna().all():
        return month.str.len().nunique() > 1
    if not text.str.fullmatch(r"\d{6}").all() or not text.str.startswith("0").any():
        return False
    return [text.str.fullmatch(form).all() for form in SIX] == [True, False, False]


def _check_all(column: pd.Series, odd: Any, key: str, allowed: str) -> None:
    if odd.any():
        row = int(np.argmax(odd))
        cell = column.iloc[row]
        wrong = f"row {row + 1} holds {str(cell)!r}" if pd.notna(cell) else f"row {row + 1} has no value"
        raise ValueError(f"data.{key}={column.name!r}: {wrong}; it must be {allowed}")


ROLES = {"split_column": _split, "group_column": _groups, "order_column": _order}
