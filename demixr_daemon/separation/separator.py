"""Blocks in, stem blocks out: the streaming separator around the networks.

One pass of generators, each holding no more than a few seconds:

    audio → STFT → chunks (batches of them through each network) → Wiener windows → inverse STFT → audio

The LSTM, the one part of a network that is not local to a frame, sees a chunk with context on both sides and only the middle is
kept, so that it has warmed up in both directions. Frames overlap by three quarters, which cross-fades neighbouring chunks.
Wiener windows are counted from the start of the track, as upstream does, wherever the chunks lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demixr_daemon.separation.decode import Block
from demixr_daemon.separation.openunmix import RATE_HZ
from demixr_daemon.separation.stft import istft, stft
from demixr_daemon.separation.wiener import WINDOW_FRAMES, wiener

_INVERSE_FRAMES = 50
"""Frames transformed back at a time: all targets of a window at once would be most of the memory."""


class Backend(Protocol):
    """What separates. Chunks, files, tags and jobs do not know which one runs."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The stems it gives, in order; they always include ``other``."""

    @property
    def rate_hz(self) -> int:
        """The sampling rate it takes and gives."""

    def separate(self, blocks: Iterable[Block], downmix: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Separate a stream.

        :param blocks: (samples, channels) at ``rate_hz``.
        :param downmix: (channels, 2), how these channels make stereo.
        :return: blocks (samples, targets, channels); together at least as many samples as came in.
        """


@dataclass(frozen=True)
class Grid:
    """How a track is cut for the networks. The context comes from ``benchmarks.quantization --context``."""

    chunk_frames: int = 512
    """Frames that a chunk contributes (1 frame = 1024 samples = 23.2 ms)."""
    context_frames: int = 1024
    """Frames that the LSTM sees on either side besides: trained ones remember for tens of seconds."""
    batch: int = 2
    """Chunks that go through a network together: int8 pays only in batches."""
    offset_frames: int = 0
    """Length of a first, shorter chunk. Moves the grid; for measuring that it does not matter."""

    def cores(self) -> Iterator[tuple[int, int]]:
        """First and past-the-last frame of each chunk, without context, without end."""
        start, stop = 0, self.offset_frames or self.chunk_frames
        while True:
            yield start, stop
            start, stop = stop, stop + self.chunk_frames


class OpenUnmixBackend:
    """Open-Unmix networks, fp32 or int8, run in chunks.

    :param networks: a :class:`~demixr_daemon.separation.openunmix.Networks`, scripted or not.
    :param names: the target of each network. Without ``other`` among them, it is what the rest leaves of the mixture.
    :param niter: iterations of the Wiener EM; 0 leaves the mixture's phase on each network's estimate.
    """

    rate_hz = RATE_HZ

    def __init__(
        self, networks: torch.nn.Module, names: tuple[str, ...], *, niter: int = 1, grid: Grid | None = None
    ) -> None:
        self._networks = networks
        self._names = names
        self._niter = niter
        self._grid = grid or Grid()
        self._residual = "other" not in names
        self.targets = (*names, "other") if self._residual else names

    @torch.inference_mode()
    def separate(self, blocks: Iterable[Block], downmix: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """See :meth:`Backend.separate`."""
        spectra = stft(torch.from_numpy(block).T for block in blocks)
        estimates = self._windows(self._chunks(spectra, torch.from_numpy(downmix)))
        parts = (part for window in estimates for part in torch.split(window, _INVERSE_FRAMES))
        for audio in istft(parts):  # (targets, channels, samples)
            yield audio.permute(2, 0, 1).numpy()

    def _chunks(self, spectra: Iterable[Tensor], downmix: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Spectra, stereo spectra ``(frames, 2, BINS)`` and magnitudes ``(frames, targets, 2, BINS)``: each frame once."""
        grid = self._grid
        span = grid.chunk_frames + 2 * grid.context_frames
        cores = grid.cores()
        batch = [next(cores) for _ in range(grid.batch)]
        held = _Frames()  # what the waiting chunks still need
        given = 0
        for spectrum in spectra:
            held.append(spectrum)
            while held.stop >= max(batch[-1][1] + grid.context_frames, span):
                yield self._estimate(held, batch, downmix, span)
                given = batch[-1][1]
                held.drop_before(given - span)
                batch = [next(cores) for _ in range(grid.batch)]
        while given < held.stop:
            rest = [(start, min(stop, held.stop)) for start, stop in batch if start < held.stop]
            yield self._estimate(held, rest, downmix, span)
            given = rest[-1][1]
            batch = [next(cores) for _ in range(grid.batch)]

    def _estimate(
        self, held: _Frames, cores: list[tuple[int, int]], downmix: Tensor, span: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch through every network. Near an end of the track the missing context is made up on the other side."""
        first, last = cores[0][0], cores[-1][1]
        span = min(span, held.stop)
        starts = [max(0, min(start - self._grid.context_frames, held.stop - span)) for start, _ in cores]
        lowest = min(starts)
        spectra = held[lowest : max(last, starts[-1] + span)]
        stereo = _stereo(spectra, downmix)
        loudness = stereo.abs()
        windows = torch.arange(span)[:, None] + torch.tensor(starts) - lowest  # (span, batch)
        kept = torch.cat([torch.arange(begin - start, end - start) * len(cores) + column
                          for column, (start, (begin, end)) in enumerate(zip(starts, cores, strict=True))])  # fmt: skip
        magnitudes = loudness.new_empty(last - first, len(self._names), *loudness.shape[1:])
        for index in range(len(self._names)):
            magnitudes[:, index] = self._networks(loudness, windows, kept, index)
        given = slice(first - lowest, last - lowest)
        return spectra[given], stereo[given], magnitudes

    def _windows(self, chunks: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[Tensor]:
        """Stem spectra ``(frames, targets, channels, BINS)``, filtered in windows that are counted from the start."""
        spectra, stereo, magnitudes = _Frames(), _Frames(), _Frames()
        for parts in chunks:
            for held, part in zip((spectra, stereo, magnitudes), parts, strict=True):
                held.append(part)
            while spectra.stop - spectra.start >= WINDOW_FRAMES:
                yield self._filter(*(held.take(WINDOW_FRAMES) for held in (spectra, stereo, magnitudes)))
        if spectra.stop > spectra.start:
            yield self._filter(*(held.take(WINDOW_FRAMES) for held in (spectra, stereo, magnitudes)))

    def _filter(self, spectra: Tensor, stereo: Tensor, magnitudes: Tensor) -> Tensor:
        mixture = stereo.numpy()
        estimates = np.ascontiguousarray(magnitudes.transpose(0, 1).numpy())  # targets first
        separated = torch.from_numpy(wiener(estimates, mixture, self._niter, residual=self._residual))
        separated = separated.transpose(0, 1)  # frames first
        channels = spectra.shape[1]
        if channels == 2:
            return separated
        if channels == 1:
            return separated.mean(dim=2, keepdim=True)
        # More than two channels: what each target takes of the stereo mixdown, bin by bin, it takes of every channel.
        power = separated.abs().square().sum(dim=2, keepdim=True)
        share = power / power.sum(dim=1, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
        return share * spectra[:, None]


def _stereo(spectra: Tensor, downmix: Tensor) -> Tensor:
    """(frames, channels, BINS) -> (frames, 2, BINS)"""
    if spectra.shape[1] == 2:
        return spectra
    return torch.einsum("tcf,cs->tsf", spectra, downmix.to(spectra.dtype)).contiguous()


class _Frames:
    """A queue of frames along the first axis, addressed by their number in the track."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self.start = 0
        self.stop = 0

    def append(self, frames: Tensor) -> None:
        self._parts.append(frames)
        self.stop += len(frames)

    def __getitem__(self, wanted: slice) -> Tensor:
        if len(self._parts) != 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0][wanted.start - self.start : wanted.stop - self.start]

    def drop_before(self, frame: int) -> None:
        if frame > self.start:
            self._parts = [self[frame : self.stop].clone()]
            self.start = frame

    def take(self, count: int) -> Tensor:
        stop = min(self.start + count, self.stop)
        frames = self[self.start : stop]
        self._parts, self.start = [self[stop : self.stop]], stop
        return frames
