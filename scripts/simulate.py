#!/usr/bin/env python3
"""Check the report's statistics on studies whose truth is known. Run it with .venv/bin/python scripts/simulate.py.

It calls the very functions that the report calls (normdrop.report.statistics and pooled), study by study, before Holm
unless it says otherwise. Rates come with their 95 % Clopper-Pearson interval. Exit status 1 if a line fails what it
must show.

(no mode)         Differences drawn from known laws. Proves: how often a difference is claimed, and the sign-flip test
                  alone rejects, where there is none; how often the intervals cover; how often a true 0 is called
                  equivalent, and a true difference of just the margin; how often a planted difference of 1 SD is
                  found; the same level for ratios with censored times; with Holm, how often a family of five makes any
                  false claim; that choosing the best of as many candidates on both sides makes no difference of
                  itself; that Stein's rule for the number of replicates covers and keeps its width; and of data sets
                  as units, how often the pooled interval and the prediction interval cover. About ten minutes on one
                  core. Law `skewed` goes beyond "no difference" (its sides differ in all but their means): where that
                  breaks the tests' assumptions the rate is told and not asked.
--new-data        A finite pool of rows is split again for every replicate, two learners that are equally good in the
                  population are trained on each split. Proves: what the plain test claims about new data if misused so,
                  and that the corrected test claims at most alpha; how conservative it is.
--real-aa TABLE   The same network trained twice (rerun 0 and 1: same splits, other initial weights, batch order and
                  masks), seeds cut into studies. Proves: the level on the differences that real training makes,
                  whatever their law, and how far below it the scope "new data" stays. TABLE is the replicates.csv of
                  a report; settings that differ in more than rerun are other pools of rows.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from normdrop.report import pooled
from normdrop.report.statistics import (
    Comparison,
    compare,
    compare_ratio,
    holm,
    replicates_needed,
    standard_error,
    stein_half_width,
    verdict,
)

ALPHA = 0.05
MARGIN = 0.55  # in standard deviations of a difference: where 30 pairs have 80 % power of equivalence
CHUNK = 100  # studies per job
ROPE = 0.5  # points, over data sets
TEST_ROWS = 100
DISCRETE_SD = math.sqrt(2 * 0.85 * 0.15 / TEST_ROWS)

Pair = tuple[np.ndarray, np.ndarray]
Outcome = dict[str, bool]


# --- laws: n replicates of A and B, A - B of mean `true` and standard deviation 1 (but for the discrete one) ---


def normal(rng: np.random.Generator, n: int, true: float) -> Pair:
    return true + rng.normal(size=n), np.zeros(n)


def skewed(rng: np.random.Generator, n: int, true: float) -> Pair:
    """Differences of skewness 1: now and then A is far ahead. Their mean may be 0 although the sides differ."""
    return true + (rng.gamma(4.0, size=n) - 4.0) / 2.0, np.zeros(n)


def bad_runs(rng: np.random.Generator, n: int, true: float) -> Pair:
    """Both sides of skewness -2, some runs go badly: under no difference A - B is symmetric and heavy-tailed."""
    a, b = -rng.exponential(size=(2, n)) / math.sqrt(2.0)
    return true + a, b


def discrete(rng: np.random.Generator, n: int, true: float) -> Pair:
    """Accuracies on 100 test rows about .85, whose difference has a standard deviation of 5 points."""
    shift = true / 2 * DISCRETE_SD
    a, b = (rng.binomial(TEST_ROWS, 0.85 + side * shift, size=n) / TEST_ROWS for side in (1, -1))
    return a / DISCRETE_SD, b / DISCRETE_SD


def times(rng: np.random.Generator, n: int, ratio: float) -> Pair:
    """Steps to a level, measured every 20 steps; under no difference a quarter is never reached within the budget."""
    ease = rng.normal(scale=0.3, size=n)
    a, b = np.exp(ease + rng.normal(scale=0.3, size=(2, n))) * 200
    a, b = np.ceil(a * ratio / 20) * 20, np.ceil(b / 20) * 20
    return np.where(a > 270, np.nan, a), np.where(b > 270, np.nan, b)


# --- one study ---


def study(rng: np.random.Generator, law: Callable, n: int, true: float) -> Outcome:
    a, b = law(rng, n, true)
    c = compare(a, b, rope=MARGIN, test_train_ratio=0.25, alpha=ALPHA)
    tests = {"test rejects": c.p_value < ALPHA, "BCa covers": c.bca_low <= true <= c.bca_high}
    return outcome(c, true) | tests


def ratio_study(rng: np.random.Generator, n: int, ratio: float) -> Outcome:
    return outcome(compare_ratio(*times(rng, n, ratio), rope=1.5, alpha=ALPHA), ratio)


def outcome(c: Comparison, true: float) -> Outcome:
    word = verdict(c, c.p_value, alpha=ALPHA)
    return {
        "claimed": claims(word),
        "equivalent": word.endswith("equivalent"),
        "interval covers": c.ci_low <= true <= c.ci_high,
    }


def claims(word: str) -> bool:
    return word.startswith(("better", "worse"))


def family_study(rng: np.random.Generator, n: int, planted: int) -> Outcome:
    """Five comparisons, the first `planted` with a true difference of 1 SD: is anything claimed of the others?"""
    family = [compare(*normal(rng, n, float(k < planted)), rope=MARGIN, test_train_ratio=0.25) for k in range(5)]
    words = [verdict(c, p, alpha=ALPHA) for c, p in zip(family, holm([c.p_value for c in family]), strict=True)]
    return {"claimed": any(claims(word) for word in words[planted:])}


def selection_study(rng: np.random.Generator, n: int, of_a: int, of_b: int) -> Outcome:
    """One network on both sides, each replicate tuned by 100 validation rows over so many candidates of a side."""
    sides = []
    for candidates in (of_a, of_b):
        accuracy = np.clip(rng.normal(0.85, 0.02, size=(n, candidates)), 0.0, 1.0)
        chosen = rng.binomial(TEST_ROWS, accuracy).argmax(axis=1)
        sides.append(rng.binomial(TEST_ROWS, accuracy[np.arange(n), chosen]) / TEST_ROWS / DISCRETE_SD)
    return outcome(compare(*sides, rope=MARGIN, test_train_ratio=0.25, alpha=ALPHA), 0.0)


def stein_study(rng: np.random.Generator, law: Callable, n0: int, half_width: float) -> Outcome:
    """Two stages: n0 replicates, then as many as Stein's rule says; and the plain t interval that a report shows."""
    first = law(rng, n0, 0.0)[0]
    sd = first.std(ddof=1)
    n = replicates_needed(sd, n0, half_width, ALPHA)
    all_of_them = np.concatenate([first, law(rng, n - n0, 0.0)[0]])
    reached = stein_half_width(sd, n0, n, ALPHA)
    plain = stats.ttest_1samp(all_of_them, 0.0).confidence_interval(1 - ALPHA)
    return {
        "interval covers": abs(all_of_them.mean()) <= reached,
        "half-width met": reached <= half_width,
        "plain t covers": plain.low <= 0.0 <= plain.high,
    }


def pooled_study(rng: np.random.Generator, k: int, tau: float, true: float, n: int = 10) -> Outcome:
    """Data sets of n re-splits, a quarter of their rows for testing: their errors share what the rows have in common.

    In points of accuracy. True differences are normal about `true`; a difference varies by .5 to 4 between replicates;
    the part of that variance which re-splits share is that of Nadeau & Bengio, n_test / (n_test + n_train).
    """
    ratio, shared = 1 / 3, 1 / 4
    effects = rng.normal(true, tau, size=k)
    spread = np.exp(rng.uniform(math.log(0.5), math.log(4.0), size=k))
    noise = math.sqrt(shared) * rng.normal(size=(1, k)) + math.sqrt(1 - shared) * rng.normal(size=(n, k))
    d = effects + spread * noise
    errors = [standard_error(sd, n, ratio) for sd in d.std(axis=0, ddof=1)]
    p = pooled.pool(d.mean(axis=0), errors, rope=ROPE, alpha=ALPHA)
    word = p.verdict(p.p_value, alpha=ALPHA)
    return {
        "claimed": claims(word),
        "equivalent": word.endswith("equivalent"),
        "interval covers": p.ci_low <= true <= p.ci_high,
        "prediction covers": p.pi_low <= rng.normal(true, tau) <= p.pi_high,
    }


def resplit_study(rng: np.random.Generator, learner: Callable, pool: int, n: int, fresh: bool) -> Outcome:
    """Rows of two normal classes, a fifth of them for testing; fresh: each replicate draws its own pool."""
    features, classes = rows(rng, (n if fresh else 1) * pool)
    order = rng.permuted(np.tile(np.arange(pool), (n, 1)), axis=1)
    if fresh:
        order += pool * np.arange(n)[:, None]
    test, train = order[:, : pool // 5], order[:, pool // 5 :]
    a, b = learner(rng, features[train], classes[train], features[test], classes[test])
    c = compare(a, b, rope=0.005, test_train_ratio=test.shape[1] / train.shape[1], fresh=fresh, alpha=ALPHA)
    return {
        "this data": claims(verdict(c, c.p_value, alpha=ALPHA)),
        "new data": claims(verdict(c, c.p_new_data, alpha=ALPHA, scope="new data")),
    }


def rows(rng: np.random.Generator, count: int) -> Pair:
    classes = rng.choice([-1.0, 1.0], size=count)
    return rng.normal(size=(count, 20)) + 0.25 * classes[:, None], classes


def other_features(rng: np.random.Generator, *split: np.ndarray) -> Pair:
    """A sees the first ten features, B the last ten: equal in the population, seldom in one pool."""
    train, train_classes, test, test_classes = split
    a, b = (
        ridge(train[..., part], train_classes, test[..., part], test_classes) for part in (slice(10), slice(10, 20))
    )
    return a, b


def other_weights(rng: np.random.Generator, *split: np.ndarray) -> Pair:
    """One network trained twice (A/A): a hidden layer of 30 random ReLU units drawn for each side and replicate."""
    train, train_classes, test, test_classes = split
    a, b = (
        ridge(np.maximum(train @ weights, 0), train_classes, np.maximum(test @ weights, 0), test_classes)
        for weights in rng.normal(size=(2, len(train), 20, 30))
    )
    return a, b


def ridge(train: np.ndarray, train_classes: np.ndarray, test: np.ndarray, test_classes: np.ndarray) -> np.ndarray:
    """Test accuracy of ridge regression on the classes -1 and 1; train: (replicates, rows, features)."""
    transposed = train.swapaxes(1, 2)
    gram = transposed @ train + np.eye(train.shape[2])
    weights = np.linalg.solve(gram, transposed @ train_classes[..., None])
    return (np.sign((test @ weights)[..., 0]) == test_classes).mean(axis=1)


# --- settings: what is simulated and what it must show ---


@dataclass(frozen=True)
class Setting:
    name: dict[str, object]
    study: Callable[..., Outcome]
    arguments: tuple
    must: dict[str, tuple[float, float]]
    """outcome → lowest and highest rate allowed; met if the rate's interval reaches into it"""


def default_settings() -> Iterator[Setting]:
    laws = (normal, bad_runs, discrete, skewed)
    # Two sides that do not differ swap places freely, so A - B is symmetric: that is what the sign-flip test assumes.
    # `skewed` differences of mean 0 come of sides that do differ, but for their means. It is told how far they lead the
    # tests astray; asked is only what holds for means of 30.
    exchangeable = laws[:3]
    for law in laws:
        for n in (6, 10, 30):
            must: dict[str, tuple[float, float]] = {}
            if n == 30:
                must = {"claimed": (0.03, 0.06), "interval covers": (0.93, 0.97), "equivalent": (0.78, 1.0)}
            if law in exchangeable:
                must = {"claimed": (0.0, ALPHA)} | must | {"test rejects": (0.0, ALPHA)}
            yield Setting({"law": law.__name__, "n": n, "true": 0.0}, study, (law, n, 0.0), must)
    for law in (normal, discrete):  # beyond what can be counted
        must = {"test rejects": (0.03, ALPHA), "interval covers": (0.93, 0.97)}
        yield Setting({"law": law.__name__, "n": 60, "true": 0.0}, study, (law, 60, 0.0), must)
    for law in laws:
        must = {"equivalent": (0.0, ALPHA)} if law in exchangeable else {}
        yield Setting({"law": law.__name__, "n": 30, "true": MARGIN}, study, (law, 30, MARGIN), must)
    for law in laws:
        yield Setting({"law": law.__name__, "n": 30, "true": 1.0}, study, (law, 30, 1.0), {"claimed": (0.99, 1.0)})
    for n in (6, 10, 30):
        must = {"claimed": (0.0, ALPHA), "interval covers": (0.95, 1.0)}
        yield Setting({"law": "ratio, censored", "n": n, "true": 1.0}, ratio_study, (n, 1.0), must)
    # How often it is found is told, not asked: at the margin, a quarter of B's times censored.
    yield Setting(
        {"law": "ratio, censored", "n": 30, "true": 0.667}, ratio_study, (30, 1 / 1.5), {"equivalent": (0.0, ALPHA)}
    )
    for planted in (0, 2):
        name = {"law": f"family of 5, Holm, {planted} planted", "n": 10, "true": 0.0}
        yield Setting(name, family_study, (10, planted), {"claimed": (0.0, ALPHA)})
    # With more candidates on one side it is tuning that is compared: told.
    for n, of_a, of_b in ((10, 15, 15), (30, 15, 15), (30, 15, 3)):
        name = {"law": f"best of {of_a} against best of {of_b}", "n": n, "true": 0.0}
        yield Setting(name, selection_study, (n, of_a, of_b), {"claimed": (0.0, ALPHA)} if of_a == of_b else {})
    for law, n0, half_width in ((normal, 10, 0.25), (normal, 10, 0.5), (normal, 30, 0.25), (skewed, 10, 0.25)):
        must = {"half-width met": (1.0, 1.0)} | ({"interval covers": (0.95, 1.0)} if law is normal else {})
        name = {"law": f"{law.__name__}, Stein for ± {half_width}", "n": f"{n0} first", "true": 0.0}
        yield Setting(name, stein_study, (law, n0, half_width), must)
    # The prediction interval is told: it is known to be too narrow where few data sets hide that they differ.
    for k in (8, 20, 40):
        for tau in (0.0, 0.5):
            name = {"law": f"{k} data sets, τ = {tau}", "n": 10, "true": 0.0}
            yield Setting(name, pooled_study, (k, tau, 0.0), {"interval covers": (0.93, 0.97)})
    name = {"law": "20 data sets, τ = 0.0", "n": 10, "true": ROPE}
    yield Setting(name, pooled_study, (20, 0.0, ROPE), {"equivalent": (0.0, ALPHA)})


def new_data_settings() -> Iterator[Setting]:
    for learner in (other_features, other_weights):
        for pool, n in ((200, 10), (200, 30), (200, 100), (500, 30)):
            name = {"learners": learner.__name__, "rows": pool, "n": n, "drawn": "one pool, split again"}
            yield Setting(name, resplit_study, (learner, pool, n, False), {"new data": (0.0, ALPHA)})
        name = {"learners": learner.__name__, "rows": 200, "n": 30, "drawn": "fresh rows per replicate"}
        yield Setting(name, resplit_study, (learner, 200, 30, True), {"new data": (0.0, ALPHA)})


# --- running and telling ---


def run(settings: list[Setting], studies: int, seed: int, jobs: int) -> list[dict]:
    sizes = [min(CHUNK, studies - start) for start in range(0, studies, CHUNK)]
    work = [(setting, size) for setting in settings for size in sizes]
    seeds = np.random.SeedSequence(seed).spawn(len(work))
    chunks = Parallel(n_jobs=jobs)(delayed(run_chunk)(*item, s) for item, s in zip(work, seeds, strict=True))
    results = []
    for i, setting in enumerate(settings):
        outcomes = pd.concat(chunks[i * len(sizes) : (i + 1) * len(sizes)])
        results.append(setting.name | summary(outcomes, setting.must))
    return results


def run_chunk(setting: Setting, size: int, seed: np.random.SeedSequence) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame([setting.study(rng, *setting.arguments) for _ in range(size)])


def summary(outcomes: pd.DataFrame, must: dict[str, tuple[float, float]]) -> dict:
    result: dict = {"studies": len(outcomes)}
    met = True
    for column in outcomes:
        count = int(outcomes[column].sum())
        low, high = proportion_confint(count, len(outcomes), method="beta")
        result[column] = {"rate": count / len(outcomes), "ci": [float(low), float(high)]}
        if column in must:
            lowest, highest = must[column]
            met &= high >= lowest and low <= highest
    return result | {"must show": {name: list(bounds) for name, bounds in must.items()}, "met": met}


def real_aa(table: Path, size: int) -> dict:
    """How often studies of `size` pairs of equal networks claim a difference, in each scope."""
    frame = pd.read_csv(table)
    absent = {"seed", "rerun", "test_acc", "setting", "test_train_ratio"} - set(frame.columns)
    if absent:
        raise ValueError(f"{table}: has no column {', '.join(sorted(absent))}; take report/replicates.csv")
    # Settings that differ in more than rerun are other data sets: no study holds rows of two.
    frame["pool"] = frame["setting"].astype("string").fillna("").str.replace(r",?rerun=\d+", "", regex=True)
    if frame.duplicated(["pool", "seed", "rerun"]).any():
        raise ValueError(f"{table}: a seed and rerun occur twice; give one network's rows only")
    pairs = frame.pivot(index=["pool", "seed"], columns="rerun", values="test_acc").sort_index()
    if not {0, 1} <= set(pairs.columns):
        raise ValueError(f"{table}: needs rerun 0 and 1, has {list(pairs.columns)}")
    ratio = float(frame["test_train_ratio"].max())
    outcomes = []
    for _, pool in pairs.dropna(subset=[0, 1]).groupby("pool"):
        for start in range(0, len(pool) - size + 1, size):
            cut = pool.iloc[start : start + size]
            c = compare(cut[0].to_numpy(), cut[1].to_numpy(), rope=0.005, test_train_ratio=ratio, alpha=ALPHA)
            outcomes.append(
                {
                    "this data": claims(verdict(c, c.p_value, alpha=ALPHA)),
                    "new data": claims(verdict(c, c.p_new_data, alpha=ALPHA, scope="new data")),
                }
            )
    if not outcomes:
        raise ValueError(f"{table}: fewer than one study of {size} seeds with both reruns")
    name = {"law": f"real A/A, SD {(pairs[0] - pairs[1]).std():.4f}", "n": size, "true": 0.0}
    return name | summary(pd.DataFrame(outcomes), {"this data": (ALPHA, ALPHA), "new data": (0.0, ALPHA)})


def markdown(results: list[dict]) -> str:
    columns = dict.fromkeys(column for result in results for column in result)
    columns = sorted(columns, key=("must show", "met").__contains__)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for result in results:
        lines.append("| " + " | ".join(cell(result.get(column, "")) for column in columns) + " |")
    return "\n".join(lines)


def cell(value: object) -> str:
    match value:
        case {"rate": rate, "ci": [low, high]}:
            return f"{rate:.3f} ({low:.3f} to {high:.3f})"
        case dict():
            return "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in value.items())
        case bool():
            return "yes" if value else "NO"
        case _:
            return str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--new-data", action="store_true", help="studies made by splitting one pool of rows again")
    mode.add_argument(
        "--real-aa", type=Path, metavar="TABLE", help="a replicates.csv with reruns 0 and 1 of one network"
    )
    parser.add_argument("--size", type=int, default=30, help="pairs per study of --real-aa (default 30)")
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per setting (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--output", type=Path, help="write the figures there too, as JSON")
    arguments = parser.parse_args()

    started = time.perf_counter()
    if arguments.real_aa:
        try:
            results = [real_aa(arguments.real_aa, arguments.size)]
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")
    else:
        settings = list(new_data_settings() if arguments.new_data else default_settings())
        results = run(settings, arguments.studies, arguments.seed, arguments.jobs)
    print(markdown(results))
    print(f"\n{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result["met"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
