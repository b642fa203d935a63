"""The queue file is followed however it is saved, and read as yt-dlp reads it."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from yt_dlp.utils import read_batch_urls

from demixr_daemon.intake.queue_file import QueueFile, QueueFileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.txt"


def test_the_first_poll_tells_all_and_the_next_nothing(path: Path) -> None:
    path.write_text("https://a/1\nhttps://a/2\n")
    queue = QueueFile(path)
    assert queue.poll() == ["https://a/1", "https://a/2"]
    assert queue.poll() == []
    assert path.read_text() == "https://a/1\nhttps://a/2\n"


def test_what_could_not_be_taken_in_is_told_again(path: Path) -> None:
    path.write_text("https://a/1\nhttps://a/2\nhttps://a/3\n")
    queue = QueueFile(path)
    queue.forget(queue.poll()[1:])
    assert queue.poll() == ["https://a/2", "https://a/3"]
    assert queue.poll() == []


@pytest.mark.parametrize("content", [
    b"https://a/1\n# no\n; no\n] no\n\n   \nhttps://a/2\n",
    b"\xef\xbb\xbfhttps://a/1\r\nhttps://a/2#part\r\n",
    b"\xef\xbb\xbf# first\n  https://a/1  \n\thttps://a/2\t# said so\n",
    b"https://a/1\rhttps://a/2\r",
    "https://a/ü?q=é\nytsearch1:Für Elise # piano\n".encode(),
    b"https://a/\xff\n",
])  # fmt: skip
def test_lines_are_read_as_by_yt_dlp(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    theirs = read_batch_urls(io.TextIOWrapper(io.BytesIO(content), "utf-8", "replace"))
    assert QueueFile(path).poll() == theirs != []


def append(path: Path, content: str) -> None:
    with open(path, "a") as file:
        file.write(content)


def rename_over(path: Path, content: str) -> None:
    new = path.with_name(".queue.txt.swp")
    new.write_text(path.read_text() + content)
    new.replace(path)


def rewrite(path: Path, content: str) -> None:
    path.write_text(path.read_text() + content)


def away_and_back(path: Path, content: str) -> None:
    old = path.rename(path.with_name("queue.txt~"))
    path.write_text(old.read_text() + content)


@pytest.mark.parametrize("save", [append, rename_over, rewrite, away_and_back])
def test_added_lines_are_told_once_however_they_are_saved(path: Path, save: Callable[[Path, str], None]) -> None:
    path.write_text("https://a/1\n")
    queue = QueueFile(path)
    assert queue.poll() == ["https://a/1"]
    save(path, "https://a/2\n")
    assert queue.poll() == ["https://a/2"]
    save(path, "https://a/1\nhttps://a/3\nhttps://a/3\n")
    assert queue.poll() == ["https://a/3"]
    assert queue.poll() == []


def test_a_change_that_size_and_time_do_not_show_is_seen(path: Path) -> None:
    path.write_text("https://a/1\n")
    queue, stat = QueueFile(path), path.stat()
    assert queue.poll() == ["https://a/1"]
    path.write_text("https://a/2\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert queue.poll() == ["https://a/2"]


def test_a_file_that_is_gone_for_a_moment_is_not_told_again(path: Path) -> None:
    queue = QueueFile(path)
    assert queue.poll() == []
    path.write_text("https://a/1\n")
    assert queue.poll() == ["https://a/1"]
    path.unlink()
    assert queue.poll() == []
    path.write_text("")
    assert queue.poll() == []
    path.write_text("https://a/1\nhttps://a/2\n")
    assert queue.poll() == ["https://a/2"]


def test_half_a_line_waits_for_its_other_half(path: Path) -> None:
    path.write_text("https://a/1\nhttps://a/wa")
    clock = itertools.count(step=0.6)
    queue = QueueFile(path, lambda: next(clock))
    assert queue.poll() == ["https://a/1"]
    assert queue.poll() == []
    append(path, "tch?v=1")
    assert queue.poll() == []
    assert queue.poll() == []
    append(path, "23\n")
    assert queue.poll() == ["https://a/watch?v=123"]


def test_a_last_line_without_end_is_taken_when_it_rests(path: Path) -> None:
    path.write_text("https://a/1\nhttps://a/2")
    clock = itertools.count(step=0.6)
    queue = QueueFile(path, lambda: next(clock))
    assert [queue.poll() for _ in range(4)] == [["https://a/1"], [], ["https://a/2"], []]
    append(path, "\nhttps://a/3\n")
    assert queue.poll() == ["https://a/3"]
    append(path, "https://a/4")
    assert [queue.poll() for _ in range(4)] == [[], [], ["https://a/4"], []]


def test_what_is_not_on_the_disk_yet_is_no_url(path: Path) -> None:
    path.write_bytes(b"https://a/1\n" + bytes(20) + b"\nhttps://a/3\n")
    queue = QueueFile(path)
    assert queue.poll() == ["https://a/1", "https://a/3"]
    path.write_bytes(b"https://a/1\nhttps://a/in-between\nhttps://a/3\n")
    assert queue.poll() == ["https://a/in-between"]


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(QueueFileError, match=r"Is a directory; give the daemon a text file"):
        QueueFile(tmp_path).poll()
