"""What type checkers know of flows and steps: each line is checked by mypy and by pyright, see test_typing.py."""

from __future__ import annotations

from collections.abc import Generator
from typing import assert_type

from lokki import Flow, MapBlock, StepNode, flow, main, step


class Bird:
    pass


class Goose(Bird):
    pass


@step
def geese(limit: int, loud: bool = False) -> Generator[Goose]:
    yield Goose()


@step(timeout=5)
def weigh(bird: Bird, unit: str = "kg") -> float:
    return 1.0


@step
def goose() -> Goose:
    return Goose()


@step
def round_off(weight: float) -> int:
    return round(weight)


@step
def total(weights: list[float]) -> float:
    return sum(weights)


@flow
def weights_flow(limit: int, unit: str = "kg") -> StepNode[..., float]:
    return geese(limit).map(weigh(unit)).agg(total)


@flow(timeout=60)
def flow_with_options(limit: int) -> StepNode[[], float]:
    return geese(limit).map(weigh).agg(total)


@flow
def unannotated_flow(limit=3):  # type: ignore[no-untyped-def]
    return geese(limit).map(weigh).agg(total)


@step
def is_heavy(weight: float) -> bool:
    return weight > 1


@step
def half(weight: float) -> float:
    return weight / 2


@flow
def halved(weight: float, times: int = 1) -> StepNode[..., float]:
    return half(weight)


@flow
def two_results(limit: int) -> tuple[StepNode[..., float], StepNode[..., int]]:
    weight = geese(limit).map(weigh).agg(total)
    return weight, weight.next(round_off)


@step
def model(rows: list[int], scale: float = 1.0) -> float:
    return sum(rows) * scale


@step
def shout(word: str) -> str:
    return word.upper()


@flow
def modelled(rows: list[int], scale: float = 1.0) -> StepNode[..., float]:
    return model(rows, scale)


@flow
def lettered(text: str, times: int = 1) -> StepNode[..., str]:
    return shout(text)


def takes_any_bird(step: StepNode[..., Bird]) -> None: ...


def takes_any_block(block: MapBlock[object]) -> None: ...


def takes_any_flow(flow: Flow[...]) -> None: ...


assert_type(goose(), StepNode[[], Goose])
assert_type(geese(1).map(weigh), MapBlock[float])
assert_type(geese(1).map(weigh).next(round_off), MapBlock[int])
assert_type(geese(1).map(weigh).agg(total), StepNode[[], float])
assert_type(geese(1).map(weigh).agg(total).next(round_off), StepNode[[], int])
assert_type(weigh.fn(Goose()), float)
takes_any_bird(goose)
takes_any_bird(goose())
takes_any_block(geese(1).map(weigh))
takes_any_flow(weights_flow)
takes_any_flow(flow_with_options)
takes_any_flow(unannotated_flow)


@flow
def drawn_flow() -> StepNode[..., float]:
    chain = geese(1).map(weigh).agg(total)
    assert_type(chain.result, float)
    assert_type(chain.after(goose()), StepNode[[], float])
    assert_type(chain.next(halved), StepNode[[], float])
    assert_type(chain.next(halved(times=2)).next(round_off), StepNode[[], int])
    assert_type(halved(1.0).next(round_off), StepNode[[], int])
    assert_type(halved(1.0).result, float)
    assert_type(geese(1).map(weigh).next(halved(times=2)), MapBlock[float])
    assert_type(chain.switch(is_heavy, {True: half, False: half}), StepNode[[], float])
    assert_type(geese(1).map(weigh).switch(is_heavy, {True: round_off}, default=round_off), MapBlock[int])
    return chain


def runs() -> None:
    assert_type(two_results.run(3), tuple[float, int])
    assert_type(weights_flow.run(3, unit="g"), float)
    assert_type(weights_flow.run(limit=3, executor="inline"), float)
    assert_type(weights_flow.using(workers=2, root="runs").run(3), float)
    assert_type(weights_flow.resume("monday"), float)
    assert_type(flow_with_options.run(3), float)
    unannotated_flow.run(limit=5)


def command_line() -> None:
    main(weights_flow)
    main(unannotated_flow)
