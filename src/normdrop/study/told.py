"""What is said to a person: errors in one line, the name that was meant, the command to type. Torch-free."""

from __future__ import annotations

import codecs
import difflib
import io
import os
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

typed: list[str] = []  # the command line as it was typed: what Hydra is given differs
held: list[str] = []  # overrides that the sweeper is to see and Hydra's first look at the config is not

# What other tools call a key of ours.
CALLED = {
    "seed": "first_seed, and replicates (how many)",
    "seeds": "first_seed, and replicates (how many)",
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "lr": "optimizer.lr",
    "dataset": "data",
    "data.path": "data=table, which has it",
    "dropout": "rate",
    "p": "rate",
    "precision": "replicates",
    "accelerator": "trainer.accelerator",
}


def prepare() -> None:
    """What both commands do first: speak UTF-8 whatever the locale says, and draw into files alone, whatever backend a
    notebook names: it may not be installed here, and every library that imports matplotlib would fail."""
    os.environ.pop("MPLBACKEND", None)
    for stream in (sys.stdout, sys.stderr):
        # One that is flushed for nothing would fail where the disk is full.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(encoding="utf-8")


def line(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def command() -> str:
    """The command line of this process, as it can be typed again."""
    name = Path(sys.argv[0]).name
    return shlex.join(["normdrop" if name == "__main__.py" else name, *(typed or sys.argv[1:])])


def runnable(program: str, *words: object) -> str:
    """A command line as it can be pasted here: with its program's folder where its name alone would not find it."""
    if not shutil.which(program):
        folder = Path(sys.executable).parent
        folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        program = str(folder / program)
    return shlex.join([program, *map(str, words)])


def nearest(value: object, names: Iterable[str]) -> str:
    """'; did you mean …?' for the name that comes nearest, whatever its case and its Unicode form; '' for none."""

    def folded(text: object) -> str:
        return unicodedata.normalize("NFC", str(text)).casefold()

    by_form = {folded(name): name for name in names}
    for close in difflib.get_close_matches(folded(value), by_form, n=1, cutoff=0.75):
        if by_form[close] != value:
            return f"; did you mean {by_form[close]}?"
    return ""


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One line for a key that there is not, with the nearest one that there is and what its group has."""
    names = sorted(known)
    group = key.partition(".")[0]
    has = [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]
    meant = f"; did you mean {CALLED[key]}?" if key in CALLED else nearest(key, names)
    text = f"{key}: there is no such key{meant}"
    if group == "trainer":
        text += "; the seeds train as one stack on one device (see optimizer.clip, logging)"
    if group == "model" and "function" in has:
        text += f"; an argument of the function is typed with a plus, +{key}=…"
    return f"{text}; allowed are {', '.join(has)}" if has else text


def duration(seconds: float) -> str:
    """'12 s', '3 min', '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
