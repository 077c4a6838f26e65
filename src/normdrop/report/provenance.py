"""Whether the declaration came before the runs: what git knows of it, and what the records say."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from normdrop.report.study import Record, Study, batches_of
from normdrop.report.verdicts import spans
from normdrop.study.told import duration

ROOT = Path(__file__).parents[3]


def provenance(study: Study) -> dict[str, list[str]]:
    """`lines` (what declared it, when and from what it was trained) and `doubts`.

    Seeds may have been added in several batches: each has its own commit, and the earliest one decides what came first.
    """
    table = pd.DataFrame([batch for record in study.records for batch in _batches(record)])
    commits, versions = sorted(set(table["commit"].str[:10])), sorted(set(table["versions"]))
    began, ended = _time(table["began"].min()), _time(table["finished"].max())
    spent = f"{duration(sum(record['wall_seconds'] for record in study.records))} of training over all configurations"
    lines = [
        f"Trained {began} to {ended}, from commit {', '.join(commits)}.",
        f"Seeds {spans(tuple(study.table['seed']))}; {spent}; {'; '.join(versions)}.",
        *sorted({f"`{command}`" for command in table["command"].dropna()}),
    ]
    doubts = []
    if not table["clean"].all():
        doubts.append("Some seeds were trained from a tree with changes that no commit has.")
    first = table.groupby(["commit", "experiment"])["began"].min().reset_index()
    for commit, experiment, start in [] if study.undeclared else first.to_numpy().tolist():
        try:
            files, said = _declared(commit, experiment)
            by, at = _git("log", "-1", "--format=%h %ct", commit, "--", *files).split()
        except (OSError, ValueError, subprocess.SubprocessError):
            doubts.append(f"Git knows no declaration of {experiment} in commit {commit[:10]}.")
            continue
        lines.append(f"Declared in commit {by} of {_time(float(at))}; begun {_time(start)}.")
        if float(at) > start:
            doubts.append(f"Commit {by} of {_time(float(at))} is younger than seeds begun {_time(start)}.")
        trained = study.records[0]["study"]
        typed = [key for key, value in said.items() if trained.get(key, value) != value]
        if typed:
            doubts.append(f"Changed on the command line, which no commit declares: {', '.join(typed)}.")
    return {"lines": lines, "doubts": doubts}


def _batches(record: Record) -> list[dict[str, Any]]:
    """What is told of each batch of seeds."""
    told = []
    for batch in batches_of(record):
        versions = ", ".join(f"{key} {value}" for key, value in batch["versions"].items())
        facts = {"versions": versions, "commit": str(batch["commit"]), "clean": batch["clean"] is not False}
        facts |= {"began": batch["began"], "finished": batch["finished"]}
        facts["command"] = batch.get("command") or record.get("command")
        told.append(facts | {"experiment": str(record["choices"].get("experiment"))})
    return told


def _declared(commit: str, experiment: str) -> tuple[list[str], dict[str, Any]]:
    """An experiment's file and those of the experiments in its defaults, and the study that they declare together."""
    file = f"conf/experiment/{experiment}.yaml"
    said = yaml.safe_load(_git("show", f"{commit}:{file}")) or {}
    files, study = [file], dict[str, Any]()
    for name in said.get("defaults", []):
        if isinstance(name, str) and name != "_self_":
            base, declared = _declared(commit, name)
            files += base
            study |= declared
    return files, study | (said.get("study") or {})


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=10, check=True).stdout


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
