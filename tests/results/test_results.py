"""Results of runs in Python: the same interface over a folder and over S3, values loaded when they are touched."""

import html
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import msgspec
import pytest
import steps
from aws.deployed import Deployed as InProcess
from aws.moto_server import Aws
from hypothesis import HealthCheck, given, settings
from strategies import CHAINS, Chain, draw
from support.local_runs import Local
from support.remote_runs import remote_results

from lokki import flow, step
from lokki.base.failures import Failure
from lokki.base.values import Json, ref_to_json
from lokki.builder.state_machine import build_state_machine
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.s3.client import S3Server
from lokki.engine.causes import child_failure
from lokki.errors import ParameterError, RunError, RunFolderError, StoreError
from lokki.local_run.seal import Seal
from lokki.local_run.written_items import write_items
from lokki.plan import lower, plan_lines
from lokki.plan_json import plan_from_definition, plan_from_json, plan_from_lines, plan_to_json
from lokki.plans.operations import FanOut
from lokki.results.flow_results import FlowResults, Items, local
from lokki.results.items import LogLine, Place, RunInfo, places_of
from lokki.runtime.event import ResultsKey
from lokki.runtime.results import load_results
from lokki.store.base import save
from lokki.store.keys import Keys
from lokki.store.s3 import S3Store

MAIN_FLOW = """
from dataclasses import dataclass
from lokki import flow, main, step

@dataclass
class Bird:
    name: str

@step
def get_birds() -> list[str]:
    print("looking for birds")
    return ["goose", "duck"]

@step
def flap_bird(bird: str) -> Bird:
    return Bird(bird)

@step
def first_bird(birds: list[Bird]) -> Bird:
    return birds[0]

@flow
def birds_flow():
    return get_birds().map(flap_bird).agg(first_bird)

if __name__ == "__main__":
    main(birds_flow)
"""


@flow
def tolerant(log: str, count: int = 6):
    return (
        steps.numbers(count)
        .map(steps.first(log=log), tolerate=2)
        .next(steps.second(log=log))
        .next(steps.third(log=log))
        .agg(steps.total)
    )


def failing(path: Path) -> FlowResults:
    """Run `tolerant` so that item 2 fails at the second of three inner steps."""
    log = path / "log"
    path.mkdir(exist_ok=True)
    Path(f"{log}.fail.20").touch()
    Local(path).run(tolerant(), {"log": str(log)}, run_id="one")
    return local("tolerant", path)


def items(value: object) -> Items:
    assert isinstance(value, Items)
    return value


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises((RunError, StoreError)) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}"


# --- local runs ---


def test_a_finished_run_has_its_result_and_what_each_step_returned(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), {"count": 4}, run_id="one")
    run = local("doubled", tmp_path).run("one")
    assert (run.id, run.status, run.params, run.steps) == (
        "one",
        "finished",
        {"count": 4},
        ["numbers", "double", "total"],
    )
    assert run.result() == 12
    assert run.step("total") == 12
    assert list(items(run.step("numbers"))) == [0, 1, 2, 3]
    assert list(items(run.step("double"))) == [0, 2, 4, 6]


def test_runs_are_listed_latest_first_with_time_and_duration(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    for run_id in ("one", "two"):
        Local(tmp_path).run(steps.doubled(), run_id=run_id)
    Local(tmp_path).run(steps.with_environment(), run_id="other")
    found = local("doubled", tmp_path).runs()
    assert [run.id for run in found] == ["two", "one"]
    assert all(before <= run.started <= datetime.now(UTC) for run in found)
    assert all(run.seconds is not None and 0 < run.seconds < 60 for run in found)
    assert local("doubled", tmp_path).latest().id == "two"


def test_a_flow_without_runs_and_an_id_without_a_run_say_so(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), run_id="one")
    with pytest.raises(RunFolderError, match=r"^there is no run of birds-flow. Start one first.$"):
        local("birds-flow", tmp_path).latest()
    with pytest.raises(RunFolderError, match=r"^the run 'one' is one of doubled, not of birds-flow.$"):
        local("birds-flow", tmp_path).run("one")
    with pytest.raises(ParameterError, match=r"^the run one has no step 'triple'; it has numbers, double, total.$"):
        local("doubled", tmp_path).run("one").step("triple")


def test_items_are_a_sequence_with_slices_and_negative_indexes(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), {"count": 5}, run_id="one")
    doubled = items(local("doubled", tmp_path).latest().step("double"))
    assert (len(doubled), doubled[1], doubled[-1], list(doubled[1:4]), list(doubled[::-2])) == (
        5,
        2,
        8,
        [2, 4, 6],
        [8, 4, 0],
    )
    assert 6 in doubled
    assert doubled.index(6) == 3
    assert doubled[1:4][-1] == 6
    with pytest.raises(IndexError, match=r"^there is no item 5: there are 5\.$"):
        doubled[5]


def test_an_item_that_failed_raises_when_it_is_touched_and_is_listed(tmp_path: Path) -> None:
    run = failing(tmp_path).run("one")
    third = items(run.step("third"))
    assert len(third) == 6
    assert third[1] == 22
    [(index, failure)] = third.failures().items()
    assert (index, failure.step, failure.error, failure.message) == (2, "second", "ValueError", "cannot take 20")
    assert error_of(lambda: third[2]) == f"RunError: item 2 failed: {failure}. failures() has its traceback."
    assert list(third.succeeded()) == [2, 22, 62, 82, 102]
    assert repr(third) == "<6 items, 1 failed>"
    assert third[:2].failures() == {}
    assert run.result() == sum(third.succeeded())  # type: ignore[arg-type]


def test_of_inner_steps_a_run_keeps_what_failed_items_need(tmp_path: Path) -> None:
    run = failing(tmp_path).run("one")
    first, second = items(run.step("first")), items(run.step("second"))
    assert first[2] == 20
    assert first.failures() == {}
    assert list(second.failures()) == [2]
    assert error_of(lambda: second[2]).startswith("RunError: item 2 failed: second() raised ValueError")
    assert error_of(lambda: first[1]) == (
        "StoreError: what first() returned for item 1 is not kept: of a map block, a run keeps the results of its last "
        "step, third(), and of others what unfinished items needed. "
        "Compute it again: replay one --step first --item 1."
    )


def test_a_run_that_failed_has_what_it_finished_and_says_what_it_has_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Path(f"{log}.fail.20").touch()
    here = Local(tmp_path, "inline")
    with pytest.raises(RunError) as caught:
        here.run(steps.chained(), {"log": str(log)}, run_id="one")
    run = local("chained", tmp_path).run("one")
    assert error_of(run.result) == f"RunError: the run one has no result; it is failed: {caught.value}"
    third = items(run.step("third"))
    assert list(third[:2]) == [2, 22]
    assert error_of(lambda: third[5]) == (
        "StoreError: item 5 of numbers() has no result: the run one is failed. Resume it by --resume one."
    )
    assert error_of(lambda: run.step("total")) == (
        "StoreError: the run one has no result of total(): it is failed. Resume it by --resume one."
    )
    Path(f"{log}.fail.20").unlink()
    here.resume(steps.chained())
    resumed = local("chained", tmp_path).run("one")
    assert list(items(resumed.step("third"))) == [2, 22, 42, 62, 82, 102]
    assert items(resumed.step("third")).failures() == {}


@pytest.mark.parametrize("kind", ["mixed", "big", "streamed", "empty"])
def test_stored_values_come_back_one_by_one(tmp_path: Path, kind: str) -> None:
    @flow
    def mapped():
        return steps.values(kind, 40).map(steps.wrap).agg(steps.count)

    Local(tmp_path, inline_limit=200).run(mapped(), run_id="one")
    run = local("mapped", tmp_path).latest()
    given = items(run.step("values"))
    assert len(given) == run.result() == (0 if kind == "empty" else 40)
    for index in reversed(range(len(given))):
        assert repr(items(run.step("wrap"))[index]) == repr([given[index]])


def test_a_run_is_read_while_it_goes_on(tmp_path: Path) -> None:
    seen: list[object] = []

    def look(event: object) -> None:
        if type(event).__name__ == "ItemsFinished" and not seen:
            run = local("doubled", tmp_path).latest()
            seen.extend((run.status, run.seconds, items(run.step("double"))[0]))

    Local(tmp_path, "inline", also=look).run(steps.doubled(), {"count": 3})
    assert seen == ["running", None, 0]


def test_a_damaged_result_is_an_error_of_that_item_only(tmp_path: Path) -> None:
    Local(tmp_path, "inline", inline_limit=0).run(steps.doubled(), {"count": 3}, run_id="one")
    [pack] = (tmp_path / "runs/one/numbers/map_results").glob("*.pkl.gz")
    content = pack.read_bytes()
    pack.write_bytes(content[:-5])
    doubled = items(local("doubled", tmp_path).latest().step("double"))
    assert list(doubled[:2]) == [0, 2]
    assert error_of(lambda: doubled[2]) == (
        f"DamagedError: {pack} at {len(content) - 33} is damaged or no gzip: it ends too early. "
        "Run double() again, and what follows it: run --resume one --from double"
    )


@pytest.fixture(scope="module")
def main_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by ``python birds_main_flow.py run``, whose values are of a class of ``__main__``."""
    folder = tmp_path_factory.mktemp("main")
    (folder / "birds_main_flow.py").write_text(MAIN_FLOW)
    subprocess.run(
        [sys.executable, "birds_main_flow.py", "run", "--run-id", "one", "--quiet", "--output", "bird.pkl"],
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return folder


def test_values_of_classes_of_the_flows_own_file_are_read_when_the_file_is_named(main_run: Path) -> None:
    run = local("birds-flow", main_run / ".lokki", file=main_run / "birds_main_flow.py").run("one")
    birds = [*items(run.step("flap_bird")), run.result()]
    assert [(type(bird).__module__, vars(bird)) for bird in birds] == [
        ("birds_main_flow", {"name": "goose"}),
        ("birds_main_flow", {"name": "duck"}),
        ("birds_main_flow", {"name": "goose"}),
    ]


def forget(folder: Path) -> None:
    """Let the flow's file be unknown, as in a new process elsewhere."""
    sys.modules.pop("birds_main_flow", None)
    sys.path[:] = [path for path in sys.path if path != str(folder)]
    importlib.invalidate_caches()


def test_without_the_file_the_error_says_how_to_name_it(main_run: Path) -> None:
    record = main_run / ".lokki/runs/one/run.json"
    known = json.loads(record.read_bytes())
    rewrite(record, known | {"file": ""})
    forget(main_run)
    run = local("birds-flow", main_run / ".lokki").run("one")
    assert error_of(run.result).endswith(
        "first_bird/output.pkl.gz holds an object of code that is missing here: No module named 'birds_main_flow'. "
        "Install what the step that wrote it has installed, or run that step again with today's code. "
        'If it is of a class in the flow\'s file, name that: lokki.local("birds-flow", file="flow.py").'
    )
    assert list(items(run.step("get_birds"))) == ["goose", "duck"]
    rewrite(record, known | {"file": str(main_run / "birds_main_flow.py")})
    assert vars(local("birds-flow", main_run / ".lokki").run("one").result()) == {"name": "goose"}
    rewrite(record, known)


def rewrite(record: Path, fields: dict[str, object]) -> None:
    """Write a run's record with its checksum."""
    text = json.dumps({name: value for name, value in fields.items() if name != "checksum"})
    record.write_bytes(Seal(record.parent.name).close("run.json", text.encode()))


def test_a_file_that_is_gone_is_said_to_be(main_run: Path) -> None:
    forget(main_run)
    run = local("birds-flow", main_run / ".lokki", file=main_run / "gone.py").run("one")
    assert f"there is no file {main_run / 'gone.py'}" in error_of(run.result)


def test_logs_have_what_steps_printed(main_run: Path) -> None:
    [line] = local("birds-flow", main_run / ".lokki").run("one").logs()
    assert line == LogLine(line.time, "get_birds", (), "looking for birds")
    assert datetime.fromisoformat(line.time).tzinfo == UTC
    assert str(line) == f"{line.time} get_birds looking for birds"


def test_a_run_without_a_log_has_no_lines(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), run_id="one")
    assert local("doubled", tmp_path).latest().logs() == []


def test_logs_tell_of_failures_and_items_up_to_a_line_cut_short(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), run_id="one")
    failure = {"step": "double", "error": "ValueError", "message": "no"}
    events = [
        {"time": "t1", "event": "item_failed", "id": "numbers", "index": 3, "failure": failure},
        {"time": "t2", "event": "step_retried", "id": "double", "index": 4, "failure": failure},
        {"time": "t3", "event": "run_failed", "message": "no"},
    ]
    log = tmp_path / "runs/one/events.jsonl"
    log.write_text("".join(f"{json.dumps(event)}\n" for event in events) + '{"time": "t4", "ev')
    assert [str(line) for line in local("doubled", tmp_path).latest().logs()] == [
        "t1 double[3] failed: ValueError: no",
        "t2 double[4] will be tried again: ValueError: no",
    ]


# --- notebooks ---


def test_notebooks_show_runs_and_items_as_tables_with_everything_escaped(tmp_path: Path) -> None:
    @flow
    def marked(label: str = "<b>&"):
        return steps.numbers(12).map(steps.tag(label=label)).agg(steps.count)

    Local(tmp_path).run(marked(), run_id="one")
    results = local("marked", tmp_path)
    run = results.latest()
    cells = f"<td>one</td><td>finished</td><td>{run.started:%Y-%m-%d %H:%M:%S}</td><td>{run.seconds:.2f}</td>"
    params = "<td>label=&#x27;&lt;b&gt;&amp;&#x27;</td>"
    head = "".join(f"<th>{name}</th>" for name in ("run", "status", "started", "seconds", "parameters"))
    assert (
        results._repr_html_() == f"<table><thead><tr>{head}</tr></thead><tbody><tr>{cells}{params}</tr></tbody></table>"
    )
    assert run._repr_html_() == (
        f"<table><thead><tr>{head}<th>error</th></tr></thead><tbody><tr>{cells}{params}<td></td></tr></tbody></table>"
    )
    tagged = items(run.step("tag"))
    rows = "".join(f"<tr><td>{n}</td><td>{html.escape(repr(tagged[n]))}</td></tr>" for n in range(10))
    assert tagged._repr_html_() == (
        "<table><caption>&lt;12 items&gt;; 2 more</caption><thead><tr><th>item</th><th>value</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    assert (
        "failed: second() raised ValueError: cannot take 20"
        in items(failing(tmp_path / "failing").latest().step("third"))._repr_html_()
    )


# --- where steps stand ---

EACH_ITEM = LokkiConfig(execution_type="EXPRESS", lambda_defaults=LambdaDefaultsConfig(timeout=5))


@given(CHAINS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_a_run_and_a_state_machine_tell_where_each_step_stands(chain: Chain) -> None:
    graph = draw(chain)
    plan = lower(graph)
    sources = {op.source for op in plan.ops if isinstance(op, FanOut)}
    expected = {call.id: Place(call.id, fans_out=call.id in sources) for call in plan.calls}
    for op in plan.ops:
        if isinstance(op, FanOut):
            inner = tuple(call.id for call in op.calls)
            expected.update(
                {step_id: Place(step_id, op.source, inner, map=op.id, result=inner[-1]) for step_id in inner}
            )
    definition = build_state_machine(graph, LokkiConfig())
    assert places_of(plan_from_json(plan_to_json(plan))) == expected
    assert places_of(plan_from_definition(definition)) == expected
    # as lokki 0.1 left them
    assert places_of(plan_from_lines(graph.name, plan_lines(plan))) == expected
    # it had no batches that size themselves
    one_by_one = build_state_machine(graph, EACH_ITEM)
    assert places_of(plan_from_definition({**one_by_one, "Comment": f"{graph.name}, built by lokki"})) == expected


@step
def odd_arguments(value: object, label: str, table: dict[str, str]) -> object:
    return value


def test_arrows_and_quotes_in_arguments_are_no_steps() -> None:
    @flow
    def confusing():
        table = {"it's \" -> x = y(": 'a -> b = c(d) \\" -> ', "'": "'"}
        head = steps.values("ints", 3).map(odd_arguments(label='" -> e = f(', table=table))
        return head.next(odd_arguments(label="\\", table={})).agg(steps.count)

    assert list(places_of(plan_from_lines("confusing", plan_lines(lower(confusing()))))) == [
        "values",
        "odd_arguments",
        "odd_arguments_2",
        "count",
    ]


@step
def anything_named(value: object, **others: object) -> object:
    return [value, others]


def test_names_of_arguments_may_hold_arrows_and_brackets(tmp_path: Path, s3: S3Server) -> None:
    others = {"a -> b": 1, "x) -> y = z(": "map over count: ", "$param": {"$param": "literal"}}

    @flow
    def odd_names():
        return steps.values("ints", 2).map(anything_named(**others)).agg(steps.count)

    Local(tmp_path).run(odd_names(), run_id="one")
    deployed = InProcess(odd_names(), LokkiConfig(), s3)
    assert deployed.run({}, "odd").status == "SUCCEEDED"
    for run in (local("odd-names", tmp_path).latest(), emulated(s3, deployed).run("odd")):
        assert run.steps == ["values", "anything_named", "count"]
        assert [item[1] for item in items(run.step("anything_named"))] == [others, others]  # type: ignore[index]


# --- emulated runs ---


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


def emulated(s3: S3Server, deployed: InProcess) -> FlowResults:
    return remote_results(deployed.graph.name, bucket=s3.bucket, executions=deployed, environ=s3.variables("reader"))


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("kind", ["mixed", "big", "empty"])
def test_an_emulated_run_has_the_results_of_a_local_one(
    tmp_path: Path, s3: S3Server, kind: str, batch: int | None
) -> None:
    @flow
    def both():
        return steps.values(kind, 9).map(steps.pair, batch=batch).next(steps.wrap).agg(steps.collect)

    Local(tmp_path).run(both(), run_id="one")
    deployed = InProcess(both(), LokkiConfig(), s3)
    assert deployed.run({}, f"{kind}-{batch}").status == "SUCCEEDED"
    here, there = local("both", tmp_path).latest(), emulated(s3, deployed).run(f"{kind}-{batch}")
    assert there.steps == here.steps
    for step_id in ("values", "wrap"):
        assert repr(list(items(there.step(step_id)))) == repr(list(items(here.step(step_id))))
    assert repr(there.result()) == repr(here.result())
    if batch is None and kind != "empty":
        assert repr(items(there.step("pair"))[3]) == repr((items(there.step("values"))[3], datetime(2026, 7, 1).date()))


@step
def grade(rows: list[int]) -> str:
    return "many" if len(rows) > 2 else "few"


@step
def count(rows: list[int]) -> tuple[str, int]:
    return "counted", len(rows)


@step
def plus(row: int, other: tuple[str, int]) -> int:
    return row + other[1]


@step
def is_even(row: int) -> bool:
    return row % 2 == 0


@flow
def graph_flow(rows: int = 3):
    numbers = steps.numbers(rows)
    counted = numbers.next(count)
    first = numbers.map(plus(other=counted.result)).agg(steps.total)
    second = numbers.map(steps.double).switch(is_even, {True: steps.double, False: plus(other=counted.result)})
    chosen = numbers.switch(grade, {"many": steps.total, "few": count})
    return first, second.agg(steps.total), chosen


@pytest.mark.parametrize("rows", [4, 2])
def test_an_emulated_graph_has_the_results_of_a_local_one(tmp_path: Path, s3: S3Server, rows: int) -> None:
    Local(tmp_path).run(graph_flow(), run_id="one", params={"rows": rows})
    deployed = InProcess(graph_flow(), LokkiConfig(), s3)
    assert deployed.run({"rows": rows}, f"graph-{rows}").status == "SUCCEEDED"
    here, there = local("graph-flow", tmp_path).latest(), emulated(s3, deployed).run(f"graph-{rows}")
    assert there.steps == here.steps
    assert there.result() == here.result()
    assert len(there.result()) == 3
    skipped = {"count_2"} if rows > 2 else {"total_2"}
    for step_id in sorted({*there.steps} - skipped):
        here_value, there_value = here.step(step_id), there.step(step_id)
        if isinstance(here_value, Items):
            assert len(there_value) == rows
        else:
            assert there_value == here_value
    assert list(items(there.step("plus"))) == list(items(here.step("plus"))) == [row + rows for row in range(rows)]
    second = [row * 4 for row in range(rows)]  # doubled, they are all even
    for run in (here, there):
        assert list(items(run.step("numbers.map_2"))) == second
        assert items(run.step("numbers.map_2")).failures() == {}
    for run in (here, there):
        with pytest.raises(StoreError, match="has no result of"):
            run.step(*skipped)


@pytest.mark.parametrize("batch", [None, 3])
def test_items_that_failed_in_an_emulated_run_are_listed(tmp_path: Path, s3: S3Server, batch: int | None) -> None:
    @flow
    def some_fail(log: str):
        block = steps.numbers(4).map(steps.first(log=log), batch=batch, tolerate=1)
        return block.next(steps.second(log=log)).agg(steps.total)

    log = tmp_path / "log"
    Path(f"{log}.fail.20").touch()
    deployed = InProcess(some_fail(), LokkiConfig(), s3)
    assert deployed.run({"log": str(log)}, f"fail-{batch}").status == "SUCCEEDED"
    second = items(emulated(s3, deployed).latest().step("second"))
    [(index, failure)] = second.failures().items()
    assert (index, failure.error, failure.message) == (2, "ValueError", "cannot take 20")
    assert list(second.succeeded()) == [1, 11, 31]


# --- deployed runs ---


@dataclass
class FakeExecutions:
    """What Step Functions would know."""

    info: RunInfo
    machine: Json
    outputs: dict[str, Json] = field(default_factory=dict)
    lines: Sequence[LogLine] = ()

    def list(self) -> list[RunInfo]:
        return [self.info]

    def describe(self, run_id: str) -> RunInfo:
        if run_id != self.info.id:
            raise RunFolderError(f"there is no run {run_id!r}.")
        return self.info

    def definition(self, run_id: str) -> Json:
        assert run_id == self.info.id
        return self.machine

    def output(self, run_id: str, state: str) -> Json:
        assert run_id == self.info.id
        return self.outputs.get(state)

    def logs(self, run_id: str) -> Iterator[LogLine]:
        yield from self.lines


STARTED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class Deployed:
    """A run of `chained` or `tolerant` on S3, written as handlers and ResultWriter write it."""

    store: S3Store
    executions: FakeExecutions
    results: FlowResults
    keys: Keys

    def write(self, key: str, value: Json) -> None:
        self.store.write(key, [msgspec.json.encode(value)])

    def finish_map(self, succeeded: list[Json], failed: list[Json]) -> None:
        prefix = f"{self.keys.map_results('numbers')}0b1c/"
        self.write(f"{prefix}SUCCEEDED_0.json", succeeded)
        self.write(f"{prefix}FAILED_0.json", failed)
        files = {kind: [{"Key": f"{prefix}{kind}_0.json", "Size": 1}] for kind in ("SUCCEEDED", "FAILED")}
        described: Json = {
            "DestinationBucket": "b",
            "MapRunArn": "arn",
            "ResultFiles": cast("Json", files | {"PENDING": []}),
        }
        self.write(f"{prefix}manifest.json", described)
        self.executions.outputs["NumbersMap"] = {"results_manifest_key": f"{prefix}manifest.json", "items": 4}


@pytest.fixture
def deployed(aws: Aws) -> Deployed:
    bucket = aws.new_bucket()
    store = S3Store(bucket, "lokki/tolerant/", environ=aws.environ)
    keys = Keys("lokki/tolerant/run-1")
    info = RunInfo("run-1", "tolerant", "succeeded", STARTED, 4.5, {"log": "x", "count": 4})
    executions = FakeExecutions(info, build_state_machine(tolerant(), LokkiConfig()))
    results = remote_results("tolerant", bucket=bucket, executions=executions, environ=aws.environ)
    with tempfile.TemporaryFile() as spool:
        write_items(store, keys, "numbers", [0, 1, {2}, 3], 4096, spool)
    return Deployed(store, executions, results, keys)


def test_a_deployed_run_has_the_same_interface(deployed: Deployed) -> None:
    stored = save(deployed.store, deployed.keys.item_output("third", (2,)), {"a", 5}, 4096)
    failed_input = {"run_id": "run-1", "params": {"log": "x"}, "item": {"index": 1, "item": 1}}
    cause = {"errorMessage": "cannot take 10", "errorType": "ValueError", "stackTrace": ["  File x\n", "    y\n"]}
    deployed.finish_map(
        [{"index": 3, "result": 62}, {"index": 2, **ref_to_json(stored)}, {"index": 0, "result": 2}],
        [{"Input": json.dumps(failed_input), "Error": "ValueError", "Cause": json.dumps(cause), "Status": "FAILED"}],
    )
    deployed.executions.outputs["Total"] = {"result": 64}
    deployed.executions.lines = [LogLine("t", "third", (3,), "hello")]
    [run] = deployed.results.runs()
    assert (run.id, run.status, run.started, run.seconds, run.params) == (
        "run-1", "succeeded", STARTED, 4.5, {"log": "x", "count": 4},
    )  # fmt: skip
    assert run.steps == ["numbers", "first", "second", "third", "total"]
    assert run.result() == run.step("total") == 64
    assert list(items(run.step("numbers"))) == [0, 1, {2}, 3]
    third = items(run.step("third"))
    trace = "Traceback (most recent call last):\n  File x\n    y\nValueError: cannot take 10\n"
    failure = Failure("first → second → third", "ValueError", "cannot take 10", "", trace, trace)
    assert third.failures() == {1: failure}
    assert (third[0], third[2], third[3], list(third.succeeded())) == (2, {"a", 5}, 62, [2, {"a", 5}, 62])
    assert error_of(lambda: third[1]) == f"RunError: item 1 failed: {failure}. failures() has its traceback."
    assert run.logs() == [LogLine("t", "third", (3,), "hello")]
    assert deployed.results.latest().id == deployed.results.run("run-1").id


@pytest.mark.parametrize(
    ("calls", "step"),
    [
        (("first", "double"), "double"),
        (("double", "double_2"), "double → double_2"),
        (("per_row_first", "per_row_double_2"), "per_row_double_2"),
        (("per_row_double", "other_double"), "per_row_double → other_double"),
    ],
)
def test_a_failed_child_is_that_of_the_step_in_its_traceback_if_it_is_called_once(
    calls: tuple[str, ...], step: str
) -> None:
    cause = json.dumps({"errorMessage": "no", "stackTrace": ['  File "flow.py", line 3, in double\n    x\n']})
    assert child_failure(calls, "ValueError", cause).step == step


def test_results_of_batches_are_found_wherever_their_entries_are(deployed: Deployed) -> None:
    url = deployed.store.url(f"{deployed.keys.prefix}/third/entries.json")
    described: Json = {"step": "second", "error": "ValueError", "message": "no"}
    deployed.write(
        f"{deployed.keys.prefix}/third/entries.json", [{"index": 1, "failed": described}, {"index": 2, "result": 42}]
    )
    aborted = {"Items": [{"index": 0, "item": 0}], "BatchInput": {}}
    deployed.finish_map(
        [{"entries_url": url}, {"index": 3, "result": 62}],
        [{"Input": json.dumps(aborted), "Error": "Sandbox.Timedout", "Cause": "late", "Status": "TIMED_OUT"}],
    )
    third = items(deployed.results.latest().step("third"))
    assert third.failures() == {
        0: Failure("first → second → third", "Sandbox.Timedout", "late"),
        1: Failure("second", "ValueError", "no"),
    }
    assert list(third.succeeded()) == [42, 62]


def test_what_an_inner_step_returned_is_found_where_it_has_an_object(deployed: Deployed) -> None:
    deployed.store.write(deployed.keys.item_output("first", (2,)), [])
    save(deployed.store, deployed.keys.item_output("first", (2,)), {20}, 0)
    deployed.finish_map([], [])
    first = items(deployed.results.latest().step("first"))
    assert first[2] == {20}
    assert error_of(lambda: first[1]).startswith(
        "StoreError: what first() returned for item 1 has no object of its own: results of inner steps that are small, "
        "or of a batch, are in the child execution only. Compute it again: replay RUN --step first --item 1. ("
    )


def test_a_deployed_run_that_failed_says_what_it_has_not(deployed: Deployed) -> None:
    error = "TooManyFailuresError: 3 of 4"
    deployed.executions.info = RunInfo("run-1", "tolerant", "failed", STARTED, 4.5, {}, error)
    run = deployed.results.latest()
    assert error_of(run.result) == "RunError: the run run-1 has no result; it is failed: TooManyFailuresError: 3 of 4"
    assert error_of(lambda: run.step("total")) == (
        "StoreError: the run run-1 has no result of total(): it did not get that far, or failed."
    )
    third = items(run.step("third"))
    assert error_of(lambda: third[0]) == "StoreError: item 0 of numbers() has no result: the run did not finish it."


def test_results_that_are_none_of_a_map_are_a_store_error(deployed: Deployed) -> None:
    deployed.finish_map([{"no": "index"}], [])
    message = error_of(lambda: deployed.results.latest().step("third"))
    assert message == (
        f"StoreError: {deployed.store.url(deployed.keys.map_results('numbers') + '0b1c/SUCCEEDED_0.json')} is not what "
        "Step Functions writes for a map of lokki: Object contains unknown field `no` - at `$[0]`."
    )
    deployed.executions.machine = {"StartAt": "A", "States": {"A": {"Type": "Pass"}}}
    assert error_of(lambda: deployed.results.latest().steps) == (
        "StoreError: the run's state machine is none that lokki builds: KeyError('Arguments')."
    )


def child(index: int, error: str, cause: Json, **fields: str) -> dict[str, Json]:
    """Return AWS's record of a child execution of one item that failed."""
    given = {"run_id": "run-1", "params": {"log": "x"}, "item": {"index": index, "item": index}}
    return {"Input": json.dumps(given), "Error": error, "Cause": json.dumps(cause), "Status": "FAILED", **fields}


def test_an_item_that_succeeded_when_the_run_was_redriven_has_its_result(deployed: Deployed) -> None:
    deployed.finish_map([{"index": 0, "result": 2}], [child(0, "OSError", {"errorMessage": "at first"})])
    third = items(deployed.results.latest().step("third"))
    assert (third[0], third.failures()) == (2, {})


@pytest.mark.parametrize("entry", [{"index": 4, "result": 1}, {"index": -1, "result": 1}, {"index": 0, "result": 1}])
def test_results_that_the_next_step_would_refuse_are_not_shown(deployed: Deployed, entry: Json) -> None:
    deployed.finish_map([{"index": 0, "result": 2}, entry], [])
    manifest = deployed.store.url(f"{deployed.keys.map_results('numbers')}0b1c/manifest.json")
    message = f"StoreError: {manifest} lists results of an item that this map did not have, or of one item twice."
    assert error_of(lambda: deployed.results.latest().step("third")) == message
    source = ResultsKey(f"{deployed.keys.map_results('numbers')}0b1c/manifest.json", 4)
    assert error_of(lambda: load_results(deployed.store, source, 1.0)) == message


@pytest.mark.parametrize("entry", [{"index": 0}, {"index": 0, "result": 1, "result_url": "s3://b/k"}, {"result": 1}, 1])
def test_entries_of_another_shape_are_refused_by_both_readers(deployed: Deployed, entry: Json) -> None:
    deployed.finish_map([entry], [])
    source = ResultsKey(f"{deployed.keys.map_results('numbers')}0b1c/manifest.json", 4)
    problem = error_of(lambda: load_results(deployed.store, source, 1.0))
    assert problem.startswith("StoreError: ")
    assert error_of(lambda: deployed.results.latest().step("third")) == problem


def test_a_failed_child_names_its_step_and_the_users_line(deployed: Deployed) -> None:
    frames = [
        '  File "/var/task/lokki/runtime/handler.py", line 1, in handle\n    run()\n',
        '  File "/var/task/steps.py", line 7, in second\n    raise ValueError\n',
    ]
    cause: Json = {"errorMessage": "no", "errorType": "ValueError", "stackTrace": cast("Json", frames)}
    deployed.finish_map([], [child(1, "ValueError", cause)])
    [(index, failure)] = items(deployed.results.latest().step("second")).failures().items()
    assert (index, failure.step, failure.where) == (1, "second", "steps.py:7")
    assert "lokki/runtime" not in failure.traceback


@pytest.mark.parametrize("text", ["", "{", "{}", '{"item": 3}', '{"Items": [{}]}'])
def test_a_failed_child_whose_items_are_not_known_is_an_error(deployed: Deployed, text: str) -> None:
    deployed.finish_map([], [child(0, "OSError", {}, Input=text)])
    assert error_of(lambda: deployed.results.latest().step("third")).endswith(
        "/manifest.json lists a failed child execution whose input has no items of a map of lokki."
    )
