"""The real daemon on a real library: what arrives becomes tracks with stems, or a reason why not."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from demixr_daemon.jobs.view import JobRow
from tests.daemon_home import Home, row_of, status
from tests.media_server import MediaServer, serving


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with serving() as media:
        yield media


def song_bytes(home: Home, title: str, seed: int, album: str = "") -> bytes:
    path = home.song(home.base / f"{title}.flac", title, seed=seed, album=album)
    content = path.read_bytes()
    path.unlink()
    return content


def test_all_ways_in(home: Home, server: MediaServer) -> None:
    """An album written slowly, singles, a broken file, and URLs: good, missing, breaking off, a playlist."""
    missing = f"{server.base}/missing.flac"
    good = server.add("/good.flac", song_bytes(home, "Good", 1), kind="audio/flac")
    server.add("/shaky.flac", song_bytes(home, "Shaky", 2), kind="audio/flac", break_off=1)
    for number in (1, 2):
        server.add(f"/{number}.flac", song_bytes(home, f"Listed {number}", 2 + number), kind="audio/flac")
    players = "".join(f'<audio src="/{number}.flac"></audio>' for number in (1, 2))
    page = f"<html><head><title>Both</title></head><body>{players}</body></html>"
    playlist = server.add("/list", page.encode(), kind="text/html")
    home.song(home.singles / "before.flac", "Before", seed=5)  # it came while the daemon was off
    broken = home.singles / "broken.flac"
    whole = song_bytes(home, "Broken", 6)
    broken.write_bytes(whole[: len(whole) // 2])
    home.urls.write_text(f"# to fetch\n{good}\n{missing}\n")
    home.start()

    home.song(home.albums / "Bar" / "1.flac", "One", album="Bar", track=1, seed=7)
    (home.albums / "Bar" / "cover.jpg").write_bytes(b"\xff\xd8 no track")
    whole = song_bytes(home, "Two", 8, album="Bar")
    with (home.albums / "Bar" / "2.flac").open("wb") as file:
        for start in range(0, len(whole), len(whole) // 5):
            file.write(whole[start : start + len(whole) // 5])
            file.flush()
            time.sleep(0.4)
    home.song(home.singles / "deep" / "single.ogg", "Single", seed=9)
    with home.urls.open("a") as file:
        file.write(f"{server.base}/shaky.flac\n{good}\n{playlist}\n")

    rows = home.wait_for_jobs(11)
    assert row_of(rows, missing).state == "failed"
    assert "404" in row_of(rows, missing).reason
    assert row_of(rows, "broken.flac").state == "failed"
    assert "broken.flac" in row_of(rows, "broken.flac").reason
    assert "a playlist: 2 tracks" in row_of(rows, playlist).reason
    assert "an album: 2 tracks" in row_of(rows, "albums/Bar").reason
    assert {row.state for row in rows} == {"done", "failed"}
    assert [row.reason for row in rows if row.state == "failed" and not ("404" in row.reason or "broken" in row.reason)] == []

    titles = [line.split("|")[0] for line in home.items()]
    assert sorted(title.split(" (")[0] for title in titles) == sorted(
        ["Good", "Shaky", "Listed 1", "Listed 2", "Before", "One", "Two", "Single"])  # fmt: skip
    home.check_whole(titles)
    assert broken.exists()
    assert [path for path in home.singles.rglob("*") if path.is_file() and path != broken] == []
    assert sorted(path.name for path in home.albums.rglob("*") if path.is_file()) == ["cover.jpg"]
    assert len(home.fields("$yt_source", "yt_source::.")) == 4
    assert len(home.fields("$title", "album:Bar")) == 2
    assert home.urls.read_text().count("\n") == 6
    assert "Traceback" not in home.log.read_text()


def test_copying_leaves_the_originals_and_imports_them_once(home: Home) -> None:
    config = home.base / "config.yaml"
    config.write_text(config.read_text().replace("move: yes", "copy: yes"))
    original = home.song(home.singles / "a.flac", "Kept")
    before = original.stat()
    first = home.start()
    home.wait_for_jobs(1)
    first.terminate()
    assert first.wait(15) == 0
    home.start()
    home.song(home.singles / "b.flac", "Next", seed=1)
    home.wait_for_jobs(2)
    assert (original.stat().st_mtime_ns, original.stat().st_size) == (before.st_mtime_ns, before.st_size)
    home.check_whole(["Kept", "Next"])


def test_duplicates_are_skipped_and_their_track_is_separated(home: Home) -> None:
    home.beet("import", "-s", home.song(home.base / "in" / "a.flac", "Twice"))
    assert home.fields("$title|$stems|") == ["Twice||"] or home.fields("$title|$stems|")[0].startswith("Twice")
    copy = home.song(home.singles / "again.flac", "Twice")
    home.start()
    rows = home.wait_for_jobs(1)
    assert rows[0].state == "done"
    assert copy.exists()
    assert f"{copy}: the library has it already" in home.log.read_text()
    home.check_whole(["Twice"])


def running(home: Home) -> list[JobRow]:
    return home.work.rows(10, ["running"])


def test_commands(home: Home, tmp_path: Path) -> None:
    """Add by hand, cancel what runs, retry it, and let beet hand over."""
    long = home.song(tmp_path / "long.flac", "Long", seconds=240)
    config = home.base / "config.yaml"
    config.write_text(config.read_text().replace("move: yes", "copy: yes"))
    home.start()
    answer = home.demixr("add", long, "/no/such.flac")
    assert answer.returncode == 1
    assert answer.stderr == "demixr: /no/such.flac: no audio file there; check the path\n"
    key = answer.stdout.split()[0]
    home.wait(lambda: (row := home.work.row(key)) and row.stage == "separate" and row.progress)
    row = home.work.row(key)
    assert row
    assert row.speed
    assert row.left_s
    assert row.title == "Foo - Long"
    shown = home.demixr("status")
    assert key in shown.stdout
    assert "Foo - Long" in shown.stdout
    assert "no daemon" not in shown.stdout
    begun = time.monotonic()
    assert home.demixr("cancel", key).returncode == 0
    home.wait(lambda: [path for path in home.music.rglob("*.demixr-new")] == [], 60)  # noqa: C416
    assert time.monotonic() - begun < 60
    assert status(home)["counts"] == {"cancelled": 1}
    assert home.demixr("cancel", key).returncode == 1

    answer = home.beet("demix", "--queue", "--targets", "vocals", "title:long")
    assert answer.returncode == 0, answer.stderr
    assert "1 tracks queued" in answer.stderr
    [queued] = [row for row in home.work.rows() if row.key != key]
    home.demixr("cancel", queued.key)
    short = home.demixr("add", home.song(tmp_path / "short.flac", "Short", seed=3)).stdout.split()[0]
    home.wait(lambda: (row := home.work.row(short)) and row.state == "done")
    assert home.fields("$stems", "title:short") == ["vocals; drums; bass; other"]
    home.beet("demix", "--queue", "--targets", "vocals", "title:short")
    home.wait(lambda: home.fields("$stems", "title:short") == ["vocals"])
    assert "2 finished jobs forgotten" in home.demixr("prune").stdout or status(home)["counts"].get("done", 0) == 0
    assert home.demixr("retry", "--all").returncode == 0


def test_a_track_that_moves_or_goes_meanwhile(home: Home, tmp_path: Path) -> None:
    for number, title in enumerate(("Moves", "Goes")):
        home.beet("import", "-s", home.song(tmp_path / f"{title}.flac", title, seconds=60, seed=number))
    home.start()
    home.beet("demix", "--queue", "title:moves")
    home.wait(lambda: [row for row in running(home) if row.stage == "separate"])
    assert home.beet("modify", "-y", "title:moves", "title=Moved").returncode == 0
    rows = home.wait_for_jobs(1)
    assert rows[0].state == "done"
    assert home.fields("$title|$stems", "title:moved") == ["Moved|vocals; drums; bass; other"]

    home.beet("demix", "--queue", "title:goes")
    home.wait(lambda: [row for row in running(home) if row.stage == "separate"])
    assert home.beet("remove", "-d", "-f", "title:goes").returncode == 0
    rows = home.wait_for_jobs(2)
    assert {row.state for row in rows} == {"done", "cancelled"}
    home.check_whole(["Moved"])


def test_a_crash_of_the_separating_process_costs_one_try(home: Home) -> None:
    home.song(home.singles / "a.flac", "Survivor", seconds=60)
    process = home.start()

    def workers() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"demixr_daemon.worker" in words and b"separate" in words and os.fsencode(home.base / "state") in words:
                found.append(int(path.parent.name))
        return found

    home.wait(lambda: [row for row in running(home) if row.stage == "separate"] and workers())
    os.kill(workers()[0], signal.SIGSEGV)
    home.wait(lambda: [row for row in home.work.rows() if "crashed (SIGSEGV); next try" in row.reason], 30)
    home.wait_for_jobs(1)
    assert process.poll() is None
    home.check_whole(["Survivor"])


def test_an_idle_daemon_looks_into_no_queue(home: Home) -> None:
    """And takes up what comes."""
    work = home.work

    def queues() -> int:
        with work.database.connection() as connection:
            return int(connection.execute(sa.text("SELECT COUNT(*) FROM queues")).scalar_one())

    home.start()
    home.wait(lambda: home.log.exists() and "at work" in home.log.read_text())
    for title in ("First", "Second"):
        home.wait(lambda: queues() == 0)
        home.demixr("add", home.song(home.base / f"{title}.flac", title))
        home.wait(lambda title=title: any(title in row.title and row.state == "done" for row in work.rows()))
    home.check_whole(["First", "Second"])


def test_signals(home: Home) -> None:
    process = home.start()
    home.wait(lambda: home.log.exists() and "at work" in home.log.read_text())
    config = home.base / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("debounce_window: 1", "debounce_window: soon"))
    process.send_signal(signal.SIGHUP)
    home.wait(lambda: "demix.daemon.debounce_window" in home.log.read_text(), 20)
    other = home.base / "other"
    other.mkdir()
    config.write_text(good.replace(str(home.singles), str(other)))
    process.send_signal(signal.SIGHUP)
    home.wait(lambda: "was read again" in home.log.read_text(), 20)
    home.song(other / "a.flac", "Elsewhere", seconds=120)
    home.wait(lambda: [row for row in running(home) if row.stage == "separate"])
    second = home.demixr("run")
    assert second.returncode == 1
    assert f"a daemon is at work already (process {process.pid})" in second.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0
    assert status(home)["counts"] == {"running": 1}
    assert list(home.music.rglob("*.stems")) == []
    config.write_text(good)
    home.start()
    home.wait_for_jobs(1)
    home.check_whole(["Elsewhere"])


def test_a_full_disk_pauses(home: Home) -> None:
    config = home.base / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("min_free_mb: 1", "min_free_mb: 999999999"))
    home.song(home.singles / "a.flac", "Patient")
    process = home.start()
    home.wait(lambda: home.work.rows(1, ["paused"]))
    assert "disk nearly full" in status(home)["jobs"][0]["reason"]
    config.write_text(good)
    process.send_signal(signal.SIGHUP)
    home.wait_for_jobs(1)
    home.check_whole(["Patient"])


def test_auto_queue(home: Home, tmp_path: Path) -> None:
    config = home.base / "config.yaml"
    config.write_text(config.read_text().replace("  threads: 1\n", "  threads: 1\n  auto: queue\n"))
    answer = home.beet("import", "-s", home.song(tmp_path / "a.flac", "Automatic"))
    assert answer.returncode == 0, answer.stderr
    assert status(home)["counts"] == {"waiting": 1}
    home.start()
    home.wait_for_jobs(1)
    home.check_whole(["Automatic"])


@pytest.mark.parametrize(("line", "words"), [
    ("debounce: 5", "demix.daemon.debounce: there is no such setting"),
    ("downloads: 99", "demix.daemon.downloads: 99 is not a whole number from 1 to 16"),
    ("stages: [separate, dance]", "demix.daemon.stages: 'dance' is not one of"),
    ("jobs_url: mysql://x", "demix.daemon.jobs_url"),
    ("youtube: {max_lengths: 1}", "demix.daemon.youtube.max_lengths: there is no such setting"),
    ("youtube: {max_length_s: long}", "demix.daemon.youtube.max_length_s"),
])  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, weights: Path, line: str, words: str) -> None:
    home = Home(tmp_path / "home", weights, daemon=f"    {line}\n")
    for command in ("run", "status"):
        answer = home.demixr(command)
        assert answer.returncode == 1
        assert words in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


def test_a_watched_folder_inside_the_music_is_refused(tmp_path: Path, weights: Path) -> None:
    home = Home(tmp_path / "home", weights)
    config = home.base / "config.yaml"
    config.write_text(config.read_text().replace(str(home.singles), str(home.music / "in")))
    answer = home.demixr("run")
    assert answer.returncode == 1
    assert "demix.daemon.watch.default" in answer.stderr or "demix.daemon.watch.singleton" in answer.stderr


def test_a_queue_file_that_cannot_be_read_is_told_once(home: Home) -> None:
    home.urls.mkdir()
    assert f"{home.urls} is not a file that can be read" in home.demixr("doctor").stdout
    home.start()
    home.wait(lambda: home.log.exists() and "Is a directory" in home.log.read_text())
    home.song(home.singles / "a.flac", "Beside")
    home.wait_for_jobs(1)
    home.urls.rmdir()
    home.urls.write_text("no-url\n")
    home.wait(lambda: "no-url: queued" in home.log.read_text())
    assert home.log.read_text().count("Is a directory") == 1


def test_a_url_is_kept_while_the_jobs_cannot_be_written(home: Home) -> None:
    home.start()
    home.wait(lambda: home.log.exists() and "at work" in home.log.read_text())
    with contextlib.closing(sqlite3.connect(home.work.database.file or "", timeout=30)) as jobs:
        jobs.execute("ALTER TABLE demixr_jobs RENAME TO away")
        home.urls.write_text("no-url\n")
        home.wait(lambda: "demixr_jobs" in home.log.read_text())
        time.sleep(2)  # the file is looked at every second
        assert "queued" not in home.log.read_text()
        jobs.execute("ALTER TABLE away RENAME TO demixr_jobs")
    home.wait(lambda: "no-url: queued" in home.log.read_text())


def test_doctor_and_install(home: Home) -> None:
    answer = home.demixr("doctor")
    assert "ok    music folder" in answer.stdout
    assert "MEND  queue file" in answer.stdout
    assert "make it" in answer.stdout
    assert answer.returncode == 1
    unit = home.demixr("-c", home.base / "config.yaml", "install", "--print")
    assert unit.returncode == 0, unit.stderr
    assert f"-c {home.base / 'config.yaml'} run" in unit.stdout
    assert f'"-{home.music}"' in unit.stdout
    assert f'Environment="XDG_CONFIG_HOME={os.environ["XDG_CONFIG_HOME"]}"' in unit.stdout
    assert not (Path(os.environ["XDG_CONFIG_HOME"]) / "systemd").exists()


def test_status_of_ten_thousand(home: Home) -> None:
    """Also with the daemon off; the shape of its JSON is for programs. A song added by hand overtakes them all."""
    home.work.separate(range(10_000), hurried=False)
    shown = status(home)
    assert shown["counts"] == {"waiting": 10_000}
    assert len(shown["jobs"]) == 1000
    assert set(shown["jobs"][0]) == set(JobRow.__dataclass_fields__)
    text = home.demixr("status", "-n", "5").stdout.splitlines()
    assert len(text) == 9
    assert text[-2:] == ["10000 waiting", "no daemon is at work: `demixr run` goes on with them"]
    home.start()
    home.wait(lambda: home.work.counts().get("waiting", 0) < 10_000)
    key = home.demixr("add", home.song(home.base / "a.flac", "Hurried")).stdout.split()[0]
    home.wait(lambda: (row := home.work.row(key)) and row.state == "done")
    assert home.work.counts()["waiting"] > 5_000
    home.check_whole(["Hurried"])


