"""A network of one's own: any nn.Module, arranged where its BN layers stand.

`make(shape, classes)` returns a module that maps (batch, *shape) to logits (batch, classes). It stands in a
file, in an installed package (an entry point of the group normdrop.models), or is given from Python.
"""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from normdrop.arrangement import operations
from normdrop.asked import check_arguments
from normdrop.networks.layers import BATCH_NORMS, OPERATIONS, Identity, dropout, seeded
from normdrop.networks.own_source import function_of, told
from normdrop.networks.side_by_side import DROPOUTS, replace

# What a model config of such a network holds beside the arguments of `make`.
KEYS = ("name", "file", "function", "layers", "keep_dropout", "init_gain", "source_hash")


def check_keys(
    given: Mapping[str, Any], functions: Sequence[Callable[..., Any]], model: str, besides: Sequence[str] = ()
) -> None:
    """Raise ValueError for a model's key that the functions that make it do not take, or a value of another kind."""
    takes: list[inspect.Parameter] = []
    for function in functions:
        named = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        takes += [parameter for parameter in named[2:] if parameter.name not in besides]
    check_arguments("model", given, takes, model)


def made(config: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """One replicate's network, arranged: flat rows (batch, features) → logits (batch, classes). Raises ValueError."""
    network = written(config, shape, classes, seed)
    arrange(network, config)
    return nn.Sequential(nn.Unflatten(1, tuple(shape)), network)


def written(config: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """One replicate's network as `make` returns it, its dropout silenced: (batch, *shape) → logits (batch, classes).

    Its weights are those that `make` draws from PyTorch's generator, started from the replicate's own stream:
    the same for each arrangement. Raises ValueError.
    """
    model = config["model"]
    if config["position"] != "after":
        raise ValueError(f"position={config['position']}: leave it out; in this model it is as written there")
    if model["init_gain"] != 1:
        raise ValueError(f"model.init_gain={model['init_gain']}: must be 1: the function draws its weights itself")
    make = function_of(model)
    named = getattr(make, "__name__", type(make).__name__)
    extra = {key: value for key, value in model.items() if key not in KEYS}
    if inspect.Parameter.VAR_KEYWORD not in [each.kind for each in inspect.signature(make).parameters.values()]:
        check_keys(extra, [make], f"model.function={named}")
    with seeded(seed, config["rerun"]):
        try:
            network = make(tuple(shape), classes, **extra)
        except (Exception, SystemExit) as error:
            raise ValueError(f"model.function={named}: {told(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"model.function={named}: returns {type(network).__name__}; must be an nn.Module")
    if any(map(is_lazy, network.parameters())):
        raise ValueError(
            f"model.function={named}: has lazy layers: let it call its network once, on rows {(2, *shape)}"
        )
    network.train()  # whatever mode `make` left it in
    if not model.get("keep_dropout"):
        silence(network)
    return network


def silence(network: nn.Module) -> None:
    """Set the rate of a module's own dropout to 0."""
    for layer in network.modules():
        if isinstance(layer, (*DROPOUTS, nn.AlphaDropout, nn.FeatureAlphaDropout)):
            setattr(layer, "p" if hasattr(layer, "p") else "rate", 0.0)
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0


def arrange(network: nn.Module, config: Mapping[str, Any]) -> list[str]:
    """Put the operations of an arrangement, in its order, where a module's BN layers stand; the names of
    those layers.

    Layers whose names `model.layers` (`layer4.*`) does not match stay. Positions relative to the activation stay as
    they are written. Raises ValueError.
    """
    layers, its = config["model"].get("layers") or "*", operations(config["arrangement"])
    norms: dict[str, Any] = {}
    for name, layer in network.named_modules():
        if type(layer) in BATCH_NORMS and layer.track_running_stats:
            norms[name] = layer
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            must = "must be nn.BatchNorm1d, 2d or 3d itself, with running statistics"
            raise ValueError(f"model: its layer {name} is {layer}; {must}")
    if not norms:
        why = "put nn.BatchNorm1d, 2d or 3d where the operations shall stand: the arrangement goes there"
        raise ValueError(f"model: {type(network).__name__} has no BatchNorm layer; {why}")
    found = fnmatch.filter(norms, layers)
    if not found:
        raise ValueError(f"model.layers={layers}: matches none of the BN layers; they are {', '.join(norms)}")
    for name in found:
        norm, new = norms[name], list[nn.Module]()
        space = BATCH_NORMS.index(type(norm)) + 1
        for operation in its:
            if operation == "bn":
                new.append(copy.deepcopy(norm) if norm in new else norm)
            elif operation == "dropout":
                new.append(dropout(config["noise"], config["rate"], space))
            else:
                new.append(OPERATIONS[operation](norm.num_features, space, norm.eps, norm.momentum or 0.1))
        if {*its} <= {"dropout"}:
            new.append(Identity())
        replace(network, name, new[0] if len(new) == 1 else nn.Sequential(*new))
    return found
