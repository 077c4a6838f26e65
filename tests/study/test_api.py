"""The study from Python: what is wrong is told as on the command line, in one line and in words that hold there."""

import re

import pytest

import normdrop


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("model=cnn", "model.depth=1"), "model.depth: there is no such key; allowed are activation, channels, head"),
        (("rate=0.1,0.3",), "rate=0.1,0.3: takes one value here; the command line sweeps: normdrop rate=0.1,0.3"),
        (("rates=0.1",), "rates: there is no such key; did you mean rate?"),
        (("rate=2",), "rate=2: must be a number ≥ 0 and < 1"),
    ],
)
@pytest.mark.parametrize("function", [normdrop.train, normdrop.build])
def test_a_wrong_override_is_one_line(function, overrides, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as caught:
        function(*overrides)
    assert "\n" not in str(caught.value)
