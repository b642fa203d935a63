"""How a folder of stems comes into being: whole, in one step.

Order of writes: stems and manifest into a hidden folder beside the track, each synced, then one rename. A reader sees a
complete set or none. Every process has a hidden folder of its own, whose name begins with a hash of the set's. It and the track
are locked while it is in use: two processes cannot work on one track or set, and what a killed one left behind is removed by
the next that comes for the same set. Where the file system knows no locks, both go on, and the last one wins.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from demixr_daemon.errors import AudioError, BusyError, OutputError, output_error, shown

_DEAD_S = 86400  # without locks, who would work at a folder of that age?


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is one that stems are made in, or one that newer ones have replaced."""
    return name.startswith(".") and name.endswith((".demixr-new", ".demixr-old"))


def _hidden(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]}{kind}")


@contextlib.contextmanager
def workplace(track: Path, folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` to make the stems of ``track`` in; gone on leaving, unless it was published.

    :raises BusyError: another process is at work on this track, or on one whose stems would have the same folder.
    :raises OutputError: there is no writing there.
    """
    place = _hidden(folder, f"-{secrets.token_hex(8)}.demixr-new")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_locked(track))
        except BlockingIOError:
            raise BusyError(f"{shown(track)}: is being separated by another process") from None
        except OSError as error:
            raise AudioError(f"{shown(track)}: {error.strerror}; check the file") from error
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir()
            held.callback(shutil.rmtree, place, ignore_errors=True)
            held.enter_context(_locked(place))
            for other in folder.parent.glob(_hidden(folder, "-*.demixr-new").name):
                if other != place:
                    _clear(other)
            old = _hidden(folder, ".demixr-old")
            if old.exists() and not folder.exists():  # killed between two renames
                old.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            place.stat()  # is it still there? Who came by before it was locked took it for a leftover
        except (BlockingIOError, FileNotFoundError):
            raise BusyError(f"{shown(folder)}: is being made by another process") from None
        except OSError as error:
            raise output_error(error, folder.parent) from error
        yield place


def _clear(leftover: Path) -> None:
    """Delete what a killed process left behind.

    :raises BlockingIOError: its process is alive.
    """
    with _locked(leftover) as lockable:
        if lockable or leftover.stat().st_mtime < time.time() - _DEAD_S:
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock on a file or folder; False where the file system knows no locks, and nothing is held.

    :raises BlockingIOError: another process holds it.
    :raises OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lockable = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            lockable = False
        yield lockable
    finally:
        os.close(descriptor)


def publish(place: Path, folder: Path, ours: Collection[str] | None) -> None:
    """Turn the finished ``place`` into ``folder``, in the stead of an older one if there is one.

    :param ours: names in the older folder that have had their day; all others are kept. ``None``: that folder is a
        stranger's, and anything in it is in the way.
    :raises OutputError: something is in the way, or the rename failed.
    """
    try:
        for file in place.iterdir():
            sync(file)
        replaces = folder.exists()
        if replaces:
            _keep_strangers(folder, place, ours)
        sync(place)
        if not replaces:
            place.rename(folder)
        elif not _exchange(place, folder):  # else the older one is in the workplace now, and goes with it
            old = _hidden(folder, ".demixr-old")
            folder.rename(old)
            place.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        sync(folder.parent)
    except OSError as error:
        raise output_error(error, folder.parent) from error


def _keep_strangers(folder: Path, place: Path, ours: Collection[str] | None) -> None:
    """Let what is not ours in the older folder live on in the new one. Both have it until the older one is gone."""
    strangers = [path for path in folder.iterdir() if ours is None or path.name not in ours]
    in_the_way = [path for path in strangers if ours is None or (place / path.name).exists()]
    if in_the_way:
        raise OutputError(f"{shown(in_the_way[0])} is in the way and is no stem of ours; move it away and run again")
    for path in strangers:
        _link(path, place / path.name)


def _link(path: Path, new: Path) -> None:
    """The same file or folder under another name, too."""
    if path.is_dir() and not path.is_symlink():
        new.mkdir()
        for inside in path.iterdir():
            _link(inside, new / inside.name)
        shutil.copystat(path, new)
        return
    try:
        os.link(path, new, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(path, new, follow_symlinks=False)
        if not new.is_symlink():
            sync(new)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlive a power cut."""
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
