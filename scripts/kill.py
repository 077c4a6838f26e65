"""Kill sweeps at random moments, start them again, and compare their tables with those of a sweep left alone.

A moment is a number of changes seen in the folder of outputs, and up to 30 ms more. Signals come from outside: to the
sweep (SIGINT, SIGTERM, SIGKILL), and in every fifth sweep, where conditions train in processes side by side, also
SIGINT to all of them as Ctrl-C sends it, or SIGKILL to one worker; a worker whose parent is killed works on beside the
sweep that is started next. Exit status 1 if anything is not as in the sweep left alone. Five minutes on a quiet core.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LAUNCHERS = {"basic": ("hydra/launcher=basic",), "processes": ("hydra.launcher.n_jobs=2",)}


def start(folder: Path, launcher: str) -> int:
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
            sys.argv = ["normdrop", *SWEEP, *LAUNCHERS[launcher]]
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background has it ignored
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            app.main()
            status = 0
        except SystemExit as stop:
            print(stop.code, file=sys.stderr)
            status = 1
        finally:
            loky = sys.modules.get("joblib.externals.loky.reusable_executor")
            if loky and loky._executor:
                loky._executor.shutdown(kill_workers=True)
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
            if of == group and b"LokyProcess" in (process / "cmdline").read_bytes():
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="how many times to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, began = random.Random(arguments.seed), time.monotonic()
    killed: Counter[str] = Counter()
    starts = again = same = folders = tracebacks = 0
    with tempfile.TemporaryDirectory(prefix="normdrop-kill-") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        changes, status = watch(start(whole, "basic"), whole, float("inf"))
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
                pid = start(folder, launcher)
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
    from normdrop.data.sources import digits
    from normdrop.study import app

    digits()
    main()
