"""Training: what is minimised and measured, one fit of many replicates, the variance shift of what it leaves."""

import sys
from pathlib import Path

_DEVICES = ("nvidiactl", "dxg", "kfd")  # NVIDIA's, under Windows' Linux, and AMD's


def on_gpu(accelerator: str) -> bool:
    """Whether a condition trains on a GPU here."""
    # Without a device's file PyTorch, which takes seconds to import, need not be asked.
    if accelerator == "cpu" or (sys.platform == "linux" and not any(Path("/dev", d).exists() for d in _DEVICES)):
        return False
    import torch

    return torch.cuda.is_available()
