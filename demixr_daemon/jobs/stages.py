"""What is done with a job: download → import → separate → record. Each stage may be repeated, whole, at any time."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import (
    AudioError,
    DemixrError,
    shown,
)
from demixr_daemon.intake import scan, youtube
from demixr_daemon.jobs.child import Child
from demixr_daemon.jobs.ledger import Job, Ledger, Watchful
from demixr_daemon.jobs.work import path_identity

TRIES = 6
"""Of a stage, where it may help."""
_LOOKUPS = 5  # of a track that is not where or what it was
_log = logging.getLogger("demixr.jobs")


class Stages:
    """The work of one machine."""

    def __init__(self, configuration: Configuration, ledger: Ledger) -> None:
        self.configuration = configuration
        self.ledger = ledger
        self.library = Child("library", configuration.file, configuration.state_dir)
        self.separator = Child("separate", configuration.file, configuration.state_dir)
        self.bodies: dict[str, Callable[[Job, Watchful], None]] = {
            "download": self._download, "import": self._import, "separate": self._separate, "record": self._record,
        }  # fmt: skip

    def place(self, key: str) -> Path:
        """The folder of a job's downloads and copies."""
        return self.configuration.staging / key

    def tidy(self, key: str) -> None:
        """Leave nothing of a job's downloads and copies."""
        with contextlib.suppress(DemixrError, OSError):
            place = self.place(key)
            if (place / "import").exists():  # the process that keeps the library knows what, and in which order
                self.library.call({"do": "forget", "key": key})
            shutil.rmtree(place / "download", ignore_errors=True)
            place.rmdir()  # if it is empty: of a job that was tried again meanwhile it is not
            self.configuration.staging.rmdir()  # if it is empty

    def _download(self, job: Job, watchful: Watchful) -> None:
        settings = self.configuration.youtube
        details = job.details
        if "id" not in details:
            entries = youtube.expand(details["url"], settings, watchful)
            if len(entries) != 1:
                self._expand(job, entries)
                return
            details = details | {"url": entries[0].url, "id": f"{entries[0].extractor}:{entries[0].id}"}
            owner = self.ledger.claim(job, details["id"])
            if owner != job.key:
                self.ledger.end(job, reason=f"the same track as job {owner}")
                return
        report = _Report(self.ledger, job)
        found = youtube.fetch(details["url"], self.place(job.key) / "download", settings, report.share, watchful)
        watchful.check()
        title = f"{found.artist} - {found.title}" if found.artist else found.title
        path = str(found.path.relative_to(self.configuration.music))
        fields = {"yt_id": found.id, "yt_source": found.url}
        self.ledger.hand_over(job, "import", title=shown(title), details=details | {
            "path": path, "singleton": True, "owned": True, "fields": fields})  # fmt: skip

    def _expand(self, job: Job, entries: list[youtube.Entry]) -> None:
        """A playlist becomes a job for each of its tracks."""
        work = self.ledger.work

        def put_all(connection: Any) -> None:
            for entry in entries:
                identity = f"{entry.extractor}:{entry.id}"
                work.take(connection, identity, "download", source=shown(entry.url), title=shown(entry.title),
                          details={"url": entry.url, "id": identity}, hurried=job.hurried)  # fmt: skip

        if entries:
            self.ledger.end(job, reason=f"a playlist: {len(entries)} tracks, a job for each", also=put_all)
        else:
            self.ledger.end(job, "failed", "an empty playlist: there is nothing to download")

    def _import(self, job: Job, watchful: Watchful) -> None:
        if job.item_id is not None:
            found = self.library.call({"do": "find", "item_id": job.item_id}, cancelled=watchful)
        else:
            path = self.configuration.music / job.details["path"]
            if not job.details.get("owned"):
                self._see_it_settled(job, path)
            found = self.library.call({
                "do": "import", "path": str(path), "key": job.key, "singleton": job.details["singleton"],
                "owned": job.details.get("owned", False), "patient": job.attempts + 1 < TRIES,
                "fields": job.details.get("fields", {}),
            })  # fmt: skip
        items, bad = found["items"], found.get("bad", [])
        if not items:
            raise DemixrError(f"{job.source}: beets imported nothing of it; a plugin or the import settings left it out")
        known = found.get("duplicates", False)
        if known:
            _log.warning("%s: the library has it already; what is there is separated", job.source)
        if len(items) == 1 and not bad:
            item = items[0]
            self.ledger.hand_over(job, "separate", title=shown(item["title"]), item_id=item["id"], details=_of(item, job))
        else:
            self._fan_out(job, items, shown(found["title"]), bad, known=known)
        self.tidy(job.key)

    def _see_it_settled(self, job: Job, path: Path) -> None:
        """Take note of what is imported, if it is not what was taken in at first.

        :raises AudioError: it changed a moment ago.
        """
        signature = scan.signature(path)
        if signature and signature != job.details["signature"] and not (self.place(job.key) / "import").exists():
            self.ledger.claim(job, path_identity(path, signature))
            self.ledger.note(job, details=json.dumps(job.details | {"signature": signature}))
            raise AudioError(f"{job.source}: still changes")

    def _fan_out(self, job: Job, items: list[dict[str, Any]], title: str, bad: list[str], *, known: bool) -> None:
        """An album becomes a job for each of its tracks."""
        work = self.ledger.work

        def put_all(connection: Any) -> None:
            for item in items:
                work.put(connection, f"item-{item['id']}", "separate", source=shown(item["path"]), title=shown(item["title"]),
                         item_id=item["id"], details=_of(item, job), hurried=job.hurried, again=True)  # fmt: skip

        if bad:
            there = "the library has the rest already; of what came" if known else f"of {len(bad) + len(items)} files"
            self.ledger.end(job, "failed", f"{there}, {len(bad)} were left out: {'; '.join(bad)}", put_all, title=title)
        else:
            what = "the library has it already" if known else "an album"
            self.ledger.end(job, "done", f"{what}: {len(items)} tracks, a job for each", put_all, title=title)

    def _separate(self, job: Job, watchful: Watchful) -> None:
        path = self.configuration.music / job.details["path"]
        mark = _mark(path)
        if not mark:
            self._look_up(job)
            return
        folder = job.details.get("folder")
        report = _Report(self.ledger, job)
        try:
            made = self.separator.call(
                {"do": "separate", "path": str(path), "folder": str(self.configuration.music / folder) if folder else None,
                 "options": job.details.get("options", {})}, report.news, watchful,
            )  # fmt: skip
        except AudioError:
            if _mark(path) == mark:
                raise
            self._look_up(job)  # it moved, or was given other tags, meanwhile
            return
        if made["made"]:
            _log.info("%s: separated in %.1f s", job.title, time.monotonic() - report.begun)
        made_in = Path(made["folder"])
        music = self.configuration.music
        stem_folder = made_in.relative_to(music) if made_in.is_relative_to(music) else made_in
        self.ledger.hand_over(job, "record", details=job.details | {"made": str(stem_folder)})

    def _record(self, job: Job, watchful: Watchful) -> None:
        answer = self.library.call({"do": "record", "item_id": job.item_id, "track": job.details["path"],
                                    "folder": job.details["made"]})  # fmt: skip
        if answer["recorded"]:
            self.ledger.end(job)
            _log.info("%s: done", job.title)
        else:
            self._look_up(job)

    def _look_up(self, job: Job) -> None:
        """The track is not where or what it was: ask the library."""
        lookups = job.details.get("lookups", 0)
        if job.item_id is None or lookups >= _LOOKUPS:
            raise AudioError(f"{shown(job.details['path'])}: is not there, or changes all the time; check the file")
        self.ledger.hand_over(job, "import", details=job.details | {"lookups": lookups + 1})


class _Report:
    """Writes down how far a stage is, once a second at most."""

    def __init__(self, ledger: Ledger, job: Job) -> None:
        self._ledger, self._job = ledger, job
        self.begun = time.monotonic()
        self._written = 0.0

    def share(self, progress: float | None) -> None:
        """How much is done, 0 to 1."""
        self._write(progress, None, None)

    def news(self, news: dict[str, Any]) -> None:
        """What the separating process tells."""
        speed = news["seconds"] / max(1e-3, time.monotonic() - self.begun)
        left_s = max(0.0, news["total_s"] - news["seconds"]) / speed if news["total_s"] and speed else None
        self._write(news["progress"], speed, left_s)

    def _write(self, progress: float | None, speed: float | None, left_s: float | None) -> None:
        if time.monotonic() - self._written >= 1.0:
            self._written = time.monotonic()
            self._ledger.note(self._job, progress=progress, speed=speed, left_s=left_s)


def _mark(path: Path) -> tuple[int, int] | None:
    """Size and time; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _of(item: dict[str, Any], job: Job) -> dict[str, Any]:
    """What the later stages want to know of a track."""
    kept = {key: value for key, value in job.details.items() if key in ("options", "lookups")}
    return kept | {"path": item["path"], "folder": item["folder"]}
