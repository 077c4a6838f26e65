"""A condition of model=cnn, from config to record."""

import pytest

from fitting import of, trained
from normdrop.study import job

TINY_CNN = (
    *("model=cnn", "model.channels=[4,4]", "model.stride=[2,1]", "data.train_size=70", "batch_size=16"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "logging=minimal"),
)


@pytest.mark.parametrize("own", [["arrangement=dropout_bn", "noise=channel"], ["model.residual=true"]], ids=str)
def test_a_replicates_row_is_the_same_whatever_trains_beside_it(composed, own):
    config = composed(*TINY_CNN, "measure.silencing=true", *own)
    *together, facts = trained(config, [0, 1, 2])
    *alone, own_facts = trained(config, [1])
    assert [of(frame, 1) for frame in together] == [of(frame, 1) for frame in alone]
    assert [entry for entry in facts["shift"] if entry["seed"] == 1] == own_facts["shift"]


def test_its_width_in_the_table_is_its_channels_and_its_depth_their_number(composed):
    named = job._named(composed("model=cnn", "model.channels=[4,6,8]"), {"setting": {}})
    assert (named["width"], named["depth"]) == ("4-6-8", 3)
