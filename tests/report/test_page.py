"""The page: its numbers are those of the tables beside it, it stands alone, and it is whole or absent."""

import base64
import json
import math
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fake_study import fake_study
from made import ORDERING, made
from normdrop.report import figures, page
from normdrop.report.__main__ import main
from normdrop.report.study import NEVER, Declared, Study, load

ALL = ("none", "bn", "bn_dropout", "dropout_bn")
OVERFITTING = {"claim": "overfitting", "contrast": {"a": "dropout", "b": "none"}, "metrics": ("gap",)}


@pytest.fixture(scope="module", autouse=True)
def coarse() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.STYLE, "savefig.dpi", 30)
        yield


@pytest.fixture(scope="module")
def population() -> page.Section:
    return page.section(made("population", **ORDERING))


@pytest.fixture(scope="module")
def written(population: page.Section, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a population and of another claim whose sentence looks like HTML."""
    folder = tmp_path_factory.mktemp("page") / "report"
    claim = OVERFITTING | {"sentence": "<script>alert(1)</script> less overfitting", "family": "best_vs_best"}
    other = made("over/fitting", datasets=2, arrangements=("none", "dropout"), positions=("after",), **claim)
    sections = {"population": population, "over/fitting": page.section(other)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "section", lambda study: sections[study.name])
        page.write([population.study, other], folder)
    return folder


def shown(row: pd.Series) -> str:
    size, low, high = (f"{100 * row[name] + 0:+.2f}" for name in ("estimate", "ci_low", "ci_high"))
    return f"{size} pp ({low} to {high})"


def test_the_first_screen_has_the_answer_of_each_position_one_figure_and_the_table(written):
    text = (written / "report.md").read_text()
    pooled = pd.read_csv(written / "pooled.csv")
    tuned = pooled[pooled["family"] == "declared"].set_index("position")
    fixed = pooled[(pooled["variant"] == "declared") & (pooled["rate"] == 0.5) & (pooled["metric"] == "test_acc")]
    first, network = text.split("## Which network should I use?")
    sentences, rest = first.split("![", 1)
    for position, side in (("after", "no practical difference"), ("before", "BN first is better")):
        (line,) = [line for line in sentences.splitlines() if line.startswith(f"**{position.capitalize()}")]
        assert side in line and shown(tuned.loc[position]) in line and "8 data sets" in line
        low, high = 100 * tuned.loc[position, ["pi_low", "pi_high"]]  # what the word "it depends" rests on
        assert f"{low + 0:+.2f} to {high + 0:+.2f} pp" in line
        (row,) = [row for row in rest.splitlines() if row.startswith(f"| {position}")]
        assert shown(tuned.loc[position]) in row and shown(fixed.set_index("position").loc[position]) in row
    assert "<details>" not in first and "BN then dropout · before" in network.split("<details>")[0]


def test_of_two_primary_metrics_each_mean_is_told_and_drawn_under_its_name():
    section = page.section(made("population", metrics=("test_acc", "test_nll"), **ORDERING))
    declared = section.tables["pooled"].query("family == 'declared'").set_index(["position", "metric"])
    answer = page.texts(section)["answer"]
    drawn = dict(page.draw(section))
    assert {name: len(figure.axes) for name, figure in drawn.items()} == {"answer": 2, "forest": 4}
    assert set(section.at_one_place["metric"]) == {"test_acc"}
    for position in ("after", "before"):
        (line,) = [line for line in answer.splitlines() if line.startswith(f"**{position.capitalize()}")]
        assert f"dropout first in test accuracy: {shown(declared.loc[position, 'test_acc'])}, the mean" in line
        nll = declared.loc[position, "test_nll"]
        size, low, high = (f"{nll[name] + 0:+.3f}" for name in ("estimate", "ci_low", "ci_high"))
        assert line.endswith(f"In test NLL: {size} nats ({low} to {high}), {nll['verdict']}.")
    points = [line.get_xdata()[0] for ax in drawn["forest"].axes for line in ax.get_lines() if line.get_marker() == "D"]
    of_acc, of_nll = (declared["estimate"].xs(name, level="metric").to_list() for name in ("test_acc", "test_nll"))
    assert points == pytest.approx([*(100 * value for value in of_acc), *of_nll])


def test_the_page_is_one_file_that_fetches_and_runs_nothing(written):
    html = (written / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    inside = {base64.b64decode(source.partition(",")[2]) for source in sources}
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert inside == {file.read_bytes() for file in written.glob("*.png")} and len(inside) == 3
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert html.count("<details>") == html.count("</details>") == (written / "report.md").read_text().count("<details>")


def test_a_claim_is_told_by_its_counts_and_the_range_of_its_own_metric(written):
    rows = pd.read_csv(written / "verdicts.csv")
    own = rows[(rows["experiment"] == "over/fitting") & (rows["family"] == "declared")]
    assert set(own["metric"]) == {"gap"} and len(own) == 2
    low, high = (f"{100 * own['estimate'].agg(end) + 0:+.2f}" for end in ("min", "max"))
    block = (written / "report.md").read_text().split("### over/fitting")[1]
    assert f"of 2 comparisons; {low} to {high} pp" in block


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, sweep: page.Section) -> Study:
    """A study whose numbers are there already, so that a page takes no time."""
    monkeypatch.setattr(page, "section", lambda study: sweep)
    monkeypatch.setattr(page, "draw", lambda section: iter(()))
    return sweep.study


@pytest.fixture(scope="module")
def sweep() -> page.Section:
    return page.section(made("my grid", datasets=1))


def test_the_same_study_makes_the_same_bytes(small, tmp_path):
    for name in ("one", "two"):
        page.write([small], tmp_path / name)
    files = {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()}
    assert {"report.md", "report.html", "verdicts.csv", "means.csv", "replicates.csv"} <= files.keys()


def test_a_sweep_without_a_declaration_gets_its_name_and_its_numbers(small, tmp_path):
    page.write([small], tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert text.startswith("# my grid\n") and "Exploratory" in text and "## Every network at every rate" in text
    assert "Git knows" not in text and "pooled.csv" not in text
    rows = {tuple(line.split(" | ")[:2]): line for line in text.splitlines() if line.startswith("| ")}
    means = small.table.groupby(["arrangement", "position", "rate"])["test_acc"].mean() * 100
    for arrangement, name in (("bn_dropout", "BN then dropout"), ("dropout_bn", "dropout then BN")):
        for position in ("after", "before"):
            cells = rows[f"| {name}", position]
            at = [f"{means[arrangement, position, rate]:.2f} ±" for rate in (0.1, 0.5)]
            assert cells.index(at[0]) < cells.index(at[1])
    verdicts = pd.read_csv(tmp_path / "report/verdicts.csv")
    assert set(verdicts["family"]) == {"exploratory"}
    for row in verdicts[verdicts["metric"] == "test_acc"].to_dict("records"):
        assert f"{100 * row['estimate'] + 0:+.2f} pp" in text


@pytest.mark.parametrize(
    ("study", "fixed"),
    [({"rates": (0.6, 0.7)}, "rate 0.6 on both sides | "), ({"contrast": {"a": "bn", "b": "none"}}, "")],
)
def test_there_is_a_page_where_no_rate_of_at_most_one_half_is_compared(study: dict[str, Any], fixed: str) -> None:
    text = page.texts(page.section(made("x", datasets=1, arrangements=ALL, **ORDERING | study)))
    assert f"| where both stand | tuned | {fixed}verdict, tuned |" in text["answer"]


def test_of_a_network_that_lost_seeds_the_table_says_how_many_are_left() -> None:
    study = made("small", datasets=1, family=None, claim="undeclared", core=None, arrangements=ALL, rates=(0.1, 0.5))
    lost = study.table["arrangement"].eq("bn") & study.table["seed"].isin([0, 3])
    study.table.loc[lost, ["test_acc", "test_nll", "val_acc", "val_nll"]] = math.nan
    study.table.loc[lost, "diverged"] = True
    text = page.render(page._context([page.section(study)]), limit=99)
    cells = [line for line in text.splitlines() if line.startswith("| BN |") and " ± " in line]
    assert cells and all("(4 of 6 seeds)" in line for line in cells), cells
    assert text.count("of 6 seeds)") == len(cells)


@pytest.mark.parametrize(
    ("study", "how"),
    [
        ({}, "after the activation, both sides at the dropout rate that validation prefers: "),
        ({"rates": (0.5,)}, "after the activation: "),
        ({"contrast": {"a": "bn", "b": "none"}}, "after the activation: "),
        ({"contrast": {"a": "bn_dropout", "b": "none"}, "rates": (0.5,)}, "after the activation: "),
        ({"contrast": {"a": "bn", "b": "none"}, "positions": ("after", "before")}, " pp (new samples)."),
        ({"rates": (0.5,), "datasets": 8}, "each counted alike (data sets at large). The true difference"),
        ({"family": "same_rate", "rates": (0.5,)}, "after the activation, at equal rates: "),
        ({"family": "same_rate", "contrast": {"a": "bn", "b": "none"}}, "after the activation: "),
    ],
    ids=str,
)
def test_a_choice_by_validation_is_told_where_there_was_more_than_one_candidate(
    study: dict[str, Any], how: str
) -> None:
    places = {"datasets": 1, "positions": ("after",), "arrangements": ALL, "claim": "mine", **study}
    places["claim"] = "ordering" if places["datasets"] > 1 else "mine"
    answer = page.texts(page.section(made("x", **ORDERING | places)))["answer"]
    assert how in answer and ("validation" in answer) == (not study)


def test_a_single_comparison_says_what_it_could_have_shown_in_its_own_scope() -> None:
    section = page.section(made("x", **ORDERING | {"datasets": 1, "positions": ("after",)}))
    (row,) = section.base.to_dict("records")
    wider = (row["new_high"] - row["new_low"]) / (row["ci_high"] - row["ci_low"])
    assert section.scope == "new samples" and wider > 1.5
    said = f"A difference of {100 * wider * row['detectable']:.2f} pp would have been seen with 80 % power."
    assert said in page.texts(section)["answer"]


def test_a_mean_without_spread_says_no_power() -> None:
    study = made("x", **ORDERING)
    study.table["test_acc"] = study.table["arrangement"].map({"none": 0.5, "bn_dropout": 0.75, "dropout_bn": 0.5})
    answer = page.texts(page.section(study))["answer"]
    assert "+25.00 pp (+25.00 to +25.00), the mean over 8 data sets" in answer
    assert "power" not in answer and "—" not in answer


def test_comparisons_that_go_without_a_pair_of_seeds_are_counted() -> None:
    study = made("x", datasets=1, metrics=("test_acc", "test_nll"), **ORDERING)
    table = study.table
    first = table["seed"].lt(2) & table["position"].eq("after") & table["arrangement"].eq("bn_dropout")
    other = table["seed"].eq(2) & table["rate"].eq(0.5) & table["arrangement"].eq("dropout_bn")
    table.loc[first | other, ["test_acc", "test_nll"]] = math.nan
    table.loc[table["arrangement"] == "none", "test_acc"] = math.nan  # is compared with nothing
    section = page.section(study)
    assert section.compared["left_out"].sum() == 16
    text = page.render(page._context([section]), limit=9)
    touched = (section.compared["left_out"] > 0).sum()
    assert 0 < touched < len(section.compared)
    assert f"{touched} of {len(section.compared)} comparisons go without some pairs of seeds" in text


def test_where_no_seed_reaches_the_target_or_all_of_a_side_diverged_the_verdict_is_refused() -> None:
    study = made("speed", datasets=1, metrics=("steps_to_level",), family="best_vs_best", claim="speed")
    study.table["steps_to_level"] = NEVER
    assert "**Refused.**" in page.texts(page.section(study))["answer"]
    study = made("x", datasets=1, **ORDERING)
    lost = study.table["arrangement"].eq("bn_dropout")
    study.table.loc[lost, ["test_acc", "test_nll", "val_acc", "val_nll"]] = math.nan
    study.table.loc[lost, "diverged"] = True
    said = [line for line in page.texts(page.section(study))["answer"].splitlines() if "6 of 6 pairs" in line]
    assert said and "—" not in said[0]


@pytest.mark.parametrize("kind", ["difference", "mechanism"])
def test_where_everything_diverged_the_claim_is_refused_and_no_number_is_missing(kind) -> None:
    arrangements = ("none", "bn_dropout", "dropout_bn", "ln_dropout", "dropout_ln")
    declared = {"kind": kind, "claim": "gap", "family": "best_vs_best", "metrics": ("test_acc",)}
    study = made("x", datasets=2, arrangements=arrangements, **declared)
    study.table[["test_acc", "recal_test_acc", "val_acc", "val_nll"]] = math.nan
    study.table["diverged"] = True
    answer = page.texts(page.section(study))["answer"]
    (said,) = [line for line in answer.splitlines() if "refused" in line]
    assert said.startswith("**Refused.**") and "—" not in said and "control" not in answer


def test_of_two_studies_of_one_name_the_page_says_whose_answer_comes_first(tmp_path):
    for where in ("laptop", "cluster"):
        fake_study(tmp_path / where / "six", arrangements=("bn_dropout", "dropout_bn"), rates=(0.2,), replicates=6)
    page.write(load(tmp_path), tmp_path / "report")
    said = (tmp_path / "report/report.md").read_text().splitlines()
    assert "Of `cluster/six`; further down stands `laptop/six`." in said[:4]


def test_a_declared_study_that_lacks_a_side_is_not_called_undeclared() -> None:
    text = page.texts(page.section(made("x", datasets=1, arrangements=("none",), **ORDERING)))["answer"]
    assert "No declared comparison has both of its sides yet" in text and "nothing was declared" not in text


def test_steps_are_told_as_shares_of_the_budget() -> None:
    study = made("speed", datasets=1, metrics=("steps_to_level",), family="best_vs_best")
    study.table["steps_to_level"] = study.table["gap"].clip(0, 1)  # as shares
    answer = page.texts(page.section(study))["answer"]
    assert re.search(r"\+\d\.\d\d % of the budget; ", answer) and " steps;" not in answer


def test_a_report_that_is_stopped_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("normdrop.report.study.load", stopped)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("normdrop-report: stopped")


def test_what_a_repository_shows_stays_small_and_the_html_has_the_rows(small, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST", 2900)
    page.write([small], tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert len(text.encode()) <= 2900 and "rows, in the tables" in text
    assert "rows, in the tables" not in (tmp_path / "report/report.html").read_text()


def test_what_has_not_finished_is_said_first_and_named(tmp_path):
    left = {"unfinished": {"digits/bn": "begun"}, "failed": {"digits/none": "out of memory"}}
    study = Study("begun", tmp_path, Declared(), [], pd.DataFrame(columns=["dataset"]), [], **left)
    page.write([study], tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    first = text.split("<details>")[0]
    assert "0 finished, 1 did not, 1 failed" in first and "No configuration has finished" in first
    assert "`digits/bn`: begun" in text and "`digits/none`: out of memory" in text


def test_what_has_grown_and_not_finished_is_not_counted_twice(tmp_path):
    root = fake_study(tmp_path, arrangements=("bn_dropout", "dropout_bn"), rates=(0.2,), replicates=6, rerun=None)
    plan = json.loads((root / "plan.json").read_text())
    for name in plan["conditions"]:
        plan["conditions"][name]["seeds"] = [*range(9)]
    plan["conditions"]["digits/bn/after/q0.00"] = {"setting": {}, "seeds": [0], "sweep": 0}
    (root / "plan.json").write_text(json.dumps(plan))
    page.write(load(root), tmp_path / "report")
    said = (tmp_path / "report/report.md").read_text()
    assert re.search(r"2 finished, 2 of them without all seeds .*, 1 did not, 0 failed", said)


@pytest.mark.parametrize("file", ["digits/dropout_bn/after/q0.50/record.json", "plan.json"])
def test_what_is_damaged_is_named_and_the_rest_is_told(tmp_path, capsys, file):
    fake_study(tmp_path, arrangements=("bn_dropout", "dropout_bn"), rates=(0.2, 0.5), replicates=6, rerun=None)
    for folder in [path.parent for path in tmp_path.rglob("record.json")]:
        (folder / "events.out.tfevents.1").touch()
    (tmp_path / file).write_text("{")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "1 damaged" in said.out and "test accuracy" in said.out
    assert (tmp_path / "overview/answer").exists() == (file != "plan.json") == ("plan.json" not in said.err)


def test_a_page_takes_its_folders_mode_and_replaces_an_earlier_one_whole_or_not_at_all(small, tmp_path, monkeypatch):
    tmp_path.chmod(0o2775)
    target = tmp_path / "report"
    page.write([small], target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o2775
    (target / "stale.png").touch()
    page.write([small], target)
    assert [path.name for path in tmp_path.iterdir()] == ["report"] and not (target / "stale.png").exists()
    before = (target / "report.md").read_bytes()
    monkeypatch.setattr(page, "as_html", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        page.write([small], target)
    assert [path.name for path in tmp_path.iterdir()] == ["report"] and (target / "report.md").read_bytes() == before


def test_what_cannot_work_is_refused_before_anything_heavy_is_imported(tmp_path):
    code = (
        "import sys; from normdrop.report.__main__ import main; print(main([sys.argv[1]]));"
        "print([name for name in ('pandas', 'matplotlib', 'torch') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "nowhere")]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout == "1\n[]\n" and str(tmp_path / "nowhere") in run.stderr and run.stderr.count("\n") == 1


def test_an_ascii_locale_does_no_harm(monkeypatch):
    code = (
        "import sys; import normdrop.report.page; from normdrop.report.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "main([chr(0x2212)]); print('torch' in sys.modules)"
    )
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert "FOLDER −: no such directory" in run.stderr.decode()
    assert run.stdout.decode().endswith("False\n")


def test_the_end_says_the_answer_the_page_and_what_to_open(population, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "section", lambda study: population)
    monkeypatch.setattr("normdrop.report.study.load", lambda folder: [population.study])
    assert main([str(tmp_path), "--output", str(tmp_path / "else/where")]) == 0
    assert main([str(tmp_path), "--publish", str(tmp_path / "inside")]) == 1 and not (tmp_path / "inside").exists()
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split(" the activation")[0] for line in lines[:2]] == ["After", "Before"]
    assert lines[-1].endswith(str(tmp_path / "else/where/report/report.html"))  # nothing is there for TensorBoard
    (tmp_path / "events.out.tfevents.1").touch()
    assert main([str(tmp_path), "--output", str(tmp_path / "else/where")]) == 0
    assert f"tensorboard --logdir {tmp_path}" in capsys.readouterr().out.splitlines()[-1]
    assert "population (1 of 1)" in said.err and not (tmp_path / "report").exists()


def test_an_earlier_page_of_another_person_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "report").mkdir()
    monkeypatch.setattr("os.access", lambda folder, _: Path(folder).name != "report")
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path / 'report'}: nothing can be written to it; --output DIR" in capsys.readouterr().err
