"""A stem set on disk: `01 Title.flac` → `01 Title.stems/`, its manifest, and how it follows its track."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from demixr_daemon import publishing
from demixr_daemon.errors import output_error

SUFFIX = ".stems"
MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_NAME_MAX = 255  # bytes of a file name, on every common file system


@dataclass(frozen=True)
class Source:
    """The track that a stem set was made from."""

    name: str
    size: int
    mtime_ns: int
    fingerprint: str
    """SHA-256 of the coded audio, without tags."""
    rate_hz: int
    channels: int
    samples: int


@dataclass(frozen=True)
class Recipe:
    """All that decides what the stems sound like, apart from the track."""

    model: str
    model_sha256: str
    quantization: str
    niter: int
    stems: tuple[str, ...]
    format: str
    bits: int
    """0 for lossy formats, 32 for floating point."""
    bitrate_kbps: int
    """0 for lossless formats."""


@dataclass(frozen=True)
class StemSet:
    """A published stem set."""

    folder: Path
    files: Mapping[str, str]
    """Stem → file name in the folder."""
    source: Source
    recipe: Recipe
    licence: str
    """Of the weights."""
    gain: float
    """The one factor that all stems were turned down by; 1.0 where none was needed."""
    program: str
    created: str

    def path(self, stem: str) -> Path:
        return self.folder / self.files[stem]

    def complete(self) -> bool:
        """Every file is there."""
        return all(self.path(stem).is_file() for stem in self.files)

    def write_manifest(self, folder: Path) -> None:
        """Describe the set in ``folder``, atomically."""
        content = {"version": MANIFEST_VERSION, "program": self.program, "created": self.created,
                   "source": asdict(self.source), "recipe": asdict(self.recipe), "licence": self.licence,
                   "gain": self.gain, "stems": dict(self.files)}  # fmt: skip
        new = folder / f".{MANIFEST}.new"
        # a name that is not UTF-8 keeps its bytes: JSON escapes the lone surrogates that stand for them
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")
        publishing.sync(new)
        new.replace(folder / MANIFEST)


def read(folder: Path) -> StemSet | None:
    """The stem set in ``folder``; None where there is none, or one that cannot be understood."""
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        if content["version"] != MANIFEST_VERSION or not isinstance(content["stems"], dict):
            return None
        recipe = content["recipe"] | {"stems": tuple(content["recipe"]["stems"])}
        return StemSet(folder, content["stems"], Source(**content["source"]), Recipe(**recipe), content["licence"],
                       content["gain"], content["program"], content["created"])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folder_for(track: Path) -> Path:
    """Where the stems of ``track`` belong: beside it, ``01 Title.stems``.

    Where that folder holds the stems of another track that is still there (``01 Title.mp3`` beside ``01 Title.flac``), or a
    stranger's files, the whole name is kept: ``01 Title.mp3.stems``.
    """
    short = track.with_name(_fitting(track.stem, SUFFIX))
    present = read(short)
    if present is not None:
        mine = present.source.name == track.name or not (track.parent / present.source.name).exists()
    else:
        mine = not short.exists()
    return short if mine else track.with_name(_fitting(track.name, SUFFIX))


def is_stem(path: Path) -> bool:
    """Whether this file belongs to a stem set, finished or in the making, and is no track of its own."""
    if publishing.is_hidden(path.parent.name):
        return True
    present = read(path.parent) if path.parent.name.endswith(SUFFIX) else None
    return present is not None and path.name in present.files.values()


def _fitting(name: str, suffix: str) -> str:
    """``name + suffix``, shortened and marked with a hash where a file name cannot be that long."""
    full = os.fsencode(name + suffix)
    if len(full) <= _NAME_MAX:
        return name + suffix
    mark = "~" + hashlib.sha256(full).hexdigest()[:8] + suffix
    start = os.fsencode(name)[: _NAME_MAX - len(mark)]
    return start.decode("utf-8", "ignore") + mark


def publish(place: Path, folder: Path) -> None:
    """Turn the finished ``place`` into ``folder``, in the stead of an older set if there is one.

    Files of the user's own in an older set's folder are kept.

    :raises OutputError: something that is no stem set is in the way, or the rename failed.
    """
    older = read(folder)
    publishing.publish(place, folder, {MANIFEST, f".{MANIFEST}.new", *older.files.values()} if older else None)


def remove(folder: Path) -> bool:
    """Delete a stem set, and nothing else that lies in its folder.

    :return: whether there was one.
    :raises OutputError: it cannot be deleted.
    """
    stems = read(folder)
    if stems is None:
        return False
    try:
        for name in stems.files.values():
            (folder / Path(name).name).unlink(missing_ok=True)
        (folder / MANIFEST).unlink()
        with contextlib.suppress(OSError):  # someone keeps files of their own in it
            folder.rmdir()
    except OSError as error:
        raise output_error(error, folder) from error
    return True


def move(folder: Path, track: Path) -> Path:
    """Let a stem set follow its track, which is now at ``track``.

    :return: where the set is now.
    :raises OutputError: it cannot be moved; it is still where it was.
    """
    present = read(folder)
    if present is None:
        return folder
    target = folder_for(track)
    if target != folder:
        remove(target)  # an orphan: its track is gone
        if target.exists():
            target = track.with_name(_fitting(track.name, SUFFIX))
        try:
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with publishing.workplace(track, target) as place:
                    shutil.copytree(folder, place, dirs_exist_ok=True)
                    publish(place, target)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise output_error(error, target.parent) from error
    moved = replace(present, folder=target, source=replace(present.source, name=track.name))
    with contextlib.suppress(OSError):
        moved.write_manifest(target)
    return target
