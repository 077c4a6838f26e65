"""Hydra's basic grid sweep, planned as a study: each distinct condition once, checked before any of them trains."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob


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
        self.also = list(also)

    def sweep(self, arguments: list[str]) -> Any:
        from normdrop.study.app import held  # here, since Hydra imports every plugin at every start
        from normdrop.study.sweep import Composer, bare, run_study

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        grid: dict[str, list[str]] = {}
        for override in OverridesParser.create(config_loader=loader).parse_overrides(
            [*self._parse_config(), *arguments, *held]
        ):
            key = override.get_key_element()
            if not override.is_sweep_override():
                grid[key] = [override.get_value_element_as_str()]
            elif override.is_discrete_sweep():
                values = list(override.sweep_string_iterator())
                if isinstance(override.value(), Glob):  # a file whose name begins with _ is a part of others
                    values = [value for value in values if not value.startswith("_")]
                if not values:
                    raise ValueError(f"{override.input_line}: matches nothing; list the values: {key}=a,b,c")
                grid[key] = values
            else:
                raise ValueError(f"{key}: only lists of values can be swept, e.g. {key}=a,b,c")
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        for line in self.also:
            own = {key: value for key, _, value in (item.partition("=") for item in str(line).split())}
            wider = grid | {key: [value] if "[" in value else value.split(",") for key, value in own.items()}
            points += [dict(zip(wider, values, strict=True)) for values in itertools.product(*wider.values())]
        varying = {bare(key) for key in set().union(*points) if len({point.get(key) for point in points}) > 1}
        compose = Composer(
            lambda overrides: loader.load_sweep_config(self.config, overrides),  # type: ignore[arg-type]
            lambda key: bool(loader.get_group_options(key)),
            varying,
        )
        needed = None
        if (half_width := self.config.precision) is not None:
            from normdrop.report.precision import replicates_for
            from normdrop.study.config import plain, seeds

            root, most = Path(self.config.hydra.sweep.dir), self.config.replicates_max
            needed = lambda: replicates_for(root, half_width, seeds(plain(self.config)), most)  # noqa: E731
        run_study(points, compose, self.launcher, self.config, needed)
