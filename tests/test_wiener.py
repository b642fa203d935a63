"""The fused kernels are upstream's filter."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from demixr_daemon.separation import openunmix
from demixr_daemon.separation.wiener import Window, add, covariances, masked


def upstream(
    magnitudes: NDArray[np.float32], mixture: NDArray[np.complex64], iterations: int, **options: bool
) -> NDArray[np.complex128]:
    """``openunmix.filtering.wiener`` in double precision, in our layout."""
    openunmix.network(4)  # imports the package the way that works without torchaudio
    from openunmix.filtering import wiener as reference

    estimates = torch.from_numpy(magnitudes).permute(1, 3, 2, 0).double()  # (frames, bins, channels, targets)
    mix = torch.view_as_real(torch.from_numpy(mixture)).permute(0, 2, 1, 3).double()  # (frames, bins, channels, 2)
    out = reference(estimates, mix, iterations, **options)  # (frames, bins, channels, 2, targets)
    result: NDArray[np.complex128] = torch.view_as_complex(out.permute(4, 0, 2, 1, 3).contiguous()).numpy()
    return result


def mixture(frames: int, loudness: float, *, dual_mono: bool = False) -> NDArray[np.complex64]:
    rng = np.random.default_rng(frames)
    x = (rng.standard_normal((frames, 2, 130)) + 1j * rng.standard_normal((frames, 2, 130))) * loudness
    x[:, 1] = x[:, 0] if dual_mono else 0.6 * x[:, 0] + 0.4 * x[:, 1]
    x[1 % frames] = 0  # digital silence
    return x.astype(np.complex64)


def ours(
    magnitudes: NDArray[np.float32], x: NDArray[np.complex64], iterations: int, *, residual: bool = False, ratio: bool = False
) -> NDArray[np.complex64]:
    masks = (magnitudes / np.maximum(np.abs(x), 1e-30)).astype(np.float32)
    if residual:
        masks = np.concatenate([masks, 1 - masks.sum(0, keepdims=True)])
    sums = covariances(len(masks), x.shape[2])
    for part in (slice(0, 7), slice(7, None)):
        for target, mask in enumerate(masks):
            add(sums[target], masked(mask[part], x[part]))
    window = Window(masks, x, sums, iterations, ratio=ratio)
    return np.concatenate([window.targets(slice(first, first + 9)) for first in range(0, len(x), 9)], axis=1)


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("loudness", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("frames", [1, 40])
def test_equals_upstream(iterations: int, loudness: float, frames: int) -> None:
    x = mixture(frames, loudness)
    magnitudes = np.abs(x) * np.random.default_rng(1).random((4, *x.shape), np.float32)
    expected = upstream(magnitudes, x, iterations)
    assert np.linalg.norm(ours(magnitudes, x, iterations) - expected) <= 1e-4 * np.linalg.norm(expected)


def test_equals_upstream_on_two_equal_channels() -> None:
    x = mixture(40, 30.0, dual_mono=True)
    magnitudes = np.abs(x) * np.random.default_rng(2).random((4, *x.shape), np.float32)
    expected = upstream(magnitudes, x, 1)
    assert np.linalg.norm(ours(magnitudes, x, 1) - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("targets", [1, 3])
def test_residual_is_upstreams(targets: int) -> None:
    x = mixture(40, 30.0)
    x[1] = x[2]  # upstream's atan2 writes 1 into silent bins of its input, which then show up in the residual
    magnitudes = np.abs(x) * np.random.default_rng(4).random((targets, *x.shape), np.float32)
    expected = upstream(magnitudes, x, 1, residual=True)
    separated = ours(magnitudes, x, 1, residual=True)
    assert len(separated) == targets + 1
    assert np.linalg.norm(separated - expected) <= 1e-4 * np.linalg.norm(expected)


def test_ratio_is_upstreams_softmask() -> None:
    x = mixture(40, 30.0)
    magnitudes = np.abs(x) * np.random.default_rng(4).random((4, *x.shape), np.float32)
    magnitudes[:, 7] = 0
    expected = upstream(magnitudes, x, 0, softmask=True)
    separated = ours(magnitudes, x, 0, ratio=True)
    assert np.linalg.norm(separated - expected) <= 1e-4 * np.linalg.norm(expected)
    assert not np.any(separated[:, 7])


def test_targets_of_the_em_sum_to_the_mixture() -> None:
    x = mixture(40, 1.0)
    magnitudes = np.abs(x) * np.random.default_rng(3).random((4, *x.shape), np.float32)
    assert np.abs(ours(magnitudes, x, 1).sum(axis=0) - x).max() < 1e-3


def test_silence_stays_silent() -> None:
    x = np.zeros((5, 2, 130), np.complex64)
    assert not np.any(ours(np.zeros((4, *x.shape), np.float32), x, 1))
