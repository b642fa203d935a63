"""``python -m demixr_daemon.worker ROLE STATE_DIR [CONFIG]``: requests and answers are lines of JSON.

Requests: ``{"do": "separate" | "import" | "find" | "record", ...}`` and ``{"do": "cancel"}``.
Answers: any number of ``{"progress": 0..1 or null, ...}``, then ``{"result": {...}}`` or ``{"error": ..., "kind": ...}``.
The end of the input means that the daemon is gone: the process ends at once, and what it was doing is done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from demixr_daemon import configuration
from demixr_daemon.errors import DemixrError


class Role(Protocol):
    """What a worker can do: a method for each ``do``."""

    def run(
        self, request: Mapping[str, Any], report: Callable[[Mapping[str, Any]], None], cancelled: Callable[[], bool]
    ) -> Mapping[str, Any]:
        """Do it.

        :param report: to be called with news of the progress.
        :raises DemixrError: it went wrong.
        """
        ...


def main() -> None:
    """Serve until the input ends."""
    role, state_dir, *file = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever prints, prints to the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    cancelled = threading.Event()
    threading.Thread(target=_read, args=(requests, cancelled), daemon=True).start()
    with _alone(Path(state_dir), role):
        worker: Role | None = None
        while True:
            request = requests.get()
            cancelled.clear()
            try:
                worker = worker or _worker(role, configuration.read(Path(file[0]) if file else None))
            except Exception as error:
                _tell(error, request, answers)
                os._exit(1)
            _serve(worker, request, answers, cancelled)


def _serve(worker: Role, request: dict[str, Any], answers: TextIO, cancelled: threading.Event) -> None:
    try:
        result = worker.run(request, lambda news: _send(answers, news), cancelled.is_set)
    except Exception as error:  # the next request is served all the same
        _tell(error, request, answers)
    else:
        _send(answers, {"result": result})


def _tell(error: Exception, request: Mapping[str, Any], answers: TextIO) -> None:
    if isinstance(error, DemixrError):
        _send(answers, {"error": str(error), "kind": type(error).__name__})
    else:  # a plugin's, a bug
        logging.getLogger("demixr").error("%s failed", request["do"], exc_info=error)
        words = " ".join(str(error).split())
        _send(answers, {"error": f"{type(error).__name__}: {words}", "kind": "Unexpected", "retryable": True})


def _send(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _read(requests: queue.Queue[dict[str, Any]], cancelled: threading.Event) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "cancel":
            cancelled.set()
        else:
            requests.put(request)
    os._exit(0)


@contextlib.contextmanager
def _alone(state_dir: Path, role: str) -> Any:
    """Wait for the end of a worker that a killed daemon left behind."""
    with open(state_dir / f"{role}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _worker(role: str, settings: configuration.Configuration) -> Role:
    if role == "separate":
        from demixr_daemon.worker.separating import Separating

        return Separating(settings)
    if role == "library":
        from demixr_daemon.worker.importing import Importing

        return Importing(settings)
    raise SystemExit(f"no such role: {role}")


if __name__ == "__main__":
    main()
