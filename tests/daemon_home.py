"""A home with a real library, watched folders and a queue file, and the real daemon in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mediafile
import soundfile

from demixr_daemon import configuration, stems
from demixr_daemon.jobs.database import Database
from demixr_daemon.jobs.view import UNFINISHED, JobRow
from demixr_daemon.jobs.work import Jobs
from tests.conftest import Library
from tests.made_song import made_mixture


class Home(Library):
    """A library whose daemon uses the small networks and waits for nothing long."""

    def __init__(self, base: Path, weights: Path, *, daemon: str = "", web: str = "port: 0", how: str = "move: yes") -> None:
        super().__init__(base, f"  model: {weights}\n  threads: 1\n")
        self.albums, self.singles, self.urls = base / "albums", base / "singles", base / "urls.txt"
        self.albums.mkdir()
        self.singles.mkdir()
        config = base / "config.yaml"
        config.write_text(config.read_text().replace("copy: yes", how) + (
            f"  daemon:\n    watch: {{default: {self.albums}, singleton: {self.singles}}}\n    queue_file: {self.urls}\n"
            f"    state_dir: {base / 'state'}\n    debounce_window: 1\n    min_free_mb: 1\n    worker: here\n"
            f"    web: {{{web}}}\n{daemon}"
        ))  # fmt: skip
        self.log = base / "daemon.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start the daemon."""
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "demixr_daemon", *map(str, arguments), "run"],
                                       env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)  # fmt: skip
        self._processes.append(process)
        return process

    def demixr(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``demixr`` to its end."""
        return subprocess.run([sys.executable, "-m", "demixr_daemon", *map(str, arguments)], env=self.environment(),
                              capture_output=True, text=True, check=False, timeout=120)  # fmt: skip

    @property
    def work(self) -> Jobs:
        """The jobs, seen from here."""
        settings = configuration.read(self.base / "config.yaml")
        return Jobs(Database(settings.daemon.jobs_url, settings.state_dir))

    def wait(self, until: Callable[[], object], seconds: float = 120.0) -> None:
        """Wait for it; the log tells why it did not come."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise AssertionError(self.story())
            time.sleep(0.2)

    def wait_for_jobs(self, count: int, seconds: float = 240.0) -> list[JobRow]:
        """Wait until so many jobs or more have ended and none is left; they."""
        work = self.work
        self.wait(lambda: len(work.rows(1000)) >= count and not work.rows(1, UNFINISHED), seconds)
        return work.rows(1000)

    def story(self) -> str:
        """What the jobs and the log say."""
        rows = "\n".join(f"{row.key} {row.state} {row.stage} {row.title}: {row.reason}" for row in self.work.rows(50))
        return f"{rows}\n{self.log.read_text(errors='replace')[-6000:] if self.log.exists() else ''}"

    def end(self) -> None:
        """Nothing of it is left running."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def items(self) -> list[str]:
        """``title|stems|path`` of all items."""
        return self.fields("$title|$stems|$path")

    def check_whole(self, titles: list[str]) -> None:
        """Each title is in the library once, with four stems that are there; nothing else is anywhere."""
        rows = [line.split("|") for line in self.items()]
        assert Counter(row[0] for row in rows) == Counter(titles), self.story()
        for title, names, path in rows:
            made = stems.read(stems.folder_for(Path(path)))
            assert names == "vocals; drums; bass; other", f"{title}: {names!r}\n{self.story()}"
            assert made is not None, title
            assert made.complete(), title
            assert made.source.name == Path(path).name
        expected = {Path(row[2]) for row in rows}
        tracks = {path for path in self.music.rglob("*") if path.is_file() and ".stems" not in path.parent.name}
        assert tracks == expected, self.story()
        assert [path for path in self.music.rglob(".*")] == [], self.story()  # noqa: C416

    def song(self, path: Path, title: str, *, album: str = "", track: int = 1, seconds: float = 0.5, seed: int = 0) -> Path:
        """Write a tagged song."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self.base / f"new{path.suffix}"
        soundfile.write(new, made_mixture(seconds, 44100, 2, seed), 44100)
        tags = mediafile.MediaFile(new)
        tags.update({"title": title, "artist": "Foo", "album": album, "track": track})
        tags.save()
        shutil.move(new, path)
        return path


def row_of(rows: list[JobRow], source: str) -> JobRow:
    """The one job of this source."""
    found = [row for row in rows if source in row.source]
    assert len(found) == 1, [dataclasses.astuple(row)[:5] for row in rows]
    return found[0]


def status(home: Home) -> dict[str, Any]:
    """``demixr status --json``."""
    answer = home.demixr("status", "--json", "-n", "1000")
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))
