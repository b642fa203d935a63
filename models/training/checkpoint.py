"""Training state on disk, and the moving average of the weights that is exported."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.training.joint import JointNetworks
from models.training.songs import TARGETS

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """How far a training run is."""

    step: int = 0
    elapsed_s: float = 0.0


class Average:
    """Exponential moving average of a module's weights and statistics; it generalises better than the last weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards ``module``; early steps weigh more, so that the random start is soon forgotten."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, share)
            else:
                self.values[name].copy_(value)


def save(folder: Path, nets: JointNetworks, average: Average, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write ``<folder>/checkpoint.pt`` so that a reader finds the old state or the new one, never half of it."""
    state = {
        "hidden_size": nets.hidden_size,
        "tied": nets.tied,
        "weights": nets.state_dict(),
        "average": average.values,
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "elapsed_s": progress.elapsed_s,
    }
    temporary = folder / f"{CHECKPOINT}.new"
    torch.save(state, temporary)
    temporary.replace(folder / CHECKPOINT)


def load(path: Path) -> dict[str, Any]:
    """The state :func:`save` wrote, on the CPU."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def restored(state: dict[str, Any], kind: str) -> JointNetworks:
    """The networks of a checkpoint; ``kind`` is ``weights`` or ``average``."""
    weights: dict[str, torch.Tensor] = state[kind]
    bins = np.zeros(weights[f"nets.{TARGETS[0]}.output_mean"].shape[0], dtype=np.float32)
    nets = JointNetworks(state["hidden_size"], bins, bins + 1)
    if not state["tied"]:
        nets.untie()
    nets.load_state_dict(weights)
    return nets


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them to the kernel.

    A step allocates and frees hundreds of megabytes; fetching them page by page anew doubles its time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(top_pad, 1 << 28)
        libc.mallopt(arena_max, 1)
