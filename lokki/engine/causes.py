"""Why a deployed or emulated run failed, in the words of a local run.

Lambda and Step Functions report a failure as an error name and a cause. This module is the one reader of both:

1. `reported_failure` reads one error and its cause as a `Failure`.
2. `RunTranslator` points it at the flow's file on this machine: in a package paths begin at the flow's folder.
3. `why_failed` says why the whole run failed, from the report of its events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace

import msgspec

from lokki.base.failures import Failure
from lokki.base.values import JsonField
from lokki.engine.events import Event, ItemFailed, RunFailed, StepFailed, StepRetried
from lokki.engine.invocation import definition_place
from lokki.engine.report import OpReport, RunReport, fold, map_failure
from lokki.errors import StepTimeoutError
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources
from lokki.plans.operations import MAP
from lokki.plans.templates import Results

THRESHOLD = "States.ExceedToleratedFailureThreshold"
"""What a map fails with when more items failed than it tolerates.
https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html"""

TIMEOUT = "States.Timeout"
"""What an execution fails with when it runs out of time.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""

_TOO_MANY = "TooManyFailuresError"
"""What lokki's handler raises when a map in batches lost more items than it tolerates: its children succeeded."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_OWN = re.compile(r"[\"/]lokki/")
_CODE = "/var/task/"
"""Where Lambda has a function's code; behind it a file has the path that it has below the flow's folder.
https://docs.aws.amazon.com/lambda/latest/dg/python-package.html"""

_AT_ITEM = re.compile(r"item (\d+): ")
"""Begins the message of an error that lokki's handler raises for an item of a batch."""

_CLASS_ENDINGS = ("Error", "Exception", "Exit", "Interrupt", "Warning")

_LATE = re.compile(r"Task timed out after (\d+(?:\.\d+)?) seconds")
_EXITED = re.compile(r"Runtime exited (?:with error: (?:exit status (\d+)|signal: ([a-z/ ]+\w))|without providing)")

_SIGNALS = {
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
        trace = "".join(details.stackTrace or ()).replace(_CODE, "")
    error, message = _local_words(*_own_class(error, message, trace))
    users = "".join(f"{line}\n" for line in _entries(trace) if not _OWN.search(line))
    places = _FRAME.findall(users)
    # A timeout is at its step, as in a local run: where the step was then says the traceback.
    where = f"{places[-1][0]}:{places[-1][1]}" if places and error != StepTimeoutError.__name__ else ""
    last = f"{error}: {message}\n"
    short, full = (f"Traceback (most recent call last):\n{text}{last}" if text else "" for text in (users, trace))
    return Failure(step, error, message, where, short, full)


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
    return f"was killed by {_SIGNALS.get(name, name)}"


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


class RunTranslator:
    """Folds the events of a deployed or emulated run in local words.

    * ``report``: of the events so far.
    * ``locate``: returns the path here of a path in a package; what is not here stays as it is.
    """

    def __init__(self, plan: Plan, locate: Callable[[str], str]) -> None:
        self.report = RunReport()
        self._plan = plan
        self._locate = locate
        # For failures that come from no line of the user's, such as the death of a function.
        self._definitions = {call.id: definition_place(plan.steps[call.step].fn) for call in plan.calls}

    def translate(self, event: Event) -> Event:
        """Return an event with the paths and words of a local run."""
        match event:
            case StepRetried() | StepFailed() | ItemFailed():
                event = replace(event, failure=self._localize(event.failure))
            case RunFailed():
                event = replace(event, message=self.why(event.message))
        self.report = fold(self.report, event)
        return event

    def why(self, message: str) -> str:
        """Say why the run failed.

        ``message``: the error and the cause that it ended with.
        """
        return why_failed(self.report, self._plan, message)

    def _localize(self, failure: Failure) -> Failure:
        failure = localize_failure(failure, self._locate)
        return failure if failure.where else replace(failure, where=self._definitions.get(failure.step, ""))


def localize_failure(failure: Failure, locate: Callable[[str], str]) -> Failure:
    """Return a failure with the paths of files here.

    ``locate``: returns the path here of a path in a package.
    """

    def localize_trace(text: str) -> str:
        return _FRAME.sub(lambda frame: f'File "{locate(frame[1])}", line {frame[2]}', text)

    file, _, line = failure.where.rpartition(":")
    return replace(
        failure,
        where=f"{locate(file)}:{line}" if file else "",
        traceback=localize_trace(failure.traceback),
        full_traceback=localize_trace(failure.full_traceback),
    )


def why_failed(report: RunReport, plan: Plan, message: str) -> str:
    """Say why an execution of a flow's state machine failed.

    * ``report``: all that happened before the end.
    * ``message``: the error and the cause that the execution ended with, for what only Step Functions can say.
    """
    failure = report.failure
    if failure is not None and failure.error == _TOO_MANY:
        reads = next((call.reads for call in plan.calls if call.id == failure.step), None)
        op = report.ops.get(reads.id) if isinstance(reads, Results) else None
        # Only the handler has seen all items: those that failed inside a batch are in no event of Step Functions.
        is_known = op is not None and f"{op.failed} of {op.items} items" in failure.message
        return _map_failure_of(op, plan) if op is not None and is_known else message
    if message.startswith(THRESHOLD):
        # Maps before it are finished, whatever they tolerated.
        op = next((op for op in report.ops.values() if op.id.endswith(MAP) and op.status != "finished"), None)
        return _map_failure_of(op, plan) if op is not None and op.failed else message
    step_failed = any(op.status == "failed" and not op.id.endswith(MAP) for op in report.ops.values())
    if failure is not None and step_failed:
        return str(failure)
    if message.startswith(TIMEOUT) and plan.options.timeout is not None:
        return f"the run took longer than the flow's timeout of {plan.options.timeout:g} seconds."
    return message


def _map_failure_of(op: OpReport, plan: Plan) -> str:
    fan_out = plan.fan_out(op.id)
    source = drawn_sources(plan.ops)[fan_out.id]
    return map_failure(source, (op.failed, op.items or 0), fan_out.options.tolerate, op.failed_item, op.failure)
