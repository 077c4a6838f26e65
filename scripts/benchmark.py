"""Measure what a replicate costs: normdrop beside one Lightning fit per seed, a bare loop, and the products alone.

The work: digits (1,437 training rows), 64-256-256-10 (or --width) or, with --model cnn, a CNN (3 × 3 convolutions of 16
and 32 channels with stride 2), BN then dropout (rate 0.5) after each activation, Adam, batch 64, validation after every
epoch. Every side trains it on the same cores, one process of one thread for each core, and the sides take turns, round
by round; the figures are medians over the rounds.

per_seed_lightning  what people do: one Lightning fit per seed with a DataLoader, self.log in every step,
                    TensorBoardLogger and checkpoints as they come; no progress bar
bare_loop           a plain PyTorch loop, one seed at a time: fused Adam, batches by index, nothing logged
normdrop            normdrop.training.fit, as a sweep calls it, with the metrics at the end of training; without the
                    measurement of variance shift, which no other side has; its steps by PyTorch
compiled            the same, its steps by the compiled engine, where it is at hand and knows the network
floor               the matrix products of forward and backward alone, of convolutions with the unfolding of patches, in
                    stacks as normdrop trains them; by PyTorch, numpy or oneDNN, whichever is fastest
torch_vmap, compiled_vmap, jax
                    with --peers: the same stack as torch.func, torch.compile of it and JAX train it, once their first
                    losses are those of plain networks; compiling is not timed
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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

from normdrop.arrangement import ARRANGEMENTS
from normdrop.networks.convolution import Convolution
from normdrop.networks.stacked import splitmix64
from normdrop.study import config as configs
from normdrop.study.job import hardware
from normdrop.training import fit as train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORK = (
    *("data=digits", "data.test_fraction=0.1", "data.val_fraction=0.111", "position=after", "rate=0.5"),
    *("optimizer=adam", "optimizer.lr=0.001", "batch_size=64"),
)
MODELS = {"mlp": ("model=mlp", "model.width=256", "model.depth=2"), "cnn": ("model=cnn", "model.channels=[16,32]")}
TINY = {"model=mlp": "model.width=16", "model=cnn": "model.channels=[2,2]"}
PEER_HEIGHTS = (2, 8, 30)
Model = Sequence[str]  # the overrides that choose it
AGREE = 1e-4  # of the losses of three steps, relative
LAUNCH = 5e-6  # seconds that a kernel takes to launch from PyTorch, where there is no GPU to measure it on


def work(
    epochs: int, arrangement: str = "bn_dropout", model: Model = MODELS["mlp"], tiny: bool = False
) -> dict[str, Any]:
    """The resolved config of the work, composed from conf as a run composes it."""
    own = (f"arrangement={arrangement}", f"trainer.max_epochs={epochs}", "measure.shift=false")
    return configs.plain(configs.compose(*WORK, *model, *([TINY[model[0]]] if tiny else ()), *own))


# ---------------------------------------------------------------------------------------------------------------------
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


def one_seed(config: dict[str, Any], seed: int) -> tuple[nn.Sequential, TensorDataset, TensorDataset]:
    """A plain network with its training and validation rows."""
    data = train.data_of(config, [seed])
    data.setup()
    torch.manual_seed(seed)
    network = train.plain_network(config, data.shape, data.classes)
    parts = (TensorDataset(data.parts[name].x[0], data.parts[name].y[0]) for name in ("train", "val"))
    return network, *parts


def per_seed_lightning(config: dict[str, Any], replicates: int) -> None:
    for seed in range(replicates):
        network, rows, val = one_seed(config, seed)
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


def bare_loop(config: dict[str, Any], replicates: int) -> None:
    for seed in range(replicates):
        network, rows, val = one_seed(config, seed)
        network = network.to(DEVICE)
        (x, y), (val_x, val_y) = ([tensor.to(DEVICE) for tensor in part.tensors] for part in (rows, val))
        optimizer = torch.optim.Adam(network.parameters(), lr=config["optimizer"]["lr"], fused=True)
        for _ in range(config["trainer"]["max_epochs"]):
            network.train()
            for index in torch.randperm(len(y), device=DEVICE).split(config["batch_size"]):
                optimizer.zero_grad()
                F.cross_entropy(network(x[index]), y[index]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                logits = network(val_x)
                F.cross_entropy(logits, val_y).item()
                (logits.argmax(dim=-1) == val_y).float().mean().item()


def normdrop(config: dict[str, Any], replicates: int) -> None:
    train.fit(config | {"engine": "torch"}, list(range(replicates)))


def compiled(config: dict[str, Any], replicates: int) -> None:
    train.fit(config | {"engine": "compiled"}, list(range(replicates)))


def floor(config: dict[str, Any], replicates: int) -> None:
    rows, batch = 1437, config["batch_size"]
    network = train.plain_network(config, (1, 8, 8), 10)
    at_a_time = train.AT_A_TIME[DEVICE]
    for start in range(0, replicates, at_a_time):
        stack = min(at_a_time, replicates - start)
        steps = {size: min(products(stack, network, size).values(), key=least) for size in (batch, rows % batch)}
        for _ in range(config["trainer"]["max_epochs"]):
            for _ in range(rows // batch):
                steps[batch]()
            steps[rows % batch]()


def least(step: Callable[[], Any]) -> float:
    """The seconds of this process in the fastest of five runs."""

    def once() -> float:
        started = time.process_time()
        step()
        return time.process_time() - started

    return min(once() for _ in range(5))


def products(stack: int, network: nn.Sequential, batch: int) -> dict[str, Callable[[], None]]:
    """One step's products: each layer's output, its weights' gradient and, but for the first, its input's.

    By PyTorch, and of Linear layers on a CPU by two other libraries too: numpy's BLAS and oneDNN.
    """
    others: dict[str, list[Callable[[], Any]]] = {"numpy": [], "oneDNN": []}
    steps: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = []
    values = torch.zeros(1, 64)
    for layer in network.eval():
        shape, values = values.shape[1:], layer(values)
        first = not steps
        if isinstance(layer, nn.Linear):
            weight, x, gradient = (
                torch.randn(stack, *sizes, device=DEVICE)
                for sizes in ((*layer.weight.shape,), (*shape, batch), (*values.shape[1:], batch))
            )
            steps.append((partial(torch.bmm, weight, x), partial(linear_gradients, weight, x, gradient, first)))
            for a, b in [(weight, x), (gradient, x.mT), (weight.mT, gradient)][: 2 if first else 3]:
                others["numpy"].append(partial(np.matmul, a.cpu().numpy(), b.cpu().numpy()))
                others["oneDNN"].append(partial(onednn, a.contiguous(), b.mT.contiguous()))
        elif isinstance(layer, nn.Conv2d):
            x = torch.randn(stack, *shape, batch, device=DEVICE, requires_grad=not first)
            parameters = [p.detach().flatten(1).expand(stack, -1, -1) for p in (layer.weight, layer.bias[:, None])]
            inputs = [x, *(p.clone().to(DEVICE).requires_grad_() for p in parameters)]
            gradient = torch.randn(stack, *values.shape[1:], batch, device=DEVICE)
            geometry = layer.kernel_size, layer.stride, layer.padding
            steps.append(
                (
                    partial(Convolution.apply, *inputs, *geometry),
                    partial(torch.autograd.grad, inputs=inputs[first:], grad_outputs=gradient),
                )
            )

    def step() -> None:
        outputs = [forward() for forward, _ in steps]
        for output, (_, backward) in zip(reversed(outputs), reversed(steps), strict=True):
            backward(output)

    def one_by_one(products: list[Callable[[], Any]]) -> None:
        for product in products:
            product()

    linear = DEVICE == "cpu" and not any(isinstance(layer, nn.Conv2d) for layer in network)
    if not torch.backends.mkldnn.is_available():
        del others["oneDNN"]
    return {"PyTorch": step} | {name: partial(one_by_one, own) for name, own in others.items() if linear}


def onednn(a: Tensor, b: Tensor) -> list[Tensor]:
    """a @ b.mT of each replicate."""
    product = torch.ops.mkldnn._linear_pointwise
    return [product(x, weight, None, "none", [], "") for x, weight in zip(a, b, strict=True)]


def floors(model: Model, replicates: int) -> None:
    """The speed of an MLP's products by each library, beside the most that a product is seen to reach here."""
    config, stack = work(1, model=model), min(replicates, train.AT_A_TIME[DEVICE])
    linear = [layer for layer in train.plain_network(config, (1, 8, 8), 10) if isinstance(layer, nn.Linear)]
    multiplied = 2 * config["batch_size"] * sum(layer.weight.numel() * (2 + (n > 0)) for n, layer in enumerate(linear))
    with threadpool_limits(1):
        by = products(stack, nn.Sequential(*linear), config["batch_size"])
        speeds = {name: stack * multiplied / least(step) for name, step in by.items()}
        a = torch.ones(1024, 1024, device=DEVICE)
        square = {"PyTorch": partial(torch.mm, a, a), "numpy": partial(np.matmul, a.cpu().numpy(), a.cpu().numpy())}
        most = 2 * 1024**3 / min(least(square[name]) for name in by if name in square)
    said = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in speeds.items())
    print(f"\nGFLOP/s of the products, {stack} replicates: {said}; of matrices of 1,024 × 1,024: {most / 1e9:.0f}")


def linear_gradients(weight: Tensor, x: Tensor, gradient: Tensor, first: bool, _: Tensor) -> None:
    torch.bmm(gradient, x.mT)
    if not first:
        torch.bmm(weight.mT, gradient)


SIDES = {side.__name__: side for side in (per_seed_lightning, bare_loop, normdrop, compiled, floor)}
SIDES |= {name: partial(peers.run, peer) for name, peer in peers.PEERS.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Taking turns.


def serve(connection: Connection, what: str, model: Model, replicates: int, epochs: int, core: int | None) -> None:
    """A process of one side: runs once at each request, answers with seconds and peak MiB beyond the idle process."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    train.quiet()
    # A run of a tiny network loads what is loaded once and shall not count.
    threadpool_limits(1)  # numpy's BLAS has threads of its own
    SIDES[what](work(1, model=model, tiny=True), 1)
    config = work(epochs, model=model)
    idle = peak(reset=True)
    if what in peers.PEERS:
        SIDES[what](work(1, model=model), replicates)  # compiles
    connection.send(None)
    while connection.recv():
        gc.collect()  # Lightning's objects form cycles, which keep the last run's tensors
        started = time.perf_counter()
        SIDES[what](config, replicates)
        synchronise()
        seconds = time.perf_counter() - started
        connection.send((seconds, peak() - idle))


def peak(reset: bool = False) -> float:
    """The most memory that this process has held, in MiB: allocated on a GPU, else resident."""
    if DEVICE == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    # ru_maxrss would count what the parent held when it started this process.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Side:
    """One side with so many replicates, in one process for each core."""

    def __init__(self, what: str, model: Model, replicates: int, epochs: int, cores: list[int | None]):
        self.what, self.replicates = what, replicates
        self.seconds: list[float] = []
        self.mib = 0.0
        self.connections = []
        # A server that has imported the packages forks the sides, all but at once; CUDA does not outlive a fork.
        context = multiprocessing.get_context("spawn" if DEVICE == "cuda" else "forkserver")
        context.set_forkserver_preload(["normdrop.training.fit", "lightning.pytorch.loggers"])
        for core in cores:
            here, there = context.Pipe()
            context.Process(target=serve, args=(there, what, model, replicates, epochs, core), daemon=True).start()
            there.close()  # so that the end of the process ends the waiting for it
            self.connections.append(here)

    def wait(self) -> list[Any]:
        try:
            return [connection.recv() for connection in self.connections]
        except EOFError:
            sys.exit(f"benchmark: {self.what} with {self.replicates} replicates failed; the reason stands above")

    def run(self) -> None:
        for connection in self.connections:
            connection.send(True)
        seconds, mib = zip(*self.wait(), strict=True)
        self.seconds.append(max(seconds) / (self.replicates * len(self.connections)))
        self.mib = max(self.mib, *(value / self.replicates for value in mib))

    def stop(self) -> None:
        for connection in self.connections:
            connection.send(False)


def compare(
    model: Model, replicates: list[int], epochs: int, rounds: int, cores: int, against: Sequence[str] = ()
) -> list[Side]:
    """Every side's figures, and the table of them on standard output."""
    pinned: list[int | None] = [None] * cores
    if DEVICE == "cpu" and hasattr(os, "sched_setaffinity"):
        pinned = list(sorted(os.sched_getaffinity(0))[:cores])
    sides = [Side(what, model, 1, epochs, pinned) for what in ("per_seed_lightning", "bare_loop")]
    own = ["normdrop", *(["compiled"] if configs.engine(work(1, model=model)) == "compiled" else []), "floor"]
    sides += [Side(what, model, n, epochs, pinned) for what in own for n in replicates]
    sides += [Side(what, model, n, epochs, pinned) for what in against for n in PEER_HEIGHTS]
    for side in sides:
        side.wait()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for side in sides:
            side.run()
    print("| what | replicates | seconds per replicate | × faster than Lightning | × the floor | MiB per replicate |")
    print("|---|---:|---:|---:|---:|---:|")
    floors = {side.replicates: side for side in sides if side.what == "floor"}
    for side in sides:
        faster = ratio(sides[0], side)
        of_floor = ratio(side, floors[min(floors, key=lambda n: abs(n - side.replicates))])
        seconds = statistics.median(side.seconds)
        print(f"| {side.what} | {side.replicates} | {seconds:.3g} | {faster:.1f} | {of_floor:.2f} | {side.mib:.1f} |")
        side.stop()
    return sides


def ratio(side: Side, other: Side) -> float:
    return statistics.median(a / b for a, b in zip(side.seconds, other.seconds, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# What else a sweep's time depends on.


def arrangements(model: Model, epochs: int, rounds: int) -> None:
    """Each arrangement beside `none`, one stack of replicates, turn by turn in one process."""
    works = {name: work(epochs, name, model) for name in ARRANGEMENTS}
    replicates = train.AT_A_TIME[DEVICE]
    seconds: dict[str, list[float]] = {name: [] for name in works}
    normdrop(work(1, model=model, tiny=True), 1)
    for _ in range(rounds):
        for name, config in works.items():
            started = time.perf_counter()
            normdrop(config, replicates)
            synchronise()
            seconds[name].append((time.perf_counter() - started) / replicates)
    print(f"\n| arrangement | seconds per replicate, {replicates} at a time | × none |\n|---|---:|---:|")
    for name, values in seconds.items():
        slower = statistics.median(a / b for a, b in zip(values, seconds["none"], strict=True))
        print(f"| {name} | {statistics.median(values):.3g} | {slower:.2f} |")


def set_up() -> None:
    """What the command takes beside training: sweeps whose conditions train one replicate for one epoch."""
    print("\n| processes | start to the first condition's end, s | each further condition, s |\n|---|---:|---:|")
    sweep = [
        str(Path(sys.executable).with_name("normdrop")),
        *WORK,
        *MODELS["mlp"],
        "arrangement=" + ",".join(ARRANGEMENTS),
    ]
    sweep += ["rate=0.2,0.5", "replicates=1", "trainer.max_epochs=1", "measure.shift=false"]
    for processes in dict.fromkeys((1, configs.workers("auto"))):
        with tempfile.TemporaryDirectory() as folder:
            started = time.time()
            subprocess.run(
                [*sweep, f"hydra.launcher.n_jobs={processes}", f"hydra.sweep.dir={folder}"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            ends = sorted(json.loads(path.read_text())["finished"] for path in Path(folder).rglob("record.json"))
        gaps = [later - earlier for earlier, later in zip(ends, ends[processes:], strict=False)]
        print(f"| {processes} | {ends[0] - started:.1f} | {statistics.median(gaps):.2f} |")


def launches(model: Model) -> None:
    """The bound that launching kernels sets on a GPU, where a stack of any height launches the same number."""
    count = kernels(model, 13) - kernels(model, 3)
    if DEVICE == "cuda":
        tiny = torch.zeros(1, device=DEVICE)
        synchronise()
        started = time.perf_counter()
        for _ in range(1000):
            tiny.add_(1)
        synchronise()
        latency, how = (time.perf_counter() - started) / 1000, "counted and measured on this GPU"
    else:
        # The masks' bits are counted, not drawn, on a GPU; these operations take the place of numpy's.
        count += 2 * 10 * (leaves(lambda: splitmix64(torch.zeros(2, dtype=torch.int64))) + 3)
        latency, how = LAUNCH, "an expectation: operations counted on the CPU, the latency assumed, no GPU here"
    each = count / 10
    print(
        f"\nLaunch-bound floor on a GPU ({how}): {each:.0f} kernels per step × {1e6 * latency:.1f} µs = "
        f"{1e3 * each * latency:.2f} ms per step, {690 * each * latency:.2f} s for thirty epochs of a whole stack"
    )


def kernels(model: Model, steps: int) -> int:
    config = work(1, model=model, tiny=True)
    config["trainer"]["limit_train_batches"] = steps
    return leaves(lambda: normdrop(config, 2))


def leaves(run: Callable[[], Any]) -> int:
    """How many kernels a call launches: on a CPU, operations that call no other and do more than view or allocate."""
    activity = ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        run()
        synchronise()
    if DEVICE == "cuda":
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
    idle = ("view", "empty", "stride", "expand", "slice", "select", "squeeze", "transpose", "aten::t", "reshape", "to")
    idle += ("alias", "detach", "split", "narrow", "resolve", "item", "local_scalar", "numpy", "lift", "result_type")
    named = tuple(f"aten::{name}" for name in idle)
    return sum(
        event.name.startswith("aten::")
        and not event.cpu_children
        and not any(word in event.name for word in idle[:9])
        and event.name not in named
        for event in profiler.events()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS], default="mlp", help="(default: mlp)")
    parser.add_argument("--width", type=int, help="of the MLP's hidden layers (default: 256)")
    parser.add_argument(
        "--peers", action="store_true", help="beside torch.func, torch.compile and JAX, where installed"
    )
    parser.add_argument("--epochs", type=int, default=30, help="of every fit (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side (default: 3)")
    parser.add_argument("--replicates", type=int, nargs="+", default=[1, 8, 30, 128], help="(default: 1 8 30 128)")
    parser.add_argument("--cores", type=int, default=1, help="processes of one thread for every side (default: 1)")
    parser.add_argument("--output", type=Path, help="also write the table's figures to this JSON file")
    parser.add_argument("--arrangements", action="store_true", help="then compare the arrangements")
    parser.add_argument("--set-up", action="store_true", help="then measure what the command takes beside training")
    given = parser.parse_args()
    for name, lowest in {"epochs": 1, "rounds": 1, "cores": 1, "width": 2}.items():
        if (value := getattr(given, name)) is not None and value < lowest:
            parser.error(f"--{name}={value}: must be an integer ≥ {lowest}")
    for name in ("width", "peers"):
        if given.model != "mlp" and getattr(given, name):
            parser.error(f"--{name}: is for --model mlp")
    if min(given.replicates) < 1:
        parser.error(f"--replicates={min(given.replicates)}: must be integers ≥ 1")
    if DEVICE == "cpu" and given.cores > configs.workers("cpu"):
        parser.error(f"--cores={given.cores}: this process may use {configs.workers('cpu')}")
    train.quiet()
    model = (*MODELS[given.model], *([f"model.width={given.width}"] if given.width else []))
    machine = f"{hardware(DEVICE)}, torch {torch.__version__}"
    print(f"{machine}; {given.epochs} epochs, {given.cores} process(es) of one thread for each side\n")
    against = [*peers.PEERS] if given.peers else []
    for name in against:
        if (off := peers.disagreement(peers.PEERS[name], work(1, model=model, tiny=True))) > AGREE:
            sys.exit(f"benchmark: the first losses of {name} are not those of plain networks ({off:.1e} off)")
    if given.peers and "jax" not in against:
        print("jax is not installed: pip install 'normdrop[bench]'\n")
    sides = compare(model, given.replicates, given.epochs, given.rounds, given.cores, against)
    if given.output:
        rows = [
            {
                "what": side.what,
                "replicates": side.replicates,
                "seconds_per_replicate": statistics.median(side.seconds),
                "peak_mib_per_replicate": side.mib,
            }
            for side in sides
        ]
        given.output.write_text(json.dumps({"hardware": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if given.model == "mlp" and DEVICE == "cpu":
        floors(model, max(given.replicates))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            print(f"{name}={os.environ[name]} is set: numpy's products, and the compiled steps, may be slower for it")
    launches(model)
    if given.arrangements:
        arrangements(model, given.epochs, given.rounds)
    if given.set_up:
        set_up()


if __name__ == "__main__":
    main()
