"""Short-time Fourier transform and its inverse in a stream, equal to ``torch.stft`` and ``torch.istft``.

Both follow upstream Open-Unmix: 4096-point periodic Hann window, hop 1024, centred frames, reflected edges. Frames lie first
in memory: spectra are ``(frames, channels, bins)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demixr_daemon.separation.compiled import SETTINGS

Stems = NDArray[np.float32]
"""Blocks of all targets, (samples, targets, channels)."""

N_FFT = 4096
HOP_SAMPLES = 1024
BINS = N_FFT // 2 + 1
_EDGE = N_FFT // 2  # samples reflected at either end, so that frame t is centred on sample t * hop
_TAIL = N_FFT - HOP_SAMPLES  # samples of a frame that later frames overlap
_WINDOW = torch.hann_window(N_FFT)


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


def add_frames(spectra: Tensor, sums: NDArray[np.float32], first: int) -> None:
    """Transform frames back, window them and add them where they belong.

    :param spectra: (targets, frames, channels, BINS).
    :param sums: as :func:`room` gives.
    :param first: which frame of ``sums`` the first one is.
    """
    _overlap_add(torch.fft.irfft(spectra, n=N_FFT).numpy(), _WINDOW.numpy(), sums[..., first * HOP_SAMPLES :])


def room(targets: int, channels: int, frames: int) -> NDArray[np.float32]:
    """Zeros for the windowed sum of so many frames, ``(targets, channels, samples)``."""
    return np.zeros((targets, channels, frames * HOP_SAMPLES + _TAIL), np.float32)


class InverseStft:
    """What :func:`add_frames` gave in, audio out, block by block."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float32] | None = None  # what later frames will add to
        self._energies = np.zeros(_TAIL, np.float32)
        self._to_cut = _EDGE

    def __call__(self, sums: NDArray[np.float32]) -> Stems:
        """The sums of the next frames to the samples that no later frame changes, ``(samples, targets, channels)``."""
        done = sums.shape[2] - _TAIL
        energies = np.zeros(sums.shape[2], np.float32)
        _add_energies(_WINDOW.numpy(), done // HOP_SAMPLES, energies)
        if self._sums is not None:
            sums[..., :_TAIL] += self._sums
            energies[:_TAIL] += self._energies
        self._sums, self._energies = sums[..., done:].copy(), energies[done:]
        return self._finished(sums[..., :done], energies[:done])

    def rest(self) -> Stems | None:
        """The last samples, None if there was nothing at all.

        They run past the end of the track by up to one window; the caller, who knows its length, cuts.
        """
        return None if self._sums is None else self._finished(self._sums, self._energies)

    def _finished(self, sums: NDArray[np.float32], energies: NDArray[np.float32]) -> Stems:
        cut = min(self._to_cut, len(energies))
        self._to_cut -= cut
        targets, channels, samples = sums.shape
        audio = np.empty((targets, samples - cut, channels), np.float32)
        _divided(sums[..., cut:], energies[cut:], audio)
        return audio.transpose(1, 0, 2)  # in memory one target after the other, as files want them


@numba.njit("void(complex64[:,:,::1], float32[:,:,::1])", fastmath=True, **SETTINGS)
def _magnitudes(spectra, loudness):  # type: ignore[no-untyped-def]
    for t in range(spectra.shape[0]):
        for c in range(spectra.shape[1]):
            for f in range(spectra.shape[2]):
                z = spectra[t, c, f]
                loudness[t, c, f] = np.sqrt(z.real * z.real + z.imag * z.imag)


@numba.njit("void(float32[:,:,:,::1], float32[::1], float32[:,:,:])", fastmath=True, **SETTINGS)
def _overlap_add(frames, window, sums):  # type: ignore[no-untyped-def]
    """Add windowed frames (targets, frames, channels, N_FFT) to sums (targets, channels, samples)."""
    for j in range(frames.shape[0]):
        for t in range(frames.shape[1]):
            for c in range(frames.shape[2]):
                place = sums[j, c, t * HOP_SAMPLES : t * HOP_SAMPLES + N_FFT]
                frame = frames[j, t, c]
                for n in range(N_FFT):
                    place[n] += window[n] * frame[n]


@numba.njit("void(float32[::1], intp, float32[::1])", fastmath=True, **SETTINGS)
def _add_energies(window, frames, energies):  # type: ignore[no-untyped-def]
    """Add the power of so many windows to the energies."""
    for t in range(frames):
        for n in range(N_FFT):
            energies[t * HOP_SAMPLES + n] += window[n] * window[n]


@numba.njit("void(float32[:,:,:], float32[:], float32[:,:,::1])", fastmath=True, **SETTINGS)
def _divided(sums, energies, audio):  # type: ignore[no-untyped-def]
    for j in range(audio.shape[0]):
        for n in range(audio.shape[1]):
            energy = max(energies[n], np.float32(1e-11))
            for c in range(audio.shape[2]):
                audio[j, n, c] = sums[j, c, n] / energy
