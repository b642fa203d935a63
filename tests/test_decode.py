"""Every format beets takes is decoded; what is no audio, or not all of it, is refused in one line."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import mediafile
import numpy as np
import pytest
import soundfile

from demixr_daemon.errors import AudioError
from demixr_daemon.separation.decode import Block, fingerprint, open_track
from tests.conftest import encode, read, sdr_db
from tests.made_song import made_mixture


def decoded(path: Path) -> Block:
    return np.concatenate(list(open_track(path).blocks()))


def refusal(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        decoded(path)
    message = str(caught.value)
    assert path.name.encode("unicode_escape").decode() in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "subtype", "bits"), [
    ("a.wav", "PCM_16", 16), ("a.wav", "PCM_24", 24), ("a.wav", "PCM_32", 24), ("a.wav", "PCM_U8", 16), ("a.wav", "FLOAT", 24),
    ("a.wav", "DOUBLE", 24), ("a.wav", "ULAW", 16), ("a.flac", "PCM_S8", 16), ("a.flac", "PCM_16", 16),
    ("a.flac", "PCM_24", 24), ("a.aiff", "PCM_16", 16), ("a.ogg", "VORBIS", 16), ("a.mp3", None, 16),
])  # fmt: skip
def test_what_libsndfile_writes(song: Callable[..., Path], name: str, subtype: str | None, bits: int) -> None:
    path = song(name, subtype=subtype)
    track = open_track(path)
    assert (track.rate_hz, track.channels, track.bits) == (44100, 2, bits)
    np.testing.assert_array_equal(decoded(path), read(path).astype(np.float32))


@pytest.mark.parametrize(("name", "codec", "sample_format", "container", "bits", "least_db"), [
    ("a.m4a", "aac", "fltp", "ipod", 16, 15),
    ("a.m4a", "alac", "s16p", "ipod", 16, 80),
    ("a.m4a", "alac", "s32p", "ipod", 24, 100),
    ("a.wma", "wmav2", "fltp", "asf", 16, -99),
    ("a.wv", "wavpack", "s16p", "wv", 16, 80),
    ("a.tta", "tta", "s16", "tta", 16, 80),
    ("a.opus", "libopus", "flt", "ogg", 16, 5),
    ("a.mka", "pcm_s24le", "s32", "matroska", 24, 100),
    ("a.dat", "mp2", "s16", "mp2", 16, -99),
])  # fmt: skip
def test_what_ffmpeg_writes(
    tmp_path: Path, name: str, codec: str, sample_format: str, container: str, bits: int, least_db: float
) -> None:
    audio = made_mixture(3.0, rate_hz=48000)
    path = encode(tmp_path / name, audio, 48000, codec, sample_format, container)
    track = open_track(path)
    assert (track.rate_hz, track.channels, track.bits) == (48000, 2, bits)
    sound = decoded(path)
    assert abs(len(sound) - len(audio)) < 4096
    assert sdr_db(audio[:100_000], sound[:100_000]) > least_db


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(song: Callable[..., Path], rate_hz: int, channels: int) -> None:
    path = song("a.wav", seconds=0.5, rate_hz=rate_hz, channels=channels)
    track = open_track(path)
    assert (track.rate_hz, track.channels, track.declared_samples) == (rate_hz, channels, rate_hz // 2)
    np.testing.assert_allclose(decoded(path), read(path), atol=1e-7)


def test_channels_of_surround_are_named(song: Callable[..., Path]) -> None:
    assert open_track(song("a.flac", seconds=0.1, channels=6)).layout == ("FL", "FR", "FC", "LFE", "SL", "SR")


@pytest.mark.parametrize(("channels", "layout"), [(3, "FL FR FC"), (4, "FL FR BL BR"), (6, "FL FR FC LFE BL BR")])
def test_channels_without_names_are_the_usual_ones(song: Callable[..., Path], channels: int, layout: str) -> None:
    assert open_track(song("a.wav", seconds=0.1, channels=channels)).layout == tuple(layout.split())


def test_the_content_decides_and_not_the_name(song: Callable[..., Path], tmp_path: Path) -> None:
    path = song("a.flac")
    expected = decoded(path)
    for name in ("mislabelled.mp3", "mislabelled.raw", "none"):
        np.testing.assert_array_equal(decoded(path.rename(tmp_path / name)), expected)
        path = tmp_path / name


@pytest.mark.parametrize("name", ["it's \"quoted\".wav", "new\nline.wav", "🎸.flac", b"latin-\xe9.wav", b"latin-\xe9.mka",
                                  "x" * 251 + ".wav"])  # fmt: skip
def test_names(song: Callable[..., Path], tmp_path: Path, name: str | bytes) -> None:
    if isinstance(name, bytes) and name.endswith(b"mka"):
        plain = encode(tmp_path / "plain.mka", made_mixture(0.5), 44100, "pcm_s16le", "s16", "matroska")
        path = plain.rename(tmp_path / name.decode("utf-8", "surrogateescape"))
    else:
        path = song(name, seconds=0.5)
    assert len(decoded(path)) == 22050
    assert len(fingerprint(path)) == 64


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.full((1, 2), 0.5), 44100)
    assert decoded(tmp_path / "one.wav").shape == (1, 2)


def test_a_stream_that_did_not_know_its_length(song: Callable[..., Path]) -> None:
    """A WAV written to a pipe: its sizes are the largest there are."""
    path = song("piped.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert len(decoded(path)) == 3 * 44100


class TestRefused:
    def test_missing(self, tmp_path: Path) -> None:
        assert "No such file" in refusal(tmp_path / "missing.flac")

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder.flac").mkdir()
        refusal(tmp_path / "folder.flac")

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp3").touch()
        assert "empty" in refusal(tmp_path / "empty.mp3")

    @pytest.mark.parametrize("content", [b"just text\n" * 500, b"\x89PNG\r\n\x1a\n" + bytes(5000), bytes(100_000)])
    @pytest.mark.parametrize("suffix", ["mp3", "flac", "m4a", "raw"])
    def test_not_audio(self, tmp_path: Path, content: bytes, suffix: str) -> None:
        path = tmp_path / f"no.{suffix}"
        path.write_bytes(content)
        assert "not an audio file" in refusal(path) or "damaged" in refusal(path) or "no audio" in refusal(path)

    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.mp3"])
    def test_truncated(self, song: Callable[..., Path], name: str) -> None:
        path = song(name, seconds=5.0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        assert "truncated" in refusal(path) or "damaged" in refusal(path)

    @pytest.mark.parametrize(("name", "codec", "sample_format", "container"), [
        ("a.wma", "wmav2", "fltp", "asf"), ("a.mka", "pcm_s16le", "s16", "matroska"), ("a.wv", "wavpack", "s16p", "wv"),
    ])  # fmt: skip
    def test_truncated_where_ffmpeg_reads(
        self, tmp_path: Path, name: str, codec: str, sample_format: str, container: str
    ) -> None:
        path = encode(tmp_path / name, made_mixture(5.0), 44100, codec, sample_format, container)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        assert "truncated" in refusal(path) or "damaged" in refusal(path)

    def test_an_ogg_that_was_cut_is_a_shorter_ogg(self, song: Callable[..., Path]) -> None:
        """A stream by design: what is there is all there is."""
        path = song("a.ogg", seconds=5.0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 44100 < len(decoded(path)) < 4 * 44100

    def test_an_ogg_of_several_streams_is_read_to_its_end(self, song: Callable[..., Path]) -> None:
        """Two files one after the other are a legal one; libsndfile reads the first stream alone."""
        one, two = song("a.ogg", seconds=2.0), song("b.ogg", seconds=2.0)
        one.write_bytes(one.read_bytes() + two.read_bytes())
        assert abs(len(decoded(one)) - 4 * 44100) < 2048
        assert open_track(one).declared_samples is None

    def test_a_flac_without_a_length(self, song: Callable[..., Path]) -> None:
        """As who writes into a pipe leaves it."""
        path = song("a.flac", seconds=2.0)
        content = bytearray(path.read_bytes())
        assert content[4] & 127 == 0  # STREAMINFO; its last 36 bits before the MD5 sum are the number of samples
        content[21] &= 0xF0
        content[22:26] = bytes(4)
        path.write_bytes(content)
        assert open_track(path).declared_samples is None
        assert len(decoded(path)) == 2 * 44100

    def test_truncated_m4a(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.m4a", made_mixture(2.0), 44100, "aac", "fltp", "ipod")
        path.write_bytes(path.read_bytes()[:20_000])
        refusal(path)

    def test_no_samples(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), 44100)
        assert "no audio" in refusal(tmp_path / "none.wav")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
    def test_not_finite(self, tmp_path: Path, value: float) -> None:
        audio = made_mixture(2.0)
        audio[50_000, 1] = value
        soundfile.write(tmp_path / "bad.wav", audio, 44100, subtype="FLOAT")
        assert "NaN, infinite" in refusal(tmp_path / "bad.wav")


class TestFingerprint:
    @pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.wav", "a.ogg"])
    def test_tags_and_covers_leave_it_alone(self, song: Callable[..., Path], name: str) -> None:
        path = song(name)
        before = fingerprint(path)
        tagged = mediafile.MediaFile(path)
        tagged.title, tagged.artist = "A title", "An artist"
        tagged.images = [mediafile.Image(data=_PNG)]
        tagged.save()
        assert fingerprint(path) == before

    def test_m4a(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.m4a", made_mixture(2.0), 44100, "aac", "fltp", "ipod")
        before = fingerprint(path)
        tagged = mediafile.MediaFile(path)
        tagged.title = "A title"
        tagged.save()
        assert fingerprint(path) == before

    def test_other_audio_other_fingerprint(self, song: Callable[..., Path]) -> None:
        assert fingerprint(song("a.wav", seed=1)) != fingerprint(song("b.wav", seed=2))

    def test_of_anything(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"no audio")
        assert len(fingerprint(tmp_path / "x")) == 64


def _png() -> bytes:
    """The smallest picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


_PNG = _png()
