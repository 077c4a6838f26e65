"""Whether the declaration came before the runs: what git knows of it, and what the records say."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from normdrop.report.study import Study

ROOT = Path(__file__).parents[3]


def provenance(study: Study) -> dict[str, Any]:
    """began, ended (text), commits, versions, clean, lines (which commit declared it, what was trained from) and doubts.

    Seeds may have been added in several batches: each has its own commit, and the earliest one decides what came first.
    The declaration is the experiment's file, and those that it builds on, as the commit of the record has them.
    """
    found = [(record, batch) for record in study.records for batch in record.get("batches") or [_whole(record)]]
    began, ended = min(batch["began"] for _, batch in found), max(batch["finished"] for _, batch in found)
    commits = sorted({str(batch["commit"])[:10] for _, batch in found if batch.get("commit")})
    versions = sorted({", ".join(f"{k} {v}" for k, v in (batch.get("versions") or {}).items()) for _, batch in found})
    lines, doubts = [], []
    clean = all(batch.get("clean") for _, batch in found if batch.get("commit"))
    if not clean:
        doubts.append("Some seeds were trained from a tree with changes that no commit has.")
    if any(batch.get("commit") is None for _, batch in found):
        doubts.append("Of some seeds no commit was recorded, so nothing proves that the declaration came first.")
    first: dict[tuple[str, str], float] = {}  # when the first seeds of a commit and experiment began
    for record, batch in found:
        source = str(batch.get("commit")), str(record["choices"].get("experiment"))
        first[source] = min(batch["began"], first.get(source, batch["began"]))
    for (commit, experiment), when in first.items():
        declared = _declaring(commit, experiment)
        if declared is None:
            continue
        by, at, said = declared
        lines.append(f"Declared in commit {by[:10]} of {_time(at)} (trained from {commit[:10]}, begun {_time(when)}).")
        if at > when:
            doubts.append(f"The declaration, {by[:10]} of {_time(at)}, is younger than seeds begun at {_time(when)}.")
        typed = [key for key, value in said.items() if study.records[0]["study"].get(key, value) != value]
        if typed:
            doubts.append(f"Changed on the command line, which no commit declares: study.{', study.'.join(typed)}.")
    lines.append(f"Trained from {_time(began)} to {_time(ended)}, from commit {', '.join(commits) or 'unknown'}.")
    facts = {"began": _time(began), "ended": _time(ended), "commits": commits, "versions": versions}
    return facts | {"clean": clean, "lines": list(dict.fromkeys(lines)), "doubts": list(dict.fromkeys(doubts))}


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """A record of before, which does not tell the batches of its seeds apart."""
    finished = record.get("finished") or 0.0
    facts = {key: record.get(key) for key in ("seeds", "versions", "commit", "clean")}
    return facts | {"began": finished - (record.get("wall_seconds") or 0.0), "finished": finished}


def _declaring(commit: str, experiment: str) -> tuple[str, float, dict[str, Any]] | None:
    """The last commit up to this one that changed the declaration, its time, and what it declares; None: git has none."""
    try:
        files, study = _declared(commit, experiment)
        said = _git("log", "-1", "--format=%H %ct", commit, "--", *files).split()
    except (OSError, subprocess.SubprocessError):
        return None
    return (said[0], float(said[1]), study) if said else None


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
