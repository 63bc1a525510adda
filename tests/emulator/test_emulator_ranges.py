"""Definitions that AWS refuses are refused, and values that an expression gives out of range fail their state."""

from typing import cast

import pytest
from support.emulation import distributed, failing, machine, make_world, task

from lokki.base.values import Json
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.outcome import Outcome
from lokki.errors import EmulatorError

PASS: dict[str, Json] = {"Type": "Pass", "End": True}
PAGES = "https://docs.aws.amazon.com/step-functions/latest/dg/"


def one(**fields: Json) -> dict[str, Json]:
    return machine({"A": task(**fields)})


def retry(**fields: Json) -> dict[str, Json]:
    return one(Retry=[{"ErrorEquals": ["E"], **fields}])


def each(**fields: Json) -> dict[str, Json]:
    return machine({"A": distributed({"B": PASS}, **fields)})


def choice(**fields: Json) -> dict[str, Json]:
    rules: Json = [{"Condition": "{% true %}", "Next": "B"}]
    return machine({"A": {"Type": "Choice", "Choices": rules, **fields}, "B": PASS})


def rule(name: str, error: str) -> dict[str, Json]:
    return one(**{name: [{"ErrorEquals": [error], **({"Next": "A"} if name == "Catch" else {})}]})


def reader(**config: Json) -> dict[str, Json]:
    place: Json = {"Bucket": "b", "Key": "k"}
    config = {"InputType": "JSON", **config}
    return each(ItemReader={"Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": config, "Arguments": place})


WHOLE = "not a whole number from {} to {}."

REFUSED: list[tuple[str, dict[str, Json], str]] = [
    # statemachine-structure.html
    ("a flow's time of 0", machine({"A": PASS}, TimeoutSeconds=0), WHOLE.format("1", "99,999,999")),
    ("a flow's time with a fraction", machine({"A": PASS}, TimeoutSeconds=1.5), WHOLE.format("1", "99,999,999")),
    ("another version", machine({"A": PASS}, Version="2.0"), "Version is '2.0'; the emulator knows 1.0."),
    ("a comment that is no text", machine({"A": PASS}, Comment=1), "Comment is 1, not a string."),
    ("a comment of a state that is none", machine({"A": {**PASS, "Comment": []}}), "Comment is [], not a string."),
    # state-task.html
    ("a task's time of 0", one(TimeoutSeconds=0), WHOLE.format("1", "99,999,999")),
    ("a negative time", one(TimeoutSeconds=-1), WHOLE.format("1", "99,999,999")),
    ("a time with a fraction", one(TimeoutSeconds=0.5), WHOLE.format("1", "99,999,999")),
    ("a time of more than three years", one(TimeoutSeconds=100_000_000), WHOLE.format("1", "99,999,999")),
    ("a time as text", one(TimeoutSeconds="60"), "TimeoutSeconds is '60', not a whole number"),
    ("a time that is null", one(TimeoutSeconds=None), "TimeoutSeconds is None, not a whole number"),
    ("a function that is no text", one(Arguments={"FunctionName": 1}), "FunctionName is 1, not a string."),
    # concepts-error-handling.html
    ("no interval", retry(IntervalSeconds=0), WHOLE.format("1", "99,999,999")),
    ("an interval with a fraction", retry(IntervalSeconds=1.5), WHOLE.format("1", "99,999,999")),
    ("negative attempts", retry(MaxAttempts=-1), WHOLE.format("0", "99,999,999")),
    ("half an attempt", retry(MaxAttempts=2.5), WHOLE.format("0", "99,999,999")),
    ("a shrinking interval", retry(BackoffRate=0.99), "BackoffRate is 0.99, not a number from 1 to 99,999,999."),
    ("a delay of a year", retry(MaxDelaySeconds=31_622_400), WHOLE.format("1", "31,622,399")),
    ("a delay as short as the interval", retry(MaxDelaySeconds=1), "MaxDelaySeconds must be more than Inter"),
    ("another jitter", retry(JitterStrategy="HALF"), "JitterStrategy is 'HALF'; the emulator knows FULL, NONE."),
    ("a retry of States.Runtime", rule("Retry", "States.Runtime"), "no rule is for States.Runtime"),
    ("a catch of States.Runtime", rule("Catch", "States.Runtime"), "no rule is for States.Runtime"),
    ("an error that Step Functions has not", rule("Catch", "States.Timeouts"), "no error of Step Functions"),
    ("an end of a catch", one(Catch=[{"ErrorEquals": ["E"], "Next": "A", "End": True}]), "has Next, and no End."),
    (
        "States.ALL before another rule",
        one(Catch=[{"ErrorEquals": ["States.ALL"], "Next": "A"}, {"ErrorEquals": ["E"], "Next": "A"}]),
        "States.ALL must stand alone, in the last rule.",
    ),
    (
        "an error of one's own by Step Functions' name",
        machine({"A": {"Type": "Fail", "Error": "States.Timeout"}}),
        "names that begin with 'States.' are Step Functions'.",
    ),
    ("an error that is no text", machine({"A": {"Type": "Fail", "Error": 5}}), "Error is 5, not a string."),
    # state-choice.html
    ("no choices", choice(Choices=[]), "Choices is empty; it needs at least one rule."),
    ("a condition that is no expression", choice(Choices=[{"Condition": "1", "Next": "B"}]), "Condition is '1', whi"),
    ("a choice that goes nowhere", choice(Choices=[{"Condition": "{% true %}"}]), "Next is missing."),
    ("a default that is not there", choice(Default="C"), "Next is 'C', which is none of the states beside it."),
    ("a choice that ends", choice(End=True), "does not know the field 'End'."),
    # workflow-variables.html
    ("an assignment to states", machine({"A": {**PASS, "Assign": {"states": 1}}}), "'states' is no name of a variable"),
    ("a name with a dash", machine({"A": {**PASS, "Assign": {"a-b": 1}}}), "'a-b' is no name of a variable"),
    ("a long name", machine({"A": {**PASS, "Assign": {"a" * 81: 1}}}), "is no name of a variable"),
    ("an assignment that is no object", machine({"A": {**PASS, "Assign": "{% $x %}"}}), "Assign is str, not an obj"),
    # workflow-states.html
    ("an end that is no flag", machine({"A": {"Type": "Pass", "End": "true"}}), "End is 'true', not true or false."),
    ("an end beside a next state", machine({"A": {**PASS, "Next": "A"}}), "either Next, the name of a state, or End"),
    ("neither", machine({"A": {"Type": "Pass"}}), "either Next, the name of a state, or End"),
    ("a next state that is no text", machine({"A": {"Type": "Pass", "Next": 1}}), "Next is 1, not a string."),
    ("a name of 81 characters", machine({"A" * 81: PASS}), "names of states have 1 to 80 characters"),
    # state-map-distributed.html, API_UpdateMapRun.html
    ("negative concurrency", each(MaxConcurrency=-1), WHOLE.format("0", "99,999,999")),
    ("half a child", each(MaxConcurrency=0.5), WHOLE.format("0", "99,999,999")),
    ("a negative count", each(ToleratedFailureCount=-1), WHOLE.format("0", "99,999,999")),
    ("half a failure", each(ToleratedFailureCount=1.5), WHOLE.format("0", "99,999,999")),
    ("150 percent", each(ToleratedFailurePercentage=150), "is 150, not a number from 0 to 100."),
    ("a negative percentage", each(ToleratedFailurePercentage=-0.1), "not a number from 0 to 100."),
    ("a label of 41 characters", each(Label="a" * 41), "AWS takes up to 40 characters without separators."),
    ("a label with a colon", each(Label="a:b"), "AWS takes up to 40 characters without separators."),
    # input-output-itembatcher.html
    ("an empty batch", each(ItemBatcher={"MaxItemsPerBatch": 0}), WHOLE.format("1", "99,999,999")),
    ("a batch of no bytes", each(ItemBatcher={"MaxInputBytesPerBatch": 0}), WHOLE.format("1", "262,144")),
    ("a batch above 256 KiB", each(ItemBatcher={"MaxInputBytesPerBatch": 262_145}), WHOLE.format("1", "262,144")),
    # input-output-itemreader.html
    ("no items", reader(MaxItems=0), WHOLE.format("1", "100,000,000")),
    ("more items than AWS reads", reader(MaxItems=100_000_001), WHOLE.format("1", "100,000,000")),
]  # fmt: skip


@pytest.mark.parametrize(("definition", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_aws_refuses_is_refused(definition: dict[str, Json], message: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        read_definition(definition, "birds-flow")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "definition",
    [
        machine({"A": PASS}, TimeoutSeconds=99_999_999, Version="1.0", Comment=""),
        one(TimeoutSeconds="{% $states.input.seconds %}"),
        one(TimeoutSeconds=1),
        retry(IntervalSeconds=1, MaxAttempts=0, BackoffRate=1.0, MaxDelaySeconds=2, JitterStrategy="NONE"),
        each(MaxConcurrency=0, ToleratedFailureCount=0, ToleratedFailurePercentage=12.5, Label="größe-1"),
        each(MaxConcurrency="{% 5 %}", ToleratedFailurePercentage=100),
        each(ItemBatcher={"MaxItemsPerBatch": 1, "MaxInputBytesPerBatch": 262_144}),
        reader(MaxItems=100_000_000),
        machine({"A": {**PASS, "Assign": {"größe_1": 1}}}),
        machine({"A": {"Type": "Fail", "Error": "{% $states.input.error %}"}}),
        machine({"A": {"Type": "Pass", "Next": "B", "End": False}, "B": PASS}),
        choice(Comment="", Default="B"),
    ],
)
def test_what_aws_takes_is_taken(definition: dict[str, Json]) -> None:
    assert read_definition(definition, "birds-flow").states.start == "A"


@pytest.mark.parametrize(
    ("state", "given", "cause"),
    [
        (task(TimeoutSeconds="{% $states.input %}"), 0, "TimeoutSeconds of 'A' is 0, not a whole number"),
        (task(TimeoutSeconds="{% $states.input %}"), "60", "TimeoutSeconds of 'A' is \"60\", not a whole"),
        (task("{% $states.input %}"), 1, "FunctionName of 'A' is no string."),
        (each(MaxConcurrency="{% $states.input %}"), -1, "MaxConcurrency of 'A' is -1, not a whole number from 0"),
        (each(ToleratedFailurePercentage="{% $states.input %}"), 101, "is 101, not a number from 0 to 100."),
        (each(ItemBatcher={"MaxItemsPerBatch": "{% $states.input %}"}), 0, "MaxItemsPerBatch of 'A' is 0, not a whole"),
    ],
)  # fmt: skip
def test_what_an_expression_gives_out_of_range_fails_the_state(state: dict[str, Json], given: Json, cause: str) -> None:
    if "States" in state:
        state = cast("dict[str, dict[str, Json]]", state["States"])["A"]
        state["Items"] = [1, 2]
    caught: Json = [{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "Caught"}]
    states: dict[str, Json] = {"A": {**state, "Catch": caught}, "Caught": {**PASS, "Output": "{% $states.input %}"}}
    outcome = make_world({"work": lambda event: event}).start(machine(states), given).run()
    assert (outcome.status, cast("dict[str, str]", outcome.output)["Error"]) == (
        "SUCCEEDED",
        "States.QueryEvaluationError",
    )
    assert cause in cast("dict[str, str]", outcome.output)["Cause"]


def test_nothing_catches_a_runtime_error() -> None:
    caught: Json = [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]
    states: dict[str, Json] = {"A": distributed({"B": PASS}, Items="{% 5 %}", Catch=caught, Retry=[
        {"ErrorEquals": ["States.ALL"]},
    ]), "Caught": PASS}  # fmt: skip
    world = make_world()
    assert world.start(machine(states)).run().error == "States.Runtime"
    assert not world.told("TaskRetried")


def test_variables_have_at_most_10_mib_together() -> None:
    large = "{% $pad('', 260000, 'x') %}"
    states: dict[str, Json] = {
        f"S{number}": {"Type": "Pass", "Assign": {f"v{number}": large}, "Next": f"S{number + 1}"}
        for number in range(45)
    }
    world = make_world()
    assert world.start(machine({**states, "S45": PASS})).run().error == "States.DataLimitExceeded"
    entered = [state for _, state in world.told("PassStateEntered")]
    assert entered[-1] == "S40", "40 times 260,002 bytes fit"


@pytest.mark.parametrize("express", [False, True])
def test_the_time_of_a_flow_ends_a_map_whatever_it_tolerates_retries_and_catches(express: bool) -> None:
    slow = failing()

    def work(event: Json) -> Json:
        world.clock.seconds += 40
        return slow(event)

    world = make_world({"work": work})
    state = distributed(
        {"Work": task()},
        express=express,
        Items=list(range(10)),
        ToleratedFailurePercentage=100,
        Retry=[{"ErrorEquals": ["States.ALL"]}],
        Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Caught"}],
    )
    outcome = world.start(machine({"Each": state, "Caught": PASS}, TimeoutSeconds=100)).run()
    assert outcome == Outcome("TIMED_OUT", None, "States.Timeout", "The execution took longer than it may, in 'Each'.")
    assert len(world.functions.invocations) == 3, "no child starts after the end"
