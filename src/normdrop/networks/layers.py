"""The plain layers that a config can name, by their names."""

from torch import Tensor, nn

from normdrop import arrangement

ACTIVATIONS: dict[str, type[nn.Module]] = {name: getattr(nn, layer) for name, layer in arrangement.ACTIVATIONS.items()}


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
