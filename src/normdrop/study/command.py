"""The command line of this process."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

typed: list[str] = []  # as it was typed: what Hydra is given differs
# The folder of the study that was planned, with how many configurations it has.
planned: list[tuple[Path, int]] = []
# Overrides that the sweeper is to see and Hydra's first look at the config is not.
held: list[str] = []


def command() -> str:
    """The command line, as it can be typed again."""
    name = Path(sys.argv[0]).name
    return shlex.join(["normdrop" if name == "__main__.py" else name, *(typed or sys.argv[1:])])
