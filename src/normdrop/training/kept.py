"""Networks that are kept: a condition's weights and running statistics as plain state_dicts, and what builds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normdrop.data.module import Part
from normdrop.data.sources import standard_rows
from normdrop.networks import plain
from normdrop.training.module import data_of
from normdrop.whole import whole

NETWORKS = "networks.pt"


@dataclass(frozen=True, eq=False)
class Kept:
    """The networks of a condition, a state for each seed."""

    config: Mapping[str, Any]
    shape: Sequence[int]
    classes: int
    states: Mapping[int, Mapping[str, Tensor]] = field(repr=False)

    def network(self, seed: int) -> nn.Sequential:
        """The plain network of one seed in evaluation mode: flat rows (batch, features) → logits (batch, classes)."""
        if seed not in self.states:
            raise KeyError(f"seed={seed}: must be one of {', '.join(map(str, self.states))}")
        # Of its own seed: a buffer may differ between seeds and stand in no state.
        network = plain(self.config, self.shape, self.classes, seed)
        network.load_state_dict(dict(self.states[seed]))
        return network.eval()

    def parts(self, seed: int) -> dict[str, Part]:
        """The rows of one seed's parts, as its network takes them, from the recorded source. Raises ValueError if
        these are other rows by now.
        """
        data = self.config["data"]
        if standard_rows(data).fingerprint != data["fingerprint"]:
            raise ValueError(f"data={data['name']}: its rows are others than those that these networks were trained on")
        return data_of(self.config, [seed]).parts

    def write(self, folder: Path, grows: bool) -> None:
        """Keep them in a folder, whole or not at all, beside those there already if the condition grows."""
        path = folder / NETWORKS
        states = dict(self.states)
        if grows and path.exists():
            states = {**load(folder).states, **states}
        with whole(path) as part:
            torch.save(vars(self) | {"states": states}, part)


def load(folder: str | Path) -> Kept:
    """The networks that a condition trained with save_networks=true left in its folder. Raises ValueError."""
    path = Path(folder) / NETWORKS
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; a condition keeps its networks with save_networks=true")
    return Kept(**torch.load(path, weights_only=True, map_location="cpu"))
