"""normdrop-report FOLDER: write FOLDER/report and FOLDER/overview, and print the answer and what to open."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

# The rest is imported where it is needed: --help and what is refused at once shall not wait for it.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="normdrop-report", description="Turn what has finished into an answer.")
    parser.add_argument("folder", type=Path, help="outputs/<name>, or a folder of several studies")
    parser.add_argument("--against", type=Path, metavar="OTHER", help="say where this run differs from that one")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="first write seeds and records, made small, to DIR; report on those"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write report/ and overview/ to DIR, not to FOLDER")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that has no − gets a ?
    try:
        _check(options)
        _report(options)
    except (ValueError, OSError) as error:
        print(f"normdrop-report: {error}", file=sys.stderr)
        return 1
    return 0


def _check(options: Any) -> None:
    """Raises ValueError for what cannot work, before anything is computed."""
    for name, folder in (("FOLDER", options.folder), ("--against", options.against)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name} {folder}: no such folder")
    target = options.output or options.publish or options.folder
    existing = next(parent for parent in (target, *target.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"{existing}: cannot be written to; --output DIR puts the report elsewhere")


def _report(options: Any) -> None:
    from normdrop.report import page, publish
    from normdrop.report.study import load

    _tell(f"reading {options.folder}")
    folder = options.folder
    studies = load(folder)
    if options.publish:
        publish.write(studies, options.publish)
        folder = options.publish
        studies = load(folder)
    other = load(options.against) if options.against else []
    target = options.output or folder
    sections = page.write(studies, target / "report", other, _tell)
    _tell("")
    overview = _overview(sections, target)
    for line in page.spoken(sections):
        print(line)
    print(f"Page: {target / 'report' / 'report.html'}")
    if overview:
        print(f"TensorBoard: tensorboard --logdir {overview}")


def _overview(sections: list[Any], target: Path) -> Path | None:
    """Write what TensorBoard opens, of each study that has its learning curves; returns the folder to open."""
    from normdrop import tensorboard
    from normdrop.report import page

    written = []
    for section in sections:
        if page.has_curves(section):
            figures = {name: target / "report" / file for name, file in section.figures.items()}
            tensorboard.write_overview(section.study.folder, page.texts(section), figures)
            written.append(section.study.folder / "overview")
    return written[0] if len(written) == 1 else target if written else None


def _tell(line: str) -> None:
    """Where the work stands: one line that is written over, on a terminal; else a line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
