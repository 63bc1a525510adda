"""How the user started this program, for hints that can be typed as they are."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

UV_STARTED = "UV_RUN_RECURSION_DEPTH"
"""The variable that ``uv run`` sets for what it starts."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """How a command is called, as ``<program> <name> [<flow>]``."""

    program: str
    name: str
    flow: str = ""

    def __str__(self) -> str:
        return f"{self.program} {self.name} {shlex.quote(self.flow)}" if self.flow else f"{self.program} {self.name}"


def program_words() -> str:
    """Return how to call this program again.

    That is such as ``python flow.py``, ``uv run flow.py``, ``.venv/bin/lokki``.
    """
    return shlex.join(_words_of_uv() or _words_typed())


def _words_of_uv() -> list[str]:
    """Return the words before the program's own arguments under ``uv run``.

    There are none where uv did not start it.
    """
    if UV_STARTED not in os.environ:
        return []
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:  # macOS shows no process its parent's words: the variable alone has to do
        return ["uv", "run", *_words_typed()[1:]]
    if not words or PurePath(words[0]).name != "uv":
        return []
    return ["uv", *without_arguments(words, sys.argv[1:])[1:]]


def _words_typed() -> list[str]:
    words = without_arguments(sys.orig_argv, sys.argv[1:])
    program = Path(sys.argv[0])
    if "-c" in words or program.name in ("", "-c"):
        return ["python"]
    if program.suffix != ".py" and "-m" not in words:
        return [command_name(program)]  # a command that an environment installed, such as lokki
    if getattr(sys.modules["__main__"], "__spec__", None) is not None:
        # Python has put a file's path in the place of the module's name in sys.argv, but not in what was typed.
        return [command_name(Path(words[0])), *words[1:]]
    return [command_name(Path(words[0])), *words[1:-1], sys.argv[0]]


def without_arguments(words: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return a command line without the program's own arguments.

    >>> without_arguments(["uv", "run", "flow.py", "run", "--quiet"], ["run", "--quiet"])
    ['uv', 'run', 'flow.py']
    """
    end = len(words) - len(arguments)
    return list(words[:end]) if list(words[end:]) == list(arguments) else list(words)


def command_name(program: Path) -> str:
    """Return the shortest name by which the shell finds a program here.

    That is its bare name where PATH leads to it, else its path from the current directory where it is below.
    """
    path = shutil.which(program.name)
    if str(program) == program.name or (path is not None and Path(path) == program):
        return program.name
    with suppress(ValueError, OSError):  # it is not below; or there is no folder "here" any more
        return str(program.relative_to(Path.cwd()))
    return str(program)
