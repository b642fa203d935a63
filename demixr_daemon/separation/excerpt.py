"""Any part of an audio file, exact to the sample in every format that stems have: for listeners, who jump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import soundfile

from demixr_daemon.errors import AudioError, shown
from demixr_daemon.separation.channels import downmix_matrix
from demixr_daemon.separation.decode import Block, open_track

# What a lossy decoder wants to have heard before it is exact: MP3's bit reservoir and overlap, AAC's priming.
_PREROLL_S = 1.0
# What libsndfile does not seek exactly. Nor does FFmpeg always in Ogg Vorbis, by some hundred samples: no stem is Vorbis.
_INEXACT = ("MPEG_LAYER", "VORBIS")


class Excerpt:
    """An opened audio file; :meth:`read` gives any part of it, in stereo.

    :raises AudioError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        track = open_track(path)
        self.path = path
        self.rate_hz = track.rate_hz
        self.samples = track.declared_samples or 0
        """Length by the header."""
        self.is_float = False
        """Whether its samples may exceed full scale."""
        self._mixdown = None if track.channels == 2 else downmix_matrix(track.layout)
        self._sound: Any = None
        self._container: Any = None
        self._blocks: Iterator[tuple[int, Block]] = iter(())
        self._next = -1
        try:
            self._file = open(path, "rb")  # noqa: SIM115 -- open as long as this is
            if not track.with_ffmpeg:
                self._sound = soundfile.SoundFile(self._file.fileno(), closefd=False)
                self.is_float = self._sound.subtype in ("FLOAT", "DOUBLE")
                if self._sound.subtype.startswith(_INEXACT):
                    self._sound.close()
                    self._sound = None
                    self._file.seek(0)
            if self._sound is None:
                self._container = av.open(self._file, "r")
                self._stream = self._container.streams.audio[0]
                self._first: int | None = None
        except (OSError, soundfile.LibsndfileError, av.FFmpegError, IndexError, ValueError) as error:
            raise AudioError(f"{shown(path)}: cannot be opened ({error}); check the file") from error

    def read(self, start: int, samples: int) -> Block:
        """``samples`` from ``start`` on as (samples, 2); beyond the end there is silence.

        :raises AudioError: the file is damaged there.
        """
        out = np.zeros((samples, 2), np.float32)
        wanted = min(samples, self.samples - start)
        if wanted <= 0:
            return out
        try:
            part = self._from_sndfile(start, wanted) if self._sound is not None else self._from_ffmpeg(start, wanted)
        except (OSError, soundfile.LibsndfileError, av.FFmpegError, ValueError) as error:
            raise AudioError(f"{shown(self.path)}: damaged near {start / self.rate_hz:.1f} s; replace the file") from error
        np.nan_to_num(part, copy=False)
        out[: len(part)] = part if self._mixdown is None else part @ self._mixdown
        return out

    def close(self) -> None:
        """Give the file back."""
        for opened in (self._sound, self._container, self._file):
            if opened is not None:
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _from_sndfile(self, start: int, samples: int) -> Block:
        if start != self._next:
            self._sound.seek(start)
        part: Block = self._sound.read(samples, dtype="float32", always_2d=True)
        self._next = start + len(part)
        return part

    def _from_ffmpeg(self, start: int, samples: int) -> Block:
        if start != self._next:
            self._seek(start)
        parts: list[Block] = []
        have = 0
        while have < samples and (block := next(self._blocks, None)) is not None:
            position, audio = block
            audio = audio[max(0, start + have - position) :]
            if len(audio) > samples - have:
                rest = audio[samples - have :]
                self._blocks = _chained((start + samples, rest), self._blocks)
                audio = audio[: samples - have]
            parts.append(audio)
            have += len(audio)
        self._next = start + have
        return np.concatenate(parts) if parts else np.empty((0, self._stream.codec_context.layout.nb_channels), np.float32)

    def _seek(self, start: int) -> None:
        if self._first is None:  # where FFmpeg lets a file begin, its encoder's padding taken off
            self._first = next(self._decoded(), (0, None))[0]
        earlier = max(0.0, start / self.rate_hz - _PREROLL_S) + self._first / self.rate_hz
        self._container.seek(int(earlier / self._stream.time_base), stream=self._stream, backward=True, any_frame=False)
        first = self._first
        self._blocks = ((position - first, audio) for position, audio in self._decoded())

    def _decoded(self) -> Iterator[tuple[int, Block]]:
        """(position in samples, audio) from where the container stands."""
        to_float = av.AudioResampler(format="flt")
        for frame in self._container.decode(self._stream):
            position = round(frame.pts * self._stream.time_base * self.rate_hz)
            for part in to_float.resample(frame):
                channels = part.layout.nb_channels
                yield position, part.to_ndarray().reshape(-1, channels).astype(np.float32, copy=False)


def _chained(first: tuple[int, Block], rest: Iterator[tuple[int, Block]]) -> Iterator[tuple[int, Block]]:
    yield first
    yield from rest
