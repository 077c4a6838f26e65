"""Each door of the package, by the words of its table: a layer, a model, a metric, an optimizer are added in a copy of
the package, each in the places that the table names and nowhere else, and trained."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import normdrop
from fitting import forget, in_a_copy

PACKAGE = Path(normdrop.__file__).parent


def put(file: Path, behind: str, text: str) -> None:
    """Put text behind the one place in a file where these words stand."""
    before, found, after = file.read_text().partition(behind)
    assert found and behind not in after, f"{file.name} has no one {behind!r}"
    file.write_text(before + found + text + after)


def a_layer(package: Path, conf: Path) -> None:
    put(package / "arrangement.py", 'ARRANGEMENTS = ("none", ', '"gn_dropout", ')
    layer, kind = '\n    "gn": lambda width, space, eps, momentum: nn.GroupNorm(2, width),', "[int, int, float, float]"
    put(package / "networks/layers.py", f"OPERATIONS: dict[str, Callable[{kind}, nn.Module]] = {{", layer)


def a_model(package: Path, conf: Path) -> None:
    (package / "networks/twice.py").write_text(
        "from normdrop.networks.mlp import mlp\n\n\n"
        "def twice(features, classes, *, factor=2, **placed):\n"
        "    return mlp(features, classes, width=10 * factor, depth=2, **placed)\n"
    )
    networks = package / "networks/__init__.py"
    put(networks, '= {"mlp": mlp, "cnn": cnn', ', "twice": twice')
    last = "from normdrop.networks.stacked import StackedNetwork\n"
    put(networks, last, "from normdrop.networks.twice import twice\n")
    (conf / "model/twice.yaml").write_text("name: twice\nfactor: 2\ninit_gain: 1.0\n")


def a_metric(package: Path, conf: Path) -> None:
    metric = '        Metric("test_brier", "Brier score", "points²", False, "test/brier"),\n'
    put(package / "metrics.py", "    for metric in (\n", metric)
    module = package / "training/module.py"
    put(module, "MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {\n", '    "brier": brier,\n')
    put(
        module,
        "# What can be measured of a part's logits",
        " and labels:\ndef brier(logits, y):\n"
        "    return (logits.softmax(-1) - F.one_hot(y, logits.shape[-1])).square().sum(-1).mean(-1)\n\n\n#",
    )


def an_optimizer(package: Path, conf: Path) -> None:
    (conf / "optimizer/nadam.yaml").write_text("defaults: [adam]\n_target_: torch.optim.NAdam\n")


def tried(root: Path) -> dict[str, Any]:
    """What becomes of each addition, typed in Python: what is trained, and what is refused in one line."""
    forget("normdrop")
    sys.path.insert(0, str(root / "src"))
    ours = importlib.import_module("normdrop")
    tiny = {"data.train_size": 70, "batch_size": 16, "trainer": {"max_epochs": 2, "accelerator": "cpu"}}
    settings = {
        "layer": {"arrangement": "gn_dropout", "model.width": 20},
        "layer, cnn": {"arrangement": "gn_dropout", "model": "cnn", "position": "before"},
        "model": {"model": "twice", "model.factor": 3},
        "optimizer": {"optimizer": "nadam"},
    }
    found: dict[str, Any] = {}
    for name, given in settings.items():
        fitted = ours.train(tiny, given, engine="torch", progress=False, replicates=2)
        network, test = fitted.network(0), ours.build(tiny, given, replicates=2)[1].parts["test"]
        loss = torch.nn.functional.cross_entropy(network(test.x[0]), test.y[0]).item()
        row = fitted.replicates.iloc[0].to_dict()
        found[name] = {"text": str(network), "row": row, "nll": [loss, row["test_nll"]]}
    try:
        ours.train(tiny, model="twice", **{"model.factor": 2.55})
    except ValueError as error:
        found["refused"] = str(error)
    brier = importlib.import_module("normdrop.metrics").METRICS["test_brier"]
    found["told"] = importlib.import_module("normdrop.report.tables").number(0.1234, "test_brier"), brier.rope
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    """What became of each addition, all in one copy."""
    root = tmp_path_factory.mktemp("doors")
    conf = next(path for path in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if path.is_dir())
    shutil.copytree(PACKAGE.parent, root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(conf, root / "conf")
    for door in (a_layer, a_model, a_metric, an_optimizer):
        door(root / "src/normdrop", root / "conf")
    return in_a_copy(tried, root)


def test_a_layer_trains_as_what_it_is(found):
    for name in ("layer", "layer, cnn"):
        assert found[name]["text"].count("GroupNorm(2, ") == 2
        ours, table = found[name]["nll"]
        assert ours == pytest.approx(table, rel=1e-5)  # of the plain network, GroupNorm and all


def test_a_model_trains_by_its_name_and_refuses_a_value_in_one_line(found):
    assert "out_features=30" in found["model"]["text"]
    assert "model.factor=2.55" in found["refused"] and "\n" not in found["refused"]


def test_a_metric_has_a_column_and_its_own_unit_in_a_report(found):
    assert 0 < found["model"]["row"]["test_brier"] < 2
    assert found["told"] == ("+0.123", 0.01)


def test_an_optimizer_trains(found):
    ours, table = found["optimizer"]["nll"]
    assert ours == pytest.approx(table, rel=1e-5)
