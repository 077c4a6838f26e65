"""Who takes the steps changes no more than rounding: the compiled engine in a whole fit."""

import importlib.util

import pytest

from fitting import trained
from normdrop.study import config as configs

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="the extra `fast` is not installed")


def both(tiny, *overrides: str):
    """The tables of torch and of the compiled engine."""
    return [trained(tiny(f"engine={engine}", *overrides), [0, 1, 2])[:2] for engine in ("torch", "compiled")]


@pytest.mark.parametrize(
    "overrides",
    [
        ["arrangement=bn_dropout"],
        ["arrangement=dropout_ln", "optimizer=sgd", "optimizer.schedule=cosine"],
        # 70 rows make 5 batches: an interval of 1 cuts them into equal stretches, one of 2 does not
        ["arrangement=dropout", "trainer.val_check_interval=1"],
        ["arrangement=bn", "trainer.val_check_interval=2", "drift.scale=0.4", "drift.offset=0.4"],
        ["arrangement=none", "+trainer.limit_train_batches=3", "+optimizer.clip=0.5"],
        ["arrangement=bn_dropout", "select_epoch=best", "patience=1", "trainer.max_epochs=6", "optimizer.lr=0.03"],
    ],
    ids=" ".join,
)
def test_a_fit_has_the_validations_and_the_curves_that_torch_gives_it(tiny, overrides):
    (rows, history), (its_rows, its_history) = both(tiny, *overrides)
    assert history[["seed", "epoch", "step"]].equals(its_history[["seed", "epoch", "step"]])
    for column in ("train_loss", "val_nll"):
        assert its_history[column].to_numpy() == pytest.approx(history[column].to_numpy(), rel=2e-3)
    assert (its_rows["epoch"] == rows["epoch"]).all()
    assert its_rows["test_nll"].to_numpy() == pytest.approx(rows["test_nll"].to_numpy(), rel=2e-3)


def test_a_replicates_numbers_are_the_same_alone_and_in_company(tiny):
    config = tiny("engine=compiled", "select_epoch=best", "patience=1", "trainer.max_epochs=5")
    together, _, _ = trained(config, [0, 1, 2])
    for seed in (0, 1, 2):
        alone, _, _ = trained(config, [seed])
        assert alone.equals(together[together["seed"] == seed].reset_index(drop=True))


@pytest.mark.parametrize(
    ("overrides", "engine"),
    [
        ([], "compiled"),
        (["engine=torch"], "torch"),
        (["model=cnn"], "compiled"),
        (["model=cnn", "model.head=mean"], "torch"),
        (["model.residual=true"], "torch"),
        (["+optimizer.amsgrad=true"], "torch"),
        (["optimizer._target_=torch.optim.NAdam"], "torch"),
        (["+trainer.max_steps=9"], "torch"),
    ],
)
def test_auto_takes_the_compiled_engine_where_it_knows_everything(overrides, engine):
    config = configs.plain(configs.compose("trainer.accelerator=cpu", *overrides))
    assert configs.canonical(config)["engine"] == engine
