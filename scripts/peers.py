"""A peer for the benchmark: stacks of plain MLPs trained by JAX, as its documentation shows it.

They start from the weights of the same plain networks and take the same batches; their masks are the library's own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn import functional as F

from normdrop.training import fit as train


class Jax:
    """A stack of plain networks by JAX: vmap over replicates of a scan over steps."""

    def __init__(self, config: Mapping[str, Any], replicates: int):
        data = train.data_of(config, [*range(replicates)])
        data.setup()
        self.networks = []
        for seed in range(replicates):
            torch.manual_seed(seed)
            self.networks.append(train.plain(config, data.shape, data.classes))
        described = []
        for layer in self.networks[0]:
            own = {"BatchNorm1d": ("eps", "momentum"), "Dropout": ("p",)}.get(type(layer).__name__, ())
            described.append((type(layer).__name__, *(getattr(layer, name) for name in own)))
        self._epoch, self._accuracy, jax = _jitted(tuple(described), config["optimizer"]["lr"], config["batch_size"])
        stacked = {name: tensor.detach().numpy() for name, tensor in stack_module_state(self.networks)[0].items()}
        layers = dict.fromkeys(name.split(".")[0] for name in stacked)
        weights = [(stacked[f"{n}.weight"], stacked[f"{n}.bias"]) for n in layers]
        norms = [n for n in layers if type(self.networks[0][int(n)]) is nn.BatchNorm1d]
        zeros = jax.tree.map(lambda w: 0 * w, weights)
        running = [(0 * stacked[f"{n}.bias"], 0 * stacked[f"{n}.bias"] + 1) for n in norms]
        self.state = jax.tree.map(jax.numpy.asarray, (weights, zeros, zeros, running, torch.zeros(replicates).numpy()))
        parts = ([data.parts[name].x, data.parts[name].y] for name in ("train", "val"))
        self.rows, self.val = ([jax.numpy.asarray(part.numpy()) for part in own] for own in parts)
        self.keys = jax.vmap(jax.random.key)(jax.numpy.arange(replicates))

    def epoch(self, order: Tensor) -> Tensor:
        """Take an epoch's batches, rows in this order (replicate, row); the losses (step, replicate)."""
        self.state, self.keys, losses = self._epoch(self.state, self.keys, *self.rows, order.numpy())
        return torch.from_numpy(losses.__array__().copy()).T

    def validate(self) -> float:
        """The mean accuracy on the validation parts."""
        return float(self._accuracy(self.state, *self.val).mean())


@cache
def _jitted(layers: tuple[tuple[Any, ...], ...], lr: float, batch: int) -> tuple[Any, Any, Any]:
    """A stack's epoch and its accuracies, compiled, and the library."""
    one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one_thread}"
    import jax
    from jax import lax, random
    from jax import numpy as jnp

    def forward(weights: Any, running: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        """Logits and the new running statistics; in training, with a key."""
        weight, statistics, new = iter(weights), iter(running), []
        for kind, *own in layers:
            if kind == "Linear":
                w, b = next(weight)
                x = x @ w.T + b
            elif kind == "ReLU":
                x = jax.nn.relu(x)
            elif kind == "BatchNorm1d":
                (eps, momentum), (scale, shift), (mean, var) = own, next(weight), next(statistics)
                if key is not None:
                    kept, (mean, var) = (mean, var), (x.mean(0), x.var(0))
                    unbiased = mean, var * len(x) / (len(x) - 1)
                    new.append(tuple(old + momentum * (now - old) for old, now in zip(kept, unbiased, strict=True)))
                x = (x - mean) * lax.rsqrt(var + eps) * scale + shift
            elif kind == "Dropout" and key is not None:
                key, own_key = random.split(key)
                x = jnp.where(random.bernoulli(own_key, 1 - own[0], x.shape), x / (1 - own[0]), 0)
        return x, new

    def loss(weights: Any, running: Any, x: Any, y: Any, key: Any) -> tuple[Any, Any]:
        logits, new = forward(weights, running, x, key)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), new

    def step(state: Any, x: Any, y: Any, key: Any) -> tuple[Any, Any]:
        weights, m, v, running, t = state
        (value, running), gradients = jax.value_and_grad(loss, has_aux=True)(weights, running, x, y, key)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        size, root = lr / (1 - 0.9**t), (1 - 0.999**t) ** 0.5
        weights = jax.tree.map(lambda w, m, v: w - size * m / (jnp.sqrt(v) / root + 1e-8), weights, m, v)
        return (weights, m, v, running, t), value

    def epoch(state: Any, key: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any, Any]:
        whole = len(order) // batch * batch
        key, last, *_ = keys = random.split(key, 2 + whole // batch)
        scanned = order[:whole].reshape(-1, batch), keys[2:]
        state, losses = lax.scan(lambda s, now: step(s, x[now[0]], y[now[0]], now[1]), state, scanned)
        if whole < len(order):
            state, value = step(state, x[order[whole:]], y[order[whole:]], last)
            losses = jnp.append(losses, value)
        return state, key, losses

    def accuracy(state: Any, x: Any, y: Any) -> Any:
        return (forward(state[0], state[3], x)[0].argmax(1) == y).mean()

    return jax.jit(jax.vmap(epoch)), jax.jit(jax.vmap(accuracy)), jax


def installed() -> bool:
    return importlib.util.find_spec("jax") is not None


def run(config: Mapping[str, Any], replicates: int) -> None:
    stack = Jax(config, replicates)
    for _ in range(config["trainer"]["max_epochs"]):
        stack.epoch(torch.rand(stack.rows[1].shape).argsort(dim=1))
        stack.validate()


def disagreement(config: Mapping[str, Any], steps: int = 3) -> float:
    """How far JAX's losses of the first steps, without dropout, are from those of plain networks, relative to them."""
    stack = Jax(dict(config) | {"rate": 0.0}, 2)
    rows = steps * config["batch_size"]
    true = torch.zeros(steps, 2)
    for replicate, network in enumerate(stack.networks):
        x, y = (torch.from_numpy(part.__array__()[replicate, :rows].copy()) for part in stack.rows)
        optimizer = torch.optim.Adam(network.train().parameters(), config["optimizer"]["lr"])
        for step, batch in enumerate(torch.arange(rows).split(config["batch_size"])):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[batch]), y[batch].long())
            loss.backward()
            optimizer.step()
            true[step, replicate] = loss.detach()
    losses = stack.epoch(torch.arange(rows).expand(2, -1))
    return float(((losses - true) / true).abs().max())
