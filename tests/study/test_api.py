"""The study from Python: what is wrong is told as on the command line, in one line and in words that hold there."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime

import normdrop
from normdrop.study import CONF, api
from normdrop.study import config as configs


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("model=cnn", "model.depth=1"), "model.depth: there is no such key; allowed are activation, channels"),
        (("rate=0.1,0.3",), "rate=0.1,0.3: takes one value here; the command line sweeps: normdrop rate=0.1,0.3"),
        (("rates=0.1",), "rates: there is no such key; did you mean rate?"),
        (("rate=2",), "rate=2: must be less than 1"),
        (({"rate": 2},), "rate=2: must be less than 1"),
        (({"rate": "0.3"},), 'rate="0.3": must be a valid number'),
        (({"data": pd.DataFrame()},), "data: Value 'DataFrame'"),
        (({"data": {"path": pd.DataFrame()}},), "data.path: Value 'DataFrame'"),
        (({"rates": 0.1},), "rates: there is no such key; did you mean rate?"),
        (({"model": {"breadth": 3}},), "model.breadth: model=mlp has no such key"),
        (({"data": "table"},), "data.path="),
        (({"data": {"path": "mine.csv"}},), "data.path: there is no such key; did you mean data=table, which has it?"),
        (({"data.dataset": "iris"},), "data.dataset: there is no such key"),
        ((3,), "3: settings are keyword arguments, text such as 'rate=0.3', or a dict"),
        (({"model": {"name": "own", "file": "nowhere.py"}},), "model.file="),
    ],
)
@pytest.mark.parametrize("function", [normdrop.train, normdrop.build])
def test_a_wrong_override_is_one_line(function, overrides, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as caught:
        function(*overrides)
    assert "\n" not in str(caught.value)


TINY = {"engine": "torch", "data.train_size": 70, "batch_size": 16, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}


def test_keyword_arguments_a_dict_and_text_are_one():
    level = logging.getLogger("lightning.pytorch").level
    threads = torch.get_num_threads()
    given = normdrop.train(
        TINY, {"model": {"width": np.array([20, 13])}}, rate=np.float64(0.1), optimizer="adam", replicates=2
    )
    words = "engine=torch", "data.train_size=70", "batch_size=16", "trainer.max_epochs=1", "trainer.accelerator=cpu"
    typed = normdrop.train(*words, "model.width=[20,13]", "rate=0.1", "arrangement=bn_dropout", "replicates=2")
    assert given.replicates.equals(typed.replicates)
    assert repr(given).startswith("2 replicates: test accuracy 0.")
    assert logging.getLogger("lightning.pytorch").level == level and torch.get_num_threads() == threads


def test_a_group_may_be_named_in_its_dict_and_what_could_make_a_result_false_is_said(tmp_path):
    module, data = normdrop.build(TINY, data={"name": "breast_cancer"}, optimizer={"name": "sgd", "lr": 0.25})
    config = module.hparams["config"]
    assert data.classes == 2 and config["data"]["name"] == "breast_cancer"
    assert (config["optimizer"]["_target_"], config["optimizer"]["lr"]) == ("torch.optim.SGD", 0.25)
    module, _ = normdrop.build(TINY, model={"name": "cnn", "channels": (4, 3)}, replicates=2)
    assert module.hparams["config"]["model"]["channels"] == [4, 3]
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))\n"
    )
    module, _ = normdrop.build(TINY, model={"file": str(tmp_path / "net.py")}, replicates=2)
    assert module.hparams["config"]["model"]["name"] == "own"
    noise = np.random.default_rng(0).normal(size=(90, 2))
    table = pd.DataFrame(noise, columns=["a", "b"]).assign(cause=np.arange(90) % 2, y=np.arange(90) % 2)
    table.to_csv(tmp_path / "t.csv", index=False)
    given = {"data": "table", "data.path": tmp_path / "t.csv", "data.target": "y"}
    with pytest.warns(UserWarning, match=r"^t: the class can be told exactly from cause; .*'data\.drop=\[cause\]'"):
        normdrop.build(TINY, given, {"data.train_size": 30})


@pytest.mark.parametrize(
    "state",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu"),
        lambda: kind(torch.float64),
        lambda: torch.device("meta"),
    ],
)
def test_a_callers_torch_state_that_would_change_numbers_is_refused_in_one_line(state):
    with state(), pytest.raises(ValueError, match=r"outside of torch\.autocast, no_grad .* defaults$"):
        normdrop.train(TINY, progress=False)


@contextmanager
def kind(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def test_threads_compose_one_after_another():
    with ThreadPoolExecutor(4) as threads:
        composed = threads.map(lambda width: configs.compose(f"model.width={width}"), range(1, 9))
        assert [config.model.width for config in composed] == [*range(1, 9)]


def test_what_train_returns_has_the_rows_of_its_networks():
    run = normdrop.train(TINY, replicates=2, progress=False)
    ((x, y),) = run.networks.parts(1)["test"].batches()
    accuracy = (run.network(1)(x[0]).argmax(dim=1) == y[0]).double().mean()
    assert accuracy.item() == pytest.approx(run.replicates.set_index("seed")["test_acc"][1], abs=1e-9)


@pytest.mark.parametrize("given", [{"name": "x"}, {"save_networks": True}, "logging=per_seed"])
def test_what_is_of_a_sweeps_folder_alone_is_told(given):
    key = given.partition("=")[0] if isinstance(given, str) else next(iter(given))
    api._warn.cache_clear()
    with pytest.warns(UserWarning, match=f"^{key}: without effect"):
        normdrop.build(TINY, given, replicates=2)


def test_a_callers_hydra_context_stays_as_it_is():
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        JobRuntime.instance().set("name", "the caller's")
        normdrop.build(TINY, replicates=2)
        assert hydra.compose("config", ["rate=0.25"]).rate == 0.25
        assert JobRuntime.instance().get("name") == "the caller's"


def test_help_and_completion_show_what_there_is():
    assert {"train", "build", "load"} <= set(dir(normdrop))
    assert "rate=0.3" in normdrop.train.__doc__
