"""What is recorded survives whatever else goes on in the library."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from beets.library import Item
from beets.library import Library as BeetsLibrary

from demixr_daemon import library, stems
from demixr_daemon.errors import LibraryError
from tests.test_stems import publish


@pytest.fixture
def lib(tmp_path: Path) -> Iterator[BeetsLibrary]:
    Item._types |= library.ITEM_TYPES  # as beets does with a plugin's
    (tmp_path / "music").mkdir()
    beets_library = BeetsLibrary(str(tmp_path / "library.db"), str(tmp_path / "music"))
    with beets_library.music_dir_context():
        yield beets_library
    beets_library._close()


@pytest.fixture
def item(lib: BeetsLibrary, tmp_path: Path) -> Item:
    path = tmp_path / "music" / "01 Title.flac"
    path.touch()
    item = Item(path=bytes(path), title="Title")
    lib.add(item)
    return item


@pytest.fixture
def stem_set(item: Item) -> stems.StemSet:
    made = stems.read(publish(item.filepath))
    assert made is not None
    return made


def fresh(lib: BeetsLibrary, item: Item) -> Item:
    assert item.id is not None
    found = lib.get_item(item.id)
    assert found is not None
    return found


def test_recorded_and_forgotten(lib: BeetsLibrary, item: Item, stem_set: stems.StemSet) -> None:
    library.record(lib, item, stem_set)
    found = fresh(lib, item)
    assert found["stems"] == ["vocals", "drums", "bass", "other"]
    assert library.stems_folder(found) == stem_set.folder
    assert library.stem_path(found, "drums") == str(stem_set.path("drums"))
    assert library.stem_path(found, "instrumental") == ""
    library.clear(lib, item)
    assert "stems" not in fresh(lib, item)


def test_a_field_that_another_program_set_meanwhile_is_kept(
    lib: BeetsLibrary, item: Item, stem_set: stems.StemSet, tmp_path: Path
) -> None:
    other = BeetsLibrary(str(tmp_path / "library.db"), str(tmp_path / "music"))
    theirs = fresh(other, item)
    theirs["mood"], theirs.title = "happy", "New"
    theirs.store()
    library.record(lib, item, stem_set)
    found = fresh(lib, item)
    assert (found["mood"], found.title, found["stems"][0]) == ("happy", "New", "vocals")


def test_nothing_is_written_to_a_track_that_was_removed(lib: BeetsLibrary, item: Item, stem_set: stems.StemSet) -> None:
    fresh(lib, item).remove()
    with pytest.raises(LibraryError, match="removed"):
        library.record(lib, item, stem_set)
    with lib.transaction() as transaction:
        assert transaction.query("SELECT * FROM item_attributes") == []


def test_a_track_that_moved_is_left_alone(lib: BeetsLibrary, item: Item, stem_set: stems.StemSet) -> None:
    theirs = fresh(lib, item)
    theirs.path = theirs.path.replace(b"01 Title", b"02 Title")
    theirs.store()
    with pytest.raises(LibraryError, match="moved"):
        library.record(lib, item, stem_set)


def test_waits_for_a_lock_and_then_really_writes(
    lib: BeetsLibrary, item: Item, stem_set: stems.StemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = sqlite3.connect(tmp_path / "library.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    with lib.transaction() as transaction:
        transaction.query("PRAGMA busy_timeout = 50")  # instead of five seconds
    release = threading.Timer(0.4, lambda: holder.execute("COMMIT"))
    release.start()
    library.record(lib, item, stem_set)
    release.join()
    holder.close()
    assert fresh(lib, item)["stems_format"] == "flac"


def test_a_lock_that_stays_is_told_in_one_line(
    lib: BeetsLibrary, item: Item, stem_set: stems.StemSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_PAUSES_S", (0.01,))
    holder = sqlite3.connect(tmp_path / "library.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with lib.transaction() as transaction:
        transaction.query("PRAGMA busy_timeout = 50")
    with pytest.raises(LibraryError, match="locked"):
        library.record(lib, item, stem_set)
    holder.close()
