"""Nothing lost inside a condition: the state of a fit, saved whole or not at all, to go on from byte for byte."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from normdrop.whole import whole


class Checkpoint(pl.Callback):
    """Keeps a condition's fits in its folder, a file for each group of seeds that train together: saves at the end of
    a validation, every so many minutes, and at the end of a group that others follow.
    """

    def __init__(self, directory: Path, config_hash: str, minutes: float):
        self.directory, self.config_hash, self.minutes = directory, config_hash, minutes

    def of(self, seeds: list[int], device: str, last: bool) -> Path | None:
        """Begin with a group, and say where its state lies, if it does. It counts for these seeds, this config, this
        kind of device and these versions alone; last: no group follows, so that its end need not be kept.
        """
        versions = [importlib.metadata.version(name) for name in ("torch", "lightning", "normdrop")]
        tied = json.dumps([self.config_hash, seeds, device, versions])
        self.path = self.directory / f"checkpoint-{hashlib.sha256(tied.encode()).hexdigest()[:16]}.ckpt"
        self.last = last
        self.began = self.saved = time.monotonic()
        self.earlier = 0.0  # seconds that went into what was taken up
        return self.path if self.path.exists() else None

    def remove(self) -> None:
        for path in self.directory.glob("checkpoint-*"):
            path.unlink()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if time.monotonic() - self.saved >= 60 * self.minutes:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.last:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        with whole(self.path) as part:
            trainer.save_checkpoint(part)
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.earlier + time.monotonic() - self.began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier = state_dict["seconds"]
