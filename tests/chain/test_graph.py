"""What a flow resolves to, and which flows are refused with which words."""

# Chains are wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="arg-type, misc, call-arg, call-overload"

from __future__ import annotations

import datetime
import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki import FlowError, FlowGraph, MapBlock, StepNode, flow, step
from lokki.base.options import FlowOptions, MapOptions
from lokki.chain import Chain
from lokki.graph import FlowParameter, MapCloseEntry, MapOpenEntry, Param, TaskEntry
from lokki.plan import lower


@step
def words() -> list[str]:
    return ["goose"]


@step
def number() -> int:
    return 1


@step
def lists() -> list[list[str]]:
    return []


@step
def shout(word: str) -> str:
    return word.upper()


@step
def letters(word: str) -> list[str]:
    return list(word)


@step
def add(value: int, more: int = 1) -> int:
    return value + more


@step
def join(words: list[str]) -> str:
    return ", ".join(words)


@step
def both(value: int, other: int) -> int:
    return value + other


@step
def keyword_only(value: int, *, name: str) -> str:
    return name


@step
def positional_only(value: int, other: int, /) -> int:
    return other


@step
def only_by_name(*, value: int) -> int:
    return value


def test_a_map_resolves_to_its_task_its_opening_and_its_closing() -> None:
    source, opened = words(), words().map(shout, concurrency=4)
    closed = opened.agg(join)
    assert FlowGraph("birds", closed).entries == (
        TaskEntry(opened.source, "words"),
        MapOpenEntry(opened.source, opened.inner_steps, "words", ("shout",), MapOptions(concurrency=4)),
        MapCloseEntry(closed, "join"),
    )
    assert source is not opened.source


def test_a_chain_resolves_to_a_task_for_each_step() -> None:
    second = number.next(add)
    third = second.next(add(2))
    assert FlowGraph("sums", third).entries == (
        TaskEntry(number, "number"),
        TaskEntry(second, "add"),
        TaskEntry(third, "add_2"),
    )


def test_the_steps_of_a_flow_come_once_in_the_order_in_which_they_first_run() -> None:
    chain = shout("a").next(letters).map(shout).agg(join).next(letters)
    assert [each.name for each in FlowGraph("order", chain).steps] == ["shout", "letters", "join"]


def test_a_flow_that_ends_in_an_open_map_block_is_refused() -> None:
    with pytest.raises(FlowError) as error:
        FlowGraph("birds-flow", words().map(shout))
    assert str(error.value) == (
        "the flow 'birds-flow' ends in an open Map block: words().map(shout). Close it with .agg(step), "
        "whose step gets the list of results."
    )


def refused(draw: Callable[[], Chain]) -> str:
    """Return what is said of a flow, with HERE for the line on which it is drawn."""
    first = draw.__code__.co_firstlineno
    with pytest.raises(FlowError) as error:
        FlowGraph("refused", draw())
    return str(error.value).replace(f"{__file__}:{first}: ", "HERE: ")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: number().next(shout), "shout() takes str as 'word', but gets what number() returns: int."),
        (lambda: words().map(add).agg(join), "add() takes int as 'value', but gets each item of words(): str."),
        (
            lambda: words().map(shout).next(add).agg(join),
            "add() takes int as 'value', but gets what shout() returns for each item: str.",
        ),
        (
            lambda: words().map(shout).agg(shout),
            "shout() takes str as 'word', but gets the list of what shout() returns: list[str].",
        ),
        (
            lambda: number().map(add).agg(join),
            (
                ".map() cannot run over what number() returns, int: it takes a list or another iterable "
                "(strings, bytes and mappings have no items that could be meant)."
            ),
        ),
        (
            lambda: shout("a").map(shout).agg(join),
            (
                ".map() cannot run over what shout() returns, str: it takes a list or another iterable "
                "(strings, bytes and mappings have no items that could be meant)."
            ),
        ),
        (
            lambda: words().map(letters).map(shout).agg(join),
            (
                "shout() takes str as 'word', but gets what letters() returns for each item: list[str]. "
                "Nested .map() is not supported: inside a map block .map(shout) runs on each item's result. "
                "Close the block with .agg() before mapping over what letters() returns. For a map below a map, map "
                "over a @flow that has the inner one."
            ),
        ),
        (
            lambda: number().next(both),
            (
                "both(value: 'int', other: 'int') -> 'int' cannot be called as the flow calls it: "
                "missing a required argument: 'other'. Its first argument is what number() returns. "
                "Bind what is missing in the flow: both(…)."
            ),
        ),
        (
            lambda: add(),
            (
                "add(value: 'int', more: 'int' = 1) -> 'int' cannot be called as the flow calls it: "
                "missing a required argument: 'value'. Bind what is missing in the flow: add(…)."
            ),
        ),
        (
            lambda: number().next(add(value=2)),
            (
                "add(value: 'int', more: 'int' = 1) -> 'int' cannot be called as the flow calls it: "
                "multiple values for argument 'value'. Its first argument is what number() returns. "
                "Bind what is missing in the flow: add(…)."
            ),
        ),
        (
            lambda: number().next(only_by_name),
            "only_by_name() takes no argument, but gets what number() returns. Give it a first parameter.",
        ),
        (
            lambda: number().next(number),
            "number() takes no argument, but gets what number() returns. Give it a first parameter.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_chain_is_refused_at_the_users_line(draw: Callable[[], Chain], message: str) -> None:
    assert refused(draw) == f"HERE: {message}"


def test_steps_take_arguments_however_their_parameters_want_them() -> None:
    plan = lower(FlowGraph("fine", number().next(positional_only(2)).next(keyword_only(name="a"))))
    assert [call.id for call in plan.calls] == [
        "number",
        "positional_only",
        "keyword_only",
    ]


def named(name: str, returns: object = None) -> StepNode[..., Any]:
    def function(value: Any = None) -> Any:
        return returns

    function.__name__ = name
    return step(function)


@pytest.mark.parametrize("names", [("clean_up", "cleanUp"), ("load", "Load"), ("load", "LOAD"), ("a_b", "a__b")])
def test_steps_whose_states_would_collide_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(FlowError, match=rf"{names[0]}\(\) and {names[1]}\(\) would both be the state"):
        FlowGraph("collides", named(names[0]).next(named(names[1])))


def test_an_occurrence_and_a_step_of_its_name_do_not_collide() -> None:
    clean, second = named("clean"), named("clean_2")
    plan = lower(FlowGraph("fine", clean().next(clean).next(second).next(clean)))
    assert [call.id for call in plan.calls] == [
        "clean",
        "clean_3",
        "clean_2",
        "clean_4",
    ]


def test_a_map_and_a_step_of_its_name_collide() -> None:
    with pytest.raises(FlowError) as error:
        FlowGraph("collides", named("get").map(named("get_map")).agg(named("end")))
    assert str(error.value) == (
        "the map over get() and get_map() would both be the state 'GetMap' on AWS (case does not count). "
        "Rename one of the functions."
    )


def test_two_functions_of_one_name_are_refused_with_both_places() -> None:
    first, second = named("clean"), named("clean")
    line = first.fn.__code__.co_firstlineno
    with pytest.raises(FlowError) as error:
        FlowGraph("collides", first().next(second))
    assert str(error.value) == (
        f"two steps are named 'clean': {__file__}:{line} and {__file__}:{line}. "
        "Each becomes a Lambda function of that name; rename one of them."
    )


def test_one_function_with_two_sets_of_options_is_refused() -> None:
    with pytest.raises(FlowError, match="the step 'add' is used with two sets of options, "):
        FlowGraph("collides", number().next(add).next(step(memory=512)(add.fn)))


def test_a_scheduled_flow_needs_defaults() -> None:
    options = FlowOptions(schedule="rate(1 hour)")
    with pytest.raises(FlowError) as error:
        FlowGraph("hourly", number(), (FlowParameter("limit", int),), options)
    assert str(error.value) == (
        "the flow 'hourly' runs on a schedule, but its parameter 'limit' has no default that a scheduled run could "
        "use. Give it one."
    )
    assert FlowGraph("hourly", number(), (FlowParameter("limit", int, 3),), options).options == options


# Decorators between @step and the function.


def timed[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function its first argument."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("session", *args, **kwargs)

    return wrapper


@step
@timed
def timed_since(rows: list[str], day: datetime.date) -> int:
    return len(rows)


@step
@with_session
def stored(session: str, rows: list[str], path: Path) -> str:
    return f"{session}{path}"


def test_arguments_of_a_decorated_step_are_converted_by_its_annotations() -> None:
    graph = FlowGraph("decorated", words().next(timed_since(datetime.date(2026, 1, 1))))
    (argument,) = list(lower(graph).calls)[1].arguments
    assert (argument.parameter, argument.template) == ("day", "2026-01-01")


def test_a_decorator_may_add_arguments_and_change_types() -> None:
    graph = FlowGraph("decorated", words().next(stored(path=Path("a"))))
    assert [argument.template for argument in list(lower(graph).calls)[1].arguments] == ["a"]


# Placeholders.

USES: list[Callable[[Any], object]] = [
    bool, len, list, str, int, float, complex, bytes, hash, round, abs, next, reversed, math.trunc, math.floor,
    math.ceil, operator.index, operator.neg, operator.pos, operator.invert, Path, range, sum, sorted, memoryview,
    lambda value: f"{value}", lambda value: f"{value:>5}", lambda value: value(), lambda value: value[0],
    lambda value: 1 in value, lambda value: value.year, lambda value: divmod(value, 2), lambda value: divmod(2, value),
    lambda value: pow(2, value), lambda value: value**2, lambda value: {value}, lambda value: {value: 1},
    lambda value: setattr(value, "a", 1), lambda value: delattr(value, "a"),
    lambda value: operator.setitem(value, 0, 1),
    lambda value: operator.delitem(value, 0), lambda value: value.__enter__(), lambda value: value.__await__(),
    lambda value: aiter(value), lambda value: anext(value), lambda value: [*value], lambda value: value and 1,
]  # fmt: skip
BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.matmul, operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift, operator.eq,
    operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.iadd, operator.ior, operator.imul,
]  # fmt: skip
USES += [functools.partial(lambda use, value: use(value, 1), use) for use in BINARY]
USES += [functools.partial(lambda use, value: use(1, value), use) for use in BINARY]


@pytest.mark.parametrize("use", USES)
def test_a_parameter_refuses_every_use_but_being_passed_on(use: Callable[[Any], object]) -> None:
    with pytest.raises(FlowError) as error:
        use(Param("limit", int))
    assert str(error.value) == (
        "the flow's parameter 'limit' has no value while the flow is drawn: it can only be passed to a step. "
        "Compute with it inside a step that takes limit."
    )


def test_a_parameter_is_shown_by_its_name() -> None:
    assert repr(Param("limit", int)) == "<parameter limit>"


def test_a_parameter_of_the_wrong_type_is_refused() -> None:
    @flow
    def wrong(path: str) -> StepNode[..., int]:
        return number().next(add(path))

    with pytest.raises(FlowError) as error:
        wrong()
    assert str(error.value).partition(": ")[2] == ("add() takes int as 'more', but the flow's parameter 'path' is str.")


# Random chains against an independent model.


@dataclass(frozen=True)
class Drawn:
    """What was asked for: each step's name, and how it was joined."""

    name: str
    verb: str


@st.composite
def drawings(draw: st.DrawFn) -> list[Drawn]:
    names = st.sampled_from(["load", "clean", "clean_2", "save"])
    drawn = [Drawn(draw(names), "start")]
    is_open = False
    for _ in range(draw(st.integers(0, 10))):
        verb = draw(st.sampled_from(["next", "map", "agg"] if is_open else ["next", "map"]))
        drawn.append(Drawn(draw(names), verb))
        is_open = verb == "map" or (is_open and verb != "agg")
    return [*drawn, Drawn("end", "agg")] if is_open else drawn


STEPS = {name: named(name) for name in ("load", "clean", "clean_2", "save", "end")}


def chained(drawn: list[Drawn]) -> StepNode[..., Any]:
    chain: Any = STEPS[drawn[0].name]()
    for each in drawn[1:]:
        chain = getattr(chain, each.verb)(STEPS[each.name])
    assert isinstance(chain, StepNode)
    return chain


def model(drawn: list[Drawn]) -> list[tuple[str, tuple[str, ...]]]:
    """Resolve by hand: tasks, and the inner steps of each map after its source."""
    entries: list[tuple[str, tuple[str, ...]]] = []
    inner: list[str] = []
    is_open = False
    for each in drawn:
        if each.verb == "agg":
            entries += [("map", tuple(inner)), ("close", (each.name,))]
            inner, is_open = [], False
        elif is_open or each.verb == "map":
            inner.append(each.name)
            is_open = True
        else:
            entries.append(("task", (each.name,)))
    return entries


def resolved(graph: FlowGraph) -> Iterator[tuple[str, tuple[str, ...]]]:
    for entry in graph.entries:
        match entry:
            case TaskEntry(node):
                yield "task", (node.name,)
            case MapOpenEntry(_, inner_steps):
                yield "map", tuple(each.name for each in inner_steps)
            case MapCloseEntry(node):
                yield "close", (node.name,)


@given(drawings())
def test_any_chain_resolves_as_it_was_drawn(drawn: list[Drawn]) -> None:
    assert list(resolved(FlowGraph("random", chained(drawn)))) == model(drawn)


@given(drawings())
def test_ids_are_unique_and_every_map_runs_over_the_call_before_it(drawn: list[Drawn]) -> None:
    ids: list[str] = []
    for entry in FlowGraph("random", chained(drawn)).entries:
        if isinstance(entry, MapOpenEntry):
            assert entry.source_id == ids[-1]
            ids += entry.inner_ids
        else:
            ids.append(entry.id)
    assert len(set(ids)) == len(ids)


@given(drawings())
def test_any_graph_that_resolves_also_lowers(drawn: list[Drawn]) -> None:
    plan = lower(FlowGraph("random", chained(drawn)))
    assert [call.step for call in plan.calls] == [each.name for each in drawn]


def test_a_block_used_by_two_flows_is_extended_apart() -> None:
    block: MapBlock[str] = words().map(shout)
    one, other = block.agg(join), block.next(shout).agg(join)
    assert [list(resolved(FlowGraph("flow", chain)))[1] for chain in (one, other)] == [
        ("map", ("shout",)),
        ("map", ("shout", "shout")),
    ]
