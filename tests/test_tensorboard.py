"""What TensorBoard is given, read from the event files, and what a server makes of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import urlopen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tensorboard import program
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata as hparams

from fake_study import fake_study
from normdrop import tensorboard
from normdrop.study import record as store

# Tag and column of some final metrics, and of the curves; stated here once more on purpose.
FINALS = {
    "test/acc": "test_acc",
    "test/loss": "test_nll",
    "test/acc_gap": "gap",
    "test/acc_recalibrated": "recal_test_acc",
    "train/steps_to_level": "steps_to_level",
    "val/acc_selected": "val_acc",
}
CURVES = {"val/acc": "val_acc", "val/loss": "val_nll", "train/loss": "train_loss"}
DIVERGED = ["digits/dropout_bn/after/q0.50", "digits/dropout_bn/after/q0.70"]
OVERVIEW = ["bn after", "bn before", "bn_dropout after", "bn_dropout before", "dropout after", "dropout_bn after"]
OVERVIEW += ["dropout_bn before", "none after"]
TEST_BY_RATE = "accuracy/test by 1000 × rate"
BY_EPOCH = "accuracy/validation by epoch"
BUDGET = 64  # steps in all: 4 epochs of 16 batches
SENTENCE = "**Yes.** BN first is better."


def sound_of(replicates: pd.DataFrame) -> pd.DataFrame:
    """The seeds that did not diverge; one that never reached the level took all steps."""
    return replicates[~replicates["diverged"]].fillna({"steps_to_level": BUDGET})


def events(run: Path) -> list[Event]:
    (file,) = run.glob("events.out.tfevents.*")
    return [Event.FromString(record) for record in RawEventFileLoader(str(file)).Load()]


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """tag → step → value"""
    found: dict[str, dict[int, float]] = {}
    for event in events(run):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert event.step not in found.get(value.tag, {}), f"{value.tag} has two points at {event.step}"
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def session(run: Path) -> dict[str, Any]:
    """The hyperparameters of a run's session."""
    for event in events(run):
        for value in event.summary.value:
            if value.tag == hparams.SESSION_START_INFO_TAG:
                start = hparams.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                return {name: v.string_value or v.number_value for name, v in start.hparams.items()}
    raise AssertionError(f"{run} has no session")


def conditions(root: Path) -> dict[str, tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Record, replicates and history of every finished configuration by its folder below the root."""
    found = {}
    for path in sorted(root.rglob("record.json")):
        tables = [pd.read_csv(path.parent / f"{name}.csv") for name in ("replicates", "history")]
        found[str(path.parent.relative_to(root))] = (json.loads(path.read_text()), *tables)
    return found


def fabricate(root: Path, **study: Any) -> Path:
    """A finished sweep without event files, with noise in its curves."""
    fake_study(root, **{"rates": (0.2, 0.5), "max_steps": 110, "config": {"logging": "full"}} | study)
    rng = np.random.default_rng(0)
    for condition, (record, replicates, history) in conditions(root).items():
        history["val_acc"] += rng.normal(0, 0.02, len(history))
        history["train_loss"] += rng.normal(0, 0.1, len(history))
        if "bn" in record["arrangement"]:
            record["shift"] = [
                {"layer": layer, "seed": seed, "measured": 0.5 + 0.1 * layer + 0.01 * seed, "epoch": "end"}
                for seed in record["seeds"]
                for layer in (1, 2, 3)
            ]
        store.write(root / condition, {"finished": 1.7e9, **record}, replicates, history)
    return root


def write(root: Path, logging: str = "full") -> Path:
    for condition, (record, *tables) in conditions(root).items():
        record["config"]["logging"] = logging
        store.write(root / condition, record, *tables)
        tensorboard.write_condition(root / condition, record, *tables)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default study's grid at four seeds, one of which diverged at two rates and one stopped early there."""
    rates = (0.1, 0.2, 0.3, 0.5, 0.7)
    root = tmp_path_factory.mktemp("outputs") / "ordering"
    fabricate(root, positions=("after", "before"), rates=rates, replicates=4)
    for name in DIVERGED:
        record, replicates, history = conditions(root)[name]
        replicates["diverged"] = replicates["seed"] == 2
        replicates.loc[2, list(FINALS.values())] = np.nan
        history.loc[history["seed"] == 2, ["train_loss", "val_nll"]] = [1e30, np.nan]
        store.write(root / name, record, replicates, history[(history["seed"] != 1) | (history["step"] <= 20)])

    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2])
    figure.savefig(root / "forest.png")
    plt.close(figure)
    write(root)
    tensorboard.write_overview(root, {"answer": SENTENCE}, {"answer": root / "forest.png"})
    return root


# One configuration.


def test_a_configurations_finals_are_means_over_the_seeds_that_did_not_diverge_which_are_counted(study):
    for condition, (record, replicates, _) in conditions(study).items():
        points = scalars(study / condition)
        sound = sound_of(replicates)
        for tag, column in FINALS.items():
            assert points[tag] == pytest.approx({record["steps"]: sound[column].mean()}, rel=1e-6)
        assert points["train/diverged"] == {record["steps"]: float(condition in DIVERGED)}
        if record["shift"]:
            shift = pd.DataFrame(record["shift"])
            by_layer = shift[shift["seed"].isin(sound["seed"])].groupby("layer")["measured"].mean()
            assert points["variance_shift/by_layer"] == pytest.approx(by_layer.to_dict())
        else:
            assert "variance_shift/by_layer" not in points


def test_its_curves_are_means_inside_a_band_in_which_a_seed_that_stopped_goes_on(study):
    for condition, (_, replicates, history) in conditions(study).items():
        points = scalars(study / condition)
        sound = history[~history["seed"].isin(replicates["seed"][replicates["diverged"]])]
        for tag, column in CURVES.items():
            by_seed = sound.pivot(index="step", columns="seed", values=column)
            if condition in DIVERGED:
                assert by_seed[1].isna().tolist() == [False, False, True, True]
                by_seed.loc[[30, 40], 1] = by_seed.loc[20, 1]
            assert points[tag] == pytest.approx(by_seed.mean(axis=1).to_dict(), rel=1e-6)
            for side, q in (("lower", 0.1), ("upper", 0.9)):
                band = by_seed.quantile(q, axis=1).to_dict()
                assert points[f"whiskers/{tag}/{side}"] == pytest.approx(band, rel=1e-6)
        left = {"train/seeds": {10: 3, 20: 3, 30: 2, 40: 2}} if condition in DIVERGED else {}
        assert {tag: points[tag] for tag in points if tag == "train/seeds"} == left


def test_points_stand_between_the_start_and_the_end_of_training_in_time(study):
    times = {event.step: event.wall_time for event in events(study / DIVERGED[0])}
    assert times == pytest.approx({step: 1.7e9 - 1.5 + 1.5 * step / 40 for step in times}, abs=1e-3)


def test_minimal_logging_leaves_the_curves_out_and_per_seed_logging_adds_a_run_for_each_seed(tmp_path):
    root = fabricate(tmp_path, replicates=3, arrangements=("bn",), rerun=None)
    ((condition, (_, _, history)),) = conditions(root).items()
    write(root, "per_seed")
    assert sorted(path.name for path in (root / condition / "seeds").iterdir()) == ["00", "01", "02"]
    for seed in (0, 1, 2):
        points = scalars(root / condition / "seeds" / f"{seed:02d}")
        curves = history[history["seed"] == seed].set_index("step")
        assert points == {t: pytest.approx(curves[c].to_dict(), rel=1e-6) for t, c in CURVES.items()}
    full = set(scalars(root / condition))
    write(root, "minimal")
    assert not (root / condition / "seeds").exists()
    minimal = set(scalars(root / condition))
    assert {*FINALS} <= minimal
    assert {*CURVES} <= full - minimal


def test_a_configuration_whose_seeds_all_diverged_is_shown_without_metrics(tmp_path):
    root = fabricate(tmp_path, replicates=2, arrangements=("bn",), rerun=None)
    ((condition, (record, replicates, history)),) = conditions(root).items()
    tensorboard.write_condition(root / condition, record, replicates.assign(diverged=True), history)
    assert scalars(root / condition) == {"train/diverged": {40: 2.0}}
    store.write(root / condition, record, replicates.assign(diverged=True), history)
    tensorboard.write_overview(root, {}, {})
    assert [path.name for path in (root / "overview").iterdir()] == ["answer"]


# The overview.


def expected_choice(held: dict[str, Any], run: str) -> pd.DataFrame:
    """Each seed's row at the rate that its validation part prefers."""
    arrangement, position = run.split()
    tables = []
    for condition, (record, replicates, _) in held.items():
        if (record["arrangement"], record["position"], record["config"]["rerun"]) == (arrangement, position, 0):
            tables.append(sound_of(replicates).assign(condition=condition))
    table = pd.concat(tables)
    return table.sort_values("val_acc").drop_duplicates("seed", keep="last")


def test_its_runs_are_at_the_rate_that_each_seeds_validation_part_prefers(study):
    held = conditions(study)
    for run in OVERVIEW:
        chosen = expected_choice(held, run)
        points = scalars(study / "overview" / run)
        for tag, column in FINALS.items():
            assert list(points[tag].values()) == pytest.approx([chosen[column].mean()], rel=1e-6)
        curves = []
        for row in chosen.to_dict("records"):
            history = held[row["condition"]][2]
            curves.append(history[history["seed"] == row["seed"]].set_index("epoch")["val_acc"])
        curve = pd.concat(curves, axis=1).ffill().mean(axis=1)
        assert points[BY_EPOCH] == pytest.approx(curve.to_dict(), rel=1e-6)
        assert session(study / "overview" / run)["rate"] in set(chosen["rate"])


def test_accuracy_stands_against_the_rate_and_is_level_without_dropout(study):
    held = conditions(study)
    for run in OVERVIEW:
        arrangement, position = run.split()
        points = scalars(study / "overview" / run)[TEST_BY_RATE]
        assert list(points) == [100, 200, 300, 500, 700]
        for x, value in points.items():
            rate = x / 1000 if "dropout" in arrangement else 0
            replicates = held[f"digits/{arrangement}/{position}/q{rate:.2f}"][1]
            assert value == pytest.approx(replicates["test_acc"].mean(), rel=1e-6)


def test_diverged_seeds_of_all_rates_are_counted_once_each(study):
    counts = {run: list(scalars(study / "overview" / run)["train/diverged"].values()) for run in OVERVIEW}
    assert counts == {run: [float(run == "dropout_bn after")] for run in OVERVIEW}


def test_its_runs_are_named_by_the_positions_that_were_asked_for_and_of_a_network_of_ones_own_by_none(tmp_path):
    study = {"arrangements": ("none", "bn_dropout", "dropout_bn"), "replicates": 2, "rerun": None}
    for position, model, names in (
        ("around", {"width": 8}, ["answer", "bn_dropout around", "dropout_bn around", "none around"]),
        ("after", {"function": "make"}, ["answer", "bn_dropout", "dropout_bn", "none"]),
    ):
        config = {"logging": "full", "model": model}
        root = fabricate(tmp_path / position, positions=(position,), config=config, **study)
        tensorboard.write_overview(root, {}, {})
        assert sorted(path.name for path in (root / "overview").iterdir()) == names


def test_what_is_tuned_beside_the_rate_is_chosen_too_and_all_else_averaged_alike(tmp_path):
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.6 + 0.1 * setting["optimizer.lr"] + 0.01 * setting["model.depth"]

    settings = [{"optimizer.lr": lr, "model.depth": depth} for lr in (0.5, 1.0) for depth in (2, 4)]
    study: dict[str, Any] = {"study": {"tuned": ["rate", "optimizer.lr"]}, "rerun": None, "shared_sd": 0}
    study |= {"arrangements": ("bn_dropout",), "rates": (0.2,), "settings": settings, "own_sd": 1e-6}
    root = fabricate(tmp_path, replicates=3, accuracy=accuracy, **study)
    tensorboard.write_overview(root, {}, {})
    run = root / "overview" / "bn_dropout after"
    assert scalars(run)["test/acc"] == {4: pytest.approx(0.6 + 0.1 + 0.03, abs=1e-4)}
    assert session(run)["optimizer.lr"] == 1.0
    assert "model.depth" not in session(run)


def test_a_seed_that_lacks_a_rate_is_chosen_nothing_as_in_the_report(tmp_path):
    root = fabricate(tmp_path, arrangements=("bn_dropout",), replicates=4, rerun=None)
    lacking = root / "digits/bn_dropout/after/q0.50"
    held = store.read(lacking)
    store.write(lacking, held.record, held.replicates[held.replicates["seed"] < 2], held.history)
    tensorboard.write_overview(root, {}, {})
    seeds = [store.read(root / f"digits/bn_dropout/after/q{rate}").replicates for rate in ("0.20", "0.50")]
    best = pd.concat(seeds).query("seed < 2").sort_values("val_acc").drop_duplicates("seed", keep="last")
    shown = scalars(root / "overview" / "bn_dropout after")["test/acc"]
    assert [*shown.values()] == [pytest.approx(best["test_acc"].mean())]


def test_what_lacks_an_arrangement_or_a_rate_is_left_out_of_a_mean_over_data_sets(tmp_path):
    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return 0.9 if setting["model.depth"] < 6 else 0.3

    study: dict[str, Any] = {"arrangements": ("bn_dropout", "dropout_bn"), "rerun": None}
    study["settings"] = [{"model.depth": depth} for depth in (2, 4, 6)]
    root = fabricate(tmp_path, replicates=3, accuracy=accuracy, **study)
    unfinished = root / "digits/bn_dropout/after/q0.50/model.depth=6/record.json"
    unfinished.rename(unfinished.with_name("later.json"))
    tensorboard.write_overview_live(root)
    whole = scalars(root / "overview" / "bn_dropout after")[TEST_BY_RATE]
    assert whole == pytest.approx({200: 0.9, 500: 0.9}, abs=0.05)
    unfinished.with_name("later.json").rename(unfinished)
    tensorboard.write_overview_live(root)
    whole = scalars(root / "overview" / "bn_dropout after")[TEST_BY_RATE]
    assert whole == pytest.approx({200: 0.7, 500: 0.7}, abs=0.05)


def test_live_it_shows_what_was_finished_since(tmp_path):
    root = fabricate(tmp_path, arrangements=("bn_dropout",), replicates=3, rerun=None)
    first, second = sorted(root.rglob("record.json"))
    second.rename(second.with_name("later.json"))
    tensorboard.write_overview_live(root)
    assert list(scalars(root / "overview" / "bn_dropout after")[TEST_BY_RATE]) == [200]
    second.with_name("later.json").rename(second)
    held = store.read(first.parent)
    store.write(first.parent, held.record, held.replicates.assign(test_acc=0.5), held.history)
    tensorboard.write_overview_live(root)
    shown = scalars(root / "overview" / "bn_dropout after")[TEST_BY_RATE]
    assert list(shown) == [200, 500] and shown[200] == 0.5


def test_before_anything_is_finished_there_is_no_overview(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"conditions": {"digits/bn/after/q0.00": {}}}))
    tensorboard.write_overview_live(tmp_path)
    assert not (tmp_path / "overview").exists()


@pytest.mark.parametrize("file", ["record.json", "history.csv"])
def test_what_is_damaged_is_left_out(tmp_path, file):
    root = fabricate(tmp_path, arrangements=("bn_dropout",), replicates=2, rerun=None)
    damaged, _ = sorted(root.rglob(file))
    damaged.write_text("{")
    for write_again in (tensorboard.write_overview_live, lambda folder: tensorboard.write_overview(folder, {}, {})):
        write_again(root)
        assert list(scalars(root / "overview" / "bn_dropout after")[TEST_BY_RATE]) == [500]


def test_deleted_event_files_are_written_again_from_the_record(tmp_path):
    root = write(fabricate(tmp_path, arrangements=("bn",), replicates=2, rerun=None))
    (condition,) = conditions(root)
    before = scalars(root / condition)
    (file,) = (root / condition).glob("events.out.*")
    file.unlink()
    tensorboard.write_overview(root, {}, {})
    assert scalars(root / condition) == before


# What a server makes of it.


class Server:
    """TensorBoard in this process, asked over HTTP."""

    def __init__(self, logdir: Path) -> None:
        server = program.TensorBoard()
        options = ["--port=0", "--host=127.0.0.1", "--reload_interval=1"]
        server.configure(argv=[None, f"--logdir={logdir}", *options])
        self.url = server.launch()
        runs = {str(path.parent.relative_to(logdir)) for path in logdir.rglob("events.out.tfevents.*")}
        self.wait_until(lambda: set(self.ask("runs")) == runs)

    def get(self, route: str, **query: str) -> bytes:
        with urlopen(f"{self.url}data/{route}?{urlencode(query)}", timeout=60) as response:
            return response.read()

    def ask(self, route: str, **query: str) -> Any:
        return json.loads(self.get(route, **query))

    def hparams(self, route: str, **request: Any) -> Any:
        return self.ask(f"plugin/hparams/{route}", request=json.dumps(request))

    def groups(self) -> dict[str, Any]:
        """HPARAMS' session groups by name."""
        statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        answer = self.hparams("session_groups", allowedStatuses=statuses, sliceSize=1000, startIndex=0)
        return {group["name"]: group for group in answer["sessionGroups"]}

    def wait_until(self, fact: Callable[[], bool]) -> None:
        """Ask until the server, which reads its files in the background, knows the fact."""
        deadline = time.monotonic() + 120
        while not fact():
            assert time.monotonic() < deadline, "TensorBoard did not read the event files within two minutes"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(study: Path) -> Server:
    return Server(study)


@pytest.fixture(scope="module")
def overview(study: Path) -> Server:
    return Server(study / "overview")


def test_the_default_study_has_under_40_runs(study, server):
    runs = server.ask("runs")
    assert set(runs) == {*conditions(study), *(f"overview/{run}" for run in ["answer", *OVERVIEW])}
    assert len(runs) < 40


def test_each_configuration_is_a_session_of_its_own_whose_metrics_are_its_tables_means(study, server):
    groups = server.groups()
    assert set(groups) == {*conditions(study), *(f"overview/{run}" for run in OVERVIEW)}
    for condition, (record, replicates, _) in conditions(study).items():
        group = groups[condition]
        shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        sound = sound_of(replicates)
        means = {tag: sound[column].mean() for tag, column in FINALS.items()}
        assert {tag: shown[tag] for tag in FINALS} == pytest.approx(means, rel=1e-6)
        assert group["hparams"]["rate"] == record["rate"]
        assert group["hparams"]["rerun"] == record["config"]["rerun"]
        assert group["hparams"]["optimizer.lr"] == 0.001


def test_hparams_columns_are_what_varies_rerun_among_it_and_the_first_metrics_the_answer(server, overview):
    for asked in (server, overview):
        experiment = asked.hparams("experiment")
        assert {info["name"] for info in experiment["hparamInfos"]} == {"arrangement", "position", "rate", "rerun"}
        metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
        assert metrics[:5] == ["test/acc", "test/loss", "test/ece", "test/acc_gap", "test/loss_gap"]
        assert "train/diverged" in metrics
    assert set(overview.groups()) == {*OVERVIEW}


def test_every_margin_chart_shows_a_tag_between_its_own_band(server, overview):
    tags = {run: set(found) for run, found in server.ask("plugin/scalars/tags").items()}
    for asked, some in ((server, DIVERGED[0]), (overview, "overview/bn_dropout before")):
        charts = []
        for category in asked.ask("plugin/custom_scalars/layout")["category"]:
            charts += category["chart"]
        titles = [chart["title"] for chart in charts]
        assert len(titles) == len(set(titles)) >= 4
        for chart in charts:
            (series,) = chart["margin"]["series"]
            assert series["value"] == chart["title"]
            assert "(" not in series["value"]  # TensorBoard would take what stands in it for the run, and draw nothing
            assert series["lower"] == f"whiskers/{chart['title']}/lower"
            assert series["upper"] == f"whiskers/{chart['title']}/upper"
        own = [chart["margin"]["series"][0] for chart in charts if chart["title"] in tags[some]]
        assert len(own) >= 4
        for series in own:
            assert {series["lower"], series["upper"]} <= tags[some]


def test_the_answer_and_the_figures_are_served(study, overview):
    (text,) = overview.ask("plugin/text/text", run="answer", tag="answer")
    assert "<strong>Yes.</strong>" in text["text"]
    texts = {run: sorted(tags) for run, tags in overview.ask("plugin/text/tags").items()}
    assert texts == {"answer": ["answer", "runs"]}
    (image,) = overview.ask("plugin/images/images", run="answer", tag="figures/answer", sample="0")
    png = overview.get("plugin/images/individualImage", **dict(parse_qsl(image["query"])))
    assert png == (study / "forest.png").read_bytes()


def test_a_key_that_a_later_sweep_varies_is_a_column_of_all_runs(tmp_path):
    settings: list[dict[str, Any]] = [{}, {"optimizer.lr": 0.1}, {"model.width": "8-16"}]
    root = write(fabricate(tmp_path, arrangements=("bn",), settings=settings, replicates=2, rerun=None))
    values = {session(root / condition)["optimizer.lr"] for condition in conditions(root)}
    assert values == {0.001, 0.1}
    found = Server(root).hparams("experiment")["hparamInfos"]  # by TensorBoard, as there is no overview
    assert [info["name"] for info in found if info.get("differs")] == ["model.width", "optimizer.lr"]
    tensorboard.write_overview(root, {}, {})
    found = Server(root).hparams("experiment")["hparamInfos"]
    assert [info["name"] for info in found] == ["model.width", "optimizer.lr"]


def test_many_settings_are_no_more_runs(tmp_path):
    settings = [{"optimizer.lr": number} for number in range(3)]
    study = {"positions": ("after", "before"), "rates": (0.2, 0.5), "settings": settings, "replicates": 2}
    tensorboard.write_overview_live(fake_study(tmp_path, **study))
    assert len(conditions(tmp_path)) > 40
    assert sorted(path.name for path in (tmp_path / "overview").iterdir()) == ["answer", *OVERVIEW]


def test_a_watching_server_sees_curves_grow_and_then_the_finished_ones_without_a_point_too_many(tmp_path):
    fabricate(tmp_path, replicates=3, arrangements=("bn",), rerun=None)
    ((condition, (_, _, history)),) = conditions(tmp_path).items()
    directory = tmp_path / condition

    def live(number: int) -> None:
        tensorboard.write_live(directory, history[history["epoch"] <= number])

    def seen(tag: str = "val/acc") -> list[int]:
        return [step for _, step, _ in server.ask("plugin/scalars/scalars", run=condition, tag=tag)]

    live(2)
    server = Server(tmp_path)
    assert seen() == seen("whiskers/val/acc/upper") == [10, 20]
    live(3)
    server.wait_until(lambda: seen() == [10, 20, 30])
    live(1)  # after a kill: from a checkpoint that was older than the last curve
    live(3)
    write(tmp_path)
    server.wait_until(lambda: seen() == [10, 20, 30, 40])
    assert seen("train/loss") == seen("whiskers/val/acc/upper") == [10, 20, 30, 40]
    write(fabricate(tmp_path, replicates=6, seed=1, arrangements=("bn",), rerun=None))
    mean = conditions(tmp_path)[condition][1]["test_acc"].mean()
    query = {"run": condition, "tag": "test/acc"}
    server.wait_until(lambda: server.ask("plugin/scalars/scalars", **query)[-1][2] == pytest.approx(mean))
    assert seen() == [10, 20, 30, 40]
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1


def test_the_room_imports_nothing_that_trains():
    code = "import sys, normdrop.tensorboard; print(*{'torch', 'lightning', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
