"""The README's table of answers, of a report's words.csv alone: whoever makes that anew makes this anew."""

from pathlib import Path

import pandas as pd

from normdrop.report.tables import Table

FIRST, LAST = "<!-- answer -->", "<!-- /answer -->"


def table(report: Path) -> str:
    """One row per declared study of a report's folder, as Markdown. Raises ValueError if it has no words.csv."""
    if not (report / "words.csv").exists():
        raise ValueError(f"{report}: no words.csv in it; normdrop-report writes it")
    words = pd.read_csv(report / "words.csv", keep_default_na=False)
    words = words[words["these_rows"] != ""]
    again = words["sentence"] == words["sentence"].shift()
    said = words["sentence"].str.rstrip(".").mask(again, "the same")
    rows = [
        {
            "the post says": f"{sentence} (`{row['experiment']}`)",
            "on these rows": f"**{row['these_rows']}**",
            "for new data": f"**{row['new_data']}**",
            "by how much (A − B): verdicts on these rows": row["amount"],
        }
        for row, sentence in zip(words.to_dict("records"), said, strict=True)
    ]
    return Table.of(rows).markdown()


def put(readme: Path, report: Path) -> None:
    """Write the table between the README's two marks. Raises ValueError unless it has each of them once, in order."""
    text = readme.read_text()
    head, *rest = text.split(FIRST)
    if len(rest) != 1 or len(tail := rest[0].split(LAST)) != 2:
        raise ValueError(f"{readme}: needs one {FIRST} and after it one {LAST}")
    readme.write_text(f"{head}{FIRST}\n{table(report)}\n{LAST}{tail[1]}")
