"""Real music: the four CC0 songs and the real excerpt, through the real library."""

from __future__ import annotations

from pathlib import Path

import mediafile
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from benchmarks.songs import MUSIC, Song, cc0_songs, falcon
from demixr_daemon import stems
from demixr_daemon.separation.decode import open_track
from demixr_daemon.settings import TARGETS
from tests.conftest import Library, encode, read, sdr_db

SECONDS = 20


def excerpt(song: Song, rate_hz: int, channels: int) -> NDArray[np.float32]:
    """Twenty seconds from the middle of a song's mixture."""
    start = 60 * 44100
    audio = song.mixture[start : start + SECONDS * 44100]
    audio = soxr.resample(audio if channels == 2 else audio.mean(axis=1, keepdims=True), 44100, rate_hz)
    return np.asarray(audio / max(1.0, np.abs(audio).max()), np.float32)


@pytest.mark.skipif(not MUSIC.is_dir(), reason="the CC0 songs are not here")
def test_four_songs_come_out_right(tmp_path: Path) -> None:
    library = Library(tmp_path / "library", "  model: demixr-small\n")
    source = tmp_path / "in"
    source.mkdir()
    hydrogen, sodium, potassium, rubidium = (song for song in cc0_songs() if song.name != "francium")
    soundfile.write(source / "hydrogen.mp3", excerpt(hydrogen, 48000, 2), 48000)
    soundfile.write(source / "sodium.flac", excerpt(sodium, 44100, 2), 44100)
    encode(source / "potassium.m4a", excerpt(potassium, 44100, 2), 44100, "aac", "fltp", "ipod")
    soundfile.write(source / "rubidium.wav", excerpt(rubidium, 22050, 1), 22050)
    for path in source.iterdir():
        tags = mediafile.MediaFile(path)
        tags.update({"title": path.stem, "artist": "Software-Entwicklungskit"})
        tags.save()
    assert library.beet("import", "-s", source).returncode == 0
    answer = library.beet("demix")
    assert answer.returncode == 0, answer.stderr
    assert "4 done, 0 skipped, 0 failed" in answer.stderr

    found = library.fields("$path", "stems::vocals")
    assert sorted(Path(path).suffix for path in found) == [".flac", ".m4a", ".mp3", ".wav"]
    for path in map(Path, found):
        track = np.concatenate(list(open_track(path).blocks()))
        made = stems.read(stems.folder_for(path))
        assert made is not None
        parts = [read(made.path(target)) for target in TARGETS]
        assert [part.shape for part in parts] == [track.shape] * 4
        assert np.abs(np.sum(parts, axis=0) - made.gain * track).max() <= 1 / 32768
        assert soundfile.info(made.path("vocals")).samplerate == open_track(path).rate_hz
        assert all(part.std() > 0.001 for part in parts[:2])


def test_the_embedded_model_separates_real_music(tmp_path: Path) -> None:
    """An excerpt it was never trained on: every target is nearer to the truth than the mixture is."""
    library = Library(tmp_path / "library", "  model: demixr-small\n")
    song = falcon()
    soundfile.write(tmp_path / "falcon.wav", song.mixture, 44100)
    assert library.beet("import", "-s", tmp_path / "falcon.wav").returncode == 0
    assert library.beet("demix").returncode == 0
    for target in TARGETS:
        estimate = read(Path(library.fields(f"$stems_{target}")[0]))
        assert sdr_db(song.stems[target], estimate) > sdr_db(song.stems[target], song.mixture) + 3, target
