"""The daemon is killed again and again, at any moment: each input ends in the library exactly once, with all its stems."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.daemon_home import Home
from tests.media_server import MediaServer, serving


class Inputs:
    """Singles, albums and URLs, dropped one after the other."""

    def __init__(self, home: Home, server: MediaServer, count: int, seed: int) -> None:
        self.home, self.server = home, server
        self.titles: list[str] = []
        self.jobs = 0
        self._waiting = [(number, ("single", "single", "album", "url")[number % 4]) for number in range(count)]
        self._random = random.Random(seed)

    def drop(self, count: int) -> None:
        """The next ones; files appear whole, as after a move."""
        for number, kind in [self._waiting.pop(0) for _ in range(min(count, len(self._waiting)))]:
            seconds = self._random.uniform(0.2, 1.5)
            self.jobs += 4 if kind == "album" else 1  # its own, and one for each track
            if kind == "album":
                made = self.home.base / f"made{number}"
                for track in (1, 2, 3):
                    self.home.song(made / f"{track}.flac", self._title(f"{number}-{track}"), album=f"Album {number}",
                                   track=track, seconds=seconds, seed=10 * number + track)  # fmt: skip
                made.rename(self.home.albums / f"album{number}")
                continue
            made = self.home.base / f"made{number}.flac"
            path = self.home.song(made, self._title(str(number)), seconds=seconds, seed=10 * number)
            if kind == "single":
                path.rename(self.home.singles / f"{number}.flac")
            else:
                url = self.server.add(f"/{number}.flac", path.read_bytes(), kind="audio/flac", rate=200_000)
                path.unlink()
                with self.home.urls.open("a") as file:
                    file.write(f"{url}\n")

    def _title(self, name: str) -> str:
        self.titles.append(f"Title {name}")
        return self.titles[-1]


class Hammer:
    """``beet`` beside the daemon: reads and writes, all the time, also to what is being imported."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.marked: set[str] = set()
        """Titles of tracks whose mark was seen in the library."""
        self.troubles: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def hammering(self) -> Iterator[None]:
        """For as long as the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            listed = self._beet("ls", "-f", "$id|$title|$hammered").splitlines()
            tracks = [line.split("|") for line in listed if "|" in line]  # the first call tells of a new database, too
            self.marked |= {title for _, title, mark in tracks if mark == mark_of(title)}
            for item_id, title, _ in [track for track in tracks if track[1] not in self.marked][:2]:
                self._beet("modify", "-y", "-W", "-M", f"id:{item_id}", f"hammered={mark_of(title)}")

    def _beet(self, *arguments: str) -> str:
        answer = self.home.beet(*arguments)
        if "locked" in answer.stderr or "Traceback" in answer.stderr:
            self.troubles.append(answer.stderr)
        return answer.stdout


def mark_of(title: str) -> str:
    return f"by {title}"


def workers(home: Home) -> list[int]:
    """The daemon's own processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"demixr_daemon.worker" in words and os.fsencode(home.base / "state") in words:
            found.append(int(path.parent.name))
    return found


def wait_for_a_moment(home: Home, rng: random.Random, longest_s: float) -> None:
    """Any moment; every other time one at which files are being moved into the library, which is soon over."""
    end = time.monotonic() + rng.uniform(0.8, longest_s)
    before = moving(home) if rng.random() < 0.5 else None
    while time.monotonic() < end:
        if before is not None and moving(home) - before:
            time.sleep(rng.uniform(0, 0.1))
            return
        time.sleep(0.005)


def moving(home: Home) -> set[tuple[Path, int]]:
    """What imports have written of files that they move."""
    found = set()
    for path in (home.music / ".demixr").glob("*/import/moves"):
        with suppress(OSError):
            found.add((path, path.stat().st_mtime_ns))
    return found


def chaos(home: Home, *, kills: int, inputs: int, seed: int, longest_s: float) -> None:
    rng = random.Random(seed)
    hammer = Hammer(home)
    with serving() as server:
        arriving = Inputs(home, server, inputs, seed)
        with hammer.hammering():
            for number in range(kills):
                process = home.start()
                if number < 0.8 * kills:
                    arriving.drop(-(-inputs // max(1, int(0.8 * kills))))
                wait_for_a_moment(home, rng, longest_s)
                process.kill()
                if rng.random() < 0.3:
                    for pid in workers(home):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
            arriving.drop(inputs)
            home.start()
            home.wait_for_jobs(arriving.jobs, 1200)
        rows = home.work.rows(1000)
        assert [(row.title, row.state, row.reason) for row in rows if row.state != "done"] == [], home.story()
        assert hammer.troubles == []
        home.check_whole(arriving.titles)
        assert [path for folder in (home.albums, home.singles) for path in folder.rglob("*")] == []
        assert hammer.marked
        marks = dict(line.split("|") for line in home.fields("$title|$hammered"))
        assert [title for title in hammer.marked if marks[title] != mark_of(title)] == []


def test_a_short_chaos(home: Home) -> None:
    chaos(home, kills=6, inputs=8, seed=1, longest_s=6.0)


@pytest.mark.heavy
def test_chaos(home: Home) -> None:
    """A hundred kills under fifty inputs."""
    chaos(home, kills=100, inputs=50, seed=2, longest_s=9.0)
