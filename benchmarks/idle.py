"""The daemon at rest, and with 10,000 jobs waiting: ``python -m benchmarks.idle [--seconds S] [--jobs N]``.

A real daemon on a library of its own imports and separates a song, lets its processes go, and is measured while nothing
happens: processor time of all its processes, and resident memory. Then songs are added by hand, to the idle daemon and to one
with many jobs waiting: how long each takes until its first stage runs. With many jobs waiting ``demixr status`` is timed, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from benchmarks.tables import table, write
from demixr_daemon import configuration
from demixr_daemon.jobs.database import Database
from demixr_daemon.jobs.work import Jobs
from tests.made_song import made_mixture

_CONFIG = """\
directory: {base}/music
library: {base}/library.db
plugins: demix
import: {{copy: yes, autotag: no, quiet: yes}}
demix:
  daemon:
    watch: {{default: {base}/albums, singleton: {base}/singles}}
    queue_file: {base}/urls.txt
    state_dir: {base}/state
    debounce_window: 1
    unload_after: 1
    min_free_mb: 1
    web: {{port: 0}}
"""
_ADDED = 7
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__.split(":")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to watch it do nothing (default: 120)")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs wait (default: 10000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = _Home(Path(folder))
        with home.daemon() as process:
            home.separated(home.song(home.base / "singles" / "first.flac"))
            _wait(lambda: len(_family(process.pid)) == 1, 60)
            time.sleep(70)  # dbos looks for schedules often in its first minute
            load, resident_mb = _watched(process.pid, options.seconds)
            begins_s = home.begins()
        home.work.separate(range(10**6, 10**6 + options.jobs), hurried=False)
        status_s = home.statuses()
        with home.daemon():
            _wait(lambda: home.work.counts().get("cancelled"), 60)  # it is at work on them
            busy_status_s, busy_begins_s = home.statuses(), home.begins()
    rows = [
        ("idle: processor time, of one core", f"{load:.2%}"),
        ("idle: resident memory", f"{resident_mb:.0f} MB"),
        ("idle: a song added by hand begins after", _seconds(begins_s)),
        (f"{options.jobs} jobs waiting: `demixr status`", _seconds(status_s)),
        (f"{options.jobs} jobs waiting, at work on them: `demixr status`", _seconds(busy_status_s)),
        (f"{options.jobs} jobs waiting, at work on them: a song added by hand begins after", _seconds(busy_begins_s)),
    ]
    words = f"Idle for {options.seconds:.0f} s; {_ADDED} times each of the others: median, and the longest."
    last = f"idle_percent={100 * load:.2f} idle_mb={resident_mb:.0f}"
    write("idle", "The daemon at rest, and with many jobs waiting", table(("what", "measured"), rows), words, last)


class _Home:
    """A library with a daemon."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("music", "albums", "singles"):
            (base / name).mkdir()
        (base / "urls.txt").touch()
        (base / "config.yaml").write_text(_CONFIG.format(base=base), "utf-8")
        self._environment = os.environ | {"BEETSDIR": str(base), "PYTHONUTF8": "1"}
        settings = configuration.read(base / "config.yaml")
        self.work = Jobs(Database(settings.daemon.jobs_url, settings.state_dir))
        self._songs = 0

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it."""
        log = self.base / "daemon.log"
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-m", "demixr_daemon", "run"], env=self._environment, stdout=out,
                                       stderr=out)  # fmt: skip
        try:
            _wait(lambda: b"at work" in log.read_bytes(), 60)
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def song(self, path: Path) -> str:
        """Write a song that is like no other; its name."""
        self._songs += 1
        new = self.base / "new.flac"
        soundfile.write(new, made_mixture(2.0, seed=self._songs), 44100)
        new.rename(path)
        return path.name

    def separated(self, name: str) -> None:
        """Wait until a song that was dropped has its stems."""
        _wait(lambda: any(row.source.endswith(name) and row.state == "done" for row in self.work.rows()), 300)

    def begins(self) -> list[float]:
        """How long songs that are added one after the other wait for their first stage, in s."""
        found = []
        for number in range(_ADDED):
            path = self.base / f"added{self._songs}.flac"
            self.song(path)
            time.sleep(3.1 + 0.13 * number)  # it rests, and is met at another moment of its rounds
            key = self._demixr("add", str(path)).split()[0]
            asked = time.monotonic()
            _wait(lambda key=key: (row := self.work.row(key)) and row.state != "waiting", 60, 0.01)  # type: ignore[misc]
            found.append(time.monotonic() - asked)
            _wait(lambda key=key: (row := self.work.row(key)) and row.state == "done", 120)  # type: ignore[misc]
        return found

    def statuses(self) -> list[float]:
        """How long ``demixr status`` takes, in s."""
        found = []
        for _ in range(_ADDED):
            begun = time.monotonic()
            self._demixr("status")
            found.append(time.monotonic() - begun)
        return found

    def _demixr(self, *arguments: str) -> str:
        return subprocess.run([sys.executable, "-m", "demixr_daemon", *arguments], env=self._environment, check=True,
                              capture_output=True, text=True).stdout  # fmt: skip


def _watched(pid: int, seconds: float) -> tuple[float, float]:
    """Processor time of a process and all that it started, of one core; the most memory that they had, in MB (10^6 bytes)."""
    before, begun = _used_s(pid), time.monotonic()
    most_mb = 0.0
    while time.monotonic() - begun < seconds:
        time.sleep(5)
        most_mb = max(most_mb, sum(map(_resident_mb, _family(pid))))
    return (_used_s(pid) - before) / (time.monotonic() - begun), most_mb


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()


def _family(pid: int) -> list[int]:
    """A process and what it started, directly or not."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int(_stat(int(path.name))[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _used_s(pid: int) -> float:
    """Of the process, its children, and those that have ended."""
    return sum(sum(map(int, _stat(one)[11:15])) for one in _family(pid)) / _TICKS_HZ


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def _wait(until: Callable[[], object], seconds: float, every_s: float = 0.2) -> None:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise SystemExit("what was waited for did not come")
        time.sleep(every_s)


def _seconds(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} s, at most {max(found):.2f} s"


if __name__ == "__main__":
    main()
