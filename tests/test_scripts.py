"""The commands that a newcomer types: what sets up the environment, what runs, what is passed on; and what it costs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fake_study import fake_study

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose commands only say what they were given; normdrop fails for `drift`, its report for `empty`."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "ablate", tmp_path / "scripts")
    (tmp_path / "scripts/_setup").write_text(f"here={tmp_path}\ninvoked_from=$PWD\ncd $here\n")
    for name in ("normdrop", "normdrop-report"):
        command(tmp_path / ".venv/bin" / name, f'echo {name} "$@"; case "$*" in *drift*|*empty*) exit 3; esac')
    return tmp_path


def command(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def ablate(checkout: Path, *arguments: str, folder: Path | None = None) -> tuple[int, list[str]]:
    command = ["bash", checkout / "scripts/ablate", *arguments]
    ended = subprocess.run(command, cwd=folder or checkout, capture_output=True, text=True)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ([], "experiment=ordering"),
        (["data=mine", "rate=0.1,0.3"], "experiment=ordering data=mine rate=0.1,0.3"),
        (["size", "replicates=3"], "experiment=size replicates=3"),
        (["own", "model.file=a b.py"], "experiment=own model.file=a b.py"),
        (["experiment=quick"], "experiment=quick"),
    ],
)
def test_ablate_trains_and_reports_what_was_typed(checkout, typed, runs):
    assert ablate(checkout, *typed) == (0, [f"normdrop --report {runs}"])


def test_ablate_takes_a_file_from_the_folder_that_it_was_typed_in(checkout):
    there = checkout / "a folder"
    there.mkdir()
    (there / "my.csv").touch()
    (there / "it's.py").touch()
    typed = ["data=table", "data.path=my.csv", "data.target=my.csv", "model.file=it's.py", "model.file=other.py"]
    status, lines = ablate(checkout, *typed, folder=there)
    runs = f"experiment=ordering data=table data.path='{there}/my.csv' data.target=my.csv "
    runs += f"model.file='{there}/it\\'s.py' model.file=other.py"
    assert (status, lines) == (0, [f"what follows is in {checkout}", f"normdrop --report {runs}"])
    shutil.copy(there / "my.csv", checkout)
    assert ablate(checkout, "data.path=my.csv")[1] == ["normdrop --report experiment=ordering data.path=my.csv"]


def test_ablate_passes_on_how_it_ended(checkout):
    assert ablate(checkout, "drift")[0] == 3


def test_the_claims_all_run_and_are_reported_though_one_fails_and_each_says_first_what_it_costs(checkout):
    fake_study(checkout / "claims" / "speed", replicates=2, datasets=("digits",), config={"name": "claims/speed"})
    made = [sys.executable, SCRIPTS / "cost.py", checkout / "claims"]
    cost = subprocess.run(made, capture_output=True, text=True, check=True).stdout.splitlines()
    configurations = len([*checkout.rglob("record.json")])
    minutes = round(1.5 * configurations / 60, 1)
    assert cost[1] == f"speed,{configurations},{2 * configurations},{minutes},two test cores"
    (checkout / "outputs/reference").mkdir(parents=True)
    (checkout / "outputs/reference/cost.csv").write_text("\n".join(cost))
    status, lines = ablate(checkout, "claims", "replicates=3")
    ran = [line for line in lines if line.startswith("normdrop ")]
    names = [line.split("experiment=")[1].split()[0] for line in ran]
    assert status == 1 and lines[-1] == "normdrop-report outputs/claims"
    assert ran[0] == f"normdrop experiment={names[0]} name=claims/{names[0]} replicates=3"
    assert names.index("drift") < len(names) - 1
    told = lines[1 : 1 + len(names)]
    assert [line.split(",")[0] for line in told] == names
    assert told[names.index("speed")] == cost[1] and told[names.index("drift")] == "drift,not measured"


def test_every_experiment_that_ablate_names_is_there(checkout):
    experiments = {path.stem for path in (SCRIPTS.parent / "conf/experiment").glob("*.yaml")}
    names = {line.split("experiment=")[1].split()[0] for line in ablate(checkout, "claims")[1][:-1]}
    assert names <= experiments


# --- setting up


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkout without .venv, and a `uv` on its PATH that writes down what it is asked for."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "_setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("one\n")
    command(tmp_path / "bin/uv", 'mkdir -p .venv; echo "$@" >> asked; ! [ -e broken ]')
    return tmp_path


def set_up(fresh: Path, extras: str = "data,fast") -> tuple[int, list[str]]:
    """Exit status, and the extras that were installed by it."""
    (fresh / "asked").unlink(missing_ok=True)
    script = f"set -euo pipefail; extras={extras}; source scripts/_setup"
    path = f"{fresh}/bin:/usr/bin:/bin:{Path(sys.executable).parent}"
    environment = {"PATH": path, "PYTHON": sys.executable}
    ended = subprocess.run(["bash", "-c", script], cwd=fresh, env=environment, capture_output=True, text=True)
    asked = (fresh / "asked").read_text().splitlines() if (fresh / "asked").exists() else []
    return ended.returncode, [line.split("-e .")[1] for line in asked if "-e ." in line]


def test_the_environment_is_made_once_and_again_when_a_pin_changes(fresh):
    assert set_up(fresh) == (0, ["[data,fast]"])
    assert set_up(fresh) == (0, [])
    (fresh / "constraints.txt").write_text("two\n")
    assert set_up(fresh) == (0, ["[data,fast]"])


def test_what_the_tests_need_is_added_when_they_run_and_stays(fresh):
    set_up(fresh)
    assert set_up(fresh, "data,fast,test") == (0, ["[data,fast,test]"])
    assert set_up(fresh) == (0, [])
    assert set_up(fresh, "slurm") == (0, ["[data,fast,slurm,test]"])


def test_a_set_up_that_failed_is_done_again(fresh):
    (fresh / "broken").touch()
    assert set_up(fresh)[0] == 1
    (fresh / "broken").unlink()
    assert set_up(fresh) == (0, ["[data,fast]"])
    (fresh / "broken").touch()  # an addition that fails leaves what there was
    assert set_up(fresh, "test")[0] == 1
    assert set_up(fresh) == (0, [])
