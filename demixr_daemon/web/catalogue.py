"""What the page sees of the beets library. It only reads, and reads afresh for every answer."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import beets
from beets import dbcore
from beets.dbcore.query import AndQuery, NotQuery, PathQuery, Query
from beets.library import Album, Item, Library

from demixr_daemon.errors import LibraryError, SettingError, shown
from demixr_daemon.library import ITEM_TYPES

PAGE_ROWS = 60
_MOST_ROWS = 200
_LONGEST_QUERY = 500
_PREFIXES: dict[str, Any] = {":": dbcore.query.RegexpQuery, "=~": dbcore.query.StringQuery, "=": dbcore.query.MatchQuery}
_OWN_QUERIES = ("singleton",)

ITEM_SORTS = {
    "artist": ["artist+", "album+", "disc+", "track+"],
    "title": ["title+", "artist+"],
    "album": ["album+", "disc+", "track+"],
    "added": ["added-", "disc+", "track+"],
    "year": ["year-", "album+", "disc+", "track+"],
    "length": ["length+"],
}
ALBUM_SORTS = {
    "artist": ["albumartist+", "year+", "album+"],
    "title": ["album+", "albumartist+"],
    "album": ["album+", "albumartist+"],
    "added": ["added-"],
    "year": ["year-", "album+"],
    "length": ["album+"],
}


class ReadOnly(Library):
    """A library that SQLite itself keeps from being written to, once it is open."""

    _reading = False

    def _create_connection(self) -> sqlite3.Connection:
        connection = super()._create_connection()
        if self._reading:
            connection.execute("PRAGMA query_only = ON")
        return connection


def opened(database: Path, music: Path) -> Library:
    """The library of a configuration, for reading.

    :raises LibraryError: it cannot be opened.
    """
    # no plugins here: the one that would tell beets of these fields is `demix`
    Item._types = {**Item._types, **ITEM_TYPES}  # type: ignore[method-assign, assignment]
    try:
        lib = ReadOnly(database, str(music), set_music_dir=False)
        lib._close()
    except (sqlite3.Error, OSError, dbcore.db.DBAccessError) as error:
        raise LibraryError(f"{shown(database)}: the library cannot be opened: {error}; check the path") from error
    lib._reading = True
    return lib


class HasStems(Query):
    """Tracks with stems, or albums with such a track; decided by SQLite, which beets leaves to Python for flexible fields."""

    def __init__(self, kind: type[Item] | type[Album]) -> None:
        self._column = "items.id" if kind is Item else "albums.id"
        self._found = "items.id" if kind is Item else "items.album_id"

    @property
    def field_names(self) -> set[str]:
        return set()

    def clause(self) -> tuple[str, Sequence[Any]]:
        return (f"{self._column} IN (SELECT {self._found} FROM items JOIN item_attributes ON entity_id = items.id "  # noqa: S608
                "WHERE key = 'stems' AND value != '')", ())  # fmt: skip

    def match(self, obj: Any) -> bool:
        tracks = [obj] if isinstance(obj, Item) else obj.items()
        return any(track.get("stems") for track in tracks)


class Catalogue:
    """The library, for readers in any thread."""

    def __init__(self, lib: Library) -> None:
        self._lib = lib

    def tracks(
        self, query: str, *, stems: str = "", sort: str = "artist", start: int = 0, rows: int = PAGE_ROWS
    ) -> dict[str, Any]:
        """Tracks that match a beets query, a page of them.

        :param stems: ``with``, ``without``, or empty for both.
        :raises SettingError: the query makes no sense.
        :raises LibraryError: the library stays locked.
        """
        return self._page(Item, query, stems, ITEM_SORTS.get(sort, ITEM_SORTS["artist"]), start, rows)

    def albums(
        self, query: str, *, stems: str = "", sort: str = "artist", start: int = 0, rows: int = PAGE_ROWS
    ) -> dict[str, Any]:
        """Albums that match a beets query, a page of them; the same as :meth:`tracks`."""
        return self._page(Album, query, stems, ALBUM_SORTS.get(sort, ALBUM_SORTS["artist"]), start, rows)

    def item(self, number: int) -> Item | None:
        """One track, its path made absolute."""
        with self._reading():
            return self._lib.get_item(number)

    def album(self, number: int) -> Album | None:
        """One album."""
        with self._reading():
            return self._lib.get_album(number)

    def size(self) -> tuple[int, int]:
        """Tracks, and those with stems."""
        with self._reading(), self._lib.transaction() as transaction:
            tracks = transaction.query("SELECT COUNT(*) FROM items")[0][0]
            with_stems = transaction.query("SELECT COUNT(*) FROM item_attributes WHERE key = 'stems' AND value != ''")[0][0]
        return tracks, with_stems

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Where paths of items are what they say: relative ones belong to the music directory."""
        with self._lib.music_dir_context():
            yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self.bound():
                yield
        except (sqlite3.Error, dbcore.db.DBAccessError) as error:
            raise LibraryError(f"the library cannot be read: {error}; try again") from error

    def _page(
        self, kind: type[Item] | type[Album], query: str, stems: str, fields: list[str], start: int, rows: int
    ) -> dict[str, Any]:
        rows = min(rows, _MOST_ROWS)
        with self._reading():
            wanted, order = parsed(kind, query)
            if stems:
                has: Query = HasStems(kind)
                wanted = AndQuery([wanted, has if stems == "with" else NotQuery(has)])
            if not (order.order_clause() or order.is_slow()):
                order = dbcore.sort_from_strings(kind, fields)
            # beets applies a limit before what SQL cannot decide: there, all must be read
            limit = start + rows + 1 if wanted.clause()[0] and not order.is_slow() else None
            found = (self._lib.items if kind is Item else self._lib.albums)(wanted, order, limit)
            page = list(islice(found, start, start + rows + 1))
            return {"rows": [self._described(entry) for entry in page[:rows]], "more": len(page) > rows}

    def _described(self, entry: object) -> dict[str, Any]:
        if isinstance(entry, Item):
            return described(entry)
        assert isinstance(entry, Album)
        return self._described_album(entry)

    def _described_album(self, album: Album) -> dict[str, Any]:
        with self._lib.transaction() as transaction:
            rows = transaction.query(
                "SELECT COUNT(*), COUNT(stems.value), SUM(items.length) FROM items LEFT JOIN item_attributes AS stems "
                "ON stems.entity_id = items.id AND stems.key = 'stems' AND stems.value != '' WHERE items.album_id = ?",
                (album.id,),
            )
        tracks, with_stems, length = tuple(rows[0])
        return {"id": album.id, "album": album.album, "artist": album.albumartist, "year": album.year, "tracks": tracks,
                "with_stems": with_stems, "length": length or 0.0}  # fmt: skip


def described(item: Item) -> dict[str, Any]:
    """A track as the page knows it: no paths."""
    return {"id": item.id, "title": item.title or shown(item.filepath.stem),
            "artist": item.artist or item.albumartist, "album": item.album, "album_id": item.album_id, "track": item.track,
            "year": item.year, "length": item.length, "stems": list(item.get("stems") or ()),
            "model": item.get("stems_model") or ""}  # fmt: skip


def parsed(kind: type[Item] | type[Album], text: str) -> tuple[Query, Any]:
    """A beets query in which nothing names a file: what a client sends never touches the disk.

    :raises SettingError: it makes no sense, or asks for paths.
    """
    try:
        parts = shlex.split(text[:_LONGEST_QUERY])
    except ValueError:
        parts = text.split()  # someone is still typing: a quotation mark is open
    types = {**kind._fields, **kind._types}
    for part in parts:
        key = dbcore.queryparse.parse_query_part(part.rstrip(","))[0]
        if key is None:
            continue
        key = key.lower()
        if (key in types and issubclass(types[key].query, PathQuery)) or (key in kind._queries and key not in _OWN_QUERIES):
            raise SettingError(f"{key}: cannot be searched on this page; use `beet ls` for that")
    try:
        return dbcore.parse_sorted_query(kind, parts, _PREFIXES, beets.config["sort_case_insensitive"].get(bool))
    except dbcore.query.ParsingError as error:
        raise SettingError(f"not a query: {error}") from error
