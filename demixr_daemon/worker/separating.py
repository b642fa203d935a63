"""Work of the process that separates: the model stays loaded between tracks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from demixr_daemon import pipeline
from demixr_daemon.configuration import Configuration
from demixr_daemon.separation import loading
from demixr_daemon.separation.decode import open_track
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.settings import Options

_REPORT_S = 0.5


class Separating:
    """Separates tracks, one after the other."""

    def __init__(self, settings: Configuration) -> None:
        self._settings = settings
        self._loaded: LoadedModel | None = None

    def run(
        self, request: Mapping[str, Any], report: Callable[[Mapping[str, Any]], None], cancelled: Callable[[], bool]
    ) -> Mapping[str, Any]:
        """``{"do": "separate", "path": ..., "folder": ... | null, "options": {...}}`` → ``{"folder": ..., "made": bool}``.

        :raises DemixrError: see :func:`demixr_daemon.pipeline.demix`.
        """
        path = Path(request["path"])
        folder = Path(request["folder"]) if request["folder"] else None
        asked = dict(request["options"])
        force = asked.pop("force", False)
        if "targets" in asked:
            asked["targets"] = tuple(asked["targets"])
        options = dataclasses.replace(self._settings.options, **asked)
        model = self._settings.store().find(options.model)
        current, _ = pipeline.check(path, model, options, folder)
        if current and not force:
            return {"folder": str(current.folder), "made": False}
        rate_hz = open_track(path).rate_hz
        reported = 0.0

        def progress(done: int, total: int | None) -> None:
            nonlocal reported
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                report({"progress": min(1.0, done / total) if total else None, "seconds": done / rate_hz,
                        "total_s": total / rate_hz if total else None})  # fmt: skip

        made = pipeline.demix(path, self._model(options), options, folder=folder, progress=progress, cancelled=cancelled)
        return {"folder": str(made.folder), "made": True}

    def _model(self, options: Options) -> LoadedModel:
        model = self._settings.store().find(options.model)
        asked = (model, options.quantization, options.niter, options.threads)
        loaded = self._loaded
        if loaded is None or (loaded.model, loaded.quantization, loaded.niter, loaded.threads) != asked:
            self._loaded = None  # two at once would be too much for a small machine
            loaded = loading.load(model, quantization=options.quantization, niter=options.niter, threads=options.threads)
            self._loaded = loaded
        return loaded
