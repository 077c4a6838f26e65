"""How far a sweep is: each configuration in work leaves a note, and one line tells of all processes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from normdrop.asked import count
from normdrop.study import record
from normdrop.study.plan import Condition
from normdrop.study.told import duration

PACE = 600  # seconds whose pace tells how long the rest takes
DRAWN = 10  # seconds at least between two drawings of the overview


def note_of(root: Path, path: str) -> Path:
    """Where a configuration in work says how far it is; by a hash, since a path can be longer than a name may be."""
    return root / ".progress" / hashlib.sha256(path.encode()).hexdigest()[:16]


@contextmanager
def display(root: Path, todo: Sequence[Condition]) -> Iterator[None]:
    """One progress line for all processes: on a terminal a bar, elsewhere a line for each configuration that ends."""
    began, stop, ended = time.monotonic(), threading.Event(), list[str]()
    watcher = threading.Thread(target=_watch, args=(root, todo, ended, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    taken = duration(time.monotonic() - began)
    print(f"{len(ended)} of {count(len(todo), 'configuration')} ended in {taken}")


def _watch(root: Path, todo: Sequence[Condition], ended: list[str], stop: threading.Event) -> None:
    """Look at the notes and the records until told to stop, show how far it is, and put down what has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(highlight=False, soft_wrap=True)
    total, over, drawn, left = len(todo), False, time.monotonic(), ""
    early = any(condition.config["patience"] is not None for condition in todo)
    waiting = {condition.path: _stamp(root / condition.path) for condition in todo}
    notes = {note_of(root, path).name: path for path in waiting}
    columns = (BarColumn(), TextColumn("{task.description}"))
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet, speed_estimate_period=PACE) as bar:
        task = bar.add_task("starting", total=total)
        while not over:
            wait = 0.5 if left else 0.1  # until what it costs is known
            over = stop.wait(max(wait, total / 2000))  # each look asks the disk about all that has not ended
            running = _running(root, notes)
            new = [path for path in waiting if path not in running and _stamp(root / path) != waiting[path]]
            done = len(ended) + len(new) + sum(part for part, _ in running.values())
            bar.update(task, completed=done)
            seconds = bar.tasks[0].time_remaining if done >= 0.05 else None
            # Seeds that validation stops end before their last epoch, at which pace none has yet.
            word = "at most" if early and not ended and not new else "about"
            told, left = left, f" ({word} {duration(seconds)} left)" if seconds else ""
            if left and not told and not ended:  # what the whole costs here, as soon as it is known
                console.print(f"{count(total, 'configuration')}{left}", markup=False)
            for path in new:
                del waiting[path]
                ended.append(path)
                failed = " failed" if (root / path / record.ERROR).exists() else ""
                if quiet:
                    console.print(f"[{len(ended)}/{total}] {path}{failed}{left}", markup=False)
            now = ", ".join(f"{path} {epoch}" for path, (_, epoch) in running.items())
            said = f"{len(ended)} of {count(total, 'configuration')} finished{left}; now {now}"
            bar.update(task, description=said)
            if ended and (over or time.monotonic() >= drawn):
                drawn = _overview(root)


def _running(root: Path, notes: Mapping[str, str]) -> dict[str, tuple[float, str]]:
    """How much of each configuration in work is done, and its epoch in words."""
    running = {}
    for note in (root / ".progress").glob("*"):
        with suppress(OSError, ValueError, KeyError):  # it ends or is written at this moment, or is another sweep's
            part, _, epoch = note.read_text().partition(" ")
            running[notes[note.name]] = float(part or 0), epoch
    return running


def _overview(root: Path) -> float:
    """Draw what TensorBoard opens; when to do so again, such that it takes a small share of one core."""
    from normdrop import tensorboard  # here: the first configuration has ended, so that nothing waits for its import

    began = time.monotonic()
    tensorboard.write_overview_live(root)
    ended = time.monotonic()
    return ended + max(DRAWN, 20 * (ended - began))


def _stamp(directory: Path) -> list[int]:
    """Changes when a configuration finishes or fails."""
    files = [directory / name for name in (record.RECORD, record.ERROR)]
    return [file.stat().st_mtime_ns for file in files if file.exists()]
