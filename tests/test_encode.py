"""Stems on disk add up, whatever the format, and one gain serves all that would clip."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from demixr_daemon.errors import SettingError
from demixr_daemon.separation.decode import open_track
from demixr_daemon.separation.encode import StemWriter
from demixr_daemon.separation.files import FLOAT_BITS
from demixr_daemon.settings import TARGETS
from tests.conftest import read, sdr_db
from tests.made_song import made_song

Stems = dict[str, NDArray[np.float32]]


def write(
    folder: Path, stems: Stems, mixture: NDArray[np.float32], *, fmt: str = "flac", bits: int = 16, rate_hz: int = 44100,
    wanted: tuple[str, ...] = TARGETS,
) -> float:  # fmt: skip
    """Write in blocks of odd sizes; the gain."""
    writer = StemWriter(folder, wanted, fmt=fmt, bits=bits, rate_hz=rate_hz, channels=mixture.shape[1], bitrate_kbps=192)
    edges = [0, 1, 1000, len(mixture) // 2, len(mixture)]
    with writer:
        for start, stop in itertools.pairwise(edges):
            writer.write(mixture[start:stop], {target: audio[start:stop] for target, audio in stems.items()})
        return writer.finish()


@pytest.fixture
def stems() -> Stems:
    return made_song(3.0)


def mix(stems: Stems) -> NDArray[np.float32]:
    return np.sum(list(stems.values()), axis=0, dtype=np.float32)


@pytest.mark.parametrize(("fmt", "bits"), [("flac", 16), ("flac", 24), ("wav", 16), ("wav", 24)])
def test_integers_sum_to_the_mixture_exactly(tmp_path: Path, stems: Stems, fmt: str, bits: int) -> None:
    steps = 1 << (bits - 1)
    mixture = (np.round(mix(stems) * steps) / steps).astype(np.float32)
    assert write(tmp_path, stems, mixture, fmt=fmt, bits=bits) == 1.0
    total = sum(read(tmp_path / f"{target}.{fmt}") for target in TARGETS)
    np.testing.assert_array_equal(total, mixture)
    assert soundfile.info(tmp_path / f"vocals.{fmt}").subtype == f"PCM_{bits}"


def test_a_mixture_between_the_integers_is_met_within_half_a_step(tmp_path: Path, stems: Stems) -> None:
    write(tmp_path, stems, mix(stems))
    total = sum(read(tmp_path / f"{target}.flac") for target in TARGETS)
    assert np.abs(total - mix(stems)).max() <= 0.5001 / 32768


def test_floats_are_as_they_are(tmp_path: Path, stems: Stems) -> None:
    loud = {target: audio * 20 for target, audio in stems.items()}
    assert write(tmp_path, loud, mix(loud), fmt="wav", bits=FLOAT_BITS) == 1.0
    np.testing.assert_array_equal(read(tmp_path / "drums.wav"), loud["drums"])
    np.testing.assert_allclose(sum(read(tmp_path / f"{target}.wav") for target in TARGETS), mix(loud), atol=1e-5)


@pytest.mark.parametrize("loudness", [1.01, 3.0, 40.0])
@pytest.mark.parametrize("bits", [16, 24])
def test_one_gain_for_all_that_would_clip(tmp_path: Path, stems: Stems, loudness: float, bits: int) -> None:
    """Whether one sample is over or most of them."""
    peak = max(float(np.abs(audio).max()) for audio in stems.values())
    loud = {target: audio * loudness / peak for target, audio in stems.items()}
    mixture = mix(loud)
    gain = write(tmp_path, loud, mixture, bits=bits)
    assert 0.99 / loudness < gain < 1 / loudness
    step = 2.0 ** (1 - bits)
    for target in TARGETS:
        np.testing.assert_allclose(read(tmp_path / f"{target}.flac"), loud[target] * gain, atol=4 * step)
    total = sum(read(tmp_path / f"{target}.flac") for target in TARGETS)
    assert np.abs(total - mixture * gain).max() <= step
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{target}.flac" for target in TARGETS)


def test_other_takes_what_the_estimates_leave(tmp_path: Path, stems: Stems) -> None:
    mixture = mix(stems)
    wrong = {target: audio * 0.5 for target, audio in stems.items()}
    write(tmp_path, wrong, mixture)
    expected = mixture - sum(wrong[target] for target in ("vocals", "drums", "bass"))
    np.testing.assert_allclose(read(tmp_path / "other.flac"), expected, atol=2 / 32768)


def test_instrumental_is_the_mixture_less_vocals(tmp_path: Path, stems: Stems) -> None:
    mixture = (np.round(mix(stems) * 32768) / 32768).astype(np.float32)
    write(tmp_path, stems, mixture, wanted=("vocals", "instrumental"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instrumental.flac", "vocals.flac"]
    np.testing.assert_array_equal(read(tmp_path / "vocals.flac") + read(tmp_path / "instrumental.flac"), mixture)


def test_instrumental_shares_the_gain(tmp_path: Path, stems: Stems) -> None:
    loud = {target: audio * 10 for target, audio in stems.items()}
    gain = write(tmp_path, loud, mix(loud), wanted=(*TARGETS, "instrumental"))
    assert gain < 1
    total = read(tmp_path / "vocals.flac") + read(tmp_path / "instrumental.flac")
    np.testing.assert_allclose(total, mix(loud) * gain, atol=2 / 32768)


@pytest.mark.parametrize("fmt", ["mp3", "opus", "m4a"])
@pytest.mark.parametrize("rate_hz", [44100, 48000, 22050])
def test_lossy_formats_keep_time(tmp_path: Path, fmt: str, rate_hz: int) -> None:
    stems = made_song(2.5, rate_hz)
    assert write(tmp_path, stems, mix(stems), fmt=fmt, rate_hz=rate_hz) == 1.0
    track = open_track(tmp_path / f"other.{fmt}")
    audio = np.concatenate(list(track.blocks()))
    length = round(2.5 * track.rate_hz)
    assert track.rate_hz >= rate_hz  # Opus knows five rates, 44100 is none of them
    assert length <= len(audio) < length + 1024  # an AAC frame may be filled up
    if track.rate_hz == rate_hz:
        assert sdr_db(stems["other"], audio[:length]) > 10


@pytest.mark.parametrize("channels", [1, 6, 8])
def test_channels(tmp_path: Path, channels: int) -> None:
    stems = {target: np.repeat(audio[:, :1], channels, axis=1) for target, audio in made_song(0.5).items()}
    write(tmp_path, stems, mix(stems))
    assert read(tmp_path / "bass.flac").shape == (22050, channels)


@pytest.mark.parametrize(("fmt", "bits", "channels"), [("mp3", 0, 3), ("m4a", 0, 8), ("flac", 24, 9), ("flac", FLOAT_BITS, 2)])
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, fmt: str, bits: int, channels: int
) -> None:
    with pytest.raises(SettingError):
        StemWriter(tmp_path, TARGETS, fmt=fmt, bits=bits, rate_hz=44100, channels=channels, bitrate_kbps=192)
    assert list(tmp_path.iterdir()) == []
