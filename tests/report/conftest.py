"""Lets the report's tests import `fake_study`, which lies beside the tests of the other rooms."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study at two positions, with an A/A run, and its report."""
    from fake_study import fake_study
    from normdrop.report.__main__ import main

    directory = fake_study(tmp_path_factory.mktemp("study") / "ordering", positions=("after", "around"), replicates=12)
    assert main([str(directory)]) == 0
    return directory
