"""Whether the declaration came before the runs: what git knows of it, and what the records say."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from normdrop.report.study import Record, Study
from normdrop.report.verdicts import spans

ROOT = Path(__file__).parents[3]


def provenance(study: Study) -> dict[str, Any]:
    """began, ended (text), commits, versions, clean, lines (what declared it, what was trained from) and doubts.

    Seeds may have been added in several batches: each has its own commit, and the earliest one decides what came first.
    """
    batches = pd.DataFrame([batch for record in study.records for batch in _batches(record)])
    facts: dict[str, Any] = {"commits": sorted({str(commit)[:10] for commit in batches["commit"]}), "doubts": []}
    facts |= {"versions": sorted(set(batches["versions"])), "clean": bool(batches["clean"].all())}
    facts |= {"began": _time(batches["began"].min()), "ended": _time(batches["finished"].max())}
    facts["lines"] = [f"Trained {facts['began']} to {facts['ended']}, from commit {', '.join(facts['commits'])}."]
    hours = sum(record.get("wall_seconds") or 0.0 for record in study.records) / 3600
    versions = "; ".join(facts["versions"])
    facts["lines"].append(f"Seeds {spans(study.table['seed'])}; {hours:.1f} hours of training; {versions}.")
    facts["lines"] += sorted({f"`{record['command']}`" for record in study.records if record.get("command")})
    if not facts["clean"]:
        facts["doubts"].append("Some seeds were trained from a tree with changes that no commit has.")
    first = batches.groupby(["commit", "experiment"])["began"].min().reset_index()
    for commit, experiment, began in first.to_numpy().tolist():
        try:
            files, said = _declared(commit, experiment)
            by, at = _git("log", "-1", "--format=%h %ct", commit, "--", *files).split()
        except (OSError, ValueError, subprocess.SubprocessError):
            facts["doubts"].append(f"Git knows no declaration of {experiment} in commit {commit[:10]}.")
            continue
        facts["lines"].append(f"Declared in commit {by} of {_time(float(at))}; begun {_time(began)}.")
        if float(at) > began:
            facts["doubts"].append(f"Commit {by} of {_time(float(at))} is younger than seeds begun {_time(began)}.")
        if typed := [key for key, value in said.items() if study.records[0]["study"].get(key, value) != value]:
            facts["doubts"].append(f"Changed on the command line, which no commit declares: {', '.join(typed)}.")
    return facts


def _batches(record: Record) -> list[dict[str, Any]]:
    """One for each time that seeds were added; a record of before does not tell them apart."""
    finished = record.get("finished") or 0.0
    whole = {"began": finished - (record.get("wall_seconds") or 0.0), "finished": finished}
    said = record.get("batches") or [{key: record.get(key) for key in ("versions", "commit", "clean")} | whole]
    versions = [", ".join(f"{key} {value}" for key, value in (batch["versions"] or {}).items()) for batch in said]
    own = {"experiment": str(record["choices"].get("experiment"))}
    return [
        batch | own | {"versions": text, "commit": str(batch["commit"]), "clean": batch["clean"] is not False}
        for batch, text in zip(said, versions, strict=True)
    ]


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
