"""Where jobs are kept: SQLite on one machine, PostgreSQL for several; dbos keeps its queues in the same database."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from demixr_daemon.errors import JobsError, shown
from demixr_daemon.jobs import listing

if TYPE_CHECKING:
    from dbos import DBOSClient

APPLICATION = "demixr"
WORKFLOW = "stage"
"""The one workflow: ``stage(key, turn)``."""
APPLICATION_VERSION = "1"
"""Jobs of another version wait: it changes when :data:`WORKFLOW` takes other arguments, not with each release."""
QUEUES = {"download": "io", "import": "library", "separate": "separate", "record": "library"}
HURRIED, BULK = 50, 200
"""Priorities; the lower number is sooner."""

_metadata = sa.MetaData()
jobs = sa.Table(
    "demixr_jobs",
    _metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("progress", sa.Float),
    sa.Column("speed", sa.Float),
    sa.Column("left_s", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("item_id", sa.Integer),
    sa.Column("added", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),  # counts the workflows of a job: the newest one holds it
    sa.Column("attempts", sa.Integer, nullable=False),  # of the stage, so far
    sa.Column("details", sa.Text, nullable=False),  # JSON in ASCII: also for names that are not UTF-8
    sa.Index("demixr_jobs_state", "state"),
)
seen = sa.Table(  # what was taken in already, under all its names; outlives the jobs
    "demixr_seen",
    _metadata,
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("added", sa.Float, nullable=False),
)


class Database:
    """The tables of jobs and the queues of dbos.

    :param url: ``postgresql://...``; empty for a SQLite file in ``state_dir``.
    :raises JobsError: it cannot be opened.
    """

    def __init__(self, url: str, state_dir: Path) -> None:
        self.url = url
        self.file = None if url else state_dir / listing.FILE
        try:
            if self.file:
                state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.engine = self._engine()
            with _alone_in(state_dir) if self.file else contextlib.nullcontext():
                self._create()
        except (OSError, sa.exc.SQLAlchemyError) as error:
            raise self.error(error) from error
        self._client: DBOSClient | None = None
        self._watched: sqlite3.Connection | None = None
        self._version = 0

    @property
    def place(self) -> str:
        """Where it is, printable, without a password."""
        return shown(self.file) if self.file else sa.make_url(self.url).render_as_string(hide_password=True)

    def error(self, error: Exception) -> JobsError:
        """What ``error`` means to the user."""
        return listing.unusable(self.place, error)

    def _engine(self) -> sa.Engine:
        if self.file is None:
            return sa.create_engine(sa.make_url(self.url).set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        engine = sa.create_engine(f"sqlite:///{self.file}", pool_size=20)

        @sa.event.listens_for(engine, "connect")
        def set_up(connection: Any, _: Any) -> None:
            connection.isolation_level = "IMMEDIATE"  # writers queue up instead of meeting half-way
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute("PRAGMA foreign_keys=ON")

        return engine

    def _create(self) -> None:
        schema = None if self.file else "dbos"
        if self.file:
            if not self.file.exists():
                os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays; SQLite would not wait for a lock here
        inspector = sa.inspect(self.engine)
        if not inspector.has_table("workflow_status", schema=schema):
            from dbos import DBOS

            logging.getLogger("dbos").setLevel(logging.WARNING)
            DBOS.migrate(f"sqlite:///{self.file}" if self.file else self.url)
        if not inspector.has_table(jobs.name) or not inspector.has_table(seen.name):
            with self.engine.begin() as connection:
                for table in _metadata.sorted_tables:
                    connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
                    for index in table.indexes:
                        connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

    @contextlib.contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Read.

        :raises JobsError: the database cannot be used.
        """
        with self.usable(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Read and write, all or nothing; other writers wait.

        :raises JobsError: the database cannot be used.
        """
        with self.usable(), self.engine.begin() as connection:
            if self.file:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # what is read now is so until the end
            yield connection

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """Tell the user of what goes wrong with the database inside the block.

        :raises JobsError: the database cannot be used.
        """
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise self.error(error) from error

    def changed(self) -> bool:
        """Whether anything may have been written since the last call; for one thread. In PostgreSQL always."""
        if self.file is None:
            return True
        try:
            if self._watched is None:
                self._watched = sqlite3.connect(self.file, timeout=30.0)
            before, self._version = self._version, self._watched.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise self.error(error) from error
        return before != self._version

    def client(self) -> DBOSClient:
        """What puts workflows into queues."""
        if self._client is None:
            from dbos import DBOSClient, DBOSPortableJSONSerializer

            self._client = DBOSClient(
                system_database_engine=self.engine, serializer=DBOSPortableJSONSerializer(), lazy=True,
                dbos_system_schema=None if self.file else "dbos", application_name=APPLICATION, retry_connection_errors=False,
            )  # fmt: skip
        return self._client

    def enqueue(self, connection: sa.Connection, key: str, turn: int, stage: str, priority: int, delay_s: float = 0.0) -> None:
        """Let a stage of a job wait in its queue, as part of the caller's transaction."""
        from dbos import EnqueueOptions

        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "workflow_id": workflow_id(key, turn),
            "queue_name": QUEUES[stage],
            "app_version": APPLICATION_VERSION,
            "priority": priority,
        }
        if delay_s:
            options["delay_seconds"] = delay_s
        self.client().enqueue_in_transaction(connection, options, key, turn)

    def insert_new(self, connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
        """Insert a row; False if one of its primary key was there."""
        insert: Any
        if self.file:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        result = connection.execute(insert(table).values(values).on_conflict_do_nothing())
        return bool(result.rowcount)

    def close(self) -> None:
        """Let go of the connections."""
        if self._watched:
            self._watched.close()
        self.engine.dispose()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Processes that start together create the database one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def workflow_id(key: str, turn: int) -> str:
    """The workflow of a job's turn."""
    return f"{key}.{turn}"
