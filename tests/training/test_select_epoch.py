"""The epoch that validation prefers: which one it is, what is measured of it, and when a search ends."""

import pytest
import torch

from fitting import of
from normdrop.study import config as configs
from normdrop.training.fit import fit
from normdrop.training.module import ReplicatedClassifier

# Overfits within its epochs, so that the lowest validation NLL lies before the end, each replicate's at another epoch.
SEARCH = ("trainer.max_epochs=9", "optimizer.lr=0.1", "rate=0.1", "measure.silencing=true", "measure.shift_epochs=[6]")
SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def searched(tiny):
    return fit(tiny(*SEARCH, "select_epoch=best"), SEEDS)


def test_the_epoch_evaluated_is_the_first_of_the_lowest_validation_nll_of_each_replicate(searched):
    rows = searched.replicates.set_index("seed")
    assert rows["epoch"].nunique() > 1 and (rows["epochs_after"] > 0).all()
    for seed, curve in searched.history.groupby("seed"):
        lowest = curve.loc[curve["val_nll"].idxmin()]
        assert rows.loc[seed, "epoch"] == lowest["epoch"]
        assert rows.loc[seed, "val_nll"] == lowest["val_nll"] and rows.loc[seed, "val_acc"] == lowest["val_acc"]
        assert rows.loc[seed, "epoch"] + rows.loc[seed, "epochs_after"] == 8


def test_every_metric_and_the_network_are_those_of_a_training_that_stopped_there(searched, tiny):
    for seed, epoch in searched.replicates[["seed", "epoch"]].itertuples(index=False):
        stopped = fit(tiny(*SEARCH, "measure.shift_epochs=[]", f"trainer.max_epochs={epoch + 1}"), [seed])
        same = [name for name in stopped.replicates if name not in ("epochs_after", "steps_to_level")]
        assert of(stopped.replicates[same], seed) == of(searched.replicates[same], seed)
        its = [entry for entry in searched.facts["shift"] if (entry["seed"], entry["epoch"]) == (seed, "end")]
        assert stopped.facts["shift"] == its
        ours, theirs = searched.network(seed).state_dict(), stopped.network(seed).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs if "batches" not in name)


def test_the_search_changes_no_training(searched, tiny):
    last = fit(tiny(*SEARCH), SEEDS)
    assert of(last.history, *SEEDS) == of(searched.history, *SEEDS)
    assert (last.replicates["epoch"] == 8).all() and (last.replicates["epochs_after"] == 0).all()


def test_of_equal_validations_the_earliest_counts(tiny):
    found = fit(tiny("arrangement=none", "optimizer.lr=1e-30", "select_epoch=best"), [0, 1])
    assert found.replicates["epoch"].tolist() == [0, 0]


def test_of_validations_within_an_epoch_the_best_is_found_too(tiny):
    found = fit(tiny(*SEARCH, "select_epoch=best", "trainer.val_check_interval=2"), [0, 1])
    lowest = found.history.groupby("seed")["val_nll"].min()
    assert found.replicates["val_nll"].tolist() == lowest.tolist()
    assert found.history.groupby("epoch").size().tolist() == [4] * 9


# --- patience


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_search_when_so_many_epochs_brought_nothing_lower(searched, tiny, patience):
    patient = fit(tiny(*SEARCH, "select_epoch=best", f"patience={patience}"), SEEDS)
    assert len(patient.history) < len(searched.history)
    for seed, curve in searched.history.groupby("seed"):
        best, kept = None, 0
        for value in curve["val_nll"]:
            kept += 1
            best = (value, kept) if best is None or value < best[0] else best
            if kept - best[1] >= patience:
                break
        assert of(patient.history, seed) == of(curve.head(kept), seed)
        row = patient.replicates.set_index("seed").loc[seed]
        assert (row["epoch"], row["epochs_after"]) == (best[1] - 1, kept - best[1])


def test_with_patience_a_replicates_rows_are_the_same_whoever_trains_beside_it(tiny):
    config = tiny(*SEARCH, "select_epoch=best", "patience=2", "measure.shift_epochs=[3,6,7,8]")
    together = fit(config, SEEDS)
    ends = together.history.groupby("seed")["epoch"].max()
    assert ends.nunique() > 1
    apart = fit(config | {"replicates_at_a_time": 1}, SEEDS)
    assert apart.facts["steps"] == together.facts["steps"] == 5 * (ends.max() + 1)
    for seed in SEEDS:
        alone = fit(config, [seed])
        assert of(alone.replicates, seed) == of(together.replicates, seed)
        assert of(alone.history, seed) == of(together.history, seed)
        assert alone.facts["shift"] == [entry for entry in together.facts["shift"] if entry["seed"] == seed]


def test_what_becomes_of_a_replicate_after_its_end_counts_nowhere(tiny, monkeypatch):
    config = tiny(*SEARCH, "select_epoch=best", "patience=1", "measure.shift_epochs=[]")
    expected = fit(config, SEEDS)
    step, spoilt = ReplicatedClassifier.training_step, []

    def spoil(self, *batch):
        if self.ended.any():
            spoilt.append(True)
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter[self.ended] = torch.nan
        return step(self, *batch)

    monkeypatch.setattr(ReplicatedClassifier, "training_step", spoil)
    got = fit(config, SEEDS)
    assert spoilt
    assert of(got.replicates, *SEEDS) == of(expected.replicates, *SEEDS)
    assert of(got.history, *SEEDS) == of(expected.history, *SEEDS)


def test_a_replicate_whose_validation_never_was_finite_has_no_result(tiny, monkeypatch):
    validated = ReplicatedClassifier._validated

    def broken(self, nll, acc):
        nll[0] = torch.inf
        return validated(self, nll, acc)

    monkeypatch.setattr(ReplicatedClassifier, "_validated", broken)
    found = fit(tiny("select_epoch=best", "arrangement=bn"), [0, 1]).replicates
    assert found["diverged"].tolist() == [True, False]
    assert found.loc[0].drop(["seed", "diverged"]).isna().all()


def test_patience_without_a_search_is_refused(tiny):
    with pytest.raises(ValueError, match=r"^patience=3: must be null unless select_epoch=best$"):
        tiny("patience=3")
    assert configs.config_hash(tiny("select_epoch=best")) != configs.config_hash(tiny())
