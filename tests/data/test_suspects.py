"""What is said of rows that could make a result false."""

import numpy as np
import pytest

from normdrop.data import suspects
from normdrop.data.rows import Rows

N = 60
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(N, 2))
LABEL = RNG.integers(0, 2, N)
THREE = RNG.integers(0, 3, N)


def said(y=LABEL, typed=None, **columns) -> str:
    """All notes on two columns of noise and those given, where these lists were typed."""
    x = np.column_stack([NOISE[: len(y)], *(np.array(column, float) for column in columns.values())])
    names = ("n1", "n2", *columns)
    return "; ".join(suspects.of(Rows(x, np.array(y), tuple("abc"[: y.max() + 1]), columns=names, typed=typed or {})))


def test_plain_columns_are_not_spoken_of():
    assert said() == said(THREE) == said(age=RNG.integers(0, 90, N), flag=RNG.integers(0, 2, N)) == ""


@pytest.mark.parametrize("code", [LABEL, 7 - 3 * LABEL])
def test_a_column_that_equals_the_target_is_named(code):
    assert "data.drop=[code]" in said(code=code)
    assert "data.drop=[code]" in said(code=np.where(np.arange(N) % 9, code, np.nan))  # where it has a value


def test_a_column_of_which_few_rows_have_a_value_tells_no_class_but_that_it_lacks_may():
    assert said(few=np.where(np.arange(N) < 9, LABEL, np.nan)) == ""
    assert "data.drop=[cause]" in said(cause=np.where(LABEL == 1, 7, np.nan))
    assert "data.drop=[cause]" in said(cause=np.where(LABEL == 1, THREE, np.nan))


def test_what_is_left_of_a_one_hot_target_is_named():
    one_hot = {f"y_{i}": i == THREE for i in range(3)}
    assert "data.drop=[y_0,y_1,y_2]" in said(THREE, **one_hot)
    assert "data.drop=[y_1]" in said(THREE, y_1=THREE == 1)
    del one_hot["y_0"]
    assert "data.drop=[y_1,y_2]" in said((THREE == 0).astype(int), **one_hot)  # the other two make it together
    assert said((THREE == 0).astype(int), y_1=THREE == 1) == ""


@pytest.mark.parametrize("name", ["patient", "Speaker_ID", "user", "session no", "caseId", "mrn", "mouse_code"])
def test_a_column_named_like_a_group_is_pointed_at(name):
    note = said(**{name: RNG.permutation(N) // 4})
    assert "data.group_column=" in note and name in note
    assert said(**{"grid": RNG.permutation(N) // 4}) == ""


def test_a_column_with_one_label_within_its_many_values_is_pointed_at():
    who = np.arange(N) // 4
    assert "data.group_column=x" in said(who % 2, x=RNG.permutation(15)[who])
    mostly = np.where(np.arange(N) % 15 == 3, 1 - who % 2, who % 2)  # not in each row
    assert "data.group_column=x" in said(mostly, x=RNG.permutation(15)[who])
    assert said(mostly, x=who // 2) == said(np.where(mostly == who % 2, who > 6, who % 2), x=who) == ""
    assert "group" not in said((np.arange(N) % 20 == 3).astype(int), x=who)  # in all rows it is mostly that class
    assert said(mostly, x=who + 0.5) == ""


def test_what_is_offered_fits_what_was_typed():
    typed = {"categorical": ["sex", "x"], "drop": ["old"]}
    exact = said(typed=typed, x=LABEL)
    assert "'data.drop=[old,x]' 'data.categorical=[sex]'" in exact
    assert "data.group_column=x 'data.categorical=[sex]'" in exact
    patients = {"patient": RNG.permutation(N) // 4, "visit_id": RNG.permutation(N)}
    assert "data.group_column=patient" in said(**patients) and "data.order_column=visit_id" in said(**patients)
    for role in ("group_column", "order_column"):  # there is but one of the two
        told = said(typed={role: ["other"]}, **patients)
        assert "data.drop=[visit_id]" in told and "group_column" not in told and "order_column" not in told
    many = said(**{f"y_{i}": LABEL + i for i in range(40)})
    assert "y_11 (and 28 more)" in many and "data.drop" not in many
    assert said(typed={"group_column": []}, **{f"y_{i}": LABEL + i for i in range(40)}).endswith("(and 28 more)")


@pytest.mark.parametrize("values", [RNG.permutation(9 * N)[:N], np.cumsum(RNG.integers(1, 9, N)), -np.arange(N) / 7])
def test_a_column_of_distinct_whole_numbers_or_one_that_rises_is_pointed_at(values):
    assert "data.drop=[x]" in said(x=values) and "data.order_column=x" in said(x=values)


@pytest.mark.parametrize(("change", "named"), [({}, True), ({60: 0.2}, False)])
def test_a_column_in_which_each_of_large_classes_has_its_own_bounds_is_named(change, named):
    price = np.arange(180) + 0.5
    for row, value in change.items():
        price[row] = value
    mixed = np.random.default_rng(0).permutation(180)
    rows = Rows(price[mixed][:, None], mixed // 60, ("a", "b", "c"), columns=("price",))
    assert any("data.drop=[price]" in note for note in suspects.of(rows)) == named


@pytest.mark.parametrize(("sizes", "named"), [((50, 50, 50), True), ((59, 500), False), ((20, 30, 30, 500), True)])
def test_the_rows_of_all_classes_but_the_largest_count_where_classes_have_bounds_of_their_own(sizes, named):
    y = np.repeat(range(len(sizes)), sizes)
    time = np.cumsum(RNG.integers(1, 9, len(y))) * 0.37
    mixed = RNG.permutation(len(y))
    rows = Rows(time[mixed, None], y[mixed], tuple("abcd"[: len(sizes)]), columns=("t",))
    assert any("data.drop=[t]" in note for note in suspects.of(rows)) == named


def test_a_number_that_rises_with_ties_through_a_file_sorted_by_class_is_like_an_identifier():
    number, y = np.cumsum(RNG.integers(1, 9, 50)).repeat(3), np.repeat([0, 1, 2], 50)
    x = np.column_stack([RNG.normal(size=(150, 2)), number])
    (note,) = suspects.of(Rows(x, y, ("a", "b", "c"), columns=("n1", "n2", "t")))
    assert "data.drop=[t]" in note
    assert suspects.of(Rows(x, RNG.permutation(y), ("a", "b", "c"), columns=("n1", "n2", "t"))) == []


def test_a_value_far_off_all_others_is_pointed_at_and_a_large_one_is_not():
    z = RNG.normal(size=N)
    assert "z has -999999999, far off all others" in said(z=np.where(np.arange(N) % 9, z, -999999999))
    assert said(z=np.where(np.arange(N) % 9, z, -999)) == ""


@pytest.mark.parametrize(("most", "told"), [(44, False), (45, True)])
def test_a_class_of_three_quarters_of_the_rows_is_told(most, told):
    note = said((np.arange(N) >= most).astype(int))
    assert ("75.0 % of the rows are 'a': accuracy says little, see test_balanced_acc" in note) == told


def test_rows_that_stand_more_than_once_and_their_labels_are_counted():
    x, y = np.concatenate([NOISE, NOISE[:15]]), np.concatenate([LABEL, LABEL[:15]])
    y[-3:] = 1 - y[-3:]
    (note,) = suspects.of(Rows(x, y, ("a", "b"), columns=("n1", "n2")))
    assert note.startswith("40 %") and "(30, 6 of them with different labels)" in note
    twice = suspects.of(Rows(np.tile(NOISE, (2, 1)), np.repeat([0, 1], N), ("a", "b"), columns=("n1", "n2")))
    assert len(twice) == 1 and "(120, 120 of them with different labels)" in twice[0]
    wide = np.random.default_rng(2).normal(size=(N, 40))  # of 60 rows 40 columns tell all
    (note,) = suspects.of(Rows(np.tile(wide, (2, 1)), np.tile(LABEL, 2), ("a", "b"), columns=(*map(str, range(40)),)))
    assert note.startswith("100 %")


def test_copies_that_an_identifier_hides_are_told_and_tell_no_class():
    copied = np.random.default_rng(3).permutation(4 * N) % N
    noise, names = np.random.default_rng(2).normal(size=(N, 3)), ("n1", "n2", "n3")
    rows = Rows(np.column_stack([noise[copied], range(4 * N)]), LABEL[copied], ("a", "b"), columns=(*names, "key"))
    notes = suspects.of(rows)
    assert "without key 100 %" in notes[0] and "data.drop=[key]" in notes[0]
    assert not any("told exactly" in note for note in notes)
    by_class = copied[np.argsort(LABEL[copied], kind="stable")]
    x = np.column_stack([noise[by_class], range(4 * N)])
    notes = suspects.of(Rows(x, LABEL[by_class], ("a", "b"), columns=(*names, "key")))
    assert "without key 100 %" in notes[0] and "n1" not in str(notes)
    few = np.column_stack([RNG.integers(0, 4, (N, 2)), 10 * RNG.permutation(N)])
    rows = Rows(few, LABEL, ("a", "b"), columns=("sex", "kids", "income"))
    assert "without" not in str(suspects.of(rows))  # equal rows of few values are chance
    mood = RNG.normal(size=4 * N)[:, None]
    answers = np.round(mood + 0.2 * RNG.normal(size=(4 * N, 6))).clip(-2, 2)
    rows = Rows(np.column_stack([answers, range(4 * N)]), LABEL[copied], ("a", "b"), columns=(*"abcdef", "id"))
    assert "without" not in str(suspects.of(rows))
    some = [*range(N), 0]
    rows = Rows(np.column_stack([NOISE, range(N)])[some], LABEL[some], ("a", "b"), columns=("n1", "n2", "id"))
    assert "without" not in str(suspects.of(rows))


def test_copies_with_noise_are_told_unless_a_group_holds_them_and_rows_near_by_chance_are_not():
    rng = np.random.default_rng(0)
    plain, copied = rng.normal(size=(600, 3)) * [1, 1e-3, 1e9], np.arange(600) % 150
    y = rng.integers(0, 2, 600)

    def told(x, **given) -> list[str]:
        names = tuple(f"n{i}" for i in range(x.shape[1]))
        return suspects.of(Rows(x, y, ("a", "b"), columns=names, **given))

    noisy = plain[copied] * (1 + 1e-7 * rng.normal(size=(600, 3)))
    for x in (noisy, np.column_stack([noisy, np.arange(600)])):
        (note,) = [note for note in told(x) if "noise" in note]
        assert note.startswith("100 % ") and "a data.group_column keeps" in note
    assert told(noisy, groups=copied) == [] and len(told(noisy, groups=np.arange(600) // 3)) == 1
    line = rng.normal(size=600)
    for x in (plain, noisy[:, :1], np.sort(plain, axis=0)[:, ::-1] * -1, np.stack([line, line**3], axis=1)):
        assert "noise" not in str(told(x))
    few = rng.integers(0, 3, (600, 3)) + 1e-9 * rng.normal(size=(600, 3))
    assert "noise" not in str(told(few))
    answers = np.where(rng.random((600, 8)) < 0.1, np.nan, rng.integers(-1, 2, (600, 8)))
    assert "noise" not in str(told(answers))  # no answer is no usual one


@pytest.mark.parametrize("seed", range(9))
def test_of_columns_with_few_values_chance_tells_no_class_and_makes_no_identifier(seed):
    values = np.random.default_rng(seed).integers(0, 2, (200, 3))
    for columns in (["flag"], ["flag", "sex"]):
        notes = suspects.of(Rows(values[:, : len(columns)], values[:, 2], ("a", "b"), columns=(*columns,)))
        assert [note.split(" % ")[0] for note in notes] == ["100"]


def test_rows_of_a_given_part_that_recur_outside_are_said():
    x, test = np.concatenate([NOISE, NOISE[:5]]), np.arange(N + 5) >= N - 5
    y = np.concatenate([LABEL, LABEL[:5]])
    assert suspects.of(Rows(x, y, ("a", "b"), test))[0].startswith("5 of the 10 test rows (50 %) have equal rows")
    groups = np.arange(N + 5) // 5
    groups[-1] = 0
    notes = suspects.of(Rows(x, y, ("a", "b"), val=test, groups=groups))
    assert notes[0].startswith("5 of the 10 validation rows (50 %) have equal rows outside the validation part")
    assert notes[1].startswith("1 of the 10 validation rows (10 %) have rows of their group outside")
    (note,) = suspects.of(Rows(x, y, ("a", "b"), order=np.arange(N + 5)))
    assert note.endswith("(10); in order, parts may share them")


def test_copies_in_several_groups_are_told_as_what_parts_may_share():
    copied = np.arange(N) % (N // 2)
    x, y = NOISE[copied], LABEL[copied]
    for groups, told in ((copied, False), (np.arange(N) // 2, True)):
        (note,) = [
            note for note in suspects.of(Rows(x, y, ("a", "b"), groups=groups)) if "stand more than once" in note
        ]
        assert note.endswith("so parts may share them") == told
