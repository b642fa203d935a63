"""Channels and rates: what the track has, and the 44.1 kHz stereo that the networks were trained on."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from demixr_daemon.separation.decode import Block

# ITU-R BS.775-4, table 2: the centre and the surrounds go into both sides, or their own, 3 dB down; no LFE.
_HALF_POWER = 0.5**0.5
_LEFT = {"FL": 1.0, "FC": _HALF_POWER, "BL": _HALF_POWER, "SL": _HALF_POWER, "BC": 0.5, "FLC": _HALF_POWER, "WL": 1.0,
         "DL": 1.0, "TFL": _HALF_POWER, "TBL": _HALF_POWER}  # fmt: skip


def _mirrored(name: str) -> str:
    """The channel on the other side: ``SL`` for ``SR``, ``FLC`` for ``FRC``; the centre ones stay."""
    return name.translate(str.maketrans("LR", "RL")) if name != "LFE" else name


def downmix_matrix(layout: tuple[str, ...]) -> NDArray[np.float32]:
    """Stereo from the named channels, as a matrix (channels, 2): ``stereo = block @ matrix``.

    Each column is scaled so that its weights sum to one at most: full-scale channels cannot overload the mixdown.
    Channels without a known place go into both sides.
    """
    if len(layout) == 1:
        return np.ones((1, 2), np.float32)
    known = {name for left in _LEFT for name in (left, _mirrored(left))} | {"LFE"}
    rows = [(_LEFT.get(name, 0.0), _LEFT.get(_mirrored(name), 0.0)) if name in known else (0.5, 0.5)
            for name in layout]  # fmt: skip
    matrix = np.array(rows, np.float64)
    scaled: NDArray[np.float32] = (matrix / np.maximum(matrix.sum(axis=0), 1.0)).astype(np.float32)
    return scaled


class Resampler:
    """soxr in a stream; a no-op where the rates are equal. Blocks are (samples, channels)."""

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32")

    def __call__(self, block: Block, *, last: bool = False) -> Block:
        if self._stream is None:
            return block
        out: Block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)
        return out
