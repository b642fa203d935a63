"""URLs: which tracks they hold, and a track as an audio file. YouTube, and every other site that yt-dlp knows.

yt-dlp works in a process of its own for each call (:mod:`.downloader`): a server that hangs can be left within a moment, its
memory is given back, and nothing that it prints is seen. It ends with the process that asked for it.

Each URL has a folder of its own under the folder of downloads. Order of writes: ``.part`` → what was downloaded → the tagged
audio file, renamed into place → ``download.json``. A call that finds the last is done; one that finds less goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from demixr_daemon.errors import Cancelled, DemixrError, SettingError, shown

SIDECAR = "download.json"
JS_RUNTIMES = ("deno", "node", "quickjs", "bun")
_ASK_CANCELLED_S = 0.2


class DownloadError(DemixrError):
    """A URL cannot be fetched; the message says why and what would help."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable
        """Whether the same may work later: the network, a busy server; not what is private, removed or not supported."""


@dataclass(frozen=True)
class YoutubeSettings:
    """How to download. Field names are the keys of ``demix: daemon: youtube:``.

    :raises SettingError: a value is out of range; the message names the key.
    """

    cookiefile: str = ""
    """Cookies in Netscape's format, for what is only shown to those who are logged in; read, never written."""
    max_length_s: int = 3 * 3600
    """Longer tracks are refused; 0 takes any."""
    max_size_mb: int = 500
    """Larger downloads are refused; 0 takes any."""
    format: str = "bestaudio/best"
    """What to choose where there is a choice, as ``yt-dlp --format`` reads it. Audio is kept as it comes, without video."""
    thumbnail: bool = True
    """Embed the picture of the page as the cover."""
    playlist_limit: int = 500
    """Playlists of more tracks are refused; 0 takes any."""
    retries: int = 3
    """Of a connection that breaks, within one call; it goes on where it broke."""
    timeout_s: int = 20
    """A server that is silent for this long is given up."""
    rate_limit_kb_s: int = 0
    """Kilobytes a second, for each download; 0 takes what comes."""
    js_runtimes: tuple[str, ...] = ("deno", "node")
    """JavaScript runtimes to use for YouTube if they are installed, the first one found; deno is the safest."""

    def __post_init__(self) -> None:
        for key, highest in _HIGHEST.items():
            value = getattr(self, key)
            lowest = 1 if key == "timeout_s" else 0
            if type(value) is not int or not lowest <= value <= highest:
                raise SettingError(f"{_KEY}.{key}: {value!r} is not a whole number from {lowest} to {highest}")
        for key in ("cookiefile", "format"):
            if not isinstance(getattr(self, key), str):
                raise SettingError(f"{_KEY}.{key}: {getattr(self, key)!r} is not a text")
        if self.cookiefile and not Path(self.cookiefile).expanduser().is_file():
            raise SettingError(f"{_KEY}.cookiefile: {self.cookiefile}: no such file; export your browser's cookies to it")
        if not self.format.strip():
            raise SettingError(f"{_KEY}.format: is empty; bestaudio/best is the default")
        if type(self.thumbnail) is not bool:
            raise SettingError(f"{_KEY}.thumbnail: {self.thumbnail!r} is neither yes nor no")
        for name in self.js_runtimes:
            if name not in JS_RUNTIMES:
                raise SettingError(f"{_KEY}.js_runtimes: {name!r} is not one of {', '.join(JS_RUNTIMES)}")


_KEY = "demix.daemon.youtube"
_HIGHEST = {"max_length_s": 7 * 24 * 3600, "max_size_mb": 1_000_000, "playlist_limit": 1_000_000, "retries": 100,
            "timeout_s": 600, "rate_limit_kb_s": 10_000_000}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One track to fetch."""

    url: str
    title: str
    """The URL, where the title costs a request."""
    id: str
    extractor: str
    """The site; with the id, what a download archive goes by."""


@dataclass(frozen=True)
class Download:
    """A track that was fetched: tagged audio, with its cover."""

    path: Path
    title: str
    artist: str
    id: str
    """Of the library's field ``yt_id``."""
    url: str
    """Of the library's field ``yt_source``: the page that a person would open."""


def expand(
    url: str, settings: YoutubeSettings, cancelled: Callable[[], bool] = lambda: False
) -> list[Entry]:
    """The tracks behind a URL: of a playlist, an album or a channel many, else one. A video *in* a playlist is one.

    :raises DownloadError: it cannot be read, or holds more than the settings allow.
    :raises Cancelled: ``cancelled`` said so.
    """
    found = _ask({"url": url, "settings": asdict(settings)}, lambda _: None, cancelled)
    return [Entry(**entry) for entry in found]


def fetch(
    url: str, folder: Path, settings: YoutubeSettings, progress: Callable[[float | None], None], cancelled: Callable[[], bool]
) -> Download:
    """Download one track; what is there already, whole or in part, is not downloaded again.

    :param folder: of all downloads; this one gets a folder of its own in it, see :func:`place_of`.
    :param progress: called with 0..1, or None where the size is not known.
    :param cancelled: asked several times a second.
    :raises DownloadError: it cannot be had.
    :raises Cancelled: ``cancelled`` said so; what is there in part is kept for another call.
    """
    place = place_of(url, folder)
    if finished := read(place):
        return finished
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{shown(place)}: {error.strerror}; give write permission, or make room",
                            retryable=False) from error  # fmt: skip
    _ask({"url": url, "place": str(place.absolute()), "settings": asdict(settings)}, progress, cancelled)
    if finished := read(place):
        return finished
    raise DownloadError(f"{url}: was downloaded, and is gone from {shown(place)}", retryable=True)


def place_of(url: str, folder: Path) -> Path:
    """The folder under ``folder`` that is this URL's own."""
    return folder / hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read(place: Path) -> Download | None:
    """The finished download in a URL's folder; None where there is none, or the file was taken from it."""
    try:
        content: dict[str, Any] = json.loads((place / SIDECAR).read_text("utf-8"))
        path = place / content.pop("file")
        return Download(path=path, **content) if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def discard(url: str, folder: Path) -> None:
    """Delete what a URL left under ``folder``: once its track is imported, or nobody wants it any more."""
    shutil.rmtree(place_of(url, folder), ignore_errors=True)


def versions(settings: YoutubeSettings) -> dict[str, str]:
    """What downloading relies on here: ``yt-dlp`` and, if there is one that serves, the JavaScript runtime by its name."""
    found: dict[str, str] = _ask({"settings": asdict(settings)}, lambda _: None, lambda: False)
    return found


def _ask(task: dict[str, Any], progress: Callable[[float | None], None], cancelled: Callable[[], bool]) -> Any:
    """Let a process of its own do the task; its answer."""
    command = [sys.executable, "-P", "-m", "demixr_daemon.intake.downloader", json.dumps({**task, "parent": os.getpid()})]
    with (
        tempfile.TemporaryFile() as noise,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=noise,
                         start_new_session=True) as child,
    ):  # fmt: skip
        assert child.stdout is not None
        try:
            for message in _messages(child.stdout, cancelled):
                match message:
                    case {"progress": share}:
                        progress(share)
                    case {"answer": answer}:
                        return answer
                    case {"error": why, "retryable": retryable}:
                        raise DownloadError(why, retryable=retryable)
            if cancelled():
                raise Cancelled(f"{task.get('url')}: cancelled")
            status = child.wait()
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # with a JavaScript runtime, if it has started one
        noise.seek(0)
        last = noise.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DownloadError(f"{task.get('url')}: yt-dlp's process ended with {status} ({last})", retryable=True)


def _messages(pipe: IO[bytes], cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """What the process says, a line of JSON each, until it ends or ``cancelled`` says so."""
    rest = b""
    while not cancelled():
        if not select.select([pipe], [], [], _ASK_CANCELLED_S)[0]:
            continue
        block = os.read(pipe.fileno(), 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield json.loads(line)
