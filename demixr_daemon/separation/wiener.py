"""Multichannel Wiener filtering by expectation maximization, as upstream Open-Unmix defines it, in fused kernels.

Source of the formulas: ``openunmix.filtering.wiener`` 1.3 and the papers it names, chiefly A. Nugraha, A. Liutkus,
E. Vincent, "Multichannel music separation with deep neural networks", EUSIPCO 2016. Upstream builds every intermediate
as a whole array; here one frequency is a few scalars, and the 2x2 algebra is done in double precision, so that two
channels that are alike (a rank-one covariance) are no trouble.

Per bin and window, with the mixture x(t), estimates y_j(t) = m_j(t) x(t), and p_j(t) the mean power of y_j over the channels:

    R_j    = sum_t y_j y_j^H / (eps + sum_t p_j)
    C(t)   = sqrt(eps) I + sum_j p_j R_j
    y_j(t) = p_j R_j C^-1 x(t), which replaces the estimate

Estimates are made of the masks, which take half their room, wherever they are needed: a few frames of them stay in the
processor's cache, those of a whole window do not.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from demixr_daemon.separation.compiled import SETTINGS

Masks = NDArray[np.float32]
Spectra = NDArray[np.complex64]
Covariances = NDArray[np.float64]
"""(targets, 4, bins): of each Hermitian 2x2 matrix the two diagonals, then the real and the imaginary part of its corner."""

WINDOW_FRAMES = 300
"""Upstream filters excerpts of this many frames, counted from the start of the track, each on its own."""

_EPS = 1e-10  # upstream's ``eps``: the energy of the white noise that is taken out
_HEADROOM = 10.0  # upstream's ``scale_factor``: mixtures louder than this are scaled down for the regularization
_BINS_AT_ONCE = 64
_FRAMES_AT_ONCE = 5


def masked(masks: Masks, mixture: Spectra) -> Spectra:
    """The mixture ``(frames, 2, bins)`` through real masks of that shape."""
    estimate = np.empty_like(mixture)
    _mask(masks, mixture, estimate)
    return estimate


def covariances(targets: int, bins: int) -> Covariances:
    """Zeros, to be added to."""
    return np.zeros((targets, 4, bins))


def add(covariance: NDArray[np.float64], estimate: Spectra) -> None:
    """Add the sum of y y^H over some frames to one target's ``(4, bins)``.

    :param estimate: (frames, 2, bins).
    """
    _add(covariance, estimate)


class Window:
    """The filter of one window.

    :param masks: what each network lets pass, real, (targets, frames, 2, bins).
    :param mixture: (frames, 2, bins).
    :param sums: of every frame's estimates, by :func:`add`; changed. Not looked at without iterations.
    :param iterations: EM steps.
    :param ratio: without any, divide each mask by the sum of all, which upstream calls ``softmask``.
    """

    def __init__(
        self, masks: Masks, mixture: Spectra, sums: Covariances, iterations: int = 1, *, ratio: bool = False
    ) -> None:
        self.count = len(masks)
        self._masks = masks
        self._mixture = mixture
        self._ratio = ratio and not iterations
        self._filters: list[Covariances] = []
        if iterations:
            self._power_scale = max(1.0, math.sqrt(_largest_power(mixture)) / _HEADROOM) ** -2
            self._add_filter(sums)
        for _ in range(iterations - 1):
            sums = np.zeros_like(sums)
            for first in range(0, len(mixture), _FRAMES_AT_ONCE):
                for covariance, target in zip(sums, self.targets(slice(first, first + _FRAMES_AT_ONCE)), strict=True):
                    add(covariance, target)
            self._add_filter(sums)

    def _add_filter(self, sums: Covariances) -> None:
        _normalize(sums, self._power_scale)
        self._filters.append(sums)

    def targets(self, frames: slice) -> Spectra:
        """The targets ``(targets, frames, 2, bins)`` in some frames of the window."""
        mixture = self._mixture[frames]
        targets = np.empty((self.count, *mixture.shape), np.complex64)
        masks = self._masks[:, frames]
        if self._ratio:
            masks = masks / np.maximum(masks.sum(axis=0), np.float32(_EPS))
        for mask, target in zip(masks, targets, strict=True):
            _mask(mask, mixture, target)
        for step in self._filters:
            _filter(targets, mixture, step, self._power_scale)
        return targets


@numba.njit("void(float32[:,:,::1], complex64[:,:,::1], complex64[:,:,::1])", **SETTINGS)
def _mask(masks, x, y):  # type: ignore[no-untyped-def]
    for t in range(x.shape[0]):
        for c in range(x.shape[1]):
            for f in range(x.shape[2]):
                y[t, c, f] = masks[t, c, f] * x[t, c, f]


@numba.njit("float64(complex64[:,:,::1])", fastmath=True, **SETTINGS)
def _largest_power(x):  # type: ignore[no-untyped-def]
    largest = np.float32(0.0)
    for t in range(x.shape[0]):
        for c in range(x.shape[1]):
            for f in range(x.shape[2]):
                z = x[t, c, f]
                largest = max(largest, z.real * z.real + z.imag * z.imag)
    return largest


@numba.njit("void(float64[:,::1], complex64[:,:,::1])", **SETTINGS)
def _add(sums, y):  # type: ignore[no-untyped-def]
    for t in range(y.shape[0]):
        for f in range(y.shape[2]):
            a = y[t, 0, f]
            b = y[t, 1, f]
            sums[0, f] += a.real * a.real + a.imag * a.imag
            sums[1, f] += b.real * b.real + b.imag * b.imag
            sums[2, f] += a.real * b.real + a.imag * b.imag
            sums[3, f] += a.imag * b.real - a.real * b.imag


@numba.njit("void(float64[:,:,::1], float64)", **SETTINGS)
def _normalize(sums, power_scale):  # type: ignore[no-untyped-def]
    """From sums over the frames to R_j, in place."""
    for j in range(len(sums)):
        for f in range(sums.shape[2]):
            norm = power_scale / (_EPS + 0.5 * power_scale * (sums[j, 0, f] + sums[j, 1, f]))
            for part in range(4):
                sums[j, part, f] *= norm


@numba.njit("void(complex64[:,:,:,::1], complex64[:,:,::1], float64[:,:,::1], float64)", fastmath={"contract"}, **SETTINGS)
def _filter(y, x, r, power_scale):  # type: ignore[no-untyped-def]
    """Filter the estimates ``y`` (targets, frames, 2, bins) of the mixture ``x`` (frames, 2, bins), in place.

    :param r: R_j, (targets, 4, bins).
    """
    count, frames, _, bins = y.shape
    floor = np.sqrt(_EPS)
    power = np.empty((count, _BINS_AT_ONCE))
    c00 = np.empty(_BINS_AT_ONCE)
    c11 = np.empty(_BINS_AT_ONCE)
    cre = np.empty(_BINS_AT_ONCE)
    cim = np.empty(_BINS_AT_ONCE)
    for t in range(frames):
        for first in range(0, bins, _BINS_AT_ONCE):
            at = slice(first, min(first + _BINS_AT_ONCE, bins))  # indices from 0 up are what the compiler can vectorize
            x0, x1 = x[t, 0, at], x[t, 1, at]
            c00[:] = floor
            c11[:] = floor
            cre[:] = 0.0
            cim[:] = 0.0
            for j in range(count):
                y0, y1, p = y[j, t, 0, at], y[j, t, 1, at], power[j]
                r00, r11, rre, rim = r[j, 0, at], r[j, 1, at], r[j, 2, at], r[j, 3, at]
                for k in range(len(x0)):
                    a = y0[k]
                    b = y1[k]
                    p[k] = 0.5 * power_scale * (a.real * a.real + a.imag * a.imag + b.real * b.real + b.imag * b.imag)
                    c00[k] += p[k] * r00[k]
                    c11[k] += p[k] * r11[k]
                    cre[k] += p[k] * rre[k]
                    cim[k] += p[k] * rim[k]
            # z = C^-1 x, kept in the arrays of C: (c00 + i c11) is z_0, (cre + i cim) is z_1
            for k in range(len(x0)):
                inverse = 1.0 / (c00[k] * c11[k] - cre[k] * cre[k] - cim[k] * cim[k])
                a = x0[k]
                b = x1[k]
                re0 = (c11[k] * a.real - cre[k] * b.real + cim[k] * b.imag) * inverse
                im0 = (c11[k] * a.imag - cre[k] * b.imag - cim[k] * b.real) * inverse
                re1 = (c00[k] * b.real - cre[k] * a.real - cim[k] * a.imag) * inverse
                im1 = (c00[k] * b.imag - cre[k] * a.imag + cim[k] * a.real) * inverse
                c00[k] = re0
                c11[k] = im0
                cre[k] = re1
                cim[k] = im1
            for j in range(count):
                y0, y1, p = y[j, t, 0, at], y[j, t, 1, at], power[j]
                r00, r11, rre, rim = r[j, 0, at], r[j, 1, at], r[j, 2, at], r[j, 3, at]
                for k in range(len(x0)):
                    y0[k] = complex(
                        p[k] * (r00[k] * c00[k] + rre[k] * cre[k] - rim[k] * cim[k]),
                        p[k] * (r00[k] * c11[k] + rre[k] * cim[k] + rim[k] * cre[k]),
                    )
                    y1[k] = complex(
                        p[k] * (rre[k] * c00[k] + rim[k] * c11[k] + r11[k] * cre[k]),
                        p[k] * (rre[k] * c11[k] - rim[k] * c00[k] + r11[k] * cim[k]),
                    )
