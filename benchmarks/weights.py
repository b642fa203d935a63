"""Untrained weights of the published models' true shapes: as fast, as large, and as deaf as stone."""

from __future__ import annotations

from pathlib import Path

import torch

from demixr_daemon.separation import openunmix
from demixr_daemon.settings import TARGETS

HIDDEN_SIZES = {"umxhq": 512, "umxl": 1024}
_MAX_BIN = 1487  # 16 kHz, as both were published


def random_weights(folder: Path, hidden_size: int) -> Path:
    """Write a folder of weights, the same each time."""
    folder.mkdir()
    torch.manual_seed(0)
    for target in TARGETS:
        torch.save(openunmix.network(hidden_size, max_bin=_MAX_BIN).state_dict(), folder / f"{target}.pth")
    return folder
