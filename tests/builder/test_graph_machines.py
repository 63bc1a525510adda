"""State machines of flows that are graphs: branches, joins, choices, values as arguments; what they hand on, and run.

They run in a small interpreter (`support.state_walker`) on functions that keep the contract, and give what a direct
walk through the plan gives.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonata import Jsonata
from jsonata_samples import as_jsonata, expressions, samples
from support.graph_plans import GRAPHS, Functions, call, compiled, random_plan, run_directly
from support.state_walker import Walker, check_scopes

from lokki.base.options import FlowOptions, MapOptions, Retry
from lokki.base.values import Json
from lokki.builder.lambda_pkg import Importable
from lokki.builder.machine_limits import machine_limits
from lokki.builder.names import variable_name
from lokki.builder.requirements.distributions import find_distributions
from lokki.builder.requirements.needs import Installed, StepSources, step_needs
from lokki.builder.retries import throttling_rule
from lokki.builder.state_machine import state_machine_of
from lokki.builder.states import CaseState, MapState, SwitchState, machine_of
from lokki.builder.timing import execution_type, longest_item
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.errors import ConfigError
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


def walk(
    plan: Plan, larger: bool = False, hides: bool = False, params: dict[str, Json] | None = None, back: bool = False
) -> Walker:
    """Run a plan's state machine and compare its result with that of the plan."""
    made = compiled(plan, larger)
    functions = Functions(
        made,
        {},
        dies=lambda text: larger and zlib.crc32(f"{text}!".encode()) % 4 == 0,
        hides_entries=hides,
        hands_back=back,
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
    for larger, hides, back in product((False, True), repeat=3):
        walk(plan, larger, hides, {"q": 5}, back)


@pytest.mark.slow
def test_state_machines_of_many_random_plans_give_what_the_plans_give() -> None:
    for seed in range(20, 100):
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
    for batch in (1, 2):
        plan = plan_of(
            *ops,
            FanOut("rows.map", "rows", body, MapOptions(None, batch)),
            call("total", reads=Results("rows.map")),
            params=params,
        )
        states = machine(plan)["States"]
        block = states["RowsMap"]
        common = block["ItemSelector"] if batch == 1 else block["ItemBatcher"]["BatchInput"]
        assert (common["values"], common["params"]) == ({"train": "{% $train %}"}, {"q": "{% $params.q %}"})
        inner = block["ItemProcessor"]["States"]
        first, second = (inner[name]["Arguments"]["Payload"] for name in ("Score", "Rank"))
        place = "$states.input" if batch == 1 else "$states.input.BatchInput"
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
    assert machine_of(plan).maps["RowsMap2"] == MapState("rows", ("b",), 0, "rows.map_2", "rows.map_2", tolerates=True)


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
    assert {name: state for name, state in block["States"].items() if name.startswith("GradeSwitch")} == {
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


@pytest.mark.parametrize(("tasks", "hours"), [(1, 40), (10, 40), (50, 20), (100, 10), (500, 1)])
def test_tasks_side_by_side_wait_long_for_a_free_function_within_the_events_of_a_run(tasks: int, hours: int) -> None:
    rule = throttling_rule(express=False, side_by_side=tasks)
    # With full jitter, tries are half as far apart on average: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
    assert rule.longest_wait / 2 > hours * 3600
    assert tasks * (2 + 3 * (1 + rule.retries)) < 20_000


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


# --- limits ---


def limits(plan: Plan, **settings: Any) -> list[str]:
    return list(machine_limits(compiled(plan, config=LokkiConfig(**settings))))


def test_values_that_may_be_too_large_for_a_state_are_findings() -> None:
    plan = plan_of(*DIAMOND.ops, result=(Output("score"), Output("load")))
    assert limits(plan, inline_limit=131_000) == []
    end = "values{}, which may have 262,166 bytes inline, and a state has 262,144; lower inline_limit in lokki.yml"
    assert limits(plan, inline_limit=131_072) == [
        f"the branches of train.fork hand out 2 {end.format('')}",
        f"score() reads 2 {end.format(' of the run')}",
        f"the flow returns 2 {end.format('')}",
    ]


def test_a_value_that_is_alone_in_its_state_may_be_as_large_as_the_setting_allows() -> None:
    rows = (
        call("rows", fans_out=True),
        FanOut("rows.map", "rows", (call("a", reads=Item()), call("b", reads=Output("a"))), MapOptions(batch=None)),
        call("total", reads=Results("rows.map")),
    )
    assert limits(plan_of(*rows), inline_limit=262_144) == []


@pytest.mark.parametrize(("batch", "least"), [(None, 65_400), (5, 15_400)])
def test_what_a_body_reads_from_outside_counts_with_its_items(batch: int | None, least: int) -> None:
    score = call("score", *map(Output, "ab"), reads=Item())
    rank = call("rank", Item("rows.map"), Output("c"), reads=Output("score"))
    plan = plan_of(
        *map(call, "abc"),
        call("rows", fans_out=True),
        FanOut("rows.map", "rows", (score, *([rank] if batch else [])), MapOptions(batch=batch)),
        call("total", reads=Results("rows.map")),
    )
    assert limits(plan, inline_limit=least) == []
    found = [line for line in limits(plan, inline_limit=90_000) if "of the map over rows() has" in line]
    assert len(found) == 1


def test_values_of_an_item_that_follow_each_other_do_not_add_up() -> None:
    """What was read for the last time goes no further: of two values an item has one at a time."""

    def limit(*last: Output) -> list[str]:
        first = (call("a", reads=Item()), call("b", reads=Output("a")), call("c", Output("a"), reads=Output("b")))
        body = (*first, call("d", reads=Output("c")), call("e", *last, reads=Output("d")))
        source = call("rows", fans_out=True)
        fan_out = FanOut("rows.map", "rows", body, MapOptions(batch=1))
        plan = plan_of(source, fan_out, call("total", reads=Results("rows.map")))
        return [line for line in limits(plan, inline_limit=131_000) if "of the map over rows() has" in line]

    assert limit(Output("c")) == []
    [line] = limit(Output("c"), Output("a"))
    assert line.startswith("an item of the map over rows() has 2 values with it, which may have 393,033 bytes inline")


def test_an_execution_with_more_events_than_its_history_has_is_a_finding() -> None:
    def retried(count: int) -> list[str]:
        branch = tuple(call(f"b{number}", step="b") for number in range(count - 2))
        made = compiled(plan_of(Fork("a.fork", ((call("a"),), branch)), call("c")))
        steps = {
            name: replace(each, options=replace(each.options, retry=Retry(attempts=100)))
            for name, each in made.plan.steps.items()
        }
        return list(machine_limits(replace(made, plan=replace(made.plan, steps=steps))))

    # 2 for the execution, 4 for the fork, 5 to complete the parameters; of each task 2 and 3 a try
    assert retried(82) == []
    [line] = retried(83)
    assert line == (
        "a run may have 25,077 events with all tries, and an execution ends after 25,000; give steps fewer tries, or "
        "split the flow"
    )


def test_more_map_runs_at_one_time_than_an_account_has_are_a_finding() -> None:
    def branch(number: int) -> Block:
        body = (call(f"b{number}", reads=Item(), step="b"),)
        return (call(f"a{number}", fans_out=True, step="a"), FanOut(f"a{number}.map", f"a{number}", body))

    def plan(first: int, second: int) -> Plan:
        branches = [branch(number) for number in range(first + second)]
        one, other = Fork("a0.fork", tuple(branches[:first])), Fork(f"a{first}.fork", tuple(branches[first:]))
        return plan_of(one, other, call("c"))

    assert limits(plan(1000, 2)) == []
    assert limits(plan(2, 1001)) == [
        "1,001 maps may run at one time, and an account has 1,000 map runs; split the flow"
    ]


def test_the_longest_case_counts_for_an_item_and_all_cases_for_a_batch() -> None:
    """Of EXPRESS children, which end after five minutes."""
    cases = tuple(Case(value, (call(str(value)), call(f"{value}2")), f"{value}2") for value in ("good", "bad"))
    for batch, seconds in ((None, 3 * 60), (5, 5 * 60)):
        body = (call("grade", reads=Item(), cases=("good", "bad")), Switch("grade.switch", "grade", cases))
        plan = plan_of(
            call("rows", fans_out=True),
            FanOut("rows.map", "rows", body, MapOptions(batch=batch)),
            call("total", reads=Results("rows.map")),
        )
        defaults = LambdaDefaultsConfig(timeout=60)
        made = compiled(plan, config=LokkiConfig(execution_type="EXPRESS", lambda_defaults=defaults))
        assert execution_type(made, made.maps[0]) == "EXPRESS"
        slower = replace(made, config=replace(made.config, lambda_defaults=LambdaDefaultsConfig(timeout=101)))
        with pytest.raises(ConfigError, match=f" may take {seconds // 60 * 101}. Give them a shorter"):
            execution_type(slower, made.maps[0])
        tries = 1 + seconds // 60 * (60 + 15 + 63) + 59
        assert longest_item(made, made.maps[0]) == tries


# --- what packages need ---


def test_steps_have_what_all_values_need_that_come_to_them() -> None:
    """Values come as arguments too, out of branches, of cases and to the items of maps."""
    grade = call("grade", reads=Item(), cases=("good", None))
    cases = (Case("good", (call("same", reads=Item()),), "same"), Case(None, (call("fix", Output("model")),), "fix"))
    plan = plan_of(
        call("load", fans_out=True),
        Fork("model.fork", ((call("model", reads=Output("load")),), (call("other", reads=Output("load")),))),
        FanOut("load.map", "load", (grade, Switch("grade.switch", "grade", cases))),
        call("total", reads=Results("load.map")),
        call("report", [Output("other")], reads=Output("load")),
    )
    code = "from lokki import step\nimport {0}_package\n@step\ndef {0}(*args, **kwargs):\n    return {0}_package.f()\n"
    names = [each.step for each in plan.calls]
    sources = {name: StepSources({"flow.py": code.format(name).encode()}, Importable("flow", name)) for name in names}
    files = {
        path: text.encode()
        for name in names
        for path, text in {
            f"{name}_package/__init__.py": "",
            f"{name}_package-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1\n",
            f"{name}_package-1.dist-info/RECORD": f"{name}_package/__init__.py,,\n",
        }.items()
    }
    installed = Installed.of(find_distributions(files, {"python_version": "3.13"}))
    needs = step_needs(plan, sources, dict.fromkeys(sources, installed), [])
    assert {name: {each.removesuffix("-package") for each in need.packages} for name, need in needs.items()} == {
        "load": {"load"},
        "model": {"load", "model"},
        "other": {"load", "other"},
        "grade": {"load", "grade"},
        "same": {"load", "same"},
        "fix": {"load", "model", "fix"},
        "total": {"load", "model", "same", "fix", "total"},
        "report": {"load", "other", "report"},
    }


# --- second opinions ---


@pytest.mark.parametrize("name", GRAPHS)
def test_every_shape_runs(name: str) -> None:
    for value in "abcdef":
        walk(GRAPHS[name], params={"p": value})
        walk(GRAPHS[name], larger=True, params={"p": value})


@pytest.mark.parametrize("name", GRAPHS)
def test_every_expression_of_a_graph_gives_what_is_expected_in_python(name: str) -> None:
    for expression in set(expressions(machine(GRAPHS[name], larger=True))):
        found = list(samples(expression))
        assert found, f"no samples for {expression}"
        for sample in found:
            bindings = {name: as_jsonata(value) for name, value in sample.bindings.items()}
            assert Jsonata.jsonata(expression).evaluate(None, bindings) == sample.expected, sample
