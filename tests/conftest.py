"""What the tests share: the real configs, made small."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

# No test is judged by its time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: on small tensors threads do no more than wait

# 70 training rows make four batches of 16 and one of 6; neither 20 nor 13 units fill a multiple of 16 floats.
TINY = (
    *("data.train_size=70", "batch_size=16", "model.width=[20,13]", "trainer.max_epochs=2"),
    *("trainer.accelerator=cpu", "logging=minimal"),
)


@pytest.fixture(scope="session")
def composed() -> Callable[..., dict[str, Any]]:
    """The resolved config of a condition from conf/ and overrides, after the checks of config.py."""
    # Here: importing training costs seconds, which the report's tests do without.
    from normdrop.study import config
    from normdrop.training.fit import quiet

    quiet()

    def compose(*overrides: str) -> dict[str, Any]:
        resolved = config.plain(config.compose(*overrides))
        config.check(resolved)
        return resolved

    return compose


@pytest.fixture(scope="session")
def tiny(composed: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The config of a condition that trains in a fraction of a second, as a sweep plans it."""
    from normdrop.data.sources import standard_rows

    def compose(*overrides: str) -> dict[str, Any]:
        config = composed(*TINY, *overrides)
        config["data"]["fingerprint"] = standard_rows(config["data"]).fingerprint
        return config

    return compose
