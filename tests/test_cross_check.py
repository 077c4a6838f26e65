"""The cross-check trains what the stacked network trains, and tells whether both agree."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.networks.mlp import mlp
from normdrop.training.fit import data_of

SELECTION = {"ordering": ["digits/*_*/after/q0.30"]}
NAMES = [f"ordering/digits/{arrangement}/after/q0.30" for arrangement in ("bn_dropout", "dropout_bn")]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("cross_check", str(Path(__file__).parents[1] / "scripts" / "cross_check.py"))
    module = module_from_spec(spec_from_loader("cross_check", loader))
    sys.modules["cross_check"] = module  # where its dataclass looks for its own module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(script: ModuleType) -> Iterator[Callable[..., None]]:
    """scripts/cross_check with this file's selection, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SELECTION", SELECTION)

        def main(*arguments: object) -> None:
            patch.setattr(sys, "argv", ["cross_check", *map(str, arguments), "--processes=1"])
            script.main()

        yield main


@pytest.fixture(scope="module")
def target(run, finished: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cross_check") / "new"
    run(finished.parent, folder)
    return folder


def test_the_networks_written_by_hand_have_the_layers_of_the_study(script, composed):
    config = composed("rate=0.3", "model.width=[20,13]", "model.output_activation=relu")
    for arrangement, position, layers in itertools.product(ARRANGEMENTS, POSITIONS, ("all", "last")):
        model = config["model"] | {"dropout_layers": layers, "width": 20 if layers == "last" else [20, 13]}
        changed = config | {"arrangement": arrangement, "position": position, "model": model}
        shape = {key: value for key, value in model.items() if key not in ("name", "init_gain")}
        theirs = mlp(64, 10, arrangement=arrangement, position=position, rate=0.3, **shape)
        assert repr(script.network_of(changed, 64, 10)) == repr(theirs)


def test_rows_are_those_of_the_study_to_float_precision(script, composed):
    for overrides in (("data=digits_pca10",), ("data=synthetic", "data.train_size=100")):
        config = composed("arrangement=none", *overrides)
        made = data_of(config, [3])
        made.setup()
        parts, classes = script.parts_of(config, 3)
        assert classes == made.classes
        for name, (x, y) in parts.items():
            assert y.tolist() == made.parts[name].y[0].tolist()
            # Another solver may turn a principal component round.
            assert x.abs().numpy() == pytest.approx(made.parts[name].x[0].abs().numpy(), abs=1e-4)


def test_it_trains_the_seeds_of_the_study_and_agrees_with_it_within_noise(script, finished, target):
    configurations = [*script.chosen(finished.parent, target, SELECTION, None)]
    assert [each.name for each in configurations] == NAMES
    for each in configurations:
        here = pd.read_csv(each.table)
        assert here["seed"].tolist() == each.source["seed"].tolist()
        for metric in ("test_acc", "test_nll", "gap"):
            noise = each.source[metric].std() + here[metric].std()
            assert here[metric].mean() == pytest.approx(each.source[metric].mean(), abs=3 * noise)
    table = script.comparison(configurations)
    assert (table["n"] == 6).all() and (table["difference"] != 0).any()
    differences = [script.differences(each)["difference"].mean() for each in configurations]
    assert table["difference"].tolist() == pytest.approx(differences)


def test_a_bias_is_told(script, finished, target, tmp_path):
    """Every seed is five points better, but for a little: both configurations differ."""
    for each in script.chosen(finished.parent, target, SELECTION, None):
        moved = each.source.assign(test_acc=each.source["test_acc"] + 0.05 + 0.002 * (each.source["seed"] % 2))
        (tmp_path / each.name).parent.mkdir(parents=True, exist_ok=True)
        moved.to_csv(tmp_path / f"{each.name}.csv")
    *_, last = lines = [*script.told([*script.chosen(finished.parent, tmp_path, SELECTION, None)])]
    assert "2 of 2 configurations differ" in lines
    assert "by 6 seeds: +5.10 points" in last


def test_a_resumed_run_trains_nothing_again_but_further_seeds(script, run, finished, target, monkeypatch, capsys):
    monkeypatch.setattr(script, "train", lambda *_: pytest.fail("trained again"))
    run(finished.parent, target)
    run(finished.parent, target, "--seeds=4")
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "2 configurations, 0 to train"
    few = pd.read_csv(target / f"{NAMES[0]}.csv").head(4)
    fewer = target.parent / "fewer" / f"{NAMES[0]}.csv"
    fewer.parent.mkdir(parents=True)
    few.to_csv(fewer, index=False)
    chosen = {each.name: each for each in script.chosen(finished.parent, target.parent / "fewer", SELECTION, None)}
    assert not chosen[NAMES[0]].finished()
    chosen = {each.name: each for each in script.chosen(finished.parent, target.parent / "fewer", SELECTION, 4)}
    assert chosen[NAMES[0]].finished() and not chosen[NAMES[1]].finished()


def test_what_worker_processes_are_sent_can_be_pickled(script):
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(script)  # as it does with a script's own functions
    try:
        assert cloudpickle.dumps(script.train)
    finally:
        cloudpickle.unregister_pickle_by_value(script)


def test_a_pattern_that_matches_nothing_is_one_line_and_an_error(script, run, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(SELECTION, "ordering", ["digits/none/before/*"])
    with pytest.raises(SystemExit) as ended:
        run(finished.parent, tmp_path / "new")
    nothing = "no finished configuration matches ordering/digits/none/before/*"
    assert ended.value.code == f"error: {finished.parent}: {nothing}"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("patience", [None, 1])
def test_the_epoch_of_the_lowest_validation_nll_is_kept_and_patience_ends_the_search(script, composed, patience):
    small = ("data.train_size=70", "batch_size=16", "model.width=20", "trainer.max_epochs=8", "optimizer.lr=0.03")
    config = composed(*small, "arrangement=none", "select_epoch=best")
    whole = script.train(config, 3)[1]
    row, history = script.train(config | {"patience": patience}, 3)
    lowest = min(history, key=lambda entry: entry["val_nll"])
    assert (row["epoch"], row["val_nll"]) == (lowest["epoch"], lowest["val_nll"])
    assert history == whole[: len(history)]
    assert len(history) == 8 if patience is None else history[-1]["epoch"] - lowest["epoch"] == patience
    assert row["test_nll"] != script.train(config | {"select_epoch": "last"}, 3)[0]["test_nll"]


def test_its_columns_are_those_of_the_study(script, finished):
    """Names, units and signs: against the study's own column each is nearer than any other is."""
    record = next(finished.glob("digits/bn_dropout/after/q0.30/record.json"))
    config, theirs = json.loads(record.read_text())["config"], pd.read_csv(record.parent / "replicates.csv")
    row = {name: value for name, value in script.train(config, 0)[0].items() if name not in ("seed", "epoch")}
    assert set(row) <= set(theirs)
    near = {name: abs(value - theirs[name].mean()) for name, value in row.items()}
    assert np.isfinite([*row.values()]).all() and max(near[name] for name in row if "nll" not in name) < 0.3


@pytest.mark.parametrize("override", ["noise=uniform", "optimizer.clip=1.0", "model.name=cnn", "model.residual=True"])
def test_what_it_does_not_implement_is_refused(script, composed, override):
    with pytest.raises(ValueError, match=f"x: {override} is not implemented"):
        script.check("x", composed(override))


@pytest.mark.parametrize("experiment", ["population", "size", "drift", "mechanism", "ordering", "reliance"])
def test_what_the_experiments_ask_for_is_not_refused(script, composed, experiment):
    further = {"population": ("data.dataset=iris",), "size": ("data.train_size=250",)}.get(experiment, ())
    script.check("x", composed(f"experiment={experiment}", *further))
