"""The spine: one track in, one published stem set out. Everything that separates goes through :func:`demix`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import mediafile
import numpy as np

from demixr_daemon import publishing, stems
from demixr_daemon.errors import AudioError, BusyError, Cancelled, SettingError, output_error, shown
from demixr_daemon.separation.background import in_background
from demixr_daemon.separation.channels import Resampler, downmix_matrix
from demixr_daemon.separation.decode import Block, Track, fingerprint, open_track
from demixr_daemon.separation.encode import StemWriter
from demixr_daemon.separation.files import FLOAT_BITS, FORMATS, write_error
from demixr_daemon.separation.models import Model
from demixr_daemon.settings import Options
from demixr_daemon.stems import Recipe, Source, StemSet

if TYPE_CHECKING:  # it imports torch, which is slow: left to those who separate
    from demixr_daemon.separation.loading import LoadedModel
    from demixr_daemon.separation.stft import Stems

# What goes wrong with tags is told by exceptions; mediafile logs it besides.
logging.getLogger("mediafile").addHandler(logging.NullHandler())

_BLOCKS_AHEAD = 2

Progress = Callable[[int, int | None], None]
"""Called between chunks with the samples done and the samples in all, None where the file does not say."""


def load(model: Model, options: Options) -> LoadedModel:
    """Load a model; see :func:`demixr_daemon.separation.loading.load`.

    Torch is imported here, not before. What it brings stays to the end: to look for garbage among it meanwhile, and when the
    process ends, would take a second.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        from demixr_daemon.separation import loading
    finally:
        if first:
            gc.enable()
    if first:
        gc.freeze()
    return loading.load(model, options)


def recipe_for(track: Track, model: Model, options: Options) -> Recipe:
    """What :func:`demix` would make of ``track``; compare with a stem set's to see whether it is current.

    :raises SettingError: the model has no such target.
    """
    known = (*model.targets, *(("instrumental",) if "vocals" in model.targets else ()))
    for stem in options.stems:
        if stem not in known:
            raise SettingError(f"demix.targets: model {model.name} has no {stem}; it has {', '.join(known)}")
    lossless = bool(FORMATS[options.format].bits)
    bits = {"auto": track.bits, "float": FLOAT_BITS}.get(options.bits) or int(options.bits)
    return Recipe(
        model=model.name,
        model_sha256=model.sha256,
        quantization=options.quantization,
        niter=model.iterations(options.niter),
        stems=options.stems,
        format=options.format,
        bits=bits if lossless else 0,
        bitrate_kbps=0 if lossless else options.bitrate,
    )


def check(path: Path, model: Model, options: Options, folder: Path | None = None) -> tuple[StemSet | None, str]:
    """The stem set that :func:`demix` would only make again; or None and the reason why it has work to do.

    A file whose size and time are those of the manifest has not changed; otherwise its audio is compared, so that a change
    of tags costs one reading of the file, once.

    :raises AudioError: the track cannot be opened.
    :raises SettingError: the model has no such target.
    """
    wanted = recipe_for(open_track(path), model, options)
    present = stems.read(folder or stems.folder_for(path))
    if present is None:
        return None, "no stems yet"
    if not present.complete():
        return None, "a stem is missing"
    if present.recipe != wanted:
        changed = [field.name.removesuffix("_sha256").removesuffix("_kbps") for field in dataclasses.fields(Recipe)
                   if getattr(present.recipe, field.name) != getattr(wanted, field.name)]  # fmt: skip
        return None, f"{', '.join(dict.fromkeys(changed))} changed"
    stat = _stat(path)
    if (present.source.size, present.source.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return present, ""
    if present.source.fingerprint != fingerprint(path):
        return None, "audio changed"
    source = dataclasses.replace(present.source, size=stat.st_size, mtime_ns=stat.st_mtime_ns, name=path.name)
    present = dataclasses.replace(present, source=source)
    with contextlib.suppress(OSError):  # a read-only folder: the audio is compared again next time
        present.write_manifest(present.folder)
    return present, ""


def demix(
    path: Path,
    model: LoadedModel,
    options: Options | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> StemSet:
    """Separate one track and publish its stems.

    :param folder: where they go; by default beside the track, see :func:`demixr_daemon.stems.folder_for`.
    :param cancelled: asked between chunks.
    :raises AudioError: the track is missing, damaged, not audio, or changed meanwhile.
    :raises OutputError: the stems cannot be written.
    :raises SettingError: the options do not fit the track or the model.
    :raises BusyError: another process is separating this track, or one whose stems would have the same folder.
    :raises Cancelled: ``cancelled`` said so; nothing was left behind.
    """
    options = options or Options()
    track = open_track(path)
    recipe = recipe_for(track, model.model, options)
    loaded = model.options
    niter = model.model.iterations(loaded.niter)
    if (loaded.quantization, niter) != (recipe.quantization, recipe.niter):
        raise SettingError(f"the model was loaded for {loaded.quantization} and niter {niter}, not for "
                           f"{recipe.quantization} and {recipe.niter}")  # fmt: skip
    before = _stat(path)
    source_hash = fingerprint(path)
    beside = folder is None
    folder = folder or stems.folder_for(path)
    with publishing.workplace(path, folder) as place:
        if beside and stems.folder_for(path) != folder:  # another track of this name was a moment faster
            raise BusyError(f"{shown(folder)}: has just been made by another process; run again")
        try:
            writer = StemWriter(
                place, recipe.stems, fmt=recipe.format, bits=recipe.bits, rate_hz=track.rate_hz, channels=track.channels,
                bitrate_kbps=options.bitrate, expected_samples=track.declared_samples,
            )  # fmt: skip
            # Written while the next blocks are separated; either end is closed with the other.
            with writer, contextlib.closing(in_background(_separated(track, model), _BLOCKS_AHEAD)) as separated:
                samples = 0
                for mixture, estimates in separated:
                    if cancelled and cancelled():
                        raise Cancelled(f"{shown(path)}: cancelled")
                    writer.write(mixture, estimates)
                    samples += len(mixture)
                    if progress:
                        progress(samples, track.declared_samples)
                gain = writer.finish()
            after = _stat(path)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise AudioError(f"{shown(path)}: changed while it was separated; run again")
            made = StemSet(
                folder=folder,
                files={stem: writer.path(stem).name for stem in recipe.stems},
                source=Source(path.name, before.st_size, before.st_mtime_ns, source_hash, track.rate_hz,
                              track.channels, samples),
                recipe=recipe,
                licence=model.model.licence,
                gain=gain,
                program=f"beets-demix {metadata.version('beets-demix')}",
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )  # fmt: skip
            _tag(path, {stem: writer.path(stem) for stem in recipe.stems})
            made.write_manifest(place)
        except OSError as error:
            raise output_error(error, folder.parent) from error
        except SettingError as error:  # the format does not hold what this track has
            raise SettingError(f"{shown(path)}: {error}") from error
        except RuntimeError as error:  # torch's, of a GPU whose memory is full or whose driver gave up
            if loaded.device == "cpu":
                raise
            raise SettingError(f"{shown(path)}: the GPU failed: {str(error).splitlines()[0]}; take device: cpu") from error
        stems.publish(place, folder)
    return made


def _separated(track: Track, model: LoadedModel) -> Iterator[tuple[Block, Mapping[str, Block]]]:
    """The track in blocks, each with the targets' estimates at the track's own rate and channels."""
    backend = model.backend
    channels, count = track.channels, len(backend.targets)
    waiting = _Queue(channels)
    back = Resampler(backend.rate_hz, track.rate_hz, count * channels)

    def at_model_rate(seen: Callable[[Block], None] | None = None) -> Iterator[Block]:
        there = Resampler(track.rate_hz, backend.rate_hz, channels)
        for block in track.blocks():
            if seen:
                seen(block)
            if len(resampled := there(block)):
                yield resampled
        if len(resampled := there(np.empty((0, channels), np.float32), last=True)):
            yield resampled

    def at_track_rate(blocks: Iterable[Stems]) -> Iterator[Stems]:
        if track.rate_hz == backend.rate_hz:
            yield from blocks
            return
        for block in blocks:
            yield back(block.reshape(len(block), -1)).reshape(-1, count, channels)
        yield back(np.empty((0, count * channels), np.float32), last=True).reshape(-1, count, channels)

    def paired(estimates: Stems) -> tuple[Block, Mapping[str, Block]]:
        mixture = waiting.take(len(estimates))
        return mixture, {target: estimates[: len(mixture), index] for index, target in enumerate(backend.targets)}

    audio = at_model_rate(waiting.put)
    separated = backend.separate(audio, at_model_rate(), downmix_matrix(track.layout))
    for estimates in at_track_rate(separated):
        if len(waiting) and len(estimates):
            yield paired(estimates)
    for _ in audio:  # what was too short to be seen at the model's rate
        pass
    if rest := len(waiting):  # rounding of two rates against each other: a sample or so
        yield paired(np.zeros((rest, count, channels), np.float32))


class _Queue:
    """The mixture's samples that wait for their stems."""

    def __init__(self, channels: int) -> None:
        self._blocks: list[Block] = []
        self._empty: Block = np.empty((0, channels), np.float32)

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def put(self, block: Block) -> None:
        self._blocks.append(block)

    def take(self, samples: int) -> Block:
        """The next ``samples``, or as many as there are."""
        taken: list[Block] = []
        while samples and self._blocks:
            block = self._blocks.pop(0)
            if len(block) > samples:
                self._blocks.insert(0, block[samples:])
                block = block[:samples]
            taken.append(block)
            samples -= len(block)
        return np.concatenate(taken) if taken else self._empty


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise AudioError(f"{shown(path)}: {error.strerror}; check the file") from error


def _tag(track: Path, files: Mapping[str, Path]) -> None:
    """Give the stems their track's tags, so that a player shows what they are; a track without tags is fine."""
    try:
        original = mediafile.MediaFile(os.fsencode(track))
    except mediafile.UnreadableFileError:
        return
    for stem, path in files.items():
        try:
            tagged = mediafile.MediaFile(os.fsencode(path))
        except mediafile.UnreadableFileError:
            continue  # RF64, the WAV beyond 4 GiB
        try:
            for name in ("artist", "album", "albumartist", "track", "tracktotal", "disc", "disctotal", "year", "bpm"):
                if (value := getattr(original, name)) is not None:
                    with contextlib.suppress(ValueError):  # a number that this format has no room for
                        setattr(tagged, name, value)
            tagged.title = f"{original.title or shown(track.stem)} ({stem})"
            tagged.save()
        except mediafile.UnreadableFileError as error:
            raise write_error(path, error) from error
