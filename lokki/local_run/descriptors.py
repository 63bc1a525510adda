"""What stands at a file descriptor's number in this process, and how C writes to it.

Why: programs that a step starts, and C code that it calls, write to the descriptors 1 and 2 past Python's streams; and
a child that a step forks has a copy of every descriptor of the run. No file object of Python's reaches either: only
another file at the same number does (``dup2``), and how C holds back its output is decided by C's own ``setvbuf``. In a
run's own processes both are called here alone.
"""

from __future__ import annotations

import os
from contextlib import suppress

_LINE_BUFFERED = 1
"""C's _IOLBF."""


def replace(descriptor: int, by: int) -> None:
    """Let a descriptor stand for the file of another one."""
    os.dup2(by, descriptor)


def hide(descriptor: int) -> None:
    """Put nothing (`os.devnull`) in the place of a descriptor.

    It is not closed: the object that owns it would later close a file of the child's that took its number.
    """
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)


def open_closed() -> None:
    """Open the standard descriptors with which the program was started closed.

    Other files would take their numbers, and what is printed would be written there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def write_lines_of_c() -> None:
    """Let C code write each line that it prints at once.

    Into a pipe it would hold back 4 KiB, and lose them in a crash.
    """
    # Imported here for start-up: `runs` hides descriptors, too, and needs no C.
    import ctypes

    library = ctypes.CDLL(None)
    for name in ("stdout", "__stdoutp"):  # on Linux, on macOS
        with suppress(ValueError):
            library.setvbuf(ctypes.c_void_p.in_dll(library, name), None, _LINE_BUFFERED, 0)
