"""What others see of the jobs: rows for a table, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class JobRow:
    key: str                 # stable, unique
    source: str              # path or URL, printable
    title: str               # "Artist - Title" once known, else the file name or URL
    stage: str               # "download" | "import" | "separate" | "record"
    state: str               # "waiting" | "running" | "paused" | "done" | "failed" | "cancelled"
    progress: float | None   # 0..1 of the running stage, None when unknown
    speed: float | None      # seconds of audio per second, while separating
    left_s: float | None     # estimated seconds left of the running stage
    reason: str              # why it failed / what it waits for, one line with what to do; else ""
    item_id: int | None      # of the beets library, once imported
    added: float             # epoch seconds
    updated: float

class Work(Protocol):
    def rows(self, limit: int = 200, states: Collection[str] = ()) -> list[JobRow]: ...   # newest first; running first
    def counts(self) -> dict[str, int]: ...                                   # by state
    def add(self, sources: Sequence[str], *, hurried: bool = True) -> list[str]: ...      # paths or URLs -> keys; idempotent
    def separate(self, item_ids: Sequence[int], *, model: str = "", hurried: bool = True) -> list[str]: ...
    def cancel(self, key: str) -> bool: ...
    def retry(self, key: str) -> bool: ...
