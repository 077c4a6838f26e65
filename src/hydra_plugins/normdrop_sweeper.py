"""Hydra's basic grid sweep, planned as a study: each distinct condition once, checked before any of them trains."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class StudySweeperConf:
    _target_: str = "hydra_plugins.normdrop_sweeper.StudySweeper"
    # The grid, as for Hydra's basic sweeper: {key: "a,b,c"}; the command line overrides it key by key.
    params: dict[str, Any] = field(default_factory=dict)
    # Further points, each a line of overrides "key=value key=value" that replaces those keys of the grid.
    also: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="normdrop")


class StudySweeper(BasicSweeper):
    def __init__(self, params: dict[str, Any], also: list[str]):
        super().__init__(max_batch_size=None, params=dict(params))
        self.also = list(also)

    def sweep(self, arguments: list[str]) -> Any:
        from normdrop.study.sweep import run_study  # here, since Hydra imports every plugin at every start

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        grid: dict[str, list[str]] = {}
        for override in parser.parse_overrides([*self._parse_config(), *arguments]):
            key = override.get_key_element()
            if not override.is_sweep_override():
                grid[key] = [override.get_value_element_as_str()]
            elif override.is_discrete_sweep():
                grid[key] = list(override.sweep_string_iterator())
            else:
                raise ValueError(f"{key}: only lists of values can be swept, e.g. {key}=a,b,c")
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        for line in self.also:
            fixed = dict(item.split("=", 1) for item in line.split())
            rest = {key: values for key, values in grid.items() if key not in fixed}
            points += [dict(zip(rest, values, strict=True)) | fixed for values in itertools.product(*rest.values())]
        varying = {key for key in set().union(*points) if len({point.get(key) for point in points}) > 1}

        def compose(overrides: list[str]) -> Any:
            return self.hydra_context.config_loader.load_sweep_config(self.config, overrides)  # type: ignore[union-attr, arg-type]

        return run_study(points, varying, compose, self.launcher.launch, self.config)
