"""Whether the declaration came before the runs: what git knows of it, and what the records say."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from normdrop.report.records import Study

ROOT = Path(__file__).parents[3]


def declared_first(study: Study) -> tuple[str, list[str]]:
    """A line on which commit declared the study and when it was trained, and the doubts to tell at the top.

    The declaration is the file of the experiment that a record names, and those that it builds on, as they stood in the
    commit that it names: the youngest change counts, and must be older than every record of that commit.
    """
    records = study.records
    start = [record.get("finished", 0.0) - (record.get("wall_seconds") or 0.0) for record in records]
    began = min(start)
    ended = min(record.get("finished", 0.0) for record in records)
    commits = {record.get("commit") for record in records}
    first = f"the first condition began at {_time(began)} and was finished at {_time(ended)}"
    doubts = []
    if not all(record.get("clean") for record in records if record.get("commit")):
        doubts.append("Some conditions were trained from a tree with changes that no commit has.")
    if None in commits:
        return f"No commit was recorded, so nothing proves that the declaration came first; {first}.", doubts
    sources: dict[tuple[str, str], float] = {}  # and when the first of its records began
    for record, when in zip(records, start, strict=True):
        source = record["commit"], str(record["choices"].get("experiment"))
        sources[source] = min(when, sources.get(source, when))
    found = [(_declaring(*source), when) for source, when in sources.items()]
    known = [(*entry, when) for entry, when in found if entry is not None]
    if not known:
        return f"Trained from commit {', '.join(sorted(str(c)[:10] for c in commits))}; {first}.", doubts
    typed: dict[str, None] = {}
    for commit, at, declared, when in known:
        if at > when:
            doubts.append(
                f"The declaration is younger than a record: commit {commit[:10]} is of {_time(at)}, and its "
                f"first condition began at {_time(when)}."
            )
        told = {key: value for key, value in study.declaration.items() if value != declared.get(key, value)}
        typed |= dict.fromkeys(f"study.{key}={value} (declared: {declared[key]})" for key, value in told.items())
    if typed:
        doubts.append(f"Changed on the command line, which no commit declares: {', '.join(typed)}.")
    said = " and ".join(dict.fromkeys(f"{commit[:10]} of {_time(at)}" for commit, at, *_ in sorted(known, key=str)))
    return f"Declared in commit {said}; {first}.", doubts


def _declaring(commit: str, experiment: str) -> tuple[str, float, dict[str, Any]] | None:
    """The last commit up to this one that changed the declaration, its time, and what it declares; None if git knows of
    none."""
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
    built_on = [name for name in said.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    for base, declared in [*(_declared(commit, name) for name in built_on), ([], said.get("study") or {})]:
        files += base
        for key, value in declared.items():
            merged = isinstance(value, dict) and isinstance(study.get(key), dict)
            study[key] = {**study[key], **value} if merged else value
    return files, study


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=10, check=True).stdout


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
