"""A study: from what a person types to the record of each configuration."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Where conf/ is: in the installed package, or in the checkout.
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir())
