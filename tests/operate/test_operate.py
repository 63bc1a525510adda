"""Watching, showing and reading deployed runs: real state machines and handlers, told in the shapes of AWS's APIs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, cast

import pytest
from aws.deployed import Deployed as InProcess
from aws.deployed import DyingFirst, Handlers
from aws.fake_account import ARN, START, FakeAws, FakeLogs, FakeStates, Pages, deployed
from aws.moto_server import Aws as Moto
from starlette.testclient import TestClient
from support.command import Place

from lokki import flow, step
from lokki.builder.states import CaseState, Machine, MapState, SwitchState
from lokki.cli.account import Account
from lokki.cli.commands.invoke import InvokeOptions, check_same_parameters, wait_for
from lokki.cli.commands.show import describe_run, runs_table, write_deployed_report
from lokki.cli.commands.ui import deployed_runs_of
from lokki.cli.last_words import OutputOptions
from lokki.cli.text import from_here
from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws
from lokki.deploy.deployed import Deployed
from lokki.emulator.s3.client import S3Server
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFailed,
    StepFinished,
    StepNotChosen,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.errors import AwsError, LokkiError
from lokki.graph import FlowGraph
from lokki.observing.report import RunReport, fold
from lokki.operate.executions import DeployedRuns
from lokki.operate.following import begin, begin_new, follow, look_back
from lokki.operate.spending import transitions_in
from lokki.operate.watching import Watch, take_history, take_map_run
from lokki.ui.app import make_app


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def odd_fails(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number * 10


@step
def total(values: list[int]) -> int:
    return sum(values)


@step
def refuse(value: int) -> int:
    raise ValueError(f"no {value}")


@flow
def tolerant(count: int = 5):
    return numbers(count).map(odd_fails, tolerate=0.5).agg(total)


@flow
def strict(count: int = 3):
    return numbers(count).map(odd_fails, concurrency=2).agg(total)


@flow
def batched(count: int = 4):
    return numbers(count).map(odd_fails, batch=2, tolerate=0.5).agg(total)


@flow
def refused(count: int = 3):
    return numbers(count).map(same).agg(total).next(refuse)


@step
def same(number: int) -> int:
    return number


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


@dataclass
class Operated:
    """A flow in its account, and what was waited for."""

    graph: FlowGraph
    s3: S3Server
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        in_process = InProcess(self.graph, LokkiConfig(artifact_bucket="acme-artifacts"), self.s3)
        self.states = FakeStates(in_process)
        aws = FakeAws(self.states, FakeLogs(), self.s3.variables("caller"))
        stack = deployed(in_process, {})
        self.account = Account(self.graph, cast("Aws", aws), stack, "python birds.py", "", "")

    def wait(self, run_id: str) -> int:
        """Wait for a run as ``invoke`` does; return the exit code."""
        watch = begin(self.account.runs, run_id)
        return wait_for(self.account, watch, InvokeOptions(), OutputOptions(), self.waits.append)

    def events(self, run_id: str = "run-1") -> list[Event]:
        told: list[Event] = []
        for _ in follow(self.account.runs, begin(self.account.runs, run_id), told.append, self.waits.append):
            pass
        return told


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_deployed_run_is_told_as_a_local_one_is(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    assert operated.account.runs.start("run-1", {"count": 5})
    assert operated.states.calls == [f"{ARN}:stateMachine:tolerant:live"]
    events = operated.events()
    assert kinds(events) == [
        *("RunStarted", "StepStarted", "StepFinished", "MapStarted", "ItemsFinished", "ItemFailed", "ItemFailed"),
        *("MapFinished", "StepStarted", "StepFinished", "RunFinished"),
    ]
    assert events[0] == RunStarted("tolerant", "run-1", {"count": 5})
    assert events[3:5] == [MapStarted("numbers", ("odd_fails",), 5, 0, 10_000), ItemsFinished("numbers", 3, 0.0)]
    failed = [event for event in events if isinstance(event, ItemFailed)]
    assert [(each.item, each.failure.error, each.failure.message) for each in failed] == [
        ((1,), "ValueError", "1 is odd"),
        ((3,), "ValueError", "3 is odd"),
    ]
    report = RunReport()
    for event in events:
        report = fold(report, event)
    op = report.ops["numbers.map"]
    assert (report.status, op.finished, op.failed, op.items) == ("finished", 3, 2, 5)


def test_items_are_counted_and_not_the_batches_they_are_in(s3: S3Server) -> None:
    operated = Operated(batched(), s3)
    operated.account.runs.start("batched-1", {})
    events = operated.events("batched-1")
    [started] = [event for event in events if isinstance(event, MapStarted)]
    [finished] = [event for event in events if isinstance(event, MapFinished)]
    # AWS knows of children only, which have succeeded; the results tell of items.
    assert (started.items, finished.succeeded, finished.failed) == (4, 2, 2)
    failed = [(event.item, event.failure.summary) for event in events if isinstance(event, ItemFailed)]
    assert failed == [((1,), "ValueError: 1 is odd"), ((3,), "ValueError: 3 is odd")]
    op = reduce(fold, events, RunReport()).ops["numbers.map"]
    assert (op.finished, op.failed, op.items) == (2, 2, 4)


@step(memory_max=1024)
def growing(values: list[int]) -> list[int]:
    return values * 2


@flow
def growing_flow():
    return numbers(3).map(same).agg(growing).next(growing)


def test_a_step_that_ran_again_in_a_larger_function_is_one_that_was_tried_twice(s3: S3Server) -> None:
    operated = Operated(growing_flow(), s3)
    in_process = operated.states.flow
    assert isinstance(in_process.functions, Handlers)
    in_process.functions = DyingFirst(in_process.functions, {"growing"})
    operated.account.runs.start("grown", {})
    events = operated.events("grown")
    assert kinds(events) == [
        *("RunStarted", "StepStarted", "StepFinished", "MapStarted", "ItemsFinished", "MapFinished"),
        *("StepStarted", "StepRetried", "StepFinished", "StepStarted", "StepRetried", "StepFinished", "RunFinished"),
    ]
    tries = [(each.id, each.attempt, each.failure.error) for each in events if isinstance(each, StepRetried)]
    assert tries == [("growing", 1, "Runtime.OutOfMemory"), ("growing_2", 1, "Runtime.OutOfMemory")]
    assert operated.account.runs.output("grown", "Growing") == {"result": [0, 1, 2, 0, 1, 2]}
    assert operated.account.results.run("grown").result() == [0, 1, 2, 0, 1, 2] * 2


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_however_often_one_looks_the_same_is_told(s3: S3Server, pieces: int) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-2", {})
    at_once = operated.events("run-2")
    operated.states.shown = pieces

    def sleep(seconds: float) -> None:
        operated.waits.append(seconds)
        operated.states.shown += pieces

    told: list[Event] = []
    for _ in follow(operated.account.runs, begin(operated.account.runs, "run-2"), told.append, sleep):
        pass
    assert told == at_once
    assert operated.waits == sorted(operated.waits)
    assert max(operated.waits) <= 5


def test_a_map_that_fails_says_which_item_and_how_to_go_on(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(strict(), s3)
    operated.account.runs.start("strict-1", {})
    assert operated.wait("strict-1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "odd_fails[1]: failed: ValueError: 1 is odd\n" in err
    assert err.endswith("resume with: python birds.py redrive strict-1\n")


def test_a_step_that_fails_is_told_with_its_traceback(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(refused(), s3)
    operated.account.runs.start("refused-1", {})
    events = operated.events("refused-1")
    assert [type(event) for event in events[-3:]] == [StepStarted, StepFailed, RunFailed]
    assert operated.wait("refused-1") == 1
    line = refuse.fn.__code__.co_firstlineno
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: refuse() raised ValueError: no 3 at tests/operate/test_operate.py:{line}",
        "resume with: python birds.py redrive refused-1",
    ]


def test_the_result_is_printed_and_nothing_else(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-3", {})
    assert operated.wait("run-3") == 0
    out, err = capsys.readouterr()
    assert out == "60\n"
    assert err.splitlines()[-1].startswith("tolerant: finished in ")


def test_ctrl_c_detaches_or_stops(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-4", {})
    operated.states.shown = 2
    operated.states.infos["run-4"]["status"] = "RUNNING"

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    watch = begin(operated.account.runs, "run-4")
    assert wait_for(operated.account, watch, InvokeOptions(), OutputOptions(), interrupt) == 130
    assert capsys.readouterr().err.endswith("the run is in progress; see it by: python birds.py show run-4\n")
    assert wait_for(operated.account, watch, InvokeOptions(stop_on_interrupt=True), OutputOptions(), interrupt) == 130
    assert capsys.readouterr().err.endswith("stopped; resume with: python birds.py redrive run-4\n")
    assert operated.states.calls[-1] == "stop interrupted by Ctrl-C"


def test_a_run_id_is_started_once(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    runs = operated.account.runs
    assert runs.start("run-5", {})
    assert not runs.start("run-5", {"count": 5})
    check_same_parameters(operated.account, "run-5", {"count": 5})  # the default, said or not
    with pytest.raises(AwsError) as raised:
        check_same_parameters(operated.account, "run-5", {"count": 4})
    assert str(raised.value) == ("the run run-5 was started with other parameters (none). Choose another --run-id.")


def test_what_cannot_be_done_is_one_line(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    runs = operated.account.runs
    runs.start("run-6", {})
    problems = [error_of(runs.describe, "nope"), error_of(runs.redrive, "run-6"), error_of(runs.stop, "run-6", "why")]
    assert problems == [
        "tolerant has no run 'nope' in the stack tolerant. See which there are: show",
        "the run run-6 cannot be redriven: Execution is SUCCEEDED and cannot be redriven. Start a new run: invoke.",
        "the run run-6 has ended already: it is succeeded.",
    ]


def test_show_lists_runs_and_tells_all_of_one(s3: S3Server) -> None:
    operated = Operated(strict(), s3)
    assert runs_table(operated.account, 20) == ["no runs of strict yet; start one: python birds.py invoke"]
    operated.account.runs.start("run-7", {"count": 3})
    header, row = runs_table(operated.account, 20)
    assert header.split() == ["RUN", "STATUS", "STARTED", "TIME", "ITEMS", "FAILED"]
    assert row.split()[:2] == ["run-7", "failed"]
    lines = describe_run(operated.account, "run-7", 10)
    assert lines[0] == "strict: run run-7 failed in 2.00 s"
    assert lines[2] == "parameters: count=3"
    assert [line.split()[0] for line in lines[5:8]] == ["numbers", "map", "total"]
    assert lines[7].split()[-1] == "waiting"
    place = f"tests/operate/test_operate.py:{odd_fails.fn.__code__.co_firstlineno}"
    assert f"  odd_fails[1]: ValueError: 1 is odd at {place}" in lines
    failed = "item 1 failed in the map over numbers() (tolerated: none); odd_fails() raised ValueError: 1 is odd"
    assert f"error: {failed} at {place}" in "\n".join(lines)
    assert lines[-2] == "data: s3://acme-artifacts/lokki/strict/run-7/"
    assert lines[-1].startswith("console: https://us-east-1.console.aws.amazon.com/")


def test_the_pages_of_deployed_runs_show_what_show_tells(s3: S3Server) -> None:
    operated = Operated(strict(), s3)
    operated.account.runs.start("run-7", {"count": 3})
    operated.account.runs.start("run-6", {"count": 1})
    pages = TestClient(make_app([deployed_runs_of(operated.account)], "", from_here))
    listed = pages.get("/?params=count%3D3").text
    assert ("run-7</a>" in listed, "run-6</a>" in listed, "<code>count=3</code>" in listed) == (True, False, True)
    place = f"tests/operate/test_operate.py:{odd_fails.fn.__code__.co_firstlineno}"
    for address, texts in {
        "": ("strict: run-7 failed", f"at <code>{place}</code>", "python birds.py redrive run-7", 'data-poll="0"'),
        "/failed": ("1 item</p>", "<code>odd_fails[1]</code>", "ValueError: 1 is odd", place),
        "/item?step=odd_fails&item=1": ("<p>item: <code>1</code></p>", "--item 1 --deployed", place, "Traceback (most"),
        "/log": ("Nothing was printed",),
    }.items():
        page = pages.get(f"/runs/aws-strict/run-7{address}").text
        assert [text for text in texts if text not in page] == []
    missing = pages.get("/runs/aws-strict/run-8")
    assert (missing.status_code, "strict has no run" in missing.text) == (404, True)


def billed(run_id: str, call: str, stream: str, at: float, report: str) -> list[dict[str, Any]]:
    """Return the log events of an invocation of a run."""
    own = json.dumps({"event": "start", "flow": "tolerant", "step": call, "run": run_id, "call": call})
    times = f"Duration: 1.00 ms\tBilled Duration: {report} MB\tMax Memory Used: 40 MB\t\n"
    lines = [f"START RequestId: {stream} Version: 1", own, "text", f"END RequestId: {stream}"]
    lines.append(f"REPORT RequestId: {stream}\t{times}")
    moment = int(START.timestamp() * 1000 + at)
    return [{"timestamp": moment, "logStreamName": stream, "message": line} for line in lines]


def test_show_tells_what_a_run_did_cost_by_its_history_and_its_logs(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-c", {"count": 4})
    report = {"requestId": "j", "metrics": {"durationMs": 9.5, "billedDurationMs": 10, "memorySizeMB": 1024}}
    line = json.dumps({"time": "", "type": "platform.report", "record": report})
    as_json = billed("run-c", "odd_fails", "j", 2, "77 ms\tMemory Size: 128")[:-1]
    logs = operated.account.aws.logs
    assert isinstance(logs, FakeLogs)
    logs.groups = {
        "one": [
            *billed("run-c", "numbers", "a", 1, "2000 ms\tMemory Size: 512"),
            *billed("other", "numbers", "a", 1, "50000 ms\tMemory Size: 512"),
            billed("run-c", "x", "unknown", 1, "50000 ms\tMemory Size: 512")[-1],
        ],
        "two": [
            *as_json,
            {**as_json[-1], "message": line},
            *billed("run-c", "odd_fails", "k", 3, "1 ms\tMemory Size: 128"),
        ],
    }
    stack = replace(operated.account.deployed, log_groups={"numbers": "one", "odd_fails": "two", "total": "none"})
    account = replace(operated.account, deployed=stack)
    lines = describe_run(account, "run-c", 10, cost=True)
    start = lines.index("COST               COUNTED")
    table = [line.split("  ", 1)[0] + " " + " ".join(line.split()[-2:]) for line in lines[start + 1 : start + 6]]
    # Three states; and of each of four children: its start, its call, a question whether items are left, and its end.
    gigabyte_seconds = 2 * 0.5 + 0.01 + 0.001 / 8
    assert table[0] == "state transitions 19 $0.0004750"
    assert table[1] == "Lambda requests 3 $0.0000006000"
    assert table[2] == f"Lambda GB-seconds {gigabyte_seconds:.6g} $0.00001684"
    assert "Lambda: 2.011 s billed of 3 invocations, by what their logs say so far." in lines
    write_deployed_report(account, "run-c", tmp_path / "a.html", None, cost=True)
    page = (tmp_path / "a.html").read_text()
    assert "What it did cost" in page
    assert "Lambda: 2.011 s billed of 3 invocations" in page


def test_further_tries_are_transitions() -> None:
    kinds = ["TaskStateEntered", "TaskScheduled", "TaskFailed", "TaskScheduled", "TaskSucceeded", "ChoiceStateEntered"]
    assert transitions_in(cast("Any", [{"type": kind} for kind in kinds])) == 3


def test_the_report_of_a_deployed_run_tells_what_show_tells(s3: S3Server, tmp_path: Path) -> None:
    operated = Operated(strict(), s3)
    operated.account.runs.start("run-7", {"count": 3})
    operated.account.runs.start("run-6", {"count": 1})
    write_deployed_report(operated.account, "run-7", tmp_path / "a.html", "run-6")
    page = (tmp_path / "a.html").read_text()
    place = f"tests/operate/test_operate.py:{odd_fails.fn.__code__.co_firstlineno}"
    for text in (
        '<dd class="bad">failed</dd>',
        'on AWS (<a href="https://us-east-1.console.aws.amazon.com/',
        f'<span class="count">1</span> <strong>ValueError</strong> in <code>odd_fails</code> at <code>{place}</code>',
        "<p>item: <code>1</code></p>",
        "python birds.py replay run-7 --step odd_fails --item 1 --deployed",
        "python birds.py redrive run-7",
        "Against run-6",
        "parameter count: 1 → 3",
    ):
        assert text in page
    _, events = look_back(operated.account.runs, begin(operated.account.runs, "run-7"))
    followed: list[Event] = []
    for _ in follow(operated.account.runs, begin(operated.account.runs, "run-7"), followed.append, lambda pause: None):
        pass
    assert [event for _, event in events] == followed


def test_results_of_a_deployed_run_are_read_when_they_are_touched(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-8", {"count": 4})
    results = operated.account.results
    run = results.run("run-8")
    items = cast("Any", run.step("odd_fails"))
    assert (run.result(), items[2], sorted(items.failures())) == (20, 20, [1, 3])
    assert dict(results.runs()[0].params) == {"count": 4}


def test_items_of_a_map_that_failed_are_found_by_its_map_run(s3: S3Server) -> None:
    operated = Operated(strict(), s3)
    operated.account.runs.start("run-9", {"count": 3})
    items = cast("Any", operated.account.results.run("run-9").step("odd_fails"))
    assert items[0] == 0
    assert items.failures()[1].message == "1 is odd"


@dataclass(frozen=True)
class OneHistory:
    """A client of Step Functions that knows the history of one run."""

    events: list[dict[str, Any]]

    def get_paginator(self, operation: str) -> Pages:
        return Pages([{"events": self.events[::-1]}])


def test_what_a_call_at_the_end_of_a_branch_returned_is_found_among_events_of_other_branches() -> None:
    """A state's output is the branch's there: it lacks what nothing reads, and has names."""
    told = [
        ("TaskStateEntered", 3, "stateEnteredEventDetails", {"name": "Train"}),
        ("TaskStateEntered", 3, "stateEnteredEventDetails", {"name": "Archive"}),
        ("TaskSucceeded", 4, "taskSucceededEventDetails", {"output": '{"Payload": {"result": "model", "case": 1}}'}),
        ("TaskFailed", 5, "taskFailedEventDetails", {"error": "OSError"}),
        ("TaskStateExited", 6, "stateExitedEventDetails", {"name": "Train", "output": '{"train": {"result": 1}}'}),
        ("TaskSucceeded", 7, "taskSucceededEventDetails", {"output": '{"Payload": {"result": null}}'}),
        ("TaskStateExited", 9, "stateExitedEventDetails", {"name": "Archive", "output": "{}"}),
        ("MapStateEntered", 3, "stateEnteredEventDetails", {"name": "RowsMap"}),
        ("TaskStateEntered", 3, "stateEnteredEventDetails", {"name": "Other"}),
        ("MapRunStarted", 11, "mapRunStartedEventDetails", {"mapRunArn": "arn"}),
        (
            "MapStateExited",
            13,
            "stateExitedEventDetails",
            {"name": "RowsMap", "output": '{"results_manifest_key": "k"}'},
        ),
    ]
    events = [
        {"id": number, "previousEventId": previous, "timestamp": START, "type": kind, field_name: details}
        for number, (kind, previous, field_name, details) in enumerate(told, 4)
    ]
    stack = Deployed("flow", "stack", f"{ARN}:stateMachine:flow", "bucket", {})
    runs = DeployedRuns(cast("Any", OneHistory(events)), cast("Any", None), stack, cast("Any", None))
    assert runs.output("r", "Train") == {"result": "model", "case": 1}
    assert runs.output("r", "Archive") == {"result": None}
    assert runs.output("r", "RowsMap") == {"results_manifest_key": "k"}
    assert runs.output("r", "Other") is None


def test_seconds_of_a_run_are_those_of_its_history(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-10", {})
    events = operated.events("run-10")
    [source] = [event for event in events if isinstance(event, StepFinished) and event.id == "numbers"]
    assert source.items == 5
    assert isinstance(events[-1], RunFinished)
    assert json.loads(operated.states.infos["run-10"]["input"]) == {}


def error_of(act: Any, *given: object) -> str:
    with pytest.raises(LokkiError) as raised:
        act(*given)
    return str(raised.value)


MACHINE = Machine(("Load", "Save"), {"Load": "load", "Save": "save"})


def history(*named: tuple[str, dict[str, Any]]) -> list[Any]:
    return [
        {"id": number, "timestamp": START + timedelta(seconds=number), "type": kind, **details}
        for number, (kind, details) in enumerate(named, 1)
    ]


def entered(name: str) -> tuple[str, dict[str, Any]]:
    return "TaskStateEntered", {"stateEnteredEventDetails": {"name": name}}


def left(name: str) -> tuple[str, dict[str, Any]]:
    return "TaskStateExited", {"stateExitedEventDetails": {"name": name, "output": "{}"}}


FAILED = ("TaskFailed", {"taskFailedEventDetails": {"error": "OSError", "cause": "no"}})
SCHEDULED: tuple[str, dict[str, Any]] = ("TaskScheduled", {})


def test_a_task_that_is_scheduled_again_after_a_failure_was_retried() -> None:
    events = history(("ExecutionStarted", {}), entered("Load"), SCHEDULED, FAILED, SCHEDULED, left("Load"))
    _, told = take_history(Watch("f", "r", {}, MACHINE), events)
    [retried] = [event for event in told if isinstance(event, StepRetried)]
    assert (retried.id, retried.attempt, retried.wait, retried.failure.error) == ("load", 1, 1.0, "OSError")


def test_the_state_that_completes_the_parameters_is_no_step() -> None:
    binding = (entered("Parameters"), SCHEDULED, FAILED, SCHEDULED, left("Parameters"))
    events = history(("ExecutionStarted", {}), *binding, entered("Load"), SCHEDULED, left("Load"))
    watch, told = take_history(Watch("f", "r", {}, MACHINE), events)
    assert kinds(told) == ["RunStarted", "StepStarted", "StepFinished"]
    assert watch.done == ("load",)


GRAPH = Machine(
    ("Load", "Train", "RowsMap", "OtherMap", "Grade", "Keep", "Fix"),
    {"Load": "load", "Train": "train", "Score": "score", "Grade": "grade", "Keep": "keep", "Fix": "fix"},
    {
        "RowsMap": MapState("rows", ("a",), 0, "rows.map", "rows"),
        "OtherMap": MapState("rows", ("b",), 0, "rows.map_2", "rows.map_2"),
    },
    {"TrainFork": "train.fork"},
    {"GradeSwitch": SwitchState("grade.switch", "grade", (CaseState("Keep", ("keep",)), CaseState("Fix", ("fix",))))},
)


def branches(*events: tuple[int, tuple[str, dict[str, Any]]]) -> list[Any]:
    """Make the history of a fork of two branches, 1 and 2; each event names the one before it in its branch."""
    made = history(("ExecutionStarted", {}), ("ParallelStateEntered", FORK), ("ParallelStateStarted", {}))
    last = {1: 3, 2: 3}
    for number, (branch, (kind, details)) in enumerate(events, 4):
        at = START + timedelta(seconds=number)
        previous = last.get(branch, number - 1)
        made.append({"id": number, "previousEventId": previous, "timestamp": at, "type": kind, **details})
        last[branch] = number
    return made


FORK = {"stateEnteredEventDetails": {"name": "TrainFork"}}
RUN_FAILED = ("ExecutionFailed", {"executionFailedEventDetails": {"error": "OSError", "cause": "no"}})


def test_the_step_that_failed_the_run_is_named_although_another_branch_entered_its_own_later() -> None:
    events = branches(
        (1, entered("Train")), (1, SCHEDULED), (2, entered("Score")), (2, SCHEDULED), (1, FAILED), (0, RUN_FAILED)
    )  # fmt: skip
    watch, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert kinds(told) == ["RunStarted", "StepStarted", "StepStarted", "StepFailed", "RunFailed"]
    assert [event.id for event in told if isinstance(event, StepFailed)] == ["train"]
    assert watch.outcome == "failed"


PARALLEL_FAILED: tuple[str, dict[str, Any]] = ("ParallelStateFailed", {})


def test_a_fork_that_fails_by_itself_is_no_failure_of_the_step_that_ended_last() -> None:
    events = branches(
        *((1, entered("Train")), (1, SCHEDULED), (2, entered("Score")), (2, SCHEDULED), (2, left("Score"))),
        *((1, left("Train")), (1, PARALLEL_FAILED), (1, RUN_FAILED)),
    )
    _, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert kinds(told[-3:]) == ["StepFinished", "StepFinished", "RunFailed"]


def test_a_branch_goes_on_in_a_redrive_where_it_failed() -> None:
    """AWS does not enter its state again; the event before is that of the failure."""
    events = branches(
        *((1, entered("Train")), (1, SCHEDULED), (2, entered("Score")), (2, SCHEDULED), (1, FAILED)),
        *((0, PARALLEL_FAILED), (0, RUN_FAILED), (0, ("ExecutionRedriven", {})), (1, SCHEDULED), (1, left("Train"))),
    )
    events[-5]["previousEventId"] = events[-6]["id"]
    _, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert kinds(told[-2:]) == ["StepStarted", "StepFinished"]
    assert {event.id for event in told[-2:] if isinstance(event, StepStarted | StepFinished)} == {"train"}


def test_retries_and_times_of_overlapping_branches_are_their_own() -> None:
    events = branches(
        *((1, entered("Train")), (1, SCHEDULED), (2, entered("Score")), (2, SCHEDULED), (2, FAILED)),
        *((1, left("Train")), (2, SCHEDULED), (2, left("Score"))),
    )
    _, told = take_history(Watch("f", "r", {}, GRAPH), events)
    [retried] = [event for event in told if isinstance(event, StepRetried)]
    assert (retried.id, retried.wait) == ("score", 2.0)
    assert [(event.id, event.seconds) for event in told if isinstance(event, StepFinished)] == [
        ("train", 5.0), ("score", 5.0),
    ]  # fmt: skip


def test_two_maps_at_once_are_watched_each_by_its_own_numbers() -> None:
    def started(name: str, arn: str) -> list[tuple[str, dict[str, Any]]]:
        enter = ("MapStateEntered", {"stateEnteredEventDetails": {"name": name}})
        return [enter, ("MapRunStarted", {"mapRunStartedEventDetails": {"mapRunArn": arn}})]

    exited = ("MapStateExited", {"stateExitedEventDetails": {"name": "RowsMap", "output": "{}"}})
    events = branches(
        *((1, event) for event in started("RowsMap", "one")),
        *((2, event) for event in started("OtherMap", "two")),
        *((1, ("MapRunSucceeded", {})), (1, exited)),
    )
    watch, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert kinds(told) == ["RunStarted"]
    assert {arn: run.outcome for arn, run in watch.maps.items()} == {"one": "succeeded", "two": ""}

    def numbers(arn: str, succeeded: int) -> Any:
        counts = {"total": 9, "succeeded": succeeded, "failed": 0, "timedOut": 0}
        return {"mapRunArn": arn, "itemCounts": counts, "maxConcurrency": 4}

    watch, told = take_map_run(watch, numbers("two", 2), [])
    assert [type(event).__name__ for event in told] == ["MapStarted", "ItemsFinished"]
    watch, told = take_map_run(watch, numbers("one", 9), [])
    assert [(type(event).__name__, event.id) for event in told] == [
        ("MapStarted", "rows"), ("ItemsFinished", "rows"), ("MapFinished", "rows"),
    ]  # fmt: skip
    assert (list(watch.maps), watch.done) == (["two"], ("rows.map",))
    watch, _ = take_history(watch, events)
    assert watch.last == events[-1]["id"]


def test_steps_of_a_case_that_was_not_chosen_are_told_as_skipped() -> None:
    chose = ("TaskStateExited", {"stateExitedEventDetails": {"name": "Grade", "output": '{"result": 1, "case": 1}'}})
    events = history(("ExecutionStarted", {}), entered("Grade"), SCHEDULED, chose)
    _, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert told[-1] == StepNotChosen("keep")


def replied(reply: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "TaskSucceeded", {"taskSucceededEventDetails": {"output": json.dumps({"Payload": reply})}}


def test_what_a_function_replied_is_told_and_not_what_is_left_of_it_at_the_end_of_a_branch() -> None:
    source = {"map_manifest_key": "k", "items": 3, "case": 0}
    events = branches(
        *((1, entered("Train")), (1, SCHEDULED), (2, entered("Grade")), (2, SCHEDULED)),
        *((2, replied(source)), (1, replied({"result": "model"})), (1, left("Train")), (2, left("Grade"))),
    )
    watch, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert [(event.id, event.size, event.items) for event in told if isinstance(event, StepFinished)] == [
        ("train", len('{"result":"model"}'), None), ("grade", len('{"map_manifest_key":"k","items":3,"case":0}'), 3),
    ]  # fmt: skip
    assert (told[-1], watch.not_chosen) == (StepNotChosen("fix"), ("fix",))


def test_a_run_that_was_redriven_tells_again_what_is_not_chosen() -> None:
    chose = (entered("Grade"), SCHEDULED, replied({"result": 1, "case": 1}), left("Grade"))
    events = history(
        *(("ExecutionStarted", {}), *chose, entered("Fix"), SCHEDULED, FAILED, RUN_FAILED),
        *(("ExecutionRedriven", {}), SCHEDULED, left("Fix"), ("ExecutionSucceeded", {})),
    )
    watch, _ = take_history(Watch("f", "r", {}, GRAPH), events[:9])
    _, told = take_history(watch, events)
    assert told[:3] == [RunStarted("f", "r", {}, resumed=True), StepSkipped("grade"), StepNotChosen("keep")]
    report = RunReport()
    for event in told:
        report = fold(report, event)
    assert (report.ops["keep"].status, report.ops["fix"].status) == ("skipped", "finished")


def test_of_branches_that_failed_alike_the_last_one_failed_the_run() -> None:
    caught = (entered("Score"), SCHEDULED, FAILED)
    events = branches(
        *((2, event) for event in caught), (1, entered("Train")), (1, SCHEDULED), (1, FAILED), (2, SCHEDULED),
        (2, FAILED), (0, RUN_FAILED),
    )  # fmt: skip
    _, told = take_history(Watch("f", "r", {}, GRAPH), events)
    assert [event.id for event in told if isinstance(event, StepFailed)] == ["score"]
    _, told = take_history(Watch("f", "r", {}, GRAPH), [*events[:9], events[-1] | {"id": 11}])
    assert [event.id for event in told if isinstance(event, StepFailed)] == ["train"]


@pytest.mark.parametrize("enters_again", [True, False])
def test_a_run_that_was_redriven_goes_on_with_what_is_kept(enters_again: bool) -> None:
    ended = ("ExecutionFailed", {"executionFailedEventDetails": {"error": "OSError", "cause": "no"}})
    again = [entered("Save"), SCHEDULED] if enters_again else [SCHEDULED]
    events = history(
        *(("ExecutionStarted", {}), entered("Load"), SCHEDULED, left("Load"), entered("Save"), SCHEDULED, FAILED),
        *(ended, ("ExecutionRedriven", {}), *again, left("Save"), ("ExecutionSucceeded", {})),
    )
    watch, told = take_history(Watch("f", "r", {}, MACHINE), events[:8])
    assert (watch.outcome, kinds(told)[-2:]) == ("failed", ["StepFailed", "RunFailed"])
    watch, told = take_history(watch, events)
    assert kinds(told) == ["RunStarted", "StepSkipped", "StepStarted", "StepFinished", "RunFinished"]
    assert told[:2] == [RunStarted("f", "r", {}, resumed=True), StepSkipped("load")]
    assert watch.outcome == "finished"


def test_failures_of_before_are_not_those_of_a_map_that_was_redriven(s3: S3Server) -> None:
    operated = Operated(strict(), s3)
    operated.account.runs.start("run-11", {})
    [map_run] = operated.account.runs.map_runs("run-11")
    arn = map_run["mapRunArn"]
    [child] = operated.states.children[arn]
    child["stopDate"] = START
    children = operated.account.runs.failed_children
    assert children(arn, 20, since=START + timedelta(seconds=1)) == []
    assert children(arn, 20, since=START) == children(arn, 20) == [child]
    child["status"] = "RUNNING"  # it was listed as failed, and is redriven by now
    assert children(arn, 20) == []


OTHERS = (("invoke",), ("logs",), ("redrive", "x"), ("stop", "x"))


@pytest.mark.parametrize("command", [("show",), *(pytest.param(words, marks=pytest.mark.slow) for words in OTHERS)])
def test_a_flow_that_is_not_deployed_is_one_line(aws: Moto, tmp_path: Path, command: tuple[str, ...]) -> None:
    place = Place(tmp_path)
    place.write("birds.py", BIRDS)
    ran = place.run("birds.py", *command, env=aws.environ)
    said = "there is no stack birds-flow in us-east-1. Deploy it first, or give --stack-name or --region."
    assert (ran.code, ran.out, ran.err) == (1, "", f"error: birds-flow is not deployed: {said}\n")


def test_a_flow_that_is_not_deployed_has_no_results_there(aws: Moto, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(
        "read.py", "import lokki\ntry:\n    lokki.remote('birds-flow')\nexcept lokki.LokkiError as e:\n    print(e)\n"
    )
    assert place.run("read.py", env=aws.environ).out.startswith("birds-flow is not deployed: there is no stack ")


BIRDS = """from lokki import flow, main, step
@step
def get_birds() -> list[str]:
    return ["goose"]
@flow
def birds_flow():
    return get_birds()
if __name__ == "__main__":
    main(birds_flow)
"""


def test_a_run_that_is_not_told_of_yet_is_waited_for(s3: S3Server) -> None:
    operated = Operated(tolerant(), s3)
    operated.account.runs.start("run-11", {})
    hidden = operated.states.infos.pop("run-11")

    def sleep(seconds: float) -> None:
        operated.states.infos["run-11"] = hidden

    assert begin_new(operated.account.runs, "run-11", sleep).run_id == "run-11"
