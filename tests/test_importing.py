"""The process that keeps the library: an import is complete, or undone and begun anew, wherever it is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demixr_daemon import stems
from demixr_daemon.errors import AudioError, CrashError, GoneError
from demixr_daemon.jobs.child import Child
from demixr_daemon.worker.staging import decoding
from tests.daemon_home import Home

# A plugin of beets that kills the process at the n-th time of an event, once.
KILLER = """
import os, signal
from pathlib import Path
from beets.plugins import BeetsPlugin

class KillerPlugin(BeetsPlugin):
    def __init__(self):
        super().__init__()
        event, left, flag = Path(__file__).with_name("when").read_text().split()
        self.left, self.flag = int(left), Path(flag)
        self.register_listener(event, self.strike)

    def strike(self, **_):
        self.left -= 1
        if self.left == 0 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""

# One that kills the process while it deletes an import's own files, where of the folder the file "complete" went first.
HALF_FORGETFUL = """
import os, shutil, signal
from pathlib import Path
from beets.plugins import BeetsPlugin

class KillerPlugin(BeetsPlugin):
    def __init__(self):
        super().__init__()
        whole = shutil.rmtree

        def half(place, *arguments, **named):
            first = Path(os.fsdecode(place)) / "complete"
            if not first.exists():
                return whole(place, *arguments, **named)
            first.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

        shutil.rmtree = half
"""


@pytest.fixture
def keeper(home: Home) -> Iterator[Callable[..., Any]]:
    """``keeper("import", path=...)``: a request to the process that keeps the library."""
    child = Child("library", home.base / "config.yaml", home.base)

    def ask(do: str, **arguments: Any) -> Any:
        defaults = {"key": "key", "singleton": False, "owned": False, "patient": False, "fields": {}} if do == "import" else {}
        return child.call({"do": do} | defaults | arguments)

    yield ask
    child.stop()


def configure(home: Home, old: str, new: str) -> None:
    config = home.base / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def album(home: Home) -> Path:
    folder = home.base / "in" / "Bar"
    for number in (1, 2, 3):
        home.song(folder / f"{number}.flac", f"Title {number}", album="Bar", track=number, seconds=0.2, seed=number)
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def with_killer(home: Home, code: str) -> Path:
    """Let beets load this plugin; where it is."""
    configure(home, "plugins: demix", f"plugins: demix killer\npluginpath: {home.base / 'plugins'}")
    plugin = home.base / "plugins" / "killer.py"
    plugin.parent.mkdir()
    plugin.write_text(code)
    return plugin


def to_be_killed(home: Home, event: str, time: int) -> None:
    """At the n-th time of this event."""
    plugin = with_killer(home, KILLER)
    (plugin.parent / "when").write_text(f"{event} {time} {home.base / 'killed'}")


def killed(home: Home, keeper: Callable[..., Any], source: Path, event: str, time: int) -> None:
    """Import, and be killed."""
    to_be_killed(home, event, time)
    with pytest.raises(CrashError):
        keeper("import", path=str(source))
    assert (home.base / "killed").exists()


def tracks(home: Home) -> list[str]:
    """Names of the files in the music folder."""
    return sorted(path.name for path in home.music.rglob("*") if path.is_file() and ".demixr" not in path.parts)


@pytest.mark.parametrize(("how", "event", "time"), [
    *(("move: yes", *moment) for moment in (
        ("import_task_created", 1), ("import_task_start", 1), ("before_item_moved", 1), ("item_moved", 1), ("item_moved", 2),
        ("item_moved", 3), ("import_task_files", 1), ("album_imported", 1))),
    ("copy: yes", "item_moved", 2), ("copy: yes", "album_imported", 1),
])  # fmt: skip
def test_killed_anywhere(home: Home, keeper: Callable[..., Any], how: str, event: str, time: int) -> None:
    configure(home, "move: yes", how)
    if event == "import_task_start":
        configure(home, "autotag: no", "autotag: yes")
    source = album(home)
    killed(home, keeper, source, event, time)
    assert len(list(source.glob("*.flac"))) == 3  # nothing is taken away before all is done
    there = home.fields("$title")
    home.beet("modify", "-y", "-W", "-M", "title::.", "mine=kept")
    answer = keeper("import", path=str(source))
    assert sorted(item["title"] for item in answer["items"]) == [f"Foo - Title {number}" for number in (1, 2, 3)]
    assert keeper("import", path=str(source)) == answer  # done is done
    assert home.fields("$album|$track|$title", "title::.") == [f"Bar|{number:02}|Title {number}" for number in (1, 2, 3)]
    assert len(home.beet("ls", "-a").stdout.splitlines()) == 1
    assert tracks(home) == [f"0{number} Title {number}.flac" for number in (1, 2, 3)]
    assert len(list(source.glob("*.flac"))) == (0 if "move" in how else 3)
    assert home.fields("$title", "mine:kept") == there


@pytest.mark.parametrize("event", ["import_task_files", "album_imported"])
def test_what_beet_does_to_a_half_imported_album_stays(home: Home, keeper: Callable[..., Any], event: str) -> None:
    """Also where it writes tags and moves the file."""
    source = album(home)
    killed(home, keeper, source, event, 1)
    assert home.beet("modify", "-y", "track:2", "title=Other", "mine=kept").returncode == 0
    answer = keeper("import", path=str(source))
    assert len(answer["items"]) == 3
    assert home.fields("$track|$title|$mine", "title::.") == ["01|Title 1|$mine", "02|Other|kept", "03|Title 3|$mine"]
    assert len(home.beet("ls", "-a").stdout.splitlines()) == 1
    assert tracks(home) == ["01 Title 1.flac", "02 Other.flac", "03 Title 3.flac"]
    assert {os.path.relpath(path, home.music) for path in home.fields("$path")} == {item["path"] for item in answer["items"]}
    assert list(source.glob("*.flac")) == []


def test_a_file_that_was_damaged_by_the_kill_is_copied_anew(home: Home, keeper: Callable[..., Any]) -> None:
    """As a kill in the midst of writing tags leaves one."""
    source = album(home)
    killed(home, keeper, source, "import_task_files", 1)
    [moved] = home.music.rglob("02 Title 2.flac")
    moved.write_bytes(moved.read_bytes()[: moved.stat().st_size // 2])
    answer = keeper("import", path=str(source))
    assert (len(answer["items"]), answer["bad"]) == (3, [])
    assert tracks(home) == [f"0{number} Title {number}.flac" for number in (1, 2, 3)]
    assert decoding([Path(path) for path in home.fields("$path")])[1] == []


def test_a_half_imported_album_on_another_file_system_is_taken_back(home: Home, keeper: Callable[..., Any]) -> None:
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (home.music / "Foo").symlink_to(elsewhere)
        source = album(home)
        killed(home, keeper, source, "import_task_files", 1)
        assert len(list(elsewhere.rglob("*.flac"))) == 3
        home.beet("modify", "-y", "-W", "-M", "title::.", "mine=kept")
        assert len(keeper("import", path=str(source))["items"]) == 3
        assert home.fields("$title|$mine", "title::.") == [f"Title {number}|kept" for number in (1, 2, 3)]
        assert sorted(path.name[:2] for path in elsewhere.rglob("*.flac")) == ["01", "02", "03"]
    finally:
        shutil.rmtree(elsewhere)


def test_an_original_that_changed_is_imported_as_it_is_now(home: Home, keeper: Callable[..., Any]) -> None:
    source = album(home)
    killed(home, keeper, source, "item_moved", 2)
    home.song(source / "2.flac", "Other", album="Bar", track=2, seconds=0.3)
    assert len(keeper("import", path=str(source))["items"]) == 3
    assert home.fields("$title") == ["Title 1", "Other", "Title 3"]
    assert tracks(home) == ["01 Title 1.flac", "02 Other.flac", "03 Title 3.flac"]


def test_what_an_earlier_import_of_the_job_left_stays(home: Home, keeper: Callable[..., Any]) -> None:
    to_be_killed(home, "album_imported", 1)
    keeper("import", path=str(home.song(home.base / "in" / "a.flac", "Title 0")), singleton=True)
    shutil.rmtree(home.music / ".demixr" / "key")  # as it is when the import is over
    source = album(home)
    with pytest.raises(CrashError):
        keeper("import", path=str(source))
    keeper("forget", key="key")
    assert home.fields("$title") == ["Title 0"]
    keeper("import", path=str(source))
    assert home.fields("$title", "title::.", "title+") == [f"Title {number}" for number in range(4)]


def test_undone_when_it_is_not_wanted_any_more(home: Home, keeper: Callable[..., Any]) -> None:
    source = album(home)
    killed(home, keeper, source, "item_moved", 2)
    keeper("forget", key="key")
    assert home.fields("$title") == []
    assert tracks(home) == []
    assert len(list(source.glob("*.flac"))) == 3


def test_killed_while_a_complete_import_is_forgotten(home: Home, keeper: Callable[..., Any]) -> None:
    """Half of what the import wrote down for itself is no reason to take it back."""
    with_killer(home, HALF_FORGETFUL)
    keeper("import", path=str(album(home)))
    with pytest.raises(CrashError):
        keeper("forget", key="key")
    keeper("forget", key="key")
    assert len(home.fields("$title")) == 3
    assert tracks(home) == ["01 Title 1.flac", "02 Title 2.flac", "03 Title 3.flac"]
    assert not (home.music / ".demixr" / "key" / "import").exists()


def test_what_beets_leaves_out_stays_where_it_is(home: Home, keeper: Callable[..., Any]) -> None:
    configure(home, "plugins: demix", "plugins: demix\nignore: ['2.*']")
    source = album(home)
    assert len(keeper("import", path=str(source))["items"]) == 2
    keeper("forget", key="key")
    assert [path.name for path in source.glob("*.flac")] == ["2.flac"]
    assert tracks(home) == ["01 Title 1.flac", "03 Title 3.flac"]


@pytest.mark.parametrize("how", ["move: no, copy: no", "link: yes, copy: no", "hardlink: yes, copy: no"])
def test_links_and_in_place(home: Home, keeper: Callable[..., Any], how: str) -> None:
    configure(home, "move: yes", how)
    source = home.song(home.base / "in" / "a.flac", "Title")
    [item] = keeper("import", path=str(source), singleton=True)["items"]
    [path] = home.fields("$path")
    if "link" in how:
        assert path.startswith(str(home.music))
        assert Path(path).samefile(source)
        assert item["path"] == os.path.relpath(path, home.music)
    else:
        assert path == str(source)
        assert keeper("import", path=str(source), singleton=True, key="other")["duplicates"]
    assert Path(path).is_symlink() == ("{link" in "{" + how)
    assert source.exists()
    assert len(home.fields("$title")) == 1


def test_a_track_that_does_not_decode(home: Home, keeper: Callable[..., Any]) -> None:
    source = album(home)
    half = source / "2.flac"
    half.write_bytes(half.read_bytes()[:-2000])
    with pytest.raises(AudioError, match=r"2\.flac"):
        keeper("import", path=str(source), patient=True)
    assert home.fields("$title") == []
    answer = keeper("import", path=str(source))
    assert len(answer["items"]) == 2
    assert "2.flac" in answer["bad"][0]
    assert [path.name for path in sorted(source.iterdir())] == ["2.flac", "cover.jpg"]


def test_nothing_to_import(home: Home, keeper: Callable[..., Any]) -> None:
    with pytest.raises(AudioError, match="no audio file there"):
        keeper("import", path=str(home.base / "no such"))


@pytest.mark.parametrize(("action", "count"), [("skip", 1), ("ask", 1), ("keep", 2), ("remove", 1)])
def test_duplicates(home: Home, keeper: Callable[..., Any], action: str, count: int) -> None:
    configure(home, "move: yes", f"copy: yes, duplicate_action: {action}")
    first = keeper("import", path=str(home.song(home.base / "a.flac", "Title")), singleton=True, key="one")
    again = keeper("import", path=str(home.song(home.base / "b.flac", "Title", seed=1)), singleton=True, key="two")
    assert again["duplicates"] == (action in ("skip", "ask"))
    assert (again["items"][0]["id"] == first["items"][0]["id"]) == (action in ("skip", "ask"))
    assert len(home.fields("$title")) == count
    assert len(tracks(home)) == count


def test_fields_are_set_and_names_are_kept(home: Home, keeper: Callable[..., Any]) -> None:
    source = home.song(home.base / "in" / os.fsdecode(b"caf\xe9.flac"), "Title")
    keeper("import", path=str(source), singleton=True, fields={"yt_id": "abc", "yt_source": "https://example.org"})
    assert home.fields("$yt_id|$yt_source|$demixr_job") == ["abc|https://example.org|key"]


def test_finding_and_recording(home: Home, keeper: Callable[..., Any]) -> None:
    source = home.song(home.base / "a.flac", "Title")
    [item] = keeper("import", path=str(source), singleton=True)["items"]
    assert keeper("find", item_id=item["id"]) == {"items": [item]}
    with pytest.raises(GoneError, match="item 99"):
        keeper("find", item_id=99)
    assert home.beet("demix", "-y").returncode == 0
    made = stems.folder_for(home.music / item["path"])
    folder = str(made.relative_to(home.music))
    home.beet("modify", "-y", "title=Moved")
    [path] = home.fields("$path")
    assert keeper("record", item_id=item["id"], track=item["path"], folder=folder) == {"recorded": False}  # they have moved
    now = os.path.relpath(path, home.music)
    moved = str(stems.folder_for(Path(path)).relative_to(home.music))
    assert keeper("record", item_id=item["id"], track=now, folder=moved) == {"recorded": True}
    home.beet("remove", "-d", "-f", "title:moved")
    with pytest.raises(GoneError, match="was removed from the library"):
        keeper("record", item_id=item["id"], track=now, folder=moved)
    assert not (home.music / moved).exists()
