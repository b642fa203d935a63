"""Training batches: random mixtures of stems at random levels, as magnitudes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from demixr_daemon.separation.stft import BINS, HOP_SAMPLES, N_FFT
from models.training.colouring import WOBBLE_SHARES, Sound, at_speed, coloured, eq_curve, panned
from models.training.songs import ACCOMPANIMENT, FILES, TARGETS, Library, Song, Stem

SPEEDS = (0.84, 0.89, 0.94, 1.0, 1.0, 1.0, 1.06, 1.12, 1.19)  # three semitones down to three up
PRESENCE = {"vocals": 0.92, "drums": 0.9, "bass": 0.88, "other": 0.93}
LEVEL_DB = {"vocals": -2.0, "drums": -0.5, "bass": 0.0, "other": 0.0, ACCOMPANIMENT: 4.0}
LEVEL_SPREAD_DB = 3.5
MASTER_DB = (-12.0, 5.0)
WHOLE_SHARE = 0.2  # share of draws that are a song's own four stems at one moment
RECORD_SHARE = 0.4  # and that are vocals over a record without any, where there are such
VOCALS_CUT_HZ = (70.0, 160.0)  # every record has its vocals cut somewhere there
BASS_CUT_HZ = (500.0, 900.0)  # for ``other`` of songs whose bass sits there


@dataclass(frozen=True)
class Batch:
    """Mixtures, and the magnitudes to learn.

    The networks hear every frame, but are judged at some only: neighbours say nearly the same, and the output layers with
    the loss are most of the cost of a step.
    """

    mixture: torch.Tensor  # (batch, 2, BINS, frames)
    judged: slice  # the frames of ``targets``
    targets: dict[str, torch.Tensor]  # (batch, 2, BINS, judged frames)
    records: torch.Tensor  # (batch,), bool: of these only the vocals are known

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        targets = {name: value.to(device) for name, value in self.targets.items()}
        return Batch(self.mixture.to(device), self.judged, targets, self.records.to(device))


@dataclass(frozen=True)
class Part:
    """One target of one mixture, or its accompaniment."""

    sound: Sound  # (samples, 2)
    low_cut_hz: float


def _low_cut_hz(target: str, bass_in_other: bool, rng: np.random.Generator) -> float:
    if target == "vocals":
        return float(rng.uniform(*VOCALS_CUT_HZ))
    return float(rng.uniform(*BASS_CUT_HZ)) if target == "other" and bass_in_other else 0.0


def _stem_crop(stem: Stem, length: int, rng: np.random.Generator) -> Sound:
    """A random part of a stem that sounds, where three draws find one, at the level 0.1 RMS on average."""
    source_length = int(length * rng.choice(SPEEDS))
    crop = np.zeros((source_length, 2), dtype=np.float32)
    for _ in range(3):
        crop = stem.crop(int(rng.integers(0, max(1, len(stem.samples) - source_length))), source_length)
        if float(np.sqrt(np.mean(np.square(crop)))) > 0.2 * stem.level:
            break
    sound = at_speed(crop, length, WOBBLE_SHARES[stem.target], rng) * np.float32(0.1 / stem.level)
    return coloured(sound, stem.target, rng)


def _random_parts(library: Library, length: int, targets: tuple[str, ...], rng: np.random.Generator) -> dict[str, Part]:
    """Stems of unrelated songs, by target."""
    parts = {}
    for target in targets:
        stem = library.draw(target, rng) if rng.random() < PRESENCE.get(target, 1.0) else None
        if stem is None:
            continue
        gain = 10 ** (rng.normal(LEVEL_DB[target], LEVEL_SPREAD_DB) / 20)
        sound = _stem_crop(stem, length, rng) * gain
        if target == "vocals" and rng.random() < 0.15:  # a second voice, as choruses and doublings have
            second = library.draw(target, rng)
            if second is not None:
                sound = sound + _stem_crop(second, length, rng) * gain * rng.uniform(0.3, 1)
        parts[target] = Part(sound, _low_cut_hz(target, library.song_of(stem).bass_in_other, rng))
    return parts


def _whole_parts(song: Song, length: int, rng: np.random.Generator) -> dict[str, Part]:
    """One moment of a song, its balance shaken a little."""
    source_length = int(length * rng.choice(SPEEDS))
    stems = {target: stem for target, stem in song.stems.items() if target in TARGETS}
    samples = min(len(stem.samples) for stem in stems.values())
    start = int(rng.integers(0, max(1, samples - source_length)))
    level = np.sqrt(sum(stem.level**2 for stem in stems.values()))
    parts = {}
    for target, stem in stems.items():
        gain = 10 ** (rng.normal(0, 2) / 20) * 0.2 / max(level, 1e-6)
        sound = at_speed(stem.crop(start, source_length), length, 0.0, rng) * gain
        parts[target] = Part(panned(sound, rng), _low_cut_hz(target, song.bass_in_other, rng))
    return parts


def _magnitude(spectra: torch.Tensor) -> torch.Tensor:
    """``spectra.abs()``, several times as fast on a CPU."""
    parts = torch.view_as_real(spectra)
    return (parts[..., 0].square() + parts[..., 1].square()).sqrt_()


@dataclass(frozen=True)
class Sources:
    """The parts of a batch of mixtures, per target; the accompaniment counts as one."""

    spectra: dict[str, torch.Tensor]  # (batch, 2, BINS, frames), complex
    records: NDArray[np.bool_]  # (batch,): vocals over an accompaniment
    judged: slice
    magnitudes: dict[str, torch.Tensor]  # (batch, 2, BINS, judged frames)

    def mixed(self, rng: np.random.Generator, shuffled: bool) -> Batch:
        """The batch as drawn, or ``shuffled``: the same parts in other company and at other levels.

        Drawing parts and transforming them costs more than a training step, mixing them again a small part of that.
        """
        size = len(self.records)
        mixture = torch.zeros_like(self.spectra[TARGETS[0]])
        master = 10 ** (rng.uniform(*MASTER_DB, size) / 20)
        targets = {}
        for target in self.spectra:
            order = np.arange(size)
            if shuffled:  # records stay records
                for group in [order] if target == "vocals" else [order[self.records], order[~self.records]]:
                    order[group] = rng.permutation(group)
            gains = master * 10 ** (rng.normal(0, 3, size) / 20) if shuffled else master
            by_item = torch.from_numpy(gains).float().view(size, 1, 1, 1)
            mixture += self.spectra[target][torch.from_numpy(order)] * by_item
            if target in self.magnitudes:
                targets[target] = self.magnitudes[target][torch.from_numpy(order)] * by_item
        return Batch(_magnitude(mixture), self.judged, targets, torch.from_numpy(self.records))


def draw_sources(library: Library, size: int, frames: int, judge_every: int, rng: np.random.Generator) -> Sources:
    """Parts for ``size`` mixtures of ``frames`` STFT frames (hop 1024 at 44.1 kHz), one in ``judge_every`` judged.

    Equalisers act on the spectra, which costs less than filtering the samples.
    """
    length = (frames - 1) * HOP_SAMPLES
    files = FILES if library.has(ACCOMPANIMENT) else TARGETS
    sounds = {target: np.zeros((size, 2, length), dtype=np.float32) for target in files}
    curves = {target: np.ones((size, 1, BINS, 1), dtype=np.float32) for target in files}
    records = np.zeros(size, dtype=bool)
    for item in range(size):
        kind = rng.random()
        song = library.draw_whole(rng) if kind < WHOLE_SHARE else None
        records[item] = files is FILES and kind > 1 - RECORD_SHARE
        targets = ("vocals", ACCOMPANIMENT) if records[item] else TARGETS
        parts = _whole_parts(song, length, rng) if song else _random_parts(library, length, targets, rng)
        for target, part in parts.items():
            sounds[target][item] = part.sound.T
            curves[target][item, 0, :, 0] = eq_curve(target, part.low_cut_hz, rng)
    window = torch.hann_window(N_FFT)
    spectra = {}
    for target in files:
        flat = torch.from_numpy(sounds[target]).reshape(size * 2, length)
        plain = torch.stft(flat, N_FFT, HOP_SAMPLES, window=window, center=True, return_complex=True)
        spectra[target] = plain.reshape(size, 2, BINS, frames).mul_(torch.from_numpy(curves[target]))
    judged = slice(int(rng.integers(judge_every)), None, judge_every)
    return Sources(spectra, records, judged, {target: _magnitude(spectra[target][..., judged]) for target in TARGETS})
