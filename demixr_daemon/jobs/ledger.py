"""How a stage keeps the record of its job. What a stage writes counts only while its turn lasts: not after a cancellation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from demixr_daemon.errors import Cancelled
from demixr_daemon.jobs.database import HURRIED, jobs, seen
from demixr_daemon.jobs.view import UNFINISHED
from demixr_daemon.jobs.work import Jobs


@dataclass(frozen=True)
class Job:
    """A job, as the stage that works on it sees it."""

    key: str
    turn: int
    stage: str
    source: str
    title: str
    item_id: int | None
    priority: int
    attempts: int
    """How often this stage was tried before."""
    details: dict[str, Any]

    @property
    def hurried(self) -> bool:
        return self.priority <= HURRIED


class Ledger:
    """The record of all jobs."""

    def __init__(self, work: Jobs) -> None:
        self.work = work
        self._database = work.database

    def begin(self, key: str, turn: int) -> Job | None:
        """Take up a job; None if this turn is over: it was cancelled, or done by a worker that died before it said so."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key).with_for_update()).first()
            if row is None or row.turn != turn or row.state not in UNFINISHED:
                return None
            self._set(connection, key, state="running", reason="", progress=None, speed=None, left_s=None)
        return Job(row.key, row.turn, row.stage, row.source, row.title, row.item_id, row.priority, row.attempts,
                   json.loads(row.details))  # fmt: skip

    def held(self, job: Job) -> bool:
        """Whether the job is still to be done."""
        with self._database.connection() as connection:
            return connection.execute(sa.select(jobs.c.key).where(*_mine(job))).first() is not None

    def note(self, job: Job, **values: Any) -> None:
        """Say how far it is: ``progress``, ``speed``, ``left_s``; or that it pauses, and why."""
        with self._database.transaction() as connection:
            connection.execute(sa.update(jobs).where(*_mine(job)).values(updated=time.time(), **values))

    def hand_over(self, job: Job, stage: str, **values: Any) -> None:
        """Let the next stage go on.

        :param values: ``title``, ``item_id``, ``details`` where they are known better now.
        """
        self._turn(job, stage, 0.0, attempts=0, reason="", **values)

    def again(self, job: Job, reason: str, delay_s: float, **values: Any) -> None:
        """Let this stage be tried again later."""
        self._turn(job, job.stage, delay_s, attempts=job.attempts + 1, reason=reason, **values)

    def end(
        self, job: Job, state: str = "done", reason: str = "", also: Callable[[sa.Connection], None] | None = None,
        **values: Any,
    ) -> None:  # fmt: skip
        """The job is done, failed or cancelled.

        :param also: what is to be written in the same transaction.
        """
        with self._database.transaction() as connection:
            if self._still(connection, job):
                self._set(connection, job.key, state=state, reason=reason, progress=None, speed=None, left_s=None, **values)
                if also:
                    also(connection)

    def claim(self, job: Job, identity: str) -> str:
        """Make the job known under another name; the key of the job that has this name."""
        with self._database.transaction() as connection:
            if self._database.insert_new(connection, seen, {"identity": identity, "key": job.key, "added": time.time()}):
                return job.key
            return str(connection.execute(sa.select(seen.c.key).where(seen.c.identity == identity)).scalar_one())

    def unheard(self, key: str, turn: int, reason: str) -> None:
        """A workflow ended without a word: park its job."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(jobs).where(jobs.c.key == key, jobs.c.turn == turn, jobs.c.state.in_(UNFINISHED))
                .values(state="failed", reason=reason, updated=time.time())
            )  # fmt: skip

    def _turn(self, job: Job, stage: str, delay_s: float, *, details: dict[str, Any] | None = None, **values: Any) -> None:
        if details is not None:
            values["details"] = json.dumps(details)
        with self._database.transaction() as connection:
            if self._still(connection, job):
                self._set(connection, job.key, stage=stage, state="waiting", turn=job.turn + 1, progress=None, speed=None,
                          left_s=None, **values)  # fmt: skip
                self._database.enqueue(connection, job.key, job.turn + 1, stage, job.priority, delay_s)

    def _still(self, connection: sa.Connection, job: Job) -> bool:
        return connection.execute(sa.select(jobs.c.key).where(*_mine(job)).with_for_update()).first() is not None

    def _set(self, connection: sa.Connection, key: str, **values: Any) -> None:
        connection.execute(sa.update(jobs).where(jobs.c.key == key).values(updated=time.time(), **values))


class Watchful:
    """Asks now and then whether a job is still to be done: ``cancelled`` for those who ask all the time."""

    def __init__(self, ledger: Ledger, job: Job, stopping: Callable[[], bool]) -> None:
        self._ledger, self._job, self._stopping = ledger, job, stopping
        self._asked = 0.0
        self._over = False

    def __call__(self) -> bool:
        """Whether to stop."""
        if not self._over and time.monotonic() - self._asked >= 0.5:
            self._over = not self._ledger.held(self._job)
            self._asked = time.monotonic()
        return self._over or self._stopping()

    def check(self) -> None:
        """Stop here, if so.

        :raises Cancelled: it is no longer to be done.
        """
        if self():
            raise Cancelled(f"{self._job.source}: cancelled")


def _mine(job: Job) -> tuple[Any, ...]:
    return jobs.c.key == job.key, jobs.c.turn == job.turn, jobs.c.state.in_(("running", "paused"))
