"""Copies of what arrived, made where their import is one rename; and what becomes of the originals."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demixr_daemon.errors import AudioError, OutputError, output_error, shown
from demixr_daemon.separation.decode import open_track

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"})


def stage(source: Path, tracks: Sequence[Path], files: Path, way: str) -> Path:
    """Copy what is to be imported, and the pictures beside it.

    :param way: ``link`` and ``hardlink`` make links instead of copies, as ``import:`` of beets says.
    :return: the copy of ``source``.
    :raises OutputError: there is no writing there.
    """
    pictures = [path for path in source.rglob("*") if path.suffix.lower() in _IMAGES] if source.is_dir() else []
    target = files / source.name
    try:
        for path in [*tracks, *pictures]:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if way == "link":
                copy.symlink_to(path)
            elif way == "hardlink":
                copy.hardlink_to(path)
            else:
                shutil.copy2(path, copy)
                with open(copy, "rb") as file:
                    os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(str(output_error(error, files)).replace("the stems", "a copy")) from error
    return target


def decoding(tracks: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The tracks that decode from beginning to end, and what is wrong with the others."""
    good, bad = [], []
    for track in tracks:
        try:
            for _ in open_track(track).blocks():
                pass
            good.append(track)
        except AudioError as error:
            bad.append(str(error))
    return good, bad


def mark(track: Path) -> list[int]:
    """Size and time of a file: what changes when it does.

    :raises AudioError: it is gone.
    """
    try:
        stat = track.stat()
    except OSError as error:
        raise AudioError(f"{shown(track)}: {error.strerror}") from error
    return [stat.st_size, stat.st_mtime_ns]


def remove(source: Path, originals: Mapping[str, list[int]]) -> None:
    """Delete what was imported by moving, unless it has changed since, and the folders that are empty then."""
    for name, noted in originals.items():
        with contextlib.suppress(AudioError, OSError):
            if mark(Path(name)) == noted:
                Path(name).unlink()
    if source.is_dir():
        for folder, _, _ in os.walk(source, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def read(path: Path) -> dict[str, Any] | None:
    """What :func:`write` wrote; None where it did not come to its end."""
    try:
        return dict(json.loads(path.read_text("ascii")))
    except (OSError, ValueError):
        return None


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file, whole or not at all."""
    new = path.with_suffix(".new")
    with open(new, "w", encoding="ascii") as file:
        file.write(json.dumps(content))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
