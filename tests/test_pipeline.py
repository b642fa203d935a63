"""The spine: from a track to its published stems, and every way it can go wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mediafile
import numpy as np
import pytest
import soundfile

from demixr_daemon import pipeline, stems
from demixr_daemon.errors import AudioError, Cancelled, DemixrError, OutputError, SettingError
from demixr_daemon.pipeline import demix
from demixr_daemon.separation import loading
from demixr_daemon.separation.decode import open_track
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.settings import TARGETS, Options
from tests.conftest import encode, read, sdr_db
from tests.made_song import made_mixture

Song = Callable[..., Path]


def total(made: stems.StemSet) -> np.ndarray:
    return np.sum([read(made.path(target)) for target in TARGETS], axis=0)


@pytest.mark.parametrize(("name", "rate_hz", "channels", "subtype"), [
    ("a.flac", 44100, 2, "PCM_16"), ("a.flac", 48000, 2, "PCM_24"), ("a.wav", 22050, 1, "PCM_16"), ("a.wav", 8000, 1, "PCM_U8"),
    ("a.wav", 192000, 6, "PCM_24"), ("a.ogg", 32000, 2, "VORBIS"), ("a.mp3", 48000, 2, None), ("a.wav", 11025, 2, "FLOAT"),
])  # fmt: skip
def test_stems_have_the_tracks_shape_and_sum(
    song: Song, small: LoadedModel, name: str, rate_hz: int, channels: int, subtype: str | None
) -> None:
    path = song(name, seconds=4.0, rate_hz=rate_hz, channels=channels, subtype=subtype)
    made = demix(path, small)
    track = read(path)
    step = 2.0 ** (1 - made.recipe.bits)
    for target in TARGETS:
        info = soundfile.info(made.path(target))
        assert (info.samplerate, info.channels, info.frames) == (rate_hz, channels, len(track))
        assert read(made.path(target)).std() > 0.02 * track.std()
    assert np.abs(total(made) - made.gain * track).max() <= step
    assert made.source.samples == len(track)


def test_the_embedded_model_separates(song: Song, embedded: LoadedModel, tmp_path: Path) -> None:
    """Even of a made song it finds more of each target than the mixture has."""
    from tests.made_song import made_song

    made = demix(song("a.flac", seconds=12.0), embedded)
    for target in ("vocals", "drums", "bass"):
        reference = made_song(12.0)[target]
        assert sdr_db(reference, read(made.path(target))) > sdr_db(reference, made_mixture(12.0)) + 1


@pytest.mark.parametrize("samples", [1, 2, 100, 5000])
@pytest.mark.parametrize("rate_hz", [44100, 8000, 96000])
def test_the_shortest_tracks(tmp_path: Path, small: LoadedModel, samples: int, rate_hz: int) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, made_mixture(1.0, rate_hz)[:samples], rate_hz)
    made = demix(path, small)
    assert [len(read(made.path(target))) for target in TARGETS] == [samples] * 4
    assert np.abs(total(made) - read(path)).max() <= 1 / 32768


def test_silence(tmp_path: Path, small: LoadedModel) -> None:
    soundfile.write(tmp_path / "silence.flac", np.zeros((100_000, 2)), 44100)
    made = demix(tmp_path / "silence.flac", small)
    assert not any(np.any(read(made.path(target))) for target in TARGETS)


def test_a_track_over_full_scale_is_turned_down_as_one(song: Song, small: LoadedModel) -> None:
    path = song("loud.wav", subtype="FLOAT", gain=8.0)
    made = demix(path, small)
    assert made.gain < 1
    np.testing.assert_allclose(total(made), made.gain * read(path), atol=1 / 32768)
    as_float = demix(path, small, Options(format="wav", bits="float"))
    assert as_float.gain == 1
    np.testing.assert_allclose(total(as_float), read(path), atol=1e-5)


def test_targets_and_instrumental(song: Song, small: LoadedModel) -> None:
    path = song("a.flac")
    made = demix(path, small, Options(targets=("vocals",), instrumental=True))
    assert sorted(os.listdir(made.folder)) == ["instrumental.flac", "manifest.json", "vocals.flac"]
    np.testing.assert_array_equal(read(made.path("vocals")) + read(made.path("instrumental")), read(path))
    whole = demix(path, small)
    np.testing.assert_array_equal(read(whole.path("vocals")), total(whole) - sum(
        read(whole.path(target)) for target in ("drums", "bass", "other")))  # fmt: skip


@pytest.mark.parametrize("fmt", ["flac", "wav", "mp3", "opus", "m4a"])
def test_formats_carry_the_tags_of_the_track(song: Song, small: LoadedModel, fmt: str) -> None:
    path = song("a.flac", seconds=1.0)
    tagged = mediafile.MediaFile(path)
    tagged.update({"title": "Añejo", "artist": "Foo", "album": "Bar", "track": 7})
    tagged.save()
    made = demix(path, small, Options(format=fmt))
    stem = mediafile.MediaFile(made.path("drums"))
    assert (stem.title, stem.artist, stem.album, stem.track) == ("Añejo (drums)", "Foo", "Bar", 7)


def test_own_weights_for_one_target(song: Song, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(weights / "vocals.pth", tmp_path / "mine")
    model = loading.load(ModelStore().find(str(tmp_path / "mine")))
    path = song("a.flac")
    made = demix(path, model, Options(targets=("vocals", "other")))
    np.testing.assert_array_equal(read(made.path("vocals")) + read(made.path("other")), read(path))
    with pytest.raises(SettingError, match="has no drums"):
        demix(path, model)


@pytest.mark.parametrize("fmt", ["mp3", "opus", "m4a"])
@pytest.mark.parametrize(("samples", "rate_hz"), [(1, 44100), (30, 8000), (5, 192000)])
def test_a_lossy_stem_is_never_empty(tmp_path: Path, small: LoadedModel, fmt: str, samples: int, rate_hz: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, made_mixture(1.0, rate_hz)[:samples], rate_hz)
    made = demix(path, small, Options(format=fmt))
    assert all(sum(map(len, open_track(made.path(target)).blocks())) for target in TARGETS)


def test_a_tag_without_room_in_the_format_is_left_out(song: Song, small: LoadedModel) -> None:
    """A podcast numbered by its date; MP4 has 16 bits for that."""
    path = song("a.flac")
    track = mediafile.MediaFile(path)
    track.artist, track.track = "A Voice", 20240115
    track.save()
    tagged = mediafile.MediaFile(demix(path, small, Options(format="m4a")).path("vocals"))
    assert (tagged.artist, tagged.track or 0) == ("A Voice", 0)


def test_instrumental_named_twice_is_one(song: Song, small: LoadedModel) -> None:
    made = demix(song("a.flac"), small, Options(targets=("vocals", "instrumental"), instrumental=True))
    assert made.recipe.stems == ("vocals", "instrumental")


def test_without_a_place_for_compiled_kernels() -> None:
    """A service without a home, and a program that root installed."""
    code = ("import sys; from numba.core import caching\n"
            "caching.CacheImpl._locator_classes = []\n"
            "from demixr_daemon.separation.compiled import SETTINGS\n"
            "from demixr_daemon.separation import wiener\n"
            "print(SETTINGS['cache'])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_threads_do_not_matter(song: Song, weights: Path) -> None:
    outputs = []
    for threads in (1, 2):
        model = loading.load(ModelStore().find(str(weights)), Options(threads=threads))
        made = demix(song("a.flac"), model, Options(format="wav", bits="float"))
        outputs.append(read(made.path("vocals")))
    assert sdr_db(outputs[0], outputs[1]) > 90


def test_a_model_loaded_otherwise_is_refused(song: Song, small: LoadedModel) -> None:
    """The manifest must not say what is not so."""
    with pytest.raises(SettingError, match="loaded for int8"):
        demix(song("a.flac"), small, Options(quantization="fp32"))


def test_a_folder_elsewhere(song: Song, small: LoadedModel, tmp_path: Path) -> None:
    made = demix(song("a.flac", seconds=1.0), small, folder=tmp_path / "new" / "place")
    assert made.complete()
    assert sorted(os.listdir(tmp_path / "new")) == ["place"]


def test_the_order_of_targets_does_not_matter(song: Song, small: LoadedModel) -> None:
    path = song("a.flac", seconds=1.0)
    demix(path, small)
    assert pipeline.check(path, small.model, Options(targets=("other", "bass", "drums", "vocals")))[1] == ""


def test_progress_goes_up_to_the_whole(song: Song, small: LoadedModel) -> None:
    seen: list[tuple[int, int | None]] = []
    demix(song("a.flac", seconds=30.0), small, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (30 * 44100, 30 * 44100)


def test_cancelled_between_chunks(song: Song, small: LoadedModel) -> None:
    path = song("a.flac", seconds=30.0)
    seen: list[int] = []
    with pytest.raises(Cancelled):
        demix(path, small, progress=lambda done, _: seen.append(done), cancelled=lambda: len(seen) == 1)
    assert len(seen) == 1
    assert os.listdir(path.parent) == ["a.flac"]


class TestCurrent:
    """What needs no work is known without doing it."""

    @pytest.fixture
    def path(self, song: Song, small: LoadedModel) -> Path:
        path = song("a.flac", seconds=1.0)
        demix(path, small)
        return path

    def check(self, path: Path, model: LoadedModel, **options: Any) -> str:
        present, reason = pipeline.check(path, model.model, Options(**options))
        assert (present is None) == bool(reason)
        return reason

    def test_nothing_changed(self, path: Path, small: LoadedModel) -> None:
        assert self.check(path, small) == ""

    def test_only_tags_changed(self, path: Path, small: LoadedModel) -> None:
        tagged = mediafile.MediaFile(path)
        tagged.title = "New"
        tagged.save()
        assert self.check(path, small) == ""
        made = stems.read(stems.folder_for(path))
        assert made is not None
        assert made.source.mtime_ns == path.stat().st_mtime_ns  # the next look is a quick one

    def test_audio_changed(self, path: Path, small: LoadedModel, song: Song) -> None:
        song("a.flac", seconds=1.0, seed=5)
        assert self.check(path, small) == "audio changed"

    @pytest.mark.parametrize(("key", "value"), [("niter", "0"), ("quantization", "fp32"), ("format", "wav"), ("bits", "24"),
                                                ("targets", ("vocals",)), ("instrumental", True)])  # fmt: skip
    def test_a_setting_changed(self, path: Path, small: LoadedModel, key: str, value: object) -> None:
        assert "changed" in self.check(path, small, **{key: value})

    def test_another_model(self, path: Path, embedded: LoadedModel) -> None:
        assert self.check(path, embedded) == "model, niter changed"

    def test_a_stem_is_gone(self, path: Path, small: LoadedModel) -> None:
        (stems.folder_for(path) / "bass.flac").unlink()
        assert self.check(path, small) == "a stem is missing"

    def test_no_stems(self, song: Song, small: LoadedModel) -> None:
        assert self.check(song("b.flac"), small) == "no stems yet"


class TestRefused:
    """Nothing is half-written, and the message is one line that names the file."""

    def refusal(self, path: Path, model: LoadedModel, kind: type[DemixrError], options: Options | None = None) -> str:
        before = sorted(os.listdir(path.parent))
        with pytest.raises(kind) as caught:
            demix(path, model, options)
        assert sorted(os.listdir(path.parent)) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_no_audio(self, tmp_path: Path, small: LoadedModel) -> None:
        (tmp_path / "a.flac").write_text("no audio")
        assert "a.flac" in self.refusal(tmp_path / "a.flac", small, AudioError)

    def test_truncated(self, song: Song, small: LoadedModel) -> None:
        path = song("a.flac", seconds=20.0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refusal(path, small, AudioError)

    def test_nan_late_in_the_track(self, tmp_path: Path, small: LoadedModel) -> None:
        audio = made_mixture(40.0)
        audio[-10] = np.nan
        soundfile.write(tmp_path / "a.wav", audio, 44100, subtype="FLOAT")
        assert "NaN" in self.refusal(tmp_path / "a.wav", small, AudioError)

    def test_mp3_of_surround(self, song: Song, small: LoadedModel) -> None:
        path = song("a.flac", channels=6, seconds=1.0)
        assert "at most 2 channels" in self.refusal(path, small, SettingError, Options(format="mp3"))

    def test_changed_meanwhile(self, song: Song, small: LoadedModel) -> None:
        path = song("a.wav", seconds=1.0)
        with pytest.raises(AudioError, match="changed while"):
            demix(path, small, progress=lambda *_: os.utime(path, (1, 1)))
        assert os.listdir(path.parent) == ["a.wav"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("fmt", ["flac", "wav", "mp3", "opus", "m4a"])
def test_full_disk_from_the_first_byte(song: Song, small_disk: Path, small: LoadedModel, fmt: str) -> None:
    path = Path(shutil.copy(song("a.ogg", seconds=2.0), small_disk))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(OutputError, match="disk full"):
        demix(path, small, Options(format=fmt))
    assert sorted(os.listdir(small_disk)) == ["a.ogg", "filler"]


@pytest.mark.parametrize("options", [Options(), Options(format="wav"), Options(format="m4a", bitrate=320),
                                     Options(format="wav", bits="float")])  # fmt: skip
def test_full_disk(song: Song, small_disk: Path, small: LoadedModel, options: Options) -> None:
    path = Path(shutil.copy(song("a.ogg", seconds=40.0), small_disk))
    before = shutil.disk_usage(small_disk).free
    with pytest.raises(OutputError, match="disk full"):
        demix(path, small, options)
    assert os.listdir(small_disk) == ["a.ogg"]
    assert shutil.disk_usage(small_disk).free == before


def test_read_only_folder(song: Song, small_disk: Path, small: LoadedModel) -> None:
    path = Path(shutil.copy(song("a.flac", seconds=1.0), small_disk))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="cannot write"):
        demix(path, small)
    assert os.listdir(small_disk) == ["a.flac"]


def test_m4a_with_alac(tmp_path: Path, small: LoadedModel) -> None:
    audio = made_mixture(2.0)
    path = encode(tmp_path / "a.m4a", audio, 44100, "alac", "s16p", "ipod")
    np.testing.assert_allclose(total(demix(path, small)), audio, atol=1 / 32768)


_MANY = """
import resource
import sys
from pathlib import Path
from demixr_daemon import pipeline
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.settings import Options
model = pipeline.load(ModelStore().find("demixr-small"), Options())
for number in range(24):
    pipeline.demix(Path(sys.argv[1]), model, folder=Path(sys.argv[2]) / str(number))
    print(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6, flush=True)
"""


def test_many_tracks_take_no_more_memory_than_a_few(song: Song, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _MANY, song("a.flac", seconds=20.0), tmp_path],
                          capture_output=True, text=True, check=True, timeout=600)  # fmt: skip
    resident_mb = [float(line) for line in done.stdout.split()]
    assert len(resident_mb) == 24
    assert max(resident_mb[12:]) < max(resident_mb[4:12]) + 10, resident_mb
