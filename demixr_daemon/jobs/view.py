"""What others see of the jobs: rows to show, and what can be asked for. The command and the web page know nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

STAGES = ("download", "import", "separate", "record")
STATES = ("waiting", "running", "paused", "done", "failed", "cancelled")
UNFINISHED = ("waiting", "running", "paused")


@dataclass(frozen=True)
class JobRow:
    """One job, as it is shown."""

    key: str
    """Stable, unique."""
    source: str
    """Path or URL, printable."""
    title: str
    """``Artist - Title`` once known, else the file name or URL."""
    stage: str
    """One of :data:`STAGES`."""
    state: str
    """One of :data:`STATES`."""
    progress: float | None
    """0 to 1 of the running stage, None when unknown."""
    speed: float | None
    """Seconds of audio per second, while separating."""
    left_s: float | None
    """Estimated seconds left of the running stage."""
    reason: str
    """Why it failed or what it waits for, one line with what to do; else empty."""
    item_id: int | None
    """Of the beets library, once imported."""
    added: float
    """Epoch seconds."""
    updated: float


class Work(Protocol):
    """What can be asked of the jobs, from any process."""

    def rows(self, limit: int = 200, states: Collection[str] = ()) -> list[JobRow]:
        """Running ones first, then the newest."""
        ...

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by state."""
        ...

    def add(self, sources: Sequence[str], *, hurried: bool = True) -> list[str]:
        """Take in paths or URLs; their keys. Asked for twice, done once."""
        ...

    def separate(self, item_ids: Sequence[int], *, model: str = "", hurried: bool = True) -> list[str]:
        """Separate tracks of the library; their keys."""
        ...

    def cancel(self, key: str) -> bool:
        """Stop a job; False if there is no such unfinished job."""
        ...

    def retry(self, key: str) -> bool:
        """Let a failed or cancelled job run again; False if there is no such job."""
        ...
