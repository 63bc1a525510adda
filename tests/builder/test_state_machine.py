"""The state machine of a flow: what states it has, what they pass on, when they try again, how long they may take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from build_flows import BUILDS, add_up, call_service, double, fetch, predict, tidy
from hypothesis import given
from hypothesis import strategies as st
from jsonata import Jsonata
from jsonata_samples import REDRIVES, as_jsonata, expressions, samples
from support.definitions import filled_definition

from lokki import FlowGraph, Retry, StepNode, flow, step
from lokki.base.values import Json
from lokki.builder.batching import sizes_itself
from lokki.builder.compiled import compile_flow
from lokki.builder.retries import SERVICE_ERRORS, THROTTLING_ERRORS, step_rule
from lokki.builder.state_machine import build_state_machine, dump_state_machine
from lokki.builder.states import machine_of
from lokki.builder.timing import fits_express
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.states.expressions import Expressions, Scope
from lokki.engine.batch_size import default_batch
from lokki.errors import ConfigError, LokkiError, StepTimeoutError, StoreError
from lokki.plan import lower
from lokki.plan_json import LINE_FORMAT, plan_from_definition, plan_to_json
from lokki.plans.operations import FanOut

type State = dict[str, Json]

SERVICE_RULE = {
    "ErrorEquals": list(SERVICE_ERRORS),
    "IntervalSeconds": 1,
    "MaxAttempts": 6,
    "BackoffRate": 2,
    "MaxDelaySeconds": 60,
    "JitterStrategy": "FULL",
}
THROTTLING_RULE = SERVICE_RULE | {"ErrorEquals": list(THROTTLING_ERRORS), "MaxAttempts": 5000}
EXPRESS_THROTTLING_RULE = THROTTLING_RULE | {"MaxDelaySeconds": 15}


def build(drawn: FlowGraph, config: LokkiConfig | None = None) -> State:
    return build_state_machine(drawn, config or LokkiConfig())


def graph(chain: StepNode[..., object], **options: object) -> FlowGraph:
    @flow(**options)
    def some_flow():
        return chain

    return some_flow()


def states(machine: State) -> dict[str, State]:
    """Return all states by name, those inside maps and branches included."""
    found = dict(machine["States"])
    for state in machine["States"].values():
        for level in [state["ItemProcessor"]] if state["Type"] == "Map" else state.get("Branches", []):
            found |= states(level)
    return found


LINES = [name for name, build in BUILDS.items() if plan_to_json(lower(build.graph))["format"] == LINE_FORMAT]
"""The flows that are lines of calls and map blocks; what graphs are is in test_graph_machines.py."""


def map_of(machine: State) -> State:
    return next(state for state in machine["States"].values() if state["Type"] == "Map")


# --- form ---


def pascal(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def walk(machine: State) -> list[str]:
    """Follow a chain of states from its start to its end."""
    names = [machine["StartAt"]]
    while "Next" in (state := machine["States"][names[-1]]):
        names.append(state["Next"])
    assert state["End"] is True
    return names


def walk_batch(processor: State) -> list[str]:
    """Follow the states of calls on a batch of which the first invocation does all."""
    names = [processor["StartAt"]]
    while "Next" in (state := processor["States"][names[-1]]):
        names.append(state["Next"])
        if names[-1].endswith("-If"):
            names[-1] = processor["States"][names[-1]]["Choices"][0]["Next"]
    assert state["End"] is True
    return names if "-" not in names[-1] else names[:-1]


@pytest.mark.parametrize("name", LINES)
def test_states_are_one_chain_in_the_order_of_the_plan(name: str) -> None:
    machine = BUILDS[name].state_machine()
    ops = {
        pascal(op.source) + "Map" if isinstance(op, FanOut) else pascal(op.id): op
        for op in lower(BUILDS[name].graph).ops
    }
    assert walk(machine) == list(ops) == without_larger(machine["States"])
    for state, op in ops.items():
        if isinstance(op, FanOut):
            processor = machine["States"][state]["ItemProcessor"]
            assert len(walk_batch(processor)) == len(op.calls) == len(without_larger(processor["States"]))


def without_larger(states: State) -> list[str]:
    """Return the names of states but of those that follow when a call runs out of memory."""
    return [name for name in states if "-" not in name]


@pytest.mark.parametrize("name", BUILDS)
def test_each_task_calls_the_function_of_its_step_for_its_own_call(name: str) -> None:
    tasks = {
        state["Arguments"]["Payload"]["call"]: state["Arguments"]["FunctionName"]
        for state_name, state in states(BUILDS[name].state_machine()).items()
        if state["Type"] == "Task" and "-" not in state_name and state_name != "Parameters"
    }
    calls = {call.id: call.step for call in lower(BUILDS[name].graph).calls}
    assert tasks == {call: f"${{{pascal(step)}FunctionArn}}" for call, step in calls.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_a_definition_tells_what_each_of_its_states_is(name: str) -> None:
    definition = BUILDS[name].state_machine()
    machine = machine_of(plan_from_definition(definition))
    assert machine == machine_of(lower(BUILDS[name].graph))
    if name in LINES:
        assert list(machine.order) == walk(definition)
    tasks = {
        state_name: state["Arguments"]["Payload"]["call"]
        for state_name, state in states(definition).items()
        if state["Type"] == "Task" and state_name != "Parameters"
    }
    assert tasks.items() <= dict(machine.calls).items()
    maps = {name: state for name, state in states(definition).items() if state["Type"] == "Map"}
    assert {name: map_state.batch for name, map_state in machine.maps.items()} == {
        name: size if isinstance(size := state.get("ItemBatcher", {}).get("MaxItemsPerBatch"), int) else 0
        for name, state in maps.items()
    }
    # of lokki 0.1, which wrote no plan into the comment, and no search through batches
    if name in LINES and not any(state.endswith("-If") for state in tasks_and_choices(definition)):
        assert machine_of(plan_from_definition({**definition, "Comment": "built by lokki"})) == machine


def tasks_and_choices(definition: State) -> list[str]:
    return [name for name, state in states(definition).items() if state["Type"] in ("Task", "Choice")]


@pytest.mark.parametrize("definition", [None, [], {}, {"Comment": "mine", "StartAt": "A", "States": {"A": {}}}])
def test_a_definition_that_lokki_did_not_build_is_refused(definition: Json) -> None:
    with pytest.raises(StoreError, match=r"^the run's state machine is none that lokki builds: "):
        plan_from_definition(definition)


def test_a_comment_of_a_newer_lokki_is_refused_and_not_guessed_from_the_states() -> None:
    definition = BUILDS["birds"].state_machine()
    newer = {**definition, "Comment": definition["Comment"].replace('"format":1', '"format":7')}
    with pytest.raises(StoreError, match=r"^the plan has the format 7, of which this lokki knows nothing\. Install"):
        plan_from_definition(newer)
    with pytest.raises(StoreError, match=r"^the plan in the state machine's comment cannot be read: "):
        plan_from_definition({**definition, "Comment": definition["Comment"][:-9]})


@step
def take(value: str, label: str = "") -> str:
    return value + label


def test_arguments_and_parameters_are_not_in_a_definition() -> None:
    @flow
    def secretive(token: str = "token-of-the-flow"):
        return take(token, label="label-of-the-argument").next(take(label="another-label"))

    text = json.dumps(build_state_machine(secretive(), LokkiConfig()))
    assert "secretive, built by lokki." in text
    assert not any(word in text for word in ("token-of-the-flow", "label-of-the-argument", "another-label"))


def test_a_step_used_twice_is_one_function_and_two_states() -> None:
    found = states(BUILDS["repeated"].state_machine())
    functions = {state: found[state]["Arguments"]["FunctionName"] for state in ("Tidy", "Tidy2", "Tidy3")}
    assert set(functions.values()) == {"${TidyFunctionArn}"}


def test_a_flow_without_a_timeout_has_none_and_a_fraction_of_a_second_is_rounded_up() -> None:
    assert "TimeoutSeconds" not in build(graph(fetch()))
    assert build(graph(fetch(), timeout=0.5))["TimeoutSeconds"] == 1
    assert build(graph(fetch(), timeout=1e12))["TimeoutSeconds"] == 99_999_999


def test_a_definition_is_written_as_text_without_escapes_and_ends_in_a_newline() -> None:
    assert dump_state_machine({"Comment": "gås", "n": [1, 2.5]}) == (
        '{\n  "Comment": "gås",\n  "n": [\n    1,\n    2.5\n  ]\n}\n'.encode()
    )


# --- data ---


@pytest.mark.parametrize("name", BUILDS)
def test_every_expression_gives_what_is_expected_in_python(name: str) -> None:
    for expression in set(expressions(BUILDS[name].state_machine())):
        found = list(samples(expression))
        assert found, f"no samples for {expression}"
        for sample in found:
            bindings = {name: as_jsonata(value) for name, value in sample.bindings.items()}
            assert Jsonata.jsonata(expression).evaluate(None, bindings) == sample.expected, sample


@pytest.mark.parametrize("name", BUILDS)
def test_only_the_first_task_sees_the_execution_input_and_it_leaves_out_the_parameters_of_its_output(name: str) -> None:
    machine = BUILDS[name].state_machine()
    first = machine["StartAt"]
    for state, content in states(machine).items():
        texts = set(expressions(content))
        assert ("$states.context.Execution.Input" in texts) == (state == first)
        assert any(text.startswith("$sift(") for text in texts) == (state == first != "Parameters")


def test_a_call_gets_the_parameters_that_it_uses_and_no_others() -> None:
    found = states(BUILDS["parameters-and-schedule"].state_machine())
    assert found["ReadDays"]["Assign"] == {"params": "{% $states.result.Payload.params %}"}
    assert found["ReadDaysMap"]["ItemSelector"]["params"] == {
        "bird": "{% $params.bird %}",
        "limit": "{% $params.limit %}",
    }
    assert found["CountBirds"]["Arguments"]["Payload"]["params"] == "{% $states.input.params %}"
    assert "params" not in found["Report"]["Arguments"]["Payload"]


def test_inside_a_map_nothing_is_read_that_a_child_execution_does_not_have() -> None:
    """Child executions see neither variables of their parent nor its name as theirs."""
    for build_ in BUILDS.values():
        for state in build_.state_machine()["States"].values():
            if state["Type"] == "Map":
                inner = set(expressions(state["ItemProcessor"]))
                assert not {text for text in inner if "$params." in text.replace("$states.input.params", "")}
                assert not {text for text in inner - {REDRIVES} if "$states.context.Execution" in text}


def test_a_flow_without_parameters_keeps_no_variable() -> None:
    assert "Assign" not in BUILDS["birds"].state_machine()["States"]["GetBirds"]


# --- maps ---


def test_a_map_hands_on_each_item_and_not_the_whole_input() -> None:
    """The peer selected `$`, which in JSONata is no item."""
    assert map_of(BUILDS["repeated"].state_machine())["ItemSelector"] == {
        "run_id": "{% $states.context.Execution.Name %}",
        "item": "{% $states.context.Map.Item.Value %}",
    }


def test_a_map_reads_all_items_of_the_manifest() -> None:
    """The peer's MaxItems dropped items without a word."""
    assert map_of(BUILDS["birds"].state_machine())["ItemReader"] == {
        "Resource": "${ReadObject}",
        "ReaderConfig": {"InputType": "JSON"},
        "Arguments": {"Bucket": "${ArtifactBucket}", "Key": "{% $states.input.map_manifest_key %}"},
    }


def test_a_map_writes_its_results_under_a_prefix_and_the_next_step_reads_them() -> None:
    """The peer gave ResultWriter a Key and a Body, which it does not have, and .agg never read the results."""
    machine = BUILDS["birds"].state_machine()
    block = map_of(machine)
    assert block["ResultWriter"] == {
        "Resource": "${WriteObject}",
        "WriterConfig": {"OutputType": "JSON", "Transformation": "FLATTEN"},
        "Arguments": {
            "Bucket": "${ArtifactBucket}",
            "Prefix": "{% 'lokki/${FlowName}/' & $states.context.Execution.Name & '/get_birds/map_results' %}",
        },
    }
    assert block["Output"]["results_manifest_key"] == "{% $states.result.ResultWriterDetails.Key %}"
    assert machine["States"][block["Next"]]["Arguments"]["Payload"]["input"] == "{% $states.input %}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"concurrency": 3}, {"MaxConcurrency": 3}),
        ({"concurrency": 20_000}, {"MaxConcurrency": 10_000}),
        ({"tolerate": 0}, {"ToleratedFailureCount": 0}),
        ({"tolerate": 5}, {"ToleratedFailureCount": 5}),
        ({"tolerate": 0.0}, {"ToleratedFailurePercentage": 0}),
        ({"tolerate": 0.05}, {"ToleratedFailurePercentage": 5}),
        ({"tolerate": 0.29}, {"ToleratedFailurePercentage": 29}),
        ({"tolerate": 0.125}, {"ToleratedFailureCount": "${FetchTolerated}"}),
        ({"tolerate": 1e-07}, {"ToleratedFailureCount": "${FetchTolerated}"}),
        ({"tolerate": 1.0}, {"ToleratedFailurePercentage": 100}),
    ],
)
def test_bounds_of_a_map(options: dict[str, float], expected: State) -> None:
    block = map_of(build(graph(fetch().map(double, **options).agg(add_up))))
    names = ("MaxConcurrency", "ToleratedFailureCount", "ToleratedFailurePercentage")
    assert {name: block[name] for name in names if name in block} == {"MaxConcurrency": "${MapConcurrency}"} | expected


@given(share=st.integers(0, 1000).map(lambda n: n / 1000), total=st.integers(1, 2000), data=st.data())
def test_a_tolerated_share_is_the_same_share_on_aws(share: float, total: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, total))
    drawn = graph(fetch().map(double, tolerate=share).agg(add_up))
    block = map_of(filled_definition(drawn, LokkiConfig(), "bucket"))
    if "ToleratedFailurePercentage" in block:
        fails_on_aws = Fraction(failed * 100, total) > block["ToleratedFailurePercentage"]
    else:
        scope = Scope({"input": {"items": total}}, {})
        count = Expressions().fill(block["ToleratedFailureCount"], scope, "ToleratedFailureCount")
        assert count == int(count)
        fails_on_aws = failed > count
    fan_out = next(op for op in lower(drawn).ops if isinstance(op, FanOut))
    assert fan_out.options.too_many(failed, total) == fails_on_aws


@given(items=st.integers(0, 10**7), at_once=st.integers(1, 10_000), several=st.sampled_from([0, 1, 2, 3, 10]))
def test_batches_size_themselves_as_estimates_count_them(items: int, at_once: int, several: int) -> None:
    items = several * at_once + 1 if several else items
    drawn = graph(fetch().map(double, concurrency=at_once).agg(add_up))
    size = map_of(filled_definition(drawn, LokkiConfig(), "bucket"))["ItemBatcher"]["MaxItemsPerBatch"]
    batch = Expressions().fill(size, Scope({"input": {"items": items}}, {}), "MaxItemsPerBatch")
    assert batch == default_batch(items, at_once)
    assert batch == 1 or items > at_once
    children = math.ceil(items / default_batch(items, at_once))
    assert children <= max(10_000, items / 2_000)
    # Rounds of equal items take little longer than with an item to a child.
    rounds = math.ceil(children / at_once) * default_batch(items, at_once)
    assert rounds <= 1.3 * math.ceil(items / at_once)


def test_batches_do_not_size_themselves_where_a_function_would_have_to_wait_for_long() -> None:
    @step(retry=Retry(attempts=3, delay=40))
    def patient(value: int) -> int:
        return value

    def sizes(inner: StepNode[..., Any], **config: Any) -> bool:
        compiled = compile_flow(graph(fetch().map(inner).agg(add_up)), LokkiConfig(**config))
        return sizes_itself(compiled, compiled.maps[0])

    assert (sizes(double), sizes(call_service), sizes(patient)) == (True, True, False)
    assert not sizes(double, execution_type="EXPRESS")


def test_a_batch_has_its_items_in_one_invocation_and_keeps_an_array_for_the_next_step() -> None:
    block = BUILDS["batches"].state_machine()["States"]["SpreadMap"]
    assert "ItemSelector" not in block
    assert block["ItemBatcher"] == {
        "MaxItemsPerBatch": 10,
        "MaxInputBytesPerBatch": 200_000,
        "BatchInput": {
            "run_id": "{% $states.context.Execution.Name %}",
            "params": {"prefix": "{% $params.prefix %}"},
        },
    }
    inner = block["ItemProcessor"]["States"]
    assert inner["CallService-If"]["Choices"][0] == {
        "Condition": "{% $first = $items %}",
        "Output": {"BatchInput": "{% $states.input.BatchInput %}", "Items": "{% $done %}"},
        "Next": "Label",
    }
    assert inner["Label"]["Arguments"]["Payload"] == {
        "run_id": "{% $states.input.BatchInput.run_id %}",
        "call": "label",
        "attempt": "{% $states.context.State.RetryCount %}",
        "params": "{% $states.input.BatchInput.params %}",
        "items": "{% $states.input.Items %}",
        "redrives": f"{{% {REDRIVES} %}}",
    }
    assert inner["Label"]["Assign"]["done"] == "{% $states.result.Payload.items %}"
    assert inner["Label-OK"] == {"Type": "Pass", "Output": "{% $done %}", "End": True}


@pytest.mark.parametrize("name", BUILDS)
def test_labels_of_maps_are_short_plain_and_unique(name: str) -> None:
    labels = [state["Label"] for state in states(BUILDS[name].state_machine()).values() if state["Type"] == "Map"]
    assert len(set(labels)) == len(labels)
    assert all(1 <= len(each) <= 40 and re.fullmatch(r"[\w-]+", each) for each in labels)


# --- retries ---


def retries(machine: State) -> Iterator[tuple[str, State]]:
    for name, state in states(machine).items():
        for rule in state.get("Retry", []):
            yield name, rule


class Outer:
    class InnerError(ConnectionError):
        pass


def rules_of(retry: Retry) -> list[State]:
    @step(retry=retry)
    def unsteady(value: int) -> int:
        return value

    return states(build(graph(fetch().map(unsteady, batch=1).agg(add_up))))["Unsteady"]["Retry"]


def test_a_step_in_a_map_has_its_own_retries_and_those_for_lambda() -> None:
    """The peer lost the retries of steps inside maps."""
    assert states(BUILDS["two-maps"].state_machine())["CallService"]["Retry"] == [
        {
            "ErrorEquals": ["ConnectionError", "TimeoutError", "Sandbox.Timedout", "States.Timeout"],
            "IntervalSeconds": 1,
            "MaxAttempts": 3,
            "BackoffRate": 3,
            "MaxDelaySeconds": 20,
        },
        SERVICE_RULE,
        THROTTLING_RULE,
    ]


@pytest.mark.parametrize("name", BUILDS)
def test_every_task_outlasts_failures_of_lambda(name: str) -> None:
    tasks = [state for state in states(BUILDS[name].state_machine()).values() if state["Type"] == "Task"]
    for task in tasks:
        assert task["Retry"][-2] == SERVICE_RULE
        last = task["Retry"][-1]
        # Tasks side by side share the events of their execution, so they wait longer and less often.
        shared = {name: last[name] for name in ("MaxAttempts", "MaxDelaySeconds")} if name not in LINES else {}
        assert last in (THROTTLING_RULE | shared, EXPRESS_THROTTLING_RULE)
        assert last["MaxAttempts"] * last["MaxDelaySeconds"] > 80_000 or last == EXPRESS_THROTTLING_RULE


def test_attempts_count_the_first_try_and_max_attempts_does_not() -> None:
    """The peer was one off."""
    assert rules_of(Retry(attempts=3))[0]["MaxAttempts"] == 2
    assert rules_of(Retry(attempts=2))[0]["MaxAttempts"] == 1
    assert rules_of(Retry(attempts=1)) == [SERVICE_RULE, THROTTLING_RULE]


def test_errors_have_the_names_that_step_functions_sees() -> None:
    """The peer wrote names that never match, such as builtins.ConnectionError."""
    assert rules_of(Retry(on=(Outer.InnerError, ConnectionError)))[0]["ErrorEquals"] == [
        "InnerError",
        "ConnectionError",
    ]
    assert rules_of(Retry(on=(Exception,)))[0]["ErrorEquals"] == [
        "Exception",
        "Sandbox.Timedout",
        "States.Timeout",
        "Runtime.OutOfMemory",
        "Runtime.ExitError",
        "Lambda.Unknown",
    ]
    assert rules_of(Retry(on=(StepTimeoutError, StepTimeoutError)))[0]["ErrorEquals"] == [
        "StepTimeoutError",
        "Sandbox.Timedout",
        "States.Timeout",
    ]
    assert "Runtime.ExitError" in rules_of(Retry(on=(LokkiError,)))[0]["ErrorEquals"]
    assert "States.Timeout" not in rules_of(Retry(on=(ValueError,)))[0]["ErrorEquals"]


@pytest.mark.parametrize(
    ("retry", "interval", "backoff", "max_delay"),
    [
        (Retry(delay=0), 1, 1, None),
        (Retry(delay=0.2), 1, 2, 60),
        (Retry(delay=1.1, backoff=1.5), 2, 1.5, 60),
        (Retry(delay=5, backoff=1), 5, 1, None),
        (Retry(delay=90), 60, 1, None),
        (Retry(delay=59.5), 60, 1, None),
        (Retry(max_delay=0), 1, 1, None),
        (Retry(max_delay=1e12), 1, 2, 31_622_399),
    ],
)
def test_delays_are_whole_seconds_that_step_functions_takes(
    retry: Retry, interval: int, backoff: float, max_delay: int | None
) -> None:
    """The peer wrote IntervalSeconds: 0, which is refused."""
    rule = rules_of(retry)[0]
    assert (rule["IntervalSeconds"], rule["BackoffRate"], rule.get("MaxDelaySeconds")) == (interval, backoff, max_delay)


@given(
    st.builds(
        Retry,
        attempts=st.integers(2, 100),
        delay=st.floats(0, 1e9),
        backoff=st.floats(1, 1e6),
        max_delay=st.floats(0, 1e9),
    )
)
def test_any_retry_makes_a_rule_that_aws_takes_and_that_waits_at_least_as_long_as_asked(retry: Retry) -> None:
    rule = step_rule(retry)
    assert rule is not None
    asl = rule.to_asl()
    assert 1 <= asl["IntervalSeconds"] <= 99_999_999
    assert asl["BackoffRate"] >= 1
    most = asl.get("MaxDelaySeconds", math.inf)
    assert most == math.inf or asl["IntervalSeconds"] < most < 31_622_400
    asked = sum(min(retry.wait(failed), 31_622_399) for failed in range(1, retry.attempts))
    assert rule.longest_wait >= asked or math.isclose(rule.longest_wait, asked)


def test_a_batch_is_not_run_again_for_one_item_that_failed() -> None:
    rules = BUILDS["batches"].state_machine()["States"]["SpreadMap"]["ItemProcessor"]["States"]["CallService"]["Retry"]
    assert rules == [SERVICE_RULE, THROTTLING_RULE]


@pytest.mark.parametrize("name", BUILDS)
def test_no_error_is_in_two_rules_of_a_task(name: str) -> None:
    for state in states(BUILDS[name].state_machine()).values():
        names = [error for rule in state.get("Retry", []) for error in rule["ErrorEquals"]]
        assert len(set(names)) == len(names)


# --- time ---


def task_timeouts(drawn: FlowGraph, config: LokkiConfig | None = None) -> dict[str, int]:
    return {
        name: state["TimeoutSeconds"] for name, state in states(build(drawn, config)).items() if state["Type"] == "Task"
    }


def test_a_task_waits_longer_than_its_function_may_run() -> None:
    drawn = graph(fetch().next(tidy).map(predict, batch=1).next(call_service).agg(add_up))
    config = LokkiConfig(lambda_defaults=LambdaDefaultsConfig(timeout=60))
    assert task_timeouts(drawn, config) == {"Fetch": 75, "Tidy": 75, "Predict": 45, "CallService": 18, "AddUp": 75}


def test_a_function_of_batches_that_size_themselves_has_time_for_some_items_and_for_five_minutes() -> None:
    drawn = graph(fetch().map(predict).next(call_service).next(double).agg(add_up))
    config = LokkiConfig(lambda_defaults=LambdaDefaultsConfig(timeout=60))
    # Two tries of 30 s and a wait of 1 s; without a timeout of its own a step has that of the settings.
    times = {"Predict": 610 + 15, "CallService": 300 + 15, "Double": 60 + 15}
    assert task_timeouts(drawn, config).items() >= times.items()


def test_in_a_batch_a_timeout_covers_each_try_of_each_item() -> None:
    """10 items of 4 tries of 2.5 s, with waits of 0.2, 0.6 and 1.8 s; and 5 s for the batch, 15 for the task."""
    drawn = graph(fetch().map(call_service, batch=10).agg(add_up))
    assert task_timeouts(drawn)["CallService"] == 10 * (4 * 2.5 + 2.6) + 5 + 15
    drawn = graph(fetch().map(call_service, batch=1000).agg(add_up))
    assert task_timeouts(drawn)["CallService"] == 1800 + 15


def execution_type(drawn: FlowGraph, **settings: object) -> str:
    return map_of(build(drawn, LokkiConfig(**settings)))["ItemProcessor"]["ProcessorConfig"]["ExecutionType"]


def fits(drawn: FlowGraph, **settings: Any) -> bool:
    compiled = compile_flow(drawn, LokkiConfig(**settings))
    return fits_express(compiled, compiled.maps[0])


def seconds(timeout: float, **options: object) -> StepNode[..., int]:
    @step(timeout=timeout, **options)
    def work(value: int) -> int:
        return value

    return work


@pytest.mark.parametrize(
    ("timeout", "expected"),
    # 300 s less 15 for starting the function, less 1 + 2 + 4 + 8 + 16 + 32 between tries after failures of Lambda,
    # less 60 for waiting until the account has a free function
    [(162, True), (163, False)],
)
def test_items_fit_express_where_their_worst_case_fits_five_minutes(timeout: int, expected: bool) -> None:
    assert fits(graph(fetch().map(seconds(timeout)).agg(add_up))) == expected


def test_the_worst_case_counts_tries_waits_and_all_inner_steps() -> None:
    twice = Retry(attempts=2, delay=7)
    assert fits(graph(fetch().map(seconds(70, retry=twice)).agg(add_up)))
    assert not fits(graph(fetch().map(seconds(71, retry=twice)).agg(add_up)))
    # predict: two tries of 30 + 15 seconds, 1 between them, 63 after failures of Lambda; 60 once
    assert fits(graph(fetch().map(seconds(8)).next(predict).agg(add_up)))
    assert not fits(graph(fetch().map(seconds(9)).next(predict).agg(add_up)))
    assert fits(graph(fetch().map(seconds(30), batch=5).agg(add_up)))
    assert not fits(graph(fetch().map(seconds(30), batch=6).agg(add_up)))


def test_a_step_without_a_timeout_has_that_of_the_settings() -> None:
    drawn = graph(fetch().map(double).agg(add_up))
    assert not fits(drawn)
    assert fits(drawn, lambda_defaults=LambdaDefaultsConfig(timeout=60))


def test_children_are_standard_unless_the_setting_says_express() -> None:
    drawn = graph(fetch().map(seconds(10)).agg(add_up))
    assert execution_type(drawn) == execution_type(drawn, execution_type="STANDARD") == "STANDARD"
    assert execution_type(drawn, execution_type="EXPRESS") == "EXPRESS"
    assert execution_type(graph(fetch().map(seconds(300)).agg(add_up)), execution_type="EXPRESS") == "EXPRESS"


def test_express_that_would_cut_items_off_is_refused() -> None:
    drawn = graph(fetch().map(seconds(200)).next(predict).next(double).agg(add_up))
    with pytest.raises(ConfigError) as caught:
        execution_type(drawn, execution_type="EXPRESS", lambda_defaults=LambdaDefaultsConfig(timeout=71))
    assert str(caught.value) == (
        "execution_type: EXPRESS ends after 300 seconds, but work() and predict() and double() in the map over fetch() "
        "may take 301. Give them a shorter @step(timeout=…), or remove execution_type."
    )
    assert execution_type(drawn, execution_type="EXPRESS", lambda_defaults=LambdaDefaultsConfig(timeout=70))


def test_the_time_between_tries_is_shorter_where_an_execution_has_five_minutes() -> None:
    express = LokkiConfig(execution_type="EXPRESS")
    found = states(build(graph(fetch().map(seconds(10)).agg(add_up)), express))
    assert found["Work"]["Retry"] == [SERVICE_RULE, EXPRESS_THROTTLING_RULE]
    assert found["AddUp"]["Retry"] == [SERVICE_RULE, THROTTLING_RULE]


def test_building_twice_gives_equal_definitions_that_share_nothing() -> None:
    drawn = BUILDS["batches"].graph
    one, other = build(drawn), build(drawn)
    assert one == other
    map_of(one)["ItemReader"]["Arguments"]["Key"] = "changed"
    assert one != other
