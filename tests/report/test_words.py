"""The rule that turns verdicts into the word for a claim, branch by branch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normdrop.report.words import claim_word, head

B, W, E, I = "better", "worse", "equivalent", "inconclusive"  # noqa: E741
SMALL, SMALL_LOSS = "better, but practically equivalent", "worse, but practically equivalent"
R = "refused: 5 replicates, 6 needed for a two-sided sign-flip test to reach p < 0.05"
MIRROR = {B: W, W: B, SMALL: SMALL_LOSS, SMALL_LOSS: SMALL, E: E, I: I, R: R}
NARROW, WIDE = (-0.001, 0.004), (-0.02, 0.03)
WORDS = ("Yes", "No: the opposite", "No practical difference", "It depends", "Not shown", "Refused")
some_verdicts = st.lists(st.sampled_from(list(MIRROR)), min_size=1, max_size=16)


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (B, "Yes"),
        (W, "No: the opposite"),
        (E, "No practical difference"),
        (SMALL, "No practical difference"),
        (SMALL_LOSS, "No practical difference"),
        (I, "Not shown"),
        (R, "Refused"),
    ],
)
def test_one_row_alone_is_a_family(verdict, word):
    assert claim_word([verdict]) == word


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ([B] * 9 + [I] * 3, "Yes"),
        ([B] * 9 + [E] * 3, "Yes"),
        ([B] * 8 + [I] * 4, "Sometimes: 8 of 12"),
        ([B] * 11 + [W], "It depends"),
        ([W] * 9 + [I] * 3, "No: the opposite"),
        ([W] * 8 + [I] * 4, "Sometimes the opposite: 8 of 12"),
        ([E] * 9 + [I] * 3, "No practical difference"),
        ([E] * 8 + [I] * 4, "Not shown"),
        ([E] * 11 + [B], "Sometimes: 1 of 12"),
        ([E] * 11 + [W], "Sometimes the opposite: 1 of 12"),
        ([E] * 10 + [B, W], "It depends"),
        ([B] * 2 + [I] * 10, "Sometimes: 2 of 12"),
        ([I] * 12, "Not shown"),
    ],
)
def test_several_data_sets_by_the_count(verdicts, word):
    assert claim_word(verdicts) == word


def test_too_small_to_matter_counts_as_equivalent_and_neither_as_better_nor_worse():
    assert claim_word([SMALL] * 12) == "No practical difference"
    assert claim_word([SMALL, SMALL_LOSS, E, I]) == "No practical difference"
    assert claim_word([B] * 8 + [SMALL] * 4) == "Sometimes: 8 of 12"
    assert claim_word([SMALL, W]) == "Sometimes the opposite: 1 of 2"


def test_refused_data_sets_stay_in_the_count_and_help_nobody():
    assert claim_word([B] * 3 + [R]) == "Yes"
    assert claim_word([B] * 2 + [R] * 2) == "Sometimes: 2 of 4"
    assert claim_word([E] * 2 + [R] * 2) == "Not shown"
    assert claim_word([R] * 4) == "Refused"


@pytest.mark.parametrize(
    ("pooled", "verdicts", "prediction", "word"),
    [
        (B, [I] * 12, NARROW, "Yes"),
        (W, [I] * 12, NARROW, "No: the opposite"),
        (E, [I] * 12, NARROW, "No practical difference"),
        (SMALL, [I] * 12, NARROW, "No practical difference"),
        (I, [I] * 12, NARROW, "Not shown"),
        (R, [B] * 12, NARROW, "Refused"),
        (B, [R] * 12, NARROW, "Yes"),
        (B, [I] * 12, WIDE, "It depends"),
        (E, [E] * 12, WIDE, "It depends"),
        (I, [I] * 12, WIDE, "It depends"),
        (B, [I] * 12, (-0.02, 0.004), "Yes"),
        (E, [I] * 12, (-0.004, 0.02), "No practical difference"),
        (B, [W] + [I] * 11, NARROW, "It depends"),
        (E, [B, W] + [E] * 10, NARROW, "It depends"),
        (E, [B] * 2 + [E] * 10, NARROW, "Sometimes: 2 of 12"),
        (E, [W] * 2 + [E] * 10, NARROW, "Sometimes the opposite: 2 of 12"),
        (I, [B] * 10 + [I] * 2, NARROW, "Sometimes: 10 of 12"),
        (I, [E] * 12, NARROW, "Not shown"),
    ],
)
def test_the_pooled_mean_and_its_prediction_interval_decide_where_they_are(pooled, verdicts, prediction, word):
    assert claim_word(verdicts, pooled=pooled, prediction=prediction, rope=0.005) == word


def test_without_a_region_every_prediction_interval_about_zero_depends():
    assert claim_word([I] * 8, pooled=B, prediction=NARROW) == "It depends"
    assert claim_word([I] * 8, pooled=B, prediction=(0.001, 0.004)) == "Yes"


@given(some_verdicts, st.sampled_from([None, *MIRROR]), st.sampled_from([NARROW, WIDE]))
def test_swapping_the_sides_gives_the_opposite_word(verdicts, pooled, prediction):
    opposite = {"Yes": "No: the opposite", "No: the opposite": "Yes"}

    def word(verdicts, pooled, low, high):
        return claim_word(verdicts, pooled=pooled, prediction=(low, high), rope=0.005)

    first = word(verdicts, pooled, *prediction)
    swapped = word([MIRROR[v] for v in verdicts], pooled and MIRROR[pooled], -prediction[1], -prediction[0])
    if first.startswith("Sometimes"):
        assert swapped.startswith("Sometimes")
        assert ("opposite" in first) != ("opposite" in swapped)
        assert first.rpartition(": ")[2] == swapped.rpartition(": ")[2]
    else:
        assert first in WORDS
        assert swapped == opposite.get(first, first)


def test_nothing_compared_is_no_word():
    with pytest.raises(ValueError, match="no verdict"):
        claim_word([])


def test_the_head_of_a_verdict_drops_reasons_and_what_is_too_small_to_matter():
    assert [head(v) for v in (B, W, E, I, R, SMALL, SMALL_LOSS)] == [B, W, E, I, "refused", E, E]
