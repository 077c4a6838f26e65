"""Any configuration that is accepted trains two steps without error and keeps the invariants."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, Phase, given, settings
from omegaconf.errors import OmegaConfBaseException

from fitting import trained
from normdrop.arrangement import ACTIVATIONS, ARRANGEMENTS, NOISES, POSITIONS
from normdrop.asked import dotted
from normdrop.study import config as configs
from normdrop.training.check import check_fit

VALUES: dict[str, st.SearchStrategy] = {
    "arrangement": st.sampled_from([*ARRANGEMENTS]),
    "position": st.sampled_from(POSITIONS),
    "rate": st.integers(0, 99).map(lambda percent: percent / 100),
    "noise": st.sampled_from([noise for noise in NOISES if noise != "channel"]),  # an MLP has none
    "rerun": st.integers(0, 1),
    "batch_size": st.integers(21, 40),  # of 40 rows: two steps, or one
    "drift.scale": st.sampled_from([0, 0.5]),
    "drift.offset": st.sampled_from([0, -1.5]),
    "model.activation": st.sampled_from([*ACTIVATIONS]),
    "model.output_activation": st.sampled_from(["null", *ACTIVATIONS]),
    "model.dropout_layers": st.sampled_from(["all", "last"]),
    "model.init_gain": st.sampled_from([1e-3, 1, 30]),
    "optimizer": st.sampled_from(["adam", "adamw", "sgd"]),
    "optimizer.lr": st.sampled_from([1e-6, 1e-2, 1e4]),
    "optimizer.weight_decay": st.sampled_from([0, 0.1]),
    "optimizer.schedule": st.sampled_from(["constant", "cosine"]),
    "trainer.val_check_interval": st.sampled_from(["1", "1.0"]),
    "measure.silencing": st.booleans(),
    "measure.shift_epochs": st.sampled_from(["[]", "[1]"]),
    "data": st.sampled_from(["digits", "digits_pca10", "breast_cancer", "synthetic"]),
}
WIDTHS = st.lists(st.integers(2, 9), min_size=1, max_size=3)


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    widths = draw(WIDTHS)
    chosen = {key: draw(values) for key, values in VALUES.items()}
    return [f"model.width={widths}", f"model.depth={len(widths)}", *(f"{key}={value}" for key, value in chosen.items())]


# A failure is told as found: to shrink it would train hundreds of times more.
fixed = settings(derandomize=True, phases=[Phase.generate], database=None, suppress_health_check=[*HealthCheck])


@settings(fixed, max_examples=15)
@given(chosen=overrides(), data=st.data())
def test_an_accepted_configuration_trains_and_each_row_is_whole_marked_and_its_seeds_alone(composed, chosen, data):
    config = composed(*chosen, "data.train_size=40", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    check_fit(config, 0)
    seeds = sorted(data.draw(st.sets(st.integers(0, 50), min_size=2, max_size=4)))
    rows, history, facts = trained(config, seeds)

    assert rows["seed"].tolist() == seeds
    assert history["seed"].unique().tolist() == seeds
    measured = rows[["train_nll", "val_nll", "test_nll", "train_acc", "val_acc", "test_acc", "test_ece"]]
    assert (np.isfinite(measured).all(axis=1) == ~rows["diverged"]).all()
    sound = rows[~rows["diverged"]]
    accuracies = sound[["train_acc", "val_acc", "test_acc"]]
    assert ((accuracies >= 0) & (accuracies <= 1)).all(axis=None)
    assert np.allclose(sound["gap"], sound["train_acc"] - sound["test_acc"])
    assert facts["rows"]["train"] == 40

    alone = data.draw(st.sampled_from(seeds))
    row, curve, _ = trained(config, [alone])
    pd.testing.assert_frame_equal(row, rows[rows["seed"] == alone].reset_index(drop=True), check_exact=True)
    pd.testing.assert_frame_equal(curve, history[history["seed"] == alone].reset_index(drop=True), check_exact=True)


# --- what a person may type

TYPED = st.one_of(
    st.sampled_from(["", "null", "true", "[]", "{}", "[1,2]", "{a: 1}", "nan", "-inf", "1e400", "a", "'é ü'", "0x1F"]),
    st.sampled_from(
        ["${rate}", "${nope}", "???", "[[1],[2]]", "'[1'", "1_000", "-0.0", "'  '", "9" * 400, "/", "../x"]
    ),
    st.integers(-3, 3).map(str),
    st.floats(allow_nan=False, allow_subnormal=False).map(str),
)
PLAIN = configs.plain(configs.compose())
KEYS = sorted({*dotted(PLAIN), "study", "data", "model", "trainer", "measure"})


@settings(fixed, max_examples=60)
@given(key=st.sampled_from(KEYS), value=TYPED)
def test_any_value_of_any_key_is_a_condition_or_one_line(composed, key, value):
    try:
        configs.config_hash(configs.canonical(composed(f"{key}={value}")))
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        assert str(error)  # noqa: PT017


@settings(fixed, max_examples=100)
@given(number=st.floats(-1e300, 1e300, allow_subnormal=False))
def test_two_spellings_of_one_number_are_one(number):
    def hash_of(spelling: str) -> str:
        value = OverridesParser.create().parse_override(f"drift.offset={spelling}").value()
        return configs.config_hash(configs.canonical(PLAIN | {"drift": PLAIN["drift"] | {"offset": value}}))

    whole = [str(int(number))] if number.is_integer() and abs(number) < 1e15 else []
    one = hash_of(repr(number))
    for spelling in (f"{number:.17g}", f"{number:.16e}", *whole):
        assert hash_of(spelling) == one
