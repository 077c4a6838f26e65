"""From a user's file to a table, (rows, named columns), with nothing lost on the way.

Each reader returns a DataFrame; its `attrs` may hold `shape`, of a row (channels, *space), and `notes`, what a user
should hear of the reading. They raise ValueError.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from normdrop.asked import check_memory, count, first_line, override, require

SEPARATORS = (",", ";", "\t", "|")
BLANKS = r"\s+"
KINDS = (".csv", ".tsv", ".txt", ".parquet", ".npz")
EXCELS = re.compile('"?sep=(.)"?$', re.IGNORECASE)  # a first line by which Excel names the separator
OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read(
    path: str | None, target: object, drop: Sequence[object], separator: str | None, header: bool | None
) -> pd.DataFrame:
    """A file's table. target and drop: an NPZ's arrays of these names are read as labels, or not at all."""
    file = Path(path or "").expanduser()
    kind = (file.with_suffix("") if file.suffix.lower() in OPEN else file).suffix.lower()
    require("data.path", path, kind in KINDS, f"a file that ends in one of {', '.join(KINDS)}, or .csv.gz and the like")
    ok = separator is None or (isinstance(separator, str) and (len(separator) == 1 or separator in (r"\t", BLANKS)))
    require("data.separator", separator, ok, r"one character, \t, \s+ (blanks), or null to find it")
    require("data.header", header, header in (None, True, False), "true, false, or null to find whether there is one")
    try:
        check_memory(file.stat().st_size, "it")
        if kind == ".npz":
            return _npz(file, str(target), [str(name) for name in drop])
        if kind == ".parquet":
            return _parquet(file)
        if separator == r"\t" or (kind == ".tsv" and not separator):
            separator = "\t"
        return _text(file, separator or _separator(file), header)
    # Damaged files raise a library's own types, not all of them ValueErrors (zipfile.BadZipFile, zlib.error, EOFError).
    except Exception as error:
        hint = "not UTF-8, save it as UTF-8: " if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"data.path={path!r}: cannot be read: {hint}{first_line(error)}") from error


def clean(name: object) -> str:
    """A column's name as it is compared and shown: letters in one form, no invisible characters, single blanks."""
    seen = [one for one in str(name) if one.isspace() or unicodedata.category(one) not in ("Cc", "Cf")]
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


# --- text


def _text(file: Path, separator: str, header: bool | None) -> pd.DataFrame:
    _width(file, separator)  # pandas would fill a short line, and take all that follows a stray quote for one cell
    asked: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
    with _opened(file) as text:
        if not EXCELS.match(text.readline()):
            text.seek(0)
        lines = pd.read_csv(text, sep=separator, header=None, **asked)
    if header is None and _is_row(lines):
        ways = "data.header=false names the columns 1, 2, 3 …; data.header=true takes it as names"
        raise ValueError(f"its first line looks like a row of values and not like names of columns: {ways}")
    if header is False:
        return lines.set_axis([str(i + 1) for i in range(lines.shape[1])], axis=1)
    return lines.iloc[1:].set_axis(lines.iloc[0], axis=1).reset_index(drop=True)


def _opened(file: Path) -> TextIO:
    """A text file, packed or not, of which each line ends with \\n."""
    opened: Any = OPEN.get(file.suffix.lower(), open)
    return opened(file, "rt", encoding="utf-8-sig")


def _width(file: Path, separator: str, most: int | None = None) -> int:
    """How many cells each line has, or the first so many; blank lines are none, and quotes may make one of several.

    Raises ValueError, which names the line, where one has more or fewer than the first, and where a quote takes further
    lines into its cell that look like rows, or does not close where its cell ends.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may be long
    mark = " " if separator == BLANKS else separator
    width, number = 0, 1
    taken: list[str] = []

    def lines(text: TextIO) -> Iterator[str]:
        for line in text:
            taken.append(re.sub("[ \t]+", " ", line).strip(" \n") + "\n" if separator == BLANKS else line)
            yield taken[-1]

    with _opened(file) as text:
        for cells in islice(csv.reader(lines(text), delimiter=mark, skipinitialspace=True), most):
            if (len(cells) > 1 or "".join(cells).strip()) and not (number == 1 and EXCELS.match(taken[0])):
                width = width or len(cells)
                if len(taken) > 1 and _swallowed(taken, mark, width):
                    way = "the lines that it takes into its cell look like rows: remove it, or the line breaks"
                    raise ValueError(f"a quote in line {number} does not close its cell, or {way}")
                if len(cells) != width:
                    why = "a separator at its end, row names without a name, or a line before the names?"
                    raise ValueError(f"line {number} has {count(len(cells), 'cell')} and the first {width}: {why}")
            number += len(taken)
            taken.clear()
    return width


def _swallowed(lines: Sequence[str], mark: str, width: int) -> bool:
    """Whether the lines of one record look like rows of their own, or some quote does not close where a cell ends."""
    cells = [line.count(mark) + 1 for line in lines]
    if min(cells) >= width and width in cells[1:]:  # more where a quoted cell holds the mark
        return True
    try:
        next(csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error:
        return True
    return False


def _separator(file: Path) -> str:
    """The one that the first line names, or at which the first lines all have the same number of cells, two or more.

    If there is none, it is the one that the first line holds most often: what is wrong is told of that.
    """
    with _opened(file) as text:
        line = text.readline()
    if named := EXCELS.match(line):
        with suppress(ValueError):
            if _width(file, named[1], 100) > 1:
                return named[1]
    found: list[str] = []
    for one in (*SEPARATORS, BLANKS):
        with suppress(ValueError):
            if _width(file, one, 100) > 1 and not (found and one == BLANKS):
                found.append(one)
    if len(found) > 1:
        ways = " or ".join(override("data.separator", one) for one in found)
        raise ValueError(f"more than one character may separate its columns: say which, {ways}")
    if found:
        return found[0]
    most = max(SEPARATORS, key=line.count)
    return most if most in line else BLANKS


def _is_row(lines: pd.DataFrame) -> bool:
    """Whether the first line could stand among the others: numbers, and words that its columns hold below it."""
    first, others = lines.iloc[0], lines.iloc[1:]
    number = pd.to_numeric(first, errors="coerce")
    if number.notna().all() and (number.diff().iloc[1:] == 1).all():  # columns named 0, 1, 2
        return False
    return all((others[name] == first[name]).any() for name in lines.columns[number.isna()])


# --- Parquet and arrays


def _parquet(file: Path) -> pd.DataFrame:
    frame = pd.read_parquet(file, engine="pyarrow")
    frame.attrs = {}  # the file's own, not this reader's
    named = [level for level in frame.index.names if level is not None]
    return frame.reset_index(level=named) if named else frame  # a nameless index counts the rows


def _npz(file: Path, target: str, drop: list[str]) -> pd.DataFrame:
    with zipfile.ZipFile(file) as packed:
        # The arrays, the table of them, and the rows that are made of that.
        check_memory(3 * sum(member.file_size for member in packed.infolist()), "to read it")
    with np.load(file, allow_pickle=False) as archive:
        dropped = [name for name in archive.files if name in drop]
        arrays = {name: _array(archive, name, target, drop) for name in archive.files if name not in drop}
    if len({len(array) for array in arrays.values()}) > 1:
        each = ", ".join(f"{name} has {' × '.join(map(str, array.shape))}" for name, array in arrays.items())
        others = [name for name, array in arrays.items() if len(array) != len(arrays.get(target, array))]
        way = f": {override('data.drop', [*dropped, *others])}" if others else " with data.drop=[…]"
        raise ValueError(f"its arrays differ in length, the first number: {each}; leave some out{way}")
    blocks = []
    attrs: dict[Any, Any] = {"notes": []}
    for name, array in arrays.items():
        if name == target and array.size > len(array):
            array = _labels(array, name)
        elif array.ndim > 2:
            array = _channels_first(array, name, attrs["notes"])
            attrs["shape"] = array.shape[1:]
        flat = array.reshape(len(array), -1)
        columns = [f"{name}_{i}" for i in range(flat.shape[1])] if flat.shape[1] > 1 else [name]
        blocks.append(pd.DataFrame(flat, columns=columns))
    frame = pd.concat([*blocks, pd.DataFrame(columns=dropped)], axis=1)  # by name alone, for data.drop to find them
    frame.attrs = attrs
    return frame


def _array(archive: Any, name: str, target: str, drop: list[str]) -> np.ndarray:
    try:
        array = archive[name]
    except ValueError:  # what allow_pickle would load
        array = None
    if not isinstance(array, np.ndarray) or array.size == 0 or array.ndim == 0 or array.dtype.kind not in "biufUS":
        way = "save it as such"
        if name != target:
            way += f", or leave it out: {override('data.drop', [*drop, name])}"
        raise ValueError(f"{name!r} is not an array of numbers or text, and pickled objects are never loaded; {way}")
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    return array.astype(array.dtype.newbyteorder("="), copy=False)  # pandas takes this machine's byte order alone


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    """The classes' numbers, (rows,), of an array (rows, classes) that is one-hot."""
    flat = array.reshape(len(array), -1)
    if array.dtype.kind != "U" and np.isin(flat, (0, 1)).all() and (flat.sum(axis=1) == 1).all():
        return flat.argmax(axis=1)
    several = [f"{name}_{i}" for i in range(flat.shape[1])]
    ways = f"{override('data.target', several[0])} {override('data.drop', several[1:])}"
    raise ValueError(f"data.target={name}: {len(several)} columns that are not one-hot; one target is learnt: {ways}")


def _channels_first(array: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """Rows as (rows, channels, *space), with a note where channels stood last: (rows, height, width, 1, 3 or 4)."""
    shape = array.shape[1:]
    if len(shape) == 2 and shape[0] == shape[1]:  # square images without channels
        return array[:, None]
    odd = len(shape) == 3 and shape[0] == shape[1] != shape[2] and shape[2] not in (1, 3, 4)
    if odd or (len(shape) == 2 and shape[0] > shape[1]):
        which = f"{shape[0]} channels of {' × '.join(map(str, shape[1:]))}"
        notes.append(f"{name}: read as {which}; if its channels stand last, move them to the front")
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or shape[0] <= 4:
        return array
    moved = np.moveaxis(array, -1, 1)
    notes.append(f"{name}: channels stood last, {shape}, and are moved first, {moved.shape[1:]}")
    return moved
