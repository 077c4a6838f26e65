"""A condition's record: whole or not there, whenever the process dies."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from normdrop.study import record as results
from normdrop.study.told import runnable

NAMES = (*results.TABLES, results.RECORD)


def tables_of(seeds) -> tuple[pd.DataFrame, pd.DataFrame]:
    replicates = pd.DataFrame(
        {
            "setting": "",
            "width": "20-13",
            "seed": list(seeds),
            "test_acc": [1 / 3 + seed for seed in seeds],
            "steps_to_level": pd.array([None if seed % 2 else 10 * seed for seed in seeds], dtype="Int64"),
            "diverged": [seed == 1 for seed in seeds],
        }
    )
    return replicates, pd.DataFrame({"seed": list(seeds), "step": 1, "train_loss": [0.1 * seed for seed in seeds]})


def write(directory: Path, count: int) -> None:
    results.write(directory, {"seeds": list(range(count))}, *tables_of(range(count)))


def content(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in NAMES}


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """The folder of a condition with four replicates."""
    write(tmp_path, 4)
    return tmp_path


def test_a_record_and_its_tables_come_back_as_they_were_written_and_have_the_same_bytes_again(four):
    (four / results.ERROR).write_text("it failed once")
    before, held = content(four), results.read(four)
    assert held.record["seeds"] == [0, 1, 2, 3]
    for ours, theirs in zip((held.replicates, held.history), tables_of(range(4)), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, check_dtype=False)
    results.write(four, held.record, held.replicates, held.history)
    assert content(four) == before
    assert sorted(path.name for path in four.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [None, b"", b"{", b'{"tables": 3}', b"0\n"])
def test_where_the_checksums_do_not_fit_a_condition_is_not_finished(four, name, text):
    if text is None:
        (four / name).unlink()
    else:
        (four / name).write_bytes(text)
    assert results.read(four) is None


def test_what_is_replaced_while_it_is_read_is_read_as_it_is_then(four, monkeypatch):
    original = Path.read_bytes

    def replaced(path: Path) -> bytes:
        found = original(path)
        if path.name == results.RECORD:
            monkeypatch.setattr(Path, "read_bytes", original)
            write(four, 6)
        return found

    monkeypatch.setattr(Path, "read_bytes", replaced)
    held = results.read(four)
    assert held.record["seeds"] == [*held.replicates["seed"]] == [0, 1, 2, 3, 4, 5]


def test_a_record_of_another_version_is_named(four):
    record = json.loads((four / results.RECORD).read_text())
    (four / results.RECORD).write_text(json.dumps(record | {"format": 1}))
    with pytest.raises(ValueError, match=r"record\.json: .*format 1, .* 3"):
        results.read(four)


def test_a_number_that_json_does_not_have_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path, {"wall_seconds": float("nan")}, *tables_of(range(2)))
    assert results.read(tmp_path) is None


class Crash(BaseException):
    """The process dies: no handler runs."""


def crashes(monkeypatch: pytest.MonkeyPatch, directory: Path, at: int) -> bool:
    """Write six replicates, dying just before file operation number `at`; whether it came to that."""
    operations = 0

    def dying(original):
        def operation(*arguments, **options):
            nonlocal operations
            operations += 1
            if operations > at:
                raise Crash
            return original(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "open"), (Path, "replace"), (Path, "unlink"), (os, "fsync")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            write(directory, 6)
        except Crash:
            return True
    return False


@pytest.mark.parametrize("before", [0, 4])
def test_a_crash_at_any_step_leaves_the_old_condition_the_new_one_or_none(tmp_path, monkeypatch, before):
    new = tmp_path / "new"
    new.mkdir()
    write(new, 6)
    seen = set()
    for at in range(100):
        directory = tmp_path / str(at)
        directory.mkdir()
        if before:
            write(directory, before)
        crashed = crashes(monkeypatch, directory, at)
        held = results.read(directory)
        seen.add(len(held.record["seeds"]) if held else 0)
        if held:
            assert [*held.replicates["seed"]] == held.record["seeds"]
        write(directory, 6)
        assert content(directory) == content(new)
        if not crashed:
            break
    assert not crashed and at > 6  # three files, each opened, flushed and renamed
    assert seen == {0, before, 6}


def test_a_lock_that_the_file_system_does_not_have_names_its_file(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(results.FileLock, "acquire", refused)
    with pytest.raises(OSError, match="No locks available") as caught, results.locked(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path / ".lock")


def test_a_users_files_beside_the_code_are_no_changes_of_it(tmp_path, monkeypatch):
    code = tmp_path / "src/normdrop/study/record.py"
    for path in (code, tmp_path / "conf/config.yaml", tmp_path / "README.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a: 1\n")
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(tmp_path))
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "x")):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(results, "__file__", str(code))
    (tmp_path / "mine.csv").write_text("a,b\n")
    (tmp_path / "README.md").write_text("a: 2\n")
    known, clean = results.commit.__wrapped__()
    assert len(known) == 40 and clean
    added = tmp_path / "src/normdrop/new.py"
    added.write_text("")
    assert results.commit.__wrapped__() == (known, False)
    added.unlink()
    (tmp_path / "conf/config.yaml").write_text("a: 2\n")
    assert results.commit.__wrapped__() == (known, False)


def test_a_hint_has_the_folder_of_a_program_that_its_name_does_not_find(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert runnable("normdrop", "rate=0.3") == "normdrop rate=0.3"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runnable("normdrop", "rate=0.3") == f"{tmp_path}/.venv/bin/normdrop rate=0.3"
    monkeypatch.chdir(tmp_path)
    assert runnable("normdrop", "rate=0.3") == ".venv/bin/normdrop rate=0.3"
    assert shlex.split(runnable("normdrop", Path("my out"))) == [".venv/bin/normdrop", "my out"]
