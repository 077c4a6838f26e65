"""Who takes the steps changes no more than rounding: the compiled engine in a whole fit."""

import importlib.util

import pytest

from fitting import trained
from normdrop.study import config as configs
from normdrop.training.check import reason_for

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="the extra `fast` is not installed")


def both(tiny, *overrides: str):
    """The tables of torch and of the compiled engine."""
    return [trained(tiny(f"engine={name}", *overrides), [0, 1, 2])[:2] for name in ("torch", "compiled")]


@pytest.mark.parametrize(
    "overrides",
    [
        ["arrangement=bn_dropout"],
        ["arrangement=dropout_ln", "optimizer=sgd", "optimizer.schedule=cosine"],
        # 70 rows make 5 batches: an interval of 1 cuts them into equal stretches, one of 2 does not
        ["arrangement=dropout", "trainer.val_check_interval=1"],
        ["arrangement=bn", "trainer.val_check_interval=2", "drift.scale=0.4", "drift.offset=0.4"],
        ["arrangement=none", "+optimizer.clip=0.5"],
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
    ("overrides", "words"),
    [
        ([], None),
        (["model=cnn", "noise=channel", "model.channels=[16,32,32,32]"], None),
        (["arrangement=ln_dropout", "noise=uniform", "model.activation=gelu", "optimizer=sgd"], None),
        (["model.residual=true"], "residual blocks"),
        (["model.residual=true", "model.depth=1", "model.width=64"], "residual blocks"),  # a block as wide as the rows
        (["+optimizer.amsgrad=true"], "Adam with amsgrad"),
        (["optimizer._target_=torch.optim.NAdam"], "NAdam"),
        (["optimizer._target_=torch.optim.LBFGS"], None),  # which its check refuses
    ],
)
def test_what_it_can_train_is_told_of_the_config_alone(overrides, words):
    config = configs.plain(configs.compose("trainer.accelerator=cpu", *overrides))
    why = reason_for(config)
    assert why is None if words is None else words in why
