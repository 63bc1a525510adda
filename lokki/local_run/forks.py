"""What a process that a step forks must let go of, at every fork while a run is in progress.

Why: ``multiprocessing``, ``os.fork`` and ``subprocess`` with ``preexec_fn`` give the child a copy of everything that
the run holds. A lock that another thread held stays locked for ever, an open lock file keeps the run from being
resumed, and a child that returned from its step would go on with the run beside its parent. So each object of a run
that a child must not use is registered by `watch`, and is told of a fork in the child, before any code of the user's
runs there.

Worker processes are not concerned: they are forked by a process that runs nothing (`lokki.local_run.worker_server`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from typing import NoReturn, Protocol
from weakref import WeakSet

from lokki.local_run.exits import end_process


class Shared(Protocol):
    """Something of a run that a forked child must let go of."""

    def let_go(self) -> None:
        """Stop taking part in the run, as this is a copy that a step forked."""


class _Forks:
    """What is watched, and how often this process became such a copy."""

    def __init__(self) -> None:
        self.watched: WeakSet[Shared] = WeakSet()
        self.registered = False
        self.copied = 0


class _Mask(threading.local):
    """Which signals a thread that forks had blocked before."""

    signals: Collection[int] = ()


_forks = _Forks()
_mask = _Mask()

_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that the child of a fork must not take before it treats them as the run's parent did."""


def watch(shared: Shared) -> None:
    """Let an object be told of forks, for as long as it lives."""
    if not _forks.registered:
        _forks.registered = True  # once: Python never forgets a function that it calls at forks
        os.register_at_fork(before=_hold_signals, after_in_parent=_take_signals, after_in_child=_let_go)
    _forks.watched.add(shared)


def forget(shared: Shared) -> None:
    """Tell an object of no more forks."""
    _forks.watched.discard(shared)


def guarded(function: Callable[..., object]) -> Callable[..., object]:
    """Return a step's function whose forked children never return from it.

    They end where the function would return into the run.
    """

    def call(*args: object, **kwargs: object) -> object:
        copies = _forks.copied
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if _forks.copied != copies:
                _leave(error)
            raise
        if _forks.copied != copies:
            _leave(None)
        return result

    return call


def _hold_signals() -> None:
    """Block signals until the fork is over.

    One that a child gets while it is forked, as by ``Pool.terminate``, Python would forget.
    """
    _mask.signals = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.signals)


def _let_go() -> None:
    """Begin the life of a forked child."""
    if _forks.watched:  # else no run is in progress: whatever forks here is nobody's step
        _forks.copied += 1
        watched = list(_forks.watched)
        _forks.watched.clear()  # a run that the child starts itself has nothing to do with this one
        for shared in watched:
            shared.let_go()
    _take_signals()


def _leave(error: BaseException | None) -> NoReturn:
    """End a forked child without the exit handlers of the program.

    What is registered to happen at the program's end is the parent's.
    """
    code = 1
    try:
        code = _exit_code(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        end_process(code)  # whatever is raised here must not reach the run


def _exit_code(error: BaseException | None) -> int:
    """Say what a child that ended by an exception, or by none, ended with."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        sys.stderr.write(f"{error.code}\n")
    else:
        traceback.print_exception(error)
    return 1
