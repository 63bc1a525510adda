"""Blocks of operations: what is read, what is given, how they are written for people and as JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lokki.base.options import FlowOptions, MapOptions
from lokki.plan import Plan, plan_lines
from lokki.plan_json import outline, plan_from_json, plan_to_json
from lokki.plans.operations import (
    Argument,
    Block,
    Call,
    Case,
    FanOut,
    Fork,
    Switch,
    calls_in,
    given_by,
    read_from_outside,
)
from lokki.plans.templates import Item, Output, ParamRef, Results, source_name


def call(call_id: str, *values: object, reads: object = None, **others: object) -> Call:
    arguments = tuple(Argument(f"a{number}", value) for number, value in enumerate(values))  # type: ignore[arg-type]
    return Call(call_id, call_id, arguments, reads, **others)  # type: ignore[arg-type]


GRAPH: Block = (
    call("load", ParamRef("day"), fans_out=True, keeps_value=True),
    Fork(
        "train.fork",
        (
            (call("train", reads=Output("load")),),
            (
                FanOut(
                    "load.map",
                    "load",
                    (
                        call("clean", reads=Item()),
                        call("grade", reads=Output("clean"), cases=("good", 3, True, None)),
                        Switch(
                            "grade.switch",
                            "grade",
                            (
                                Case("good", (call("keep", Item("load.map"), reads=Output("clean")),), "keep"),
                                Case(3, (call("drop", reads=Output("clean")),), "drop"),
                                Case(True, (call("both", {"x": [Output("clean")]}),), "both"),
                                Case(None, (call("fix", Results("old.map"), reads=Output("clean")),), "fix"),
                            ),
                        ),
                    ),
                    MapOptions(3, None, 0.5),
                ),
                call("rank", {"model": Output("old")}, reads=Results("load.map")),
            ),
        ),
    ),
    FanOut("load.map_2", "load", (call("copy", reads=Item()), call("note", reads=Output("copy"))), output="copy"),
    call("report", [Output("train"), ParamRef("day")], reads=Output("rank"), after=("load.map_2",)),
)
PLAN = Plan("graph", (), GRAPH, FlowOptions(), result=(Output("report"), Output("train")))


def test_a_plan_with_forks_and_switches_is_written_and_read_back() -> None:
    for plan in (PLAN, outline(PLAN)):
        assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
        assert plan_to_json(plan)["format"] == 2


def test_calls_come_in_the_order_of_the_plan() -> None:
    names = ["load", "train", "clean", "grade", "keep", "drop", "both", "fix", "rank", "copy", "note", "report"]
    assert [each.id for each in calls_in(GRAPH)] == names


def test_what_a_block_reads_from_outside_is_what_it_does_not_give() -> None:
    assert read_from_outside(GRAPH) == (Results("old.map"), Output("old"))
    fork = GRAPH[1]
    assert isinstance(fork, Fork)
    assert read_from_outside(fork.branches[0]) == (Output("load"),)
    assert read_from_outside(fork.branches[1]) == (Output("load"), Results("old.map"), Output("old"))
    block = fork.branches[1][0]
    assert isinstance(block, FanOut)
    assert read_from_outside(block.body) == (Item(), Item("load.map"), Results("old.map"))
    assert given_by(GRAPH) == {
        *map(Output, ("load", "train", "rank", "report")),
        Results("load.map"),
        Results("load.map_2"),
    }


def test_lines_say_what_comes_side_by_side_what_is_chosen_and_who_reads_what() -> None:
    assert plan_lines(PLAN) == [
        "load = load(a0=$day)",
        "side by side:",
        "- train = train()",
        "- map over load:",
        "    clean = clean()",
        "    grade = grade()",
        "    switch on grade:",
        '      "good" gives keep:',
        "        keep = keep(a0=load.map.item) of clean.result",
        "      3 gives drop:",
        "        drop = drop() of clean.result",
        "      true gives both:",
        "        both = both(a0={'x': [clean.result]}) of nothing",
        "      default gives fix:",
        "        fix = fix(a0=old.map.results) of clean.result",
        "  rank = rank(a0={'model': old.result})",
        "map over load as load.map_2 gives copy: copy = copy() -> note = note()",
        "report = report(a0=[train.result, $day]) of rank.result after load.map_2",
        "returns (report, train)",
    ]


@given(st.lists(st.sampled_from([Output("a"), Results("a.map"), Item("a.map"), Output("b")]), unique=True))
def test_values_have_names_of_their_own(sources: list[Output | Results | Item]) -> None:
    assert len({source_name(source) for source in sources}) == len(sources)
