"""What was downloaded → the audio file that is kept: without video, in a container that takes tags, tagged, with its cover.

Coded audio is copied, never coded again. FFmpeg's libraries come with PyAV's wheel; no ffmpeg program is needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import mediafile

from demixr_daemon.intake.youtube import DownloadError

# Codec → file extension and FFmpeg's name of the container to put it into.
_CONTAINERS = {"aac": ("m4a", "ipod"), "alac": ("m4a", "ipod"), "mp3": ("mp3", "mp3"), "opus": ("opus", "ogg"),
               "vorbis": ("ogg", "ogg"), "flac": ("flac", "flac")}  # fmt: skip
# Containers that can stay as they are, by FFmpeg's name of the format, where they hold no video.
_FINE_AS_IT_IS = {"mp3": "mp3", "ogg": "ogg", "flac": "flac", "wav": "wav", "aiff": "aiff", "asf": "wma", "wv": "wv",
                  "ape": "ape", "mov,mp4,m4a,3gp,3g2,mj2": "m4a"}  # fmt: skip
# MP4 in fragments, as it is streamed: players and taggers expect one piece.
_FRAGMENTED_BRANDS = ("dash", "iso5", "iso6", "cmfc")


@dataclass(frozen=True)
class Tags:
    """What the page says of a track; empty where it does not say."""

    title: str
    artist: str = ""
    album: str = ""
    albumartist: str = ""
    track: int | None = None
    year: int | None = None
    genre: str = ""
    comments: str = ""


@dataclass(frozen=True)
class Kept:
    """The finished file."""

    path: Path
    seconds: float
    title: str
    artist: str


def keep(source: Path, cover: Path | None, tags: Tags, *, own_tags_first: bool) -> Kept:
    """Make the file that is kept, beside ``source``, which stays.

    :param own_tags_first: the tags that the file brought along are the better ones.
    :raises DownloadError: it holds no audio that can be kept, or is broken.
    """
    try:
        made, seconds = _remuxed(source)
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DownloadError(f"{tags.comments}: holds no audio that can be read ({why}); give the URL of the page that plays it",
                            retryable=False) from error  # fmt: skip
    try:
        file = mediafile.MediaFile(os.fsencode(made))
        for name, value in vars(tags).items():
            if value and not (own_tags_first and getattr(file, name)):
                setattr(file, name, value)
        if cover and not (own_tags_first and file.images) and (picture := _picture(cover)):
            file.images = [mediafile.Image(picture, type=mediafile.ImageType.front)]
        file.save()
    except mediafile.UnreadableFileError as error:
        raise DownloadError(f"{tags.comments}: holds no audio that can be tagged ({source.suffix[1:]}); change "
                            "demix.daemon.youtube.format", retryable=False) from error  # fmt: skip
    return Kept(made, seconds, file.title or tags.title, file.artist or "")


def _remuxed(source: Path) -> tuple[Path, float]:
    """The audio of ``source`` in a container of its own, read to its end once; its length in seconds."""
    with av.open(str(source), "r") as container:
        if not container.streams.audio:
            raise ValueError("no audio in it")
        audio = container.streams.audio[0]
        codec = audio.codec.canonical_name
        video = any(not stream.disposition & stream.disposition.attached_pic for stream in container.streams.video)
        brands = container.metadata.get("major_brand", "") + container.metadata.get("compatible_brands", "")
        fine = _FINE_AS_IT_IS.get(container.format.name)
        if video or any(brand in brands for brand in _FRAGMENTED_BRANDS):
            fine = None
        if fine is None and codec not in _CONTAINERS:
            raise ValueError(f"{codec} in {container.format.name} cannot be kept; change demix.daemon.youtube.format")
        extension, muxer = _CONTAINERS.get(codec, (fine, "")) if fine is None or fine == "ogg" else (fine, "")
        made = source.with_name(f"kept.{extension}")
        if fine:
            shutil.copyfile(source, made)
            return made, _end_s(container, audio, None)
        with av.open(str(made), "w", format=muxer) as output:
            output.metadata.update({key: value for key, value in container.metadata.items() if "brand" not in key})
            stream = output.add_stream_from_template(audio)
            return made, _end_s(container, audio, (output, stream))


def _end_s(container: Any, audio: Any, to: tuple[Any, Any] | None) -> float:
    """Read all packets, and write them where there is a place for them; when the last one ends."""
    end_s = 0.0
    for packet in container.demux(audio):
        if packet.dts is None:
            continue  # the one that flushes
        if packet.pts is not None:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if to is not None:
            output, packet.stream = to
            output.mux(packet)
    if not end_s:
        raise ValueError("no audio in it")
    return end_s


def _picture(path: Path) -> bytes:
    """A cover as every player shows it: JPEG or PNG as they are, others made JPEG; empty if it is no picture."""
    data = path.read_bytes()
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return data
    with contextlib.suppress(av.FFmpegError, ValueError, StopIteration):
        with av.open(str(path), "r") as container:
            frame = next(container.decode(video=0)).reformat(format="yuvj420p")
        encoder: Any = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj420p"
        encoder.time_base, encoder.qmin, encoder.qmax = Fraction(1, 25), 2, 4
        frame.pts = 0
        return b"".join(bytes(packet) for part in (frame, None) for packet in encoder.encode(part))
    return b""
