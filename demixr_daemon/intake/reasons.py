"""What yt-dlp's errors mean to the person whose URL it was: why, what would help, and whether another try can."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from yt_dlp.cookies import CookieLoadError
from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, NoSupportingHandlers, RequestError, TransportError
from yt_dlp.utils import ContentTooShortError, ExtractorError, GeoRestrictedError, UnsupportedError, UserNotLive

from demixr_daemon.intake.youtube import DownloadError

_COOKIES = "export the cookies of a browser that is logged in, and name the file in demix.daemon.youtube.cookiefile"
_UPDATE = "update yt-dlp (pip install -U 'yt-dlp[default]'), for sites change"
_RUNTIME = "YouTube needs a JavaScript runtime and none was found: install deno (pip install deno), or node 22 or later"
_NOTHING = "did not get any data blocks"
_BUSY_STATUS = frozenset({408, 425, 429})


class _Reason(NamedTuple):
    says: str
    """What the message has in it, as a regular expression."""
    why: str
    helps: str
    retryable: bool = False


# What the sites say through yt-dlp: the first that matches. Messages of yt-dlp 2025.11 to 2026.10 and of YouTube itself.
_REASONS = (
    _Reason(r"private (video|playlist)|(video|playlist) is private", "it is private", _COOKIES),
    _Reason(r"members.only|join this channel|requires payment|premium members|purchase", "it is for paying members", _COOKIES),
    _Reason(r"not a bot|not made by a robot|captcha", "the site takes us for a robot", f"wait, or {_COOKIES}", retryable=True),
    _Reason(r"rate.?limit|too many requests|try again later", "the site asks for a pause", "it is tried again later",
            retryable=True),
    _Reason(r"confirm your age|age.restricted|inappropriate for some users", "it is for adults who are logged in", _COOKIES),
    _Reason(r"sign in|log ?in|registered users|account credentials|--cookies", "it is for those who are logged in", _COOKIES),
    _Reason(r"live event will begin|premieres? (in|will)|not started|is upcoming|offline|not currently live",
            "it is not out yet", "add it again when it is"),
    _Reason(r"live stream recording is not available|live event has ended", "it was a live stream and no recording is there",
            "look for another upload of it"),
    _Reason(r"in your country|your location|geo.?restrict|not available from your", "it is not shown in this country",
            "look for another upload of it"),
    _Reason(r"drm", "it is protected against copying", "buy the file instead"),
    _Reason(r"requested format is not available|invalid format", "no format of it fits", "change demix.daemon.youtube.format"),
    _Reason(r"ffmpeg (is not installed|not found|could not be found)|requires ffmpeg|postprocessing",
            "this format can only be taken with ffmpeg", "install ffmpeg, or change demix.daemon.youtube.format"),
    _Reason(r"impersonat|cloudflare", "the site wants a browser", "pip install 'yt-dlp[curl-cffi]'"),
    _Reason(r"is not a valid url|invalid (url|ipv6)|no host|unsupported url scheme|file:// urls", "it is no URL",
            "write one URL a line, https://…"),
    _Reason(r"\[download\] got error", "the network failed", "check the address and the connection", retryable=True),
    _Reason(_NOTHING, "the server sent nothing", "it is tried again later", retryable=True),
    _Reason(r"unsupported url", "yt-dlp finds no audio or video there", "give the URL of the page that plays it"),
    _Reason(r"video unavailable|no longer available|been removed|removed by|been deleted|terminated|does not exist|not exist"
            r"|not available|not found|no video", "it was removed, or never was there", "look for another upload of it"),
)  # fmt: skip


def explain(error: BaseException, url: str, warnings: Sequence[str] = ()) -> DownloadError:
    """What to tell of an error that yt-dlp raised on ``url``.

    :param warnings: what it had warned of before.
    """
    if isinstance(error, DownloadError):
        return error
    chain = list(_chain(error))
    why, helps, retryable = _meaning(chain)
    text = "\n".join([*warnings, *map(str, chain)])
    if re.search(r"javascript runtime", text, re.I) and helps in (_UPDATE, "change demix.daemon.youtube.format"):
        helps = _RUNTIME
    return DownloadError(f"{url}: {why}; {helps}", retryable=retryable)


def nothing_came(error: BaseException) -> bool:
    """Whether the server had nothing (more) to send."""
    return any((isinstance(one, HTTPError) and one.status == 416) or _NOTHING in str(one).lower() for one in _chain(error))


def _meaning(chain: Sequence[BaseException]) -> tuple[str, str, bool]:
    for error in chain:
        match error:
            case HTTPError():
                return _status(error.status, error.reason)
            case CertificateVerifyError():
                return "the certificate of the server cannot be trusted", "check the address and this machine's clock", False
            case ContentTooShortError() | TransportError():
                return f"the network failed ({_plain(error)})", "check the address and the connection", True
            case UnsupportedError():
                return _named("unsupported url")
            case GeoRestrictedError():
                return _named("geo restricted")
            case UserNotLive():
                return _named("not currently live")
            case CookieLoadError():
                return ("the cookies cannot be read", "export demix.daemon.youtube.cookiefile again, in Netscape's format",
                        False)  # fmt: skip
            case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return "disk full", "make room", True
            case OSError() if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return f"cannot be written ({_plain(error)})", "give write permission to the folder of downloads", False
            case SyntaxError():  # of the format
                return _named("invalid format")
    for error in chain:
        if status := re.search(r"HTTP Error (\d{3}): ([\w ]*)", str(error)):
            return _status(int(status[1]), status[2])
        for reason in _REASONS:
            if re.search(reason.says, str(error), re.I):
                return f"{reason.why} ({_plain(error)})", reason.helps, reason.retryable
    if isinstance(chain[-1], NoSupportingHandlers | RequestError):
        return f"it cannot be asked for ({_plain(chain[-1])})", "check the address", False
    return f"yt-dlp failed ({_plain(chain[-1])})", _UPDATE, False


def _status(status: int, reason: str) -> tuple[str, str, bool]:
    why = f"the server answered {status} {reason}".rstrip()
    if status in _BUSY_STATUS or 500 <= status < 600:
        return why, "it is tried again later", True
    if status in (404, 410):
        return why, "it was removed, or the address is wrong: look for another", False
    if status in (401, 402, 403):
        return why, f"{_COOKIES}; or {_UPDATE}", False
    return why, "check the address", False


def _named(text: str) -> tuple[str, str, bool]:
    reason = next(reason for reason in _REASONS if re.search(reason.says, text, re.I))
    return reason.why, reason.helps, reason.retryable


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what is behind it: yt-dlp keeps that in several places."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        exc_info = getattr(current, "exc_info", None)
        behind = [exc_info[1] if exc_info else None, getattr(current, "cause", None), current.__cause__]
        waiting += [other for other in behind if isinstance(other, BaseException)]


def _plain(error: BaseException) -> str:
    """yt-dlp's message as one short line, without its advice about its own options and about reporting bugs."""
    text = error.orig_msg if isinstance(error, ExtractorError) else str(error)
    text = re.sub(r"\x1b\[[0-9;]*m|^ERROR: |^\[[\w:.]+\] [^ ]+: ", "", text)
    text = re.split(r"; please report|\. See  ?http|Use --|\(caused by|; try again with  ?--", text)[0]
    text = " ".join(text.split())
    return text[:200] or type(error).__name__
