"""The page inside `beet web`, at ``/demix/``: the same blueprint on beets' own application, for listening."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import beets

from demixr_daemon.errors import SettingError

if TYPE_CHECKING:
    from beets.library import Library

PREFIX = "/demix"


def mount(lib: Library) -> None:
    """Put the page on `beet web`, if that plugin is loaded; to be called when the library was opened."""
    web = sys.modules.get("beetsplug.web")
    if web is None or "demixr" in web.app.blueprints:
        return
    from demixr_daemon.web.app import create_page
    from demixr_daemon.web.settings import WebSettings

    given = dict(beets.config["demix"]["daemon"]["web"].flatten())
    host = str(beets.config["web"]["host"].get() or "127.0.0.1")
    try:
        settings = WebSettings.of(given | {"host": host})
    except SettingError as error:  # no token for an address that others reach: `beet web` goes on without the page
        beets.logging.getLogger("beets").warning("demix: no page in `beet web`: {}", error)
        return
    web.app.register_blueprint(create_page(lib, settings), url_prefix=PREFIX)
