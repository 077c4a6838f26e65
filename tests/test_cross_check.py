"""The cross-check trains what the stacked network trains, and leaves what the report can read."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra

from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.networks.mlp import mlp
from normdrop.report import records
from normdrop.study import app
from normdrop.study import record as results
from normdrop.training.fit import data_of

SELECTION = {"ordering": ["digits/*_*/after/q*"]}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("cross_check", str(Path(__file__).parents[1] / "scripts" / "cross_check.py"))
    module = module_from_spec(spec_from_loader("cross_check", loader))
    sys.modules["cross_check"] = module  # where its dataclass looks for its own module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(script) -> Iterator[Callable[..., None]]:
    """scripts/cross_check with this file's selection, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SELECTION", SELECTION)

        def main(*arguments: object) -> None:
            patch.setattr(sys, "argv", ["cross_check", *map(str, arguments), "--processes=1"])
            script.main()

        yield main


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A study of the two orders, and an A/A condition, as `normdrop` leaves it."""
    study = tmp_path_factory.mktemp("study")
    small = (
        "replicates=6",
        "data.train_size=300",
        "model.width=16",
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "logging=minimal",
    )
    grid = ("experiment=ordering", "arrangement=bn_dropout,dropout_bn", "rate=0.3", "optimizer.lr=0.003")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        command = ["normdrop", "hydra/launcher=basic", *grid, *small, f"hydra.sweep.dir={study}/ordering"]
        patch.setattr(sys, "argv", command)
        patch.setenv("HYDRA_FULL_ERROR", "1")
        GlobalHydra.instance().clear()
        app.main()
    GlobalHydra.instance().clear()
    signal.signal(signal.SIGTERM, handler)
    return study


@pytest.fixture(scope="module")
def target(run, source, tmp_path_factory) -> Path:
    """What the cross-check makes of it."""
    folder = tmp_path_factory.mktemp("cross_check") / "new"
    run(source, folder)
    return folder


def test_the_networks_written_by_hand_have_the_layers_of_the_study(script, composed):
    config = composed("rate=0.3", "model.width=[20,13]", "model.output_activation=relu")
    for arrangement, position, layers in itertools.product(ARRANGEMENTS, POSITIONS, ("all", "last")):
        model = config["model"] | {"dropout_layers": layers}
        own = config | {"arrangement": arrangement, "position": position, "model": model}
        shape = {key: value for key, value in model.items() if key not in ("name", "init_gain")}
        theirs = mlp(64, 10, arrangement=arrangement, position=position, rate=0.3, **shape)
        assert repr(script.network_of(own, 64, 10)) == repr(theirs)


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


def test_the_report_reads_it_as_the_same_study_with_the_same_columns(source, target):
    (theirs,), (own,) = (records.load(folder).studies for folder in (source, target))
    assert own.declaration == theirs.declaration
    assert list(own.replicates) == list(theirs.replicates)
    assert own.settings == [setting for setting in theirs.settings if "rerun" not in setting]
    for record in own.records:
        folder = Path("ordering") / record["condition"]
        (ours, our_history), (table, history) = (
            (held.replicates, held.history) for held in (results.read(root / folder) for root in (target, source))
        )
        assert (ours.dtypes == table.dtypes).all()
        assert ours.notna().equals(table.notna())
        assert list(our_history) == list(history)
        assert our_history[["seed", "epoch", "step"]].equals(history[["seed", "epoch", "step"]])


def test_accuracies_agree_within_their_noise_and_are_not_the_same(script, run, source, target):
    table, differences = script.comparison([*script.chosen(source, target, SELECTION, None)])
    assert differences.mean(axis=1).tolist() == pytest.approx(table["difference"].tolist())
    assert sorted(table["condition"]) == [f"ordering/digits/{a}/after/q0.30" for a in ("bn_dropout", "dropout_bn")]
    assert (table["n"] == 6).all()
    assert (table["t"].abs() < 5).all() and (table["t"] != 0).any()


def test_a_resumed_run_trains_nothing_again(script, run, source, target, monkeypatch, capsys):
    monkeypatch.setattr(script, "train", lambda *_: pytest.fail("trained again"))
    run(source, target)
    run(source, target, "--seeds=4")
    first, *_, told, last = capsys.readouterr().out.splitlines()
    assert first == "2 conditions, 0 to train" and told == "0 of 2 conditions differ"
    assert "clustered by" in last and "shown equivalent within ±" in last


def test_other_seeds_than_the_studys_are_trained_where_they_are_asked_for(script, run, source, tmp_path, capsys):
    run(source, tmp_path / "others", "--seeds=3", "--first-seed=700")
    assert "Mean difference over conditions, clustered by 3 seeds" in capsys.readouterr().out
    for path in (tmp_path / "others").rglob(results.RECORD):
        assert results.read(path.parent).replicates["seed"].tolist() == [700, 701, 702]


def test_what_worker_processes_are_sent_can_be_pickled(script):
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(script)  # as it does with a script's own functions
    try:
        assert cloudpickle.dumps(script.train)
    finally:
        cloudpickle.unregister_pickle_by_value(script)


def test_a_pattern_that_matches_nothing_is_one_line_and_an_error(script, run, source, tmp_path, monkeypatch):
    monkeypatch.setitem(SELECTION, "ordering", ["digits/none/before/*"])
    with pytest.raises(SystemExit) as ended:
        run(source, tmp_path / "new")
    assert ended.value.code == f"error: {source}: no finished condition matches ordering/digits/none/before/*"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_the_study_itself_is_not_taken_for_a_cross_check(run, source):
    with pytest.raises(SystemExit, match="its record is not of scripts/cross_check"):
        run(source, source)


@pytest.mark.parametrize("patience", [None, 1])
def test_the_epoch_of_the_lowest_validation_nll_is_kept_and_patience_ends_the_search(script, composed, patience):
    small = ("data.train_size=70", "batch_size=16", "model.width=20", "trainer.max_epochs=8", "optimizer.lr=0.03")
    config = composed(*small, "arrangement=none", "select_epoch=best")
    whole = script.train(config, 3)[1]
    row, history = script.train(config | {"patience": patience}, 3)
    lowest = min(history, key=lambda entry: entry["val_nll"])
    assert (row["epoch"], row["val_nll"]) == (lowest["epoch"], lowest["val_nll"])
    assert row["epochs_after"] == history[-1]["epoch"] - lowest["epoch"]
    assert history == whole[: len(history)]
    assert len(history) == 8 if patience is None else row["epochs_after"] == patience
    assert row["test_nll"] != script.train(config | {"select_epoch": "last"}, 3)[0]["test_nll"]


@pytest.mark.parametrize(
    "override", ["noise=uniform", "+trainer.max_steps=7", "optimizer.clip=1.0", "model.name=cnn", "model.residual=True"]
)
def test_what_it_does_not_implement_is_refused(script, composed, override):
    with pytest.raises(ValueError, match=f"x: {override.strip('+')} is not implemented"):
        script.check("x", composed(override))


@pytest.mark.parametrize("experiment", ["blog", "drift", "mechanism", "ordering", "reliance"])
def test_what_the_experiments_ask_for_is_not_refused(script, composed, experiment):
    script.check("x", composed(f"experiment={experiment}"))
