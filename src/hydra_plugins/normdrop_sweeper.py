"""Hydra's basic grid sweep, planned as a study: each distinct configuration once, checked before any of them trains."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


@dataclass
class StudySweeperConf:
    _target_: str = "hydra_plugins.normdrop_sweeper.StudySweeper"
    # The grid, as for Hydra's basic sweeper: {key: "a,b,c"}; the command line overrides it key by key.
    params: dict[str, Any] = field(default_factory=dict)
    # Further points, each a line of overrides "key=value key=a,b" that replaces those keys of the grid.
    also: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="normdrop")


class StudySweeper(BasicSweeper):
    def __init__(self, params: dict[str, Any], also: list[str]):
        super().__init__(max_batch_size=None, params=dict(params))
        self.also = also

    def sweep(self, arguments: list[str]) -> Any:
        from normdrop.study.plan import Composer  # here, since Hydra imports every plugin at every start
        from normdrop.study.sweep import run_study
        from normdrop.study.told import held

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        points: list[dict[str, str]] = []
        for line in ("", *self.also):
            words = [*self._parse_config(), *arguments, *held, *str(line).split()]
            grid = {override.get_key_element(): _values(override) for override in parser.parse_overrides(words)}
            points += [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        # As typed: what stands as ${…} there is not for here.
        hydras: Any = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        typed = {word.partition("=")[0] for word in [*arguments, *held, *hydras]}
        run_study(points, Composer(loader, self.config, points), self.launcher, self.config, typed)


class Processes(Launcher):
    """Configurations side by side in processes of this machine; the study itself starts them."""

    def __init__(self, n_jobs: int | None):
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        raise NotImplementedError


def _values(override: Override) -> list[str]:
    """The values that an override gives its key. Raises ValueError for what is no list of them."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        why = "only lists of values can be swept"
        raise ValueError(f"{key}: {why}, {key}=a,b,c or range(…); a search calls normdrop.train from Python")
    values = list(override.sweep_string_iterator())
    if isinstance(override.value(), Glob):  # a file whose name begins with _ is a part of others
        values = [value for value in values if not value.startswith("_")]
    if not values:
        raise ValueError(f"{override.input_line}: matches nothing; list the values: {key}=a,b,c")
    return values
