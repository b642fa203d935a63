"""Asking for work and looking at it: what the command, the plugin, the watchers and the web page do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from demixr_daemon.errors import AudioError, shown
from demixr_daemon.intake import scan
from demixr_daemon.jobs import listing
from demixr_daemon.jobs.database import BULK, HURRIED, Database, jobs, seen, workflow_id
from demixr_daemon.jobs.view import UNFINISHED, JobRow

_COLUMNS = [jobs.c[name] for name in JobRow.__dataclass_fields__]
_URL = re.compile(r"[a-z][a-z0-9+.-]*:(//|\S+:|[^/\\ ]+$)", re.IGNORECASE)  # https://..., ytsearch:...
_STOPPED = ("failed", "cancelled")
_BATCH = 500  # a transaction keeps other writers out for less than half a second


class Jobs:
    """The jobs in a database; :class:`demixr_daemon.jobs.view.Work`, and what the daemon needs besides."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def rows(self, limit: int = 200, states: Collection[str] = ()) -> list[JobRow]:
        """Running ones first, then the newest."""
        with self.database.connection() as connection:
            return listing.rows(_executing(connection), limit, states)

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by state."""
        with self.database.connection() as connection:
            return listing.counts(_executing(connection))

    def row(self, key: str) -> JobRow | None:
        """One job."""
        with self.database.connection() as connection:
            found = connection.execute(sa.select(*_COLUMNS).where(jobs.c.key == key)).first()
        return JobRow(*found) if found else None

    def unfinished(self) -> bool:
        """Whether there is anything to do."""
        with self.database.connection() as connection:
            return connection.execute(sa.select(jobs.c.key).where(jobs.c.state.in_(UNFINISHED)).limit(1)).first() is not None

    def add(self, sources: Sequence[str], *, hurried: bool = True) -> list[str]:
        """Take in paths or URLs; their keys. What was done already is not done again; what failed is tried again.

        :raises AudioError: a path is not there.
        """
        return [self.add_url(source, hurried=hurried) if is_url(source)
                else self.add_path(Path(source), hurried=hurried, singleton=not Path(source).is_dir())
                for source in sources]  # fmt: skip

    def add_path(self, path: Path, *, singleton: bool, hurried: bool = False) -> str:
        """Import a file or folder, and separate what comes of it.

        :raises AudioError: it is not there.
        """
        path = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would follow links
        signature = scan.signature(path)
        if not signature:
            raise AudioError(f"{shown(path)}: no audio file there; check the path")
        details = {"path": str(path), "singleton": singleton, "signature": signature}
        with self.database.transaction() as connection:
            before = connection.execute(
                sa.select(jobs).where(jobs.c.source == shown(path), jobs.c.state != "done").order_by(jobs.c.added.desc())
            ).first()
            if before and before.state in UNFINISHED:
                return str(before.key)
            identity = {"identity": path_identity(path, signature), "key": before.key if before else "", "added": time.time()}
            if before and self.database.insert_new(connection, seen, identity):  # it failed, and has changed since
                self.restart(connection, before, "import", HURRIED if hurried else BULK, item_id=None,
                             details=json.dumps(details))  # fmt: skip
                return str(before.key)
            return self.take(connection, path_identity(path, signature), "import", source=shown(path), title=shown(path.name),
                             details=details, hurried=hurried)  # fmt: skip

    def add_url(self, url: str, *, hurried: bool = False) -> str:
        """Download what is at a URL, import and separate it."""
        with self.database.transaction() as connection:
            return self.take(connection, f"url:{url}", "download", source=shown(url), title=shown(url), details={"url": url},
                             hurried=hurried)  # fmt: skip

    def separate(
        self, item_ids: Sequence[int], *, model: str = "", hurried: bool = True, options: dict[str, Any] | None = None
    ) -> list[str]:
        """Separate tracks of the library; their keys.

        :param options: of :class:`demixr_daemon.settings.Options`, where they differ from the configuration; ``force`` too.
        """
        options = (options or {}) | ({"model": model} if model else {})
        suffix = f"-{_digest(json.dumps(options, sort_keys=True))[:8]}" if options else ""
        keys = []
        for batch in batches(item_ids, _BATCH):
            with self.database.transaction() as connection:
                for item_id in batch:
                    key = f"item-{item_id}{suffix}"
                    keys.append(key)
                    self.put(connection, key, "import", source=f"item {item_id}", title=f"item {item_id}", item_id=item_id,
                             details={"options": options}, hurried=hurried, again=True)  # fmt: skip
        return keys

    def cancel(self, key: str) -> bool:
        """Stop a job; False if there is no such unfinished job. What is running stops within a chunk."""
        with self.database.transaction() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key, jobs.c.state.in_(UNFINISHED))).first()
            if row is None:
                return False
            connection.execute(sa.update(jobs).where(jobs.c.key == key).values(
                state="cancelled", reason="", progress=None, speed=None, left_s=None, updated=time.time()))  # fmt: skip
        if row.state == "waiting":
            with self.database.usable():
                self.database.client().cancel_workflow(workflow_id(key, row.turn))
        return True

    def retry(self, key: str) -> bool:
        """Let a failed or cancelled job run again, from the stage it was at; False if there is no such job."""
        with self.database.transaction() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key, jobs.c.state.in_(_STOPPED))).first()
            if row is not None:
                self.restart(connection, row, _stage_again(row), HURRIED)
            return row is not None

    def prune(self, older_than_s: float = 0.0) -> int:
        """Forget finished jobs, but not that they were done; how many there were."""
        before = time.time() - older_than_s
        old = sa.select(jobs.c.key, jobs.c.turn).where(jobs.c.state.in_(("done", "cancelled")), jobs.c.updated <= before)
        with self.database.connection() as connection:
            rows = list(connection.execute(old))
        for batch in batches(rows, _BATCH):
            with self.database.transaction() as connection:
                connection.execute(sa.delete(jobs).where(
                    jobs.c.key.in_([row.key for row in batch]), jobs.c.state.in_(("done", "cancelled"))))  # fmt: skip
            turns = [workflow_id(row.key, turn) for row in batch for turn in range(row.turn + 1)]
            with self.database.usable():
                self.database.client().delete_workflows(turns)
        return len(rows)

    def take(self, connection: sa.Connection, identity: str, stage: str, *, hurried: bool, **values: Any) -> str:
        """Begin a job for something that may have come before; its key."""
        key = _digest(identity)[:12]
        if self.database.insert_new(connection, seen, {"identity": identity, "key": key, "added": time.time()}):
            self.put(connection, key, stage, hurried=hurried, **values)
            return key
        key = str(connection.execute(sa.select(seen.c.key).where(seen.c.identity == identity)).scalar_one())
        row = connection.execute(sa.select(jobs).where(jobs.c.key == key)).first()
        if hurried and row is not None and row.state in _STOPPED:
            self.restart(connection, row, _stage_again(row), HURRIED)
        return key

    def put(
        self, connection: sa.Connection, key: str, stage: str, *, source: str, title: str, details: dict[str, Any],
        hurried: bool, item_id: int | None = None, again: bool = False,
    ) -> None:  # fmt: skip
        """Begin a job under this key, if there is none; with ``again`` a finished one begins anew."""
        now = time.time()
        priority = HURRIED if hurried else BULK
        values = {"key": key, "source": source, "title": title, "stage": stage, "state": "waiting", "reason": "",
                  "item_id": item_id, "added": now, "updated": now, "priority": priority, "turn": 0, "attempts": 0,
                  "details": json.dumps(details)}  # fmt: skip
        if self.database.insert_new(connection, jobs, values):
            self.database.enqueue(connection, key, 0, stage, priority)
        elif again:
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key)).one()
            if row.state not in UNFINISHED:
                self.restart(connection, row, stage, priority, added=now, details=values["details"])

    def restart(self, connection: sa.Connection, row: Any, stage: str, priority: int, **values: Any) -> None:
        """Let a job run from this stage on, as part of the caller's transaction."""
        connection.execute(sa.update(jobs).where(jobs.c.key == row.key).values(
            stage=stage, state="waiting", reason="", progress=None, speed=None, left_s=None, attempts=0, turn=row.turn + 1,
            priority=priority, updated=time.time(), **values))  # fmt: skip
        self.database.enqueue(connection, row.key, row.turn + 1, stage, priority)


def _executing(connection: sa.Connection) -> listing.Execute:
    return lambda query, parameters: connection.execute(sa.text(query), parameters)


def _stage_again(row: Any) -> str:
    """Where a job that ended begins again: what was downloaded and not imported is gone."""
    lost = row.stage == "import" and row.item_id is None and "url" in json.loads(row.details)
    return "download" if lost else str(row.stage)


def is_url(source: str) -> bool:
    """Whether this is something to download, and no path."""
    return bool(_URL.match(source)) and not Path(source).exists()


def path_identity(path: Path, signature: str) -> str:
    """What this file or folder is known by, as long as it does not change."""
    return f"path:{shown(path)}|{signature}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def batches(things: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Lists of ``size``; the last may be shorter."""
    things = list(things)
    return (things[start : start + size] for start in range(0, len(things), size))
