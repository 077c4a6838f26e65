"""The page: what was declared, answered and drawn, as report.html, report.md and tables beside them."""

from __future__ import annotations

import base64
import io
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from normdrop import tensorboard
from normdrop.report import against as beside
from normdrop.report import figures, mechanism, population, regime
from normdrop.report.answer import Answer, Harness, answer, harness, partial, say
from normdrop.report.checks import EDGE, checks, largest, neighbours, unsettled, would_change
from normdrop.report.checks import declared as declared_contrasts
from normdrop.report.checks import edges as tuning_edges
from normdrop.report.contrasts import contrasts
from normdrop.report.provenance import declared_first
from normdrop.report.records import Found, Study
from normdrop.report.tables import (
    Table,
    against_table,
    declared,
    pooled_table,
    ranking_table,
    recalibration_table,
    replicated_table,
    reproduced,
    sensitivity_table,
    short_table,
    verdict_table,
)
from normdrop.report.verdicts import DECLARED, HARNESS, verdicts


@dataclass
class Section:
    """One study on the page."""

    study: Study
    slug: str
    rows: pd.DataFrame
    answer: Answer
    neighbours: str | None
    change: list[str]
    """what would change the answer"""
    checks: list[str]
    declared: list[tuple[str, str]]
    reproduce: list[tuple[str, str]]
    figures: list[tuple[str, str, str]]
    """file name, caption, the PNG in base64"""
    short: Table
    ranking: Table
    family: Table
    mechanism: Table
    unfolded: list[tuple[Table, str]]
    """further tables of the page, with their titles"""
    written: dict[str, pd.DataFrame]
    """further tables that are written beside verdicts.csv"""


@dataclass
class Page:
    sections: list[Section]
    harness: Harness | None


def write(found: Found, command: str, against: Path | None = None) -> Page:
    """Write `report/` in the directory, whole or not at all: it replaces an earlier one in one step.

    against: a folder with the verdicts.csv of another run to compare with. Raises ValueError if there is none in it.
    """
    reference = None if against is None else beside.read_reference(against)
    target = found.directory / "report"
    folder = Path(tempfile.mkdtemp(prefix=".report-", dir=found.directory))
    try:
        sections = [_section(study, slug, folder) for study, slug in zip(found.studies, _slugs(found), strict=True)]
        rows = pd.concat([s.rows for s in sections], ignore_index=True) if sections else pd.DataFrame()
        named = [(s.study.root.resolve().name, s.written) for s in sections]
        tables = {"verdicts": rows}
        for name in dict.fromkeys(name for _, written in named for name in written):
            parts = [written[name].assign(experiment=experiment) for experiment, written in named if name in written]
            tables[name] = pd.concat(parts, ignore_index=True)
        alpha = max((s.study.declaration["alpha"] for s in sections), default=0.05)
        page = Page(sections, harness(rows, alpha) if sections else None)
        other = None
        if against is not None and reference is not None:
            both = beside.compare_runs(rows, reference)
            for section in sections:
                section.checks += largest(both[both["experiment"] == section.study.root.resolve().name], str(against))
            tables["replicated"] = beside.replicated(both, tables, against)
            other = {
                "name": str(against),
                "rows": both,
                "table": against_table(both),
                "seeds": beside.seeds_apart(rows, reference),
                "replicated": replicated_table(tables["replicated"]),
            }
        for name, table in tables.items():
            # Seven digits: the last of sixteen are the machine's own, and a table made anew must have the same bytes.
            table.infer_objects().to_csv(folder / f"{name}.csv", index=False, float_format="%.7g")
        replicates = pd.concat([s.study.replicates.assign(study=s.slug) for s in sections] or [pd.DataFrame()])
        replicates.to_csv(folder / "replicates.csv", index=False)
        context = {
            "sections": sections,
            "harness": page.harness,
            "found": found,
            "command": command,
            "partial": partial(found),
            "against": other,
            "title": "normdrop: "
            + (sections[0].study.declaration["claim"] if len(sections) == 1 else found.directory.name),
        }
        for name in ("report.html", "report.md"):
            (folder / name).write_text(_templates(name).get_template(f"{name}.j2").render(context))
        for s in sections:
            if (s.study.root / "plan.json").exists():  # what is published has no curves
                sentence = f"{s.answer.word}. {s.answer.sentence}"
                texts = {"answer": sentence, "differences": s.family.columns(IN_TENSORBOARD).markdown()}
                figures = {file.removesuffix(".png"): folder / file for file, _, _ in s.figures}
                tensorboard.write_overview(s.study.root, texts, figures)
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


# Of a row under another choice; the rest of verdicts.csv's columns would make this the largest table.
# fmt: off
VARIED = [
    "variant", "claim", "dataset", "position", "setting", "comparison", "metric", "rate_a", "rate_b", "n", "estimate",
    "ci_low", "ci_high", "p_holm", "p_tost", "verdict", "new_low", "new_high", "verdict_new_data",
]
# fmt: on

# TensorBoard's TEXT tab breaks the words of a wider table.
IN_TENSORBOARD = ("data set", "position", "setting", "comparison", "metric", "A - B", "interval", "verdict", "n")


def _slugs(found: Found) -> list[str]:
    """A name for each study: its claim, or among several its folder."""
    slugs: list[str] = []
    for study in found.studies:
        name = study.declaration["claim"] if study.root == found.directory else study.root.name
        names = [name, *(f"{name}-{i}" for i in range(2, len(found.studies) + 2))]
        slugs.append(next(name for name in names if name not in slugs))
    return slugs


def _section(study: Study, slug: str, folder: Path) -> Section:
    declaration = study.declaration
    found = contrasts(study)
    own = declared_contrasts(study, found)
    rows = verdicts(study, found)
    along = mechanism.shifts(study)
    shift = along[along["epoch"] == "end"]
    recalibration = mechanism.recalibration(study, found)
    over_sets = population.pooled(study, rows)
    ranked = population.ranking(study, population.scores(study))
    varied, varied_pooled = population.sensitivity(study, rows)
    cells = regime.regime(study, along)
    said = answer(study, rows, over_sets)
    if declaration["kind"] == "mechanism" and len(recalibration):
        said.word, said.sentence = mechanism.explained(recalibration, declaration["alpha"])
        said.rule, said.these_rows, said.new_data = mechanism.EXPLAINED, said.word, "cannot be told"
    counts = []
    if len(cells):
        said.word, said.sentence = "A map", regime.told(study, cells)
        counts = regime.counted(cells, declaration["alpha"]).to_dict("records")
    came_first, doubts = declared_first(study)
    edges = [edge.line for edge in tuning_edges(study, own) if max(edge.at_low, edge.at_high) > EDGE]
    said.first += [*doubts, *edges]
    said.beside += filter(None, [population.explored(study, population.properties(study, rows))])
    beside_it = neighbours(study, own)
    word = {"claim": declaration["claim"], "sentence": declaration["sentence"], "verdict": said.word}
    word |= {"these_rows": said.these_rows, "new_data": said.new_data, "amount": said.amount, "neighbours": beside_it}
    written = {
        "words": pd.DataFrame([word]),
        "shift": along,
        "recalibration": recalibration,
        "regime": cells,
        "sensitivity": varied.reindex(columns=VARIED) if len(varied) else varied,
        "ranks": ranked[1] if ranked else pd.DataFrame(),
        "pooled": pd.concat([over_sets, varied_pooled.iloc[over_sets["family"].eq(DECLARED).sum() :]]),
    }
    judged = rows["family"].isin([DECLARED, HARNESS])
    recalibrated = recalibration_table(recalibration)
    unfolded = [
        (
            Table.of({str(key): str(value) for key, value in row.items()} for row in counts),
            "Where A is ahead and where it is behind: cells by training length (exploratory)",
        ),
        (pooled_table(over_sets), "Over data sets, every comparison"),
        (pooled_table(varied_pooled), "Over data sets, under other choices of ours (exploratory)"),
        (sensitivity_table(varied), "Under other choices of ours (exploratory)"),
        (recalibrated, "What recalibration removes"),
    ]
    return Section(
        study=study,
        slug=slug,
        rows=rows,
        answer=said,
        neighbours=f"Beside it, A - B: {beside_it}." if beside_it else None,
        change=[line for line in [unsettled(study, rows), *would_change(study, said)] if line],
        checks=checks(study, found, rows, shift),
        declared=[*declared(study), ("Came first", came_first)],
        reproduce=reproduced(study),
        figures=[
            _saved(folder / f"{slug}-{name}.png", caption, figure)
            for name, caption, figure in figures.draw(study, found, rows, shift, over_sets, ranked, cells)
        ],
        short=short_table(rows[judged]),
        ranking=ranking_table(study, ranked[1] if ranked else pd.DataFrame()),
        family=verdict_table(rows[judged | rows["comparison"].eq(declaration["family"])]),
        mechanism=recalibrated,
        unfolded=[(table, title) for table, title in unfolded if table.rows],
        written={name: table for name, table in written.items() if len(table)},
    )


def _saved(file: Path, caption: str, figure: Figure) -> tuple[str, str, str]:
    drawn = io.BytesIO()
    figure.savefig(drawn)
    # A palette holds all that a plot shows, in a quarter of the bytes.
    Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE).save(file, optimize=True)
    return file.name, caption, base64.b64encode(file.read_bytes()).decode()
