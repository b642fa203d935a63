"""yt-dlp, set up: it prints nothing, writes nothing of the user's, and needs no ffmpeg."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.globals import supported_js_runtimes

from demixr_daemon.errors import shown
from demixr_daemon.intake.youtube import YoutubeSettings

_LONGEST_PAUSE_S = 30


class _Log:
    """Takes what yt-dlp would print, and keeps its warnings."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings

    def debug(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...  # is raised as well

    def warning(self, message: str) -> None:
        self._warnings.append(message)


@contextlib.contextmanager
def session(settings: YoutubeSettings, warnings: list[str], **more: Any) -> Iterator[Any]:
    """A ``YoutubeDL``.

    :param warnings: gets what it warns of.
    :param more: options of yt-dlp.
    """
    cookies = None
    if settings.cookiefile:
        cookies = io.StringIO(Path(settings.cookiefile).expanduser().read_text("utf-8", "replace"))
    options = {
        "logger": _Log(warnings), "quiet": True, "noprogress": True, "color": "no_color",
        "format": settings.format, "noplaylist": True, "extract_flat": "in_playlist",
        "fixup": "never",  # with the ffmpeg program; see `kept`
        "cookiefile": cookies,  # a stream, for yt-dlp writes to a file
        "js_runtimes": {name: {} for name in settings.js_runtimes},
        "retries": settings.retries, "fragment_retries": settings.retries, "extractor_retries": settings.retries,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), _pause_s),
        "skip_unavailable_fragments": False,  # it would leave holes
        "socket_timeout": settings.timeout_s, "ratelimit": settings.rate_limit_kb_s * 1000 or None,
        "updatetime": False, **more,
    }  # fmt: skip
    with yt_dlp.YoutubeDL(options) as opened:
        yield opened


def _pause_s(n: int) -> float:
    return float(min(2**n, _LONGEST_PAUSE_S))


def versions(settings: YoutubeSettings) -> dict[str, str]:
    """See :func:`demixr_daemon.intake.youtube.versions`."""
    found = {"yt-dlp": yt_dlp.version.__version__}
    for name in settings.js_runtimes:
        info = supported_js_runtimes.value[name]().info
        if info and info.supported:
            return found | {"javascript": f"{info.name} {info.version} ({shown(info.path)})"}
    return found
