"""Score a model: plain SDR in decibels per target, beside the unseparated mixture's.

MODEL is a folder of <target>.pth files or a checkpoint of train. It is scored on the six seconds of MUSDB18's test
track "Falcon 69" that the stempeg package carries, and on every song folder under --songs.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from demixr_daemon.errors import ModelError
from demixr_daemon.separation.openunmix import load_target
from demixr_daemon.separation.stft import HOP_SAMPLES, N_FFT
from models.training.checkpoint import load, restored
from models.training.songs import RATE_HZ, TARGETS, read_stereo, song_folders, stem_file

FALCON_STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}
Sound = NDArray[np.float32]


def falcon_69() -> dict[str, Sound]:
    """The four targets ``(samples, 2)`` of stempeg's excerpt, read without stempeg, which asks for a system ffmpeg."""
    package = importlib.util.find_spec("stempeg")
    folder = Path(str(package.origin)).parent / "data" if package else Path()
    files = sorted(folder.glob("*.stem.mp4"))
    if not files:
        raise FileNotFoundError("the stempeg package and its excerpt are not installed: pip install stempeg")
    stems = {}
    for target, stream in FALCON_STREAMS.items():
        with av.open(str(files[0])) as container:
            frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[stream])]
        stems[target] = np.ascontiguousarray(np.concatenate(frames, axis=1).T, dtype=np.float32)
    return stems


def read_song(folder: Path) -> dict[str, Sound]:
    """The four targets of a song folder, as long as the shortest."""
    stems = {target: read_stereo(path) for target in TARGETS if (path := stem_file(folder, target))}
    if not stems:
        raise FileNotFoundError(f"no song folders in {folder}")
    samples = min(len(stem) for stem in stems.values())
    return {target: stem[:samples] for target, stem in stems.items()}


def load_networks(model: Path, weights: str) -> dict[str, nn.Module]:
    """The networks by target, ready for inference; ``weights`` tells which of a checkpoint's to take."""
    if model.is_dir():
        return {target: load_target(model / f"{target}.pth") for target in TARGETS}
    nets = restored(load(model), weights).nets.eval()
    return {target: nets[target] for target in TARGETS}


def sdr_db(reference: Sound, estimate: Sound) -> float:
    """10 log10 of the reference's energy over the error's."""
    energy, error = float(np.sum(np.square(reference, dtype=np.float64))), reference.astype(np.float64) - estimate
    return 10 * math.log10(energy / (float(np.sum(error**2)) + 1e-12))


@torch.inference_mode()
def separate(nets: Mapping[str, nn.Module], mixture: Sound) -> dict[str, Sound]:
    """Each target ``(samples, 2)``: its magnitudes' share of all magnitudes, with the mixture's phase."""
    window = torch.hann_window(N_FFT)
    spectra = torch.stft(torch.from_numpy(mixture.T.copy()), N_FFT, HOP_SAMPLES, window=window, return_complex=True)
    magnitudes = {target: net(spectra.abs()[None])[0] for target, net in nets.items()}
    total = torch.stack(list(magnitudes.values())).sum(dim=0) + 1e-8
    return {
        target: torch.istft(spectra * (value / total), N_FFT, HOP_SAMPLES, window=window, length=len(mixture)).T.numpy()
        for target, value in magnitudes.items()
    }


def score(nets: Mapping[str, nn.Module], stems: Mapping[str, Sound]) -> dict[str, tuple[float, float]]:
    """Per target that can be judged: SDR of the estimate, SDR of the mixture.

    A silent bass file means that the low notes sit in ``other``: then neither is judged.
    """
    mixture: Sound = np.stack(list(stems.values())).sum(axis=0)
    estimates = separate(nets, mixture)
    silent = {target for target in TARGETS if target not in stems or not np.any(np.abs(stems[target]) > 1e-3)}
    unfit = silent | ({"other"} if "bass" in silent else set())
    judged = [target for target in TARGETS if target not in unfit]
    return {t: (sdr_db(stems[t], estimates[t]), sdr_db(stems[t], mixture)) for t in judged}


def main() -> None:
    """Command line of ``python -m models.training.evaluate``."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="model folder, or checkpoint.pt of a training run")
    parser.add_argument("--songs", nargs="*", default=[], metavar="FOLDER", help="song folders, or folders of them")
    parser.add_argument("--no-falcon", action="store_true", help="leave out the excerpt of stempeg")
    parser.add_argument("--weights", choices=("average", "weights"), default="average",
                        help="which weights of a checkpoint to take (default average)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.0, help="score only the first seconds of each song")
    options = parser.parse_args()
    missing = [path for path in [options.model, *options.songs] if not Path(path).exists()]
    if missing:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    try:
        nets = load_networks(Path(options.model), options.weights)
        tests: list[tuple[str, Callable[[], dict[str, Sound]]]] = []
        if not options.no_falcon:
            tests.append(("Falcon 69 (stempeg)", falcon_69))
        folders = [song for root in options.songs for song in (song_folders(Path(root)) or [Path(root)])]
        tests += [(folder.name, partial(read_song, folder)) for folder in folders]
        for name, read in tests:
            stems = read()
            if options.seconds:
                stems = {target: stem[: int(options.seconds * RATE_HZ)] for target, stem in stems.items()}
            for target, (separated_db, mixture_db) in score(nets, stems).items():
                print(f"{name:24} {target:7} SDR {separated_db:6.2f} dB   unseparated {mixture_db:6.2f} dB", flush=True)
    except (ModelError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
