"""Items made in a thread of their own, and what Ctrl-C does to who reads them."""

from __future__ import annotations

import contextlib
import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from demixr_daemon.separation import background
from demixr_daemon.separation.background import in_background

WATCHED = {background.__file__, threading.__file__, queue.__file__}


def interrupted_at(instruction: int) -> bool:
    """Read items, with Ctrl-C at this instruction of those that Python executes for it; False if there are fewer."""
    left = instruction

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and left >= 0:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    with contextlib.closing(in_background(iter(range(4)), 2)) as items, contextlib.suppress(KeyboardInterrupt):
        next(items)  # the thread is at work
        sys.settrace(trace)
        try:
            for _ in items:
                pass
        finally:
            sys.settrace(None)
    return left < 0


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a measurement of coverage traces the tests itself")
def test_ctrl_c_at_any_moment_ends() -> None:
    reached = 0

    def interrupt() -> None:
        nonlocal reached
        for reached in itertools.count():
            if not interrupted_at(reached):
                return

    reader = threading.Thread(target=interrupt, daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive(), f"interrupted at instruction {reached}, it waits for a lock"
    assert reached > 50


def test_what_the_thread_raises_is_raised_here() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    items = in_background(failing(), 2)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_closed_it_ends_after_the_item_it_is_at() -> None:
    made: list[int] = []

    def counting() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            yield number

    with contextlib.closing(in_background(counting(), 3)) as items:
        assert next(items) == 0
    assert len(made) <= 4
    assert "in background" not in {thread.name for thread in threading.enumerate()}
