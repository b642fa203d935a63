"""How near the stems of one song are to the true ones, in dB."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from demixr_daemon.errors import SettingError
from demixr_daemon.separation.decode import Block

_TINY = 1e-20
_STEPS = 32768.0  # of 16 bits


@dataclass(frozen=True)
class BssEval:
    """BSS Eval v4 of one target of one song: medians over its frames of one second."""

    sdr_db: float
    isr_db: float
    sir_db: float
    sar_db: float


@dataclass(frozen=True)
class Score:
    """One target of one song."""

    sdr_db: float
    """Plain: 10 log10 of the reference's energy over that of the difference, over the whole song."""
    bss: BssEval | None = None


def sdr_db(reference: Block, estimate: Block) -> float:
    """Plain signal-to-distortion ratio: 10 log10 (sum s² / sum (s - e)²)."""
    noise = np.subtract(reference, estimate, dtype=np.float64)
    return level_db(reference) - level_db(noise)


def level_db(audio: Any) -> float:
    """The energy of all samples together, in dB."""
    return 10 * float(np.log10(np.sum(np.square(audio, dtype=np.float64)) + _TINY))


def score(references: Mapping[str, Block], estimates: Mapping[str, Block], rate_hz: int, *, bss: bool) -> dict[str, Score]:
    """The scores of the targets that both have; (samples, 2) each.

    :param bss: BSS Eval too, which takes some minutes and gigabytes for a song.
    :raises SettingError: ``bss`` without museval.
    """
    targets = [target for target in references if target in estimates]
    evals = bss_eval(references, {target: estimates[target] for target in targets}, rate_hz) if bss else {}
    return {target: Score(sdr_db(references[target], estimates[target]), evals.get(target)) for target in targets}


def bss_eval(references: Mapping[str, Block], estimates: Mapping[str, Block], rate_hz: int) -> dict[str, BssEval]:
    """BSS Eval v4 as museval computes it for MUSDB: one distortion filter a song, frames of one second.

    References get the noise floor of 16-bit files, -98 dB, and each channel its own: where they hold nothing at all above the
    cut-off of a lossy codec, or twice the same in a mono stem, the filters are not determined, and museval's SIR and SAR come
    out tens of dB wrong. Silence stays silent.

    What is no estimate, or an empty one, is no target here. Frames in which any of the sources is silent do not count, which is
    museval's rule; where that leaves none, neither is the target.

    :raises SettingError: museval is not installed.
    """
    targets = [target for target, estimate in estimates.items() if np.any(estimate)]
    if not targets:
        return {}
    metrics = _museval()
    true = np.stack([references[target] for target in targets]).astype(np.float64)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, true.shape)
    true = np.round(true * _STEPS + noise * (true != 0)) / _STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of frames that hold no number
        found = metrics.bss_eval(
            true, np.stack([estimates[target] for target in targets]).astype(np.float64),
            window=rate_hz, hop=rate_hz, compute_permutation=False, framewise_filters=False, bsseval_sources_version=False,
        )[:4]  # fmt: skip
        medians = np.nanmedian(np.stack(found), axis=2)  # (SDR ISR SIR SAR, targets)
    return {target: BssEval(*map(float, medians[:, index])) for index, target in enumerate(targets)
            if not np.isnan(medians[:, index]).any()}  # fmt: skip


def can_bss_eval() -> bool:
    """Whether museval is installed."""
    return importlib.util.find_spec("museval") is not None


@cache
def _museval() -> Any:
    """museval's module of metrics, and not the whole package.

    That imports stempeg, to read files that are not read here, which will not load without ffmpeg on the path
    (https://github.com/faroit/stempeg).
    """
    found = importlib.util.find_spec("museval")
    if found is None or found.origin is None:
        raise SettingError("museval is not installed: pip install 'beets-demix[evaluate]', or ask for plain SDR with --plain")
    spec = importlib.util.spec_from_file_location("museval_metrics", Path(found.origin).with_name("metrics.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
