"""The lanes of a track, its stems side by side: every block holds the same samples of all of them, so that none can drift.

A track without stems has one lane, the ``mix``: the track itself.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from beets.library import Item
from numpy.typing import NDArray

from demixr_daemon import stems
from demixr_daemon.errors import AudioError, shown
from demixr_daemon.library import stems_folder
from demixr_daemon.separation.excerpt import Excerpt

MIX = "mix"
DERIVED = ("instrumental",)
"""Stems that are sums of others: downloads, no lanes."""
_OPEN_TRACKS = 12


@dataclass(frozen=True)
class Sources:
    """The files that a track is played from."""

    files: dict[str, Path]
    """Lane → file."""
    derived: dict[str, Path]
    version: str
    """Another one as soon as any file is another."""


def sources_of(item: Item) -> Sources:
    """Where the lanes of a track come from.

    :raises AudioError: neither stems nor track are there.
    """
    folder = stems_folder(item) or stems.folder_for(item.filepath)
    present = stems.read(folder)
    if present is not None and present.complete():
        paths = {name: folder / Path(file).name for name, file in present.files.items()}
        lanes = {name: path for name, path in paths.items() if name not in DERIVED}
        mark = json.dumps([present.source.fingerprint, present.recipe.__dict__, present.created])
        if lanes:
            return Sources(lanes, {name: paths[name] for name in paths if name in DERIVED}, _version(mark))
    try:
        stat = item.filepath.stat()
    except OSError as error:
        raise AudioError(f"{shown(item.filepath.name)}: {error.strerror}; run `beet update` if it is gone") from error
    return Sources({MIX: item.filepath}, {}, _version(f"{item.id} {stat.st_size} {stat.st_mtime_ns}"))


def _version(mark: str) -> str:
    return hashlib.sha256(mark.encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Lanes:
    """Opened lanes. Not for two threads at once: hold :attr:`lock`.

    :raises AudioError: a file is missing or damaged, or the rates differ.
    """

    def __init__(self, sources: Sources) -> None:
        self.version = sources.version
        self.names = tuple(sources.files)
        self.lock = threading.Lock()
        self.users = 0
        with ExitStack() as opened:
            self._excerpts = [opened.enter_context(Excerpt(path)) for path in sources.files.values()]
            self.rate_hz = self._excerpts[0].rate_hz
            self.samples = max(excerpt.samples for excerpt in self._excerpts)
            self.is_float = any(excerpt.is_float for excerpt in self._excerpts)
            if any(excerpt.rate_hz != self.rate_hz for excerpt in self._excerpts):
                raise AudioError(f"{shown(self._excerpts[0].path.parent)}: stems of different rates; separate the track again")
            self.close = opened.pop_all().close

    def read(self, start: int, samples: int) -> NDArray[np.float32]:
        """(samples, lanes, 2), silent beyond the end."""
        return np.stack([excerpt.read(start, samples) for excerpt in self._excerpts], axis=1)

    def coded(self, start: int, samples: int) -> bytes:
        """The same as the page wants it: little-endian 16-bit integers, or floats where full scale may be exceeded."""
        block = self.read(start, samples)
        return block.astype("<f4").tobytes() if self.is_float else to_int16(block).tobytes()


def to_int16(block: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounded, and cut where it exceeds full scale."""
    rounded: NDArray[np.int16] = np.clip(np.rint(block * 32768.0), -32768, 32767).astype("<i2")
    return rounded


@dataclass
class OpenLanes:
    """Tracks that were listened to last stay open: a decoder that goes on where it stood need not seek."""

    _open: OrderedDict[str, Lanes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, sources: Sources) -> Iterator[Lanes]:
        """The lanes of these sources, for one block.

        :raises AudioError: they cannot be opened.
        """
        with self._lock:
            lanes = self._open.get(sources.version)
            if lanes is None:
                lanes = self._open[sources.version] = Lanes(sources)
            self._open.move_to_end(sources.version)
            lanes.users += 1
            idle = [version for version, others in self._open.items() if not others.users]
            for version in idle[: max(0, len(self._open) - _OPEN_TRACKS)]:
                self._open.pop(version).close()
        try:
            with lanes.lock:
                yield lanes
        finally:
            with self._lock:
                lanes.users -= 1
