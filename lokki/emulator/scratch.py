"""The folder of one emulation: nothing of it is left when that ends, however it ends.

A process of its own, the reaper, waits for the emulator's end and removes the folder, and the processes that carry the
secret of the run. Where the reaper was killed too (a container that is stopped), the next emulation removes the folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lokki.emulator.reaper import kill_processes

PREFIX = "lokki-emulator-"

_REAPER = Path(__file__).with_name("reaper.py")
_YOUNG = 60.0
"""Seconds in which a folder may have been made by somebody who has not locked it yet."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What only this run's own processes know.

    ``token``: S3 asks for it, and it marks their environments.
    """

    token: str

    @classmethod
    def new(cls) -> Secret:
        """Make one that nobody can guess."""
        return cls(secrets.token_hex(24))


class Scratch:
    """A new folder with a reaper, removed when the context ends."""

    def __init__(self, secret: Secret, parent: Path | None = None) -> None:
        self._secret = secret
        self._parent = (parent or Path(tempfile.gettempdir())).absolute()
        self._cleanup = ExitStack()
        self.folder = self._parent / f"{PREFIX}{secrets.token_hex(6)}"

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            # Before the folder is made, so that at no moment there is a folder that nobody watches over.
            cleanup.callback(self._end, _start_reaper(self.folder, self._secret))
            self.folder.mkdir(mode=0o700)
            cleanup.enter_context(_locked(self.folder))
            self._cleanup = cleanup.pop_all()
        remove_abandoned(self._parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _end(self, reaper: subprocess.Popen[bytes]) -> None:
        kill_processes(self._secret.token.encode(), os.fsencode(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)
        assert reaper.stdin is not None
        with suppress(BrokenPipeError):  # somebody may have killed it
            reaper.stdin.close()
        reaper.wait()


def _start_reaper(folder: Path, secret: Secret) -> subprocess.Popen[bytes]:
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_REAPER), str(folder)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and a signal to the emulator's group are not for it
    )
    assert reaper.stdin is not None
    with suppress(BrokenPipeError):
        reaper.stdin.write(f"{secret.token}\n".encode())
        reaper.stdin.flush()
    return reaper


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that tells others that a folder's emulator lives.

    The kernel releases it when the process ends, even by a kill.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of emulators that lost their reapers, too."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another emulation's, or somebody else removes it
            if folder.stat().st_uid == os.geteuid() and time.time() - folder.stat().st_mtime > _YOUNG:
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Put this process's temporary files into a folder.

    Those of processes that it starts go there, too.
    """
    previous, tempfile.tempdir = tempfile.tempdir, str(folder)
    variable = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = previous
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
