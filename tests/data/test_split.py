"""What a replicate makes of the rows: its parts, and how they are standardised."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop.data import sources
from normdrop.data.rows import Rows, numeric_rows
from normdrop.data.split import project, scale_of, split, standardise


@pytest.fixture(scope="module")
def rows() -> Rows:
    return sources.digits()


# --- splits


def test_each_part_has_the_classes_in_the_data_sets_proportions(rows):
    share = np.bincount(rows.y) / len(rows.y)
    for part in split(rows, 0, train_size=400).values():
        assert np.abs(np.bincount(rows.y[part]) - share * len(part)).max() <= 1


def test_every_row_lands_in_one_part_whose_size_is_that_of_its_fraction_and_the_same_for_all_seeds(rows):
    for seed in range(5):
        index = split(rows, seed)
        assert {n: len(i) for n, i in index.items()} == {"train": 1149, "val": 288, "test": 360}
        assert sorted(np.concatenate(list(index.values()))) == list(range(len(rows.y)))


def test_train_size_thins_out_the_training_part_alone(rows):
    whole, thin = split(rows, 5), split(rows, 5, train_size=400)
    assert len(thin["train"]) == 400
    assert set(thin["train"]) < set(whole["train"])
    assert all(np.array_equal(whole[part], thin[part]) for part in ("val", "test"))


@pytest.mark.parametrize(
    ("size", "most", "left"), [(50, 100, 50), (100, 50, 50), (None, 100, 100), (100, 2000, 100), (None, 2000, 1149)]
)
def test_of_a_size_and_the_most_the_smaller_counts(rows, size, most, left):
    assert len(split(rows, 0, train_size=size, train_most=most)["train"]) == left


def test_the_official_test_part_of_mnist1d_stays_untouched():
    rows = sources.mnist1d(rows=500)
    assert rows.x.shape == (500, 40)
    for seed in range(3):
        index = split(rows, seed)
        assert index["test"].tolist() == list(range(400, 500))
        assert {n: len(i) for n, i in index.items()} == {"train": 320, "val": 80, "test": 100}


def sizes_of(rows: Rows, groups: np.ndarray, seeds: int) -> set[tuple[int, ...]]:
    """The sizes of the parts that these seeds have; no group has rows in two of them."""
    found = set()
    for seed in range(seeds):
        parts = split(rows, seed).values()
        train, val, test = ({*groups[own].tolist()} for own in parts)
        assert not (train & val or train & test or val & test)
        found.add(tuple(len(own) for own in parts))
    return found


KNOWN = {
    # fingerprint, first test rows of seeds 0 and 4001
    "digits": ("b1d0073afc2869b3", [866, 758, 726, 1068, 27], [296, 1359, 6, 563, 508]),
    "iris": ("7b56e6efa7e3b253", [35, 107, 6, 9, 143], [109, 68, 111, 64, 67]),
    "synthetic": ("32810acd7f72e3ed", [9, 186, 29, 200, 147], [126, 163, 207, 227, 95]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rows_and_splits_of_data_without_copies_are_those_of_earlier_versions(name):
    made = {"digits": sources.digits, "iris": lambda: sources.keel("iris")}
    rows = made.get(name, lambda: sources.synthetic(rows=300, seed=7))()
    fingerprint, *first = KNOWN[name]
    assert rows.fingerprint.startswith(fingerprint)
    assert [split(rows, seed, copies="apart")["test"][:5].tolist() for seed in (0, 4001)] == first


def test_groups_of_mixed_labels_are_drawn_alike_where_one_class_is_the_most_of_none():
    groups = np.arange(90) // 3
    rows = Rows(np.arange(90.0)[:, None], (np.arange(90) % 3 == 0).astype(int), ("usual", "rare"), groups=groups)
    assert len(sizes_of(rows, groups, 4)) == 1


# --- standardised


PARTS = {"train": np.random.default_rng(0).normal(size=(40, 1)), "test": np.random.default_rng(1).normal(size=(9, 1))}


# The offset in standard deviations: what it takes of float64's digits bounds how near the two can be.
@given(unit=st.floats(1e-250, 1e250), sign=st.sampled_from([-1, 1]), offset=st.floats(-1e9, 1e9, allow_subnormal=False))
def test_standardised_values_do_not_depend_on_a_features_unit_and_zero(unit, sign, offset):
    plain = standardise(PARTS)
    other = standardise({name: sign * unit * (x + offset) for name, x in PARTS.items()})
    for name in PARTS:
        assert sign * other[name] == pytest.approx(plain[name], abs=1e-14 + 1e-15 * abs(offset))


@given(value=st.floats(-1e300, 1e300, allow_subnormal=False), rows=st.integers(1, 400))
def test_a_feature_that_is_constant_in_training_is_0_in_every_part_whatever_its_unit(value, rows):
    varied = np.arange(rows + 1.0)
    train = np.stack([np.full(rows + 1, value), varied], axis=1)
    assert (standardise({"train": train, "test": np.array([[value + 7.0, 1.0]])})["test"][0, 0]) == 0


def test_what_rounding_alone_makes_vary_counts_as_constant():
    train = np.array([[0.1 + 0.2, 0.0], [0.3, 1.0]])
    assert scale_of(train)[1].tolist() == [np.inf, 0.5]


@pytest.mark.parametrize("features", [2, 256, 257, 513, 600])
def test_a_features_scale_is_the_same_to_the_last_bit_however_many_stand_beside_it(features):
    x = np.random.default_rng(0).normal(1e3, 3, (999, 600))
    for ours, theirs in zip(scale_of(x[:, -features:]), scale_of(x), strict=True):
        assert ours.tolist() == theirs[-features:].tolist()


def test_missing_values_become_the_training_mean():
    parts = {"train": np.array([[0.0], [np.nan], [4.0]]), "val": np.array([[np.nan], [4.0]])}
    out = standardise(parts)
    assert out["train"][:, 0] == pytest.approx([-1, 0, 1])
    assert out["val"][:, 0] == pytest.approx([0, 1])


def test_a_feature_never_seen_in_training_is_0_in_all_parts():
    train = np.array([[0.0, np.nan], [1.0, np.nan]])
    out = standardise({"train": train, "test": np.array([[0.0, 9.0]])})
    assert out["test"][0] == pytest.approx([-1, 0])


def _copied(times: list[int], classes: int = 2, seed: int = 0) -> Rows:
    """Rows of noise, each as often as `times` says, of classes in turn."""
    x = np.repeat(np.random.default_rng(seed).normal(size=(len(times), 3)), times, axis=0)
    y = np.repeat(np.arange(len(times)) % classes, times)
    return numeric_rows(x, y, range(classes))


def test_copies_of_a_row_stay_in_one_part_whose_size_depends_on_no_seed():
    rows = _copied([1, 4, 2, 7] * 20, classes=3)
    for seed in range(8):
        parts = split(rows, seed)
        assert len({*np.concatenate([*parts.values()]).tolist()}) == sum(map(len, parts.values()))
        for own in parts.values():
            shares = np.bincount(rows.y[own], minlength=3) / len(own)
            assert np.abs(shares - np.bincount(rows.y) / len(rows.y)).max() < 0.1
    ((train, val, test),) = sizes_of(rows, rows.copies, 8)
    assert (test, val) == (56, 45)  # 20 % of 280, and of the rest
    assert 224 - 45 - 3 * 2 * 6 <= train <= 224 - 45


def test_groups_of_very_different_sizes_cost_few_rows():
    sizes = np.random.default_rng(0).lognormal(3, 1, 60).astype(int) + 1
    groups = np.repeat(np.arange(60), sizes)
    rows = replace(_copied(sizes.tolist()), x=np.arange(3.0 * len(groups)).reshape(-1, 3), groups=groups)
    found = sizes_of(rows, groups, 8)
    assert len(found) == 1 and sum(*found) > 0.98 * len(groups)


def test_groups_of_one_size_cost_what_is_cut_of_one_and_no_more():
    groups = np.arange(200) // 5
    rows = Rows(np.arange(200.0)[:, None], groups % 2, ("a", "b"), groups=groups)
    # Of each class's 100 rows 20 are tested and 16 of the others validate: three groups and one row of a fourth.
    assert sizes_of(rows, groups, 8) == {(2 * (80 - 20), 2 * 16, 2 * 20)}


@pytest.mark.parametrize("what", ["groups", "copies"])
def test_a_group_larger_than_a_part_is_trained_on_and_costs_few_rows(what):
    sizes = [300, 200, *[9, 5, 2] * 40]
    rows = _copied(sizes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    if what == "groups":
        rows = replace(rows, x=np.random.default_rng(0).normal(size=(len(groups), 3)), groups=groups)
    assert all({0, 1} <= {*groups[split(rows, seed)["train"]]} for seed in range(8))
    ((train, val, test),) = sizes_of(rows, groups, 8)
    assert (test, val) == (228, 183)  # 20 % of 1,140, and of the rest
    assert train >= 1140 - 228 - 183 - 2 * 2 * 8  # at most 8 of the 9 rows of each class's last group in a part


def test_without_copies_the_split_is_the_one_of_single_rows():
    rows = _copied([1] * 60)
    assert rows.copies is None
    for together, apart in zip(split(rows, 3).values(), split(rows, 3, copies="apart").values(), strict=True):
        assert np.array_equal(together, apart)


def test_a_missing_value_and_a_zero_of_either_sign_are_copies():
    x = np.array([[np.nan, 0.0], [np.nan, -0.0], [1.0, 2.0]])
    assert numeric_rows(np.asfortranarray(x), np.array([0, 1, 0]), range(2)).copies.tolist() in ([0, 0, 1], [1, 1, 0])
    assert numeric_rows(x, np.array([0, 1, 0]), range(2)).copies.tolist() in ([0, 0, 1], [1, 1, 0])


# --- principal components


@pytest.mark.parametrize("shape", [(40, 6), (9, 30)])  # more rows than features, and more features than rows
def test_a_component_that_is_rounding_alone_is_0_in_every_part(shape):
    def rows(count: int) -> np.ndarray:
        x = draws.normal(size=(count, shape[1]))
        x[:, 1], x[:, 3] = x[:, 0] * 1e3, x[:, 0] - 2 * x[:, 2]
        return x

    draws = np.random.default_rng(0)
    train, test = rows(shape[0]), draws.normal(size=(50, shape[1])) * 100  # of test rows no feature depends on another
    most = min(shape[1], shape[0] - 1)
    rank = min(most, shape[1] - 2)
    projected = project({"train": train, "test": test}, most)
    for part in projected.values():
        assert np.abs(part[:, :rank]).max(axis=0).min() > 0.1
        assert not part[:, rank:].any()
    assert np.allclose(projected["train"][:, :rank].std(axis=0), 1)
    with pytest.raises(ValueError, match=rf"data\.pca={most + 1}: .* from 1 to {most} "):
        project({"train": train, "test": test}, most + 1)


def test_components_are_the_same_whichever_way_they_are_found():
    train = np.random.default_rng(0).normal(size=(20, 20)) * np.arange(1, 21)
    wide = np.hstack([train, np.zeros((20, 1))])  # a feature more than rows
    assert np.allclose(project({"train": train}, 19)["train"], project({"train": wide}, 19)["train"])
