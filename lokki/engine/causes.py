"""What Step Functions has for the error of a Lambda function, read as why a step failed."""

from __future__ import annotations

import re

import msgspec

from lokki.base.failures import Failure

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_OWN = re.compile(r"[\"/]lokki/")
_CODE = "/var/task/"
"""Where Lambda has a function's code; behind it a file has the path that it has below the flow's folder.
https://docs.aws.amazon.com/lambda/latest/dg/python-package.html"""


def reported_failure(step: str, error: str, cause: str) -> Failure:
    """Describe a failure: a function's cause is JSON with message and stack trace, that of others is text.

    lokki's own frames are left out of the traceback, but not of the full one. Files have their paths in the package,
    which are those below the flow's folder.
    https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
    """
    message, trace = cause, ""
    try:
        described = msgspec.json.decode(cause)
    except msgspec.DecodeError:
        described = None
    if isinstance(described, dict) and "errorMessage" in described:
        message = str(described["errorMessage"])
        frames = described.get("stackTrace")
        if isinstance(frames, list):
            trace = "".join(map(str, frames)).replace(_CODE, "")
    message += _advice(error, message)
    users = "".join(f"{line}\n" for line in _entries(trace) if not _OWN.search(line))
    places = _FRAME.findall(users)
    where = f"{places[-1][0]}:{places[-1][1]}" if places else ""
    last = f"{error}: {message}\n"
    shown, full = (f"Traceback (most recent call last):\n{text}{last}" if text else "" for text in (users, trace))
    return Failure(step, error, message, where, shown, full)


def _advice(error: str, message: str) -> str:
    """Say what to do about a function that died of memory, or by a signal as that of memory is."""
    if error == "Runtime.OutOfMemory":
        return " (out of memory: give the step a larger memory=, or memory_max= for another try)"
    if error == "Lambda.Unknown" or (error == "Runtime.ExitError" and "signal: killed" in message):
        return " (perhaps out of memory: give the step a larger memory=, or memory_max= for another try)"
    return ""


def _entries(trace: str) -> list[str]:
    """Cut a stack trace into its entries, each a place and its line of code."""
    return [entry.rstrip("\n") for entry in re.split(r"(?m)^(?=  File )", trace) if entry.strip()]
