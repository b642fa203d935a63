"""The main job end to end: ``python -m benchmarks.demo FOLDER``.

Builds a beets library of real music, separates it with the embedded model, shows what the library then knows, and how near
each stem is to the truth. Everything lies in FOLDER; your own beets library is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mediafile
import numpy as np
import soundfile

from benchmarks.songs import falcon, sdr_db
from demixr_daemon.settings import TARGETS

_MARK = ".demixr-demo"

_CONFIG = """\
directory: {music}
library: {library}
plugins: demix
import: {{copy: yes, autotag: no, quiet: yes}}
"""


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__.split(":")[0])
    parser.add_argument("folder", type=Path, help="made anew each time")
    folder = parser.parse_args().folder.resolve()
    if folder.exists() and not (folder / _MARK).exists():
        parser.error(f"{folder} exists and is no demo")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "arriving").mkdir(parents=True)
    (folder / _MARK).touch()
    (folder / "config.yaml").write_text(_CONFIG.format(music=folder / "music", library=folder / "library.db"), "utf-8")

    song = falcon()
    print(f"Real music: {song.name}, {len(song.mixture) / 44100:.1f} s, of the MUSDB18 test set; CC BY-NC-SA 4.0.\n")
    track = folder / "arriving" / "Falcon 69.flac"
    soundfile.write(track, song.mixture, 44100)
    tags = mediafile.MediaFile(track)
    tags.update({"artist": "The Easton Ellises", "title": "Falcon 69", "album": "EP1", "track": 1})
    tags.save()

    beet(folder, "import", folder / "arriving")
    beet(folder, "demix", "artist:easton")
    beet(folder, "ls", "-f", "$artist - $title: $stems [$stems_model, $stems_format]", "stems::vocals")
    found = beet(folder, "ls", "-f", "$stems_path", "stems::vocals")
    stems = Path(found.splitlines()[0])

    print("\nstem     peak   level dB   SDR dB   of the mixture   file")
    total = np.zeros_like(song.mixture, dtype=np.float64)
    for target in TARGETS:
        audio = soundfile.read(stems / f"{target}.flac", always_2d=True)[0]
        total += audio
        level = 10 * np.log10(np.mean(np.square(audio)) + 1e-12)
        truth = song.stems[target]
        print(f"{target:7} {np.abs(audio).max():5.2f} {level:10.1f} {sdr_db(truth, audio):8.1f} "
              f"{sdr_db(truth, song.mixture):16.1f}   {(stems / f'{target}.flac').relative_to(folder)}")  # fmt: skip
    original = soundfile.read(track, always_2d=True)[0]
    gain = json.loads((stems / "manifest.json").read_text("utf-8"))["gain"]
    worst = np.abs(total - gain * original).max() * 32768
    print(f"\nThe four stems add up to the track: largest difference {worst:.0f} steps of 16 bits.")
    return 0


def beet(folder: Path, *arguments: str | Path) -> str:
    """Run ``beet`` on the demo's library and show what it says; its standard output."""
    print(f"$ beet {shlex.join(str(a).replace(f'{folder}/', '') for a in arguments)}", flush=True)
    environment = os.environ | {"BEETSDIR": str(folder), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "beets", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        if "database backup" not in line:  # beets announces its own migrations of a new library
            print(line.replace(f"{folder}/", ""))
    if done.returncode:
        sys.exit(f"demo: beet exited with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
