"""Small pictures of albums: from the album's art or from the track's tags, drawn anew as JPEG, kept on disk."""

from __future__ import annotations

import hashlib
import io
import os
from fractions import Fraction
from pathlib import Path

import av
import mediafile
from beets.library import Item

SIZES = (96, 480)
_MOST_BYTES = 32 << 20
_MOST_PIXELS = 64_000_000


class Covers:
    """The covers of all tracks.

    :param folder: where the small ones are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, item: Item, size: int) -> bytes | None:
        """A JPEG not larger than ``size`` on either side; None where there is no picture, or none that can be read."""
        album = item.get_album()
        source = Path(os.fsdecode(album.artpath)) if album and album.artpath else item.filepath
        try:
            stat = source.stat()
            mark = f"{source} {stat.st_size} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
            kept = self._folder / f"{hashlib.sha256(mark).hexdigest()[:20]}.{size}.jpg"
            if kept.exists():
                return kept.read_bytes() or None
            original = _picture(source, embedded=source == item.filepath)
            small = drawn(original, size) if original else b""
            kept.parent.mkdir(parents=True, exist_ok=True)
            new = kept.with_suffix(f".{os.getpid()}.new")
            new.write_bytes(small)  # empty: there is none, and nobody looks again
            new.replace(kept)
        except OSError:
            return None
        return small or None


def _picture(source: Path, *, embedded: bool) -> bytes | None:
    if embedded:
        try:
            art: bytes | None = mediafile.MediaFile(os.fsencode(source)).art
        except mediafile.UnreadableFileError:
            return None
        return art
    with open(source, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    return content if len(content) <= _MOST_BYTES else None


def drawn(picture: bytes, size: int) -> bytes:
    """The picture as a JPEG of at most ``size``; empty where FFmpeg cannot read it."""
    try:
        with av.open(io.BytesIO(picture), "r") as container:
            stream = container.streams.video[0]
            context = stream.codec_context  # None where FFmpeg knows the kind of file and cannot draw it, as SVG
            if context is None or not 0 < context.width * context.height <= _MOST_PIXELS:
                return b""
            frame = next(container.decode(stream))
        scale = min(1.0, size / max(frame.width, frame.height))
        frame = frame.reformat(max(2, round(frame.width * scale)), max(2, round(frame.height * scale)), "yuvj420p",
                               interpolation="AREA")  # fmt: skip
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj420p"
        encoder.time_base = Fraction(1, 25)
        encoder.options = {"qmin": "3", "qmax": "5"}
        frame.pts = 0
        return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    except (av.FFmpegError, IndexError, StopIteration, ValueError):
        return b""
