"""What can be taken away: a stem, the set, the instrumental, and the mix as it is set on the page."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demixr_daemon.errors import SettingError
from demixr_daemon.web.lanes import Lanes, Sources, to_int16

_HEADER_BYTES = 44
_FRAME_BYTES = 4
_LARGEST_WAV = (1 << 32) - 1 - _HEADER_BYTES
_BLOCK_SAMPLES = 1 << 15
_LOUDEST = 2.0


def fader(text: str) -> NDArray[np.float32]:
    """``volume,pan`` → what goes where, (2 in, 2 out): pan as in the Web Audio API's StereoPannerNode.

    :param text: the volume as a factor up to 2, the pan from -1, left, to 1.
    :raises SettingError: it is none.
    """
    try:
        volume, pan = (float(part) for part in text.split(","))
    except ValueError:
        volume = math.nan
    if not (0 <= volume <= _LOUDEST and -1 <= pan <= 1):
        raise SettingError(f"{text[:40]!r} is no volume (0 to {_LOUDEST:g}) and pan (-1 to 1), as in 0.8,-0.2")
    angle = (pan + 1 if pan <= 0 else pan) * math.pi / 2
    near, far = math.cos(angle), math.sin(angle)
    left_to_right = ((1.0, 0.0), (near, far)) if pan <= 0 else ((near, far), (0.0, 1.0))
    return volume * np.array(left_to_right, np.float32)


class WavMix:
    """A mix of lanes as a 16-bit WAV of known length, of which any range of bytes can be made.

    :param faders: lane → matrix of :func:`fader`; what is not named is left as it is.
    :raises SettingError: a lane is unknown, or a WAV cannot be that long.
    """

    def __init__(self, lanes: Lanes, faders: Mapping[str, NDArray[np.float32]]) -> None:
        if unknown := [name for name in faders if name not in lanes.names]:
            raise SettingError(f"there is no {unknown[0][:40]!r}; there are {', '.join(lanes.names)}")
        self._lanes = lanes
        self._matrix = np.stack([faders.get(name, np.eye(2, dtype=np.float32)) for name in lanes.names])
        self.bytes = _HEADER_BYTES + lanes.samples * _FRAME_BYTES
        if self.bytes > _LARGEST_WAV:
            raise SettingError("the track is too long for a WAV file; download its stems")

    def part(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``."""
        position = start
        if position < _HEADER_BYTES:
            yield (head := self._header()[position:stop])
            position += len(head)
        while position < stop:
            first = (position - _HEADER_BYTES) // _FRAME_BYTES
            samples = min(_BLOCK_SAMPLES, -(-(stop - _HEADER_BYTES) // _FRAME_BYTES) - first)
            with self._lanes.lock:
                block = self._lanes.read(first, samples)
            mixed = to_int16(np.einsum("nli,lio->no", block, self._matrix)).tobytes()
            begins = _HEADER_BYTES + first * _FRAME_BYTES
            yield (piece := mixed[position - begins : stop - begins])
            position += len(piece)

    def _header(self) -> bytes:
        rate, data = self._lanes.rate_hz, self.bytes - _HEADER_BYTES
        return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + data, b"WAVE", b"fmt ", 16, 1, 2, rate, rate * _FRAME_BYTES,
                           _FRAME_BYTES, 16, b"data", data)  # fmt: skip


def zipped(sources: Sources, name: str) -> Iterator[bytes]:
    """The stems of a track as one ZIP, file by file, in flat memory; audio is not compressed again."""
    out = _Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for stem, path in {**sources.files, **sources.derived}.items():
            info = zipfile.ZipInfo.from_file(path, f"{name}/{stem}{path.suffix}", strict_timestamps=False)
            with open(path, "rb") as file, archive.open(info, "w", force_zip64=True) as entry:
                while content := file.read(1 << 18):
                    entry.write(content)
                    yield out.taken()
    yield out.taken()


class _Pipe(io.RawIOBase):
    """What is written is taken out again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(content))
        return len(content)

    def taken(self) -> bytes:
        content = b"".join(self._parts)
        self._parts.clear()
        return content


def file_name(artist: str, title: str, suffix: str) -> str:
    """What a browser should call it: one name, no folders."""
    name = f"{artist} - {title}" if artist else title
    return "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in name)[:120].strip(" .") + suffix


def suffix_of(path: Path) -> str:
    """Of a stem's file."""
    return path.suffix.lower()
