"""A process that does the work, seen from the daemon: requests and answers are lines of JSON.

The daemon stays small, a crash in native code costs one job, and stopping is a matter of ending a process. A child whose
daemon was killed reads the end of its input and ends at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from demixr_daemon import errors
from demixr_daemon.errors import Cancelled, CrashError, DemixrError

_ASK_S = 0.3  # between two questions whether to go on
_GRACE_S = 20.0  # for a cancelled child to finish its chunk; then it is killed
_log = logging.getLogger("demixr.child")


class RemoteError(DemixrError):
    """An error of the child that is none of :mod:`demixr_daemon.errors`; ``details`` say more."""

    def __init__(self, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class Child:
    """A worker process, started when there is work and kept for the next.

    :param role: ``separate`` or ``library``.
    """

    def __init__(self, role: str, configuration: Path | None, state_dir: Path) -> None:
        self.role = role
        self._command = [sys.executable, "-m", "demixr_daemon.worker", role, str(state_dir)]
        self._command += [str(configuration)] if configuration else []
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._busy = threading.Lock()
        self._outdated = False
        self._idle_since = time.monotonic()

    def call(
        self, request: Mapping[str, Any], progress: Callable[[dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:  # fmt: skip
        """Let the child do something and wait for it; one thing at a time.

        :raises CrashError: the child died.
        :raises Cancelled: ``cancelled`` said so.
        :raises DemixrError: what the child raised.
        """
        while not self._busy.acquire(timeout=_ASK_S):
            if cancelled():
                raise Cancelled("cancelled")
        try:
            if self._outdated:
                self._end()
            process = self._running()
            self._send(process, request)
            return self._answer(process, progress, cancelled)
        finally:
            self._idle_since = time.monotonic()
            self._busy.release()

    def let_go(self, idle_s: float) -> bool:
        """End the process if it has had nothing to do for so long; whether it was ended."""
        if self._process is None or not self._busy.acquire(blocking=False):
            return False
        try:
            idle = time.monotonic() - self._idle_since >= idle_s
            if idle:
                self._end()
            return idle
        finally:
            self._busy.release()

    def renew(self) -> None:
        """Begin the next request with a new process: the configuration changed."""
        self._outdated = True

    def stop(self, grace_s: float = 2.0) -> None:
        """End the process, whatever it does; a moment is left for tidying up."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._send(process, {"do": "cancel"})
        with contextlib.suppress(subprocess.TimeoutExpired, OSError, ValueError):
            if not self._busy.locked():
                self._close(process)
            process.wait(grace_s)
        process.kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._answers = queue.Queue()
            self._outdated = False
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii",
                start_new_session=True,  # Ctrl-C is for the daemon alone
            )  # fmt: skip
            threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        return self._process

    def _answer(
        self, process: subprocess.Popen[str], progress: Callable[[dict[str, Any]], None] | None, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        asked_to_stop = 0.0
        while True:
            try:
                answer = self._answers.get(timeout=_ASK_S)
            except queue.Empty:
                answer = {}
            if answer is None:
                raise CrashError(f"the process for this ({self.role}) {_end_of(process)}")
            if "result" in answer:
                return dict(answer["result"])
            if "error" in answer:
                raise _error(answer)
            if answer and progress:
                progress(answer)
            if not asked_to_stop and cancelled():
                asked_to_stop = time.monotonic()
                with contextlib.suppress(OSError):
                    self._send(process, {"do": "cancel"})
            if asked_to_stop and time.monotonic() - asked_to_stop > _GRACE_S:
                self._end()
                raise Cancelled("cancelled")

    def _send(self, process: subprocess.Popen[str], request: Mapping[str, Any]) -> None:
        assert process.stdin
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise CrashError(f"the process for this ({self.role}) {_end_of(process)}") from None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            self._close(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
            process.kill()
            process.wait()

    def _close(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()


def _listen(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any] | None]) -> None:
    assert process.stdout
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(json.loads(line))
    answers.put(None)


def _end_of(process: subprocess.Popen[str]) -> str:
    """How a process ended, in words."""
    try:
        code = process.wait(5.0)
    except subprocess.TimeoutExpired:
        return "does not answer"
    if code == -signal.SIGKILL:
        return "was killed, perhaps for want of memory"
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"


def _error(answer: Mapping[str, Any]) -> DemixrError:
    known = getattr(errors, str(answer["kind"]), None)
    if isinstance(known, type) and issubclass(known, DemixrError):
        return known(answer["error"])
    return RemoteError(str(answer["error"]), answer)
