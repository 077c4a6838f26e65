"""A user's table: from a file to rows. The rules:

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
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from normdrop.data.rows import Rows, check_memory, first_line, memory, override, require

SEPARATORS = (",", ";", "\t", "|")
KINDS = (".csv", ".tsv", ".txt", ".parquet", ".npz")
PACKED = (".gz", ".bz2", ".xz")
# What numeric columns write where there is no value, in any case; the words that pandas reads so.
NO_VALUE = (
    *("", "na", "n/a", "#n/a", "#na", "#n/a n/a", "<na>", "nan", "-nan", "null", "none"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
CODE = r"[+-]?0\d+"
# What pandas calls a column without a name, and how it stores one: mostly a row index.
NAMELESS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__")


def table(
    path: str | None,
    target: str | None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    impute: bool = False,
    missing: Sequence[str | float] = (),
    separator: str | None = None,
    decimal: str | None = None,
    classes: str | None = None,
    split_column: str | None = None,
) -> Rows:
    """The user's own table: text (UTF-8, with a header), Parquet, or NPZ, with the target's column named.

    In an NPZ each array is a column, or several if it has more than one dimension; a row of signals (rows, channels,
    length) or images (rows, channels, height, width) keeps its shape, and square images without channels (rows, n, n)
    have one. categorical: columns to make one-hot. drop: columns to leave out. impute: let missing values stand as NaN,
    to be given the training part's mean. missing: further words for a missing value. separator, decimal: of a text
    file, None to find them. classes: "as_is" takes fractions, and labels that differ only by blanks or case, as they
    are. split_column: says train, val or test.
    """
    file = Path(path or "").expanduser()
    kind = (file.with_suffix("") if file.suffix.lower() in PACKED else file).suffix.lower()
    where, endings, size = f"data.path={path!r}", ", ".join(KINDS), file.stat().st_size if file.is_file() else 0
    wrong = {
        f"give a file that ends in one of {endings}": path is None,
        "no such file": not file.exists(),
        "not a file": not file.is_file(),
        f"the file's name must end in one of {endings}, or .csv.gz and the like": kind not in KINDS,
        "the file is empty": size == 0,
        f"the file is larger than this machine's memory ({memory() / 2**30:.1f} GiB)": size > memory(),
    }
    if fault := next((text for text, holds in wrong.items() if holds), None):
        raise ValueError(f"{where}: {fault}")
    ok = separator is None or (isinstance(separator, str) and (len(separator) == 1 or separator in (r"\t", r"\s+")))
    require("data.separator", separator, ok, r"one character, \t, \s+ (blanks), or null to find it")
    try:
        if kind in (".parquet", ".npz"):
            frame = pd.read_parquet(file, engine="pyarrow") if kind == ".parquet" else _read_npz(file)
        else:
            frame = _read_text(file, "\t" if separator == r"\t" or (kind == ".tsv" and not separator) else separator)
    # Damaged files raise a library's own types, not all of them ValueErrors (zipfile.BadZipFile, zlib.error, EOFError).
    except Exception as error:
        hint = "not UTF-8, save it as UTF-8: " if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{where}: cannot be read: {hint}{first_line(error)}") from error
    return table_rows(frame, where, target, categorical, drop, impute, missing, decimal, classes, split_column)


def _read_text(file: Path, separator: str | None) -> pd.DataFrame:
    def read(sep: str, rows: int | None = None) -> pd.DataFrame:
        text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "skipinitialspace": True}
        return pd.read_csv(file, sep=sep, header=None, nrows=rows, **text)  # type: ignore[call-overload]

    def fits(separator: str) -> bool:
        """Whether the first lines all have the same number of fields, two or more."""
        try:
            head = read(separator, 100)
        except pd.errors.ParserError:
            return False
        return head.shape[1] > 1 and bool(head.notna().all(axis=None))  # a line's absent fields are NaN, not ""

    if separator is None:
        found = [one for one in SEPARATORS if fits(one)]
        if len(found) > 1:
            ways = " or ".join(override("data.separator", one) for one in found)
            raise ValueError(f"more than one character may separate its columns: say which, {ways}")
        separator = found[0] if found else r"\s+" if fits(r"\s+") else ","
    frame = read(separator)
    names = frame.iloc[0].fillna("").str.split().str.join(" ")  # a header may have line breaks
    return frame.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)


def _read_npz(file: Path) -> pd.DataFrame:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not an NPZ archive")
    columns: dict[str, np.ndarray] = {}
    shape: tuple[int, ...] = ()
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                array = archive[name]
            except ValueError:  # what allow_pickle would load
                array = None
            if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biufU":
                raise ValueError(f"{name!r} is not an array of numbers or text; pickled objects are never loaded")
            flat = array.reshape(len(array), -1)
            new = {name: array} if array.ndim == 1 else {f"{name}_{i}": c for i, c in enumerate(flat.T)}
            if twice := columns.keys() & new.keys():
                raise ValueError(f"two of its arrays make a column {min(twice)!r}")
            columns |= new
            if array.ndim > 2:
                shape = array.shape[1:] if len({*array.shape[1:]}) > 1 or array.ndim > 3 else (1, *array.shape[1:])
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its arrays differ in length: {', '.join(f'{k} has {n}' for k, n in lengths.items())}")
    frame = pd.DataFrame(columns)
    frame.attrs["shape"] = shape
    return frame


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
    split_column: str | None = None,
) -> Rows:
    """Columns to features and classes; errors name the column and what to type. categorical: None for all text."""
    require("data.impute", impute, isinstance(impute, bool), "true or false")
    require("data.decimal", decimal, decimal in (None, ".", ","), "'.', ',', or null to find it")
    require("data.classes", classes, classes in (None, "as_is"), "as_is, or null for whole numbers or text")
    for key, names in {"categorical": categorical or (), "drop": drop}.items():
        require(f"data.{key}", names, isinstance(names, (list, tuple)), "a list of columns, e.g. [a, b]")
    require("data.missing", missing, isinstance(missing, (list, tuple)), "a list of words or numbers, e.g. ['?', -999]")
    shape = frame.attrs.get("shape", ())
    columns = [str(name) or f"Unnamed: {i}" for i, name in enumerate(frame.columns)]
    frame = frame.set_axis(columns, axis=1)
    listed = ", ".join(columns[:12]) + (f", … ({len(columns)} columns)" if len(columns) > 12 else "")
    if len(frame) == 0:
        raise ValueError(f"{where}: the table has no rows")
    require("data.target", target, target is not None, f"the column to predict; {where} has: {listed}")
    # A column named 0 comes from the command line as a number.
    target, drop, words = str(target), [*map(str, drop)], [*map(str, missing)]
    one_hot = None if categorical is None else [*map(str, categorical)]
    part = [] if split_column is None else [str(split_column)]
    for key, names in {"target": [target], "categorical": one_hot or [], "drop": drop, "split_column": part}.items():
        for name in names:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"data.{key}={name!r}: the table has no such column{hint}; it has: {listed}")
            if key != "target" and name == target:
                raise ValueError(f"data.{key}={name!r}: this column is the target")
            if key in ("categorical", "drop") and name in part:
                raise ValueError(f"data.{key}={name!r}: this column is data.split_column and no feature")
    frame = frame.drop(columns=drop)
    for name in frame.columns:
        places = [i + 1 for i, other in enumerate(columns) if other == name]
        if NAMELESS.fullmatch(name):  # mostly a row index
            way = f"name it, or leave it out: {override('data.drop', [name])}"
            raise ValueError(f"{where}: column {places[0]} has no name (a row index?): {way}")
        if len(places) > 1:
            both = " and ".join(map(str, places))
            raise ValueError(f"{where}: two columns are named {name} (columns {both}): rename one in the file")
    features = frame.drop(columns=[target, *part])
    if features.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {target!r}")

    numeric = [name for name in features.columns.tolist() if name not in (one_hot or ())]
    read = {name: numbers(features[name], words, decimal or ".") for name in numeric}
    if decimal is None and any(_surely_comma(features[name], words) for name in numeric if read[name][1].any()):
        decimal, read = ",", {name: numbers(features[name], words, ",") for name in numeric}
    decimal = decimal or "."
    y, names = _classes(frame[target], target, words, decimal, classes)
    val, test = _given(frame[part[0]], part[0]) if part else (None, None)
    if one_hot is None:
        one_hot = [name for name in numeric if read[name][1].any()]
    levels = {name: labels(features[name], words, decimal) for name in one_hot if name in features}
    check_memory(len(features), len(features.columns) + sum(len(of) - 1 for _, of in levels.values()), 4, where)

    blocks, holes = [], 0
    unheard = [word for word in words if not any(_holds(frame[name], word, decimal) for name in frame.columns)]
    notes = [f"data.missing: no cell holds {word!r}" for word in unheard]
    for name in features.columns:
        if name in levels:
            codes, of = levels[name]
            block = np.eye(len(of) + 1)[:, :-1][codes]
            block[empty := codes < 0] = np.nan
            if alike := _alike(of):
                notes.append(f"column {name!r}: {alike} differ only by blanks or case and count as two")
        else:
            values, odd = read[name]
            if odd.any():
                raise ValueError(f"{where}: {_not_a_number(features[name], odd, words)}")
            if (np.abs(values) > 1e300).any():
                raise ValueError(f"{where}: column {name!r} has infinite values (or beyond ±1e300)")
            if len(values) > 2 and (np.diff(values) == 1).all():
                notes.append(f"column {name!r} counts the rows (an index? {override('data.drop', [name])})")
            block, empty = values[:, None], np.isnan(values)
        holes += (count := int(empty.sum()))
        if empty.all():
            raise ValueError(f"{where}: column {name!r} has no values; leave it out: {override('data.drop', [name])}")
        if count and not impute:
            way = "data.impute=true gives them the training mean"
            raise ValueError(f"{where}: column {name!r} has {count} missing values; {way}")
        blocks.append(block)
    x = np.concatenate(blocks, axis=1)
    shape = shape if math.prod(shape) == x.shape[1] else ()  # with other features beside them there is none
    return Rows(x, y, names, test, val, sum(len(of) for _, of in levels.values()), holes, tuple(notes), shape)


def numbers(column: pd.Series, missing: Sequence[str], decimal: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64 (rows,), NaN where missing, and which of its values (rows,) bool are no numbers."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
        odd = np.zeros(len(values), bool)
    else:
        text = _text(column).str.strip()
        text = text.mask(text == "")
        pointed = text
        if decimal == ",":
            pointed = text.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False)
        try:
            read = pointed.astype("Float64")  # the faster way, where there are numbers only
        except ValueError:
            read = pd.to_numeric(pointed, errors="coerce")
        values = read.to_numpy(np.float64, na_value=np.nan)
        odd = np.isnan(values) & text.notna().to_numpy(bool)
        odd[odd] = ~(text[odd].str.lower().isin(NO_VALUE) | text[odd].isin(missing)).to_numpy(bool)
        truth = text[odd].str.lower()
        if np.isnan(values).all() and truth.isin(["true", "false"]).all():
            values[odd], odd = truth == "true", odd & False
        if (values == np.round(values)).any() and (code := text.str.fullmatch(CODE).fillna(False).to_numpy(bool)).any():
            bare = text.drop_duplicates().str.replace(r"^([+-]?)0+(?=\d)", r"\1", regex=True)
            odd |= code & bare.duplicated().any()
    sentinels = np.array([float(word) for word in missing if NUMBER.fullmatch(word)])
    if getattr(column.dtype, "numpy_dtype", column.dtype) == np.float32:
        sentinels = sentinels.astype(np.float32).astype(np.float64)  # of such a column −99.9 is another number
    return np.where(np.isin(values, sentinels), np.nan, values), odd


def _holds(column: pd.Series, word: str, decimal: str) -> bool:
    """Whether a word for a missing value stands in a column."""
    if not pd.api.types.is_numeric_dtype(column) and (_text(column).str.strip() == word).any():
        return True
    if not NUMBER.fullmatch(word):
        return False
    with_it, without = (int(np.isnan(numbers(column, missing, decimal)[0]).sum()) for missing in ([word], []))
    return with_it > without


def _text(column: pd.Series) -> pd.Series:
    # pandas would decode bytes, or fail to
    return (column.map(str, na_action="ignore") if column.dtype == object else column).astype("string")


def _surely_comma(column: pd.Series, missing: Sequence[str]) -> bool:
    """Whether a column's values are all numbers with a decimal comma, and not all of them whole with thousands."""
    thousands = _text(column).str.strip().str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+|[^,]*")
    return not numbers(column, missing, ",")[1].any() and not thousands.fillna(True).all()


def _not_a_number(column: pd.Series, odd: np.ndarray, missing: Sequence[str]) -> str:
    row, name = int(odd.argmax()), str(column.name)
    word = " ".join(str(column.iloc[row]).split())[:40]
    ways = [f"make the column one-hot: {override('data.categorical', [name])}"]
    if odd.mean() < 0.5:
        ways.append(f"the word means missing: {override('data.missing', [*missing, word])}")
    if not numbers(column, missing, ",")[1].any():
        ways.append(f"its comma is a decimal sign: {override('data.decimal', ',')}")
    ways.append(f"leave it out: {override('data.drop', [name])}")
    return f"column {name!r} holds {word!r} (row {row + 1}), which is not a number: {'; '.join(ways)}"


def labels(column: pd.Series, missing: Sequence[str], decimal: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column's labels: numbers (rows,) int64 from 0, −1 where missing, and their names, sorted."""
    text = _text(column)
    spelled = {label: _spelled(label, decimal) for label in text.dropna().unique()}
    empty = {_spelled(word, decimal) for word in missing}
    names = {name for name in spelled.values() if name.strip() and name not in empty}
    number = all(map(NUMBER.fullmatch, names))
    order = sorted(names, key=lambda name: (float(name) if number else 0, name))
    place = {name: i for i, name in enumerate(order)}
    codes = {label: place[name] for label, name in spelled.items() if name in place}
    return text.map(codes).to_numpy(np.int64, na_value=-1), tuple(order)


def _spelled(text: str, decimal: str) -> str:
    """The one spelling of a number (1.0 is 1); what may be a code (01, 1e2) and all else as they are."""
    number = text.strip().replace(decimal, ".")
    if not NUMBER.fullmatch(number) or re.match(CODE, number) or "e" in number.lower():
        return text
    return str(int(number.split(".")[0] or 0)) if float(number).is_integer() else repr(float(number))


def _alike(names: Sequence[str]) -> str:
    """The first two labels that differ only by blanks, case or Unicode's ways to write a letter; or nothing."""
    seen: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if key in seen:
            return f"{seen[key]!r} and {name!r}"
        seen[key] = name
    return ""


def _classes(
    column: pd.Series, target: str, missing: Sequence[str], decimal: str, classes: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers (rows,) and names."""
    where = f"data.target={target!r}"
    y, names = labels(column, missing, decimal)
    if empty := int((y < 0).sum()):
        raise ValueError(f"{where}: {empty} rows have no value there")
    if len(names) < 2:
        raise ValueError(f"{where}: it holds one class only ('{names[0]}'); at least two are needed")
    if classes != "as_is" and all(map(NUMBER.fullmatch, names)) and not all(float(n).is_integer() for n in names):
        raise ValueError(f"{where}: it holds fractions and looks continuous; data.classes=as_is makes each a class")
    if classes != "as_is" and (alike := _alike(names)):
        ways = "write them alike in the file, or take them as two with data.classes=as_is"
        raise ValueError(f"{where}: the classes {alike} differ only by blanks or case: {ways}")
    if 3 * len(names) > len(column):
        raise ValueError(f"{where}: {len(names)} distinct values in {len(column)} rows; classes are needed")
    return y, names


def _given(column: pd.Series, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The validation and the test rows (rows,) bool that a column names, None where it names none."""
    part = _text(column).str.strip().str.lower().str.extract("^(train|val|test)(?:ing|id|idation)?$")[0]
    if part.isna().any() or not (part == "train").any():
        row = int(part.isna().to_numpy().argmax())
        wrong = f"row {row + 1} holds {str(column.iloc[row])!r}" if part.isna().any() else "no row is train"
        raise ValueError(f"data.split_column={name!r}: {wrong}; it must be train, val or test")
    val, test = ((part == which).to_numpy(bool) for which in ("val", "test"))
    return val if val.any() else None, test if test.any() else None
