"""`lokki ui` as its user starts and ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from support.command import Place


@contextmanager
def serving(place: Place, *program: str) -> Iterator[str]:
    """Serve the page, yield its address, and end it as Ctrl-C does."""
    process = place.start(*program, "ui")
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert process.stdout.readline() == "Open this address in a browser on this machine. Ctrl-C ends it.\n"
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
