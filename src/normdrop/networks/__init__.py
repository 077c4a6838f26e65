"""Networks: plain `nn.Sequential`s by name, and N of them as one."""

from collections.abc import Callable

from torch import nn

from normdrop.networks.cnn import cnn
from normdrop.networks.mlp import mlp

# A model is a function of the shape of a row, of the classes, of the arrangement, and of the keys of its own config.
MODELS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}
