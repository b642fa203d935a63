"""Stems and the tracks they belong to: they follow one that moves, and are no tracks themselves."""

from __future__ import annotations

import os
from pathlib import Path

from beets.importer import Action, ImportTask
from beets.library import Item

from demixr_daemon import library, stems


def follow(item: Item, source: bytes, destination: bytes) -> None:
    """Let the stems follow a track that moved. The item is to be stored next, and with it where its stems are now.

    :raises OutputError: they cannot be moved; they are where they were.
    """
    folder = library.stems_folder(item) or stems.folder_for(Path(os.fsdecode(source)))
    present = stems.read(folder)
    if present is not None and present.source.name == Path(os.fsdecode(source)).name:
        item["stems_path"] = bytes(stems.move(folder, Path(os.fsdecode(destination))))


def leave_alone(task: ImportTask) -> list[ImportTask] | None:
    """Stems inside an imported folder are not tracks: what ``import_task_created`` asks for.

    The task itself is changed: beets adds up what all plugins return, and another may return it, too.
    """
    items = task.items or []
    tracks = [item for item in items if not stems.is_stem(item.filepath)]
    if len(tracks) < len(items):
        task.items = tracks
        if not tracks:
            task.set_choice(Action.SKIP)
            return []
    return None


def recorded_folder(item: Item) -> Path | None:
    """Where the library says that the item's stems are, if they are, beside the track."""
    folder = library.stems_folder(item)
    return folder if folder and folder.parent == item.filepath.parent and stems.read(folder) else None


def present_folder(item: Item) -> Path | None:
    """The folder that holds the item's stems, recorded or not."""
    candidates = [library.stems_folder(item), stems.folder_for(item.filepath)]
    return next((folder for folder in candidates if folder and stems.read(folder)), None)
