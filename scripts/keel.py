#!/usr/bin/env python3
"""Train two replicates for one epoch on each of the 43 tables of the KEEL repository, one line each: rows, features,
classes, seconds. Run it with .venv/bin/python scripts/keel.py [NAME …]; exit status 1 if one of them does not train.
"""

import sys
import time

import numpy as np

import normdrop
from normdrop.data.sources import keel, keel_files

SHORT = ("replicates=2", "trainer.max_epochs=1", "model.width=32")

failed = 0
for name in sys.argv[1:] or keel_files():
    start, line = time.perf_counter(), f"{name:16}"
    try:
        rows = keel(name)
        line += f" {rows.x.shape[0]:6} rows {rows.x.shape[1]:4} features {len(rows.classes):3} classes"
        trained = normdrop.train("data=keel", f"data.dataset={name}", *SHORT).replicates
        if not np.isfinite(trained["test_nll"]).all():
            raise ValueError("the loss is not finite")
        line += f"  {time.perf_counter() - start:5.1f} s"
    except ValueError as error:
        failed += 1
        line += f"  {error}"
    print(line, flush=True)
sys.exit(failed > 0)
