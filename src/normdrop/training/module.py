"""The LightningModule: loss, optimizer, per-replicate metrics of a stacked network."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.data.module import Part
from normdrop.networks.stacked import StackedLinear, StackedNetwork
from normdrop.streams import stream

SILENCING_DRAWS = 20


# Those that treat each weight by itself: with any other one replicate's step would depend on the rest.
ELEMENTWISE = (
    *("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
)
# Fused where PyTorch offers it: 25 to 45 % faster, and with padded slices no replicate's bits depend on the others.
FUSED = ("Adam", "AdamW", "SGD")


def optimizer_of(parameters: Iterable[nn.Parameter], config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a config: `_target_` in torch.optim, our own `schedule`, and its arguments.

    Raises ValueError with one line for one that cannot train a stack, and for arguments that it does not take.
    """
    target = str(config["_target_"])
    name = target.removeprefix("torch.optim.")
    if target == name or name not in ELEMENTWISE:
        raise ValueError(
            f"optimizer._target_={target}: must be torch.optim.NAME, NAME one of {', '.join(ELEMENTWISE)}; others do "
            "not treat each weight by itself, which a stack of replicates needs"
        )
    kind = getattr(torch.optim, name)
    own = {key: value for key, value in config.items() if key not in ("_target_", "schedule")}
    takes = [key for key in inspect.signature(kind).parameters if key not in ("params", "fused", "foreach")]
    if unknown := [key for key in own if key not in takes]:
        raise ValueError(f"optimizer.{unknown[0]}: {target} takes no such argument; it takes {', '.join(takes)}")
    try:
        return kind(parameters, **own, **({"fused": True} if name in FUSED else {}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer: {target} refuses {own}: {error}") from error


class ReplicatedClassifier(pl.LightningModule):
    """Trains all replicates of a stacked network at once; a batch is row indices (replicates, batch) into the parts.

    `history` gets one entry per validation: epoch, optimizer steps so far, and (replicates,) tensors of the mean
    training loss since the last one, validation NLL (nats) and validation accuracy. `diverged` (replicates,) marks
    those whose loss stopped being finite: from that validation on their weights are NaN, so that nothing they do later
    can pass for a result.
    """

    def __init__(
        self,
        network: StackedNetwork,
        parts: Mapping[str, Part],
        optimizer: Mapping[str, Any],
        drift: Mapping[str, float] | None = None,
    ):
        super().__init__()
        # Manual optimisation saves most of what a step of Lightning's automatic one costs, and changes no result.
        self.automatic_optimization = False
        self.network = network
        self.parts = dict(parts)
        self.optimizer_config = dict(optimizer)
        self.drift = dict(drift or {"scale": 0.0, "offset": 0.0, "cycles": 0.0})
        self.history: list[dict[str, Any]] = []
        self.steps = 0
        replicates = len(network.seeds)
        self.diverged: Tensor
        self.index: Tensor
        self.register_buffer("diverged", torch.zeros(replicates, dtype=torch.bool))
        self.register_buffer("index", torch.arange(replicates)[:, None])

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.network.parameters(), self.optimizer_config)
        if self.optimizer_config["schedule"] == "constant":
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)]

    def on_fit_start(self) -> None:
        self.parts = {name: part.to(self.device) for name, part in self.parts.items()}
        self.loss_sum = torch.zeros(len(self.network.seeds), device=self.device, dtype=torch.float64)
        self.loss_steps = 0

    def training_step(self, rows: Tensor, _: int) -> None:
        part = self.parts["train"]
        x, y = part.x[self.index, rows], part.y[self.index, rows]
        if self.drift["scale"] or self.drift["offset"]:
            x = self.drifted(x, self.steps / int(self.trainer.estimated_stepping_batches))
        loss = cross_entropy(self.network(x), y).mean(dim=1)
        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        # The sum keeps gradients apart: no replicate's loss depends on another's weights.
        self.manual_backward(loss.sum())
        optimizer.step()  # type: ignore[union-attr]
        if (schedule := self.lr_schedulers()) is not None:
            schedule.step()  # type: ignore[union-attr, call-arg]
        self.loss_sum += loss.detach()
        self.loss_steps += 1
        self.steps += 1

    def drifted(self, x: Tensor, time: float) -> Tensor:
        """Standardised inputs at `time` ∈ [0, 1) of training: scale and offset swing around their true values.

        g = sin(2π cycles time) starts and ends at 0, so that the last training inputs are distributed like the test's.
        """
        g = math.sin(2 * math.pi * self.drift["cycles"] * time)
        return x * (1 + self.drift["scale"] * g) + self.drift["offset"] * g

    def validation_step(self, *_: Any) -> None:
        measured = self.evaluate("val")
        loss = self.loss_sum / max(self.loss_steps, 1)
        self.history.append(
            {
                "epoch": self.current_epoch,
                "step": self.steps,
                "train_loss": loss.cpu(),
                "val_nll": measured["nll"].cpu(),
                "val_acc": measured["acc"].cpu(),
            }
        )
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.loss_steps = 0
        self.diverged |= ~torch.isfinite(loss)
        if self.diverged.any():
            for parameter in self.network.parameters():
                parameter.masked_fill_(self.diverged[:, None], math.nan)

    @torch.no_grad()
    def evaluate(self, name: str, measures: Iterable[str] = ("acc", "nll")) -> dict[str, Tensor]:
        """Those of MEASURES that are asked for, of the rows of a part, each (replicates,), in the present mode."""
        part = self.parts[name]
        # In double precision, so that a mean over rows is the fraction it says: 350 / 360, not a float32 beside it.
        logits = torch.cat([self.network(x) for x in part.x.split(512, dim=1)], dim=1).double()
        return {measure: MEASURES[measure](logits, part.y) for measure in measures}

    @torch.no_grad()
    def silenced_accuracy(self, fraction: float) -> Tensor:
        """Test accuracy (replicates,) with a random `fraction` of each hidden layer's units silenced, mean over draws.

        The draws depend on the seed alone: replicate k of every arrangement loses the same units.
        """
        part, network = self.parts["test"], self.network
        widths = [layer.fan_out for layer in network.layers if isinstance(layer, StackedLinear)][:-1]
        streams = [stream(seed, "silencing") for seed in network.seeds]
        total = torch.zeros(len(network.seeds), device=self.device, dtype=torch.float64)
        for _ in range(SILENCING_DRAWS):
            keep = []
            for width in widths:
                lost = [generator.permutation(width)[: round(fraction * width)] for generator in streams]
                factors = torch.ones(len(lost), width)
                factors[torch.arange(len(lost))[:, None], torch.from_numpy(np.stack(lost))] = 0
                keep.append(factors[:, :, None].to(self.device))
            total += accuracy(network(part.x, keep).double(), part.y)
        return total / SILENCING_DRAWS


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Mean NLL in nats, (replicates,)."""
    return cross_entropy(logits, y).mean(dim=1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """NLL in nats of every row: logits (replicates, rows, classes), y (replicates, rows) → (replicates, rows)."""
    return F.cross_entropy(logits.transpose(1, 2), y, reduction="none")


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Fraction of rows right, (replicates,); NaN where a replicate's logits are not finite."""
    right = (logits.argmax(dim=-1) == y).to(logits.dtype).mean(dim=-1)
    return right.masked_fill(~torch.isfinite(logits).all(dim=-1).all(dim=-1), math.nan)


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> Tensor:
    """Σ over bins of (rows in bin / rows) · |accuracy − mean confidence|, (replicates,).

    Equal-width bins of the highest class probability (Guo, Pleiss, Sun, Weinberger, ICML 2017, equation 3).
    """
    confidence, guess = logits.softmax(dim=-1).max(dim=-1)
    excess = (guess == y).to(confidence.dtype) - confidence
    bin_of = (confidence.nan_to_num() * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(*excess.shape[:-1], bins, device=excess.device, dtype=excess.dtype)
    return sums.scatter_add_(-1, bin_of, excess).abs().sum(dim=-1) / y.shape[-1]


# What can be measured of a part's logits (replicates, rows, classes) and labels (replicates, rows), as float64.
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "acc": accuracy,
    "nll": nll,
    "ece": expected_calibration_error,
}
