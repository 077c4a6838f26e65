"""The page: one Markdown template makes report.md, and that report.html; the tables lie beside them as CSV."""

from __future__ import annotations

import base64
import io
import re
import stat
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from matplotlib import rc_context
from PIL import Image

from normdrop.asked import count
from normdrop.metrics import METRICS
from normdrop.report import (
    against,
    checks,
    choose,
    figures,
    mechanism,
    pooled,
    provenance,
    ranks,
    regime,
    tables,
    verdicts,
    words,
)
from normdrop.report.choose import Pair, pairs
from normdrop.report.study import MAIN, NEVER, Study

MOST = 40_000  # bytes of report.md, so that a repository shows it
LIMITS = (40, 20, 12, 8, 4, 0)  # rows of a folded table: the first that keeps the page that small
# Questions that the post does not ask.
WHY = ("mechanism", "regime", "size")
# What folds, and nothing else, is HTML in report.md; whatever else looks like it is text.
FOLD = re.compile(r"<p>&lt;details&gt;\s*&lt;summary&gt;(.*?)&lt;/summary&gt;</p>|<p>&lt;(/details)&gt;</p>")
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("normdrop.report", "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.globals |= vars(tables) | {"MAIN": MAIN, "WHY": WHY, "EDGE": checks.EDGE, "count": count}
TEMPLATES.tests["known"] = pd.notna
TEMPLATES.filters |= {"narrow": tables.narrow, "key_name": tables.key_name}


@dataclass
class Section:
    """One study on the page."""

    study: Study
    rows: pd.DataFrame
    """verdicts.csv, and low, high and said: interval and verdict in the scope that the page speaks of"""
    scope: str
    base: pd.DataFrame
    """the rows that the claim's words are of"""
    compared: pd.DataFrame
    """those, and what is exploratory of the like: tuned and at fixed rates"""
    means: pd.DataFrame
    """the same over data sets, a row for each position, rate and metric; empty where there are too few"""
    tables: dict[str, pd.DataFrame]
    """what is written as CSV, by the name of its file"""
    provenance: dict[str, list[str]]
    figures: dict[str, str] = field(default_factory=dict)
    """files by the names of the figures, which the template has captions for"""
    notes: dict[str, str] = field(default_factory=dict)
    """by the same names what a caption has to add"""

    @property
    def sides(self) -> tuple[str, str]:
        return tables.sides(self.study)

    @property
    def choices(self) -> list[str]:
        """The tuned keys that have more than one candidate."""
        if self.study.table.empty:
            return []
        rows = choose.both_sides(self.study)
        return [key for key in self.study.declared.tuned if choose.candidates(rows, key).nunique() > 1]

    @property
    def tuned_means(self) -> pd.DataFrame:
        return self.means[self.means["family"] == verdicts.DECLARED]

    def refused(self, mean: dict[str, Any]) -> list[str]:
        """The data sets that a mean goes without, though they are not set apart."""
        return sorted({*mean["left_out"].split()} - {*pooled.set_apart(self.study)})

    @property
    def at_one_place(self) -> pd.DataFrame:
        """The means, or the comparisons of a study of one data set and setting: one figure shows them all."""
        rows = self.means if len(self.means) else self.compared
        rows = rows[rows["metric"] == self.study.declared.metric]
        if len(self.means):
            return rows
        return rows if len(rows[["dataset", *self.study.keys]].drop_duplicates()) == 1 else rows.iloc[:0]


def write(studies: Sequence[Study], target: Path, other: Sequence[Study] = ()) -> list[Section]:
    """Write the page and its tables to the folder `target`, whole or not at all: they replace an earlier page.

    other: the studies of another run to set it against.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        sections = []
        for number, study in enumerate(studies, 1):
            print(f"{study.name} ({number} of {len(studies)})", file=sys.stderr, flush=True)
            sections.append(section(study))
            _draw(sections[-1], folder)
        context = _context(sections)
        if other:
            context |= {"against": against.compare_runs(studies, other), "apart": against.differences(studies, other)}
            _write_table(folder / "against.csv", [context["against"]])
        for name in dict.fromkeys(name for one in sections for name in one.tables):
            parts = [one.tables[name].assign(experiment=one.study.name) for one in sections]
            _write_table(folder / f"{name}.csv", parts)
        for limit in LIMITS:
            text = render(context, limit)
            if len(text.encode()) <= MOST:
                break
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(as_html(render(context, limit=300), folder), encoding="utf-8")
        folder.chmod(stat.S_IMODE(target.parent.stat().st_mode))
        if target.exists():
            target.rename(Path(temporary) / "earlier")
        folder.rename(target)
    return sections


def section(study: Study) -> Section:
    """All that is computed of a study."""
    over_sets = pd.DataFrame(columns=pooled.COLUMNS)
    facts: dict[str, list[str]] = {"lines": [], "doubts": []}
    beside = defaultdict[str, pd.DataFrame](pd.DataFrame)
    if study.table.empty:
        rows = verdicts.rows(study)
    else:
        found = list(pairs(study))
        rows = verdicts.rows(study, [*found, *verdicts.again(study)])
        over_sets, facts = pooled.pooled(study, rows), provenance.provenance(study)
        facts["doubts"] += checks.doubts(study)
        beside |= _beside(study, rows, found)
    said = words.words(study, rows, over_sets)
    beside |= {"verdicts": rows.drop(columns="sd"), "words": said, "pooled": over_sets}
    beside["replicates"] = study.table.replace({NEVER: None})
    if study.own_network:
        rows, over_sets = _in_ones_own(rows), _in_ones_own(over_sets)
        beside |= {name: _in_ones_own(table) for name, table in beside.items()}
    scope, low, high, verdict = "these data", "ci_low", "ci_high", "verdict"
    if (said["scope"] == "new samples").any():
        scope, low, high, verdict = "new samples", "new_low", "new_high", "verdict_new_data"
    rows = rows.assign(low=rows[low], high=rows[high], said=rows[verdict])
    compared = rows[~rows["beyond"].astype(bool) & rows["family"].ne(verdicts.HARNESS)]
    compared = compared[compared["part"].eq(study.kind.answer) & compared["metric"].isin(study.declared.metrics)]
    means = over_sets[over_sets["variant"].eq(pooled.AS_DECLARED) & over_sets["part"].eq(study.kind.answer)]
    means = means[means["metric"].isin(study.declared.metrics)].rename(columns={"ci_low": "low", "ci_high": "high"})
    return Section(study, rows, scope, words.family(study, rows), compared, means, beside, facts)


def _in_ones_own(table: pd.DataFrame) -> pd.DataFrame:
    """A table of a network of one's own: both stand where that has its BN layers, whatever the position is called."""
    if "position" not in table:
        return table
    return table.assign(position=table["position"].mask(table["position"].ne(""), tables.OWN))


def _beside(study: Study, rows: pd.DataFrame, found: list[Pair]) -> dict[str, pd.DataFrame]:
    """The tables beside verdicts.csv that a study has."""
    family = checks.family(study, found)
    beside = {
        "means": verdicts.means(study),
        "edges": checks.edges(study, family),
        "never_reached": checks.never_reached(study),
        "neighbours": checks.neighbours(study, family),
    }
    if study.declared.claim == MAIN:
        beside["networks"] = ranks.networks(study)
    controlled = set().union(*regime.control_of(study)) <= set(study.table["arrangement"])
    if study.declared.family is None or controlled:
        cells = regime.cells(study)
        beside["control"] = regime.control(cells)
    if study.declared.family is None:
        beside["regime"] = cells
    if study.declared.kind == "mechanism":
        beside["recalibration"] = mechanism.recalibration(study, rows)
        beside["shares"] = mechanism.shares(study, beside["recalibration"])
        beside["shift"] = mechanism.shifts(study)
    return beside


def draw(section: Section) -> Iterator[tuple[str, figures.Figure]]:
    """The figures that there are numbers for; first that of the answer."""
    study, compared, keys = section.study, section.compared, section.study.keys
    if compared.empty:
        return
    scales = {metric: scale(study, metric) for metric in compared["metric"].unique()}
    of_metric = scales[study.declared.metric]
    own = compared[compared["metric"] == study.declared.metric]
    one, cells, shift = section.at_one_place, section.tables["regime"], section.tables["shift"]
    rungs = _rungs(section)
    if len(rungs):
        yield "ladder", _ladder(section, rungs)
    elif len(cells) and len(keys) > 1:
        yield "regime", figures.regime(cells, keys, of_metric)
    elif one["rate"].nunique() > 1:
        yield "answer", figures.along(one, ["position", *tables.varying(one, keys)], "rate", "position", of_metric)
    elif study.declared.claim == MAIN and own["rate"].nunique() > 1:
        yield "by_rate", figures.along(own, ["dataset", *tables.varying(own, keys)], "rate", "position", of_metric)
    elif len(section.base) > 1 and section.means.empty:
        yield "forest", figures.forest(section.base, keys, scales, section.means)
    if len(section.means) and len(section.base):
        yield "forest", figures.forest(section.base, keys, scales, section.tuned_means)
    if len(shift):
        shift = shift.query("epoch == 'end' and rate > 0")
    if len(shift):
        shift = shift.assign(estimate=shift["measured"], low=shift["measured"], high=shift["measured"])
        ratio = figures.Scale("variance at inference / in training", factor=1, base=1)
        yield "shift", figures.along(shift, ["position"], "rate", "arrangement", ratio)


def scale(study: Study, name: str, quantity: str = "") -> figures.Scale:
    """How differences in a metric are drawn. quantity: what is compared, if not what the kind makes of the metric."""
    metric, (left, right) = METRICS[name], tables.sides(study)
    if study.good(name):
        left, right = right, left
    label = f"difference in {quantity or tables.quantity(study, [name])} ({metric.told})"
    return figures.Scale(label, metric.scale, study.rope(name), f"← {left} better · {right} better →")


def _rungs(section: Section) -> pd.DataFrame:
    """The declared comparison at each rung of a ladder, `ring` where side A's validation prefers that rate."""
    declared, rows, keys = section.study.declared, section.rows, section.study.keys
    if declared.kind != "ladder":
        return pd.DataFrame()
    rows = rows[~rows["beyond"].astype(bool) & rows["metric"].eq(declared.metric)]
    rows = rows[~rows["part"].isin(["", section.study.kind.answer])]
    place = ["dataset", "position", "part", *keys]
    chosen = rows.loc[rows["comparison"] == "best_vs_best", [*place, "rate_a"]]
    rows = rows[rows["comparison"] == (declared.family or "same_rate")]
    rungs = rows.drop(columns="rate_a").merge(chosen, on=place, how="left")
    return rungs.assign(ring=rungs["rate"] == rungs["rate_a"], **{str(declared.over): rungs["part"].astype(float)})


def _ladder(section: Section, rungs: pd.DataFrame) -> figures.Figure:
    declared = section.study.declared
    by = ["position", "dataset", *tables.varying(rungs, section.study.keys)]
    series = "rate" if rungs["rate"].notna().all() else "position"
    of_rung = scale(section.study, declared.metric, METRICS[declared.metric].words)
    return figures.along(rungs, by, str(declared.over), series, of_rung, joined=True)


def _draw(section: Section, folder: Path) -> None:
    """Save a study's figures. A palette holds all that a plot shows, in a quarter of the bytes."""
    slug = re.sub(r"\W+", "-", section.study.name).strip("-")
    with rc_context(figures.STYLE):
        for name, figure in draw(section):
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png")
            section.notes[name] = str(figure.get_label())
            section.figures[name] = f"{slug}-{name}.png"
            image = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE)
            image.save(folder / section.figures[name], optimize=True)


def _write_table(file: Path, parts: Sequence[pd.DataFrame]) -> None:
    parts = [part for part in parts if len(part)]
    if parts:
        # Five digits: the last of sixteen are the machine's own, and a table made anew has the same bytes.
        text = pd.concat(parts, ignore_index=True).to_csv(index=False, float_format="%.5g", lineterminator="\n")
        file.write_text(text, encoding="utf-8")


def _context(sections: Sequence[Section]) -> dict[str, Any]:
    alarm = checks.alarm(pd.concat([one.rows for one in sections], ignore_index=True))
    pooled = any(len(one.tables["pooled"]) for one in sections)
    return {"sections": sections, "alarm": alarm, "against": None, "pooled": pooled}


def render(context: dict[str, Any], limit: int) -> str:
    """The page as Markdown. limit: rows of a folded table."""
    text = TEMPLATES.get_template("report.md.j2").render(context, limit=limit)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_html(text: str, folder: Path) -> str:
    """The page as one HTML file, its images inside."""

    def fold(found: re.Match[str]) -> str:
        return "</details>" if found[2] else f"<details>\n<summary>{found[1]}</summary>"

    def image(found: re.Match[str]) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((folder / found[1]).read_bytes()).decode()}"'

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'src="([^"]*)"', image, FOLD.sub(fold, body))
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return TEMPLATES.get_template("page.html").render(title=text.partition("\n")[0].lstrip("# "), body=body)


def first_lines(folder: Path) -> list[str]:
    """What a written page says first, as plain text: alarms, what is missing, the answer."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    said = re.split(r"^(?:!|#|\||<)", text.partition("\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [re.sub(r"\*\*|^> ", "", line) for line in said.splitlines() if line]


def texts(section: Section) -> dict[str, str]:
    """What TensorBoard shows of a study as text: what the page has before it folds the rest."""
    text = render(_context([section]), limit=50).partition("<details>")[0]
    return {"answer": re.sub(r"^!.*$", "", text, flags=re.MULTILINE)}
