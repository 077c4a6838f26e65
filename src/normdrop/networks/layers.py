"""The plain layers that a config can name, and the hidden block that they make."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from normdrop import arrangement as names

ACTIVATIONS: dict[str, type[nn.Module]] = {name: getattr(nn, layer) for name, layer in names.ACTIVATIONS.items()}


class UniformNoise(nn.Module):
    """x (1 + r) with r ~ U(−rate, rate) for every unit of every row; the identity in eval mode (Li et al.'s Uout)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.new_empty(x.shape).uniform_(-self.rate, self.rate)) if self.training else x


class Residual(nn.Sequential):
    """x + block(x), the block being these layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


# By unit; `channel` is dropout of a CNN alone, in as many dimensions as it has.
NOISES: dict[str, type[nn.Module]] = {"bernoulli": nn.Dropout, "uniform": UniformNoise}
# What stands around weights: batch and layer normalization, and the noise of whole channels.
AROUND: dict[type[nn.Module], tuple[Any, Any, Any]] = {
    nn.Linear: (nn.BatchNorm1d, nn.LayerNorm, None),
    nn.Conv1d: (nn.BatchNorm1d, partial(nn.GroupNorm, 1), nn.Dropout1d),
    nn.Conv2d: (nn.BatchNorm2d, partial(nn.GroupNorm, 1), nn.Dropout2d),
}


def block(
    weights: nn.Linear | nn.Conv1d | nn.Conv2d,
    arrangement: str,
    position: str,
    rate: float,
    noise: str,
    activation: str,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> list[nn.Module]:
    """The layers of one hidden block, from its weights on. Raises ValueError for noise of channels without channels."""
    width = len(weights.weight)
    batch_norm, layer_norm, channel_noise = AROUND[type(weights)]
    dropout = NOISES | {"channel": channel_noise} if channel_noise else NOISES
    if noise not in dropout:
        raise ValueError(f"noise={noise}: an MLP has no channels; use model=cnn, or noise=bernoulli")
    layers = {
        "activation": lambda: ACTIVATIONS[activation](),
        "bn": lambda: batch_norm(width, bn_eps, bn_momentum),
        "ln": lambda: layer_norm(width),
        "dropout": lambda: dropout[noise](rate),
    }
    return [weights, *(layers[name]() for name in names.order(arrangement, position))]
