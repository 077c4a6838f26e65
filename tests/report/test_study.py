"""From folders to studies: what is read, how settings are told apart, what is named where it cannot be trusted."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from exact import normal, pair, runs, study_of, write
from fake_study import STUDY, fake_study, write_condition
from normdrop import tensorboard
from normdrop.report import publish
from normdrop.report.__main__ import main
from normdrop.report.checks import never_reached
from normdrop.report.choose import pairs
from normdrop.report.study import NEVER, load
from normdrop.report.verdicts import rows

LR = "optimizer.lr"


def small(root: Path, **options: Any) -> Path:
    return fake_study(root, rates=(0.2, 0.5), replicates=6, **options)


def test_the_table_has_a_row_per_seed_and_asked_position_and_a_typed_column_per_key_that_varies(tmp_path):
    settings = [{LR: 0.1, "model.depth": 2}, {LR: 0.01, "model.depth": 4}]
    root = small(tmp_path, positions=("after", "around"), settings=settings, rerun=None)
    study = study_of(root)
    assert study.keys == ["model.depth", LR]
    assert sorted(study.table["model.depth"].unique()) == [2, 4]
    assert study.table[LR].dtype == float
    table = study.table.groupby(["arrangement", "position", "rate", LR]).size()
    assert set(table) == {6}
    assert set(study.table["position"]) == {"after", "around"}  # none also stands for before, which nobody asked for
    stands_in = study.table[study.table["stands_in"]][["arrangement", "position"]].drop_duplicates().to_numpy().tolist()
    assert ["none", "around"] in stands_in
    assert ["bn_dropout", "around"] not in stands_in


def test_a_position_of_which_others_have_the_networks_of_both_sides_is_no_further_test(tmp_path):
    root = small(tmp_path, positions=("after", "before", "around"), rerun=None)
    counted = {(pair.place["position"], pair.counted) for pair in pairs(study_of(root))}
    assert counted == {("after", True), ("before", True), ("around", False)}


def test_a_key_that_a_later_sweep_adds_has_for_the_earlier_ones_the_value_of_their_config(tmp_path):
    pair(tmp_path, runs(0.9), runs(0.8))
    pair(tmp_path, runs(0.7), runs(0.8), setting={"model.depth": 5})
    table = study_of(tmp_path).table
    assert table.groupby("model.depth")["beyond"].first().to_dict() == {3: False, 5: True}
    own = table[table["arrangement"] == "bn_dropout"]
    assert own.groupby("model.depth")["test_acc"].first().to_dict() == {3: 0.9, 5: 0.7}


@pytest.mark.parametrize(
    ("first", "beyond", "told"),
    [("many", [], "2 configurations .* count them too"), ("few", [0.01, 0.03], "6 configurations .* no word")],
)
def test_the_grid_proper_is_that_of_the_sweep_begun_first(tmp_path, first, beyond, told):
    sweeps: dict[str, list[dict[str, Any]]] = {
        "many": [{LR: 0.01}, {LR: 0.03}, {LR: 0.03, "model.depth": 5}],
        "few": [{}],
    }
    for name, settings in sweeps.items():
        for setting in settings:
            config = {} if setting else {"optimizer": {"lr": 0.02}}
            study = {"grid": {"rate": [name]}}
            pair(tmp_path, runs(0.9 + normal(0)), runs(0.8), setting=setting, study=study, config=config)
    for path in tmp_path.rglob("record.json"):
        record = json.loads(path.read_text())
        began = 1.0 if record["study"]["grid"]["rate"] == [first] else 2.0
        path.write_text(json.dumps(record | {"batches": [{"began": began}]}))
    study = study_of(tmp_path)
    table = study.table[study.table["model.depth"] == 3]
    assert sorted(table.loc[table["beyond"], LR].unique()) == beyond
    assert study.table.loc[study.table["model.depth"] == 5, "beyond"].all()
    (said,) = [line for line in study.told_apart if "of a later sweep" in line]
    assert re.match(told, said)


def test_a_later_sweep_of_another_key_is_beyond_and_one_of_other_values_is_told(tmp_path):
    for began, setting in enumerate(({LR: 0.01}, {LR: 0.03}, {"model.depth": 5}), start=1):
        study = {"grid": {key: ["0.01", "0.03"] for key in setting}}
        for path in pair(tmp_path, runs(0.9), runs(0.8), setting=setting, study=study).rglob("record.json"):
            record = json.loads(path.read_text())
            if "batches" not in record:
                path.write_text(json.dumps(record | {"batches": [{"began": float(began)}]}))
    table = study_of(tmp_path).table
    assert table.groupby("model.depth")["beyond"].all().to_dict() == {3: False, 5: True}


def test_a_group_is_told_by_its_name_and_lists_are_values(tmp_path):
    for optimizer in ("adam", "sgd"):
        for channels in ([8], [8, 16]):
            setting = {"optimizer": optimizer, "model.channels": channels}
            pair(tmp_path, runs(0.9 + normal(0)), runs(0.8), setting=setting)
    study = study_of(tmp_path)
    assert study.keys == ["model.channels", "optimizer"]
    assert set(study.table["model.channels"]) == {"[8]", "[8, 16]"}
    assert set(study.table["optimizer"]) == {"adam", "sgd"}


def test_what_the_sweep_did_not_name_tells_configurations_apart_and_is_said(tmp_path):
    write(tmp_path, "bn_dropout", runs(0.9))
    write(tmp_path, "dropout_bn", runs(0.8), config={"batch_size": 7, "replicates": 3, "data": {"path": "x"}})
    study = study_of(tmp_path)
    assert "batch_size" in study.keys
    assert any("batch_size: 64, 7" in line for line in study.told_apart)
    assert not any("replicates" in line or "path" in line for line in study.told_apart)
    assert rows(study).empty  # never compared with each other


def test_steps_are_shares_of_the_budget_and_never_reached_is_all_of_it(tmp_path):
    steps = [16.0, np.nan, 32.0, 64.0, 8.0, 8.0]
    accuracies = [0.9] * 5 + [np.nan]
    study = {"metric": "steps_to_level", "kind": "ratio"}
    # 1,025 rows in batches of 64 are 16 steps an epoch, the last row left out; four epochs
    pair(tmp_path, runs(accuracies, 6, steps_to_level=steps), runs(0.9, 6, steps_to_level=16.0),
         rows=(1025, 300, 400), study=study)  # fmt: skip
    table = study_of(tmp_path).table
    own = table[table["arrangement"] == "bn_dropout"].set_index("seed")["steps_to_level"]
    assert own.to_list() == [0.25, NEVER, 0.5, 1.0, 0.125, NEVER]  # the fourth reached it at its last step
    assert never_reached(study_of(tmp_path)).set_index("arrangement").loc["bn_dropout", "missed"] == 2
    published = tmp_path.parent / f"{tmp_path.name} published"
    publish.write([study_of(tmp_path)], published)
    pd.testing.assert_series_equal(study_of(published).table["steps_to_level"], table["steps_to_level"])
    row = rows(study_of(tmp_path)).iloc[0]
    assert (row["metric"], row["verdict"]) == ("steps_to_level", "inconclusive")
    assert row["estimate"] == pytest.approx(own.mean() - 0.25)


def test_two_folders_of_one_name_are_two_studies_named_by_their_path(tmp_path):
    for where in ("laptop", "cluster"):
        small(tmp_path / where / "ordering")
    assert sorted(study.name for study in load(tmp_path)) == ["cluster/ordering", "laptop/ordering"]
    assert [study.name for study in load(tmp_path / "laptop" / "ordering")] == ["ordering"]


def test_linked_configurations_and_studies_are_read_and_circles_are_not_followed(tmp_path):
    root = small(tmp_path / "real" / "ordering")
    linked = root / "digits" / "bn"
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "study").symlink_to(root, target_is_directory=True)
    (root / "circle").symlink_to(root, target_is_directory=True)
    (study,) = load(tmp_path / "all")
    assert study.name == "study"
    assert not study.unfinished
    assert "bn" in set(study.table["arrangement"])


@pytest.mark.parametrize("link", ["a_link", "z_link"])
def test_a_study_and_a_link_to_it_are_one(tmp_path, link):
    small(tmp_path / "ordering")
    (tmp_path / link).symlink_to(tmp_path / "ordering", target_is_directory=True)
    (study,) = load(tmp_path)
    assert study.name == "ordering"
    assert not study.table.duplicated(["condition", "seed", "position", "arrangement"]).any()


def test_a_study_can_be_asked_for_from_within(tmp_path, monkeypatch):
    root = small(tmp_path / "ordering")
    monkeypatch.chdir(root / "digits" / "bn")
    (study,) = load(Path("."))
    assert study.name == "ordering"
    assert set(study.table["arrangement"]) == {"bn"}
    monkeypatch.chdir(root)
    assert [study.name for study in load(Path("."))] == ["ordering"]


def test_what_is_failed_unfinished_or_damaged_is_named_and_left_out(tmp_path):
    root = small(tmp_path, rerun=None)
    plan = json.loads((root / "plan.json").read_text())
    names = list(plan["conditions"])
    short, lost, broken, failed, unknown, moved = names[:6]
    plan["conditions"][short]["seeds"] = list(range(9))
    plan["conditions"][moved]["seeds"] = [4, 5, 6, 7]  # no more than there are, but others
    (root / "plan.json").write_text(json.dumps(plan))
    (root / lost / "record.json").unlink()
    (root / broken / "replicates.csv").write_text("seed\n1\n")
    (root / failed / "record.json").unlink()
    (root / failed / "error.txt").write_text("ValueError: no\nmore")
    record = json.loads((root / unknown / "record.json").read_text())
    record["study"]["metric"] = "brier"
    (root / unknown / "record.json").write_text(json.dumps(record))
    study = study_of(root)
    assert study.failed == {failed: "ValueError: no"}
    assert set(study.unfinished) == {short, lost, moved}
    assert "3 of 9" in study.unfinished[short] and "2 of 4" in study.unfinished[moved]
    assert set(study.damaged) == {broken, unknown}
    assert "brier" in study.damaged[unknown]
    assert set(study.table["condition"]) == {*names} - {lost, broken, failed, unknown}


def test_a_study_of_which_nothing_is_finished_is_there_all_the_same(tmp_path):
    plan = {"conditions": {"d/bn/after/q0.00": {"seeds": [0, 1]}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    study = study_of(tmp_path)
    assert set(study.unfinished) == {"d/bn/after/q0.00"}
    assert rows(study).empty
    with pytest.raises(ValueError, match="nothing"):
        load(tmp_path / "nothing")
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match="no configurations"):
        load(tmp_path)


def test_a_configuration_moved_elsewhere_is_damaged(tmp_path):
    root = small(tmp_path)
    os.rename(root / "digits", root / "letters")
    study = study_of(root)
    assert study.table.empty
    assert all("another configuration" in reason for reason in study.damaged.values())


def test_a_sweep_without_a_declaration_is_a_study_with_exploratory_rows(tmp_path):
    for arrangement, table in (("bn_dropout", runs(0.9 + normal(0))), ("dropout_bn", runs(0.8))):
        place: dict[str, Any] = {"dataset": "d", "arrangement": arrangement, "position": "after", "rate": 0.3}
        write_condition(tmp_path / "mine", table, study={"grid": {}}, **place)
        short = {key: STUDY[key] for key in ("claim", "contrast", "metric", "kind", "family")}
        write_condition(tmp_path / "short", table, study=short, **place)
    study, mine = load(tmp_path)
    assert (mine.name, mine.undeclared, mine.declared.family) == ("mine", True, None)
    table = rows(mine)
    assert set(table["family"]) == {"exploratory"}
    assert {*table["comparison"]} == {"same_rate"}  # of one rate nothing is chosen: it would be told twice
    # What a declaration leaves out is nothing, but for alpha and the rate.
    declared = study.declared
    assert (declared.tuned, declared.alpha, declared.secondary, declared.apart) == (("rate",), 0.05, (), ())


def test_two_declarations_under_one_name_are_two_studies_and_a_key_that_says_nothing_makes_none(tmp_path, monkeypatch):
    pair(tmp_path, runs(0.9), runs(0.8))
    pair(tmp_path, runs(0.9), runs(0.8), rate=0.5, study={"core": None})
    assert len(load(tmp_path)) == 1
    pair(tmp_path, runs(0.9), runs(0.8), rate=0.7, study={"alpha": 0.01})
    (tmp_path / "plan.json").write_text(json.dumps({"conditions": {"d/bn/after/q0.00": {"seeds": [0]}}}))
    first, second = load(tmp_path)
    assert {first.name, second.name} == {tmp_path.name, f"{tmp_path.name} (2)"}
    assert len(first.unfinished) + len(second.unfinished) == 1
    told: dict[str, str] = {}
    monkeypatch.setattr(tensorboard, "write_overview", lambda _, texts, figures: told.update(texts))
    assert main([str(tmp_path)]) == 0
    assert {text.partition("\n")[0] for text in told.values()} == {f"# {first.name}", f"# {second.name}"}


def test_the_main_claim_comes_first_and_of_those_the_one_on_the_most_data_sets(tmp_path):
    small(tmp_path / "a", study={"claim": "speed"})
    small(tmp_path / "b")
    small(tmp_path / "c", datasets=("one", "two"))
    assert [study.name for study in load(tmp_path)] == ["c", "b", "a"]


def test_rates_are_tuned_wherever_there_are_several(tmp_path):
    study = study_of(small(tmp_path, study={"tuned": [LR]}))
    assert study.declared.tuned == ("rate", LR)


def test_a_metric_that_is_added_reaches_every_table(tmp_path, monkeypatch):
    from normdrop.metrics import METRICS, Metric

    monkeypatch.setitem(METRICS, "brier", Metric("brier", "Brier score", "pp"))
    pair(tmp_path, runs(0.9, brier=0.1 + normal(0)), runs(0.9, brier=0.3),
         study={"metric": "brier", "secondary": ["test_acc"]})  # fmt: skip
    study = study_of(tmp_path)
    row = rows(study).iloc[0]
    assert (row["metric"], row["verdict"], row["estimate"]) == ("brier", "better", pytest.approx(-0.2))
