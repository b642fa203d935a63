"""What chunks and int8 cost: ``python -m benchmarks.quantization [--model M] [--seconds N] [--ahead]``.

Each is compared with the same network in fp32 over the whole track at once, on real songs: the SDR lost against the true
stems, and the difference itself. ``--ahead`` draws the curve from which the length of what is heard ahead was chosen: what
chunks change, and what a shift of their grid changes, at each length.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np
import torch

from benchmarks.songs import Audio, Song, cc0_songs, falcon, sdr_db
from benchmarks.tables import table, write
from demixr_daemon.separation import int8, loading
from demixr_daemon.separation.chunks import Grid
from demixr_daemon.separation.models import Model, ModelStore
from demixr_daemon.settings import TARGETS, Options

_STEREO = np.eye(2, dtype=np.float32)
_BLOCK_SAMPLES = 1 << 16
_WHOLE = Grid(chunk_frames=1 << 30)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__.split(":")[0])
    parser.add_argument("--model", default="demixr-small", help="name or folder (default: demixr-small)")
    parser.add_argument("--seconds", type=float, default=240.0, help="of each song, from its middle (default: 240)")
    parser.add_argument("--ahead", action="store_true", help="measure the curve of lengths heard ahead")
    options = parser.parse_args()
    model = ModelStore().find(options.model)
    songs = [falcon(), *(_excerpt(song, options.seconds) for song in cc0_songs())]
    if options.ahead:
        _ahead_curve(model, songs)
    else:
        _cost(model, songs)


def _excerpt(song: Song, seconds: float) -> Song:
    start = max(0, len(song.mixture) // 2 - round(seconds * 22050))
    part = slice(start, start + round(seconds * 44100))
    return Song(song.name, song.mixture[part], {target: audio[part] for target, audio in song.stems.items()})


def _separate(model: Model, song: Song, quantization: str, grid: Grid) -> tuple[Audio, float]:
    """All targets (samples, targets, 2), and the seconds it took."""
    backend = loading.load(model, Options(quantization=quantization), grid=grid).backend
    blocks = [song.mixture[start : start + _BLOCK_SAMPLES] for start in range(0, len(song.mixture), _BLOCK_SAMPLES)]
    begun = time.perf_counter()
    out = np.concatenate(list(backend.separate(blocks, blocks, _STEREO)))[: len(song.mixture)]
    return out, time.perf_counter() - begun


def _cost(model: Model, songs: list[Song]) -> None:
    rows, losses = [], {"chunks": [0.0], "int8": [0.0]}
    for song in songs:
        whole, _ = _separate(model, song, "fp32", _WHOLE)
        chunked, fp32_s = _separate(model, song, "fp32", Grid())
        rounded, int8_s = _separate(model, song, "int8", Grid())
        shifted, _ = _separate(model, song, "int8", Grid(offset_frames=1501))
        for index, target in enumerate(TARGETS):
            truth = song.stems[target]
            if np.square(truth).mean() < 1e-7:
                continue  # a silent target has no SDR
            base, cut, small = (sdr_db(truth, out[:, index]) for out in (whole, chunked, rounded))
            losses["chunks"].append(base - cut)
            losses["int8"].append(base - small)
            seam, shift = -sdr_db(whole[:, index], chunked[:, index]), -sdr_db(rounded[:, index], shifted[:, index])
            rows.append((song.name, target, f"{base:.3f}", f"{cut - base:+.3f}", f"{small - base:+.3f}", f"{seam:.1f}",
                         f"{shift:.1f}", f"{fp32_s / int8_s:.2f}"))  # fmt: skip
    header = ("song", "target", "SDR whole fp32, dB", "chunks fp32, dB", "chunks int8, dB", "difference of chunks, dB",
              "difference of a shifted grid, dB", "speed int8 : fp32")  # fmt: skip
    plain = loading.targets(model).values()
    sizes = (sum(value.nbytes for net in plain for value in net.state_dict().values()),
             sum(value.nbytes for net in plain for value in int8.quantize(net).values()))  # fmt: skip
    size = f"Weights: fp32 {sizes[0] / 1e6:.1f} MB, int8 {sizes[1] / 1e6:.1f} MB."
    last = f"largest loss: chunks {max(losses['chunks']):.3f} dB, int8 {max(losses['int8']):.3f} dB"
    write(f"quantization-{model.name}", f"What chunks and int8 cost: {model.name}", table(header, rows), size, last)


def _ahead_curve(model: Model, songs: list[Song]) -> None:
    """The difference that chunks make, and that a shift of their grid makes, relative to the output."""
    rows = []
    whole = [_separate(model, song, "int8", _WHOLE)[0] for song in songs]
    for frames in (0, 512, 2048, 5120):
        grid = dataclasses.replace(Grid(), ahead_frames=frames)
        shifted = dataclasses.replace(grid, offset_frames=1501)
        cut, moved = -200.0, -200.0
        for song, at_once in zip(songs, whole, strict=True):
            one, other = (_separate(model, song, "int8", cuts)[0] for cuts in (grid, shifted))
            cut, moved = max(cut, -sdr_db(at_once, one)), max(moved, -sdr_db(one, other))
        rows.append((frames, f"{frames * 1024 / 44100:.1f}", f"{cut:.1f}", f"{moved:.1f}",
                     f"{1 + frames / grid.chunk_frames:.2f}"))  # fmt: skip
        print(rows[-1], flush=True)
    header = ("ahead, frames", "s", "difference to the whole track, dB", "difference of a shifted grid, dB", "work in LSTMs")
    write(f"ahead-{model.name}", f"What is heard ahead: {model.name}, int8, chunks of {Grid().chunk_frames} frames; "
          "the worst of the songs", table(header, rows))  # fmt: skip


if __name__ == "__main__":
    with torch.inference_mode():
        main()
