"""From a user's file to rows: the same rows for the same table, or one line that says what to type."""

import io
import math
import pickle
import re
import zipfile
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normdrop import asked
from normdrop.asked import override
from normdrop.data.rows import Rows
from normdrop.data.split import split, standardise
from normdrop.data.tables import table

RNG = np.random.default_rng(1)
N = 60
Y = np.arange(N) % 2
N1, N2 = RNG.normal(size=(2, N)).round(3)
LABEL = np.where(Y, "pos", "neg")
PLAIN = pd.DataFrame({"n1": N1, "n2": N2, "label": LABEL})


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.integers(0, 9, 60), "c": rng.random(60) > 0.5})
    frame["label"] = np.where(frame.a + frame.b > 4, "yes", "no")
    return frame


@pytest.fixture
def read(tmp_path):
    """Write a frame (or text) and read it as a table."""

    def reading(content: pd.DataFrame | str | bytes, name: str = "t.csv", target: str = "label", **keys) -> Rows:
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content = content.to_csv(index=False)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return table(str(path), target, **keys)

    return reading


def served(rows: Rows, seed: int = 0) -> dict[str, np.ndarray]:
    return standardise({part: rows.x[index] for part, index in split(rows, seed).items()})


def assert_same(a: Rows, b: Rows, tolerance: float = 0.0) -> None:
    assert a.y.tolist() == b.y.tolist()
    for part, x in served(a).items():
        np.testing.assert_allclose(x, served(b)[part], rtol=0, atol=tolerance)


def refusal(reading, *arguments, **keys) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        reading(*arguments, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- formats


def test_csv_parquet_and_npz_give_the_same_rows(frame, tmp_path, read):
    frame.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", **{name: frame[name].to_numpy(str if name == "label" else None) for name in frame})
    np.savez(tmp_path / "block.npz", x=frame[["a", "b", "c"]].to_numpy(float), label=frame.label.to_numpy(str))
    csv = read(frame)
    assert csv.x.shape == (60, 3)
    for name in ("t.parquet", "t.npz", "block.npz"):
        assert table(str(tmp_path / name), "label").fingerprint == csv.fingerprint


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.bz2", "t.txt.xz", "t.txt", "T.CSV", "t.v2.csv"])
def test_text_may_be_packed_and_have_any_of_the_usual_suffixes(name, tmp_path, read):
    PLAIN.to_csv(tmp_path / name, index=False, sep="\t" if ".tsv" in name else ",")
    assert table(str(tmp_path / name), "label").fingerprint == read(PLAIN).fingerprint


def test_a_separator_that_is_given_is_taken(read):
    for typed, sign in ((":", ":"), (r"\t", "\t"), (r"\s+", "  ")):
        text = PLAIN.to_csv(index=False).replace(",", sign)
        assert read(text, separator=typed).fingerprint == read(PLAIN).fingerprint


def test_ends_of_lines_blanks_behind_separators_and_a_byte_order_mark_do_not_count(read):
    text, plain = PLAIN.to_csv(index=False), read(PLAIN).fingerprint
    for other in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), text.replace(",", ", "), "\ufeff" + text):
        assert read(other).fingerprint == plain


def test_columns_may_stand_apart_by_blanks(read):
    text = PLAIN.to_string(index=False)
    assert read(text, "t.txt").fingerprint == read(PLAIN).fingerprint
    assert read(text.replace("neg", "n\u00a0g"), "t.txt").classes == ("n\u00a0g", "pos")


def test_blanks_at_the_ends_of_lines_are_no_cells(read):
    text = PLAIN.to_csv(index=False, sep=" ")
    assert_same(read(text.replace("\n", "  \n")), read(PLAIN))


def test_excel_may_name_the_separator_in_a_line_of_its_own(read):
    text = PLAIN.to_csv(index=False, sep=";")
    for first in ("sep=;", '"sep=;"', "SEP=;"):
        assert_same(read(f"{first}\n{text}"), read(PLAIN))
    either = "a;b,label\n" + "".join(f"{i};1,{'yes' if i % 2 else 'no'}\n" for i in range(30))
    assert read(f"sep=;\n{either}", target="b,label").classes == ("1,no", "1,yes")
    assert_same(read(f"sep=|\n{text}"), read(PLAIN))  # it is wrong


@pytest.mark.parametrize("cell", ['"said \\"hi\\""', '"x" ', "x" * 200_000])
def test_a_quote_within_a_line_and_a_long_cell_lose_nothing(cell, read):
    lines = [f"{a},{cell},{label}" for a, label in zip(N1, LABEL, strict=True)]
    assert read("\n".join(["n1,note,label", *lines]), drop=["note"]).x[:, 0].tolist() == N1.tolist()


def test_where_two_separators_fit_the_user_is_asked(read):
    text = "a;b,label\n" + "".join(f"{i};1,{'yes' if i % 2 else 'no'}\n" for i in range(30))
    line = refusal(read, text)
    assert "'data.separator=\",\"'" in line and "'data.separator=\";\"'" in line
    assert read(text, separator=";", target="b,label").classes == ("1,no", "1,yes")


def test_whole_thousands_and_fractions_look_alike_and_are_asked_for(read):
    text = "a;label\n" + "".join(f"{i + 1},250;{'yes' if i % 2 else 'no'}\n" for i in range(30))
    assert "'data.decimal=\",\"'" in refusal(read, text)
    assert read(text, decimal=",").x[:2, 0].tolist() == [1.25, 2.25]
    points = PLAIN.assign(n1=["1.234", "987", "12.345"] * 20)
    line = refusal(read, points)
    assert "'n1'" in line and "'1.234'" in line and "'data.decimal=\".\"'" in line
    assert read(points, decimal=".").x[:3, 0].tolist() == [1.234, 987, 12.345]
    for fractions in (["1.234", "87", "12.345"], ["1.234", "987", "12.34"], ["1.234", "0.987", "100"]):
        assert read(PLAIN.assign(n1=fractions * 20)).x[:3, 0].tolist() == [*map(float, fractions)]


def test_a_decimal_comma_is_one_in_labels_levels_and_groups_too(read):
    def reading(**columns) -> Rows:
        text = PLAIN.assign(n1=[f"{i},5" for i in range(N)], n2=7, **columns).to_csv(sep=";", index=False)
        return read(text, categorical=["kind"], group_column="g")

    cells = np.array(["1,0", "1", "2,50", "2,5"])[np.arange(N) % 4]
    rows = reading(label=np.where(Y, "2,0", "1"), kind=cells, g=cells)
    assert rows.classes == ("1", "2") and rows.one_hot == 2
    assert rows.groups.tolist() == [0, 0, 1, 1] * 15
    fractions = np.array(["1,5", "2,5", "3,25"])[np.arange(N) % 3]
    assert "fractions" in refusal(reading, label=fractions, kind=cells, g=cells)
    line = refusal(reading, label=LABEL, kind=cells, g=cells, n3=1.5)
    assert "holds '1.5' (row 1), which is not a number" in line and "'data.decimal=\".\"'" in line
    assert "remove signs of thousands" not in line
    line = refusal(read, PLAIN.assign(n1=["1,250.5" if i == 7 else value for i, value in enumerate(N1)]))
    assert "holds '1,250.5' (row 8)" in line and "remove signs of thousands" in line


# --- identity


def test_the_fingerprint_is_of_the_content_alone(tmp_path, read):
    plain = read(PLAIN).fingerprint
    PLAIN.to_parquet(tmp_path / "other.parquet")
    assert table(str(tmp_path / "other.parquet"), "label").fingerprint == plain
    assert read(PLAIN.assign(n1=PLAIN.n1 + 0.0, n2=[f"{v:.5f}" for v in N2]), name="x.csv").fingerprint == plain
    assert read(PLAIN.replace({"label": "pos"}, "Pos")).fingerprint != plain  # a class's name is content
    assert read(PLAIN.iloc[::-1]).fingerprint != plain
    assert read(PLAIN.assign(n1=np.nextafter(N1, 9))).fingerprint != plain


def test_the_sign_of_zero_and_the_kind_of_nan_are_no_content():
    x = np.array([[0.0, np.nan], [1.0, 2.0]])
    other = np.array([[-0.0, -np.nan], [1.0, 2.0]])
    assert Rows(x, np.array([0, 1]), ("a", "b")).fingerprint == Rows(other, np.array([0, 1]), ("a", "b")).fingerprint


def test_given_parts_are_content():
    x, y, first = np.ones((4, 1)), np.array([0, 1, 0, 1]), np.arange(4) < 1
    parts = [pair for pair in product((None, first, ~first), repeat=2) if pair[0] is not pair[1] or pair[0] is None]
    assert len({Rows(x, y, ("a", "b"), *pair).fingerprint for pair in parts}) == 7


# --- text that looks like numbers


@pytest.mark.parametrize(("a", "b"), [("01", "1"), ("007", "07"), ("-01", "-1"), ("1e2", "100"), ("0", "00")])
def test_codes_of_a_category_stay_apart(a, b, read):
    codes = read(PLAIN.assign(code=np.where(Y, a, b)), categorical=["code"])
    letters = read(PLAIN.assign(code=np.where(Y, a + "x", b + "x")), categorical=["code"])
    assert codes.one_hot == letters.one_hot == 2
    assert {*map(tuple, codes.x[:, 2:])} == {(0, 1), (1, 0)}


def test_codes_that_differ_by_zeros_in_front_are_no_numbers(read):
    line = refusal(read, PLAIN.assign(code=np.where(Y, "01", "1")))
    assert "column 'code' holds '01' (row 2), which is not a number" in line
    assert read(PLAIN.assign(code=np.where(Y, "02", "1"))).x[:2, 2].tolist() == [1, 2]  # nothing is lost here


@pytest.mark.parametrize(
    ("cells", "classes"),
    [(["1", "01", "2"], ("01", "1", "2")), (["10", "9", "-1"], ("-1", "9", "10")), (["1.0", "1", "2"], ("1", "2"))],
)
def test_numeric_classes_sort_as_numbers_have_one_spelling_and_may_be_codes(cells, classes, read):
    assert read(PLAIN.assign(label=np.array(cells)[np.arange(N) % 3])).classes == classes


@pytest.mark.parametrize(
    ("one", "other"),
    [(0, 1), (0.0, 1.0), (False, True), (-1, 10), ("a", "b"), ("Nein", "ja"), ("None", "nan"), ("-.0", "+1.")],
)
def test_any_coding_of_the_classes_in_the_same_order_gives_the_same_rows(one, other, read, tmp_path):
    coded = PLAIN.assign(label=[other if y else one for y in Y])
    assert_same(read(coded), read(PLAIN))
    coded.to_parquet(tmp_path / "t.parquet")
    assert table(str(tmp_path / "t.parquet"), "label").fingerprint == read(coded).fingerprint


def test_numbers_that_float64_cannot_tell_apart_are_two_classes(read):
    assert read(PLAIN.assign(label=Y + 2**60)).classes == (str(2**60), str(2**60 + 1))


ALIKE = [("pos", "pos "), ("pos", "POS"), ("a  b", "a b"), ("caf\u00e9", "cafe\u0301")]
ALIKE += [("c0", f"c{unseen}0") for unseen in "\u200b\ufeff\u00ad\u0007"]


@pytest.mark.parametrize(("a", "b"), ALIKE)
def test_labels_that_only_look_different_are_refused_unless_taken_as_they_are(a, b, read):
    doubtful = PLAIN.assign(label=np.array([a, b, "neg"])[np.arange(N) % 3])
    line = refusal(read, doubtful)
    assert repr(a) in line and repr(b) in line and "data.classes=as_is" in line
    assert len(read(doubtful, classes="as_is").classes) == 3


def test_levels_that_only_look_different_are_said(read):
    (note,) = read(PLAIN.assign(kind=np.where(Y, "red", "Red")), categorical=["kind"]).notes
    assert "'Red' and 'red' differ only by" in note


# --- what is missing


@pytest.mark.parametrize("word", ["None", "NA", "nan", "null", "n/a", "NULL", "<NA>", "-"])
def test_in_text_and_target_a_word_is_a_word(word, read):
    kind, klass = np.where(Y, word, "Attached"), np.array(["EU", word, "AS"])[np.arange(N) % 3]
    rows = read(PLAIN.assign(kind=kind, label=klass), categorical=["kind"], impute=True)
    assert word in rows.classes
    assert rows.missing == 0
    assert rows.one_hot == 2


@pytest.mark.parametrize("word", ["", "NA", "nan", "NaN", "null", "NULL", "None", "n/a", "N/A", "#N/A", "<NA>"])
def test_among_numbers_the_usual_words_are_no_value(word, read):
    gaps = PLAIN.assign(n1=[word if i == 7 else v for i, v in enumerate(N1)])
    assert "1 missing value in 'n1': put the training mean there: data.impute=true" in refusal(read, gaps)
    rows = read(gaps, impute=True)
    assert np.flatnonzero(np.isnan(rows.x[:, 0])).tolist() == [7]
    assert rows.missing == 1


@pytest.mark.parametrize(("cell", "word"), [("?", "?"), ("-999", -999), ("-999.0", -999), ("unknown", "unknown")])
def test_a_word_for_a_missing_value_can_be_told(cell, word, read):
    gaps = PLAIN.assign(n1=[cell if i == 7 else v for i, v in enumerate(N1)])
    assert np.flatnonzero(np.isnan(read(gaps, missing=[word], impute=True).x[:, 0])).tolist() == [7]


@pytest.mark.parametrize("kind", ["float32", "Float32"])
def test_a_told_fraction_is_found_whatever_the_precision_of_its_column(kind, tmp_path):
    gaps = PLAIN.assign(n1=pd.Series([-99.9 if i == 7 else v for i, v in enumerate(N1)], dtype=kind))
    gaps.to_parquet(tmp_path / "t.parquet")
    rows = table(str(tmp_path / "t.parquet"), "label", missing=[-99.9], impute=True)
    assert np.flatnonzero(np.isnan(rows.x[:, 0])).tolist() == [7] and rows.notes == ()


@pytest.mark.parametrize(
    ("cell", "word"), [("-9.9900E+02", -999), ("-999,0", -999), ("1E+20", 1e20), (" -999", "-999.0")]
)
def test_a_told_number_is_found_in_any_spelling(cell, word, read):
    text = PLAIN.assign(n1=[cell if i % 9 == 0 else f"{value:.3E}" for i, value in enumerate(N1)])
    rows = read(text, missing=[word], impute=True)
    assert rows.missing == 7 and np.isnan(rows.x[0, 0]) and rows.notes == ()


@pytest.mark.parametrize(("cell", "word"), [("NULL", None), ("null", None), ("NaN", math.nan), (" ?", "?")])
def test_a_told_word_that_hydra_has_another_value_for_is_found(cell, word, read):
    text = PLAIN.assign(town=[cell if i % 9 == 0 else "Oslo" for i in range(N)])
    assert read(text, missing=[word], impute=True, categorical=["town"]).missing == 7


def test_a_told_word_that_no_cell_holds_is_remarked(read):
    gaps = PLAIN.assign(n1=["?" if i == 7 else "-999.0" if i == 8 else v for i, v in enumerate(N1)])
    notes = read(gaps, missing=["?", -999, "zzz", -99], impute=True).notes
    assert notes == ("data.missing: no cell holds 'zzz'", "data.missing: no cell holds '-99'")


def test_fractions_and_spellings_are_classes_only_if_asked_for(read):
    versions = PLAIN.assign(label=np.array(["1.1", "1.10", "1.2"])[np.arange(N) % 3])
    assert "it holds fractions" in refusal(read, versions)
    assert read(versions, classes="as_is").classes == ("1.1", "1.10", "1.2")


def test_a_told_word_is_missing_in_text_and_target_too(read):
    kind = PLAIN.assign(kind=np.array(["a", "b", "?"])[np.arange(N) % 3])
    rows = read(kind, categorical=["kind"], missing=["?"], impute=True)
    assert (rows.one_hot, rows.missing) == (2, 20)
    assert "20 rows with no value there" in refusal(read, kind, target="kind", drop=["label"], missing=["?"])


def test_all_columns_of_words_are_told_at_once_and_a_hint_takes_back_nothing_that_was_typed(read):
    words = PLAIN.assign(**{name: ["x", "y", "?"] * (N // 3) for name in ("town", "kind", "colour")}, key=range(N))
    line = refusal(read, words, categorical=["town"], drop=["key"], missing=[-1])
    assert "make one-hot: 'data.categorical=[town,kind,colour]'" in line
    odd = PLAIN.assign(n1=["?" if i == 7 else v for i, v in enumerate(N1)])
    assert '\'data.missing=["-1","?"]\'' in refusal(read, odd, missing=[-1])
    rows = read(words, categorical=["town", "kind", "colour"], drop=["n1"])
    assert any("'data.drop=[n1,key]'" in remark for remark in rows.remarks)


def test_what_is_wrong_with_whole_columns_is_told_at_once_and_what_is_told_is_enough(read):
    messy = PLAIN.assign(
        town=["Oslo", "Rome", None] * (N // 3),
        day=[f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(N)],
        patient_id=[f"P{i // 2}" for i in range(N)],
        n1=[None if i == 7 else value for i, value in enumerate(N1)],
    )
    line = refusal(read, messy.to_csv())
    assert "1 column without a name" in line and "text in 'town' ('Oslo'), 'day' ('2024-01-01'), 'patient_id'" in line
    assert f"{N // 3 + 1} missing values in 'n1', 'town'" in line
    assert "'data.drop=[\"Unnamed: 0\",day]'" in line and "'data.categorical=[town]'" in line
    assert "data.group_column=patient_id" in line and "data.impute=true" in line
    typed = {"drop": ["Unnamed: 0", "day"], "categorical": ["town"], "group_column": "patient_id", "impute": True}
    assert set(read(messy.to_csv(), **typed).columns) == {"n1", "n2", "town"}


def test_text_and_what_is_left_out_may_be_a_group_by_name_or_classes(read):
    who = np.random.default_rng(0).permutation(600) // 8  # 75 of them, of one class each, sorted by it
    grown = pd.DataFrame({"n1": RNG.normal(size=600), "zz": [f"P{i:02}" for i in who], "label": who > 40})
    line = refusal(read, grown)
    assert "data.group_column=zz" in line and "data.drop" not in line
    assert "data.group_column" not in refusal(read, grown, order_column="n1")
    assert "data.group_column" not in refusal(read, grown.assign(zz=RNG.permutation(grown.zz)))
    (note,) = read(grown, drop=["zz"]).remarks
    assert "data.group_column=zz 'data.drop=[]'" in note
    numbered = grown.assign(patient=RNG.permutation(200).repeat(3), n2=RNG.normal(size=600))
    (note,) = read(numbered, drop=["n1", "patient", "zz"]).remarks
    assert "data.group_column=patient 'data.drop=[n1,zz]'" in note and "zz" in note.partition(":")[0]
    for role in ("group_column", "order_column"):
        assert "group_column" not in str(read(numbered, drop=["zz", "patient"], **{role: "n1"}).remarks)


def test_booleans_and_decimals_may_have_gaps(tmp_path, read):
    from decimal import Decimal

    gaps = pd.DataFrame(
        {
            "flag": pd.array([None, *(v > 0 for v in N1[1:])], "boolean"),
            "price": [None, *map(Decimal, map(str, N2[1:]))],
            "count": pd.array([None, *range(1, N)], "Int64") % 7,
            "label": LABEL,
        }
    )
    gaps.to_parquet(tmp_path / "t.parquet")
    rows = table(str(tmp_path / "t.parquet"), "label", impute=True)
    assert rows.x[1].tolist() == [N1[1] > 0, N2[1], 1]
    assert rows.missing == 3
    assert read(gaps, impute=True).fingerprint == rows.fingerprint


def test_what_is_neither_number_nor_text_is_refused_by_its_words(tmp_path):
    odd = {"blob": [b"\xff"] * N, "day": pd.date_range("2020", periods=N), "pair": [[1, 2]] * N, "none": [None] * N}
    for name, values in odd.items():
        PLAIN.assign(**{name: values}).to_parquet(tmp_path / "t.parquet")
        line = refusal(table, str(tmp_path / "t.parquet"), "label", impute=True)
        assert (f"text in {name!r} (" if name != "none" else "column 'none' has no values") in line
        if name == "none":
            assert "no values" in refusal(table, str(tmp_path / "t.parquet"), "label", [name], impute=True)


# --- columns


@pytest.mark.parametrize("options", [{}, {"index_label": "Unnamed: 0"}, {"index_label": " "}])
def test_a_nameless_column_is_refused_until_it_is_dropped(options, read):
    text = PLAIN.to_csv(**options)
    line = refusal(read, text)
    assert "1 column without a name (a row index?)" in line and "'data.drop=[\"Unnamed: 0\"]'" in line
    assert read(text, drop=["Unnamed: 0"]).fingerprint == read(PLAIN).fingerprint


def test_two_columns_of_one_name_are_refused(read):
    twice = "n1,n2,label,label\n" + "".join(f"{a},{b},{c},{c}\n" for a, b, c in zip(N1, N2, LABEL, strict=True))
    assert "two columns are named label: rename one in the file" in refusal(read, twice)


def test_a_row_index_with_a_name_is_said(read):
    (note,) = read(PLAIN.to_csv(index_label="x")).remarks
    assert note.startswith("x: ") and "data.drop=[x]" in note
    assert read(PLAIN).remarks == []


def test_a_header_may_have_line_breaks(read):
    assert read('"height\n(cm)",n2,label\n' + PLAIN.to_csv(index=False, header=False), drop=["height (cm)"])


def test_categorical_columns_become_one_hot_and_dropped_ones_are_gone(frame, read):
    frame["colour"] = ["red", "green", "blue"] * 20
    frame["id"] = [f"row {i}" for i in range(60)]
    rows = read(frame, categorical=["colour"], drop=["id", "c"])
    assert rows.x.shape == (60, 5)
    np.testing.assert_array_equal(rows.x[:3, 2:], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])  # blue, green, red


@given(st.text(min_size=1).filter(lambda text: "${" not in text))
def test_a_hint_means_what_it_says_to_the_shell_and_to_hydra(name):
    import shlex

    (argument,) = shlex.split(override("data.drop", [name]))
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert parsed.key_or_group == "data.drop"
    assert parsed.value() == [name]


def test_awkward_names_are_served_and_hinted_at(read):
    awkward = PLAIN.set_axis(["höhe (cm)", "x[0]", "label"], axis=1).assign(**{"size=big": np.where(Y, "a", "b")})
    assert "'data.categorical=[\"size=big\"]'" in refusal(read, awkward)
    assert read(awkward, categorical=["size=big"], drop=["höhe (cm)"]).x.shape == (N, 3)


def test_a_name_that_hydra_reads_as_a_number_is_offered_in_quotes(read):
    survey = PLAIN.assign(**{"1.10": N2, "3": N1})
    assert read(survey, drop=[3, "1.10"]).columns == ("n1", "n2")
    assert "data.drop='1.1': the table has no such column (did you mean \"1.10\"?)" in refusal(read, survey, drop=[1.1])
    assert "'data.drop=[n1,\"1e3\"]'" in refusal(read, PLAIN.assign(**{"1e3": N2}), drop=["n1", 1000.0])
    assert "'data.target=\"1e3\"'" in refusal(read, PLAIN.assign(**{"1e3": LABEL}), target=1000.0)
    assert "in quotes" in refusal(read, PLAIN, target=8) and "in quotes" not in refusal(read, PLAIN, target="8")


# --- given parts


def test_a_column_may_say_which_rows_are_train_val_and_test(read):
    part = np.array(["train", "Train", "val", "test"])[np.arange(N) // 2 % 4]
    rows = read(PLAIN.assign(part=part), split_column="part")
    assert rows.x.shape == (N, 2)
    for seed in range(2):
        found = {k: set(part[i]) for k, i in split(rows, seed).items()}
        assert found == {"train": {"train", "Train"}, "val": {"val"}, "test": {"test"}}


def test_a_part_that_the_column_does_not_name_is_drawn(read):
    rows = read(PLAIN.assign(part=np.where(np.arange(N) < 40, "training", "validation")), split_column="part")
    index = split(rows, 0)
    assert index["val"].tolist() == list(range(40, N))
    assert len(index["test"]) == 8
    assert {*index["test"], *index["train"]} == set(range(40))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (["train", "testament"] * 30, "data.split_column='part': row 2 holds 'testament'; it must be train, val or"),
        (["train", "oops"] * 30, "data.split_column='part': row 2 holds 'oops'; it must be train, val or test"),
        (["val", "test"] * 30, "no row is train"),
        (["train", "val", "train", "test"] * 15, "data: class 'pos' has no training row"),
        (["train", ""] * 30, "row 2 holds ''"),
    ],
)
def test_a_column_of_parts_that_says_something_else_is_refused(part, message, read):
    assert message in refusal(lambda: split(read(PLAIN.assign(part=part), split_column="part"), 0))


# --- nothing is lost on reading


def test_stray_quotes_in_a_tsv_are_refused_by_their_line(read):
    quote = {20: '"', 41: '"'}
    lines = [f"{i}\t{quote.get(i, '')}w{i % 3}\t{LABEL[i]}" for i in range(N)]
    line = refusal(read, "\n".join(["n1\tword\tlabel", *lines]), "t.tsv", categorical=["word"])
    assert "a quote in line 22 does not close its cell" in line and "remove it" in line


STRAY = {
    "opened and closed in other columns": ('1,"x,q,A', '2,r,"s,B'),
    "closed in an earlier column": ('1,x,"q,A', '2,r",s,B'),
    "closed in the same column": ('1,"x,q,A', '2,r",s,B'),
    "closed in a later column": ('1,"x,q,A', '2,r,s",B'),
    "over three lines": ('1,"x,q,A', "2,r,s,B", '3,r",s,A'),
    "in the last line": ('1,"x,q,A',),
    "behind a quoted cell": ('1,"x,y","q,A', '2,r,s",B'),
}


@pytest.mark.parametrize("separator", [",", " "])
@pytest.mark.parametrize("case", STRAY)
def test_a_stray_quote_swallows_no_line(case, separator, read):
    lines = [*(f"{i},p,q,{'AB'[i % 2]}" for i in range(30)), *STRAY[case]]
    text = "\n".join(["n1,t,u,label", *lines]).replace(",", separator)
    assert "line 32 " in refusal(read, text, categorical=["t", "u"])


@pytest.mark.parametrize("cell", ["one\ntwo, and more", "one, two\nthree", "one\n\ntwo", "a, b, c, d\ne, f, g, h, i"])
def test_a_text_of_several_lines_is_one_cell(cell, read):
    noted = PLAIN.assign(note=cell)[["n1", "note", "label"]]
    for place in permutations(noted):
        rows = read(noted[[*place]].to_csv(index=False), drop=["note"])
        assert rows.x[:, 0].tolist() == N1.tolist() and rows.notes == ()


def test_what_another_program_has_kept_in_a_parquet_file_is_no_note_of_its_reading(tmp_path):
    frame = PLAIN.copy()
    frame.attrs = {"notes": 5, "shape": [2]}
    frame.to_parquet(tmp_path / "t.parquet")
    rows = table(str(tmp_path / "t.parquet"), "label")
    assert (rows.shape, rows.notes) == ((2,), ())


def test_an_index_with_a_name_is_a_column_of_parquet(tmp_path, read):
    for name in ("n2", "label"):
        PLAIN.set_index(name).to_parquet(tmp_path / "t.parquet")
        assert {*table(str(tmp_path / "t.parquet"), "label").x[0]} == {N1[0], N2[0]}


def test_a_file_without_a_header_is_noticed_and_its_columns_have_numbers(read):
    bare = PLAIN.to_csv(index=False, header=False)
    assert "data.header=false" in refusal(read, bare)
    rows = read(bare, target=3, header=False)
    assert rows.fingerprint == read(PLAIN).fingerprint and rows.columns == ("1", "2")
    assert len(read(bare, target="neg", header=True).y) == N - 1
    assert "data.header=false" in refusal(read, "1.5,2\n" + "".join(f"{i},{i % 2}\n" for i in range(30)), target=2)


def test_names_are_compared_in_one_form_and_without_what_no_eye_sees(read):
    odd = PLAIN.rename(columns={"label": "\u200banne\u0301e"})
    assert read(odd, target="ann\u00e9e").classes == ("neg", "pos")
    assert 'did you mean "ann\u00e9e"?' in refusal(read, odd, target="anne")


# --- arrays


def arrays(tmp_path, target="y", drop=(), **given) -> Rows:
    np.savez(tmp_path / "t.npz", **given)
    return table(str(tmp_path / "t.npz"), target, drop=drop)


CLASS = np.arange(N) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3)).astype(np.uint8)


def test_a_target_may_be_one_hot(tmp_path):
    rows = arrays(tmp_path, x=IMAGES, y=np.eye(3)[CLASS])
    assert rows.y.tolist() == CLASS.tolist() and rows.classes == ("0", "1", "2")
    both = np.stack([CLASS > 0, CLASS > 1], axis=1)
    line = refusal(arrays, tmp_path, x=IMAGES, y=both)
    assert "data.target=y_0 'data.drop=[y_1]'" in line
    assert arrays(tmp_path, "y_0", ["y_1"], x=IMAGES, y=both).y.tolist() == both[:, 0].tolist()


def test_columns_of_a_one_hot_target_are_pointed_at_and_others_of_such_names_are_not(read):
    hot = PLAIN.drop(columns="label").assign(**{f"y_{i}": i == CLASS for i in range(3)})
    for written in (hot, hot.astype(float)):
        line = refusal(read, written, target="y")
        assert "y_0, y_1, y_2 look one-hot" in line and "(rows, classes)" in line
    assert "one-hot" not in refusal(read, hot.assign(y_3=1), target="y")
    assert "one-hot" not in refusal(read, hot[["n1", "n2", "y_0"]], target="y")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_stand_last_are_moved_first_and_it_is_said(channels, tmp_path):
    images = np.repeat(IMAGES[..., :1], channels, axis=3) + np.arange(channels, dtype=np.uint8)
    rows = arrays(tmp_path, x=images, y=CLASS)
    assert rows.shape == (channels, 6, 5) and f"({channels}, 6, 5)" in rows.notes[0]
    np.testing.assert_array_equal(rows.x, np.moveaxis(images, 3, 1).reshape(N, -1))


def test_arrays_of_another_machine_and_of_another_length(tmp_path):
    plain = arrays(tmp_path, x=IMAGES, y=CLASS)
    assert plain.x.dtype == np.uint8
    names = np.array(["a", "b"])
    other = arrays(tmp_path, drop=["names"], x=IMAGES.astype(np.float16), y=CLASS.astype(">i4"), names=names)
    assert other.x.dtype == np.float16 and other.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("given", "kept"),
    [((3, 4, 5), (3, 4, 5)), ((2, 9), (2, 9)), ((6, 6), (1, 6, 6)), ((12,), (12,))],
    ids=["images", "signals", "square images without channels", "flat"],
)
def test_the_arrays_of_an_npz_keep_the_shape_of_a_row_where_no_other_column_is_beside_them(tmp_path, given, kept):
    x = np.random.default_rng(0).normal(size=(N, *given))
    rows = arrays(tmp_path, x=x, y=CLASS)
    assert rows.shape == kept
    np.testing.assert_array_equal(rows.x, x.reshape(N, -1))
    assert arrays(tmp_path, x=x, age=CLASS, y=CLASS).shape == (math.prod(given) + 1,)


def test_text_may_be_bytes_and_an_array_of_one_column_has_its_own_name(tmp_path):
    x, word = np.arange(2.0 * N).reshape(N, 2), np.array(["bär", "ähre", "ohm"])[CLASS]
    plain = arrays(tmp_path, x=x, age=CLASS[::-1], y=word)
    other = arrays(tmp_path, x=x, age=CLASS[::-1, None], y=np.char.encode(word, "utf-8")[:, None])
    assert other.fingerprint == plain.fingerprint and other.columns == plain.columns == ("x_0", "x_1", "age")
    assert "not UTF-8" in refusal(arrays, tmp_path, x=x, y=np.char.encode(word, "latin-1"))


# --- groups and order


def test_a_group_column_keeps_its_rows_together_and_is_no_feature(read):
    person = np.arange(N) // 3
    rows = read(PLAIN.assign(person=[f"p{i}" for i in person]), group_column="person")
    assert rows.columns == ("n1", "n2")
    for seed in range(3):
        held = [{*person[index]} for index in split(rows, seed).values()]
        assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    gap = PLAIN.assign(g=["" if i == 5 else "a" for i in range(N)])
    assert "row 6 holds ''" in refusal(read, gap, group_column="g")
    assert rows.fingerprint != read(PLAIN).fingerprint


def test_groups_that_look_alike_are_one_and_a_number_is_one_in_any_spelling(read):
    assert read(PLAIN.assign(g=["P1", "q", "p1 ", "Q"] * 15), group_column="g").groups.tolist() == [0, 1] * 30
    assert read(PLAIN.assign(g=["c", "1", "c", "1.0"] * 15), group_column="g").groups.tolist() == [0, 1] * 30


@pytest.mark.parametrize("role", ["group_column", "order_column", "split_column"])
def test_a_word_for_a_missing_value_is_one_in_a_column_with_a_role_too(role, read):
    values = ["train", "test"] if role == "split_column" else [1, 2]
    column = [*values * 29, *values[:1], -999]
    line = refusal(read, PLAIN.assign(role=column), missing=[-999], **{role: "role"})
    assert f"data.{role}='role': row 60 holds ''" in line


@pytest.mark.parametrize("form", ["{day:02}{month:02}2020", "{month}.2010", "{month:02}1990", "2010.{month}"])
def test_dates_that_sort_by_day_or_month_are_no_order(form, read):
    times = [form.format(day=1 + i // 12, month=1 + i % 12) for i in range(N)]
    assert "the year first" in refusal(read, PLAIN.assign(t=times), order_column="t")


def test_compact_iso_times_are_an_order(read):
    times = [f"202401{1 + i // 24:02}T{i % 24:02}1500" for i in range(N)]
    assert read(PLAIN.assign(t=times), order_column="t").order.tolist() == [*range(N)]


@pytest.mark.parametrize("form", [lambda i: 12000 + i, lambda i: f"{2000 + i // 4}.{1 + i % 4}"])
def test_counters_and_quarters_are_an_order(form, read):
    assert read(PLAIN.assign(t=[form(i) for i in range(N)]), order_column="t").order.tolist() == [*range(N)]


def test_a_stray_word_among_decimal_commas_is_named_and_a_target_decides_no_sign_of_features(read):
    text = PLAIN.assign(n1=["k.A." if i == 7 else str(value).replace(".", ",") for i, value in enumerate(N1)])
    line = refusal(read, text.assign(n2=1).to_csv(index=False, sep=";"))
    assert "column 'n1' holds 'k.A.' (row 8)" in line and "'data.missing=[\"k.A.\"]'" in line
    grouped = PLAIN.assign(g=[f"{1 + i // 20},5" for i in range(N)])
    assert read(grouped.to_csv(index=False, sep=";"), group_column="g").x[:, 0].tolist() == N1.tolist()


def test_a_column_of_few_words_and_gaps_is_text_and_a_word_for_no_value_may_be_a_level(read):
    cabin = PLAIN.assign(cabin=["C1" if i == 7 else "B2" if i == 9 else None for i in range(N)])
    assert "text in 'cabin' ('C1')" in refusal(read, cabin, impute=True)
    town = PLAIN.assign(town=["Oslo", "NA", "Rome"] * (N // 3))
    assert "missing value" not in refusal(read, town.to_csv(index=False))


def test_a_decimal_comma_is_one_in_the_target_alone_too(read):
    halves = pd.DataFrame({"n": range(N), "label": ["0,5", "1,5"] * (N // 2)})
    assert "it holds fractions" in refusal(read, halves.to_csv(index=False, sep=";"))
    ones = halves.assign(label=["0,0", "1,0"] * (N // 2))
    assert read(ones.to_csv(index=False, sep=";")).classes == ("0", "1")


@pytest.mark.parametrize("of", [lambda i: 3.5 * i, lambda i: f"2024-01-{1 + i // 2:02}T{12 * (i % 2):02}:00"])
def test_an_order_column_puts_the_latest_rows_into_the_test_part(of, read):
    time = np.random.default_rng(0).permutation(N)
    rows = read(PLAIN.assign(time=[of(i) for i in time]), order_column="time")
    for seed in range(2):
        index = split(rows, seed)
        assert {*time[index["test"]]} == {*range(48, 60)} and {*time[index["val"]]} == {*range(38, 48)}
    assert rows.facts()["given"] == ["val", "test"]  # the same rows for every seed
    line = refusal(read, PLAIN.assign(time=["soon" if i == 5 else i for i in range(N)]), order_column="time")
    assert "row 1 holds" in line or "row 6 holds 'soon'" in line


@pytest.mark.parametrize(
    "typed",
    [
        [20240101 + i for i in range(N)],
        [1_700_000_000 + i for i in range(N)],
        [f"{2003 + i / 4:.2f}" for i in range(N)],
        [f"{1990 + i}-02-28T0{i % 3}:00" for i in range(N)],
        [*(f"{1400 + 20 * i}-02-28" for i in range(N - 1)), "9999-12-31"],
    ],
)
def test_numbers_and_iso_dates_are_an_order_whose_span_is_told(typed, read):
    rows = read(PLAIN.assign(time=typed), order_column="time")
    assert rows.order.tolist() == [*range(N)]
    (note,) = rows.notes
    assert note.startswith("time: ") and f"'{typed[0]}' to '{typed[-1]}'" in note


@pytest.mark.parametrize("word", ["today", "NaT", "31.12.2023"])
def test_a_word_is_no_date(word, read):
    days = [word if i == 7 else f"2024-01-{1 + i % 31:02}" for i in range(N)]
    assert f"row 8 holds {word!r}" in refusal(read, PLAIN.assign(time=days), order_column="time")


def test_an_order_has_the_decimal_sign_of_its_file(read):
    comma = "a;t;label\n" + "".join(f"{i},5;{i % 7},{i:02};{'yn'[i % 2]}\n" for i in range(60))
    rows = read(comma, order_column="t")
    point = read(comma.replace(",", "."), order_column="t")
    assert rows.order.tolist() == point.order.tolist() and len({*rows.order}) == 60


# --- what is refused


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_channels_that_may_stand_last_are_told_and_objects_as_labels_are_not_to_be_left_out(tmp_path):
    np.savez(tmp_path / "t.npz", image=RNG.normal(size=(N, 8, 8, 5)), label=Y)
    (note,) = table(str(tmp_path / "t.npz"), "label").notes
    assert "image: read as 8 channels of 8 × 5" in note
    for shape, told in (((9, 5), ["signal: read as 9 channels of 5"]), ((5, 9), [])):
        np.savez(tmp_path / "t.npz", signal=RNG.normal(size=(N, *shape)), label=Y)
        assert [note.partition(";")[0] for note in table(str(tmp_path / "t.npz"), "label").notes] == told
    np.savez(tmp_path / "t.npz", x=np.eye(N), label=LABEL.astype(object), empty=np.zeros((N, 0)))
    line = refusal(table, str(tmp_path / "t.npz"), "label", drop=["empty"])
    assert "'label' is not an array" in line and "data.drop" not in line
    assert "'empty' is not an array" in refusal(table, str(tmp_path / "t.npz"), "x", drop=["label"])


def test_arrays_of_other_lengths_can_be_left_out_as_is_told(tmp_path):
    arrays = {"x": np.eye(N), "label": Y, "names": np.arange(3), "x_test": np.ones((9, N)), "old": np.ones(2)}
    np.savez(tmp_path / "t.npz", **arrays)
    line = refusal(table, str(tmp_path / "t.npz"), "label", drop=["old"])
    assert "'data.drop=[old,names,x_test]'" in line
    assert "data.drop=[…]" in refusal(table, str(tmp_path / "t.npz"), "lable", drop=["old"])
    assert table(str(tmp_path / "t.npz"), "label", drop=["old", "names", "x_test"]).shape == (N,)


def test_a_pickle_in_an_npz_is_refused_and_never_run(tmp_path):
    bait = tmp_path / "touched"
    np.savez(tmp_path / "t.npz", x=np.array([_Bomb(bait)] * 9, dtype=object), label=np.arange(9) % 2)
    with pytest.raises(ValueError, match=r"'x'.*pickled objects are never loaded"):
        table(str(tmp_path / "t.npz"), "label")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(_Bomb(bait)))
    with pytest.raises(ValueError, match="not a zip file"):
        table(str(tmp_path / "bare.npz"), "label")
    assert not bait.exists()
    np.load(tmp_path / "t.npz", allow_pickle=True)["x"]
    assert bait.exists()  # the bait works


LINES = [f"{i},{i * i % 7},{'no' if i % 2 else 'yes'}" for i in range(30)]


def csv(*lines: str, header: str = "a,b,label") -> bytes:
    return "\n".join([header, *lines]).encode()


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("label", "text")
    return file.getvalue()


GOOD = csv(*LINES)
BAD_FILES = {
    "missing file": ("t.csv", None, {}, "No such file"),
    "a folder": (".", None, {}, "it must be a file that ends in one of .csv, .tsv"),
    "another suffix": ("t.pkl", GOOD, {}, "ends in one of .csv, .tsv, .txt, .parquet, .npz"),
    "latin-1 csv": (
        "t.csv",
        GOOD + "\n1,2,caf\xe9".encode("latin-1"),
        {},
        "not UTF-8, save it as UTF-8: 'utf-8' codec can't decode byte 0xe9 in position",
    ),
    "row names as R writes them": (
        "t.txt",
        csv(*(f"r{i},{line}" for i, line in enumerate(LINES))).replace(b",", b" "),
        {},
        "line 2 has 4 cells and the first 3: a separator at its end, row names",
    ),
    "one longer row": ("t.csv", csv(*LINES, "1,2,yes,4"), {}, "line 32 has 4 cells and the first 3"),
    "one shorter row": ("t.csv", csv(*LINES, "1,2"), {}, "line 32 has 2 cells and the first 3"),
    "a hole between blanks": (
        "t.txt",
        csv(*LINES, "1,,yes").replace(b",", b"  "),
        {},
        "line 32 has 2 cells and the first 3",
    ),
    "lines that end with a separator": (
        "t.csv",
        csv(*(f"{line}," for line in LINES)),
        {},
        "line 2 has 4 cells and the first 3: a separator at its end",
    ),
    "not a zip": ("t.npz", GOOD, {}, "not a zip file"),
    "arrays of different length": ("t.npz", npz(x=np.zeros(9), label=np.arange(8) % 2), {}, "x has 9, label has 8"),
    "two arrays of one column": (
        "t.npz",
        npz(x=np.ones((9, 2)), x_0=np.ones(9), label=np.arange(9) % 2),
        {},
        "named x_0",
    ),
    "times": (
        "t.npz",
        npz(x=np.ones(9), i=np.ones(9), t=np.zeros(9, "M8[s]"), label=np.arange(9) % 2),
        {"drop": ["i"]},
        "'data.drop=[i,t]'",
    ),
    "a one-hot target with the rows last": (
        "t.npz",
        npz(x=np.ones((9, 2)), label=np.eye(3)[:, np.arange(9) % 3]),
        {},
        "x has 9 × 2, label has 3 × 9",
    ),
    "no target": (
        "t.csv",
        GOOD,
        {"target": None},
        "data.target=None: it must be the column to predict, a single one; ",
    ),
    "absent target": ("t.csv", GOOD, {"target": "labels"}, "did you mean label?"),
    "absent categorical column": ("t.csv", GOOD, {"categorical": ["q"]}, "data.categorical='q'"),
    "a name where a list is due": ("t.csv", GOOD, {"drop": "a"}, "data.drop='a': it must be a list"),
    "the target dropped": ("t.csv", GOOD, {"drop": ["label"]}, "data.drop='label': this column is data.target"),
    "nothing but the target": ("t.csv", GOOD, {"drop": ["a", "b"]}, "no feature is left"),
    "an infinite feature": ("t.csv", csv("inf,1,yes", *LINES), {}, "column 'a' has infinite values"),
    "a column without values": ("t.csv", csv(*(f",{line}" for line in LINES), header="e,a,b,label"), {}, "no values"),
    "a target without a value": ("t.csv", csv("1,2,", *LINES), {}, "1 row with no value there"),
    "one class": ("t.csv", csv(*["1,2,yes", "3,4,yes"] * 9), {}, "one class only ('yes')"),
    "fractions as target": ("t.csv", csv(*(f"1,{i},{i / 7}" for i in range(30))), {}, "looks continuous"),
    "a class for each row": ("t.csv", csv(*(f"1,2,{i}" for i in range(30))), {}, "30 distinct values in 30 rows"),
    "a rare class": ("t.csv", csv("1,2,maybe", *LINES), {}, "class 'maybe' has 1 of the 31 rows"),
    "constant features": ("t.csv", csv(*["1,2,yes", "1,2,no"] * 9), {}, "the table has 18 rows in 1 group "),
    "a class of one row and its copies": (
        "t.csv",
        csv(*["9,9,maybe"] * 9, *LINES),
        {},
        "class 'maybe' has 9 rows in 1",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_table_ends_in_one_clear_line(case, tmp_path):
    name, content, arguments, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = None if name is None else str(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        served(table(path, **{"target": "label"} | arguments))
    assert str(caught.value).count("\n") == 0


def test_a_table_larger_than_memory_is_refused_before_it_is_read(read, monkeypatch, tmp_path):
    monkeypatch.setattr(asked, "memory", lambda: 100)
    with pytest.raises(ValueError, match=r"at most \d+ % of its rows would fit"):
        read(PLAIN)
    monkeypatch.setattr(asked, "memory", lambda: 20_000)  # packed it is small
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros((9, 9999), np.uint8), y=np.arange(9) % 2)
    with pytest.raises(ValueError, match=r"at most 7 % of its rows would fit"):
        table(str(tmp_path / "t.npz"), "y")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"separator": "ab"}, "data.separator='ab': it must be one character"),
        ({"decimal": ";"}, "data.decimal=';': it must be '.', ',', or null"),
        ({"missing": "?"}, "data.missing='?': it must be a list"),
        ({"classes": "all"}, "data.classes='all': it must be as_is"),
        ({"group_column": "n1", "order_column": "n2"}, "data.order_column: must be null beside data.group_column"),
        ({"target": True}, "data.target='True': the table has no such column"),
        ({"target": ["label", "n1"]}, "a single one"),
        ({"header": "no"}, "data.header='no': it must be true, false, or null"),
        ({"split_column": "n1", "categorical": ["n1"]}, "data.categorical='n1': this column is data.split_column"),
    ],
)
def test_a_bad_value_of_a_tables_key_is_one_line(keys, message, read):
    assert message in refusal(read, PLAIN, **keys)


# --- any table that pandas writes


CODINGS = [(0, 1), (0.0, 1.0), (False, True), (-3, 7), ("a", "b"), ("None", "nan"), ("01", "1"), ("", "x")]
INDEX = [{"index": False}, {"index": True}, {"index_label": "id"}, {"index_label": ""}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    unit=st.sampled_from([1, -1, 1000, 1e-6, 1e12]),
    zero=st.sampled_from([0, 32, -273.15]),
    coding=st.sampled_from(CODINGS),
    order=st.permutations(["a", "flag", "kind", "label"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    quoting=st.sampled_from([0, 1, 2]),
    newline=st.sampled_from(["\n", "\r\n"]),
    index=st.sampled_from(INDEX),
)
def test_however_pandas_writes_a_table_its_rows_are_those_of_the_plain_one_or_it_is_refused(
    seed, unit, zero, coding, order, separator, decimal, quoting, newline, index, read
):
    values = np.random.default_rng(seed).normal(size=N)
    plain = pd.DataFrame({"a": values, "flag": N1 > 0, "kind": np.where(N2 > 0, "x,y", "z"), "label": LABEL})
    wanted = read(plain, categorical=["kind"])
    other = plain.assign(a=values * unit + zero, label=np.array(coding, dtype=object)[Y])[order]
    text = other.to_csv(sep=separator, decimal=decimal, quoting=quoting, lineterminator=newline, **index)
    nameless, indexed = index in ({"index": True}, {"index_label": ""}), index == {"index_label": "id"}
    if nameless or "" in coding:
        assert re.search("without a name|no value there", refusal(read, text, categorical=["kind"]))
        return
    rows = read(text, categorical=["kind"])
    assert rows.y.tolist() == wanted.y.tolist()
    assert len(rows.remarks) == indexed
    columns = [column for name in order for column in {"label": [], "kind": ["x,y", "z"]}.get(name, [name])]
    places = [columns.index(name) + indexed for name in ("a", "flag", "x,y", "z")]
    for part, x in served(wanted).items():
        mine = served(rows)[part][:, places] * [np.sign(unit), 1, 1, 1]
        np.testing.assert_allclose(mine, x, rtol=0, atol=1e-15 * (10 + abs(zero / unit)))
