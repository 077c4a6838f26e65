"""One finished study with its report, for all tests that only look at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_study import fake_study
from normdrop.report import figures
from normdrop.report.__main__ import main


@pytest.fixture(scope="session", autouse=True)
def coarse() -> Iterator[None]:
    """Figures of few dots: no test looks at them, and they take half of a page's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.STYLE, "savefig.dpi", 20)
        yield


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study at two positions, with an A/A run, and its report."""
    directory = fake_study(tmp_path_factory.mktemp("study") / "ordering", positions=("after", "around"), replicates=12)
    assert main([str(directory)]) == 0
    return directory
