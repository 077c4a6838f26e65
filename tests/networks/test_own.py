"""A network of one's own: arranged where its BN layers stand, stacked, and equal to plain copies of it."""

import copy
import hashlib
import itertools
import json
import random
import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import EntryPoint
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import own_networks
from normdrop.data.module import Part
from normdrop.networks import has_bn, network_of, own, own_check, own_source, plain, shown, stacked
from normdrop.networks.cnn import cnn
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.noise import StackedNoise
from normdrop.networks.side_by_side import Place, SideBySide, pair_noise
from normdrop.networks.stacked import STACKED, StackedBatchNorm, StackedConv, StackedNetwork, stack
from normdrop.streams import stream
from normdrop.study import facts
from normdrop.training import fit, shift
from normdrop.training.kept import Kept
from normdrop.training.module import cross_entropy
from own_networks import NETWORKS, ResNet

SHAPE, CLASSES, BATCH, SEEDS = (1, 8, 8), 10, 8, [4, 0]
# Of `none` and `bn` the rate plays no part.
ARRANGED = [("none", 0.0), ("bn", 0.0), *itertools.product(("dropout", "bn_dropout", "dropout_bn"), (0.1, 0.5))]


def config_of(make, arrangement: str = "bn_dropout", rate: float = 0.3, **model) -> dict:
    given = {"name": "own", "file": None, "function": make, "layers": "*", "keep_dropout": False, "init_gain": 1.0}
    placed = {"arrangement": arrangement, "position": "after", "rate": rate, "noise": model.pop("noise", "bernoulli")}
    return placed | {"model": given | model, "rerun": 0, "batch_size": BATCH, "measure": {"silencing": False}}


def rows(count: int, number: int = 0, replicates: int = 2) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(number)
    x = torch.from_numpy(generator.normal(size=(replicates, count, 64)))
    return x, torch.from_numpy(generator.integers(CLASSES, size=(replicates, count)))


def paired(network: nn.Module, seed: int) -> nn.Module:
    """A plain network whose dropout draws the masks of its seed."""
    network = copy.deepcopy(network)
    for noise in [*pair_noise(network, Place((seed,), BATCH, 0, ()))]:
        noise.turn = 0
    return network


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-6, atol=1e-9)


def assert_trains_like_plain(networks: list[nn.Sequential], steps=(BATCH, 5, BATCH)) -> StackedNetwork:
    """Outputs, and after some steps weights and buffers, of each replicate and of a plain copy with its masks."""
    networks = [network.double() for network in networks]
    stacked = StackedNetwork(networks, SEEDS, BATCH).double()
    copies = [paired(network, seed) for network, seed in zip(networks, SEEDS, strict=True)]
    optimizer, theirs = sgd(stacked), [sgd(network) for network in copies]
    for number, size in enumerate(steps):
        x, y = rows(size, number)
        optimizer.zero_grad()
        outputs = stacked.train()(x)
        cross_entropy(outputs, y).mean(dim=1).sum().backward()
        optimizer.step()
        for k, (network, its) in enumerate(zip(copies, theirs, strict=True)):
            its.zero_grad()
            output = network.train()(x[k])
            nn.functional.cross_entropy(output, y[k]).backward()
            its.step()
            assert_close(outputs[k], output)
    for k, network in enumerate(copies):
        exported = stacked.replicate(k)
        for name, values in network.state_dict().items():
            if values.is_floating_point():
                assert_close(exported.state_dict()[name], values)
        assert_close(stacked.eval()(x)[k], network.eval()(x[k]))
    return stacked


@pytest.mark.parametrize(("arrangement", "rate"), ARRANGED)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_at_every_arrangement_as_its_plain_copies_do(name, arrangement, rate):
    config = config_of(NETWORKS[name], arrangement, rate)
    assert_trains_like_plain([plain(config, SHAPE, CLASSES, seed) for seed in SEEDS])


@pytest.mark.parametrize("arrangement", ["ln", "ln_dropout", "dropout_ln"])
def test_layer_normalization_stands_there_likewise(arrangement):
    networks = [plain(config_of(ResNet, arrangement), SHAPE, CLASSES, seed) for seed in SEEDS]
    assert_trains_like_plain(networks)
    norms = [layer for layer in networks[0].modules() if isinstance(layer, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [1] * 6
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in networks[0].modules())


@pytest.mark.parametrize("noise", ["channel", "uniform"])
def test_it_does_so_with_other_noise_and_dropout_of_its_own(noise):
    config = config_of(ResNet, "dropout_bn", noise=noise, keep_dropout=True, width=3)
    stacked = assert_trains_like_plain([plain(config, SHAPE, CLASSES, seed) for seed in SEEDS])
    rates = [layer.rate for layer in stacked.modules() if isinstance(layer, StackedNoise)]
    assert sorted(rates) == [0.2] + [0.3] * 6


def test_torchvisions_resnet18_does_so():
    torchvision = pytest.importorskip("torchvision")

    def make(shape, classes):
        network = torchvision.models.resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
        return network

    assert_trains_like_plain([plain(config_of(make), SHAPE, CLASSES, seed) for seed in SEEDS], steps=(4,))


class Whole(nn.Module):
    """A network that no registry knows."""

    def __init__(self, inside: nn.Sequential):
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("noise", ["bernoulli", "uniform"])
def test_layers_with_a_stacked_form_equal_copies_side_by_side_and_shift_alike(kind, noise):
    block = {"arrangement": "dropout_bn", "position": "after", "rate": 0.4, "noise": noise}
    if kind == "mlp":
        network = mlp(64, CLASSES, width=[20, 13], depth=2, **block)
    else:
        network = cnn(SHAPE, CLASSES, channels=[4, 5], **block)
    networks = [initialise(copy.deepcopy(network), stream(seed, "init")).double() for seed in SEEDS]
    fast = StackedNetwork(networks, SEEDS, BATCH).double()
    slow = StackedNetwork([nn.Sequential(nn.Unflatten(1, (64,)), Whole(n)) for n in networks], SEEDS, BATCH).double()
    assert [type(layer) for layer in slow.layers] == [nn.Identity, SideBySide]
    for number in range(2):
        x, _ = rows(BATCH, number)
        assert_close(fast(x), slow(x))
    x, y = rows(150, 7)
    part = Part.of(x.float(), y)
    fast, slow = fast.float(), slow.float()
    ours, theirs = (shift.measure(network, part, 32, rerun=0, epoch="end") for network in (slow, fast))
    assert len(ours) == 2 * 2
    for entry, other in zip(ours, theirs, strict=True):
        assert {key: entry[key] for key in ("layer", "seed", "case", "units")} == {
            key: other[key] for key in ("layer", "seed", "case", "units")
        }
        assert entry["measured"] == pytest.approx(other["measured"], rel=1e-4)
        assert entry["running"] == pytest.approx(other["running"], rel=1e-4)
    again, and_again = (shift.recalibrated(network, part) for network in (slow, fast))
    torch.testing.assert_close(again(x.float()), and_again(x.float()), rtol=1e-4, atol=1e-5)


def test_a_replicates_bits_are_the_same_whatever_trains_beside_it():
    def trained(chosen: list[int]) -> Tensor:
        seeds = [[4, 0, 9][k] for k in chosen]
        network = network_of(config_of(ResNet), SHAPE, CLASSES, seeds)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
        for number in range(2):
            x, y = rows(BATCH, number, replicates=3)
            optimizer.zero_grad()
            cross_entropy(network.train()(x[chosen].float()), y[chosen]).mean(dim=1).sum().backward()
            optimizer.step()
        return network.eval()(rows(20, replicates=3)[0][chosen].float()).detach()

    together = trained([0, 1, 2])
    for k in range(3):
        assert torch.equal(trained([k])[0], together[k])


def test_frozen_weights_stay_as_they_are_and_others_do_not():
    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        layers = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, classes)]
        return nn.Sequential(nn.Flatten(), *layers[:3], layers[3].requires_grad_(False), layers[4])

    network = network_of(config_of(make, "bn"), SHAPE, CLASSES, SEEDS)
    before = network.replicate(1)
    x, y = rows(BATCH)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    cross_entropy(network(x.float()), y).mean(dim=1).sum().backward()
    optimizer.step()
    pairs = zip(before.state_dict().items(), network.replicate(1).state_dict().values(), strict=True)
    stays = {name for (name, was), now in pairs if name.endswith("weight") and torch.equal(was, now)}
    assert stays == {"1.4.weight"}


class Around(nn.Module):
    """A block before whose activations BN stands, and around which its input goes."""

    def __init__(self, shape: tuple[int, ...], classes: int, inplace: bool = True):
        super().__init__()
        self.flat, self.norm, self.act = nn.Flatten(), nn.BatchNorm1d(64), nn.ReLU(inplace)
        self.out = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(x)
        return self.out(x + self.act(self.norm(x)))


@pytest.mark.parametrize("arrangement", ["none", "dropout", "bn", "bn_dropout", "dropout_bn", "ln", "ln_dropout"])
@pytest.mark.parametrize("training", [True, False])
def test_an_activation_in_place_behind_what_stands_for_bn_leaves_the_shortcut_alone(arrangement, training):
    both = [config_of(Around, arrangement, inplace=inplace) for inplace in (True, False)]
    networks = [network_of(config, SHAPE, CLASSES, SEEDS).train(training) for config in both]
    x = rows(BATCH)[0].float()
    assert torch.equal(networks[0](x.clone()), networks[1](x))
    one, other = (network.replicate(1).eval() for network in networks)
    assert torch.equal(one(x[1].clone()), other(x[1]))


class Drawn(nn.Module):
    """Features that each seed draws, in a buffer that no state holds."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.register_buffer("features", torch.randn(64, 16), persistent=False)
        self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x.flatten(1) @ self.features))


def test_a_replicate_has_the_buffers_of_its_own_seed_and_so_has_a_kept_network():
    config = config_of(Drawn, "bn")
    network = network_of(config, SHAPE, CLASSES, SEEDS).eval()
    states = {seed: network.replicate(k).state_dict() for k, seed in enumerate(SEEDS)}
    x = rows(20)[0].float()
    for k, seed in enumerate(SEEDS):
        expected = network(x)[k]
        torch.testing.assert_close(network.replicate(k).eval()(x[k]), expected, rtol=1e-5, atol=1e-6)
        kept = Kept(config, SHAPE, CLASSES, states).network(seed)
        torch.testing.assert_close(kept(x[k]), expected, rtol=1e-5, atol=1e-6)


def test_the_gain_counts_once_for_weights_that_two_layers_share():
    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        layers = nn.Linear(64, 64), nn.Linear(64, 64)
        layers[1].weight = layers[0].weight
        return nn.Sequential(nn.Flatten(), layers[0], nn.BatchNorm1d(64), layers[1], nn.Linear(64, classes))

    one, two = (plain(config_of(make, "bn", init_gain=gain), SHAPE, CLASSES)[1] for gain in (1.0, 2.0))
    torch.testing.assert_close(two[1].weight, 2 * one[1].weight)


# --- where the operations stand


def kinds(network: nn.Module) -> list[str]:
    leaves = [layer for layer in network.modules() if not [*layer.children()]]
    return [type(layer).__name__ for layer in leaves if isinstance(layer, nn.BatchNorm2d | nn.Dropout | nn.Identity)]


@pytest.mark.parametrize(
    ("arrangement", "expected"),
    [
        ("none", ["Identity"]),
        ("dropout", ["Dropout", "Identity"]),
        ("bn", ["BatchNorm2d"]),
        ("bn_dropout", ["BatchNorm2d", "Dropout"]),
        ("dropout_bn", ["Dropout", "BatchNorm2d"]),
    ],
)
def test_the_operations_stand_in_their_order_where_each_bn_layer_stood(arrangement, expected):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert own.arrange(network, arrangement, 0.3) == ["1", "4"]
    assert kinds(network) == expected * 2
    assert all(layer.p == 0.3 for layer in network.modules() if isinstance(layer, nn.Dropout))


def test_a_pattern_restricts_the_layers_and_others_stay_as_written():
    network = ResNet(SHAPE, CLASSES)
    assert own.arrange(network, "none", 0.0, layers="stages.*.bn2") == ["stages.0.bn2", "stages.1.bn2"]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 4
    with pytest.raises(ValueError, match=r"model\.layers=nope: .* bn, stages\.0\.bn1"):
        own.arrange(network, "none", 0.0, layers="nope")


def test_all_arrangements_begin_with_the_same_weights_and_global_random_state_stays():
    before = torch.get_rng_state()
    networks = {a: plain(config_of(ResNet, a, 0.3), SHAPE, CLASSES, seed=3) for a, _ in ARRANGED}
    assert torch.equal(torch.get_rng_state(), before)
    for network in networks.values():
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        first = [layer.weight for layer in networks["none"].modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert all(torch.equal(a, b) for a, b in zip(weights, first, strict=True))
    other = plain(config_of(ResNet), SHAPE, CLASSES, seed=4)
    assert not torch.equal(other[1].stem.weight, networks["bn"][1].stem.weight)
    scaled = plain(config_of(ResNet, init_gain=2.0), SHAPE, CLASSES, seed=3)
    torch.testing.assert_close(scaled[1].stem.weight, 2 * networks["bn"][1].stem.weight)


def test_a_sweep_shows_each_block_as_it_stands():
    said, *blocks = shown(config_of(ResNet, "dropout_bn"), SHAPE, CLASSES)
    assert said.startswith("dropout_bn in ResNet, positions as the module has them")
    assert "Conv2d → Dropout(0.3) → BatchNorm2d → ReLU   × 2" in blocks and "same weights" not in blocks[-1]


class Backwards(nn.Module):
    """Defined in another order than rows pass; one activation for both; a BN layer called by keyword."""

    def __init__(self, shape, classes):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(64), nn.BatchNorm1d(64)])
        self.linears = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, classes)])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norms[0](input=self.linears[0](x.flatten(1))))
        return self.linears[1](self.relu(self.norms[1](x)))


def test_layers_are_shown_in_the_order_in_which_rows_pass_them():
    _, *blocks = shown(config_of(Backwards, "dropout_bn"), SHAPE, CLASSES)
    block = "Linear → Dropout(0.3) → BatchNorm1d → ReLU"
    assert blocks == ["input", f"{block} → Dropout(0.3) → BatchNorm1d → ReLU", "Linear"]


def test_a_bn_layer_that_is_called_by_keyword_has_its_shift():
    network = network_of(config_of(Backwards, rate=0.0), SHAPE, CLASSES, SEEDS)
    assert len(shift._moments(network, [rows(BATCH)])) == 2


def test_what_is_shown_is_what_becomes_of_the_network_in_each_order_if_any_is_asked_for():
    def told(*arrangements: str) -> list[str]:
        model = {"file": own_networks.__file__, "function": "ResNet"}
        configs = [config_of(None, name, 0.3, **model) | {"data": {"name": "d"}} for name in arrangements]
        said = facts._arranged(configs, {json.dumps({"name": "d"}): (SHAPE, CLASSES)})
        return [block.partition(" in ")[0] for block in said if "Conv2d →" in block]

    assert told("none", "bn", "bn_dropout", "dropout", "dropout_bn") == ["bn_dropout", "dropout_bn"]
    assert told("bn", "none") == ["bn", "none"]


def test_a_sweep_says_that_every_seed_would_begin_with_the_same_weights():
    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        torch.manual_seed(0)
        return ResNet(shape, classes)

    assert "every seed begins with the same weights" in shown(config_of(make, "bn"), SHAPE, CLASSES)[-1]


def test_a_network_trains_in_whatever_mode_it_was_made():
    def make(shape, classes):
        return ResNet(shape, classes).eval()

    assert all(layer.training for layer in plain(config_of(make), SHAPE, CLASSES).modules())


def test_a_part_that_is_called_copies_is_taken_out_of_a_stack_as_any_other():
    class Copies(Counting):
        def __init__(self, shape, classes):
            super().__init__(shape, classes)
            self.body = nn.Module()
            self.body.copies = nn.ModuleList([nn.Linear(64, 64)])

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.bn(self.body.copies[0](x.flatten(1))))

    assert_trains_like_plain([plain(config_of(Copies), SHAPE, CLASSES, seed) for seed in SEEDS])


def test_the_gain_multiplies_weights_that_are_parametrized():
    def make(shape, classes):
        normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), normed, nn.Linear(64, classes))

    one, two = (plain(config_of(make, "bn", init_gain=gain), SHAPE, CLASSES)[1] for gain in (1.0, 2.0))
    torch.testing.assert_close(two[2].weight, 2 * one[2].weight)


def test_a_gain_that_cannot_be_multiplied_in_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"model\.init_gain=2\.0: must be 1 .*right_inverse") as caught:
        plain(config_of(OneWay, init_gain=2.0), SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


def test_bn_that_stays_where_the_arrangement_has_none_is_measured():
    assert not has_bn(config_of(ResNet, "dropout")) and has_bn(config_of(ResNet, "dropout", layers="bn"))


# --- where it comes from


@pytest.mark.parametrize("late", [False, True])
def test_two_files_have_each_its_own_helper_of_one_name_and_the_helper_of_now(tmp_path, late):
    makes = "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, W))\n"
    lines = ("", "from helper_of_one_name import W") if late else ("from helper_of_one_name import W", "pass")
    configs = []
    for width in (5, 6):
        folder = tmp_path / str(width)
        folder.mkdir()
        begin = f"from torch import nn\n{lines[0]}\ndef make(shape, classes):\n    {lines[1]}\n"
        (folder / "net.py").write_text(begin + makes)
        (folder / "helper_of_one_name.py").write_text(f"W = {width}\n")
        configs.append(config_of("make"))
        configs[-1]["model"] = own_source.settle(configs[-1]["model"] | {"file": str(folder / "net.py")})
    assert configs[0]["model"]["source_hash"] != configs[1]["model"]["source_hash"]
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in (*configs, *configs)] == [5, 6, 5, 6]
    for text in ("W = 123\n", "W = 17\n"):
        (tmp_path / "6/helper_of_one_name.py").write_text(text)
        configs[1]["model"] = own_source.settle(configs[1]["model"])
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in configs] == [5, 17]


def test_a_file_is_known_by_what_stands_in_it(composed, tmp_path, monkeypatch):
    from normdrop.study import config as configs

    source = Path(own_networks.__file__)
    (tmp_path / "net.py").write_text(source.read_text())
    monkeypatch.chdir(tmp_path)
    given = "model=own", "model.file=net.py", "model.function=ResNet", "+model.width=3"
    config = configs.canonical(composed(*given))
    assert config["model"]["file"] == str(tmp_path / "net.py") and len(config["model"]["source_hash"]) == 64
    assert plain(config, SHAPE, CLASSES)[1].stem.out_channels == 3
    (tmp_path / "net.py").write_text(source.read_text() + "\n# another\n")
    assert configs.canonical(composed(*given))["model"]["source_hash"] != config["model"]["source_hash"]
    with pytest.raises(ValueError, match=r"net\.py: has changed"):
        plain(config, SHAPE, CLASSES)


def test_a_file_may_add_to_where_it_imports_from_and_the_next_does_not_find_it_there(composed, tmp_path):
    from normdrop.study import config as configs

    before, configured = [*sys.path], []
    for name, width in (("a", 5), ("b", 6)):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "common_of_this_test.py").write_text(f"W = {width}\n")
        path = f"import sys\nsys.path.insert(0, {str(tmp_path / name / 'lib')!r})\nfrom common_of_this_test import W\n"
        make = (
            "def make(shape, classes, **more): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, W))"
        )
        (tmp_path / name / "net.py").write_text(f"from torch import nn\n{path}{make}\n")
        given = "model=own", f"model.file={tmp_path}/{name}/net.py", "+model.width=3"
        configured.append(configs.canonical(composed(*given)))
    widths = [plain(config, SHAPE, CLASSES)[1][2].out_features for config in (*configured, *configured)]
    assert widths == [5, 6, 5, 6] and sys.path == before


def test_a_function_of_ones_own_takes_what_a_built_in_model_would_not(composed, tmp_path):
    from normdrop.study import config as configs

    (tmp_path / "net.py").write_text("def make(shape, classes, activation, width, depth): ...\n")
    words = "+model.activation=silu", "+model.width=[1.5,1]", "+model.depth=0"
    model = configs.canonical(composed("model=own", f"model.file={tmp_path}/net.py", *words))["model"]
    assert (model["activation"], model["width"], model["depth"]) == ("silu", [1.5, 1], 0)


def test_the_working_folder_is_the_same_behind_a_file_that_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leaves = "os.chdir(os.path.dirname(os.getcwd()))"
    Path("net.py").write_text(f"import os\n{leaves}\ndef make(shape, classes): {leaves}\n")
    make = own_source.function_of(own_source.settle({"name": "own", "file": "net.py"}))
    assert Path.cwd() == tmp_path
    make(SHAPE, CLASSES)
    assert Path.cwd() == tmp_path


FILES = {
    "sizes.py": "WIDTH = 4\n",
    "blocks.py": "import deeper\n",
    "deeper.py": "",
    "late.py": "",
    "parts/__init__.py": "from .inner import One\n",
    "parts/inner.py": "class One: ...\n",
    "loose/sub.py": "W = 1\n",  # of a folder without __init__.py
    "broken.py": "(\n",
    "net.py": """
import torch, blocks, yaml
from dataclasses import dataclass
from loose.sub import W
from parts import One
from sizes import WIDTH
try:
    import broken
except SyntaxError:
    pass


@dataclass
class Sizes:
    width: int = WIDTH


def make(shape, classes):
    import late
""",
}


@pytest.mark.parametrize("changed", [name for name in FILES if name != "net.py"])
def test_a_file_is_known_by_all_that_it_imports_from_beside_it(tmp_path, monkeypatch, changed):
    """A constant, a module, what that imports in turn, and what is imported once the function is called."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "yaml.py").write_text("")  # the installed one is imported
    before = own_source.settle({"file": tmp_path / "net.py"})
    assert own_source.settle({"file": tmp_path / "net.py"}) == before
    (tmp_path / "yaml.py").write_text("# another\n")
    assert own_source.settle({"file": tmp_path / "net.py"}) == before
    (tmp_path / changed).write_text(FILES[changed] + "# another\n")
    assert own_source.settle({"file": tmp_path / "net.py"})["source_hash"] != before["source_hash"]
    with pytest.raises(ValueError, match=r"net\.py: has changed"):
        own_source.function_of({"name": "own", **before})


def test_a_file_that_imports_nothing_of_its_own_is_known_by_its_bytes(tmp_path, monkeypatch):
    """Whatever is installed in an environment below its folder."""
    (tmp_path / "alone.py").write_text("import torch\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/torch.py").write_text("1\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setattr(own_source, "INSTALLED", (*own_source.INSTALLED, str(tmp_path / "lib")))
    monkeypatch.setattr(
        own_source.importlib.util, "find_spec", lambda _: spec_from_file_location("torch", tmp_path / "lib/torch.py")
    )
    alone = own_source.settle({"file": tmp_path / "alone.py"})["source_hash"]
    assert alone == hashlib.sha256(b"import torch\n").hexdigest()


def test_an_installed_network_is_found_by_its_name_and_known_by_its_package(tmp_path, monkeypatch):
    (tmp_path / "their_nets/models").mkdir(parents=True)
    makes = "from own_networks import ResNet\ndef make(shape, classes): return ResNet(shape, classes, WIDTH)\n"
    files = {"their_nets/sizes.py": "WIDTH = 5\n", "other.py": "", "their_nets/__init__.py": ""}
    files["their_nets/models/net.py"] = f"import other\nfrom their_nets.sizes import WIDTH\n{makes}"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(own_source, "INSTALLED", (*own_source.INSTALLED, str(tmp_path)))
    point = EntryPoint("theirs", "their_nets.models.net:make", "normdrop.models")
    monkeypatch.setattr(own_source, "installed", lambda: {"theirs": point})
    config = config_of("make")
    config["model"] = own_source.settle(config["model"] | {"name": "theirs"})
    assert plain(config, SHAPE, CLASSES)[1].stem.out_channels == 5
    (tmp_path / "other.py").write_text("# of another package\n")
    assert own_source.settle(config["model"]) == config["model"]
    (tmp_path / "their_nets/sizes.py").write_text("WIDTH = 6\n")
    assert own_source.settle(config["model"])["source_hash"] != config["model"]["source_hash"]
    with pytest.raises(ValueError, match=r"model\.name=theirs: has changed"):
        plain(config, SHAPE, CLASSES)
    point = EntryPoint("theirs", "gone.net:make", "normdrop.models")
    with pytest.raises(ValueError, match=r"model\.name=theirs: its module gone\.net is not there"):
        own_source.settle(config["model"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, ["model.file"]),
        ({"file": "nowhere.py"}, ["model.file", "nowhere.py"]),
        ({"file": "net.py", "function": "mak"}, ["model.function=mak", "make, other, leave, wide, dedent"]),
        ({"file": "net.py", "depth": 3}, ["model.depth", "it has none"]),
        ({"file": "broken.py"}, ["model.file", "ZeroDivisionError"]),
        ({"file": "script.py"}, ["model.file", "SystemExit"]),
        ({"file": "net.py", "function": "leave"}, ["model.function=leave", "SystemExit"]),
        ({"file": "net.py", "function": "wide", "double": "no"}, ["model.double='no'", "true or false"]),
        ({"name": "nope"}, ["model=nope"]),
        ({"file": "empty.py"}, ["model.function=make", "it has none"]),
        ({"file": "network.py"}, ["must be a function make"]),
    ],
    ids=str,
)
def test_what_cannot_be_found_or_called_is_one_line(tmp_path, monkeypatch, model, words):
    monkeypatch.chdir(tmp_path)
    leaving = "def leave(shape, classes):\n    raise SystemExit(0)\ndef wide(shape, classes, double=False): ...\n"
    begin = "from textwrap import dedent\ndef make(shape, classes): ...\ndef other(): ...\n"
    Path("net.py").write_text(begin + leaving)
    Path("empty.py").write_text("")
    Path("network.py").write_text("from torch import nn\nmake = nn.Sequential(nn.BatchNorm1d(64))\n")
    Path("broken.py").write_text("1 / 0\n")
    Path("script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--data'])\n")
    config = config_of("make", **model)
    with pytest.raises(ValueError, match="model") as caught:
        plain(config, SHAPE, CLASSES)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


# --- what cannot be a replicate of a study


class Counting(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.bn, self.linear, self.calls = nn.BatchNorm1d(64), nn.Linear(64, classes), 0
        self.register_buffer("memory", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.bn(x.flatten(1)))


class Remembering(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.memory += 1
        return super().forward(x)


class Warming(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Drawing(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def spoilt(of) -> Callable[..., nn.Module]:
    """A network whose output is `of` the one of a sound network."""

    class Spoilt(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return of(super().forward(x))

    return Spoilt


class Loose(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.drawn = torch.randn(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1) @ self.drawn)


class Frozen(Counting):
    def train(self, mode: bool = True):
        super().train(mode)
        self.bn.eval()
        return self


class Unhinged(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.bn.eval()
        return super().forward(x)


class Typed(Counting):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.linear(self.bn(x) if isinstance(self.bn, nn.BatchNorm1d) else x)


class Spare(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.spare = nn.BatchNorm1d(64)


class InPlace(Counting):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.bn(x.flatten(1)))
        output = self.linear(h)
        h += 1  # whose gradient needs what it was
        return output


class Halving(Counting):
    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5  # what it was given
        return super().forward(x)


class Keeping(Counting):
    """What is written anew in each pass, or once for all of them, is no state."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.last, self.seen, self.positions, self.size = None, {}, None, 0
        self.names, self.mixed, self.large = np.array(["a", "b"]), np.array([None, 1], dtype=object), 2**80
        self.phase, self.pattern = torch.tensor([1j]), torch.eye(3).to_sparse()  # of any kind
        self.linear.register_forward_hook(self.see)

    def see(self, layer: nn.Module, given: tuple[Tensor], logits: Tensor) -> None:
        self.seen["logits"] = logits

    def forward(self, x: Tensor) -> Tensor:
        self.size = len(x)
        self.seen.setdefault(self.size, torch.arange(self.size))
        if self.positions is None:
            self.positions = torch.linspace(0, 1, 64, dtype=x.dtype)
        self.last = super().forward(x.flatten(1) + self.positions)
        return self.last


class Empty(Counting):
    """It asks a parameter and a buffer without elements where it is."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.p = nn.Parameter(torch.empty(0))
        self.register_buffer("there", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.p.device).to(self.there.device))


class OneWay(Counting):
    """A weight that cannot be assigned."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        nn.utils.parametrize.register_parametrization(self.linear, "weight", nn.ELU())


class Squeezing(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)[:, :, None]).squeeze()


class Talkative(Counting):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Asking(nn.Module):
    """Its activations stand behind whatever is BN."""

    def __init__(self, shape, classes, only_in_training: bool = False):
        super().__init__()
        self.only_in_training = only_in_training
        self.layers = nn.ModuleList([nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, classes)])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm1d) or (self.only_in_training and not self.training):
                x = torch.relu(x)
        return x


class AskingForNone(Counting):
    """Its activation is gone with its BN layer."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(x.flatten(1))
        return self.linear(h if isinstance(self.bn, nn.Identity) else torch.relu(h))


class Checkpointed(Counting):
    def __init__(self, shape, classes, use_reentrant: bool = False):
        super().__init__(shape, classes)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(x.flatten(1))
        return torch.utils.checkpoint.checkpoint(self.linear, h, use_reentrant=self.use_reentrant)


class Late(Counting):
    """What it remembers, in an attribute, shows only after ten steps."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x) * (1 if self.calls < 10 else 3)


class Averaging(Counting):
    """It remembers, in a tuple, what it evaluates with."""

    means: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.detach().mean(dim=0)
            self.means = ((self.means[0] + mean) / 2 if self.means else mean,)
        return super().forward(x if self.training or not self.means else x - self.means[0])


class Holder:
    """A state in what is no module, and knows itself."""

    def __init__(self):
        self.own, self.steps = self, 0

    def step(self) -> "Holder":
        self.steps += 1
        return self


HELD = [
    (Holder, Holder.step),
    (lambda: np.int64(0), lambda held: held + 1),
    (set, lambda held: held | {len(held)}),
    (str, lambda held: held + "."),
]


def remembering(begins: Callable[[], Any], then: Callable[[Any], Any]) -> Callable[..., nn.Module]:
    """A network with a state that shows only after many steps, and what a step makes of it."""

    class Held(Counting):
        def __init__(self, shape, classes):
            super().__init__(shape, classes)
            self.held = begins()

        def forward(self, x: Tensor) -> Tensor:
            self.held = then(self.held) if self.training else self.held
            return super().forward(x)

    return Held


class RememberingGradients(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.held = Holder()
        self.linear.register_full_backward_hook(lambda *_: self.held.step() and None)


class Choosing(Counting):
    """Each row goes to an expert, and to some goes none."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
        self.router = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        chosen, added = self.router(x).argmax(dim=1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (own_rows := chosen == number).any():
                added[own_rows] = expert(x[own_rows])
        return super().forward(x + added)


class Dropping(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.drop: nn.Module = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.drop(x.flatten(1)))


class Setting(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        self.drop.p = 0.5
        return super().forward(x)


class Again(Dropping):
    """Dropout that the backward pass computes again."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(x.flatten(1))
        return self.linear(torch.utils.checkpoint.checkpoint(self.drop, h, use_reentrant=False))


class Channels(Dropping):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.drop = nn.Dropout2d(0.2)


def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.LazyLinear(classes))


class Hidden(Counting):
    """A step of `of` behind which nothing shows at first: the last layer's weights are 0."""

    def __init__(self, shape, classes, of: Callable):
        super().__init__(shape, classes)
        nn.init.zeros_(self.linear.weight)
        self.drawn, self.of, self.weight = torch.randn(64, 64), of, nn.Parameter(torch.ones(64))
        self.also = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.of(self, self.bn(x.flatten(1))))


def hidden(of: Callable) -> Callable[..., nn.Module]:
    return lambda shape, classes: Hidden(shape, classes, of)


def replacing(net: Hidden, h: Tensor) -> Tensor:
    net.weight.data = net.weight.data.clamp(-0.5, 0.5)
    return h * net.weight


def clamping(net: Hidden, h: Tensor) -> Tensor:
    with torch.no_grad():
        net.weight.clamp_(-0.5, 0.5)
    return h * net.weight


def hooked(shape, classes):
    network = Counting(shape, classes)
    network.linear.weight.register_hook(lambda gradient: gradient * 0)
    return network


class Tied(Counting):
    """Two layers whose weights have one memory."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight.data = self.first.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.second(self.first(x.flatten(1))).view_as(x))


class AliasedBuffer(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("first", self.linear.weight.data)


class HookedDropout(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.drop = nn.Dropout(0.5)
        self.drop.register_full_backward_hook(lambda _, inputs, __: (-inputs[0],))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.drop(self.bn(x.flatten(1))))


def computed(shape, classes):
    network = Counting(shape, classes)
    network.linear = nn.utils.weight_norm(network.linear)
    return network


BACKBONE = nn.Linear(64, 64)


class Noisy(nn.Dropout):
    """A kind of dropout that does otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


ONE = Counting((1, 8, 8), 10)


class Unseeded(Counting):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.linear.weight.data.mul_(float(np.random.default_rng().normal()))


def without_bn(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (without_bn, "no BatchNorm layer; put"),
        (
            lambda shape, classes: nn.Sequential(nn.Flatten(), nn.SyncBatchNorm(64)),
            "layer 1 is SyncBatchNorm; must be nn",
        ),
        (Remembering, "state of its own .*memory"),
        (Warming, "state of its own"),
        (spoilt(lambda y: y - y.mean(dim=0)), "mixes rows"),
        (Drawing, r"random numbers \(use nn.Dropout"),
        (spoilt(lambda y: y * (torch.rand(()) < 0.9999)), r"random numbers \(use nn.Dropout"),
        (spoilt(lambda y: y * (random.random() < 0.9999)), "random numbers"),
        (spoilt(lambda y: y * (np.random.rand() < 0.9999)), "random numbers"),  # noqa: NPY002
        (Late, "state of its own .*calls"),
        (Averaging, "state of its own .*means"),
        *((remembering(*held), "state of its own .*held") for held in HELD),
        (Choosing, r"its parameter experts\.\d\.weight plays no part for some rows"),
        (RememberingGradients, "state of its own .*held"),
        (Asking, "asks of what kind a layer is"),
        (lambda *given: Asking(*given, only_in_training=True), "asks of what kind a layer is"),
        (AskingForNone, "asks of what kind a layer is"),
        (lambda *_: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False)), "1 has track_running"),
        (hidden(lambda net, h: nn.functional.batch_norm(h, None, None, training=True)), r"more than 1 value.*\)$"),
        (spoilt(lambda y: y.view(*[1] * 500)), "RuntimeError: shape .* …$"),
        (Checkpointed, r"leave out torch\.utils\.checkpoint$"),
        (lambda *given: Checkpointed(*given, use_reentrant=True), r"leave out torch\.utils\.checkpoint$"),
        (Squeezing, r"\(10,\) for 1 row .* \(1, 10\) .*flatten\(1\)"),
        (Talkative, r"tuple for 4 rows in training; must be logits \(4, 10\)"),
        (Setting, r"p=0\.5: .* must stay 0\.0"),
        (lambda *given: torch.jit.script(Counting(*given)), "returns RecursiveScriptModule; .* not scripted"),
        (Loose, "register_buffer"),
        (lambda shape, classes: ONE, "make a new one each time"),
        (ONE, "must be a function"),
        (Frozen, "Frozen has a train\\(\\) of its own"),
        (spoilt(lambda y: y.softmax(dim=1)), "must be logits"),
        (spoilt(lambda y: y[:, :3]), r"\(4, 3\) .* \(4, 10\)"),
        (Unseeded, "use torch alone"),
        (Unhinged, r"bn\.0 has no effect"),
        (Typed, r"bn\.0 has no effect"),
        (Spare, r"spare\.0 has no effect"),
        (InPlace, "cannot train in a stack: RuntimeError"),
        (lazy, "a layer is lazy; call the network once in it"),
        (
            lambda shape, classes: Counting(shape, classes).requires_grad_(False),
            "cannot train in a stack: RuntimeError",
        ),
        (spoilt(Tensor.double), "must be .* in float32"),
        (lambda *given: Counting(*given).double(), "bn.weight is float64; must be float32"),
        (lambda shape, classes: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64).double()), "1.weight is float64"),
        (lambda shape, classes: 3, "returns int"),
        (hidden(lambda net, h: h @ net.drawn), "parameters nor buffers"),
        (hidden(lambda net, h: h @ net.drawn if net.training else h), "parameters nor buffers"),
        (hidden(lambda net, h: h * net.also[0]), "parameters nor buffers"),
        (hidden(lambda net, h: h - h.mean(0)), "mixes rows"),
        (hidden(replacing), "puts another tensor into a parameter"),
        (hidden(clamping), r"changes a parameter; .*\.data\.copy_"),
        (hooked, "a parameter or dropout has a hook"),
        (Tied, r"\.data gives two tensors one memory"),
        (AliasedBuffer, r"\.data gives two tensors one memory"),
        (HookedDropout, "a parameter or dropout has a hook"),
        (computed, "parametrizations"),
        (lambda shape, classes: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), BACKBONE), "or a part of it, twice"),
        (lambda shape, classes: 1 / 0, "ZeroDivisionError"),
        (lambda shape, classes: nn.Sequential(nn.BatchNorm2d(3)), "forward pass fails"),
    ],
)
def test_what_cannot_be_a_replicate_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        own_check.check(config_of(make), SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


class OfAKind(Dropping):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.drop = Noisy()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (OfAKind, "draws random numbers"),
        (Setting, r"p=0\.5: .* must stay 0\.2"),
        (Again, "dropout again in the backward pass"),
        (Channels, "drop, a Dropout2d: .* must be nn.Dropout"),
        (
            lambda *_: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout1d(0.5), nn.Linear(64, 10)),
            "Dropout1d: .* must be nn.Dropout",
        ),
    ],
)
def test_dropout_that_is_kept_and_is_not_as_it_seems_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        own_check.check(config_of(make, keep_dropout=True), SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


def test_an_attribute_that_differs_between_seeds_is_refused():
    def make(shape, classes):
        network = Counting(shape, classes)
        network.flipped = bool(torch.rand(()) < 0.5)
        return network

    with pytest.raises(ValueError, match="flipped differs between seeds"):
        network_of(config_of(make), SHAPE, CLASSES, range(9))


@pytest.mark.parametrize(
    "layer", [lambda deep: nn.Tanh() if deep else nn.ReLU(), lambda deep: nn.Linear(64, 64 + deep)]
)
def test_networks_that_differ_between_seeds_are_refused(layer):
    networks = [nn.Sequential(layer(deep), nn.BatchNorm1d(64)) for deep in (0, 1)]
    with pytest.raises(ValueError, match="its layers differ between seeds"):
        StackedNetwork([nn.Sequential(nn.Linear(64, 64), *network) for network in networks], SEEDS, BATCH)


def shared(shape, classes):
    """A Linear layer at two places."""
    twice = nn.Linear(64, 64)
    layers = nn.Flatten(), twice, nn.BatchNorm1d(64), nn.Tanh(), twice, nn.Linear(64, classes)
    return nn.Sequential(*layers)


class Alias(Counting):
    """Layers with two names."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.again, self.body = self.linear, nn.Sequential(nn.Flatten(), self.bn, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.body(x))


def named(shape, classes):
    """Layers by names of their own, inside another too, activations in place, also where the data come in."""
    inside = nn.Sequential(OrderedDict(fc=nn.Linear(64, 64), bn=nn.BatchNorm1d(64), act=nn.SiLU(inplace=True)))
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), act=nn.ReLU(inplace=True), inside=inside))
    network.add_module("head", nn.Linear(64, classes))
    return network


def reversing(shape, classes):
    """A layer with a stacked form, and a hook on its gradient."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, classes))
    network[3].register_full_backward_hook(lambda _, inputs, __: (-inputs[0],))
    return network


def twice(shape, classes):
    """A BN layer without weights at two places."""
    norm = nn.BatchNorm1d(64, affine=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), norm, nn.ReLU(), norm, nn.Linear(64, classes))


class Small(Counting):
    """A parameter that has to stay above 0."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.variance = nn.Parameter(torch.full((64,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1) / self.variance.sqrt())


@pytest.mark.parametrize("make", [shared, Alias, Halving, Keeping, Empty, OneWay, named, reversing, twice, Small])
def test_what_is_unusual_and_sound_trains_as_its_plain_copies_do(make):
    own_check.check(config_of(make), SHAPE, CLASSES)
    assert_trains_like_plain([plain(config_of(make), SHAPE, CLASSES, seed) for seed in SEEDS])


class Deep(nn.Module):
    """Of its weights that the check has moved come logits in the hundreds, each rounded as the largest."""

    def __init__(self, shape, classes):
        super().__init__()
        layers = [part for _ in range(20) for part in (nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), *layers, nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DeepMixing(Deep):
    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[:-1](x)
        return self.layers[-1](h - 0.01 * h.mean(dim=0))


class Recurrent(nn.Module):
    """An LSTM, which keeps its parameters in a list too."""

    def __init__(self, shape, classes):
        super().__init__()
        self.lstm, self.bn, self.out = nn.LSTM(8, 16, batch_first=True), nn.BatchNorm1d(16), nn.Linear(16, classes)
        self.all = list(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.bn(self.lstm(x[:, 0])[0][:, -1]))


def narrow(shape, classes):
    """Of so many layers, each with the statistics of a few rows, a step's rounding is large."""
    layers = [part for _ in range(15) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, classes))


@pytest.mark.parametrize("make", [Recurrent, narrow])
def test_an_ordinary_network_is_accepted(make):
    own_check.check(config_of(make), SHAPE, CLASSES)
    network_of(config_of(make), SHAPE, CLASSES, SEEDS)


def test_a_shared_activation_does_not_make_a_sequential_run_side_by_side():
    relu = nn.ReLU()
    layers = nn.Linear(64, 8), relu, nn.Linear(8, 8), relu
    assert stacked.usual(nn.Sequential(*layers), (64,))
    assert not stacked.usual(nn.Sequential(*layers, nn.BatchNorm1d(8), layers[2]), (64,))
    noise = nn.Dropout(0.1)
    assert not stacked.usual(nn.Sequential(noise, nn.Linear(64, 64), noise), (64,))


def test_rounding_in_a_deep_network_is_not_taken_for_rows_that_mix():
    own_check.check(config_of(Deep), SHAPE, 100)
    with pytest.raises(ValueError, match="mixes rows"):
        own_check.check(config_of(DeepMixing), SHAPE, 100)


def test_layers_in_place_leave_the_data_as_they_are():
    network, x = network_of(config_of(named), SHAPE, CLASSES, SEEDS), rows(BATCH)[0].float()
    before = x.clone()
    network(x)
    assert torch.equal(x, before)


def test_a_network_that_is_another_once_it_is_taken_out_of_a_stack_is_refused(monkeypatch):
    monkeypatch.setattr(StackedNetwork, "replicate", lambda stacked, index: copy.deepcopy(stacked.template[0]))
    with pytest.raises(ValueError, match=r"model: ResNet: .* taken out of a stack"):
        own_check.check(config_of(ResNet), SHAPE, CLASSES)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_what_can_be_one_is_not(make):
    own_check.check(config_of(make, noise="uniform", keep_dropout=True), SHAPE, CLASSES)


def test_the_arrangement_is_tried_whatever_is_asked_for_first():
    with pytest.raises(ValueError, match="no effect in training"):
        own_check.check(config_of(Typed, "none", 0.0), SHAPE, CLASSES)


def test_a_position_is_refused_where_it_is_as_written():
    with pytest.raises(ValueError, match="position=before: leave it out"):
        plain(config_of(ResNet) | {"position": "before"}, SHAPE, CLASSES)


# --- what the registry holds


def test_a_layer_runs_side_by_side_where_its_stacked_form_does_not_hold():
    def types(*layers: nn.Module, shape=(2, 5, 5)) -> list[type]:
        return [type(layer) for layer in stack([nn.Sequential(*layers)] * 2, Place(SEEDS, BATCH, 0, shape))]

    assert types(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(1, 4))[:2] == [StackedConv, StackedBatchNorm]
    for layer in (
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, bias=False),
        nn.Conv2d(2, 4, 3, dilation=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.GroupNorm(2, 2),
        nn.BatchNorm2d(2, momentum=None),
        nn.LayerNorm(5),
        nn.Linear(5, 3),
        nn.MaxPool2d(2),
    ):
        assert types(layer) == [SideBySide], layer


def test_a_stacked_form_that_is_not_equal_to_its_layer_is_refused(monkeypatch):
    monkeypatch.setitem(STACKED, nn.BatchNorm1d, lambda layers, place: nn.Identity())
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=0.123))
    with pytest.raises(ValueError, match=r"BatchNorm1d\(4, eps=0\.123.*stacked form is not equal"):
        StackedNetwork([network] * 2, SEEDS, BATCH)
    monkeypatch.setitem(STACKED, nn.PReLU, lambda layers, place: layers[0])  # one weight for all replicates
    with pytest.raises(ValueError, match="stacked form is not equal"):
        StackedNetwork([nn.Sequential(nn.Linear(3, 4), nn.PReLU())] * 2, SEEDS, BATCH)


# --- through the whole fit


def test_a_fit_of_ones_own_network_is_resumed_exported_and_measured_as_any_other(tiny, tmp_path, monkeypatch):
    config = tiny("select_epoch=best", "measure.shift_epochs=[1]", "trainer.max_epochs=2", "replicates_at_a_time=2")
    config |= {"model": config_of(ResNet)["model"], "engine": "torch"}
    fitted = fit.fit(config, [0, 1, 2])
    assert not fitted.replicates["diverged"].any()
    assert {(entry["layer"], entry["epoch"]) for entry in fitted.facts["shift"]} == {
        (layer, epoch) for layer in range(1, 7) for epoch in (1, "end")
    }
    data = fit.data_of(config, [2])
    data.setup()
    x, y = data.parts["test"].x[0], data.parts["test"].y[0]
    nll = nn.functional.cross_entropy(fitted.network(2)(x), y).item()
    assert fitted.replicates["test_nll"][2] == pytest.approx(nll, rel=1e-5)
    alone = fit.fit(config, [2]).replicates
    assert alone.equals(fitted.replicates[2:].reset_index(drop=True))


def test_a_network_with_tensors_without_elements_is_fitted_to_its_best_epoch(tiny):
    config = tiny("select_epoch=best", "trainer.max_epochs=1") | {"model": config_of(Empty)["model"], "engine": "torch"}
    assert not fit.fit(config, [0, 1]).replicates["diverged"].any()
