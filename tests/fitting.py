"""What the tests train: one condition's tables and facts, as the sweep's own fit makes them."""

from typing import Any

import pandas as pd

from normdrop.training import fit


def trained(config: dict[str, Any], seeds: list[int]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The replicates, the history and the facts of a fit."""
    fitted = fit.fit(config, seeds)
    return fitted.replicates, fitted.history, fitted.facts
