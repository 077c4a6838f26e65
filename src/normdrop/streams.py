"""Every random stream of the study. Global random state is neither read nor written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Every random draw has a stream of its own, so that adding a layer or a dropout call moves no other draw.
STREAMS = {"rows": 0, "split": 1, "init": 2, "order": 3, "masks": 4, "silencing": 5, "shift": 6}


def stream(seed: int, source: str, *, rerun: int = 0, layer: int = 0) -> np.random.Generator:
    """The random stream of one replicate for one source of randomness, a key of STREAMS.

    Streams of different arguments are independent (numpy's SeedSequence). `rows` draws the fresh rows of a
    generated data set. `rerun` is the A/A knob: another number gives other initial weights, orders and masks
    (callers leave it 0 for rows, split and silencing).
    """
    key = np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS[source], rerun, layer))
    return np.random.Generator(np.random.SFC64(key))


def state_of(generator: np.random.Generator) -> list[int]:
    """Where a stream stands, as plain integers."""
    state: Any = generator.bit_generator.state
    return [*map(int, state["state"]["state"]), int(state["has_uint32"]), int(state["uinteger"])]


def restore(generator: np.random.Generator, state: Sequence[int]) -> None:
    """Put a stream where another one stood."""
    *words, has_uint32, uinteger = state
    own: Any = {"bit_generator": "SFC64", "state": {"state": np.array(words, np.uint64)}}
    generator.bit_generator.state = own | {"has_uint32": has_uint32, "uinteger": uinteger}
