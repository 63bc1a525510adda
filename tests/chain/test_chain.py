"""Steps and chains are values: making one changes nothing, and using one as if it had a result is refused."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import doctest
import inspect
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki import FlowError, FlowGraph, MapBlock, Retry, StepNode, flow, step
from lokki.chain import Arguments


@step
def birds() -> list[str]:
    return ["goose"]


@step
def flap(bird: str, times: int = 1) -> str:
    return f"{'flappy ' * times}{bird}"


@step
def join(birds: list[str]) -> str:
    return ", ".join(birds)


def state(chain: Any) -> object:
    """Everything that a chain is, as plain values, to see whether it changed."""
    if isinstance(chain, MapBlock):
        return ("map", state(chain.source), [state(each) for each in chain.inner_steps], chain.joined, chain.options)
    if chain is None:
        return None
    return (chain.fn, chain.name, chain.options, chain.arguments, state(chain.upstream), chain.where)


def lines(chain: StepNode[..., Any]) -> int:
    return int(chain.where.rpartition(":")[2])


def test_calling_and_chaining_change_no_step() -> None:
    before = [state(each) for each in (birds, flap, join)]
    flapping = birds().map(flap(2), concurrency=3).next(flap)
    kept = state(flapping)
    first, second = flapping.agg(join), flapping.map(flap).agg(join).next(flap(times=3))
    assert [state(each) for each in (birds, flap, join)] == before
    assert state(flapping) == kept
    assert (str(first), str(second)) == (
        "birds().map(flap()).next(flap).agg(join)",
        "birds().map(flap()).next(flap).map(flap).agg(join).next(flap())",
    )


@given(st.lists(st.sampled_from(["next", "map", "agg", "fork"]), max_size=12))
def test_a_step_used_many_times_stays_what_it_was(verbs: list[str]) -> None:
    @step
    def anything(value, extra=0):  # type: ignore[no-untyped-def]
        return value

    before = state(anything)
    chains: list[tuple[Any, object]] = [(anything(1), None)]
    chains[0] = (chains[0][0], state(chains[0][0]))
    for verb in verbs:
        chain = chains[0 if verb == "fork" else -1][0]
        if verb == "agg" and isinstance(chain, StepNode):
            continue
        made = getattr(chain, "next" if verb == "fork" else verb)(anything(extra=len(chains)))
        chains.append((made, state(made)))
    assert state(anything) == before
    assert [state(chain) for chain, _ in chains] == [kept for _, kept in chains]


def test_arguments_are_kept_as_they_were_at_the_call() -> None:
    tags, options = ["a"], {"names": ["b"]}
    bound = step(lambda_like)(tags, options)
    tags.append("x")
    options["names"].append("y")
    assert bound.arguments is not None
    assert (bound.arguments.args, bound.arguments.kwargs) == ((["a"], {"names": ["b"]}), {})


def lambda_like(tags: list[str], options: dict[str, list[str]]) -> None:
    return None


def test_an_argument_that_contains_itself_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(FlowError, match=r"lambda_like\(\) was called with a list that contains itself"):
        step(lambda_like)(cycle, {})


def test_the_plain_function_is_at_hand() -> None:
    assert flap.fn("goose", 2) == "flappy flappy goose"
    assert (flap.__name__, inspect.unwrap(flap) is flap.fn) == ("flap", True)
    assert str(inspect.signature(flap)) == "(bird: 'str', times: 'int' = 1) -> 'str'"


def test_a_step_says_what_it_is() -> None:
    assert (repr(flap), repr(birds().map(flap(2)).next(flap))) == (
        "<step flap>",
        "<map block birds().map(flap()).next(flap)>",
    )


def test_the_place_of_a_step_is_the_line_of_the_user_that_joined_it() -> None:
    begin = inspect.currentframe().f_lineno  # type: ignore[union-attr]
    called = birds()
    block = (
        called
        .map(
            flap(
                2,
            ),
            concurrency=1,
        )
        .next(flap)
    )  # fmt: skip
    closed = block.agg(
        join,
    )
    last = closed \
        .next(flap)  # fmt: skip
    places = [lines(each) - begin for each in (called, *block.inner_steps, closed, last)]
    assert places == [1, 4, 10, 12, 16]
    assert {each.where.rpartition(":")[0] for each in (called, *block.inner_steps, closed, last)} == {__file__}


def enter(chain: Any) -> None:
    with chain:
        pass


async def enter_async(chain: Any) -> None:
    async with chain:
        pass


async def wait_for(chain: Any) -> None:
    await chain


async def iterate(chain: Any) -> None:
    async for _ in chain:
        pass


USES: list[tuple[str, Callable[[Any], object]]] = [
    ("if", bool),
    ("if", lambda chain: 1 if not chain else 2),
    ("for", lambda chain: [*chain]),
    ("for", lambda chain: list(map(str, chain))),
    ("len()", len),
    ("[…]", lambda chain: chain[0]),
    ("[…]", lambda chain: operator.setitem(chain, 0, 1)),
    ("in", lambda chain: 1 in chain),
    ("==", lambda chain: chain == 5),
    ("==", lambda chain: chain != 5),
    ("<", lambda chain: chain < 5),
    (">", lambda chain: chain > 0),
    (">", lambda chain: operator.lt(0, chain)),
    ("<=", lambda chain: chain <= 0),
    (">=", lambda chain: chain >= 0),
    ("+", lambda chain: chain + 1),
    ("+", lambda chain: 1 + chain),
    ("+", lambda chain: sum([chain])),
    ("+", lambda chain: operator.iadd(chain, 1)),
    ("-", lambda chain: -chain),
    ("*", lambda chain: 2 * chain),
    ("/", lambda chain: chain / 2),
    ("//", lambda chain: chain // 2),
    ("%", lambda chain: chain % 2),
    ("**", lambda chain: chain**2),
    ("@", lambda chain: chain @ 2),
    ("&", lambda chain: chain & 1),
    ("|", lambda chain: 1 | chain),
    ("^", lambda chain: chain ^ 1),
    ("~", lambda chain: ~chain),
    ("<<", lambda chain: chain << 1),
    (">>", lambda chain: chain >> 1),
    ("int()", int),
    ("int()", lambda chain: [1, 2][chain]),
    ("int()", range),
    ("float()", float),
    ("complex()", complex),
    ("bytes()", bytes),
    ("abs()", abs),
    ("round()", round),
    ("round()", math.floor),
    ("divmod()", lambda chain: divmod(chain, 2)),
    ("reversed()", reversed),
    ("next()", next),
    ("open()", open),
    ("format()", lambda chain: f"{chain:>10}"),
    ("with", enter),
    ("async with", lambda chain: asyncio.run(enter_async(chain))),
    ("await", lambda chain: asyncio.run(wait_for(chain))),
    ("async for", lambda chain: asyncio.run(iterate(chain))),
]


@pytest.mark.parametrize(("shown", "use"), USES)
def test_a_chain_has_no_value_while_it_is_drawn(shown: str, use: Callable[[Any], object]) -> None:
    @flow
    def using() -> StepNode[..., Any]:
        use(birds().next(join))
        return birds()

    @flow
    def using_block() -> StepNode[..., Any]:
        use(birds().map(flap))
        return birds()

    for draw, text in ((using, "birds().next(join)"), (using_block, "birds().map(flap)")):
        with pytest.raises(FlowError) as error:
            draw()
        place, message = str(error.value).split(": ", 1)
        assert place.startswith(f"{__file__}:")
        assert message == (
            f"{text} has no value while the flow is drawn, so `{shown}` cannot use it: steps run later. "
            "Put the decision inside a step, or use .map() to run a step per item."
        )


@pytest.mark.parametrize(("shown", "use"), USES)
def test_outside_of_a_flow_a_step_says_how_it_is_tested(shown: str, use: Callable[[Any], object]) -> None:
    with pytest.raises(FlowError) as error:
        use(flap("goose"))
    assert str(error.value) == (
        f"flap() has no value, so `{shown}` cannot use it: calling a step runs nothing. In a test, call its function: "
        "flap.fn(…). To run a whole flow, call its .run(…)."
    )


def test_the_text_of_a_chain_is_no_value_of_a_flow() -> None:
    @flow
    def naming() -> StepNode[..., str]:
        return flap(f"{birds()}.csv")

    @flow
    def naming_by_str() -> StepNode[..., str]:
        return flap(str(birds()))

    with pytest.raises(FlowError, match=r"birds\(\) has no value while the flow is drawn, so `format\(\)` cannot"):
        naming()
    with pytest.raises(FlowError, match=r"birds\(\) has no value while the flow is drawn, so `str\(\)` cannot"):
        naming_by_str()
    assert f"{birds()} {birds().map(flap)!s}" == "birds() birds().map(flap)"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("append", "Use the value inside the next step, which gets it."),
        ("results", "Did you mean .result?"),
        ("mapp", "Did you mean .map?"),
        ("nxt", "Did you mean .next?"),
    ],
)
def test_a_chain_has_no_attributes_of_its_value(name: str, hint: str) -> None:
    chain: Any = birds()
    message = f"birds() has no attribute {name!r}: it is a chain of steps, whose value is there when they run. {hint}"

    @flow
    def using() -> StepNode[..., Any]:
        getattr(birds(), name)
        return birds()

    with pytest.raises(FlowError) as error:
        using()
    assert str(error.value).split(": ", 1)[1] == message
    with pytest.raises(AttributeError) as plain:
        getattr(chain, name)
    assert str(plain.value) == message
    assert (hasattr(chain, name), getattr(chain, name, None)) == (False, None)


def test_calling_a_flow_only_draws_it() -> None:
    @flow
    def drawn() -> StepNode[..., Any]:
        return birds()

    with pytest.raises(FlowError, match=r"drawn\(…\) only draws the flow.*drawn\.run\(…\) returns the result"):
        assert drawn() == ["goose"]


def test_tools_that_look_at_steps_see_ordinary_objects() -> None:
    chain = flap("goose")
    copied, deep = copy.copy(chain), copy.deepcopy(chain)
    assert (repr(copied), copied.arguments, repr(deep), deep.arguments) == (
        "<step flap()>",
        chain.arguments,
        "<step flap()>",
        chain.arguments,
    )
    assert [isinstance(chain, kind) for kind in (str, int, dict, contextlib.AbstractContextManager)] == [False] * 4
    assert (callable(flap), hash(chain) == hash(chain), inspect.isfunction(inspect.unwrap(flap))) == (True, True, True)
    probes = ("_repr_html_", "_ipython_display_", "__array__", "__rich_repr__", "__test__", "pytestmark")
    assert [hasattr(chain, name) for name in probes] == [False] * 6
    assert (chain in [chain], flap in [birds, flap], [birds, flap].index(flap)) == (True, True, 1)
    examples = doctest.DocTestFinder().find(sys.modules[__name__])
    assert "flap" in {example.name.rpartition(".")[2] for example in doctest.DocTestFinder().find(flap, "flap")}
    assert len(examples) > 1


def test_a_chain_is_equal_to_itself_only() -> None:
    chain = birds()
    assert chain == chain
    assert chain != birds()
    assert len({chain, birds(), chain}) == 2


def plain(value: str) -> str:
    return value


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: birds().next(birds().next(join)),  # type: ignore[arg-type]
            (
                "birds().next() takes one step, but birds().next(join) is a chain. "
                "Add its steps one after another with .next()."
            ),
        ),
        (
            lambda: birds().map(flap).map(birds().map(flap)),  # type: ignore[arg-type]
            (
                "Nested .map() is not supported: birds().map(flap).map() takes one step, but birds().map(flap) is a "
                "map block. Close the outer block with .agg() before the next .map(). For a map below a map, map over "
                "a @flow that has the inner one."
            ),
        ),
        (
            lambda: birds().map(flap).map(flap, concurrency=2),
            (
                "Nested .map() is not supported: birds().map(flap) is an open map block, and .map(flap, …) only adds "
                "to it. Give the options to the .map() that opens the block, or close it with .agg() first."
            ),
        ),
        (
            lambda: birds().next(plain),  # type: ignore[arg-type]
            "birds().next() takes a step, but plain is not one. Put @step above def plain.",
        ),
        (
            lambda: birds().map(lambda bird: bird),  # type: ignore[arg-type]
            "birds().map() takes a step, but <lambda> is not one.",
        ),
        (
            lambda: birds().map(flap).agg(None),  # type: ignore[arg-type]
            "birds().map(flap).agg() takes a step, but None is not one.",
        ),
        (
            lambda: birds().next(join)(),
            "birds().next(join) is a chain already; bind arguments where the step joins it: .next(join(…)).",
        ),
        (
            lambda: join(birds()),  # type: ignore[call-overload]
            (
                "join() was called with birds(), which has no value while the flow is drawn. "
                "Chain them instead: birds().next(join)."
            ),
        ),
        (
            lambda: join([birds(), {"a": birds().map(flap)}]),  # type: ignore[list-item]
            (
                "join() was called with birds(), which has no value while the flow is drawn. "
                "Chain them instead: birds().next(join)."
            ),
        ),
        (
            lambda: join(birds().map(flap)),  # type: ignore[call-overload]
            (
                "join() was called with birds().map(flap), which has no value while the flow is drawn. "
                "Chain them instead: birds().map(flap).agg(join)."
            ),
        ),
    ],
)  # fmt: skip
def test_a_chain_that_cannot_be_is_refused_at_once(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowError) as error:
        draw()
    assert str(error.value) == message


def test_agg_on_a_step_is_a_type_error() -> None:
    with pytest.raises(TypeError) as error:
        birds().agg(join)  # type: ignore[arg-type]
    assert str(error.value) == (
        ".agg() must be called on the result of .map(); birds() is a step. "
        "Use birds().next(join) to run join on its result."
    )


def test_one_step_serves_flows_with_different_arguments() -> None:
    twice = flap("goose").next(flap(2))
    mapped = birds().map(flap).agg(join)
    assert [step.arguments for step in (twice, *FlowGraph("twice", twice).steps)] == [
        Arguments((2,)),
        Arguments(("goose",)),
    ]
    assert [step.arguments for step in FlowGraph("mapped", mapped).steps] == [Arguments(), None, None]


def test_another_set_of_options_makes_another_step() -> None:
    patient = step(retry=Retry(attempts=2))(flap.fn)
    assert (patient.fn == flap.fn, patient.options.retry, flap.options.retry) == (True, Retry(attempts=2), None)
