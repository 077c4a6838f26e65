"""The benchmark runs every side and says what it measured; how fast they are is no test's business."""

import contextlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fitting import normdrop

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import benchmark
import peers

COMPILED = importlib.util.find_spec("numba") is not None


def printed(*arguments: str) -> str:
    """What the benchmark prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", ["benchmark", *arguments])
        # No server that would have to import once more what this process has.
        patch.setattr(multiprocessing, "get_context", lambda _, get=multiprocessing.get_context: get("fork"))
        benchmark.main()
    return out.getvalue()


def test_held_to_an_instruction_set_every_side_is_told_and_so_is_the_reader(monkeypatch):
    for name in benchmark.AVX2:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(benchmark, "compare", lambda *_: print(os.environ["OPENBLAS_CORETYPE"]))
    first, *_, last = printed("--isa=avx2").splitlines()
    assert "held to avx2" in first and last == "Haswell"


def test_the_table_has_every_side_once_with_finite_figures():
    said = printed("--width=8", "--epochs=1", "--rounds=1", "--replicates=2")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("|")][2:]
    sides = [("per_seed_lightning", "1"), ("torch", "2"), *([("compiled", "2")] if COMPILED else []), ("floor", "2")]
    assert [(name, height) for name, height, *_ in rows] == sides
    for _, _, seconds, faster, of_floor in rows:
        assert all(math.isfinite(float(value)) for value in (seconds, faster, of_floor)) and float(seconds) > 0
    assert float(rows[0][3]) == float(rows[-1][4]) == 1


def test_the_report_on_a_gpu_runs_on_a_cpu_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def in_this_process(command, **_):
        assert command[:3] == [sys.executable, "-m", "normdrop"]
        assert normdrop(*command[3:]) == ""

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=in_this_process, DEVNULL=None))
    report, fits = tmp_path / "report.json", []
    true = benchmark.one_fit

    def stopped(*what):
        if len(fits) == 2:
            raise KeyboardInterrupt
        fits.append(what)
        return true(*what)

    monkeypatch.setattr(benchmark, "one_fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        benchmark.gpu_report(report, tiny=True)
    assert len(json.loads(report.read_text(encoding="utf-8"))) == 3 + 2
    monkeypatch.setattr(benchmark, "one_fit", lambda *what: fits.append(what) or true(*what))
    benchmark.gpu_report(report, tiny=True)
    assert [what[:2] for what in fits] == [(8, 1), (8, 2), (16, 1), (16, 2)]
    said = json.loads(report.read_text(encoding="utf-8"))
    assert said["losses differ by"] == {"from the CPU's, relative": 0, "alone from among others": 0}
    assert said["kernels"]["kernels per step"] > 20
    assert said["sweep of 2 conditions"]["conditions"] == 2
    assert all(said[f"fit, width {w}, {n} replicates"]["ms per step"] > 0 for w in (8, 16) for n in (1, 2))


@pytest.mark.skipif(not peers.installed(), reason="JAX is not installed")
def test_jax_takes_the_steps_of_plain_networks():
    config = benchmark.work(1, *benchmark.MODELS["mlp"], benchmark.TINY["mlp"])
    assert peers.disagreement(config) < benchmark.AGREE
    peers.run(config, 2)


@pytest.mark.parametrize("argument", ["--width=0", "--epochs=0", "--rounds=0", "--replicates=0", "--peers=0"])
def test_number_that_cannot_be_is_refused_in_one_line(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", argument])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    name, value = argument.split("=")
    assert f"argument {name}: invalid positive value: '{value}'" in capsys.readouterr().err.splitlines()[-1]
