"""What Step Functions knows of the runs of a deployed flow."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from lokki.base.naming import LARGER_SUFFIX
from lokki.base.values import Json
from lokki.builder.states import MapState, machine_of
from lokki.deploy.aws import Aws, aws_errors, code_of, message_of
from lokki.deploy.deployed import Deployed
from lokki.engine.causes import reported_failure
from lokki.engine.events import ItemFailed
from lokki.errors import AwsError, RunFolderError
from lokki.operate.attribution import StreamEvent
from lokki.operate.logs import LogWindow, merged_events, run_lines
from lokki.operate.machine import execution_arn, function_reply, results_folder
from lokki.plan_json import plan_from_definition
from lokki.results.flow_results import FlowResults
from lokki.results.items import LogLine, RunInfo
from lokki.results.modules import OwnModule
from lokki.results.remote import RemoteCatalog, has_results
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.map_results import BatchFailure, item_results, read_result_files
from lokki.store.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_stepfunctions import SFNClient
    from mypy_boto3_stepfunctions.type_defs import (
        DescribeExecutionOutputTypeDef,
        DescribeMapRunOutputTypeDef,
        ExecutionListItemTypeDef,
        HistoryEventTypeDef,
    )

_PAGE = 1000
_ENDED_BADLY = ("FAILED", "TIMED_OUT")


class LateParams(Mapping[str, Json]):
    """The parameters of a run that was listed, read when they are touched.

    That takes one more call.
    """

    def __init__(self, runs: DeployedRuns, run_id: str) -> None:
        self._runs = runs
        self._run_id = run_id
        self._found: Mapping[str, Json] | None = None

    def __getitem__(self, name: str) -> Json:
        return self._load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def _load(self) -> Mapping[str, Json]:
        if self._found is None:
            self._found = self._runs.describe(self._run_id).params
        return self._found


@dataclass(frozen=True, slots=True)
class DeployedRuns:
    """The executions of a deployed flow.

    What `lokki.results.flow_results` and the commands ask of them. ``store``: where they keep what they hand on.
    """

    states: SFNClient
    cloudwatch: CloudWatchLogsClient
    deployed: Deployed
    store: Store

    def arn(self, run_id: str) -> str:
        """Return the ARN of a run's execution."""
        return execution_arn(self.deployed.state_machine, run_id)

    def list(self) -> builtins.list[RunInfo]:
        """Return all runs, the newest first.

        Their parameters are loaded when they are touched.
        """
        return self._infos(None)

    def recent(self, limit: int) -> builtins.list[RunInfo]:
        """Return so many of the newest runs.

        From one page of those that run or ended last.
        """
        return self._infos(max(limit, _PAGE))[:limit]

    def describe(self, run_id: str) -> RunInfo:
        """Return what is known of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """
        execution = self.execution(run_id)
        stop = execution.get("stopDate")
        took = (stop - execution["startDate"]).total_seconds() if stop is not None else None
        params = msgspec.json.decode(execution.get("input") or "{}")
        error = ""
        if execution.get("error") or execution.get("cause"):
            failure = reported_failure("", execution.get("error", ""), execution.get("cause", ""))
            error = ": ".join(part for part in (failure.error, failure.message) if part)
        started = execution["startDate"].astimezone(UTC)
        status = execution["status"].lower()
        parameters = params if isinstance(params, dict) else {}
        return RunInfo(run_id, self.deployed.flow, status, started, took, parameters, error)

    def execution(self, run_id: str) -> DescribeExecutionOutputTypeDef:
        """Return what Step Functions says of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """
        with self._errors(run_id, "read the run"):
            return self.states.describe_execution(executionArn=self.arn(run_id))

    def definition(self, run_id: str) -> Json:
        """Return the state machine's definition as the run has it."""
        with self._errors(run_id, "read the run's state machine"):
            machine = self.states.describe_state_machine_for_execution(executionArn=self.arn(run_id))
        definition: Json = msgspec.json.decode(machine["definition"])
        return definition

    def history(self, run_id: str, last: int = 0) -> builtins.list[HistoryEventTypeDef]:
        """Return the run's events that follow an id, oldest first.

        Only pages that have newer ones are read.
        """
        events: builtins.list[HistoryEventTypeDef] = []
        with self._errors(run_id, "read the run's history"):
            pages = self.states.get_paginator("get_execution_history").paginate(
                executionArn=self.arn(run_id), reverseOrder=True, PaginationConfig={"PageSize": _PAGE}
            )
            for page in pages:
                events += [event for event in page["events"] if event["id"] > last]
                if not page["events"] or page["events"][-1]["id"] <= last:
                    break
        return events[::-1]

    def output(self, run_id: str, state: str) -> Json:
        """Return what a state of the run itself gave.

        That is the reply of a task's function, and the output of another state. A state of a map's child is none of
        these. None when there is no output.

        For a map that failed or ends a branch: ``{"results_manifest_key": key}`` of what its Map Run wrote.
        """
        return self.outputs(run_id, (state,)).get(state)

    def outputs(self, run_id: str, states: Iterable[str]) -> dict[str, Json]:
        """Return what some states of the run gave, as `output` does.

        States without an output are left out.
        """
        map_runs: dict[str, str] = {}
        outputs: dict[str, Json] = {}
        current: dict[int, str] = {}  # by the id of each event: branches mix theirs
        events: dict[int, HistoryEventTypeDef] = {}
        for event in self.history(run_id):
            previous = event.get("previousEventId", event["id"] - 1)
            entered = event.get("stateEnteredEventDetails", {}).get("name")
            state = current[event["id"]] = entered or current.get(previous, "")
            events[event["id"]] = event
            started = event.get("mapRunStartedEventDetails") or event.get("mapRunRedrivenEventDetails")
            if started is not None:
                map_runs[state] = started.get("mapRunArn", "")
            left = event.get("stateExitedEventDetails")
            if left is not None:
                before = events.get(previous)
                if before is None or before["type"] not in ("TaskFailed", "TaskTimedOut"):
                    outputs[left["name"].removesuffix(LARGER_SUFFIX)] = _reply(before, left.get("output", "null"))
        for state in states:
            if map_runs.get(state) and not has_results(outputs.get(state)):
                outputs[state] = self._written(run_id, state, map_runs[state])
        return {state: outputs[state] for state in states if outputs.get(state) is not None}

    def map_runs(self, run_id: str) -> builtins.list[DescribeMapRunOutputTypeDef]:
        """Return what is known of each Map Run of a run, the first first."""
        with self._errors(run_id, "list the run's maps"):
            pages = self.states.get_paginator("list_map_runs").paginate(executionArn=self.arn(run_id))
            listed = [map_run for page in pages for map_run in page["mapRuns"]]
        return [
            self.map_run(map_run["mapRunArn"]) for map_run in sorted(listed, key=lambda map_run: map_run["startDate"])
        ]

    def map_run(self, arn: str) -> DescribeMapRunOutputTypeDef:
        """Return what is known of a Map Run."""
        with aws_errors("read how far the map is"):
            return self.states.describe_map_run(mapRunArn=arn)

    def failed_children(
        self, map_run: str, limit: int, reported: frozenset[str] = frozenset(), since: datetime | None = None
    ) -> builtins.list[DescribeExecutionOutputTypeDef]:
        """Return some child executions of a map that failed or timed out.

        At most ``limit``, without those that are known. ``since``: when the map was redriven; until its children are
        started again, it lists their failures of before, which are left out.
        """
        # Old failures may stand before any number of new ones.
        config: Any = {} if since is not None else {"MaxItems": limit + len(reported)}
        names: builtins.list[str] = []
        with aws_errors("list the map's failed items"):
            for status in _ENDED_BADLY:
                pages = self.states.get_paginator("list_executions").paginate(
                    mapRunArn=map_run,
                    statusFilter=status,  # type: ignore[arg-type]
                    PaginationConfig=config,
                )
                names += [
                    child["executionArn"]
                    for page in pages
                    for child in page["executions"]
                    if since is None or "stopDate" not in child or child["stopDate"] >= since
                ]
            new = [name for name in names if name not in reported][:limit]
            children = [self.states.describe_execution(executionArn=name) for name in new]
        # One that is being redriven was listed as failed and is in progress by now: it has no error any more.
        return [child for child in children if child["status"] in _ENDED_BADLY]

    def failed_inside(self, run_id: str, state: MapState, map_run: str, items: int) -> builtins.list[ItemFailed]:
        """Return the items that failed in batches that went on without them.

        Step Functions counts them as succeeded: only the results of a map that has succeeded tell of them. Raises
        StoreError for results that cannot be read.
        """
        url = self.store.url(self._manifest(run_id, state.key, map_run))
        files = read_result_files(self.store, url)
        failed = [
            ItemFailed(state.key, entry.path or (entry.index,), entry.failed.failure)
            for entry in item_results(self.store, url, files, items)
            if isinstance(entry.failed, BatchFailure)
        ]
        return sorted(failed, key=lambda event: event.item)

    def logs(self, run_id: str) -> Iterator[LogLine]:
        """Yield what the functions logged in the run, in order of time."""
        return run_lines(self.cloudwatch, self._log_groups, run_id, self._window(run_id))

    def log_events(self, run_id: str) -> Iterator[StreamEvent]:
        """Yield all that the functions wrote during the run, in order of time.

        What they wrote for other runs of that time is among it.
        """
        return merged_events(self.cloudwatch, self._log_groups, self._window(run_id))

    @property
    def _log_groups(self) -> builtins.list[str]:
        return sorted(set(self.deployed.log_groups.values()))

    def _window(self, run_id: str) -> LogWindow:
        execution = self.execution(run_id)
        return LogWindow.of(execution["startDate"], execution.get("stopDate"))

    def start(self, run_id: str, params: Mapping[str, Json]) -> bool:
        """Start a run through the live alias.

        False if there is one of this id that has ended or has other parameters.

        Starting it again while it runs, with equal parameters, changes nothing and is True.
        https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
        """
        text = msgspec.json.encode(dict(params), order="sorted").decode()
        with aws_errors("start the run"):
            try:
                self.states.start_execution(stateMachineArn=self.deployed.live, name=run_id, input=text)
            except ClientError as error:
                if code_of(error) == "ExecutionAlreadyExists":
                    return False
                if code_of(error) in ("StateMachineDoesNotExist", "ResourceNotFound"):
                    raise AwsError(
                        f"the stack {self.deployed.stack} has no state machine that could be started. Deploy again."
                    ) from None
                raise
        return True

    def stop(self, run_id: str, reason: str) -> None:
        """Stop a run that is in progress.

        Raises RunFolderError for a run that does not exist, AwsError for one that has ended.
        """
        status = self.execution(run_id)["status"]
        if status not in ("RUNNING", "PENDING_REDRIVE"):
            raise AwsError(f"the run {run_id} has ended already: it is {status.lower()}.")
        with self._errors(run_id, "stop the run"):
            self.states.stop_execution(executionArn=self.arn(run_id), error="Stopped", cause=reason)

    def redrive(self, run_id: str) -> None:
        """Resume a run where it failed.

        Raises AwsError for one that cannot be redriven, and says why.

        https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
        """
        execution = self.execution(run_id)
        if execution["status"] in ("RUNNING", "PENDING_REDRIVE"):
            raise AwsError(f"the run {run_id} goes on already: it is {execution['status'].lower()}.")
        with self._errors(run_id, "redrive the run"):
            try:
                self.states.redrive_execution(executionArn=self.arn(run_id))
            except ClientError as error:
                if code_of(error) != "ExecutionNotRedrivable":
                    raise
                why = (execution.get("redriveStatusReason") or message_of(error)).rstrip(".")
                raise AwsError(f"the run {run_id} cannot be redriven: {why}. Start a new run: invoke.") from None

    def _infos(self, most: int | None) -> builtins.list[RunInfo]:
        config: Any = {"PageSize": _PAGE, **({"MaxItems": most} if most is not None else {})}
        with aws_errors("list the runs"):
            pages = self.states.get_paginator("list_executions").paginate(
                stateMachineArn=self.deployed.state_machine, PaginationConfig=config
            )
            infos = [self._listed(listed) for page in pages for listed in page["executions"]]
        return sorted(infos, key=lambda info: info.started, reverse=True)

    def _listed(self, listed: ExecutionListItemTypeDef) -> RunInfo:
        start, stop = listed["startDate"].astimezone(UTC), listed.get("stopDate")
        took = (stop - start).total_seconds() if stop is not None else None
        name = listed["name"]
        return RunInfo(name, self.deployed.flow, listed["status"].lower(), start, took, LateParams(self, name))

    def _written(self, run_id: str, state: str, map_run: str) -> Json:
        """Return the manifest of a Map Run that ended without success.

        None while it is in progress.
        """
        if self.map_run(map_run)["status"] == "RUNNING":
            return None
        key = machine_of(plan_from_definition(self.definition(run_id))).maps[state].key
        return {"results_manifest_key": self._manifest(run_id, key, map_run)}

    def _manifest(self, run_id: str, key: str, map_run: str) -> str:
        folder = Keys(f"{self.deployed.prefix}{run_id}").map_results(key)
        return f"{folder}{results_folder(map_run)}/manifest.json"

    @contextmanager
    def _errors(self, run_id: str, doing: str) -> Iterator[None]:
        with aws_errors(f"{doing} {run_id}"):
            try:
                yield
            except ClientError as error:
                if code_of(error) not in ("ExecutionDoesNotExist", "InvalidArn"):
                    raise
                raise RunFolderError(
                    f"{self.deployed.flow} has no run {run_id!r} in the stack {self.deployed.stack}. See which there "
                    "are: show"
                ) from None


def _reply(before: HistoryEventTypeDef | None, output: str) -> Json:
    """Return what a task's function replied, or the output of another state.

    ``before``: the event before the state was left. At the end of a branch, the output of a task is the branch's.
    """
    reply = None if before is None else function_reply(before)
    decoded: Json = msgspec.json.decode(output) if reply is None else reply
    return decoded


def runs_of(aws: Aws, deployed: Deployed) -> DeployedRuns:
    """Return the runs of a deployed flow."""
    return DeployedRuns(aws.states, aws.logs, deployed, _store(aws, deployed))


def results_of(aws: Aws, deployed: Deployed, file: Path | None = None) -> FlowResults:
    """Return the results of a deployed flow.

    They are read with the keys that the session of boto3 has.

    ``file``: the flow's, for values of classes that it defines itself.
    """
    runs = runs_of(aws, deployed)
    modules = OwnModule.of_package(file) if file is not None else None
    return FlowResults(deployed.flow, RemoteCatalog(deployed.flow, runs.store, runs, modules))


def _store(aws: Aws, deployed: Deployed) -> Store:
    return S3Store(deployed.bucket, deployed.prefix, environ=aws.environ())
