"""Watched folders: what arrives there is noticed at once, and taken when it has come to rest.

The operating system's notices only wake the look at the folders: what is missed, because the daemon was off or the folder is
a network mount, is found by the next look.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from demixr_daemon.intake.scan import Arrival, Inbox

SETTLING_S = 0.5
"""Between two looks while something may still change; at most a quarter of the window."""
POLLING_S = 5.0
QUIET_S = 300.0
"""Between two looks when nothing happens and the system tells of changes."""


class Watch:
    """The watched folders. Call :meth:`look` often; it does nothing unless there is a reason."""

    def __init__(self, inboxes: Sequence[Inbox], *, polling: bool = False) -> None:
        self.inboxes = inboxes
        self._settling_s = min([SETTLING_S, *(inbox.window_s / 4 for inbox in inboxes)])
        self._changed = threading.Event()
        self._changed.set()
        self._looked = self._next = -QUIET_S
        self._observer = None if polling or not inboxes else Observer()
        self._observed: dict[Path, ObservedWatch] = {}

    def start(self) -> None:
        """Begin to listen to the system."""
        if self._observer:
            self._observer.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._observer:
            self._observer.stop()

    def look(self, now: float) -> list[tuple[Inbox, Arrival]]:
        """What has come to rest.

        :param now: in seconds, of a clock that never goes back.
        """
        if now < (self._looked + self._settling_s if self._changed.is_set() else self._next):
            return []
        self._observe()
        self._changed.clear()
        self._looked = now
        found = [(inbox, arrival) for inbox in self.inboxes for arrival in inbox.look(now)]
        if any(inbox.waiting for inbox in self.inboxes):
            self._next = now + self._settling_s
        else:
            self._next = now + (QUIET_S if len(self._observed) == len(self.inboxes) else POLLING_S)
        return found

    def _observe(self) -> None:
        """Listen to folders that have come to be, no more to those that are gone."""
        for root in [inbox.root for inbox in self.inboxes if self._observer]:
            assert self._observer
            if root.is_dir() and root not in self._observed:
                with contextlib.suppress(OSError):  # the system has no more notices to give: look in intervals
                    self._observed[root] = self._observer.schedule(_Wake(self._changed), str(root), recursive=True)
            elif not root.is_dir() and root in self._observed:
                self._observer.unschedule(self._observed.pop(root))


class _Wake(FileSystemEventHandler):
    """Something happened; what, is seen when looking."""

    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write"):  # looking is no change
            self._changed.set()
