"""The jobs as they are shown: the same SQL through the database of the daemon, or straight from its SQLite file.

The second is for a command that looks and ends: without SQLAlchemy it is there in half the time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from demixr_daemon.errors import JobsError, shown
from demixr_daemon.jobs.view import JobRow

Execute = Callable[[str, Mapping[str, Any]], Iterable[Any]]
"""Runs a query whose parameters are written ``:name``, and gives its rows."""

FILE = "jobs.sqlite"
"""In the state folder."""
_COLUMNS = ", ".join(JobRow.__dataclass_fields__)


def rows(execute: Execute, limit: int, states: Collection[str]) -> list[JobRow]:
    """Running ones first, then the newest.

    :param states: only these; empty for all.
    """
    wanted = {f"state{number}": state for number, state in enumerate(states)}
    which = f"WHERE state IN ({', '.join(f':{name}' for name in wanted)})" if wanted else ""
    query = (f"SELECT {_COLUMNS} FROM demixr_jobs {which} "  # noqa: S608 -- nothing of it comes from outside
             "ORDER BY CASE WHEN state IN ('running', 'paused') THEN 0 ELSE 1 END, added DESC, key LIMIT :most")  # fmt: skip
    return [JobRow(*row) for row in execute(query, wanted | {"most": limit})]


def counts(execute: Execute) -> dict[str, int]:
    """How many jobs there are, by state."""
    return {state: count for state, count in execute("SELECT state, COUNT(*) FROM demixr_jobs GROUP BY state", {})}  # noqa: C416


class SqliteListing:
    """The jobs in a state folder, to be looked at."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / FILE

    def rows(self, limit: int = 200, states: Collection[str] = ()) -> list[JobRow]:
        """Running ones first, then the newest.

        :raises JobsError: the file cannot be used.
        """
        return rows(self._execute, limit, states)

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by state.

        :raises JobsError: the file cannot be used.
        """
        return counts(self._execute)

    def _execute(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        if not self._file.exists():
            return []
        try:
            with contextlib.closing(sqlite3.connect(self._file, timeout=30.0)) as connection:
                begun = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'demixr_jobs'").fetchone()
                return connection.execute(query, parameters).fetchall() if begun else []
        except sqlite3.Error as error:
            raise unusable(shown(self._file), error) from error


def unusable(place: str, error: Exception) -> JobsError:
    """What ``error`` means to the user."""
    return JobsError(f"jobs in {place} cannot be used: {' '.join(str(error).split())[:300]}")
