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
    settings = configuration.read(Path(file[0]) if file else None)
    with _alone(Path(state_dir), role):
        worker = _worker(role, settings)
        while True:
            request = requests.get()
            cancelled.clear()
            _serve(worker, request, answers, cancelled)


def _serve(worker: Role, request: dict[str, Any], answers: TextIO, cancelled: threading.Event) -> None:
    def send(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        send({"result": worker.run(request, send, cancelled.is_set)})
    except DemixrError as error:
        send({"error": str(error), "kind": type(error).__name__, "retryable": getattr(error, "retryable", None)})
    except Exception as error:  # a plugin's, a bug: told to the user, and the next request is served
        logging.getLogger("demixr").exception("%s failed", request["do"])
        send({"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "kind": "Unexpected", "retryable": True})


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
