"""The command ``run``: a flow on this machine, with progress on stderr and nothing but the result on stdout."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import msgspec

from lokki.config import load_config
from lokki.errors import LokkiError, ParameterError, RunError
from lokki.events import Event, MapFinished, RunFailed, RunStarted, StepFailed, StepFinished, StepOutput
from lokki.graph import FlowGraph
from lokki.local_run.output import Descriptors, Emit, capture_streams, finish_lines
from lokki.progress import Display, JsonLines, LiveBars, Nothing, PlainLines
from lokki.report import RunReport, fold
from lokki.runner import Executor, LocalRunner, Resume

LOG = "events.jsonl"
"""The log in a run's folder: every event, what steps printed and logged among them."""

DONE, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says of a run, beside the flow's parameters; ``again``: how to call it again."""

    executor: Executor = "threads"
    workers: int | None = None
    run_id: str | None = None
    resume: Resume | None = None
    environment: str | None = None
    log_format: str = "human"
    quiet: bool = False
    output: Path | None = None
    traceback: bool = False
    again: str = ""


class Listener:
    """Folds events into the report, writes them to the run's log and shows them; may be called from any thread.

    ``started`` is called when the run begins: worker processes are forked by then, so that threads may be started.
    """

    def __init__(self, display: Display, started: Callable[[Emit], None]) -> None:
        self.report = RunReport()
        self._display = display
        self._started = started
        self._file: TextIO | None = None
        self._log: Display = Nothing()
        # One thread may come here twice: what is written makes Python collect garbage, whose __del__ prints.
        self._lock = threading.RLock()
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            if isinstance(event, StepFinished | StepFailed | MapFinished | RunFailed):
                finish_lines()
            self._take(event)
            if not self._closed:
                self._show(event)

    def take_shown(self, event: StepOutput) -> None:
        """Take what a step printed and what the terminal shows already."""
        with self._lock:
            self._take(event)

    def close(self) -> None:
        """End the display and the log; threads that are left behind may go on calling."""
        with self._lock:
            self._closed = True
            self._log = Nothing()
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._display.close()

    def _take(self, event: Event) -> None:
        self.report = fold(self.report, event)
        if isinstance(event, RunStarted) and self._file is None:
            self._file = (Path(event.folder).absolute() / LOG).open("a", encoding="utf-8", newline="\n")
            self._log = JsonLines(self._file)
            self._started(self)
        try:
            self._log.show(event, self.report)
        except OSError as error:
            self._log = Nothing()
            self._show(StepOutput("", None, "stderr", f"the log {LOG} ends here: {error}"))

    def _show(self, event: Event) -> None:
        try:
            self._display.show(event, self.report)
        except OSError:
            self._display = Nothing()  # the terminal has gone; the run goes on


def run_flow(graph: FlowGraph, params: Mapping[str, object], options: RunOptions) -> int:
    """Run a flow as the command line says; return the exit code.

    Raises ParameterError for parameters that do not fit and for an id that no run could have.
    """
    # A debugger gets the terminal as it is.
    direct = options.executor == "inline" and options.log_format == "human" and not options.quiet and os.isatty(2)
    descriptors = Descriptors(direct=direct)
    listener = Listener(_display(options, descriptors.terminal), descriptors.start)
    ending = _Ending(options, descriptors, listener)
    try:
        with _interrupted_by_sigterm(), ExitStack() as ended:
            # In this order, whatever happens on the way: what is held back is shown before the display ends.
            ended.callback(listener.close)
            ended.callback(descriptors.end, listener)
            if options.output is not None:
                check_writable(options.output)
            config = load_config(environment=options.environment)
            level = logging.getLevelNamesMapping()[config.log_level]
            runner = LocalRunner(
                executor=options.executor,
                workers=options.workers,
                listener=listener,
                inline_limit=config.inline_limit,
                captured_level=level,
            )
            emit, through = (listener.take_shown, descriptors.terminal) if direct else (listener, None)
            ended.callback(capture_streams(emit, level, through))
            result = runner.run(graph, params, run_id=options.run_id, resume=options.resume)
    except KeyboardInterrupt:
        return ending.interrupted()
    except ParameterError:
        raise
    except LokkiError as error:
        return ending.failed(error)
    return ending.finished(result)


class _Ending:
    """Says how a run ended: the result to stdout, or why there is none, and how to go on, to stderr."""

    def __init__(self, options: RunOptions, descriptors: Descriptors, listener: Listener) -> None:
        self._options = options
        self._descriptors = descriptors
        self._listener = listener

    @property
    def _resume(self) -> str:
        run_id = self._listener.report.run_id
        return f"{self._options.again} --resume {run_id}" if run_id else ""

    def interrupted(self) -> int:
        """Say that the run was interrupted."""
        self._say(f"interrupted{f'; go on with: {self._resume}' if self._resume else ''}", event="interrupted")
        return INTERRUPTED

    def failed(self, error: LokkiError) -> int:
        """Say what failed: the traceback of the user's step, one line of what and where, and how to go on."""
        text = from_here(str(error))
        trace = _trace(self._listener.report, error, self._options.traceback)
        go_on = f"\nmend it and go on with: {self._resume}" if self._resume else ""
        self._say(f"{trace}error: {text}{go_on}", event="error", message=text)
        return FAILED

    def finished(self, result: object) -> int:
        """Hand over the result."""
        output = self._options.output
        if output is None:
            return self._print(result)
        try:
            write_result(output, result)
        except RunError as error:
            return self._keep_result(from_here(str(error)))
        if not self._options.quiet:
            shown_path = from_here(str(output))
            self._say(f"result written to {shown_path}", event="result_written", path=shown_path)
        return DONE

    def _print(self, result: object) -> int:
        text = shown(result)
        stdout = self._descriptors.stdout
        try:
            stdout.write(f"{text}\n" if text is not None else "")
            stdout.flush()
        except OSError as error:
            # What is held back goes nowhere, or Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return FAILED  # whoever read the result has gone
            return self._keep_result(f"the result cannot be printed: {error.strerror}")
        return DONE

    def _keep_result(self, problem: str) -> int:
        text = f"{problem}; the result is kept: write it to another file with: {self._resume} --output FILE"
        self._say(f"error: {text}", event="error", message=text)
        return FAILED

    def _say(self, text: str, **fields: str) -> None:
        terminal = self._descriptors.terminal
        with suppress(OSError):
            if self._options.log_format == "json":
                JsonLines(terminal).write({**fields, **({"resume": self._resume} if self._resume else {})})
            else:
                terminal.write(f"{text}\n")
                terminal.flush()


def shown(result: object) -> str | None:
    """Return the text for a result on stdout: text as it is, JSON values as JSON, nothing for None, else ``str()``.

    >>> shown("honk"), shown([1, 2]), shown(None), shown({1, 2})
    ('honk', '[1, 2]', None, '{1, 2}')
    """
    if result is None or isinstance(result, str):
        return result
    if isinstance(result, bool | int | float | list | dict):
        try:
            return _json(result, indent=2 if isinstance(result, dict) else 0)
        except ValueError:
            return str(result)
    return str(result)


def write_result(path: Path, result: object) -> None:
    """Write a result to a file, whole or not at all: as JSON where the name ends in ``.json``, else pickled.

    Raises RunError for a result that JSON cannot hold, and when the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        try:
            content = f"{_json(result, indent=2)}\n".encode()
        except ValueError as error:
            raise RunError(f"--output {path}: the result is no JSON: {error}") from None
    else:
        content = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    try:
        _replace_file(path, content)
    except OSError as error:
        raise RunError(f"--output {path} cannot be written: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Raise RunError unless a file could be written there; nothing is left behind."""
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    folder = path.resolve().parent
    if not folder.is_dir():
        raise RunError(f"--output {path}: there is no folder {path.parent}.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"--output {path}: nothing can be written in {path.parent}: {error.strerror}.") from None


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to the disk and rename it; a device or a pipe is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # a link stays, and what it leads to is replaced
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Not by tempfile, whose files nobody else may read: this one is to have the mode that the user's umask gives.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _json(result: object, indent: int) -> str:
    """Return a result as JSON. Raises ValueError, which says why it has no such form."""
    try:
        builtin = msgspec.to_builtins(result, str_keys=True)
        encoded = msgspec.json.encode(builtin)
    except (TypeError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from None
    _refuse_infinite(builtin)
    return msgspec.json.format(encoded, indent=indent).decode()


def _refuse_infinite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no number {value}")
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _refuse_infinite(member)


def _display(options: RunOptions, terminal: TextIO) -> Display:
    if options.quiet:
        return Nothing()
    if options.log_format == "json":
        return JsonLines(terminal)
    live = terminal.isatty() and options.executor != "inline" and os.environ.get("TERM") not in ("dumb", "unknown")
    return LiveBars(terminal) if live else PlainLines(terminal)


def _trace(report: RunReport, error: LokkiError, everything: bool) -> str:
    """Return the traceback of the failure that ended the run; ``everything``: lokki's own frames too."""
    failure = report.failure
    if failure is not None and str(failure) in str(error):
        return failure.full_traceback if everything else failure.traceback
    return "".join(traceback.format_exception(error)) if everything else ""


def from_here(text: str) -> str:
    """Shorten paths below the current directory."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # a step has removed it
        return text
    return text if here == "/" else text.replace(f"{here}/", "")


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which containers and CI end a job, end a run as cleanly as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
