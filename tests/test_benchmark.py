"""The benchmark runs every side of the comparison and writes what it says; how fast they are is no test's business."""

import contextlib
import importlib.util
import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import benchmark
import peers


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What a small run prints and writes."""
    output = tmp_path_factory.mktemp("benchmark") / "figures.json"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        arguments = ["--epochs=1", "--rounds=1", "--replicates=2", f"--output={output}"]
        patch.setattr(sys, "argv", ["benchmark", *arguments])
        benchmark.main()
    return printed.getvalue(), json.loads(output.read_text(encoding="utf-8"))


def test_json_has_every_side_once_with_finite_figures(small):
    _, figures = small
    assert set(figures) == {"hardware", "rows"}
    engine = [("compiled", 2)] if importlib.util.find_spec("numba") else []
    sides = [(row["what"], row["replicates"]) for row in figures["rows"]]
    assert sides == [("per_seed_lightning", 1), ("bare_loop", 1), ("normdrop", 2), *engine, ("floor", 2)]
    for row in figures["rows"]:
        assert set(row) == {"what", "replicates", "seconds_per_replicate", "peak_mib_per_replicate"}
        assert math.isfinite(row["seconds_per_replicate"]) and row["seconds_per_replicate"] > 0
        assert math.isfinite(row["peak_mib_per_replicate"]) and row["peak_mib_per_replicate"] >= 0


def test_table_has_the_figures_of_the_json(small):
    printed, figures = small
    assert figures["hardware"] in printed
    for row in figures["rows"]:
        assert f"| {row['what']} | {row['replicates']} | {row['seconds_per_replicate']:.3g} |" in printed


def test_floor_on_a_gpu_is_named_as_counted_where_there_is_none(small):
    printed, _ = small
    line = next(line for line in printed.splitlines() if line.startswith("Launch-bound floor"))
    assert "kernels per step" in line


def test_the_floor_is_that_of_the_fastest_library_and_each_ones_speed_is_told(small):
    printed, _ = small
    line = next(line for line in printed.splitlines() if line.startswith("GFLOP/s of the products, 2 replicates: "))
    assert all(f"{name} " in line for name in ("PyTorch", "numpy", "oneDNN", "1,024 × 1,024:"))


def test_each_librarys_products_are_the_same():
    a, b = torch.randn(2, 5, 3), torch.randn(2, 3, 4)
    torch.testing.assert_close(torch.stack(benchmark.onednn(a, b.mT.contiguous())), a @ b)


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "compiled_vmap"])  # which compiles a minute
def test_a_peer_takes_the_steps_of_plain_networks(name):
    config = benchmark.work(1, tiny=True)
    assert peers.disagreement(peers.PEERS[name], config) < benchmark.AGREE
    benchmark.SIDES[name](config, 2)


@pytest.mark.parametrize(
    "argument", ["--width=1", "--epochs=0", "--rounds=0", "--cores=0", "--replicates=0", "--cores=10000"]
)
def test_number_that_cannot_be_is_refused_in_one_line(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", argument])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert argument in capsys.readouterr().err.splitlines()[-1]
