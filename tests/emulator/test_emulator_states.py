"""Tasks and what is around them: payloads, outputs, variables, retries, catches, time and size; and what is refused."""

from typing import cast

import pytest
from support.emulation import FunctionError, SlowError, World, distributed, failing, machine, make_world, task

from lokki.base.values import Json
from lokki.emulator.states.definition import STATE_TYPES, read_definition
from lokki.emulator.states.outcome import Outcome
from lokki.errors import EmulatorError

LIMIT = 262_144


def run(world: World, states: dict[str, Json], given: Json = None, **fields: Json) -> Outcome:
    return world.start(machine(states, **fields), given).run()


def test_a_task_hands_the_functions_payload_on() -> None:
    world = make_world({"work": lambda event: {"result": event}})
    assert run(world, {"Work": task(payload={"x": "{% $states.input.n + 1 %}"})}, {"n": 1}) == Outcome(
        "SUCCEEDED", {"result": {"x": 2}}
    )
    assert world.functions.invocations == [("work", {"x": 2})]


def test_without_an_output_the_whole_response_is_handed_on() -> None:
    world = make_world({"work": lambda event: 7})
    state = task()
    del state["Output"]
    outcome = run(world, {"Work": state})
    assert outcome.output == {
        "ExecutedVersion": "$LATEST",
        "Payload": 7,
        "SdkHttpMetadata": {
            "AllHttpHeaders": {},
            "HttpHeaders": {"Content-Type": "application/json", "X-Amz-Executed-Version": "$LATEST"},
            "HttpStatusCode": 200,
        },
        "SdkResponseMetadata": {"RequestId": "run-1"},
        "StatusCode": 200,
    }


def test_variables_reach_later_states_and_are_assigned_from_the_values_before() -> None:
    world = make_world({"work": lambda event: event})
    states: dict[str, Json] = {
        "One": task(payload={"a": 1}, Assign={"kept": "{% $states.result.Payload.a %}"}, Next="Two"),
        "Two": {
            "Type": "Pass",
            "Assign": {"kept": "{% $kept + 1 %}"},
            "Output": "{% $kept %}",
            "Next": "Three",
        },
        "Three": {"Type": "Pass", "Output": ["{% $states.input %}", "{% $kept %}"], "End": True},
    }
    assert run(world, states).output == [1, 2]


CHOICE: dict[str, Json] = {
    "Which": {
        "Type": "Choice",
        "Choices": [
            {"Condition": "{% $states.input.n > 1 %}", "Next": "Many", "Output": "more", "Assign": {"n": 2}},
            {"Condition": "{% $states.input.n = 1 %}", "Next": "One"},
        ],
        "Default": "None",
    },
    "Many": {"Type": "Pass", "Output": ["{% $states.input %}", "{% $n %}"], "End": True},
    "One": {"Type": "Pass", "Output": "one", "End": True},
    "None": {"Type": "Pass", "End": True},
}


@pytest.mark.parametrize(("number", "output"), [(3, ["more", 2]), (1, "one"), (0, {"n": 0})])
def test_a_choice_goes_where_the_first_condition_that_holds_says(number: int, output: Json) -> None:
    assert run(make_world({}), CHOICE, {"n": number}) == Outcome("SUCCEEDED", output)


@pytest.mark.parametrize(
    ("condition", "error"),
    [("{% 1 = 2 %}", "States.NoChoiceMatched"), ("{% $states.input.n %}", "States.QueryEvaluationError")],
)
def test_a_choice_without_a_way_on_fails(condition: str, error: str) -> None:
    rules: Json = [{"Condition": condition, "Next": "Never"}]
    states: dict[str, Json] = {"Which": {"Type": "Choice", "Choices": rules}, "Never": {"Type": "Succeed"}}
    outcome = run(make_world({}), states, {"n": 1})
    assert (outcome.status, outcome.error) == ("FAILED", error)


def test_a_kind_of_state_is_named_as_its_type_since_its_events_are() -> None:
    assert {kind: read.__qualname__ for kind, read in STATE_TYPES.items()} == {
        kind: f"{kind}.read" for kind in ("Task", "Pass", "Choice", "Succeed", "Fail", "Map", "Parallel")
    }


def test_the_context_says_which_execution_state_and_try_it_is() -> None:
    world = make_world({"work": failing("ErrorA")})
    context = {
        "id": "{% $states.context.Execution.Id %}",
        "input": "{% $states.context.Execution.Input %}",
        "state": "{% $states.context.State.Name %}",
        "entered": "{% $states.context.State.EnteredTime %}",
        "attempt": "{% $states.context.State.RetryCount %}",
        "machine": "{% $states.context.StateMachine.Name %}",
    }
    states = {"Work": task(payload=cast("Json", context), Retry=[{"ErrorEquals": ["ErrorA"]}])}
    assert run(world, states, {"limit": 5}).status == "SUCCEEDED"
    common = {
        "id": "arn:aws:states:us-east-1:123456789012:execution:birds-flow:run-1",
        "input": {"limit": 5},
        "state": "Work",
        "entered": "2026-11-23T12:00:00.005Z",
        "machine": "birds-flow",
    }
    assert world.functions.invocations == [("work", {**common, "attempt": 0}), ("work", {**common, "attempt": 1})]


def test_an_error_of_the_function_has_its_type_as_name_and_all_of_it_as_cause() -> None:
    world = make_world({"work": failing("ValueError")})
    assert run(world, {"Work": task()}) == Outcome(
        "FAILED", None, "ValueError", '{"errorType":"ValueError","errorMessage":"no luck"}'
    )


def test_an_error_without_a_type_is_unknown() -> None:
    def answer(event: Json) -> Json:
        error = FunctionError("")
        error.payload = {"oops": "no type"}
        raise error

    assert run(make_world({"work": answer}), {"Work": task()}).error == "Lambda.Unknown"


def test_an_unknown_function_is_named() -> None:
    assert run(make_world(), {"Work": task("arn:x")}) == Outcome(
        "FAILED", None, "Lambda.ResourceNotFoundException", "Function not found: arn:x"
    )


@pytest.mark.parametrize(
    ("rule", "errors", "waits", "status"),
    [
        ({"ErrorEquals": ["E"]}, ["E", "E", "E"], [1, 2, 4], "SUCCEEDED"),
        ({"ErrorEquals": ["E"]}, ["E", "E", "E", "E"], [1, 2, 4], "FAILED"),
        ({"ErrorEquals": ["E"], "MaxAttempts": 0}, ["E"], [], "FAILED"),
        ({"ErrorEquals": ["E"], "IntervalSeconds": 3, "BackoffRate": 1}, ["E", "E"], [3, 3], "SUCCEEDED"),
        ({"ErrorEquals": ["E"], "IntervalSeconds": 3, "MaxDelaySeconds": 5}, ["E", "E", "E"], [3, 5, 5], "SUCCEEDED"),
        ({"ErrorEquals": ["E"]}, ["e"], [], "FAILED"),
        ({"ErrorEquals": ["States.TaskFailed"]}, ["E"], [1], "SUCCEEDED"),
        ({"ErrorEquals": ["States.TaskFailed"]}, ["States.Timeout"], [], "FAILED"),
        ({"ErrorEquals": ["States.ALL"]}, ["States.Timeout"], [1], "SUCCEEDED"),
        ({"ErrorEquals": ["States.ALL"]}, ["States.DataLimitExceeded"], [], "FAILED"),
        ({"ErrorEquals": ["States.ALL"]}, ["States.Runtime"], [], "FAILED"),
        ({"ErrorEquals": ["States.DataLimitExceeded"]}, ["States.DataLimitExceeded"], [1], "SUCCEEDED"),
    ],
)  # fmt: skip
def test_a_retrier_tries_again(rule: dict[str, Json], errors: list[str], waits: list[float], status: str) -> None:
    world = make_world({"work": failing(*errors)})
    assert run(world, {"Work": task(Retry=[rule])}).status == status
    assert world.clock.waits == waits


def test_jitter_is_between_nothing_and_the_wait_and_the_same_for_a_seed() -> None:
    def waits(seed: str) -> list[float]:
        world = make_world({"work": failing(*["E"] * 20)}, seed=seed)
        rule: Json = {
            "ErrorEquals": ["E"],
            "JitterStrategy": "FULL",
            "BackoffRate": 1,
            "IntervalSeconds": 10,
            "MaxAttempts": 20,
        }
        assert run(world, {"Work": task(Retry=[rule])}).status == "SUCCEEDED"
        return world.clock.waits

    once = waits("a")
    assert once == waits("a") != waits("b")
    assert all(0 <= wait <= 10 for wait in once)
    assert len(set(once)) == 20


def test_a_task_that_takes_longer_than_its_time_fails_with_a_timeout() -> None:
    def slow(event: Json) -> Json:
        raise SlowError(3)

    world = make_world({"work": slow})
    assert run(world, {"Work": task(TimeoutSeconds=2)}) == Outcome(
        "FAILED", None, "States.Timeout", "'Work' took longer than 2 s."
    )
    assert world.clock.seconds == 2


def test_an_execution_that_takes_longer_than_its_time_ends_whatever_its_rules_say() -> None:
    def slow(event: Json) -> Json:
        raise SlowError(3)

    rules: Json = [{"ErrorEquals": ["States.ALL"]}]
    catch: Json = [{"ErrorEquals": ["States.ALL"], "Next": "Saved"}]
    states: dict[str, Json] = {"Work": task(Retry=rules, Catch=catch), "Saved": {"Type": "Succeed"}}
    outcome = run(make_world({"work": slow}), states, TimeoutSeconds=2)
    assert (outcome.status, outcome.error) == ("TIMED_OUT", "States.Timeout")


def test_an_execution_is_not_awaited_past_its_time_between_two_tries() -> None:
    world = make_world({"work": failing("E")})
    rule: Json = {"ErrorEquals": ["E"], "IntervalSeconds": 100}
    outcome = run(world, {"Work": task(Retry=[rule])}, TimeoutSeconds=30)
    assert (outcome.status, world.clock.waits) == ("TIMED_OUT", [30])


def test_a_catcher_takes_the_execution_elsewhere_with_error_and_cause() -> None:
    world = make_world({"work": failing("ValueError")})
    states: dict[str, Json] = {
        "Work": task(
            Catch=[
                {"ErrorEquals": ["KeyError"], "Next": "Other"},
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {"lost": "{% $states.errorOutput.Error %}"},
                    "Output": {"was": "{% $states.input %}", "error": "{% $states.errorOutput.Error %}"},
                    "Next": "Saved",
                },
            ]
        ),
        "Other": {"Type": "Fail"},
        "Saved": {"Type": "Pass", "Output": ["{% $states.input %}", "{% $lost %}"], "End": True},
    }
    assert run(world, states, 1).output == [{"was": 1, "error": "ValueError"}, "ValueError"]


def test_what_a_catcher_hands_on_is_error_and_cause_unless_it_says_otherwise() -> None:
    world = make_world({"work": failing("E")})
    catch: Json = [{"ErrorEquals": ["E"], "Next": "Saved"}]
    states: dict[str, Json] = {"Work": task(Catch=catch), "Saved": {"Type": "Succeed"}}
    assert run(world, states).output == {"Error": "E", "Cause": '{"errorType":"E","errorMessage":"no luck"}'}


def test_a_fail_state_fails_the_execution_with_its_error() -> None:
    states: dict[str, Json] = {"No": {"Type": "Fail", "Error": "Mine", "Cause": "{% 'of ' & $states.input %}"}}
    assert run(make_world(), states, "x") == Outcome("FAILED", None, "Mine", "of x")


def test_an_output_that_cannot_be_computed_fails_the_state_and_can_be_caught() -> None:
    catch: Json = [{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "Saved"}]
    broken = task(Output="{% $states.result.Payload.absent %}", Catch=catch)
    states: dict[str, Json] = {"Work": broken, "Saved": {"Type": "Pass", "Output": "saved", "End": True}}
    assert run(make_world({"work": lambda event: {}}), states).output == "saved"


def sized(size: int) -> str:
    """Return a string whose JSON has so many bytes."""
    return "x" * (size - 2)


@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, "SUCCEEDED"), (LIMIT, "SUCCEEDED"), (LIMIT + 1, "FAILED")])
def test_an_input_has_at_most_256_kib(size: int, status: str) -> None:
    states: dict[str, Json] = {"Hand": {"Type": "Pass", "Output": 1, "End": True}}
    outcome = run(make_world(), states, sized(size))
    assert (outcome.status, outcome.error) == (status, "" if status == "SUCCEEDED" else "States.DataLimitExceeded")


def test_characters_count_by_their_bytes() -> None:
    states: dict[str, Json] = {"Hand": {"Type": "Pass", "End": True}}
    assert run(make_world(), states, "ä" * (LIMIT // 2)).error == "States.DataLimitExceeded"


def test_a_result_above_256_kib_fails_the_task_and_no_wildcard_catches_it() -> None:
    world = make_world({"work": lambda event: sized(LIMIT)})
    rules: Json = [{"ErrorEquals": ["States.ALL"]}]
    catch: Json = [{"ErrorEquals": ["States.ALL"], "Next": "Saved"}]
    states: dict[str, Json] = {"Work": task(Retry=rules, Catch=catch, Output=1), "Saved": {"Type": "Succeed"}}
    assert run(world, states).error == "States.DataLimitExceeded"
    assert len(world.functions.invocations) == 1


def test_a_standard_execution_has_at_most_25000_events() -> None:
    states: dict[str, Json] = {f"S{n}": {"Type": "Pass", "Next": f"S{n + 1}"} for n in range(12_500)}
    states["S12500"] = {"Type": "Pass", "End": True}
    outcome = run(make_world(), states)
    assert outcome == Outcome(
        "FAILED", None, "States.Runtime", "The execution has more than 25000 events in its history."
    )


def test_the_history_tells_of_each_state_in_order() -> None:
    world = make_world({"work": failing("E")})
    run(world, {"Work": task(Retry=[{"ErrorEquals": ["E"]}])})
    assert [(event.number, event.type, event.state) for event in world.history] == [
        (1, "ExecutionStarted", ""),
        (2, "TaskStateEntered", "Work"),
        (3, "TaskScheduled", "Work"),
        (4, "TaskFailed", "Work"),
        (5, "TaskRetried", "Work"),
        (6, "TaskScheduled", "Work"),
        (7, "TaskSucceeded", "Work"),
        (8, "TaskStateExited", "Work"),
        (9, "ExecutionSucceeded", ""),
    ]


# --- redrive ---


def test_a_redriven_execution_goes_on_at_the_state_that_failed_with_its_input_and_variables() -> None:
    world = make_world({"first": lambda event: "from first", "second": failing("E", "E", None)})
    states: dict[str, Json] = {
        "First": task("first", Assign={"kept": 7}, Next="Second"),
        "Second": task(
            "second", payload=["{% $states.input %}", "{% $kept %}"], Retry=[{"ErrorEquals": ["E"], "MaxAttempts": 1}]
        ),
    }
    execution = world.start(machine(states))
    assert execution.run().error == "E"
    assert execution.redrive() == Outcome("SUCCEEDED", "done")
    assert world.functions.invocations == [("first", None), *[("second", ["from first", 7])] * 3]


def test_retries_count_anew_after_a_redrive() -> None:
    world = make_world({"work": failing("E", "E", "E", None)})
    execution = world.start(machine({"Work": task(Retry=[{"ErrorEquals": ["E"], "MaxAttempts": 1}])}))
    assert execution.run().status == "FAILED"
    assert execution.redrive().status == "SUCCEEDED"
    assert [caller.attempt for caller in world.functions.callers] == [0, 1, 0, 1]


def test_the_time_of_an_execution_counts_anew_after_a_redrive() -> None:
    seconds = [10.0, 10.0, 1.0]

    def slow(event: Json) -> Json:
        raise SlowError(seconds.pop(0))

    world = make_world({"work": slow})
    execution = world.start(machine({"Work": task(Next="Again"), "Again": task()}, TimeoutSeconds=15))
    assert execution.run().status == "TIMED_OUT"
    assert execution.redrive().status == "SUCCEEDED"


# --- what is refused ---

PASS: dict[str, Json] = {"Type": "Pass", "End": True}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({}, "the state machine: QueryLanguage is None; the emulator knows JSONata only."),
        (
            machine({"A": PASS}, QueryLanguage="JSONPath"),
            "the state machine: QueryLanguage is 'JSONPath'; the emulator knows JSONata only.",
        ),
        (machine({"A": PASS}, Extra=1), "the state machine: the emulator does not know the field 'Extra'."),
        (machine({"A": {**PASS, "Result": 1}}), "the state A: the emulator does not know the field 'Result'."),
        (
            machine({"A": {"Type": "Wait"}}),
            "the state A: Type is 'Wait'; the emulator knows Task, Pass, Choice, Succeed, Fail, Map, Parallel.",
        ),
        (
            machine({"A": {**PASS, "Next": "A"}}),
            "the state A: it needs either Next, the name of a state, or End: true.",
        ),
        (
            machine({"A": {"Type": "Pass", "Next": "B"}}),
            "the state A: Next is 'B', which is none of the states beside it.",
        ),
        (machine({"A": PASS, "B": PASS}), "the state machine: nothing leads to the state B."),
        (machine({"A": PASS}, StartAt="C"), "the state machine: StartAt is 'C', which is none of its states."),
        (
            machine({"A": task(Resource="arn:aws:states:::sqs:sendMessage")}),
            (
                "the state A: Resource is 'arn:aws:states:::sqs:sendMessage'; "
                "the emulator knows arn:aws:states:::lambda:invoke only."
            ),
        ),
        (
            machine({"A": task(HeartbeatSeconds=1)}),
            "the state A: the emulator does not know the field 'HeartbeatSeconds'.",
        ),
        (
            machine({"A": {**task(), "Arguments": {"FunctionName": "f", "Qualifier": "1"}}}),
            "the state A: Arguments: the emulator does not know the field 'Qualifier'.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": []}])}),
            "the state A: Retry[0]: ErrorEquals is [], not a list of names of errors.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": ["E"], "Delay": 1}])}),
            "the state A: Retry[0]: the emulator does not know the field 'Delay'.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": ["States.ALL", "E"]}])}),
            "the state A: States.ALL must stand alone, in the last rule.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["E"]}])}),
            "the state A: States.ALL must stand alone, in the last rule.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": ["E"], "BackoffRate": 0.5}])}),
            "the state A: Retry[0]: BackoffRate is 0.5, not a number from 1 to 99,999,999.",
        ),
        (
            machine({"A": task(Retry=[{"ErrorEquals": ["E"], "IntervalSeconds": 5, "MaxDelaySeconds": 5}])}),
            "the state A: Retry[0]: MaxDelaySeconds must be more than IntervalSeconds.",
        ),
        (
            machine({"M": distributed({"M": PASS})}),
            "the state M: names of states have 1 to 80 characters and are unique in the state machine.",
        ),
        (
            machine({"M": distributed({"A": PASS}, Label="a b")}),
            "the state M: Label is 'a b'; AWS takes up to 40 characters without separators.",
        ),
        (
            machine({"M": distributed({"A": PASS}, Label="l", Next="N"), "N": distributed({"B": PASS}, Label="l")}),
            "the state machine: labels of maps must differ: l, l.",
        ),
        (
            machine({"M": distributed({"A": distributed({"B": PASS})})}),
            "the state A: lokki makes no map inside a map, and the emulator runs none.",
        ),
        (
            machine({"M": distributed({"A": PASS}, ItemBatcher={"BatchInput": 1})}),
            "the state M: ItemBatcher: it needs MaxItemsPerBatch, MaxInputBytesPerBatch or both.",
        ),
        (
            machine({"M": distributed({"A": PASS}, ItemBatcher={"MaxItemsPerBatch": 1, "X": 1})}),
            "the state M: ItemBatcher: the emulator does not know the field 'X'.",
        ),
        (machine({"M": distributed({"A": PASS}, ResultWriter={})}), "the state M: ResultWriter: it cannot be empty."),
        (
            machine({"M": distributed({"A": PASS}, ResultWriter={"WriterConfig": {"Transformation": "SQUASH"}})}),
            (
                "the state M: ResultWriter: WriterConfig: Transformation is 'SQUASH'; "
                "the emulator knows NONE, COMPACT, FLATTEN."
            ),
        ),
        (
            machine({"M": distributed({"A": PASS}, ItemReader={"Resource": "arn:aws:states:::s3:listObjectsV2"})}),
            (
                "the state M: ItemReader: Resource is 'arn:aws:states:::s3:listObjectsV2'; "
                "the emulator knows arn:aws:states:::s3:getObject."
            ),
        ),
        (
            machine(
                {
                    "M": distributed(
                        {"A": PASS},
                        ItemReader={
                            "Resource": "arn:aws:states:::s3:getObject",
                            "ReaderConfig": {"InputType": "CSV"},
                            "Arguments": {},
                        },
                    )
                }
            ),
            "the state M: ItemReader: ReaderConfig: InputType is 'CSV'; the emulator knows JSON, JSONL.",
        ),
        (
            machine({"M": {**distributed({"A": PASS}), "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}}}}),
            "the state M: ItemProcessor: ProcessorConfig: Mode is 'INLINE'; the emulator knows DISTRIBUTED.",
        ),
    ],
)
def test_what_the_emulator_does_not_do_is_refused_with_state_and_field(definition: Json, message: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        read_definition(definition, "birds-flow")
    assert str(caught.value) == message
