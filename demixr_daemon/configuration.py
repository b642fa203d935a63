"""The beets configuration as this program reads it: its own section, and where the library is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confuse
import platformdirs
from beets import IncludeLazyConfig

from demixr_daemon.errors import SettingError, shown
from demixr_daemon.intake.youtube import YoutubeSettings
from demixr_daemon.settings import DaemonOptions, Options, daemon_defaults, section_defaults

if TYPE_CHECKING:
    from demixr_daemon.separation.models import ModelStore


@dataclass(frozen=True)
class Configuration:
    """All that the configuration says."""

    file: Path | None
    """Read besides beets' own, as with ``beet -c``."""
    options: Options
    daemon: DaemonOptions
    models_dir: Path | None
    mirror: str
    library: Path
    """The database of the beets library."""
    music: Path
    """The folder of the library's tracks."""
    youtube: YoutubeSettings
    web: dict[str, Any]

    @property
    def state_dir(self) -> Path:
        """Where the jobs are kept."""
        return self.daemon.state_dir or platformdirs.user_state_path("demixr")

    @property
    def staging(self) -> Path:
        """Where downloads and copies wait for their import: in the music folder, so that the last step is a rename."""
        return self.music / ".demixr"

    def store(self) -> ModelStore:
        """The models on this machine."""
        from demixr_daemon.separation.models import ModelStore

        return ModelStore(self.models_dir, self.mirror)


def read(file: Path | None = None) -> Configuration:
    """Read the configuration.

    :param file: as ``beet -c FILE``.
    :raises SettingError: a value is wrong; the message names its key.
    """
    source = IncludeLazyConfig("beets", "beets")
    if file and not file.is_file():
        raise SettingError(f"{shown(file)}: no such configuration file")
    try:
        if file:
            source.set_file(str(file))
    except (confuse.ConfigError, TypeError) as error:  # a TypeError where the file is no mapping
        raise _broken(error) from error
    return of(source, file)


def of(source: confuse.ConfigView, file: Path | None = None) -> Configuration:
    """What a configuration of beets says.

    :raises SettingError: a value is wrong; the message names its key.
    """
    try:
        section = source["demix"]
        section.add(section_defaults())
        daemon = section["daemon"]
        known = daemon_defaults()
        _know(daemon, known)
        return Configuration(
            file=file,
            options=options(section),
            daemon=_daemon(daemon),
            models_dir=_path(section["models_dir"]),
            mirror=_text(section["mirror"]),
            library=source["library"].as_path(),
            music=source["directory"].as_path(),
            youtube=_youtube(daemon["youtube"]),
            web=dict(daemon["web"].flatten()),
        )
    except (confuse.ConfigError, TypeError) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> SettingError:
    return SettingError(f"configuration error: {' '.join(str(error).split())}")


def options(section: confuse.ConfigView) -> Options:
    """How to separate, as the ``demix:`` section says.

    :raises SettingError: a value is out of range.
    :raises confuse.ConfigError: a value is of the wrong type.
    """
    return Options(
        model=section["model"].as_str(),
        quantization=section["quantization"].as_str(),
        device=section["device"].as_str(),
        niter=section["niter"].get(),
        targets=tuple(section["targets"].as_str_seq()),
        instrumental=section["instrumental"].get(bool),
        format=section["format"].as_str(),
        bits=str(section["bits"].get()),
        bitrate=section["bitrate"].get(int),
        threads=section["threads"].get(int),
        memory=section["memory"].get(int),
    )


def _daemon(section: confuse.ConfigView) -> DaemonOptions:
    return DaemonOptions(
        watch_default=_path(section["watch"]["default"]),
        watch_singleton=_path(section["watch"]["singleton"]),
        queue_file=_path(section["queue_file"]),
        debounce_window=section["debounce_window"].as_number(),
        polling=section["polling"].get(bool),
        stages=tuple(section["stages"].as_str_seq()),
        downloads=section["downloads"].get(int),
        unload_after=section["unload_after"].as_number(),
        min_free_mb=section["min_free_mb"].get(int),
        keep_days=section["keep_days"].as_number(),
        jobs_url=_text(section["jobs_url"]),
        state_dir=_path(section["state_dir"]),
        worker=_text(section["worker"]),
    )


def _youtube(section: confuse.ConfigView) -> YoutubeSettings:
    known = {field.name for field in fields(YoutubeSettings)}
    _know(section, known)
    values = {key: section[key].get() for key in known if section[key].exists()}
    given = {key: value for key, value in values.items() if value is not None}
    if "js_runtimes" in given:
        given["js_runtimes"] = tuple(section["js_runtimes"].as_str_seq())
    if given.get("cookiefile"):
        given["cookiefile"] = section["cookiefile"].as_filename()
    return YoutubeSettings(**given)


def _know(section: confuse.ConfigView, known: Collection[str]) -> None:
    for key in section.keys():  # noqa: SIM118 -- a view is no mapping
        if key not in known:
            raise SettingError(f"{section.name}.{key}: there is no such setting; there are {', '.join(sorted(known))}")


def _path(view: confuse.ConfigView) -> Path | None:
    return view.as_path() if view.get() else None


def _text(view: confuse.ConfigView) -> str:
    return str(view.as_str()) if view.get() else ""
