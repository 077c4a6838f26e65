"""A study from its grid: which conditions it has, where they lie, what is trained, skipped and refused."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from sklearn.datasets.tests.test_openml import _monkey_patch_webbased_functions

from fitting import normdrop
from normdrop.arrangement import ARRANGEMENTS, POSITIONS, same_network
from normdrop.report.study import load
from normdrop.study import CONF, app, config, job, plan, progress, sweep
from normdrop.study import record as results
from normdrop.study.plan import Condition

TINY = (
    *("data.train_size=70", "batch_size=16", "model.width=8", "trainer.max_epochs=2", "replicates=2"),
    *("trainer.accelerator=cpu", "logging=minimal"),
)


@pytest.fixture
def command(tmp_path, monkeypatch) -> Callable[..., str]:
    """`normdrop` in a folder of its own, one condition after another: its arguments → its last line or ""."""
    monkeypatch.chdir(tmp_path)
    return partial(normdrop, "hydra/launcher=basic")


@pytest.fixture
def planned(command, monkeypatch) -> Callable[..., list[sweep.Condition]]:
    """The conditions of a command, none of them trained."""
    caught: list[list[sweep.Condition]] = []

    def only_plan(points, compose, launcher, config, typed):
        HydraConfig.instance().set_config(config)
        caught.append(sweep.plan(points, compose, typed).conditions)

    monkeypatch.setattr(sweep, "run_study", only_plan)

    def plan(*arguments: str) -> list[sweep.Condition]:
        assert command(*arguments) == ""
        return caught.pop()

    return plan


def paths(conditions: list[sweep.Condition]) -> list[str]:
    return sorted(condition.path for condition in conditions)


# --- the plan


RATES = (0.1, 0.2, 0.3, 0.5, 0.7)


def test_the_ordering_experiment_has_17_networks_and_those_of_the_a_a_run(planned):
    expected = ["none/after/q0.00", "bn/after/q0.00"]
    expected += [f"{a}/after/q{rate:.2f}" for a in ("dropout", "bn_dropout", "dropout_bn") for rate in RATES]
    expected += [f"bn_dropout/after/q{rate:.2f}/rerun=1" for rate in RATES]
    conditions = planned("experiment=ordering")
    assert paths(conditions) == sorted(f"digits/{path}" for path in expected) and len(conditions) == 22
    assert {len(condition.missing) for condition in conditions} == {20}
    assert {condition.config["optimizer"]["lr"] for condition in conditions} == {0.001}


def test_over_all_positions_it_trains_each_of_28_networks_once(planned):
    conditions = planned("experiment=ordering", "position=after,before,around")
    main = [condition.config for condition in conditions if condition.config["rerun"] == 0]
    assert len(main) == 28 and len(conditions) == len(main) + 2 * 5
    stood_for = [(*place, c["rate"]) for c in main for place in same_network(c["arrangement"], c["position"])]
    rates = {a: RATES if "dropout" in a else (0.0,) for a in ARRANGEMENTS[:5]}
    asked = [(a, p, rate) for a, p in itertools.product(rates, POSITIONS) for rate in rates[a]]
    assert sorted(stood_for) == sorted(asked)


BD = "digits/bn_dropout/after"


@pytest.mark.parametrize(
    ("words", "folders"),
    [
        # one network, named twice; and alone under the name of its equal
        ("arrangement=dropout_bn position=around rate=0.5", ["digits/dropout_bn/after/q0.50"]),
        ("arrangement=none,none,bn rate=0.1,0.3,0.30", ["digits/bn/after/q0.00", "digits/none/after/q0.00"]),
        # what varies is in the path, and nothing else
        (
            "model.depth=1,2 optimizer=adam,sgd rate=0.25 batch_size=32",
            [f"{BD}/q0.25/model.depth={depth},optimizer={name}" for depth in (1, 2) for name in ("adam", "sgd")],
        ),
        # a further point replaces its keys and takes the rest of the grid
        (
            "arrangement=bn,bn_dropout rate=0.3 hydra.sweeper.also=['arrangement=none@rerun=1']",
            ["digits/bn/after/q0.00", f"{BD}/q0.30", "digits/none/after/q0.00/rerun=1"],
        ),
        # rates that two decimals cannot tell apart
        ("rate=0.5,0.501,0.5004", [f"{BD}/q0.50", f"{BD}/q0.5004", f"{BD}/q0.501"]),
        # each spelling of a number is the same
        (
            "rate=range(0.1,0.35,0.1) model.init_gain=1,1.0 drift.offset=0,-0.0",
            [f"{BD}/q{rate}/drift.offset=0.0,model.init_gain=1.0" for rate in ("0.10", "0.20", "0.30")],
        ),
        # a value of a swept group counts where the group has such a key
        (
            "data=digits,synthetic data.rows=500,600 arrangement=bn",
            ["digits/bn/after/q0.00", *(f"synthetic/bn/after/q0.00/data.rows={rows}" for rows in (500, 600))],
        ),
    ],
)
def test_a_grid_has_these_folders(planned, words, folders):  # @ is a space within a word
    assert paths(planned(*(word.replace("@", " ") for word in words.split()))) == sorted(folders)


def test_the_folder_may_depend_on_the_name_and_on_hydras_own_keys(planned, monkeypatch, tmp_path):
    roots, original = [], sweep.plan
    monkeypatch.setattr(sweep, "plan", lambda *given: roots.append(found := original(*given)) or found)
    planned("name=mine", "hydra.sweep.dir=${hydra.runtime.cwd}/elsewhere/${name}")
    assert [study.root for study in roots] == [tmp_path / "elsewhere/mine"]


def test_with_gelu_more_networks_are_distinct(planned):
    grid = ("arrangement=bn_dropout,dropout_bn", "position=after,before,around", "rate=0.5")
    assert len(planned(*grid)) == 4
    assert len(planned(*grid, "model.activation=gelu")) == 6


ONE_POINT = ("arrangement=bn_dropout", "rate=0.5", "position=after", "optimizer.lr=0.01")
SIMPLER = {
    **dict.fromkeys(("convolution", "convolution_low", "regime", "drift", "robustness", "six"), ("data=digits",)),
    "size": ("data=letter",),
    "own": ("model=mlp",),
    "population": ("data.dataset=iris",),
    "population_openml": ("data.dataset=3",),
}


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("[!_]*.yaml")))
def test_every_experiment_declares_its_claim_and_can_be_planned(planned, openml, experiment):
    # One point of its grid: the rest is the same to compose and takes long.
    simpler = SIMPLER.get(experiment, ())
    (condition, *_) = planned(f"experiment={experiment}", *ONE_POINT, *simpler, "hydra.sweeper.also=[]")
    study = condition.config["study"]
    assert {"claim", "sentence", "contrast", "metric", "kind", "rope", "alpha", "family", "tuned"} <= set(study)
    assert set(study["contrast"]) == {"a", "b"}


def test_another_question_with_a_sentence_of_its_own_is_a_study(planned):
    other = ("study.contrast.b=bn", "study.sentence='BN needs dropout behind it.'", "arrangement=bn,bn_dropout")
    (condition, *_) = planned("experiment=quick", *other, "hydra.sweeper.also=[]")
    assert condition.config["study"]["contrast"] == {"a": "bn_dropout", "b": "bn"}


@pytest.fixture
def openml(monkeypatch):
    """The answers of OpenML that scikit-learn ships for its own tests: kr-vs-kp, number 3, is whole."""
    _monkey_patch_webbased_functions(monkeypatch, 3, gzip_response=False)
    fetch = sklearn.datasets.fetch_openml
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", partial(fetch, cache=False))


def test_the_openml_population_has_72_data_sets_and_one_by_its_number_trains_and_is_known_by_it(openml, command):
    grid = OmegaConf.load(CONF / "experiment" / "population_openml.yaml")
    numbers = [int(number) for number in grid.hydra.sweeper.params["data.dataset"].split(",")]
    assert len(numbers) == len({*numbers}) == 72 and {*map(int, grid.study.apart)} < {*numbers}
    one = ("experiment=population_openml", "data.dataset=3", *ONE_POINT, "hydra.sweeper.also=[]", *TINY)
    assert command(*one) == ""
    (study,) = load(Path("outputs/population_openml"))
    assert [*study.table["dataset"].unique()] == ["3"] and study.table["seed"].nunique() == 2
    assert study.records[0]["data"]["rows"] == 3196


# --- training it


STUDY = ("name=study", "arrangement=none,bn_dropout", "rate=0.5", *TINY)
CONDITIONS = ("digits/bn_dropout/after/q0.50", "digits/none/after/q0.00")


def stamps(root: Path) -> dict[str, int]:
    return {path: (root / path / results.RECORD).stat().st_mtime_ns for path in CONDITIONS}


def tables(root: Path) -> list[bytes]:
    return [(root / path / name).read_bytes() for path in CONDITIONS for name in results.TABLES]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, its lines joined: the console wraps them."""
    return " ".join(capsys.readouterr().out.split())


def test_what_another_process_of_the_sweep_has_tried_in_vain_is_left_alone(command, monkeypatch):
    tried = []

    def failing(config: dict, *_) -> None:
        tried.append(config["arrangement"])
        raise RuntimeError("no")

    monkeypatch.setattr(job, "fit", failing)
    assert "2 of 2 configurations failed" in command(*STUDY)
    job.train_these(Path("outputs/study"), 0)
    assert sorted(tried) == ["bn_dropout", "none"]


def test_a_process_whose_sweep_was_killed_begins_with_no_other_configuration(command, monkeypatch):
    monkeypatch.setattr(job, "fit", lambda *_: 1 / 0)
    assert "2 of 2 configurations failed" in command(*STUDY)
    errors = [Path("outputs/study", path, results.ERROR) for path in CONDITIONS]
    for error in errors:
        error.unlink()
    monkeypatch.setattr(job.multiprocessing, "parent_process", lambda: SimpleNamespace(is_alive=lambda: False))
    job.train_these(Path("outputs/study"), 0)
    assert not any(error.exists() for error in errors)


def test_what_is_known_of_rows_counts_until_code_file_or_source_may_give_others(tmp_path, monkeypatch):
    code, file = [tmp_path / "data" / name for name in ("a.py", "b.py")], tmp_path / "rows.csv"
    code[0].parent.mkdir()
    for path in (*code, file):
        path.touch()
    monkeypatch.setattr(plan, "__file__", str(tmp_path / "study/plan.py"))
    asked: list[str] = []
    answers = SimpleNamespace(fingerprint_of=lambda data: asked.append(data["source"]) or "rows")
    monkeypatch.setattr(plan, "facts", lambda: answers)
    known: dict[str, str] = {}

    def looked_at() -> list[str]:
        nonlocal known
        asked.clear()
        sources = ({"source": "table", "path": str(file)}, {"source": "digits"}, {"source": "openml"})
        known = plan._settle([{"data": data, "engine": "torch"} for data in sources], known)
        return sorted(asked)

    assert [looked_at() for _ in range(2)] == [["digits", "openml", "table"], ["openml"]]
    file.write_text("1")
    os.utime(file, ns=(0, 0))
    assert looked_at() == ["openml", "table"]
    for number, path in enumerate(code, start=1):
        os.utime(path, (0, 2e9 + number))
        assert looked_at() == ["digits", "openml", "table"]


def test_what_is_finished_is_skipped_what_is_absent_trained_again_and_what_is_new_added(command, tmp_path, capsys):
    root = tmp_path / "outputs" / "study"
    assert command(*STUDY) == ""
    first, bytes_first = stamps(root), tables(root)
    assert "study: 2 configurations × 2 seeds, 2 epochs each; 0 finished, 2 to train (4 seeds)" in told(capsys)

    assert command(*STUDY) == ""
    assert stamps(root) == first
    said = told(capsys)
    assert "2 finished, 0 to train" in said
    assert "normdrop-report outputs/study" in said and "tensorboard --logdir outputs/study" in said

    with (root / CONDITIONS[0] / "history.csv").open("a") as file:
        file.write("damaged")
    assert command(*STUDY, "replicates=1") == ""  # and yet no seed is lost
    said = told(capsys)
    assert "1 finished, 1 to train" in said
    assert f"{CONDITIONS[0]}: its tables are not those that its record knows" in said and CONDITIONS[1] not in said
    again = stamps(root)
    assert again[CONDITIONS[0]] > first[CONDITIONS[0]] and again[CONDITIONS[1]] == first[CONDITIONS[1]]
    assert tables(root) == bytes_first

    before = results.read(root / CONDITIONS[1]).record
    assert command(*STUDY, "replicates=3") == ""
    first, second = results.read(root / CONDITIONS[1]).record["batches"]
    assert (first["seeds"], second["seeds"]) == ([0, 1], [2])
    assert all(first[key] == before[key] for key in ("versions", "commit", "clean", "finished"))
    assert first["began"] < first["finished"] <= second["began"] < second["finished"]
    for old, new in zip(bytes_first, tables(root), strict=True):
        assert new.startswith(old) and len(new) > len(old)

    assert command(*STUDY, "replicates=2") == ""  # fewer are asked for than there are
    assert "0 to train" in told(capsys)

    plan = json.loads((root / "plan.json").read_text())
    assert set(plan["conditions"]) == set(CONDITIONS)
    assert plan["conditions"][CONDITIONS[1]]["seeds"] == [0, 1, 2]
    record = results.read(root / CONDITIONS[1]).record
    assert record["condition"] == CONDITIONS[1] and record["study"]["grid"]["arrangement"] == ["bn_dropout", "none"]
    assert record["command"].startswith("normdrop hydra/launcher=basic name=study")
    (root / "plan.json").write_text("{")
    assert "study/plan.json: damaged" in command(*STUDY)


def test_the_installed_command_runs_a_whole_experiment_in_worker_processes(finished):
    assert "[17/17]" in finished.with_suffix(".said").read_text()
    records = sorted(finished.rglob(results.RECORD))
    assert len(records) == 17
    for path in records:
        record = results.read(path.parent).record
        assert record["seeds"] == [0, 1, 2, 3, 4, 5] and record["study"]["claim"] == "ordering"
        assert list(path.parent.glob("events.out.tfevents.*"))


# --- what a condition is


@pytest.fixture
def table(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=90), "b": rng.normal(size=90), "label": ["x", "y", "z"] * 30})
    frame.to_csv(tmp_path / "x.csv", index=False)
    return tmp_path / "x.csv"


TABLE = ("data=table", "data.target=label", "arrangement=bn", *TINY[1:], "batch_size=6", "name=study")


def test_a_data_set_is_its_rows_whatever_its_path_and_others_under_its_condition_are_refused(command, table, capsys):
    assert command(*TABLE, "data.path=x.csv") == ""
    for path in ("./x.csv", str(table)):
        assert command(*TABLE, f"data.path={path}") == ""
        assert "0 to train" in told(capsys)
    before = table.stat()
    table.write_text(table.read_text().replace("x", "w"))
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a tool that keeps times does
    said = command(*TABLE, "data.path=x.csv", "replicates=3")
    assert "its rows are others than those that were trained on" in said
    held = results.read(table.parent / "outputs/study/x/bn/after/q0.00").record
    assert held["data"]["classes"] == {"x": 30, "y": 30, "z": 30} and held["data"]["rows"] == 90
    assert held["config"]["data"]["fingerprint"] == held["data"]["fingerprint"]


def test_rows_that_no_part_has_for_the_sake_of_copies_are_counted(command, table, capsys):
    assert command(*TABLE, "data.path=x.csv") == ""
    assert "in no part" not in told(capsys)
    rows = pd.read_csv(table)
    for place in (0, 1, 2):  # two copies of each class: a row may be lost to the validation and to the test part
        rows.loc[[place, place + 3], ["a", "b"]] = float(place)
    rows.to_csv(table, index=False)
    assert command(*TABLE, "data.path=x.csv", "name=other") == ""
    assert "6 rows in no part, so that rows of one group, or copies of a row, stay together" in told(capsys)


def test_classes_that_a_part_lacks_are_told_of_the_seed_that_was_looked_at(command, table, capsys):
    rows = pd.read_csv(table)
    rows.assign(label=np.where(np.arange(90) < 80, rows.label, "x"), time=range(90)).to_csv(table, index=False)
    keys = ("data.path=x.csv", "data.order_column=time", "first_seed=3")
    assert command(*TABLE, *keys, "data.test_fraction=0.05") == ""
    assert "x: class 'y' (and 1 more) has no row in the test part (seed 3)" in told(capsys)
    assert command(*TABLE, *keys, "name=other") == ""
    assert "has no row in" not in told(capsys)


@pytest.mark.parametrize("given", [True, False])
def test_the_report_knows_of_a_recorded_condition_whether_the_data_gave_its_test_part(command, table, given):
    rows = pd.read_csv(table)
    rows.assign(part=np.where(np.arange(90) < 60, "train", "test")).to_csv(table, index=False)
    split = "data.split_column=part" if given else "data.drop=[part]"
    assert command(*TABLE, "data.path=x.csv", split) == ""
    (study,) = load(table.parent / "outputs/study")
    assert study.table["test_train_ratio"].isna().all() == given


def test_data_that_the_command_line_chose_have_a_folder_of_their_own(planned, table):
    named = {
        ("experiment=quick",): "quick",
        ("experiment=quick", "data=digits,breast_cancer"): "quick_digits_breast_cancer",
        ("experiment=quick", "data=digits,breast_cancer,synthetic,blog"): "quick_digits_3_more",
        ("data=table", "data.path=${hydra:runtime.cwd}/x.csv", "data.target=label"): "single_x",
        ("data=table", "data.path=x.csv", "data.target=label", "name=mine"): "mine",
    }
    for words, name in named.items():
        assert {condition.config["name"] for condition in planned(*words, *ONE_POINT)} == {name}, words


def test_what_is_finished_is_told_without_the_libraries_that_train(command, table):
    assert command(*TABLE, "data.path=x.csv") == ""
    code = "import sys; from normdrop.study import app; app.main(); "
    code += "print(sorted({'torch', 'pandas', 'sklearn', 'lightning', 'rich'} & set(sys.modules)))"
    words = [sys.executable, "-c", code, "hydra/launcher=basic", *TABLE, "data.path=x.csv"]
    for path in table.parent.glob("outputs/study/**"):  # and where nothing may be written
        path.chmod(0o555 if path.is_dir() else 0o444)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert "1 finished, 0 to train" in ended.stdout and ended.stdout.endswith("[]\n"), ended


@pytest.mark.parametrize(
    ("experiment", "fewer"), [("complexity", "data.clusters_per_class=1,4"), ("robustness", "data=digits,synthetic")]
)
def test_the_composer_gives_hydras_own_configs(planned, experiment, fewer):
    fewer = ("rate=0.3", "optimizer.lr=0.003", "engine=torch", "name=fewer", fewer)
    conditions = planned(f"experiment={experiment}", "optimizer=adam,sgd", "data.level=0.3", *fewer)
    for condition in random.Random(0).sample(conditions, 5):
        own = condition.config | {"data": {k: v for k, v in condition.config["data"].items() if k != "fingerprint"}}
        kept = [word for word in condition.overrides if not word.startswith("hydra")]
        hydras = config.plain(config.compose(f"experiment={experiment}", *kept))
        assert config.canonical(hydras) == own


def test_a_wish_to_stop_that_comes_with_the_last_configuration_leaves_out_the_report(command, monkeypatch):
    rounds = sweep._rounds

    def stopped(*arguments):
        rounds(*arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sweep, "_rounds", stopped)
    said = command("name=study", "arrangement=none", *TINY, "--report")
    assert "stopped" in said and "Go on with the same command" in said
    assert [*Path("outputs/study").rglob("record.json")] and not Path("outputs/study/report").exists()
    assert command("name=study", "arrangement=none", *TINY) == ""  # nothing is left to stop


def test_what_has_no_effect_is_said(command, capsys):
    one = ("name=study", "arrangement=none", *TINY)
    assert command(*one) == ""
    assert "without effect" not in told(capsys)
    assert (
        command(
            *one, "logging=per_seed", "save_networks=true", "hydra.run.dir=x", "hydra.sweep.subdir=${hydra.job.num}"
        )
        == ""
    )
    said = told(capsys)
    assert "hydra.run.dir: without effect" in said and "hydra.sweep.subdir: without effect" in said
    assert "logging=per_seed: without effect" in said
    assert "1 finished configuration without the networks of some or all seeds" in said
    assert "without TensorBoard's files" not in said
    (events,) = Path("outputs/study/digits/none/after/q0.00").glob("events.out.tfevents.*")
    events.unlink()
    assert command(*one) == ""
    assert "1 finished configuration without TensorBoard's files; normdrop-report outputs/study" in told(capsys)


def test_a_network_that_stands_at_another_position_and_seeds_of_before_are_told(command, capsys):
    grid = ("name=study", "arrangement=dropout,bn_dropout,none", "position=before,around", *TINY)
    assert command(*grid) == ""
    assert "position=before: of dropout, none the network is that of position=after" in told(capsys)
    assert command(*grid, "replicates=1") == ""
    said = told(capsys)
    assert "replicates=1: 1 more seed finished before" in said and "0 to train" in said


def test_a_network_is_missed_of_each_seed_that_was_trained_without_keeping_it(command, capsys):
    one = ("name=study", "arrangement=none", *TINY)
    for seeds, kept in ((2, "true"), (3, "false"), (3, "true")):
        assert command(*one, f"replicates={seeds}", f"save_networks={kept}") == ""
    assert "1 finished configuration without the networks of some" in told(capsys)


def test_a_cluster_that_the_command_runs_in_is_none_of_a_fits_business(command, monkeypatch):
    slurm = {"JOB_ID": "1", "JOB_NAME": "sweep", "NTASKS": "16", "NODELIST": "n1", "PROCID": "0", "LOCALID": "0"}
    for name, value in (slurm | {"NODEID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert command("arrangement=bn", *TINY) == ""


def test_each_condition_has_hydras_files_of_its_own_config(finished):
    folder = finished / "digits/bn/after/q0.00/.hydra"
    kept = OmegaConf.load(folder / "config.yaml")
    assert (kept.arrangement, kept.rate, kept.batch_size) == ("bn", 0.0, 16)
    assert "rate=0.3" in OmegaConf.load(folder / "overrides.yaml")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_ours_and_import_no_torch(option):
    code = f"import sys; sys.argv = ['normdrop', {option!r}]; from normdrop.study import app; app.main(); "
    code += "assert not {'torch', 'hydra', 'pandas'} & set(sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("normdrop ") and ("arrangement: bn_dropout" in said) == (option == "--help")


def test_help_shows_the_keys_of_the_groups_that_are_typed(monkeypatch, capsys):
    for words in ([], ["optimizer=sgd", "data=keel", "rate=0.3"]):
        monkeypatch.setattr(sys, "argv", ["normdrop", "--help", *words])
        app.main()
        said = capsys.readouterr().out
        assert ("momentum: 0.9" in said, "dataset: null" in said) == (bool(words), bool(words))
        assert "weight_decay:" in said and "group_column:" in said


def test_a_claim_of_a_known_kind_is_one_file_of_ones_own(planned, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [_claim, _self_]\n"
        "name: mine\n"
        "study: {claim: mine, sentence: BN helps., contrast: {a: bn, b: none}}\n"
        "hydra: {sweeper: {params: {arrangement: 'none,bn'}}}\n"
    )
    conditions = planned("--config-dir", str(tmp_path), "experiment=mine")
    assert [condition.config["arrangement"] for condition in conditions] == ["none", "bn"]
    assert {condition.config["study"]["claim"] for condition in conditions} == {"mine"}


@pytest.mark.parametrize(("patience", "word"), [(None, "about"), (3, "at most")])
def test_the_time_that_is_left_is_at_the_pace_since_training_was_seen(monkeypatch, tmp_path, capsys, patience, word):
    now, parts = [100.0], [1.5, 0.5, 0.0]  # of three configurations, backwards

    class Stop:
        def wait(self, _: float) -> bool:
            now[0] += 10
            return not parts

    monkeypatch.setattr(progress, "_running", lambda *_: {"a": (parts.pop() if parts else 1.5, "epoch 1")})
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    patiences = {"a": None, "b": patience, "c": None}
    todo = [Condition(path, [], {"patience": epochs}, {}, {}, [0]) for path, epochs in patiences.items()]
    progress._watch(tmp_path, todo, [], Stop())
    assert capsys.readouterr().out == f"3 configurations ({word} 15 s left)\n"
