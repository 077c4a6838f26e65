"""normdrop-report DIRECTORY [--against REFERENCE]: write DIRECTORY/report and print the short answer."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from normdrop.report import page
from normdrop.report.answer import interval, number, partial
from normdrop.report.records import Found, load
from normdrop.report.verdicts import EXPLORATORY, each

SHORT = 20  # rows: of a longer table the console shows the declared family and the A/A rows alone


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="normdrop-report", description="Turn finished conditions into an answer.")
    parser.add_argument("directory", type=Path, help="outputs/<experiment>, or a folder of several experiments")
    parser.add_argument(
        "--against", type=Path, metavar="REFERENCE", help="say where this run differs from a reference's"
    )
    options = parser.parse_args(arguments)
    command = shlex.join(["normdrop-report", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        found = load(options.directory)
        written = page.write(found, command, options.against)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    _print(found, written)
    return 0


def _print(found: Found, written: page.Page) -> None:
    # A pipe or a log has no width of its own: as wide as the table needs.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    for section in written.sections:
        declaration = section.study.declaration
        a, b = (" or ".join(side) for side in section.study.sides)
        primary = section.rows[section.rows["metric"].isin(section.study.metrics)]
        if len(primary) > SHORT:
            primary = primary[primary["family"] != EXPLORATORY]
        level = f"{100 * (1 - declaration['alpha']):g} % interval"
        columns = ["data set", "position", "setting", "metric", "comparison", "difference", level, "verdict"]
        if not primary["setting"].any():
            columns.remove("setting")
        if len(section.study.metrics) == 1:
            columns.remove("metric")
        title = f"{section.slug}: {a} - {b}, {', '.join(section.study.metrics)} (* exploratory)"
        table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        for row in each(primary):
            comparison = row.comparison.replace("_", " ") + (
                f" {row.rate_a:g}" if row.comparison == "same_rate" else ""
            )
            cells = [row.dataset, row.position, *(getattr(row, c) for c in ("setting", "metric") if c in columns)]
            cells.append(comparison)
            cells += [number(row.estimate, row), interval(row.ci_low, row.ci_high, row)]
            table.add_row(*cells, row.verdict + ("*" if row.family == EXPLORATORY else ""))
        console.print(table)
        console.print(_plain(f"{section.answer.word}. {section.answer.sentence}"), style="bold", markup=False)
        for line in section.answer.beside:
            console.print(_plain(line), markup=False)
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
