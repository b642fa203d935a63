"""Files dropped on the page: streamed to disk, bounded, under names that are ours."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from demixr_daemon.errors import AudioError, BusyError, SettingError, output_error
from demixr_daemon.separation.decode import open_track

SUFFIXES = (".flac", ".wav", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".wma", ".ape", ".wv", ".alac",
            ".mp4", ".webm")  # fmt: skip
_PIECE_BYTES = 1 << 16
_AT_ONCE = 4
_LONGEST_S = 3600.0
_SPARE_BYTES = 256 << 20
_KEPT_S = 14 * 86400.0


class TooLarge(SettingError):
    """More than is taken."""


class Uploads:
    """The folder of what was dropped.

    :param folder: it is ours alone.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self.most_bytes = most_bytes
        self._places = threading.Semaphore(_AT_ONCE)

    def take(self, name: str, stream: IO[bytes], declared: int | None) -> Path:
        """Write the stream to a file of its own and see that it is audio.

        :param name: what the user calls it: words of it are kept, it is no path.
        :param declared: how long it says it is.
        :raises TooLarge: it is longer than allowed.
        :raises SettingError: it is no kind of file that is taken.
        :raises AudioError: it is not audio, or ended early.
        :raises BusyError: others are uploading.
        :raises OutputError: it cannot be written.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            raise SettingError(f"not a kind of audio file that is taken here; these are: {' '.join(SUFFIXES)}")
        if declared is not None and declared > self.most_bytes:
            raise self._too_large()
        if not self._places.acquire(blocking=False):
            raise BusyError("other uploads are under way; try again when they are done")
        place = self._folder / secrets.token_hex(8)
        path = place / f"{plain(Path(name).stem)}{suffix}"
        try:
            place.mkdir(parents=True)
            if declared is not None and shutil.disk_usage(place).free < declared + _SPARE_BYTES:
                raise SettingError("no room for this file on the disk; free some space and try again")
            self._write(stream, path, declared)
            open_track(path)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, AudioError):
                raise AudioError("not audio that can be decoded, or cut short; try the original file") from error
            if isinstance(error, OSError):
                raise output_error(error, self._folder) from error
            raise
        finally:
            self._places.release()
        return path

    def _write(self, stream: IO[bytes], path: Path, declared: int | None) -> None:
        have, begun = 0, time.monotonic()
        with open(path, "xb") as file:
            while piece := stream.read(_PIECE_BYTES):
                have += len(piece)
                if have > self.most_bytes or time.monotonic() - begun > _LONGEST_S:
                    raise self._too_large()
                file.write(piece)
        if declared is not None and have < declared:
            raise AudioError("cut short")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"larger than {self.most_bytes >> 20} MB, the most that is taken (demix.daemon.web.upload_mb)")

    def tidy(self, imported: Collection[str]) -> None:
        """Remove what is in the library now, and what nobody came back for.

        :param imported: sources of jobs that are done.
        """
        done = {str(Path(source).parent) for source in imported}
        with contextlib.suppress(OSError):
            for place in self._folder.iterdir():
                if str(place) in done or time.time() - place.stat().st_mtime > _KEPT_S:
                    shutil.rmtree(place, ignore_errors=True)


def plain(name: str) -> str:
    """A file name made of the letters, digits, blanks and dashes of another."""
    kept = "".join(c if c.isalnum() or c in " -_()'&" else " " for c in name)
    return " ".join(kept.split())[:80].strip() or "upload"
