"""The LSTMs of a track that never has to be there as a whole.

A track goes through the networks in chunks. The forward direction of every LSTM layer takes its state from one chunk to the
next, as if there were none. The backward direction comes from the future: it begins some way behind the chunk, so that it
has heard enough when it gets there. Trained LSTMs remember for tens of seconds, but what was encoded is small (2 kB a frame
for umxhq): the chunk and what is heard ahead can be minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from demixr_daemon.separation.networks import Network


@dataclass(frozen=True)
class Grid:
    """How a track is cut for the LSTMs. Lengths in frames: 1 frame = 1024 samples = 23.2 ms."""

    chunk_frames: int = 4096
    """Frames that a chunk contributes."""
    ahead_frames: int = 5120
    """Frames behind the chunk that its backward direction hears first; ``benchmarks.quantization --ahead`` draws the curve."""
    offset_frames: int = 0
    """Length of a first, shorter chunk. Moves the grid; for measuring that it does not matter."""


@dataclass(frozen=True)
class Encoded:
    """Some frames of a track, for each network: what was encoded, and what the last LSTM layer gave."""

    features: list[Tensor]
    hidden: list[Tensor]

    def __len__(self) -> int:
        return len(self.features[0])

    def __getitem__(self, frames: slice) -> Encoded:
        return Encoded([part[frames] for part in self.features], [part[frames] for part in self.hidden])

    def copy(self) -> Encoded:
        """The same, in memory of its own."""
        return Encoded([part.clone() for part in self.features], [part.clone() for part in self.hidden])

    def followed_by(self, other: Encoded) -> Encoded:
        """Both in one."""
        return Encoded(
            [torch.cat(parts) for parts in zip(self.features, other.features, strict=True)],
            [torch.cat(parts) for parts in zip(self.hidden, other.hidden, strict=True)],
        )


def through_lstms(
    networks: Sequence[Network], blocks: Iterable[list[Tensor]], grid: Grid, workers: Executor
) -> Iterator[Encoded]:
    """Run the LSTMs over a track.

    :param blocks: what each network encoded, block by block.
    :return: chunk by chunk, every frame once.
    """
    tracks = [_Track(network) for network in networks]
    wanted = grid.offset_frames or grid.chunk_frames
    held = 0

    def chunk(last: bool) -> Encoded:
        frames = held if last else wanted
        features, hidden = zip(*workers.map(lambda track: track.chunk(frames), tracks), strict=True)
        return Encoded(list(features), list(hidden))

    for block in blocks:
        for track, encoded in zip(tracks, block, strict=True):
            track.parts.append(encoded)
        held += len(block[0])
        while held >= wanted + grid.ahead_frames:
            yield chunk(last=False)
            held -= wanted
            wanted = grid.chunk_frames
    if held:
        yield chunk(last=True)


class _Track:
    """One network's way through a track."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._forward: list[Any] = [None] * network.layers
        self.parts: list[Tensor] = []
        """What was encoded, and waits."""

    @torch.inference_mode()  # each thread must say so for itself
    def chunk(self, frames: int) -> tuple[Tensor, Tensor]:
        """The next ``frames``: what was encoded, and what the last layer gives; all that waits is heard."""
        network = self._network
        x = torch.cat(self.parts)
        self.parts = [x[frames:].clone()]  # a view would keep the whole
        features = x[:frames].clone()
        for layer in range(network.layers):
            last = layer == network.layers - 1
            given = network.hidden(frames if last else len(x))
            # Frames ahead are heard by the layers above, whose backward direction needs both directions of this one.
            state = network.run(layer, False, x[:frames], self._forward[layer], given[:frames])
            self._forward[layer] = state
            if not last and len(x) > frames:
                network.run(layer, False, x[frames:], state, given[frames:])
            if network.directions == 2:
                heard = None
                if len(x) > frames:
                    heard = network.run(layer, True, x[frames:], None, None if last else given[frames:])
                network.run(layer, True, x[:frames], heard, given[:frames])
            x = given
        return features, x

