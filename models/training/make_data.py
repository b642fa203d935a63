"""Make training data: accompaniments played by soundfonts, and phrases sung by a vocoder from recorded syllables.

Writes ``<out>/band-0000/{drums,bass,other}.flac`` and ``<out>/voice-0000/vocals.flac``. A rerun makes what is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 44100
SOUNDFONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/sounds/sf3/MuseScore_General_Full.sf3",
    "/usr/share/sounds/sf2/TimGM6mb.sf2",
    "/usr/share/sounds/sf2/Black_Pearl_4_LV2.sf2",
    "/usr/share/sounds/sf2/Red_Zeppelin_4_LV2.sf2",
)
SYLLABLES = ("/usr/share/klettres", "/usr/share/ktuberling/sounds")
MMA_LIBRARY = "/usr/share/mma/lib"


def write_song(folder: Path, sounds: dict[str, NDArray[np.float32]]) -> None:
    """Write each ``(samples, channels)`` sound as ``<folder>/<target>.flac``; the folder appears when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
        song = Path(made) / folder.name
        song.mkdir()
        for target, sound in sounds.items():
            soundfile.write(song / f"{target}.flac", np.clip(sound, -1, 1), RATE_HZ, subtype="PCM_16")
        song.rename(folder)


def _make_bands(options: argparse.Namespace) -> None:
    from models.training.accompaniment import groove_names, make_accompaniment

    soundfonts = [Path(path) for path in options.soundfonts if Path(path).exists()]
    grooves = groove_names(Path(options.mma_library))
    if not any("LV2" not in path.name for path in soundfonts) or not grooves:
        sys.exit("make_data: no soundfont or no MMA library found; see models/training/README.md for the installs")
    for index in range(options.first, options.first + options.bands):
        folder = Path(options.out) / f"band-{index:04d}"
        if folder.exists():
            continue
        started_s = time.monotonic()
        rng = np.random.default_rng([options.seed, 0, index])
        with tempfile.TemporaryDirectory() as work:
            write_song(folder, make_accompaniment(Path(work), soundfonts, grooves, options.seconds, options.synth_share, rng))
        print(f"{folder.name} made in {time.monotonic() - started_s:.1f} s", flush=True)


def _make_voices(options: argparse.Namespace) -> None:
    from models.training.singing import Singers, sung_take

    singers = Singers([Path(path) for path in options.syllables])
    if not singers.choirs:
        sys.exit("make_data: no recorded syllables found; see models/training/README.md for the installs")
    for index in range(options.first, options.first + options.voices):
        folder = Path(options.out) / f"voice-{index:04d}"
        if folder.exists():
            continue
        started_s = time.monotonic()
        rng = np.random.default_rng([options.seed, 1, index])
        write_song(folder, {"vocals": sung_take(singers, options.seconds, rng)})
        print(f"{folder.name} made in {time.monotonic() - started_s:.1f} s", flush=True)


def main() -> None:
    """Command line of ``python -m models.training.make_data``."""
    parser = argparse.ArgumentParser(prog="make_data", description=__doc__)
    parser.add_argument("out", help="folder that receives one sub-folder per made song")
    parser.add_argument("--bands", type=int, default=0, help="number of accompaniments (default 0)")
    parser.add_argument("--voices", type=int, default=0, help="number of sung takes (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first song (default 0)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each song in seconds (default 60)")
    parser.add_argument("--synth-share", type=float, default=0.4, help="share of parts not by soundfonts (default 0.4)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and number give the same song (default 0)")
    parser.add_argument("--soundfonts", nargs="+", default=SOUNDFONTS, help="SF2 or SF3 files")
    parser.add_argument("--syllables", nargs="+", default=SYLLABLES, help="folders of recorded syllables and words")
    parser.add_argument("--mma-library", default=MMA_LIBRARY, help="folder of MMA's grooves")
    options = parser.parse_args()
    if options.seconds <= 0 or options.bands < 0 or options.voices < 0 or options.first < 0:
        parser.error("--seconds must be positive, --bands, --voices and --first not negative")
    if options.bands:
        _make_bands(options)
    if options.voices:
        _make_voices(options)


if __name__ == "__main__":
    main()
