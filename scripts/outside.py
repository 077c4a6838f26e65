#!/usr/bin/env python3
"""Train what the authors of MNIST-1D trained (Greydanus & Kobak) and set the test accuracies beside theirs.

Run it with .venv/bin/python scripts/outside.py [SEEDS]; exit status 1 if a mean of the seeds (default: 4) is farther
from their figure than 3 points. With the positions shuffled a network that convolves has to fall.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import normdrop
from normdrop.data.sources import mnist1d

SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
PLAIN = {"arrangement": "none", "rate": 0, "data.val_fraction": 0.025, "batch_size": 100, "trainer.max_epochs": 150}
MLP = {"model.width": 100, "model.residual": True, "optimizer.lr": 0.01}
CNN = {"model": "cnn", "model.channels": [25, 25, 25], "model.kernel": [5, 3, 3]}
CNN |= {"optimizer": "adamw", "optimizer.lr": 0.01, "optimizer.weight_decay": 0.1, "optimizer.schedule": "cosine"}

with tempfile.TemporaryDirectory() as folder:
    rows, path = mnist1d(), Path(folder) / "shuffled.npz"
    x = rows.x[:, np.random.default_rng(0).permutation(rows.x.shape[1])]
    np.savez(path, signal=x[:, None], label=rows.y, part=np.where(rows.test, "test", "train"))
    shuffled = {"data": "table", "data.path": str(path), "data.target": "label", "data.split_column": "part"}
    wrong = 0
    for what, theirs, given in (
        ("MLP", 68, MLP | {"data": "mnist1d"}),
        ("CNN", 94, CNN | {"data": "mnist1d"}),
        ("CNN, positions shuffled", 56, CNN | shuffled),
    ):
        test_acc = 100 * normdrop.train(PLAIN | given, replicates=SEEDS, progress=False).replicates["test_acc"]
        wrong += abs(test_acc.mean() - theirs) > 3
        each = ", ".join(f"{value:.1f}" for value in test_acc)
        print(f"| {what} | {theirs} % | {test_acc.mean():.1f} % ({each}) |", flush=True)
sys.exit(wrong > 0)
