"""A stem set is there whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demixr_daemon import publishing, stems
from demixr_daemon.errors import BusyError, OutputError
from demixr_daemon.settings import TARGETS
from demixr_daemon.stems import Recipe, Source, StemSet

SOURCE = Source("01 Title.flac", 1, 2, "0" * 64, 44100, 2, 100)
RECIPE = Recipe("m", "1" * 64, "int8", 1, TARGETS, "flac", 16, 0)


def filled(place: Path, *, track: str = "01 Title.flac", content: str = "new") -> StemSet:
    """A finished workplace."""
    made = StemSet(place, {target: f"{target}.flac" for target in TARGETS}, dataclasses.replace(SOURCE, name=track), RECIPE,
                   "MIT", 1.0, "beets-demix", "2026-01-01T00:00:00+00:00")  # fmt: skip
    for name in made.files.values():
        (place / name).write_text(content)
    made.write_manifest(place)
    return made


def publish(track: Path, content: str = "new") -> Path:
    folder = stems.folder_for(track)
    with publishing.workplace(track, stems.folder_for(track)) as place:
        filled(place, track=track.name, content=content)
        stems.publish(place, folder)
    return folder


@pytest.fixture
def track(tmp_path: Path) -> Path:
    path = tmp_path / "01 Title.flac"
    path.touch()
    return path


def test_published_beside_the_track(track: Path) -> None:
    folder = publish(track)
    assert folder == track.parent / "01 Title.stems"
    made = stems.read(folder)
    assert made is not None
    assert made.complete()
    assert (made.source, made.recipe) == (SOURCE, RECIPE)
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


def test_an_older_set_is_replaced(track: Path) -> None:
    publish(track, "old")
    folder = publish(track, "new")
    assert (folder / "vocals.flac").read_text() == "new"
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


def test_a_failure_leaves_nothing_behind(track: Path) -> None:
    with pytest.raises(ZeroDivisionError), publishing.workplace(track, stems.folder_for(track)) as place:
        filled(place)
        raise ZeroDivisionError
    assert os.listdir(track.parent) == [track.name]


def test_a_strangers_folder_is_left_alone(track: Path) -> None:
    (track.parent / "01 Title.stems").mkdir()
    (track.parent / "01 Title.stems" / "mine.txt").touch()
    assert publish(track) == track.parent / "01 Title.flac.stems"
    assert (track.parent / "01 Title.stems" / "mine.txt").exists()
    with publishing.workplace(track, stems.folder_for(track)) as place, pytest.raises(OutputError, match="in the way"):
        filled(place)
        stems.publish(place, track.parent / "01 Title.stems")


def test_two_tracks_of_one_name_keep_apart(track: Path) -> None:
    other = track.with_suffix(".mp3")
    other.touch()
    assert publish(track) != publish(other)
    assert stems.folder_for(track).name == "01 Title.stems"
    assert stems.folder_for(other).name == "01 Title.mp3.stems"


@pytest.mark.parametrize("name", ["x" * 250 + ".flac", "é" * 125 + ".mp3", "🎸" * 62 + ".flac"])
def test_long_names_are_shortened_and_stay_apart(tmp_path: Path, name: str) -> None:
    one, two = tmp_path / name, tmp_path / (name[:-6] + "y" + name[-5:])
    one.touch()
    two.touch()
    assert publish(one) != publish(two)
    assert stems.read(stems.folder_for(one)) is not None


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    track = tmp_path / os.fsdecode(b"caf\xe9.flac")
    track.touch()
    made = stems.read(publish(track))
    assert made is not None
    assert made.source.name == track.name


def test_files_of_the_users_own_outlive_a_replacement(track: Path) -> None:
    folder = publish(track, "old")
    (folder / "notes.txt").write_text("mine")
    assert publish(track, "new") == folder
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "vocals.flac").read_text() == "new"


@pytest.mark.parametrize("exchange", [True, False])
def test_files_of_the_users_own_outlive_a_kill(track: Path, exchange: bool) -> None:
    """Killed where the older set makes way for the new one."""
    folder = publish(track, "old")
    (folder / "takes" / "one").mkdir(parents=True)
    for name in ("notes.txt", "takes/one/two.txt"):
        (folder / name).write_text("mine")
    code = ("import os, signal, sys; from pathlib import Path; from demixr_daemon import publishing, stems\n"
            "from tests.test_stems import publish\n"
            "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
            "if sys.argv[2] == 'True': publishing._exchange = die\n"
            "else:\n"
            "    publishing._exchange = lambda one, other: False\n"
            "    rename = Path.rename\n"
            "    Path.rename = lambda path, to: (rename(path, to), to.name.endswith('-old') and die())\n"
            "publish(Path(sys.argv[1]), 'new')\n")  # fmt: skip
    root = Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", code, str(track), str(exchange)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert publish(track, "newer") == folder
    assert [(folder / name).read_text() for name in ("notes.txt", "takes/one/two.txt")] == ["mine"] * 2
    assert (folder / "vocals.flac").read_text() == "newer"
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


def test_a_leftover_with_folders_in_it_is_swept(track: Path) -> None:
    folder = stems.folder_for(track)
    with publishing.workplace(track, folder) as place:
        name = place.name
    (track.parent / name / "deep").mkdir(parents=True)
    publish(track)
    assert not (track.parent / name).exists()


def test_one_process_at_a_time(track: Path) -> None:
    folder = stems.folder_for(track)
    with publishing.workplace(track, folder), pytest.raises(BusyError), publishing.workplace(track, folder):
        pass
    publish(track)


def test_tracks_of_one_name_wait_for_each_other(track: Path) -> None:
    """Before either has stems, both would have the same folder."""
    other = track.with_suffix(".mp3")
    other.touch()
    folder = stems.folder_for(track)
    assert stems.folder_for(other) == folder
    with publishing.workplace(track, folder) as place:
        with pytest.raises(BusyError, match=r"01 Title\.stems"), publishing.workplace(other, folder):
            pass
        filled(place, content="of the first")
        stems.publish(place, folder)
    assert publish(other).name == "01 Title.mp3.stems"
    assert (folder / "vocals.flac").read_text() == "of the first"


def test_two_that_come_at_once_do_not_both_get_in(track: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One makes its folder between the other's first look and its own."""
    other = track.with_suffix(".mp3")
    other.touch()
    folder = stems.folder_for(track)
    mkdir, entered = Path.mkdir, contextlib.ExitStack()

    def with_company(path: Path, *arguments: Any, **more: Any) -> None:
        if path.name.endswith("demixr-new"):
            monkeypatch.undo()
            entered.enter_context(publishing.workplace(other, folder))
        mkdir(path, *arguments, **more)

    monkeypatch.setattr(Path, "mkdir", with_company)
    with entered, pytest.raises(BusyError), publishing.workplace(track, folder):
        pass
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.mp3"]


def test_without_locks_the_last_one_wins(track: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network mounts have none."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = stems.folder_for(track)
    with publishing.workplace(track, folder) as one, publishing.workplace(track, folder) as two:
        filled(one, content="one")
        filled(two, content="two")
        stems.publish(one, folder)
        stems.publish(two, folder)
    assert {(folder / f"{target}.flac").read_text() for target in TARGETS} == {"two"}
    dead = folder.with_name(two.name)
    dead.mkdir()
    os.utime(dead, (0, 0))
    publish(track)
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


_VICTIM = """
import sys, time
from pathlib import Path
from demixr_daemon import publishing, stems
from tests.test_stems import filled
track = Path(sys.argv[1])
with publishing.workplace(track, stems.folder_for(track)) as place:
    filled(place)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_swept_by_the_next(track: Path) -> None:
    root = Path(__file__).parent.parent
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM, str(track)], stdout=subprocess.PIPE, cwd=root)
    assert victim.stdout
    assert victim.stdout.readline() == b"ready\n"
    with pytest.raises(BusyError), publishing.workplace(track, stems.folder_for(track)):
        pass
    assert stems.read(stems.folder_for(track)) is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert len(os.listdir(track.parent)) == 2
    publish(track)
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


_REPUBLISHER = """
import sys
from pathlib import Path
from tests.test_stems import publish
count = 0
while True:
    publish(Path(sys.argv[1]), str(count))
    count += 1
    print("x", end="", flush=True)
"""


def test_a_reader_always_finds_a_whole_set(track: Path) -> None:
    """While it is replaced again and again, and wherever the writer is killed."""
    publish(track, "first")
    root = Path(__file__).parent.parent
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _REPUBLISHER, str(track)], stdout=subprocess.PIPE, cwd=root)
        assert writer.stdout
        writer.stdout.read(1)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            made = stems.read(track.parent / "01 Title.stems")
            assert made is not None
            assert made.complete()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        made = stems.read(track.parent / "01 Title.stems")
        assert made is not None
        assert made.complete()
    publish(track)
    assert sorted(os.listdir(track.parent)) == ["01 Title.flac", "01 Title.stems"]


def test_remove_takes_the_set_and_nothing_else(track: Path) -> None:
    folder = publish(track)
    (folder / "mine.txt").touch()
    assert stems.remove(folder)
    assert os.listdir(folder) == ["mine.txt"]
    assert not stems.remove(folder)


def test_a_set_follows_its_track(track: Path) -> None:
    folder = publish(track)
    (track.parent / "Album").mkdir()
    moved = track.rename(track.parent / "Album" / "02 New.flac")
    target = stems.move(folder, moved)
    made = stems.read(target)
    assert target == track.parent / "Album" / "02 New.stems"
    assert not folder.exists()
    assert made is not None
    assert made.source.name == "02 New.flac"


def test_stems_are_known_for_what_they_are(track: Path) -> None:
    folder = publish(track)
    assert stems.is_stem(folder / "vocals.flac")
    assert not stems.is_stem(track)
    assert not stems.is_stem(folder / "mine.flac")
    assert not stems.is_stem(track.parent / "An album.stems" / "one.flac")
    with publishing.workplace(track, stems.folder_for(track)) as place:
        assert stems.is_stem(place / "vocals.flac")


def test_an_orphan_at_the_new_place_makes_way(track: Path) -> None:
    folder = publish(track)
    (track.parent / "Album").mkdir()
    orphan = track.parent / "Album" / "02 New.flac"
    orphan.touch()
    publish(orphan, "orphan")
    orphan.unlink()
    target = stems.move(folder, track.rename(orphan))
    assert target == track.parent / "Album" / "02 New.stems"
    assert (target / "vocals.flac").read_text() == "new"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"recipe": 3}',
                                     '{"version": 1, "stems": ["vocals"]}',
                                     '{"source": null, "recipe": {"stems": []}}'])  # fmt: skip
def test_a_damaged_manifest_is_no_set(tmp_path: Path, content: str) -> None:
    (tmp_path / stems.MANIFEST).write_text(content)
    assert stems.read(tmp_path) is None
