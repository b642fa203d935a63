"""From ``beet demix`` on one short track to stems on disk, each time in a new process: ``python -m benchmarks.startup``.

The first run of all finds no quantized weights and no compiled kernels on disk; the others find both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.songs import falcon
from benchmarks.tables import table, write

_CONFIG = """
directory: {folder}/music
library: {folder}/library.db
plugins: demix
import: {{copy: yes, quiet: yes, autotag: no}}
demix: {{force: yes}}
"""
_BEET = "import sys; from beets.ui import main; main(sys.argv[1:])"
# The same command, with a look at the clock where the parts begin that take long.
_WATCHED = """
import sys, time
begun = float(sys.argv.pop(1))
def tell(stage):
    global begun
    print(f"{stage}\\t{time.time() - begun:.3f}", file=sys.stderr)
    begun = time.time()
tell("start Python")
class Watch:
    stages = {"torch": "beets, its library, the plan", "numba": "import torch"}
    def find_spec(self, name, path=None, target=None):
        if name in self.stages:
            tell(self.stages.pop(name))
sys.meta_path.insert(0, Watch())
from beets.ui import main
from demixr_daemon import pipeline
demix = pipeline.demix
def watched(*arguments, **named):
    tell("import numba, load compiled kernels and the model")
    made = demix(*arguments, **named)
    tell("separate and write")
    return made
pipeline.demix = watched
main(sys.argv[1:])
tell("record")
print(begun)
"""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split(":")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of music (default: 30)")
    parser.add_argument("--runs", type=int, default=5, help="after the first (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = falcon().mixture
        samples = round(options.seconds * 44100)
        soundfile.write(folder / "track.flac", np.tile(audio, (-(-samples // len(audio)), 1))[:samples], 44100)
        (folder / "config.yaml").write_text(_CONFIG.format(folder=folder), "utf-8")
        home = {"BEETSDIR": name, "XDG_CACHE_HOME": f"{name}/cache", "NUMBA_CACHE_DIR": f"{name}/cache/numba"}
        _run(["-c", _BEET, "import", "-q", "-s", str(folder / "track.flac")], home)
        demix = ["demix", "-y"]
        first = _run(["-c", _BEET, *demix], home)[0]
        later, stages = [], []
        for _ in range(options.runs):
            later.append(_run(["-c", _BEET, *demix], home)[0])
            told = _run(["-c", _WATCHED, str(time.time()), *demix], home)
            stages.append(dict(line.split("\t") for line in told[1].splitlines() if "\t" in line))
            stages[-1]["exit"] = str(time.time() - float(told[1].split()[-1]))
    rows = [("the first on this machine", f"{first:.1f}"), ("every other", f"{statistics.median(later):.1f}")]
    split = [(stage, f"{statistics.median(float(run[stage]) for run in stages):.2f}") for stage in stages[0]]
    title = f"From `beet demix` to stems: one track of {options.seconds:g} s, demixr-small, a process of its own"
    write("startup", title, table(("", "s"), rows), table(("of every other", "s"), split))


def _run(arguments: list[str], home: dict[str, str]) -> tuple[float, str]:
    begun = time.perf_counter()
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(
        command, env=os.environ | home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout)
    return time.perf_counter() - begun, done.stdout


if __name__ == "__main__":
    main()
