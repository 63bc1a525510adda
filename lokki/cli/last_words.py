"""How a run ends on the terminal, in the same words for every kind of run.

The result goes to stdout or a file. Why there is none goes to stderr: the traceback of the user's step, one line of
what failed and where, and the command that resumes the run. With ``--log-format json`` each is a line of JSON.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from lokki.cli.ending import owns_process
from lokki.cli.options import DONE, FAILED, INTERRUPTED
from lokki.cli.output import check_writable, result_text, write_result
from lokki.cli.text import from_here
from lokki.errors import LokkiError, RunError
from lokki.local_run.descriptors import hide
from lokki.observing.report import RunReport, failure_in
from lokki.progress.displays import Display, JsonLines, LiveBars, Nothing, PlainLines, Words


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the command line says of a run's output.

    * ``output``: the file for the result; stdout without one.
    * ``traceback``: show lokki's own frames, too.
    * ``report``: the file for the run's report, if there is to be one.
    """

    log_format: str = "human"
    quiet: bool = False
    output: Path | None = None
    traceback: bool = False
    report: Path | None = None

    def check_writable(self) -> None:
        """Raise RunError unless the files that it names could be written."""
        if self.output is not None:
            check_writable(self.output)
        if self.report is not None:
            check_writable(self.report, "--report")

    def display(self, stream: TextIO, words: Words | None = None, *, live: bool = True) -> Display:
        """Return what shows a run's events.

        That is bars on a terminal where they may be ``live``, else lines.
        """
        if self.quiet:
            return Nothing()
        if self.log_format == "json":
            return JsonLines(stream)
        if live and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            return LiveBars(stream, words)
        return PlainLines(stream, words=words)


class Streams(Protocol):
    """Stdout and stderr as the user sees them, whatever steps do with both."""

    stdout: TextIO
    terminal: TextIO

    def discard(self) -> None:
        """Drop what is held back for a stdout that cannot be written to."""


class StandardStreams:
    """The stdout and stderr of a process in which no step runs."""

    def __init__(self) -> None:
        self.stdout: TextIO = sys.stdout
        self.terminal: TextIO = sys.stderr

    def discard(self) -> None:
        """Drop what is held back for stdout, if the process is lokki's."""
        if owns_process():  # else Python would complain at its end
            hide(sys.stdout.fileno())


@dataclass(frozen=True, slots=True)
class NextCommands:
    """What a user can do after a run.

    The functions are called when it has ended.

    * ``resume``: the command that resumes it, empty where it cannot be resumed.
    * ``retrieve``: how to get its result once more.
    * ``runs_new_code``: a run that is resumed has the code of then, so that the user can fix it first.
    * ``resumes_finished``: whether a run that is finished can be resumed, which gives its result once more.
    """

    resume: Callable[[], str]
    retrieve: Callable[[], str]
    runs_new_code: bool = True
    resumes_finished: bool = False


class LastWords:
    """Says how a run ended, and returns the exit code."""

    def __init__(self, options: OutputOptions, streams: Streams, commands: NextCommands) -> None:
        self._options = options
        self._streams = streams
        self._commands = commands

    def interrupted(self) -> int:
        """Say that the run was interrupted."""
        resume = self._commands.resume()
        self.say(f"interrupted{f'; resume with: {resume}' if resume else ''}", "interrupted", **_resume(resume))
        return INTERRUPTED

    def failed(self, message: str, report: RunReport, error: BaseException | None = None) -> int:
        """Say what failed, and how to resume the run.

        * ``report``: has the failure that the message names, if it names one; then its traceback is shown.
        * ``error``: what lokki raised, for its own traceback.
        """
        text, resume = from_here(message), self._commands.resume()
        hint = f"\n{'fix it and ' if self._commands.runs_new_code else ''}resume with: {resume}" if resume else ""
        trace = self._trace(message, report, error)
        self.say(f"{trace}error: {text}{hint}", "error", message=text, **_resume(resume))
        return FAILED

    def finished(self, result: object) -> int:
        """Hand over the result."""
        file = self._options.output
        try:
            if file is None:
                return self._print(result)
            write_result(file, result)
        except RunError as error:
            return self._lost(from_here(str(error)))
        if not self._options.quiet:
            path = from_here(str(file))
            self.say(f"result written to {path}", "result_written", path=path)
        return DONE

    def reported(self, code: int, path: Path, write: Callable[[], None]) -> int:
        """Write the run's report, and return the exit code of all.

        A run that has its result fails all the same where the report cannot be written.
        """
        try:
            write()
        except LokkiError as error:
            self.say(f"error: there is no report: {from_here(str(error))}", "error", message=str(error))
            return code or FAILED
        if not self._options.quiet:
            shown = from_here(str(path))
            self.say(f"report written to {shown}", "report_written", path=shown)
        return code

    def say(self, text: str, event: str, **fields: str) -> None:
        """Write a text, or instead of it an event and its fields as JSON."""
        terminal = self._streams.terminal
        with suppress(OSError):  # the terminal has gone
            if self._options.log_format == "json":
                JsonLines(terminal).write({"event": event, **fields})
            else:
                terminal.write(f"{text}\n")
                terminal.flush()

    def _trace(self, message: str, report: RunReport, error: BaseException | None) -> str:
        failure, everything = failure_in(report, message), self._options.traceback
        if failure is not None:
            return failure.full_traceback if everything else failure.traceback
        return "".join(traceback.format_exception(error)) if everything and error is not None else ""

    def _print(self, result: object) -> int:
        stdout = self._streams.stdout
        try:
            text = result_text(result)
            stdout.write(f"{text}\n" if text is not None else "")
            stdout.flush()
        except OSError as error:
            self._streams.discard()
            if isinstance(error, BrokenPipeError):
                return FAILED  # whoever read the result has gone
            return self._lost(f"the result cannot be printed: {error.strerror}")
        return DONE

    def _lost(self, problem: str) -> int:
        text = f"{problem}; the result is kept: {self._commands.retrieve()}"
        resume = self._commands.resume() if self._commands.resumes_finished else ""
        self.say(f"error: {text}", "error", message=text, **_resume(resume))
        return FAILED


def _resume(command: str) -> dict[str, str]:
    return {"resume": command} if command else {}
