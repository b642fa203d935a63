"""Watched folders: what is taken, when, and what is left alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demixr_daemon.intake import scan
from demixr_daemon.intake.scan import Inbox
from demixr_daemon.intake.watch import POLLING_S, QUIET_S, Watch

Put = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def put(root: Path) -> Put:
    """``put("name", b"content")`` in the watched folder."""

    def write(name: str, content: bytes = b"x") -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def names(inbox: Inbox, now: float) -> list[str]:
    return [str(arrival.path.relative_to(inbox.root)) for arrival in inbox.look(now)]


def test_a_file_is_taken_once_when_it_has_rested(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=True, window_s=10)
    put("a.flac")
    assert names(inbox, 0) == []
    assert names(inbox, 9.9) == []
    assert names(inbox, 10) == ["a.flac"]
    assert names(inbox, 30) == []
    assert not inbox.waiting


def test_each_change_begins_the_wait_anew(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=True, window_s=10)
    for now in (0, 8, 16):
        put("a.flac", b"x" * (now + 1))
        assert names(inbox, now) == []
    assert names(inbox, 25) == []
    assert inbox.waiting
    assert names(inbox, 26) == ["a.flac"]


def test_what_changes_after_it_was_taken_is_taken_again(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=True, window_s=1)
    put("a.flac")
    inbox.look(0)
    assert names(inbox, 1) == ["a.flac"]
    put("a.flac", b"another")
    inbox.look(2)
    assert names(inbox, 3) == ["a.flac"]


def test_a_folder_is_one_arrival_and_rests_as_a_whole(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=False, window_s=10)
    put("Album/CD1/1.flac")
    put("loose.mp3")
    inbox.look(0)
    put("Album/CD2/1.flac")
    assert names(inbox, 9) == []
    assert names(inbox, 10) == ["loose.mp3"]
    assert names(inbox, 19) == ["Album"]


def test_singletons_are_found_at_any_depth(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=True, window_s=1)
    put("deep/down/a.ogg")
    put("b.MP3")
    inbox.look(0)
    assert names(inbox, 1) == ["b.MP3", "deep/down/a.ogg"]


def test_what_is_no_finished_track_is_left_alone(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=True, window_s=1)
    for name in ("a.flac.part", "b.mp3.crdownload", ".c.flac", "cover.jpg", "notes.txt", ".hidden/d.flac", "empty/folder.nfo"):
        put(name)
    put("01 Track.stems/vocals.flac")
    put("01 Track.stems/manifest.json", (
        b'{"version": 1, "program": "", "created": "", "licence": "", "gain": 1, "stems": {"vocals": "vocals.flac"},'
        b'"source": {"name": "", "size": 0, "mtime_ns": 0, "fingerprint": "", "rate_hz": 1, "channels": 1, "samples": 1},'
        b'"recipe": {"model": "", "model_sha256": "", "quantization": "", "niter": 1, "stems": ["vocals"], "format": "",'
        b'"bits": 0, "bitrate_kbps": 0}}'))  # fmt: skip
    inbox.look(0)
    assert names(inbox, 1) == []
    assert not inbox.waiting


def test_an_album_waits_for_its_unfinished_downloads(root: Path, put: Put) -> None:
    inbox = Inbox(root, singleton=False, window_s=1)
    put("Album/1.flac")
    part = put("Album/2.flac.part")
    inbox.look(0)
    assert names(inbox, 5) == []
    part.rename(part.with_suffix(""))
    inbox.look(6)
    assert names(inbox, 7) == ["Album"]


def test_a_signature_tells_names_sizes_and_times(root: Path, put: Put) -> None:
    path = put("Album/1.flac")
    marks = {scan.signature(root)}
    os.utime(path, ns=(1, 1))
    marks.add(scan.signature(root))
    put("Album/1.flac", b"longer")
    os.utime(path, ns=(1, 1))
    marks.add(scan.signature(root))
    path.rename(path.with_name("2.flac"))
    marks.add(scan.signature(root))
    assert len(marks) == 4
    put("Album/cover.jpg")
    assert scan.signature(root) in marks
    assert scan.signature(root / "nothing") == ""


def test_names_that_are_not_utf8(root: Path) -> None:
    path = root / os.fsdecode(b"caf\xe9.flac")
    path.write_bytes(b"x")
    inbox = Inbox(root, singleton=True, window_s=1)
    inbox.look(0)
    assert [arrival.path for arrival in inbox.look(1)] == [path]


def test_a_folder_that_comes_and_goes(tmp_path: Path) -> None:
    """A network mount that is away is empty, and its files are no arrivals when it is back."""
    root = tmp_path / "mount"
    watch = Watch([Inbox(root, singleton=True, window_s=1)])
    watch.start()
    try:
        assert watch.look(0) == []
        root.mkdir()
        (root / "a.flac").write_bytes(b"x")
        assert watch.look(POLLING_S) == []
        assert [arrival.path.name for _, arrival in watch.look(POLLING_S + 1)] == ["a.flac"]
    finally:
        watch.stop()


def test_the_system_wakes_the_watch(root: Path, put: Put) -> None:
    watch = Watch([Inbox(root, singleton=True, window_s=1)])
    watch.start()
    try:
        watch.look(0)
        time.sleep(0.3)
        watch.look(1)
        assert watch.look(2) == []
        put("a.flac")
        time.sleep(0.5)  # for the notice
        assert watch.look(3) == []
        assert [arrival.path.name for _, arrival in watch.look(4)] == ["a.flac"]
    finally:
        watch.stop()


def test_without_notices_it_looks_in_intervals(root: Path, put: Put) -> None:
    watch = Watch([Inbox(root, singleton=True, window_s=1)], polling=True)
    watch.look(0)
    put("a.flac")
    assert watch.look(POLLING_S - 0.1) == []
    assert watch.look(POLLING_S) == []
    assert [arrival.path.name for _, arrival in watch.look(POLLING_S + 1)] == ["a.flac"]
    assert QUIET_S > POLLING_S
