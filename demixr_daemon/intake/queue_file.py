"""The queue file: a text file of URLs, as ``yt-dlp --batch-file`` reads it. It is the user's, and never written."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from demixr_daemon.errors import DemixrError, shown

_LINE_END = re.compile(rb"\r\n|\n|\r")
# A last line without its end is still being written, unless it stays as it is for this long and over a poll.
_REST_S = 1.0


class QueueFileError(DemixrError):
    """The queue file is there and cannot be read."""


class QueueFile:
    """Follows a queue file however it is saved: appended to, rewritten in place, replaced, gone for a moment.

    It is read whole at each poll: a size and a time can be the same after a change, and some hundred lines cost nothing. What
    was told once is not told again, whether or not it has left the file meanwhile.
    """

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now_s = now_s
        self._told: set[str] = set()
        self._content = b""
        self._unfinished = b""
        self._unfinished_since_s = 0.0

    def poll(self) -> list[str]:
        """The URLs that are new since the last poll, in the order of the file; all of them at first.

        :raises QueueFileError: it cannot be read; a file that is not there is empty.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise QueueFileError(f"{shown(self._path)}: {error.strerror}; give the daemon a text file of URLs that it can "
                                 "read") from error  # fmt: skip
        if content == self._content and not self._unfinished:
            return []
        self._content = content
        *lines, last = _LINE_END.split(content.removeprefix(b"\xef\xbb\xbf"))
        if self._rests(last):
            lines.append(last)
        new = [url for url in dict.fromkeys(filter(None, map(_url, lines))) if url not in self._told]
        self._told.update(new)
        return new

    def forget(self, urls: Iterable[str]) -> None:
        """Let the next poll tell them again: they could not be taken in."""
        self._told.difference_update(urls)
        self._content = b""

    def _rests(self, last: bytes) -> bool:
        """Whether the line that has no end yet is all that comes."""
        now_s = self._now_s()
        if last != self._unfinished:
            self._unfinished, self._unfinished_since_s = last, now_s
            return False
        if not last or now_s - self._unfinished_since_s < _REST_S:
            return False
        self._unfinished = b""
        return True


def _url(line: bytes) -> str:
    """What a line asks for; empty for comments, blank lines and what is not on the disk yet (NUL, over a network)."""
    text = line.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    if not text or text.startswith(("#", ";", "]")) or "\0" in text:
        return ""
    return re.split(r"\s#", text, maxsplit=1)[0].rstrip()  # a "#" inside a URL is part of it
