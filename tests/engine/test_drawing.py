"""Flows drawn as text."""

from __future__ import annotations

from lokki import flow, step
from lokki.engine.drawing import draw
from lokki.graph import FlowGraph
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
