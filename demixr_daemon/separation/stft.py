"""Short-time Fourier transform and its inverse in a stream, equal to ``torch.stft`` and ``torch.istft``.

Both follow upstream Open-Unmix: 4096-point periodic Hann window, hop 1024, centred frames, reflected edges. Frames lie first
in memory: spectra are ``(frames, channels, bins)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numba
import numpy as np
import torch
from torch import Tensor

from demixr_daemon.separation.decode import Block

N_FFT = 4096
HOP_SAMPLES = 1024
BINS = N_FFT // 2 + 1
_EDGE = N_FFT // 2  # samples reflected at either end, so that frame t is centred on sample t * hop
_TAIL = N_FFT - HOP_SAMPLES  # samples of a frame that later frames overlap
_WINDOW = torch.hann_window(N_FFT)
_INVERSE_FRAMES = 50  # transformed back at a time: their samples stay in the cache


def stft(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks ``(channels, samples)`` in, spectra ``(frames, channels, BINS)`` out; 1 + samples // hop frames in all.

    A track too short to reflect is padded with silence to half a window.
    """
    held: Tensor | None = None
    begun = False
    for block in blocks:
        held = block if held is None else torch.cat([held, block], dim=1)
        if not begun and held.shape[1] > _EDGE:
            held = torch.cat([held[:, 1 : _EDGE + 1].flip(1), held], dim=1)
            begun = True
        if begun and held.shape[1] >= N_FFT:
            frames = held.unfold(1, N_FFT, HOP_SAMPLES)
            yield _spectra(frames)
            held = held[:, frames.shape[1] * HOP_SAMPLES :]
    if held is None:
        return
    if not begun:
        held = torch.nn.functional.pad(held, (0, _EDGE + 1 - held.shape[1]))
        held = torch.cat([held[:, 1 : _EDGE + 1].flip(1), held], dim=1)
    held = torch.cat([held, held[:, -_EDGE - 1 : -1].flip(1)], dim=1)
    yield _spectra(held.unfold(1, N_FFT, HOP_SAMPLES))


def _spectra(frames: Tensor) -> Tensor:
    spectra: Tensor = torch.fft.rfft(frames.transpose(0, 1).clone(memory_format=torch.contiguous_format).mul_(_WINDOW))
    return spectra  # (channels, frames, N) -> (frames, channels, BINS)


def magnitudes(spectra: Tensor) -> Tensor:
    """``spectra.abs()`` of ``(frames, channels, BINS)``, several times as fast."""
    loudness = torch.empty(spectra.shape)
    _magnitudes(spectra.numpy(), loudness.numpy())
    return loudness


class InverseStft:
    """Spectra in, audio out, block by block."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros((channels, _TAIL), np.float32)  # what later frames will add to
        self._energies = np.zeros(_TAIL, np.float32)
        self._to_cut = _EDGE

    def __call__(self, spectra: Tensor) -> Iterator[Block]:
        """Spectra ``(frames, channels, BINS)`` to audio ``(samples, channels)`` that no later frame changes."""
        for part in torch.split(spectra, _INVERSE_FRAMES):
            frames = torch.fft.irfft(part, n=N_FFT).numpy()
            done = len(frames) * HOP_SAMPLES
            self._sums = np.pad(self._sums, ((0, 0), (0, done)))
            self._energies = np.pad(self._energies, (0, done))
            _overlap_add(frames, _WINDOW.numpy(), self._sums, self._energies)
            yield self._finished(done)
            self._sums, self._energies = self._sums[:, done:].copy(), self._energies[done:].copy()

    def rest(self) -> Block:
        """The last samples. They run past the end of the track by up to one window; the caller, who knows its length, cuts."""
        return self._finished(_TAIL)

    def _finished(self, samples: int) -> Block:
        cut = min(self._to_cut, samples)
        self._to_cut -= cut
        audio = np.empty((samples - cut, len(self._sums)), np.float32)
        _divided(self._sums[:, cut:samples], self._energies[cut:samples], audio)
        return audio


_SETTINGS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": True}


@numba.njit("void(complex64[:,:,::1], float32[:,:,::1])", **_SETTINGS)
def _magnitudes(spectra, loudness):  # type: ignore[no-untyped-def]
    for t in range(spectra.shape[0]):
        for c in range(spectra.shape[1]):
            for f in range(spectra.shape[2]):
                z = spectra[t, c, f]
                loudness[t, c, f] = np.sqrt(z.real * z.real + z.imag * z.imag)


@numba.njit("void(float32[:,:,::1], float32[::1], float32[:,::1], float32[::1])", **_SETTINGS)
def _overlap_add(frames, window, sums, energies):  # type: ignore[no-untyped-def]
    """Add windowed frames (frames, channels, N_FFT) to sums (channels, samples), and the window's power to the energies."""
    for t in range(frames.shape[0]):
        first = t * HOP_SAMPLES
        for c in range(frames.shape[1]):
            for n in range(N_FFT):
                sums[c, first + n] += window[n] * frames[t, c, n]
        for n in range(N_FFT):
            energies[first + n] += window[n] * window[n]


@numba.njit("void(float32[:,:], float32[:], float32[:,::1])", **_SETTINGS)
def _divided(sums, energies, audio):  # type: ignore[no-untyped-def]
    for n in range(len(energies)):
        energy = max(energies[n], np.float32(1e-11))
        for c in range(len(sums)):
            audio[n, c] = sums[c, n] / energy
