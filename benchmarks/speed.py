"""Whole jobs against the reference: ``python -m benchmarks.speed --model umxhq [--random-weights] [--seconds N] [--peers]``.

The reference is ``openunmix`` with its default ``niter=1``: a FLAC file read at once, separated as a whole, four FLAC files
written. Both run on the same weights and the same music, in turns, each in a process of its own that has warmed up on a few
seconds of it. The last line is ``ratio <reference time / our time>``, of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.memory import peak_mb
from benchmarks.peers import peers
from benchmarks.songs import cc0_songs, falcon
from benchmarks.tables import table, write
from benchmarks.weights import HIDDEN_SIZES, random_weights
from demixr_daemon.separation import int8, loading, openunmix, separator, wiener
from demixr_daemon.separation.chunks import Grid, through_lstms
from demixr_daemon.separation.encode import StemWriter
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.separation.stft import InverseStft, magnitudes, stft
from demixr_daemon.settings import TARGETS, Options

_WARM_UP_S = 6.0
Result = dict[str, Any]


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split(":")[0])
    parser.add_argument("--model", default="umxhq", help="name or folder (default: umxhq)")
    parser.add_argument("--random-weights", action="store_true", help="untrained weights of the model's true shape")
    parser.add_argument("--seconds", type=float, default=60.0, help="of music (default: 60)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--threads", type=int, default=0, help="of both (default: the processors that there are)")
    parser.add_argument("--peers", action="store_true", help="time other separators that are installed, too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--track", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work = _WORK.get(options.work) or functools.partial(_peer, options.work)
        print(json.dumps(work(options.track, options.model, options.threads)))
        return
    if options.random_weights and options.model not in HIDDEN_SIZES:
        parser.error(f"--random-weights: for {' and '.join(HIDDEN_SIZES)}")
    with tempfile.TemporaryDirectory() as folder:
        track = Path(folder) / "track.flac"
        audio = next(cc0_songs(), falcon()).mixture
        samples = round(options.seconds * 44100)
        audio = np.tile(audio, (-(-samples // len(audio)), 1))[:samples]
        soundfile.write(track, audio, 44100)
        model = options.model
        if options.random_weights:
            model = str(random_weights(Path(folder) / "weights", HIDDEN_SIZES[options.model]))
        results = defaultdict(list)
        for _ in range(options.runs):
            for work in (*_WORK, *(peers() if options.peers else ())):
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speed", "--work", work, "--model", model,
                           "--track", str(track), "--threads", str(options.threads)]  # fmt: skip
                answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                results[work].append(json.loads(answer.splitlines()[-1]))
    _report(options, {work: _medians(runs) for work, runs in results.items()})


def _medians(runs: list[Result]) -> Result:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _report(options: argparse.Namespace, results: dict[str, Result]) -> None:
    def per_second(result: Result, key: str) -> str:
        return f"{result[key] / options.seconds * 1e3:.1f}"

    reference, ours, alone = results["reference"], results["ours"], results["networks"]
    rows = [("openunmix", per_second(reference, "job"), f"{reference['peak_mb']:.0f}"),
            ("Demixr", per_second(ours, "job"), f"{ours['peak_mb']:.0f}"),
            *((name, per_second(result, "job"), f"{result['peak_mb']:.0f}")
              for name, result in results.items() if name not in _WORK)]  # fmt: skip
    whole = table(("", "whole job, ms per second of audio", "peak memory, MB"), rows)
    split = table(("openunmix, stage by stage", "ms"),
                  [(key, per_second(reference, key)) for key in reference if key not in ("job", "peak_mb")])  # fmt: skip
    cpu = table(("Demixr, stages side by side", "ms of processor time"),
                [(key, per_second(ours, key)) for key in ours if key not in ("job", "peak_mb")])  # fmt: skip
    nets = (f"Networks alone: fp32, whole track {per_second(alone, 'fp32')}, int8 {per_second(alone, 'int8')} ms, ratio "
            f"{alone['fp32'] / alone['int8']:.2f}. The int8 networks do {alone['gmac_s']:.0f} GMAC/s, "
            f"{alone['gmac_s'] / alone['peak_gmac_s']:.0%} of what oneDNN's largest int8 product does here "
            f"({alone['peak_gmac_s']:.0f}).")  # fmt: skip
    name = f"{options.model}, {'untrained weights' if options.random_weights else 'its weights'}"
    title = f"Speed: {name}, {options.seconds:g} s, FLAC to four FLAC files, medians of {options.runs}"
    write(f"speed-{Path(options.model).name}", title, whole, split, cpu, nets, f"ratio {reference['job'] / ours['job']:.2f}")


@torch.inference_mode()
def _reference(track: Path, name: str, threads: int) -> Result:
    """Upstream's own way, taken apart only to look at the clock."""
    if threads:
        torch.set_num_threads(threads)
    model = openunmix.reference(loading.targets(ModelStore().find(name)))
    net: Any = model
    audio, _ = soundfile.read(track, dtype="float32", always_2d=True)
    model(torch.from_numpy(audio[: round(_WARM_UP_S * 44100)].T.copy())[None])
    clock = [time.perf_counter()]

    def tick() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    result: Result = {}
    audio, rate_hz = soundfile.read(track, dtype="float32", always_2d=True)
    mixture = torch.from_numpy(audio.T.copy())[None]
    result["decode"] = tick()
    spectra = net.stft(mixture)
    loudness = net.complexnorm(spectra)
    result["STFT"] = tick()
    estimates = torch.stack([network(loudness.detach().clone()) for network in net.target_models.values()], -1)
    result["networks"] = tick()
    filtering = sys.modules["openunmix.filtering"]
    estimates, spectra = estimates.permute(0, 3, 2, 1, 4), spectra.permute(0, 3, 2, 1, 4)
    frames = estimates.shape[1]
    targets = torch.zeros(*spectra.shape, len(TARGETS))
    for start in range(0, frames, net.wiener_win_len):
        part = slice(start, start + net.wiener_win_len)
        targets[0, part] = filtering.wiener(estimates[0, part], spectra[0, part], net.niter, softmask=net.softmask)
    result["Wiener EM"] = tick()
    stems = net.istft(targets.permute(0, 5, 3, 2, 1, 4).contiguous(), length=mixture.shape[2])[0].numpy()
    result["inverse STFT"] = tick()
    with tempfile.TemporaryDirectory() as folder:
        for target, stem in zip(TARGETS, stems, strict=True):
            soundfile.write(Path(folder) / f"{target}.flac", stem.T, rate_hz)
    result["encode"] = tick()
    return {"job": clock[-1] - clock[0], "peak_mb": peak_mb()} | result


_STAGES: dict[str, list[tuple[Any, str]]] = {
    "decode and STFT": [(separator, "stft"), (separator, "magnitudes")],  # what it transforms, it reads
    "encoders": [(int8.Int8Network, "encode")],
    "LSTMs": [(int8.Int8Network, "run")],
    "masks": [(int8.Int8Network, "mask")],
    "Wiener EM": [(wiener, "_mask"), (wiener, "_add"), (wiener, "_filter")],
    "inverse STFT": [(separator, "add_frames"), (InverseStft, "__call__")],
    "encode": [(StemWriter, "write")],
}


def _ours(track: Path, name: str, threads: int) -> Result:
    from demixr_daemon.pipeline import demix

    options = Options(threads=threads, niter=1)
    model = loading.load(ModelStore().find(name), options)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.flac"
        with soundfile.SoundFile(track) as file:
            soundfile.write(part, file.read(round(_WARM_UP_S * file.samplerate)), file.samplerate)
        demix(part, model, options)
        begun = time.perf_counter()
        demix(track, model, options, folder=Path(folder) / "stems")
        job = time.perf_counter() - begun
        peak = peak_mb()
        spent: dict[str, list[float]] = {stage: [] for stage in _STAGES}
        with contextlib.ExitStack() as timed:
            for stage, places in _STAGES.items():
                for owner, attribute in places:
                    timed.enter_context(_timed(owner, attribute, spent[stage].append))
            begun = time.process_time()
            demix(track, model, options, folder=Path(folder) / "stems")
            total = time.process_time() - begun
    stages = {stage: sum(seconds) for stage, seconds in spent.items()}
    return {"job": job, "peak_mb": peak, **stages, "the rest": total - sum(stages.values())}


def _peer(name: str, track: Path, _: str, threads: int) -> Result:
    if threads:
        torch.set_num_threads(threads)
    separate = peers()[name]()
    audio, rate_hz = soundfile.read(track, dtype="float32", always_2d=True)
    separate(audio[: round(_WARM_UP_S * rate_hz)])
    begun = time.perf_counter()
    audio, rate_hz = soundfile.read(track, dtype="float32", always_2d=True)
    with tempfile.TemporaryDirectory() as folder:
        for stem, made in separate(audio).items():
            soundfile.write(Path(folder) / f"{stem}.flac", made, rate_hz)
    return {"job": time.perf_counter() - begun, "peak_mb": peak_mb()}


@contextlib.contextmanager
def _timed(owner: Any, attribute: str, add: Callable[[float], None]) -> Iterator[None]:
    """Meanwhile, give the processor time of a function's calls, or of the items that it generates, to ``add``."""
    original = getattr(owner, attribute)

    def timed(*arguments: Any, **named: Any) -> Any:
        begun = time.thread_time()
        result = original(*arguments, **named)
        add(time.thread_time() - begun)
        return each(result) if isinstance(result, Iterator) else result

    def each(items: Iterator[Any]) -> Iterator[Any]:
        while True:
            begun = time.thread_time()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                add(time.thread_time() - begun)
            yield item

    setattr(owner, attribute, timed)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


@torch.inference_mode()
def _networks(track: Path, name: str, threads: int) -> Result:
    """The four networks alone: fp32 over the whole track at once, and ours."""
    if threads:
        torch.set_num_threads(threads)
    model = ModelStore().find(name)
    plain = loading.targets(model)
    small = [int8.Int8Network(int8.quantize(net)) for net in plain.values()]
    audio, _ = soundfile.read(track, dtype="float32", always_2d=True)
    loudness = magnitudes(torch.cat(list(stft([torch.from_numpy(audio).T]))))
    upstream = loudness.permute(1, 2, 0)[None].contiguous()  # (1, 2, BINS, frames)

    def fp32() -> None:
        for net in plain.values():
            net(upstream.clone())

    def ours() -> None:
        encode = torch.inference_mode()(int8.Int8Network.encode)
        mask = torch.inference_mode()(int8.Int8Network.mask)
        with ThreadPoolExecutor(torch.get_num_threads(), "", torch.set_num_threads, (1,)) as workers:
            parts = torch.split(loudness, 300)
            blocks = (list(workers.map(encode, small, [part] * len(small))) for part in parts)
            for chunk in through_lstms(small, blocks, Grid(), workers):
                for first in range(0, len(chunk), 300):
                    part = chunk[first : first + 300]
                    masks = torch.empty(len(small), len(part), *loudness.shape[1:])
                    list(workers.map(mask, small, part.features, part.hidden, masks))

    # Every int8 weight is one multiplication a frame.
    macs = sum(value.numel() for net in plain.values() for value in int8.quantize(net).values() if value.dtype == torch.int8)
    times = {"fp32": _best(fp32), "int8": _best(ours)}
    gmac_s = macs * len(loudness) / times["int8"] / 1e9
    return {**times, "gmac_s": gmac_s, "peak_gmac_s": _peak_gmac_s()}


def _peak_gmac_s() -> float:
    """What this machine's processors do at best in oneDNN's ``uint8 @ int8``."""
    size, rows = 2048, 4096
    weight = torch.ops.onednn.qlinear_prepack(torch.randint(-127, 128, (size, size), dtype=torch.int8), None)
    x = torch.randint(0, 256, (rows, size), dtype=torch.uint8)
    steps, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int32)
    seconds = _best(lambda: torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, weight, steps, zeros, None, 1.0, 0, torch.float32, "none", [], ""), runs=5)  # fmt: skip
    return rows * size * size / seconds / 1e9


def _best(function: Callable[[], object], runs: int = 3) -> float:
    function()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


_WORK: dict[str, Callable[[Path, str, int], Result]] = {"reference": _reference, "ours": _ours, "networks": _networks}

if __name__ == "__main__":
    main()
