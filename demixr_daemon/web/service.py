"""The page of a configuration, and beside the daemon: in threads of its process."""

from __future__ import annotations

import logging
import threading

from demixr_daemon.configuration import Configuration
from demixr_daemon.jobs.view import Work
from demixr_daemon.web.app import AddressTaken, PageServer, create_app
from demixr_daemon.web.catalogue import opened
from demixr_daemon.web.settings import WebSettings

_log = logging.getLogger("demixr")


def start(settings: Configuration, work: Work) -> None:
    """Serve the page until the process ends; where the address is taken, say so and let the daemon work without it.

    :raises SettingError: a setting of the page is wrong.
    """
    options = WebSettings.of(settings.web)
    if not options.enabled:
        return
    try:
        server = page_server(settings, options, work)
    except AddressTaken as error:
        _log.error("%s", error)
        return
    threading.Thread(target=server.run, name="web", daemon=True).start()
    _log.info("the page is at %s", server.url)


def page_server(settings: Configuration, options: WebSettings, work: Work) -> PageServer:
    """The page of this configuration, its address open.

    :raises SettingError: the address cannot be had.
    """
    models = [model.name for model in settings.store().present()]
    app = create_app(opened(settings.library, settings.music), options, work, models, state=settings.state_dir)
    return PageServer(app, options)
