"""The MLP's shape, its initial weights, and the post's three networks against modules written after the post."""

import pytest
import torch
from torch import nn

from normdrop.networks import MODELS, network_of, plain
from normdrop.networks.mlp import mlp


def names(network: nn.Sequential) -> str:
    return " ".join(type(layer).__name__ for layer in network)


def build(**changes) -> nn.Sequential:
    return mlp(6, 3, **{"arrangement": "bn_dropout", "position": "after", "rate": 0.5, "width": 4} | changes)


class Post(nn.Module):
    """The post's three networks: with dropout, with batch normalization, and with both in this order."""

    def __init__(self, arrangement: str):
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.bn = nn.BatchNorm1d(20) if "bn" in arrangement else nn.Identity()
        self.dropout = nn.Dropout(p=0.5) if "dropout" in arrangement else nn.Identity()
        self.fc2 = nn.Linear(20, 10)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.fc1(x))
        x = self.dropout(self.bn(x))
        return self.relu(self.fc2(x))


def step(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """A training step with the dropout of a known global generator."""
    torch.manual_seed(1)
    network.train().zero_grad()
    nn.functional.cross_entropy(network(x), y).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()


@pytest.mark.parametrize("arrangement", ["dropout", "bn", "bn_dropout"])
def test_model_blog_computes_exactly_what_the_posts_network_computes(arrangement, composed):
    config = composed("model=blog", f"arrangement={arrangement}")
    configured = network_of(config, 10, classes=10, seeds=[0]).replicate(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        post = Post(arrangement)
        x, y = torch.randn(32, 10), torch.randint(10, (32,))
        ours = [layer for layer in configured if list(layer.state_dict())]
        theirs = [layer for layer in (post.fc1, post.bn, post.fc2) if list(layer.state_dict())]
        for own, their in zip(ours, theirs, strict=True):
            their.load_state_dict(own.state_dict())
        for _ in range(3):
            step(configured, x, y)
            step(post, x, y)
            torch.manual_seed(2)
            noisy = configured.train()(x)
            torch.manual_seed(2)
            assert torch.equal(noisy, post.train()(x))
            assert torch.equal(configured.eval()(x), post.eval()(x))


def test_the_posts_networks_are_the_default_of_model_blog_with_data_blog(composed):
    config = composed("model=blog", "data=blog")
    assert (config["rate"], config["position"]) == (0.5, "after")
    assert (config["data"]["features"], config["data"]["classes"]) == (10, 10)


def test_dropout_layers_last_counts_uniform_noise_as_dropout():
    network = build(depth=2, dropout_layers="last", noise="uniform")
    assert names(network) == "Linear ReLU BatchNorm1d Linear ReLU BatchNorm1d UniformNoise Linear"


def test_weights_that_no_initialisation_of_ours_draws_are_the_seeds_too(composed, monkeypatch):
    def lifted(shape, classes, **placed):
        layers = nn.ConvTranspose1d(1, 2, 1), nn.Flatten(), nn.Linear(12, classes)
        return nn.Sequential(nn.Unflatten(1, (1, -1)), *layers)

    monkeypatch.setitem(MODELS, "mlp", lifted)
    config = {**composed(), "model": {"name": "mlp", "init_gain": 1.0}}
    seeds = [(1, 0), (1, 0), (2, 0), (1, 1)]  # and reruns
    drawn = [plain({**config, "rerun": rerun}, (6,), 3, seed)[1].weight for seed, rerun in seeds]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
