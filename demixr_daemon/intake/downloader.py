"""yt-dlp in a process of its own: ``python -m demixr_daemon.intake.downloader TASK``, started by :mod:`.youtube`.

The task is JSON; so is what it answers on standard output, a line each: ``progress``, and at the end ``answer`` or ``error``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yt_dlp.utils import DownloadError as YtDlpError
from yt_dlp.utils import sanitize_filename

from demixr_daemon.errors import shown
from demixr_daemon.intake.kept import Tags, keep
from demixr_daemon.intake.playlists import expand
from demixr_daemon.intake.reasons import explain, nothing_came
from demixr_daemon.intake.session import session, versions
from demixr_daemon.intake.youtube import SIDECAR, DownloadError, YoutubeSettings, read

Say = Callable[[dict[str, Any]], None]

PARTS = "parts"
"""The folder, inside a URL's own, of all that is not finished."""
_SEVERAL = "is a playlist of several tracks; queue them one by one"
_PROGRESS_S = 0.2  # between two reports
_NAME_BYTES = 150  # of the title in a file name; file systems take 255, and the importer adds to it


def main() -> None:
    """Do the task and say what came of it."""
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii") as answers:
        os.dup2(2, 1)  # whatever prints is not to be taken for an answer

        def say(message: dict[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")

        task = json.loads(sys.argv[1])
        threading.Thread(target=_end_with, args=(task["parent"],), daemon=True).start()
        settings = YoutubeSettings(**task["settings"] | {"js_runtimes": tuple(task["settings"]["js_runtimes"])})
        warnings: list[str] = []
        answer: Any = None
        try:
            if "url" not in task:
                answer = versions(settings)
            elif "place" in task:
                _fetch(task["url"], Path(task["place"]), settings, say, warnings)
            else:
                answer = [asdict(entry) for entry in expand(task["url"], settings, warnings)]
        except Exception as error:  # a site's extractor can raise anything
            why = explain(error, task.get("url", "yt-dlp"), warnings)
            say({"error": shown(str(why)), "retryable": why.retryable})
        else:
            say({"answer": answer})


def _end_with(parent: int) -> None:
    """Nobody else writes to a download whose owner was killed and started again."""
    while os.getppid() == parent:
        time.sleep(_PROGRESS_S)
    os.killpg(0, signal.SIGKILL)


def _fetch(url: str, place: Path, settings: YoutubeSettings, say: Say, warnings: list[str]) -> None:
    with _locked(place):
        if read(place):
            return
        parts = place / PARTS
        parts.mkdir(exist_ok=True)
        os.chdir(parts)  # yt-dlp expands $ and % in the names of folders
        try:
            _keep(url, _gone_on_with(url, settings, say, warnings), settings, place)
        except DownloadError as error:
            if not error.retryable:
                shutil.rmtree(parts)
            raise
        shutil.rmtree(parts)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process for a URL; where the file system knows no locks, as many as there are."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _gone_on_with(url: str, settings: YoutubeSettings, say: Say, warnings: list[str]) -> dict[str, Any]:
    """:func:`_downloaded`, going on from the part that is there; anew where the server has no more than that.

    So it is where a download was killed before the last renaming: https://github.com/yt-dlp/yt-dlp/issues/12994.
    """
    try:
        return _downloaded(url, settings, say, warnings)
    except YtDlpError as error:
        parts = list(Path().glob("*.part"))
        if not parts or not nothing_came(error):
            raise
        for part in parts:
            part.unlink()
        return _downloaded(url, settings, say, warnings)


def _downloaded(url: str, settings: YoutubeSettings, say: Say, warnings: list[str]) -> dict[str, Any]:
    """What the page says of the track, once its files are in the current folder."""
    refused: list[DownloadError] = []

    def unwanted(info: dict[str, Any], *, incomplete: bool = False) -> str | None:
        if why := _unwanted(info, settings):
            refused.append(DownloadError(f"{url}: {why}", retryable=False))
        return why

    names = {"default": "source.%(format_id).40s.%(ext)s", "thumbnail": "cover.%(ext)s"}
    with session(settings, warnings, outtmpl=names, restrictfilenames=True, writethumbnail=settings.thumbnail,
                 match_filter=unwanted, progress_hooks=[_Hook(url, settings, say)]) as opened:  # fmt: skip
        info: dict[str, Any] = opened.extract_info(url, download=True)
    if "entries" in info:
        raise DownloadError(f"{url}: {_SEVERAL}", retryable=False)
    if refused:
        raise refused[0]
    return info


def _unwanted(info: dict[str, Any], settings: YoutubeSettings) -> str | None:
    if info.get("playlist_index") is not None:
        return _SEVERAL
    if info.get("is_live") or info.get("live_status") in ("is_live", "post_live"):
        return "is a live stream; add it again when it has ended and its recording is out"
    if info.get("live_status") == "is_upcoming":
        return "is not out yet; add it again when it is"
    return _too_long(info.get("duration"), settings)


def _too_long(seconds: float | None, settings: YoutubeSettings) -> str | None:
    if not seconds or not settings.max_length_s or seconds <= settings.max_length_s:
        return None
    return f"is {seconds:.0f} s long, more than {settings.max_length_s} s; raise demix.daemon.youtube.max_length_s"


class _Hook:
    """Tells of progress, and stops what is too large or never ends."""

    def __init__(self, url: str, settings: YoutubeSettings, say: Say) -> None:
        self._url, self._settings, self._say = url, settings, say
        self._next_s = 0.0

    def __call__(self, status: dict[str, Any]) -> None:
        have, total = status.get("downloaded_bytes") or 0, status.get("total_bytes")
        limit = self._settings.max_size_mb * 1_000_000
        if limit and max(have, total or 0) > limit:
            size = f"{total / 1e6:.1f} MB large, " if total else ""
            raise DownloadError(f"{self._url}: is {size}more than {self._settings.max_size_mb} MB; raise "
                                "demix.daemon.youtube.max_size_mb", retryable=False)  # fmt: skip
        longest_s = self._settings.max_length_s
        if not total and longest_s and status.get("elapsed", 0.0) > longest_s:  # a radio comes no faster than it is heard
            raise DownloadError(f"{self._url}: has not ended after {longest_s} s and seems to be a live stream; queue a "
                                "recording", retryable=False)  # fmt: skip
        total = total or status.get("total_bytes_estimate")
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PROGRESS_S
            self._say({"progress": min(have / total, 1.0) if total else None})


def _keep(url: str, info: dict[str, Any], settings: YoutubeSettings, place: Path) -> None:
    """From the files in the current folder to the tagged one in ``place``, and its sidecar."""
    files = info.get("requested_downloads") or []
    if len(files) != 1:
        raise DownloadError(f"{url}: yt-dlp downloaded {len(files)} files, not one; change demix.daemon.youtube.format",
                            retryable=False)  # fmt: skip
    page = info.get("webpage_url") or url
    cover = next((path for path in Path().glob("cover.*") if path.suffix != ".part"), None)
    kept = keep(Path(files[0]["filepath"]), cover, _tags(info, page), own_tags_first=info.get("extractor") == "generic")
    if why := _too_long(kept.seconds, settings):
        raise DownloadError(f"{url}: {why}", retryable=False)
    name = sanitize_filename(kept.title).encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").strip(" .")
    path = place / f"{name or 'track'}{kept.path.suffix}"
    _sync(kept.path)
    kept.path.replace(path)
    content = {"file": path.name, "title": kept.title, "artist": kept.artist, "id": str(info["id"]), "url": page}
    new = Path(SIDECAR)
    new.write_text(json.dumps(content, indent=2) + "\n", "ascii")
    _sync(new)
    new.replace(place / SIDECAR)


def _tags(info: dict[str, Any], page: str) -> Tags:
    title = info.get("track") or info.get("title") or str(info["id"])
    artist = ", ".join(info.get("artists") or ()) or info.get("artist") or ""
    if not artist and "Music" in (info.get("categories") or ()) and " - " in title:
        artist, title = (part.strip() for part in title.split(" - ", 1))
    artist = artist or (info.get("uploader") or info.get("channel") or "").removesuffix(" - Topic")
    return Tags(
        title=title, artist=artist, album=info.get("album") or "", albumartist=", ".join(info.get("album_artists") or ()),
        track=info.get("track_number"), year=info.get("release_year"), genre=", ".join(info.get("genres") or ()),
        comments=page,
    )  # fmt: skip


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
