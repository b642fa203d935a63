"""An import that was killed: it is taken back and begins anew, or it is undone.

``moves`` has a line for each file, written before beets moves it; the items have a field that names their job. What an earlier
import of the same job left is ``others`` and stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from beets.dbcore.query import PathQuery
from beets.library import Item, Library
from beets.util import prune_dirs

JOB_FIELD = "demixr_job"
"""The item field that says which job imported it."""


def items_of(lib: Library, key: str) -> list[Item]:
    """The items that a job imported."""
    with lib.transaction() as transaction:  # beets' own queries look at flexible fields in Python, item by item
        rows = transaction.query("SELECT entity_id FROM item_attributes WHERE key = ? AND value = ?", (JOB_FIELD, key))
    return [item for row in rows if (item := lib.get_item(row[0]))]


def note(moves: Path, source: bytes, destination: bytes) -> None:
    """Write down that a file is about to be moved."""
    with open(moves, "a", encoding="ascii") as file:
        file.write(f"\n{json.dumps([os.fsdecode(source), os.fsdecode(destination)])}\n")  # the line before may be half a line
        file.flush()
        os.fsync(file.fileno())


class Unfinished:
    """What an unfinished import of copies in ``place/files`` left.

    :param others: ids of items of the same job that are none of it.
    """

    def __init__(self, lib: Library, music: Path, place: Path, key: str, others: Collection[int]) -> None:
        self._lib, self._music, self._place, self._key, self._others = lib, music, place, key, others
        self._moves = place / "moves"

    def take_back(self) -> None:
        """Let files and items be where the copies were, as they are now.

        When beets imports the files again it replaces their items, and keeps what these were given meanwhile: tags are in the
        files, and flexible fields survive. Order of writes: line → item → file, so that this can be killed, too.
        """
        self._note_strayed()
        complete = True
        for source, destination in self._moved():
            item = self._at(destination)
            if source.exists() or not destination.is_file() or not (item is None or self._mine(item)):
                continue
            if item:
                item.path = os.fsencode(source)
                item.store()
            source.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.move(destination, source)
            except OSError:  # then the copies are not whole, and are made anew
                complete = False
            self._prune(destination)
        if complete:
            self._moves.unlink(missing_ok=True)

    def undo(self) -> None:
        """Leave nothing of it: its items leave the library, its files the music folder."""
        for item in items_of(self._lib, self._key):
            if self._mine(item):
                item.remove(delete=not item.filepath.is_relative_to(self._place))
        for source, destination in self._moved():
            if not source.exists() and destination.is_file() and not self._at(destination):
                destination.unlink()
            self._prune(destination)

    def _note_strayed(self) -> None:
        """Tracks that were moved again, by ``beet``, since beets imported them."""
        moved = list(self._moved())
        vacant = [source for source, destination in moved if not source.exists() and not destination.exists()]
        for item in items_of(self._lib, self._key):
            path = item.filepath
            if self._mine(item) and not path.is_relative_to(self._place) and path not in [to for _, to in moved]:
                source = next((source for source in vacant if source.suffix == path.suffix), None)
                if source and path.is_file():
                    vacant.remove(source)
                    note(self._moves, os.fsencode(source), os.fsencode(path))

    def _moved(self) -> Iterator[tuple[Path, Path]]:
        """From where to where."""
        for line in self._moves.read_text("ascii").splitlines() if self._moves.exists() else []:
            with contextlib.suppress(ValueError):  # half a line, or none
                source, destination = map(Path, json.loads(line))
                if source.is_relative_to(self._place):
                    yield source, destination

    def _at(self, path: Path) -> Item | None:
        return self._lib.items(PathQuery("path", os.fsencode(path))).get()

    def _mine(self, item: Item) -> bool:
        return item.get(JOB_FIELD) == self._key and item.id not in self._others

    def _prune(self, path: Path) -> None:
        prune_dirs(os.fsencode(path.parent), os.fsencode(self._music))
