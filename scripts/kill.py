"""Kill sweeps at random moments, start them again, and compare their tables with those of a sweep left alone.

A moment is a number of changes seen in the folder of outputs, and up to 30 ms more. Signals come from outside: to the
sweep (SIGINT, SIGTERM, SIGKILL), and in every fifth sweep, where configurations train in processes side by side, also
SIGINT to all of them as Ctrl-C sends it, or SIGKILL to one worker; a worker whose parent is killed ends the one in work
beside the sweep that is started next. It stops with exit status 1 at the first thing that is not as it must be: tables,
a finished configuration that trains again, a traceback. Fifteen minutes on a quiet core.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import random
import signal
import subprocess
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


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """The command as a process of its own group."""
    with open(folder / "said", "w") as said:
        command = [sys.executable, "-m", "normdrop", *arguments]
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)


def workers(group: int) -> list[int]:
    """The workers of a sweep, its orphans too: they stay in its group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = int((process / "stat").read_text().rpartition(")")[2].split()[2])
            if of == group != int(process.name):
                found.append(int(process.name))
    return found


def kill(processes: list[int], sign: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, sign)


def state(folder: Path) -> set[tuple[str, int]]:
    """The files of the outputs, and when each was written."""
    found = set()
    for here, _, files in os.walk(folder / "outputs"):
        for name in files:
            with contextlib.suppress(OSError):
                found.add((f"{here}/{name}", os.stat(f"{here}/{name}").st_mtime_ns))
    return found


def finished(folder: Path) -> set[tuple[str, int]]:
    return {(path, written) for path, written in state(folder) if path.endswith("record.json")}


def watch(process: subprocess.Popen, folder: Path, changes: float = math.inf) -> tuple[int, int | None]:
    """Wait for a number of changes or for the end: (changes seen, exit status or None)."""
    seen, first = 0, state(folder)
    while seen < changes and process.poll() is None:
        time.sleep(0.002)
        now = state(folder)
        seen += len(now - first)
        first = now
    return seen, process.returncode


def tables(folder: Path) -> dict[str, str]:
    paths = sorted((folder / "outputs").rglob("*.csv"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def must(holds: bool, otherwise: str, folder: Path) -> None:
    """Ends all with what the sweep said, unless this holds."""
    if not holds:
        sys.exit(f"\n{folder.name}: {otherwise}\n{(folder / 'said').read_text()}")


def alone(folder: Path, *arguments: str) -> int:
    """Run it in a new folder, left alone: the changes that were seen."""
    folder.mkdir()
    changes, status = watch(start(folder, *arguments), folder)
    must(status == 0, "failed by itself", folder)
    return changes


def short(place: Path, moments: int, rng: random.Random) -> None:
    """Kill sweeps at so many moments, each sweep until it ends."""
    killed: Counter[str] = Counter()
    began, sweeps = time.monotonic(), 0
    changes = alone(place / "whole", *SWEEP, *LAUNCHERS["basic"])
    assert len(tables(place / "whole")) == 10
    while killed.total() < moments:
        sweeps += 1
        folder, launcher, status = place / str(sweeps), "processes" if sweeps % 5 == 0 else "basic", 1
        folder.mkdir()
        orphans: list[int] = []
        while status != 0:
            done = finished(folder)
            sweep = start(folder, *SWEEP, *LAUNCHERS[launcher])
            _, status = watch(sweep, folder, rng.randrange(1, changes))
            must(not status, "failed by itself", folder)
            if status is None:
                name = end(sweep.pid, launcher, rng)
                _, status = watch(sweep, folder)
                if status:
                    killed[name] += 1
                    orphans += workers(sweep.pid)
            must(done <= finished(folder), "what was finished was trained again", folder)
            must("Traceback" not in (folder / "said").read_text(), "ended in a traceback", folder)
        kill(orphans, signal.SIGKILL)
        must(tables(folder) == tables(place / "whole"), "its tables are not those of the sweep left alone", folder)
        print(f"\r{killed.total()} moments", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for name, number in sorted(killed.items()):
        print(f"{number:4} × {name}")
    minutes = (time.monotonic() - began) / 60
    print(f"{killed.total()} moments in {sweeps} sweeps of 5 configurations and 3 seeds, {minutes:.1f} min:")
    print("the tables are those of a sweep left alone; nothing finished was trained again; no traceback")


def end(pid: int, launcher: str, rng: random.Random) -> str:
    """Send a signal drawn at random; its name."""
    time.sleep(rng.random() * 0.03)
    targets = {f"{launcher}: {sign.name} to the sweep": (sign, [pid]) for sign in SIGNALS}
    if launcher == "processes":
        targets["processes: SIGINT to all"] = (signal.SIGINT, [-pid])
        targets["processes: SIGKILL to a worker"] = (signal.SIGKILL, workers(pid)[:1])
    name = rng.choice(sorted(targets))
    sign, processes = targets[name]
    kill(processes, sign)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="how many times to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="normdrop-kill-") as place:
        short(Path(place), given.moments, random.Random(given.seed))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script in the background ignores, its children do
    main()
