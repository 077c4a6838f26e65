"""What a replicate makes of the rows: its train, validation and test part, standardised by its training part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from normdrop.asked import count, is_int, is_number, require
from normdrop.data.rows import Rows
from normdrop.streams import stream

# So many features at a time: of images in bytes all of them would take, as float64, many times their memory.
WIDE = 256
# Rounding alone makes a feature vary by less than this share of its magnitude.
ROUNDING = 16 * np.finfo(np.float64).eps
# The smallest component beside the largest whose direction a covariance shows.
RESOLVED = float(np.finfo(np.float64).eps) ** 0.5
# Deals by which the size of a training part of groups is settled.
TRIALS = 20


def split(
    rows: Rows,
    seed: int,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    train_size: int | None = None,
    train_most: int | None = None,
    copies: str = "together",
) -> dict[str, np.ndarray]:
    """The row numbers of one replicate's train, val and test part, stratified, from its stream `split`.

    test_fraction is a share of all rows, val_fraction a share of the others; a part that the data set gives itself is
    taken as it is, before. train_size thins out the training part alone: val and test are the same whatever it is;
    train_most does so where there are more rows than that. copies: rows with the same features go to the same part
    (`together`) or are drawn like all others (`apart`); see `_grouped`. Rows with groups are kept together by them
    instead; of rows with an order the latest are tested, and those before them validate. The sizes do not depend on
    the seed. Raises ValueError if a class would be missing from a part that is drawn by rows, or from training.
    """
    require("data.copies", copies, copies in ("together", "apart"), "together or apart")
    for key, value in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        require(f"data.{key}", value, is_number(value) and 0 < value < 1, "a number between 0 and 1")
    for key, size in {"train_size": train_size, "train_most": train_most}.items():
        ok = size is None or (is_int(size) and size >= 1)
        require(f"data.{key}", size, ok, "a whole number, 1 or more, or null for all")
    rng = np.random.RandomState(stream(seed, "split").bit_generator)  # what scikit-learn takes
    train = np.arange(len(rows.y))
    parts: dict[str, np.ndarray] = {}
    shares = {}
    for part, given, share in (("test", rows.test, test_fraction), ("val", rows.val, val_fraction)):
        if given is None:
            shares[part] = share
        else:
            parts[part] = np.flatnonzero(given)
            train = np.setdiff1d(train, parts[part])
    groups, key = rows.groups, "data.group_column"
    if groups is None and copies == "together":
        groups, key = rows.copies, "data.copies=together (apart draws copies like other rows)"
    if groups is not None and rows.order is None:
        train, drawn = _grouped(rows, train, groups, shares, rng, key)
        parts |= drawn
    else:
        for part, share in shares.items():
            size = math.ceil(share * len(train))
            if rows.order is None:
                train, parts[part] = _stratified(rows, train, part, size, rng)
            else:
                train, parts[part] = np.split(train[np.argsort(rows.order[train], kind="stable")], [-size])
    train = _thinned(rows, train, train_size, train_most, rng)
    return {"train": train, "val": parts["val"], "test": parts["test"]}


def _thinned(
    rows: Rows, train: np.ndarray, train_size: int | None, train_most: int | None, rng: np.random.RandomState
) -> np.ndarray:
    """The training part, or so many of its rows. Raises ValueError for more than there are, and for a lost class."""
    # A stratified draw cannot leave out fewer rows than there are classes.
    most = len(train) - len(rows.classes)
    if train_size is not None and most < train_size != len(train):
        left = f"only {len(train)} rows are left beside val and test"
        raise ValueError(f"data.train_size={train_size}: {left}; take at most {most}, or null for all")
    if train_most is not None and train_most < len(train):
        train_size = min(train_size or train_most, train_most, most)
    if train_size is not None and train_size < len(train):
        _, train = _stratified(rows, train, "train", train_size, rng)
    if absent := sorted({*range(len(rows.classes))} - {*rows.y[train].tolist()}):  # where the data set gives the parts
        raise ValueError(f"data: class {rows.classes[absent[0]]!r} has no training row")
    return train


def _stratified(
    rows: Rows, index: np.ndarray, part: str, size: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` of the row numbers: (the others, the drawn, of which each class has some)."""
    classes = len(rows.classes)
    try:
        others, drawn = train_test_split(index, test_size=size, stratify=rows.y[index], random_state=rng)
    except ValueError:  # a class of one row, or a part with fewer rows than there are classes
        drawn = index[:0]
    if len(np.unique(rows.y[drawn])) < classes:
        counts = np.bincount(rows.y[index], minlength=classes)
        rare = int(counts.argmin())
        raise ValueError(
            f"data: class {rows.classes[rare]!r} has {counts[rare]} of the {len(index)} rows that the {part} part of "
            f"{size} rows is drawn from; a stratified split needs each of the {classes} classes in train, val and test"
        )
    return others, drawn


def _grouped(
    rows: Rows, index: np.ndarray, groups: np.ndarray, shares: Mapping[str, float], rng: np.random.RandomState, key: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw parts so that no group has rows in two of them: (the training rows, the parts).

    groups: a number for each row of the data set, (rows,). shares: of the rows that the parts before have left. key:
    the key that asks for it, in words.
    A group counts as of the class that most of its rows have. Each class gives a part its share of the rows, group by
    group in random order, see `_dealt`. What a part cannot take of its last group goes to no part. So that sizes are
    the same for every seed, as many rows are left out of training as that can cost at worst; or, where groups are
    passed over, as it does in half of all deals, and a deal that costs more is dealt anew.
    """
    counts = np.zeros((groups.max() + 1, len(rows.classes)), int)
    np.add.at(counts, (groups[index], rows.y[index]), 1)
    size, label = counts.sum(axis=1), counts.argmax(axis=1)
    strata = [f"class {name!r}" for name in rows.classes]
    if len(np.unique(label[size > 0])) < len(strata):  # a class that no group is of: all groups are drawn alike
        strata, label = ["the table"], np.zeros_like(label)
    left = np.array([size[label == number].sum() for number in range(len(strata))])
    wanted = {}
    for part, share in shares.items():
        wanted[part] = _apportioned(math.ceil(share * left.sum()), left)
        left = left - wanted[part]
    by_group = index[np.argsort(groups[index], kind="stable")]
    members = np.split(by_group, size.cumsum()[:-1])
    train: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {part: [] for part in shares}
    for number, name in enumerate(strata):
        own = np.flatnonzero((label == number) & (size > 0))
        rooms = [wanted[part][number] for part in shares]
        kept = left[number] - len(shares) * (size[own].max() - 1)
        passing = rows.groups is not None or 4 * kept < 3 * left[number]
        if passing:
            trial = np.random.RandomState(stream(0, "split", layer=1).bit_generator)
            kept = np.median([_dealt(own, members, rooms, passing, trial)[1] for _ in range(TRIALS)]).astype(int)
        if kept < 1 or min(rooms, default=1) < 1:
            raise ValueError(
                f"{key}: {name} has {count(size[own].sum(), 'row')} in {count(len(own), 'group')} kept together "
                f"(one has {size[own].max()}), too few for train, val and test; a smaller data.test_fraction may do"
            )
        rest = -1
        while rest < kept:
            dealt, rest = _dealt(own, members, rooms, passing, rng)
        for part, taken in zip(shares, dealt[1:], strict=True):
            parts[part] += taken
        train.append(rng.permutation(np.concatenate(dealt[0]))[:kept])
    return np.concatenate(train), {part: np.concatenate(own) for part, own in parts.items()}


def _dealt(
    own: np.ndarray, members: Sequence[np.ndarray], rooms: Sequence[int], passing: bool, rng: np.random.RandomState
) -> tuple[list[list[np.ndarray]], int]:
    """The groups `own` in random order: those that are left, and those of each part; how many rows are left, 0 where
    the groups do not fill the parts.

    A part takes group by group, the last maybe cut, until its room is full. passing: what is larger than the room that
    is left is passed over, and only the smallest is cut. Of copies the next one is, as in the published studies, unless
    that could cost a quarter of a class's training rows.
    """
    queue = [members[group] for group in rng.permutation(own)]
    parts: list[list[np.ndarray]] = []
    for room in rooms:
        taken: list[np.ndarray] = []
        for place in reversed(range(len(queue))):
            if room > 0 and (len(queue[place]) <= room or not passing):
                taken.append(queue.pop(place)[:room])
                room -= len(taken[-1])
        if room > 0:
            if not queue:
                return [], 0
            smallest = min(range(len(queue)), key=lambda place: len(queue[place]))
            taken.append(queue.pop(smallest)[:room])
        parts.append(taken)
    return [queue, *parts], sum(map(len, queue))


def _apportioned(total: int, weights: np.ndarray) -> np.ndarray:
    """Whole numbers with this total, as near to the proportions of the weights as can be (largest remainders)."""
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    largest = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[largest] += 1
    return whole


def scale_of(x: np.ndarray, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, each (features,), of training rows of x (rows, features), NaN where missing.

    A feature that is constant there, but for rounding, gets an infinite scale: it is 0 in every part, since what has
    not varied in training cannot have been learnt, and how far a later value lies off depends on its unit. Raises
    ValueError if no feature varies.
    """
    # None narrower: of a single feature numpy adds the rows in another order.
    ends = [*range(WIDE, x.shape[1] - WIDE + 1, WIDE), x.shape[1]]
    scales = [_scale_of(x[rows, begin:end].astype(np.float64)) for begin, end in itertools.pairwise([0, *ends])]
    mean, deviation = (np.concatenate(parts) for parts in zip(*scales, strict=True))
    if np.isinf(deviation).all():
        raise ValueError("data: every feature is constant in the training rows: there is nothing to learn from")
    return mean, deviation


def _scale_of(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = np.maximum((~np.isnan(train)).sum(axis=0), 1)
    # Powers of two bring each feature to magnitude 1 without rounding: no unit is too small or too large to be squared.
    exponent = np.frexp(np.nan_to_num(np.fmax(np.fmax.reduce(train), -np.fmin.reduce(train))))[1]
    x = np.ldexp(train, -exponent)
    mean = np.nansum(x, axis=0) / seen
    mean += np.nansum(x - mean, axis=0) / seen  # what rounding has left, which counts where the offset is large
    std = np.sqrt(np.nansum((x - mean) ** 2, axis=0) / seen)
    return np.ldexp(mean, exponent), np.where(std > ROUNDING, np.ldexp(std, exponent), np.inf)


def standardise(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Centre and scale all parts, each (rows, features), by the training part's `scale_of`.

    Missing values (NaN) become 0, the training mean; so does every value of a feature that training never saw vary.
    """
    mean, deviation = scale_of(parts["train"])
    return {name: np.nan_to_num((x - mean) / deviation, nan=0.0) for name, x in parts.items()}


def project(parts: dict[str, np.ndarray], components: int) -> dict[str, np.ndarray]:
    """The parts' first principal components, fitted on the training part and standardised again.

    Standardised again because components come with variances of very different size: every network then sees inputs of
    the scale that its initial weights are made for, whatever the data set. A component that is rounding alone, since
    features depend on each other in the training part, is 0 in all parts, as a feature that never varies there.
    """
    rows, features = parts["train"].shape
    most = min(features, rows - 1)  # centred rows span no more
    ok = is_int(components) and 1 <= components <= most
    require("data.pca", components, ok, f"a whole number from 1 to {most} (features, training rows - 1), or null")
    # The default solver may be a randomised one, which draws from the global generator. The covariances of a wide table
    # would take hundreds of times as long.
    solver = "covariance_eigh" if features <= rows else "full"
    pca = PCA(n_components=components, svd_solver=solver).fit(parts["train"])
    projected = {name: pca.transform(x) for name, x in parts.items()}
    deviation = projected["train"].std(axis=0)
    varies = deviation > RESOLVED * deviation.max(initial=0)
    return standardise({name: np.where(varies, x, 0.0) for name, x in projected.items()})
