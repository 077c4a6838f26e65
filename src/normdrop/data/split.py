"""What a replicate makes of the rows: its train, validation and test part, standardised by its training part."""

from __future__ import annotations

import math

import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from normdrop.data.rows import Rows, is_int, is_number, require
from normdrop.streams import stream

# A feature whose training standard deviation is below this counts as constant and is only centred (digits has such
# pixels): dividing by it would blow up the first validation row that differs.
CONSTANT = 1e-3


def split(
    rows: Rows, seed: int, *, val_fraction: float = 0.2, test_fraction: float = 0.2, train_size: int | None = None
) -> dict[str, np.ndarray]:
    """The row numbers of one replicate's train, val and test part, stratified, from its stream `split`.

    test_fraction is a share of all rows (an official test part is taken as it is instead), val_fraction a share of the
    others. train_size thins out the training part alone: val and test are the same whatever it is. The sizes depend on
    the number of rows only. Raises ValueError if a class would be missing from a part.
    """
    for key, value in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        require(f"data.{key}", value, is_number(value) and 0 < value < 1, "a number between 0 and 1")
    ok = train_size is None or (is_int(train_size) and train_size >= 1)
    require("data.train_size", train_size, ok, "a whole number, 1 or more, or null for all")
    rng = np.random.RandomState(stream(seed, "split").bit_generator)  # what scikit-learn takes
    everything = np.arange(len(rows.y))
    if rows.test is None:
        rest, test = _stratified(rows, everything, "test", math.ceil(test_fraction * len(everything)), rng)
    else:
        rest, test = everything[~rows.test], everything[rows.test]
    train, val = _stratified(rows, rest, "val", math.ceil(val_fraction * len(rest)), rng)
    if train_size is not None and train_size > len(train):
        raise ValueError(f"data.train_size={train_size}: only {len(train)} rows are left beside val and test")
    if train_size is not None and train_size < len(train):
        _, train = _stratified(rows, train, "train", train_size, rng, whole=False)
    return {"train": train, "val": val, "test": test}


def _stratified(
    rows: Rows, index: np.ndarray, part: str, size: int, rng: np.random.RandomState, whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` of the row numbers: (the others, the drawn). `whole`: the others must hold every class too."""
    classes = len(rows.classes)
    counts = np.bincount(rows.y[index], minlength=classes)
    rare = int(counts.argmin())
    few = ValueError(
        f"data: class {rows.classes[rare]!r} has {counts[rare]} of the {len(index)} rows that the {part} part of "
        f"{size} rows is drawn from; a stratified split needs each of the {classes} classes in train, val and test"
    )
    if counts[rare] < 2 or size < classes or (len(index) - size < classes and whole):
        raise few
    if len(index) - size < classes:  # scikit-learn refuses; so few rows more or less are not worth a second way
        raise ValueError(f"data.{part}_size={size}: take at most {len(index) - classes}, or null for all {len(index)}")
    others, drawn = train_test_split(index, test_size=size, stratify=rows.y[index], random_state=rng)
    for held in (others, drawn) if whole else (drawn,):
        if (np.bincount(rows.y[held], minlength=classes) == 0).any():
            raise few
    return others, drawn


def standardise(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Centre and scale all parts, each (rows, features), by the training part's mean and standard deviation.

    A feature whose training standard deviation is below 1e-3 is divided by 1. Missing values (NaN) become 0, the
    training mean; so does every value of a feature that the training part never saw. Raises ValueError if no feature
    varies in the training part.
    """
    train = parts["train"].astype(np.float64)
    seen = (~np.isnan(train)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(train, axis=0) / seen
        std = np.sqrt(np.nansum((train - mean) ** 2, axis=0) / seen)
    varies = std >= CONSTANT
    if not varies.any():
        raise ValueError(
            f"data: every feature is constant in the training rows (standard deviation below {CONSTANT:g}): "
            "there is nothing to learn from; are the features on a tiny scale?"
        )
    scale = np.where(varies, std, 1.0)
    return {name: np.nan_to_num((x - mean) / scale, nan=0.0) for name, x in parts.items()}


def project(parts: dict[str, np.ndarray], components: int) -> dict[str, np.ndarray]:
    """The parts' first principal components, fitted on the training part and standardised again.

    Standardised again because components come with variances of very different size: every network then sees inputs of
    the scale that its initial weights are made for, whatever the data set.
    """
    most = min(parts["train"].shape)
    ok = is_int(components) and 1 <= components <= most
    require("data.pca", components, ok, f"a whole number from 1 to {most} (features, training rows), or null")
    # The default solver may be a randomised one, which draws from the global generator.
    pca = PCA(n_components=components, svd_solver="covariance_eigh").fit(parts["train"])
    return standardise({name: pca.transform(x) for name, x in parts.items()})
