"""How a turn goes, whatever the stage: begin, wait for room on the disk, do, and write down what went wrong."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

from demixr_daemon.errors import (
    AudioError,
    BusyError,
    Cancelled,
    CrashError,
    DemixrError,
    GoneError,
    JobsError,
    LibraryError,
    OutputError,
    shown,
)
from demixr_daemon.jobs.child import RemoteError
from demixr_daemon.jobs.ledger import Job, Watchful
from demixr_daemon.jobs.stages import TRIES, Stages
from demixr_daemon.jobs.view import UNFINISHED

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 900.0
_ROOM_S = 5.0  # between two looks whether there is room again, or the database
_log = logging.getLogger("demixr.jobs")


class Turns:
    """Runs the stages."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.ledger = stages.ledger
        self._stopping = threading.Event()
        self._staging: set[tuple[str, int]] = set()
        """Turns at work in the staging folders."""

    def run(self, key: str, turn: int) -> None:
        """Do what a job's turn is about; whatever goes wrong is written down, and returns."""
        while True:
            try:
                if not self._stopping.is_set():
                    self._run(key, turn)
                    return
            except JobsError as error:
                _log.error("%s; tried again in %.0f s", error, _ROOM_S)
                self._stopping.wait(_ROOM_S)
            if self._stopping.is_set():
                threading.Event().wait()  # the process ends; this turn begins anew in the next

    def _run(self, key: str, turn: int) -> None:
        job = self.ledger.begin(key, turn)
        if job is None:
            return
        watchful = Watchful(self.ledger, job, self._stopping.is_set)
        if job.stage in ("download", "import"):
            self._staging.add((key, turn))
        try:
            self._wait_for_room(job, watchful)
            self.stages.bodies[job.stage](job, watchful)
        except JobsError:
            raise
        except Exception as error:
            if self._stopping.is_set():
                threading.Event().wait()
            self._went_wrong(job, error)
        finally:
            self._staging.discard((key, turn))

    def stop(self) -> None:
        """End what is running, without a word in the record: it begins anew with the next start."""
        self._stopping.set()
        ends = [threading.Thread(target=child.stop) for child in (self.stages.library, self.stages.separator)]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def sweep(self) -> None:
        """Delete the staging folders of jobs that are over, if this is the machine that imports."""
        staging = self.stages.configuration.staging
        if "import" in self.stages.configuration.daemon.stages and staging.is_dir():
            for place in list(staging.iterdir()):
                row = self.ledger.work.row(place.name)
                over = row is None or row.state not in UNFINISHED or row.stage in ("separate", "record")
                if over and place.name not in {key for key, _ in tuple(self._staging)}:
                    self.stages.tidy(place.name)

    def _went_wrong(self, job: Job, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Cancelled):
            _log.info("%s: cancelled", job.title)
        elif isinstance(error, GoneError):
            self.ledger.end(job, "cancelled", reason)
        elif _helps_to_repeat(job, error):
            delay_s = self._pause_s(job, error)
            _log.warning("%s: %s; next try in %.0f s", job.title, reason, delay_s)
            due = time.strftime("%H:%M:%S", time.localtime(time.time() + delay_s))
            self.ledger.again(job, f"{reason}; next try at {due}", delay_s)
            return
        else:
            if not isinstance(error, DemixrError):
                _log.exception("%s: an error of this program", job.title)
                reason = f"an error of this program: {type(error).__name__}: {reason}"
            self.ledger.end(job, "failed", reason)
            _log.error("%s: %s", job.title, reason)
        self.stages.tidy(job.key)

    def _pause_s(self, job: Job, error: Exception) -> float:
        if isinstance(error, AudioError):
            return max(1.0, self.stages.configuration.daemon.debounce_window)
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 3.0**job.attempts)

    def _wait_for_room(self, job: Job, watchful: Watchful) -> None:
        """While the disk is nearly full, work pauses."""
        paused = False
        while True:
            music, least_mb = self.stages.configuration.music, self.stages.configuration.daemon.min_free_mb
            if (free := _free(music)) >= least_mb * 1_000_000:
                break
            watchful.check()
            self.ledger.note(job, state="paused", reason=f"disk nearly full: {free / 1e6:.0f} MB are free in {shown(music)}, "
                             f"{least_mb} are wanted (demix.daemon.min_free_mb); goes on by itself when there is room")
            if not paused:
                _log.warning("%s: pauses, the disk is nearly full", job.title)
            paused = True
            self._stopping.wait(_ROOM_S)
        if paused:
            self.ledger.note(job, state="running", reason="")


def _helps_to_repeat(job: Job, error: Exception) -> bool:
    if isinstance(error, BusyError):
        return True
    if job.attempts + 1 >= TRIES:
        return False
    if isinstance(error, AudioError):
        return job.stage == "import"  # it may still be written
    if isinstance(error, RemoteError):
        return bool(error.details.get("retryable"))
    return isinstance(error, (LibraryError, CrashError, OutputError)) or bool(getattr(error, "retryable", False))


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
