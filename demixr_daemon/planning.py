"""What is to be done with tracks of the library, decided before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from beets.library import Item

from demixr_daemon import following, stems
from demixr_daemon.errors import DemixrError, SettingError
from demixr_daemon.settings import Options

if TYPE_CHECKING:
    from demixr_daemon.separation.models import Model


class Planned(NamedTuple):
    """What is to be done with one track."""

    item: Item
    folder: Path | None
    current: stems.StemSet | None
    """The stem set that is as wanted already."""
    reason: str
    """Why there is work to do, or what is wrong with the track."""
    failed: bool = False


def plan(items: Sequence[Item], model: Model, options: Options, *, force: bool = False) -> list[Planned]:
    """Decide what is to be done, and do nothing yet.

    :param force: separate again what is current.
    :raises SettingError: the model has no such target.
    """
    from demixr_daemon import pipeline

    actions = []
    for item in items:
        folder = following.recorded_folder(item)
        try:
            current, reason = pipeline.check(item.filepath, model, options, folder)
            if force:
                current, reason = None, "forced"
            actions.append(Planned(item, folder, current, reason))
        except SettingError:
            raise
        except DemixrError as error:
            actions.append(Planned(item, folder, None, str(error), failed=True))
    return actions
