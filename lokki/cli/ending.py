"""How a command ends its process, at once where that is lokki's alone.

Why: a step that ran out of time, or was still running at Ctrl-C, is left behind on a thread. When Python ends while
such a thread prints or is inside C++ code, it aborts
(https://docs.python.org/3/library/threading.html#threading.Thread.daemon). `os._exit` does not. It also skips whatever
else the process had to do, so it must never end one in which somebody else is at work: pytest, a notebook, a script
that catches SystemExit.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType
from typing import NoReturn

from lokki.cli.options import INTERRUPTED

_owned = ContextVar("owned", default=False)

_DOORS = ("lokki", "lokki.cli.main", __name__)
"""The modules that a call from the user's script comes through."""

_INTERRUPTED_SECONDS = 1.0
"""How long an interrupted run waits at its very end for threads and processes of the user's."""

_FLUSH_SECONDS = 2.0
"""How long files that were left open have to be written out."""

_RUN_STEPS_HERE = {"run", "replay"}


def owns_process() -> bool:
    """Tell whether this process is there for the current command alone."""
    return _owned.get()


@contextmanager
def owning(owned: bool) -> Iterator[None]:
    """Note, while a command runs, whether the process is there for it alone."""
    token = _owned.set(owned)
    try:
        yield
    finally:
        _owned.reset(token)


def is_called_by_script_alone() -> bool:
    """Tell whether the process has nothing to do after the current command.

    That is so in ``python flow.py``, ``python -m flow`` and the program ``lokki``, unless the script surrounds the call
    by ``try`` or ``with``. Under a debugger, a test runner, a profiler or a notebook, other frames are further out.
    """
    if hasattr(sys, "ps1") or sys.flags.inspect or os.environ.get("PYTHONINSPECT"):
        return False  # a prompt follows
    if threading.current_thread() is not threading.main_thread():
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in _DOORS:
        frame = frame.f_back
    script = vars(sys.modules["__main__"])
    while frame is not None and frame.f_globals is script:
        if _is_guarded(frame):
            return False
        frame = frame.f_back
    while frame is not None and frame.f_code.co_filename == "<frozen runpy>":  # python -m
        frame = frame.f_back
    return frame is None


def leave(code: int, command: str) -> NoReturn:
    """End the process, or raise SystemExit where others are at work in it."""
    if not owns_process():
        sys.exit(code)
    interrupted = code == INTERRUPTED
    if not interrupted and not any(thread.daemon for thread in threading.enumerate()):
        if command not in _RUN_STEPS_HERE:
            atexit.register(_spare_the_collector)
        sys.exit(code)
    # Imported here so that commands that leave no threads behind start without it.
    from lokki.local_run.output import flush_all

    if interrupted:
        # A step that was left behind may wait for ever, for a thread or a process that it started.
        waiting = threading.Thread(target=_wait_for_others, daemon=True)
        waiting.start()
        with suppress(KeyboardInterrupt):
            waiting.join(_INTERRUPTED_SECONDS)
    else:
        _wait_for_others()
    flush_all()
    flushing = threading.Thread(target=_flush_files, daemon=True)  # one may be locked by a step that was left behind
    flushing.start()
    flushing.join(_FLUSH_SECONDS)
    os._exit(code)


def _wait_for_others() -> None:
    """Do what Python does at its end, before it ends.

    Idle pools of the user's are told to end, and threads that are no daemons are waited for.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # typeshed leaves it out
    atexit._run_exitfuncs()


def leave_at_once(code: int) -> NoReturn:
    """End the process from any thread, as the main one is stuck in a step."""
    # Imported here as above.
    from lokki.local_run.output import flush_all

    flush_all()
    os._exit(code)


def drop_process(code: int) -> NoReturn:
    """End the process at once, with whatever is still held back.

    For a run whose step keeps the main thread for ever, and perhaps the locks of stdout and stderr.
    """
    os._exit(code)


def _is_guarded(frame: FrameType) -> bool:
    """Tell whether a ``try`` or ``with`` surrounds a frame's current line."""
    import dis  # only here: a command that does not get as far as its end needs none of it

    # https://docs.python.org/3/library/dis.html#dis.Bytecode
    entries = dis.Bytecode(frame.f_code).exception_entries  # type: ignore[attr-defined]  # typeshed leaves it out
    return any(entry.start <= frame.f_lasti < entry.end for entry in entries)


def _spare_the_collector() -> None:
    """Let Python end without looking for garbage in all modules.

    Looking takes a twentieth of a second with pandas. This is not for processes in which steps have run: what they
    left behind in cycles is closed by the collector. What the user's modules left open while they were imported is
    written here.
    """
    _flush_files()
    gc.freeze()


def _flush_files() -> None:
    """Write out what is held back for files that user code has left open."""
    for file in gc.get_objects():
        # By type(): isinstance() would call the code of objects that pretend to be of another class.
        if type(file) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            with suppress(OSError, ValueError):  # a full disk, or a file that is closed
                file.flush()
