"""From a user's file to a table, (rows, named columns), with nothing lost on the way.

Each reader returns a DataFrame; its `attrs` may hold `shape`, of a row (channels, *space), `notes`, what a user should
hear of the reading, and `dropped`, names of data.drop that were left out already. They raise ValueError.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
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
OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Letters and marks that no eye sees: fillers, a joiner, vowels, selectors of a form, the empty cell of Braille.
UNSEEN = re.compile(
    r"[\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef\u2800]"
)


def read(
    path: str | None, target: object, drop: Sequence[object], separator: str | None, header: bool | None
) -> pd.DataFrame:
    """A file's table. target and drop: an NPZ's arrays of these names are read as labels, or not at all."""
    file = Path(path or "").expanduser()
    kind = (file.with_suffix("") if file.suffix.lower() in OPEN else file).suffix.lower()
    ok = separator is None or (isinstance(separator, str) and (len(separator) == 1 or separator in (r"\t", BLANKS)))
    require("data.separator", separator, ok, r"one character, \t, \s+ (blanks), or null to find it")
    require("data.header", header, header in (None, True, False), "true, false, or null to find whether there is one")
    _check(file, f"data.path={path!r}", kind)
    try:
        check_memory(file.stat().st_size, "it")
        if kind == ".npz":
            return _npz(file, str(target), [str(name) for name in drop])
        if kind == ".parquet":
            frame = pd.read_parquet(file, engine="pyarrow")
            frame.attrs = {}  # the file's own, not this reader's
            named = [level for level in frame.index.names if level is not None]
            return frame.reset_index(level=named) if named else frame  # a nameless index counts the rows
        if separator == r"\t" or (kind == ".tsv" and not separator):
            separator = "\t"
        return _text(file, separator, header)
    # Damaged files raise a library's own types, not all of them ValueErrors (zipfile.BadZipFile, zlib.error, EOFError).
    except Exception as error:
        hint = "not UTF-8, save it as UTF-8: " if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"data.path={path!r}: cannot be read: {hint}{first_line(error)}") from error


def _check(file: Path, where: str, kind: str) -> None:
    endings = ", ".join(KINDS)
    wrong = {
        f"give a file that ends in one of {endings}": not file.name,
        "no such file": not file.exists(),
        "not a file": not file.is_file(),
        f"the file's name must end in one of {endings}, or .csv.gz and the like": kind not in KINDS,
        "the file is empty": file.is_file() and file.stat().st_size == 0,
    }
    for fault, holds in wrong.items():
        if holds:
            raise ValueError(f"{where}: {fault}")


def clean(name: object) -> str:
    """A column's name as it is compared and shown: letters in one form, no invisible characters, single blanks."""
    letters = UNSEEN.sub("", str(name))
    seen = [one for one in letters if one.isspace() or unicodedata.category(one) not in ("Cc", "Cf")]
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


# --- text


def _text(file: Path, separator: str | None, header: bool | None) -> pd.DataFrame:
    with _opened(file) as text:
        line = text.readline()
    named = re.fullmatch('"?sep=(.)"?', line.strip("\n"), re.IGNORECASE)  # by which Excel names the separator
    skip = 1 if named else 0
    if separator is None:
        separator = named[1] if named else _separator(file)
    lines = _lines(file, separator, skip)
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


def _separator(file: Path) -> str:
    """The separator at which the first lines all have the same number of cells, two or more.

    If there is none, it is the one that the first line holds most often: what is wrong is told of that.
    """
    found = [one for one in SEPARATORS if _fits(file, one)] or [one for one in (BLANKS,) if _fits(file, one)]
    if len(found) > 1:
        ways = " or ".join(override("data.separator", one) for one in found)
        raise ValueError(f"more than one character may separate its columns: say which, {ways}")
    if found:
        return found[0]
    with _opened(file) as text:
        line = next((line for line in text if line.strip()), "")
    most = max(SEPARATORS, key=line.count)
    return most if most in line or not re.search(BLANKS, line.strip()) else BLANKS


def _fits(file: Path, separator: str) -> bool:
    with suppress(ValueError):
        return _cells(file, separator, 0, 100)[0] > 1
    return False


def _lines(file: Path, separator: str, skip: int) -> pd.DataFrame:
    """All lines, the header's too."""
    _, quoting, fault = _cells(file, separator, skip)
    asked: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
    with _opened(file) as text:
        lines = pd.read_csv(text, sep=separator, header=None, skiprows=skip, quoting=quoting, **asked)
    if fault:
        lines.attrs["notes"] = (f"quotes are taken as they are, for else {fault}",)
    return lines


def _cells(file: Path, separator: str, skip: int, most: int | None = None) -> tuple[int, Any, str]:
    """How many cells each of the records has, whether quotes mean something in them (csv), and if not, why.

    They mean nothing where only so all lines are whole. Raises ValueError where they are not either way, and some
    quote does not close where a cell ends.
    """
    width, fault = _look(file, separator, skip, csv.QUOTE_MINIMAL, most)
    if not fault:
        return width, csv.QUOTE_MINIMAL, ""
    width, ragged = _look(file, separator, skip, csv.QUOTE_NONE, most)
    if ragged and not _look(file, separator, skip, csv.QUOTE_MINIMAL, most, proper=True)[1]:
        return width, csv.QUOTE_MINIMAL, ""  # a text of lines that look like others
    if ragged or width < 2:
        raise ValueError(fault)
    return width, csv.QUOTE_NONE, fault


def _look(
    file: Path, separator: str, skip: int, quoting: Any, most: int | None, proper: bool = False
) -> tuple[int, str]:
    """How many cells the first record has, and the first fault of the records, or nothing.

    A quote that nothing closes takes what follows, to the next quote, for one cell: of such a record each line is whole
    where quotes mean nothing. proper: such a record is one all the same if each of its quotes closes where a cell ends.
    """
    first: list[str] = []
    mark = " " if separator == BLANKS else separator
    for place, (number, cells, lines, closed) in enumerate(islice(_records(file, separator, skip, quoting), most)):
        if not closed:
            return len(first), f"a quote in line {number} takes all that follows into its cell"
        if len(lines) > 1:
            apart = [line.count(mark) + 1 for line in lines]
            if {*apart} == {len(first) or apart[0]} and not (proper and _closes(lines, mark)):
                others = count(len(lines) - 1, "line")
                return len(first), f"a quote in line {number} takes the next {others} into its cell"
        if first and len(cells) != len(first):
            return len(first), _ragged(number, cells, first, place == 1)
        first = first or cells
    return len(first), ""


def _closes(lines: Iterable[str], mark: str) -> bool:
    try:
        next(csv.reader([*lines], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error:
        return False
    return True


def _records(file: Path, separator: str, skip: int, quoting: Any) -> Iterator[tuple[int, list[str], list[str], bool]]:
    """The number of a record's first line, its cells, its lines, for a quoted cell may have several, and whether the
    file does not end within one. Blank lines are no records.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may be long
    taken: list[str] = []
    closed = True

    def lines(text: Iterable[str]) -> Iterator[str]:
        nonlocal closed
        for line in text:
            taken.append(re.sub("[ \t]+", " ", line).strip(" \n") if separator == BLANKS else line)
            yield taken[-1]
        closed = not taken  # more was asked for, within a record

    with _opened(file) as text:
        mark = " " if separator == BLANKS else separator
        records = csv.reader(lines(islice(text, skip, None)), delimiter=mark, quoting=quoting, skipinitialspace=True)
        for cells in records:
            if len(cells) > 1 or "".join(cells).strip():
                yield skip + records.line_num - len(taken) + 1, cells, taken, closed
            taken.clear()


def _ragged(number: int, cells: list[str], first: list[str], second: bool) -> str:
    """What is wrong with a line that has more or fewer cells than the first; second: whether it follows that."""
    said = f"line {number} has {count(len(cells), 'cell')} and the first {len(first)}"
    if abs(len(cells) - len(first)) == 1 and not max(cells, first, key=len)[-1]:
        return f"{said}: the longer one ends with a separator, and each line must, or none"
    if second and len(cells) == len(first) + 1:
        way = "name their column (col.names=NA in R), or leave them out (row.names=FALSE)"
        return f"{said} (row names, as of R?): {way}"
    return said


def _is_row(lines: pd.DataFrame) -> bool:
    """Whether the first line could stand among the others: numbers, and words that its columns hold below it."""
    first, others = lines.iloc[0], lines.iloc[1:]
    number = pd.to_numeric(first, errors="coerce")
    if number.notna().all() and (number.diff().iloc[1:] == 1).all():  # columns named 0, 1, 2
        return False
    return all((others[name] == first[name]).any() for name in lines.columns[number.isna()])


# --- arrays


def _npz(file: Path, target: str, drop: list[str]) -> pd.DataFrame:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not an NPZ archive")
    with zipfile.ZipFile(file) as packed:
        check_memory(sum(member.file_size for member in packed.infolist()), "it")
    with np.load(file, allow_pickle=False) as archive:
        dropped = [name for name in archive.files if name in drop]
        arrays = {name: _array(archive, name, target, drop) for name in archive.files if name not in drop}
    if len({len(array) for array in arrays.values()}) > 1:
        each = ", ".join(f"{name} has {' × '.join(map(str, array.shape))}" for name, array in arrays.items())
        raise ValueError(f"its arrays differ in length, the first number: {each}; leave some out with data.drop=[…]")
    columns: dict[str, np.ndarray] = {}
    attrs: dict[str, Any] = {"notes": [], "dropped": dropped}
    for name, array in arrays.items():
        if name == target and array.size > len(array):
            array = _labels(array, name)
        elif array.ndim > 2:
            array = _channels_first(array, name, attrs["notes"])
            attrs["shape"] = array.shape[1:]
        flat = array.reshape(len(array), -1)
        new = {name: flat[:, 0]}
        if flat.shape[1] > 1:
            new = {f"{name}_{i}": column for i, column in enumerate(flat.T)}
        if twice := columns.keys() & new.keys():
            raise ValueError(f"two of its arrays make a column {min(twice)!r}")
        columns |= new
    frame = pd.DataFrame(columns)
    frame.attrs.update(attrs)
    return frame


def _array(archive: Any, name: str, target: str, drop: list[str]) -> np.ndarray:
    try:
        array = archive[name]
    except ValueError:  # what allow_pickle would load
        array = None
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biufUS":
        way = "" if name == target else f"; leave it out: {override('data.drop', [*drop, name])}"
        raise ValueError(f"{name!r} is not an array of numbers or text; pickled objects are never loaded{way}")
    if array.size == 0:
        raise ValueError(f"{name!r} is empty")
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
    if len(shape) == 2 and shape[0] == shape[1]:
        return array[:, None]
    if len(shape) == 3 and shape[0] == shape[1] and shape[2] not in (1, 3, 4, shape[0]):
        which = f"{shape[0]} channels of {shape[1]} × {shape[2]}"
        notes.append(f"{name}: read as {which}; if its channels stand last, move them to the front")
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or shape[0] == shape[2]:
        return array
    if shape[0] <= 4 and shape[0] != shape[1]:  # they may be the channels
        return array
    moved = np.moveaxis(array, -1, 1)
    notes.append(f"{name}: channels stood last, {shape}, and are moved first, {moved.shape[1:]}")
    return moved
