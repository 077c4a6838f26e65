"""Where conf/ is: in the checkout, or in the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir())
