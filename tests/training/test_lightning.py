"""The LightningModule and the LightningDataModule as any Lightning user takes them: under a plain Trainer."""

from types import SimpleNamespace

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import normdrop
from normdrop.data.module import BatchOrder, Part, ReplicateData
from normdrop.data.sources import table
from normdrop.networks.side_by_side import Place, pair_noise
from normdrop.study import config as configs
from normdrop.training.fit import fit
from normdrop.training.module import ReplicatedClassifier
from own_networks import ResNet

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
    again = type(module).load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    return trainer, module, data, validated, tested, logits, again


def test_the_history_is_that_of_the_same_condition_and_the_sanity_check_leaves_no_row(notebook):
    _, module, *_ = notebook
    expected = fit(configs.plain(configs.compose(*TINY, "trainer.max_epochs=4")), [0, 1, 2]).history
    assert [entry["step"] for entry in module.history] == [5, 10, 15, 20]
    for name in ("train_loss", "val_nll", "val_acc"):
        ours = torch.stack([entry[name] for entry in module.history], dim=1).flatten().tolist()
        assert ours == expected[name].tolist()


def test_a_data_module_serves_every_fit_from_its_beginning_and_goes_on_within_one():
    (alone, data), (used, _), (longer, own) = (normdrop.build(*TINY, "optimizer.schedule=constant") for _ in range(3))
    stood = []
    for module, order, parts in ((alone, data, (3,)), (used, data, (3,)), (longer, own, (1, 3))):
        trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
        for trainer.fit_loop.max_epochs in parts:
            trainer.fit(module, datamodule=order)
        stood.append(order.order.state(len(order.order)))
    first, second = (torch.stack([entry["train_loss"] for entry in module.history]) for module in (alone, used))
    assert torch.equal(first, second)
    assert stood[0] == stood[1] == stood[2]


def test_a_checkpoint_within_an_epoch_keeps_the_losses_before_it(tmp_path):
    (whole, rows), (rest, same) = (normdrop.build(*TINY) for _ in range(2))
    each = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = QUIET | {"max_epochs": 1, "logger": False, "default_root_dir": tmp_path}
    lightning.Trainer(callbacks=[each], **settings).fit(whole, datamodule=rows)
    lightning.Trainer(**settings).fit(rest, datamodule=same, ckpt_path=tmp_path / "step=3.ckpt")
    assert torch.equal(rest.history[0]["train_loss"], whole.history[0]["train_loss"])


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
    assert again.hparams == module.hparams and again.hparams["config"]["select_epoch"] == "last"
    assert again.network is not module.network and again.network.seeds == [0, 1, 2]
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


def test_the_data_load_from_a_checkpoint_with_the_same_rows(notebook):
    trainer, _, data, *_ = notebook
    again = type(data).load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    again.setup()
    assert again.seeds == data.seeds and again.batch_size == 16
    for name, part in data.parts.items():
        assert torch.equal(again.parts[name].x, part.x)


def trainer_of(tmp_path, **changes) -> lightning.Trainer:
    settings = QUIET | {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | changes
    return lightning.Trainer(default_root_dir=tmp_path, **settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "64-true"}, "precision=64-true: must be 32-true"),
        ({"to": torch.float64}, "its parameters=torch.float64: it must be torch.float32"),
        ({"callbacks": [BatchSizeFinder()]}, "callbacks=BatchSizeFinder"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "callbacks=StochasticWeightAveraging"),
    ],
    ids=["double precision", "double precision by hand", "batch size finder", "averaged weights"],
)
def test_what_lightning_would_do_otherwise_than_it_says_is_refused_in_one_line(tmp_path, changes, words):
    module, data = normdrop.build(*TINY)
    module.to(changes.pop("to", None))
    with pytest.raises(ValueError, match=words) as caught:
        trainer_of(tmp_path, **changes).fit(module, datamodule=data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("first_seed=3", r"seeds=\[3, 4, 5\].* \[0, 1, 2\]"),
        ("data=breast_cancer", "classes=2.* 10"),
    ],
)
def test_a_data_module_that_is_not_the_modules_is_refused_in_one_line(notebook, tmp_path, word, words):
    _, module, *_ = notebook
    _, data = normdrop.build(*TINY, word)
    with pytest.raises(ValueError, match=words) as caught:
        trainer_of(tmp_path).test(module, datamodule=data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("rate=0.25", "rate was 0.5, now 0.25"),
        ("first_seed=1", r"seeds was \[0, 1, 2\], now \[1, 2, 3\]"),
        ("data=breast_cancer", "data.source was digits, now breast_cancer; row_shape was .*, now"),
    ],
)
def test_a_checkpoint_is_not_gone_on_with_by_another_config(notebook, tmp_path, word, words):
    trainer, *_ = notebook
    module, data = normdrop.build(*TINY, word)
    with pytest.raises(ValueError, match=words) as caught:
        trainer_of(tmp_path).fit(module, datamodule=data, ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert "\n" not in str(caught.value)


def test_a_fit_that_goes_on_for_longer_may_have_another_name_and_measure_less(notebook, tmp_path):
    trainer, earlier, *_ = notebook
    changes = "trainer.max_epochs=99", "name=longer", "measure.shift=false", "save_networks=true"
    module, data = normdrop.build(*TINY, *changes)
    longer = trainer_of(tmp_path, max_epochs=5)
    longer.fit(module, datamodule=data, ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert [entry["step"] for entry in module.history] == [5, 10, 15, 20, 25]
    assert module.history[0]["val_nll"].equal(earlier.history[0]["val_nll"])


@pytest.mark.parametrize("source", ["a config", "a function", "fresh rows"])
def test_a_checkpoint_counts_for_its_rows_alone(tmp_path, source):
    frame = pd.DataFrame({"a": range(120), "label": [0, 1] * 60})
    path, saved = tmp_path / "rows.csv", tmp_path / "last.ckpt"

    def made():
        module, data = normdrop.build(*TINY, "data=table", f"data.path={path}", "data.target=label")
        if source != "a config":
            fresh = source == "fresh rows"
            data = ReplicateData(lambda seed=None: table(str(path), "label"), module.network.seeds, 16, fresh=fresh)
        return module, data

    frame.to_csv(path, index=False)
    module, data = made()
    trainer = trainer_of(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(saved)
    trainer_of(tmp_path, max_epochs=2).fit(*made(), ckpt_path=saved)
    state = data.state_dict()
    frame.assign(label=[1, 0] * 60).to_csv(path, index=False)
    with pytest.raises(ValueError, match="rows are others"):
        trainer_of(tmp_path).fit(*made(), ckpt_path=saved)
    if source == "a config":
        with pytest.raises(ValueError, match="rows are others"):
            ReplicateData.load_from_checkpoint(saved)
    del state["fingerprint"]  # as older checkpoints
    made()[1].load_state_dict(state)


def test_a_checkpoint_of_a_function_of_ones_own_loads_with_its_config(tmp_path):
    module, data = normdrop.build(*TINY[:2], "replicates=2", model=ResNet)
    trainer = trainer_of(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"model\.function=null: .* config=.* ckpt_path=") as caught:
        ReplicatedClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert "\n" not in str(caught.value)
    again = ReplicatedClassifier.load_from_checkpoint(tmp_path / "last.ckpt", config=module.config)
    x = data.parts["test"].x
    assert torch.equal(again.eval()(x), module.eval()(x))


def test_several_devices_are_refused_in_one_line():
    module, _ = normdrop.build(*TINY)
    module._trainer = SimpleNamespace(world_size=2, precision="32-true", callbacks=[])
    module._jit_is_scripting = False
    with pytest.raises(ValueError, match="devices=2: must be 1"):
        module.setup("fit")


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_finder_finds_one_and_leaves_no_other_trace(tmp_path, schedule):
    module, data = normdrop.build(*TINY, f"optimizer.schedule={schedule}")
    found = Tuner(trainer_of(tmp_path, max_epochs=9)).lr_find(module, datamodule=data, num_training=20)
    assert len(found.results["loss"]) >= 10 and all(loss > 0 for loss in found.results["loss"])
    usual, same = normdrop.build(*TINY, f"optimizer.schedule={schedule}", {"optimizer.lr": module.lr})
    for own, rows in ((module, data), (usual, same)):
        trainer_of(tmp_path).fit(own, datamodule=rows)
    assert usual.lr != 0.01 and module.history[0]["val_nll"].equal(usual.history[0]["val_nll"])


def test_a_loader_alone_is_refused_and_plain_tensors_go_to_every_replicate(notebook, tmp_path):
    _, module, data, *_ = notebook
    with pytest.raises(ValueError, match="give datamodule="):
        trainer_of(tmp_path).validate(module, dataloaders=data.train_dataloader())
    x, y = data.parts["test"].x[0], data.parts["test"].y[0]
    logits = module.eval()(x)
    assert logits.shape == (3, len(x), 10)
    torch.testing.assert_close(logits, module(x.expand(3, -1, -1)))
    with pytest.raises(ValueError, match=r"\(5, 8, 8\): must be \(3 replicates, batch, 64 features\)"):
        module(torch.zeros(5, 8, 8))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x.view(-1, 1, 8, 8), y), batch_size=50)
    (tested,) = trainer_of(tmp_path).test(module, dataloaders=loader)
    expected = torch.nn.functional.cross_entropy(logits.mT, y.expand(3, -1))
    assert tested["test/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.uint8], ids=str)
def test_rows_of_another_precision_are_taken_as_the_networks(tmp_path, dtype):
    module, data = normdrop.build(*TINY)
    x, y = data.parts["train"].x[0].abs().to(dtype), data.parts["train"].y[0]
    assert torch.equal(module.eval()(x), module(x.float()))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    trainer_of(tmp_path).fit(module, train_dataloaders=loader)
    assert module.steps == 5


@pytest.mark.parametrize(
    "y", [torch.tensor([0, 9, -100]), torch.tensor([0, 9, 10]), torch.zeros(3), torch.zeros(3, 1).int()]
)
def test_labels_that_are_no_numbers_of_classes_are_refused_in_one_line(notebook, tmp_path, y):
    _, module, *_ = notebook
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3, 64), y), batch_size=3)
    for function in ("fit", "validate", "test"):
        with pytest.raises(
            ValueError, match=r"y: is .* from .*; must be .*whole from 0 to 9, in the shape \(batch,\)$"
        ):
            getattr(trainer_of(tmp_path), function)(module, loader)
    assert len(trainer_of(tmp_path).predict(module, loader)) == 1  # which reads no label


def test_predict_takes_rows_without_labels(notebook, tmp_path):
    _, module, data, *_ = notebook
    x = torch.rand(5, 1, 8, 8)
    expected = module.eval()(x.flatten(1))
    for rows in (x, torch.utils.data.TensorDataset(x)):
        loader = torch.utils.data.DataLoader(rows, batch_size=3)
        torch.testing.assert_close(torch.cat(trainer_of(tmp_path).predict(module, loader), dim=1), expected)
        with pytest.raises(ValueError, match=r"pairs \(x, y\)"):
            trainer_of(tmp_path).test(module, loader)
    with pytest.raises(ValueError, match="give datamodule="):
        trainer_of(tmp_path).predict(module, data.test_dataloader())


class Plain(lightning.LightningModule):
    """A stock module around one plain network: what the README shows."""

    def __init__(self, network: torch.nn.Module, lr: float):
        super().__init__()
        self.network, self.lr, self.losses = network, lr, []

    def training_step(self, batch, _):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.network(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Batches:
    """One seed's batches as a stock module takes them, in the seed's own order."""

    def __init__(self, part: Part, seed: int):
        self.part, self.order = part, BatchOrder(part.rows, [seed], 16)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self):
        for rows in self.order:
            x, y = self.part.table.gather(rows)
            yield x[0], y[0]


@pytest.mark.parametrize("model", ["mlp", ResNet], ids=["mlp", "ones own"])
def test_a_stock_module_around_a_plain_network_trains_to_the_same_numbers(tmp_path, model):
    given = {"data.train_size": 70, "batch_size": 16, "trainer.accelerator": "cpu", "replicates": 2}
    module, data = normdrop.build(given, model=model, arrangement="dropout_bn", rate=0.3, optimizer={"lr": 0.01})
    network = module.network.replicate(1)
    for noise in pair_noise(network, Place((1,), 16, 0, ())):  # the masks of seed 1, in place of the global generator's
        noise.turn = 0
    stock = Plain(network, lr=0.01)
    train = data.parts["train"]
    seeds_own = Part(train.table, train.rows[1:])
    trainer_of(tmp_path, max_epochs=2).fit(stock, train_dataloaders=Batches(seeds_own, 1))
    trainer_of(tmp_path, max_epochs=2).fit(module, datamodule=data)
    losses = torch.tensor(stock.losses).view(2, -1).mean(dim=1)
    ours = torch.stack([entry["train_loss"][1] for entry in module.history]).float()
    torch.testing.assert_close(ours, losses, rtol=1e-4, atol=1e-5)
    x = data.parts["test"].x[1]
    torch.testing.assert_close(module.network.replicate(1).eval()(x), network.eval()(x), rtol=1e-2, atol=1e-3)
