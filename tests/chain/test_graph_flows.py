"""Flows beyond a line, as they are drawn, lowered and refused: results as arguments, branches, joins, `.after`."""

# Chains are wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="arg-type, misc, call-arg, call-overload, return-value"

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.interpreter import Interpreter, interpret

from lokki import FlowError, FlowGraph, StepNode, flow, step
from lokki.graph import MapCloseEntry, MapOpenEntry, TaskEntry
from lokki.plan import lower, plan_lines
from lokki.plan_json import plan_from_json, plan_to_json, shape
from lokki.plans.arranging import arrange
from lokki.plans.operations import Argument, Block, Call, Fork, blocks_of, operations_in
from lokki.plans.templates import Output


@step
def load(day: str = "monday") -> list[int]:
    return [1, 2, 3]


@step
def train(rows: list[int], scale: int = 1) -> float:
    return float(sum(rows)) * scale


@step
def stats(rows: list[int]) -> dict[str, int]:
    return {"rows": len(rows)}


@step
def double(row: int) -> int:
    return 2 * row


@step
def score(row: int, model: float) -> float:
    return row * model


@step
def rank(scores: list[float], model: float = 0.0) -> list[float]:
    return sorted(scores)


@step
def report(counts: dict[str, int], model: float, scores: list[float] | None = None) -> str:
    return f"{counts} {model} {scores}"


@step
def gather(parts: list[float], named: dict[str, float] | None = None) -> list[float]:
    return parts


@step
def total(scores: list[float]) -> float:
    return sum(scores)


@step
def notify(text: str) -> None:
    return None


@step
def tidy() -> None:
    return None


def lines(draw: Callable[..., Any]) -> list[str]:
    return plan_lines(lower(flow(draw)()))


def test_a_result_is_an_argument() -> None:
    def diamond() -> StepNode[..., str]:
        raw = load()
        model = raw.next(train)
        return report(raw.next(stats).result, model.result)

    assert lines(diamond) == [
        "load = load()",
        "side by side:",
        "- train = train()",
        "- stats = stats()",
        "report = report(model=train.result) of stats.result",
    ]
    assert interpret(lower(flow(diamond)())) == "{'rows': 3} 6.0 None"


def test_a_result_is_an_argument_for_every_item_and_in_lists_and_dicts() -> None:
    def scored() -> StepNode[..., list[float]]:
        raw = load()
        model = raw.next(train(scale=2))
        ranked = raw.map(score(model=model.result)).agg(rank(model=model.result))
        return gather([model.result, 1.5, total(ranked.result).result], named={"model": model.result})

    plan = lower(flow(scored)())
    assert plan_lines(plan) == [
        "load = load()",
        "train = train(scale=2)",
        "map over load: score = score(model=train.result)",
        "rank = rank(model=train.result)",
        "total = total()",
        "gather = gather(named={'model': train.result}, parts=[train.result, 1.5, total.result]) of nothing",
    ]
    assert next(plan.calls) == Call("load", "load", (), None, fans_out=True, keeps_value=True)
    assert interpret(plan) == [12.0, 1.5, 72.0]


def test_a_result_as_the_first_argument_is_a_chain() -> None:
    def by_argument() -> StepNode[..., float]:
        return train(load().result, 3)

    def by_chain() -> StepNode[..., float]:
        return load().next(train(3))

    assert lines(by_argument) == lines(by_chain)
    assert lower(flow(by_argument)()).ops == lower(flow(by_chain)()).ops


def test_side_branches_end_before_what_waits_for_them() -> None:
    def audited() -> StepNode[..., float]:
        raw = load()
        told = raw.next(stats).next(notify_stats)
        return raw.next(train).after(told, tidy())

    @step
    def notify_stats(counts: dict[str, int]) -> None:
        return None

    assert lines(audited) == [
        "side by side:",
        "- load = load()",
        "  stats = stats()",
        "  notify_stats = notify_stats()",
        "- tidy = tidy()",
        "train = train() of load.result after notify_stats, tidy",
    ]


def test_a_flow_may_return_several_results() -> None:
    def several() -> tuple[StepNode[..., float], StepNode[..., dict[str, int]]]:
        raw = load()
        return raw.next(train), raw.next(stats)

    plan = lower(flow(several)())
    assert (plan.result, plan.returns_tuple) == ((Output("train"), Output("stats")), True)
    assert interpret(plan) == (6.0, {"rows": 3})
    assert plan_lines(plan)[-1] == "returns (train, stats)"


def test_a_block_closed_twice_runs_once() -> None:
    def twice() -> tuple[StepNode[..., Any], StepNode[..., Any]]:
        block = load().map(double)
        return block.agg(rank), block.agg(gather)

    assert lines(twice) == [
        "load = load()",
        "map over load: double = double()",
        "side by side:",
        "- rank = rank()",
        "- gather = gather()",
        "returns (rank, gather)",
    ]


def test_two_maps_over_one_source_have_names_of_their_own() -> None:
    def mapped() -> StepNode[..., Any]:
        raw = load()
        ranked = raw.map(double).agg(rank)
        return raw.map(double).next(double).agg(gather(named={"a": ranked.result}))

    graph = flow(mapped)()
    assert plan_lines(lower(graph)) == [
        "load = load()",
        "side by side:",
        "- map over load: double = double()",
        "  rank = rank()",
        "- map over load as load.map_2: double_2 = double() -> double_3 = double()",
        "gather = gather(named={'a': rank.result}) of load.map_2.results",
    ]
    assert [fan_out.key for fan_out in lower(graph).fan_outs] == ["load", "load.map_2"]


def test_a_step_that_was_not_started_begins_a_chain_each_time() -> None:
    def apart() -> tuple[StepNode[..., Any], StepNode[..., Any]]:
        return load.next(train), load.map(double).agg(rank)

    assert lines(apart) == [
        "side by side:",
        "- load = load()",
        "  train = train()",
        "- load_2 = load()",
        "  map over load_2: double = double()",
        "  rank = rank()",
        "returns (train, rank)",
    ]


def test_entries_come_in_the_order_of_the_plan() -> None:
    def joined() -> StepNode[..., Any]:
        raw = load()
        model = raw.next(train)
        block = raw.map(double)
        other = model.next(notify_float)
        ranked = block.agg(rank)
        return gather([total(ranked.result).result, model.result]).after(other)

    @step
    def notify_float(value: float) -> None:
        return None

    graph = flow(joined)()
    kinds = [(type(entry), getattr(entry, "id", None) or entry.inner_ids) for entry in graph.entries]  # type: ignore[union-attr]
    assert kinds == [
        (TaskEntry, "load"),
        (TaskEntry, "train"),
        (TaskEntry, "notify_float"),
        (MapOpenEntry, ("double",)),
        (MapCloseEntry, "rank"),
        (TaskEntry, "total"),
        (TaskEntry, "gather"),
    ]
    calls = [op.id for op in operations_in(lower(graph).ops) if isinstance(op, Call)]
    assert calls == ["load", "train", "notify_float", "double", "rank", "total", "gather"]


# Refusals.


def said(body: Callable[..., Any], line: int) -> str:
    """Return what is said of a flow, with HERE for the line that is so many after its def."""
    with pytest.raises(FlowError) as error:
        flow(body)()
    place = f"{__file__}:{body.__code__.co_firstlineno + line}: "
    return str(error.value).replace(place, "HERE: ")


LEAKED: list[Any] = []


def leak() -> StepNode[..., Any]:
    LEAKED[:] = [load()]
    return LEAKED[0]


def test_what_is_no_result_is_refused_at_the_users_line() -> None:
    def of_a_block() -> Any:
        return gather(load().map(double).result)

    def of_a_step() -> Any:
        return gather(load.result)

    def of_a_chain_itself() -> Any:
        return train(load())

    def of_the_wrong_type() -> Any:
        return load().next(train(scale=load().next(stats).result))

    def in_a_list_of_the_wrong_type() -> Any:
        return gather([load().result])

    def returned() -> Any:
        return load().result

    def returned_in_a_list() -> Any:
        return [load(), load()]

    assert said(of_a_block, 1) == (
        "HERE: load().map(double) has no result: it is an open map block, with a result for each item. Close it with "
        ".agg(step), whose step gets the list of results."
    )
    assert said(of_a_step, 1) == (
        "HERE: load has no result: it is a step that was not started. Call it: load(…).result."
    )
    assert said(of_a_chain_itself, 1) == (
        "HERE: train() was called with load(), which has no value while the flow is drawn. Chain them instead: "
        "load().next(train). To pass its result, write load().result."
    )
    assert said(of_the_wrong_type, 1) == (
        "HERE: train() takes int as 'scale', but the result of load().next(stats) is dict[str, int]."
    )
    assert said(in_a_list_of_the_wrong_type, 1) == (
        "HERE: gather() takes float as 'parts', but the result of load() is list[int]."
    )
    assert said(returned, 0) == (
        "the flow returned() returned <the result of load()>, which is no chain of steps: leave .result out. "
        "Return the chain, such as: return get_birds().map(flap_bird).agg(join_birds)"
    )
    assert said(returned_in_a_list, 0) == (
        "the flow returned_in_a_list() returned a list. To get several results, return a tuple of chains. "
        "Return the chain, such as: return get_birds().map(flap_bird).agg(join_birds)"
    )


@pytest.mark.parametrize(
    "use",
    [bool, len, list, str, int, hash, lambda value: value + 1, lambda value: value == 1, lambda value: value.rows,
     lambda value: value["rows"], lambda value: f"{value}", lambda value: operator.lt(1, value)],
)  # fmt: skip
def test_a_result_refuses_every_use_but_being_passed_on(use: Callable[[Any], object]) -> None:
    def uses() -> Any:
        use(load().next(train).result)
        return load()

    place, _, message = said(uses, 1).partition(": ")
    assert place == "HERE" or place.startswith(f"{__file__}:")
    assert message == (
        "the result of load().next(train) has no value while the flow is drawn: it can only be passed to a step. "
        "Compute with it inside a step that takes it."
    )


def test_what_is_no_chain_has_no_next_and_no_map() -> None:
    def of_a_result() -> Any:
        return load().result.map(double).agg(rank)

    def of_a_parameter(rows: list[int]) -> Any:
        return rows.map(double).agg(rank)  # type: ignore[attr-defined]

    assert said(of_a_result, 1) == (
        "HERE: the result of load() is no chain, so it has no .map. Leave .result out: load().map."
    )
    assert said(of_a_parameter, 1) == (
        "HERE: the flow's parameter 'rows' is no chain, so it has no .map. Begin one: each(rows).map."
    )


def test_chains_of_other_flows_are_refused() -> None:
    flow(leak)()

    def reads() -> Any:
        return gather(LEAKED[0].result)

    def goes_on() -> Any:
        return LEAKED[0].next(train)

    def waits() -> Any:
        return load().after(LEAKED[0])

    where = "load() was made while the flow leak() was drawn, so its result cannot be used here."
    advice = "Make the chain in the flow that uses it, or pass its .result to the flow as an argument."
    for body in (reads, goes_on, waits):
        assert said(body, 1) == f"HERE: {where} {advice}"

    def ends() -> Any:
        return LEAKED[0]

    assert said(ends, 0) == f"{where} {advice}"


def test_outside_of_a_flow_a_chain_has_no_result() -> None:
    chain: Any = load()
    with pytest.raises(AttributeError) as error:
        chain.result  # noqa: B018
    assert str(error.value) == (
        "load().result stands for a result in the body of a flow only. In a test, call the step's function: load.fn(…)."
    )
    assert isinstance(error.value, FlowError)
    assert not hasattr(chain, "result")


def test_what_nothing_can_wait_for_is_refused() -> None:
    def a_block() -> Any:
        return tidy().after(load().map(double))

    def a_step() -> Any:
        return tidy().after(load)

    def a_result() -> Any:
        return tidy().after(load().result)

    def a_number() -> Any:
        return tidy().after(5)

    def with_and_without() -> Any:
        model = load().next(train)
        later = model.after(tidy())
        return gather([model.result, later.result])

    def twice() -> Any:
        first = load().after(tidy())
        return gather([first.after(tidy()).result, first.next(train).result])

    def two_copies() -> Any:
        model = load().next(train)
        return gather([model.after(tidy()).result, model.after(tidy()).result])

    assert said(a_block, 1) == (
        "HERE: tidy() cannot wait for load().map(double), an open map block. Close it with .agg(step) first."
    )
    assert said(a_step, 1) == "HERE: tidy() cannot wait for load, a step that was not started. Call it: load(…)."
    assert said(a_result, 1) == "HERE: tidy().after() takes chains, and no results: leave .result out."
    assert said(a_number, 1) == "HERE: tidy().after() takes chains, but 5 is not one."
    for body, line, name in (
        (with_and_without, 1, "load().next(train)"),
        (twice, 1, "load()"),
        (two_copies, 1, "load().next(train)"),
    ):
        assert said(body, line) == (
            f"HERE: {name} is used with and without its .after(), so it would run twice. Use what .after() returned."
        )


def test_what_is_neither_read_nor_awaited_is_dropped() -> None:
    def drops() -> Any:
        raw = load()
        raw.next(train).result  # noqa: B018
        return raw.next(stats)

    assert said(drops, 2) == (
        "HERE: load().next(train) was started and dropped: it is not part of what drops() returns, so it would never "
        "run. Chaining returns a new chain: use its result."
    )


def test_states_of_forks_may_not_collide() -> None:
    def collides() -> Any:
        return gather([train_().result, train_().result]).after(train_fork())

    @step
    def train_() -> float:
        return 1.0

    @step
    def train_fork() -> float:
        return 1.0

    assert said(collides, 0).endswith(
        "the fork at train_ and train_fork() would both be the state 'TrainFork' on AWS (case does not count). "
        "Rename one of the functions."
    )


# Size.


def test_long_chains_and_wide_fans_are_drawn_at_once() -> None:
    def long() -> Any:
        chain = load().next(train)
        for _ in range(1000):
            chain = chain.next(halve)
        return gather([chain.result])

    def wide() -> Any:
        raw = load()
        return gather([raw.next(train(scale=number)).next(halve).result for number in range(500)])

    def ladder() -> Any:
        chain, aside = load().next(train), []
        for _ in range(100):
            chain = chain.next(halve)
            aside.append(chain.next(halve).result)
        return gather(aside)

    for draw, calls in ((long, 1003), (wide, 1002), (ladder, 203)):
        begin = time.perf_counter()
        plan = lower(flow(draw)())
        assert time.perf_counter() - begin < 10  # on a busy machine; alone it takes half a second
        assert len(list(plan.calls)) == calls
        assert plan_from_json(plan_to_json(plan)) == shape(plan)
        assert str(flow(draw)())
    assert len(interpret(lower(flow(wide)()))) == 500  # type: ignore[arg-type]


@step
def halve(value: float) -> float:
    return value / 2


# Laws.


@dataclass(frozen=True)
class Node:
    """A call of a random flow.

    `reads`: numbers of earlier nodes, the first of them by `.next` if `is_chained`; `is_map`: it maps over the first.
    """

    reads: tuple[int, ...]
    after: tuple[int, ...]
    is_chained: bool
    is_map: bool


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    nodes = []
    for number in range(draw(st.integers(1, 9))):
        earlier = st.lists(st.integers(0, number - 1), max_size=3, unique=True) if number else st.just([])
        reads, after = draw(earlier), draw(earlier)
        nodes.append(Node(tuple(reads), tuple(after), draw(st.booleans()), draw(st.booleans())))
    return nodes


@step
def combine(*values: Any) -> list[Any]:
    return ["combine", *values]


@step
def each(item: Any, *values: Any) -> Any:
    return ["each", item, *values]


def drawn(nodes: list[Node]) -> FlowGraph:
    """Draw a random graph as a flow that returns all its nodes."""

    @flow
    def random_graph() -> Any:
        chains: list[Any] = []
        for number, node in enumerate(nodes):
            results = [chains[other].result for other in node.reads]
            if node.is_chained and results:
                first, *others = node.reads
                values = [number, {"rest": [chains[other].result for other in others]}]
                begin = chains[first]
                chain = begin.map(each(*values)).agg(combine(*values)) if node.is_map else begin.next(combine(*values))
            else:
                chain = combine(*results, number)
            chains.append(chain.after(*(chains[other] for other in node.after)) if node.after else chain)
        return tuple(chains)

    return random_graph()


def evaluated(nodes: list[Node]) -> tuple[object, ...]:
    """Evaluate a random graph by calling the plain functions."""
    values: list[Any] = []
    for number, node in enumerate(nodes):
        results = [values[other] for other in node.reads]
        if node.is_chained and results:
            first, *rest = results
            others = [number, {"rest": rest}]
            items = [each.fn(item, *others) for item in first] if node.is_map else first
            values.append(combine.fn(items, *others))
        else:
            values.append(combine.fn(*results, number))
    return tuple(values)


def called_ids(graph: FlowGraph) -> list[str]:
    """Return the ids of calls that a flow's entries name, in their order."""
    ids: list[str] = []
    for entry in graph.entries:
        match entry:
            case MapOpenEntry():
                ids += entry.inner_ids
            case TaskEntry() | MapCloseEntry():
                ids.append(entry.id)
    return ids


@given(graphs())
def test_a_drawn_graph_gives_what_a_direct_call_gives(nodes: list[Node]) -> None:
    plan = lower(drawn(nodes))
    assert called_ids(drawn(nodes)) == [call.id for call in plan.calls]
    interpreter = Interpreter(plan, {})
    values = interpreter.run(plan.ops, {})  # KeyError for what is read too early, or from another branch
    assert tuple(values[output] for output in plan.outputs) == evaluated(nodes)
    ids = [op.id for op in operations_in(plan.ops)]
    assert len(set(ids)) == len(ids)
    called = dict.fromkeys(interpreter.order)
    assert set(called) <= {call.id for call in plan.calls}
    maps = sum(node.is_map and node.is_chained and bool(node.reads) for node in nodes)
    assert len(list(plan.calls)) == len(nodes) + maps
    assert plan_from_json(plan_to_json(plan)) == shape(plan)
    ids_of_nodes = [output.id for output in plan.outputs]
    awaited = {(ids_of_nodes[other], ids_of_nodes[number]) for number, node in enumerate(nodes) for other in node.after}
    assert awaited <= set(orders(plan.ops))


def units(waits: list[list[int]]) -> list[Block]:
    return [
        (Call(f"c{number}", "c", (Argument("x", [Output(f"c{other}") for other in others]),), None),)
        for number, others in enumerate(waits)
    ]


def orders(block: Block) -> Iterator[tuple[str, str]]:
    """Yield all pairs of calls of which the plan runs one before the other."""
    inside = [[op.id for op in operations_in((op,)) if isinstance(op, Call)] for op in block]
    for before, after in combinations(inside, 2):
        yield from ((one, other) for one in before for other in after)
    for op in block:
        for inner in blocks_of(op):
            yield from orders(inner)


def reachable(waits: list[list[int]]) -> set[tuple[str, str]]:
    ancestors: list[set[int]] = []
    for others in waits:
        ancestors.append(set(others).union(*(ancestors[other] for other in others)))
    return {(f"c{other}", f"c{number}") for number, others in enumerate(ancestors) for other in others}


def has_n(order: set[tuple[str, str]], names: list[str]) -> bool:
    """Tell whether an order has the shape that no nesting of forks has: a before c and d, b before d alone."""

    def free(one: str, other: str) -> bool:
        return one != other and (one, other) not in order and (other, one) not in order

    return any(
        free(a, b) and free(c, d) and free(b, c) and (b, d) in order
        for a, c in order
        for e, d in order
        if a == e and c != d
        for b in names
    )


WAITS = st.integers(1, 8).flatmap(
    lambda count: st.tuples(
        *(st.lists(st.integers(0, n - 1), max_size=3, unique=True) if n else st.just([]) for n in range(count))
    ).map(list)
)


@given(WAITS)
def test_calls_are_ordered_only_as_they_wait_unless_that_is_no_nesting_of_forks(waits: list[list[int]]) -> None:
    block = arrange(units(waits))
    names = [f"c{number}" for number in range(len(waits))]
    assert sorted(op.id for op in operations_in(block) if isinstance(op, Call)) == names
    order, planned = reachable(waits), set(orders(block))
    assert order <= planned
    if not has_n(order, names):
        assert planned == order
    assert all(len(op.branches) > 1 for op in operations_in(block) if isinstance(op, Fork))


def test_what_is_no_nesting_of_forks_is_separated_by_its_earliest_call() -> None:
    # The first gives to the third and to the fourth, the second to the fourth alone: so the second waits, too.
    [first], [second], [third], [fourth] = units([[], [], [0], [0, 1]])
    assert arrange([(first,), (second,), (third,), (fourth,)]) == (
        first,
        Fork("c1.fork", ((second, fourth), (third,))),
    )
