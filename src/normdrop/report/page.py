"""The page: what was declared, answered and drawn, as report.html, report.md and tables beside them."""

from __future__ import annotations

import base64
import io
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd
from PIL import Image

from normdrop import tensorboard
from normdrop.report import figures, mechanism
from normdrop.report.against import compare_runs, read_reference
from normdrop.report.answer import Answer, Harness, answer, harness, interval, number, partial, say
from normdrop.report.checks import checks, replicated
from normdrop.report.contrasts import contrasts
from normdrop.report.records import Found, Study
from normdrop.report.verdicts import CENSORED, DECLARED, EXPLORATORY, HARNESS, each, verdicts


@dataclass
class Table:
    header: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, rows: Iterable[dict[str, str]]) -> Table:
        """The rows' cells under their keys; a column in which no row says anything is left out."""
        cells = list(rows)
        header = [key for key in (cells[0] if cells else {}) if any(row[key] != "—" for row in cells)]
        return cls(header, [[row[key] for key in header] for row in cells])

    def columns(self, names: Iterable[str]) -> Table:
        """Those of the named columns that there are, in this order."""
        at = [self.header.index(name) for name in names if name in self.header]
        return Table([self.header[i] for i in at], [[row[i] for i in at] for row in self.rows])

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass
class Section:
    """One study on the page."""

    study: Study
    rows: pd.DataFrame
    answer: Answer
    checks: list[str]
    declared: list[tuple[str, str]]
    family: Table
    others: Table
    mechanism: Table
    shift: Table
    figures: list[tuple[str, str, str]]
    """file name, caption, the PNG in base64"""
    reproduce: list[tuple[str, str]]
    slug: str


@dataclass
class Page:
    sections: list[Section]
    harness: Harness | None


def write(found: Found, command: str, against: Path | None = None) -> Page:
    """Write `report/` in the directory, whole or not at all: it replaces an earlier one in one step.

    against: a folder with the verdicts.csv of another run to compare with. Raises ValueError if there is none in it.
    """
    reference = None if against is None else read_reference(against)
    target = found.directory / "report"
    order = {claim: i for i, claim in enumerate(CLAIMS)}
    found.studies.sort(key=lambda s: (order.get(s.declaration["claim"], 99), s.root.name != s.declaration["claim"]))
    folder = Path(tempfile.mkdtemp(prefix=".report-", dir=found.directory))
    try:
        sections = [_section(study, slug, folder) for study, slug in zip(found.studies, _slugs(found), strict=True)]
        rows = pd.concat([s.rows for s in sections], ignore_index=True) if sections else pd.DataFrame()
        rows.to_csv(folder / "verdicts.csv", index=False)
        alpha = max((s.study.declaration["alpha"] for s in sections), default=0.05)
        page = Page(sections, harness(rows, alpha) if sections else None)
        both = None if reference is None else compare_runs(rows, reference)
        if both is not None:
            for section in sections:
                section.checks += replicated(
                    both[both["experiment"] == section.study.root.resolve().name], str(against)
                )
        replicates = pd.concat([s.study.replicates.assign(study=s.slug) for s in sections] or [pd.DataFrame()])
        replicates.to_csv(folder / "replicates.csv", index=False)
        context = {
            "sections": sections,
            "harness": page.harness,
            "found": found,
            "command": command,
            "partial": partial(found),
            "against": None if both is None else {"name": str(against), **_against(both)},
            "title": "normdrop: "
            + (sections[0].study.declaration["claim"] if len(sections) == 1 else found.directory.name),
        }
        for name in ("report.html", "report.md"):
            (folder / name).write_text(_templates(name).get_template(f"{name}.j2").render(context))
        if sections:
            tensorboard.write_report(
                folder,
                {f"{s.slug}/{file.removesuffix('.png')}": folder / file for s in sections for file, _, _ in s.figures},
                {
                    f"{s.slug}/verdicts": f"{s.answer.word}. {s.answer.sentence}\n\n"
                    + s.family.columns(IN_TENSORBOARD).markdown()
                    for s in sections
                },
                replicates if len(sections) == 1 else None,
            )
        folder.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=".report-old-", dir=found.directory))
            target.rename(old / "report")
            folder.rename(target)
            shutil.rmtree(old)
        else:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return page


def _templates(name: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normdrop.report", "templates"),
        autoescape=name.endswith("html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["rich_text"] = _rich_text
    environment.filters["say"] = say
    return environment


def _rich_text(text: str) -> markupsafe.Markup:
    """The two marks of Markdown that the answers use, as HTML."""
    safe = str(markupsafe.escape(text))
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return markupsafe.Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", safe))


# TensorBoard's TEXT tab breaks the words of a wider table.
IN_TENSORBOARD = ("data set", "position", "setting", "comparison", "metric", "A - B", "interval", "verdict", "n")

# The order of the post's claims in PROTOCOL.md; its first is the main one.
CLAIMS = [
    "ordering",
    "overfitting",
    "reliance",
    "speed",
    "initialisation",
    "drift",
    "complexity",
    "together",
    "mechanism",
]


def _slugs(found: Found) -> list[str]:
    """A name for each study: its claim, or among several its folder."""
    slugs: list[str] = []
    for study in found.studies:
        name = study.declaration["claim"] if study.root == found.directory else study.root.name
        names = [name, *(f"{name}-{i}" for i in range(2, len(found.studies) + 2))]
        slugs.append(next(name for name in names if name not in slugs))
    return slugs


def _section(study: Study, slug: str, folder: Path) -> Section:
    found = contrasts(study)
    rows = verdicts(study, found)
    shift = mechanism.shifts(study)
    pictures = []
    for name, caption, figure in figures.draw(study, found, rows, shift):
        file = f"{slug}-{name}.png"
        drawn = io.BytesIO()
        figure.savefig(drawn)
        # A palette holds all that a plot shows, in a quarter of the bytes.
        Image.open(drawn).convert("RGB").quantize(128).save(folder / file, optimize=True)
        pictures.append((file, caption, base64.b64encode((folder / file).read_bytes()).decode()))
    family = rows["comparison"].eq(study.declaration["family"]) | rows["family"].isin([DECLARED, HARNESS])
    return Section(
        study=study,
        rows=rows,
        answer=answer(study, rows),
        checks=checks(study, found, rows, shift),
        declared=_declared(study),
        family=_table(rows[family]),
        others=_table(rows[~family]),
        mechanism=_recalibration_table(mechanism.recalibration(study, found)),
        shift=_shift_table(shift),
        figures=pictures,
        reproduce=_reproduce(study),
        slug=slug,
    )


def _comparison(row: Any) -> str:
    if row.comparison == "a/a":
        return f"A/A: {row.a} again, rate {row.rate_a:g}"
    rates = f"{row.rate_a:g}" if row.rate_a == row.rate_b else f"{row.rate_a:g} / {row.rate_b:g}"
    if row.comparison == "way_out":
        return f"way out: {row.a}"
    if row.comparison == "same_rate":
        return f"same rate {rates}"
    return "data set means" if pd.isna(row.rate_a) else f"best vs best (mostly {rates})"


def _p(value: float) -> str:
    return "—" if pd.isna(value) else "< .0001" if value < 0.0001 else f"{value:.4f}"


def _table(rows: pd.DataFrame) -> Table:
    return Table.of(
        {
            "data set": row.dataset,
            "position": row.position,
            "setting": row.setting or "—",
            "comparison": _comparison(row),
            "metric": row.metric,
            "A - B": number(row.estimate, row),
            "interval": interval(row.ci_low, row.ci_high, row),
            "verdict": row.verdict + (" (exploratory)" if row.family == EXPLORATORY else ""),
            "new data": row.verdict_new_data,
            "n": f"{row.n}" + (f" ({row.left_out} left out)" if row.left_out else ""),
            "d_z": _decimals(row.d_z),
            "P(A > B)": _decimals(row.p_superior),
            "p": _p(row.p_value),
            "p (Holm)": _p(row.p_holm),
            "p (TOST)": _p(row.p_tost),
            "BCa interval": interval(row.bca_low, row.bca_high, row),
            "interval, new data": interval(row.new_low, row.new_high, row),
        }
        for row in each(rows)
    )


def _decimals(value: float, digits: int = 2) -> str:
    return "—" if pd.isna(value) else f"{value:.{digits}f}"


def _recalibration_table(table: pd.DataFrame) -> Table:
    return Table.of(
        {
            "data set": r.dataset,
            "position": r.position,
            "setting": r.setting or "—",
            "comparison": "best vs best" if r.comparison == "best_vs_best" else f"same rate {r.rate:g}",
            "n": str(r.n),
            "before (pp)": f"{100 * r.before:+.2f}",
            "after (pp)": f"{100 * r.after:+.2f}",
            "share explained": "no effect to explain" if pd.isna(r.share) else f"{100 * r.share:.0f} %",
            "interval": "—" if pd.isna(r.share) else f"{100 * r.low:.0f} to {100 * r.high:.0f} %",
        }
        for r in each(table)
    )


def _shift_table(table: pd.DataFrame) -> Table:
    return Table.of(
        {
            "data set": r.dataset,
            "arrangement": r.arrangement,
            "position": r.position,
            "rate": f"{r.rate:g}",
            "setting": r.setting or "—",
            "BN layer": str(r.layer),
            "case": str(r.case),
            "measured Δ": _decimals(r.measured, 3),
            "predicted Δ": _decimals(r.predicted, 3),
            "Δ against running": _decimals(r.running, 3),
            "replicates": str(r.seeds),
        }
        for r in each(table)
    )


def _declared(study: Study) -> list[tuple[str, str]]:
    d = study.declaration
    a, b = (" or ".join(side) for side in study.sides)
    better_of = ", the better of the two by validation, within each replicate" if len(study.sides[1]) > 1 else ""
    grids = [
        "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in grid.items()) for grid in d["grid"] if grid
    ]
    measures = {
        "difference": "mean paired difference",
        "ratio": "median paired ratio, runs that never reach the level counted as longer than any",
        "spread": f"within each replicate the standard deviation over {study.over}; its mean paired difference",
        "loss": f"within each replicate the value at {study.over} nearest 0 minus the mean of the others; its mean "
        "paired difference",
        "ladder": f"mean paired difference at each {study.over}, and its change from first to last along a fitted line",
        "mechanism": "mean paired difference, before and after recalibration",
    }
    counted = f"; of {CENSORED} the {measures['ratio']}" if CENSORED in study.metrics and d["kind"] != "ratio" else ""
    family = (
        f"every data set × position × setting, {d['family']}, {' and '.join(study.metrics)}; all else is exploratory"
    )
    return [
        ("Contrast", f"A = {a}, B = {b}{better_of}; the position is the same on both sides"),
        ("Measured as", measures[d["kind"]] + counted),
        ("Primary metric" + "s" * (len(study.metrics) > 1), ", ".join(study.metrics)),
        ("Secondary metrics", ", ".join(d["secondary"]) or "none"),
        (
            "Practical equivalence (ROPE)",
            ", ".join(_rope(metric, rope) for metric, rope in d["rope"].items()) or "none",
        ),
        (
            "Family under Holm",
            family if d["family"] else "none was declared: everything is exploratory",
        ),
        ("Alpha", f"{d['alpha']:g}"),
        ("Tuned on validation", ", ".join(d["tuned"])),
        ("Grid", " — and — ".join(grids) or "not recorded"),
    ]


def _rope(metric: str, rope: float) -> str:
    return f"{metric} within ×{1 / rope:.3g} to ×{rope:g}" if rope > 1 else f"{metric} ± {rope:g}"


def _reproduce(study: Study) -> list[tuple[str, str]]:
    def distinct(values: list[str]) -> str:
        return "; ".join(sorted(set(values)))

    records = study.records
    wall = sum(record.get("wall_seconds") or 0.0 for record in records)
    versions = [", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items()) for record in records]
    return [
        ("Command", distinct([record.get("command") or "not recorded" for record in records])),
        ("Versions", distinct(versions)),
        ("Hardware", distinct([f"{r.get('hardware') or 'not recorded'} ({r.get('device') or '?'})" for r in records])),
        ("Training time", f"{wall / 60:.1f} minutes of wall clock, summed over {len(records)} conditions"),
        ("Replicates", distinct([str(len(record["seeds"])) for record in records]) + " per condition"),
    ]


def _against(both: pd.DataFrame) -> dict[str, Any]:
    table = Table.of(
        {
            "claim": r.claim,
            "data set": r.dataset,
            "position": r.position,
            "setting": r.setting or "—",
            "comparison": r.comparison + (f" {r.rate:g}" if r.rate >= 0 else ""),
            "metric": r.metric,
            "here": number(r.estimate, r),
            "reference": number(r.estimate_reference, r),
            "t": f"{r.t:+.1f}",
            "p (Holm)": _p(r.p_holm),
            "verdict": r.verdict,
            "verdict there": r.verdict_reference,
        }
        for r in each(both[both["differs"] | both["verdict_differs"]])
    )
    counts = {name: int(both[name].sum()) for name in ("differs", "verdict_differs")}
    return {"compared": len(both), **counts, "table": table}
