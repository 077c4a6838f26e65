"""The tables of the page, in words and rounded numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normdrop.metrics import METRICS
from normdrop.report.answer import SCOPES, interval, number, say, tally
from normdrop.report.records import Study
from normdrop.report.verdicts import EXPLORATORY, HARNESS, each


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


def _comparison(row: Any) -> str:
    rates = f"{row.rate_a:g}" if row.rate_a == row.rate_b else f"{row.rate_a:g} / {row.rate_b:g}"
    return {
        "a/a_tuned": f"A/A: {row.a} again, each at its best",
        "a/a": f"A/A: {row.a} again, rate {row.rate_a:g}",
        "way_out": f"way out: {row.a}",
        "same_rate": f"same rate {rates}",
        "best_vs_best": f"best vs best (mostly {rates})",
    }[row.comparison]


def _of_a_mean(comparison: str, rate: float) -> str:
    return "best vs best" if comparison == "best_vs_best" else f"same rate {rate:g}"


def _judged(row: Any) -> str:
    return str(row.verdict) + (" (exploratory)" if row.family == EXPLORATORY else "")


def _or_dash(value: float, form: str, scale: float = 1.0) -> str:
    return "—" if pd.isna(value) else form.format(scale * value)


def _p(value: float) -> str:
    return "< .0001" if value < 0.0001 else _or_dash(value, "{:.4f}")


def verdict_table(rows: pd.DataFrame) -> Table:
    return Table.of(
        {
            "data set": row.dataset,
            "position": row.position,
            "setting": row.setting or "—",
            "comparison": _comparison(row),
            "metric": row.metric,
            "A - B": number(row.estimate, row),
            "interval": interval(row.ci_low, row.ci_high, row),
            "verdict": _judged(row),
            "new data": row.verdict_new_data,
            "n": f"{row.n}" + (f" ({row.left_out} left out)" if row.left_out else ""),
            "d_z": _or_dash(row.d_z, "{:.2f}"),
            "P(A > B)": _or_dash(row.p_superior, "{:.2f}"),
            "p": _p(row.p_value),
            "p (Holm)": _p(row.p_holm),
            "p (TOST)": _p(row.p_tost),
            "BCa interval": interval(row.bca_low, row.bca_high, row),
            "interval, new data": interval(row.new_low, row.new_high, row),
            "p (Holm), new data": _p(row.p_holm_new),
            "p (TOST, Holm)": _p(row.p_tost_holm),
            "p (TOST), new data": _p(row.p_tost_new),
            "replicates needed": _or_dash(row.needed, "{:.0f}"),
        }
        for row in each(rows)
    )


def short_table(rows: pd.DataFrame) -> Table:
    """What a reader needs of each row: at most eight columns."""
    return Table.of(
        {
            "data set": row.dataset,
            "position": row.position,
            "comparison": _comparison(row) if row.family == HARNESS else row.setting or _comparison(row),
            "metric": row.metric if rows["metric"].nunique() > 1 else "—",
            "A - B": number(row.estimate, row),
            "interval": interval(row.ci_low, row.ci_high, row),
            "these rows": say(row.verdict),
            "new data": say(row.verdict_new_data),
        }
        for row in each(rows)
    )


def pooled_table(table: pd.DataFrame) -> Table:
    return Table.of(
        {
            "position": r.position,
            "setting": r.setting or "—",
            "comparison": _of_a_mean(r.comparison, r.rate),
            "metric": r.metric,
            "variant": r.variant if table["variant"].nunique() > 1 else "—",
            "data sets": f"{r.k}",
            "mean": number(r.estimate, r),
            "interval": interval(r.ci_low, r.ci_high, r),
            "a new data set": interval(r.pi_low, r.pi_high, r),
            "τ": number(r.tau, r).lstrip("+"),
            "I²": _or_dash(r.i2, "{:.0f} %", 100),
            "one left out": interval(r.loo_low, r.loo_high, r),
            "p": _p(r.p_value),
            "p (Holm)": _p(r.p_holm),
            "p (TOST)": _p(r.p_tost),
            "verdict of the mean": _judged(r),
            "not pooled": r.left_out or "—",
        }
        for r in each(table)
    )


def ranking_table(study: Study, table: pd.DataFrame) -> Table:
    metric = METRICS[study.metric]
    return Table.of(
        {
            "network": r.network,
            "mean rank": f"{r.mean_rank:.2f}",
            metric.words: f"{metric.scale * r.mean:.2f}",
            "you lose on average": f"{metric.scale * r.loss:.2f} {metric.unit}",
            "at most": f"{metric.scale * r.worst:.2f} {metric.unit} ({r.where})",
            "p against the first": _p(r.p),
        }
        for r in each(table)
    )


def sensitivity_table(table: pd.DataFrame) -> Table:
    """One row per choice, counting the verdicts of the declared family; the rows are in sensitivity.csv."""
    return Table.of(
        {"choice": str(variant)} | {words: tally(rows[column]).replace("**", "") for column, words in SCOPES.items()}
        for variant, rows in (table.groupby("variant", sort=False) if len(table) else ())
    )


def recalibration_table(table: pd.DataFrame) -> Table:
    return Table.of(
        {
            "data set": r.dataset,
            "position": r.position,
            "setting": r.setting or "—",
            "comparison": _of_a_mean(r.comparison, r.rate),
            "n": str(r.n),
            "before (pp)": f"{100 * r.before:+.2f}",
            "after (pp)": f"{100 * r.after:+.2f}",
            "p (Holm)": _p(r.p_holm),
            "share explained": "no effect to explain" if pd.isna(r.share) else f"{100 * r.share:.0f} %",
            "interval": "—" if pd.isna(r.share) else f"{100 * r.low:.0f} to {100 * r.high:.0f} %",
        }
        for r in each(table)
    )


def declared(study: Study) -> list[tuple[str, str]]:
    """What a study declares, each under its name."""
    d = study.declaration
    a, b = (" or ".join(side) for side in study.sides)
    better_of = ", the better of the two by validation, within each replicate" if len(study.sides[1]) > 1 else ""
    measures: dict[str, list[str]] = {}
    for metric in study.metrics:
        measures.setdefault(study.kind_of(metric).measured.format(over=study.over), []).append(metric)
    measured = "; ".join(f"of {', '.join(names)} the {what}" for what, names in measures.items())
    ropes = [(metric, study.rope(metric)) for metric in [*study.metrics, *d["secondary"]]]
    family = (
        f"every data set × position × setting, {d['family']}, {' and '.join(study.metrics)}; all else is exploratory"
    )
    grids = [
        "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in grid.items()) for grid in d["grid"] if grid
    ]
    return [
        ("Contrast", f"A = {a}, B = {b}{better_of}; the position is the same on both sides"),
        ("Measured as", next(iter(measures)) if len(measures) == 1 else measured),
        ("Primary metric" + "s" * (len(study.metrics) > 1), ", ".join(study.metrics)),
        ("Secondary metrics", ", ".join(d["secondary"]) or "none"),
        (
            "Practical equivalence (ROPE)",
            ", ".join(f"{m} within ×{1 / r:.3g} to ×{r:g}" if r > 1 else f"{m} ± {r:g}" for m, r in ropes),
        ),
        ("Family under Holm", family if d["family"] else "none was declared: everything is exploratory"),
        ("Alpha", f"{d['alpha']:g}"),
        ("Tuned on validation", ", ".join(d["tuned"])),
        ("Grid", " — and — ".join(grids) or "not recorded"),
    ]


def reproduced(study: Study) -> list[tuple[str, str]]:
    """How the conditions were trained, each distinct answer once."""
    records = study.records
    wall = sum(record.get("wall_seconds") or 0.0 for record in records)
    facts = {
        "Command": {record.get("command") or "not recorded" for record in records},
        "Versions": {", ".join(f"{k} {v}" for k, v in (r.get("versions") or {}).items()) for r in records},
        "Hardware": {f"{r.get('hardware') or 'not recorded'} ({r.get('device') or '?'})" for r in records},
        "Training time": {f"{wall / 60:.1f} minutes of wall clock, summed over {len(records)} conditions"},
        "Replicates": {str(len(record["seeds"])) for record in records},
    }
    told = {name: "; ".join(sorted(distinct)) for name, distinct in facts.items()}
    return [*(told | {"Replicates": f"{told['Replicates']} per condition"}).items()]


def replicated_table(table: pd.DataFrame) -> Table:
    def said(r: Any, estimate: float, verdict: str) -> str:
        return verdict if r.level == "claim" else f"{number(estimate, r)}, {say(verdict)}"

    return Table.of(
        {
            "claim": r.experiment if r.experiment == r.claim else f"{r.claim} ({r.experiment})",
            "of": {"claim": "the claim", "pooled": "the mean over data sets"}.get(r.level, str(r.dataset)),
            "place": ", ".join(str(part) for part in (r.position, r.setting, r.metric) if pd.notna(part) and part)
            or "—",
            "here": said(r, r.estimate, r.verdict),
            "there": said(r, r.estimate_reference, r.verdict_reference),
            "replicated": "yes" if r.replicated else "no; the same sign" if r.same_sign is True else "no",
        }
        for r in each(table)
    )


def against_table(both: pd.DataFrame) -> Table:
    return Table.of(
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
