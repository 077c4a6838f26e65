"""What the tests share: the real configs, made small; one finished sweep and its page, made once for all workers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
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

# Two positions, two rates, six seeds and an A/A run: enough for whatever reads a study.
FINISHED = (
    *("experiment=ordering", "arrangement=none,dropout,bn,bn_dropout,dropout_bn", "position=after,before"),
    *("rate=0.3,0.5", "optimizer.lr=0.003", "replicates=6", "first_seed=0", "data.train_size=70", "batch_size=16"),
    *("model.width=16", "patience=null", "trainer.max_epochs=3", "trainer.accelerator=cpu", "hydra/launcher=basic"),
)

# Files that sweep in other processes, train often, serve TensorBoard or draw pages: `scripts/test --fast` leaves them
# out, and the others start them first, the longest before all, so that neither of two workers ends alone.
SLOW = (
    *(
        "test_reliability",
        "test_tensorboard",
        "test_sweep",
        "test_properties",
        "test_bad_input",
        "test_doors",
        "test_own",
    ),
    *("test_reference", "test_told", "test_population", "test_page", "test_drawn", "test_publish", "test_hash"),
    *("test_compiled", "test_engine", "test_fit", "test_fit_cnn", "test_checkpoint", "test_kept", "test_lightning"),
    *("test_api", "test_shift", "test_shift_cnn", "test_select_epoch", "test_stacked", "test_stacked_cnn"),
    *("test_compiling", "test_made_from", "test_pooled", "test_sources"),
    *("test_cross_check", "test_measured", "test_benchmark", "test_package", "test_readmes", "test_tables"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


def pytest_collection_finish() -> None:
    """Python need not look for garbage among all that was imported, again and again."""
    gc.freeze()


@pytest.fixture(scope="session")
def composed() -> Callable[..., dict[str, Any]]:
    """The resolved config of a condition from conf/ and overrides, after the checks of config.py."""
    # Here: importing training costs seconds, which the report's tests do without.
    from normdrop.study import config
    from normdrop.training.fit import quiet

    quiet()

    def compose(*overrides: str) -> dict[str, Any]:
        resolved = config.plain(config.compose(*overrides))
        config.checked(resolved)
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


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """shared(name, make): a folder that all workers have in common, which the first to ask for it makes."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = common / name, common / f"{name}.done"
        with FileLock(common / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def finished(shared: Callable[..., Path]) -> Path:
    """A finished sweep of the ordering experiment on digits, as the command line leaves it. To be read, not written."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "normdrop", *FINISHED, f"hydra.sweep.dir={folder}"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert ended.returncode == 0, ended.stdout

    return shared("ordering", make)


@pytest.fixture(scope="session")
def page(shared: Callable[..., Path], finished: Path) -> Path:
    """The report of `finished`: the folder of report.html, report.md and the tables. To be read, not written."""
    from normdrop.report.__main__ import main

    shared("page", lambda _: main([str(finished)]))
    return finished / "report"
