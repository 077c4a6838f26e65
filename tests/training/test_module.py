"""Metrics against independent computations, silencing with a known answer, drift, schedules."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from normdrop.data.module import Part
from normdrop.metrics import SILENCED_FRACTIONS
from normdrop.streams import stream
from normdrop.study import config as configs
from normdrop.training import module
from normdrop.training.module import ReplicatedClassifier, accuracy, clip_, expected_calibration_error


@pytest.fixture(scope="module")
def scored() -> tuple[Tensor, Tensor]:
    """Logits (3, 500, 4) of mixed confidence and labels that they get right now and then."""
    generator = np.random.default_rng(0)
    y = torch.from_numpy(generator.integers(4, size=(3, 500)))
    logits = torch.from_numpy(generator.normal(scale=[[[0.3]], [[1.0]], [[5.0]]], size=(3, 500, 4)))
    return logits + 2 * torch.nn.functional.one_hot(y, 4), y


@pytest.mark.filterwarnings("ignore:y_pred contains")
def test_balanced_accuracy_is_sklearns_and_is_of_the_classes_that_the_rows_have(scored):
    logits, y = scored
    few = y.clone()
    few[1, few[1] == 3] = 0
    few[2, 20:] = 2
    expected = [balanced_accuracy_score(labels, row.argmax(dim=-1)) for labels, row in zip(few, logits, strict=True)]
    assert module.balanced_accuracy(logits, few).tolist() == pytest.approx(expected, abs=1e-12)


def test_ece_of_sure_and_wrong_is_one_and_of_sure_and_right_zero():
    logits = torch.tensor([[[1e3, 0.0]] * 10, [[0.0, 1e3]] * 10])
    y = torch.ones(2, 10, dtype=torch.long)
    assert expected_calibration_error(logits, y).tolist() == [1, 0]


def test_accuracy_is_nan_where_a_replicates_logits_are_not_finite():
    logits = torch.zeros(3, 5, 2)
    logits[1, 4, 0] = float("inf")
    logits[2, 0, 1] = float("nan")
    assert accuracy(logits, torch.zeros(3, 5, dtype=torch.long)).isnan().tolist() == [False, True, True]


def classifier(part: Part, seeds: list[int], *overrides: str) -> ReplicatedClassifier:
    config = configs.plain(configs.compose("arrangement=none", "model.width=[10]", "batch_size=8", *overrides))
    return ReplicatedClassifier(config, part.x.shape[2:], 2, seeds).eval()


# --- silencing


def leaning(seeds: list[int]) -> tuple[ReplicatedClassifier, Part]:
    """Every replicate reads its one input through hidden unit 3 alone: without it the answer is always class 0."""
    x = torch.tensor([0.0] * 30 + [2.0] * 10).repeat(len(seeds), 1)[..., None]
    part = Part.of(x, (x[..., 0] > 1).long())
    own = classifier(part, seeds)
    first, _, last = own.network.layers
    with torch.no_grad():
        for parameter in own.network.parameters():
            parameter.zero_()
        first.weight[:, 3] = 1
        last.weight[:, 10 + 3] = 1
        last.bias[:, 0] = 0.5
    return own, part


@pytest.mark.parametrize("fraction", SILENCED_FRACTIONS)
def test_silencing_the_one_unit_a_network_leans_on_costs_what_that_unit_was_worth(fraction):
    seeds = [0, 5, 6]
    own, part = leaning(seeds)
    assert own.evaluate(part)["acc"].tolist() == [1, 1, 1]
    hit = []
    for seed in seeds:
        generator = stream(seed, "silencing")
        draws = [generator.permutation(10)[: round(10 * fraction)] for _ in range(module.SILENCING_DRAWS)]
        hit.append(np.mean([3 in draw for draw in draws]))
    assert own.silenced_accuracy(part, fraction).tolist() == pytest.approx([1 - 0.25 * share for share in hit])


# --- drift


@pytest.mark.parametrize(("quarter", "g"), [(0, 0.0), (1, 1.0), (2, 0.0), (3, -1.0), (12, 0.0)])
def test_drift_swings_scale_and_offset_by_a_sine_of_the_training_time(monkeypatch, quarter, g):
    part = Part.of(torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.long))
    monkeypatch.setattr(ReplicatedClassifier, "total_steps", 12)
    own = classifier(part, [0], "drift.scale=0.5", "drift.offset=2.0", "drift.cycles=3")
    assert own.swing(quarter) == pytest.approx((1 + 0.5 * g, 2.0 * g))


def test_clipping_bounds_each_replicates_own_norm_and_depends_on_no_other():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, *shape, generator=generator) for shape in ((4, 5), (7,))]
    gradients[0][1] *= 100

    def clipped(replicates: list[int]) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(torch.zeros_like(g[replicates])) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[replicates].clone()
        clip_(parameters, 6.0)
        return [parameter.grad for parameter in parameters]

    together = clipped([0, 1, 2])
    norms = torch.cat([g.flatten(1) for g in together], dim=1).norm(dim=1)
    whole = torch.cat([g.flatten(1) for g in gradients], dim=1).norm(dim=1)
    torch.testing.assert_close(norms, whole.clamp(max=6.0))
    for replicate in range(3):
        for alone, beside in zip(clipped([replicate]), together, strict=True):
            assert torch.equal(alone[0], beside[replicate])
