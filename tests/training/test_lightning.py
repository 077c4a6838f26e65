"""The LightningModule and the LightningDataModule as any Lightning user takes them: under a plain Trainer."""

from __future__ import annotations

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import normdrop
from normdrop.study import config as configs
from normdrop.training.fit import fit

TINY = (
    *("data.train_size=70", "batch_size=16", "model.width=[20,13]", "trainer.accelerator=cpu", "replicates=3"),
    *("optimizer=adamw", "optimizer.schedule=cosine", "optimizer.lr=0.01"),
)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the README shows."""
    folder = tmp_path_factory.mktemp("notebook")
    module, data = normdrop.build(*TINY)
    callbacks = [ModelCheckpoint(monitor="val/loss"), EarlyStopping("val/loss", patience=20), LearningRateMonitor()]
    loggers = [CSVLogger(folder), TensorBoardLogger(folder)]
    trainer = lightning.Trainer(max_epochs=4, callbacks=callbacks, logger=loggers, log_every_n_steps=1, **QUIET)
    trainer.fit(module, datamodule=data)
    validated = trainer.validate(module, datamodule=data)[0]
    tested = trainer.test(module, datamodule=data)[0]
    logits = torch.cat(trainer.predict(module, datamodule=data), dim=1)
    again = type(module).load_from_checkpoint(trainer.checkpoint_callback.best_model_path, network=module.network)
    return trainer, module, data, validated, tested, logits, again


def test_the_history_is_that_of_the_same_condition_and_the_sanity_check_leaves_no_row(notebook):
    _, module, *_ = notebook
    expected = fit(configs.plain(configs.compose(*TINY, "trainer.max_epochs=4")), [0, 1, 2]).history
    assert [entry["step"] for entry in module.history] == [5, 10, 15, 20]
    for name in ("train_loss", "val_nll", "val_acc"):
        ours = torch.stack([entry[name] for entry in module.history], dim=1).flatten().tolist()
        assert ours == expected[name].tolist()


def test_validate_and_test_give_the_means_over_replicates(notebook):
    _, module, data, validated, tested, *_ = notebook
    module.eval()
    for values, name in ((validated, "val"), (tested, "test")):
        own = module.evaluate(data.parts[name])
        assert values[f"{name}/loss"] == pytest.approx(own["nll"].mean().item())
        assert values[f"{name}/acc"] == pytest.approx(own["acc"].mean().item())
    assert "test/ece" in tested
    assert len(module.history) == 4  # validating is no training


def test_predict_gives_the_logits_of_every_replicate(notebook):
    _, module, data, *_, logits, _ = notebook
    part = data.parts["test"]
    assert logits.shape == (3, part.rows.shape[1], 10)
    plain = module.network.replicate(1).eval()
    torch.testing.assert_close(logits[1], plain(part.x[1]).detach(), atol=1e-5, rtol=1e-5)


def test_every_logger_and_callback_finds_its_metric(notebook):
    trainer, module, *_ = notebook
    logged = pd.read_csv(f"{trainer.loggers[0].log_dir}/metrics.csv")
    curve = [entry["val_nll"].mean().item() for entry in module.history]
    assert logged["val/loss"].dropna().tolist()[:4] == pytest.approx(curve)
    assert logged["train/loss"].notna().sum() == 4
    assert logged["lr-AdamW"].dropna().iloc[-1] < 0.01
    events = EventAccumulator(trainer.loggers[1].log_dir).Reload()
    assert [point.value for point in events.Scalars("val/loss")][:4] == pytest.approx(curve)
    assert trainer.early_stopping_callback.best_score.item() == pytest.approx(min(curve))
    assert trainer.checkpoint_callback.best_model_score.item() == pytest.approx(min(curve))


def test_a_checkpoint_loads_as_the_module_that_it_was(notebook):
    _, module, data, *_, again = notebook
    assert again.hparams == module.hparams and again.hparams["select_epoch"] == "last"
    lowest = min(entry["val_nll"].mean().item() for entry in module.history)
    with torch.no_grad():
        assert again.eval().evaluate(data.parts["val"])["nll"].mean().item() == pytest.approx(lowest)


def test_early_stopping_ends_a_fit(tmp_path):
    module, data = normdrop.build(*TINY)
    stopping = EarlyStopping("val/acc", mode="max", patience=1, min_delta=1.0)
    trainer = lightning.Trainer(
        max_epochs=9, callbacks=[stopping], logger=False, enable_checkpointing=False, default_root_dir=tmp_path, **QUIET
    )
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 2


def test_the_rows_serve_another_module(tmp_path):
    class Mean(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.shapes = torch.nn.Parameter(torch.zeros(64, 10)), []

        def training_step(self, batch, _):
            x, y = batch
            self.shapes.append((tuple(x.shape), tuple(y.shape)))
            return torch.nn.functional.cross_entropy((x @ self.weight).flatten(0, 1), y.flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, (_, data) = Mean(), normdrop.build(*TINY)
    lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET).fit(module, datamodule=data)
    assert module.shapes == [((3, 16, 64), (3, 16))] * 4 + [((3, 6, 64), (3, 6))]
