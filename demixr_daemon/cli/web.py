"""``demixr web``: the page without the daemon."""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any

from demixr_daemon import configuration


def add_to(commands: Any) -> None:
    """Add ``demixr web`` to the parser."""
    web = commands.add_parser("web", help="serve the page alone; jobs wait until a daemon runs")
    web.add_argument("--port", type=int, help="instead of demix.daemon.web.port; 0 takes any free one")
    web.set_defaults(run=_web)


def _web(arguments: argparse.Namespace) -> int:
    # Ctrl-C ends it there and then, as kill does: an exception within the server's queues would leave locks held that its
    # threads are waited for with, and nothing is lost.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from demixr_daemon.jobs.database import Database
    from demixr_daemon.jobs.work import Jobs
    from demixr_daemon.web.service import page_server
    from demixr_daemon.web.settings import WebSettings

    settings = configuration.read(arguments.config)
    given = {} if arguments.port is None else {"port": arguments.port}
    options = WebSettings.of(settings.web | given)
    work = Jobs(Database(settings.daemon.jobs_url, settings.state_dir))
    server = page_server(settings, options, work)
    print(f"the page is at {server.url}", flush=True)
    server.run()
    return 0

