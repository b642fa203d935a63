"""What sets records apart from soundfonts: random speed, distortion, room, noise, width, balance and equalisation.

Without these the networks learn the recordings instead of the instruments: clean and still is "other", alive is "vocals".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from demixr_daemon.separation.stft import BINS, N_FFT
from models.training.songs import ACCOMPANIMENT, RATE_HZ

EQ_HZ = (30, 90, 250, 600, 1500, 3500, 8000, 16000)
EQ_SPREAD_DB = 4.0
BASS_TILT_DB = (-1.0, 5.0)  # an octave from the first of these to the second: amplifiers and engineers make basses growl
BASS_TILT_HZ = (90.0, 900.0)
BASS_PIVOT_HZ = 150.0
WOBBLE_SHARES = {"vocals": 0.1, "drums": 0.0, "bass": 0.15, "other": 0.35, ACCOMPANIMENT: 0.0}
SHARES = {  # of the crops of a target that get an effect
    "distortion": {"vocals": 0.2, "drums": 0.3, "bass": 0.4, "other": 0.4, ACCOMPANIMENT: 0.1},
    "width": {"vocals": 0.1, "drums": 0.0, "bass": 0.05, "other": 0.3, ACCOMPANIMENT: 0.0},
    "room": {"vocals": 0.1, "drums": 0.15, "bass": 0.05, "other": 0.25, ACCOMPANIMENT: 0.05},
    "noise": {"vocals": 0.2, "drums": 0.2, "bass": 0.4, "other": 0.4, ACCOMPANIMENT: 0.1},
}
Sound = NDArray[np.float32]


def at_speed(sound: Sound, length: int, wobble_share: float, rng: np.random.Generator) -> Sound:
    """``sound`` ``(samples, 2)`` played to last ``length`` samples, with the probability ``wobble_share`` with a vibrato.

    Linear interpolation is good enough for learning.
    """
    wobbles = rng.random() < wobble_share
    if len(sound) == length and not wobbles:
        return sound
    positions = np.linspace(0, len(sound) - 1, length)
    if wobbles:
        rate_hz, depth = rng.uniform(3, 7), 2 ** (rng.uniform(5, 50) / 1200) - 1
        swing_samples = depth * RATE_HZ / (2 * np.pi * rate_hz)
        positions += swing_samples * np.sin(2 * np.pi * rate_hz / RATE_HZ * np.arange(length) + rng.uniform(0, 6))
    known = np.arange(len(sound))
    return np.stack([np.interp(positions, known, sound[:, channel]) for channel in (0, 1)], axis=1).astype(np.float32)


def panned(sound: Sound, rng: np.random.Generator) -> Sound:
    """``sound`` with random width, balance, side and polarity."""
    middle, side = (sound[:, 0] + sound[:, 1]) / 2, (sound[:, 0] - sound[:, 1]) / 2 * rng.uniform(0.5, 1.3)
    balance = 10 ** (rng.uniform(-2, 2) / 20)
    left, right = (middle + side) * balance, (middle - side) / balance
    if rng.random() < 0.5:
        left, right = right, left
    return np.asarray(np.stack([left, right], axis=1) * rng.choice([-1, 1]), dtype=np.float32)


def _in_room(sound: Sound, rng: np.random.Generator) -> Sound:
    """``sound`` with the echo of a made room: noise that decays by 60 dB in 0.2 to 2 s, on each side its own."""
    decay_s = rng.uniform(0.2, 2.0)
    times_s = np.arange(int(decay_s * RATE_HZ / 2)) / RATE_HZ
    response = rng.standard_normal((len(times_s), 2)).astype(np.float32) * 10 ** (-3 * times_s / decay_s)[:, None]
    size = next_fast_len(len(sound) + len(response), real=True)
    wet = irfft(rfft(sound, size, axis=0) * rfft(response.astype(np.float32), size, axis=0), size, axis=0)[: len(sound)]
    level = 10 ** (rng.uniform(-18, -4) / 20) / max(float(np.sqrt(np.sum(response**2) / 2)), 1e-6)
    return np.asarray(sound + level * wet, dtype=np.float32)


def coloured(sound: Sound, target: str, rng: np.random.Generator) -> Sound:
    """``sound`` with each effect of :data:`SHARES` at its share, at its own RMS, and panned."""
    power = float(np.mean(np.square(sound)))
    if power < 1e-10:
        return sound
    applied = {effect for effect, shares in SHARES.items() if rng.random() < shares[target]}
    if "distortion" in applied:
        sound = np.tanh(np.float32(np.exp(rng.uniform(0, 3)) / float(np.abs(sound).max())) * sound)
    if "room" in applied:
        sound = _in_room(sound, rng)
    sound = sound * np.float32(np.sqrt(power / float(np.mean(np.square(sound)))))
    if "width" in applied:
        delay = int(rng.uniform(0.004, 0.03) * RATE_HZ)
        sound = np.stack([sound[:, 0], np.pad(sound[:, 1], (delay, 0))[: len(sound)]], axis=1)
    if "noise" in applied:
        level = np.float32(np.sqrt(power) * 10 ** (rng.uniform(-60, -30) / 20))
        sound = sound + level * rng.standard_normal(sound.shape, dtype=np.float32)
    return panned(sound, rng)


def eq_curve(target: str, low_cut_hz: float, rng: np.random.Generator) -> Sound:
    """A random smooth gain per bin, ``(BINS,)``, with a cut of 36 dB an octave below ``low_cut_hz`` (0 for none)."""
    bins_hz = np.maximum(np.arange(BINS) * RATE_HZ / N_FFT, EQ_HZ[0])
    gains_db = np.interp(np.log(bins_hz), np.log(EQ_HZ), rng.normal(0, EQ_SPREAD_DB, len(EQ_HZ)))
    if target == "bass":
        gains_db += rng.uniform(*BASS_TILT_DB) * np.log2(np.clip(bins_hz, *BASS_TILT_HZ) / BASS_PIVOT_HZ)
    gains_db -= 10 * np.log10(1 + (low_cut_hz / bins_hz) ** 12)
    return np.asarray(10 ** (gains_db / 20), dtype=np.float32)
