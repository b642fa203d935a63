"""A generator in a thread of its own, ahead of who reads it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, up to ``depth`` before they are asked for.

    What the thread raises is raised here. Closing the generator ends the thread after the item that it is at.
    """
    made: queue.Queue[T] = queue.Queue()
    room = threading.Semaphore(depth - 1)
    end = object()
    left = threading.Event()
    failure: list[BaseException] = []

    def make() -> None:
        try:
            for item in items:
                made.put(item)
                room.acquire()
                if left.is_set():
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            made.put(end)  # type: ignore[arg-type]

    thread = threading.Thread(target=make, name="in background", daemon=True)
    try:
        thread.start()
        while (item := made.get()) is not end:
            room.release()
            yield item
        if failure:
            raise failure.pop()  # kept, it would keep this frame, and all that the generator holds, alive
    finally:
        left.set()
        room.release()
        if thread.ident:
            thread.join()
