"""The LightningModule: loss, optimizer, per-replicate metrics of a stacked network; and the data module beside it."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F

from normdrop.asked import check_arguments, differences, require
from normdrop.data import SERVED
from normdrop.data.module import Part, ReplicateData
from normdrop.networks import has_bn, network_of
from normdrop.networks.noise import StackedNoise
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training import shift

if TYPE_CHECKING:
    from normdrop.engine.compiled import Compiled

SILENCING_DRAWS = 20
BINS = 15  # of confidence, for the calibration error
EVALUATED = 256  # rows at a time: at the end of a training the activations of more are what takes most memory

# Those that treat each weight by itself: with any other one replicate's step would depend on the rest.
ELEMENTWISE = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]
# Fused is 25 to 45 % faster, and with padded slices no replicate's bits depend on the others.
FUSED = ("Adam", "AdamW", "SGD")

# Callbacks of Lightning's that would do otherwise than they say, and why.
UNFIT: dict[type[pl.Callback], str] = {
    BatchSizeFinder: "orders and masks are drawn for a batch size; give it to build()",
    StochasticWeightAveraging: "BN would keep the statistics of other weights",
}
# Beside data and model, what a seed's numbers depend on: how long it trains is its Trainer's.
DECISIVE = (
    *("arrangement", "position", "rate", "noise", "rerun", "batch_size", "select_epoch", "patience"),
    *("drift", "optimizer"),
)


def optimizer_of(parameters: Iterable[nn.Parameter], config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a config: `_target_` in torch.optim, our own `schedule` and `clip`, and its arguments.

    Raises ValueError for one that cannot train a stack, and for arguments that it does not take.
    """
    target = str(config["_target_"])
    name = target.removeprefix("torch.optim.")
    if target == name or name not in ELEMENTWISE:
        known = f"torch.optim.NAME, one of {', '.join(ELEMENTWISE)}, which treat each weight by itself as a stack needs"
        raise ValueError(f"optimizer._target_={target}: must be {known}")
    kind = getattr(torch.optim, name)
    takes = [p for p in inspect.signature(kind).parameters.values() if p.name not in ("params", "fused", "foreach")]
    given = {key: value for key, value in config.items() if key not in ("_target_", "schedule", "clip")}
    check_arguments("optimizer", given, takes, target)
    fused = {"fused": True} if name in FUSED else {}
    try:
        return kind(parameters, **given, **fused)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer: {target} refuses {given}: {error}") from error


def data_of(config: Mapping[str, Any], seeds: list[int]) -> ReplicateData:
    """The data module of a condition's replicates, set up. Raises ValueError for data that cannot be used."""
    served = {key: config["data"][key] for key in SERVED}
    batch_norm = has_bn(config)
    data = ReplicateData(
        config["data"], seeds, config["batch_size"], batch_norm=batch_norm, rerun=config["rerun"], **served
    )
    data.setup()
    return data


def decisive(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Of a module's hyperparameters those that its numbers depend on; the rows themselves the data module knows."""
    config = hparams["config"]
    values = {key: config[key] for key in DECISIVE}
    values["model"] = {key: value for key, value in config["model"].items() if not callable(value)}
    values["data"] = {key: config["data"][key] for key in ("source", *SERVED)}
    return values | {key: hparams[key] for key in ("row_shape", "classes", "seeds")}


def clip_(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """Scale the gradients of each replicate, (replicates, …), down to `norm` where theirs over all is larger."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = [gradient.flatten(1).square().sum(dim=1) for gradient in gradients]
    # In one order: a stack's sum has that of its height.
    factor = (norm / sum(squares[1:], squares[0]).sqrt()).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


class ReplicatedClassifier(pl.LightningModule):
    """Trains all replicates of a stacked network at once. A batch is x (replicates, batch, features) and y
    (replicates, batch), or x (batch, *shape) and y (batch,), the same for each replicate; what is logged is a
    mean over the replicates that have not diverged. It trains in float32 on one device.

    config: of a condition. row_shape: (features,) or (channels, *space). seeds: one for each replicate.

    `history` gets one entry per validation: epoch, optimizer steps so far, and (replicates,) tensors of the
    mean training loss since the last one, validation NLL (nats), validation accuracy and `live`: whose search
    had not ended before. `shift` gets what `shift.measure` says after the epochs asked for. `diverged`
    (replicates,) marks those whose loss stopped being finite: from that validation on their weights are NaN,
    so that nothing they do later can pass for a result.

    With select_epoch=best the network ends with the weights and running statistics that each replicate had at
    the validation of its lowest NLL, the earliest of equal ones. With `patience` a replicate's search ends
    once so many epochs brought nothing lower, and training once all have ended; what a replicate does after
    its end counts nowhere.
    """

    loss_sum: Tensor
    diverged: Tensor
    ended: Tensor
    best_nll: Tensor
    best_step: Tensor

    def __init__(self, config: Mapping[str, Any], row_shape: Sequence[int], classes: int, seeds: Sequence[int]):
        super().__init__()
        self.config = dict(config)
        model = dict(config["model"])
        if callable(model.get("function")):
            model["function"] = None  # a checkpoint holds nothing that must be unpickled
        made = {"config": self.config | {"model": model}, "row_shape": [*row_shape], "classes": classes}
        self.save_hyperparameters(made | {"seeds": [*seeds]})
        # Saves most of what a step of Lightning's automatic one costs, and changes no result.
        self.automatic_optimization = False
        self.network = network_of(config, row_shape, classes, seeds)
        self.lr = config["optimizer"]["lr"]  # where Lightning's finder of one looks for it
        # With the compiled engine a batch of Lightning's is a stretch of so many batches of the config's size.
        self.stretch = 1
        self.engine: Compiled | None = None
        self.logs = True  # False where nobody reads what is logged, nor measures that the history has no use for
        self.history: list[dict[str, Any]] = []
        self.shift: list[dict[str, Any]] = []
        self.steps = self.loss_steps = 0
        self._evaluated: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("loss_sum", torch.zeros(len(seeds), dtype=torch.float64))
        self.register_buffer("diverged", torch.zeros(len(seeds), dtype=torch.bool))
        self.register_buffer("ended", torch.zeros(len(seeds), dtype=torch.bool))
        self.register_buffer("best_nll", torch.full((len(seeds),), math.inf, dtype=torch.float64))
        self.register_buffer("best_step", torch.zeros(len(seeds), dtype=torch.long))
        self.best: StackedNetwork | None = None
        if config["select_epoch"] == "best":
            self.best = copy.deepcopy(self.network).requires_grad_(False)
            for kept in self.best.state_dict().values():
                if kept.is_floating_point():
                    kept.fill_(math.nan)  # a replicate whose validation NLL never is finite has no result

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.network.parameters(), self.config["optimizer"] | {"lr": self.lr})
        if self.config["optimizer"]["schedule"] == "constant":
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.total_steps)]

    def setup(self, stage: str) -> None:
        """Refuse what Lightning would do otherwise than it says, and another precision."""
        for parameter in self.network.parameters():
            require("module: its parameters", parameter.dtype, parameter.dtype == torch.float32, "torch.float32")
        if self.trainer.world_size > 1:
            raise ValueError(f"devices={self.trainer.world_size}: must be 1; all replicates train in one process")
        if self.trainer.precision != "32-true":
            raise ValueError(f"precision={self.trainer.precision}: must be 32-true; rows and weights are float32")
        for kind, why in UNFIT.items():
            if any(isinstance(callback, kind) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
                raise ValueError(f"callbacks={kind.__name__}: must be left out: {why}")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ReplicateData):
            its = {"seeds": data.seeds, "classes": data.classes, "row_shape": [*data.shape]}
            for key, value in its.items():
                own = self.hparams[key]
                require(f"datamodule: {key}", value, value == own, f"{own}, which the module has")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return int(self.trainer.estimated_stepping_batches) * self.stretch

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return int(self.trainer.num_training_batches) * self.stretch

    # What a checkpoint holds beside Lightning's own, so that a fit goes on byte for byte.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {name: getattr(self, name) for name in ("history", "shift", "steps", "loss_steps")}
        checkpoint["replicates"] = own | {"masks": [noise.bits.state() for noise in self._noises()]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        was, now = decisive(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]), decisive(self.hparams)
        said = "; ".join(text for _, text in differences(was, now))
        if said:
            raise ValueError(f"the checkpoint is of another config: {said}")
        own = dict(checkpoint["replicates"])
        for noise, state in zip(self._noises(), own.pop("masks"), strict=True):
            noise.bits.restore(*state)
        vars(self).update(own)

    def _noises(self) -> list[StackedNoise]:
        return [layer for layer in self.network.modules() if isinstance(layer, StackedNoise)]

    def forward(self, x: Tensor) -> Tensor:
        """x (replicates, batch, features), or (batch, features) for all → logits (replicates, batch, classes)."""
        return self.network(x)

    def _stacked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """A batch as x (replicates, batch, features) and y (replicates, batch). Raises ValueError."""
        if isinstance(batch, Tensor) or len(batch) < 2:
            raise ValueError(
                "dataloaders=…: must give pairs (x, y); those of a data module have row numbers alone: give datamodule="
            )
        x, y = batch
        if x.dim() != 3 or y.shape != x.shape[:2]:  # of a plain DataLoader
            last, replicates = self.hparams["classes"] - 1, len(self.network.seeds)
            whole = y.dim() == 1 and not y.is_floating_point() and bool(((y >= 0) & (y <= last)).all())
            if not (whole or self.trainer.predicting):  # here, since the labels of a data module are checked
                kind = f"{str(y.dtype).removeprefix('torch.')} of the shape {tuple(y.shape)}"
                said = f"y: is {kind}, from {y.min().item():g} to {y.max().item():g}" if y.numel() else f"y: is {kind}"
                raise ValueError(f"{said}; must be numbers of classes, whole from 0 to {last}, in the shape (batch,)")
            x, y = x.flatten(1).expand(replicates, -1, -1), y.long().expand(replicates, *y.shape)
        return x, y

    def on_train_start(self) -> None:
        if self.config["patience"] is not None:  # a training that is taken up again may have been at its end
            self.trainer.should_stop |= bool(self.ended.all())

    def on_train_epoch_end(self) -> None:
        config, epoch = self.config, self.current_epoch + 1
        if epoch in config["measure"]["shift_epochs"] and has_bn(config):
            part = self.trainer.datamodule.parts["train"]  # type: ignore[attr-defined]
            measured = shift.measure(self.network, part, config["batch_size"], config["rerun"], epoch)
            ended = dict(zip(self.network.seeds, self.ended.tolist(), strict=True))
            self.shift += [entry for entry in measured if not ended[entry["seed"]]]

    def on_fit_end(self) -> None:
        if self.best is not None:
            self.network.load_state_dict(self.best.state_dict())
            self._void_diverged()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = self._stacked(batch)
        take = self._step if self.engine is None else self._compiled_steps
        loss = take(x, y)
        self.loss_sum += loss.double().sum(dim=0)
        self.loss_steps += len(loss)
        self.steps += len(loss)
        return loss.mean()

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step; the mean loss of each replicate before it, (1, replicates)."""
        factor, offset = self.swing(self.steps)
        x = x * factor + offset if (factor, offset) != (1, 0) else x
        loss = cross_entropy(self.network(x), y).mean(dim=1)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        # The sum keeps gradients apart: no replicate's loss depends on another's weights.
        self.manual_backward(loss.sum())
        clip = self.config["optimizer"].get("clip")
        if clip is not None:
            clip_(self.network.parameters(), clip)
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        if schedule is not None:
            schedule.step()
        return loss.detach()[None]

    def _compiled_steps(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a stretch of steps at once, of so many rows cut into batches; the losses, (steps, replicates)."""
        optimizer: Any = self.trainer.optimizers[0]
        schedule: Any = self.lr_schedulers()
        rates, swings = [], []
        for step in range(self.steps, self.steps + math.ceil(y.shape[1] / self.config["batch_size"])):
            rates.append(optimizer.param_groups[0]["lr"])
            swings.append(self.swing(step))
            if schedule is not None:
                optimizer._opt_called = True  # or the schedule warns that it goes first
                schedule.step()
        assert self.engine is not None
        return self.engine.run(optimizer, x, y, np.array(rates), np.array(swings), ~self.ended)

    def swing(self, step: int) -> tuple[float, float]:
        """The factor and the offset of standardised training inputs at a step.

        g = sin(2π cycles t), t from 0 to 1 over the training, starts and ends at 0, so that the last training
        inputs are distributed like the test's.
        """
        drift = self.config["drift"]
        if drift["scale"] == drift["offset"] == 0:
            return 1.0, 0.0
        g = math.sin(2 * math.pi * drift["cycles"] * step / self.total_steps)
        return 1 + drift["scale"] * g, drift["offset"] * g

    def _evaluation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = self._stacked(batch)
        self._evaluated.append((self.network(x), y))

    validation_step = test_step = _evaluation_step

    def predict_step(self, batch: Any, _: int) -> Tensor:
        """The logits of every replicate, (replicates, batch, classes), of rows with labels or without."""
        if isinstance(batch, Tensor) and batch.dtype != torch.int64:  # rows, and not their numbers
            batch = (batch,)
        if not isinstance(batch, Tensor) and len(batch) == 1:
            return self.network(batch[0].flatten(1))
        return self.network(self._stacked(batch)[0])

    def on_validation_epoch_end(self) -> None:
        values = self._measured("val")
        if self.trainer.sanity_checking:
            return
        if self.trainer.state.fn == TrainerFn.FITTING:
            values["train/loss"] = self._validated(values["val/loss"], values["val/acc"])
        self._log(values)

    def on_test_epoch_end(self) -> None:
        self._log(self._measured("test"))

    def _measured(self, part: str) -> dict[str, Tensor]:
        seen, self._evaluated = self._evaluated, []
        values = measured(seen, MEASURES if self.logs else ("acc", "nll"))
        return {f"{part}/{'loss' if measure == 'nll' else measure}": value for measure, value in values.items()}

    def _log(self, values: Mapping[str, Tensor]) -> None:
        if self.logs:
            self.log_dict({tag: value[~self.diverged].mean() for tag, value in values.items()})

    def _validated(self, nll: Tensor, acc: Tensor) -> Tensor:
        """Keep what a validation says; the mean training loss since the last one, (replicates,)."""
        loss = self.loss_sum / max(self.loss_steps, 1)
        now = {"train_loss": loss, "val_nll": nll, "val_acc": acc, "live": ~self.ended}
        when = {"epoch": self.current_epoch, "step": self.steps}
        self.history.append(when | {name: value.cpu() for name, value in now.items()})
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.loss_steps = 0
        self.diverged |= ~torch.isfinite(loss) & ~self.ended
        if self.best is not None:
            self._search(nll)
        self._void_diverged()
        return loss

    @torch.no_grad()
    def _void_diverged(self) -> None:
        if self.diverged.any():
            for parameter in self.network.parameters():
                parameter.masked_fill_(self.diverged[:, None], math.nan)

    def _search(self, nll: Tensor) -> None:
        """Keep the replicates that were never better; end the search of those that last were long ago."""
        better = (nll < self.best_nll) & ~self.ended & ~self.diverged
        self.best_nll = torch.where(better, nll, self.best_nll)
        self.best_step = torch.where(better, self.steps, self.best_step)
        assert self.best is not None
        for pair in zip(self.network.state_dict().values(), self.best.state_dict().values(), strict=True):
            own, kept = (values.view(len(better), values.numel() // len(better)) for values in pair)
            torch.where(better[:, None], own, kept, out=kept)
        patience = self.config["patience"]
        if patience is not None:
            self.ended |= self.steps - self.best_step >= patience * self.epoch_steps
            self.trainer.should_stop |= bool(self.ended.all())

    @torch.no_grad()
    def evaluate(
        self, part: Part, measures: Iterable[str] = ("acc", "nll"), keep: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Those of MEASURES asked for, of a part's rows, each (replicates,). keep: the factors of hidden units."""
        return measured([(self.network(x, keep), y) for x, y in part.batches(EVALUATED)], measures)

    def silenced_accuracy(self, part: Part, fraction: float) -> Tensor:
        """Accuracy (replicates,) with a random `fraction` of each hidden layer's units (in a CNN: channels)
        silenced, mean over draws. These depend on the seed alone: a seed loses the same in every arrangement.
        """
        streams = [stream(seed, "silencing") for seed in self.network.seeds]
        draws = []
        for _ in range(SILENCING_DRAWS):
            ranking = [torch.tensor(np.stack([s.permutation(width) for s in streams])) for width in self.network.widths]
            draws.append(self.accuracy_without(part, ranking, fraction))
        return sum(draws[1:], draws[0]) / SILENCING_DRAWS  # in one order: a stack's mean has that of its height

    def accuracy_without(self, part: Part, ranking: Sequence[Tensor], fraction: float) -> Tensor:
        """Accuracy (replicates,) without the first `fraction` of units in a ranking of each hidden layer's,
        (replicates, width).
        """
        keep = []
        for order in ranking:
            lost = order[:, : round(fraction * order.shape[1])].to(self.device)
            keep.append(torch.ones(order.shape, device=self.device).scatter_(1, lost, 0.0)[:, :, None])
        return self.evaluate(part, ["acc"], keep)["acc"]


def measured(seen: Sequence[tuple[Tensor, Tensor]], measures: Iterable[str]) -> dict[str, Tensor]:
    """Those of MEASURES asked for, each (replicates,), from the logits and labels of chunks of rows."""
    # In double precision, so that a mean over rows is the fraction it says: 350 / 360, not a float32 beside it.
    logits = torch.cat([logits for logits, _ in seen], dim=1).double()
    y = torch.cat([y for _, y in seen], dim=1)
    return {measure: MEASURES[measure](logits, y) for measure in measures}


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """NLL (nats) of logits (replicates, rows, classes) and labels (replicates, rows), for every row."""
    return F.cross_entropy(logits.transpose(1, 2), y, reduction="none")


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Fraction of rows right, (replicates,); NaN where a replicate's logits are not finite."""
    right = (logits.argmax(dim=-1) == y).to(logits.dtype).mean(dim=-1)
    return right.masked_fill(_lost(logits), math.nan)


def balanced_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean recall over the classes that the rows have, (replicates,); NaN as in `accuracy`."""
    classes = torch.zeros(len(y), logits.shape[-1], device=y.device, dtype=logits.dtype)
    right = (logits.argmax(dim=-1) == y).to(logits.dtype)
    recall = classes.scatter_add(1, y, right) / classes.scatter_add(1, y, torch.ones_like(right))
    return recall.nanmean(dim=1).masked_fill(_lost(logits), math.nan)


def _lost(logits: Tensor) -> Tensor:
    """Whose logits are not all finite, (replicates,): nor is their sum then, and one pass tells it."""
    return ~logits.sum(dim=(1, 2), dtype=torch.float64).isfinite()


def expected_calibration_error(logits: Tensor, y: Tensor) -> Tensor:
    """Σ over bins of (rows in bin / rows) · |accuracy − mean confidence|, (replicates,).

    BINS equal-width bins of the highest class probability (Guo, Pleiss, Sun, Weinberger, ICML 2017, equation 3).
    """
    confidence, guess = logits.softmax(dim=-1).max(dim=-1)
    excess = (guess == y).to(confidence.dtype) - confidence
    bin_of = (confidence.nan_to_num() * BINS).ceil().long().clamp(1, BINS) - 1
    sums = torch.zeros(*excess.shape[:-1], BINS, device=excess.device, dtype=excess.dtype)
    return sums.scatter_add_(-1, bin_of, excess).abs().sum(dim=-1) / y.shape[-1]


# What can be measured of a part's logits (replicates, rows, classes), float64, and labels (replicates, rows).
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "acc": accuracy,
    "balanced_acc": balanced_accuracy,
    "nll": lambda logits, y: cross_entropy(logits, y).mean(dim=1),
    "ece": expected_calibration_error,
}
