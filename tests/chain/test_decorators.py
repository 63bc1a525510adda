"""@step and @flow: what they take, and what drawing a flow finds out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lokki import Flow, FlowError, FlowGraph, ParameterError, Retry, StepNode, flow, step
from lokki.base.options import FlowOptions, StepOptions
from lokki.graph import REQUIRED, FlowParameter, Param


@step
def words() -> list[str]:
    return ["goose"]


@step
def shout(word: str, times: int = 1) -> str:
    return word.upper() * times


@step
def join(words: list[str]) -> str:
    return ", ".join(words)


@flow
def birds_flow(times: int = 1) -> StepNode[..., str]:
    """Shout birds.

    Twice if need be.
    """
    return words().map(shout(times)).agg(join)


def test_a_step_has_the_name_and_the_options_it_was_given() -> None:
    @step(memory=512, timeout=5, retry=Retry(attempts=2), env={"A1": "b"}, dependencies=["pandas>=2"])
    def heavy(word: str) -> str:
        return word

    assert (heavy.name, heavy.options, heavy.fn("a")) == (
        "heavy",
        StepOptions(512, 5, Retry(attempts=2), {"A1": "b"}, ("pandas>=2",)),
        "a",
    )


def test_a_flow_is_drawn_when_it_is_called() -> None:
    graph = birds_flow()
    assert isinstance(graph, FlowGraph)
    assert (graph.name, graph.doc, graph.params, graph.options) == (
        "birds-flow",
        "Shout birds.\n\nTwice if need be.",
        (FlowParameter("times", int, 1),),
        FlowOptions(),
    )


def test_a_flow_is_marked_and_named_like_its_function() -> None:
    assert (birds_flow._is_flow, birds_flow.__name__, birds_flow.name, repr(birds_flow)) == (
        True,
        "birds_flow",
        "birds-flow",
        "<flow birds-flow>",
    )
    assert str(inspect.signature(birds_flow)) == "(times: 'int' = 1) -> 'StepNode[..., str]'"


def test_arguments_of_a_flow_become_the_defaults_of_its_parameters() -> None:
    assert [birds_flow(3).params, birds_flow(times=4).params] == [
        (FlowParameter("times", int, 3),),
        (FlowParameter("times", int, 4),),
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: birds_flow(1, 2), "birds_flow(): too many positional arguments."),  # type: ignore[call-arg]
        (lambda: birds_flow(limit=1), "birds_flow(): got an unexpected keyword argument 'limit'."),  # type: ignore[call-arg]
    ],
)
def test_arguments_that_a_flow_does_not_take_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        call()
    assert str(error.value) == message


def test_a_flow_may_have_parameters_of_every_named_kind() -> None:
    seen: list[object] = []

    @flow
    def kinds(first: int, /, second: str, *, third: list[str] = []) -> StepNode[..., Any]:  # noqa: B006
        seen.extend([first, second, third])
        return words()

    assert kinds.params == (
        FlowParameter("first", int),
        FlowParameter("second", str),
        FlowParameter("third", list[str], []),
    )
    assert kinds.params[0].default is REQUIRED
    kinds(1, "a")
    assert list(map(repr, seen)) == ["<parameter first>", "<parameter second>", "<parameter third>"]
    assert all(isinstance(each, Param) for each in seen)


def test_the_body_runs_once_for_each_drawing() -> None:
    count = []

    @flow
    def counted() -> StepNode[..., Any]:
        count.append(1)
        return words()

    counted()
    counted()
    assert len(count) == 2


def test_an_error_in_the_body_passes_through() -> None:
    class UsersError(Exception):
        pass

    @flow
    def broken() -> StepNode[..., Any]:
        words()
        raise UsersError("mine")

    with pytest.raises(UsersError, match=r"^mine$"):
        broken()
    assert birds_flow().name == "birds-flow"  # and leaves nothing behind


def draw(body: Callable[[], Any], line: int = 1) -> str:
    """Return what is said of a flow with this body, with HERE for this line after its def."""
    place = f"{__file__}:{body.__code__.co_firstlineno + line}: "
    with pytest.raises(FlowError) as error:
        flow(body)()
    return str(error.value).replace(place, "HERE: ")


def test_a_flow_that_returns_none_is_refused_with_an_example() -> None:
    def forgetful() -> Any:
        words().map(shout).agg(join)

    assert draw(forgetful) == (
        "the flow forgetful() returned None. "
        "Return the chain, such as: return get_birds().map(flap_bird).agg(join_birds)"
    )


def test_a_flow_that_returns_no_chain_is_refused() -> None:
    def wrong() -> Any:
        return 5

    assert draw(wrong) == (
        "the flow wrong() returned 5, which is no chain of steps. "
        "Return the chain, such as: return get_birds().map(flap_bird).agg(join_birds)"
    )


def test_an_open_map_block_is_refused() -> None:
    def unfinished() -> Any:
        return words().map(shout)

    assert draw(unfinished) == (
        "the flow 'unfinished' ends in an open Map block: words().map(shout). Close it with .agg(step), "
        "whose step gets the list of results."
    )


def dropped(chain: str, name: str = "drops") -> str:
    return (
        f"HERE: {chain} was started and dropped: it is not part of what {name}() returns, so it would never run. "
        "Chaining returns a new chain: use its result."
    )


def test_a_chain_whose_result_is_lost_is_refused() -> None:
    def drops() -> Any:
        chain = words()
        chain.next(join)
        return chain

    assert draw(drops, line=2) == dropped("words().next(join)")


def test_a_step_called_for_nothing_is_refused() -> None:
    def drops() -> Any:
        shout("a")
        return words()

    assert draw(drops) == dropped("shout()")


def test_a_bound_step_that_is_not_chained_is_refused() -> None:
    def drops() -> Any:
        shout(times=3)
        return words().map(shout).agg(join)

    assert draw(drops) == dropped("shout()")


def test_a_block_that_is_lost_is_refused() -> None:
    def drops() -> Any:
        block = words().map(shout)
        block.next(shout)
        return block.agg(join)

    assert draw(drops, line=2) == dropped("words().map(shout).next(shout)")


def test_a_second_branch_is_refused() -> None:
    def drops() -> Any:
        source = words()
        source.map(shout).agg(join)
        return source.next(join)

    assert draw(drops, line=2) == dropped("words().map(shout).agg(join)")


def test_a_chain_that_was_replaced_by_a_longer_one_is_used() -> None:
    def grows() -> Any:
        chain = words().map(shout).agg(join)
        for times in (1, 2):
            chain = chain.next(shout(times))
        return chain

    assert [call.id for call in flow(grows)().entries if hasattr(call, "id")] == ["words", "join", "shout_2", "shout_3"]


def test_chains_made_outside_the_flow_may_be_used() -> None:
    chain = words().map(shout).agg(join)

    @flow
    def uses() -> StepNode[..., str]:
        return chain.next(shout(2))

    assert str(uses().head) == "words().map(shout).agg(join).next(shout())"


@pytest.mark.parametrize("use", [lambda chain: chain == 5, lambda chain: chain != "a", lambda chain: chain in ["a"]])
def test_a_chain_is_compared_with_nothing_but_chains_in_a_flow(use: Callable[[Any], bool]) -> None:
    def compares() -> Any:
        chain = words()
        return chain if use(chain) else chain.next(join)

    place, _, said = draw(compares).partition(": ")
    assert place.startswith(f"{__file__}:")
    assert said == (
        "words() has no value while the flow is drawn, so `==` cannot use it: steps run later. "
        "Put the decision inside a step, or use .map() to run a step per item."
    )


def test_a_flow_does_not_run_while_another_one_is_drawn() -> None:
    def outer() -> Any:
        birds_flow.run()
        return words()

    assert draw(outer) == (
        "HERE: birds_flow.run() runs a flow while another one is drawn. Use it as a step: birds_flow(…), or in .next, "
        ".map and .agg."
    )


async def asynchronous(word: str) -> str:
    return word


def generator_of(word: str) -> str:
    return word


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step(5), "@step takes a function with a name, not 5. Put it above a def."),  # type: ignore[call-overload]
        (lambda: step(lambda word: word), ("a step cannot be named '<lambda>': it must be a Python identifier. "
         "Define the step's function with def and a name.")),
        (
            lambda: step(asynchronous),
            "the step asynchronous() is async; steps are plain functions. Call asyncio.run(…) inside the step.",
        ),
        (
            lambda: step(dependencies="pandas"),
            "@step(dependencies='pandas'): give a list, such as dependencies=['pandas>=2'].",
        ),
        (lambda: step(dependencies=5), "@step(dependencies=5): give a list, such as dependencies=['pandas>=2']."),  # type: ignore[call-overload]
        (lambda: flow(lambda: words()), ("a flow cannot be named '<lambda>': AWS takes ASCII letters, digits and '_', "
         "a letter first. Rename the flow's function.")),
        (lambda: flow(words), "@flow takes a plain function, not <step words>. Put it above a def."),
    ],
)  # fmt: skip
def test_what_cannot_be_a_step_or_a_flow_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowError) as error:
        make()
    assert str(error.value) == message


def test_a_partial_has_no_name_and_is_no_step() -> None:
    with pytest.raises(FlowError, match=r"^@step takes a function with a name, not functools.partial\("):
        step(functools.partial(shout.fn, times=3))


def test_an_async_flow_is_refused() -> None:
    async def later() -> Any:
        return words()

    with pytest.raises(FlowError, match="@flow takes a plain function, not <function "):
        flow(later)  # type: ignore[arg-type]


def test_a_flow_with_parameters_without_names_is_refused() -> None:
    def star(*args: int) -> Any:
        return words()

    with pytest.raises(FlowError) as error:
        flow(star)
    assert str(error.value) == "the flow star() takes *args: 'int'; a flow's parameters need names of their own."


def test_methods_and_classes_and_builtins_can_be_steps() -> None:
    class Nest:
        def __init__(self, birds: list[str]) -> None:
            self.birds = birds

        def count(self, extra: int) -> int:
            return len(self.birds) + extra

    length: StepNode[..., Any] = step(len)
    path: StepNode[..., Any] = step(Path)
    graph = FlowGraph("mixed", words().next(step(Nest)).next(length).next(step(Nest([]).count)).next(path))
    assert [each.name for each in graph.steps] == ["words", "Nest", "len", "count", "Path"]


def test_a_step_decorated_twice_keeps_the_outer_options() -> None:
    again = step(timeout=3)(step(memory=256)(shout.fn))
    assert (again.fn is shout.fn, again.options) == (True, StepOptions(timeout=3))  # type: ignore[comparison-overlap]


def test_flows_take_options() -> None:
    @flow(schedule="rate(1 hour)", timeout=60)
    def hourly(limit: int = 1) -> StepNode[..., Any]:
        return words()

    assert isinstance(hourly, Flow)
    assert hourly().options == FlowOptions("rate(1 hour)", None, 60)
