"""Waveforms: of every lane the loudest sample and the power of each short span, a byte each; computed once, kept on disk.

A long track takes a while the first time: it is computed in one thread of its own, and who asks meanwhile is told span by span.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from demixr_daemon.errors import DemixrError
from demixr_daemon.web.lanes import Lanes, Sources

SPANS = 3000
"""Spans at most: more than a lane has pixels."""
_LEAST_SAMPLES = 64
_BLOCK_SPANS = 64
_PATIENCE_S = 30.0
_MOST_WAITING = 8


def span_samples(samples: int) -> int:
    """How many samples make a span in a track of this length."""
    return max(_LEAST_SAMPLES, -(-samples // SPANS))


def measured(lanes: Lanes) -> Iterator[bytes]:
    """Span by span, lane by lane: peak and root mean square, 255 at full scale."""
    span = span_samples(lanes.samples)
    spans = -(-lanes.samples // span)
    for first in range(0, spans, _BLOCK_SPANS):
        count = min(_BLOCK_SPANS, spans - first)
        block = lanes.read(first * span, count * span).reshape(count, span, len(lanes.names), 2)
        peak = np.abs(block).max(axis=(1, 3))
        rms = np.sqrt(np.square(block).mean(axis=(1, 3)))
        yield np.clip(np.rint(255 * np.stack([peak, rms], axis=2)), 0, 255).astype(np.uint8).tobytes()


class Peaks:
    """The waveforms of all tracks.

    :param folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = ThreadPoolExecutor(1, "peaks")
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, _Growing] = OrderedDict()

    def kept(self, sources: Sources) -> bytes | None:
        """The whole waveform, if it is known."""
        try:
            return self._path(sources).read_bytes()
        except OSError:
            return None

    def growing(self, sources: Sources) -> Iterator[bytes]:
        """The waveform, in parts as they become known; they end early where it takes too long."""
        with self._lock:
            growing = self._begun.get(sources.version)
            if growing is None:
                growing = self._begun[sources.version] = _Growing(sources)
                self._worker.submit(self._work)
            waiting = [other for other in self._begun.values() if not other.taken]
            for other in waiting[:-_MOST_WAITING]:  # somebody clicks from track to track: nobody looks at the first any more
                del self._begun[other.sources.version]
                other.finish()
        yield from growing

    def _path(self, sources: Sources) -> Path:
        return self._folder / f"{sources.version}.peaks"

    def _work(self) -> None:
        """Compute what was asked for last."""
        with self._lock:
            growing = next((one for one in reversed(self._begun.values()) if not one.taken), None)
            if growing is None:
                return
            growing.taken = True
        try:
            self._compute(growing)
        except (DemixrError, OSError):
            pass  # no waveform: the player says what is wrong with the files
        finally:
            growing.finish()
            with self._lock:
                del self._begun[growing.sources.version]

    def _compute(self, growing: _Growing) -> None:
        lanes = Lanes(growing.sources)
        try:
            for part in measured(lanes):
                growing.add(part)
        finally:
            lanes.close()
        kept = self._path(growing.sources)
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(".new")
        new.write_bytes(growing.content)
        new.replace(kept)


class _Growing:
    """A waveform that is being computed, or waits for it."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.taken = False
        self.content = b""
        self._done = False
        self._more = threading.Condition()

    def add(self, part: bytes) -> None:
        with self._more:
            self.content += part
            self._more.notify_all()

    def finish(self) -> None:
        with self._more:
            self._done = True
            self._more.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        told = 0
        while True:
            with self._more:
                if told == len(self.content) and not self._done:
                    self._more.wait(_PATIENCE_S)
                part = self.content[told:]
                done = self._done or not part  # nothing for so long: the page has what there is
            if part:
                told += len(part)
                yield part
            elif done:
                return
