"""What the tests share: the real configs, made small; one finished sweep and its page, made once for all workers."""

import gc
import os
import pickle
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from filelock import FileLock
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import settings
from omegaconf import DictConfig

# No test is judged by its time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Hints name a program alone where that finds it.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
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
    *("model.width=16", "patience=null", "trainer.max_epochs=3", "trainer.accelerator=cpu", "hydra.launcher.n_jobs=2"),
)

# Files that sweep in other processes, train often, serve TensorBoard or draw pages: `scripts/test --fast` leaves them
# out, and the others start them first, the longest before all, so that neither of two workers ends alone. The first two
# train in copies of a process that has not trained: beside a GPU no other copy can.
SLOW = (
    *("test_reliability", "test_doors", "test_sweep", "test_compiled", "test_benchmark", "test_fit", "test_checkpoint"),
    *("test_tensorboard", "test_bad_input", "test_own", "test_properties", "test_cross_check", "test_reference"),
    *("test_told", "test_page", "test_drawn", "test_publish", "test_hash", "test_fit_cnn", "test_kept"),
    *("test_lightning", "test_api", "test_shift", "test_shift_cnn", "test_select_epoch", "test_stacked"),
    *("test_stacked_cnn", "test_compiling", "test_made_from", "test_pooled", "test_sources", "test_measured"),
    *("test_package", "test_readmes", "test_tables"),
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


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """Hydra composes the same words of the same files once: each time takes it a fifth of a second."""
    compose, known = ConfigLoaderImpl.load_configuration, {}

    def once(self: ConfigLoaderImpl, *words: Any, **more: Any) -> DictConfig:
        key = f"{self.get_search_path()} {words} {more}"
        if key not in known:
            known[key] = pickle.dumps(compose(self, *words, **more))
        config = pickle.loads(known[key])
        config.hydra.runtime.cwd = os.getcwd()
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", once)
        yield


@pytest.fixture(scope="session")
def composed(_composed_once: None) -> Callable[..., dict[str, Any]]:
    """The resolved config of a condition from conf/ and overrides, as a sweep composes it and after its checks."""
    # Here: importing training costs seconds, which the report's tests do without.
    from normdrop.study import CONF, config
    from normdrop.study.plan import Composer
    from normdrop.training.fit import quiet

    quiet()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN), [])

    def compose(*overrides: str) -> dict[str, Any]:
        words = OverridesParser.create().parse_overrides([*overrides])
        resolved, *_ = composer({word.get_key_element(): word.get_value_element_as_str() for word in words})
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
    """A finished sweep of the ordering experiment on digits, as the installed command leaves it; what that said on
    standard output stands beside it, and on standard error it said nothing. To be read, not written.
    """

    def make(folder: Path) -> None:
        command = [Path(sysconfig.get_path("scripts")) / "normdrop", *FINISHED, f"hydra.sweep.dir={folder}"]
        # What a notebook and an old terminal set must not matter.
        surroundings = {"PYTHONWARNINGS": "ignore", "MPLBACKEND": "module://no.backend", "PYTHONIOENCODING": "latin-1"}
        environment = os.environ | surroundings
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        folder.with_suffix(".said").write_text(ended.stdout)

    return shared("ordering", make)


@pytest.fixture(scope="session")
def page(shared: Callable[..., Path], finished: Path) -> Path:
    """The report of `finished`: the folder of report.html, report.md and the tables. To be read, not written."""
    from normdrop.report.__main__ import main

    shared("page", lambda _: main([str(finished)]))
    return finished / "report"
