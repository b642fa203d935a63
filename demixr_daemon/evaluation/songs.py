"""Songs with their true stems, in folders as MUSDB18-HQ has them: ``<song>/{mixture,vocals,drums,bass,other}.wav``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from demixr_daemon import stems
from demixr_daemon.errors import AudioError, SettingError, shown
from demixr_daemon.separation.decode import Block, Track, open_track
from demixr_daemon.settings import TARGETS

MIXTURE = "mixture"
_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".aif", ".wv", ".ape")
# A stem that never exceeds -60 dB of full scale is one that the song does not have.
_SILENT = 1e-3


@dataclass(frozen=True)
class Song:
    """A mixture and what it is made of, each (samples, 2) at ``rate_hz``."""

    name: str
    rate_hz: int
    mixture: Block
    references: Mapping[str, Block]
    """Target → true stem, of those that can be scored."""
    left_out: Mapping[str, str]
    """Target → why it is not scored: ``missing`` or ``silent``."""

    @property
    def seconds(self) -> float:
        return len(self.mixture) / self.rate_hz

    def excerpt(self, seconds: float) -> Song:
        """So much from its middle; itself where it is no longer. A target that is silent there is left out."""
        samples = round(seconds * self.rate_hz)
        if not seconds or len(self.mixture) <= samples:
            return self
        start = (len(self.mixture) - samples) // 2
        stems = {target: audio[start : start + samples] for target, audio in self.references.items()}
        return song_of(self.name, self.rate_hz, stems, self.mixture[start : start + samples], self.left_out)

    def write_mixture(self, path: Path) -> None:
        """As a WAV of floating point, which loses nothing and never clips."""
        soundfile.write(path, self.mixture, self.rate_hz, subtype="FLOAT")


def song_of(
    name: str, rate_hz: int, stems: Mapping[str, Block], mixture: Block | None = None, left_out: Mapping[str, str] | None = None
) -> Song:
    """A song of stems as long as they may be; without a mixture, their sum is it."""
    samples = len(mixture) if mixture is not None else max(map(len, stems.values()))
    fitted = {target: np.pad(audio[:samples], ((0, max(0, samples - len(audio))), (0, 0))) for target, audio in stems.items()}
    if mixture is None:
        mixture = np.sum(list(fitted.values()), axis=0, dtype=np.float32)
    silent = {target: "silent" for target, audio in fitted.items() if np.abs(audio).max(initial=0.0) < _SILENT}
    references = {target: audio for target, audio in fitted.items() if target not in silent}
    return Song(name, rate_hz, mixture, references, {**(left_out or {}), **silent})


def song_folders(root: Path) -> list[Path]:
    """The folders at or under ``root`` that hold a stem; hidden ones, and stem sets that were made here, are left alone.

    :raises SettingError: there is none.
    """
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir() and not _hidden(path, root))]
    songs = [folder for folder in folders if any(_file(folder, target) for target in TARGETS) and stems.read(folder) is None]
    if not songs:
        raise SettingError(f"{shown(root)}: no songs in it; give a folder with one folder a song, in which "
                           f"{', '.join(f'{target}.wav' for target in TARGETS)} lie")  # fmt: skip
    return songs


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def read(folder: Path) -> Song:
    """The song in a folder.

    :raises AudioError: a file is damaged, or of another rate than the rest, or has more than two channels.
    """
    files = {name: path for name in (MIXTURE, *TARGETS) if (path := _file(folder, name))}
    tracks = {name: open_track(path) for name, path in files.items()}
    rate_hz = next(iter(tracks.values())).rate_hz
    for track in tracks.values():
        if track.rate_hz != rate_hz:
            raise AudioError(f"{shown(track.path)}: is at {track.rate_hz} Hz and the song at {rate_hz}; resample one of them")
    audio = {name: stereo(track) for name, track in tracks.items()}
    mixture = audio.pop(MIXTURE, None)
    missing = {target: "missing" for target in TARGETS if target not in audio}
    if mixture is None and missing:
        raise AudioError(f"{shown(folder)}: without a mixture, all of {', '.join(TARGETS)} are needed to make one; "
                         f"{', '.join(missing)} is missing")  # fmt: skip
    return song_of(folder.name, rate_hz, audio, mixture, missing)


def stereo(track: Track) -> Block:
    """A whole file as (samples, 2).

    :raises AudioError: it is damaged, or has more than two channels.
    """
    if track.channels > 2:
        raise AudioError(f"{shown(track.path)}: has {track.channels} channels; mix it down to two")
    audio = np.concatenate(list(track.blocks()))
    return audio if track.channels == 2 else np.repeat(audio, 2, axis=1)
