"""Networks that a condition keeps are those that its table speaks of."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import normdrop
from fitting import normdrop as typed
from normdrop.training.kept import Kept

TINY = (
    *("data.train_size=70", "batch_size=16", "model.width=[20,13]", "trainer.max_epochs=2", "measure.shift=false"),
    *("trainer.accelerator=cpu", "hydra/launcher=basic", "save_networks=true", "select_epoch=best", "name=kept"),
)
FOLDER = Path("outputs/kept/digits/bn_dropout/after/q0.50")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A condition that grew from two seeds to three."""
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for replicates in (2, 3):
            assert typed(*TINY, f"replicates={replicates}") == ""
    return place / FOLDER


def test_the_accuracy_of_a_kept_network_on_its_split_is_the_tables(folder):
    kept = normdrop.load(folder)
    table = pd.read_csv(folder / "replicates.csv").set_index("seed")
    for seed in (0, 1, 2):
        network = kept.network(seed)
        assert type(network) is torch.nn.Sequential and not network.training
        for name, part in kept.parts(seed).items():
            right = (network(part.x[0]).argmax(dim=1) == part.y[0]).double().mean()
            assert right.item() == table.loc[seed, f"{name}_acc"]


def test_a_seed_or_a_folder_without_a_network_is_named(folder, tmp_path):
    with pytest.raises(KeyError, match="seed=7: must be one of 0, 1, 2"):
        normdrop.load(folder).network(7)
    with pytest.raises(ValueError, match=r"networks\.pt: there is no such file; .* with save_networks=true"):
        normdrop.load(tmp_path)


def test_networks_lie_beside_earlier_ones_only_where_a_condition_grows(folder, tmp_path):
    kept, found = normdrop.load(folder), []
    for seed, grows in ((0, True), (2, True), (1, False)):
        replace(kept, states={seed: kept.states[seed]}).write(tmp_path, grows)
        found.append([*normdrop.load(tmp_path).states])
    assert found == [[0], [0, 2], [1]]


def test_networks_are_not_judged_on_other_rows_than_theirs(folder):
    kept = normdrop.load(folder)
    other = Kept(kept.config | {"data": kept.config["data"] | {"fingerprint": "0" * 64}}, kept.shape, 10, kept.states)
    with pytest.raises(ValueError, match="data=digits: its rows are others"):
        other.parts(0)
