"""Peak memory over length: ``python -m benchmarks.memory [--model M] [--random-weights] [--short MIN] [--long MIN]``.

Separates a short and a long track, each in a process of its own, and ends with ``peak_mb short=<4 min> long=<4 h>``. The
tracks are a real song over and over.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.songs import cc0_songs, falcon
from benchmarks.tables import table, write
from benchmarks.weights import HIDDEN_SIZES, random_weights

_WORKER = "--work"


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split(":")[0])
    parser.add_argument("--model", default="demixr-small", help="name or folder (default: demixr-small)")
    parser.add_argument("--random-weights", action="store_true", help="untrained weights of the model's true shape")
    parser.add_argument("--short", type=float, default=4.0, help="minutes of the short track (default: 4)")
    parser.add_argument("--long", type=float, default=240.0, help="minutes of the long one (default: 240)")
    parser.add_argument(_WORKER, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.random_weights and options.model not in HIDDEN_SIZES:
        parser.error(f"--random-weights: for {' and '.join(HIDDEN_SIZES)}")
    if options.work:
        _work(options.work, options.model)
        return
    audio = next(cc0_songs(), falcon()).mixture
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if options.random_weights:
            model = str(random_weights(Path(folder) / "weights", HIDDEN_SIZES[model]))
        # The first builds the cached int8 weights, which takes the fp32 ones into memory; it does not count.
        for name, minutes in (("first", 0.1), ("short", options.short), ("long", options.long)):
            track = Path(folder) / f"{name}.flac"
            _write(track, audio, round(minutes * 60 * 44100))
            command = [sys.executable, "-m", "benchmarks.memory", "--model", model, _WORKER, str(track)]
            peaks[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    rows = [(f"{minutes:g} min", f"{peaks[name]:.0f}") for name, minutes in (("short", options.short), ("long", options.long))]
    last = f"peak_mb short={peaks['short']:.0f} long={peaks['long']:.0f}"
    weights = ", untrained weights" if options.random_weights else ""
    title = f"Peak resident memory: {options.model}{weights}, int8, FLAC to four FLAC stems"
    write(f"memory-{Path(options.model).name}", title, table(("track", "peak, MB"), rows), last)


def _write(track: Path, audio: np.ndarray, samples: int) -> None:
    audio = audio / max(1.0, float(np.abs(audio).max()))
    with soundfile.SoundFile(track, "w", 44100, 2, format="FLAC") as file:
        while samples > 0:
            file.write(audio[:samples])
            samples -= len(audio)


def _work(track: Path, model: str) -> None:
    """Separate one track and print this process's peak in MB (10^6 bytes)."""
    from demixr_daemon.pipeline import demix
    from demixr_daemon.separation.loading import load
    from demixr_daemon.separation.models import ModelStore

    demix(track, load(ModelStore().find(model)))
    print(peak_mb())


def peak_mb() -> float:
    """This process's largest resident memory in MB (10^6 bytes). ``getrusage`` would count what its parent had, too."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
