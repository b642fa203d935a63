"""The jobs as they run: looked at once for all who listen, told when something changed (server-sent events)."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from demixr_daemon.jobs.view import Work

ROWS = 100
LISTENERS = 24
_PERIOD_S = 0.5
_HEARTBEAT_S = 10.0
# A listener's thread is its own for so long; browsers come again by themselves.
_LONGEST_S = 600.0


def snapshot(work: Work) -> dict[str, Any]:
    """What the page shows of the jobs."""
    return {"jobs": [dataclasses.asdict(row) for row in work.rows(ROWS)], "counts": work.counts()}


class Feed:
    """Snapshots, for any number of listeners up to :data:`LISTENERS`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._listeners = 0
        self._looking = False
        self._text = ""

    def join(self) -> bool:
        """Take a place; False if there is none."""
        with self._changed:
            if self._listeners >= LISTENERS:
                return False
            self._listeners += 1
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="feed", daemon=True).start()
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._listeners -= 1

    def events(self) -> Iterator[str]:
        """The stream of one who joined."""
        told, begun = "", time.monotonic()
        yield "retry: 2000\n\n"
        while time.monotonic() - begun < _LONGEST_S:
            with self._changed:
                if self._text == told:
                    self._changed.wait(_HEARTBEAT_S)
                text = self._text
            yield f"data: {text}\n\n" if text != told else ": \n\n"  # a comment shows whether anyone is still there
            told = text

    def _look(self) -> None:
        while True:
            try:
                text = json.dumps(snapshot(self._work))
            except Exception as error:  # whatever the jobs' store says, the listeners are told
                text = json.dumps({"error": f"the jobs cannot be read: {error}"})
            with self._changed:
                if not self._listeners:
                    self._looking = False
                    return
                if text != self._text:
                    self._text = text
                    self._changed.notify_all()
            time.sleep(_PERIOD_S)
