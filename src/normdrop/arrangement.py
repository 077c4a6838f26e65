"""The idea: where batch normalization and dropout stand in a hidden block.

A hidden block is a Linear layer, an activation, and the operations of an arrangement in its order. A position says
where the operations stand relative to the activation:

    after   Linear → activation → operations            (the blog's)
    before  Linear → operations → activation
    around  Linear → first → activation → second        (bn_dropout: the classical Linear → BN → ReLU → Dropout)
"""

from torch import Tensor, nn

ARRANGEMENTS = {
    "none": (),
    "dropout": ("dropout",),
    "bn": ("bn",),
    "bn_dropout": ("bn", "dropout"),
    "dropout_bn": ("dropout", "bn"),
}
POSITIONS = ("after", "before", "around")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class UniformNoise(nn.Module):
    """x (1 + r) with r ~ U(−rate, rate) for every unit of every row; the identity in eval mode (Li et al.'s Uout)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.new_empty(x.shape).uniform_(-self.rate, self.rate)) if self.training else x


NOISES: dict[str, type[nn.Module]] = {"bernoulli": nn.Dropout, "uniform": UniformNoise}


def order(arrangement: str, position: str) -> list[str]:
    """The operations of a block after its Linear layer, in order, the activation among them."""
    operations = ARRANGEMENTS[arrangement]
    if position == "after":
        return ["activation", *operations]
    if position == "before":
        return [*operations, "activation"]
    # Around, one operation alone takes the place it has in bn_dropout: BN before the activation, dropout after it.
    first = 0 if arrangement == "dropout" else 1
    return [*operations[:first], "activation", *operations[first:]]


def block(
    fan_in: int,
    width: int,
    arrangement: str,
    position: str,
    rate: float,
    noise: str = "bernoulli",
    activation: str = "relu",
) -> list[nn.Module]:
    """The layers of one hidden block: (batch, fan_in) → (batch, width)."""
    layers = {
        "activation": lambda: ACTIVATIONS[activation](),
        "bn": lambda: nn.BatchNorm1d(width),
        "dropout": lambda: NOISES[noise](rate),
    }
    return [nn.Linear(fan_in, width), *(layers[name]() for name in order(arrangement, position))]


def same_network(arrangement: str, position: str, activation: str = "relu") -> list[tuple[str, str]]:
    """All (arrangement, position) pairs that describe this very network, itself among them, in POSITIONS' order.

    A non-negative factor per unit commutes with a positively homogeneous activation, f(a x) = a f(x) for a ≥ 0: there
    Dropout → ReLU is ReLU → Dropout, so of the six blocks with both operations four are distinct.
    """

    def normal_form(arrangement: str, position: str) -> list[str]:
        names = order(arrangement, position)
        at = names.index("activation")
        if activation in ("relu", "leaky_relu") and names[at - 1 : at] == ["dropout"]:
            names[at - 1 : at + 1] = ["activation", "dropout"]
        return names

    form = normal_form(arrangement, position)
    return [(arrangement, p) for p in POSITIONS if normal_form(arrangement, p) == form]
