"""A stacked CNN, and a stack with residual blocks, is N plain networks, whatever trains beside them."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normdrop.arrangement import ARRANGEMENTS, POSITIONS
from normdrop.networks.cnn import cnn
from normdrop.networks.layers import NOISES, Residual, UniformNoise
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.stacked import StackedNetwork, StackedNoise
from normdrop.streams import stream
from normdrop.training.module import cross_entropy

IMAGE, SIGNAL = (2, 5, 6), (2, 11)
CLASSES, BATCH = 3, 8
SEEDS = [4, 0, 9]
CHANNEL_NOISES = (nn.Dropout1d, nn.Dropout2d)


class GivenNoise(nn.Module):
    """The noise of one replicate, recomputed from its stream for a plain layer: (batch, channels, …), same out."""

    def __init__(self, layer: nn.Module, seed: int, number: int):
        super().__init__()
        self.layer = layer
        self.generator = stream(seed, "masks", layer=number)
        self.generator.integers(2**63)  # the key of the counting generator comes first

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = x.shape[1:2] if isinstance(self.layer, CHANNEL_NOISES) else x.shape[1:]
        count = math.prod(shape) * BATCH
        raw = self.generator.bit_generator.random_raw(-(-count // 4)).view(np.int16)[:count].astype(np.float64)
        if isinstance(self.layer, UniformNoise):
            factors = 1 + self.layer.rate * (raw + 0.5) / 2**15
        else:
            dropped = round(self.layer.p * 2**16)
            factors = (raw + 2**15 >= dropped) / (1 - dropped / 2**16)
        given = torch.from_numpy(factors.reshape(*shape, BATCH).copy()).movedim(-1, 0)[: len(x)]
        return x * given.view(*given.shape, *[1] * (x.dim() - given.dim()))


def with_given_noise(network: nn.Sequential, seed: int) -> nn.Sequential:
    number = itertools.count(1)
    at = 0

    def given(layers: nn.Sequential) -> list[nn.Module]:
        nonlocal at
        made: list[nn.Module] = []
        for layer in layers:
            if isinstance(layer, Residual):
                layer = Residual(*given(layer))
            elif isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                at = next(number)
            elif isinstance(layer, (*NOISES.values(), *CHANNEL_NOISES)):
                layer = GivenNoise(layer, seed, at)
            made.append(layer)
        return made

    return nn.Sequential(*given(copy.deepcopy(network)))


def plain_networks(shape, seeds=SEEDS, **changes) -> list[nn.Sequential]:
    block = {"arrangement": "bn_dropout", "position": "after", "rate": 0.4} | changes
    if shape == "mlp":
        network = mlp(6, CLASSES, width=[6, 20, 20], depth=3, residual=True, **block)
    else:
        network = cnn(shape, CLASSES, **{"channels": [5, 3], "stride": [2, 1]} | block)
    return [initialise(copy.deepcopy(network), stream(seed, "init")) for seed in seeds]


def rows(shape, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(SEEDS), count, 6 if shape == "mlp" else math.prod(shape)))
    return torch.from_numpy(x), torch.from_numpy(generator.integers(CLASSES, size=(len(SEEDS), count)))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-7, atol=1e-10)


def gradients_of(stacked: StackedNetwork, replicate: int) -> list[Tensor]:
    """Those of a replicate, in the shape of the plain network's parameters."""
    twin = copy.deepcopy(stacked)
    with torch.no_grad():
        for own, parameter in zip(twin.parameters(), stacked.parameters(), strict=True):
            own.copy_(parameter.grad)
    return list(twin.replicate(replicate).parameters())


def assert_trains_like_plain_networks(shape, **block) -> None:
    """Outputs, gradients, weights and running statistics of every replicate, step by step, a short batch among them."""

    def sgd(parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)

    networks = [network.double() for network in plain_networks(shape, **block)]
    stacked = StackedNetwork(networks, SEEDS, BATCH).double()
    plain = [with_given_noise(network, seed) for network, seed in zip(networks, SEEDS, strict=True)]
    stacked_optimizer, plain_optimizers = sgd(stacked.parameters()), [sgd(network.parameters()) for network in plain]
    for number, size in enumerate((BATCH, 5, BATCH)):
        x, y = rows(shape, size, seed=number)
        stacked.train()
        stacked_optimizer.zero_grad()
        outputs = stacked(x)
        cross_entropy(outputs, y).mean(dim=1).sum().backward()
        gradients = [gradients_of(stacked, k) for k in range(len(SEEDS))]
        stacked_optimizer.step()
        evaluated = stacked.eval()(x)
        for k, (network, its_optimizer) in enumerate(zip(plain, plain_optimizers, strict=True)):
            its_optimizer.zero_grad()
            output = network.train()(x[k])
            nn.functional.cross_entropy(output, y[k]).backward()
            its_optimizer.step()
            assert_close(outputs[k], output)
            exported = stacked.replicate(k)
            for ours, theirs in zip(gradients[k], network.parameters(), strict=True):
                assert_close(ours, theirs.grad)
            for ours, theirs in zip(exported.parameters(), network.parameters(), strict=True):
                assert_close(ours, theirs)
            assert_close(evaluated[k], network.eval()(x[k]))
            for ours, theirs in zip(exported.buffers(), network.buffers(), strict=True):
                if theirs.is_floating_point():  # not the count of batches, which nothing reads
                    assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [IMAGE, SIGNAL], ids=["image", "signal"])
@pytest.mark.parametrize(("arrangement", "position"), [*itertools.product(ARRANGEMENTS, POSITIONS)])
def test_a_stacked_cnn_trains_like_plain_networks_with_the_same_weights_and_masks(shape, arrangement, position):
    assert_trains_like_plain_networks(shape, arrangement=arrangement, position=position)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (IMAGE, {"noise": "channel"}),
        (SIGNAL, {"noise": "channel", "arrangement": "dropout_bn"}),
        (IMAGE, {"noise": "uniform", "activation": "tanh"}),
        (SIGNAL, {"kernel": [5, 2], "arrangement": "ln_dropout"}),
        (IMAGE, {"kernel": 1, "stride": 1}),
        (IMAGE, {"channels": [4, 4, 4], "stride": [2, 1, 1], "residual": True}),
        (
            IMAGE,
            {"channels": [4, 4], "stride": [2, 1], "residual": True, "noise": "channel", "arrangement": "dropout_bn"},
        ),
        (SIGNAL, {"channels": [2, 2], "stride": 1, "residual": True, "arrangement": "ln_dropout"}),
        ("mlp", {}),
        ("mlp", {"arrangement": "dropout_ln", "position": "before"}),
    ],
    ids=str,
)
def test_it_does_so_with_every_kind_of_noise_kernel_and_residual_block(shape, block):
    assert_trains_like_plain_networks(shape, **block)


def trained(shape, chosen: list[int], batch: int = BATCH, **block) -> tuple[Tensor, list[Tensor]]:
    """Logits in eval mode, and all parameters, of these replicates after a few steps of Adam side by side."""
    networks = plain_networks(shape, [SEEDS[k] for k in chosen], **block)
    stacked = StackedNetwork(networks, [SEEDS[k] for k in chosen], batch)
    optimizer = torch.optim.Adam(stacked.parameters(), lr=0.01, fused=True)
    for number, size in enumerate((batch, batch - batch // 3, batch)):
        x, y = rows(shape, size, seed=number)
        optimizer.zero_grad()
        cross_entropy(stacked.train()(x[chosen].float()), y[chosen]).mean(dim=1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        evaluated = torch.cat([stacked.eval()(rows(shape, size)[0][chosen].float()) for size in (20, 1)], dim=1)
    return evaluated, [parameter.detach() for parameter in stacked.parameters()]


@pytest.mark.parametrize("batch", [BATCH, 64])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (IMAGE, {}),
        (SIGNAL, {}),
        ((1, 11), {"kernel": 1}),
        ((1, 3, 3), {"kernel": [3, 1], "stride": [3, 1], "channels": [2, 2]}),
        (IMAGE, {"noise": "channel"}),
        (IMAGE, {"arrangement": "dropout_ln", "channels": [16, 32]}),
        (IMAGE, {"channels": [4, 4], "residual": True}),
        ("mlp", {}),
    ],
    ids=str,
)
def test_a_replicates_bits_are_the_same_whatever_trains_beside_it(shape, block, batch):
    together, parameters = trained(shape, [0, 1, 2], batch, **block)
    for k in range(3):
        alone, own = trained(shape, [k], batch, **block)
        assert torch.equal(alone[0], together[k])
        assert all(torch.equal(a[0], b[k]) for a, b in zip(own, parameters, strict=True))


@pytest.mark.parametrize("noise", ["bernoulli", "channel"])
def test_every_arrangement_with_dropout_draws_the_same_masks_layer_by_layer(noise):
    def masks(arrangement: str, residual: bool) -> list[Tensor]:
        block = {"channels": [4, 4], "arrangement": arrangement, "noise": noise, "residual": residual}
        stacked = StackedNetwork(plain_networks(IMAGE, **block), SEEDS, BATCH)
        seen: list[Tensor] = []
        for layer in stacked.modules():
            if isinstance(layer, StackedNoise):
                layer.register_forward_hook(lambda own, inputs, _: seen.append(own(torch.ones_like(inputs[0]))))
        for layer in stacked.modules():
            if isinstance(layer, StackedNoise):
                seen.append(layer.bits.draw(layer.features * BATCH, torch.device("cpu")).clone())
        return seen

    drawn = [masks(a, r) for a in ("dropout", "bn_dropout", "dropout_bn", "ln_dropout") for r in (False, True)]
    assert len(drawn[0]) == 2 and not torch.equal(*drawn[0])
    for other in drawn[1:]:
        assert all(torch.equal(a, b) for a, b in zip(drawn[0], other, strict=True))


def test_channel_noise_drops_whole_channels_and_unit_noise_does_not():
    for noise, whole in (("channel", True), ("bernoulli", False)):
        stacked = StackedNetwork(plain_networks(IMAGE, noise=noise, arrangement="dropout"), SEEDS, BATCH)
        layer = next(layer for layer in stacked.modules() if isinstance(layer, StackedNoise))
        kept = layer(torch.ones(len(SEEDS), 5 * 3 * 3, BATCH)).unflatten(1, (5, 9)) > 0
        assert (kept.all(dim=2) | ~kept.any(dim=2)).all() == whole


@pytest.mark.parametrize("residual", [False, True])
def test_silencing_takes_whole_channels_out_of_sight(residual):
    networks = plain_networks(IMAGE, arrangement="none", channels=[4, 4], residual=residual)
    stacked = StackedNetwork(networks, SEEDS, BATCH).eval()
    assert stacked.widths == [4, 4]
    x = rows(IMAGE, BATCH)[0].float()
    keep = [torch.ones(len(SEEDS), 4, 1) for _ in range(2)]
    keep[0][1, 2] = keep[1][1, 3] = 0
    silenced = stacked(x, keep)
    assert torch.equal(silenced[0], stacked(x)[0])
    for network in networks:
        blocks = [layer for layer in network if isinstance(layer, nn.ReLU | Residual)]
        for layer, channel in zip(blocks, (2, 3), strict=True):
            mask = torch.ones(4, 1, 1)
            mask[channel] = 0
            layer.register_forward_hook(lambda _, __, out, mask=mask: out * mask)
    torch.testing.assert_close(silenced[1], networks[1].eval()(x[1]))


def test_a_large_image_is_evaluated_a_few_rows_at_a_time_with_the_same_result():
    stacked = StackedNetwork(plain_networks(IMAGE), SEEDS, BATCH).double().eval()
    x, _ = rows(IMAGE, 20)
    whole = stacked(x)
    stacked.rows_at_a_time = 7
    assert_close(stacked(x), whole)
