"""Lets the report's tests import `fake_study`, which lies beside the tests of the other rooms."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
