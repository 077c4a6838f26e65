"""What the claims cost: measured from records, told before anything starts."""

import shutil
import subprocess
import sys
from pathlib import Path

from fake_study import fake_study

SCRIPTS = Path(__file__).parents[1] / "scripts"


def ablate(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """scripts/ablate, with commands in place of normdrop's that print what they were given; `drift` fails."""
    (tmp_path / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS / "ablate", tmp_path / "scripts")
    (tmp_path / "scripts" / "_setup").write_text(f"cd {tmp_path}\n")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("normdrop", "normdrop-report"):
        command = tmp_path / ".venv/bin" / name
        command.write_text('#!/bin/sh\necho ran $(basename $0) "$@"\ntest $1 != experiment=drift\n')
        command.chmod(0o755)
    command = ["bash", tmp_path / "scripts/ablate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_claims_say_first_what_each_costs_and_last_what_each_took(tmp_path):
    fake_study(tmp_path / "claims" / "speed", replicates=2, datasets=("digits",))
    said = subprocess.run([sys.executable, SCRIPTS / "cost.py", tmp_path / "claims"], capture_output=True, text=True)
    conditions = len([*tmp_path.rglob("record.json")])
    assert said.stdout.splitlines() == [
        "experiment,conditions,replicates,core_minutes,machine",
        f"speed,{conditions},{2 * conditions},{round(1.5 * conditions / 60, 1)},two test cores",
    ]
    (tmp_path / "outputs/reference").mkdir(parents=True)
    (tmp_path / "outputs/reference/cost.csv").write_text(said.stdout)
    ended = ablate(tmp_path, "claims", "replicates=3")
    lines = ended.stdout.splitlines()
    ran = [n for n, line in enumerate(lines) if line.startswith("ran normdrop ")]
    names = [lines[n].split("experiment=")[1].split()[0] for n in ran]
    before, after = lines[: ran[0]], lines[ran[-1] + 2 :]
    assert [line.split()[0] for line in before] == [*names, "together"]
    assert [line.split()[0] for line in after] == names and all(line.endswith(" min") for line in after)
    assert f"{conditions} conditions" in before[names.index("speed")] and "not measured" in before[names.index("drift")]
    assert lines[ran[0]] == f"ran normdrop experiment={names[0]} name=claims/{names[0]} replicates=3"
    assert ended.returncode == 1  # drift failed, and what comes after it ran


def test_one_claim_runs_alone_where_the_claims_look_for_it(tmp_path):
    ended = ablate(tmp_path, "speed", "replicates=3")
    assert ended.stdout.splitlines()[-1] == "ran normdrop experiment=speed name=claims/speed replicates=3"
    assert "has not been measured" in ended.stdout and ended.returncode == 0
    assert ablate(tmp_path / "again", "quick").stdout == "ran normdrop experiment=quick name=quick\n"
