"""How far a sweep is: each condition in work leaves a note, and one line tells of all processes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from normdrop.study import record

LONG = 30  # seconds after which a condition in work says its epoch; without a terminal as often


def note_of(root: Path, path: str) -> Path:
    """Where a condition in work says how far it is; named by a hash, since a path can be longer than a name may be."""
    return root / ".progress" / hashlib.sha256(path.encode()).hexdigest()[:16]


@contextmanager
def display(console: Console, root: Path, paths: Sequence[str]) -> Iterator[None]:
    """One progress line for all processes: on a terminal a bar, elsewhere a line for each condition that ends."""
    notes = {note_of(root, path).name: path for path in paths}
    started, stop = time.monotonic(), threading.Event()
    waiting = {path: _stamp(root / path) for path in paths}
    ended: list[str] = []
    pause = max(0.5, len(paths) / 2000)  # each look asks the disk about all that has not ended
    began: dict[str, float] = {}

    def look() -> tuple[float, str]:
        parts, epochs = {}, {}
        for note in (root / ".progress").glob("*"):
            try:
                if note.name in notes:
                    path = notes[note.name]
                    part, _, epochs[path] = note.read_text().partition(" ")
                    parts[path] = float(part or 0)
                    began.setdefault(path, time.monotonic())
            except (OSError, ValueError):  # it ended, or is being written, at this moment
                continue
        now = [path for path, before in waiting.items() if path not in parts and _stamp(root / path) != before]
        for path in now:
            del waiting[path]
        ended.extend(now)
        running = {path: part for path, part in parts.items() if path in waiting}
        long = {path for path in running if epochs[path] and time.monotonic() - began[path] > LONG}
        words = [f"{path} ({epochs[path]})" if path in long else path for path in running]
        return len(ended) + sum(running.values()), ", ".join(words)

    def remaining(done: float) -> str:
        if done < 0.05:
            return "…"
        left = (time.monotonic() - started) / done * (len(paths) - done)
        return f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"

    def watch() -> None:
        if not console.is_terminal:
            told, said = 0, time.monotonic()
            while not stop.wait(pause):
                done, running = look()
                if "(epoch" in running and time.monotonic() - said > LONG:
                    said = time.monotonic()
                    console.print(f"now {running}, {remaining(done)} left", markup=False, soft_wrap=True)
                for path in ended[told:]:
                    console.print(
                        f"[{told + 1}/{len(paths)}] {path} ({remaining(done)} left)", markup=False, soft_wrap=True
                    )
                    told += 1
            look()
            for path in ended[told:]:
                told += 1
                console.print(f"[{told}/{len(paths)}] {path}", markup=False, soft_wrap=True)
            return
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=len(paths), text="starting")
            while not stop.wait(pause):
                done, running = look()
                text = f"condition {len(ended)} of {len(paths)} finished, {remaining(done)} left; now {running}"
                bar.update(task, completed=done, text=text)
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    minutes = (time.monotonic() - started) / 60
    console.print(f"{len(ended)} of {len(paths)} conditions ended in {minutes:.1f} min")


def _stamp(directory: Path) -> tuple[int, ...]:
    """Changes when a condition finishes or fails."""
    files = [directory / name for name in (record.RECORD, record.ERROR)]
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
