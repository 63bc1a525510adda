"""Commands as a user runs them: in a process of their own, with pipes or on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FLOWS = Path(__file__).parent.parent / "flows"
LOKKI = str(Path(sys.executable).parent / "lokki")

# Makes the terminal on stdin the one whose Ctrl-C reaches the program, as a shell does.
_WITH_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{8}"
"""What the ids that lokki gives to runs are like."""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Stderr, with what differs from run to run left out."""
        return steady(self.err).splitlines()


def steady(text: str) -> str:
    """Replace the ids of runs and the time they took."""
    return re.sub(r"\d+\.\d\d s\b", "0.00 s", re.sub(RUN_ID, "RUN", text))


@dataclass(frozen=True)
class Place:
    """A folder in which commands are run, with copies of flows."""

    folder: Path

    def copy(self, *names: str) -> None:
        """Put flows there."""
        for name in names:
            shutil.copy(FLOWS / name, self.folder / name)

    def write(self, name: str, text: str) -> None:
        """Write a file there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime if path.exists() else 0.0
        path.write_text(text)
        if before:  # Python takes what it compiled for current while the second and the size are the same
            os.utime(path, (before + 2, before + 2))

    def environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which nothing of this machine's user counts."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LOKKI_")}
        # Python is found by its name, as in an environment that is activated.
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "HOME": str(self.folder), "COLUMNS": "100", "TERM": "xterm-256color", **changes}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Ran:
        """Run a program to its end; ``x.py`` by Python, ``lokki`` from the environment of the tests."""
        done = subprocess.run(
            command(arguments),
            cwd=self.folder,
            env=self.environment(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a program in a process group of its own."""
        return subprocess.Popen(
            command(arguments),
            cwd=self.folder,
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def on_terminal(self, *arguments: str, **env: str) -> Terminal:
        """Start a program on a pseudo-terminal, its stdout in a file."""
        ours, theirs = pty.openpty()
        result = self.folder / "stdout.txt"
        with result.open("wb") as stdout:
            process = subprocess.Popen(
                [sys.executable, "-c", _WITH_TERMINAL, *command(arguments)],
                cwd=self.folder,
                env=self.environment(env),
                stdin=theirs,
                stdout=stdout,
                stderr=theirs,
                start_new_session=True,
            )
        return Terminal(process, ours, theirs, result, termios.tcgetattr(theirs))


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(
        self, process: subprocess.Popen[bytes], ours: int, theirs: int, stdout: Path, before: list[object]
    ) -> None:
        self._process = process
        self._ours = ours
        self._theirs = theirs
        self._stdout = stdout
        self._before = before
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 20.0) -> str:
        """Read until something is shown; return all that was shown since the last call."""
        begun = len(self.shown)
        self._read_until(lambda: re.search(pattern, plain(self.shown[begun:])) is not None, seconds)
        return plain(self.shown[begun:])

    def type(self, keys: str) -> None:
        """Press keys: ``\\x03`` is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def end(self, seconds: float = 20.0) -> Ran:
        """Wait for the program's end; the terminal must be in order then."""
        self._read_until(lambda: self._process.poll() is not None, seconds)
        while select.select([self._ours], [], [], 0.05)[0]:
            self.shown += os.read(self._ours, 2**16).decode()
        after = termios.tcgetattr(self._theirs)
        os.close(self._theirs)
        os.close(self._ours)
        assert after == self._before
        assert self.shown.rfind("\x1b[?25l") <= self.shown.rfind("\x1b[?25h"), "the cursor is hidden"
        return Ran(self._process.returncode, self._stdout.read_text(), plain(self.shown).replace("\r\n", "\n"))

    def _read_until(self, reached: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                self._process.kill()
                raise AssertionError(f"not reached after {seconds} s; shown:\n{self.shown}")
            if select.select([self._ours], [], [], 0.05)[0]:
                self.shown += os.read(self._ours, 2**16).decode(errors="replace")


def plain(shown: str) -> str:
    """Leave colours out."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def command(arguments: tuple[str, ...]) -> list[str]:
    """Return the command line for a program of the tests."""
    program, *rest = arguments
    if program == "lokki":
        return [LOKKI, *rest]
    return [sys.executable, *arguments]
