"""Blocks in, stem blocks out: the streaming separator around the networks.

    audio → STFT → encode → LSTMs, chunk by chunk ─┐
    the same audio, read again some minutes behind ┴→ STFT → masks → Wiener windows → inverse STFT → audio

What waits for the LSTMs is what was encoded, a few kB a frame. Spectra and audio would be many times that: they are computed
and read twice instead. Wiener windows are counted from the start of the track, as upstream does, wherever the
chunks lie.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demixr_daemon.errors import AudioError
from demixr_daemon.separation.background import in_background
from demixr_daemon.separation.chunks import Encoded, Grid, through_lstms
from demixr_daemon.separation.decode import Block
from demixr_daemon.separation.networks import Network
from demixr_daemon.separation.openunmix import RATE_HZ
from demixr_daemon.separation.stft import BINS, InverseStft, Stems, add_frames, magnitudes, room, stft
from demixr_daemon.separation.wiener import WINDOW_FRAMES, Window, add, covariances, masked

_BLOCKS_AHEAD = 2
_PART_FRAMES = 30  # of a window that a thread takes at a time
_CACHED_FRAMES = 5  # whose spectra and samples, of all targets, fit into a processor's own cache


class Backend(Protocol):
    """What separates. Chunks, files, tags and jobs do not know which one runs."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The stems it gives, in order; they always include ``other``."""

    @property
    def rate_hz(self) -> int:
        """The sampling rate it takes and gives."""

    def separate(self, audio: Iterable[Block], ahead: Iterable[Block], downmix: NDArray[np.float32]) -> Iterator[Stems]:
        """Separate a stream.

        :param audio: blocks (samples, channels) at ``rate_hz``.
        :param ahead: the same audio once more, to be read some minutes ahead of the stems.
        :param downmix: (channels, 2), how these channels make stereo.
        :return: together at least as many samples as came in.
        """


class OpenUnmixBackend:
    """Open-Unmix networks.

    :param networks: by target. Without ``other`` among them, it is what the rest leaves of the mixture.
    :param grid: how tracks are cut; the result hardly depends on it.
    :param niter: iterations of the Wiener EM; with 0 the targets share the mixture by the ratio of their masks.
    :param threads: how many threads share the work. The result does not depend on it.
    """

    rate_hz = RATE_HZ

    def __init__(
        self, networks: Mapping[str, Network], *, niter: int = 1, grid: Grid | None = None, threads: int = 2
    ) -> None:
        self._networks = list(networks.values())
        self._niter = niter
        self.grid = grid or Grid()
        self._threads = threads
        self._residual = "other" not in networks
        self.targets = (*networks, "other") if self._residual else tuple(networks)

    def separate(self, audio: Iterable[Block], ahead: Iterable[Block], downmix: NDArray[np.float32]) -> Iterator[Stems]:
        """See :meth:`Backend.separate`.

        :raises AudioError: ``audio`` ends before ``ahead``.
        """
        # Each thread computes alone: the work is cut by target, and torch's own threads would only get in the way.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self._threads, "separate", torch.set_num_threads, (1,)) as workers:
                yield from _Separation(self._networks, self._niter, self._residual, workers, torch.from_numpy(downmix)).run(
                    audio, ahead, self.grid
                )
        finally:
            torch.set_num_threads(before)


class _Separation:
    """One track on its way."""

    def __init__(
        self, networks: list[Network], niter: int, residual: bool, workers: ThreadPoolExecutor, downmix: Tensor
    ) -> None:
        self._networks = networks
        self._niter = niter
        self._residual = residual
        self._workers = workers
        self._downmix = downmix
        # The largest arrays by far, used again for every other window: two are on their way.
        self._masks = torch.empty(2, len(networks) + residual, WINDOW_FRAMES, 2, BINS)

    def run(self, audio: Iterable[Block], ahead: Iterable[Block], grid: Grid) -> Iterator[Stems]:
        inverse = InverseStft()
        with contextlib.closing(_spectra(ahead)) as heard, contextlib.closing(_spectra(audio)) as followed:
            encoded = through_lstms(self._networks, map(self._encode, heard), grid, self._workers)
            # The next window's masks are made while this one is transformed back.
            with contextlib.closing(in_background(self._windows(encoded, _Frames(followed)), 1)) as windows:
                for spectra, window in windows:
                    parts = _parts(0, len(spectra), _PART_FRAMES)
                    for sums in self._workers.map(partial(_transformed, spectra, window), parts):
                        yield inverse(sums)
        if (rest := inverse.rest()) is not None:
            yield rest

    def _encode(self, spectra: Tensor) -> list[Tensor]:
        """Spectra ``(frames, channels, BINS)`` to what each network makes of them."""
        loudness = magnitudes(_stereo(spectra, self._downmix))

        @torch.inference_mode()
        def encode(network: Network) -> Tensor:
            return network.encode(loudness)

        return list(self._workers.map(encode, self._networks))

    def _windows(self, encoded: Iterable[Encoded], waiting: _Frames) -> Iterator[tuple[Tensor, Window]]:
        """Window by window the spectra ``(frames, channels, BINS)`` and their filter, which lasts until the next but one."""
        buffers = itertools.cycle(self._masks)
        for part in _in_windows(encoded):
            spectra = waiting.take(len(part))
            window = self._window(spectra, part, next(buffers))
            del part  # its chunk must be gone before the next one is made
            yield spectra, window

    def _window(self, spectra: Tensor, encoded: Encoded, buffer: Tensor) -> Window:
        mixture = _stereo(spectra, self._downmix)
        count = len(buffer)
        masks = buffer.flatten()[: count * mixture.numel()].view(count, *mixture.shape)  # the last window is shorter
        sums = covariances(count, BINS)

        def add_up(index: int) -> None:
            if self._niter:
                for part in _parts(0, len(mixture), _CACHED_FRAMES):
                    add(sums[index], masked(masks[index, part].numpy(), mixture[part].numpy()))

        @torch.inference_mode()
        def mask(index: int) -> None:
            self._networks[index].mask(encoded.features[index], encoded.hidden[index], masks[index])
            add_up(index)

        list(self._workers.map(mask, range(len(self._networks))))
        if self._residual:
            torch.sub(1.0, masks[:-1].sum(0), out=masks[-1])
            add_up(count - 1)
        return Window(masks.numpy(), mixture.numpy(), sums, self._niter, ratio=count > 1)


@torch.inference_mode()
def _transformed(spectra: Tensor, window: Window, part: slice) -> NDArray[np.float32]:
    """Some frames of all targets, for :class:`~demixr_daemon.separation.stft.InverseStft`."""
    sums = room(window.count, spectra.shape[1], part.stop - part.start)
    for frames in _parts(part.start, part.stop, _CACHED_FRAMES):
        targets = torch.from_numpy(window.targets(frames))
        if spectra.shape[1] != 2:
            targets = _like(targets, spectra[frames])
        add_frames(targets, sums, frames.start - part.start)
    return sums


def _parts(start: int, stop: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def _spectra(blocks: Iterable[Block]) -> Generator[Tensor, None, None]:
    """Read and transformed in a thread of its own."""
    return in_background(stft(torch.from_numpy(block).T for block in blocks), _BLOCKS_AHEAD)


def _stereo(spectra: Tensor, downmix: Tensor) -> Tensor:
    """(frames, channels, BINS) -> (frames, 2, BINS)"""
    if spectra.shape[1] == 2:
        return spectra
    return torch.einsum("tcf,cs->tsf", spectra, downmix.to(spectra.dtype)).contiguous()


def _like(separated: Tensor, spectra: Tensor) -> Tensor:
    """Stereo targets ``(targets, frames, 2, BINS)`` in the channels of the track ``(frames, channels, BINS)``."""
    if spectra.shape[1] == 1:
        return separated.mean(dim=2, keepdim=True)
    # What each target takes of the stereo mixdown, bin by bin, it takes of every channel.
    power = separated.abs().square().sum(dim=2, keepdim=True)
    share = power / power.sum(dim=0, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
    return share * spectra


def _in_windows(chunks: Iterable[Encoded]) -> Iterator[Encoded]:
    """The same frames, in Wiener windows."""
    rest: Encoded | None = None
    for chunk in chunks:
        held = chunk if rest is None else rest.followed_by(chunk)
        whole = len(held) // WINDOW_FRAMES * WINDOW_FRAMES
        for start in range(0, whole, WINDOW_FRAMES):
            yield held[start : start + WINDOW_FRAMES]
        rest = held[whole:].copy()
        del chunk, held
    if rest:
        yield rest


class _Frames:
    """Spectra by the number of frames that is asked for, not by what came in."""

    def __init__(self, blocks: Iterator[Tensor]) -> None:
        self._blocks = blocks
        self._held: list[Tensor] = []

    def take(self, frames: int) -> Tensor:
        """The next ``frames``."""
        while sum(map(len, self._held)) < frames:
            block = next(self._blocks, None)
            if block is None:
                raise AudioError("the audio changed while it was separated; run again")
            self._held.append(block)
        held = torch.cat(self._held)
        self._held = [held[frames:]]
        return held[:frames]
