"""Measure what a replicate costs: normdrop beside a Lightning fit per seed, beside JAX, and beside products alone.

The work: digits (1,437 training rows), 64-256-256-10 (or --width) or, with --model cnn, a CNN (3 × 3 convolutions of 16
and 32 channels with stride 2), BN then dropout (rate 0.5) after each activation, Adam, batch 64, validation after every
epoch. Each side trains it in a process of one thread, and the sides take turns on one core, round by round. Figures are
medians over the rounds, of CPU time, which other work on the machine disturbs least (on a GPU: of time). A ratio is the
median of the rounds' ratios.

per_seed_lightning  what people do: one Lightning fit per seed with a DataLoader, self.log in every step,
                    TensorBoardLogger and checkpoints as they come; no progress bar
torch, compiled     normdrop.training.fit, as a sweep calls it, by either engine, with the metrics at the end of
                    training; without the measurement of variance shift, which no other side has
floor               an MLP's matrix products of forward and backward alone, in stacks as normdrop trains them; by
                    PyTorch or numpy, whichever is faster
jax                 with --peers: the same stack as JAX trains it (vmap over replicates, scan over steps), once its
                    first losses are those of plain networks; compiling is not timed
"""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import peers
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from normdrop.study import config as configs
from normdrop.study.job import hardware
from normdrop.training import fit as train
from normdrop.training.check import reason_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORK = (
    *("data=digits", "data.test_fraction=0.1", "data.val_fraction=0.111", "position=after", "rate=0.5"),
    *("arrangement=bn_dropout", "optimizer=adam", "optimizer.lr=0.001", "batch_size=64", "measure.shift=false"),
)
MODELS = {"mlp": ("model=mlp", "model.width=256", "model.depth=2"), "cnn": ("model=cnn", "model.channels=[16,32]")}
TINY = {"mlp": "model.width=16", "cnn": "model.channels=[2,2]"}
AGREE = 1e-4  # of the losses of three steps, relative
# What holds each library to that instruction set.
AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NUMBA_CPU_NAME": "haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


def work(epochs: int, *overrides: str) -> dict[str, Any]:
    """The resolved config of the work, composed from conf as a run composes it."""
    return configs.plain(configs.compose(*WORK, f"trainer.max_epochs={epochs}", *(overrides or MODELS["mlp"])))


# The sides: each trains the work of a config with so many replicates.


class PlainClassifier(pl.LightningModule):
    def __init__(self, network: nn.Module, lr: float):
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        logits = self.network(x)
        self.log("val_nll", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(dim=-1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def per_seed_lightning(config: dict[str, Any], replicates: int) -> None:
    for seed in range(replicates):
        data = train.data_of(config, [seed])
        data.setup()
        torch.manual_seed(seed)
        network = train.plain(config, data.shape, data.classes)
        rows, val = (TensorDataset(data.parts[name].x[0], data.parts[name].y[0]) for name in ("train", "val"))
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=config["trainer"]["max_epochs"],
                devices=1,
                logger=TensorBoardLogger(folder),
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(
                PlainClassifier(network, config["optimizer"]["lr"]),
                DataLoader(rows, config["batch_size"], shuffle=True),
                DataLoader(val, len(val)),
            )


def normdrop(engine: str, config: dict[str, Any], replicates: int) -> None:
    train.fit(config | {"engine": engine, "replicates_at_a_time": replicates}, list(range(replicates)))


def floor(config: dict[str, Any], replicates: int) -> None:
    rows, batch = 1437, config["batch_size"]
    network = train.plain(config, (1, 8, 8), 10)
    full, rest = (products(replicates, network, size) for size in (batch, rows % batch))
    library = min(full, key=lambda name: min(timeit.repeat(full[name], timer=time.process_time, number=1)))
    for _ in range(config["trainer"]["max_epochs"]):
        for _ in range(rows // batch):
            full[library]()
        rest[library]()


def products(stack: int, network: nn.Sequential, batch: int) -> dict[str, Callable[[], Any]]:
    """A step's products by each library: each Linear layer's output, its weights' gradient and, but for the first, its
    input's."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            sizes = (layer.out_features, layer.in_features), (layer.in_features, batch), (layer.out_features, batch)
            weight, x, gradient = (torch.randn(stack, *size, device=DEVICE) for size in sizes)
            pairs += [(weight, x), (gradient, x.mT), (weight.mT, gradient)][: 3 if pairs else 2]
    by_torch = {"PyTorch": lambda: [torch.bmm(a, b) for a, b in pairs]}
    arrays = [(a.cpu().numpy(), b.cpu().numpy()) for a, b in pairs]
    by_numpy = {"numpy": lambda: [np.matmul(a, b) for a, b in arrays]}
    return by_torch if DEVICE == "cuda" else by_torch | by_numpy


SIDES: dict[str, Callable[[dict[str, Any], int], None]] = {
    "per_seed_lightning": per_seed_lightning,
    "torch": partial(normdrop, "torch"),
    "compiled": partial(normdrop, "compiled"),
    "floor": floor,
    "jax": peers.run,
}

# Taking turns.


def serve(connection: Connection, side: str, overrides: tuple[str, ...], replicates: int, epochs: int) -> None:
    """A process of one side: runs once at each request and answers with seconds."""
    if DEVICE == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    train.quiet()
    threadpool_limits(1)  # numpy's BLAS has threads of its own
    SIDES[side](work(1, *overrides), replicates)  # loads and compiles
    config = work(epochs, *overrides)
    clock = time.process_time if DEVICE == "cpu" else time.perf_counter
    connection.send(None)
    while connection.recv():
        gc.collect()  # Lightning's objects form cycles, which keep the last run's tensors
        synchronise()
        started = clock()
        SIDES[side](config, replicates)
        synchronise()
        connection.send(clock() - started)


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Side:
    """One side with so many replicates, in a process of its own."""

    def __init__(self, what: str, overrides: tuple[str, ...], replicates: int, epochs: int):
        self.what, self.replicates, self.seconds = what, replicates, []
        # A server that has imported the packages forks the sides, all but at once; CUDA does not outlive a fork.
        context = multiprocessing.get_context("spawn" if DEVICE == "cuda" else "forkserver")
        context.set_forkserver_preload(["normdrop.training.fit", "lightning.pytorch.loggers"])
        self.connection, there = context.Pipe()
        context.Process(target=serve, args=(there, what, overrides, replicates, epochs), daemon=True).start()
        there.close()  # so that the end of the process ends the waiting for it
        self.wait()

    def wait(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit(f"benchmark: {self.what} with {self.replicates} replicates failed; the reason stands above")

    def run(self) -> None:
        self.connection.send(True)
        self.seconds.append(self.wait() / self.replicates)

    def ratio(self, other: "Side") -> float:
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def compare(given: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """Every side's figures as a table on standard output."""
    names = ["torch"]
    if DEVICE == "cpu" and reason_for(work(1, *overrides)) is None:
        names.append("compiled")
    if given.model == "mlp":
        names.append("floor")
    heights = [("per_seed_lightning", 1), *itertools.product(names, given.replicates)]
    heights += [("jax", height) for height in given.peers or []]
    sides = [Side(name, overrides, height, given.epochs) for name, height in heights]
    for number in range(given.rounds):
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
        for side in sides:
            side.run()
    floors = {side.replicates: side for side in sides if side.what == "floor"}
    print("| what | replicates | seconds per replicate | × faster than Lightning | × the floor |")
    print("|---|---:|---:|---:|---:|")
    for side in sides:
        seconds, faster = statistics.median(side.seconds), sides[0].ratio(side)
        of_floor = f"{side.ratio(floors[max(floors)]):.2f}" if floors else ""
        print(f"| {side.what} | {side.replicates} | {seconds:.3g} | {faster:.1f} | {of_floor} |")
        side.connection.send(False)


# All that has to be known when a GPU is at hand, in one run that goes on where it was stopped.


def gpu_report(path: Path, tiny: bool = False) -> None:
    """Fill the JSON file `path`, part by part; a part that it has is not measured again. tiny: only that it runs."""
    parts: dict[str, Callable[[], Any]] = {
        "machine": lambda: f"{hardware(DEVICE)}, torch {torch.__version__}",
        "losses differ by": partial(equal, tiny),
        "kernels": kernels,
    }
    for width in (8, 16) if tiny else (128, 1024):
        for height in (1, 2) if tiny else (1, 30, 128, 512):
            parts[f"fit, width {width}, {height} replicates"] = partial(one_fit, width, height, 1 if tiny else 5)
    parts["sweep of 2 conditions" if tiny else "sweep of 22 conditions"] = partial(sweep, tiny)
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, part in parts.items():
        if name not in report:
            report[name] = part()
            unfinished = path.with_name(f"{path.name}.part")
            unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(path)
        print(f"{name}: {report[name]}", flush=True)


def equal(tiny: bool) -> dict[str, float]:
    """How far the training loss of an epoch without dropout is from the CPU's, and a replicate's among others from its
    own alone."""
    config = work(1, *MODELS["mlp"], f"model.width={16 if tiny else 256}", "rate=0") | {"engine": "torch"}
    on_cpu = config | {"trainer": config["trainer"] | {"accelerator": "cpu"}}
    fits = {"cpu": (on_cpu, [0, 1, 2, 3]), "together": (config, [0, 1, 2, 3]), "alone": (config, [0])}
    losses = {name: train.fit(*how).history.set_index("seed")["train_loss"] for name, how in fits.items()}
    return {
        "from the CPU's, relative": float((losses["together"] / losses["cpu"] - 1).abs().max()),
        "alone from among others": float(abs(losses["together"][0] - losses["alone"][0])),
    }


def kernels() -> dict[str, float]:
    """Kernels that a step launches, however many replicates: two epochs less one, each with one validation.

    Without a GPU: PyTorch's operations that call no other.
    """
    config = {epochs: work(epochs, *MODELS["mlp"], TINY["mlp"]) | {"engine": "torch"} for epochs in (1, 2)}
    counts = {}
    for epochs, own in config.items():
        activity = ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            train.fit(own, [0, 1])
            synchronise()
        on_device = torch.autograd.DeviceType.CUDA
        counts[epochs] = sum(
            event.device_type == on_device if DEVICE == "cuda" else not event.cpu_children
            for event in profiler.events()
        )
    return {"kernels per step": round((counts[2] - counts[1]) / 23, 1)}


def one_fit(width: int, height: int, epochs: int) -> dict[str, float]:
    """Seconds for each step of a stack so high, the second of two fits, and the most memory that the device held."""
    config = work(epochs, *MODELS["mlp"], f"model.width={width}")
    config |= {"engine": "torch", "replicates_at_a_time": height}
    for _ in range(2):
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        train.fit(config, list(range(height)))
        synchronise()
        seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    step = 1e3 * seconds / (23 * epochs)
    return {"seconds": round(seconds, 3), "ms per step": round(step, 3), "MiB": round(memory / 2**20, 1)}


def sweep(tiny: bool) -> dict[str, float]:
    """The seconds of one sweep from command to end."""
    words = ["experiment=ordering"]
    if tiny:
        words = [*WORK[:3], "arrangement=none,bn", TINY["mlp"], "replicates=2", "trainer.max_epochs=1"]
        words += ["hydra/launcher=basic"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "normdrop", *words, f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        finished = len(list(Path(folder).rglob("record.json")))
    return {"conditions": finished, "seconds": round(time.perf_counter() - started, 1)}


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS], default="mlp", help="(default: mlp)")
    parser.add_argument("--width", type=positive, help="of the MLP's hidden layers (default: 256)")
    parser.add_argument("--peers", type=positive, nargs="*", help="beside JAX, in stacks so high (default: 2 4 8 30)")
    parser.add_argument("--isa", choices=["avx2"], help="hold all libraries to this instruction set")
    parser.add_argument("--epochs", type=positive, default=10, help="of every fit (default: 10)")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of every side (default: 3)")
    parser.add_argument("--replicates", type=positive, nargs="+", default=[30], help="(default: 30)")
    parser.add_argument("--gpu-report", type=Path, metavar="FILE", help="measure all that a GPU must show, and no more")
    given = parser.parse_args()
    if given.model != "mlp" and (given.width, given.peers) != (None, None):
        parser.error("--width and --peers: are for --model mlp")
    if given.gpu_report:
        return gpu_report(given.gpu_report)
    if given.peers is not None and not peers.installed():
        parser.error("--peers: JAX is not installed; pip install 'normdrop[bench]'")
    if given.peers == []:
        given.peers = [2, 4, 8, 30]
    os.environ.update(AVX2 if given.isa else {})
    train.quiet()
    overrides = MODELS[given.model]
    if given.width:
        overrides = ("model=mlp", f"model.width={given.width}", "model.depth=2")
    machine = f"{hardware(DEVICE)}{f' held to {given.isa}' if given.isa else ''}, torch {torch.__version__}"
    print(f"{machine}; {' '.join(overrides)}; {given.epochs} epochs, one process of one thread for each side\n")
    if given.peers:
        off = peers.disagreement(work(1, *overrides, TINY["mlp"]))
        if off > AGREE:
            sys.exit(f"benchmark: the first losses of JAX are not those of plain networks ({off:.1e} off)")
    compare(given, overrides)


if __name__ == "__main__":
    main()
