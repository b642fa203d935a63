"""The service: looks at what comes in, lets jobs run, and ends in good order.

A loop of small steps with the time passed in; signal handlers put their numbers into a queue that bears being interrupted.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demixr_daemon import configuration
from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import DemixrError, SettingError, shown
from demixr_daemon.intake.queue_file import QueueFile
from demixr_daemon.intake.scan import Inbox
from demixr_daemon.intake.watch import Watch
from demixr_daemon.jobs.database import Database
from demixr_daemon.jobs.ledger import Ledger
from demixr_daemon.jobs.stages import Stages
from demixr_daemon.jobs.turns import Turns
from demixr_daemon.jobs.work import Jobs
from demixr_daemon.jobs.workflow import Workflows
from demixr_daemon.web import service

_log = logging.getLogger("demixr")
_STEP_S = 0.5


@dataclass
class Chore:
    """Something to be done in intervals."""

    every_s: float
    do: Callable[[], None]
    aside: bool = False
    """It may take its time, and does so in a thread."""
    due: float = 0.0
    _thread: threading.Thread | None = None
    _told: str = ""

    def step(self, now: float) -> None:
        """Do it if it is due."""
        if now >= self.due and not (self._thread and self._thread.is_alive()):
            self.due = now + self.every_s
            if self.aside:
                self._thread = threading.Thread(target=self.run, daemon=True)
                self._thread.start()
            else:
                self.run()

    def run(self) -> None:
        """Do it now; what goes wrong is tried again next time, and told once."""
        try:
            self.do()
            self._told = ""
        except (DemixrError, OSError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.error("%s", error)
        except Exception:
            _log.exception("an error of this program")


class Daemon:
    """Everything that runs while ``demixr run`` does.

    :raises DemixrError: it cannot start.
    """

    def __init__(self, settings: Configuration) -> None:
        check(settings)
        self.settings = settings
        self.database = Database(settings.daemon.jobs_url, settings.state_dir)
        self.work = Jobs(self.database)
        self.stages = Stages(settings, Ledger(self.work))
        self.turns = Turns(self.stages)
        self.workflows = Workflows(self.database, settings.daemon, settings.state_dir, self.turns.run)
        self._watch = Watch([])
        self._queue_file: QueueFile | None = None
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._chores = [
            Chore(_STEP_S, lambda: self._pace() if self.database.changed() else None),
            Chore(10.0, self._pace),
            Chore(1.0, self._read_queue_file),
            Chore(5.0, self.workflows.take_over),
            Chore(10.0, self._let_children_go),
            Chore(30.0, lambda: self.workflows.park(self.stages.ledger)),
            Chore(60.0, self.turns.sweep, aside=True),
            Chore(3600.0, self._prune, aside=True),
        ]

    def run(self) -> None:
        """Serve until TERM or INT; HUP reads the configuration again."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda got, _: self._signals.put(got))
        self._take_in()
        self.workflows.start()
        service.start(self.settings, self.work)
        _log.info("at work: %s; jobs in %s", ", ".join(self.settings.daemon.stages), self.database.place)
        while (got := self._signal()) in (None, signal.SIGHUP):
            if got:
                self.reload()
            self.step(time.monotonic())
        self.end()

    def _signal(self) -> int | None:
        """The next signal, or None after a while without any."""
        try:
            return self._signals.get(timeout=_STEP_S)
        except queue.Empty:
            return None

    def step(self, now: float) -> None:
        """Do what is due.

        :param now: in seconds, of a clock that never goes back.
        """
        for inbox, arrival in self._watch.look(now):
            try:
                key = self.work.add_path(arrival.path, singleton=inbox.singleton)
                _log.info("%s: arrived (job %s)", shown(arrival.path), key)
            except DemixrError as error:
                _log.error("%s", error)
                inbox.forget(arrival.path)
        for chore in self._chores:
            chore.step(now)

    def reload(self) -> None:
        """Read the configuration again; one that is wrong changes nothing."""
        try:
            settings = configuration.read(self.settings.file)
            check(settings)
        except DemixrError as error:
            _log.error("the configuration was not read again: %s", error)
            return
        self.settings = self.stages.configuration = settings
        self.stages.library.renew()
        self.stages.separator.renew()
        self.workflows.reload(settings.daemon)
        self._take_in()
        _log.info("the configuration was read again")

    def end(self) -> None:
        """End the process; what is running begins anew with the next start."""
        _log.info("ends; what is unfinished goes on with the next start")
        self._watch.stop()
        self.turns.stop()
        logging.shutdown()
        os._exit(0)  # threads that wait for a child have nothing to say any more

    def _take_in(self) -> None:
        """Watch what the configuration says."""
        options = self.settings.daemon
        self._watch.stop()
        inboxes = [Inbox(root, singleton, options.debounce_window) for root, singleton in
                   ((options.watch_default, False), (options.watch_singleton, True)) if root]  # fmt: skip
        for inbox in inboxes:
            _log.info("watches %s%s", shown(inbox.root), "" if inbox.root.is_dir() else ", which is not there yet")
        self._watch = Watch(inboxes, polling=options.polling)
        self._watch.start()
        self._queue_file = QueueFile(options.queue_file) if options.queue_file else None
        if options.queue_file:
            _log.info("follows %s", shown(options.queue_file))

    def _read_queue_file(self) -> None:
        if self._queue_file:
            urls = self._queue_file.poll()
            for done, url in enumerate(urls):
                try:
                    key = self.work.add_url(url)
                except DemixrError:
                    self._queue_file.forget(urls[done:])
                    raise
                _log.info("%s: queued (job %s)", shown(url), key)

    def _pace(self) -> None:
        self.workflows.pace(busy=self.work.unfinished())

    def _let_children_go(self) -> None:
        for child in (self.stages.library, self.stages.separator):
            if child.let_go(self.settings.daemon.unload_after):
                _log.info("the process for %s was idle and is let go", child.role)

    def _prune(self) -> None:
        if count := self.work.prune(self.settings.daemon.keep_days * 86400):
            _log.info("%d finished jobs are no longer listed", count)


def check(settings: Configuration) -> None:
    """See that the settings fit together.

    :raises SettingError: they do not; the message names the key.
    """
    options = settings.daemon
    for key, folder in (("default", options.watch_default), ("singleton", options.watch_singleton)):
        if folder and (_inside(folder, settings.music) or _inside(settings.music, folder)):
            raise SettingError(f"demix.daemon.watch.{key}: {shown(folder)} and the music folder {shown(settings.music)} are "
                               "one in the other; watch a folder outside of it")  # fmt: skip


def _inside(path: Path, other: Path) -> bool:
    return path.resolve().is_relative_to(other.resolve())
