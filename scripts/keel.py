#!/usr/bin/env python3
"""Train two replicates for one epoch on each of the 43 tables of the KEEL repository, one line each: what it holds, and
seconds. Run it with .venv/bin/python scripts/keel.py [NAME …]; exit status 1 if one of them does not train.
"""

import sys
import time

import numpy as np

import normdrop
from normdrop.data.rows import sentence
from normdrop.data.sources import keel, keel_files

SHORT = ("replicates=2", "trainer.max_epochs=1", "model.width=32")

failed = 0
for name in sys.argv[1:] or keel_files():
    start, line = time.perf_counter(), f"{name:16}"
    try:
        line += sentence(keel(name).facts())
        trained = normdrop.train("data=keel", f"data.dataset={name}", *SHORT).replicates
        if not np.isfinite(trained["test_nll"]).all():
            raise ValueError("the loss is not finite")
        line += f"  {time.perf_counter() - start:.1f} s"
    except ValueError as error:
        failed += 1
        line += f"  {error}"
    print(line, flush=True)
sys.exit(failed > 0)
