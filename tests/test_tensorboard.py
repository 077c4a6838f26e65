from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import urlopen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from fake_study import fake_study
from normdrop import tensorboard

DIVERGED = "digits/dropout_bn/after/q0.50"
VERDICT = "| claim | verdict |\n|---|---|\n| ordering | **better** |\n"


class Server:
    """A TensorBoard process, asked over HTTP."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def get(self, route: str, **query: str) -> bytes:
        with urlopen(f"{self.url}data/{route}?{urlencode(query)}", timeout=30) as response:
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
        deadline = time.monotonic() + 60
        while not fact():
            assert time.monotonic() < deadline, "TensorBoard did not read the event files within a minute"
            with pytest.raises(subprocess.TimeoutExpired):  # that is, it still runs
                self.process.wait(0.1)


@contextmanager
def serve(logdir: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--reload_interval", "1"]
    process = subprocess.Popen([*command, "--port", "0", "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        server = Server(process, next(word for word in line.split() if word.startswith("http://")))
        runs = {str(path.parent.relative_to(logdir)) for path in logdir.rglob("events.out.tfevents.*")}
        server.wait_until(lambda: set(server.ask("runs")) == runs)
        yield server
    finally:
        process.terminate()
        process.wait()


def conditions(root: Path) -> dict[str, tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Record, replicates and history of every finished condition by its folder below the root."""
    return {
        str(path.parent.relative_to(root)): (
            {"finished": 1.7e9, **json.loads(path.read_text())},
            pd.read_csv(path.parent / "replicates.csv"),
            pd.read_csv(path.parent / "history.csv"),
        )
        for path in root.rglob("record.json")
    }


def write(root: Path, logging: str = "full") -> Path:
    for condition, tables in conditions(root).items():
        tensorboard.write_condition(root / condition, *tables, logging=logging)
    return root


def fabricate(root: Path, **study: Any) -> Path:
    shift = [
        {"layer": layer, "seed": seed, "measured": 0.5 + 0.1 * layer + 0.01 * seed, "epoch": "end"}
        for seed in range(study["replicates"])
        for layer in (1, 2, 3)
    ]
    return fake_study(root, rates=(0.2, 0.5), config={"name": "ordering"}, shift=shift, max_steps=110, **study)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its event files. What is asserted of it is read from its tables: a real one would do."""
    root = fabricate(tmp_path_factory.mktemp("outputs") / "ordering", replicates=5)
    for path in (root / "digits" / "none").rglob("record.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "shift": []}))

    replicates = pd.read_csv(root / DIVERGED / "replicates.csv")
    measured = [metric for metric, _ in tensorboard.TAGS.values() if metric in replicates and metric != "diverged"]
    replicates.loc[2, measured] = np.nan
    replicates.loc[2, "diverged"] = True
    replicates.to_csv(root / DIVERGED / "replicates.csv", index=False)
    history = pd.read_csv(root / DIVERGED / "history.csv")
    history.loc[history["seed"] == 2, ["train_loss", "val_nll"]] = [1e30, np.nan]
    history.to_csv(root / DIVERGED / "history.csv", index=False)

    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2])
    (root / "report").mkdir()
    figure.savefig(root / "report" / "rates.png")
    plt.close(figure)
    tables = pd.concat(replicates for _, replicates, _ in conditions(root).values())
    figures = {"figures/rates": root / "report" / "rates.png"}
    tensorboard.write_report(root / "report", figures, {"verdicts": VERDICT}, tables)
    return write(root)


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[Server]:
    with serve(study) as server:
        yield server


def test_session_groups_are_the_conditions_and_sessions_their_seeds(study: Path, server: Server) -> None:
    groups = server.groups()
    finished = conditions(study)
    assert set(groups) == {f"{condition}@{study.resolve()}" for condition in finished}
    for condition, (_, replicates, _) in finished.items():
        sessions = [session["name"] for session in groups[f"{condition}@{study.resolve()}"]["sessions"]]
        assert sessions == [f"{condition}/seeds/{seed:02d}" for seed in replicates["seed"]]


def test_a_groups_metrics_are_the_means_of_its_table_over_seeds_that_did_not_diverge(
    study: Path, server: Server
) -> None:
    groups = server.groups()
    for condition, (record, replicates, _) in conditions(study).items():
        sound = replicates[~replicates["diverged"]]
        shift = pd.DataFrame(record["shift"], columns=["seed", "measured", "epoch"]).query("epoch == 'end'")
        means = {
            tag: sound[column].mean()
            for tag, (column, _) in tensorboard.TAGS.items()
            if column in sound and sound[column].notna().any()
        }
        if len(shift):
            means["variance_shift/mean"] = shift[shift["seed"].isin(sound["seed"])]["measured"].mean()
        means["train/diverged"] = replicates["diverged"].mean()
        group = groups[f"{condition}@{study.resolve()}"]
        shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert shown == pytest.approx(means, rel=1e-6)


def test_hparams_has_the_same_columns_for_every_condition_and_its_first_metrics_are_the_answer(
    study: Path, server: Server
) -> None:
    experiment = server.hparams("experiment")
    columns = [info["name"] for info in experiment["hparamInfos"]]
    assert set(columns) == {"dataset", "arrangement", "position", "rate", "depth", "width", "rerun"}
    assert columns[:2] == ["arrangement", "rate"], "what varies comes first"
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics[:5] == ["test/acc", "test/loss", "test/ece", "test/acc_gap", "test/loss_gap"]
    for name, group in server.groups().items():
        assert set(group["hparams"]) == set(columns)
        record, _, _ = conditions(study)[name.split("@")[0]]
        assert group["hparams"]["rate"] == record["rate"]
        assert group["hparams"]["rerun"] == record["config"]["rerun"]


def test_margin_charts_resolve_to_tags_of_every_condition_and_stand_once(study: Path, server: Server) -> None:
    charts = [
        chart for category in server.ask("plugin/custom_scalars/layout")["category"] for chart in category["chart"]
    ]
    titles = [chart["title"] for chart in charts]
    assert len(titles) == len(set(titles)) == 5
    tags = server.ask("plugin/scalars/tags")
    for condition, (record, _, _) in conditions(study).items():
        for chart in charts:
            (series,) = chart["margin"]["series"]
            if record["shift"] or "variance_shift" not in series["value"]:
                assert {series["value"], series["lower"], series["upper"]} <= set(tags[condition])


def test_a_curve_is_the_mean_over_seeds_at_each_step_inside_its_band(study: Path, server: Server) -> None:
    for condition, (_, replicates, history) in conditions(study).items():
        sound = history[history["seed"].isin(replicates["seed"][~replicates["diverged"]])]
        expected = sound.groupby("step")["train_loss"].mean()
        curves = {
            tag: {step: value for _, step, value in server.ask("plugin/scalars/scalars", run=condition, tag=tag)}
            for tag in ("train/loss", "whiskers/train/loss/lower", "whiskers/train/loss/upper")
        }
        assert curves["train/loss"] == pytest.approx(expected.to_dict(), rel=1e-6)
        lower, upper = (
            sound.groupby("step")["train_loss"].quantile(0.1),
            sound.groupby("step")["train_loss"].quantile(0.9),
        )
        assert curves["whiskers/train/loss/lower"] == pytest.approx(lower.to_dict(), rel=1e-6)
        assert curves["whiskers/train/loss/upper"] == pytest.approx(upper.to_dict(), rel=1e-6)


def test_no_run_has_an_hp_metric_or_a_point_at_step_0(server: Server) -> None:
    for run, tags in server.ask("plugin/scalars/tags").items():
        assert "hp_metric" not in tags
        for tag in tags:
            points = server.ask("plugin/scalars/scalars", run=run, tag=tag)
            assert min(step for _, step, _ in points) > 0


def test_the_reports_images_and_text_are_served(study: Path, server: Server) -> None:
    (image,) = server.ask("plugin/images/images", run="report", tag="figures/rates", sample="0")
    png = server.get("plugin/images/individualImage", **dict(parse_qsl(image["query"])))
    assert png == (study / "report" / "rates.png").read_bytes()
    (text,) = server.ask("plugin/text/text", run="report", tag="verdicts")
    assert "<strong>better</strong>" in text["text"]
    assert "<table>" in text["text"]


def test_final_test_accuracy_over_seeds_is_a_histogram(study: Path, server: Server) -> None:
    for condition, (_, replicates, _) in conditions(study).items():
        ((_, _, buckets),) = server.ask("plugin/histograms/histograms", run=condition, tag="test/acc_over_seeds")
        assert sum(count for _, _, count in buckets) == replicates["test_acc"].count()
        assert buckets[0][0] == pytest.approx(replicates["test_acc"].min())
        assert buckets[-1][1] == pytest.approx(replicates["test_acc"].max())


def test_the_reports_distributions_are_test_accuracy_over_seeds_by_rate(study: Path, server: Server) -> None:
    tag = "test_acc_by_rate/digits/dropout_bn/after"
    shown = server.ask("plugin/histograms/histograms", run="report", tag=tag)
    of_arrangement = {
        round(100 * record["rate"]): replicates["test_acc"].count()
        for record, replicates, _ in conditions(study).values()
        if record["arrangement"] == "dropout_bn"
    }
    assert {step: sum(count for _, _, count in buckets) for _, step, buckets in shown} == of_arrangement


def test_writing_again_with_more_seeds_leaves_a_watching_server_no_duplicate_point(tmp_path: Path) -> None:
    few = {"arrangements": ("bn",), "rerun": None}
    write(fabricate(tmp_path, replicates=3, **few))
    (condition,) = conditions(tmp_path)
    with serve(tmp_path) as server:
        before = server.ask("plugin/scalars/scalars", run=condition, tag="val/acc")
        write(fabricate(tmp_path, replicates=6, seed=1, **few))
        server.wait_until(lambda: len(server.ask("runs")) == 7)
        mean = conditions(tmp_path)[condition][1]["val_acc"].mean()
        server.wait_until(
            lambda: server.ask("plugin/scalars/scalars", run=condition, tag="val/acc")[-1][2] == pytest.approx(mean)
        )
        after = server.ask("plugin/scalars/scalars", run=condition, tag="val/acc")
        assert [step for _, step, _ in after] == [step for _, step, _ in before]
        (group,) = server.groups().values()
        assert len(group["sessions"]) == 6
    with serve(tmp_path) as fresh:
        restarted = fresh.ask("plugin/scalars/scalars", run=condition, tag="val/acc")
        assert [point[1:] for point in restarted] == [point[1:] for point in after]
    assert len(list((tmp_path / condition).glob("events.out.tfevents.*"))) == 1


def test_a_watching_server_sees_curves_grow_and_then_those_of_the_finished_condition_without_a_point_too_many(
    tmp_path: Path,
) -> None:
    fabricate(tmp_path, replicates=3, arrangements=("bn",), rerun=None)
    (condition,) = conditions(tmp_path)
    history = conditions(tmp_path)[condition][2]
    steps = sorted(history["step"].unique())
    directory = tmp_path / condition

    def live(number: int) -> None:
        tensorboard.write_live(directory, history[history["step"] <= steps[number - 1]])

    live(2)
    with serve(tmp_path) as server:

        def seen(tag: str = "val/acc") -> list[int]:
            return [step for _, step, _ in server.ask("plugin/scalars/scalars", run=condition, tag=tag)]

        assert seen() == seen("whiskers/val/acc/upper") == steps[:2]
        live(len(steps) - 1)
        server.wait_until(lambda: seen() == steps[:-1])
        live(1)  # after a kill: from a checkpoint that was older than the last curve
        live(len(steps) - 1)
        write(tmp_path)
        server.wait_until(lambda: len(server.ask("runs")) == 4)
        server.wait_until(lambda: seen() == steps)
        assert seen("train/loss") == seen("whiskers/val/acc/upper") == steps
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1


def runs(root: Path) -> EventMultiplexer:
    return EventMultiplexer().AddRunsFromDirectory(str(root)).Reload()


def test_minimal_logging_writes_one_session_per_condition_and_per_seed_logging_each_seeds_curves(
    tmp_path: Path,
) -> None:
    root = fabricate(tmp_path, replicates=3, arrangements=("bn",), rerun=None)
    ((condition, (_, replicates, history)),) = conditions(root).items()
    sizes = {}
    for logging in ("per_seed", "full", "minimal"):
        events = runs(write(root, logging))
        sizes[logging] = len(events.Runs())
        metric = [point.tensor_proto.float_val[0] for point in events.Tensors(condition, "test/acc")]
        assert metric == pytest.approx([replicates["test_acc"].mean()])
        if logging == "per_seed":
            curve = [point.tensor_proto.float_val[0] for point in events.Tensors(f"{condition}/seeds/01", "val/loss")]
            assert curve[:-1] == pytest.approx(history[history["seed"] == 1]["val_nll"].tolist()[:-1])
            assert curve[-1] == pytest.approx(replicates["val_nll"][1])
        elif logging == "full":
            assert len(events.Tensors(f"{condition}/seeds/01", "val/loss")) == 1
        sessions = [run for run in events.Runs() if "_hparams_/session_start_info" in events.Runs()[run]["tensors"]]
        assert len(sessions) == (1 if logging == "minimal" else 3)
    assert sizes == {"per_seed": 4, "full": 4, "minimal": 1}


def test_what_only_some_conditions_set_is_a_column_of_all(tmp_path: Path) -> None:
    settings = ({}, {"model.init_gain": 3.0})
    root = write(fabricate(tmp_path, replicates=2, arrangements=("bn",), rerun=None, settings=settings), "minimal")
    hparams = {}
    for condition, content in runs(root).PluginRunToTagToContent("hparams").items():
        (session,) = (content[tag] for tag in content if tag.endswith("session_start_info"))
        hparams[condition] = metadata.parse_session_start_info_plugin_data(session).hparams
    gains = {condition: values["model.init_gain"].number_value for condition, values in hparams.items()}
    assert gains == {"digits/bn/after/q0.00": 1.0, "digits/bn/after/q0.00/model.init_gain=3.0": 3.0}
    first, second = hparams.values()
    assert set(first) == set(second)


def test_a_condition_whose_seeds_all_diverged_is_shown_without_metrics(tmp_path: Path) -> None:
    root = fabricate(tmp_path, replicates=2, arrangements=("bn",), rerun=None)
    ((condition, (record, replicates, history)),) = conditions(root).items()
    replicates["diverged"] = True
    tensorboard.write_condition(root / condition, record, replicates, history, "minimal")
    tags = runs(root).Runs()[condition]["tensors"]
    assert "train/diverged" in tags
    assert not {"test/acc", "val/loss"} & set(tags)


def test_the_activations_of_a_grown_condition_are_served_at_their_steps_as_they_were_counted(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from normdrop.study import job  # here: importing training costs seconds

    folder = tmp_path / "digits"
    folder.mkdir()
    study = {"condition": "digits", "setting": {}, "choices": {}, "grid": {}, "columns": {}, "command": "normdrop"}
    for replicates in (2, 3):
        overrides = (f"replicates={replicates}", "trainer.max_epochs=4", "measure.activation_epochs=[1,2,4]")
        job.finish(tiny(*overrides), folder, study, lambda *_: None)
    ((record, _, _),) = conditions(tmp_path).values()
    with serve(tmp_path) as server:
        tags = {tag for tag in server.ask("plugin/histograms/tags")["digits"] if tag.startswith("activations/")}
        layers, places, modes = (1, 2), ("before_bn", "after_bn"), ("train", "eval")
        assert tags == {f"activations/layer{layer}/{p}/{m}" for layer in layers for p in places for m in modes}
        for tag in tags:
            points = server.ask("plugin/histograms/histograms", run="digits", tag=tag)
            assert [step for _, step, _ in points] == [5, 10, 20]  # several: a time axis for DISTRIBUTIONS
            times = [wall_time for wall_time, _, _ in points]
            assert times == sorted(set(times))
            for _, step, buckets in points:
                assert sum(count for _, _, count in buckets) == 70 * (20 if "layer1" in tag else 13)
                (entry,) = (
                    entry
                    for entry in record["activations"]
                    if f"activations/layer{entry['layer']}/{entry['where']}/{entry['mode']}" == tag
                    and entry["step"] == step
                )
                left, right, counts = (list(column) for column in zip(*buckets, strict=True))
                assert [*left, right[-1]] == entry["edges"] and counts == entry["counts"]
                assert left[1:] == right[:-1]
            assert len(server.ask("plugin/distributions/distributions", run="digits", tag=tag)) == 3


def test_a_record_that_an_earlier_version_wrote_has_no_activations_to_draw(study: Path) -> None:
    assert all("activations" not in record for record, _, _ in conditions(study).values())
    for run in runs(study).Runs().values():
        assert not any(tag.startswith("activations") for tag in run["tensors"])


def test_shift_measured_during_training_is_a_curve_for_each_layer(tmp_path: Path) -> None:
    root = fabricate(tmp_path, replicates=2, arrangements=("bn",), rerun=None)
    ((condition, (record, replicates, history)),) = conditions(root).items()
    record["shift"] += [{"layer": 1, "seed": seed, "measured": 0.9 + seed, "epoch": 2} for seed in (0, 1)]
    tensorboard.write_condition(root / condition, record, replicates, history)
    points = runs(root).Tensors(condition, "variance_shift/layer1")
    shown = {point.step: point.tensor_proto.float_val[0] for point in points}
    at_epoch_2, at_end = sorted(history["step"].unique())[1], history["step"].max()
    assert shown == pytest.approx({at_epoch_2: 1.4, at_end: 0.605})
    assert len(runs(root).Tensors(condition, "whiskers/variance_shift/layer1/lower")) == 2


def test_the_room_imports_nothing_that_trains() -> None:
    code = "import sys, normdrop.tensorboard; print(*{'torch', 'lightning', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
