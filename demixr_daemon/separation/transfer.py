"""One file over HTTP: begun again where a connection broke off, and nothing but what it must hash to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

from demixr_daemon.errors import ModelError, shown

_ATTEMPTS = 5
_PIECE_BYTES = 1 << 14  # what a broken connection can lose
_TIMEOUT_S = (10, 60)  # connect, silence

Report = Callable[[str, int, int], None]
"""Called while a file comes in: its name, the bytes there so far, the bytes expected."""


def fetch(url: str, final: Path, sha256: str, report: Report | None) -> str:
    """Download a file through ``<name>.part``; one that is there already and whole is kept.

    :param sha256: what it must hash to, or the first digits of that.
    :return: its SHA-256.
    :raises ModelError: no network, refused, or another file than expected.
    :raises OSError: it cannot be written.
    """
    part = final.with_name(f"{final.name}.part")
    if final.exists():
        if (found := sha256_of(final)).startswith(sha256):
            return found
        final.unlink()  # damaged since: fetch it again
    for attempt in range(1, _ATTEMPTS + 1):
        had = part.stat().st_size if part.exists() else 0
        try:
            _stream(url, part, final.name, report)
            break
        except requests.HTTPError as error:
            raise ModelError(f"{url}: the server answered {error.response.status_code} "
                             f"{error.response.reason}; try later, or set demix.mirror") from error  # fmt: skip
        except ValueError as error:  # requests' own for addresses are among them
            raise ModelError(f"{url}: no address to download from; set demix.mirror to an https:// one") from error
        except requests.RequestException as error:
            now = part.stat().st_size if part.exists() else 0
            if now > had and attempt < _ATTEMPTS:
                continue  # it got further: go on from there
            if now:
                raise ModelError(f"{url}: the connection broke off after {now} bytes; run again to resume") from error
            raise ModelError(f"cannot reach {urlsplit(url).netloc}: check the network, or set demix.mirror; the embedded model "
                             "works without") from error  # fmt: skip
    found = sha256_of(part)
    if not found.startswith(sha256):
        part.unlink()
        raise ModelError(f"{url}: refused: its SHA-256 is {found}, expected {sha256}; try later or another mirror")
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    part.replace(final)
    return found


def _stream(url: str, part: Path, name: str, report: Report | None) -> None:
    """Append to ``part`` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there already
        answer.raise_for_status()
        resumed = re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")) is not None
        if answer.status_code == requests.codes.partial_content and not resumed:
            raise requests.ConnectionError("the server sent another range than was asked for")
        have = have if resumed else 0
        announced = answer.headers.get("Content-Length")
        total = have + int(announced) if announced else 0
        with open(part, "ab" if resumed else "wb") as file:
            for piece in answer.iter_content(_PIECE_BYTES):
                file.write(piece)
                have += len(piece)
                if report:
                    report(name, have, total)
        if have < total:
            raise requests.ConnectionError("the connection closed early")


def sha256_of(path: Path) -> str:
    """:raises ModelError: it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{shown(path)}: {error.strerror}; check the file") from error
