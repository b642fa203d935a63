"""The streaming transform is torch's, whatever the blocks."""

import numpy as np
import pytest
import torch

from demixr_daemon.separation.stft import BINS, HOP_SAMPLES, N_FFT, InverseStft, add_frames, magnitudes, room, stft


@pytest.mark.parametrize(("samples", "block"), [
    (2049, 1), (2049, 700), (2049, 65_536), (4096, 1), (4096, 700), (4096, 65_536), (50_000, 700), (50_000, 65_536),
])  # fmt: skip
def test_equals_torch(samples: int, block: int) -> None:
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    ours = torch.cat(list(stft(audio.split(block, 1))))
    whole = torch.stft(audio, N_FFT, HOP_SAMPLES, window=torch.hann_window(N_FFT), return_complex=True)
    assert ours.shape == (1 + samples // HOP_SAMPLES, 2, BINS)
    torch.testing.assert_close(ours, whole.permute(2, 0, 1))


@pytest.mark.parametrize("samples", [1, 100, 2048, 2049, 10_000])
@pytest.mark.parametrize("frames", [1, 2, 7, 300])
def test_inverse_gives_the_audio_back(samples: int, frames: int) -> None:
    audio = torch.randn(3, samples, generator=torch.Generator().manual_seed(samples))
    inverse = InverseStft()
    spectra = torch.cat(list(stft(audio.split(333, 1))))
    blocks = []
    for part in spectra.split(frames):
        sums = room(1, 3, len(part))
        for first in range(0, len(part), 4):
            add_frames(part[None, first : first + 4], sums, first)
        blocks.append(inverse(sums))
    back = np.concatenate([*blocks, inverse.rest()])
    assert len(back) >= samples
    np.testing.assert_allclose(back[:samples, 0], audio.T, atol=1e-5)


def test_no_audio_no_frames() -> None:
    assert list(stft([])) == []


def test_magnitudes_are_absolute_values() -> None:
    spectra = torch.randn(3, 2, BINS, dtype=torch.complex64)
    torch.testing.assert_close(magnitudes(spectra), spectra.abs())
