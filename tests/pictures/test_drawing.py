"""Flows drawn as text."""

from __future__ import annotations

from lokki import flow, step
from lokki.graph import FlowGraph
from lokki.pictures.drawing import draw
from lokki.plan import lower


@step
def get_birds(limit: int = 3) -> list[str]:
    return ["goose"] * limit


@step
def flap(bird: str, times: int = 1) -> str:
    return bird * times


@step
def join(birds: list[str]) -> str:
    return ", ".join(birds)


@step
def shout(text: str) -> str:
    return text.upper()


def drawn(graph: FlowGraph) -> list[str]:
    return draw(lower(graph)).split("\n")


def test_one_step_is_one_line() -> None:
    @flow
    def one_flow():  # type: ignore[no-untyped-def]
        return get_birds()

    assert drawn(one_flow()) == ["get_birds"]


def test_a_map_block_is_set_in_with_its_options_and_arguments() -> None:
    @flow
    def whole_flow(limit: int = 5):  # type: ignore[no-untyped-def]
        birds = get_birds(limit).map(flap(times=2), concurrency=10, batch=5, tolerate=0.05).next(shout)
        return birds.agg(join).next(shout)

    assert drawn(whole_flow()) == [
        "get_birds(limit=$limit)",
        "└─▶ each item, at most 10 at a time, 5 to a batch, 5 % may fail",
        "    flap(times=2)",
        "    shout",
        "┌─◀ all results",
        "join",
        "shout",
    ]


def test_a_count_of_tolerated_failures_is_no_share() -> None:
    @flow
    def tolerant_flow():  # type: ignore[no-untyped-def]
        return get_birds().map(flap, tolerate=2).agg(join)

    assert drawn(tolerant_flow())[1] == "└─▶ each item, 2 may fail"


@step
def count(birds: list[str]) -> int:
    return len(birds)


@step
def is_many(number: int) -> bool:
    return number > 3


@step
def praise(number: int) -> str:
    return f"{number}!"


@step
def regret(number: int, more: str = "") -> str:
    return f"{number}{more}"


@step
def tell(song: str, numbers: list[object]) -> str:
    return song


def test_branches_switches_and_values_are_drawn() -> None:
    @flow
    def counted(birds: list[str]):  # type: ignore[no-untyped-def]
        return count(birds).switch(is_many, {True: praise}, default=regret(more="."))

    @flow
    def graph_flow(limit: int = 5):  # type: ignore[no-untyped-def]
        birds = get_birds(limit)
        number = birds.next(counted)
        song = birds.map(flap(times=2)).agg(join)
        other = birds.map(shout).agg(join)
        return tell(song.result, [number.result]).after(other), number

    assert drawn(graph_flow()) == [
        "get_birds(limit=$limit)",
        "╔═ side by side",
        "║ count",
        "║ is_many",
        "║ ├ true ─▶ praise",
        '║ └ else ─▶ regret(more=".")',
        "╟─",
        "║ └─▶ each item",
        "║     flap(times=2)",
        "║ ┌─◀ all results",
        "║ join",
        "╟─",
        "║ └─▶ each item",
        "║     shout",
        "║ ┌─◀ all results",
        "║ join",
        "╚═",
        "tell(numbers=[counted_is_many.switch.result])  after join_2",
        "returns (tell, counted_is_many.switch)",
    ]
