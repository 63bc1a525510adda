"""What commands that wait for a run write: its result, to stdout or a file; progress and last words, to stderr."""

from __future__ import annotations

import math
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from lokki.base.failures import describe_error, error_text
from lokki.cli.options import DONE, FAILED, from_here
from lokki.errors import RunError, StopSignal
from lokki.progress.displays import Display, JsonLines, LiveBars, Nothing, PlainLines
from lokki.store.local import flush_directory


@dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes, stdout without ``file``, and what stderr gets. ``traceback``: with lokki's own frames."""

    log_format: str = "human"
    quiet: bool = False
    file: Path | None = None
    traceback: bool = False

    def display(self) -> Display:
        """Return what shows a run's events: bars on a terminal, else lines."""
        if self.quiet:
            return Nothing()
        if self.log_format == "json":
            return JsonLines(sys.stderr)
        live = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        return LiveBars(sys.stderr) if live else PlainLines(sys.stderr)

    def say(self, text: str, **fields: str) -> None:
        """Say something in words, or its fields as a line of JSON."""
        if self.log_format == "json":
            JsonLines(sys.stderr).write(dict(fields))
        else:
            sys.stderr.write(f"{text}\n")

    def hand_over(self, result: object, kept: str) -> int:
        """Write a result to the file, or else to stdout; return the exit code.

        ``kept``: how to get the result where that does not work.
        """
        try:
            if self.file is not None:
                write_result(self.file, result)
                if not self.quiet:
                    path = from_here(str(self.file))
                    self.say(f"result written to {path}", event="result_written", path=path)
            elif (text := shown(result)) is not None:
                click.echo(text, color=True)  # as it is, whatever stdout is
        except RunError as error:
            text = f"{error}; the result is kept: read it with {kept}"
            self.say(f"error: {text}", event="error", message=text)
            return FAILED
        return DONE


def output_of(values: Mapping[str, object]) -> Output:
    """Read the options that `lokki.cli.options.output_options` makes."""
    file = values["output"]
    return Output(
        str(values["log_format"]),
        bool(values["quiet"]),
        Path(str(file)) if file is not None else None,
        bool(values["traceback"]),
    )


def shown(result: object) -> str | None:
    """Return the text for a result on stdout: text as it is, JSON values as JSON, nothing for None, else ``str()``.

    Raises RunError for a result whose own code raises meanwhile, or that is nested too deep.

    >>> shown("honk"), shown([1, 2]), shown(None), shown({1, 2})
    ('honk', '[1, 2]', None, '{1, 2}')
    """
    if result is None:
        return None
    try:
        with _numbers_of_any_length():
            return _text(result)
    except (KeyboardInterrupt, StopSignal):
        raise
    # A result's own code may raise anything.
    except BaseException as error:
        raise RunError(f"the result cannot be shown: {describe_error(error)}") from error


def _text(result: object) -> str:
    if isinstance(result, str):
        return f"{result}"
    if isinstance(result, bool | int | float | list | dict):
        try:
            return _json(result, indent=2 if isinstance(result, dict) else 0)
        except ValueError:
            return str(result)
    return str(result)


@contextmanager
def _numbers_of_any_length() -> Iterator[None]:
    """Let Python write whole numbers of more than 4,300 digits: it protects servers from long ones in what they read.

    https://docs.python.org/3/library/stdtypes.html#integer-string-conversion-length-limitation
    """
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def write_result(path: Path, result: object) -> None:
    """Write a result to a file, whole or not at all: as JSON where the name ends in ``.json``, else pickled.

    Raises RunError for a result that JSON cannot hold, and when the file cannot be written.
    """
    content = _content(path, result)
    try:
        _replace_file(path, content)
    except OSError as error:
        raise RunError(f"--output {path} cannot be written: {error.strerror or error}") from None


def _content(path: Path, result: object) -> bytes:
    """Return what a file of this name holds of a result. Raises RunError for what it cannot hold."""
    is_json = path.suffix.lower() == ".json"
    try:
        with _numbers_of_any_length():
            return f"{_json(result, indent=2)}\n".encode() if is_json else pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except (KeyboardInterrupt, StopSignal):
        raise
    # A result's own code may raise anything.
    except BaseException as error:
        if is_json and isinstance(error, ValueError):
            raise RunError(f"--output {path}: the result is no JSON: {error_text(error)}") from error
        raise RunError(f"--output {path}: the result cannot be written: {describe_error(error)}") from error


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
    flush_directory(path.parent)


def _json(result: object, indent: int) -> str:
    """Return a result as JSON. Raises ValueError, which says why it has no such form."""
    try:
        builtin = msgspec.to_builtins(result, str_keys=True)
        encoded = msgspec.json.encode(builtin)
    except (TypeError, RecursionError, UnicodeError) as error:
        raise ValueError(error_text(error)) from None
    _refuse_infinite(builtin)
    return msgspec.json.format(encoded, indent=indent).decode()


def _refuse_infinite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no number {value}")
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _refuse_infinite(member)
