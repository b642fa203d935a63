"""The beets library: what is recorded of a stem set, beside other programs that write to it too.

Every change is a short transaction that takes SQLite's write lock first and reads the item afresh inside it: a field that
another `beet` has set meanwhile is not lost, and nothing is written to a track that was deleted.
"""

from __future__ import annotations

import datetime
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from beets.dbcore import types
from beets.dbcore.db import DBAccessError
from beets.dbcore.query import MatchQuery
from beets.library import Item, Library

from demixr_daemon.errors import LibraryError, shown
from demixr_daemon.stems import StemSet

ITEM_TYPES = {
    "stems": types.SEMICOLON_SPACE_DSV,
    "stems_path": types.NullPathType(),
    "stems_model": types.STRING,
    "stems_format": types.STRING,
    "stems_fingerprint": types.STRING,
    "stems_added": types.DATE,
}

# beets itself waits 5 s for a lock (its ``timeout``); then these pauses, in seconds.
_PAUSES_S = (0.1, 0.5, 1.0, 2.0, 4.0)


def fields_of(stem_set: StemSet) -> dict[str, object]:
    """What a library says of a stem set."""
    return {
        "stems": list(stem_set.files),
        "stems_path": os.fsencode(stem_set.folder),
        "stems_model": f"{stem_set.recipe.model} {stem_set.recipe.quantization}",
        "stems_format": stem_set.recipe.format,
        "stems_fingerprint": stem_set.source.fingerprint,
        "stems_added": datetime.datetime.fromisoformat(stem_set.created).timestamp(),
    }


def stems_folder(item: Item) -> Path | None:
    """Where the library says that the item's stems are."""
    path: bytes | None = item.get("stems_path")
    return Path(os.fsdecode(path)) if path else None


def stem_path(item: Item, stem: str) -> str:
    """The file of one stem, as the library records it; empty where the item has no such stem."""
    folder = stems_folder(item)
    return str(folder / f"{stem}.{item['stems_format']}") if folder and stem in item.get("stems", ()) else ""


def record(lib: Library, item: Item, stem_set: StemSet) -> None:
    """Set the fields of the item; done already is done.

    :raises LibraryError: the item was deleted or moved meanwhile, or the library stays locked.
    """
    fields = fields_of(stem_set)
    if all(item.get(name) == value for name, value in fields.items()):
        return
    expected = item.path

    def set_fields(fresh: Item) -> None:
        if fresh.path != expected:
            raise LibraryError(f"{shown(item.filepath)}: was moved while it was separated; run again")
        fresh.update(fields)

    if not _change(lib, item, set_fields):
        raise LibraryError(f"{shown(item.filepath)}: was removed from the library while it was separated")


def clear(lib: Library, item: Item) -> None:
    """Forget the stems of the item.

    :raises LibraryError: the library stays locked.
    """

    def delete_fields(fresh: Item) -> None:
        for name in ITEM_TYPES:
            if name in fresh:
                del fresh[name]

    _change(lib, item, delete_fields)


def _change(lib: Library, item: Item, change: Callable[[Item], None]) -> bool:
    """Apply ``change`` to the item as it is now; False if it is no longer there."""
    for pause in (*_PAUSES_S, None):
        try:
            with lib.transaction() as transaction:
                transaction.mutate("UPDATE items SET id = id WHERE id = ?", (item.id,))  # takes the write lock
                fresh = lib.items(MatchQuery("id", item.id)).get()
                if fresh is None:
                    return False
                change(fresh)
                fresh.store()
            return True
        except (sqlite3.Error, DBAccessError) as error:
            if "locked" not in str(error) or pause is None:
                raise LibraryError(f"{shown(item.filepath)}: the library cannot be written: {error}; run again") from error
            time.sleep(pause)
    raise AssertionError("the last pause is None")
