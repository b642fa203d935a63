"""Work of the process that keeps the library: beets' own importer, looking tracks up, recording stems.

An import is complete, or it begins anew. What arrived is copied to a staging folder inside the music folder; beets imports the
copies and *moves* them, which there is one rename each; the originals are not touched before all is done. Order of writes:
copies → ``staged`` → ``moves``, a line for each file before beets moves it → library → ``complete``. A staging folder with
``staged`` and without ``complete`` is of an import that was killed; :mod:`.unfinished` says what becomes of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beets import config, plugins
from beets.dbcore.query import MatchQuery, PathQuery
from beets.importer import DuplicateAction, ImportTask
from beets.library import Album, Item, Library
from beets.ui import _open_library
from beets.ui.commands.import_.session import TerminalImportSession
from beets.util import prune_dirs

from demixr_daemon import library, stems
from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import AudioError, GoneError, shown
from demixr_daemon.intake import scan
from demixr_daemon.separation.decode import fingerprint
from demixr_daemon.worker import staging
from demixr_daemon.worker.unfinished import JOB_FIELD, Unfinished, items_of, note

_log = logging.getLogger("demixr.import")


class Importing:
    """Keeps one beets library."""

    def __init__(self, settings: Configuration) -> None:
        if settings.file:
            config.set_file(str(settings.file))
        config.set({
            "threaded": False, "timeout": 60.0, "ui": {"color": False}, "demix": {"auto": False},
            "import": {"quiet": True, "quiet_fallback": "asis", "resume": False, "incremental": False, "pretend": False,
                       "log": "", "delete": False},
        })  # fmt: skip
        self._settings = settings
        self._way = next((way for way in ("move", "link", "hardlink", "reflink", "copy") if config["import"][way].get()), "")
        settings.library.parent.mkdir(parents=True, exist_ok=True)
        plugins.load_plugins()
        self._hooks = _Hooks()
        plugins._instances.append(self._hooks)
        self._lib: Library = _open_library(config)
        plugins.send("library_opened", lib=self._lib)

    def run(
        self, request: Mapping[str, Any], report: Callable[[Mapping[str, Any]], None], cancelled: Callable[[], bool]
    ) -> Mapping[str, Any]:
        """``import``, ``find``, ``record`` or ``forget``; see these methods.

        :raises DemixrError: it went wrong.
        """
        arguments = {key: value for key, value in request.items() if key != "do"}
        with self._lib.music_dir_context():
            match request["do"]:
                case "import":
                    return self.take_in(**arguments)
                case "find":
                    return {"items": [self._described(self._item(request["item_id"]))]}
                case "record":
                    return self.record(**arguments)
                case "forget":
                    self._forget(self._settings.staging / request["key"] / "import", request["key"])
                    return {}
                case other:
                    raise ValueError(other)

    def take_in(
        self, path: str, key: str, singleton: bool, owned: bool, patient: bool, fields: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Import what is at ``path``, once for each ``key``.

        :param owned: the originals are the daemon's own, and not to be left behind.
        :param patient: rather wait for a track that does not decode than leave it out.
        :param fields: to be set on the items.
        :return: ``items``, each with ``id``, ``path``, ``folder``, ``title``; ``title``; ``bad``, what was left out and why;
            ``duplicates``, whether the items are those that the library had already.
        :raises AudioError: there is nothing to import, or what there is does not decode.
        :raises OutputError: there is no writing to the music folder.
        """
        source = Path(path)
        place = self._settings.staging / key / "import"
        done = staging.read(place / "complete")
        if done is None:
            begun = self._begun(place, key)
            if begun:
                _log.warning("an unfinished import begins anew: %s", key)
                begun.take_back()
            if known := self._lib.items(PathQuery("path", os.fsencode(source))).get():
                return {"items": [self._described(known)], "title": _title(known), "bad": [], "duplicates": True}
            good, bad = staging.decoding(scan.tracks(source))
            if not good or (bad and patient):
                raise AudioError(bad[0] if bad else f"{shown(source)}: no audio file there")
            stats = {str(track): staging.mark(track) for track in good}
            place.mkdir(parents=True, exist_ok=True)
            staged = self._staged(source, place, key, stats) if self._way or owned else source
            ids, duplicates = self._import(staged, place, key, singleton, fields)
            imported = {name: mark for name, mark in stats.items() if not (staged / Path(name).relative_to(source)).exists()}
            if ids and staged != source:
                for name in sorted(stats.keys() - imported.keys()):
                    _log.warning("%s: beets left it out; it stays where it is", shown(Path(name)))
            done = {"items": ids or duplicates, "bad": bad, "duplicates": not ids, "originals": imported if ids else {}}
            staging.write(place / "complete", done)
        if self._way == "move":
            staging.remove(source, done["originals"])
        items = [item for number in done["items"] if (item := self._lib.get_item(number))]
        album = items[0].album or source.name if len(items) > 1 else ""
        title = f"{items[0].albumartist or items[0].artist} - {album}" if album else ""
        return {"items": [self._described(item) for item in items], "title": title or (_title(items[0]) if items else ""),
                "bad": done["bad"], "duplicates": done["duplicates"]}  # fmt: skip

    def record(self, item_id: int, track: str, folder: str) -> Mapping[str, Any]:
        """Tell the library of the stems in ``folder``, made from ``track``.

        :return: ``recorded``; False where the track has moved and its stems have to be looked at again.
        :raises GoneError: the track was removed; so are its stems.
        """
        made_from, stem_folder = self._settings.music / track, self._settings.music / folder
        item = self._lib.items(MatchQuery("id", item_id)).get()
        if item is None or (item.filepath != made_from and not item.filepath.exists()):
            if not self._lib.items(PathQuery("path", os.fsencode(made_from))).get() and not made_from.exists():
                stems.remove(stem_folder)
                prune_dirs(os.fsencode(stem_folder.parent), os.fsencode(self._settings.music))
            raise GoneError(f"{shown(made_from)}: was removed from the library meanwhile")
        if item.filepath != made_from:
            stem_folder = stems.move(stem_folder, item.filepath)
        made = stems.read(stem_folder)
        if made is None or made.source.name != item.filepath.name:
            return {"recorded": False}
        library.record(self._lib, item, made)
        return {"recorded": True}

    def _item(self, item_id: int) -> Item:
        item = self._lib.items(MatchQuery("id", item_id)).get()
        if item is None:
            raise GoneError(f"item {item_id}: is not in the library")
        return item

    def _described(self, item: Item) -> dict[str, Any]:
        recorded = library.stems_folder(item)
        kept = recorded if recorded and recorded.parent == item.filepath.parent and stems.read(recorded) else None
        return {"id": item.id, "title": _title(item), "path": self._relative(item.filepath),
                "folder": self._relative(kept) if kept else None}  # fmt: skip

    def _relative(self, path: Path) -> str:
        """As another machine that shares the music folder can read it."""
        return str(path.relative_to(self._settings.music) if path.is_relative_to(self._settings.music) else path)

    def _import(
        self, path: Path, place: Path, key: str, singleton: bool, fields: Mapping[str, Any]
    ) -> tuple[list[int], list[int]]:
        """Let beets import; the items that came into being, and those that were there already."""
        way = {"copy": False, "move": path.is_relative_to(place), "link": False, "hardlink": False, "reflink": False}
        before = list(config.sources)
        config.set({"import": {**way, "singletons": singleton}})
        session = _Session(self._lib, None, [os.fsencode(path)])
        try:
            with self._hooks.during(place / "moves", {JOB_FIELD: key, **fields}):
                session.run()
                return list(self._hooks.imported), session.duplicates
        finally:
            config.sources[:] = before  # what an import sets would add up

    def _staged(self, source: Path, place: Path, key: str, stats: dict[str, list[int]]) -> Path:
        """The copies of what is imported: those that are there, where they are whole and the originals are what they were."""
        copies = place / "files" / source.name
        before = staging.read(place / "staged")
        if before is None or before["originals"] != stats or not _whole(copies, stats):
            self._forget(place, key)
            place.mkdir(parents=True, exist_ok=True)
            staging.stage(source, [Path(name) for name in stats], place / "files", self._way)
            if stats != {name: staging.mark(Path(name)) for name in stats}:
                raise AudioError(f"{shown(source)}: changes while it is imported")
            others = [item.id for item in items_of(self._lib, key)]
            staging.write(place / "staged", {"originals": stats, "others": others})
        return copies

    def _begun(self, place: Path, key: str) -> Unfinished | None:
        """An import that had copies and did not come to its end."""
        staged = None if (place / "complete").exists() else staging.read(place / "staged")
        return Unfinished(self._lib, self._settings.music, place, key, staged["others"]) if staged else None

    def _forget(self, place: Path, key: str) -> None:
        """Leave nothing of an import but what it did; of an unfinished one, not that either."""
        if begun := self._begun(place, key):
            _log.warning("an unfinished import is undone: %s", key)
            begun.undo()
        if place.exists():
            (place / "staged").unlink(missing_ok=True)  # first of all: what a kill leaves must not look unfinished
            shutil.rmtree(place)


def _whole(copies: Path, originals: Iterable[str]) -> bool:
    """Whether the copies sound as the originals do: a kill while tags were written can have left one damaged."""
    try:
        return sorted(map(fingerprint, scan.tracks(copies))) == sorted(fingerprint(Path(name)) for name in originals)
    except AudioError:
        return False


class _Session(TerminalImportSession):
    """Imports without questions, and remembers which duplicates made it skip."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.duplicates: list[int] = []

    def get_duplicate_action(self, task: ImportTask, found_duplicates: list[Any]) -> DuplicateAction:
        action = super().get_duplicate_action(task, found_duplicates)
        if action is DuplicateAction.SKIP:
            for found in found_duplicates:
                items = [found] if isinstance(found, Item) else found.items()
                self.duplicates += [item.id for item in items if item.id]
        return action


class _Hooks(plugins.BeetsPlugin):
    """What the importer tells while it runs. The field types are known here, whether or not the plugin is enabled."""

    item_types = library.ITEM_TYPES

    def __init__(self) -> None:
        super().__init__("demixr_daemon")
        self.imported: list[int] = []
        self._journal: Path | None = None
        self._fields: Mapping[str, Any] = {}
        self.register_listener("import_task_created", self._mark)
        self.register_listener("before_item_moved", self._note)
        self.register_listener("album_imported", self._album)
        self.register_listener("item_imported", self._single)

    @contextlib.contextmanager
    def during(self, journal: Path, fields: Mapping[str, Any]) -> Iterator[None]:
        """One import."""
        self.imported, self._journal, self._fields = [], journal, fields
        try:
            yield
        finally:
            self._journal, self._fields = None, {}

    def _mark(self, session: Any, task: ImportTask) -> None:
        for item in task.items or []:
            item.update(self._fields)

    def _album(self, lib: Library, album: Album) -> None:
        self.imported += [item.id for item in album.items() if item.id]

    def _single(self, lib: Library, item: Item) -> None:
        self.imported += [item.id] if item.id else []

    def _note(self, item: Item, source: bytes, destination: bytes) -> None:
        if self._journal:
            note(self._journal, source, destination)


def _title(item: Item) -> str:
    return f"{item.artist} - {item.title}" if item.artist and item.title else item.filepath.name
