"""Who does what when: dbos hands the stages out to this machine's threads, and again after a crash.

One workflow does one stage of one job (see :mod:`demixr_daemon.jobs.stages`); it has no steps of its own, because each stage
can be repeated whole.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer

from demixr_daemon.errors import JobsError, shown
from demixr_daemon.jobs import presence
from demixr_daemon.jobs.database import APPLICATION, APPLICATION_VERSION, QUEUES, WORKFLOW, Database
from demixr_daemon.jobs.ledger import Ledger
from demixr_daemon.settings import DaemonOptions

MOST_STARTS = 100
"""A job with which the daemon died so often is parked. What is dangerous runs in processes of its own, whose crashes count
sooner: so often the daemon is killed by others, or with the power, and the job has no part in it."""
BUSY_POLL_S, IDLE_POLL_S = 0.25, 1.5
_PARKED = ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ERROR")
_log = logging.getLogger("demixr.jobs")
_run: Callable[[str, int], None]


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MOST_STARTS)
def _stage(key: str, turn: int) -> None:
    _run(key, turn)


class Workflows:
    """The queues, served by this process under a stable name.

    :param run: does a job's turn.
    :raises JobsError: another process of this name is at work.
    """

    def __init__(self, database: Database, options: DaemonOptions, state_dir: Path, run: Callable[[str, int], None]) -> None:
        global _run  # noqa: PLW0603 -- workflows are functions of a module, known by their names
        _run = run
        self._database = database
        self._options = options
        self.name = options.worker or socket.gethostname()
        self._lock = presence.hold(state_dir, self.name)
        self._here = None if database.file else _Presence(database, self.name)
        self._busy: bool | None = None

    def start(self) -> None:
        """Serve. What this worker had begun when it died begins anew."""
        engine = DBOS(config={
            "name": APPLICATION,
            "system_database_engine": self._database.engine,
            "application_version": APPLICATION_VERSION,
            "executor_id": self.name,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "ERROR",
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 30.0,
            "scheduler_polling_interval_sec": 300.0,
        })  # fmt: skip
        with contextlib.suppress(AttributeError):  # a queue of its own, where nothing of ours ever is
            engine._registry.get_internal_queue()._polling_interval_sec = 300.0
        DBOS.listen_queues(sorted({QUEUES[stage] for stage in self._options.stages}))
        DBOS.launch()
        logging.getLogger("dbos").setLevel(logging.ERROR)
        self.pace(busy=True)

    def pace(self, *, busy: bool) -> None:
        """Look for work often while there is some; an idle machine should be idle.

        dbos looks into each queue that is registered. One that no other machine shares is taken away while there is no work,
        and served again within a second of its return; what is queued stays queued without it.
        """
        if busy == self._busy:
            return
        at_a_time = {"io": self._options.downloads, "library": 4, "separate": 1}  # the library's child does one at a time
        for queue, count in at_a_time.items():
            if busy or self._here:
                DBOS.register_queue(queue, worker_concurrency=count, polling_interval_sec=BUSY_POLL_S if busy else IDLE_POLL_S,
                                    on_conflict="always_update")  # fmt: skip
            else:
                DBOS.delete_queue(queue)
        self._busy = busy

    def reload(self, options: DaemonOptions) -> None:
        """Take other settings; which stages are served and under which name stays until the next start."""
        self._options = options
        self._busy = None

    def park(self, ledger: Ledger) -> None:
        """Jobs whose workflow was given up, after too many crashes, say so."""
        client = self._database.client()
        with self._database.usable():
            given_up = client.list_workflows(status=list(_PARKED), load_input=False, load_output=False, limit=100)
            for status in given_up:
                key, _, turn = status.workflow_id.rpartition(".")
                crashed = f"the daemon died {MOST_STARTS} times while it did this; `demixr retry {key}` tries again"
                reason = crashed if status.status == _PARKED[0] else "an error of this program; see its log"
                ledger.unheard(key, int(turn), reason)
            if given_up:
                client.delete_workflows([status.workflow_id for status in given_up])

    def take_over(self) -> None:
        """Do what dead workers had begun, where several machines share the jobs."""
        if self._here:
            for name in self._here.dead():
                _log.warning("worker %s is gone; its jobs are taken over", shown(name))
                DBOS._recover_pending_workflows([name])


class _Presence:
    """On PostgreSQL each worker holds a lock of its name for as long as it lives."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name = database, name
        self._connection = self._hold()

    def dead(self) -> list[str]:
        """Workers that have begun something and hold their lock no more."""
        try:
            self._connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = self._hold()
        with self._database.connection() as connection:
            names = connection.execute(sa.text(
                "SELECT DISTINCT executor_id FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id <> :mine"),
                {"mine": self._name}).scalars().all()  # fmt: skip
            return [name for name in names if self._free(connection, name)]

    def _hold(self) -> sa.Connection:
        try:
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            lock = {"name": _lock_name(self._name)}
            if not connection.execute(sa.text("SELECT pg_try_advisory_lock(hashtext(:name))"), lock).scalar():
                raise JobsError(f"a worker {shown(self._name)} is at work already; give this one another name with "
                                "demix.daemon.worker")  # fmt: skip
            return connection
        except sa.exc.SQLAlchemyError as error:
            raise self._database.error(error) from error

    def _free(self, connection: sa.Connection, name: str) -> bool:
        lock = {"name": _lock_name(name)}
        return bool(connection.execute(sa.text(
            "SELECT pg_try_advisory_xact_lock(hashtext(:name))"), lock).scalar())  # fmt: skip


def _lock_name(name: str) -> str:
    return f"demixr worker {name}"
