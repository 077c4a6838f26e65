"""A stacked network in eval mode, exported and silenced; its noise is what the streams say, on every device."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from normdrop.networks.noise import StackedNoise, _Bits, splitmix64
from normdrop.networks.stacked import StackedNetwork
from normdrop.streams import stream
from normdrop.training.module import cross_entropy
from plain_copies import BATCH, FLAT, SEEDS, plain_networks, rows

FEATURES = FLAT[0]


def double_networks(**changes) -> list[nn.Sequential]:
    return [network.double() for network in plain_networks(FLAT, **changes)]


def test_an_exported_replicate_is_a_copy():
    stacked = StackedNetwork(double_networks(), SEEDS, BATCH).double()
    before = stacked.layers[0].weight.clone()
    with torch.no_grad():
        stacked.replicate(0)[0].weight.zero_()
    assert torch.equal(stacked.layers[0].weight, before)


def test_the_padding_of_a_parameter_stays_zero_through_training():
    stacked = StackedNetwork(double_networks(), SEEDS, BATCH).double()
    optimizer = torch.optim.AdamW(stacked.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    for number in range(3):
        x, y = rows(FLAT, BATCH, seed=number)
        optimizer.zero_grad()
        cross_entropy(stacked(x), y).mean(dim=1).sum().backward()
        optimizer.step()
    layer = stacked.layers[0]
    assert layer.bias.shape == (len(SEEDS), 32)
    assert not layer.bias[:, 20:].any() and not layer.weight[:, 20 * FEATURES :].any()


@pytest.mark.parametrize("shape", [(FEATURES,), (2, 8, FEATURES), (3, 8, FEATURES + 1), (3, 8, FEATURES, 1)], ids=str)
def test_rows_of_another_shape_are_refused_in_one_line(shape):
    with pytest.raises(ValueError, match=r"x has the shape \(.*\): must be \(3 replicates, batch, 6 features\)"):
        StackedNetwork(plain_networks(FLAT), SEEDS, BATCH)(torch.zeros(shape))


# --- noise


def noise_layer(layer: nn.Module, features: int = 64, batch: int = 256, seeds=(0, 1, 2, 3)) -> StackedNoise:
    return StackedNoise(layer, features, batch, seeds, rerun=0, number=1)


@pytest.mark.parametrize("rate", [0.0001, 0.1, 1 / 3, 0.5, 0.9])
def test_over_all_16_bit_numbers_the_mean_factor_is_one_and_the_rate_within_two_to_the_minus_17(rate):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    factors = noise_layer(nn.Dropout(rate)).factors(every, torch.float64)
    assert factors.mean().item() == pytest.approx(1, abs=1e-12)
    assert abs((factors == 0).double().mean().item() - rate) <= 2**-17


def test_noise_of_rate_zero_and_noise_in_eval_mode_are_the_identity():
    x = torch.randn(4, 64, 256, generator=torch.Generator().manual_seed(0))
    assert noise_layer(nn.Dropout(0.0))(x) is x
    assert noise_layer(nn.Dropout(0.5)).eval()(x) is x


def test_two_dropout_layers_behind_the_same_weights_have_each_its_own_masks():
    plain = nn.Sequential(nn.Linear(FEATURES, 64), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    stacked = StackedNetwork([plain] * len(SEEDS), SEEDS, BATCH)
    first, second = (layer for layer in stacked.modules() if isinstance(layer, StackedNoise))
    ones = torch.ones(len(SEEDS), 64, BATCH)
    assert not torch.equal(first(ones), second(ones))


# --- streams


def test_every_seed_source_rerun_and_layer_has_a_stream_of_its_own():
    sources = ("rows", "split", "init", "order", "masks", "silencing", "shift")
    keys = itertools.product((0, 1), sources, (0, 1), (0, 1))
    first = [int(stream(s, source, rerun=r, layer=la).integers(2**63)) for s, source, r, la in keys]
    assert len(set(first)) == 2 * len(sources) * 2 * 2


# --- the counting generator of devices that have no generator for each replicate


def as_int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def test_splitmix64_gives_the_published_numbers_of_seed_1234567():
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    states = torch.tensor([as_int64(1234567 + k * 0x9E3779B97F4A7C15) for k in range(1, 6)])
    assert [number % 2**64 for number in splitmix64(states).tolist()] == known


def counted(seeds, words: int, calls: int = 1) -> Tensor:
    bits = _Bits([stream(seed, "masks", layer=1) for seed in seeds])
    return torch.cat([bits.by_counting(words, torch.device("cpu")) for _ in range(calls)], dim=1)


def test_the_counting_generator_goes_on_where_it_stopped():
    assert torch.equal(counted([0, 1], words=60), counted([0, 1], words=20, calls=3))


def test_the_counting_generator_gives_a_replicate_the_same_bits_in_any_company():
    assert torch.equal(counted([0, 1, 2, 3], words=50)[2], counted([2], words=50)[0])


def test_the_counting_generators_numbers_are_uniform_bit_by_bit_and_in_their_high_byte():
    drawn = counted([0, 1], words=2**15)
    assert drawn.dtype == torch.int16 and drawn.shape == (2, 2**17)
    for bit in range(16):
        share = ((drawn >> bit) & 1).double().mean(dim=1)
        assert (share - 0.5).abs().max() < 5 * 0.5 / drawn.shape[1] ** 0.5
    counts = torch.bincount((drawn.flatten().int() + 2**15) >> 8, minlength=256).double()
    expected = drawn.numel() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_the_counting_generators_streams_and_neighbours_are_uncorrelated():
    drawn = counted([0, 1, 2], words=2**13).double()
    shifted = torch.cat([drawn[:, :-4], drawn[:, 4:], drawn[:, 1:-3]])  # the next word; the next quarter of a word
    correlation = torch.corrcoef(shifted) - torch.eye(len(shifted))
    assert correlation.abs().max() < 5 / drawn.shape[1] ** 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_draws_what_counting_draws_here():
    bits = _Bits([stream(seed, "masks", layer=1) for seed in (0, 1)])
    device = torch.device("cuda")
    drawn = torch.cat([bits.draw(80, device) for _ in range(3)], dim=1)
    assert torch.equal(drawn.cpu(), counted([0, 1], words=20, calls=3))
