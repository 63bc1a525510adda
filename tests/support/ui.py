"""`lokki ui` as its user starts and ends it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from support.command import Place


def serving(place: Place, *program: str) -> AbstractContextManager[str]:
    """Serve the page, yield its address, and end it as Ctrl-C does."""
    return served_by(place.start(*program, "ui"))


@contextmanager
def served_by(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the address that a program serves, and end it as Ctrl-C does."""
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert process.stdout.readline() == "Open this address in a browser on this machine. Ctrl-C ends it.\n"
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
