"""What is told of runs on AWS and emulated ones, in the words of a local run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lokki.base.failures import Failure
from lokki.engine.causes import FRAME, THRESHOLD, TIMEOUT
from lokki.engine.events import Event, ItemFailed, RunFailed, StepFailed, StepRetried
from lokki.engine.invocation import definition_place
from lokki.observing.report import OpReport, RunReport, fold, map_failure
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources
from lokki.plans.templates import Results

_TOO_MANY = "TooManyFailuresError"
"""What lokki's handler raises when a map in batches lost more items than it tolerates: its children succeeded."""


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

    ``locate``: returns the path here of a path in a package. The place is the last line of a file that is here, as in a
    local run: others in a package are of libraries.
    """

    def localize_trace(text: str) -> str:
        return FRAME.sub(lambda frame: f'File "{locate(frame[1])}", line {frame[2]}', text)

    frames = FRAME.findall(failure.traceback) if failure.where else []
    places = [(path, line) for path, line in frames if locate(path) != path]
    file, line = places[-1] if places else failure.where.rpartition(":")[::2]
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
        # Maps before it are over, whatever they tolerated.
        over = ("finished", "restored")
        op = next((op for op in report.ops.values() if op.is_map and op.status not in over), None)
        return _map_failure_of(op, plan) if op is not None and op.failed else message
    step_failed = any(op.status == "failed" and not op.is_map for op in report.ops.values())
    if failure is not None and step_failed:
        return str(failure)
    if message.startswith(TIMEOUT) and plan.options.timeout is not None:
        return f"the run took longer than the flow's timeout of {plan.options.timeout:g} seconds."
    return message


def _map_failure_of(op: OpReport, plan: Plan) -> str:
    fan_out = plan.fan_out(op.id)
    source = drawn_sources(plan.ops)[fan_out.id]
    return map_failure(source, (op.failed, op.items or 0), fan_out.options.tolerate, op.failed_item, op.failure)
