"""Data sets as units: the pooled rows, the word they give, the ranks, and what else is shown beside them."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from exact import normal, pair, rows_of, runs, study_of, write
from fake_study import fake_study
from normdrop.kinds import KINDS
from normdrop.metrics import METRICS
from normdrop.report import page, population, provenance
from normdrop.report.answer import answer
from normdrop.report.checks import Edge, declared, edges, neighbours, unsettled
from normdrop.report.contrasts import contrasts
from normdrop.report.figures import draw
from normdrop.report.pooled import pool
from normdrop.report.records import load
from normdrop.report.tables import short_table
from normdrop.report.verdicts import verdicts

EFFECTS = (0.010, 0.012, 0.014, 0.016, 0.018, 0.020, 0.022, 0.024)
IDENTITY = {"NAME": "n", "EMAIL": "n@example.org"}
N = 8


def sets(root: Path, effects: Any = EFFECTS, **options: Any) -> Path:
    """Data sets d0, d1, … whose differences between the two orders are these, and their spread that of `normal`."""
    for k, effect in enumerate(effects):
        pair(root, runs(0.8 + effect + normal(0.0, N), N), runs(0.8, N), dataset=f"d{k}", **options)
    return root


def over_sets(root: Path) -> pd.DataFrame:
    return population.pooled(study_of(root), rows_of(root))


def test_a_pooled_row_is_the_random_effects_mean_of_new_data_scope(tmp_path: Path) -> None:
    (row,) = over_sets(sets(tmp_path)).query("family == 'declared'").to_dict("records")
    error = 0.01 * (1 / N + 0.4) ** 0.5  # 400 test rows, 1,000 training rows
    truth = pool(EFFECTS, [error] * 8, rope=0.005)
    for name in ("estimate", "ci_low", "ci_high", "tau", "i2", "pi_low", "pi_high", "p_value", "p_tost", "loo_low"):
        assert row[name] == pytest.approx(getattr(truth, name)), name
    assert (row["k"], row["datasets"], row["left_out"]) == (8, " ".join(f"d{k}" for k in range(8)), "")
    assert row["verdict"] == "better"


@pytest.mark.usefixtures("undrawn")
def test_the_table_over_data_sets_has_these_columns_in_this_order(tmp_path: Path) -> None:
    page.write(load(sets(tmp_path, study={"secondary": []})), "normdrop-report")
    table = pd.read_csv(tmp_path / "report/pooled.csv")
    contract = ["claim", "position", "metric", "k", "estimate", "ci_low", "ci_high", "tau", "i2", "pi_low", "pi_high"]
    contract += ["p_value", "p_tost", "verdict", "datasets"]
    assert [column for column in table if column in contract] == contract
    assert table["datasets"][0] == "d0 d1 d2 d3 d4 d5 d6 d7"


def test_a_pool_is_of_one_position_one_setting_one_metric_and_one_rate(tmp_path: Path) -> None:
    for position, shift in (("after", 0.0), ("before", -0.03)):
        for rate in (0.1, 0.5):
            effects = [effect + shift for effect in EFFECTS]
            sets(tmp_path, effects, position=position, rate=rate, study={"secondary": []})
    table = over_sets(tmp_path)
    assert len(table) == 2 * (1 + 2)
    assert set(table.loc[table["comparison"] == "same_rate", "rate"]) == {0.1, 0.5}
    means = table.set_index(["position", "comparison", "rate"])["estimate"]
    assert means["after", "same_rate", 0.1] == pytest.approx(np.mean(EFFECTS))
    assert means["before", "same_rate", 0.5] == pytest.approx(np.mean(EFFECTS) - 0.03)


def test_seven_data_sets_are_not_pooled_and_an_official_test_part_is_left_out_by_name(tmp_path: Path) -> None:
    assert over_sets(sets(tmp_path / "seven", EFFECTS[:7])).empty
    root = sets(tmp_path / "nine", (*EFFECTS, 0.9))
    for record in root.glob("d8/*/after/*/record.json"):
        text = record.read_text().replace('"classes": 10', '"classes": 10, "fixed_test": true')
        record.write_text(text)
    row = over_sets(root).iloc[0]
    assert (row["k"], row["left_out"]) == (8, "d8")
    assert row["estimate"] == pytest.approx(np.mean(EFFECTS))


def test_a_fixed_test_part_has_no_scope_of_new_data_unless_rows_are_fresh(tmp_path: Path) -> None:
    for name, fresh in (("fixed", False), ("fresh", True)):
        root = pair(tmp_path / name, runs(0.8 + normal(0.02)), runs(0.8), fresh_rows=fresh)
        for record in root.rglob("record.json"):
            text = record.read_text().replace('"classes": 10', '"classes": 10, "fixed_test": true')
            record.write_text(text)
        row = rows_of(root, family="declared").iloc[0]
        assert row["verdict"] == "better"
        assert row["verdict_new_data"].startswith("refused: the test part is fixed") != fresh
        scope = "new data like it" if fresh else "these rows"
        assert f"for {scope}: better" in answer(study_of(root), rows_of(root)).sentence


def test_the_word_in_general_comes_from_the_pooled_mean_and_the_prediction_interval(tmp_path: Path) -> None:
    wide = [effect + shift for effect, shift in zip(EFFECTS, (-0.08, 0.08) * 4, strict=True)]
    cases = {"yes": EFFECTS, "no": [-e for e in EFFECTS], "same": [e / 100 for e in EFFECTS], "depends": wide}
    words = {}
    for name, effects in cases.items():
        root = tmp_path / name
        for k, effect in enumerate(effects):
            a = runs(0.8 + effect + normal(0.0, N) / 10, N)
            pair(root, a, runs(0.8, N), dataset=f"d{k}", study={"secondary": []})
        study, rows = study_of(root), rows_of(root)
        words[name] = answer(study, rows, population.pooled(study, rows))
    assert {name: said.word for name, said in words.items()} == {
        "yes": "Yes",
        "no": "No: the opposite",
        "same": "No practical difference",
        "depends": "It depends",
    }
    ahead = "average over 8 data sets (after) test accuracy was 1.70 pp higher with batch normalization first than with"
    assert f"{ahead} dropout first, between" in words["yes"].sentence
    assert "(up to 0.5 pp would not matter)" in words["yes"].sentence
    assert "The mean over data sets is asked" in words["yes"].rule


def test_networks_are_ranked_each_tuned_and_the_loss_of_another_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {"none": 0.80, "dropout": 0.84, "bn": 0.82, "bn_dropout": 0.90, "dropout_bn": 0.87}

    def accuracy(arrangement: str, position: str, rate: float, setting: dict[str, Any]) -> float:
        return levels[arrangement] - (0.2 if rate == 0.5 else 0.0) - (0.01 if position == "before" else 0.0)

    names = [f"d{k}" for k in range(8)]
    options: dict[str, Any] = {"rates": (0.1, 0.5), "replicates": 6, "own_sd": 1e-4, "positions": ("after", "before")}
    options |= {"study": {"secondary": []}, "rerun": None}
    study = study_of(fake_study(tmp_path, datasets=names, accuracy=accuracy, **options))
    found = population.ranking(study, population.scores(study))
    assert found is not None
    table = found[1].set_index("network")
    assert list(table.index[:3]) == ["bn_dropout · after", "bn_dropout · before", "dropout_bn · after"]
    assert set(table.index) >= {"none", "dropout", "bn · after", "bn · before"} and len(table) == 8
    assert table["mean_rank"].to_list() == pytest.approx(range(1, 9), abs=0.3)
    assert table.loc["dropout", "loss"] == pytest.approx(0.06, abs=1e-3)
    assert table.loc["none", "worst"] >= table.loc["none", "loss"] > 0.09
    monkeypatch.setitem(KINDS, "difference", replace(KINDS["difference"], figures=("ranks",)))
    ((_, figure),) = figures_of(study, found)
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert f"critical difference {found[0].critical_difference:.2f}" in said
    assert "none (8.00)" in said


def figures_of(study: Any, ranked: Any) -> list[tuple[str, Any]]:
    found = contrasts(study)
    rows = verdicts(study, found)
    drawings = draw(study, found, rows, pd.DataFrame(), population.pooled(study, rows), ranked)
    return [(name, figure) for name, _, figure in drawings]


def test_the_forest_has_every_data_set_in_order_and_the_mean_below_with_both_intervals(tmp_path: Path) -> None:
    shuffled = [EFFECTS[i] for i in (3, 1, 7, 0, 5, 2, 6, 4)]
    study = study_of(sets(tmp_path, shuffled))
    names = dict(figures_of(study, None))
    assert "effects" not in names
    (ax,) = names["population"].axes
    points = [(x, y) for line in ax.get_lines() if len(line.get_xdata()) == 1 for x, y in line.get_xydata()]
    assert [x for x, _ in points[:-1]] == pytest.approx([100 * e for e in sorted(EFFECTS, reverse=True)])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:8] == [f"d{shuffled.index(e)}" for e in sorted(EFFECTS, reverse=True)]
    row = over_sets(tmp_path).iloc[0]
    thin, thick = (line.get_xdata() for line in ax.get_lines()[-3:-1])
    assert list(thin) == pytest.approx([100 * row["pi_low"], 100 * row["pi_high"]])
    assert list(thick) == pytest.approx([100 * row["ci_low"], 100 * row["ci_high"]])


def test_what_the_effect_goes_with_is_one_honest_sentence(tmp_path: Path) -> None:
    for k, effect in enumerate(EFFECTS):
        sizes = (100 * (k + 1), 50, 60)
        pair(tmp_path, runs(0.8 + effect + normal(0, N), N), runs(0.8, N), dataset=f"d{k}", rows=sizes)
    study = study_of(tmp_path)
    table = population.properties(study, rows_of(tmp_path))
    assert table["rows"].to_list() == [100 * (k + 1) for k in range(8)]
    said = population.explored(study, table.assign(accuracy=0.9))
    assert said is not None and "rows at after (Spearman's ρ = +1.00" in said and "even after Holm" in said
    noise = population.explored(study, table.assign(effect=[1, 8, 2, 7, 3, 6, 4, 5], accuracy=0.9))
    assert noise is not None and "no more than chance" in noise


def test_other_choices_of_ours_stand_beside_the_declared_one(tmp_path: Path) -> None:
    """Accuracy prefers .1, NLL prefers .5; only the mean over the others overrules a replicate's own luck."""
    for rate, test, acc, nll in ((0.1, 0.80, 0.90, 0.5), (0.5, 0.83, 0.89, 0.1)):
        own = np.full(N, acc)
        own[0] = 0.95 if rate == 0.5 else acc
        table = runs(test + normal(0, N) / 100, N, val_acc=own, val_nll=nll)
        write(tmp_path, "bn_dropout", table, rate)
        write(tmp_path, "dropout_bn", runs(0.8, N, val_acc=0.9), rate)
    rows, pools = population.sensitivity(study_of(tmp_path), rows_of(tmp_path))
    means = rows.set_index("variant")["estimate"]
    assert means["as declared"] == pytest.approx(0.03 / N, abs=1e-3)
    assert means["chosen by NLL"] == pytest.approx(0.03, abs=1e-3)
    assert means["chosen by the other replicates"] == pytest.approx(0.0, abs=1e-3)
    tost = rows.set_index("variant")["p_tost"]
    assert tost["ROPE doubled"] < tost["as declared"] < tost["ROPE halved"]
    assert pools.empty


def test_steps_to_another_level_stand_beside_those_to_the_declared_one_at_each_rate(tmp_path: Path) -> None:
    """The fake curves fall from 1.1 to .6 in four validations, ten steps apart."""
    study = {"metric": "steps_to_level", "kind": "ratio", "secondary": [], "family": "same_rate"}
    where: dict[str, Any] = {"study": study, "config": {"data": {"name": "d", "level": 0.95}}}
    for rate in (0.1, 0.5):
        pair(tmp_path, runs(0.8, steps_to_level=20), runs(0.8, steps_to_level=30), rate=rate, **where)
    rows, _ = population.sensitivity(study_of(tmp_path), rows_of(tmp_path))
    assert rows.groupby("variant").size().to_dict() == dict.fromkeys(
        ("as declared", "ROPE halved", "ROPE doubled", "level × 0.8", "level × 1.25"), 2
    )
    found = population.at_level(study_of(tmp_path), 0.8).replicates["steps_to_level"]
    assert set(found) == {40}
    assert set(population.at_level(study_of(tmp_path), 1.25).replicates["steps_to_level"]) == {10}
    assert set(rows.set_index("variant").loc["level × 0.8", "estimate"]) == {1.0}


def test_data_sets_set_apart_are_left_out_of_one_pooled_row(tmp_path: Path) -> None:
    root = sets(tmp_path, (*EFFECTS, 0.9), study={"apart": ["d8"], "secondary": []})
    _, pools = population.sensitivity(study_of(root), rows_of(root))
    at_one_rate = pools["comparison"] == "same_rate"
    assert {*pools.loc[at_one_rate, "variant"]} == {"each data set alike"}
    pools = pools[~at_one_rate]
    means = pools.set_index("variant")["estimate"]
    assert means["without 1 set apart"] == pytest.approx(np.mean(EFFECTS))
    alike = pools.set_index("variant").loc["each data set alike"]
    assert alike["estimate"] == pytest.approx(np.mean([*EFFECTS, 0.9]))
    low, high = stats.ttest_1samp([*EFFECTS, 0.9], 0).confidence_interval()
    assert (alike["ci_low"], alike["ci_high"]) == pytest.approx((low, high))
    assert means["as declared"] > 0.05


# --- tuning, size, neighbours


def test_every_tuned_key_tells_how_often_its_choice_is_at_an_edge_and_so_does_the_epoch(tmp_path: Path) -> None:
    config = {"select_epoch": "best"}
    for rate in (0.1, 0.3, 0.5):
        for lr in (0.001, 0.01):
            for arrangement in ("bn_dropout", "dropout_bn"):
                acc = 0.9 - abs(rate - 0.3) + lr
                table = runs(0.8, val_acc=acc, epoch=20, epochs_after=[0] * 4 + [3] * 6)
                where: dict[str, Any] = {"setting": {"optimizer.lr": lr}, "config": config}
                write(tmp_path, arrangement, table, rate, study={"tuned": ["rate", "optimizer.lr"]}, **where)
    study = study_of(tmp_path)
    found = {edge.key: edge for edge in edges(study, declared(study, contrasts(study)))}
    assert (found["rate"].at_low, found["rate"].at_high) == (0, 0)
    assert (found["optimizer.lr"].at_low, found["optimizer.lr"].at_high) == (0, 1)
    assert found["epoch"].at_high == pytest.approx(0.4)
    (section,) = page.write(load(tmp_path), "normdrop-report").sections
    assert len(section.answer.first) == 2
    assert "learning rate is the lowest of the grid (0.001) in 0 % of 20 choices" in section.answer.first[0]
    assert "epoch is the last in 40 %" in section.answer.first[1]
    assert Edge("rate", 0.1, 0.5, 10, 0.1, 0.2).line.endswith("might choose otherwise.")


def test_each_row_tells_how_many_replicates_reach_half_the_rope(tmp_path: Path) -> None:
    root = pair(tmp_path, runs(0.8 + normal(0.004)), runs(0.8), study={"secondary": []})
    row = rows_of(root, family="declared").iloc[0]
    assert row["needed"] == np.ceil((stats.t.isf(0.025, 9) * 0.01 / 0.0025) ** 2)
    said = unsettled(study_of(root), rows_of(root))
    assert said is not None and f"up to {row['needed']:.0f}" in said
    # 1.5 seconds for ten replicates of each of two conditions
    assert f"`normdrop -m experiment=fake replicates={row['needed']:.0f}`" in said
    study = study_of(root)
    for record in study.records:
        record["command"] = (
            "normdrop experiment=fake precision=0.0025 replicates=6 'hydra.sweeper.also=[]' replicates_max=9"
        )
    again = f"`normdrop experiment=fake 'hydra.sweeper.also=[]' replicates={row['needed']:.0f}`"
    assert again in str(unsettled(study, rows_of(root)))
    narrow = pair(tmp_path / "narrow", runs(0.8 + normal(0.005) / 5 + 0.004), runs(0.8), study={"secondary": []})
    near = unsettled(study_of(narrow), rows_of(narrow).assign(verdict="inconclusive"))
    assert near is not None and "near the margin" in near
    assert unsettled(study_of(narrow), rows_of(narrow).assign(verdict="equivalent")) is None


def test_test_accuracy_and_nll_of_the_same_comparison_stand_beside_a_gap(tmp_path: Path) -> None:
    study = {"metric": "gap", "secondary": []}
    a = runs(0.8 + normal(-0.03), gap=0.01, test_nll=0.5)
    pair(tmp_path, a, runs(0.8, gap=0.05, test_nll=0.4), study=study)
    said = neighbours(study_of(tmp_path), contrasts(study_of(tmp_path))[:1])
    half = 100 * stats.t.isf(0.025, 9) * 0.01 / 10**0.5
    assert said == f"test accuracy -3.00 ± {half:.2f} pp; test NLL +0.100 ± 0.000 nats"


def test_beside_a_loss_stands_the_level_that_it_starts_from(tmp_path: Path) -> None:
    study = {"kind": "loss", "over": "drift.scale", "secondary": []}
    for scale, a, b in ((0.0, 0.7, 0.9), (0.5, 0.69, 0.85)):
        pair(tmp_path, runs(a), runs(b), setting={"drift.scale": scale}, study=study)
    found = study_of(tmp_path)
    assert "test accuracy (where it starts from) -20.00" in str(neighbours(found, contrasts(found)))


def test_around_is_no_further_test_of_an_order(tmp_path: Path) -> None:
    directory = fake_study(tmp_path, positions=("after", "before", "around"), rates=(0.3,), replicates=6)
    rows = rows_of(directory, comparison="best_vs_best", metric="test_acc").set_index("position")["family"]
    assert rows.to_dict() == {"after": "declared", "before": "declared", "around": "exploratory"}


def test_a_a_goes_through_the_whole_selection(tmp_path: Path) -> None:
    """Trained twice, .5 wins once and .1 the other time: the row compares best with best."""
    for rerun, best in ((0, 0.1), (1, 0.5)):
        for rate in (0.1, 0.5):
            table = runs(0.8 + rate / 10 + normal(0), val_acc=0.9 + 0.01 * (rate == best))
            write(tmp_path, "bn_dropout", table, rate, setting={"rerun": rerun} if rerun else {})
    row = rows_of(tmp_path, comparison="a/a_tuned").iloc[0]
    assert (row["rate_a"], row["rate_b"]) == (0.1, 0.5)
    assert row["estimate"] == pytest.approx(-0.04)
    table = short_table(pd.DataFrame([row]))
    assert (
        dict(zip(table.header, table.rows[0], strict=True))["comparison"] == "A/A: bn_dropout again, each at its best"
    )


# --- came first


@pytest.mark.parametrize(
    ("facts", "line", "doubt"),
    [
        ({}, "No commit was recorded", None),
        ({"commit": "f" * 40, "clean": True}, "Trained from commit ffffffffff", None),
        ({"commit": "f" * 40, "clean": False}, "Trained from commit ffffffffff", "a tree with changes"),
    ],
)
def test_the_page_says_what_is_known_of_the_declaring_commit(
    tmp_path: Path, facts: dict[str, Any], line: str, doubt: str | None
) -> None:
    study = study_of(pair(tmp_path, runs(0.8), runs(0.8)))
    for record in study.records:
        record.pop("commit", None)
        record |= facts | {"finished": 1e9}
    said, doubts = provenance.declared_first(study)
    assert line in said and "2001-09-09 01:46 UTC" in said
    assert [doubt in d for d in doubts] == ([True] if doubt else [])


def test_what_was_typed_in_place_of_the_declaration_is_said_at_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(pair(tmp_path, runs(0.8), runs(0.8), study={"alpha": 0.2}))
    for record in study.records:
        record |= {"commit": "a" * 40, "clean": True, "finished": 1e9}
    monkeypatch.setattr(provenance, "_declaring", lambda *_: ("c" * 40, 0.0, {"alpha": 0.05, "kind": "difference"}))
    _, doubts = provenance.declared_first(study)
    typed = "study.alpha=0.2 (declared: 0.05)"
    assert doubts == [f"Changed on the command line, which no commit declares: {typed}."]


def test_a_declaration_younger_than_a_record_is_said_at_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(pair(tmp_path, runs(0.8), runs(0.8)))
    for record in study.records:
        record |= {"commit": "a" * 40, "clean": True, "finished": 1e9}
    for when, younger in ((1e9 + 60, True), (1e9 - 60, False)):
        monkeypatch.setattr(provenance, "_declaring", lambda *_, when=when: ("c" * 40, when, {"alpha": 0.05}))
        said, doubts = provenance.declared_first(study)
        assert said.startswith("Declared in commit cccccccccc of 2001-09-09")
        assert bool(doubts) == younger
        assert not younger or re.match("The declaration is younger than a record", doubts[0])


def test_the_declaration_is_the_experiments_file_and_those_it_builds_on_whatever_the_run_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str, at: int = 0) -> str:
        dated = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()}
        dated |= {f"GIT_{who}_DATE": f"@{at} +0000" for who in ("AUTHOR", "COMMITTER")}
        dated["GIT_CONFIG_GLOBAL"] = os.devnull
        command = ["git", "-C", str(tmp_path), *words]
        return subprocess.run(command, env=os.environ | dated, capture_output=True, text=True, check=True).stdout

    def commit(at: int, **files: str) -> str:
        for name, text in files.items():
            (tmp_path / f"conf/experiment/{name}.yaml").write_text(text)
        git("add", ".")
        git("commit", "-qm", "declare", at=at)
        return git("rev-parse", "HEAD").strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    git("init", "-q")
    commit(1_000, _claim="a: 1", own="defaults: [base, override /data: d, _self_]", base="defaults: [_claim, _self_]")
    commit(2_000, _claim="a: 2")
    commit(3_000, other="a: 3", the_run="a: 3")
    last = commit(4_000, other="a: 4")
    study = study_of(pair(tmp_path / "outputs", runs(0.8), runs(0.8)))
    for experiment, when in (("own", "00:33"), ("other", "01:06"), ("the_run_is_not_it", None)):
        for record in study.records:
            record |= {"commit": last, "clean": True, "finished": 1e9}
            record["choices"]["experiment"] = experiment
            record["config"]["name"] = "the_run"
        said, doubts = provenance.declared_first(study)
        assert re.match(f"Declared in commit [0-9a-f]+ of 1970-01-01 {when}" if when else "Trained from commit", said)
        assert not doubts


# --- the page


def test_the_first_table_has_at_most_eight_columns_and_the_console_five_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from normdrop.report.__main__ import main

    monkeypatch.setattr("normdrop.report.__main__.WIDTH", 2000)
    assert main([str(fake_study(tmp_path, replicates=8, rates=(0.1, 0.3)))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "In general batch normalization should come first, dropout after it."
    assert re.match(r"(Not shown|Yes)\. With each side at its own best dropout rate, test accuracy was", lines[1])
    assert lines[2].startswith("Beside it, A - B: test NLL")
    assert lines[4].startswith("What would change it: ")
    assert lines[5].startswith(("A/A", "Report: "))
    (section,) = page.write(load(tmp_path), "normdrop-report").sections
    assert len(section.short.header) <= 8
    markdown = (tmp_path / "report/report.md").read_text()
    order = [
        "The word follows from a rule",
        section.answer.sentence,
        "What would change it",
        "| data set |",
        "### Verdicts",
    ]
    assert [markdown.index(part) for part in order] == sorted(markdown.index(part) for part in order)
    assert METRICS["test_acc"].words in section.answer.sentence
