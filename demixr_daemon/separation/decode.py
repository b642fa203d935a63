"""Any audio file in, float32 blocks out, in flat memory.

libsndfile (soundfile) reads what it can; FFmpeg (PyAV, whose wheel carries it) reads the rest, and everything with more
than two channels because it names them. Owner of reading with both libraries.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from demixr_daemon.errors import AudioError, shown

Block = NDArray[np.float32]
"""Audio as (samples, channels), float32, full scale ±1."""

BLOCK_SAMPLES = 1 << 16

# Integer formats by the bits that hold their samples exactly; what is not listed is lossy or floating point.
_BITS_OF_SUBTYPE = {"PCM_S8": 16, "PCM_U8": 16, "PCM_16": 16, "PCM_24": 24, "PCM_32": 24, "ALAC_16": 16, "ALAC_20": 24,
                    "ALAC_24": 24, "ALAC_32": 24, "FLOAT": 24, "DOUBLE": 24}  # fmt: skip
# Float files may exceed full scale; beyond this they hold no sound, and squares of spectra overflow.
_LOUDEST = 1e6
# A lossy track may be this much shorter than its header says, encoder padding and rounding included; less means truncated.
_LOSSY_SLACK, _PADDING_S = 0.02, 0.2
# Containers that declare their length; of the others (ADTS, raw MP3) FFmpeg only estimates it.
_DECLARING = re.compile(r"mov|matroska|asf|wv|ape|tta|flac|aiff|wav|caf")
# FFmpeg's default layouts, for files that do not name their channels.
_DEFAULT_LAYOUTS = {
    3: ("FL", "FR", "FC"), 4: ("FL", "FR", "BL", "BR"), 5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}  # fmt: skip
_LOSSLESS_CODECS = re.compile(r"pcm_|flac|alac|ape|wavpack|tta|tak|mlp|truehd|shorten|wmalossless|als")

# A WAV writer that cannot seek (a pipe) leaves the largest size it can in the header.
_UNKNOWN_SIZE = 0x7FFFF000
_SHORT_DATA = re.compile(r"^ *(?:data|SSND) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)

# libsndfile's own for a length that it does not know: a FLAC writer that cannot seek leaves 0 in the header.
_NO_LENGTH = 1 << 62
_OGG_SERIAL = re.compile(rb"OggS.{10}(.{4})", re.DOTALL)
_OGG_PAGE_BYTES = 65_307  # at most


@dataclass(frozen=True)
class Track:
    """An audio file that was opened once and found to hold audio."""

    path: Path
    rate_hz: int
    layout: tuple[str, ...]
    """Channel names, FFmpeg's: FL, FR, FC, LFE, BL, BR, SL, SR..."""
    bits: int
    """16 or 24: the integer depth that holds its samples; 16 for lossy codecs, whose last bits are noise."""
    declared_samples: int | None
    """Length by the header, in samples; None where the header does not say."""
    least_samples: int
    """A track that ends before this is truncated."""
    with_ffmpeg: bool

    @property
    def channels(self) -> int:
        return len(self.layout)

    def blocks(self) -> Iterator[Block]:
        """The whole track, block by block.

        :raises AudioError: damaged or truncated, not finite, or empty.
        """
        samples = 0
        try:
            for block in _ffmpeg_blocks(self) if self.with_ffmpeg else _sndfile_blocks(self):
                if not np.abs(block).max(initial=0.0) <= _LOUDEST:  # NaN compares as false
                    raise AudioError(f"{shown(self.path)}: NaN, infinite or absurd samples near "
                                     f"{samples / self.rate_hz:.1f} s; export the file again")  # fmt: skip
                samples += len(block)
                yield block
        except OSError as error:
            raise AudioError(f"{shown(self.path)}: {error.strerror or error}; check the file") from error
        if samples < self.least_samples:
            raise AudioError(f"{shown(self.path)}: truncated: {samples} of {self.declared_samples} samples are there; "
                             "copy or download it again")  # fmt: skip
        if samples == 0:
            raise AudioError(f"{shown(self.path)}: holds no audio; replace the file")


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks after every read, to where it is already; libsndfile's MP3 decoder cannot do that without a glitch."""

    def seekable(self) -> bool:
        """Never, so that it does not."""
        return False


def open_track(path: Path) -> Track:
    """Find out what ``path`` holds.

    :raises AudioError: missing, unreadable, empty, or not audio.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise AudioError(f"{shown(path)}: empty file; replace it")
    except OSError as error:
        raise AudioError(f"{shown(path)}: {error.strerror}; check the file") from error
    track = _probe_sndfile(path)
    return track if track is not None and track.channels <= 2 else _probe_ffmpeg(path)


def fingerprint(path: Path) -> str:
    """SHA-256 of the coded audio alone: the same after tags or cover art change, and no decoder has a say in it.

    What FFmpeg cannot take apart is hashed as a whole file.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            try:
                with av.open(file, "r") as container:
                    for packet in container.demux(container.streams.audio[0]):
                        digest.update(packet)
            except (av.FFmpegError, IndexError, ValueError):
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise AudioError(f"{shown(path)}: {error.strerror}; check the file") from error
    return digest.hexdigest()


def _probe_sndfile(path: Path) -> Track | None:
    with open(path, "rb") as file:
        try:
            # By descriptor, so that the content decides and not the name (libsndfile takes *.raw for headerless).
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                lossy = sound.subtype not in _BITS_OF_SUBTYPE
                short = _SHORT_DATA.search(sound.extra_info)
                if short and int(short[1]) < _UNKNOWN_SIZE and int(short[1]) > int(short[2]) + 16:
                    raise AudioError(f"{shown(path)}: truncated: {int(short[2])} of {int(short[1])} bytes of audio are "
                                     "there; copy or download it again")  # fmt: skip
                if sound.format == "OGG" and _chained(path):
                    return None
                declared = sound.frames if sound.frames < _NO_LENGTH else None
                return Track(
                    path=path,
                    rate_hz=sound.samplerate,
                    layout=("FC",) if sound.channels == 1 else ("FL", "FR", *("?",) * (sound.channels - 2)),
                    bits=_BITS_OF_SUBTYPE.get(sound.subtype, 16),
                    declared_samples=declared,
                    least_samples=_least(declared or 0, sound.samplerate, lossy=lossy),
                    with_ffmpeg=False,
                )
        except soundfile.LibsndfileError:
            return None


def _chained(path: Path) -> bool:
    """Whether an Ogg file holds several streams, of which libsndfile reads the first alone: the last page is of another one."""
    with open(path, "rb") as file:
        first = _OGG_SERIAL.match(file.read(18))
        file.seek(-min(_OGG_PAGE_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        last = file.read()
    found = _OGG_SERIAL.match(last, max(0, last.rfind(b"OggS")))
    return bool(first and found and first[1] != found[1])


def _least(declared: int, rate_hz: int, *, lossy: bool) -> int:
    return max(0, round(declared * (1 - _LOSSY_SLACK) - _PADDING_S * rate_hz)) if lossy else declared


def _sndfile_blocks(track: Track) -> Iterator[Block]:
    samples = 0
    with open(track.path, "rb") as file:
        try:
            with _Sequential(file.fileno(), closefd=False) as sound:
                while len(block := sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    samples += len(block)
                    yield block
        except soundfile.LibsndfileError as error:
            raise _damaged(track, samples, error.error_string) from error


def _probe_ffmpeg(path: Path) -> Track:
    try:
        with open(path, "rb") as file, av.open(file, "r") as container:
            stream = container.streams.audio[0]
            context = stream.codec_context
            if not context.sample_rate or not context.layout.nb_channels:
                raise AudioError(f"{shown(path)}: damaged: no sample rate in its header; replace the file")
            lossless = _LOSSLESS_CODECS.match(context.name) is not None
            wide = context.format is not None and context.format.bytes > 2
            seconds: float | None = None
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration:
                seconds = container.duration / av.time_base
            if container.format.name == "ogg" and _chained(path):
                seconds = None  # FFmpeg's is that of the last stream alone
            declared = None if seconds is None else round(seconds * context.sample_rate)
            known = declared is not None and _DECLARING.search(container.format.name)
            layout = tuple(channel.name for channel in context.layout.channels)
            if "NONE" in layout:
                layout = _DEFAULT_LAYOUTS.get(len(layout), layout)
            return Track(
                path=path,
                rate_hz=context.sample_rate,
                layout=layout,
                bits=24 if lossless and wide else 16,
                declared_samples=declared,
                least_samples=_least(declared, context.sample_rate, lossy=True) if declared and known else 0,
                with_ffmpeg=True,
            )
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise AudioError(f"{shown(path)}: not an audio file that can be decoded; replace it") from error


def _ffmpeg_blocks(track: Track) -> Iterator[Block]:
    samples = 0
    waiting: list[Block] = []
    try:
        with open(track.path, "rb") as file, av.open(file) as container:
            to_float = av.AudioResampler(format="flt")
            for frame in _frames(container):
                for part in to_float.resample(frame):
                    waiting.append(part.to_ndarray().reshape(-1, track.channels).astype(np.float32, copy=False))
                if sum(map(len, waiting)) >= BLOCK_SAMPLES:
                    yield (block := np.concatenate(waiting))
                    samples += len(block)
                    waiting.clear()
    except (av.FFmpegError, ValueError) as error:
        raise _damaged(track, samples, str(getattr(error, "strerror", None) or error)) from error
    if waiting:
        yield np.concatenate(waiting)


def _frames(container: Any) -> Iterator[Any]:
    yield from container.decode(container.streams.audio[0])
    yield None  # flushes the resampler


def _damaged(track: Track, samples: int, why: str) -> AudioError:
    return AudioError(f"{shown(track.path)}: damaged after {samples / track.rate_hz:.1f} s ({why.rstrip('.')}); "
                      "replace the file")  # fmt: skip
