"""What a deployed run was billed: transitions, children of maps, and milliseconds of functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lokki.builder.states import machine_of
from lokki.estimate.spent import BilledInvocation, CountedUsage, sum_by_call
from lokki.operate.attribution import Attribution, StreamEvent
from lokki.operate.executions import DeployedRuns
from lokki.operate.json_logs import text_of_line
from lokki.operate.watching import Watch
from lokki.plan_json import plan_from_definition

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.type_defs import HistoryEventTypeDef

_REPORT = re.compile(r"REPORT RequestId: \S+.*\bBilled Duration: ([\d.]+) ms\s+Memory Size: (\d+) MB", re.DOTALL)
"""https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html"""


def count_spending(runs: DeployedRuns, run_id: str) -> CountedUsage:
    """Ask AWS what a run was billed.

    All of its history and of what its functions logged is read.
    """
    watch = Watch(runs.deployed.flow, run_id, {}, machine_of(plan_from_definition(runs.definition(run_id))))
    history = runs.history(run_id)
    children: dict[str, int] = {}
    for map_id, arn in map_runs_in(watch, history):
        children[map_id] = children.get(map_id, 0) + runs.map_run(arn)["executionCounts"]["total"]
    return CountedUsage(transitions_in(history), children, sum_by_call(billed_in(runs.log_events(run_id), run_id)))


def transitions_in(history: Iterable[HistoryEventTypeDef]) -> int:
    """Count the transitions of an execution.

    Each further try of a task is one, too: https://aws.amazon.com/step-functions/pricing/
    """
    kinds = [event["type"] for event in history]
    entered = sum(kind.endswith("StateEntered") for kind in kinds)
    return entered + max(0, kinds.count("TaskScheduled") - kinds.count("TaskStateEntered"))


def map_runs_in(watch: Watch, history: Iterable[HistoryEventTypeDef]) -> Iterator[tuple[str, str]]:
    """Yield the maps that an execution ran, by id and ARN."""
    for event in history:
        state = watch.state_of(event)
        watch = watch.at(event)
        started = event.get("mapRunStartedEventDetails")
        if started is not None and state in watch.machine.maps:
            yield watch.machine.maps[state].id, started.get("mapRunArn", "")


def billed_in(entries: Iterable[StreamEvent], run_id: str) -> Iterator[BilledInvocation]:
    """Yield what the invocations of a run were billed.

    The lines with which they end say so. One that ended before it said what it was for belongs to no run.
    """
    attribution = Attribution()
    for entry in entries:
        for _ in attribution.take(entry):
            pass
        subject = attribution.subject_of(entry.stream)
        report = _REPORT.match(text_of_line(entry.text.strip("\r\n")))
        if report is not None and subject is not None and subject.run == run_id:
            yield BilledInvocation(subject.call, float(report[1]), float(report[2]))
