"""State machines of flows that are graphs: branches, joins, choices, values as arguments; what they hand on, and run.

They run in a small interpreter (`support.state_walker`) on functions that keep the contract, and give what a direct
walk through the plan gives.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graph_plans import Functions, call, compiled, random_plan, run_directly
from support.state_walker import Walker, check_scopes

from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.builder.names import variable_name
from lokki.builder.state_machine import state_machine_of
from lokki.builder.states import CaseState, MapState, SwitchState, machine_of
from lokki.graph import FlowParameter
from lokki.plan import Plan
from lokki.plan_json import plan_from_definition
from lokki.plans.operations import Block, Case, FanOut, Fork, Switch
from lokki.plans.templates import Item, Output, ParamRef, Results

type Machine = dict[str, Any]


def plan_of(*ops: Any, **fields: Any) -> Plan:
    block: Block = ops
    return Plan("graph", fields.pop("params", ()), block, FlowOptions(), **fields)


def machine(plan: Plan, larger: bool = False) -> Machine:
    return state_machine_of(compiled(plan, larger))


DIAMOND = plan_of(
    call("load"),
    Fork("train.fork", ((call("train", reads=Output("load")),), (call("clean", reads=Output("load")),))),
    call("score", Output("train"), reads=Output("clean")),
)


def walk(plan: Plan, larger: bool = False, hides: bool = False, params: dict[str, Json] | None = None) -> Walker:
    """Run a plan's state machine and compare its result with that of the plan."""
    made = compiled(plan, larger)
    functions = Functions(
        made, {}, dies=lambda text: larger and zlib.crc32(f"{text}!".encode()) % 4 == 0, hides_entries=hides
    )
    walker = Walker(functions, functions.objects, params=params or {})
    output: Any = walker.run(state_machine_of(made))
    results = [functions.load(ref) for ref in (output["results"] if plan.returns_tuple else [output])]
    expected, calls = run_directly(plan, {**functions.defaults, **walker.params})
    assert ({"results": results} if plan.returns_tuple else results[0]) == expected
    invoked = {event["call"] for _, event in functions.invoked if "bind" not in event}
    # Entries that are in the store do not say which cases they chose: each case looks into them.
    assert invoked == calls or (hides and invoked > calls)
    return walker


@pytest.mark.parametrize("seed", range(20))
def test_the_state_machine_of_a_random_plan_gives_what_the_plan_gives(seed: int) -> None:
    plan = random_plan(random.Random(seed))
    for larger, hides in ((False, False), (True, False), (False, True)):
        walk(plan, larger, hides, {"q": 5})


@pytest.mark.slow
def test_state_machines_of_many_random_plans_give_what_the_plans_give() -> None:
    for seed in range(20, 170):
        plan = random_plan(random.Random(seed))
        walk(plan, larger=seed % 3 == 1, hides=seed % 3 == 2, params={"q": 5})


@pytest.mark.parametrize("seed", range(20))
def test_a_definition_tells_what_each_state_of_a_graph_is(seed: int) -> None:
    plan = random_plan(random.Random(seed))
    definition = machine(plan)
    assert machine_of(plan_from_definition(definition)) == machine_of(plan)


# --- values ---


def test_what_is_read_by_the_next_state_only_is_in_no_variable() -> None:
    assert walk(plan_of(call("load"), call("clean", reads=Output("load")))).variables == {}
    fork = plan_of(call("load"), Fork("a.fork", tuple((call(name, reads=Output("load")),) for name in "ab")), call("c"))
    assert walk(fork).variables == {}


def test_branches_hand_out_what_is_read_outside_and_leave_it_in_variables() -> None:
    states = machine(DIAMOND)["States"]
    assert list(states) == ["Load", "TrainFork", "Score"]
    fork = states["TrainFork"]
    assert {name: fork[name] for name in ("Type", "Assign", "Output", "Next")} == {
        "Type": "Parallel",
        "Assign": {
            "train": "{% $lookup($states.result[0], 'train') %}",
            "clean": "{% $lookup($states.result[1], 'clean') %}",
        },
        "Output": {},
        "Next": "Score",
    }
    assert [branch["StartAt"] for branch in fork["Branches"]] == ["Train", "Clean"]
    train = fork["Branches"][0]["States"]["Train"]
    assert (train["Output"], train["End"]) == ({"train": "{% $states.result.Payload %}"}, True)
    assert train["Arguments"]["Payload"]["input"] == "{% $states.input %}"
    assert states["Score"]["Arguments"]["Payload"] == {
        "run_id": "{% $states.context.Execution.Name %}",
        "call": "score",
        "attempt": "{% $states.context.State.RetryCount %}",
        "input": "{% $clean %}",
        "values": {"train": "{% $train %}"},
    }
    walk(DIAMOND)


def test_no_branch_assigns_a_variable_of_the_states_around_it() -> None:
    """The inner scope may not: https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html."""
    inner = Fork(
        "b.fork", ((call("b"), call("c", Output("b"), reads=Output("b")), call("d", Output("b"))), (call("e"),))
    )
    plan = plan_of(
        call("load"),
        Fork("a.fork", ((call("a"), inner, call("g", Output("b"), Output("e"))), (call("f", reads=Output("load")),))),
        call("h", *map(Output, "abcefg")),
    )
    walker = walk(plan)
    assert set(walker.variables) == set("abcefg")
    definition = json.dumps(machine(plan))
    assert {f'"{name}"' in definition for name in ("b__branch", "b__branch2", "e__branch")} == {True}
    with pytest.raises(AssertionError):  # what the check is there for
        check_scopes(json.loads(definition.replace("__branch", "")))


def test_a_map_hands_on_exactly_what_its_body_reads_from_outside() -> None:
    body = (
        call("score", Output("train"), ParamRef("q"), reads=Item()),
        call("rank", Item("rows.map"), reads=Output("score")),
    )
    params = (FlowParameter("p", default="x"), FlowParameter("q", default=1))
    ops = (call("load"), call("train", reads=Output("load")), call("rows", reads=Output("load"), fans_out=True))
    for batch in (None, 2):
        plan = plan_of(
            *ops,
            FanOut("rows.map", "rows", body, MapOptions(None, batch)),
            call("total", reads=Results("rows.map")),
            params=params,
        )
        states = machine(plan)["States"]
        block = states["RowsMap"]
        common = block["ItemSelector"] if batch is None else block["ItemBatcher"]["BatchInput"]
        assert (common["values"], common["params"]) == ({"train": "{% $train %}"}, {"q": "{% $params.q %}"})
        first, second = (state["Arguments"]["Payload"] for state in block["ItemProcessor"]["States"].values())
        place = "$states.input" if batch is None else "$states.input.BatchInput"
        assert first["values"] == {"train": f"{{% $lookup({place}.values, 'train') %}}"}
        assert "values" not in second
        walk(plan)


def test_a_second_map_over_one_source_has_a_state_a_label_and_results_of_its_own() -> None:
    plan = plan_of(
        call("rows", fans_out=True, keeps_value=True),
        FanOut("rows.map", "rows", (call("a", reads=Item()),), MapOptions(tolerate=0.125)),
        FanOut("rows.map_2", "rows", (call("b", reads=Item()),), MapOptions(tolerate=0.125)),
        call("c", Results("rows.map"), Output("rows"), reads=Results("rows.map_2")),
    )
    states = machine(plan)["States"]
    first, second = states["RowsMap"], states["RowsMap2"]
    assert (first["Label"], second["Label"]) == ("rows", "rows-map_2")
    assert "/rows/map_results" in first["ResultWriter"]["Arguments"]["Prefix"]
    assert "/rows.map_2/map_results" in second["ResultWriter"]["Arguments"]["Prefix"]
    assert first["ItemReader"]["Arguments"]["Key"] == "{% $states.input.map_manifest_key %}"
    assert second["ItemReader"]["Arguments"]["Key"] == "{% $rows.map_manifest_key %}"
    assert (first["ToleratedFailureCount"], second["ToleratedFailureCount"]) == (
        "${RowsTolerated}",
        "${RowsMap2Tolerated}",
    )
    assert set(walk(plan).variables) == {"rows", "rows__map"}
    assert machine_of(plan).maps["RowsMap2"] == MapState("rows", ("b",), 0, "rows.map_2", "rows.map_2")


# --- choices ---

GRADED = (
    call("grade", reads=Output("load"), cases=("good", "bad", None)),
    Switch(
        "grade.switch",
        "grade",
        (
            Case("good", (call("keep", reads=Output("load")),), "keep"),
            Case("bad", (call("fix", reads=Output("load")), call("note", reads=Output("fix"))), "fix"),
            Case(None, (call("drop", reads=Output("grade")),), "drop"),
        ),
    ),
)


def test_a_switch_is_a_choice_by_the_reply_of_the_call_before() -> None:
    plan = plan_of(call("load"), *GRADED, call("report", reads=Output("grade.switch")))
    states = machine(plan)["States"]
    assert states["GradeSwitch"] == {
        "Type": "Choice",
        "Choices": [
            {"Condition": "{% $states.input.case = 0 %}", "Next": "Keep"},
            {"Condition": "{% $states.input.case = 1 %}", "Next": "Fix"},
            {"Condition": "{% $states.input.case = 2 %}", "Next": "Drop"},
        ],
    }
    assert {name: states[name]["Next"] for name in ("Keep", "Fix", "Note", "Drop")} == {
        "Keep": "Report",
        "Fix": "Note",
        "Note": "Report",
        "Drop": "Report",
    }
    # What gives the result of a case that does not end with it leaves it in the switch's variable.
    assert {name: list(states[name].get("Assign", {})) for name in ("Keep", "Fix", "Note", "Drop")} == {
        "Keep": ["grade__switch"],
        "Fix": ["grade__switch"],
        "Note": [],
        "Drop": ["grade__switch"],
    }
    assert states["Report"]["Arguments"]["Payload"]["input"] == "{% $grade__switch %}"
    walk(plan)
    assert machine_of(plan).switches == {
        "GradeSwitch": SwitchState(
            "grade.switch",
            "grade",
            (CaseState("Keep", ("keep",)), CaseState("Fix", ("fix", "note")), CaseState("Drop", ("drop",))),
        )
    }


def test_a_switch_in_a_map_chooses_for_each_item() -> None:
    body = (
        call("grade", reads=Item(), cases=("good", "bad")),
        Switch(
            "grade.switch",
            "grade",
            (
                Case("good", (call("keep", reads=Item()),), "keep"),
                Case("bad", (call("fix", reads=Item()),), "fix"),
            ),
        ),
    )
    for tail in ((), (call("note", reads=Output("grade.switch")),)):
        for batch in (None, 2):
            rows = call("rows", ParamRef("p"), fans_out=True)
            plan = plan_of(
                rows,
                FanOut("rows.map", "rows", (*body, *tail), MapOptions(batch=batch)),
                call("total", reads=Results("rows.map")),
                params=(FlowParameter("p", default="x"),),
            )
            visited = {name for value in "abcde" for name in walk(plan, params={"p": value}).visited}
            assert {"Grade", "Keep", "Fix"} <= visited
            walk(plan, larger=True)


def test_a_case_of_a_batch_that_no_entry_chose_is_skipped() -> None:
    body = (
        call("grade", reads=Item(), cases=("good", "bad")),
        Switch(
            "grade.switch",
            "grade",
            tuple(Case(value, (call(value, reads=Item()),), value) for value in ("good", "bad")),
        ),
    )
    block = machine(
        plan_of(
            call("rows", fans_out=True),
            FanOut("rows.map", "rows", body, MapOptions(batch=2)),
            call("total", reads=Results("rows.map")),
        )
    )["States"]["RowsMap"]["ItemProcessor"]
    condition = (
        "$count($filter($states.input.Items, function($entry) {{ $exists($entry.entries_url) or "
        "$lookup($entry.cases, 'grade.switch') = {} }})) > 0"
    )
    assert {name: state for name, state in block["States"].items() if state["Type"] != "Task"} == {
        "GradeSwitch": {
            "Type": "Choice",
            "Choices": [{"Condition": f"{{% {condition.format(0)} %}}", "Next": "Good"}],
            "Default": "GradeSwitch-2",
        },
        "GradeSwitch-2": {
            "Type": "Choice",
            "Choices": [{"Condition": f"{{% {condition.format(1)} %}}", "Next": "Bad"}],
            "Default": "GradeSwitch-OK",
        },
        "GradeSwitch-OK": {"Type": "Pass", "Output": "{% $states.input.Items %}", "End": True},
    }


# --- the beginning and the end ---


def test_a_flow_that_begins_with_branches_completes_its_parameters_first() -> None:
    branches = ((call("a", ParamRef("p")),), (call("b", ParamRef("q")),))
    params = (FlowParameter("p", default="x"), FlowParameter("q", default=1))
    plan = plan_of(Fork("a.fork", branches), call("c", Output("a"), Output("b")), params=params)
    definition = machine(plan)
    first = definition["States"][definition["StartAt"]]
    assert definition["StartAt"] == "Parameters"
    assert first["Arguments"] == {
        "FunctionName": "${AFunctionArn}",
        "Payload": {
            "run_id": "{% $states.context.Execution.Name %}",
            "call": "a",
            "attempt": "{% $states.context.State.RetryCount %}",
            "bind": True,
            "params": "{% $states.context.Execution.Input %}",
        },
    }
    assert (first["Assign"], first["Next"]) == ({"params": "{% $states.result.Payload.params %}"}, "AFork")
    walk(plan, params={"q": 7})


def test_a_result_that_is_not_the_last_reply_is_given_by_a_state_of_its_own() -> None:
    ops = (call("a"), call("b", reads=Output("a")))
    assert "Result" not in machine(plan_of(*ops))["States"]
    one = machine(plan_of(*ops, result=Output("a")))["States"]
    assert one["Result"] == {"Type": "Pass", "Output": "{% $a %}", "End": True}
    several = machine(plan_of(*ops, result=(Output("b"), Output("a"))))["States"]
    assert several["Result"]["Output"] == {"results": ["{% $b %}", "{% $a %}"]}
    for result in (None, Output("a"), (Output("b"), Output("a")), (Output("b"),)):
        walk(plan_of(*ops, result=result))


def test_steps_may_have_the_names_of_these_states() -> None:
    branches = ((call("parameters"),), (call("result"),))
    plan = plan_of(Fork("parameters.fork", branches), call("results"), result=(Output("parameters"), Output("result")))
    assert walk(plan).visited == ["Parameters-", "ParametersFork", "Parameters", "Result", "Results", "Result-"]


# --- names of variables ---


CALL_IDS = st.from_regex(r"[a-c_]{1,3}|sum|x{100}|ä", fullmatch=True)


@settings(max_examples=50)
@given(st.lists(st.tuples(CALL_IDS, st.sampled_from(["", ".switch", ".map", ".map_2"]))), st.integers(0, 12))
def test_variables_have_names_of_their_own_that_aws_takes(parts: list[tuple[str, str]], depth: int) -> None:
    """At most 80 characters, a letter first: they are identifiers by Unicode's rules."""
    names = {f"{call_id}{kind}" for call_id, kind in parts}
    variables = {variable_name(name, number) for name in names for number in {0, depth}}
    assert len(variables) == len(names) * len({0, depth})
    for variable in variables:
        assert re.fullmatch("[a-zA-Z][a-zA-Z0-9_]{,79}", variable)
    assert not variables & {"sum", "states", "params"}


# --- what waits for a free function ---


def throttling(definition: Machine, name: str) -> tuple[int, int]:
    states = {
        each: state
        for branch in definition["States"]["AFork"]["Branches"]
        for each, state in {**branch["States"], **definition["States"]}.items()
    }
    rule = states[name]["Retry"][-1]
    return rule["MaxAttempts"], rule["MaxDelaySeconds"]


def test_tasks_side_by_side_share_the_events_of_their_execution() -> None:
    """Each try is three events of 25,000, so two tasks that wait for a day and a half would end the run."""
    branches = tuple((call(name),) for name in "abcd")
    definition = machine(plan_of(Fork("a.fork", branches), call("e")))
    assert throttling(definition, "A") == (1250, 240)
    assert throttling(definition, "E") == (5000, 60)
    rows = (
        call("a", fans_out=True),
        FanOut("a.map", "a", (call("b", reads=Item()),)),
        call("c", reads=Results("a.map")),
    )
    definition = machine(plan_of(Fork("a.fork", (rows, (call("d"),))), call("e")))
    assert throttling(definition, "C") == (2500, 120)
