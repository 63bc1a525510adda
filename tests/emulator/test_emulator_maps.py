"""Distributed maps: items, selection, batches, concurrency, failures that are tolerated, result files, redrive."""

import threading
from collections.abc import Callable
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.emulation import FunctionError, SlowError, World, distributed, machine, make_world, task

from lokki.base.values import Json
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.items import Share, batches
from lokki.emulator.states.outcome import Outcome
from lokki.emulator.states.results import files
from lokki.emulator.states.services import EmulationStoppedError

BUCKET, KEY = "b", "items.json"
READER: Json = {
    "Resource": "arn:aws:states:::s3:getObject",
    "ReaderConfig": {"InputType": "JSON"},
    "Arguments": {"Bucket": BUCKET, "Key": "{% $states.input.key %}"},
}


def writer(transformation: str = "FLATTEN", output_type: str = "JSON") -> Json:
    return {
        "Resource": "arn:aws:states:::s3:putObject",
        "WriterConfig": {"Transformation": transformation, "OutputType": output_type},
        "Arguments": {"Bucket": BUCKET, "Prefix": "{% 'results/' & $states.context.Execution.Name %}"},
    }


def with_items(items: Json, answer: object = lambda event: event, **settings: object) -> World:
    return make_world({"work": answer}, {(BUCKET, KEY): msgspec.json.encode(items)}, **settings)  # type: ignore[dict-item]


def start(world: World, inner: dict[str, Json] | None = None, *, express: bool = False, **fields: Json) -> Execution:
    state = distributed(inner or {"Work": task()}, express=express, ItemReader=READER, Label="l", **fields)
    return world.start(machine({"Each": state}), {"key": KEY})


def run(world: World, inner: dict[str, Json] | None = None, **fields: Json) -> Outcome:
    return start(world, inner, **fields).run()


def manifest(world: World, outcome: Outcome) -> dict[str, list[dict[str, Json]]]:
    """Return the result files that the manifest of a map lists."""
    details = cast("dict[str, dict[str, str]]", outcome.output)["ResultWriterDetails"]
    return listed(world, details["Key"])


def listed(world: World, key: str) -> dict[str, list[dict[str, Json]]]:
    found = cast("dict[str, Json]", world.objects.json(BUCKET, key))
    return cast("dict[str, list[dict[str, Json]]]", found["ResultFiles"])


def contents(world: World, entries: list[dict[str, Json]]) -> list[Json]:
    return [each for entry in entries for each in cast("list[Json]", world.objects.json(BUCKET, str(entry["Key"])))]


def names(entries: list[dict[str, Json]]) -> list[str]:
    return [str(each["Key"]).rpartition("/")[2] for each in entries]


# --- items ---


@pytest.mark.parametrize("items", [[], [None], [1, "two", None, {"a": [1]}], list(range(50))])
def test_each_item_has_a_child_execution(items: list[Json]) -> None:
    world = with_items(items)
    assert run(world).output == items
    assert [event for _, event in world.functions.invocations] == items


def test_the_pairs_of_an_object_are_items() -> None:
    assert run(with_items({"a": 1, "b": None})).output == [{"Key": "a", "Value": 1}, {"Key": "b", "Value": None}]


def test_items_may_come_from_the_input() -> None:
    state = distributed({"Work": task()}, Items="{% $states.input.birds %}")
    world = make_world({"work": lambda event: event})
    assert world.start(machine({"Each": state}), {"birds": ["goose"]}).run().output == ["goose"]


def test_lines_of_json_are_items() -> None:
    world = make_world({"work": lambda event: event}, {(BUCKET, KEY): b'{"a": 1}\n\n[2]\n'})
    reader = {**cast("dict[str, Json]", READER), "ReaderConfig": {"InputType": "JSONL"}}
    state = distributed({"Work": task()}, ItemReader=cast("Json", reader))
    assert world.start(machine({"Each": state}), {"key": KEY}).run().output == [{"a": 1}, [2]]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "s3://b/items.json cannot be read: there is no such object."),
        (b"[1, 2", "The dataset is no JSON: Input data was truncated"),
        (b"7", "Attempting to map over non-iterable node."),
    ],
)
def test_items_that_cannot_be_read_fail_the_map(content: bytes | None, cause: str) -> None:
    world = make_world({"work": lambda event: event}, {} if content is None else {(BUCKET, KEY): content})
    assert run(world) == Outcome("FAILED", None, "States.ItemReaderFailed", cause)


def test_an_item_selector_overrides_each_item_and_sees_index_value_input_and_variables() -> None:
    world = with_items(["goose", "duck"])
    selector: Json = {
        "run_id": "{% $states.context.Execution.Name %}",
        "params": {"limit": "{% $params.limit %}"},
        "key": "{% $states.input.key %}",
        "index": "{% $states.context.Map.Item.Index %}",
        "item": "{% $states.context.Map.Item.Value %}",
    }
    state = distributed({"Work": task()}, ItemReader=READER, ItemSelector=selector)
    first: Json = {"Type": "Pass", "Assign": {"params": {"limit": 5}}, "Next": "Each"}
    common: Json = {"run_id": "run-1", "params": {"limit": 5}, "key": KEY}
    assert world.start(machine({"First": first, "Each": state}), {"key": KEY}).run().output == [
        {**cast("dict[str, Json]", common), "index": 0, "item": "goose"},
        {**cast("dict[str, Json]", common), "index": 1, "item": "duck"},
    ]


def test_a_child_sees_no_variable_of_its_parent() -> None:
    world = with_items([1])
    state = distributed({"Work": task(payload="{% $secret %}")}, ItemReader=READER)
    first: Json = {"Type": "Pass", "Assign": {"secret": 1}, "Next": "Each"}
    world.start(machine({"First": first, "Each": state}), {"key": KEY}).run()
    assert [e.details["error"] for e in world.history if e.type == "ExecutionFailed"] == [
        "States.QueryEvaluationError",
        "States.ExceedToleratedFailureThreshold",
    ]


def test_a_childs_execution_is_its_own() -> None:
    world = with_items(["goose"])
    context: Json = ["{% $states.context.Execution.Input %}", "{% $states.context.StateMachine.Name %}"]
    assert run(world, {"Work": task(payload=context)}).output == [["goose", "birds-flow/l"]]


def test_an_input_of_more_than_256_kib_fails_the_map() -> None:
    assert run(with_items(["x" * 262_143])).error == "States.DataLimitExceeded"


# --- batches ---


def test_a_batcher_puts_items_together_with_the_same_input_for_all() -> None:
    world = with_items([1, 2, 3])
    batcher: Json = {"MaxItemsPerBatch": 2, "BatchInput": {"run_id": "{% $states.context.Execution.Name %}"}}
    assert run(world, ItemBatcher=batcher).output == [
        {"BatchInput": {"run_id": "run-1"}, "Items": [1, 2]},
        {"BatchInput": {"run_id": "run-1"}, "Items": [3]},
    ]


def test_an_item_selector_comes_before_the_batches() -> None:
    fields: dict[str, Json] = {
        "ItemSelector": {"v": "{% $states.context.Map.Item.Value %}"},
        "ItemBatcher": {"MaxItemsPerBatch": 2},
    }
    assert run(with_items([1, 2, 3]), **fields).output == [{"Items": [{"v": 1}, {"v": 2}]}, {"Items": [{"v": 3}]}]


@given(
    st.lists(st.text(max_size=30) | st.integers() | st.none(), max_size=30),
    st.none() | st.integers(1, 7),
    st.integers(120, 300),
    st.none() | st.tuples(st.text(max_size=5)),
)
def test_batches_hold_all_items_in_order_and_no_more_than_is_allowed(
    items: list[Json], most: int | None, size: int, batch_input: tuple[Json] | None
) -> None:
    if any(len(msgspec.json.encode(item)) > 30 for item in items):
        items = [None if len(msgspec.json.encode(item)) > 30 else item for item in items]
    shares = list(batches(items, most, size, batch_input))
    parts = [cast("list[Json]", cast("dict[str, Json]", share.input)["Items"]) for share in shares]
    assert [item for part in parts for item in part] == items
    assert [share.index for share in shares] == [sum(map(len, parts[:n])) for n in range(len(parts))]
    for share, part in zip(shares, parts, strict=True):
        assert share.items == len(part) <= (most or 10**9)
        assert len(msgspec.json.encode(share.input)) <= size
    for share, following in zip(shares, parts[1:], strict=False):
        full = cast("dict[str, Json]", share.input)
        more = {**full, "Items": [*cast("list[Json]", full["Items"]), following[0]]}
        assert share.items == most or len(msgspec.json.encode(more)) > size


def test_batches_are_never_above_256_kib() -> None:
    assert [share.items for share in batches(["x" * 100_000] * 5, None, 10**9, None)] == [2, 2, 1]


# --- failures ---


def fail_on(*bad: Json) -> object:
    def answer(event: Json) -> Json:
        if event in bad:
            raise FunctionError("ValueError", f"not {event}")
        return event

    return answer


@pytest.mark.parametrize(
    ("tolerated", "failing", "status"),
    [
        ({}, 0, "SUCCEEDED"),
        ({}, 1, "FAILED"),
        ({"ToleratedFailureCount": 0}, 1, "FAILED"),
        ({"ToleratedFailureCount": 2}, 2, "SUCCEEDED"),
        ({"ToleratedFailureCount": 2}, 3, "FAILED"),
        ({"ToleratedFailurePercentage": 0}, 1, "FAILED"),
        ({"ToleratedFailurePercentage": 20}, 2, "SUCCEEDED"),
        ({"ToleratedFailurePercentage": 20}, 3, "FAILED"),
        ({"ToleratedFailurePercentage": 100}, 10, "SUCCEEDED"),
        ({"ToleratedFailurePercentage": 100, "ToleratedFailureCount": 3}, 4, "FAILED"),
        ({"ToleratedFailurePercentage": 20, "ToleratedFailureCount": 9}, 3, "FAILED"),
        ({"ToleratedFailureCount": "{% $states.input.key = 'items.json' ? 1 : 0 %}"}, 1, "SUCCEEDED"),
    ],
)
def test_a_map_fails_when_more_items_fail_than_it_tolerates(
    tolerated: dict[str, Json], failing: int, status: str
) -> None:
    world = with_items(list(range(10)), fail_on(*range(failing)))
    outcome = run(world, ResultWriter=writer(), **tolerated)
    assert outcome.status == status
    if status == "SUCCEEDED":
        assert contents(world, manifest(world, outcome)["SUCCEEDED"]) == list(range(failing, 10))
    else:
        assert outcome.error == "States.ExceedToleratedFailureThreshold"
        assert outcome.cause == "The specified tolerated failure threshold was exceeded"


def test_all_items_of_a_batch_that_fails_count() -> None:
    batcher: Json = {"MaxItemsPerBatch": 3}
    bad: Json = {"Items": [0, 1, 2]}
    for count, status in ((2, "FAILED"), (3, "SUCCEEDED")):
        world = with_items(list(range(9)), fail_on(bad))
        assert run(world, ItemBatcher=batcher, ToleratedFailureCount=count).status == status


def test_children_are_not_started_after_too_many_have_failed() -> None:
    world = with_items(list(range(10)), fail_on(2))
    run(world, ResultWriter=writer())
    assert [event for _, event in world.functions.invocations] == [0, 1, 2]
    [key] = [key for _, key in world.objects.content if key.endswith("manifest.json")]
    files_by_status = listed(world, key)
    assert contents(world, files_by_status["SUCCEEDED"]) == [0, 1]
    pending = cast("list[dict[str, Json]]", contents(world, files_by_status["PENDING"]))
    assert [(each["Status"], each["Input"]) for each in pending] == [("PENDING", str(n)) for n in range(3, 10)]
    [failed] = cast("list[dict[str, Json]]", contents(world, files_by_status["FAILED"]))
    arn = "birds-flow/l"
    assert failed == {
        "Cause": '{"errorType":"ValueError","errorMessage":"not 2"}',
        "Error": "ValueError",
        "ExecutionArn": f"arn:aws:states:us-east-1:123456789012:execution:{arn}:{failed['Name']}",
        "Input": "2",
        "InputDetails": {"Included": True},
        "Name": failed["Name"],
        "RedriveCount": 0,
        "RedriveStatus": "REDRIVABLE_BY_MAP_RUN",
        "StartDate": "2026-11-23T12:00:00.005Z",
        "StateMachineArn": f"arn:aws:states:us-east-1:123456789012:stateMachine:{arn}",
        "Status": "FAILED",
        "StopDate": "2026-11-23T12:00:00.005Z",
    }


def test_a_map_that_is_tried_again_is_a_new_map_run() -> None:
    left = [2]

    def answer(event: Json) -> Json:
        if event == 1 and left[0]:
            left[0] -= 1
            raise FunctionError("E")
        return event

    world = with_items([0, 1], answer)
    rule: Json = {"ErrorEquals": ["States.ExceedToleratedFailureThreshold"]}
    assert run(world, Retry=[rule]).output == [0, 1]
    assert [event for _, event in world.functions.invocations] == [0, 1] * 3
    assert len({event.details["mapRunArn"] for event in world.history if event.type == "MapRunStarted"}) == 3


def test_a_map_that_fails_can_be_caught() -> None:
    world = with_items([1], fail_on(1))
    catch: Json = [{"ErrorEquals": ["States.ExceedToleratedFailureThreshold"], "Next": "Saved"}]
    state = distributed({"Work": task()}, ItemReader=READER, Catch=catch)
    saved: Json = {"Type": "Pass", "Output": "saved", "End": True}
    assert world.start(machine({"Each": state, "Saved": saved}), {"key": KEY}).run().output == "saved"


def test_an_express_child_has_five_minutes() -> None:
    def slow(event: Json) -> Json:
        raise SlowError(cast("float", event))

    inner = {"Work": task(Next="Again"), "Again": task(payload=200)}
    for seconds, status in ((99, "SUCCEEDED"), (101, "FAILED")):
        assert run(with_items([seconds], slow), inner, express=True).status == status  # type: ignore[arg-type]
        assert run(with_items([seconds], slow), inner).status == "SUCCEEDED"


def test_results_that_cannot_be_written_fail_the_map() -> None:
    world = with_items([1])
    world.objects.unwritable = True
    outcome = run(world, ResultWriter=writer())
    assert outcome.error == "States.ResultWriterFailed"
    assert (
        outcome.cause.endswith("manifest.json cannot be written: access is denied.") or "SUCCEEDED_0" in outcome.cause
    )


# --- results ---


def test_the_map_hands_on_where_its_manifest_is() -> None:
    world = with_items([1, 2])
    outcome = run(world, ResultWriter=writer())
    details = cast("dict[str, dict[str, str]]", outcome.output)
    identity = str(details["MapRunArn"]).rpartition(":")[2]
    key = f"results/run-1/{identity}/manifest.json"
    arn = f"arn:aws:states:us-east-1:123456789012:mapRun:birds-flow/l:{identity}"
    assert outcome.output == {"MapRunArn": arn, "ResultWriterDetails": {"Bucket": BUCKET, "Key": key}}
    result = f"results/run-1/{identity}/SUCCEEDED_0.json"
    assert world.objects.json(BUCKET, key) == {
        "DestinationBucket": BUCKET,
        "MapRunArn": arn,
        "ResultFiles": {"FAILED": [], "PENDING": [], "SUCCEEDED": [{"Key": result, "Size": len(b"[1,2]")}]},
    }
    assert world.objects.content[BUCKET, result] == b"[1,2]"


def test_a_map_over_nothing_has_a_manifest_without_files() -> None:
    world = with_items([])
    assert manifest(world, run(world, ResultWriter=writer())) == {"FAILED": [], "PENDING": [], "SUCCEEDED": []}


def test_results_above_the_limit_go_into_several_files() -> None:
    world = with_items(list(range(100)), file_bytes=50)
    outcome = run(world, ResultWriter=writer())
    entries = manifest(world, outcome)["SUCCEEDED"]
    assert names(entries) == [f"SUCCEEDED_{n}.json" for n in range(len(entries))]
    assert len(entries) > 3
    assert all(cast("int", each["Size"]) <= 52 for each in entries)
    assert contents(world, entries) == list(range(100))


def test_lines_are_written_where_they_are_asked_for() -> None:
    world = with_items([[1, 2], [3]])
    [entry] = manifest(world, run(world, ResultWriter=writer("FLATTEN", "JSONL")))["SUCCEEDED"]
    assert world.objects.content[BUCKET, str(entry["Key"])] == b"1\n2\n3\n"


@given(st.lists(st.integers(0, 10**6)), st.integers(10, 60))
def test_files_hold_all_values_in_order(values: list[int], limit: int) -> None:
    made = list(files(values, "JSON", limit))
    assert [value for content in made for value in msgspec.json.decode(content)] == values
    assert all(len(content) <= limit + 2 for content in made)


# --- concurrency ---


@pytest.mark.parametrize(
    ("fields", "workers", "most"), [({"MaxConcurrency": 3}, 8, 3), ({}, 5, 5), ({"MaxConcurrency": 0}, 4, 4)]
)
def test_children_run_at_one_time_as_far_as_they_may(fields: dict[str, Json], workers: int, most: int) -> None:
    running, highest, lock = [0], [0], threading.Lock()
    all_there = threading.Barrier(most, timeout=10)

    def answer(event: Json) -> Json:
        with lock:
            running[0] += 1
            highest[0] = max(highest[0], running[0])
        all_there.wait()
        with lock:
            running[0] -= 1
        return event

    world = with_items(list(range(most * 4)), answer, workers=workers)
    outcome = run(world, ResultWriter=writer(), **fields)
    assert sorted(cast("list[int]", contents(world, manifest(world, outcome)["SUCCEEDED"]))) == list(range(most * 4))
    assert highest[0] == most


# --- redrive ---


def elsewhere(execution: Execution, make: Callable[[], Execution]) -> Execution:
    """Make an execution again as another process would, from the JSON of its snapshot."""
    snapshot = msgspec.json.encode(execution.snapshot())
    again = make()
    again.restore(snapshot)
    assert msgspec.json.encode(again.snapshot()) == snapshot
    return again


@pytest.mark.parametrize("process", ["this", "another"])
@pytest.mark.parametrize("kind", ["STANDARD", "EXPRESS"])
def test_a_redriven_map_runs_only_what_has_not_succeeded(kind: str, process: str) -> None:
    express = kind == "EXPRESS"
    broken = [True]

    def answer(event: Json) -> Json:
        if broken[0] and event == {"second": 2}:
            raise FunctionError("E")
        return event

    world = with_items(list(range(5)), answer)
    inner: dict[str, Json] = {
        "First": task(Next="Second"),
        "Second": task(payload={"second": "{% $states.input %}"}),
    }

    def make() -> Execution:
        return start(world, inner, express=express, ResultWriter=writer())

    execution = make()
    assert execution.run().status == "FAILED"
    if process == "another":
        execution = elsewhere(execution, make)
    before = len(world.functions.invocations)
    broken[0] = False
    outcome = execution.redrive()
    assert outcome.status == "SUCCEEDED"
    again = [event for _, event in world.functions.invocations[before:]]
    rest: list[Json] = [{"second": 2}, 3, {"second": 3}, 4, {"second": 4}]
    assert again == ([2, *rest] if express else rest)
    entries = manifest(world, outcome)["SUCCEEDED"]
    assert names(entries) == ["SUCCEEDED_0.json", "SUCCEEDED_1.json"]
    assert contents(world, entries) == [{"second": n} for n in range(5)]
    assert manifest(world, outcome)["FAILED"] == []
    assert world.told("MapRunStarted", "MapRunRedriven") == [("MapRunStarted", "Each"), ("MapRunRedriven", "Each")]


def test_what_had_succeeded_when_the_emulation_was_stopped_is_not_lost() -> None:
    stopped = [True]

    def answer(event: Json) -> Json:
        if event == 3 and stopped[0]:
            raise EmulationStoppedError
        return event

    world = with_items(list(range(6)), answer)

    def make() -> Execution:
        return start(world, ResultWriter=writer())

    execution = make()
    with pytest.raises(EmulationStoppedError):
        execution.run()
    stopped[0] = False
    before = len(world.functions.invocations)
    outcome = elsewhere(execution, make).redrive()
    assert contents(world, manifest(world, outcome)["SUCCEEDED"]) == list(range(6))
    assert [event for _, event in world.functions.invocations[before:]] == [3, 4, 5]


def test_a_map_whose_items_could_not_be_read_begins_on_redrive() -> None:
    world = make_world({"work": lambda event: event})
    execution = start(world)
    assert execution.run().error == "States.ItemReaderFailed"
    world.objects.content[BUCKET, KEY] = b"[1]"
    assert execution.redrive().output == [1]


def test_a_share_knows_its_items() -> None:
    assert list(batches([1, 2, 3], 2, None, None)) == [Share({"Items": [1, 2]}, 0, 2), Share({"Items": [3]}, 2, 1)]


def test_children_end_as_aborted_when_their_parent_is_out_of_time() -> None:
    def slow(event: Json) -> Json:
        raise SlowError(30)

    world = make_world({"work": slow})
    assert (
        world.start(machine({"Each": distributed({"In": task()}, Items=[1, 2])}), timeout=20).run().status
        == "TIMED_OUT"
    )
    assert world.told("ExecutionAborted", "ExecutionTimedOut") == [("ExecutionAborted", ""), ("ExecutionTimedOut", "")]
    assert [event.child is not None for event in world.history if event.type == "ExecutionAborted"] == [True]
