"""A built wheel carries what the installed commands need, and they find it outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel as pip has it built: by the build backend's own hook, in the source tree."""
    from hatchling.build import build_wheel

    directory = tmp_path_factory.mktemp("dist")
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        return directory / build_wheel(str(directory))
    finally:
        os.chdir(here)


def metadata(wheel: Path) -> str:
    return wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"


def test_the_wheel_carries_every_config_and_the_sweeper(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"normdrop/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "normdrop/conf/config.yaml" in configs and configs <= names
    assert "hydra_plugins/normdrop_sweeper.py" in names
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "normdrop").rglob("*.py")}
    assert sources <= names


def test_the_wheel_carries_no_tests_outputs_or_caches(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"normdrop", "hydra_plugins", metadata(wheel)}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_declares_both_commands(wheel):
    entry_points = zipfile.ZipFile(wheel).read(f"{metadata(wheel)}/entry_points.txt").decode()
    assert "normdrop = normdrop.study.app:main" in entry_points
    assert "normdrop-report = normdrop.report.__main__:main" in entry_points


# The wheel alone: an editable install would add the checkout's sources.
OUTSIDE = """
import sys
sys.path[:] = [path for path in sys.path if path != {sources!r}]
from normdrop.study import app
assert app.CONF.is_relative_to({site!r}), app.CONF
sys.argv = ["normdrop", "arrangement=dropout_bm"]
app.main()
"""


def test_the_installed_command_composes_its_own_configs_outside_the_checkout(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    script = OUTSIDE.format(sources=str(ROOT / "src"), site=str(site))
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-c", script]
    ended = subprocess.run(words, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("normdrop: arrangement=dropout_bm: must be one of none, dropout, bn, bn_dropout")
    assert ended.stderr.endswith("did you mean dropout_bn?\n") and ended.stderr.count("\n") == 1
    assert not list(elsewhere.iterdir())
