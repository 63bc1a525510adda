"""Programs that run a flow whose one mapped step has any body: what the step does is written in the test."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from support.local_runs import forkable

FLOW = """
import logging, multiprocessing, os, signal, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from lokki import flow, main, step

FORK = multiprocessing.get_context("fork")

{functions}

@step
def numbers() -> list[int]:
    return list(range({count}))

@step
def work(number: int) -> object:
{body}

@step
def gather(results: list[object]) -> object:
    return results

@flow
def forking():
    return numbers().map(work).agg(gather)

if __name__ == "__main__":
    {main}
"""


def start(
    folder: Path,
    body: str,
    *options: str,
    count: int = 1,
    functions: str = "",
    main: str = "main(forking)",
    env: Mapping[str, str] | None = None,
    output: BinaryIO | None = None,
) -> subprocess.Popen[str]:
    """Start a run of a flow whose step has this body; ``functions`` stand above it, ``main`` at the file's end.

    ``output``: a file for what the run writes; else it is read from pipes.
    """
    lines = textwrap.indent(body.strip(), "    ")
    text = FLOW.replace("{functions}", functions.strip()).replace("{body}", lines)
    (folder / "forking.py").write_text(text.replace("{count}", str(count)).replace("{main}", main))
    return again(folder, *options, env=env, output=output)


def again(
    folder: Path, *options: str, env: Mapping[str, str] | None = None, output: BinaryIO | None = None
) -> subprocess.Popen[str]:
    """Start another run of the flow that was written there."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "forking.py", "run", *options],
        cwd=folder,
        env={**forkable(), **(env or {})},
        stdout=output or subprocess.PIPE,
        stderr=output or subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(program: subprocess.Popen[str], seconds: float = 90) -> tuple[int, str, str]:
    """Wait for a run; return its exit code and what it wrote."""
    try:
        out, errors = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        raise
    return program.returncode, out, errors


def run(
    folder: Path,
    body: str,
    *options: str,
    count: int = 1,
    functions: str = "",
    main: str = "main(forking)",
    env: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Run a flow as `start` does; return its exit code and what it wrote."""
    return ended(start(folder, body, *options, count=count, functions=functions, main=main, env=env))
