"""A URL → the tracks behind it: of a playlist, an album, a feed, a channel, a page with several players; else itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from yt_dlp.extractor import gen_extractor_classes, get_info_extractor

from demixr_daemon.intake.session import session
from demixr_daemon.intake.youtube import DownloadError, Entry, YoutubeSettings

_DEPTH = 3  # a channel holds tabs, a tab playlists, a playlist tracks
_PLAYLISTS = ("playlist", "multi_video")


def expand(url: str, settings: YoutubeSettings, warnings: list[str]) -> list[Entry]:
    """See :func:`demixr_daemon.intake.youtube.expand`."""
    limit = settings.playlist_limit
    entries: dict[str, Entry] = {}
    with session(settings, warnings, playlistend=limit + 1 if limit else None) as opened:
        for entry in _entries(opened, url, _DEPTH):
            entries.setdefault(entry.url, entry)
            if limit and len(entries) > limit:
                raise DownloadError(f"{url}: holds more than {limit} tracks; raise demix.daemon.youtube.playlist_limit, or "
                                    "queue the parts that you want", retryable=False)  # fmt: skip
    if not entries:
        raise DownloadError(f"{url}: is an empty playlist; check the address", retryable=False)
    return list(entries.values())


def _entries(opened: Any, url: str, depth: int) -> Iterator[Entry]:
    site = _site(url)
    if site.is_single_video(url):  # what it is called costs requests that the download makes again
        yield Entry(url, url, site.get_temp_id(url) or url, site.IE_NAME)
        return
    info = opened.extract_info(url, download=False)
    if info.get("_type") in _PLAYLISTS:
        yield from _of_playlist(opened, info, depth)
    else:
        yield _entry(info, url)


def _of_playlist(opened: Any, info: dict[str, Any], depth: int) -> Iterator[Entry]:
    for entry in info["entries"]:
        if not entry:
            continue
        if entry.get("_type") in _PLAYLISTS:
            yield from _of_playlist(opened, entry, depth)
        elif entry.get("_type", "video") == "video":  # one of several on a page, which have addresses of their own
            yield _entry(entry, entry.get("url") or entry["webpage_url"])
        elif depth and _site(entry["url"]).is_single_video(entry["url"]) is False:
            yield from _entries(opened, entry["url"], depth - 1)
        else:
            yield _entry(entry, entry["url"])


def _site(url: str) -> Any:
    """The extractor of yt-dlp that is responsible; the generic one takes what no other does."""
    return next(site for site in gen_extractor_classes() if site.suitable(url))


def _entry(info: dict[str, Any], url: str) -> Entry:
    site = get_info_extractor(info["ie_key"]) if info.get("ie_key") else _site(url)
    return Entry(url, info.get("title") or url, str(info.get("id") or url), site.IE_NAME)
