"""The page: its numbers follow from replicates.csv; it stands alone, says what must be said, and is whole or absent."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fake_study import fake_study
from normdrop.report.__main__ import main
from normdrop.report.tables import verdict_table

ROPE = {"test_acc": 0.005, "test_nll": 0.02, "test_ece": 0.005}
SCALE = {"test_acc": 100, "test_nll": 1, "test_ece": 100}


def report_of(directory: Path, *arguments: str) -> str:
    assert main([str(directory), *arguments]) == 0
    return (directory / "report/report.md").read_text()


def tables_of(markdown: str) -> list[pd.DataFrame]:
    """Every table of a Markdown page."""
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in block.splitlines()]
        tables.append(pd.DataFrame(rows, columns=header))
    return tables


def pairs_of(replicates: pd.DataFrame, row: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A and B of a verdict row, from replicates.csv alone."""
    here = replicates[(replicates["dataset"] == row["data set"]) & (replicates["position"] == row["position"])]

    def at(arrangement: str, rerun: int, rate: float | None) -> pd.Series:
        rows = here[(here["arrangement"] == arrangement) & (here["rerun"] == rerun)]
        if rate is not None:
            rows = rows[rows["rate"] == rate]
        best = rows.sort_values(["val_nll", "rate"]).sort_values("val_acc", ascending=False, kind="stable")
        return best.groupby("seed").first()[row["metric"]]

    comparison = row["comparison"]
    rate = None if comparison.startswith("best") else float(comparison.split()[-1])
    if comparison.startswith("A/A"):
        return at("bn_dropout", 0, rate).to_numpy(), at("bn_dropout", 1, rate).to_numpy()
    return at("bn_dropout", 0, rate).to_numpy(), at("dropout_bn", 0, rate).to_numpy()


def test_a_repositorys_page_leaves_tables_of_over_fifty_rows_to_the_others(tmp_path: Path) -> None:
    orders, names = ("bn_dropout", "dropout_bn"), [f"d{i:02d}" for i in range(34)]
    whole = fake_study(tmp_path, datasets=names, arrangements=orders, rates=(0.5,), replicates=6, rerun=None)
    markdown = report_of(whole)
    assert "\n102 rows: see `report.html` and the tables beside this page.\n" in markdown
    assert max(map(len, tables_of(markdown))) < 102 < (whole / "report/report.html").read_text().count("<tr>")


def test_every_number_of_the_verdict_tables_follows_from_replicates_csv(reported: Path) -> None:
    replicates = pd.read_csv(reported / "report/replicates.csv")
    rows = pd.read_csv(reported / "report/verdicts.csv", keep_default_na=False, na_values=[""])
    shown_rows = verdict_table(rows.assign(setting=rows["setting"].astype(object).fillna("")))
    table = pd.DataFrame(shown_rows.rows, columns=shown_rows.header)
    # two positions × (best and five rates) × three metrics, and the A/A rows of both positions
    assert len(table) == 2 * 6 * 3 + 2
    family = []
    for _, row in table.iterrows():
        a, b = pairs_of(replicates, row)
        difference, metric = a - b, row["metric"]
        n, mean, sd = len(difference), difference.mean(), difference.std(ddof=1)
        scale, digits = SCALE[metric], 3 if metric == "test_nll" else 2
        ratio = float(replicates["test_train_ratio"].iloc[0])

        def shown(*bounds: float, scale: float = scale, digits: int = digits) -> str:
            return " to ".join(f"{round(bound * scale, digits) + 0:+.{digits}f}" for bound in bounds)

        assert row["n"] == str(n)
        assert row["A - B"].split()[0] == shown(mean)
        half = stats.t.ppf(0.975, n - 1) * sd
        assert row["interval"] == shown(mean - half / n**0.5, mean + half / n**0.5)
        wide = half * (1 / n + ratio) ** 0.5
        assert row["interval, new data"] == shown(mean - wide, mean + wide)
        assert float(row["d_z"]) == pytest.approx(mean / sd, abs=0.005)
        superior = (difference > 0).mean() + (difference == 0).mean() / 2
        assert float(row["P(A > B)"]) == pytest.approx(superior, abs=0.005)
        signs = np.array(np.meshgrid(*[[-1, 1]] * n)).reshape(n, -1)  # all 4096 flips: n is 12
        p = (np.abs(difference @ signs) >= abs(difference.sum()) - 1e-12).mean()
        assert p_shown(row["p"]) == pytest.approx(p, abs=5e-5)
        t = stats.t(n - 1, scale=sd / n**0.5)
        p_tost = max(t.sf(mean + ROPE[metric]), t.sf(ROPE[metric] - mean))
        assert p_shown(row["p (TOST)"]) == pytest.approx(p_tost, abs=1e-4)
        declared = row["comparison"].startswith("best") and metric == "test_acc"
        assert row["verdict"].endswith("(exploratory)") == (not declared and not row["comparison"].startswith("A/A"))
        if declared:
            family.append((p, row))
        else:
            assert row["p (Holm)"] == "—"
        low, better = mean - half / n**0.5, (mean > 0) == (metric == "test_acc")
        if p < 0.05 / 2:
            assert row["verdict"].startswith("better" if better else "worse")
        elif p > 0.05:
            assert row["verdict"].startswith("equivalent" if p_tost < 0.05 else "inconclusive")
            assert low < 0 < mean + half / n**0.5
    (p_small, small), (p_large, large) = sorted(family, key=lambda item: item[0])
    assert p_shown(small["p (Holm)"]) == pytest.approx(2 * p_small, abs=1e-4)
    assert p_shown(large["p (Holm)"]) == pytest.approx(max(2 * p_small, p_large), abs=1e-4)


def p_shown(text: str) -> float:
    return 0.0 if text.startswith("<") else float(text)


class Resources(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def test_the_page_fetches_nothing(reported: Path) -> None:
    html = (reported / "report/report.html").read_text()
    page = Resources()
    page.feed(html)
    assert not [source for source in page.sources if not source.startswith(("data:image/png;base64,", "#"))]
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_holds_every_figure_that_lies_beside_it(reported: Path) -> None:
    html = (reported / "report/report.html").read_text()
    inside = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)}
    beside = {path.name: path.read_bytes() for path in (reported / "report").glob("*.png")}
    assert inside == set(beside.values())
    names = ("effects", "difference", "pairs", "by_rate", "curves", "who_beats_whom")
    assert set(beside) == {f"ordering-{name}.png" for name in names}
    markdown = (reported / "report/report.md").read_text()
    assert set(re.findall(r"\]\(([^)]+\.png)\)", markdown)) == set(beside)


def test_the_words_of_a_declaration_are_no_markup(tmp_path: Path) -> None:
    report_of(fake_study(tmp_path, replicates=6, study={"sentence": "<script>alert(1)</script>"}, rates=(0.3,)))
    assert "<script>" not in (tmp_path / "report/report.html").read_text()


def sided(arrangement: str, effects: dict[str, float]) -> float:
    return 0.9 + effects.get(arrangement, 0.0)


@pytest.mark.parametrize(
    ("effect", "word"),
    [(0.02, "Yes."), (-0.02, "No: the opposite."), (0.0, "No practical difference."), (0.003, "Not shown.")],
)
def test_the_answer_follows_the_verdict(tmp_path: Path, effect: float, word: str) -> None:
    def accuracy(arrangement: str, *_: Any) -> float:
        return sided(arrangement, {"bn_dropout": effect})

    markdown = report_of(fake_study(tmp_path, accuracy=accuracy, own_sd=0.002, seed=3, rates=(0.3,)))
    assert f"**{word}" in markdown


def rewrite(folder: Path, change: Any) -> None:
    """Change a finished condition's replicates, checksum included."""
    import hashlib

    change(pd.read_csv(folder / "replicates.csv")).to_csv(folder / "replicates.csv", index=False)
    record = json.loads((folder / "record.json").read_text())
    record["tables"]["replicates.csv"] = hashlib.sha256((folder / "replicates.csv").read_bytes()).hexdigest()
    (folder / "record.json").write_text(json.dumps(record))


def test_a_difference_of_an_arrangement_from_itself_is_said_first(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, rates=(0.3,), positions=("after", "before"))
    for position in ("after", "before"):
        again = directory / f"digits/bn_dropout/{position}/q0.30/rerun=1"
        rewrite(again, lambda t: t.assign(test_acc=t["test_acc"] - 0.05))
    markdown = report_of(directory)
    assert markdown.index("2 of 2 A/A rows of distinct networks claim") < markdown.index("In general")
    html = (directory / "report/report.html").read_text()
    assert html.index("2 of 2 A/A rows of distinct networks claim") < html.index("<h2>")


@pytest.mark.usefixtures("undrawn")
def test_as_many_claiming_a_a_rows_as_chance_gives_are_told_and_raise_no_alarm(tmp_path: Path) -> None:
    positions, datasets = ("after", "before"), tuple(f"data{i}" for i in range(10))
    options: dict[str, Any] = {"rates": (0.3,), "positions": positions, "datasets": datasets, "replicates": 8}
    directory = fake_study(tmp_path, arrangements=("bn_dropout", "dropout_bn"), **options)
    again = directory / "data3/bn_dropout/after/q0.30/rerun=1"
    rewrite(again, lambda t: t.assign(test_acc=t["test_acc"] - 0.05))
    markdown = report_of(directory)
    claiming = re.search(r"(\d) of 20 A/A rows of distinct networks claim", markdown)
    assert claiming is not None
    chance = stats.binom.sf(int(claiming[1]) - 1, 20, 0.05)
    assert f"by chance with probability {chance:.2g}: an alarm starts at 0.005" in markdown
    assert "Alarm" not in markdown


def test_a_study_that_tested_its_harness_and_found_nothing_raises_no_alarm(reported: Path) -> None:
    assert "Alarm" not in (reported / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rerun": None}, "There is no A/A row"),
        ({}, "No pooled test over data sets"),
        ({}, "The optimizer and the learning rate were held fixed (Adam, learning rate 0.001)"),
        ({"replicates": 4}, "refused: 4 replicates"),
        ({"positions": ("around",)}, "compares bn → activation → dropout with dropout → activation → bn"),
        (
            {"study": {"tuned": ["rate", "optimizer.lr"]}},
            "Tuned for each arrangement on validation, with an equal budget",
        ),
    ],
)
def test_what_limits_the_answer_is_said(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert said in report_of(fake_study(tmp_path, rates=(0.3,), **({"replicates": 6} | options)))


def test_a_half_done_sweep_gets_a_report_of_what_is_there(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, replicates=8)
    (directory / "digits/bn/after/q0.00/record.json").unlink()
    (directory / "digits/dropout/after/q0.10/replicates.csv").write_text("torn")
    failed = directory / "digits/dropout_bn/after/q0.70"
    (failed / "record.json").unlink()
    (failed / "error.txt").write_text("RuntimeError: out of memory\n")
    markdown = report_of(directory)
    assert "**Partial: 15 of 18 planned conditions are finished, 1 are not.**" in markdown
    assert "`digits/bn/after/q0.00`: begun" in markdown
    assert "`digits/dropout_bn/after/q0.70`: RuntimeError: out of memory" in markdown
    assert "`digits/dropout/after/q0.10`: " in markdown and "replicates.csv: damaged" in markdown


def test_a_sweep_of_which_nothing_has_finished_gets_a_report(tmp_path: Path) -> None:
    (tmp_path / "digits/none/after/q0.00/.hydra").mkdir(parents=True)
    assert "No condition has finished yet." in report_of(tmp_path)


def test_one_page_sets_every_claim_beside_its_answer(tmp_path: Path) -> None:
    for claim, kind in (("ordering", "difference"), ("drift", "loss")):
        over = "drift.scale" if kind == "loss" else None
        settings = ({"drift.scale": 0.0}, {"drift.scale": 0.5}) if over else ({},)
        study = {"claim": claim, "sentence": f"The post on {claim}.", "kind": kind, "over": over}
        fake_study(tmp_path / claim, study=study, settings=settings, rates=(0.3,), replicates=8, own_sd=0.001)
    overview = tables_of(report_of(tmp_path))[0]
    assert overview["the post says"].to_list() == ["[The post on ordering.](#ordering)", "[The post on drift.](#drift)"]
    assert overview["answer"].iloc[0] == "**Yes**"
    assert overview["figure"].to_list() == ["![ordering](ordering-effects.png)", "![drift](drift-effects.png)"]
    assert set(pd.read_csv(tmp_path / "report/verdicts.csv")["claim"]) == {"ordering", "drift"}


def test_the_answer_covers_the_grid_proper_and_names_further_settings_apart(tmp_path: Path) -> None:
    settings = ({"data.train_size": 100}, {"data.train_size": 400}, {"data.train_size": 400, "noise": "uniform"})
    markdown = report_of(fake_study(tmp_path, settings=settings, rates=(0.3,), replicates=8, rerun=None))
    assert " in 2 comparisons; for new data like it: " in markdown
    assert "Under the other settings (1 comparisons of the same family)" in markdown


def test_undeclared_conditions_get_no_answer(tmp_path: Path) -> None:
    fake_study(tmp_path, rates=(0.3,), replicates=8)
    for path in tmp_path.rglob("record.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"study": {"grid": {}}}))
    assert "**Nothing declared.**" in report_of(tmp_path)
    assert set(pd.read_csv(tmp_path / "report/verdicts.csv")["family"]) == {"exploratory", "a/a"}


def test_a_new_report_replaces_the_old_one_whole(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, rates=(0.3,), replicates=6)
    report_of(directory)
    (directory / "report/stale.png").write_text("")
    report_of(directory)
    assert not (directory / "report/stale.png").exists()
    assert not list(directory.glob(".report*"))


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = fake_study(tmp_path, rates=(0.3,), replicates=6)
    before = report_of(directory)
    monkeypatch.setattr("normdrop.report.figures.draw", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert main([str(directory)]) == 1
    assert (directory / "report/report.md").read_text() == before
    assert not list(directory.glob(".report*"))


def test_a_missing_directory_is_one_line_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'nowhere'}: no such directory\n"


def test_the_report_imports_nothing_that_trains() -> None:
    code = (
        "import sys, normdrop.report.__main__; "
        "own = ('arrangement', 'kinds', 'metrics', 'tensorboard', 'whole', 'study', 'study.record'); "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'lightning', 'hydra', 'omegaconf')"
        " or (m.startswith('normdrop.') and m[9:] not in own and not m.startswith('normdrop.report'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
