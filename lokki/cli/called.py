"""How this program was started, as the user typed it: what hints such as "resume with: …" begin with."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

UV_STARTED = "UV_RUN_RECURSION_DEPTH"
"""The variable that ``uv run`` sets for what it starts."""


def called_as() -> str:
    """Return how to call this program again: ``python flow.py``, ``uv run flow.py``, ``.venv/bin/lokki``."""
    return shlex.join(_by_uv() or _as_typed())


def _by_uv() -> list[str]:
    """Return the words before this program's own arguments where ``uv run`` started it; none where it did not."""
    if UV_STARTED not in os.environ:
        return []
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:  # macOS shows no process its parent's words: the variable alone has to do
        return ["uv", "run", *_as_typed()[1:]]
    if not words or PurePath(words[0]).name != "uv":
        return []
    return ["uv", *without_arguments(words, sys.argv[1:])[1:]]


def _as_typed() -> list[str]:
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
    """Leave out a program's own arguments, which a command line ends with, if it does.

    >>> without_arguments(["uv", "run", "flow.py", "run", "--quiet"], ["run", "--quiet"])
    ['uv', 'run', 'flow.py']
    """
    end = len(words) - len(arguments)
    return list(words[:end]) if list(words[end:]) == list(arguments) else list(words)


def command_name(program: Path) -> str:
    """Return how to name a program: alone where the shell finds it so, else from here where it is below."""
    alone = shutil.which(program.name)
    if str(program) == program.name or (alone is not None and Path(alone) == program):
        return program.name
    with suppress(ValueError, OSError):  # it is not below; or there is no folder "here" any more
        return str(program.relative_to(Path.cwd()))
    return str(program)
