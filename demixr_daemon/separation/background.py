"""A generator in a thread of its own, ahead of who reads it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, up to ``depth`` before they are asked for.

    What the thread raises is raised here. Closing the generator ends the thread after the item that it is at. Simple queues
    alone connect the two: Ctrl-C in the midst of any other lock of :mod:`threading` could leave it held.
    """
    made: queue.SimpleQueue[T] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(depth - 1):
        room.put(None)
    end = object()
    left = False
    failure: list[BaseException] = []

    def make() -> None:
        try:
            for item in items:
                made.put(item)
                room.get()
                if left:
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            made.put(end)  # type: ignore[arg-type]

    thread = threading.Thread(target=make, name="in background", daemon=True)
    try:
        thread.start()
        while (item := made.get()) is not end:
            room.put(None)
            yield item
        if failure:
            raise failure.pop()  # kept, it would keep this frame, and all that the generator holds, alive
    finally:
        left = True
        room.put(None)
        if thread.is_alive():
            thread.join()
