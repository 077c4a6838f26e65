"""A sweep stopped anywhere, beside another, on a full disk, under another launcher: the same tables, nothing twice."""

import ast
import contextlib
import importlib.util
import itertools
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import normdrop.tensorboard  # every child would import it
from fitting import normdrop as typed
from fitting import trained
from normdrop.data import sources as data
from normdrop.study import app, sweep
from normdrop.study import record as results
from normdrop.training import fit as train
from normdrop.training.checkpoint import Checkpoint
from normdrop.training.module import ReplicatedClassifier

# 3 conditions, 2 replicates each, in groups of 1: about a second.
SWEEP = (
    *("arrangement=none,bn_dropout", "rate=0.2,0.5", "data.train_size=40", "batch_size=20", "model.width=3"),
    *("model.depth=1", "trainer.max_epochs=2", "trainer.accelerator=cpu", "replicates_at_a_time=1"),
    "engine=torch",  # every process of its own would have the other one to compile first
    "checkpoint_minutes=0",  # so that conditions are cut off inside too
    *("logging=minimal", "name=sweep"),
)
BASIC = (*SWEEP, "hydra/launcher=basic")
STOPPED = (*BASIC, "rate=0.5")  # two of them, which is enough to stop within and between
FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"}  # what Python tells of
CONDITIONS = ("digits/none/after/q0.00", "digits/bn_dropout/after/q0.20", "digits/bn_dropout/after/q0.50")


class Child:
    """The application in a forked copy of this process, which has imported everything, in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, before: Callable[[], object] = lambda: None):
        self.said = folder / f"said by {random.getrandbits(60):x}"
        self.pid = os.fork()
        if self.pid:
            return
        status, after = 70, None
        try:  # whatever is raised, in the inner `finally` too, this copy ends here
            try:
                os.chdir(folder)
                resource.setrlimit(resource.RLIMIT_CPU, (300, 300))  # what trains for ever is ended, and no test waits
                out = os.open(self.said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                os.dup2(out, 1), os.dup2(out, 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                sys.argv = ["normdrop", *arguments]
                # Ignored where the tests run in the background, and where several processes run them.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                GlobalHydra.instance().clear()
                after = before()
                app.main()
                status = 0
            except SystemExit as stop:
                print(stop.code, file=sys.stderr)
                status = 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.setprofile(None)
                if callable(after):
                    after()
                sys.stdout.flush(), sys.stderr.flush()
        finally:
            os._exit(status)

    def end(self) -> int:
        """The exit status, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def text(self) -> str:
        return self.said.read_text()


def run(folder: Path, *arguments: str, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    child = Child(folder, *arguments, before=before)
    return child.end(), child.text()


def tables(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("outputs/**/*.csv"))
        if results.read(path.parent)
    }


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_to_load(tmp_path_factory) -> None:
    """What each child would import, compose and read anew, here once. Nothing trains: a copy of a process in which
    autograd ran beside a GPU cannot train.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nothing"))
        patch.setattr(sweep, "_train", lambda *_: None)
        for arguments in (BASIC, (*SWEEP, "hydra.launcher.n_jobs=2")):
            assert typed(*arguments) == ""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, said = run(folder, *BASIC, "replicates=2")
    assert status == 0, said
    assert len(tables(folder)) == 2 * len(CONDITIONS)
    return tables(folder)


@pytest.fixture(scope="module")
def two(uninterrupted) -> dict[str, bytes]:
    """The tables of STOPPED."""
    return {path: table for path, table in uninterrupted.items() if "q0.20" not in path}


def instead(own: Callable[..., object]) -> Callable[[], None]:
    """A `before` after which every fit is `own(fit, config, seeds, …)`."""

    def before() -> None:
        train._fit = partial(own, train._fit)

    return before


# --- stopped anywhere


def stop_at(share: float, whole: int, sign: signal.Signals, kind: str) -> None:
    """Send this process a signal after a share of the whole: calls of Python functions, or operations on files."""
    moment, count = max(round(share * whole), 1), 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == moment:
            sys.setprofile(None)
            os.kill(os.getpid(), sign)

    each(kind, tick)


def each(kind: str, tick: Callable[[], object]) -> None:
    """Call `tick` at every call of a Python function, or at every operation on files. Both are counted, not timed:
    a machine that is busy stops where a quiet one does.
    """
    if kind == "calls":
        sys.setprofile(lambda _, event, __: tick() if event == "call" else None)
    else:
        sys.addaudithook(lambda event, _: tick() if event in FILES else None)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> dict[str, int]:
    """How many calls of Python functions and operations on files STOPPED takes."""
    folder = tmp_path_factory.mktemp("wholes")

    def before() -> Callable[[], object]:
        calls, files = itertools.count(), itertools.count()
        each("calls", lambda: next(calls))
        each("files", lambda: next(files))
        return lambda: (folder / "said").write_text(f"{next(calls)} {next(files)}")

    status, said = run(folder, *STOPPED, "replicates=2", before=before)
    assert status == 0, said
    return dict(zip(("calls", "files"), map(int, (folder / "said").read_text().split()), strict=True))


# Anywhere in Python it is SIGINT that may do harm; what the others leave depends on the files alone.
@pytest.mark.parametrize(
    ("kind", "sign", "grows"),
    [
        ("calls", signal.SIGINT, True),
        ("files", signal.SIGKILL, True),
        ("files", signal.SIGTERM, False),
        ("files", signal.SIGINT, False),
    ],
)
def test_a_sweep_stopped_twice_at_random_ends_with_the_tables_of_a_whole_one(kind, sign, grows, two, wholes, tmp_path):
    rng, ends = random.Random(f"{kind} {sign}"), []
    if grows:  # from fewer seeds
        status, said = run(tmp_path, *STOPPED, "replicates=1", "arrangement=bn_dropout")
        assert status == 0, said
    for _ in range(2):
        done = finished(tmp_path)
        before = partial(stop_at, rng.uniform(0.1, 0.9), wholes[kind], sign, kind)
        status, said = run(tmp_path, *STOPPED, "replicates=2", before=before)
        assert status in (0, -sign, 1), said
        if status == 1:
            assert "normdrop: stopped: " in said
            assert "Go on with the same command: normdrop arrangement=none,bn_dropout" in said
            assert "Traceback" not in said
        ends.append(status)
        assert done.items() <= finished(tmp_path).items()  # what was finished is not trained again
    assert all(ends)
    status, said = run(tmp_path, *STOPPED, "replicates=2")
    assert status == 0, said
    assert tables(tmp_path) == two


def time_limit(saves: int, term: int, kill: int) -> None:
    """SIGTERM before one of the operations on files of this process's n-th checkpoint, SIGKILL at a later operation."""
    save, saved, operations = Checkpoint.save, 0, 0

    def tick(event: str, _: object) -> None:
        nonlocal operations
        if saved < saves or event not in FILES:
            return
        operations += 1
        if operations in (term, kill):
            os.kill(os.getpid(), signal.SIGTERM if operations == term else signal.SIGKILL)

    def counted(checkpoint, trainer):
        nonlocal saved
        saved += 1
        save(checkpoint, trainer)

    Checkpoint.save = counted
    sys.addaudithook(tick)


def test_a_time_limit_shorter_than_a_condition_gets_it_done_by_repeating_one_command(tmp_path):
    one = (*BASIC, "arrangement=bn_dropout", "rate=0.5", "trainer.max_epochs=8", "replicates=1")
    status, said = run(tmp_path / "whole", *one)
    assert status == 0, said
    moments = itertools.cycle([(1, 2), (2, 3), (3, 5), (3, 4)])  # a checkpoint is written by three operations
    ends = []
    while 0 not in ends:
        ends.append(run(tmp_path / "cut off", *one, before=partial(time_limit, 3, *next(moments)))[0])
        assert len(ends) < 9, "it does not come forward"
    assert len(ends) >= 4 and {*ends[:-1]} == {-signal.SIGKILL}
    assert tables(tmp_path / "cut off") == tables(tmp_path / "whole")
    assert not list(tmp_path.glob("**/checkpoint-*"))


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """The records of conditions with both seeds: which file each is, and since when."""
    found = {path: results.read(path.parent) for path in folder.glob("outputs/**/record.json")}
    whole = [path for path, held in found.items() if held and held.record["seeds"] == [0, 1]]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole}


@pytest.mark.parametrize(
    ("inside", "sign"),
    [(False, signal.SIGTERM), (True, signal.SIGINT), (True, signal.SIGTERM)],
    ids=["SIGTERM before a fit", "SIGINT in Lightning's loop", "SIGTERM in Lightning's loop"],
)
def test_ctrl_c_says_how_many_conditions_are_finished_and_how_to_go_on(inside, sign, tmp_path):
    def before() -> None:
        owner, name = (ReplicatedClassifier, "on_train_epoch_end") if inside else (train, "_fit")
        original = getattr(owner, name)

        def interrupted(first, *rest):
            config = first.config if inside else first
            if config["rate"] == 0.5:
                os.kill(os.getpid(), sign)
            return original(first, *rest)

        setattr(owner, name, interrupted)

    status, said = run(tmp_path, *BASIC, "replicates=1", before=before)
    assert status == 1
    command = " ".join(["normdrop", *BASIC, "replicates=1"])
    done = "normdrop: stopped: 2 of 3 configurations are finished"
    assert said.splitlines()[-1] == f"{done}. Go on with the same command: {command}"


@pytest.mark.parametrize("limit", [0, 100, 700, 3000])
def test_a_full_disk_ends_in_one_line_and_with_space_the_sweep_goes_on(limit, two, tmp_path):
    def before() -> None:  # the system then refuses every byte of a file beyond the limit, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)

    # What it says must not be refused as well, and goes through a pipe.
    read, write = os.pipe()
    status, _ = run(tmp_path, *STOPPED, "replicates=2", before=lambda: (os.dup2(write, 2), before())[1])
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert status == 1, said
    assert re.fullmatch(r"normdrop: \[Errno 27\] File too large.*\n|normdrop: \d of 2 configurations failed.*\n", said)
    status, said = run(tmp_path, *STOPPED, "replicates=2")
    assert status == 0, said
    assert tables(tmp_path) == two


def test_a_read_only_folder_ends_in_one_line(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)

    def before() -> None:
        os.chdir(locked)
        data.digits()
        if os.getuid() == 0:  # root may write anywhere
            os.setuid(65534)

    status, said = run(tmp_path, *BASIC, before=before)
    assert status == 1, said
    assert re.fullmatch(r"normdrop: \[Errno 13\] Permission denied: '.*'", said.splitlines()[-1])
    assert "Traceback" not in said


# --- side by side


class Hold:
    """In a child: the first training waits until told to go on, and every training is put down in a list."""

    def __init__(self, trained: Path):
        self.trained = trained
        self.begun, self.go_on = os.pipe(), os.pipe()

    def before(self, then: Callable[[], object] = lambda: None) -> None:
        held = False

        def own(fit, config, seeds, *rest):
            nonlocal held
            self.note(config, seeds)
            if not held:
                held = True
                os.write(self.begun[1], b"x")
                os.read(self.go_on[0], 1)
                then()
            return fit(config, seeds, *rest)

        instead(own)()

    def note(self, config, seeds) -> None:
        with self.trained.open("a") as file:
            file.write(f"{config['arrangement']} {config['rate']} {seeds}\n")

    def second(self) -> None:
        """For the other child: lets the first go on when it has to wait for it."""

        def own(fit, config, seeds, *rest):
            self.note(config, seeds)
            return fit(config, seeds, *rest)

        def listening(*texts):
            print(*texts)
            if str(texts[0]).startswith("waiting for"):
                os.write(self.go_on[1], b"x")

        instead(own)()
        sweep.print = listening


def test_two_sweeps_in_one_folder_share_the_work_and_train_nothing_twice(two, tmp_path):
    hold = Hold(tmp_path / "trained")
    first = Child(tmp_path, *STOPPED, "replicates=2", before=hold.before)
    os.read(hold.begun[0], 1)
    second = Child(tmp_path, *STOPPED, "replicates=2", before=hold.second)
    assert (second.end(), first.end()) == (0, 0), first.text() + second.text()
    assert "waiting for digits/none/after/q0.00, in work in another process" in second.text()
    trained = hold.trained.read_text().splitlines()
    assert len(trained) == len(set(trained)) == 4
    assert tables(tmp_path) == two


def test_the_lock_of_a_process_that_died_blocks_nobody(two, tmp_path):
    hold = Hold(tmp_path / "trained")
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    first = Child(tmp_path, *STOPPED, "replicates=2", before=lambda: hold.before(die))
    os.read(hold.begun[0], 1)
    second = Child(tmp_path, *STOPPED, "replicates=2", before=hold.second)
    assert (second.end(), first.end()) == (0, -signal.SIGKILL), second.text()
    assert tables(tmp_path) == two


def test_two_sweeps_of_different_configs_in_one_folder_do_not_mix(two, tmp_path):
    hold = Hold(tmp_path / "trained")
    first = Child(tmp_path, *STOPPED, "replicates=2", before=hold.before)
    os.read(hold.begun[0], 1)
    other = ("optimizer.lr=0.01", "arrangement=none")
    second = Child(tmp_path, *STOPPED, "replicates=2", *other, before=hold.second)
    assert second.end() == 1
    assert "holds a record of another config (optimizer.lr was 0.001, now 0.01)" in second.text().splitlines()[-1]
    assert first.end() == 0, first.text()
    assert tables(tmp_path) == two


# --- failures


def test_a_failure_keeps_its_traceback_is_listed_at_the_end_and_is_tried_again(uninterrupted, tmp_path):
    def broken(fit, config, *rest):
        if config["rate"] == 0.2:
            raise RuntimeError("it broke\nand how")
        return fit(config, *rest)

    status, said = run(tmp_path, *BASIC, "replicates=2", before=instead(broken))
    assert status == 1
    assert said.splitlines()[-2:] == [
        "failed: digits/bn_dropout/after/q0.20: RuntimeError: it broke and how",
        "normdrop: 1 of 3 configurations failed; the traceback of each stands in its error.txt. The same command tries "
        "them again",
    ]
    error = tmp_path / "outputs/sweep/digits/bn_dropout/after/q0.20/error.txt"
    assert error.read_text().startswith("RuntimeError: it broke and how\n")
    assert 'raise RuntimeError("it broke' in error.read_text()
    assert len(tables(tmp_path)) == 4
    status, said = run(tmp_path, *BASIC, "replicates=2")
    assert status == 0
    assert "2 finished, 1 to train" in said
    assert tables(tmp_path) == uninterrupted and not error.exists()


def test_a_single_replicate_that_does_not_fit_fails_its_condition_alone(tmp_path):
    def hungry(fit, config, *rest):
        if config["arrangement"] == "none":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit(config, *rest)

    status, said = run(tmp_path, *BASIC, "replicates=1", before=instead(hungry))
    assert status == 1
    assert "failed: digits/none/after/q0.00: OutOfMemoryError: CUDA out of memory" in said
    assert len(tables(tmp_path)) == 4
    lines = [line for line in said.splitlines() if re.match(r"\[\d/3\]", line)]
    assert len(lines) == 3 and [line for line in lines if " failed" in line] == [
        line for line in lines if "/none/" in line
    ]


# --- launchers


def workers(parent: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            of = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if of == parent:
                found.append(int(process.name))
    return found


def test_a_killed_worker_fails_what_was_in_work_and_joblibs_tables_are_the_basic_launchers(uninterrupted, tmp_path):
    told, tell = os.pipe()

    def waiting(fit, config, *rest):
        if config["rate"] != 0.5:  # the first two configurations, one in each process
            os.write(tell, b"x")
            signal.pause()
        return fit(config, *rest)

    child = Child(tmp_path, *SWEEP, "replicates=2", "hydra.launcher.n_jobs=2", before=instead(waiting))
    os.close(tell)
    assert os.read(told, 1) + os.read(told, 1) == b"xx", child.text()
    for worker in workers(child.pid):
        os.kill(worker, signal.SIGKILL)
    assert child.end() == 1
    said = child.text()
    failed = re.findall(r"^failed: (.*): Killed: its process was killed, perhaps for want of", said, re.M)
    assert failed == [*CONDITIONS[:2]]
    assert "normdrop: 2 of 3 configurations failed" in said
    assert "Traceback" not in said
    assert tables(tmp_path) == {path: table for path, table in uninterrupted.items() if "q0.50" in path}


def test_ctrl_c_twice_ends_a_sweep_and_its_processes_at_once(tmp_path):
    child = Child(tmp_path, *SWEEP, "replicates=1", "trainer.max_epochs=5000", "hydra.launcher.n_jobs=2")
    notes = tmp_path / "outputs" / "sweep" / ".progress"
    while not (notes.is_dir() and any(notes.iterdir())):
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0), child.text()
        select.select([], [], [], 0.01)
    left = workers(child.pid)
    for _ in range(2):
        os.kill(child.pid, signal.SIGINT)
        select.select([], [], [], 0.35)
    assert child.end() == 1
    assert "stopped: 0 of 3 configurations are finished." in child.text() and "Traceback" not in child.text()
    assert left and not any(Path(f"/proc/{worker}").exists() for worker in left)


def test_workers_that_are_terminated_leave_no_traceback(tmp_path):
    child = Child(tmp_path, *SWEEP, "replicates=1", "trainer.max_epochs=5000", "hydra.launcher.n_jobs=2")
    notes = tmp_path / "outputs" / "sweep" / ".progress"
    # Both are in Lightning's hands: one that dies before has failed, and the sweep goes on with what is left.
    while not (notes.is_dir() and sum("epoch" in note.read_text() for note in notes.iterdir()) == 2):
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0), child.text()
        select.select([], [], [], 0.01)
    for worker in workers(child.pid):  # alone: the sweep ends by itself, and whoever else was told races with its end
        os.kill(worker, signal.SIGTERM)
    assert child.end() == 1
    assert "3 did not finish" in child.text() and "Traceback" not in child.text()


@pytest.mark.parametrize("launcher", ["hydra/launcher=basic", "hydra.launcher.n_jobs=2"])
def test_a_wish_to_stop_is_heard_though_its_exception_is_lost(tmp_path, launcher):
    def before():
        @contextlib.contextmanager
        def display(*_):
            with contextlib.suppress(KeyboardInterrupt):  # as where it is raised in a destructor
                os.kill(os.getpid(), signal.SIGINT)
            yield

        sweep.display = display

    status, said = run(tmp_path, *SWEEP, "replicates=1", "trainer.max_epochs=5000", launcher, before=before)
    assert (status, said.count("stopped: 0 of 3 configurations are finished")) == (1, 1), said


def test_the_working_folder_hides_no_module(tmp_path):
    for name in ("signal", "random", "dataclasses", "typing", "argparse", "gettext"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    said = {"normdrop": ("rate=2", "must be less than 1"), "normdrop.report": ("nowhere", "no such directory")}
    for module, (word, answer) in said.items():
        command = [sys.executable, "-m", module, word]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and answer in ended.stderr, ended.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="hydra-submitit-launcher is not installed: pip install 'normdrop[slurm]'",
)
def test_submitits_local_executor_gives_the_basic_launchers_tables(uninterrupted, tmp_path):
    two = ("arrangement=bn_dropout",)  # each condition is a process that has everything to import
    command = [Path(sys.executable).with_name("normdrop"), *SWEEP, "replicates=2", *two]
    command.append("hydra/launcher=submitit_local")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tables(tmp_path) == {path: table for path, table in uninterrupted.items() if "bn_dropout" in path}


# --- safety


def names(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The dotted name of everything that a module imports or refers to."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node), node


def test_the_source_unpickles_nothing_and_runs_no_shell():
    forbidden = re.compile(
        r"(eval|exec|compile|__import__|os\.(system|popen|exec\w*|spawn\w*)|(pickle|cloudpickle|dill|marshal|"
        r"shelve|runpy)(\..*)?|joblib\.load|(pd|pandas)\.read_pickle|yaml\.(unsafe_)?load)"
    )
    sources = [*Path(normdrop.__file__).parent.rglob("*.py")]
    assert len(sources) > 10
    found = {f"{path.name}: {name}" for path in sources for name, _ in names(path) if forbidden.fullmatch(name)}
    assert found == {
        "own_source.py: exec",
        "own_source.py: compile",
    }  # the file of a network of one's own, which a config names
    # Other programs get their arguments as a list, which no shell reads.
    calls = [node for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    started = [call for call in calls if re.fullmatch(r"subprocess\.\w+", ast.unparse(call.func))]
    assert {ast.unparse(call.func) for call in started} == {"subprocess.run", "subprocess.check_output"}
    assert "shell" not in {keyword.arg for call in started for keyword in call.keywords}
    for call in calls:
        if ast.unparse(call.func) in ("np.load", "numpy.load", "torch.load"):
            safe = "weights_only=True" if "torch" in ast.unparse(call.func) else "allow_pickle=False"
            assert safe in ast.unparse(call)


# --- in this process: the last, since it trains


FULL = [  # what torch says of a GPU, of a CPU, and NumPy
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 450. MiB"),
]


def test_another_error_is_no_lack_of_memory(composed, monkeypatch):
    def failing(*_):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(train, "_fit", failing)
    with pytest.raises(NotImplementedError):
        trained(composed("trainer.accelerator=cpu"), [0, 1])


@pytest.mark.parametrize(("fits", "error"), [(1, FULL[0]), (3, FULL[0]), (3, FULL[1]), (3, FULL[2])])
def test_out_of_memory_halves_the_replicates_at_a_time_and_changes_no_result(
    fits, error, composed, monkeypatch, capsys
):
    fit, sizes = train._fit, []

    def small(config, seeds, *rest):
        sizes.append(len(seeds))
        if len(seeds) > fits:
            raise error
        return fit(config, seeds, *rest)

    def both_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
        replicates, history, _ = trained(config, list(range(7)))
        return replicates, history

    few = ("data.train_size=40", "batch_size=20", "model.width=3", "model.depth=1", "trainer.max_epochs=1")
    config = composed(*few, "trainer.accelerator=cpu")
    expected = both_tables()
    monkeypatch.setattr(train, "_fit", small)
    got = both_tables()
    for a, b in zip(got, expected, strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert "out of memory with 7 replicates; going on with 3" in capsys.readouterr().out
    assert sizes[0] == 7
    assert sizes[-1] <= fits
