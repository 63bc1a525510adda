"""The process that workers are forked from, a Python that has imported libraries alone.

Why: a fork of the run's own process would copy what the flow's file made when it was imported, a process started anew
for each worker would import numpy again. So the run starts one Python, which imports what `lokki.local_run.libraries`
names, runs no code of the user's, and forks a worker each time the run asks for one. Each worker then imports the flow
as it is imported on AWS.

The run and this process talk through a socket: the run sends requests, with the descriptors of a worker, and gets
notices of how workers ended. This process is their parent, so it learns of that from the system, whatever else holds a
worker's connection open. When the run ends, or is killed, workers are killed too: by the system on Linux, within half a
second elsewhere.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import NoReturn

import msgspec

from lokki.local_run.exits import end_process
from lokki.local_run.libraries import Generators, forget_project, import_libraries
from lokki.local_run.output import flush_all
from lokki.local_run.worker_process import worker_main

REQUEST = struct.Struct("<ii")
"""What the run asks: `FORK` (with two descriptors: a connection, the marks) or `KILL`, and a worker's number."""

FORK, KILL = 0, 1

NOTICE = struct.Struct("<iii")
"""What this process tells: a worker's number, what `os.waitpid` says of how it ended, or an errno if it never began."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_GLANCE_MILLISECONDS = 500
_END_SECONDS = 1.0
"""How long workers may take to end by themselves when the run has."""

_PR_SET_PDEATHSIG = 1
"""https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html"""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What this process needs to know, which it reads from stdin as JSON.

    * ``parent``: the process id of the run.
    * ``control``, ``lock``: descriptors of the socket and of the run's lock, which workers share.
    * ``libraries``: what to import; ``root``: the top-level name of the flow's own modules, which are not imported.
    """

    parent: int
    control: int
    lock: int
    libraries: list[str]
    root: str


def start_python(function: str, stdin: bytes, descriptors: Sequence[int], env: Mapping[str, str]) -> Popen[bytes]:
    """Start a Python that calls a function of this module.

    It has the path and the arguments of this one, which come before ``stdin``: a command line might be too long for
    them. Nothing but built-in modules is imported before the path is set, since a file in the working directory might
    have the same name. Raises OSError.
    """
    path = [folder for folder in sys.path if isinstance(folder, str)]  # Python passes over others, too
    code = "import sys, marshal; sys.path[:], sys.argv[:] = marshal.load(sys.stdin.buffer); "
    # As multiprocessing does for its processes; typeshed leaves it out.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    program = [sys.executable, *flags, "-c", f"{code}import {__name__} as server; server.{function}"]
    with tempfile.TemporaryFile() as file:
        file.write(marshal.dumps((path, sys.argv)) + stdin)
        file.seek(0)
        return Popen(program, stdin=file, pass_fds=descriptors, env=env)


def serve_run() -> NoReturn:
    """Fork workers for a run until it ends."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=ServerSettings)
    die_with(settings.parent)
    server = _Server(settings)
    server.take_signals()
    server.prepare()
    server.serve()


def die_with(parent: int) -> None:
    """Let the system kill this process when its parent ends.

    Also while it is inside C code.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        end_process(1)  # it has ended already


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker gets from this process, its parent.

    * ``connection``, ``marks``, ``lock``: descriptors.
    * ``ignores_hangup``: whether SIGHUP is ignored, as by ``nohup``.
    """

    parent: int
    connection: int
    marks: int
    lock: int
    ignores_hangup: bool

    def start(self) -> int:
        """Start a Python for the worker, instead of forking it.

        Where a library has started threads it is not safe to fork.
        """
        fields = (self.parent, self.connection, self.marks, self.lock, self.ignores_hangup)
        descriptors = (self.connection, self.marks, self.lock)
        return start_python(f"Inheritance{fields!r}.work()", b"", descriptors, os.environ).pid

    def work(self, generators: Generators | None = None) -> NoReturn:
        """Run as the worker until its parent is gone.

        ``generators``: those that the libraries made in the process that it was forked from.
        """
        try:
            die_with(self.parent)
            if generators is not None:
                generators.seed_again()
            signal.signal(signal.SIGHUP, signal.SIG_IGN if self.ignores_hangup else signal.SIG_DFL)
            for descriptor in (self.connection, self.marks, self.lock):
                os.set_inheritable(descriptor, False)
            worker_main(self.connection, self.marks, self.lock)
        except BaseException:  # the user's file may raise anything when it is imported; the server must not go on here
            sys.excepthook(*sys.exc_info())
        finally:
            flush_all()
            end_process(1)


class _Server:
    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._control = socket.socket(fileno=settings.control)
        self._generators = Generators()
        self._workers: dict[int, int] = {}
        self._hangup = signal.getsignal(signal.SIGHUP)
        self._awake, self._wake = os.pipe()
        for descriptor in (settings.control, settings.lock):
            os.set_inheritable(descriptor, False)
        os.set_blocking(self._wake, False)

    def take_signals(self) -> None:
        """Leave the signals that end a run to the run.

        This process wakes up when a worker has ended.
        """
        for number in (*ENDING, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # the run blocked them until here

    def prepare(self) -> None:
        """Import the libraries."""
        with self._generators.noticed():
            import_libraries(self._settings.libraries)
        forget_project(self._settings.root)

    def serve(self) -> NoReturn:
        """Do what the run asks until it has ended."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._awake, select.POLLIN)
        while True:
            ready = dict(poll.poll(_GLANCE_MILLISECONDS))
            if self._awake in ready:
                os.read(self._awake, 4096)
            self._bury()
            if self._settings.control in ready:
                self._answer()
            if os.getppid() != self._settings.parent:
                self._end(0.0)

    def _answer(self) -> None:
        try:
            request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 2)
        except ConnectionResetError:  # the run ended without reading every notice
            request = b""
        if not request:
            self._end(_END_SECONDS)
        what, number = REQUEST.unpack(request)
        if what == KILL:
            pids = [pid for pid, worker in self._workers.items() if worker == number]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            return
        try:
            self._workers[self._start(*descriptors)] = number
        except OSError as error:
            self._tell(number, 0, error.errno or 1)
        for descriptor in descriptors:
            os.close(descriptor)

    def _start(self, connection: int, marks: int) -> int:
        """Start a worker and return its process id."""
        inheritance = Inheritance(os.getpid(), connection, marks, self._settings.lock, self._hangup == signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the worker treats them in its own way
        try:
            if _threads() > 1:
                return inheritance.start()
            pid = os.fork()
            if pid == 0:
                self._become_worker(inheritance)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def _become_worker(self, inheritance: Inheritance) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        os.close(self._awake)
        os.close(self._wake)
        inheritance.work(self._generators)

    def _bury(self) -> None:
        """Tell the run of workers that have ended."""
        for pid, number in list(self._workers.items()):
            dead, status = os.waitpid(pid, os.WNOHANG)
            if dead:
                del self._workers[pid]
                self._tell(number, status, 0)

    def _tell(self, number: int, status: int, error: int) -> None:
        with suppress(OSError):  # the run has ended
            self._control.sendall(NOTICE.pack(number, status, error))

    def _end(self, patience: float) -> NoReturn:
        """End this process and, after so many seconds, its workers."""
        end = time.monotonic() + patience
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        while self._workers and time.monotonic() < end:
            if poll.poll(50):
                os.read(self._awake, 4096)
            self._bury()
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)
        end_process(0)


def _threads() -> int:
    """Count this process's threads.

    Those of libraries are included where the system tells them.
    """
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return threading.active_count()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Take a signal without ignoring it.

    Programs that a step starts would ignore it too.
    """
