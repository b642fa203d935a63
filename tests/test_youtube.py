"""URLs become tagged audio files: yt-dlp really downloads, from a real server on this machine."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import av
import mediafile
import numpy as np
import pytest
from yt_dlp.cookies import CookieLoadError
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, IncompleteRead, ProxyError, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    ExtractorError,
    GeoRestrictedError,
    PostProcessingError,
    UnsupportedError,
    UserNotLive,
)
from yt_dlp.utils import DownloadError as YtDlpError

from demixr_daemon.errors import Cancelled, SettingError
from demixr_daemon.intake import downloader, kept, youtube
from demixr_daemon.intake.reasons import explain
from demixr_daemon.intake.youtube import DownloadError, YoutubeSettings
from demixr_daemon.separation.decode import open_track
from tests.conftest import encode
from tests.made_song import made_mixture
from tests.media_server import MediaServer, serving, wait_for

SETTINGS = YoutubeSettings(retries=0, timeout_s=20)
SECONDS = 4.0


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with serving() as media:
        yield media


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Four seconds of music in one of FFmpeg's containers: ``media("webm")``."""
    folder = tmp_path_factory.mktemp("media")
    codecs = {"mp3": ("libmp3lame", "s16p", 44100), "webm": ("libopus", "flt", 48000), "m4a": ("aac", "fltp", 44100),
              "ogg": ("libopus", "flt", 48000), "flac": ("flac", "s16", 44100), "wav": ("pcm_s16le", "s16", 44100),
              "mka": ("ac3", "fltp", 44100)}  # fmt: skip

    def made(kind: str) -> bytes:
        path = folder / f"song.{kind}"
        if not path.exists():
            codec, sample_format, rate = codecs[kind]
            encode(path, made_mixture(SECONDS, rate), rate, codec, sample_format)
        return path.read_bytes()

    return made


def picture(kind: str) -> bytes:
    """A small real picture."""
    out = io.BytesIO()
    with av.open(out, "w", format={"webp": "webp", "jpg": "mjpeg"}[kind]) as container:
        stream = container.add_stream({"webp": "libwebp", "jpg": "mjpeg"}[kind], rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if kind == "jpg" else "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24").reformat(format=stream.pix_fmt)
        for part in (frame, None):
            container.mux(stream.encode(part))
    return out.getvalue()


def film(path: Path) -> bytes:
    """A video with sound, as most sites have it."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(made_mixture(SECONDS).reshape(1, -1), "flt", "stereo")
        frame.sample_rate = 44100
        for part in (frame, None):
            container.mux(sound.encode(part))
        for part in (*(av.VideoFrame(64, 48, "yuv420p") for _ in range(40)), None):
            container.mux(video.encode(part))
    return path.read_bytes()


def fetch(url: str, folder: Path, settings: YoutubeSettings = SETTINGS, **more: Any) -> youtube.Download:
    return youtube.fetch(url, folder, settings, more.get("progress", lambda _: None), more.get("cancelled", lambda: False))


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder).name) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("kind", "mime", "extension"), [
    ("mp3", "audio/mpeg", "mp3"), ("webm", "audio/webm", "opus"), ("webm", "video/webm", "opus"), ("m4a", "audio/mp4", "m4a"),
    ("ogg", "audio/ogg", "opus"), ("flac", "audio/flac", "flac"), ("wav", "audio/wav", "wav"),
    ("mp3", "application/octet-stream", "mp3"),
])  # fmt: skip
def test_a_media_url_becomes_a_tagged_track(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, kind: str, mime: str, extension: str
) -> None:
    url = server.add(f"/A Song.{kind}".replace(" ", "%20"), media(kind), kind=mime)
    shares: list[float | None] = []
    got = fetch(url, tmp_path, progress=shares.append)
    assert got.path.name == f"A Song.{extension}"
    assert (got.title, got.url) == ("A Song", url)
    assert shares
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    tags = mediafile.MediaFile(got.path)
    assert (tags.title, tags.comments) == ("A Song", url)
    track = open_track(got.path)
    assert sum(map(len, track.blocks())) / track.rate_hz == pytest.approx(SECONDS, abs=0.1)
    assert left(tmp_path) == sorted([got.path.name, youtube.SIDECAR])


def test_video_is_left_out_and_the_sound_is_copied(server: MediaServer, tmp_path: Path) -> None:
    body = film(tmp_path / "film.mp4")
    got = fetch(server.add("/film.mp4", body, kind="video/mp4"), tmp_path / "out")
    assert got.path.name == "film.m4a"
    with av.open(str(got.path)) as made, av.open(io.BytesIO(body)) as source:
        assert [stream.type for stream in made.streams] == ["audio"]
        coded = [[bytes(packet) for packet in container.demux(container.streams.audio[0])] for container in (made, source)]
    assert coded[0] == coded[1] != []


def test_the_files_own_tags_are_kept(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    path = tmp_path / "tagged.mp3"
    path.write_bytes(media("mp3"))
    tags = mediafile.MediaFile(path)
    tags.update({"title": "Nothing", "artist": "Nobody", "album": "Never"})
    tags.images = [mediafile.Image(picture("jpg"))]
    tags.save()
    got = fetch(server.add("/ep%201.mp3", path.read_bytes()), tmp_path / "out")
    assert (got.title, got.artist, got.path.name) == ("Nothing", "Nobody", "Nothing.mp3")
    tags = mediafile.MediaFile(got.path)
    assert (tags.title, tags.artist, tags.album, len(tags.images)) == ("Nothing", "Nobody", "Never", 1)


@pytest.mark.parametrize("kind", ["webp", "jpg"])
def test_the_picture_of_the_page_becomes_the_cover(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, kind: str
) -> None:
    server.add("/song.webm", media("webm"), kind="audio/webm")
    poster = server.add(f"/poster.{kind}", picture(kind), kind=f"image/{kind}")
    html = (f'<html><head><title>Größe / Höhe</title><meta property="og:image" content="{poster}"></head><body>'
            '<audio src="/song.webm"></audio></body></html>')  # fmt: skip
    got = fetch(server.add("/page", html.encode(), kind="text/html; charset=utf-8"), tmp_path)
    assert got.title == "Größe / Höhe (1)"  # yt-dlp counts the players of a page
    assert got.path.name == "Größe ⧸ Höhe (1).opus"
    cover = mediafile.MediaFile(got.path).images[0]
    assert cover.mime_type == "image/jpeg"
    with av.open(io.BytesIO(cover.data)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 48)
    without = fetch(f"{server.base}/page", tmp_path / "2", YoutubeSettings(thumbnail=False))
    assert not mediafile.MediaFile(without.path).images


def test_what_the_site_tells_becomes_tags() -> None:
    of = downloader._tags
    tags = of({"id": "1", "title": "x", "track": "T", "artists": ["A", "B"], "album": "L", "release_year": 1999}, "u")
    assert (tags.title, tags.artist, tags.album, tags.year, tags.comments) == ("T", "A, B", "L", 1999, "u")
    tags = of({"id": "1", "title": "Queen - Innuendo - Live", "uploader": "someone", "categories": ["Music"]}, "u")
    assert (tags.artist, tags.title) == ("Queen", "Innuendo - Live")
    tags = of({"id": "1", "title": "Part 1 - Beginnings", "uploader": "Foo - Topic"}, "u")
    assert (tags.artist, tags.title) == ("Foo", "Part 1 - Beginnings")


@pytest.mark.parametrize("title", ["🎵 a/b\\c: *?\"<>|", "../../etc/passwd", "." * 40, "長い題名" * 80, "-rf $HOME %(id)s"])
def test_any_title_makes_a_file_name(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, title: str
) -> None:
    path = tmp_path / "tagged.mp3"
    path.write_bytes(media("mp3"))
    tags = mediafile.MediaFile(path)
    tags.title = title
    tags.save()
    got = fetch(server.add("/1.mp3", path.read_bytes()), tmp_path / "$HOME %(title)s" / "ü")
    assert got.title == title == mediafile.MediaFile(got.path).title
    assert got.path.parent == youtube.place_of(f"{server.base}/1.mp3", tmp_path / "$HOME %(title)s" / "ü")
    assert len(os.fsencode(got.path.name)) <= 200
    assert not got.path.name.startswith(".")


def test_a_finished_one_is_not_fetched_again(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/song.mp3", media("mp3"))
    first = fetch(url, tmp_path)
    asked = len(server.requests)
    assert fetch(url, tmp_path) == first
    assert len(server.requests) == asked
    youtube.discard(url, tmp_path)
    assert left(tmp_path) == []
    assert fetch(url, tmp_path) == first
    assert len(server.requests) > asked


@pytest.mark.parametrize("retries", [0, 3])
def test_what_broke_off_goes_on_where_it_broke(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, retries: int
) -> None:
    body = media("wav")
    url = server.add("/song.wav", body, kind="audio/wav", break_off=2)  # the page itself, then the download
    settings = YoutubeSettings(retries=retries)
    if not retries:
        with pytest.raises(DownloadError, match="the network failed") as caught:
            fetch(url, tmp_path, settings)
        assert caught.value.retryable
        assert [name for name in left(tmp_path) if name.endswith(".part")]
    got = fetch(url, tmp_path, settings)
    ranges = [request.range for request in server.of("/song.wav") if request.range]
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges]
    assert len(starts) == 1
    assert len(body) // 8 < starts[0] <= len(body) // 2
    assert sum(map(len, open_track(got.path).blocks())) == round(SECONDS * 44100)


@pytest.mark.parametrize("careless", [False, True])
def test_a_part_that_is_whole_does_no_harm(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, careless: bool
) -> None:
    """It was killed before it gave the file its name."""
    body = media("wav")
    url = server.add("/song.wav", body, kind="audio/wav", careless=careless)
    part = youtube.place_of(url, tmp_path) / downloader.PARTS / "source.wav.wav.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(body)
    got = fetch(url, tmp_path)
    assert sum(map(len, open_track(got.path).blocks())) == round(SECONDS * 44100)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_worth_another_try(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, status: int
) -> None:
    url = server.add("/song.mp3", media("mp3"), statuses=[status])
    with pytest.raises(DownloadError, match=rf"{url}: the server answered {status} .*; it is tried again later") as caught:
        fetch(url, tmp_path)
    assert caught.value.retryable
    assert fetch(url, tmp_path).path.is_file()


@pytest.mark.parametrize(("path", "page", "why"), [
    ("/gone.mp3", None, r"the server answered 404 Not Found; it was removed"),
    ("/secret.mp3", {"statuses": [403] * 9}, r"the server answered 403 Forbidden; export the cookies"),
    ("/text.html", {"body": b"<html><body>nothing</body></html>", "kind": "text/html"}, "finds no audio or video there"),
    ("/noise.mp3", {"body": bytes(range(256)) * 40}, "holds no audio that can be read"),
    ("/big.mp3", {"body": bytes(3_000_000)}, r"is 3\.0 MB large, more than 2 MB; raise demix.daemon.youtube.max_size_mb"),
    ("/radio", {"body": bytes(50_000), "endless": True}, r"is more than 2 MB; raise demix.daemon.youtube.max_size_mb"),
])  # fmt: skip
def test_what_cannot_be_had_is_said_once_and_leaves_nothing(
    server: MediaServer, tmp_path: Path, path: str, page: dict[str, Any] | None, why: str
) -> None:
    url = server.add(path, **page) if page else f"{server.base}{path}"
    with pytest.raises(DownloadError, match=why) as caught:
        fetch(url, tmp_path, YoutubeSettings(retries=0, max_size_mb=2))
    assert not caught.value.retryable
    assert str(caught.value).startswith(url)
    assert str(caught.value).isprintable()
    assert left(tmp_path) == []


def test_audio_that_takes_no_tags_is_refused(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/film.mka", media("mka"), kind="audio/x-matroska")
    with pytest.raises(DownloadError, match=r"ac3 in matroska,webm cannot be kept; change demix.daemon.youtube.format"):
        fetch(url, tmp_path)


def test_what_is_too_long_is_refused(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/song.mp3", media("mp3"))
    with pytest.raises(DownloadError, match=r"is 4 s long, more than 3 s; raise demix.daemon.youtube.max_length_s") as caught:
        fetch(url, tmp_path, YoutubeSettings(max_length_s=3))
    assert not caught.value.retryable
    assert left(tmp_path) == []


def test_a_radio_is_told_by_its_never_ending(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/radio.mp3", media("mp3"), endless=True, rate=40_000)
    with pytest.raises(DownloadError, match=r"seems to be a live stream; queue a recording") as caught:
        fetch(url, tmp_path, YoutubeSettings(max_length_s=2))
    assert not caught.value.retryable


@pytest.mark.parametrize(("info", "why"), [
    ({"live_status": "is_live"}, "live stream"), ({"is_live": True}, "live stream"), ({"live_status": "post_live"}, "live"),
    ({"live_status": "is_upcoming"}, "not out yet"), ({"duration": 7200.0}, "7200 s long, more than 3600 s"),
    ({"playlist_index": 1}, "playlist"),
])  # fmt: skip
def test_what_the_page_says_is_enough_to_refuse(info: dict[str, Any], why: str) -> None:
    settings = YoutubeSettings(max_length_s=3600)
    assert why in (downloader._unwanted(info, settings) or "")
    assert downloader._unwanted({"live_status": "was_live", "duration": 3600}, settings) is None
    assert downloader._unwanted({"duration": 10**6}, YoutubeSettings(max_length_s=0)) is None


@pytest.mark.parametrize("how", [{"hangs": True}, {"rate": 20_000}])
def test_cancelling_does_not_wait_for_the_server(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, how: dict[str, Any]
) -> None:
    url = server.add("/song.wav", media("wav"), kind="audio/wav", **how)
    asked = threading.Event()
    threading.Thread(target=lambda: (wait_for(lambda: any(r.sent or "hangs" in how for r in server.of("/song.wav")), "it"),
                                     asked.set())).start()  # fmt: skip
    with pytest.raises(Cancelled):
        fetch(url, tmp_path, cancelled=asked.is_set)
    wait_for(lambda: server.requests[-1].left, "the client to leave")
    server.pages["/song.wav"] = type(server.pages["/song.wav"])(media("wav"), kind="audio/wav")
    assert fetch(url, tmp_path).path.is_file()


def test_after_kill_9_nobody_goes_on_and_another_call_does(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path
) -> None:
    body = media("wav")
    url = server.add("/song.wav", body, kind="audio/wav", rate=50_000)
    program = ("import sys, pathlib; from demixr_daemon.intake.youtube import *\n"
               "fetch(sys.argv[1], pathlib.Path(sys.argv[2]), YoutubeSettings(), lambda _: None, lambda: False)")  # fmt: skip
    caller = subprocess.Popen([sys.executable, "-c", program, url, tmp_path])
    part = youtube.place_of(url, tmp_path) / downloader.PARTS / "source.wav.wav.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 0, "the first bytes")
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_for(lambda: server.requests[-1].left, "its downloader to end")
    have = part.stat().st_size
    assert 0 < have < len(body)
    server.pages["/song.wav"].rate = 0
    got = fetch(url, tmp_path)
    assert server.requests[-1].range == f"bytes={have}-"
    assert sum(map(len, open_track(got.path).blocks())) == round(SECONDS * 44100)


def test_two_calls_for_one_url_download_it_once(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/song.wav", media("wav"), kind="audio/wav", rate=400_000)
    got: list[youtube.Download] = []
    calls = [threading.Thread(target=lambda: got.append(fetch(url, tmp_path))) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert got[0] == got[1]
    assert len([request for request in server.of("/song.wav") if request.sent == len(media("wav"))]) == 1


FEED = """<?xml version="1.0"?><rss version="2.0"><channel><title>Feed</title>
<item><title>One 🎵</title><enclosure url="{base}/1.mp3" type="audio/mpeg"/></item>
<item><title>Two</title><enclosure url="{base}/2.mp3" type="audio/mpeg"/></item>
<item><title>Two again</title><enclosure url="{base}/2.mp3" type="audio/mpeg"/></item></channel></rss>"""
PAGE = ('<html><head><title>Two of them</title></head><body><audio src="/1.mp3"></audio>'
        '<video><source src="/2.mp3" type="audio/mpeg"></video></body></html>')  # fmt: skip
XSPF = """<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList>
<track><location>{base}/1.mp3</location><title>One</title></track>
<track><location>{base}/2.mp3</location><title>Two</title></track></trackList></playlist>"""


@pytest.mark.parametrize(("text", "mime", "titles"), [
    (FEED, "application/rss+xml", ["One 🎵", "Two"]), (PAGE, "text/html", ["Two of them (1)", "Two of them (2)"]),
    (XSPF, "application/xspf+xml", ["One", "Two"]),
])  # fmt: skip
def test_a_playlist_gives_many(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path, text: str, mime: str, titles: list[str]
) -> None:
    for number in (1, 2):
        server.add(f"/{number}.mp3", media("mp3"))
    url = server.add("/list", text.replace("{base}", server.base).encode(), kind=mime)
    entries = youtube.expand(url, SETTINGS)
    assert [(entry.url, entry.title) for entry in entries] == list(
        zip((f"{server.base}/1.mp3", f"{server.base}/2.mp3"), titles, strict=True)
    )
    assert all(entry.id and entry.extractor for entry in entries)
    assert fetch(entries[1].url, tmp_path).path.is_file()
    with pytest.raises(DownloadError, match="is a playlist of several tracks") as caught:
        fetch(url, tmp_path)
    assert not caught.value.retryable
    with pytest.raises(DownloadError, match=r"holds more than 1 tracks; raise demix.daemon.youtube.playlist_limit"):
        youtube.expand(url, YoutubeSettings(playlist_limit=1))


def test_one_track_gives_itself(server: MediaServer, media: Callable[[str], bytes]) -> None:
    url = server.add("/My%20Song.mp3", media("mp3"))
    assert youtube.expand(url, SETTINGS) == [youtube.Entry(url, "My Song", "My Song", "generic")]


def test_a_video_of_youtube_is_known_without_asking() -> None:
    url = "https://youtu.be/dQw4w9WgXcQ"
    assert youtube.expand(url, SETTINGS) == [youtube.Entry(url, url, "dQw4w9WgXcQ", "youtube")]


@pytest.mark.parametrize("url", ["nonsense", "file:///etc/passwd", "https://", "http://[", "gopher://a/b", "\udcff"])
def test_what_is_no_url_is_said_so(url: str) -> None:
    with pytest.raises(DownloadError, match="it is no URL") as caught:
        youtube.expand(url, SETTINGS)
    assert not caught.value.retryable
    assert str(caught.value).isprintable()


def test_nobody_there_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"the network failed.*; check the address and the connection") as caught:
        fetch("http://127.0.0.1:9/song.mp3", tmp_path)
    assert caught.value.retryable


def test_cookies_are_sent_and_their_file_is_left_alone(
    server: MediaServer, media: Callable[[str], bytes], tmp_path: Path
) -> None:
    url = server.add("/song.mp3", media("mp3"))
    jar = tmp_path / "cookies.txt"
    content = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tkey\tvalue\n"
    jar.write_text(content)
    jar.chmod(0o400)
    fetch(url, tmp_path / "out", YoutubeSettings(cookiefile=str(jar)))
    assert jar.read_text() == content
    assert {request.cookie for request in server.of("/song.mp3")} == {"key=value"}
    jar.chmod(0o600)
    jar.write_text("rubbish")
    with pytest.raises(DownloadError, match=r"the cookies cannot be read; export demix.daemon.youtube.cookiefile again"):
        fetch(url, tmp_path / "other", YoutubeSettings(cookiefile=str(jar)))


def test_nothing_is_printed_and_yt_dlp_is_not_loaded(server: MediaServer, tmp_path: Path) -> None:
    url = server.add("/text.html", b"<html></html>", kind="text/html")
    program = ("import sys, pathlib; from demixr_daemon.intake.youtube import *\n"
               "try: fetch(sys.argv[1], pathlib.Path(sys.argv[2]), YoutubeSettings(), lambda _: None, lambda: False)\n"
               "except DownloadError: print('yt_dlp' in sys.modules, 'av' in sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, url, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_versions_names_what_is_here() -> None:
    found = youtube.versions(SETTINGS)
    assert found["yt-dlp"].startswith("20")
    assert youtube.versions(YoutubeSettings(js_runtimes=())).keys() == {"yt-dlp"}


def http(status: int) -> HTTPError:
    return HTTPError(Response(io.BytesIO(), "http://a", Message(), status))


def said(message: str) -> YtDlpError:
    """As yt-dlp raises what an extractor found out."""
    cause = ExtractorError(message, expected=True, video_id="1", ie="youtube")
    return YtDlpError(f"ERROR: {cause}", (type(cause), cause, None))


@pytest.mark.parametrize(("error", "why", "retryable"), [
    (ExtractorError("x", cause=http(404)), "404 Not Found; it was removed", False),
    (YtDlpError("x", (HTTPError, http(429), None)), "429 Too Many Requests", True),
    (http(500), "500", True), (http(403), "cookiefile", False), (http(410), "removed", False), (http(400), "address", False),
    (TransportError("timed out"), "network failed", True), (IncompleteRead(1, 2), "network failed", True),
    (ProxyError("no"), "network failed", True), (ContentTooShortError(1, 2), "network failed", True),
    (CertificateVerifyError("bad"), "certificate", False), (UnsupportedError("http://a"), "no audio or video", False),
    (GeoRestrictedError("no"), "country", False), (UserNotLive(), "not out yet", False),
    (CookieLoadError("x"), "cookies", False), (OSError(28, "No space left on device"), "disk full", True),
    (PermissionError(13, "Permission denied"), "permission", False),
    (PostProcessingError("ffmpeg not found. Please install"), "install ffmpeg", False),
    (said("Private video. Sign in if you've been granted access to this video"), "it is private .*cookiefile", False),
    (said("Video unavailable. This video has been removed by the uploader"), "it was removed", False),
    (said("This video is no longer available because the YouTube account associated has been terminated"), "removed", False),
    (said("Sign in to confirm your age. This video may be inappropriate for some users."), "for adults.*cookiefile", False),
    (said("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies"), "a robot .*wait", True),
    (said("Join this channel to get access to members-only content"), "paying members", False),
    (said("Premieres in 3 hours"), "not out yet", False), (said("This live event will begin in 5 days."), "not out yet", False),
    (said("The uploader has not made this video available in your country"), "country", False),
    (said("This video is DRM protected"), "protected against copying", False),
    (said("Video unavailable. This content isn’t available, try again later. The current session has been rate-limited by "
          "YouTube for up to an hour"), "asks for a pause", True),
    (said("Requested format is not available. Use --list-formats"), "no format .*youtube.format", False),
    (KeyError("videoDetails"), "yt-dlp failed .*update yt-dlp", False),
])  # fmt: skip
def test_errors_of_yt_dlp_are_explained(error: Exception, why: str, retryable: bool) -> None:
    explained = explain(error, "https://a/b")
    assert str(explained).startswith("https://a/b: ")
    with pytest.raises(DownloadError, match=why):
        raise explained
    assert explained.retryable is retryable
    assert "--" not in str(explained)


def test_a_missing_javascript_runtime_is_named() -> None:
    warning = "[youtube] No supported JavaScript runtime could be found. Only deno is enabled by default"
    for message in ("Requested format is not available", "nsig: weird new failure"):
        assert "install deno" in str(explain(said(message), "u", [warning]))
        assert "deno" not in str(explain(said(message), "u"))
    assert "deno" not in str(explain(said("Private video"), "u", [warning]))


@pytest.mark.parametrize(("values", "message"), [
    ({"max_length_s": -1}, "demix.daemon.youtube.max_length_s: -1 is not a whole number from 0 to"),
    ({"max_size_mb": "big"}, "demix.daemon.youtube.max_size_mb: 'big' is not a whole number"),
    ({"retries": True}, "demix.daemon.youtube.retries"), ({"timeout_s": 0}, "demix.daemon.youtube.timeout_s: 0 is not"),
    ({"cookiefile": "/nowhere"}, "demix.daemon.youtube.cookiefile: /nowhere: no such file; export"),
    ({"format": " "}, "demix.daemon.youtube.format: is empty"), ({"thumbnail": 1}, "demix.daemon.youtube.thumbnail: 1"),
    ({"js_runtimes": ("v8",)}, "demix.daemon.youtube.js_runtimes: 'v8' is not one of deno, node, quickjs, bun"),
])  # fmt: skip
def test_wrong_settings_are_named_with_their_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        YoutubeSettings(**values)
    assert str(caught.value).startswith(message)


def test_the_readme_tells_of_every_setting_with_its_default() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    written = {True: "yes", "": "", SETTINGS.js_runtimes: "deno node"}
    for field in dataclasses.fields(YoutubeSettings):
        assert re.search(rf"\n {{6}}{field.name}: *{written.get(field.default, field.default)} *(#|\n)", readme), field.name


def test_a_wrong_format_is_named_with_its_key(server: MediaServer, media: Callable[[str], bytes], tmp_path: Path) -> None:
    url = server.add("/song.mp3", media("mp3"))
    with pytest.raises(DownloadError, match=r"no format of it fits.*; change demix.daemon.youtube.format"):
        fetch(url, tmp_path, YoutubeSettings(format="best[["))


def test_pictures_that_are_none_are_no_cover(tmp_path: Path) -> None:
    (tmp_path / "cover.webp").write_bytes(b"<html>")
    assert kept._picture(tmp_path / "cover.webp") == b""
