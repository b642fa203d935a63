"""A stem set on disk: `01 Title.flac` → `01 Title.stems/`, its manifest, and how it comes into being.

Order of writes: stems and manifest into a hidden folder beside the track, each synced, then one rename. A reader sees a
complete set or none. The hidden folder's name follows from the track's and its lock is held while it is in use: two processes
cannot work on one track, and what a killed one left behind is removed by the next that comes for the same track.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from demixr_daemon.errors import BusyError, OutputError, output_error, shown

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
        _sync(new)
        new.replace(folder / MANIFEST)


def read(folder: Path) -> StemSet | None:
    """The stem set in ``folder``; None where there is none, or one that cannot be understood."""
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
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
    return path.parent.name.endswith(SUFFIX) or _is_hidden(path.parent.name)


def _fitting(name: str, suffix: str) -> str:
    """``name + suffix``, shortened and marked with a hash where a file name cannot be that long."""
    full = os.fsencode(name + suffix)
    if len(full) <= _NAME_MAX:
        return name + suffix
    mark = "~" + hashlib.sha256(full).hexdigest()[:8] + suffix
    start = os.fsencode(name)[: _NAME_MAX - len(mark)]
    return start.decode("utf-8", "ignore") + mark


def _hidden_name(track: Path, kind: str) -> str:
    return f".{hashlib.sha256(os.fsencode(track.name)).hexdigest()[:16]}.demixr-{kind}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name.endswith((".demixr-new", ".demixr-old"))


@contextlib.contextmanager
def workplace(track: Path) -> Iterator[Path]:
    """A hidden folder beside ``track`` to make its stems in; gone on leaving, unless it was published.

    :raises BusyError: another process is at work on this track.
    :raises OutputError: the folder cannot be written to.
    """
    place = track.with_name(_hidden_name(track, "new"))
    lock = -1
    try:
        try:
            place.mkdir(exist_ok=True)
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_open_as(lock, place):  # its last user published or removed it between the two calls
                raise BlockingIOError
            # what a killed process left behind
            shutil.rmtree(track.with_name(_hidden_name(track, "old")), ignore_errors=True)
            for leftover in place.iterdir():
                leftover.unlink()
        except BlockingIOError:
            if lock >= 0:
                os.close(lock)
                lock = -1
            raise BusyError(f"{shown(track)}: is being separated by another process; wait for it to end") from None
        except OSError as error:
            raise output_error(error, track.parent) from error
        yield place
    finally:
        if lock >= 0:
            if _is_open_as(lock, place):
                shutil.rmtree(place, ignore_errors=True)
            os.close(lock)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the folder that was opened, and not gone, renamed or made anew by another process."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def publish(place: Path, folder: Path) -> None:
    """Turn the finished ``place`` into ``folder``, in the stead of an older set if there is one.

    :raises OutputError: something that is no stem set is in the way, or the rename failed.
    """
    try:
        for file in place.iterdir():
            _sync(file)
        _sync(place)
        if not folder.exists():
            place.rename(folder)
        else:
            if read(folder) is None and any(folder.iterdir()):
                raise OutputError(f"{shown(folder)} is in the way and is no stem set; move it away and run again")
            old = place.with_name(place.name.removesuffix("-new") + "-old")
            if not _exchange(place, folder):
                folder.rename(old)
                place.rename(folder)
            else:
                place.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        _sync(folder.parent)
    except OSError as error:
        raise output_error(error, folder.parent) from error


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
    try:
        if target != folder:
            if folder.stat().st_dev == target.parent.stat().st_dev:
                folder.rename(target)
            else:
                with workplace(track) as place:
                    for name in (*present.files.values(), MANIFEST):
                        shutil.copy2(folder / name, place / name)
                    publish(place, target)
                remove(folder)
        moved = replace(present, folder=target, source=replace(present.source, name=track.name))
        moved.write_manifest(target)
    except OSError as error:
        raise output_error(error, target.parent) from error
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux ``renameat2``); False where the system or file system cannot."""
    at_cwd, rename_exchange = -100, 2
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))
