"""The command line: what a person types becomes a Hydra sweep, and what is wrong with it one line."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from normdrop.asked import dotted, override
from normdrop.study import CONF, stop
from normdrop.study.told import command, held, line, nearest, prepare, runnable, typed, unknown_key

HELP = """normdrop [key=value …]: train configurations, each with its seeds, into outputs/<name>.

  normdrop arrangement=bn_dropout rate=0.3              one configuration
  normdrop experiment=ordering rate=0.1,0.3,0.5         an experiment; key=a,b,c trains each value
  normdrop data=table data.path=mine.csv data.target=label
  normdrop-report outputs/ordering                      the answer, of what has finished

Stopped, it goes on with the same command. --report writes the report at the end.
Hydra's options (--cfg job, --config-dir …): normdrop --hydra-help

{groups}

{keys}

# The keys of another choice: normdrop --help optimizer=sgd data=keel
"""

GROUPS = ("experiment", "data", "model", "optimizer", "hydra/launcher")
HELPED = ("model/mlp", "model/cnn", "model/own", "optimizer/adam", "data/_split", "data/table")  # whose keys it shows


atexit.register(gc.freeze)  # or Python looks for garbage among all that was imported once more, for seconds


def job(cfg: Any) -> None:
    """One job of a launcher that trains elsewhere."""
    from normdrop.study.job import work  # here: PyTorch takes seconds to import, and a mistake is told without it

    work(cfg)


def main() -> None:
    """Run the application; bad input gives one line on standard error and exit status 1."""
    prepare()
    typed[:] = sys.argv[1:]
    words = [word for word in typed if word != "--report"]
    if {"-h", "--help"}.intersection(words):
        return print(_help(words))
    if "--version" in words:
        return print(f"normdrop {version('normdrop')}")
    traced = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here
    os.environ["PYTHONSAFEPATH"] = "1"  # in other processes too, no module of the working folder stands before ours
    stop.listen()
    try:
        status = _study(words, report="--report" in typed)
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)  # everything is done: what ends here is not to be disturbed
    except (Exception, KeyboardInterrupt) as error:
        if stop.asked():  # whatever became of it: a library that it hits may raise another error instead
            interrupted = isinstance(error, KeyboardInterrupt) and error.args
            done = error if interrupted else "what is finished stays"
            sys.exit(f"\nnormdrop: stopped: {done}. Go on with the same command: {runnable(*shlex.split(command()))}")
        said = one_line(error, words)
        if not _expected(error):
            if traced:
                raise
            said = f"{type(error).__name__}: {said} (HYDRA_FULL_ERROR=1 shows where)"
        sys.exit(f"normdrop: {said}")
    if status:
        sys.exit(status)


def _study(words: list[str], report: bool) -> int:
    """Train a study, and write its report or say how; the exit status."""
    import hydra

    from normdrop.study.sweep import planned

    planned.clear()
    sys.argv[1:] = _arguments(words)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except ValueError:
        if report and planned and (planned[0] / "plan.json").exists():
            _report(planned[0])  # of what has finished
        raise
    for folder in planned:
        if report:
            stop.check()  # a wish to stop that came with the last configuration
            return _report(folder)
        shown = folder / "overview" if (folder / "overview").exists() else folder
        print(f"the answer:   {runnable('normdrop-report', folder)}")
        page = folder / "report" / "report.html"
        print(f"its page:     {page}, {'of before this run' if page.exists() else 'once that is written'}")
        print(f"TensorBoard:  {runnable('tensorboard', '--logdir', shown)}")
    return 0


def _report(folder: Path) -> int:
    from normdrop.report.__main__ import main as report

    return report([str(folder)]) or 0


def _arguments(words: list[str]) -> list[str]:
    """Hydra's options and what its first look at the config needs, wherever they were typed; the sweeper gets the
    other overrides from `held`. Raises ValueError for what is neither.
    """
    from hydra._internal.utils import get_args_parser

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{message}; overrides are typed without dashes, rate=0.3; normdrop --help shows them")

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign]
    known, others = parser.parse_known_args(words)
    for word in others:
        if word.startswith("-"):
            fail(f"{word}: there is no such option")
    if known.run:
        raise ValueError("--run: leave it out; one configuration is a sweep of one here")
    if known.config_path or known.config_name:
        why = "to train what a folder holds again, type the `command` of its record.json; --config-dir=… adds configs"
        raise ValueError(f"--config-path, --config-name: {why}")
    overrides = [*known.overrides, *others]
    for word in overrides:
        if word.startswith("="):
            raise ValueError(f"{word}: a key is missing before the '='")
        if word.startswith(("hydra/sweeper=", "hydra.mode=")) and word != "hydra/sweeper=study":
            why = "a grid is key=a,b,c, one configuration a grid of one; a search calls normdrop.train from Python"
            raise ValueError(f"{word}: leave it out; {why}")
    hydras = [word for word in words if word not in overrides and word not in ("-m", "--multirun")]
    if known.cfg or known.info or known.hydra_help or known.shell_completion:
        return [*hydras, *overrides]
    # A value may not fit conf/config.yaml's own choice of data, model or optimizer, on which Hydra would try it.
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key in GROUPS and value.startswith("_"):
            raise ValueError(f"{word}: a part of others, no option; must be one of {', '.join(options(key))}")
    held[:] = [word for word in overrides if not re.match(r"(hydra|experiment)\b", word.lstrip("~+"))]
    # Without --multirun Hydra takes any mistake beside a sweep for a sweep in the wrong mode.
    return [*hydras, "--multirun", *(word for word in overrides if word not in held)]


def _help(words: Sequence[str]) -> str:
    """What may be typed: the groups, and the keys of the config, of its usual groups and of those that `words` name."""
    groups = []
    for group in GROUPS:
        groups.append(fill(f"{group} = {' | '.join(options(group))}", 110, subsequent_indent="    "))
    keys = [(CONF / "config.yaml").read_text(encoding="utf-8").rstrip()]
    groups_asked = [word.split("=") for word in words if re.fullmatch(r"(data|model|optimizer)=\w+", word)]
    asked = [f"{group}/{name}" for group, name in groups_asked if name in options(group)]
    for file in dict.fromkeys([*HELPED, *asked]):
        group, name = file.rsplit("/", 1)
        text = (CONF / f"{file}.yaml").read_text(encoding="utf-8")
        keys.append(f"# {group}.<key>, {group}={name}\n{text.rstrip()}")
    return HELP.format(groups="\n".join(groups), keys="\n\n".join(keys))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def _expected(error: BaseException) -> bool:
    """Whether a person's input makes such an error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    told = (HydraException, OmegaConfBaseException, MarkedYAMLError, ValueError, OSError, MemoryError)
    return isinstance(error, told)


def one_line(error: BaseException, words: Sequence[str]) -> str:
    """What is wrong with these overrides, in one line; Hydra's own messages with the names that come nearest."""
    from normdrop.study import config as configs

    text = line(error)
    if unreadable := getattr(error, "override", ""):  # Hydra's OverrideParseException
        key, equals, value = unreadable.partition("=")
        if not equals:
            return f"{unreadable}: has no '='; an override is key=value"
        if value.endswith(","):
            return f"{unreadable}: the values of a grid are typed without blanks, {key}=a,b,c"
        listed = re.fullmatch(r"\[(.*)\]", value)
        items = [item.strip(" '\"") for item in listed[1].split(",")] if listed else value
        return f"{unreadable}: the value cannot be read; if it is text, type it in quotes: {override(key, items)}"
    if mark := getattr(error, "problem_mark", None):  # YAML's
        return f"{mark.name}, line {mark.line + 1}: not YAML: {text}"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        chosen = [word for word in words if re.fullmatch(r"(data|model|optimizer)=\w+", word)]
        known = dotted(configs.plain(configs.compose(*chosen), resolve=False))
        return unknown_key(unknown[1], {*known, "experiment"})
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{several[1]}: takes one value here; the command line sweeps: normdrop {several[1]}"
    if absent := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, name = re.findall(r"((?:hydra/)?\w+)/(.*?)(?:\.yaml)?$", absent[1])[0]
        if name.startswith(("submitit_", "ray")):
            return f"{group}={name}: needs its plugin: pip install 'normdrop[{'ray' if name[0] == 'r' else 'slurm'}]'"
        way = f"; a file is read by data=table data.path={name}" if group == "data" and "." in name else ""
        if group == "model" and entry_points(group="normdrop.models", name=name):
            way = f"; a package's network is taken by model=own model.name={name}"
        return f"{group}={name}: must be one of {', '.join(options(group))}{nearest(name, options(group))}{way}"
    where = getattr(error, "full_key", None)  # OmegaConf's
    return f"{where}: {text.partition(' full_key: ')[0]}" if where else text
