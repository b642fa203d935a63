"""Stems in memory: every song folder under some roots, decoded once to 16-bit samples and normalised in level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE_HZ = 44100
TARGETS = ("vocals", "drums", "bass", "other")
ACCOMPANIMENT = "accompaniment"  # drums, bass and other in one file: a record without vocals
FILES = (*TARGETS, ACCOMPANIMENT)
SUFFIXES = (".wav", ".flac", ".ogg")
BLOCK_SAMPLES = RATE_HZ // 10
SILENCE_DB = -60.0


@dataclass(frozen=True)
class Stem:
    """One target of one song, or its accompaniment."""

    root: str
    song: str
    target: str
    samples: NDArray[np.int16]  # (samples, 2)
    level: float  # RMS of the blocks of 0.1 s that sound, in full scale; 0 when none does

    def crop(self, start: int, length: int) -> NDArray[np.float32]:
        """``length`` samples from ``start``, ``(length, 2)``, full scale 1; zeros past the end."""
        part = self.samples[start : start + length].astype(np.float32) / 32768
        return np.pad(part, ((0, length - len(part)), (0, 0)))


@dataclass
class Song:
    """The stems of one folder. ``whole`` songs have all four files; others serve for random mixtures only."""

    root: str
    name: str
    stems: dict[str, Stem]

    @property
    def whole(self) -> bool:
        """All four files are there, so that their sum is a mixture somebody made."""
        return all(target in self.stems for target in TARGETS)

    @property
    def bass_in_other(self) -> bool:
        """The bass file is silent: most likely the low notes sit in ``other``, and are cut off there."""
        return "bass" in self.stems and self.stems["bass"].level == 0.0


def stem_file(song: Path, target: str) -> Path | None:
    """The file of ``target`` in a song folder, None where there is none."""
    return next((path for suffix in SUFFIXES if (path := song / f"{target}{suffix}").exists()), None)


def read_stereo(path: Path) -> NDArray[np.float32]:
    """The file's samples at 44.1 kHz, ``(samples, 2)``, full scale 1."""
    sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    if rate_hz != RATE_HZ:
        sound = soxr.resample(sound, rate_hz, RATE_HZ)
    return np.asarray(sound[:, [0, 0]] if sound.shape[1] == 1 else sound[:, :2], dtype=np.float32)


def _sounding_level(sound: NDArray[np.float32]) -> float:
    """RMS over the blocks that are within 30 dB of the loudest one, so that rests do not count."""
    blocks = sound[: len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES * 2)
    powers = np.mean(np.square(blocks), axis=1)
    if not len(powers) or powers.max() < 10 ** (SILENCE_DB / 10):
        return 0.0
    return float(np.sqrt(np.mean(powers[powers > powers.max() * 1e-3])))


def song_folders(root: Path) -> list[Path]:
    """The folders under ``root`` that hold at least one of :data:`FILES`, sorted; those being made start with a dot."""
    folders = (path for path in root.rglob("*") if path.is_dir() and not path.relative_to(root).parts[0].startswith("."))
    return sorted(path for path in folders if any(stem_file(path, target) for target in FILES))


class Library:
    """Every song under ``roots`` but the held-out ones; :meth:`rescan` picks up folders that came later."""

    def __init__(self, roots: list[Path], held_out: list[str]) -> None:
        self.roots = roots
        self.held_out = set(held_out)
        self.songs: dict[Path, Song] = {}
        self._draws: dict[str, tuple[list[Stem], NDArray[np.float64]]] = {}
        self.rescan()

    def rescan(self) -> int:
        """Decode the folders not seen before; their number."""
        new = 0
        for root in self.roots:
            for folder in song_folders(root):
                if folder in self.songs or folder.name in self.held_out:
                    continue
                stems = {}
                for target in FILES:
                    path = stem_file(folder, target)
                    if path is not None:
                        sound = read_stereo(path)
                        pcm = np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16)
                        stems[target] = Stem(str(root), folder.name, target, pcm, _sounding_level(sound))
                self.songs[folder] = Song(str(root), folder.name, stems)
                new += 1
        if new:
            self._draws = {target: self._draw_weights(target) for target in FILES}
        return new

    def _draw_weights(self, target: str) -> tuple[list[Stem], NDArray[np.float64]]:
        """The sounding stems of ``target`` and each one's probability.

        A root weighs the square root of its length: made data outlasts real songs, but should not drown them.
        """
        stems = [song.stems[target] for song in self.songs.values() if target in song.stems]
        stems = [stem for stem in stems if stem.level > 0]
        lengths = np.array([len(stem.samples) for stem in stems], dtype=np.float64)
        weights = np.zeros(len(stems))
        for root in {stem.root for stem in stems}:
            inside = np.array([stem.root == root for stem in stems])
            weights[inside] = lengths[inside] / np.sqrt(lengths[inside].sum())
        return stems, weights / max(weights.sum(), 1e-9)

    def draw(self, target: str, rng: np.random.Generator) -> Stem | None:
        """A random stem of ``target``; None when no song has one."""
        stems, weights = self._draws.get(target, ([], np.zeros(0)))
        return stems[int(rng.choice(len(stems), p=weights))] if stems else None

    def has(self, target: str) -> bool:
        """Whether there is a stem of ``target`` to draw."""
        return bool(self._draws.get(target, ([],))[0])

    def draw_whole(self, rng: np.random.Generator) -> Song | None:
        """A random song that has all four stems; None when there is none."""
        whole = [song for song in self.songs.values() if song.whole]
        return whole[int(rng.integers(len(whole)))] if whole else None

    def song_of(self, stem: Stem) -> Song:
        """The song that ``stem`` belongs to."""
        return next(song for song in self.songs.values() if song.stems.get(stem.target) is stem)

    def minutes(self) -> dict[str, float]:
        """Minutes of sounding stems per file."""
        return {t: sum(len(s.samples) for s in self._draws[t][0]) / RATE_HZ / 60 if self._draws else 0 for t in FILES}
