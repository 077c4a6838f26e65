"""Kill sweeps at random moments, start them again, and compare their tables with those of a sweep left alone.

A moment is a number of changes seen in the folder of outputs, and up to 30 ms more. Signals come from outside: to the
sweep (SIGINT, SIGTERM, SIGKILL), and in every fifth sweep, where configurations train in processes side by side, also
SIGINT to all of them as Ctrl-C sends it, or SIGKILL to one worker; a worker whose parent is killed ends the one in work
beside the sweep that is started next. Exit status 1 if anything is not as in the sweep left alone. Five minutes on a
quiet core.

--long MINUTES makes one condition of at least so long, kills it 20 times at random and says how much training was lost
each time, beside what is promised: `checkpoint_minutes` and one interval between validations. Twice that time and more.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
SWEEP = (
    *("arrangement=none,bn_dropout,dropout_bn", "rate=0.2,0.5", "replicates=3", "replicates_at_a_time=1"),
    *("data.train_size=40", "batch_size=20", "model.width=3", "model.depth=1", "trainer.max_epochs=4"),
    *("trainer.accelerator=cpu", "logging=minimal", "name=sweep", "checkpoint_minutes=0", "engine=torch"),
)
ONE = (
    *("arrangement=bn_dropout", "trainer.accelerator=cpu", "logging=minimal", "name=one", "engine=torch"),
    "hydra/launcher=basic",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LAUNCHERS = {"basic": ("hydra/launcher=basic",), "processes": ("hydra.launcher.n_jobs=2",)}


def start(folder: Path, *arguments: str) -> int:
    """The application as a process of its own group: a copy of this one, which has imported everything."""
    (folder / "said").write_text("")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid
    status = 70
    try:  # whatever is raised, in the inner `finally` too, this copy ends here
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            out = os.open(folder / "said", os.O_WRONLY | os.O_APPEND)
            os.dup2(out, 1), os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv = ["normdrop", *arguments]
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background has it ignored
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            app.main()
            status = 0
        except SystemExit as stop:
            print(stop.code, file=sys.stderr)
            status = 1
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(status)


def workers(group: int) -> list[int]:
    """The workers of a sweep, its orphans too: they stay in its group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = int((process / "stat").read_text().rpartition(")")[2].split()[2])
            if of == group != int(process.name):
                found.append(int(process.name))
    return found


def state(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for here, _, files in os.walk(folder / "outputs"):
        for name in files:
            with contextlib.suppress(OSError):
                found.add((f"{here}/{name}", os.stat(f"{here}/{name}").st_mtime_ns))
    return found


def watch(pid: int, folder: Path, changes: float) -> tuple[int, int | None]:
    """Wait for a number of changes or for the end: (changes seen, exit status or None)."""
    seen, first = 0, state(folder)
    while seen < changes:
        now = state(folder)
        seen += len(now - first)
        first = now
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return seen, os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return seen, None


def tables(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "outputs").rglob("*.csv"))
    }


def finished(folder: Path) -> set[tuple[str, int, int]]:
    paths = (folder / "outputs").rglob("record.json")
    return {(str(path), path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def alone(folder: Path, *arguments: str) -> float:
    """Train one condition in a new folder, left alone; the seconds that it took."""
    folder.mkdir()
    _, status = watch(start(folder, *arguments), folder, float("inf"))
    assert status == 0, (folder / "said").read_text()
    return json.loads(next(folder.rglob("record.json")).read_text())["wall_seconds"]


def attempt(folder: Path, arguments: tuple[str, ...], seconds: float, sign: signal.Signals) -> tuple[float, float, int]:
    """Train one condition and kill it so many seconds after it began, before it ends: the seconds of training that are
    lost, the longest interval between two validations, and the epochs that are lost."""
    notes = folder / "outputs/one/.progress"
    for note in notes.glob("*"):
        note.unlink()
    pid, said, began, told, longest = start(folder, *arguments), "", 0.0, 0.0, 0.0
    while not began or time.time() < began + seconds:
        time.sleep(0.002)
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, f"it ended by itself:\n{(folder / 'said').read_text()}"
        with contextlib.suppress(OSError, StopIteration):
            if (note := next(notes.iterdir()).read_text()) not in ("", said):
                began, told = began or time.time(), told or time.time()
                said, told, longest = note, time.time(), max(longest, time.time() - told)
    os.kill(pid, sign)
    killed = time.time()
    os.waitpid(pid, 0)
    kept = max(folder.rglob("checkpoint-*.ckpt"), default=None)
    epoch = torch.load(kept, weights_only=True)["epoch"] + 1 if kept else 0
    reached = int(said.split()[2]) if "epoch" in said else epoch
    since = max(began, kept.stat().st_mtime if kept else 0)
    return killed - since, max(longest, killed - told), max(reached - epoch, 0)


def long(place: Path, minutes: float, kills: int, rng: random.Random) -> bool:
    """Whether one condition of so many minutes, killed so many times, lost no more than is promised and no byte."""
    promised = minutes / 100  # of checkpoint_minutes: several checkpoints between two kills
    epochs = math.ceil(1.3 * 60 * minutes / (alone(place / "short", *ONE, "trainer.max_epochs=20") / 20))
    condition = (*ONE, f"trainer.max_epochs={epochs}", f"checkpoint_minutes={promised}")
    whole = alone(place / "whole", *condition)
    print(f"left alone it takes {whole / 60:.1f} min: {epochs} epochs, a validation after each", flush=True)
    folder = place / "killed"
    folder.mkdir()
    # Each within its share, so that the condition does not end before the last.
    moments = [(rng.random() * whole / kills, rng.choice(SIGNALS)) for _ in range(kills)]
    lost, longest, again = zip(*(attempt(folder, condition, *moment) for moment in moments), strict=True)
    _, status = watch(start(folder, *condition), folder, float("inf"))
    same = status == 0 and tables(folder) == tables(place / "whole")
    kept = sum(seconds <= 60 * promised + interval for seconds, interval in zip(lost, longest, strict=True))
    print(
        f"killed {kills} times: lost {sum(lost) / kills:.1f} s on average, {max(lost):.1f} s at most; the promise, "
        f"{60 * promised:.1f} s and an interval, {max(longest):.1f} s at most, was kept {kept} times; {sum(again)} "
        f"of {epochs} epochs trained again; the tables are {'' if same else 'NOT '}those of the condition left alone"
    )
    return same and kept == kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="how many times to kill (default: 100)")
    parser.add_argument("--long", type=float, metavar="MINUTES", help="kill one condition of at least so long instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, began = random.Random(arguments.seed), time.monotonic()
    killed: Counter[str] = Counter()
    starts = again = same = folders = tracebacks = 0
    if arguments.long:
        with tempfile.TemporaryDirectory(prefix="normdrop-kill-") as place:
            sys.exit(not long(Path(place), arguments.long, 20, rng))
    with tempfile.TemporaryDirectory(prefix="normdrop-kill-") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        changes, status = watch(start(whole, *SWEEP, *LAUNCHERS["basic"]), whole, float("inf"))
        assert status == 0, (whole / "said").read_text()
        expected = tables(whole)
        assert len(expected) == 10, expected
        while sum(killed.values()) < arguments.moments:
            folders += 1
            folder = Path(place) / str(folders)
            folder.mkdir()
            launcher, orphans, status = ("processes" if folders % 5 == 0 else "basic"), [], 1
            while status != 0:
                done = finished(folder)
                pid = start(folder, *SWEEP, *LAUNCHERS[launcher])
                starts += 1
                _, status = watch(pid, folder, rng.randrange(changes))
                if status is None:
                    time.sleep(rng.random() * 0.03)
                    targets = {f"{sign.name} to the sweep": (sign, [pid]) for sign in SIGNALS}
                    if launcher == "processes":
                        targets["SIGINT to all"] = (signal.SIGINT, [-pid])
                        targets["SIGKILL to a worker"] = (signal.SIGKILL, workers(pid)[:1])
                    name = rng.choice(sorted(targets))
                    sign, processes = targets[name]
                    with contextlib.suppress(ProcessLookupError):
                        for process in processes:
                            os.kill(process, sign)
                    _, status = watch(pid, folder, float("inf"))
                    if status:
                        killed[f"{launcher}: {name}"] += 1
                        orphans += workers(pid)
                elif status:
                    sys.exit(f"a sweep failed by itself:\n{(folder / 'said').read_text()}")
                said = (folder / "said").read_text()
                tracebacks += "Traceback" in said
                again += not done <= finished(folder)
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            if tables(folder) == expected:
                same += 1
                print(f"\r{sum(killed.values())} moments", end="", file=sys.stderr, flush=True)
            else:
                print(f"folder {folders}: its tables are not those of the sweep left alone")
    print(file=sys.stderr)
    for name, number in sorted(killed.items()):
        print(f"{number:4} × {name}")
    print(
        f"{sum(killed.values())} moments in {folders} sweeps of 5 conditions and 3 replicates ({starts} starts, "
        f"{(time.monotonic() - began) / 60:.1f} min): the tables of {same} of {folders} sweeps are those of a sweep "
        f"left alone; in {again} starts a finished condition was trained again; {tracebacks} ended in a traceback"
    )
    sys.exit(same != folders or again > 0 or tracebacks > 0)


if __name__ == "__main__":
    import torch

    from normdrop.data.sources import digits
    from normdrop.study import app, job  # noqa: F401  what a copy of this process need not import again

    digits()
    main()
