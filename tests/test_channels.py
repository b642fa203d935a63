"""Mixdown and resampling."""

import numpy as np
import pytest

from demixr_daemon.separation.channels import Resampler, downmix_matrix
from tests.made_song import made_mixture


def test_stereo_is_left_alone() -> None:
    np.testing.assert_array_equal(downmix_matrix(("FL", "FR")), np.eye(2))


def test_mono_goes_into_both() -> None:
    np.testing.assert_array_equal(downmix_matrix(("FC",)), [[1, 1]])


def test_surround_follows_bs775() -> None:
    """Fronts whole, centre and surrounds 3 dB down, no LFE; then scaled so that nothing can overload."""
    matrix = downmix_matrix(("FL", "FR", "FC", "LFE", "BL", "BR"))
    k = 0.5**0.5
    np.testing.assert_allclose(matrix * (1 + 2 * k), [[1, 0], [0, 1], [k, k], [0, 0], [k, 0], [0, k]], atol=1e-6)


@pytest.mark.parametrize("layout", [("FL", "FR", "FC"), ("FL", "FR", "BL", "BR"), ("?",) * 5, ("FL", "FR", "FC", "BC"),
                                    ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), ("FL", "FLC", "FR", "FRC")])  # fmt: skip
def test_both_sides_weigh_the_same_and_cannot_overload(layout: tuple[str, ...]) -> None:
    left, right = downmix_matrix(layout).sum(axis=0)
    assert left == pytest.approx(right)
    assert 0 < left <= 1 + 1e-6


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000, 96000, 192000])
@pytest.mark.parametrize("samples", [1, 1000, 70_001])
def test_there_and_back_keeps_time_and_band(rate_hz: int, samples: int) -> None:
    """Blocks come back where they were; a tone inside the band of both rates survives."""
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(samples) / rate_hz).astype(np.float32)[:, None]
    there, back = Resampler(rate_hz, 44100, 1), Resampler(44100, rate_hz, 1)
    parts = [back(there(tone[start : start + 4096])) for start in range(0, samples, 4096)]
    parts += [back(there(tone[:0], last=True)), back(tone[:0], last=True)]
    out = np.concatenate(parts)
    assert abs(len(out) - samples) <= 1 + rate_hz // 44100
    if samples > 10_000:
        inner = slice(2000, -2000)
        np.testing.assert_allclose(out[:samples][inner], tone[: len(out)][inner], atol=1e-3)


def test_equal_rates_are_no_work() -> None:
    block = made_mixture(0.1)
    assert Resampler(44100, 44100, 2)(block) is block
