"""One audio file, written block by block: what kinds there are, and what writes them.

Owner of writing with soundfile (FLAC, WAV) and PyAV (lossy formats).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

FLOAT_BITS = 32
"""Stands for 32-bit floating point where a bit depth is asked for."""

_LEAST_S = 0.2
"""What is shorter is filled up with silence where it is lossy: of less than a frame, a codec makes nothing at all."""


@dataclass(frozen=True)
class Format:
    """A kind of audio file that stems can be written as."""

    extension: str
    bits: tuple[int, ...] = ()
    """The bit depths it can hold; empty for a lossy codec."""
    codec: str = ""
    """FFmpeg's encoder, for the lossy ones."""
    container: str = ""
    rates_hz: tuple[int, ...] = ()
    """The sampling rates the codec takes; empty for any."""
    max_channels: int = 8
    max_rate_hz: int = 655_350
    max_kbps_a_channel: int = 320


FORMATS: Mapping[str, Format] = {
    "flac": Format("flac", bits=(16, 24)),
    "wav": Format("wav", bits=(16, 24, FLOAT_BITS), max_channels=1024, max_rate_hz=2**31 - 1),
    "mp3": Format("mp3", codec="libmp3lame", container="mp3", max_channels=2,
                  rates_hz=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)),
    "opus": Format("opus", codec="libopus", container="opus", max_kbps_a_channel=256,
                   rates_hz=(8000, 12000, 16000, 24000, 48000)),
    "m4a": Format("m4a", codec="aac", container="ipod", max_channels=6,
                  rates_hz=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)),
}  # fmt: skip


class Sink(Protocol):
    """Takes blocks (samples, channels), integers or floats as its format has it."""

    def write(self, block: NDArray[Any]) -> None: ...
    def close(self) -> None: ...


class SndfileSink:
    """FLAC and WAV."""

    def __init__(self, path: Path, rate_hz: int, channels: int, container: str, subtype: str) -> None:
        self._path = path
        with self._errors():
            self._file = soundfile.SoundFile(filename(path), "w", rate_hz, channels, subtype, format=container)

    def write(self, block: NDArray[Any]) -> None:
        with self._errors():
            self._file.write(block)

    def close(self) -> None:
        with self._errors():
            self._file.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (soundfile.LibsndfileError, AssertionError) as error:  # soundfile asserts on a short write
            raise write_error(self._path, error) from error


class FFmpegSink:
    """The lossy formats."""

    def __init__(self, path: Path, fmt: Format, rate_hz: int, channels: int, bitrate_kbps: int) -> None:
        self._path = path
        self._rate_hz = rate_hz
        self._channels = channels
        self._layout = _LAYOUTS[channels]
        self._samples = 0
        self._file = _QuietFile(path, "wb")
        self._container: Any = av.open(self._file, "w", format=fmt.container)
        # the nearest rate that loses nothing, or the highest there is
        rate = min((hz for hz in fmt.rates_hz if hz >= rate_hz), default=fmt.rates_hz[-1])
        self._stream: Any = self._container.add_stream(
            fmt.codec, rate=rate, layout=self._layout, bit_rate=min(bitrate_kbps, fmt.max_kbps_a_channel * channels) * 1000
        )

    def write(self, block: NDArray[Any]) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block, np.float32).reshape(1, -1), "flt", self._layout)
        frame.sample_rate = self._rate_hz
        frame.pts = self._samples
        self._samples += len(block)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        with self._errors():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with self._file, self._errors():
            try:
                if 0 < self._samples < (least := round(_LEAST_S * self._rate_hz)):
                    self.write(np.zeros((least - self._samples, self._channels), np.float32))
                if self._samples:
                    self._mux(None)
            finally:
                self._container.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise write_error(self._path, self._file.error or error) from error
        if self._file.error:
            raise self._file.error


class _QuietFile(FileIO):
    """A file that keeps its first error to itself: PyAV prints a traceback for what is raised in its callbacks."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            if written < len(data):  # a disk fills up in the middle of a write; the next one says so
                written += super().write(data[written:])
        except OSError as error:
            self.error = self.error or error
            written = len(data)
        return written


# FFmpeg's default layouts, by number of channels.
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def filename(path: Path) -> bytes:
    """soundfile takes names that are not UTF-8 as bytes only."""
    return bytes(path)


def write_error(path: Path, error: Exception) -> OSError:
    """The codec libraries seldom say why a write failed; nearly always the disk is full."""
    full = shutil.disk_usage(path.parent).free < 1 << 20
    reported: Any = getattr(error, "errno", None)
    known = isinstance(reported, int) and reported in errno.errorcode  # FFmpeg has numbers of its own, too
    code = errno.ENOSPC if full else reported if known else errno.EIO
    return OSError(code, os.strerror(code))
