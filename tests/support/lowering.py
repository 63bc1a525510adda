"""Counts how often a flow is lowered, by the interpreter's own word on which functions are called."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lokki.plan import lower


@contextmanager
def callers_of_lower() -> Iterator[list[str]]:
    """Collect the names of the functions that lower a graph, on this thread and on those that it starts.

    Drawing a flow lowers it, too, to refuse what cannot travel; that is no part of a build, and left out.
    """
    callers: list[str] = []

    def collect(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is lower.__code__ and frame.f_back is not None:
            callers.append(frame.f_back.f_code.co_name)

    previous = sys.getprofile()
    threading.setprofile(collect)
    sys.setprofile(collect)
    try:
        yield callers
    finally:
        sys.setprofile(previous)
        threading.setprofile(None)
        callers[:] = [caller for caller in callers if caller != "_draw"]
