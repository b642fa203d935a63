"""A small subtractive synthesiser: notes played by detuned saw, pulse or FM voices through low-passes.

Soundfonts know few of the synthesisers that pop records are made with.
"""

from __future__ import annotations

from dataclasses import dataclass

import mido
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter

RATE_HZ = 44100
RELEASE_S = 0.08


@dataclass(frozen=True)
class Patch:
    """One sound of the synthesiser."""

    wave: str  # "saw", "pulse" or "fm"
    detunes_cents: NDArray[np.float64]  # one voice each
    width: float  # of the pulse, or the index of the FM
    dark_hz: float
    bright_hz: float
    sweep_s: float  # how long the bright part lasts
    attack_s: float
    decay_s: float  # to 1/e; long for pads
    spread: float  # 0 mono to 1 wide

    @classmethod
    def drawn(cls, bass: bool, rng: np.random.Generator) -> Patch:
        """A random sound: narrow and dark for basses, else anything from plucks to pads."""
        voices = 1 if bass and rng.random() < 0.6 else int(rng.integers(2, 6))
        pad = not bass and rng.random() < 0.3
        dark_hz = float(np.exp(rng.uniform(np.log(120 if bass else 400), np.log(1200 if bass else 5000))))
        return cls(
            wave=str(rng.choice(["saw", "saw", "pulse", "fm"])),
            detunes_cents=rng.uniform(-1, 1, voices) * rng.uniform(2, 25),
            width=float(rng.uniform(0.1, 0.5)),
            dark_hz=dark_hz,
            bright_hz=min(16000.0, dark_hz * float(rng.uniform(2, 12))),
            sweep_s=float(rng.uniform(0.03, 0.6)),
            attack_s=float(rng.uniform(0.05, 0.4) if pad else rng.uniform(0.001, 0.02)),
            decay_s=10.0 if pad else float(np.exp(rng.uniform(np.log(0.1), np.log(4)))),
            spread=float(rng.uniform(0, 0.2) if bass else rng.uniform(0, 1)),
        )


def _low_passed(sound: NDArray[np.float64], cutoff_hz: float) -> NDArray[np.float64]:
    numerator, denominator = butter(2, min(cutoff_hz, 20000.0), fs=RATE_HZ)
    return np.asarray(lfilter(numerator, denominator, sound, axis=0))


def _note(patch: Patch, pitch_hz: float, length_s: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """One note of ``length_s`` and its release, ``(samples, 2)``."""
    times_s = np.arange(int((length_s + RELEASE_S) * RATE_HZ)) / RATE_HZ
    sound = np.zeros((len(times_s), 2))
    for voice, cents in enumerate(patch.detunes_cents):
        phase = pitch_hz * 2 ** (cents / 1200) * times_s + rng.random()
        if patch.wave == "fm":
            wave = np.sin(2 * np.pi * phase + 8 * patch.width * np.sin(4 * np.pi * phase))
        else:
            ramp = phase % 1
            wave = 2 * ramp - 1 if patch.wave == "saw" else np.where(ramp < patch.width, 1.0, -1.0)
        side = patch.spread * (1 if voice % 2 else -1) * (len(patch.detunes_cents) > 1)
        sound += wave[:, None] * np.array([1 - side, 1 + side])
    sweep = np.exp(-times_s / patch.sweep_s)[:, None]
    sound = _low_passed(sound, patch.dark_hz) + sweep * _low_passed(sound, patch.bright_hz)
    level = np.minimum(1, times_s / patch.attack_s) * np.exp(-times_s / patch.decay_s)
    level *= np.clip((length_s + RELEASE_S - times_s) / RELEASE_S, 0, 1)
    return np.asarray(sound * level[:, None])


def synthesized(midi: mido.MidiFile, bass: bool, rng: np.random.Generator) -> NDArray[np.float32]:
    """The notes of ``midi`` with one random sound per channel, ``(samples, 2)`` at 44.1 kHz."""
    length = int((midi.length + 1) * RATE_HZ)
    result = np.zeros((length, 2))
    patches: dict[int, Patch] = {}
    started: dict[tuple[int, int], tuple[float, int]] = {}
    now_s = 0.0
    for message in midi:
        now_s += message.time
        if message.type not in ("note_on", "note_off"):
            continue
        key = (message.channel, message.note)
        if key in started:
            start_s, velocity = started.pop(key)
            patch = patches.setdefault(message.channel, Patch.drawn(bass, rng))
            pitch_hz = 440 * 2 ** ((message.note - 69) / 12)
            note = _note(patch, pitch_hz, min(now_s - start_s, 8.0), rng) * velocity / 127
            start = int(start_s * RATE_HZ)
            result[start : start + len(note)] += note[: length - start]
        if message.type == "note_on" and message.velocity > 0:
            started[key] = (now_s, message.velocity)
    return np.asarray(result, dtype=np.float32)
