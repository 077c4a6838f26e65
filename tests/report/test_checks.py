"""What stands beside an answer: edges, neighbours, levels never reached, A/A, and which came first."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from exact import normal, one, pair, rows_of, runs, study_of, write
from fake_study import fake_study
from normdrop.report import page
from normdrop.report import provenance as git
from normdrop.report.checks import alarm, doubts, edges, family, neighbours, never_reached
from normdrop.report.choose import pairs
from normdrop.report.provenance import provenance
from normdrop.report.verdicts import spans


@pytest.mark.parametrize("select_epoch", ["best", "last"])
def test_the_share_of_choices_at_each_end_of_a_grid(select_epoch, tmp_path):
    study = {"tuned": ["rate", "optimizer.lr"]}
    for rate in (0.1, 0.3, 0.5):
        for lr in (0.01, 0.1):
            best = rate + lr  # of bn_dropout the highest of both; of dropout_bn the lowest
            where = {"rate": rate, "setting": {"optimizer.lr": lr}, "study": study}
            where |= {"config": {"select_epoch": select_epoch}}
            a = runs(0.9, 8, val_acc=best, epochs_after=0)
            pair(tmp_path, a, runs(0.9, 8, val_acc=1 - best, epochs_after=[0] * 4 + [3] * 4), **where)
    found = study_of(tmp_path)
    table = edges(found, family(found, pairs(found))).set_index("key")
    assert table.loc["rate", ["low", "high", "choices", "at_low", "at_high"]].to_list() == [0.1, 0.5, 16, 0.5, 0.5]
    assert table.loc["optimizer.lr", ["at_low", "at_high"]].to_list() == [0.5, 0.5]
    assert table["at_high"].get("epoch") == (0.75 if select_epoch == "best" else None)  # else nothing chose it
    assert table["doubt"].all()


def test_the_end_of_a_grid_is_that_of_the_arrangement_that_was_chosen(tmp_path):
    study = {"contrast": {"a": "bn_dropout", "b": ["bn", "dropout"]}}
    for arrangement, rates in {"bn_dropout": (0.1, 0.5), "dropout": (0.3, 0.5), "bn": (0.0,)}.items():
        for rate in rates:  # the lowest of its own is the best
            write(tmp_path, arrangement, runs(0.9, 8, val_acc=(0.9 - rate) * bool(rate)), rate, study=study)
    found = study_of(tmp_path)
    table = edges(found, family(found, pairs(found))).set_index("key")
    assert table.loc["rate", ["low", "high", "choices", "at_low", "at_high"]].to_list() == [0.1, 0.5, 16, 1.0, 0.0]


def test_the_end_of_a_grid_is_that_of_the_place_where_it_was_chosen(tmp_path):
    for dataset, rates in {"one": (0.1, 0.3), "two": (0.5, 0.7)}.items():
        for rate in rates:
            best = runs(0.9, 8, val_acc=rate)  # the highest
            pair(tmp_path, best, best, rate=rate, dataset=dataset)
    found = study_of(tmp_path)
    table = edges(found, family(found, pairs(found))).set_index("key")
    assert table.loc["rate", ["low", "high", "at_low", "at_high"]].to_list() == [0.1, 0.7, 0.0, 1.0]


@pytest.mark.parametrize("best", [0.27, 0.28])
def test_a_data_set_of_which_nothing_was_learnt_is_told(best, tmp_path):
    for dataset, right in {"one": best, "two": 0.9}.items():
        for rate, share in ((0.1, right), (0.3, 0.25)):
            own = runs(0.9, 8, test_balanced_acc=np.linspace(share - 0.1, share + 0.1, 8))
            pair(tmp_path, own, own, rate=rate, dataset=dataset)
    found = study_of(tmp_path)
    assert not list(doubts(found))  # what is published does not know its classes
    for record in found.records:
        record["data"] = {"classes": {"a": 8, "b": 1, "c": 1, "d": 1}}
    told = "one: nothing was learnt: the best balanced test accuracy is 27.0 %, a guess."
    assert list(doubts(found)) == ([told] if best == 0.27 else [])


def test_a_choice_counts_where_a_candidate_did_not_diverge_among_those_that_both_sides_have(tmp_path):
    for rate in (0.1, 0.3, 0.5):
        lost = runs([np.nan] * 6 + [0.9] * 2, 8, val_acc=rate)  # of the others the highest is the best
        pair(tmp_path, lost, runs(0.9, 8, val_acc=rate), rate=rate)
    write(tmp_path, "bn_dropout", runs(0.9, 8, val_acc=0.0), 0.7)
    found = study_of(tmp_path)
    table = edges(found, family(found, pairs(found))).set_index("key")
    assert table.loc["rate", ["high", "choices", "at_low", "at_high"]].to_list() == [0.5, 10, 0.0, 1.0]


def test_seeds_that_lack_a_candidate_are_told_and_rows_name_the_seeds_that_they_are_of(tmp_path):
    for rate, seeds in ((0.1, 8), (0.3, 12)):
        pair(tmp_path, runs(0.9, seeds), runs(0.8, seeds), rate=rate)
    assert any("Not every seed was trained at every candidate" in line for line in doubts(study_of(tmp_path)))
    table = rows_of(tmp_path).set_index(["comparison", "rate"])
    assert table.loc[[("best_vs_best", np.nan), ("same_rate", 0.3)], "seeds"].unique().tolist() == ["0-7", "0-11"]
    pair(tmp_path, runs(0.9, 12), runs(0.8, 12), rate=0.1)
    assert not list(doubts(study_of(tmp_path)))
    assert spans((9, 5, 4, 2, 1, 0)) == "0-2 4-5 9"


def test_accuracy_and_nll_stand_beside_a_gap_and_beside_a_loss(tmp_path):
    a, b = runs(0.9 + normal(0.05), gap=0.1, test_nll=0.5), runs(0.9, gap=0.2, test_nll=0.4)
    study = study_of(pair(tmp_path / "gap", a, b, study={"metric": "gap"}))
    rows = neighbours(study, family(study, pairs(study))).set_index("metric")
    assert rows.loc["test_acc", ["mean", "up", "down", "n"]].to_list() == [pytest.approx(0.05), 1, 0, 1]
    assert rows.loc["test_nll", ["mean", "down"]].to_list() == [pytest.approx(0.1), 0]
    half = stats.t.isf(0.025, 9) * 0.01 / 10**0.5
    assert rows.loc["test_acc", "half"] == pytest.approx(half)
    nothing = study_of(pair(tmp_path / "nothing", a, b, study={"family": None}))
    (row,) = neighbours(nothing, family(nothing, pairs(nothing))).to_dict("records")
    assert (row["metric"], row["n"]) == ("test_nll", 1), "of every comparison where none is declared"
    lost = {"setting": {"model.depth": 9}, "study": {"metric": "gap"}}  # of which nothing can be compared
    pair(tmp_path / "gap", a, runs(0.9, gap=0.2, test_nll=0.4), setting={"model.depth": 2}, study={"metric": "gap"})
    pair(tmp_path / "gap", runs(np.nan, diverged=True, gap=np.nan, test_nll=np.nan), b, **lost)
    study = study_of(tmp_path / "gap")
    rows = neighbours(study, family(study, pairs(study))).set_index("metric")
    assert rows.loc["test_acc", ["mean", "n"]].to_list() == [pytest.approx(0.05), 1]
    loss = {"kind": "loss", "over": "drift.scale"}
    for scale, value in ((0.0, 0.9), (0.5, 0.5)):
        pair(tmp_path / "loss", runs(value + normal(0.0)), runs(0.4), setting={"drift.scale": scale}, study=loss)
    study = study_of(tmp_path / "loss")
    rows = neighbours(study, family(study, pairs(study))).set_index("metric")
    assert rows.loc["test_acc", "mean"] == pytest.approx(0.3)  # over the rungs


def test_runs_that_never_reached_the_level_are_counted(tmp_path):
    study = {"metric": "steps_to_level", "kind": "ratio"}
    pair(tmp_path, runs(0.9, 6, steps_to_level=[5.0] * 4 + [np.nan] * 2), runs(0.9, 6, steps_to_level=9.0), study=study)
    table = never_reached(study_of(tmp_path)).set_index("arrangement")
    assert (table.loc["bn_dropout", "missed"], table.loc["bn_dropout", "n"]) == (2, 6)
    assert table.loc["dropout_bn", "missed"] == 0


def test_a_a_claims_are_weighed_against_chance_over_distinct_networks(tmp_path):
    for dataset, effect in (("one", 0.05), ("two", 0.04), ("three", 0.0)):
        pair(tmp_path, runs(0.9 + normal(0.0)), runs(0.8), dataset=dataset)
        write(tmp_path, "bn_dropout", runs(0.9 - effect), setting={"rerun": 1}, dataset=dataset)
    rows = rows_of(tmp_path)
    found = alarm(rows)
    assert (found["claims"], found["networks"]) == (2, 3)
    assert found["chance"] == pytest.approx(stats.binom.sf(1, 3, 0.05))
    assert not found["alarm"]
    again = rows.assign(experiment="another")  # the same networks in another study
    assert alarm(pd.concat([rows, again]))["networks"] == 3
    assert alarm(rows[rows["dataset"] != "three"].assign(n=9))["alarm"]


def test_rates_and_the_choice_among_them_are_one_claim_of_a_network_and_an_alarm_says_at_which_rate(tmp_path):
    for dataset in ("one", "two"):
        for rate, effect in ((0.1, 0.04), (0.3, 0.05), (0.5, 0.0)):
            pair(tmp_path, runs(0.9 + normal(0.0), val_acc=rate), runs(0.8), rate=rate, dataset=dataset)
            again = {"rerun": 1}
            write(tmp_path, "bn_dropout", runs(0.9 - effect, val_acc=rate), rate, setting=again, dataset=dataset)
    found = alarm(rows_of(tmp_path))
    assert (found["claims"], found["networks"], found["compared"]) == (2, 2, 8)
    assert found["chance"] == pytest.approx(0.05**2) and found["alarm"]
    said = page.render(page._context([page.section(study_of(tmp_path))]), limit=9)
    (line,) = [line for line in said.splitlines() if "Alarm" in line]
    assert "bn_dropout at rate 0.3: +5.00 pp (+4.28 to +5.72 on these data)" in line


def test_a_network_trained_twice_with_too_few_seeds_is_not_said_to_have_been_trained_once(tmp_path):
    pair(tmp_path, runs(0.9, 4), runs(0.8, 4))
    once = page.render(page._context([page.section(study_of(tmp_path))]), limit=9)
    write(tmp_path, "bn_dropout", runs(0.9, 4), setting={"rerun": 1})
    twice = page.render(page._context([page.section(study_of(tmp_path))]), limit=9)
    assert "Nothing was trained twice" in once and "Nothing was trained twice" not in twice
    assert "has too few seeds" in twice


def test_a_a_goes_through_the_whole_selection(tmp_path):
    for rate, val in ((0.1, 0.7), (0.3, 0.9)):
        pair(tmp_path, runs(0.5 + rate + normal(0.0), val_acc=val), runs(0.5), rate=rate)
        write(tmp_path, "bn_dropout", runs(0.5 + rate, val_acc=1 - val), rate, setting={"rerun": 1})
    pair(tmp_path, runs(0.1, val_acc=0.99), runs(0.5), rate=0.7)  # not trained again: no candidate
    row = one(tmp_path, comparison="a/a_tuned")
    assert (row["rate_a"], row["rate_b"], row["estimate"]) == (0.3, 0.1, pytest.approx(0.2))
    assert len(rows_of(tmp_path, comparison="a/a")) == 2


# --- provenance


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of the time 1,000 that declares a study of `alpha` .05."""
    text = {"conf/experiment/x.yaml": "defaults: [base, _self_]\nstudy: {alpha: 0.05}", "conf/experiment/base.yaml": ""}

    def said(*words: str) -> str:
        if words[0] == "show":
            return text[words[1].partition(":")[2]]
        assert set(words[5:]) == set(text)
        return "abc 1000"

    monkeypatch.setattr(git, "_git", said)


def grown(root: Path, began: list[float], **study: Any) -> Path:
    """A study whose seeds were added in batches that began at these times."""

    fake_study(root, rates=(0.3,), replicates=6, rerun=None, study=study)
    for path in root.rglob("record.json"):
        record = json.loads(path.read_text())
        batches = [
            {"seeds": [k], "versions": {"torch": f"2.{k}"}, "commit": f"c{k}", "clean": k != 1}
            | {"began": at, "finished": at + 5, "command": f"normdrop replicates={k}"}
            for k, at in enumerate(began)
        ]
        record |= {"choices": {"experiment": "x"}, "batches": batches, "commit": "c9", "clean": True}
        path.write_text(json.dumps(record))
    return root


def test_the_earliest_batch_of_seeds_decides_and_every_one_is_named(tmp_path, declared):
    found = provenance(study_of(grown(tmp_path / "late", [2000.0, 3000.0])))
    assert re.fullmatch(r"Trained \S+ 00:33 UTC to \S+ 00:50 UTC, from commit c0, c1\.", found["lines"][0])
    assert found["lines"][1].endswith("; torch 2.0; torch 2.1.")
    assert {"`normdrop replicates=0`", "`normdrop replicates=1`"} <= set(found["lines"])
    assert "nan" not in " ".join(found["lines"])
    assert len(found["doubts"]) == 1  # a tree with changes, in the second batch
    early = provenance(study_of(grown(tmp_path / "early", [500.0])))
    assert not any("a tree with changes" in line for line in early["doubts"])
    assert any("younger" in line for line in early["doubts"])


def test_what_was_typed_in_place_of_the_declaration_is_a_doubt(tmp_path, declared):
    found = provenance(study_of(grown(tmp_path, [2000.0], alpha=0.2)))
    assert any("alpha" in line for line in found["doubts"])


def test_a_record_of_before_counts_as_one_batch(tmp_path):
    root = fake_study(tmp_path, rates=(0.3,), replicates=6)
    for k, path in enumerate(root.rglob("record.json")):  # one has no command
        path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "normdrop before" if k else None}))
    found = provenance(study_of(root))
    assert [line for line in found["lines"] if line.startswith("`")] == ["`normdrop before`"]
    assert found["doubts"]
    assert found["lines"][1].endswith("; python 3.11, torch 2.13.0, lightning 2.6.6, normdrop 0.1.0.")
