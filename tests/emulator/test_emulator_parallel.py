"""Parallel: branches side by side, what stops them, how they are tried and redriven, and which variables they see."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import msgspec
import pytest
from support.emulation import FunctionError, SlowError, World, distributed, failing, machine, make_world, task

from lokki.base.values import Json
from lokki.builder.states import CaseState, Machine, SwitchState
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Outcome
from lokki.emulator.translation import EventTranslator
from lokki.engine.events import Event, StepFailed, StepFinished, StepNotChosen, StepStarted
from lokki.errors import EmulatorError

LIMIT = 262_144


def branch(states: dict[str, Json]) -> dict[str, Json]:
    return {"StartAt": next(iter(states)), "States": states}


def parallel(*branches: dict[str, Json], **fields: Json) -> dict[str, Json]:
    state: dict[str, Json] = {"Type": "Parallel", "Branches": [branch(each) for each in branches], **fields}
    return state if "Next" in state else {**state, "End": True}


def passing(output: Json = "{% $states.input %}", **fields: Json) -> dict[str, Json]:
    state: dict[str, Json] = {"Type": "Pass", "Output": output, **fields}
    return state if "Next" in state else {**state, "End": True}


def run(world: World, states: dict[str, Json], given: Json = None, **fields: Json) -> Outcome:
    return world.start(machine(states, **fields), given).run()


def test_the_result_is_the_outputs_in_the_order_of_the_branches() -> None:
    first_ended = threading.Event()

    def late(event: Json) -> Json:
        assert first_ended.wait(60)
        return ["late", event]

    def early(event: Json) -> Json:
        first_ended.set()
        return ["early", event]

    world = make_world({"late": late, "early": early})
    both = parallel(
        {"A": task("late")},
        {"B": task("early")},
        Assign={"kept": "{% $states.result[1] %}"},
        Output={"all": "{% $states.result %}", "input": "{% $states.input %}"},
        Next="End",
    )
    states = {"Both": both, "End": passing(["{% $states.input %}", "{% $kept %}"])}
    assert run(world, states, 7).output == [{"all": [["late", 7], ["early", 7]], "input": 7}, ["early", 7]]


def test_arguments_are_what_every_branch_gets() -> None:
    both = parallel({"A": passing()}, {"B": passing()}, Arguments={"n": "{% $states.input + 1 %}"})
    assert run(make_world(), {"Both": both}, 1).output == [{"n": 2}, {"n": 2}]


def test_the_history_tells_of_branches_as_aws_does() -> None:
    world = make_world()
    run(world, {"One": parallel({"A": passing(1, Next="B"), "B": passing(2)})}, 0)
    assert [(event.number, event.type, event.state, event.details) for event in world.history] == [
        (1, "ExecutionStarted", "", {"input": 0}),
        (2, "ParallelStateEntered", "One", {"input": 0}),
        (3, "ParallelStateStarted", "One", {}),
        (4, "PassStateEntered", "A", {"input": 0}),
        (5, "PassStateExited", "A", {"output": 1}),
        (6, "PassStateEntered", "B", {"input": 1}),
        (7, "PassStateExited", "B", {"output": 2}),
        (8, "ParallelStateSucceeded", "One", {}),
        (9, "ParallelStateExited", "One", {"output": [2]}),
        (10, "ExecutionSucceeded", "", {"output": [2]}),
    ]


def test_a_branch_that_fails_stops_the_others_whose_functions_go_on() -> None:
    entered, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def slow(event: Json) -> Json:
        entered.set()
        assert go_on.wait(60)
        left.set()
        return 1

    def broken(event: Json) -> Json:
        assert entered.wait(60)
        raise FunctionError("ValueError", "no luck")

    world = make_world({"slow": slow, "broken": broken})
    both = parallel({"A": task("slow", Next="Never"), "Never": task("never")}, {"B": task("broken")})
    execution = world.start(machine({"Both": both}))
    cause = '{"errorType":"ValueError","errorMessage":"no luck"}'
    assert execution.run() == Outcome("FAILED", None, "ValueError", cause)  # while A's function still runs
    assert not left.is_set()
    go_on.set()
    execution.snapshot()  # waits for it
    assert left.is_set()
    assert [(event.type, event.state) for event in world.history[-3:]] == [
        ("TaskFailed", "B"),
        ("ParallelStateFailed", "Both"),
        ("ExecutionFailed", ""),
    ]
    assert {name for name, _ in world.functions.invocations} == {"slow", "broken"}


def test_retry_runs_all_branches_anew_and_catch_leads_on_with_the_branchs_error() -> None:
    world = make_world({"good": lambda event: event, "bad": failing(*["E"] * 3)})
    both = parallel(
        {"A": task("good")},
        {"B": task("bad", Retry=[{"ErrorEquals": ["E"], "MaxAttempts": 1}])},
        Retry=[{"ErrorEquals": ["E"], "IntervalSeconds": 9, "MaxAttempts": 1}],
    )
    assert run(world, {"Both": both}, 5) == Outcome("SUCCEEDED", [5, "done"])
    counts = [name for name, _ in world.functions.invocations]
    assert (counts.count("good"), counts.count("bad")) == (2, 4)
    assert 9 in world.clock.waits

    failed = parallel(
        {"A": {"Type": "Fail", "Error": "Mine", "Cause": "of A"}},
        Catch=[{"ErrorEquals": ["Mine"], "Assign": {"why": "{% $states.errorOutput.Cause %}"}, "Next": "Saved"}],
    )
    states = {"Both": failed, "Saved": passing(["{% $states.input %}", "{% $why %}"])}
    assert run(make_world(), states).output == [{"Error": "Mine", "Cause": "of A"}, "of A"]


def test_branches_have_branches_choices_and_maps() -> None:
    inner = parallel({"C": passing("{% $states.input * 2 %}")}, {"D": passing("{% $states.input * 3 %}")})
    which: dict[str, Json] = {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input > 1 %}", "Next": "Many"}],
        "Default": "Few",
    }
    states: dict[str, Json] = {
        "Both": parallel(
            {"Inner": inner},
            {"Which": which, "Many": passing("many"), "Few": passing("few")},
            {"Each": distributed({"Work": task()}, Items=[1, 2, 3])},
        )
    }
    world = make_world({"work": lambda event: event})
    assert run(world, states, 2).output == [[4, 6], "many", [1, 2, 3]]
    assert [state.name for state in read_definition(machine(states), "x").maps] == ["Each"]


def test_an_execution_that_is_out_of_time_ends_in_its_branches() -> None:
    def slow(event: Json) -> Json:
        raise SlowError(30)

    world = make_world({"slow": slow})
    catch: Json = [{"ErrorEquals": ["States.ALL"], "Next": "Saved"}]
    states: dict[str, Json] = {"Both": parallel({"A": task("slow")}, Catch=catch), "Saved": {"Type": "Succeed"}}
    assert run(world, states, TimeoutSeconds=20).status == "TIMED_OUT"
    assert world.told("ParallelStateFailed", "ExecutionTimedOut") == [("ExecutionTimedOut", "")]


def test_a_branch_waits_no_longer_than_the_execution_has_time() -> None:
    world = make_world({"bad": failing(*["E"] * 9)})
    rule: Json = {"ErrorEquals": ["E"], "IntervalSeconds": 100}
    assert run(world, {"Both": parallel({"A": task("bad", Retry=[rule])})}, TimeoutSeconds=30).status == "TIMED_OUT"
    assert sum(world.clock.waits) == 30


def test_all_outputs_together_have_at_most_256_kib() -> None:
    text = "x" * (LIMIT // 2)
    outcome = run(make_world(), {"Both": parallel({"A": passing(text)}, {"B": passing(text)}, Output=1)})
    assert (outcome.status, outcome.error) == ("FAILED", "States.DataLimitExceeded")


@pytest.mark.slow
def test_branches_share_the_events_that_a_history_may_have() -> None:
    def long(name: str) -> dict[str, Json]:
        states: dict[str, Json] = {f"{name}{n}": passing(Next=f"{name}{n + 1}") for n in range(6_300)}
        return {**states, f"{name}6300": passing()}

    world = make_world()
    outcome = run(world, {"Both": parallel(long("a"), long("b"))})
    assert outcome == Outcome(
        "FAILED", None, "States.Runtime", "The execution has more than 25000 events in its history."
    )
    assert [event.number for event in world.history] == list(range(1, len(world.history) + 1))


# --- redrive ---


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_redrive_runs_only_the_branches_that_did_not_succeed(elsewhere: bool) -> None:
    ended = threading.Event()

    def good(event: Json) -> Json:
        ended.set()
        return "good"

    def bad(event: Json) -> Json:
        assert ended.wait(60)
        if len([name for name, _ in world.functions.invocations if name == "bad"]) == 1:
            raise FunctionError("E")
        return event

    world = make_world({"good": good, "bad": bad, "seen": lambda event: event})
    work = task("bad", payload=["{% $states.input %}", "{% $outer %}", "{% $own %}"])
    both = parallel({"A": task("good")}, {"B": task("seen", Assign={"own": 3}, Next="C"), "C": work})
    definition = machine({"First": passing(Assign={"outer": 2}, Next="Both"), "Both": both})
    execution = world.start(definition, 1)
    assert execution.run().error == "E"
    if elsewhere:
        snapshot = msgspec.json.encode(execution.snapshot())
        execution = world.start(definition, 1)
        execution.restore(snapshot)
    # Whether A had left its state when C failed decides whether it is run once or, stopped there, again.
    again = ("TaskStateExited", "A") not in world.told("TaskStateExited")
    assert execution.redrive() == Outcome("SUCCEEDED", ["good", [1, 2, 3]])
    names = [name for name, _ in world.functions.invocations]
    assert (names.count("good"), names.count("seen"), names.count("bad")) == (1 + again, 1, 2)


# --- scopes of variables ---


def test_branches_read_outer_variables_and_nobody_sees_theirs() -> None:
    inner = passing("{% $outer & $own %}")
    both = parallel(
        {"A": passing(Assign={"own": "a"}, Next="A2"), "A2": inner},
        {"B": passing(Assign={"own": "b"}, Next="B2"), "B2": inner},
        Next="After",
    )
    states = {
        "Set": passing(Assign={"outer": "o"}, Next="Both"),
        "Both": both,
        "After": passing(["{% $states.input %}", "{% $exists($own) %}", "{% $outer %}"]),
    }
    assert run(make_world(), states).output == [["oa", "ob"], False, "o"]


def test_children_of_a_map_in_a_branch_see_no_variables() -> None:
    each = distributed({"In": passing("{% $exists($outer) %}", Assign={"outer": 1})}, Items=[1])
    states = {"Set": passing(Assign={"outer": "o"}, Next="Both"), "Both": parallel({"Each": each})}
    assert run(make_world(), states).output == [[False]]


INNER = parallel({"A": passing(Assign={"x": 2})})
NESTED = {"Set": passing(Assign={"x": 1}, Next="Both"), "Both": parallel({"In": INNER})}
LEAVES = {"Both": parallel({"A": passing(Next="Out")}, Next="Out"), "Out": passing()}
TWICE = {"Both": parallel({"A": passing()}, {"A": passing()})}
LONELY = {"Both": parallel({"A": passing(), "B": passing()})}
LABELS = {"Both": parallel(*({name: distributed({name * 2: passing()}, Label="same")} for name in "ab"))}


@pytest.mark.parametrize(
    ("states", "problem"),
    [
        (NESTED, "the state A: Assign: 'x' is a variable of a level around its branch: it may be read, not assigned."),
        (LEAVES, "the state A: Next is 'Out', which is none of the states beside it."),
        (TWICE, "the state A: names of states have 1 to 80 characters and are unique in the state machine."),
        (LONELY, "the state Both: Branches[0]: nothing leads to the state B."),
        (LABELS, "the state machine: labels of maps must differ: same, same."),
        ({"Both": parallel()}, "the state Both: Branches is empty; it needs at least one branch."),
    ],
)  # fmt: skip
def test_what_aws_refuses_of_branches_is_refused(states: dict[str, Json], problem: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        read_definition(machine(states), "x")
    assert str(caught.value) == problem


# --- lokki's events ---


def test_events_of_steps_side_by_side_are_each_steps_own() -> None:
    entered, second = threading.Event(), threading.Event()
    events: list[Event] = []

    def slow(event: Json) -> Json:
        entered.set()
        assert second.wait(60)
        return {"map_manifest_key": "k", "items": 3}

    def quick(event: Json) -> Json:
        assert entered.wait(60)
        return 1

    def last(event: Json) -> Json:
        second.set()
        return 2

    world = make_world({"slow": slow, "quick": quick, "last": last})
    run(world, {"Both": parallel({"A": task("slow")}, {"B": task("quick", Next="C"), "C": task("last")})})
    translate = EventTranslator(Machine(calls={"A": "a", "B": "b", "C": "c"}), events.append)
    for event in world.history:
        translate(event)
    assert {event.id for event in events if isinstance(event, StepStarted)} == {"a", "b", "c"}
    finished = {event.id: event.items for event in events if isinstance(event, StepFinished)}
    assert finished == {"a": 3, "b": None, "c": None}


def test_the_step_that_failed_a_run_is_the_one_with_its_error() -> None:
    entered, failed = threading.Event(), threading.Event()
    events: list[Event] = []

    def slow(event: Json) -> Json:
        entered.set()
        assert failed.wait(60)
        return 1

    def bad(event: Json) -> Json:
        assert entered.wait(60)
        raise FunctionError("ValueError", "no luck")

    world = make_world({"slow": slow, "bad": bad})
    execution = world.start(machine({"Both": parallel({"A": task("bad")}, {"B": task("slow")})}))
    execution.run()
    failed.set()
    execution.snapshot()
    history = sorted(world.history, key=lambda event: (event.state == "B", event.number))
    history.sort(key=lambda event: event.type == "ExecutionFailed")  # B began last, and A failed
    translate = EventTranslator(Machine(calls={"A": "a", "B": "b"}), events.append)
    for event in history:
        translate(event)
    assert [(event.id, event.failure.error) for event in events if isinstance(event, StepFailed)] == [
        ("a", "ValueError")
    ]


def translated(machine_states: Machine, history: list[HistoryEvent]) -> list[Event]:
    events: list[Event] = []
    translate = EventTranslator(machine_states, events.append)
    for event in history:
        translate(event)
    return events


def test_a_fork_that_fails_by_itself_is_no_failure_of_the_step_that_began_last() -> None:
    world = make_world({"long": lambda event: "x" * (LIMIT // 2)})
    outcome = run(world, {"Both": parallel({"A": task("long")}, {"B": task("long")})})
    assert outcome.error == "States.DataLimitExceeded"
    events = translated(Machine(calls={"A": "a", "B": "b"}, forks={"Both": "a.fork"}), world.history)
    assert [event for event in events if isinstance(event, StepFailed)] == []


def test_what_a_function_replied_counts_and_not_what_is_left_of_it_at_the_end_of_a_branch() -> None:
    source: Json = {"map_manifest_key": "k", "items": 3, "case": 1}
    world = make_world({"source": lambda event: source})
    cases = SwitchState("a.switch", "a", (CaseState("Keep", ("keep",)), CaseState("Fix", ("fix",))))
    run(world, {"Both": parallel({"A": task("source", Output={})}, {"B": passing()})})
    events = translated(Machine(calls={"A": "a"}, switches={"ASwitch": cases}), world.history)
    [finished] = [event for event in events if isinstance(event, StepFinished)]
    assert (finished.size, finished.items) == (len(msgspec.json.encode(source)), 3)
    assert [event.id for event in events if isinstance(event, StepNotChosen)] == ["keep"]


def test_a_redrive_that_begins_in_the_larger_function_finishes_its_step() -> None:
    catch: Json = [{"ErrorEquals": ["Runtime.OutOfMemory"], "Next": "Work-XL"}]
    world = make_world({"small": failing("Runtime.OutOfMemory"), "large": failing("E")})
    states = {"Work": task("small", Catch=catch), "Work-XL": task("large")}
    execution = world.start(machine(states))
    assert execution.run().error == "E"
    before = len(world.history)
    world.clock.seconds += 7
    assert execution.redrive() == Outcome("SUCCEEDED", "done")
    events = translated(Machine(calls={"Work": "work", "Work-XL": "work"}), world.history[before:])
    assert [(type(event).__name__, event.seconds) for event in events if isinstance(event, StepFinished)] == [
        ("StepFinished", 0.0)
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_the_state_that_completes_the_parameters_is_no_step(fails: bool) -> None:
    events: list[Event] = []

    def bind(event: Json) -> Json:
        if fails:
            raise FunctionError("ValueError", "no luck")
        return {"params": {}}

    world = make_world({"bind": bind, "one": lambda event: 1})
    run(world, {"Parameters": task("bind", Next="A"), "A": task("one")})
    translate = EventTranslator(Machine(calls={"A": "a"}), events.append)
    for event in world.history:
        translate(event)
    told = [event.id for event in events if isinstance(event, StepStarted | StepFinished | StepFailed)]
    assert told == ([] if fails else ["a", "a"])


# --- random trees ---


class Tree:
    """Random definitions of Pass, Choice and Parallel with variables, beside what their outputs have to be."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"S{self.count}"

    def level(self, value: int, outer: dict[str, int], depth: int) -> tuple[dict[str, Json], Any]:
        """Make a level that gets a number, and what it gives."""
        variables = dict(outer)
        states: dict[str, Json] = {}
        output: Any = value
        names = [self.name() for _ in range(self.chance.randint(1, 3))]
        for name, target in zip(names, [*names[1:], None], strict=True):
            kinds = ["Pass", "Choice", *["Parallel"] * (depth > 0)]
            way: dict[str, Json] = {"End": True} if target is None else {"Next": target}
            match self.chance.choice(kinds):
                case "Pass":
                    new = self.name()
                    read = self.chance.choice(sorted(variables)) if variables else None
                    term = f" + ${read}" if read else ""
                    result = value + 1 + (variables[read] if read else 0)
                    states[name] = {
                        "Type": "Pass",
                        "Assign": {new: f"{{% {value}{term} %}}"},
                        "Output": f"{{% $states.input + 1{term} %}}",
                        **way,
                    }
                    variables[new] = result - 1
                    value = output = result
                case "Choice":
                    yes, no, limit = self.name(), self.name(), self.chance.randint(-1, 9)
                    rule: Json = {"Condition": f"{{% $states.input > {limit} %}}", "Next": yes, "Output": value * 2}
                    states[name] = {"Type": "Choice", "Choices": [rule], "Default": no}
                    states[yes] = {"Type": "Pass", **way}
                    states[no] = {"Type": "Pass", "Output": "{% $states.input - 1 %}", **way}
                    value = output = value * 2 if value > limit else value - 1
                case _:
                    pairs = [self.level(value, variables, depth - 1) for _ in range(self.chance.randint(1, 3))]
                    branches: list[Json] = [{"StartAt": next(iter(pair[0])), "States": pair[0]} for pair in pairs]
                    outputs = [pair[1] for pair in pairs]
                    states[name] = {"Type": "Parallel", "Branches": branches, **way}
                    output = outputs
                    if target is not None:
                        states[name]["Output"] = value  # type: ignore[index,call-overload]
                        states[name]["Assign"] = {name: "{% $string($states.result) %}"}  # type: ignore[index,call-overload]
        return states, output


def check(seed: int) -> None:
    states, output = Tree(seed).level(seed % 7, {}, 3)
    assert run(make_world(), states, seed % 7) == Outcome("SUCCEEDED", output), json.dumps(states)


def test_random_trees_give_what_they_mean() -> None:
    for seed in range(25):
        check(seed)


@pytest.mark.slow
def test_many_random_trees_give_what_they_mean() -> None:
    for seed in range(25, 1000):
        check(seed)


def filling(first: int, last: dict[str, Json]) -> dict[str, Json]:
    """Return states that leave 22 variables of 250,000 characters, with numbers, and then the last state."""
    names = [f"S{number}" for number in range(first, first + 22)]
    return {
        name: passing(None, Assign={f"v{name}": "x" * 250_000}, Next=following)
        for name, following in zip(names, [*names[1:], next(iter(last))], strict=True)
    } | last


def test_the_variables_of_all_branches_count_for_their_execution() -> None:
    full, ended = threading.Event(), threading.Event()

    def hold(event: Json) -> Json:
        full.set()
        assert ended.wait(60)
        return event

    def begin(event: Json) -> Json:
        assert full.wait(60)
        return event

    world = make_world({"hold": hold, "begin": begin})
    branches = filling(0, {"Hold": task("hold")}), {"Begin": task("begin", Next="S30"), **filling(30, {"Z": passing()})}
    outcome = run(world, {"Both": parallel(*branches)})
    ended.set()
    assert (outcome.status, outcome.error) == ("FAILED", "States.DataLimitExceeded")
    assert "the execution's variables have 10" in outcome.cause


def test_the_variables_of_branches_that_have_ended_count_no_more() -> None:
    failed = parallel(
        filling(30, {"No": {"Type": "Fail", "Error": "No"}}), Catch=[{"ErrorEquals": ["No"], "Next": "C"}]
    )
    states = {"A": parallel(filling(0, {"X": passing()}), Next="B"), "B": failed}
    assert run(make_world(), {**states, "C": parallel(filling(60, {"Z": passing(1)}))}).output == [1]
