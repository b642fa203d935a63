"""What a producer does to a voice: level, saturation, panning of doublings, echo and room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

RATE_HZ = 44100


def _room(rng: np.random.Generator) -> NDArray[np.float64]:
    """A made stereo impulse response ``(samples, 2)``: dull noise that decays by 60 dB in 0.2 to 2.5 s."""
    decay_s = float(rng.uniform(0.2, 2.5))
    times_s = np.arange(int(decay_s * RATE_HZ)) / RATE_HZ
    noise = rng.standard_normal((len(times_s), 2)) * 10 ** (-3 * times_s / decay_s)[:, None]
    smooth = np.hanning(int(rng.integers(4, 40)))
    response = fftconvolve(noise, (smooth / smooth.sum())[:, None], axes=0)
    response = np.pad(response, ((int(rng.uniform(0, 0.03) * RATE_HZ), 0), (0, 0)))
    return np.asarray(response / np.sqrt(np.sum(response**2) / 2))


def produced(tracks: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mono takes ``(voices, samples)`` as one stereo voice ``(samples, 2)`` with a peak of 0.9."""
    peak = max(float(np.abs(tracks).max(initial=0)), 1e-6)
    drive = rng.uniform(0.5, 4)  # compression, roughly
    tracks = np.tanh(drive * tracks / peak) / np.tanh(drive)
    wide = rng.random() < 0.5
    stereo = np.zeros((tracks.shape[1], 2))
    for voice, track in enumerate(tracks):
        side = rng.uniform(0.4, 1) * (1 if voice % 2 else -1) if voice and wide else rng.uniform(-0.15, 0.15)
        gain = 1.0 if voice == 0 else rng.uniform(0.3, 0.8)
        stereo += gain * track[:, None] * np.array([1 - side, 1 + side]) / 2
    dry = stereo.copy()
    if rng.random() < 0.25:
        delay = int(rng.uniform(0.12, 0.5) * RATE_HZ)
        for echo in (1, 2, 3):
            if echo * delay < len(dry):
                stereo[echo * delay :] += dry[: -echo * delay, :: (-1) ** echo] * 0.4**echo * 0.6
    if rng.random() < 0.75:
        wet = 10 ** (rng.uniform(-24, -7) / 20)
        stereo += wet * fftconvolve(dry, _room(rng), axes=0)[: len(dry)]
    return np.asarray(0.9 * stereo / max(float(np.abs(stereo).max(initial=0)), 1e-6), dtype=np.float32)
