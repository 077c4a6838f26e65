"""Finished conditions are found, checked, told apart and laid out; whatever cannot be trusted is named and left out."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_study import fake_replicates, fake_study, write_condition
from normdrop.report.records import keys_of, load
from normdrop.study.record import NOT_HASHED

RATES = (0.3, 0.5)


def test_every_replicate_of_every_finished_condition_is_read(tmp_path: Path) -> None:
    found = load(fake_study(tmp_path / "s", rates=RATES, replicates=4))
    (study,) = found.studies
    # none, bn; dropout, bn_dropout, dropout_bn at two rates; the A/A run
    assert found.finished == found.planned == 9
    assert len(study.replicates) == 9 * 4
    assert not (found.failed or found.unfinished or found.damaged)


def test_a_network_answers_for_every_position_that_was_asked_for_and_for_no_other(tmp_path: Path) -> None:
    (study,) = load(fake_study(tmp_path / "s", positions=("after", "around"), rates=RATES, replicates=2)).studies
    rows = study.replicates[study.replicates["rerun"] == 0]
    conditions = rows.groupby(["arrangement", "position"])["condition"].unique().map(sorted).to_dict()
    assert {position for _, position in conditions} == {"after", "around"}
    assert conditions["none", "around"] == ["digits/none/after/q0.00"]
    assert conditions["dropout", "around"] == [f"digits/dropout/after/q{rate:.2f}" for rate in RATES]
    assert conditions["bn", "around"] == ["digits/bn/before/q0.00"]
    assert conditions["bn_dropout", "around"] == [f"digits/bn_dropout/before/q{rate:.2f}" for rate in RATES]
    assert conditions["dropout_bn", "around"] == [f"digits/dropout_bn/after/q{rate:.2f}" for rate in RATES]
    assert rows.loc[rows["position"] == "around", "stands_in"].all()
    assert not rows.duplicated(["arrangement", "position", "rate", "seed"]).any()


def test_a_condition_without_a_record_is_not_finished(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    (directory / "digits/bn/after/q0.00/record.json").unlink()
    found = load(directory)
    assert found.unfinished == {"digits/bn/after/q0.00": "begun"}
    assert "bn" not in set(found.studies[0].replicates["arrangement"])


def test_a_planned_condition_that_was_never_begun_is_listed(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    plan = json.loads((directory / "plan.json").read_text())
    plan["conditions"]["digits/dropout/after/q0.90"] = {"setting": {}, "seeds": [0, 1]}
    plan["conditions"]["digits/bn/after/q0.00"]["seeds"] = [0, 1, 2]
    (directory / "plan.json").write_text(json.dumps(plan))
    assert load(directory).unfinished == {
        "digits/dropout/after/q0.90": "planned, not begun",
        "digits/bn/after/q0.00": "2 of 3 planned replicates",
    }


def test_a_failed_condition_is_listed_with_the_first_line_of_its_error(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    failed = directory / "digits/dropout_bn/after/q0.90"
    failed.mkdir()
    (failed / "error.txt").write_text("ValueError: no rows\n\nTraceback …")
    assert load(directory).failed == {"digits/dropout_bn/after/q0.90": "ValueError: no rows"}


def declare(folder: Path, **changes: str) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"study": record["study"] | changes}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "replicates.csv").write_text("seed\n0\n"), r"replicates.csv: damaged \(its checksum"),
        (lambda f: (f / "history.csv").write_bytes(b"\xff"), r"history.csv: damaged \(its checksum"),
        (lambda f: (f / "history.csv").unlink(), r"damaged \(.*No such file.*history.csv"),
        (lambda f: (f / "record.json").write_text('{"format": 1,'), r"record.json: damaged \(Expecting"),
        (lambda f: (f / "record.json").write_text("{}"), r"record.json: damaged \('format'\)"),
        (lambda f: (f / "record.json").write_text('{"format": 7}'), r"another version \(format 7, this one has"),
        (lambda f: declare(f, kind="guess"), "its study is of kind guess: known are difference, ratio"),
        (lambda f: declare(f, metric="luck"), "its study measures luck: known are test_acc"),
    ],
)
def test_a_damaged_condition_is_named_and_left_out(tmp_path: Path, damage, reason: str) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    damage(directory / "digits/none/after/q0.00")
    found = load(directory)
    assert list(found.damaged) == ["digits/none/after/q0.00"]
    assert re.search(reason, found.damaged["digits/none/after/q0.00"])
    assert "none" not in set(found.studies[0].replicates["arrangement"])


def test_a_condition_moved_elsewhere_is_damaged(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    (directory / "digits/none/after/q0.00").rename(directory / "digits/none/after/q0.10")
    assert load(directory).damaged == {
        "digits/none/after/q0.10": "its record is of another condition, digits/none/after/q0.00"
    }


def test_an_extension_that_stopped_among_its_renames_reads_as_done(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    longer = fake_study(tmp_path / "longer", rates=RATES, replicates=5)
    condition = "digits/none/after/q0.00"
    for name in ("replicates.csv", "history.csv", "record.json"):
        (longer / condition / name).rename(directory / condition / f"{name}.new")
    (directory / condition / "replicates.csv.new").replace(directory / condition / "replicates.csv")
    found = load(directory)
    rows = found.studies[0].replicates
    assert not found.damaged
    assert (rows["arrangement"] == "none").sum() == 5


def test_configs_that_differ_in_what_the_sweep_did_not_name_are_told_apart(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2, arrangements=("bn_dropout",))
    fake_study(directory, rates=RATES, replicates=2, arrangements=("dropout_bn",), config={"batch_size": 32})
    (study,) = load(directory).studies
    settings = study.replicates.groupby("arrangement")["setting"].unique().map(list).to_dict()
    assert settings == {"bn_dropout": ["batch_size=64"], "dropout_bn": ["batch_size=32"]}
    assert study.told_apart == ["digits: batch_size is 32 in some conditions, 64."]


def test_the_device_and_the_number_of_replicates_tell_nothing_apart(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2, arrangements=("bn_dropout",))
    config = {"replicates": 9, "logging": "minimal", "trainer": {"max_epochs": 4, "accelerator": "gpu"}}
    fake_study(directory, rates=RATES, replicates=2, arrangements=("dropout_bn",), config=config)
    (study,) = load(directory).studies
    assert set(study.replicates["setting"]) == {""}


@pytest.mark.parametrize("key", [*NOT_HASHED, "data.path"])
def test_what_changes_no_number_tells_nothing_apart(tmp_path: Path, key: str) -> None:
    group, _, name = key.partition(".")
    for value, arrangement in enumerate(("bn_dropout", "dropout_bn")):
        changed = {"data": {"name": "digits", "fingerprint": "f", "level": 0.95}, "measure": {}, group: value}
        if name:
            changed[group] = {"name": "digits", name: value}
        write_condition(
            *(tmp_path, fake_replicates(np.random.default_rng(0), 0.9, np.zeros(6), 0.01, 9, 99)),
            **{"dataset": "digits", "arrangement": arrangement, "position": "after", "rate": 0.3, "config": changed},
        )
    (study,) = load(tmp_path).studies
    assert (study.settings, study.told_apart) == ([""], [])


def test_studies_in_one_directory_are_kept_apart(tmp_path: Path) -> None:
    fake_study(tmp_path / "claims/ordering", rates=RATES, replicates=2)
    fake_study(tmp_path / "claims/overfitting", rates=RATES, replicates=2, study={"claim": "overfitting"})
    studies = load(tmp_path / "claims").studies
    assert [study.declaration["claim"] for study in studies] == ["ordering", "overfitting"]
    assert [len(study.records) for study in studies] == [9, 9]


def test_a_key_of_the_declaration_that_says_nothing_makes_no_other_study(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    path = next(directory.rglob("record.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"study": record["study"] | {"later": None}}))
    (study,) = load(directory).studies
    assert len(study.records) == 9


def test_conditions_without_a_declared_study_are_read_as_undeclared(tmp_path: Path) -> None:
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2)
    for path in directory.rglob("record.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"study": {"grid": {}}}))
    (study,) = load(directory).studies
    assert study.declaration["family"] is None


def test_an_earlier_report_is_no_condition(reported: Path) -> None:
    found = load(reported)
    assert (reported / "report/replicates.csv").exists()
    assert not found.unfinished


def test_the_settings_of_the_grid_proper_come_first_in_its_order(tmp_path: Path) -> None:
    settings = ({"model.depth": 4}, {"model.depth": 2}, {"model.depth": 2, "noise": "uniform"})
    directory = fake_study(tmp_path / "s", rates=RATES, replicates=2, settings=settings, rerun=None)
    (study,) = load(directory).studies
    assert study.settings == ["model.depth=4", "model.depth=2", "model.depth=2,noise=uniform"]
    assert study.base_settings == ["model.depth=4", "model.depth=2"]


def test_a_report_can_be_asked_for_from_within_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_study(tmp_path / "outputs/mine", datasets=("d0", "d1"), replicates=6, rates=(0.5,))
    monkeypatch.chdir(tmp_path / "outputs/mine/d0")
    for directory, names, root in ((".", ["d0"], ".."), ("..", ["d0", "d1"], "..")):
        (study,) = load(Path(directory)).studies
        assert sorted({*study.replicates["dataset"]}) == names
        assert study.root.resolve() == Path(root).resolve()


def test_rates_are_tuned_wherever_there_are_several(tmp_path: Path) -> None:
    for rates, tuned in (((0.5,), ["optimizer.lr"]), ((0.2, 0.5), ["rate", "optimizer.lr"])):
        options = {"settings": ({"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}), "study": {"tuned": ["optimizer.lr"]}}
        (study,) = load(fake_study(tmp_path / str(rates), replicates=6, rates=rates, **options)).studies
        assert study.declaration["tuned"] == tuned


def test_a_list_is_a_value_that_can_be_tuned(tmp_path: Path) -> None:
    options = {"settings": ({"model.width": [8]}, {"model.width": [4]}), "study": {"tuned": ["rate", "model.width"]}}
    (study,) = load(fake_study(tmp_path, replicates=6, rates=(0.5,), **options)).studies
    assert {*study.replicates["model.width"]} == {"[8]", "[4]"}


def test_a_list_in_a_setting_is_one_value() -> None:
    assert keys_of("model.width=[64, 32],noise=uniform") == ["model.width=[64, 32]", "noise=uniform"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_directory_with_nothing_in_it_is_one_clear_line(tmp_path: Path, make) -> None:
    make(tmp_path / "none")
    with pytest.raises(ValueError, match=r"none: no (such directory|conditions in it; .*)$"):
        load(tmp_path / "none")


def test_the_written_table_holds_what_was_read(reported: Path) -> None:
    written = pd.read_csv(reported / "report/replicates.csv", keep_default_na=False, na_values=[""])
    (study,) = load(reported).studies
    assert len(written) == len(study.replicates)
    assert written["test_acc"].to_list() == pytest.approx(study.replicates["test_acc"].to_list(), abs=1e-15)


def test_of_a_study_of_which_one_side_has_finished_there_is_a_report(tmp_path: Path, capsys) -> None:
    from normdrop.report.__main__ import main

    directory = fake_study(tmp_path / "s", rates=(0.2, 0.5), replicates=6, arrangements=("none", "bn_dropout"))
    assert main([str(directory)]) == 0
    assert "No finished conditions to compare bn_dropout with dropout_bn" in capsys.readouterr().out.replace("\n", " ")


def test_the_question_of_order_comes_first_and_of_those_who_ask_it_the_one_on_the_most_data_sets(
    tmp_path: Path,
) -> None:
    for name, claim, datasets in (
        ("blog", "ordering", "a"),
        ("drift", "drift", "abc"),
        ("population", "ordering", "ab"),
    ):
        fake_study(tmp_path / name, study={"claim": claim}, datasets=tuple(datasets), rates=(0.3,), replicates=2)
    assert [study.root.name for study in load(tmp_path).studies] == ["population", "blog", "drift"]
