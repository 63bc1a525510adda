"""The program of a function's process: makes it as Lambda's, then hands over to Lambda's own client.

It is run by its path and imports Python's library only. Arguments: the folder with awslambdaric, the most bytes of
address space, the handler, folders that come before Python's library. The process's standard input is a pipe from the
emulator, which ends when that does.
"""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
import threading

_PATIENCE = 1.0
"""Seconds in which the pipe of an emulator that is gone has ended: the kernel closes all that it had at once."""


def die_with_emulator(pipe: int) -> None:
    """End this process and its children when the emulator ends.

    The pipe is closed then, however it ended.
    """
    os.read(pipe, 1)
    os.killpg(0, signal.SIGKILL)


def run_handler(runtime: str, address_space: int, handler: str, *hiding: str) -> None:
    """Set up the process and run the handler's loop."""
    pipe = os.dup(0)  # kept apart from standard input, which a step may read or close
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    watcher = threading.Thread(target=die_with_emulator, args=(pipe,), daemon=True)
    watcher.start()
    # A request for far too much memory at once fails here; the emulator looks at what is really used.
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    # As on Lambda: the function's code, Python's library, and last the runtime. Nothing of the emulator's environment.
    sys.path = [os.environ["LAMBDA_TASK_ROOT"], *hiding, *sys.path, runtime]
    sys.argv = ["awslambdaric", handler]
    try:
        runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
    except Exception:
        # The client fails when the emulator is gone. It must not end before the watcher, or its children would live on.
        watcher.join(_PATIENCE)
        raise


if __name__ == "__main__":
    run_handler(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
