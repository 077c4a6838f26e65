"""The command line: what a person types becomes a Hydra sweep, and what is wrong with it one line."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parents[1]
CONF = next(path for path in (HERE / "conf", HERE.parents[1] / "conf") if path.is_dir())

HELP = """normdrop [key=value …]: train conditions, each with its replicates, into outputs/<name>.

  normdrop arrangement=bn_dropout rate=0.3              one condition
  normdrop experiment=ordering rate=0.1,0.3,0.5         an experiment; key=a,b,c trains each value
  normdrop data=table data.path=mine.csv data.target=label
  normdrop-report outputs/ordering                      what has finished

Stopped, it goes on with the same command. Hydra's options (--cfg job, --config-dir …): normdrop --hydra-help

{groups}

{keys}"""


def job(cfg: Any) -> str | None:
    """One job of a sweep."""
    from normdrop.study.job import work  # here: PyTorch takes seconds to import, and a mistake is told without it

    return work(cfg)


def main() -> None:
    """Run the application; bad input gives one line on standard error and exit status 1."""
    words = sys.argv[1:]
    _typed[:] = words
    if {"-h", "--help"}.intersection(words):
        return print(_help())
    if "--version" in words:
        return print(f"normdrop {importlib.metadata.version('normdrop')}")
    import hydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    import normdrop.study.config  # noqa: F401  the resolvers that conf/ uses

    traced = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    for sign in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(sign) is not signal.SIG_IGN:  # as nohup, and a shell in the background, ask
            signal.signal(sign, stop)
    try:
        sys.argv[1:] = _arguments(words)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (Exception, KeyboardInterrupt) as error:
        if stopped:  # whatever became of the interrupt: a library that it hits may raise another error instead
            told = isinstance(error, KeyboardInterrupt) and error.args
            done = f"{error}; they stay" if told else "what is finished stays"
            sys.exit(f"\nnormdrop: stopped: {done}. Go on with the same command: {command()}")
        if isinstance(error, OverrideParseException):
            from normdrop.data.rows import override

            key, _, value = error.override.partition("=")
            typed = f"the value cannot be read; if it is text, type it in quotes: {override(key, value)}"
            sys.exit(f"normdrop: {error.override}: {typed if '=' in error.override else line(error)}")
        if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
            sys.exit(f"normdrop: {mark.name}, line {mark.line + 1}: not YAML: {error.problem}")
        if isinstance(error, (HydraException, OmegaConfBaseException, ValueError, OSError)):
            sys.exit(f"normdrop: {one_line(error, words)}")
        if traced or isinstance(error, KeyboardInterrupt):
            raise
        sys.exit(f"normdrop: {type(error).__name__}: {line(error)} (HYDRA_FULL_ERROR=1 shows where)")


def command() -> str:
    """The command line of this process, as it was typed."""
    name = Path(sys.argv[0]).name
    return shlex.join(["normdrop" if name == "__main__.py" else name, *(_typed or sys.argv[1:])])


_typed: list[str] = []
# Overrides that the sweeper is to see and Hydra's first look at the config is not; see `_arguments`.
held: list[str] = []


def _arguments(words: list[str]) -> list[str]:
    """Hydra's options before the overrides, wherever they were typed. Raises ValueError for what is neither."""
    from hydra._internal.utils import get_args_parser

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{message}; overrides are typed without dashes, rate=0.3; normdrop --help shows them")

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign]
    known, others = parser.parse_known_args(words)
    for word in others:
        if word.startswith("-"):
            fail(f"{word}: there is no such option")
    overrides = [*known.overrides, *others]
    for word in overrides:
        if word.startswith("="):
            raise ValueError(f"{word}: a key is missing before the '='")
        if word.startswith(("hydra/sweeper=", "hydra.mode=")) and word != "hydra/sweeper=study":
            raise ValueError(f"{word}: leave it out; a grid is key=a,b,c, and one condition is a grid of one")
    options = [word for word in words if word not in overrides]
    if known.run or known.cfg or known.info or known.hydra_help or known.shell_completion:
        return [*options, *overrides]
    # What belongs to a swept group may not fit conf/config.yaml's own choice, which Hydra would try it on.
    swept = re.findall(r"(?<=\n)(data|model|optimizer)=.*[,(]", "\n" + "\n".join(overrides))
    if any(word.startswith("experiment=") for word in overrides):  # its grid may sweep any
        swept = ["data", "model", "optimizer"]
    held[:] = [word for word in overrides if word.split(".")[0] in swept]
    # Without --multirun Hydra takes any mistake beside a sweep for a sweep in the wrong mode.
    options = [*(option for option in options if option not in ("-m", "--multirun")), "--multirun"]
    return [*options, *(word for word in overrides if word not in held)]


def _help() -> str:
    groups = [
        f"{group} = {' | '.join(sorted(path.stem for path in (CONF / group).glob('[!_]*.yaml')))}"
        for group in ("experiment", "data", "model", "optimizer", "hydra/launcher")
    ]
    return HELP.format(groups="\n".join(groups), keys=(CONF / "config.yaml").read_text(encoding="utf-8").rstrip())


def line(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def one_line(error: BaseException, words: Sequence[str]) -> str:
    """What is wrong with these overrides, in one line; Hydra's own messages with the names that come nearest."""
    from normdrop.study import config as configs

    text = line(error)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        chosen = [word for word in words if re.fullmatch(r"(data|model|optimizer)=\w+", word)]
        return configs.unknown_key(unknown.group(1), configs.keys_of(configs.compose(*chosen)) | {"experiment"})
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{several.group(1)}: takes one value here; the command line sweeps: normdrop {several.group(1)}"
    if absent := re.search(r"Could not (?:find|load) '([^']+)'", text):
        groups = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
        asked = absent.group(1).removesuffix(".yaml")
        group = max((g for g in groups if asked.startswith(f"{g}/")), key=len, default="")
        name = asked.removeprefix(f"{group}/")
        if name.startswith(("submitit_", "ray")):
            return f"{group}={name}: needs its plugin: pip install 'normdrop[{'ray' if name[0] == 'r' else 'slurm'}]'"
        names = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
        table = f"; a file is read by data=table data.path={name}" if group == "data" and "." in name else ""
        return f"{group}={name}: must be one of {', '.join(names)}{table}"
    return text
