"""A network of one's own: arranged where its BN layers stand, stacked, and equal to plain copies of it."""

import copy
import hashlib
import itertools
import json
import pickle
import random
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import own_networks
from normdrop.data.module import Part
from normdrop.networks import has_bn, network_of, own, own_check, own_source, plain, shown
from normdrop.networks.cnn import cnn
from normdrop.networks.layers import UniformNoise
from normdrop.networks.mlp import initialise, mlp
from normdrop.networks.noise import StackedNoise
from normdrop.networks.side_by_side import Place, SideBySide, pair_noise
from normdrop.networks.stacked import STACKED, StackedBatchNorm, StackedConv, StackedNetwork, stack
from normdrop.streams import stream
from normdrop.study import config as study_config
from normdrop.study import facts
from normdrop.training import fit, shift
from normdrop.training.check import check_fit
from normdrop.training.kept import Kept
from normdrop.training.module import cross_entropy
from own_networks import NETWORKS, ResNet
from plain_copies import assert_close, assert_trains_alike

SHAPE, CLASSES, BATCH, SEEDS = (1, 8, 8), 10, 8, [4, 0]
# Of `none` and `bn` the rate plays no part.
ARRANGED = [("none", 0.0), ("bn", 0.0), *itertools.product(("dropout", "bn_dropout", "dropout_bn"), (0.1, 0.5))]


def config_of(make, arrangement: str = "bn_dropout", rate: float = 0.3, **model) -> dict:
    given = {"name": "own", "file": None, "function": make, "layers": "*", "keep_dropout": False, "init_gain": 1.0}
    placed = {"arrangement": arrangement, "position": "after", "rate": rate, "noise": model.pop("noise", "bernoulli")}
    measured = {"measure": {"silencing": False, "shift": True}, "trainer": {"max_epochs": 9}}
    return placed | {"model": given | model, "rerun": 0, "batch_size": BATCH} | measured


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


def assert_trains_like_plain(networks: list[nn.Sequential], steps=(BATCH, 5, BATCH)) -> StackedNetwork:
    """Each replicate trains as a plain copy with its masks."""
    networks = [network.double() for network in networks]
    stacked = StackedNetwork(networks, SEEDS, BATCH).double()
    copies = [paired(network, seed) for network, seed in zip(networks, SEEDS, strict=True)]
    assert_trains_alike(stacked, copies, [rows(size, number) for number, size in enumerate(steps)])
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
        figures = {key: pytest.approx(other.pop(key), rel=1e-4) for key in ("measured", "running")}
        assert entry == other | figures
    again, and_again = (shift.recalibrated(network, part) for network in (slow, fast))
    torch.testing.assert_close(again(x.float()), and_again(x.float()), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("arrangement", ["none", "dropout_bn", "ln"])
def test_an_activation_in_place_behind_what_stands_for_bn_leaves_the_shortcut_alone(arrangement):
    both = [config_of(Around, arrangement, inplace=inplace) for inplace in (True, False)]
    networks, x = [network_of(config, SHAPE, CLASSES, SEEDS) for config in both], rows(BATCH)[0].float()
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
        ("bn_dropout_bn", ["BatchNorm2d", "Dropout", "BatchNorm2d"]),  # a name that one may add
    ],
)
def test_the_operations_stand_in_their_order_where_each_bn_layer_stood(arrangement, expected):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert own.arrange(network, config_of(None, arrangement)) == ["1", "4"]
    assert kinds(network) == expected * 2  # each layer once: what stood twice would be one
    assert all(layer.p == 0.3 for layer in network.modules() if isinstance(layer, nn.Dropout))


def test_a_pattern_restricts_the_layers_and_others_stay_as_written():
    network = ResNet(SHAPE, CLASSES)
    assert own.arrange(network, config_of(None, "none", layers="stages.*.bn2")) == ["stages.0.bn2", "stages.1.bn2"]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 4
    with pytest.raises(ValueError, match=r"model\.layers=nope: .* bn, stages\.0\.bn1"):
        own.arrange(network, config_of(None, "none", layers="nope"))


def test_all_arrangements_begin_with_the_same_weights_and_global_random_state_stays():
    before = torch.get_rng_state()
    networks = {a: plain(config_of(ResNet, a, 0.3), SHAPE, CLASSES, seed=3) for a, _ in ARRANGED}
    assert torch.equal(torch.get_rng_state(), before)
    for network in networks.values():
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        first = [layer.weight for layer in networks["none"].modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert all(torch.equal(a, b) for a, b in zip(weights, first, strict=True))
    for seed, rerun in ((4, 0), (3, 1)):
        other = plain(config_of(ResNet) | {"rerun": rerun}, SHAPE, CLASSES, seed)
        assert not torch.equal(other[1].stem.weight, networks["bn"][1].stem.weight)


def test_a_sweep_shows_the_block_around_its_last_place_as_it_stands():
    said, block = shown(config_of(ResNet, "dropout_bn", layers="*.bn1"), SHAPE, CLASSES)
    assert said == "dropout_bn in ResNet, positions as the module has them; stages.1:"
    assert (
        block.index("Conv2d") < block.index("(bn1): Sequential") < block.index("Dropout(p=0.3") < block.index("conv2")
    )
    assert shown(config_of(Frozen), SHAPE, CLASSES)[0].endswith("; all of it:")


def test_what_is_shown_is_what_becomes_of_the_network_in_each_order_if_any_is_asked_for():
    def told(*arrangements: str) -> list[str]:
        model = {"file": own_networks.__file__, "function": "ResNet"}
        configs = [config_of(None, name, 0.3, **model) | {"data": {"name": "d"}} for name in arrangements]
        said = facts._arranged(configs, {json.dumps({"name": "d"}): (SHAPE, CLASSES)})
        return [block.partition(" in ")[0] for block in said if "Conv2d(" in block]

    assert told("none", "bn", "bn_dropout", "dropout", "dropout_bn") == ["bn_dropout", "dropout_bn"]
    assert told("bn", "none") == ["bn", "none"]


def test_a_sweep_says_that_every_seed_would_begin_with_the_same_weights():
    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        torch.manual_seed(0)
        return ResNet(shape, classes)

    assert "every seed begins with the same weights" in shown(config_of(make, "bn"), SHAPE, CLASSES)[-1]


def test_a_sweep_says_what_recalibration_takes_of_a_network_with_more_bn_layers_than_epochs():
    def told(**keys: Any) -> bool:
        config = config_of(ResNet, "dropout_bn") | {"trainer": {"max_epochs": 6}} | keys
        return "6 passes" in shown(config, SHAPE, CLASSES)[-1]  # of its six layers

    assert told()
    assert not told(trainer={"max_epochs": 7}) and not told(measure={"shift": False, "silencing": False})


def test_a_network_trains_in_whatever_mode_it_was_made():
    def make(shape, classes):
        return ResNet(shape, classes).eval()

    assert all(layer.training for layer in plain(config_of(make), SHAPE, CLASSES).modules())


def test_bn_that_stays_where_the_arrangement_has_none_is_measured():
    assert not has_bn(config_of(ResNet, "dropout")) and has_bn(config_of(ResNet, "dropout", layers="bn"))


# --- where it comes from


HELPER = """
from torch import nn
{first}
def make(shape, classes):
    {then}
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, W))
"""
IMPORT = "from helper_of_one_name import W"


def test_two_files_have_each_its_own_helper_of_one_name_and_the_helper_of_now(tmp_path):
    before, configs = [*sys.path], []
    for width in (5, 6):
        folder = tmp_path / str(width)
        (folder / "lib").mkdir(parents=True)
        added = f"import sys\nsys.path.insert(0, {str(folder / 'lib')!r})\n"
        (folder / "net.py").write_text(HELPER.format(first=added + IMPORT, then="pass"))
        (folder / "lib/helper_of_one_name.py").write_text(f"W = {width}\n")
        configs.append(config_of("make"))
        configs[-1]["model"] = own_source.settle(configs[-1]["model"] | {"file": str(folder / "net.py")})
    assert configs[0]["model"]["source_hash"] != configs[1]["model"]["source_hash"]
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in (*configs, *configs)] == [5, 6, 5, 6]
    (tmp_path / "6/lib/helper_of_one_name.py").write_text("W = 123\n")
    with pytest.raises(ValueError, match=r"net\.py: has changed"):
        plain(configs[1], SHAPE, CLASSES)
    configs[1]["model"] = own_source.settle(configs[1]["model"])
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in configs] == [5, 123]
    assert sys.path == before and "helper_of_one_name" not in sys.modules


def test_an_import_when_the_function_is_called_is_refused_in_one_line(tmp_path):
    (tmp_path / "net.py").write_text(HELPER.format(first="", then=IMPORT))
    (tmp_path / "helper_of_one_name.py").write_text("W = 5\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"ImportError: helper_of_one_name: import it at the top of .*net\.py"):
            plain(config_of("make", file=str(tmp_path / "net.py")), SHAPE, CLASSES)


def test_an_import_within_the_function_finds_the_helper_of_its_own_file(tmp_path):
    configs = []
    for width in (5, 6):
        (tmp_path / str(width)).mkdir()
        (tmp_path / f"{width}/net.py").write_text(HELPER.format(first="import helper_of_one_name", then=IMPORT))
        (tmp_path / f"{width}/helper_of_one_name.py").write_text(f"W = {width}\n")
        configs.append(config_of("make", file=str(tmp_path / f"{width}/net.py")))
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in configs * 2] == [5, 6, 5, 6]


def test_a_file_of_a_package_is_reached_by_one_beside_it(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/net.py").write_text(HELPER.format(first="from .helper_of_one_name import W", then="pass"))
    (tmp_path / "nets/helper_of_one_name.py").write_text("W = 7\n")
    with pytest.raises(ValueError, match="name a file beside its package, which imports the function from it"):
        plain(config_of("make", file=str(tmp_path / "nets/net.py")), SHAPE, CLASSES)
    (tmp_path / "mine.py").write_text("from nets.net import make\n")
    assert plain(config_of("make", file=str(tmp_path / "mine.py")), SHAPE, CLASSES)[1][2].out_features == 7


def test_what_a_file_draws_at_its_top_is_the_same_in_each_process(tmp_path, monkeypatch):
    first = "import copy\nfrom torch import nn\nSTEM = nn.Linear(64, 64)"
    text = HELPER.format(first=first, then="W = 5").replace("nn.Flatten(), ", "nn.Flatten(), copy.deepcopy(STEM), ")
    (tmp_path / "net.py").write_text(text)
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        monkeypatch.setattr(own_source, "RUN", {})  # as another process
        before = torch.get_rng_state()
        weights.append(plain(config_of("make", file=str(tmp_path / "net.py")), SHAPE, CLASSES)[1][1].weight)
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*weights)


def test_two_files_have_each_its_own_folder_of_helpers_without_an_init_file(tmp_path):
    configs = []
    for width in (5, 6):
        (tmp_path / f"{width}/parts_of_one_name").mkdir(parents=True)
        first = "from parts_of_one_name.blocks import W"
        (tmp_path / f"{width}/net.py").write_text(HELPER.format(first=first, then="pass"))
        (tmp_path / f"{width}/parts_of_one_name/blocks.py").write_text(f"W = {width}\n")
        configs.append(config_of("make", file=str(tmp_path / f"{width}/net.py")))
    assert [plain(config, SHAPE, CLASSES)[1][2].out_features for config in configs * 2] == [5, 6, 5, 6]
    (tmp_path / "6/parts_of_one_name/blocks.py").write_text("W = 24\n")
    assert plain(configs[1], SHAPE, CLASSES)[1][2].out_features == 24


def test_a_function_finds_what_its_file_has_imported_and_its_network_can_be_saved(tmp_path):
    then = "import importlib; W = getattr(sys.modules[__name__], 'W')\n    import helper_of_one_name as again\n    "
    then += "assert importlib.import_module('helper_of_one_name').W == again.W == W"
    (tmp_path / "net.py").write_text(HELPER.format(first=f"import sys\n{IMPORT}", then=then))
    text = (tmp_path / "net.py").read_text() + "\n\nclass Net(nn.Sequential): pass\n"
    (tmp_path / "net.py").write_text(text.replace("return nn.Sequential(", "return Net("))
    (tmp_path / "helper_of_one_name.py").write_text("W = 5\n")
    network = plain(config_of("make", file=str(tmp_path / "net.py")), SHAPE, CLASSES)
    assert type(network[1]).__name__ == "Net" and "helper_of_one_name" not in sys.modules
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again[1][2].weight, network[1][2].weight)


def test_a_file_is_known_by_an_absolute_path_and_its_bytes(composed, tmp_path, monkeypatch):
    text = Path(own_networks.__file__).read_bytes()
    (tmp_path / "net.py").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    given = "model=own", "model.file=net.py", "model.function=ResNet", "+model.width=3"
    config = study_config.canonical(composed(*given))
    assert config["model"]["file"] == str(tmp_path / "net.py")
    assert config["model"]["source_hash"] == hashlib.sha256(text).hexdigest()
    assert plain(config, SHAPE, CLASSES)[1].stem.out_channels == 3


def test_a_function_of_ones_own_takes_what_a_built_in_model_would_not(composed, tmp_path):
    (tmp_path / "net.py").write_text("def make(shape, classes, activation, width, depth): ...\n")
    words = "+model.activation=silu", "+model.width=[1.5,1]", "+model.depth=0"
    model = study_config.canonical(composed("model=own", f"model.file={tmp_path}/net.py", *words))["model"]
    assert (model["activation"], model["width"], model["depth"]) == ("silu", [1.5, 1], 0)


def test_a_function_of_ones_own_that_takes_any_key_is_given_it():
    def make(shape: tuple[int, ...], classes: int, **sizes: int) -> nn.Module:
        return ResNet(shape, classes, **sizes)

    assert plain(config_of(make, width=3), SHAPE, CLASSES)[1].stem.out_channels == 3


FILES = {
    "blocks.py": "import deeper\n",
    "deeper.py": "",
    "parts/__init__.py": "from .inner import One\n",
    "parts/inner.py": "class One: ...\n",
    "loose/sub.py": "W = 1\n",  # of a folder without __init__.py
    "net.py": """
import torch, blocks, yaml
from dataclasses import dataclass
from loose.sub import W
from parts import One


@dataclass
class Sizes:
    width: int = W


def make(shape, classes): ...
""",
}


@pytest.mark.parametrize("changed", ["deeper.py", "parts/inner.py", "loose/sub.py"])
def test_a_file_is_known_by_all_that_it_imports_from_beside_it(tmp_path, changed):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "yaml.py").write_text("")  # the installed one is imported
    before = own_source.settle({"file": tmp_path / "net.py"})
    (tmp_path / "yaml.py").write_text("# another\n")
    assert own_source.settle({"file": tmp_path / "net.py"}) == before
    (tmp_path / changed).write_text(FILES[changed] + "# another\n")
    assert own_source.settle({"file": tmp_path / "net.py"})["source_hash"] != before["source_hash"]
    with pytest.raises(ValueError, match=r"net\.py: has changed"):
        own_source.function_of({"name": "own", **before})


def test_an_installed_network_is_found_by_its_name_and_known_by_its_package(tmp_path, monkeypatch):
    (tmp_path / "their_nets/models").mkdir(parents=True)
    makes = "from own_networks import ResNet\ndef make(shape, classes): return ResNet(shape, classes, WIDTH)\n"
    files = {"their_nets/sizes.py": "WIDTH = 5\n", "other.py": "", "their_nets/__init__.py": ""}
    files["their_nets/models/net.py"] = f"import other\nfrom their_nets.sizes import WIDTH\n{makes}"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
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
        ({"file": "net.py", "function": "mak"}, ["model.function=mak", "it has make, other, leave, wide"]),
        ({"file": "broken.py"}, ["model.file", "ZeroDivisionError"]),
        ({"file": "net.py", "function": "leave"}, ["model.function=leave", "SystemExit"]),
        ({"file": "net.py", "function": "wide", "double": "no"}, ["model.double='no'", "true or false"]),
        ({"name": "nope"}, ["model=nope"]),
        ({"file": "network.py"}, ["must be a function make"]),
    ],
    ids=str,
)
def test_what_cannot_be_found_or_called_is_one_line(tmp_path, monkeypatch, model, words):
    monkeypatch.chdir(tmp_path)
    leaving = "def leave(shape, classes):\n    raise SystemExit(0)\ndef wide(shape, classes, double=False): ...\n"
    begin = "def make(shape, classes): ...\ndef other(): ...\n"
    Path("net.py").write_text(begin + leaving)
    Path("network.py").write_text("from torch import nn\nmake = nn.Sequential(nn.BatchNorm1d(64))\n")
    Path("broken.py").write_text("1 / 0\n")
    config = config_of("make", **model)
    with pytest.raises(ValueError, match="model") as caught:
        plain(config, SHAPE, CLASSES)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


# --- what cannot be a replicate of a study


class Sound(nn.Module):
    """A network that can be a replicate; those below spoil a part of it."""

    def __init__(self, shape, classes):
        super().__init__()
        self.first, self.bn, self.linear = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, classes)
        self.drop: nn.Module = nn.Dropout(0.2)
        self.calls, self.drawn = 0, torch.randn(64)
        self.register_buffer("memory", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.linear(self.inside(self.drop(self.bn(self.first(x.flatten(1)))))))

    def inside(self, h: Tensor) -> Any:
        return h

    def after(self, logits: Tensor) -> Any:
        return logits


def inside(of: Callable[[Any, Tensor], Any], **parts: Any) -> Callable[..., nn.Module]:
    """A network that computes `of` itself and what its last layer is given, with other parts."""

    def make(shape, classes):
        network = type("Spoilt", (Sound,), {"inside": of})(shape, classes)
        for name, part in parts.items():
            setattr(network, name, part())
        return network

    return make


def after(of: Callable[[Any, Tensor], Any]) -> Callable[..., nn.Module]:
    """A network that returns `of` itself and its logits."""
    return type("Spoilt", (Sound,), {"after": of})


def remembering(network: Sound, h: Tensor) -> Tensor:
    network.memory += 1
    return h


def warming(network: Sound, h: Tensor) -> Tensor:
    network.calls += network.training
    return h * (1 if network.calls < 10 else 3)  # which shows late


def counting(network: Sound, h: Tensor) -> Tensor:
    network.notes["step"] += network.training
    return h * (1 if network.notes["step"] < 100 else 3)


def annealing(network: Sound, h: Tensor) -> Tensor:
    network.notes.tau *= 1 - 1e-4 * network.training  # which shows in no output of a few steps
    return h * network.notes.tau


STEPS = [lambda: torch.tensor(0), lambda: np.zeros(3), lambda: np.int64(0), lambda: torch.zeros(1, 64)]


def stepping(network: Sound, h: Tensor) -> Tensor:
    network.drawn = network.drawn + network.training
    return h * (1 if network.drawn.max() < 100 else 3)


def replacing(network: Sound, h: Tensor) -> Tensor:
    network.first.weight.data = network.first.weight.data.clamp(-0.05, 0.05)
    return h


def asking(network: Sound, h: Tensor) -> Tensor:
    return torch.relu(h) if isinstance(network.bn, nn.BatchNorm1d) else h


def in_place(network: Sound, h: Tensor) -> Tensor:
    h = torch.sigmoid(h)
    squares = h.square()
    h += 1  # whose gradient needs what it was
    return squares


class Frozen(Sound):
    def train(self, mode: bool = True):
        super().train(mode)
        self.bn.eval()
        return self


class Choosing(Sound):
    """Each row goes to an expert, and to some goes none, which has then no gradient."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.experts, self.router = nn.ModuleList(nn.Linear(64, 64) for _ in range(9)), nn.Linear(64, 9)

    def inside(self, h: Tensor) -> Tensor:
        chosen, added = self.router(h).argmax(dim=1), torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            if (own_rows := chosen == number).any():
                added[own_rows] = expert(h[own_rows])
        return h + added


def hooked(shape, classes):
    network = Sound(shape, classes)
    network.linear.weight.register_hook(lambda gradient: gradient.clamp(-9, 9))
    return network


def shadowed(shape, classes):
    network = Sound(shape, classes)
    network.register_buffer("start", network.linear.weight.detach())
    return network


class Keyword(Sound):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.bn(input=self.first(x.flatten(1))))


def tied(shape, classes):
    network = Sound(shape, classes)
    network.other = nn.Linear(64, 64)
    network.other.weight.data = network.first.weight.data
    return network


class Unseeded(Sound):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.linear.weight.data.mul_(float(np.random.default_rng().normal()))


def scaled(network: Sound, h: Tensor) -> Tensor:
    network.drop.p = 0.5
    return network.drop(h)


def checkpointed(network: Sound, h: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(network.first, h, use_reentrant=False)


def flat(*layers: nn.Module) -> Callable[..., nn.Module]:
    return lambda shape, classes: nn.Sequential(nn.Flatten(), *copy.deepcopy(layers))


ONE, BACKBONE = Sound(SHAPE, CLASSES), nn.Linear(64, 64)
REFUSED = {
    "no BatchNorm layer; put": [
        flat(nn.Linear(64, 10)),
        lambda *given: torch.jit.script(flat(nn.Linear(64, 10))(*given)),
    ],
    r"layer 1 is SyncBatchNorm\(.*; must be nn\.BatchNorm1d": [flat(nn.SyncBatchNorm(64))],
    r"1 is .* track_running_stats=False\); must be .* with running statistics": [
        flat(nn.BatchNorm1d(64, track_running_stats=False))
    ],
    "keeps a state of its own .* memory;": [inside(remembering)],
    "keeps a state of its own .* calls;": [inside(warming)],
    r"keeps a state of its own .* notes\.step;": [inside(counting, notes=lambda: {"step": 0})],
    r"keeps a state of its own .* notes\.tau;": [inside(annealing, notes=lambda: types.SimpleNamespace(tau=1.0))],
    "keeps a state of its own .* drawn;": [inside(stepping, drawn=each) for each in STEPS],
    "puts another tensor into a parameter": [inside(replacing)],
    "has a hook on a parameter": [hooked],
    "has a buffer in a parameter's memory": [shadowed],
    "gives a BatchNorm1d its rows by keyword": [Keyword],
    "state of its own .* or draws random numbers": [
        after(lambda network, y: 2 * y if network.training and random.random() < 0.001 else y),
        inside(lambda network, h: nn.functional.dropout(h, 0.5, network.training)),
        after(lambda network, y: y * np.random.rand()),  # noqa: NPY002
    ],
    "mixes rows": [
        inside(lambda _, h: h - 0.01 * h.mean(dim=0)),
        after(lambda _, y: y - y.mean(dim=0)),
        inside(lambda network, h: 0.7 * h + 0.3 * h.flip(0) if network.training else h),
        after(lambda network, y: y / y.std(dim=0) if network.training else y),
        inside(lambda _, h: torch.cat([h[:1], h[1:] + 0.1 * h[:-1]])),  # as of a GRU that takes rows for time
        inside(lambda network, h: torch.cat([h[:1], h[1:] + 0.1 * h[:-1]]) if network.training else h),
    ],
    "asks of what kind a layer is": [inside(asking)],
    r"layer without effect in training, (bn\.0|spare\.0)": [
        Frozen,
        inside(lambda network, h: h, spare=lambda: nn.BatchNorm1d(64)),
    ],
    "other logits than alone: .*register_buffer": [
        inside(lambda network, h: h * network.drawn),
        inside(lambda network, h: h * network.drawn if network.training else h),
    ],
    "other gradients than alone: .*play a part for all rows": [Choosing],
    "in one memory, by .data": [tied],
    "draw them from torch alone": [Unseeded],
    "must make a new one each time": [
        lambda shape, classes: ONE,
        lambda *given: inside(None, first=lambda: BACKBONE)(*given),
    ],
    "must be a function": [ONE],
    r"has lazy layers: .*\(2, 1, 8, 8\)": [flat(nn.BatchNorm1d(64), nn.LazyLinear(10))],
    "in place of its BN layers, which forward": [inside(lambda network, h: h + network.bn.running_mean)],
    "returns int; must be an nn.Module": [lambda shape, classes: 3],
    "ZeroDivisionError": [lambda shape, classes: 1 / 0],
    "returns probabilities": [after(lambda _, y: y.softmax(dim=1))],
    r"returns \(8, 3\) for 8 rows in training; must be logits \(8, 10\)": [after(lambda _, y: y[:, :3])],
    r"returns tuple for 8 rows in training": [after(lambda network, y: (y, y) if network.training else y)],
    r"returns \(10,\) for 1 row in eval mode; must be logits \(1, 10\)": [after(lambda _, y: y.squeeze())],
    r"cannot train in a stack on rows \(1, 8, 8\): RuntimeError": [
        inside(in_place),
        flat(nn.BatchNorm1d(63)),
        lambda *given: Sound(*given).double(),
        lambda *given: Sound(*given).requires_grad_(False),
    ],
    r"cannot train in a stack .* torch\.utils\.checkpoint": [inside(checkpointed)],
}
KEPT = {
    "draws random numbers": [
        inside(scaled),
        inside(lambda network, h: network.rnn(h[:, None])[0][:, 0], rnn=lambda: nn.GRU(64, 64, 2, True, True, 0.5)),
    ],
    "Dropout1d of rows without channels: must be nn.Dropout": [
        inside(lambda network, h: h, drop=lambda: nn.Dropout1d(0.5)),
        flat(nn.BatchNorm1d(64), nn.Dropout1d(0.5), nn.Linear(64, 10)),
    ],
}


@pytest.mark.parametrize(
    ("keep", "words", "make"),
    [
        (keep, words, make)
        for keep, refused in ((False, REFUSED), (True, KEPT))
        for words, makes in refused.items()
        for make in makes
    ],
)
def test_what_cannot_be_a_replicate_is_refused_in_one_line(keep, words, make):
    with pytest.raises(ValueError, match=words) as caught:
        own_check.check(config_of(make, keep_dropout=keep), SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


def test_layers_that_no_arrangement_touches_may_stay_in_eval_mode():
    make = inside(lambda network, h: network.frozen.eval()(h), frozen=lambda: nn.BatchNorm1d(64))
    own_check.check(config_of(make, layers="b*"), SHAPE, CLASSES)
    with pytest.raises(
        ValueError, match=r"layer without effect in training, frozen\.0.* name the others in model\.layers"
    ):
        own_check.check(config_of(make), SHAPE, CLASSES)


@pytest.mark.parametrize(
    "layer", [lambda deep: nn.Tanh() if deep else nn.ReLU(), lambda deep: nn.Linear(64, 64 + deep)]
)
def test_networks_that_differ_between_seeds_are_refused(layer):
    networks = [nn.Sequential(layer(deep), nn.BatchNorm1d(64)) for deep in (0, 1)]
    with pytest.raises(ValueError, match="its layers differ between seeds"):
        StackedNetwork([nn.Sequential(nn.Linear(64, 64), *network) for network in networks], SEEDS, BATCH)
    with pytest.raises(ValueError, match="shorter"):
        StackedNetwork([nn.Sequential(nn.Linear(64, 64), *network) for network in (networks[0], [])], SEEDS, BATCH)


# --- what can


def shared(shape, classes):
    """A Linear layer, a BN layer without weights, dropout and an activation at two places."""
    linear, norm, drop, relu = nn.Linear(64, 64), nn.BatchNorm1d(64, affine=False), nn.Dropout(0.2), nn.ReLU()
    twice = linear, norm, relu, drop
    return nn.Sequential(nn.Flatten(), *twice, *twice, nn.Linear(64, classes))


def sharing(shape, classes):
    """Two layers with one weight."""
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(64), nn.ReLU(), second, nn.Linear(64, classes))


def named(shape, classes):
    """Layers by names of their own, inside another too, activations in place, also where the data come in."""
    inside = nn.Sequential(OrderedDict(fc=nn.Linear(64, 64), bn=nn.BatchNorm1d(64), act=nn.SiLU(inplace=True)))
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), act=nn.ReLU(inplace=True), inside=inside))
    network.add_module("head", nn.Linear(64, classes))
    return network


NUMBERS = itertools.count()


class Keeping(Sound):
    """What is written anew in each pass, or once for all of them, is no state, nor is what each has of its own; and it
    writes into what it is given.
    """

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.last, self.positions, self.size, self.all = None, None, 0, list(self.parameters())
        self.empty, self.number = nn.Parameter(torch.empty(0)), next(NUMBERS)
        self.caches: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5
        self.size = len(x)
        self.caches.setdefault(len(x), torch.zeros(len(x)))
        if self.positions is None:
            self.positions = torch.linspace(0, 1, 64, dtype=x.dtype)
        self.last = super().forward(x.flatten(1).to(self.empty.device) + self.positions)
        return self.last


def deep(shape, classes):
    """Of so many layers, each with the statistics of a few rows, rounding is large."""
    layers = [part for _ in range(40) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, classes))


class Recurrent(nn.Module):
    """An LSTM, which keeps its parameters in a list too, is given single precision, and a scale has to stay above 0."""

    def __init__(self, shape, classes):
        super().__init__()
        self.lstm, self.bn, self.out = nn.LSTM(8, 16, batch_first=True), nn.BatchNorm1d(16), nn.Linear(16, classes)
        self.variance = nn.Parameter(torch.full((16,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, len(x), 16)
        return self.out(self.bn(self.lstm(x[:, 0].float(), (state, state))[0][:, -1] / self.variance.sqrt()))


@pytest.mark.parametrize("make", [deep, Recurrent, shared, *NETWORKS.values()])
def test_an_ordinary_network_is_accepted(make):
    own_check.check(config_of(make, noise="uniform", keep_dropout=True), SHAPE, CLASSES)
    network_of(config_of(make), SHAPE, CLASSES, SEEDS)


@pytest.mark.parametrize("make", [shared, sharing, named, Keeping])
def test_what_is_unusual_and_sound_trains_as_its_plain_copies_do(make):
    own_check.check(config_of(make), SHAPE, CLASSES)
    assert_trains_like_plain([plain(config_of(make), SHAPE, CLASSES, seed) for seed in SEEDS])


def test_layers_in_place_leave_the_data_as_they_are():
    network, x = network_of(config_of(named), SHAPE, CLASSES, SEEDS), rows(BATCH)[0].float()
    before = x.clone()
    network(x)
    assert torch.equal(x, before)


def test_the_arrangement_is_tried_whatever_is_asked_for_first():
    with pytest.raises(ValueError, match="without effect in training"):
        own_check.check(config_of(Frozen, "none", 0.0), SHAPE, CLASSES)


def test_a_network_of_ones_own_is_tried_before_anything_trains(tiny):
    with pytest.raises(ValueError, match="without effect in training"):
        check_fit(tiny() | {"model": config_of(Frozen)["model"]}, 0)


@pytest.mark.parametrize(
    ("layer", "key"),
    [
        *((kind(0.3), "p") for kind in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)),
        (UniformNoise(0.3), "rate"),
        (nn.GRU(4, 4, num_layers=2, dropout=0.3), "dropout"),
        (nn.MultiheadAttention(4, 2, dropout=0.3), "dropout"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_its_own_noise_is_silenced_wherever_pytorch_keeps_the_rate(layer, key):
    own.silence(nn.Sequential(layer))
    assert getattr(layer, key) == 0


def test_what_a_network_of_ones_own_decides_itself_is_refused():
    with pytest.raises(ValueError, match="position=before: leave it out"):
        plain(config_of(ResNet) | {"position": "before"}, SHAPE, CLASSES)
    with pytest.raises(ValueError, match=r"model\.init_gain=2: must be 1"):
        plain(config_of(ResNet, init_gain=2), SHAPE, CLASSES)


# --- what the registry holds


def test_a_layer_with_a_hook_of_its_own_keeps_it():
    layer = nn.Linear(6, 3)
    layer.register_forward_hook(lambda layer, rows, out: 2 * out)
    stacked, x = StackedNetwork([nn.Sequential(layer)] * 2, SEEDS, BATCH), torch.ones(2, BATCH, 6)
    torch.testing.assert_close(stacked(x)[0], layer(x[0]))


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


KINDS = [("branch", "bend"), ("layer", "layer 1.act"), ("function", "shape"), ("frozen", "the frozen weights")]


class Branching(Sound):
    """Each seed has its own branch, or layer, and a name that nothing asks for."""

    def __init__(self, shape, classes, kind: str):
        super().__init__(shape, classes)
        drawn, self.name = bool(torch.rand(()) < 0.5), f"net {next(NUMBERS)}"
        self.register_buffer("scale", torch.rand(64), persistent=False)
        self.bend = drawn and kind == "branch"
        self.shape = torch.tanh if drawn and kind == "function" else torch.relu
        self.first.requires_grad_(not (drawn and kind == "frozen"))
        self.act = nn.Tanh() if drawn and kind == "layer" else nn.ReLU()

    def inside(self, h):
        return torch.tanh(h) if self.bend else self.act(self.shape(h * self.scale))


@pytest.mark.parametrize(("kind", "named"), [*KINDS, ("none", None)])
def test_seeds_of_which_one_has_another_branch_or_layer_are_refused_in_one_line(kind, named):
    config = config_of(lambda shape, classes: Branching(shape, classes, kind))
    if named is None:
        assert network_of(config, SHAPE, CLASSES, range(8)).seeds == [*range(8)]
        return
    with pytest.raises(ValueError, match=rf"^model: at seed \d .*{named}.* than at seed 0: .*branches$"):
        network_of(config, SHAPE, CLASSES, range(8))


def test_a_network_with_tensors_without_elements_is_fitted_to_its_best_epoch(tiny):
    config = tiny("select_epoch=best", "trainer.max_epochs=1") | {
        "model": config_of(Keeping)["model"],
        "engine": "torch",
    }
    assert not fit.fit(config, [0, 1]).replicates["diverged"].any()
