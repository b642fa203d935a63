"""What can go wrong, as one tree; each message is one line that says what is wrong and what to do.

    DemixrError
    ├── SettingError      a setting or option has a value that makes no sense        → change it
    ├── AudioError        the track is missing, damaged or holds no audio            → mend or replace the file
    ├── OutputError       stems cannot be written: disk full, read-only folder       → make room, give permission
    ├── BusyError         another process is separating the same track right now     → wait for it
    ├── ModelError        weights are unknown, absent, damaged or not to be had      → `demixr models ...`
    │   └── LicenceError  the weights' licence was not accepted                      → accept it, or use another model
    ├── LibraryError      the beets library is locked, or no longer has the track    → try again
    │   └── GoneError     the track is no longer in the library
    ├── JobsError         the database of jobs cannot be used                        → check `jobs_url`, or the state folder
    ├── CrashError        the process that did the work died                         → try again, free some memory
    └── Cancelled         the caller asked to stop; nothing was left behind
"""

from __future__ import annotations

import errno
import os


class DemixrError(Exception):
    """Base of every error that a user can do something about."""


class SettingError(DemixrError):
    """A setting or option is out of range; the message names its key."""


class AudioError(DemixrError):
    """The track cannot be separated as it is; the message names the file."""


class OutputError(DemixrError):
    """Stems cannot be written where they belong; the message names the place."""


class BusyError(DemixrError):
    """The same track is being separated by another process."""


class ModelError(DemixrError):
    """Weights are unknown, absent, damaged or cannot be downloaded."""


class LicenceError(ModelError):
    """The licence of the weights was shown and not accepted."""


class LibraryError(DemixrError):
    """The library cannot take what is to be recorded."""


class GoneError(LibraryError):
    """The track was removed from the library."""


class JobsError(DemixrError):
    """The jobs cannot be read or written."""


class CrashError(DemixrError):
    """The process that did the work died of it; the daemon lives on."""


class Cancelled(DemixrError):
    """Separation stopped because the caller asked for it."""


def shown(path: str | bytes | os.PathLike[str]) -> str:
    """A path as one printable line: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def output_error(error: OSError, folder: str | os.PathLike[str]) -> OutputError:
    """The :class:`OutputError` that says what ``error`` means to the owner of ``folder``."""
    place = shown(folder)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return OutputError(f"disk full: no room for the stems in {place}; free some space and run again")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return OutputError(f"cannot write to {place}: {error.strerror}; give write permission to this folder")
        case _:
            return OutputError(f"cannot write the stems in {place}: {error.strerror or error}")
