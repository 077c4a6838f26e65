"""The page: one Markdown template makes report.md, and that report.html; the tables lie beside them as CSV."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from PIL import Image

from normdrop.metrics import METRICS
from normdrop.report import against as beside
from normdrop.report import checks, figures, mechanism, pooled, provenance, ranks, regime, tables, verdicts, words
from normdrop.report.study import MAIN, Study

MOST = 40_000  # bytes of report.md, so that a repository shows it
LIMITS = (40, 20, 12, 8, 4, 0)  # rows of a folded table: the first that keeps the page that small
# Columns of verdicts that its CSV leaves out: they are others under a second name, or follow from them.
UNWRITTEN = ["low", "high", "said", "alpha", "sd", "p_holm_new", "p_tost_new", "p_tost_holm_new"]
SCOPES = {"new samples": ("new_low", "new_high", "verdict_new_data"), "these data": ("ci_low", "ci_high", "verdict")}
# Questions that the post does not ask.
WHY = ("mechanism", "regime", "size")
# What folds, and nothing else, is HTML in report.md; whatever else looks like it is text.
FOLD = re.compile(r"\s*(<details>\s*<summary>[^<]*</summary>|</details>)\s*")


@dataclass
class Section:
    """One study on the page."""

    study: Study
    rows: pd.DataFrame
    """verdicts.csv, and low, high and said: interval and verdict in the scope that the page speaks of"""
    scope: str
    tables: dict[str, pd.DataFrame]
    """what is written beside verdicts.csv, by the name of its file"""
    provenance: dict[str, Any]
    figures: dict[str, str] = field(default_factory=dict)
    """files by the names of the figures, which the template has captions for"""

    @property
    def slug(self) -> str:
        return re.sub(r"\W+", "-", self.study.name).strip("-")

    @property
    def sides(self) -> tuple[str, str]:
        return tables.sides(self.study)

    @property
    def compared(self) -> pd.DataFrame:
        """What the answer is of, tuned and at fixed rates: comparisons of the grid proper and of the whole claim."""
        rows = self.rows[~self.rows["beyond"].astype(bool) & ~self.rows["family"].eq(verdicts.HARNESS)]
        return rows[rows["part"].eq(self.study.kind.answer) & rows["metric"].isin(self.study.declared.metrics)]

    @property
    def base(self) -> pd.DataFrame:
        """Those of them that were declared."""
        return self.compared[self.compared["family"] == verdicts.DECLARED]

    @property
    def means(self) -> pd.DataFrame:
        """The same over data sets, a row for each position and rate; empty where there are too few."""
        table = self.tables["pooled"]
        if table.empty:
            return table
        table = table[table["variant"].eq("declared") & table["part"].eq(self.study.kind.answer)]
        table = table[table["metric"] == self.study.declared.metric]
        return table.rename(columns={"ci_low": "low", "ci_high": "high"})

    @property
    def tuned_means(self) -> pd.DataFrame:
        """The means that the main claim's words are of."""
        return self.means[self.means["family"] == verdicts.DECLARED] if len(self.means) else self.means

    @property
    def at_one_place(self) -> pd.DataFrame:
        """What the first figure draws: the means, or the comparisons of a study of one data set and setting."""
        if len(self.means):
            return self.means
        rows = self.compared[self.compared["metric"] == self.study.declared.metric]
        return rows if len(rows[["dataset", *self.study.keys]].drop_duplicates()) == 1 else rows.iloc[:0]

    @property
    def told(self) -> Iterator[Any]:
        """The claim's words, each with the numbers that its sentence tells: a mean, one comparison, or counts."""
        names = [METRICS[metric].words for metric in self.study.declared.metrics]
        over = tables.key_name(self.study.declared.over or "")
        quantity = self.study.kind.quantity.format(metric=" and ".join(names), over=over)
        for word in self.tables["words"].to_dict("records"):
            means, rows = self.means, self.base
            if word["position"]:
                rows = rows[rows["position"] == word["position"]]
                means = self.tuned_means[self.tuned_means["position"] == word["position"]] if len(means) else means
            word |= {"quantity": quantity, "told": "counts", "rows": rows}
            if len(means) and word["position"]:
                word |= {"told": "mean", "row": means.iloc[0]}
            elif len(rows) == 1:
                word |= {"told": "one", "row": rows.iloc[0], "word": word["word"] or rows["said"].iloc[0]}
            elif rows.empty:
                word["told"] = "nothing"
            yield word


def write(studies: Sequence[Study], target: Path, other: Sequence[Study], tell: Callable[[str], None]) -> list[Section]:
    """Write the page and its tables to the folder `target`, whole or not at all: they replace an earlier page.

    other: the studies of another run to set it against, or none. tell: hears what is being worked on.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".report-", dir=target.parent))
    try:
        sections = []
        for number, study in enumerate(studies, 1):
            tell(f"{study.name} ({number} of {len(studies)})")
            sections.append(section(study))
            with figures.rc_context(figures.STYLE):
                for name, figure in draw(sections[-1]):
                    sections[-1].figures[name] = _saved(folder / f"{sections[-1].slug}-{name}.png", figure)
        alarm = checks.alarm(pd.concat([one.rows for one in sections], ignore_index=True))
        context: dict[str, Any] = {"sections": sections, "rule": words.RULE, "alarm": alarm, "against": None}
        if other:
            context |= {"against": beside.compare_runs(list(studies), list(other))}
            context |= {"apart": beside.differences(list(studies), list(other))}
        _write_tables(folder, sections, context["against"])
        text = render(context, LIMITS[-1])
        for limit in LIMITS:
            if len(render(context, limit).encode()) <= MOST:
                text = render(context, limit)
                break
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(as_html(render(context, limit=300), folder), encoding="utf-8")
        _replace(target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sections


def section(study: Study) -> Section:
    """All that is computed of a study."""
    rows, nothing = verdicts.rows(study), pd.DataFrame()
    if study.table.empty:
        told = {"words": words.words(study, rows, nothing)}
        return Section(study, rows, "these data", defaultdict(pd.DataFrame, told), {"lines": [], "doubts": []})
    over_sets = pooled.pooled(study, rows)
    said = words.words(study, rows, over_sets)
    scope = next((scope for scope in said["scope"] if scope in SCOPES), "these data")
    low, high, verdict = SCOPES[scope]
    mechanical, main = study.declared.kind == "mechanism", study.declared.claim == MAIN
    recalibrated = mechanism.recalibration(study, rows) if mechanical else nothing
    computed = {
        "words": said,
        "pooled": over_sets,
        "means": verdicts.means(study),
        "networks": ranks.networks(study) if main else nothing,
        "regime": regime.cells(study) if study.declared.family is None else nothing,
        "trends": regime.trends(study) if study.declared.claim in WHY else nothing,
        "recalibration": recalibrated,
        "shares": mechanism.shares(study, recalibrated) if mechanical else nothing,
        "shift": mechanism.shifts(study) if mechanical else nothing,
        "edges": checks.edges(study),
        "never_reached": checks.never_reached(study),
        "neighbours": checks.neighbours(study),
    }
    rows = rows.assign(low=rows[low], high=rows[high], said=rows[verdict])
    return Section(study, rows, scope, computed, provenance.provenance(study))


def draw(section: Section) -> Iterator[tuple[str, figures.Figure]]:
    """The figures that there are numbers for; first that of the answer."""
    study, compared, keys = section.study, section.compared, section.study.keys
    if compared.empty:
        return
    scales = {metric: _scale(section, metric, study.kind.quantity) for metric in compared["metric"].unique()}
    scale = scales[study.declared.metric]
    own = compared[compared["metric"] == study.declared.metric]
    one, cells = section.at_one_place, section.tables["regime"]
    if study.declared.kind == "ladder":
        rungs = _rungs(section)
        by = ["position", "dataset", *tables.varying(rungs, keys)]
        series = "rate" if rungs["rate"].notna().all() else "position"
        at_each = _scale(section, study.declared.metric)  # of a rung, not of the trend
        yield "ladder", figures.along(rungs, by, str(study.declared.over), series, at_each, joined=True)
    elif len(cells) and len(keys) > 1:
        yield "regime", figures.regime(cells, keys, scale)
    elif one["rate"].nunique() > 1:
        yield "answer", figures.along(one, ["position"], "rate", "position", scale)
    elif study.declared.claim == MAIN and own["rate"].nunique() > 1:
        yield "by_rate", figures.along(own, ["dataset", *tables.varying(own, keys)], "rate", "position", scale)
    elif len(section.base) > 1 and section.means.empty:
        yield "forest", figures.forest(section.base, keys, scales, section.means)
    if len(section.means):
        yield "forest", figures.forest(section.base, keys, scales, section.tuned_means)
    shift = section.tables["shift"]
    if len(shift):
        shift = shift[shift["epoch"].eq("end") & shift["rate"].gt(0)]
        shift = shift.assign(estimate=shift["measured"], low=shift["measured"], high=shift["measured"])
        ratio = figures.Scale("variance at inference / in training", factor=1, base=1)
        yield "shift", figures.along(shift, ["position"], "rate", "arrangement", ratio)


def _scale(section: Section, name: str, quantity: str = "{metric}") -> figures.Scale:
    """How differences in a metric are drawn. quantity: what of it is compared, as `Kind.quantity`."""
    metric, study = METRICS[name], section.study
    left, right = section.sides[::-1] if study.kind.good(metric.higher_is_better) else section.sides
    compared = quantity.format(metric=metric.words, over=tables.key_name(study.declared.over or ""))
    label = f"difference in {compared} ({metric.unit})"
    return figures.Scale(label, metric.scale, study.rope(name), f"← {left} better · {right} better →")


def _rungs(section: Section) -> pd.DataFrame:
    """The declared comparison at each rung of a ladder, with a ring where side A's validation prefers that rate."""
    declared, rows = section.study.declared, section.rows
    rows = rows[~rows["beyond"].astype(bool) & rows["metric"].eq(declared.metric)]
    rows = rows[~rows["part"].isin(["", section.study.kind.answer])]
    place = ["dataset", "position", "part", *section.study.keys]
    chosen = rows.loc[rows["comparison"] == "best_vs_best", [*place, "rate_a"]]
    rungs = rows[rows["comparison"] == declared.family].drop(columns="rate_a").merge(chosen, on=place, how="left")
    return rungs.assign(ring=rungs["rate"] == rungs["rate_a"], **{str(declared.over): rungs["part"].astype(float)})


def _saved(file: Path, figure: figures.Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette holds all that a plot shows, in a quarter of the bytes.
    Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE).save(file, optimize=True)
    return file.name


def _write_tables(folder: Path, sections: Sequence[Section], against: pd.DataFrame | None) -> None:
    found: dict[str, list[pd.DataFrame]] = {"against": [] if against is None else [against]}
    for one in sections:
        own = {
            "verdicts": one.rows.drop(columns=UNWRITTEN, errors="ignore"),
            "replicates": one.study.table,
            **one.tables,
        }
        for name, table in own.items():
            found.setdefault(name, []).append(table.assign(experiment=one.study.name))
    for name, parts in found.items():
        parts = [part for part in parts if len(part)]
        if parts:
            # Five digits: the last of sixteen are the machine's own, and a table made anew has the same bytes.
            text = pd.concat(parts, ignore_index=True).to_csv(index=False, float_format="%.5g", lineterminator="\n")
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")


def _replace(target: Path, folder: Path) -> None:
    """Put a finished page in the place of an earlier one, with the mode of the folder that it stands in."""
    folder.chmod(stat.S_IMODE(target.parent.stat().st_mode))
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=".report-", dir=target.parent))
        target.rename(old / "report")
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(target)


def render(context: dict[str, Any], limit: int, template: str = "report.md.j2") -> str:
    """A template of ours as Markdown. limit: rows of a folded table."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normdrop.report", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= vars(tables) | {"limit": limit, "MAIN": MAIN, "WHY": WHY}
    environment.filters |= {"narrow": tables.narrow, "key_name": tables.key_name}
    text = environment.get_template(template).render(context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_html(text: str, folder: Path) -> str:
    """The page as one HTML file, its images inside."""

    def block(_: Any, tokens: Any, at: int, *__: Any) -> str:
        content = tokens[at].content
        return content if FOLD.fullmatch(content) else escapeHtml(content)

    def image(_: Any, tokens: Any, at: int, *__: Any) -> str:
        data = base64.b64encode((folder / tokens[at].attrs["src"]).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(tokens[at].content)}">'

    def heading(_: Any, tokens: Any, at: int, *__: Any) -> str:
        """With the anchor that a repository gives it."""
        name = re.sub(r"[^\w -]", "", tokens[at + 1].content.lower()).replace(" ", "-")
        return f'<{tokens[at].tag} id="{name}">'

    markdown = MarkdownIt("commonmark").enable("table").disable("html_inline")
    for name, rule in {"html_block": block, "image": image, "heading_open": heading}.items():
        markdown.add_render_rule(name, rule)
    body = markdown.render(text).replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    shell = (Path(__file__).parent / "templates" / "page.html").read_text(encoding="utf-8")
    title = text.partition("\n")[0].lstrip("# ")
    return shell.replace("{title}", html.escape(title)).replace("{body}", body)


def first_lines(folder: Path) -> list[str]:
    """What a written page says first, as plain text: alarms, what is missing, the answer."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    said = re.split(r"^(?:!|#|\|)", text.partition("\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [re.sub(r"\*\*|^> ", "", line) for line in said.splitlines() if line]


def texts(section: Section) -> dict[str, str]:
    """What TensorBoard shows of a study as text: what the page has before it folds the rest."""
    context = {"sections": [section], "rule": "", "alarm": checks.alarm(section.rows), "against": None}
    text = render(context, limit=50).partition("<details>")[0]
    return {"answer": re.sub(r"^!.*$", "", text, flags=re.MULTILINE)}
