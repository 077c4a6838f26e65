"""A fit that is stopped anywhere goes on from its checkpoint and ends byte for byte as one left alone."""

import importlib.metadata
import itertools
import json

import pytest

from normdrop.training import fit as fits
from normdrop.training.checkpoint import Checkpoint
from normdrop.training.module import ReplicatedClassifier

# 70 training rows at batch size 16 are five steps an epoch.
BLOCK = ("trainer.max_epochs=4", "measure.silencing=true", "measure.shift_epochs=[1,3]")
SEEDS = [0, 1, 2]
CASES = {
    "epochs": (),
    "within epochs": ("trainer.val_check_interval=2",),
    "search": ("select_epoch=best", "patience=1", "optimizer.lr=0.2", "trainer.max_epochs=9"),
    "schedule": ("optimizer=adamw", "optimizer.schedule=cosine", "drift.scale=0.3", "noise=uniform"),
    "fresh rows": ("optimizer=sgd", "data=synthetic", "data.fresh=true"),
    "compiled": ("engine=compiled", "optimizer.schedule=cosine"),
    "compiled, within epochs": ("engine=compiled", "trainer.val_check_interval=2", "select_epoch=best"),
    "groups": ("replicates_at_a_time=2", "data.pca=5"),
}


class Stopped(Exception):
    pass


def outcome(fitted: fits.Fitted) -> str:
    facts = {key: fitted.facts[key] for key in ("rows", "shift")}
    return fitted.replicates.to_csv() + fitted.history.to_csv() + json.dumps(facts)


def steps_of(config, monkeypatch, stop: int | None, checkpoint: Checkpoint) -> tuple[int, fits.Fitted | None]:
    """Train, stopping before the optimizer step of this number: (steps taken, what was trained or None)."""
    taken, step = 0, ReplicatedClassifier.training_step

    def counted(self, *batch):
        nonlocal taken
        if taken == stop:
            raise Stopped
        taken += 1
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(ReplicatedClassifier, "training_step", counted)
        try:
            fitted = fits.fit(config, SEEDS, checkpoint=checkpoint)
            return taken, fitted
        except Stopped:
            return taken, None


@pytest.mark.parametrize("case", CASES)
def test_a_fit_stopped_at_any_step_ends_as_one_that_was_not(tiny, monkeypatch, tmp_path, case):
    if "compiled" in case:
        pytest.importorskip("numba")
    config = tiny(*BLOCK, *CASES[case])
    expected = outcome(fits.fit(config, SEEDS))
    # A validation comes after five steps at most; the compiled engine takes an epoch in one.
    stops = itertools.cycle((2, 3) if case == "compiled" else (6, 10))
    checkpoint = Checkpoint(tmp_path, "a config", minutes=0)
    starts, fitted = 0, None
    while fitted is None:
        starts += 1
        assert starts < 20, "it does not come forward"
        _, fitted = steps_of(config, monkeypatch, next(stops), checkpoint)
    assert starts > 1
    assert outcome(fitted) == expected
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_group_is_not_trained_again(tiny, monkeypatch, tmp_path):
    config = tiny("replicates_at_a_time=1", "measure.shift=false")  # ten steps for each replicate
    checkpoint = Checkpoint(tmp_path, "a config", minutes=1e6)
    expected = outcome(fits.fit(config, SEEDS))
    assert steps_of(config, monkeypatch, 25, checkpoint) == (25, None)
    fitted = fits.fit(config, SEEDS, checkpoint=checkpoint)
    assert outcome(fitted) == expected
    taken, _ = steps_of(config, monkeypatch, None, checkpoint)
    assert taken == 10  # the last group alone leaves nothing behind


def test_a_search_that_was_at_its_end_takes_no_further_step(tiny, monkeypatch, tmp_path):
    config = tiny(*CASES["search"])
    checkpoint = Checkpoint(tmp_path, "a config", minutes=0)
    (taken, fitted), (more, again) = (steps_of(config, monkeypatch, None, checkpoint) for _ in range(2))
    assert 0 < taken < 5 * 9 and more == 0
    assert outcome(again) == outcome(fitted) and again.facts["steps"] == taken


def test_a_short_condition_writes_no_checkpoint(tiny, tmp_path):
    fits.fit(tiny(), SEEDS, checkpoint=Checkpoint(tmp_path, "a config", minutes=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["config", "seeds"])
def test_a_checkpoint_counts_for_its_config_and_seeds_alone(tiny, monkeypatch, tmp_path, other):
    config = tiny("measure.shift=false")
    assert steps_of(config, monkeypatch, 7, Checkpoint(tmp_path, "a config", minutes=0)) == (7, None)
    assert len(list(tmp_path.iterdir())) == 1
    fitted = fits.fit(
        config,
        SEEDS if other == "config" else [0, 1],
        checkpoint=Checkpoint(tmp_path, "another" if other == "config" else "a config", minutes=0),
    )
    assert fitted.facts["earlier_seconds"] == 0


def test_a_checkpoint_counts_for_its_kind_of_device_and_its_versions_alone(monkeypatch, tmp_path):
    known, version = set(), importlib.metadata.version
    for device, other in (("cpu", ""), ("cuda", ""), *(("cpu", name) for name in ("torch", "lightning", "normdrop"))):
        checkpoint = Checkpoint(tmp_path, "a config", minutes=1)
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, its=other: "0" if name == its else version(name)
        )
        assert checkpoint.of(SEEDS, device, last=True) is None
        known.add(checkpoint.path)
    assert len(known) == 5


def test_of_what_is_stopped_again_and_again_all_the_time_counts(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a config", minutes=1)
    checkpoint.of(SEEDS, "cpu", last=True)
    checkpoint.load_state_dict({"seconds": 50.0})
    assert checkpoint.state_dict()["seconds"] >= 50


def test_the_time_of_what_was_taken_up_counts(tiny, monkeypatch, tmp_path):
    config = tiny("measure.shift=false")
    steps_of(config, monkeypatch, 7, Checkpoint(tmp_path, "a config", minutes=0))
    assert fits.fit(config, SEEDS, checkpoint=Checkpoint(tmp_path, "a config", minutes=0)).facts["earlier_seconds"] > 0


def test_the_time_of_each_group_counts_of_those_before_as_of_the_one_in_work(tiny, monkeypatch, tmp_path):
    config, checkpoint = tiny("replicates_at_a_time=1", "measure.shift=false"), Checkpoint(tmp_path, "a", minutes=0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "state_dict", lambda self: {"seconds": 1000.0})
        steps_of(config, monkeypatch, 17, checkpoint)  # of the second group's first epoch too there is a state
    assert fits.fit(config, SEEDS, checkpoint=checkpoint).facts["earlier_seconds"] == 2000
