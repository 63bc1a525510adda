"""Why a deployed or emulated run failed, in the words of a local run.

Lambda and Step Functions report a failure as an error name and a cause. This module is the one reader of both:
`reported_failure` reads them as a `Failure`, and `child_failure` those of a map's child. `lokki.observing.translating`
points failures at the flow's file on this machine, and says why the whole run failed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import msgspec

from lokki.base.failures import Failure
from lokki.base.naming import CODE_FOLDER
from lokki.base.values import JsonField
from lokki.errors import ItemFailedError, StepTimeoutError

THRESHOLD = "States.ExceedToleratedFailureThreshold"
"""What a map fails with when more items failed than it tolerates.
https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html"""

TIMEOUT = "States.Timeout"
"""What an execution fails with when it runs out of time.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
"""A place in a traceback."""

_OWN = re.compile(r"[\"/]lokki/")
_AT_ITEM = re.compile(r"item (\d+): ")
"""Begins the message of an error that lokki's handler raises for an item of a batch."""

_CLASS_ENDINGS = ("Error", "Exception", "Exit", "Interrupt", "Warning")

_EARLIER = re.compile(r"(\w+)\(\) raised ([\w.]+): (.*?)(?: at (\S+:\d+))?", re.DOTALL)
"""What lokki's handler says of an item that failed before the map below it was done."""

_FUNCTION = re.compile(r", in (\w+)\n")
_NUMBER = re.compile(r"_\d+$")
"""Ends the id of a further call of a step."""

_LATE = re.compile(r"Task timed out after (\d+(?:\.\d+)?) seconds")
_EXITED = re.compile(r"Runtime exited (?:with error: (?:exit status (\d+)|signal: ([a-z/ ]+\w+))|without providing)")

SIGNALS = {
    "aborted": "SIGABRT", "bus error": "SIGBUS", "floating point exception": "SIGFPE", "illegal instruction": "SIGILL",
    "killed": "SIGKILL", "segmentation fault": "SIGSEGV", "terminated": "SIGTERM",
}  # fmt: skip
"""Signals by the words that Lambda has for them: those of Go, in which its runtime is written.
https://pkg.go.dev/syscall#Signal"""


class _Cause(msgspec.Struct, frozen=True):
    """The cause of a function's error, as Lambda writes it.

    https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
    """

    errorMessage: str  # noqa: N815 - as Lambda writes it
    stackTrace: list[str] | None = None  # noqa: N815 - as Lambda writes it


def reported_failure(step: str, error: str, cause: str) -> Failure:
    """Describe the failure of a step from its error and cause.

    A function's cause is JSON with a message and a stack trace, that of others is text. lokki's own frames are left
    out of the traceback, but not of the full one. Files have their paths in the package. A timeout and the death of a
    function have the names and words that they have in a local run.
    """
    message, trace = cause, ""
    try:
        details = msgspec.json.decode(cause, type=_Cause)
    except msgspec.MsgspecError:
        details = None
    if details is not None:
        message = details.errorMessage
        trace = "".join(details.stackTrace or ()).replace(CODE_FOLDER, "")
    earlier = _EARLIER.fullmatch(message) if error == ItemFailedError.__name__ else None
    if earlier is not None:  # of a level before, in which no line of the user's is any more
        return Failure(earlier[1], earlier[2], earlier[3], earlier[4] or "")
    error, message = _local_words(*_own_class(error, message, trace))
    users = "".join(f"{line}\n" for line in _entries(trace) if not _OWN.search(line))
    # A timeout is at its step, as in a local run: where the step was then says the traceback.
    where = _place(users) if error != StepTimeoutError.__name__ else ""
    last = f"{error}: {message}\n"
    short, full = (f"Traceback (most recent call last):\n{text}{last}" if text else "" for text in (users, trace))
    return Failure(step, error, message, where, short, full)


def _place(trace: str) -> str:
    """Return the line that an error came from, as a local run does.

    That is the last one of a package; where there is none, the first of a library.
    """
    places = FRAME.findall(trace)
    packaged = [place for place in places if not place[0].startswith(("/", "<"))]
    return ":".join((packaged[-1:] or places[:1] or [()])[0])


def child_failure(inner: Sequence[str], error: str, cause: str) -> Failure:
    """Describe why a child execution of a map failed.

    ``inner``: the ids of the map's steps. The traceback names the one that failed, where it has one. An item that
    failed in a level before names its step itself.
    """
    failure = reported_failure("", error, cause)
    if failure.step:
        return failure
    # Step Functions' record of a child does not say in which state it failed; the traceback often does. It names
    # functions: two calls of one step, `clean` and `clean_2`, are not told apart by it.
    functions = set(_FUNCTION.findall(failure.full_traceback))
    named = [call for call in inner if functions.intersection((call, _NUMBER.sub("", call)))]
    if not named:  # of a flow that is a step, the calls have its name before theirs
        named = [call for call in inner if any(_NUMBER.sub("", call).endswith(f"_{name}") for name in functions)]
    return replace(failure, step=named[0] if len(named) == 1 else " → ".join(inner))


def item_at_fault(cause: str, items: Collection[int]) -> tuple[int | None, str]:
    """Return which item of a batch failed, and the cause without its number.

    None where the cause does not say it: the function died, or the batch is no batch of several items.
    """
    try:
        details = msgspec.json.decode(cause, type=dict[str, JsonField])
    except msgspec.MsgspecError:
        return None, cause
    message = details.get("errorMessage")
    match = _AT_ITEM.match(message) if isinstance(message, str) else None
    if match is None or len(items) == 1 or int(match[1]) not in items:
        return None, cause
    rest = match.string[match.end() :]
    return int(match[1]), msgspec.json.encode({**details, "errorMessage": rest}).decode()


def _own_class(error: str, message: str, trace: str) -> tuple[str, str]:
    """Return the class that an error has, and its message without it.

    Where all errors are tried again, lokki's handler calls each ``Exception``, as Step Functions compares names, and
    begins the message with its class. A step's own ``Exception("key: value")`` stays what it is.
    """
    name, separator, rest = message.partition(": ")
    if error != "Exception" or not separator or not name.isidentifier():
        return error, message
    raised = re.search(rf"\braise {name}\b", trace) is not None
    return (name, rest) if raised or name.endswith(_CLASS_ENDINGS) else (error, message)


def _local_words(error: str, message: str) -> tuple[str, str]:
    """Return the name and text that an error of Lambda has in a local run."""
    late, exited = _LATE.search(message), _EXITED.search(message)
    # The names are those of the classes in lokki.errors that a local run raises.
    if error == "Sandbox.Timedout" and late is not None:
        return "StepTimeoutError", f"took longer than its timeout of {float(late[1]):g} seconds"
    advice = _memory_advice(error, exited)
    if error in ("Runtime.ExitError", "Runtime.OutOfMemory") and exited is not None:
        return "WorkerError", f"the worker process {_how_ended(exited)}{advice}"
    return error, f"{message}{advice}"


def _how_ended(exited: re.Match[str]) -> str:
    status, name = exited[1], exited[2]
    if name is None:
        return f"exited with code {status or 0}"
    return f"was killed by {SIGNALS.get(name, name)}"


def _memory_advice(error: str, exited: re.Match[str] | None) -> str:
    """Say what to do about a function that may have died of memory."""
    advice = "out of memory: give the step a larger memory=, or memory_max= for another try)"
    if error == "Runtime.OutOfMemory":
        return f" ({advice}"
    is_killed = error == "Runtime.ExitError" and exited is not None and exited[2] == "killed"
    return f" (perhaps {advice}" if is_killed or error == "Lambda.Unknown" else ""


def _entries(trace: str) -> list[str]:
    """Cut a stack trace into its entries, each a place and its line of code."""
    return [entry.rstrip("\n") for entry in re.split(r"(?m)^(?=  File )", trace) if entry.strip()]
