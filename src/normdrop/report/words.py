"""From verdicts to the word of a claim, by a rule that is declared before anything runs. Strings and numbers alone."""

import math
from collections import Counter
from collections.abc import Sequence


def head(verdict: str) -> str:
    """A verdict in one word: better, worse, equivalent, inconclusive or refused.

    'better, but practically equivalent' is equivalent: the difference is shown to be there and to be too small.
    """
    return "equivalent" if verdict.endswith("practically equivalent") else verdict.partition(":")[0]


def claim_word(
    verdicts: Sequence[str],
    *,
    pooled: str | None = None,
    prediction: tuple[float, float] = (math.nan, math.nan),
    rope: float = math.nan,
) -> str:
    """The word for a claim.

    verdicts: one for each data set of the declared family, Holm included; a single one is a family too.
    pooled: the verdict of the mean over data sets, where there are enough of them; prediction: its prediction interval
    in the metric's unit. rope: as in `statistics.compare`; where none was declared, NaN, any difference matters.

    The first that applies:
    - Refused: the pooled verdict is, or without one every verdict is.
    - It depends: better on some data sets and worse on others; or the prediction interval reaches beyond ± rope on both
      sides, so that a new data set may go either way.
    - Yes: better, not equivalent, by the pooled verdict, else on at least three quarters of the data sets; worse on
      none. No: the opposite: the same with worse.
    - No practical difference: equivalent likewise; better or worse on none.
    - Sometimes: k of n: better on k, worse on none. Sometimes the opposite: k of n: its mirror image.
    - Not shown: anything else.

    Where the rule leaves room, this is the reading that claims less. It depends comes before the words that a pooled
    verdict alone would earn. A pooled verdict counts as one more that is better or worse, so one data set against it
    makes it depend. The single data sets can take 'No practical difference' from the pooled mean. A refused verdict
    stays in the count of data sets, on the side of none. Raises ValueError without any verdict.
    """
    heads = Counter(map(head, verdicts))
    total = sum(heads.values())
    if not total:
        raise ValueError("no verdict: a claim needs at least one")
    mean = None if pooled is None else head(pooled)
    if mean == "refused" or (mean is None and heads["refused"] == total):
        return "Refused"
    better, worse = (heads[side] + (mean == side) for side in ("better", "worse"))
    margin = 0.0 if math.isnan(rope) else rope
    if (better and worse) or (prediction[0] < -margin and prediction[1] > margin):
        return "It depends"

    def holds(word: str) -> bool:
        return 4 * heads[word] >= 3 * total if mean is None else mean == word

    if holds("better"):
        return "Yes"
    if holds("worse"):
        return "No: the opposite"
    if holds("equivalent") and not better and not worse:
        return "No practical difference"
    if better or worse:
        return f"Sometimes{' the opposite' if worse else ''}: {better or worse} of {total}"
    return "Not shown"
