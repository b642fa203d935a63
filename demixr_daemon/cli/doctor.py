"""``demixr doctor``: one line for each thing that the daemon needs, with the mend where it is missing."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from demixr_daemon import configuration
from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import DemixrError, shown


class Ailing(DemixrError):
    """Something is not as it should be; the message says how to mend it."""


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    commands.add_parser("doctor", help="see whether everything is there that the daemon needs").set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    settings = configuration.read(arguments.config)
    ailing = 0
    for name, look in _looks(settings):
        try:
            print(f"ok    {name}: {look()}")
        except (DemixrError, OSError) as error:
            ailing += 1
            print(f"MEND  {name}: {error}")
    return 1 if ailing else 0


def _looks(settings: Configuration) -> Iterator[tuple[str, Callable[[], str]]]:
    options = settings.daemon
    yield "settings", lambda: _settings(settings)
    yield "music folder", lambda: _writable(settings.music)
    if "import" in options.stages:
        yield "library", lambda: _writable(settings.library)
    yield "free disk", lambda: _free(settings)
    yield "model", lambda: _model(settings)
    yield "jobs", lambda: _jobs(settings)
    for name, folder in (("default", options.watch_default), ("singleton", options.watch_singleton)):
        if folder:
            yield f"watch folder ({name})", lambda folder=folder: _writable(folder)  # type: ignore[misc]
    if options.queue_file:
        yield "queue file", lambda: _readable(options.queue_file)
        yield "yt-dlp", lambda: _youtube(settings)


def _settings(settings: Configuration) -> str:
    from demixr_daemon.daemon import check

    check(settings)
    return shown(settings.file) if settings.file else "beets' own configuration"


def _writable(path: Path) -> str:
    if not path.exists():
        raise Ailing(f"{shown(path)} is not there; make it, or change the configuration")
    if not os.access(path, os.W_OK):
        raise Ailing(f"{shown(path)} cannot be written; give this user permission")
    return shown(path)


def _readable(path: Path | None) -> str:
    assert path
    if not path.is_file() or not os.access(path, os.R_OK):
        raise Ailing(f"{shown(path)} is not a file that can be read; make it, an empty one will do")
    return shown(path)


def _free(settings: Configuration) -> str:
    free = shutil.disk_usage(settings.music).free / 1e6
    if free < settings.daemon.min_free_mb:
        raise Ailing(f"{free:.0f} MB are free where the music is, work pauses below {settings.daemon.min_free_mb}; make room")
    return f"{free / 1000:.1f} GB"


def _model(settings: Configuration) -> str:
    model = settings.store().find(settings.options.model)
    model.check()
    return shown(model.name)


def _jobs(settings: Configuration) -> str:
    from demixr_daemon.jobs.database import Database

    return Database(settings.daemon.jobs_url, settings.state_dir).place


def _youtube(settings: Configuration) -> str:
    from demixr_daemon.intake import youtube

    found = youtube.versions(settings.youtube)
    if not set(found) & set(youtube.JS_RUNTIMES):
        raise Ailing("no JavaScript runtime, which yt-dlp needs for YouTube; install deno (https://deno.com) or nodejs")
    return ", ".join(f"{name} {version}" for name, version in found.items())
