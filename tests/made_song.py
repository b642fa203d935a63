"""A made song: four stems with a beat, a bass line, chords and a voice, in seconds of one's choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demixr_daemon.settings import TARGETS

RATE_HZ = 44100
_BEAT_S = 0.5
_CHORDS_HZ = ((220.0, 277.2, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7), (164.8, 207.7, 246.9))
_TUNE_HZ = (440.0, 493.9, 554.4, 659.3, 587.3, 554.4, 493.9, 440.0)


def made_song(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Target → (samples, 2); their sum stays within full scale."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate_hz)
    t = np.arange(samples) / rate_hz
    beat = (t / _BEAT_S).astype(int)
    since = t - beat * _BEAT_S
    chord = np.array(_CHORDS_HZ)[(beat // 4) % 4]

    noise = rng.standard_normal(samples)
    kick = np.sin(2 * np.pi * (50 * since + 3 * (1 - np.exp(-30 * since)))) * np.exp(-12 * since)
    snare = noise * np.exp(-25 * since) * (beat % 2)
    drums = 0.3 * kick + 0.12 * snare

    root = np.cumsum(chord[:, 0] / 4) / rate_hz
    bass = 0.2 * (np.sin(2 * np.pi * root) + 0.3 * np.sin(4 * np.pi * root)) * np.exp(-2 * since)

    other = sum(0.05 * np.sin(2 * np.pi * np.cumsum(chord[:, k]) / rate_hz) for k in range(3))

    pitch = np.array(_TUNE_HZ)[(beat // 2) % 8] * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    vocals = sum(np.sin(k * phase) * np.exp(-(((k * pitch - 900) / 700) ** 2)) for k in range(1, 9))
    vocals = 0.1 * vocals * (np.sin(np.pi * np.clip(since / _BEAT_S, 0, 1)) ** 0.3)

    pans = dict(zip(TARGETS, (0.5, 0.45, 0.5, 0.65), strict=True))
    mono = dict(zip(TARGETS, (vocals, drums, bass, other), strict=True))
    return {target: (np.array([1 - pans[target], pans[target]]) * 2 * sound[:, None]).astype(np.float32)
            for target, sound in mono.items()}  # fmt: skip


def made_mixture(seconds: float, rate_hz: int = RATE_HZ, channels: int = 2, seed: int = 0) -> NDArray[np.float32]:
    """The made song as a mixture of 1, 2 or more channels, (samples, channels)."""
    stereo: NDArray[np.float32] = np.sum(list(made_song(seconds, rate_hz, seed).values()), axis=0, dtype=np.float32)
    if channels == 1:
        return np.asarray(stereo.mean(axis=1, keepdims=True))
    return np.stack([stereo[:, k % 2] * (1 - 0.1 * (k // 2)) for k in range(channels)], axis=1)
