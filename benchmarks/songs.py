"""Real music with its stems: the CC0 songs beside the checkout, and the excerpt that the package stempeg carries."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from demixr_daemon.settings import TARGETS

Audio = NDArray[np.float32]

MUSIC = Path(__file__).parents[2] / "shared" / "music"
"""Five songs of *Everything is Free* by Software-Entwicklungskit (2025), CC0: a folder a song, a file a target."""

# Order of the streams in a MUSDB18 file.
_STREAMS = ("mixture", "drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Song:
    """A mixture and what it is made of, (samples, 2) at 44.1 kHz."""

    name: str
    mixture: Audio
    stems: dict[str, Audio]


def falcon() -> Song:
    """Six seconds of *The Easton Ellises - Falcon 69*, of the MUSDB18 test set (CC BY-NC-SA 4.0), out of the stempeg wheel.

    stempeg itself is not imported: it wants an ffmpeg on the path.

    :raises ModuleNotFoundError: stempeg is not installed.
    """
    found = importlib.util.find_spec("stempeg")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("stempeg is not installed: pip install stempeg")
    path = next((Path(found.origin).parent / "data").glob("*.stem.mp4"))
    streams: dict[str, Audio] = {}
    for index, name in enumerate(_STREAMS):
        with av.open(str(path), "r") as container:
            frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[index])]
            streams[name] = np.concatenate(frames, axis=1).T.astype(np.float32)
    mixture = streams.pop("mixture")
    return Song("The Easton Ellises - Falcon 69", mixture, streams)


def cc0_songs(name: str = "*") -> Iterator[Song]:
    """The CC0 songs, or the one of that name; none where they are not."""
    for folder in sorted(path for path in MUSIC.glob(name) if path.is_dir()):
        stems = {target: soundfile.read(folder / f"{target}.ogg", dtype="float32", always_2d=True)[0] for target in TARGETS}
        samples = max(map(len, stems.values()))
        stems = {target: np.pad(audio, ((0, samples - len(audio)), (0, 0))) for target, audio in stems.items()}
        yield Song(folder.name, np.sum(list(stems.values()), axis=0, dtype=np.float32), stems)


def sdr_db(reference: Audio, estimate: Audio) -> float:
    """Plain signal-to-distortion ratio: 10 log10 of the reference's energy over that of the difference, in dB."""
    noise = float(np.sum(np.square(reference.astype(np.float64) - estimate)))
    return 10 * float(np.log10(max(float(np.sum(np.square(reference.astype(np.float64)))), 1e-20) / max(noise, 1e-20)))
