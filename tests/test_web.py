"""The page's server: what it gives, and what it refuses, tried against the real daemon."""

from __future__ import annotations

import io
import json
import math
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import mediafile
import numpy as np
import pytest
import requests
import soundfile

from demixr_daemon.errors import SettingError
from demixr_daemon.separation.excerpt import Excerpt
from demixr_daemon.settings import TARGETS
from demixr_daemon.web.app import PageServer, create_app
from demixr_daemon.web.catalogue import opened
from demixr_daemon.web.covers import Covers, drawn
from demixr_daemon.web.downloads import fader, file_name
from demixr_daemon.web.feed import LISTENERS
from demixr_daemon.web.settings import WebSettings
from demixr_daemon.web.uploads import plain
from demixr_daemon.web.work import checked_url
from tests.conftest import encode
from tests.made_song import made_mixture
from tests.page_home import HOSTILE, TOKEN, UPLOAD_MB, Listening, beet_web, demixr_web, jobs, listening

__all__ = ["listening"]


# ---- what it gives


def test_the_library_is_searched_with_beets_queries(listening: Listening) -> None:
    def titles(**query: str) -> list[str]:
        return [row["title"] for row in listening.get("api/tracks", params=query).json()["rows"]]

    assert set(titles(q="album:songs")) >= {"Alpha", "Beta", "Tone", HOSTILE}
    assert titles(q="alpha") == ["Alpha"]
    assert titles(q="title::^B.ta$") == ["Beta"]
    assert titles(q="album:songs ^title:alpha ^title:img", sort="title") == ["Beta", "Tone"]
    assert titles(q="album:songs track:1..2 track-") == ["Beta", "Alpha"]
    assert titles(q="album:songs", stems="with") == ["Alpha"]
    assert "Alpha" not in titles(q="album:songs", stems="without")
    assert titles(q='"open quote') == []
    page = listening.get("api/tracks", params={"q": "album:songs", "sort": "album", "rows": "2", "start": "1"}).json()
    assert [row["track"] for row in page["rows"]] == [2, 3]
    assert page["more"] is True
    album = listening.get("api/albums", params={"q": "album:songs", "stems": "with"}).json()["rows"][0]
    assert (album["album"], album["tracks"], album["with_stems"]) == ("Songs", 4, 1)


def test_what_beet_changes_is_seen_at_once(listening: Listening) -> None:
    number = listening.id("Beta")
    assert listening.beet("modify", "-yMW", "title:beta", "year=1977").returncode == 0
    assert listening.get(f"api/tracks/{number}").json()["year"] == 1977


@pytest.mark.parametrize("query", ["path:/etc", "path::.", "^path:/etc", "PATH:/", "stems_path:/", "playlist:/etc/passwd"])
def test_nothing_is_searched_by_path(listening: Listening, query: str) -> None:
    answer = listening.get("api/tracks", params={"q": query})
    assert (answer.status_code, answer.json().get("rows", [])) in ((400, []), (200, []))


def test_a_query_that_names_a_path_does_not_ask_the_disk(listening: Listening) -> None:
    # beets takes `/etc` for a query by path where there is such a folder, and for words where there is none
    assert [listening.get("api/tracks", params={"q": query}).json() for query in ("/etc", "/nowhere-at-all")] == 2 * [
        {"rows": [], "more": False}]  # fmt: skip


def test_blocks_hold_all_stems_sample_by_sample(listening: Listening) -> None:
    about = listening.about("Alpha")
    assert about["lanes"] == list(TARGETS)
    size, samples = about["block_samples"], about["samples"]
    blocks = [listening.get(f"api/tracks/{about['id']}/audio/{about['version']}/{index}").content
              for index in range(math.ceil(samples / size))]  # fmt: skip
    sound = np.frombuffer(b"".join(blocks), "<i2").reshape(-1, 4, 2)
    for lane, target in enumerate(TARGETS):
        np.testing.assert_array_equal(sound[:samples, lane], np.rint(listening.stem("Alpha", target) * 32768))
    assert not sound[samples:].any()
    assert listening.get(f"api/tracks/{about['id']}/audio/{about['version']}/{len(blocks)}").status_code == 404


def test_a_track_without_stems_is_one_lane(listening: Listening) -> None:
    about = listening.about("Beta")
    assert about["lanes"] == ["mix"]
    block = listening.get(f"api/tracks/{about['id']}/audio/{about['version']}/1").content
    first = about["block_samples"]
    np.testing.assert_array_equal(np.frombuffer(block, "<i2").reshape(-1, 2),
                                  np.rint(listening.mixture("Beta")[first : 2 * first] * 32768))  # fmt: skip


def test_stems_of_another_time_are_told_apart(listening: Listening) -> None:
    answer = listening.get(f"api/tracks/{listening.id('Alpha')}/audio/{'0' * 20}/0")
    assert (answer.status_code, "anew" in answer.json()["error"]) == (409, True)


@pytest.mark.parametrize(("name", "codec", "form"), [
    ("a.flac", "", ""), ("a.wav", "", ""), ("a.mp3", "libmp3lame", "s16p"), ("a.opus", "libopus", "flt"),
    ("a.wv", "wavpack", "fltp"),
])  # fmt: skip
def test_any_part_of_a_file_is_what_reading_it_through_gives(tmp_path: Path, name: str, codec: str, form: str) -> None:
    rate_hz = 48000 if codec == "libopus" else 44100
    path = tmp_path / name
    if codec:
        encode(path, made_mixture(6.0, rate_hz), rate_hz, codec, form)
    else:
        soundfile.write(path, made_mixture(6.0), rate_hz, format=path.suffix[1:].upper())
    with Excerpt(path) as excerpt:
        whole = np.concatenate([excerpt.read(start, 1 << 14) for start in range(0, excerpt.samples, 1 << 14)])
        for start in np.random.default_rng(1).integers(0, excerpt.samples - 5000, 12):
            np.testing.assert_allclose(excerpt.read(int(start), 5000), whole[start : start + 5000], atol=2e-6)
        assert not excerpt.read(excerpt.samples + 10, 100).any()


def test_waveforms_are_the_loudest_and_the_power_of_each_span(listening: Listening) -> None:
    about = listening.about("Alpha")
    for known in listening.base.rglob(f"{about['version']}.peaks"):
        known.unlink()
    for keeping in ("no-store", "private, max-age=86400"):  # computed, then kept
        answer = listening.get(f"api/tracks/{about['id']}/peaks/{about['version']}")
        assert answer.headers["Cache-Control"] == keeping
        content = answer.content
        spans = np.frombuffer(content, np.uint8).reshape(-1, 4, 2)
        drums = listening.stem("Alpha", "drums")[: 7 * about["span_samples"]].reshape(7, -1)
        np.testing.assert_allclose(spans[:7, 1, 0], 255 * np.abs(drums).max(axis=1), atol=0.51)
        np.testing.assert_allclose(spans[:7, 1, 1], 255 * np.sqrt(np.square(drums).mean(axis=1)), atol=0.51)
        assert len(spans) == math.ceil(about["samples"] / about["span_samples"])


def test_downloads(listening: Listening) -> None:
    base = f"api/tracks/{listening.id('Alpha')}/download"
    bass = listening.get(f"{base}/stems/bass")
    assert bass.headers["Content-Disposition"] == 'attachment; filename="Foo - Alpha (bass).flac"'
    assert bass.headers["Accept-Ranges"] == "bytes"
    folder = Path(listening.fields("$stems_path", "title:alpha")[0])
    assert bass.content == (folder / "bass.flac").read_bytes()
    part = listening.get(f"{base}/stems/bass", headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, bass.content[1000:2000])

    archive = zipfile.ZipFile(io.BytesIO(listening.get(f"{base}/set").content))
    assert sorted(archive.namelist()) == [f"Foo - Alpha/{target}.flac" for target in sorted(TARGETS)]
    assert archive.read("Foo - Alpha/bass.flac") == bass.content


def test_a_mix_is_what_the_page_plays(listening: Listening) -> None:
    base = f"api/tracks/{listening.id('Alpha')}/download/mix"
    everything = listening.get(base)
    sound, rate_hz = soundfile.read(io.BytesIO(everything.content))
    np.testing.assert_array_equal(sound, listening.mixture("Alpha"))  # stems sum to the track, and so does the mix
    assert rate_hz == 44100
    karaoke = soundfile.read(io.BytesIO(listening.get(base, params={"vocals": "0,0"}).content))[0]
    np.testing.assert_allclose(karaoke, listening.mixture("Alpha") - listening.stem("Alpha", "vocals"), atol=2e-5)
    alone = {target: "0,0" for target in TARGETS if target != "bass"}
    left = soundfile.read(io.BytesIO(listening.get(base, params=alone | {"bass": "0.5,-1"}).content))[0]
    np.testing.assert_allclose(left[:, 0], 0.5 * listening.stem("Alpha", "bass").sum(axis=1), atol=2e-5)
    assert np.abs(left[:, 1]).max() < 2e-5
    for start, stop in ((0, 10), (40, 50), (1001, 70003), (len(everything.content) - 5, len(everything.content))):
        part = listening.get(base, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, everything.content[start:stop])
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(everything.content)}"
    assert listening.get(base, headers={"Range": "bytes=99999999-"}).status_code == 416
    for wrong in ("", "nan,0", "3,0", "1,2", "1", "-1,0", "inf,0", "1,0,0"):
        assert listening.get(base, params={"vocals": wrong}).status_code == 400, wrong
    assert listening.get(base, params={"guitar": "1,0"}).status_code == 400


@pytest.mark.parametrize("pan", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_panning_keeps_the_power(pan: float) -> None:
    matrix = fader(f"1,{pan}")
    moved = matrix[1] if pan <= 0 else matrix[0]  # the side that is moved over
    assert float(np.square(moved).sum()) == pytest.approx(1.0)


def test_covers_are_drawn_anew_and_small(tmp_path: Path, listening: Listening) -> None:
    assert listening.get(f"api/tracks/{listening.id('Beta')}/cover").status_code == 204
    picture = drawn(_png(700, 500), 96)
    assert picture.startswith(b"\xff\xd8")
    assert len(picture) < 10_000
    for garbage in (b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, _png(700, 500)[:200]):
        assert drawn(garbage, 96) == b""
    path = Path(listening.fields("$path", "title:tone")[0])
    tags = mediafile.MediaFile(path)
    tags.images = [mediafile.Image(_png(300, 300))]
    tags.save()
    answer = listening.get(f"api/tracks/{listening.id('Tone')}/cover?size=480")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert Covers(tmp_path)._folder == tmp_path


def _png(width: int, height: int) -> bytes:
    import av

    frame = av.VideoFrame.from_ndarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8), "rgb24")
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgb24", Fraction(1, 25)
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def test_the_process_of_the_page_has_no_torch(listening: Listening) -> None:
    listening.get(f"api/tracks/{listening.id('Alpha')}")
    maps = Path(f"/proc/{listening.pid}/maps").read_text()
    assert "sqlite" in maps
    assert "libtorch" not in maps


def test_the_library_is_only_read(listening: Listening) -> None:
    lib = opened(listening.base / "library.db", listening.music)
    item = lib.items("title:alpha").get()
    assert item is not None
    assert list(item["stems"]) == list(TARGETS)
    item["title"] = "changed"
    with pytest.raises(Exception, match=r"readonly|read-only|query_only"):
        item.store()


# ---- jobs


def test_a_job_is_followed_live(listening: Listening) -> None:
    key = listening.post("api/work/separate", {"ids": [listening.id("Beta")]}).json()["keys"][0]
    with listening.get("api/work/events", stream=True) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith(b"data: "):
                job = next(job for job in json.loads(line[6:])["jobs"] if job["key"] == key)
                assert job["state"] not in ("failed", "cancelled"), job
                if job["state"] == "done":
                    break
    assert listening.about("Beta")["lanes"] == list(TARGETS)
    assert listening.beet("demix", "--remove", "-y", "title:beta").returncode == 0


@pytest.mark.parametrize("content", [{}, [], {"ids": []}, {"ids": ["1"]}, {"ids": [True]}, {"ids": [1], "model": "../../etc"},
                                     {"ids": [1], "model": 3}, {"ids": list(range(2000))}])  # fmt: skip
def test_what_is_no_request_to_separate_is_refused(listening: Listening, content: object) -> None:
    assert listening.post("api/work/separate", content).status_code == 400


def test_jobs_that_are_not_there(listening: Listening) -> None:
    for what in ("cancel", "retry"):
        assert listening.post(f"api/work/{what}", {"key": "../../etc"}).status_code == 404


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "../x", "-oProxyCommand=x",
                                 "javascript:alert(1)", "http://", "https://a b", "ftp://x/y", "ytsearch:x",
                                 "http://[", "https://x/\n-x", "x" * 3000])  # fmt: skip
def test_what_is_no_link_is_not_queued(listening: Listening, url: str) -> None:
    before = set(jobs(listening))
    assert listening.post("api/work/urls", {"url": url}).status_code == 400
    assert set(jobs(listening)) == before


def test_links(listening: Listening) -> None:
    assert checked_url("https://example.org/a?b=c#d") == "https://example.org/a?b=c#d"
    with pytest.raises(SettingError):
        checked_url("example.org")


# ---- uploads


def test_an_upload_is_imported_and_tidied_away(listening: Listening, tmp_path: Path) -> None:
    song = listening.song(tmp_path / "up.flac", "Uploaded", seconds=1.0, seed=9)
    answer = requests.post(f"{listening.url}api/work/uploads", params={"name": "../../My Söng!.flac"}, data=song.read_bytes(),
                           timeout=60)  # fmt: skip
    assert answer.status_code == 200, answer.text
    key = answer.json()["keys"][0]
    listening.wait(lambda: jobs(listening)[key]["state"] in ("done", "failed"))
    job = jobs(listening)[key]
    assert job["state"] == "done", listening.story()
    uploads = listening.base / "state" / "uploads"
    assert Path(job["source"]).parent.parent == uploads
    assert Path(job["source"]).name == "My Söng.flac"
    assert listening.about("Uploaded")["lanes"] == list(TARGETS)
    _upload(listening, "x.flac", b"no audio")
    assert list(uploads.iterdir()) == []


def _upload(page: Listening, name: str, content: bytes) -> requests.Response:
    return requests.post(f"{page.url}api/work/uploads", params={"name": name}, data=content, timeout=60)


@pytest.mark.parametrize(("name", "content", "status"), [
    ("x.flac", b"not audio at all" * 100, 422), ("x.flac", b"", 422), ("x.exe", b"MZ", 400), ("", b"x", 400),
    ("flac", b"x", 400), ("a.flac/../../b", b"x", 400),
])  # fmt: skip
def test_uploads_that_are_refused_leave_nothing(listening: Listening, name: str, content: bytes, status: int) -> None:
    before = set(jobs(listening))
    answer = _upload(listening, name, content)
    assert (answer.status_code, "\n" in answer.json()["error"]) == (status, False)
    uploads = listening.base / "state" / "uploads"
    assert not uploads.exists() or list(uploads.iterdir()) == []
    assert set(jobs(listening)) == before


def test_an_upload_that_says_it_is_too_large_is_refused_before_it_is_sent(listening: Listening) -> None:
    with closing(_connection(listening)) as sock:
        sock.sendall(_head(listening, f"Content-Length: {(UPLOAD_MB << 20) + 1}") + b"x" * 10)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_an_endless_upload_is_ended(listening: Listening) -> None:
    """In chunks, without a length: it is cut where the limit is, and nothing of it stays."""
    sent, piece = 0, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with closing(_connection(listening)) as sock:
        sock.sendall(_head(listening, "Transfer-Encoding: chunked"))
        try:
            while sent < 64 << 20:
                sock.sendall(piece)
                sent += len(piece)
            answer = b""
        except OSError:
            answer = b"gone"
        assert answer == b"gone", "64 MB were taken"
    uploads = listening.base / "state" / "uploads"
    listening.wait(lambda: list(uploads.iterdir()) == [], 30)
    assert listening.get("api/state").status_code == 200


def test_an_upload_that_stops_half_way_leaves_nothing(listening: Listening) -> None:
    with closing(_connection(listening)) as sock:
        sock.sendall(_head(listening, "Content-Length: 100000") + b"x" * 1000)
    uploads = listening.base / "state" / "uploads"
    listening.wait(lambda: not uploads.exists() or list(uploads.iterdir()) == [], 60)


def _connection(page: Listening) -> socket.socket:
    at = urlsplit(page.url)
    return socket.create_connection((at.hostname or "", at.port or 0), timeout=30)


def _head(page: Listening, *headers: str) -> bytes:
    lines = ["POST /api/work/uploads?name=x.flac HTTP/1.1", f"Host: {urlsplit(page.url).netloc}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_names_of_uploads_are_plain() -> None:
    assert plain("../../etc/passwd\0") == "etc passwd"
    assert plain("a\n<b>.. %2e") == "a b 2e"
    assert plain("\u202e///") == "upload"
    assert len(plain("ä" * 500)) == 80
    assert file_name('A/\\"', "../x\n", ".wav") == 'A___ - .._x_.wav'


# ---- who may ask


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80", "a@127.0.0.1.x"])
def test_other_names_are_not_answered(listening: Listening, host: str) -> None:
    for path in ("/", "/api/state", "/static/app.js", "/api/work"):
        assert listening.raw("GET", path, {"Host": host})[0] == 421
    headers = {"Host": host, "Content-Type": "application/json"}
    assert listening.raw("POST", "/api/work/urls", headers, b'{"url": "https://x.org"}')[0] == 421


def test_own_names_are_answered(listening: Listening) -> None:
    port = urlsplit(listening.url).port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"192.168.1.7:{port}"):
        assert listening.raw("GET", "/api/state", {"Host": host})[0] == 200


def test_other_sites_are_refused(listening: Listening) -> None:
    own = urlsplit(listening.url)
    before = set(jobs(listening))
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": f"https://{own.netloc}"},
                    {"Origin": f"http://{own.hostname}:1"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        assert listening.post("api/work/urls", {"url": "https://example.org/x"}, headers=headers).status_code == 403
        assert listening.get("api/tracks", headers=headers).status_code == 403, headers
        answer = requests.post(f"{listening.url}api/work/uploads?name=x.flac", headers=headers, data=b"x", timeout=30)
        assert answer.status_code == 403
    assert set(jobs(listening)) == before
    assert listening.get("", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert listening.get("api/state", headers={"Origin": f"http://{own.netloc}"}).status_code == 200


def test_every_answer_says_what_a_browser_may_do(listening: Listening) -> None:
    for path in ("", "static/app.js", "api/state", "api/nothing", "nowhere", "api/tracks/1/cover"):
        headers = listening.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self' 'wasm-unsafe-eval';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert (headers["X-Content-Type-Options"], headers["Cross-Origin-Resource-Policy"]) == ("nosniff", "same-origin")
        assert "Access-Control-Allow-Origin" not in headers


TRAVERSALS = ["../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
              "....//....//etc/passwd", "..\\..\\etc\\passwd", "..%5c..%5cetc%5cpasswd", "%00", "%2fetc%2fpasswd",
              "..;/etc/passwd", "%252e%252e%252fetc%252fpasswd"]  # fmt: skip


@pytest.mark.parametrize("attack", TRAVERSALS)
def test_no_path_of_a_client_touches_the_disk(listening: Listening, attack: str) -> None:
    about = listening.about("Alpha")
    number, version = about["id"], about["version"]
    paths = [f"/static/{attack}", f"/{attack}", f"/api/tracks/{attack}", f"/api/tracks/{number}/{attack}",
             f"/api/tracks/{number}/download/stems/{attack}", f"/api/tracks/{number}/audio/{attack}/0",
             f"/api/tracks/{number}/audio/{version}/{attack}", f"/api/tracks/{number}/peaks/{attack}",
             f"/api/albums/{attack}/cover", f"/api/tracks/{attack}/cover",
             f"/api/tracks/{number}/download/mix?{quote(attack)}=1,0"]  # fmt: skip
    for path in paths:
        status, content = listening.raw("GET", path)
        assert 400 <= status < 500 or status == 308, path  # 308: slashes are merged
        assert b"root:" not in content
    for query in ("q=album:", *(f"{name}=" for name in ("q", "sort", "size", "start", "rows", "stems", "name", "token"))):
        for path in ("/", "/api/state", "/api/tracks", "/api/albums", f"/api/tracks/{number}/cover"):
            status, content = listening.raw("GET", f"{path}?{query}{quote(attack)}")
            assert status in (200, 204, 400), (path, query)
            assert b"root:" not in content


@pytest.mark.parametrize("query", ["start=-1", "start=x", "rows=0", "rows=100000", "stems=maybe", "start=99999999999999999999"])
def test_lists_are_bounded(listening: Listening, query: str) -> None:
    assert listening.get(f"api/tracks?{query}").status_code == 400


def test_large_bodies_are_refused_where_none_is_expected(listening: Listening) -> None:
    content = b'{"url": "' + b"x" * 200_000 + b'"}'
    answer = listening.raw("POST", "/api/work/urls", {"Content-Type": "application/json"}, content)
    assert answer[0] in (400, 413)


def test_a_hundred_streams_at_once(listening: Listening) -> None:
    """A hundred readers get what one gets, while as many as may be listen to the jobs."""
    about = listening.about("Alpha")
    url = f"api/tracks/{about['id']}"
    blocks = math.ceil(about["samples"] / about["block_samples"])
    expected = [listening.get(f"{url}/audio/{about['version']}/{index}").content for index in range(blocks)]
    mix = listening.get(f"{url}/download/mix").content
    gate = threading.Barrier(100)

    def reader(number: int) -> bool:
        gate.wait(60)
        if number % 4 == 3:
            return listening.get(f"{url}/download/mix").content == mix
        order = np.random.default_rng(number).permutation(blocks)[:6]
        return all(listening.get(f"{url}/audio/{about['version']}/{index}").content == expected[index] for index in order)

    with ThreadPoolExecutor(100) as readers:
        listeners = [listening.get("api/work/events", stream=True) for _ in range(LISTENERS)]
        assert [listener.status_code for listener in listeners] == [200] * LISTENERS
        assert listening.get("api/work/events", stream=True).status_code == 503
        assert all(readers.map(reader, range(100)))
        for listener in listeners:
            listener.close()
    listening.wait(lambda: listening.get("api/work/events", stream=True).status_code == 200, 60)  # their places come free


# ---- the token, other servers


@pytest.fixture
def guarded(listening: Listening) -> Iterator[str]:
    """A page that wants a token."""
    settings = WebSettings(port=0, token=TOKEN, hosts=("music.example",))
    server = PageServer(create_app(opened(listening.base / "library.db", listening.music), settings), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.url
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_token_is_asked_for_once(guarded: str) -> None:
    with requests.Session() as browser:
        assert browser.get(guarded, timeout=30).status_code == 200
        assert browser.get(f"{guarded}static/app.js", timeout=30).status_code == 200
        for path in ("api/state", "api/tracks", "api/tracks/1", "api/tracks/1/download/set", "api/work"):
            assert browser.get(guarded + path, timeout=30).status_code == 401
        assert browser.get(f"{guarded}?token=wrong", timeout=30).cookies.get("demixr_token") is None
        assert browser.post(f"{guarded}api/login", json={"token": "wrong, and no more"}, timeout=30).status_code == 401
        answer = browser.post(f"{guarded}api/login", json={"token": TOKEN}, timeout=30)
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert browser.get(f"{guarded}api/state", timeout=30).json()["work"] is False
    assert requests.get(f"{guarded}api/state", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).status_code == 200
    assert requests.get(f"{guarded}api/state", headers={"Host": "music.example"}, timeout=30).status_code == 401
    with requests.Session() as browser:
        browser.get(guarded, params={"token": TOKEN}, timeout=30)
        assert browser.get(f"{guarded}api/state", timeout=30).status_code == 200


def test_without_a_daemon_there_is_only_listening(guarded: str) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("api/work/separate", "api/work/uploads", "api/work/urls"):
        answer = requests.post(guarded + path, json={"ids": [1], "url": "https://x.org"}, headers=bearer, timeout=30)
        assert (answer.status_code, "demixr run" in answer.json()["error"]) == (503, True)


@pytest.mark.parametrize(("settings", "told"), [
    ({"host": "0.0.0.0"}, "set one"), ({"host": "::"}, "set one"), ({"host": ""}, "set one"),
    ({"host": "192.168.1.7"}, "set one"), ({"token": "short"}, "shorter"), ({"port": 70000}, "65535"),
    ({"port": "x"}, "whole number"), ({"prot": 1}, "no such setting"), ({"certificate": "x"}, "go together"),
    ({"upload_mb": -1}, "whole number"), ({"hosts": "x"}, "list"), ({"enabled": "no"}, "yes or no"),
])  # fmt: skip
def test_settings_that_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(SettingError, match=rf"^demix\.daemon\.web\.\w+: [^\n]*{told}"):
        WebSettings.of(settings)


def test_an_address_that_is_taken_is_told(listening: Listening) -> None:
    settings = WebSettings(port=urlsplit(listening.url).port or 0)
    with pytest.raises(SettingError, match="choose another"):
        PageServer(create_app(opened(listening.base / "library.db", listening.music), settings), settings)


def test_inside_beet_web(listening: Listening, tmp_path: Path) -> None:
    """The same page on beets' own server, below /demix/."""
    with beet_web(listening, tmp_path) as (url, pid):
        state = requests.get(f"{url}/demix/api/state", timeout=30).json()
        assert (state["work"], state["with_stems"] > 0) == (False, True)
        number = listening.id("Alpha")
        about = requests.get(f"{url}/demix/api/tracks/{number}", timeout=30).json()
        block = requests.get(f"{url}/demix/api/tracks/{number}/audio/{about['version']}/0", timeout=30).content
        assert block == listening.get(f"api/tracks/{number}/audio/{about['version']}/0").content
        assert requests.get(f"{url}/demix/", timeout=30).headers["Content-Security-Policy"]
        assert requests.get(f"{url}/demix/api/state", headers={"Host": "evil.example"}, timeout=30).status_code == 421
        assert requests.get(f"{url}/stats", timeout=30).json()["items"] > 0
        for path in ("separate", "uploads?name=x.flac", "urls", "cancel", "retry"):
            content = {"ids": [number], "url": "https://x.org", "key": "x"}
            answer = requests.post(f"{url}/demix/api/work/{path}", json=content, timeout=30)
            assert answer.status_code == 503, path
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_demixr_web_serves_the_page_alone(listening: Listening) -> None:
    process, url = demixr_web(listening)
    try:
        assert requests.get(f"{url}api/state", timeout=30).json()["work"] is True
        events = requests.get(f"{url}api/work/events", stream=True, timeout=30)  # which it does not wait for
    finally:
        process.send_signal(2)
        assert process.wait(90) == 130
    events.close()


def test_the_readme_tells_of_every_setting_of_the_page() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert [field.name for field in fields(WebSettings) if f"      {field.name}:" not in readme] == []
