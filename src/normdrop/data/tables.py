"""From a user's file to rows: what is a number, what is a category, what is missing, what is a class."""

from __future__ import annotations

import difflib
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from normdrop.data.rows import Rows, check_memory, first_line, memory, require


def table(
    path: str | None,
    target: str | None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    impute: bool = False,
) -> Rows:
    """The user's own table: CSV (UTF-8, with a header), Parquet, or NPZ, with the target's column named.

    In an NPZ each array is a column, or several if it has more than one dimension. categorical: columns to make
    one-hot. drop: columns to leave out. impute: let missing values stand as NaN, to be given the training part's mean.
    """
    require("data.impute", impute, isinstance(impute, bool), "true or false")
    if path is None:
        raise ValueError("data.path is not given: data=table reads a .csv, .parquet or .npz file")
    file = Path(path).expanduser()
    where = f"data.path='{path}'"
    if not file.is_file():
        raise ValueError(f"{where}: {'not a file' if file.exists() else 'no such file'}")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}
    if file.suffix.lower() not in readers:
        raise ValueError(f"{where}: the file's name must end in one of {', '.join(readers)}")
    if file.stat().st_size == 0:
        raise ValueError(f"{where}: the file is empty")
    if file.stat().st_size > memory():
        raise ValueError(f"{where}: the file is larger than this machine's memory ({memory() / 2**30:.1f} GiB)")
    try:
        frame = readers[file.suffix.lower()](file)
    except ImportError as error:
        raise ValueError(f"{where}: Parquet needs the package pyarrow: pip install 'normdrop[data]'") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{where}: not UTF-8 (byte 0x{byte:02x} at position {error.start}): save it as UTF-8"
        ) from error
    # Damaged files raise a library's own types, not all of them ValueErrors (zipfile.BadZipFile, zlib.error, EOFError).
    except Exception as error:
        raise ValueError(f"{where}: cannot be read: {first_line(error)}") from error
    frame.columns = frame.columns.map(str)
    if frame.columns.has_duplicates:
        raise ValueError(f"{where}: two columns have the name {frame.columns[frame.columns.duplicated()][0]!r}")
    return table_rows(frame, where, target, categorical, drop, impute)


def _read_csv(file: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        # index_col=False cuts rows that have more fields than the header, with no more than this warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(file, encoding="utf-8", index_col=False, low_memory=False)


def _read_parquet(file: Path) -> pd.DataFrame:
    return pd.read_parquet(file, engine="pyarrow")


def _read_npz(file: Path) -> pd.DataFrame:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not an NPZ archive")
    columns: dict[str, np.ndarray] = {}
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                array = archive[name]
            except ValueError as error:
                raise ValueError(f"array {name!r}: {first_line(error)} (pickled objects are never loaded)") from error
            if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biufU":
                raise ValueError(f"{name!r} is not an array of one value or more per row, of numbers or text")
            flat = array.reshape(len(array), -1)
            new = {name: array} if array.ndim == 1 else {f"{name}_{i}": c for i, c in enumerate(flat.T)}
            if columns.keys() & new.keys():
                raise ValueError(f"two of its arrays make a column {min(columns.keys() & new.keys())!r}")
            columns |= new
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its arrays differ in length: {', '.join(f'{k} has {n}' for k, n in lengths.items())}")
    return pd.DataFrame(columns)


def table_rows(
    frame: pd.DataFrame, where: str, target: str | None, categorical: Sequence[str], drop: Sequence[str], impute: bool
) -> Rows:
    """Columns to features and classes; every error names the column and what to do about it."""
    if len(frame) == 0:
        raise ValueError(f"{where}: the table has no rows")
    if target is None:
        raise ValueError(f"data.target is not given: the column to predict; {where} has: {_listed(frame.columns)}")
    for key, names in {"categorical": categorical, "drop": drop}.items():
        require(f"data.{key}", names, isinstance(names, (list, tuple)), "a list of columns, e.g. [a, b]")
    # A column named 0 comes from the command line as a number.
    target, categorical, drop = str(target), [*map(str, categorical)], [*map(str, drop)]
    for key, names in {"target": [target], "categorical": categorical, "drop": drop}.items():
        for name in names:
            if name not in frame.columns:
                near = difflib.get_close_matches(name, list(frame.columns), n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"data.{key}={name!r}: the table has no such column{hint}; it has: {_listed(frame.columns)}"
                )
            if key != "target" and name == target:
                raise ValueError(f"data.{key}={name!r}: this column is the target")
    y, classes = _classes(frame[target], target)
    features = frame.drop(columns=[target, *drop])
    if features.shape[1] == 0:
        raise ValueError(f"{where}: no feature is left beside the target {target!r}")

    for name in features.columns:
        column = features[name]
        missing = int(column.isna().sum())
        if missing == len(column):
            raise ValueError(f"{where}: column {name!r} has no values; leave it out with data.drop=[{name}]")
        if missing and not impute:
            raise ValueError(
                f"{where}: column {name!r} has {missing} missing values; data.impute=true gives them the training mean"
            )
        if name not in categorical and not _holds_numbers(column):
            raise ValueError(
                f"{where}: column {name!r} holds {column.dtype} (e.g. {column.dropna().iloc[0]!r}) and features must "
                f"be numbers; make it one-hot with data.categorical=[{name}] or leave it out with data.drop=[{name}]"
            )
    width = sum(column.nunique() if name in categorical else 1 for name, column in features.items())
    check_memory(len(features), width, 2, where)

    blocks = []
    for name in features.columns:
        column = features[name]
        if name in categorical:
            levels = column.astype("category").cat.remove_unused_categories()
            block = pd.get_dummies(levels).to_numpy(np.float32, copy=True)
            block[column.isna().to_numpy()] = np.nan
        else:
            with np.errstate(over="ignore"):
                block = column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)[:, None]
            if np.isinf(block).any():
                raise ValueError(f"{where}: column {name!r} has infinite values (or beyond float32's range)")
        blocks.append(block)
    return Rows(np.concatenate(blocks, axis=1), y, classes)


def _classes(column: pd.Series, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers (rows,) and names, in sorted order."""
    where = f"data.target={target!r}"
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(f"{where}: {missing} rows have no value there")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(np.float64)
        if not (np.isfinite(values) & (values == np.round(values))).all():
            raise ValueError(f"{where}: it holds fractions, so it looks continuous; classes are needed")
        column = column.astype(np.int64)
    elif not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(str)  # columns of mixed types cannot be sorted
    codes, names = pd.factorize(column, sort=True)
    if len(names) < 2:
        raise ValueError(f"{where}: it holds one class only ({names[0]!r}); at least two are needed")
    if 3 * len(names) > len(column):
        raise ValueError(f"{where}: {len(names)} distinct values in {len(column)} rows; classes are needed")
    return codes.astype(np.int64), tuple(map(str, names))


def _holds_numbers(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)


def _listed(names: Sequence[str] | pd.Index) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown if len(names) <= 12 else f"{shown}, … ({len(names)} columns)"
