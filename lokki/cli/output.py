"""The result of a run as text for stdout, or in a file."""

from __future__ import annotations

import math
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lokki.base.failures import describe_error, error_text
from lokki.errors import RunError, StopSignal
from lokki.store.local import flush_directory


def result_text(result: object) -> str | None:
    """Return the text for a result on stdout, or None for no result.

    That is text as it is, JSON values as JSON, and ``str()`` of all else. Raises RunError for a result whose own code
    raises meanwhile, or that is nested too deep.

    >>> result_text("honk"), result_text([1, 2]), result_text(None), result_text({1, 2})
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
    """Let Python write whole numbers of more than 4,300 digits.

    The limit protects servers from long numbers in what they read.
    https://docs.python.org/3/library/stdtypes.html#integer-string-conversion-length-limitation
    """
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def write_result(path: Path, result: object) -> None:
    """Write a result to a file, whole or not at all.

    It is JSON where the name ends in ``.json``, else pickled. Raises RunError for a result that JSON cannot hold, and
    when the file cannot be written.
    """
    write_file(path, _content(path, result))


def write_file(path: Path, content: bytes, option: str = "--output") -> None:
    """Write a file, whole or not at all.

    Raises RunError when it cannot be written. ``option``: the one that named it.
    """
    try:
        _replace_file(path, content)
    except OSError as error:
        raise RunError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def _content(path: Path, result: object) -> bytes:
    """Return what a file of this name holds of a result.

    Raises RunError for what it cannot hold.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        with _numbers_of_any_length():
            return f"{_json(result, indent=2)}\n".encode() if is_json else pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except (KeyboardInterrupt, StopSignal):
        raise
    # A result's own code may raise anything.
    except BaseException as error:
        if is_json and isinstance(error, ValueError | RecursionError):
            why = f"the result is no JSON: {error_text(error)} (under a name without .json it is pickled)"
            raise RunError(f"--output {path}: {why}") from error
        raise RunError(f"--output {path}: the result cannot be written: {describe_error(error)}") from error


def check_writable(path: Path, option: str = "--output") -> None:
    """Raise RunError unless a file could be written there.

    Nothing is left behind. ``option``: the one that named it.
    """
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    folder = path.resolve().parent
    if not folder.is_dir():
        raise RunError(f"{option} {path}: there is no folder {path.parent}.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"{option} {path}: nothing can be written in {path.parent}: {error.strerror}.") from None


def _replace_file(path: Path, content: bytes) -> None:
    """Replace a file by one that is written beside it and flushed to the disk.

    A device or a pipe is written to as it is.
    """
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
    """Return a result as JSON.

    Raises ValueError, which says why it has no such form.
    """
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
