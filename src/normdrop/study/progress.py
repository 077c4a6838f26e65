"""How far a sweep is: each configuration in work leaves a note, and one line tells of all processes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from normdrop.study import record
from normdrop.study.told import count, duration

DRAWN = 10  # seconds at least between two drawings of the overview
LONG = 30  # seconds after which, without a terminal, it is said what is in work


def note_of(root: Path, path: str) -> Path:
    """Where a configuration in work says how far it is; by a hash, since a path can be longer than a name may be."""
    return root / ".progress" / hashlib.sha256(path.encode()).hexdigest()[:16]


class Progressing:
    """What has ended of these configurations, what is in work, and how long the rest will take."""

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root, self.total, self.started = root, len(paths), time.monotonic()
        self.waiting = {note_of(root, path).name: (path, _stamp(root / path)) for path in paths}
        self.ended: list[str] = []

    def look(self) -> tuple[float, str]:
        """How many configurations are done, with parts of one, and what is in work, in words."""
        running: dict[str, tuple[float, str]] = {}
        for note in (self.root / ".progress").glob("*"):
            with suppress(OSError, ValueError, KeyError):  # it ends or is written at this moment, or is another sweep's
                part, _, epoch = note.read_text().partition(" ")
                running[self.waiting[note.name][0]] = float(part or 0), epoch
        for name, (path, before) in [*self.waiting.items()]:
            if path not in running and _stamp(self.root / path) != before:
                self.ended.append(path)
                del self.waiting[name]
        words = [f"{path} ({epoch})" if epoch else path for path, (_, epoch) in running.items()]
        return len(self.ended) + sum(part for part, _ in running.values()), ", ".join(words)

    def left(self, done: float) -> str:
        if done < 0.05:
            return "…"
        return duration((time.monotonic() - self.started) / done * (self.total - done))


@contextmanager
def display(root: Path, paths: Sequence[str]) -> Iterator[None]:
    """One progress line for all processes: on a terminal a bar, elsewhere a line for each configuration that ends."""
    progress, stop = Progressing(root, paths), threading.Event()
    pause = max(0.5, len(paths) / 2000)  # each look asks the disk about all that has not ended
    watcher = threading.Thread(target=_watch, args=(progress, stop, pause), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    taken = duration(time.monotonic() - progress.started)
    print(f"{len(progress.ended)} of {count(len(paths), 'configuration')} ended in {taken}")


def _watch(progress: Progressing, stop: threading.Event, pause: float) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(highlight=False, soft_wrap=True)
    told, said, over = 0, time.monotonic(), False
    drawn, draw_at = 0, time.monotonic()
    columns = (BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=progress.total, text="starting")
        while not over:
            over = stop.wait(pause)
            done, running = progress.look()
            left = f"about {progress.left(done)} left"
            finished = f"{len(progress.ended)} of {count(progress.total, 'configuration')} finished"
            bar.update(task, completed=done, text=f"{finished}, {left}; now {running}")
            if len(progress.ended) > drawn and (over or time.monotonic() >= draw_at):
                drawn, draw_at = len(progress.ended), _overview(progress.root)
            if console.is_terminal:
                continue
            for path in progress.ended[told:]:
                told += 1
                console.print(f"[{told}/{progress.total}] {path} ({left})", markup=False)
            if "(epoch" in running and time.monotonic() - said > LONG:
                said = time.monotonic()
                console.print(f"now {running}, {left}", markup=False)


def _overview(root: Path) -> float:
    """Draw what TensorBoard opens; when to do so again, such that it takes a small share of one core."""
    from normdrop import tensorboard  # here: the first configuration has ended, so that nothing waits for its import

    began = time.monotonic()
    tensorboard.write_overview_live(root)
    ended = time.monotonic()
    return ended + max(DRAWN, 20 * (ended - began))


def _stamp(directory: Path) -> tuple[int, ...]:
    """Changes when a configuration finishes or fails."""
    files = [directory / name for name in (record.RECORD, record.ERROR)]
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
