"""How far a sweep is: each condition in work leaves a note, and one line tells of all processes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from normdrop.study import record

console = Console(highlight=False, soft_wrap=True)
LONG = 30  # seconds after which a condition in work says its epoch; without a terminal as often


def note_of(root: Path, path: str) -> Path:
    """Where a condition in work says how far it is; named by a hash, since a path can be longer than a name may be."""
    return root / ".progress" / hashlib.sha256(path.encode()).hexdigest()[:16]


@contextmanager
def display(root: Path, paths: Sequence[str]) -> Iterator[None]:
    """One progress line for all processes: on a terminal a bar, elsewhere a line for each condition that ends."""
    started, stop = time.monotonic(), threading.Event()
    waiting = {note_of(root, path).name: (path, _stamp(root / path)) for path in paths}
    ended: list[str] = []
    pause = max(0.5, len(paths) / 2000)  # each look asks the disk about all that has not ended
    began: dict[str, float] = {}

    def look() -> tuple[float, str]:
        running: dict[str, tuple[float, str]] = {}
        for note in (root / ".progress").glob("*"):
            with suppress(OSError, ValueError, KeyError):  # it ends or is written at this moment, or is another sweep's
                part, _, epoch = note.read_text().partition(" ")
                running[waiting[note.name][0]] = float(part or 0), epoch
        for name, (path, before) in [*waiting.items()]:
            if path not in running and _stamp(root / path) != before:
                ended.append(path)
                del waiting[name]
        words = []
        for path, (_, epoch) in running.items():
            long = time.monotonic() - began.setdefault(path, time.monotonic()) > LONG
            words.append(f"{path} ({epoch})" if epoch and long else path)
        return len(ended) + sum(part for part, _ in running.values()), ", ".join(words)

    def remaining(done: float) -> str:
        if done < 0.05:
            return "…"
        left = (time.monotonic() - started) / done * (len(paths) - done)
        return f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"

    def watch() -> None:
        told, said, over = 0, time.monotonic(), False
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=len(paths), text="starting")
            while not over:
                over = stop.wait(pause)
                done, running = look()
                left = f"{remaining(done)} left"
                text = f"condition {len(ended)} of {len(paths)} finished, {left}; now {running}"
                bar.update(task, completed=done, text=text)
                if console.is_terminal:
                    continue
                for path in ended[told:]:
                    told += 1
                    console.print(f"[{told}/{len(paths)}] {path} ({left})", markup=False)
                if "(epoch" in running and time.monotonic() - said > LONG:
                    said = time.monotonic()
                    console.print(f"now {running}, {left}", markup=False)

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
