"""Shared fixtures: small networks, made songs, a real beets library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from demixr_daemon.separation import loading
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.separation.openunmix import network
from demixr_daemon.settings import TARGETS
from tests.made_song import RATE_HZ, made_mixture

if TYPE_CHECKING:
    from tests.daemon_home import Home


# A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches and downloads of the tests never meet the user's."""
    base = tmp_path_factory.mktemp("xdg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        patch.setenv("XDG_DATA_HOME", str(base / "data"))
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        yield


def random_network(seed: int, hidden_size: int = 32, *, unidirectional: bool = False) -> torch.nn.Module:
    """An untrained network whose masks are neither nought nor one, and move with the sound."""
    torch.manual_seed(seed)
    net = network(hidden_size, max_bin=1487, unidirectional=unidirectional).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name == "output_mean":
                parameter.uniform_(0.1, 0.5)
            elif name == "input_scale":
                parameter.fill_(0.2)
    return net


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own weights, as Open-Unmix training writes it: four small untrained targets."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, target in enumerate(TARGETS):
        torch.save(random_network(seed).state_dict(), folder / f"{target}.pth")
    return folder


@pytest.fixture(scope="session")
def small(weights: Path) -> LoadedModel:
    """Small untrained networks in int8: right in every respect but what they separate."""
    return loading.load(ModelStore().find(str(weights)))


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """The model that comes with the program."""
    return loading.load(ModelStore().find("demixr-small"))


@pytest.fixture
def song(tmp_path: Path) -> Callable[..., Path]:
    """Write a made song: ``song("name.flac", seconds=..., rate_hz=..., channels=..., subtype=..., gain=...)``."""

    def write(
        name: str | bytes, seconds: float = 3.0, rate_hz: int = RATE_HZ, channels: int = 2, subtype: str | None = None,
        gain: float = 1.0, seed: int = 0,
    ) -> Path:  # fmt: skip
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = made_mixture(seconds, rate_hz, channels, seed) * gain
        with soundfile.SoundFile(os.fsencode(path), "w", rate_hz, channels, subtype, format=path.suffix[1:]) as file:
            for start in range(0, len(audio), 1 << 16):  # libsndfile's Vorbis encoder overflows its stack on long writes
                file.write(audio[start : start + (1 << 16)])
        return path

    return write


def encode(path: Path, audio: NDArray[np.float32], rate_hz: int, codec: str, sample_format: str, container: str = "") -> Path:
    """Write audio with one of FFmpeg's encoders."""
    layout = "mono" if audio.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format=container or None) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        stream.codec_context.format = sample_format
        stream.codec_context.bit_rate = 192_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio).reshape(1, -1), "flt", layout)
        frame.sample_rate = rate_hz
        frame.pts = 0
        for part in (frame, None):
            output.mux(stream.encode(part))
    return path


def read(path: Path) -> NDArray[np.float64]:
    """A whole file as (samples, channels)."""
    with open(path, "rb") as file:
        audio: NDArray[np.float64] = soundfile.read(file, always_2d=True)[0]
    return audio


def sdr_db(reference: NDArray[np.floating], estimate: NDArray[np.floating]) -> float:
    """10 log10 of the reference's energy over that of the difference; infinite where there is none."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.sum(np.square(reference)) / np.sum(np.square(reference - estimate))))


class Library:
    """A real beets library on disk, driven by the real ``beet``."""

    def __init__(self, base: Path, settings: str) -> None:
        self.base = base
        self.music = base / "music"
        self.music.mkdir(parents=True)
        (base / "config.yaml").write_text(
            f"directory: {self.music}\nlibrary: {base / 'library.db'}\nplugins: demix\n"
            f"import: {{copy: yes, autotag: no, quiet: yes}}\nui: {{color: no}}\ndemix:\n{settings}"
        )

    def beet(
        self, *arguments: str | Path, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``beet`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "beets", *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False,
            errors="surrogateescape", env=self.environment() | (env or {}), timeout=600,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        return os.environ | {"BEETSDIR": str(self.base), "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}

    def fields(self, pattern: str, *query: str) -> list[str]:
        """``beet ls -f``, a line each."""
        answer = self.beet("ls", "-f", pattern, *query)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.splitlines()


@pytest.fixture
def library(tmp_path: Path, weights: Path) -> Library:
    """An empty library whose plugin uses the small networks."""
    return Library(tmp_path / "library", f"  model: {weights}\n")


@pytest.fixture
def home(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A library with watched folders and a queue file; its daemon is not running yet."""
    from tests.daemon_home import Home

    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    made = Home(tmp_path / "home", weights)
    yield made
    made.end()
