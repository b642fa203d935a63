"""Short-time Fourier transform and its inverse in a stream, equal to ``torch.stft`` and ``torch.istft``.

Both follow upstream Open-Unmix: 4096-point periodic Hann window, hop 1024, centred frames, reflected edges. Frames lie first
in memory: spectra are ``(frames, channels, bins)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

N_FFT = 4096
HOP_SAMPLES = 1024
BINS = N_FFT // 2 + 1
_EDGE = N_FFT // 2  # samples reflected at either end, so that frame t is centred on sample t * hop
_OVERLAP = N_FFT // HOP_SAMPLES


def stft(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks ``(channels, samples)`` in, spectra ``(frames, channels, BINS)`` out; 1 + samples // hop frames in all.

    A track too short to reflect is padded with silence to half a window.
    """
    window = torch.hann_window(N_FFT)
    held: Tensor | None = None
    begun = False
    for block in blocks:
        held = block if held is None else torch.cat([held, block], dim=1)
        if not begun and held.shape[1] > _EDGE:
            held = torch.cat([held[:, 1 : _EDGE + 1].flip(1), held], dim=1)
            begun = True
        if begun and held.shape[1] >= N_FFT:
            frames = held.unfold(1, N_FFT, HOP_SAMPLES)
            yield _spectra(frames, window)
            held = held[:, frames.shape[1] * HOP_SAMPLES :]
    if held is None:
        return
    if not begun:
        held = torch.nn.functional.pad(held, (0, _EDGE + 1 - held.shape[1]))
        held = torch.cat([held[:, 1 : _EDGE + 1].flip(1), held], dim=1)
    held = torch.cat([held, held[:, -_EDGE - 1 : -1].flip(1)], dim=1)
    yield _spectra(held.unfold(1, N_FFT, HOP_SAMPLES), window)


def _spectra(frames: Tensor, window: Tensor) -> Tensor:
    spectra: Tensor = torch.fft.rfft(frames.transpose(0, 1) * window)
    return spectra  # (channels, frames, N) -> (frames, channels, BINS)


def istft(spectra: Iterable[Tensor]) -> Iterator[Tensor]:
    """Spectra ``(frames, ..., BINS)`` in, audio ``(..., samples)`` out.

    The last block runs past the end of the track, by up to one window: the caller, who knows its length, cuts it off.
    """
    window = torch.hann_window(N_FFT)
    energy = (window**2).reshape(_OVERLAP, HOP_SAMPLES)
    tail: Tensor | None = None  # the last hops, still waiting for frames that overlap them: (hops, ..., hop)
    tail_energy = torch.zeros(_OVERLAP - 1, HOP_SAMPLES)
    to_cut = _EDGE

    def finished(hops: Tensor, energies: Tensor) -> Tensor:
        nonlocal to_cut
        divisor = energies.clamp(min=1e-11).reshape(len(energies), *(1,) * (hops.dim() - 2), HOP_SAMPLES)
        audio = (hops / divisor).movedim(0, -2).flatten(-2)  # (hops, ..., hop) -> (..., samples)
        cut = min(to_cut, audio.shape[-1])
        to_cut -= cut
        return audio[..., cut:]

    for block in spectra:
        parts = (torch.fft.irfft(block, n=N_FFT) * window).unflatten(-1, (_OVERLAP, HOP_SAMPLES))
        count = len(parts)
        hops = parts.new_zeros(count + _OVERLAP - 1, *parts.shape[1:-2], HOP_SAMPLES)
        energies = torch.zeros(count + _OVERLAP - 1, HOP_SAMPLES)
        if tail is not None:
            hops[: _OVERLAP - 1] = tail
        energies[: _OVERLAP - 1] = tail_energy
        for k in range(_OVERLAP):
            hops[k : k + count] += parts[..., k, :]
            energies[k : k + count] += energy[k]
        tail, tail_energy = hops[count:].clone(), energies[count:].clone()
        yield finished(hops[:count], energies[:count])
    if tail is not None:
        yield finished(tail, tail_energy)
