"""How the processes end that a run forks.

Why: such a process is a copy, of the process that workers are forked from or of one in which a step forked. Python's
own way to end (``sys.exit``, the end of the program) would run what the original registered for *its* end, wait for
threads that the copy does not have, and print or flush what the original will print again; in a child of a step it
could even be caught, and the child would go on with the run. A worker that a late step does not leave could not end at
all. So they end at once, by ``os._exit``, after whoever calls has written out what must not be lost. How the main
process of a command ends is decided by `lokki.cli.ending`.
"""

from __future__ import annotations

import os
from typing import NoReturn

STUCK = 124
"""With which code a worker process ends when a late step of it does not: as the program ``timeout`` does."""


def end_process(code: int) -> NoReturn:
    """End this process now, from whichever thread.

    Nothing is flushed.
    """
    os._exit(code)
