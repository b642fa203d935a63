"""Made vocals: recorded syllables and words turned into sung phrases by the WORLD vocoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyworld
import soundfile
import soxr
from numpy.typing import NDArray

from models.training.voice_effects import produced

RATE_HZ = 44100
FRAME_S = 0.005
SCALES_SEMITONES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
BEATS = (0.25, 0.5, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0, 3.0)
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """A recorded syllable or word as WORLD sees it, frame by frame of 5 ms."""

    f0_hz: Doubles  # (frames,), 0 where unvoiced
    envelope: Doubles  # (frames, bins), power
    aperiodicity: Doubles  # (frames, bins), 0 to 1


class Singers:
    """Recordings by speaker: each folder that holds sound files is taken as one person. Analysed when first used."""

    def __init__(self, roots: list[Path]) -> None:
        files = [path for root in roots for path in sorted(root.rglob("*")) if path.suffix in (".ogg", ".wav", ".flac")]
        self.choirs: dict[Path, list[Path]] = {}
        for path in files:
            self.choirs.setdefault(path.parent, []).append(path)
        self._units: dict[Path, Unit | None] = {}

    def draw_speaker(self, rng: np.random.Generator) -> list[Path]:
        """One person's recordings."""
        folders = sorted(self.choirs)
        return self.choirs[folders[int(rng.integers(len(folders)))]]

    def unit(self, path: Path) -> Unit | None:
        """The analysed recording; None for one that cannot be sung (unreadable, silent, unvoiced or long)."""
        if path not in self._units:
            self._units[path] = _analysed(path)
        return self._units[path]


def _analysed(path: Path) -> Unit | None:
    try:
        sound, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    mono = np.asarray(sound.mean(axis=1))
    loud = np.flatnonzero(np.abs(mono) > 0.03 * max(float(np.abs(mono).max(initial=0)), 1e-3))
    if not len(loud) or not 0.08 * rate_hz < loud[-1] - loud[0] < 2.5 * rate_hz or rate_hz < 22050:
        return None
    margin = int(0.03 * rate_hz)
    mono = mono[max(0, loud[0] - margin) : loud[-1] + margin]
    mono = np.ascontiguousarray(soxr.resample(mono, rate_hz, RATE_HZ)) if rate_hz != RATE_HZ else mono.copy()
    mono *= 0.1 / max(float(np.sqrt(np.mean(mono**2))), 1e-6)
    f0_hz, times_s = pyworld.dio(mono, RATE_HZ, frame_period=FRAME_S * 1000, f0_floor=70, f0_ceil=600)
    f0_hz = pyworld.stonemask(mono, f0_hz, times_s, RATE_HZ)
    if (f0_hz > 0).mean() < 0.25:
        return None
    envelope = pyworld.cheaptrick(mono, f0_hz, times_s, RATE_HZ)
    aperiodicity = pyworld.d4c(mono, f0_hz, times_s, RATE_HZ)
    if rate_hz < 40000:  # nothing was recorded above half that rate: lend the sibilants and breath a plausible top
        top = int(0.46 * rate_hz / RATE_HZ * (2 * (envelope.shape[1] - 1)))
        slope = 10 ** (-0.15 * np.arange(envelope.shape[1] - top) / 20)
        envelope[:, top:] = envelope[:, top - 8 : top].mean(axis=1, keepdims=True) * slope
    return Unit(f0_hz, envelope, aperiodicity)


def _melody(steps: int, scale: tuple[int, ...], low: float, rng: np.random.Generator) -> Doubles:
    """A random walk over the scale, in semitones (MIDI numbers), ``(steps,)``."""
    degree, result = int(rng.integers(0, 8)), []
    for _ in range(steps):
        degree = int(np.clip(degree + rng.choice([-3, -2, -1, -1, 0, 0, 1, 1, 2, 3]), -2, 11))
        result.append(low + 12 * (degree // len(scale)) + scale[degree % len(scale)])
    return np.array(result, dtype=np.float64)


def _sung_pitch_hz(notes: Doubles, lengths: list[int], style: Style, rng: np.random.Generator) -> Doubles:
    """Pitch per frame: notes joined by glides, with vibrato on long ones and a slow drift."""
    frames = sum(lengths)
    semitones = np.repeat(notes, lengths)
    glide = np.hanning(2 * style.glide_frames + 1)
    padded = np.pad(semitones, style.glide_frames, mode="edge")
    semitones = np.convolve(padded, glide / glide.sum(), mode="valid")
    since_onset_s = np.concatenate([np.arange(length) * FRAME_S for length in lengths])
    depth = style.vibrato_semitones * np.clip((since_onset_s - 0.2) / 0.3, 0, 1)
    phase = 2 * np.pi * np.cumsum(style.vibrato_hz * FRAME_S * (1 + 0.05 * rng.standard_normal(frames)))
    drift = np.convolve(rng.standard_normal(frames + 79), np.hanning(80) / 20, mode="valid") * 0.12
    return np.asarray(440 * 2 ** ((semitones + depth * np.sin(phase) + drift - 69) / 12))


@dataclass(frozen=True)
class Style:
    """How one singer sings one take."""

    low_semitones: float
    formant_ratio: float
    vibrato_hz: float
    vibrato_semitones: float
    glide_frames: int
    breath: float
    spoken: bool

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Style:
        """A random style."""
        high = rng.random() < 0.5
        return cls(
            low_semitones=float(rng.integers(52, 62) if high else rng.integers(42, 53)),
            formant_ratio=float(rng.uniform(0.98, 1.2) if high else rng.uniform(0.84, 1.05)),
            vibrato_hz=float(rng.uniform(4.5, 6.8)),
            vibrato_semitones=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])),
            glide_frames=int(rng.integers(3, 18)),
            breath=float(rng.choice([1.0, 1.0, rng.uniform(0.4, 0.9)])),
            spoken=bool(rng.random() < 0.2),
        )


def _warped(frames: Doubles, ratio: float) -> Doubles:
    """Envelopes with all resonances moved by ``ratio``: a longer or shorter throat."""
    bins = np.arange(frames.shape[1])
    position = np.minimum(bins / ratio, bins[-1])
    below = np.minimum(position.astype(int), bins[-1] - 1)
    share = position - below
    return np.asarray(frames[:, below] * (1 - share) + frames[:, below + 1] * share)


def _phrase(
    units: list[Unit], style: Style, scale: tuple[int, ...], beat_s: float, rng: np.random.Generator
) -> tuple[Doubles, Doubles, Doubles]:
    """Pitch (hertz per frame, 0 unvoiced), envelope and aperiodicity of some units sung one after another."""
    pitches, envelopes, aperiodicities = [], [], []
    for unit in units:
        count = len(unit.f0_hz)
        notes = 1 if style.spoken else max(1, round(count * FRAME_S / 0.4))
        lengths = [max(10, int(beat_s * rng.choice(BEATS) / FRAME_S)) for _ in range(notes)]
        frames = int(count * rng.uniform(0.7, 1.1)) if style.spoken else sum(lengths)
        # Consonants keep their length: the voiced frames alone are stretched to fill the notes.
        voiced = unit.f0_hz > 0
        stretch = max(0.3, (frames - (~voiced).sum()) / voiced.sum())
        ends = np.cumsum(np.where(voiced, stretch, 1.0))
        source = np.interp(np.arange(max(frames, int(ends[-1]))), ends, np.arange(count))
        nearest = np.round(source).astype(int)
        if style.spoken:
            middle_hz = 440 * 2 ** ((style.low_semitones + rng.normal(3, 1) - 69) / 12)
            pitch = unit.f0_hz[nearest] * middle_hz / float(np.median(unit.f0_hz[unit.f0_hz > 0]))
        else:
            lengths[-1] += len(nearest) - sum(lengths)
            pitch = _sung_pitch_hz(_melody(notes, scale, style.low_semitones, rng), lengths, style, rng)
        pitches.append(np.where(voiced[nearest], pitch, 0.0))
        loudness = 10 ** (rng.normal(0, 2) / 10)
        envelopes.append(_warped(unit.envelope[nearest], style.formant_ratio) * loudness)
        aperiodicities.append(unit.aperiodicity[nearest] ** style.breath)
    return np.concatenate(pitches), np.concatenate(envelopes), np.concatenate(aperiodicities)


def _synthesized(pitch_hz: Doubles, envelope: Doubles, aperiodicity: Doubles) -> NDArray[np.float32]:
    sound = pyworld.synthesize(
        np.ascontiguousarray(pitch_hz), np.ascontiguousarray(envelope), np.ascontiguousarray(aperiodicity),
        RATE_HZ, FRAME_S * 1000,
    )  # fmt: skip
    return np.asarray(sound, dtype=np.float32)


def sung_take(singers: Singers, duration_s: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """``duration_s`` of one singer's phrases with rests between, produced as on a record, ``(samples, 2)``."""
    style, scale = Style.drawn(rng), SCALES_SEMITONES[int(rng.integers(len(SCALES_SEMITONES)))]
    beat_s = 60 / float(rng.uniform(70, 150))
    voices = int(rng.choice([1, 1, 1, 2, 2, 3]))
    harmony_semitones = [0.0, float(rng.choice([0, 0, 4, 7, 12, -12])), float(rng.choice([0, 3, -5]))]
    length = round(duration_s * RATE_HZ)
    tracks = np.zeros((voices, length), dtype=np.float32)
    units: list[Unit] = []
    for _ in range(20):  # a folder of mere jingles has nothing to sing
        files = singers.draw_speaker(rng)
        chosen = rng.permutation(len(files))[: max(8, int(duration_s / 2))]
        units = [unit for index in chosen if (unit := singers.unit(files[index])) is not None]
        if units:
            break
    start = int(rng.uniform(0, 0.5) * RATE_HZ)
    while units and start < length:
        count = int(rng.integers(2, 9))
        chosen_units = [units[int(rng.integers(len(units)))] for _ in range(count)]
        pitch_hz, envelope, aperiodicity = _phrase(chosen_units, style, scale, beat_s, rng)
        end = start
        for voice in range(voices):
            detune = harmony_semitones[voice] + rng.normal(0, 0.08) * (voice > 0)
            sung = _synthesized(pitch_hz * 2 ** (detune / 12), envelope, aperiodicity)
            late = start + int(rng.uniform(0, 0.03) * RATE_HZ) * (voice > 0)
            part = sung[: max(0, length - late)]
            tracks[voice, late : late + len(part)] += part
            end = max(end, late + len(part))
        start = end + int(beat_s * rng.choice([0.0, 0.5, 1, 2, 3]) * RATE_HZ)
    return produced(tracks, rng)
