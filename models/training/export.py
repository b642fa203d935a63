"""Write a checkpoint's networks as a model folder: what Open-Unmix's training writes, with int8 weight matrices."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from demixr_daemon.separation.stft import HOP_SAMPLES, N_FFT
from models.training.checkpoint import load, restored
from models.training.joint import BANDWIDTH_HZ
from models.training.songs import RATE_HZ, TARGETS


def packed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` with each float matrix as int8 under its name and its step size, a scalar, under ``<name>.scale``."""
    result: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if value.dtype.is_floating_point and value.ndim == 2:
            scale = value.abs().max().clamp(min=1e-12) / 127
            result[name] = torch.round(value / scale).clamp(-127, 127).to(torch.int8)
            result[f"{name}.scale"] = scale.clone()
        else:
            result[name] = value.clone()
    return result


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file that then takes the place of ``path`` at once."""
    temporary = path.with_name(f".{path.name}.new")
    write(temporary)
    temporary.replace(path)


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")


def _settings(hidden_size: int) -> dict[str, Any]:
    return {
        "args": {
            "hidden_size": hidden_size,
            "nb_channels": 2,
            "nfft": N_FFT,
            "nhop": HOP_SAMPLES,
            "bandwidth": BANDWIDTH_HZ,
            "unidirectional": False,
        }
    }


def export(chosen: dict[str, tuple[Path, str]], folder: Path, niter: int = 1) -> int:
    """Write the model; ``chosen`` gives each target's checkpoint and kind of weights. The bytes written.

    :param niter: iterations of the Wiener EM that it does best with; 0 for ratio masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    separator = {"nfft": N_FFT, "nhop": HOP_SAMPLES, "nb_channels": 2, "sample_rate": RATE_HZ, "niter": niter}
    for target, (checkpoint, weights) in chosen.items():
        nets = restored(load(checkpoint), weights)
        state = packed(nets.nets[target].state_dict())
        settings = _settings(nets.hidden_size)
        _replace(folder / f"{target}.pth", partial(torch.save, state))
        _replace(folder / f"{target}.json", partial(_write_json, settings))
    _replace(folder / "separator.json", partial(_write_json, separator))
    sums = {f"{target}.pth": hashlib.sha256((folder / f"{target}.pth").read_bytes()).hexdigest() for target in sorted(chosen)}
    _replace(folder / "SHA256SUMS", lambda path: path.write_text("".join(f"{h}  {name}\n" for name, h in sums.items())))
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".pth", ".json"))


def main() -> None:
    """Command line of ``python -m models.training.export``."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint.pt of a training run")
    parser.add_argument("folder", help="model folder to write, such as models/demixr-small")
    parser.add_argument("--weights", choices=("average", "weights"), default="average",
                        help="the weights' moving average, or the last ones (default average)")  # fmt: skip
    for target in TARGETS:
        parser.add_argument(f"--{target}", metavar="CHECKPOINT[:KIND]", help=f"take {target} from another checkpoint")
    parser.add_argument("--niter", type=int, choices=range(11), default=1, metavar="N",
                        help="iterations of the Wiener EM that it does best with; 0: ratio masks (default 1)")  # fmt: skip
    options = parser.parse_args()
    chosen: dict[str, tuple[Path, str]] = {}
    for target in TARGETS:
        path, _, kind = (getattr(options, target) or options.checkpoint).partition(":")
        chosen[target] = (Path(path), kind or options.weights)
        if not Path(path).is_file():
            parser.error(f"no such checkpoint: {path}")
        if chosen[target][1] not in ("average", "weights"):
            parser.error(f"--{target}: the kind after the colon is average or weights")
    size = export(chosen, Path(options.folder), options.niter)
    print(f"{options.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
