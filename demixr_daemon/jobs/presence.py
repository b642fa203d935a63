"""Which daemons are at work on this machine: each holds a lock in the state folder, with its process in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from demixr_daemon.errors import JobsError


def hold(state_dir: Path, name: str) -> IO[str]:
    """Hold the lock of this name on this machine, for as long as the process lives.

    :raises JobsError: another process holds it.
    """
    path = state_dir / f"worker-{name.replace(os.sep, '_')}.lock"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = open(path, "a+", encoding="ascii")  # noqa: SIM115 -- held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise JobsError(f"a daemon is at work already (process {lock.read().strip() or 'unknown'}); `systemctl --user status "
                        "demixr` or `demixr status` tell more") from None  # fmt: skip
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def at_work(state_dir: Path) -> bool:
    """Whether the process of any such lock is alive."""
    for lock in state_dir.glob("worker-*.lock"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(lock.read_text("ascii")), 0)
            return True
    return False
