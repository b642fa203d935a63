"""Stem blocks in, audio files out.

Lossless files hold integers that add up: every stem is rounded, and ``other`` is the mixture less the rounded rest, so that
the sum is the mixture to the last bit. What does not fit into the integers is set aside in a side file; if there was any,
:meth:`StemWriter.finish` goes over the files once more and turns all of them down by one gain. A stem is never scaled alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from demixr_daemon.errors import SettingError
from demixr_daemon.separation.decode import BLOCK_SAMPLES, Block
from demixr_daemon.separation.files import FLOAT_BITS, FORMATS, FFmpegSink, Sink, SndfileSink, filename

Integers = NDArray[np.int16] | NDArray[np.int32]


class StemWriter:
    """Writes the stems of one track into a folder, block by block. A context manager; leaving it closes the files.

    :param stems: the files to write. ``other`` takes what the others leave, ``instrumental`` the mixture less ``vocals``.
    :param bits: 16, 24 or :data:`FLOAT_BITS`; ignored by lossy formats.
    :raises SettingError: the format cannot hold these channels or this depth.
    """

    def __init__(
        self, folder: Path, stems: tuple[str, ...], *, fmt: str, bits: int, rate_hz: int, channels: int,
        bitrate_kbps: int, expected_samples: int | None = None,
    ) -> None:  # fmt: skip
        self._format = FORMATS[fmt]
        if channels > self._format.max_channels:
            instead = "flac or wav" if channels <= FORMATS["flac"].max_channels else "wav"
            raise SettingError(f"{fmt} holds at most {self._format.max_channels} channels, the track has {channels}; "
                               f"use format {instead}")  # fmt: skip
        if rate_hz > self._format.max_rate_hz:
            raise SettingError(f"{fmt} holds at most {self._format.max_rate_hz} Hz, the track has {rate_hz}; use format wav")
        if self._format.bits and bits not in self._format.bits:
            raise SettingError(f"{fmt} cannot hold {bits} bits; it takes {', '.join(map(str, self._format.bits))}")
        self._folder = folder
        self._stems = stems
        self._bits = bits
        self._rate_hz = rate_hz
        self._channels = channels
        self._bitrate_kbps = bitrate_kbps
        self._expected_bytes = (expected_samples or 0) * channels * bits // 8
        self._open_files = ExitStack()
        self._sinks: dict[str, Sink] = {}
        self._overflow: dict[str, _Overflow] = {}
        self.peaks: dict[str, float] = dict.fromkeys(stems, 0.0)
        """Largest sample of each stem before any gain, full scale 1.0."""

    def __enter__(self) -> Self:
        try:
            for stem in self._stems:
                self._sinks[stem] = self._sink(self.path(stem))
                self._overflow[stem] = self._open_files.enter_context(_Overflow(self._folder / f"{stem}.over"))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def path(self, stem: str) -> Path:
        """Where this stem is written."""
        return self._folder / f"{stem}.{self._format.extension}"

    @property
    def _integer(self) -> bool:
        return bool(self._format.bits) and self._bits != FLOAT_BITS

    def write(self, mixture: Block, estimates: Mapping[str, Block]) -> None:
        """Write the next block.

        :param mixture: the decoded track, (samples, channels).
        :param estimates: the separated targets, same shape; ``other`` may be absent, it is what they leave.
        """
        if not self._integer:
            for stem, block in self._derived(mixture, estimates).items():
                self.peaks[stem] = max(self.peaks[stem], float(np.abs(block).max(initial=0.0)))
                self._sinks[stem].write(block)
            return
        full_scale = float(1 << (self._bits - 1))
        # Products with a power of two and whole numbers are exact in floating point; sums are, in double precision.
        whole = mixture.astype(np.float64) * full_scale
        rounded = {stem: np.rint(block * np.float32(full_scale)) for stem, block in estimates.items()}
        for stem, values in self._derived(whole, rounded).items():
            exact = np.rint(values, out=values)
            highest, lowest = float(exact.max(initial=0.0)), float(exact.min(initial=0.0))
            self.peaks[stem] = max(self.peaks[stem], highest / full_scale, -lowest / full_scale)
            fitting = exact
            if highest > full_scale - 1 or lowest < -full_scale:
                fitting = np.clip(exact, -full_scale, full_scale - 1)
                self._overflow[stem].write(exact.astype(np.float64) - fitting)
            else:
                self._overflow[stem].skip(exact.size)
            self._sinks[stem].write(self._container_integers(fitting))

    def _derived(self, mixture: NDArray[Any], estimates: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The wanted stems: the estimates, and those that are what others leave of the mixture."""
        wanted: dict[str, NDArray[Any]] = {}
        for stem in self._stems:
            if stem == "other":
                wanted[stem] = mixture.copy()
                for name, block in estimates.items():
                    if name != "other":
                        wanted[stem] -= block
            elif stem == "instrumental":
                wanted[stem] = mixture - estimates["vocals"]
            else:
                wanted[stem] = estimates[stem]
        return wanted

    def finish(self) -> float:
        """Close the files; turn them all down by one gain if an integer format could not hold a peak.

        :return: that gain as a factor, 1.0 where none was needed.
        """
        self._close_sinks()
        if not any(overflow.any for overflow in self._overflow.values()):
            return 1.0
        largest = float(1 << (self._bits - 1)) - 1
        # One step is kept free for the rounding of ``other``, which takes that of all the rest.
        gain = (largest - len(self._stems)) / ((largest + 1) * max(self.peaks.values()))
        louder = {stem: self.path(stem).replace(self._folder / f"{stem}.loud") for stem in self._stems}
        with ExitStack() as open_files:
            sources = {stem: open_files.enter_context(soundfile.SoundFile(filename(path))) for stem, path in louder.items()}
            for stem in self._stems:
                self._sinks[stem] = self._sink(self.path(stem))
                self._overflow[stem].rewind()
            for blocks in zip(*(self._exact(stem, source) for stem, source in sources.items()), strict=True):
                exact = dict(zip(self._stems, blocks, strict=True))
                mixture = sum(values for stem, values in exact.items() if stem != "instrumental")
                quiet = {stem: np.rint(values * gain) for stem, values in exact.items()}
                if "other" in quiet:  # takes the rounding of the rest, so that the sum is that of the mixture
                    quiet["other"] = np.rint(mixture * gain) - sum(
                        values for stem, values in quiet.items() if stem not in ("other", "instrumental")
                    )
                for stem, values in quiet.items():
                    self._sinks[stem].write(self._container_integers(values))
            self._close_sinks()
        for path in louder.values():
            path.unlink()
        return gain

    def _exact(self, stem: str, source: soundfile.SoundFile) -> Iterator[NDArray[np.float64]]:
        """What :meth:`write` was given for this stem, with what did not fit, as integers in float64."""
        while len(block := source.read(BLOCK_SAMPLES, dtype="int32", always_2d=True)):
            yield (block >> (32 - self._bits)) + self._overflow[stem].read(block.shape)

    def _container_integers(self, values: NDArray[np.floating[Any]]) -> Integers:
        """libsndfile takes 16-bit integers, or 32-bit ones of which it keeps the upper bits."""
        if self._bits == 16:
            return values.astype(np.int16)
        return values.astype(np.int32) << (32 - self._bits)

    def _sink(self, path: Path) -> Sink:
        if self._format.codec:
            return FFmpegSink(path, self._format, self._rate_hz, self._channels, self._bitrate_kbps)
        subtype = "FLOAT" if self._bits == FLOAT_BITS else f"PCM_{self._bits}"
        container = self._format.extension.upper()
        if container == "WAV" and self._expected_bytes > 4_000_000_000:
            container = "RF64"  # the 64-bit WAV; a plain one ends at 4 GiB
        return SndfileSink(path, self._rate_hz, self._channels, container, subtype)

    def _close_sinks(self) -> None:
        with ExitStack() as closing:  # all of them, also when one fails
            for sink in self._sinks.values():
                closing.callback(sink.close)
            self._sinks = {}

    def _close(self) -> None:
        self._open_files.callback(self._close_sinks)
        self._open_files.close()


class _Overflow:
    """What did not fit, kept on disk only where there is any: (index, excess) of single samples."""

    _ENTRY = np.dtype([("index", np.int64), ("excess", np.float64)])

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._position = 0
        self._pending: NDArray[Any] = np.empty(0, self._ENTRY)

    @property
    def any(self) -> bool:
        return self._file is not None

    def write(self, excess: NDArray[np.float64]) -> None:
        flat = excess.ravel()
        where = np.flatnonzero(flat)
        if len(where):
            self._file = self._file or self._path.open("w+b")
            entries = np.empty(len(where), self._ENTRY)
            entries["index"] = where + self._position
            entries["excess"] = flat[where]
            self._file.write(entries.tobytes())
        self._position += flat.size

    def skip(self, samples: int) -> None:
        self._position += samples

    def rewind(self) -> None:
        self._position = 0
        if self._file:
            self._file.seek(0)

    def read(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The excess of the next ``shape[0]`` samples."""
        excess = np.zeros(shape)
        flat = excess.reshape(-1)
        stop = self._position + flat.size
        while self._file and (not len(self._pending) or self._pending["index"][-1] < stop):
            more = np.frombuffer(self._file.read(self._ENTRY.itemsize * BLOCK_SAMPLES), self._ENTRY)
            if not len(more):
                break
            self._pending = np.concatenate([self._pending, more])
        here = np.searchsorted(self._pending["index"], stop)
        flat[self._pending["index"][:here] - self._position] = self._pending["excess"][:here]
        self._pending, self._position = self._pending[here:], stop
        return excess

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()
            self._path.unlink(missing_ok=True)
