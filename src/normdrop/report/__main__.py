"""normdrop-report DIRECTORY [--against REFERENCE]: write DIRECTORY/report and print the short answer."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from rich.console import Console

from normdrop.report import page, publish, readme
from normdrop.report.answer import partial
from normdrop.report.records import Found, load

WIDTH = 130  # of a pipe or a log, which has none of its own


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="normdrop-report", description="Turn finished conditions into an answer.")
    parser.add_argument("directory", type=Path, help="outputs/<experiment>, or a folder of several experiments")
    parser.add_argument(
        "--against", type=Path, metavar="REFERENCE", help="say where this run differs from a reference's"
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="first write the replicates and records, made small, to FOLDER, and report on those",
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the table of answers between FILE's marks")
    options = parser.parse_args(arguments)
    command = shlex.join(["normdrop-report", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        found = load(options.directory)
        if options.publish:
            publish.write(found, options.publish)
            found = load(options.publish)
        written = page.write(found, command, options.against)
        if options.readme:
            readme.put(options.readme, found.directory / "report")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    _print(found, written)
    return 0


def _print(found: Found, written: page.Page) -> None:
    # A pipe or a log has no width of its own: as wide as the table needs.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for section in written.sections:
        said = section.answer
        console.print(section.study.declaration["sentence"] or section.slug, style="dim", markup=False)
        console.print(f"{said.word}. {_plain(said.sentence)}", style="bold", markup=False)
        console.print(section.neighbours or "No test accuracy or NLL was measured beside it.", markup=False)
        console.print(_plain(" ".join(said.first) or "Nothing at the top: no doubt was found."), markup=False)
        change = " ".join(section.change[:1]) or "Other data: every row of the family is settled here."
        console.print(f"What would change it: {_plain(change)}", markup=False)
    if written.harness:
        alarm = written.harness.alarm
        console.print(
            ("Alarm: " if alarm else "A/A: ") + written.harness.sentence,
            style="bold red" if alarm else None,
            markup=False,
        )
    for what, names in (("failed", found.failed), ("not finished", found.unfinished), ("damaged", found.damaged)):
        for name, reason in list(names.items())[:20]:
            console.print(f"{what}: {name}: {reason}", markup=False, soft_wrap=True)
        if len(names) > 20:
            console.print(f"{what}: {len(names) - 20} more, in the report")
    if found.unfinished:
        console.print(partial(found), style="bold")
    console.print(f"Report: {found.directory / 'report' / 'report.html'}", markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    return re.sub(r"\*\*|`", "", text)


if __name__ == "__main__":
    sys.exit(main())
