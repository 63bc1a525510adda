"""Stands before Python's own module in functions that share this machine: Lambda has no semaphores.

https://aws.amazon.com/blogs/compute/parallel-processing-in-python-with-aws-lambda/: there is no /dev/shm, so that
`multiprocessing.Pool`, `Queue` and `Lock` fail; with the C library of Amazon Linux 2023 because a file is not found.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar

flags: dict[str, int] = {"HAVE_SEM_OPEN": 1, "HAVE_SEM_TIMEDWAIT": 1}


class SemLock:
    """A semaphore, which cannot be made."""

    SEM_VALUE_MAX: ClassVar[int] = 2**31 - 1

    def __init__(self, *arguments: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def sem_unlink(name: str) -> None:
    """Remove a semaphore, which there cannot be."""
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
