"""A program that outlives the emulator, and removes the folder and the processes that it leaves.

It is run by its path and imports Python's library only. Argument: the folder. Its standard input has a line with the
secret of the run, which every function's process has in its environment, and ends when the emulator does. Programs that
build have the folder in theirs, for their temporary files.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_TRIES = 200
_PAUSE = 0.05


def reap(folder: str) -> None:
    """Wait for the emulator's end, then remove what it left.

    That takes several rounds: a process that is killed may write until it has ended.
    """
    secret = sys.stdin.buffer.readline().strip()
    sys.stdin.buffer.read()  # returns when the last process with the other end has ended: the emulator
    for _ in range(_TRIES):
        living = kill_processes(secret, os.fsencode(folder))
        shutil.rmtree(folder, ignore_errors=True)
        if not living and not os.path.lexists(folder):
            return
        time.sleep(_PAUSE)


def kill_processes(*marks: bytes) -> int:
    """Kill all processes that have a mark in their environment.

    Returns how many they were.
    """
    killed = 0
    for pid in _processes_with([mark for mark in marks if mark]):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def _processes_with(marks: list[bytes]) -> Iterator[int]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this program to run
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                environment = file.read()
        except OSError:
            continue
        if any(mark in environment for mark in marks):
            yield int(name)


if __name__ == "__main__":
    reap(sys.argv[1])
