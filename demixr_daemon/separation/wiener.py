"""Multichannel Wiener filtering by expectation maximization, as upstream Open-Unmix defines it, in one fused kernel.

Source of the formulas: ``openunmix.filtering.wiener`` 1.3 and the papers it names, chiefly A. Nugraha, A. Liutkus,
E. Vincent, "Multichannel music separation with deep neural networks", EUSIPCO 2016. Upstream builds every intermediate
as a whole array; here one frequency is a few scalars, and the 2x2 algebra is done in double precision, so that two
channels that are alike (a rank-one covariance) are no trouble.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numba
import numpy as np
from numpy.typing import NDArray

Spectra = NDArray[np.complex64]

WINDOW_FRAMES = 300
"""Upstream filters excerpts of this many frames, counted from the start of the track, each on its own."""

_EPS = 1e-10  # upstream's ``eps``: the energy of the white noise that is taken out
_HEADROOM = 10.0  # upstream's ``scale_factor``: mixtures louder than this are scaled down for the regularization
_BINS_A_TASK = 64


def wiener(
    targets: Spectra, mixture: Spectra, iterations: int = 1, *, residual: bool = False, workers: Executor | None = None
) -> None:
    """Separate one window, in place.

    :param targets: the networks' estimates with the mixture's phase, (targets, frames, 2, bins).
    :param mixture: (frames, 2, bins).
    :param iterations: EM steps; 0 leaves the estimates as they are.
    :param residual: the last target has no estimate: it begins as what the others leave of the mixture.
    :param workers: share the work; the result does not depend on it.
    """
    if residual:
        targets[-1] = mixture
        for target in targets[:-1]:
            targets[-1] -= target
    if iterations:
        mixture = np.ascontiguousarray(mixture)
        scale = max(1.0, math.sqrt(_largest_power(mixture)) / _HEADROOM)

        def em(first: int) -> None:
            for _ in range(iterations):
                _em_step(targets, mixture, 1.0 / (scale * scale), first)

        list((workers.map if workers else map)(em, range(0, mixture.shape[2], _BINS_A_TASK)))




@numba.njit("float64(complex64[:,:,::1])", cache=True, nogil=True, fastmath=True)
def _largest_power(x):  # type: ignore[no-untyped-def]
    largest = np.float32(0.0)
    for t in range(x.shape[0]):
        for c in range(x.shape[1]):
            for f in range(x.shape[2]):
                z = x[t, c, f]
                largest = max(largest, z.real * z.real + z.imag * z.imag)
    return largest


@numba.njit("void(complex64[:,:,:,::1], complex64[:,:,::1], float64, intp)", cache=True, nogil=True, error_model="numpy")
def _em_step(y, x, power_scale, first):  # type: ignore[no-untyped-def]
    """One EM step on the targets ``y`` (targets, frames, 2, bins), in place; ``x`` is the mixture (frames, 2, bins).

    Done for the bins of one task, from ``first`` on.

    Per bin, with p_j(t) the mean power of target j over the channels:
        R_j    = sum_t y_j y_j^H / (eps + sum_t p_j)
        C(t)   = sqrt(eps) I + sum_j p_j R_j
        y_j(t) = p_j R_j C^-1 x(t)
    """
    count, frames, _, bins = y.shape
    floor = np.sqrt(_EPS)
    width = min(_BINS_A_TASK, bins - first)
    # R_j is Hermitian: two real diagonals and one complex corner
    r00 = np.zeros((count, width))
    r11 = np.zeros((count, width))
    re01 = np.zeros((count, width))
    im01 = np.zeros((count, width))
    for j in range(count):
        for t in range(frames):
            for f in range(width):
                a = y[j, t, 0, first + f]
                b = y[j, t, 1, first + f]
                r00[j, f] += a.real * a.real + a.imag * a.imag
                r11[j, f] += b.real * b.real + b.imag * b.imag
                re01[j, f] += a.real * b.real + a.imag * b.imag
                im01[j, f] += a.imag * b.real - a.real * b.imag
        for f in range(width):
            norm = power_scale / (_EPS + 0.5 * power_scale * (r00[j, f] + r11[j, f]))
            r00[j, f] *= norm
            r11[j, f] *= norm
            re01[j, f] *= norm
            im01[j, f] *= norm
    power = np.empty((count, width))
    c00 = np.empty(width)
    c11 = np.empty(width)
    cre = np.empty(width)
    cim = np.empty(width)
    for t in range(frames):
        c00[:] = floor
        c11[:] = floor
        cre[:] = 0.0
        cim[:] = 0.0
        for j in range(count):
            for f in range(width):
                a = y[j, t, 0, first + f]
                b = y[j, t, 1, first + f]
                p = (
                    0.5
                    * power_scale
                    * (a.real * a.real + a.imag * a.imag + b.real * b.real + b.imag * b.imag)
                )
                power[j, f] = p
                c00[f] += p * r00[j, f]
                c11[f] += p * r11[j, f]
                cre[f] += p * re01[j, f]
                cim[f] += p * im01[j, f]
        # z = C^-1 x, kept in the arrays of C: (c00 + i c11) is z_0, (cre + i cim) is z_1
        for f in range(width):
            inverse = 1.0 / (c00[f] * c11[f] - cre[f] * cre[f] - cim[f] * cim[f])
            a = x[t, 0, first + f]
            b = x[t, 1, first + f]
            re0 = (c11[f] * a.real - cre[f] * b.real + cim[f] * b.imag) * inverse
            im0 = (c11[f] * a.imag - cre[f] * b.imag - cim[f] * b.real) * inverse
            re1 = (c00[f] * b.real - cre[f] * a.real - cim[f] * a.imag) * inverse
            im1 = (c00[f] * b.imag - cre[f] * a.imag + cim[f] * a.real) * inverse
            c00[f] = re0
            c11[f] = im0
            cre[f] = re1
            cim[f] = im1
        for j in range(count):
            for f in range(width):
                p = power[j, f]
                y[j, t, 0, first + f] = complex(
                    p * (r00[j, f] * c00[f] + re01[j, f] * cre[f] - im01[j, f] * cim[f]),
                    p * (r00[j, f] * c11[f] + re01[j, f] * cim[f] + im01[j, f] * cre[f]),
                )
                y[j, t, 1, first + f] = complex(
                    p * (re01[j, f] * c00[f] + im01[j, f] * c11[f] + r11[j, f] * cre[f]),
                    p * (re01[j, f] * c11[f] - im01[j, f] * c00[f] + r11[j, f] * cim[f]),
                )
