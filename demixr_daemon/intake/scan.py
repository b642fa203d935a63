"""What lies in a watched folder, and whether it still changes. No threads, no events: the time is passed in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from demixr_daemon import stems

AUDIO = frozenset({
    ".aac", ".aif", ".aifc", ".aiff", ".alac", ".ape", ".asf", ".dsf", ".flac", ".m4a", ".m4b", ".mp2", ".mp3", ".mpc", ".oga",
    ".ogg", ".opus", ".spx", ".tta", ".wav", ".wma", ".wv",
})  # fmt: skip
"""File names that end like this are tracks."""
PARTIAL = frozenset({
    ".aria2", ".crdownload", ".download", ".filepart", ".opdownload", ".part", ".partial", ".tmp", ".!qb", ".!ut", ".ytdl",
})  # fmt: skip
"""File names that end like this are still being written, under a name that will change."""


@dataclass(frozen=True)
class Arrival:
    """Something that has come to rest: a file, or a folder that is one album."""

    path: Path
    signature: str


@dataclass
class Inbox:
    """A watched folder: call :meth:`look` now and then.

    What :meth:`look` has handed out is not handed out again by the same inbox, unless it changes.
    """

    root: Path
    singleton: bool
    """Each file is a job of its own; otherwise each entry of the folder is."""
    window_s: float
    """For so long nothing of it must have changed."""
    _since: dict[Path, tuple[str, float]] = field(default_factory=dict)
    _taken: dict[Path, str] = field(default_factory=dict)

    def look(self, now: float) -> list[Arrival]:
        """What has come to rest since the last time.

        :param now: in seconds, of a clock that never goes back.
        """
        present = {path: mark for path in self._units() if (mark := signature(path))}
        self._taken = {path: mark for path, mark in self._taken.items() if present.get(path) == mark}
        fresh = {path: mark for path, mark in present.items() if self._taken.get(path) != mark}
        self._since = {path: (mark, self._since[path][1] if self._since.get(path, ("",))[0] == mark else now)
                       for path, mark in fresh.items()}  # fmt: skip
        settled = [path for path, (_, since) in self._since.items() if now - since >= self.window_s and not _partial(path)]
        for path in settled:
            self._taken[path] = self._since.pop(path)[0]
        return [Arrival(path, self._taken[path]) for path in sorted(settled)]

    @property
    def waiting(self) -> bool:
        """Something has come and may still change."""
        return bool(self._since)

    def forget(self, path: Path) -> None:
        """Hand it out again: it could not be taken in."""
        self._taken.pop(path, None)

    def _units(self) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        except OSError:  # not there yet, or a network mount that is gone for now
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if self.singleton and entry.is_dir():
                yield from tracks(Path(entry.path))
            else:
                yield Path(entry.path)


def tracks(path: Path) -> list[Path]:
    """The audio files at ``path``, itself or below, without hidden ones, unfinished downloads and stems of ours."""
    if not path.is_dir():
        return [path] if is_track(path) and path.is_file() else []
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(files) if is_track(Path(folder, name))]
    return [track for track in found if not stems.is_stem(track)]


def is_track(path: Path) -> bool:
    """Whether the name is that of a finished audio file."""
    return path.suffix.lower() in AUDIO and not path.name.startswith(".")


def signature(path: Path) -> str:
    """Names, sizes and times of the tracks at ``path``, as a hash; empty where there are none."""
    digest = hashlib.sha256()
    found = False
    for track in tracks(path):
        try:
            stat = track.stat()
        except OSError:  # gone since it was listed
            continue
        found = True
        digest.update(f"{track.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32] if found else ""


def _partial(path: Path) -> bool:
    """Whether something in it is still being written under another name."""
    if not path.is_dir():
        return any(path.with_name(path.name + suffix).exists() for suffix in (".part", ".crdownload"))
    return any(Path(name).suffix.lower() in PARTIAL for _, _, files in os.walk(path) for name in files)
