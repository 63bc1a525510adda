"""Flows that mypy accepts and that resolve: one per promise of the typed chain. Run through both by test_typing.py."""

from __future__ import annotations

import datetime
import enum
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from lokki import MapBlock, StepNode, each, flow, step

if TYPE_CHECKING:
    from decimal import Decimal


class Bird:
    pass


class Goose(Bird):
    pass


@step
def words() -> list[str]:
    return ["goose"]


@step
def numbers() -> list[int]:
    return [1]


@step
def number() -> int:
    return 1


@step
def stream() -> Generator[str]:
    yield "goose"


@step
def iterator() -> Iterator[str]:
    return iter(["goose"])


@step
def geese() -> list[Goose]:
    return [Goose()]


@step
def goose() -> Goose:
    return Goose()


@step
def frame() -> pd.DataFrame:
    return pd.DataFrame({"mass": [1]})


@step
def frames() -> list[pd.DataFrame]:
    return [pd.DataFrame({"mass": [1]})]


@step
def maybe() -> int | None:
    return None


@step
def dates() -> list[datetime.datetime]:
    return []


@step
def price() -> Decimal:
    raise NotImplementedError


@step
def untyped_rows():  # type: ignore[no-untyped-def]
    return [1]


@step
def untyped(value):  # type: ignore[no-untyped-def]
    return value


@step
def shout(word: str) -> str:
    return word.upper()


@step
def length(word: str) -> int:
    return len(word)


@step
def half(value: float) -> float:
    return value / 2


@step
def add(value: int, more: int = 1) -> int:
    return value + more


@step
def save(value: object, path: str | Path, *, mode: Literal["a", "w"] = "w") -> str:
    return f"{path}{mode}"


@step
def since(rows: list[int], day: datetime.date) -> int:
    return len(rows)


@step
def feed(bird: Bird) -> str:
    return "fed"


@step
def describe(value: int | str | None) -> str:
    return str(value)


@step
def total(values: list[int]) -> int:
    return sum(values)


@step
def mean(values: Iterable[float]) -> float:
    return 0.0


@step
def join(values: Sequence[str]) -> str:
    return ", ".join(values)


@step
def mass(rows: pd.DataFrame) -> float:
    return float(rows["mass"].sum())


@step
def concat(rows: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(rows)


@step
def pay(amount: Decimal) -> str:
    return str(amount)


@step
def day_of(moment: datetime.date) -> str:
    return str(moment)


@step
def gather(*values: str) -> str:
    return ", ".join(values)


@step(timeout=5, memory=256)
def timed(word: str) -> str:
    return word


def listed[**P, R](function: Callable[P, R]) -> Callable[P, list[R]]:
    """A decorator that changes what a function returns."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> list[R]:
        return [function(*args, **kwargs)]

    return wrapper


@step
@listed
def one_word() -> str:
    return "goose"


@flow
def next_takes_what_comes() -> StepNode[..., int]:
    return number().next(add)


@flow
def the_result_may_be_left_open() -> StepNode[..., Any]:
    return words().map(length).next(add(1)).agg(total).next(add(more=2))


@flow
def a_chain_is_grown_in_a_loop() -> StepNode[..., int]:
    chain = number().next(add)
    for more in (1, 2):
        chain = chain.next(add(more))
    return chain


@flow
def a_list_is_mapped() -> StepNode[..., str]:
    return words().map(shout).agg(join)


@flow
def a_generator_is_mapped() -> StepNode[..., str]:
    return stream().map(shout).agg(join)


@flow
def an_iterator_is_mapped() -> StepNode[..., str]:
    return iterator().map(shout).agg(join)


@flow
def an_uncalled_step_starts_a_chain() -> StepNode[..., str]:
    return words.map(shout).agg(join)


@flow
def an_inner_chain_goes_on() -> StepNode[..., int]:
    return words().map(shout).next(length).map(add).agg(total)


@flow
def a_chain_goes_on_after_agg() -> StepNode[..., float]:
    return numbers().map(add).agg(total).next(half)


@flow
def a_second_map_follows_agg() -> StepNode[..., str]:
    return words().map(length).agg(untyped).map(describe).agg(join)


@flow
def an_int_is_a_float() -> StepNode[..., float]:
    return number().next(half)


@flow
def a_list_of_ints_is_an_iterable_of_floats() -> StepNode[..., float]:
    return numbers().map(add).agg(mean)


@flow
def a_subclass_is_its_base() -> StepNode[..., str]:
    return goose().next(feed)


@flow
def items_of_a_subclass_are_their_base() -> StepNode[..., str]:
    return geese().map(feed).agg(join)


@flow
def a_datetime_is_a_date() -> StepNode[..., str]:
    return dates().map(day_of).agg(join)


@flow
def an_int_is_an_optional_union() -> StepNode[..., str]:
    return number().next(describe)


@flow
def an_optional_is_a_union_with_none() -> StepNode[..., str]:
    return maybe().next(describe)


@flow
def frames_are_mapped() -> StepNode[..., float]:
    return frames().map(mass).agg(mean)


@flow
def frames_are_gathered() -> StepNode[..., float]:
    return frames().next(concat).next(mass)


@flow
def a_frame_goes_on() -> StepNode[..., float]:
    return frame().next(mass)


@flow
def what_is_not_annotated_fits() -> StepNode[..., Any]:
    return untyped_rows().map(untyped).agg(untyped)


@flow
def names_of_type_checkers_only_fit() -> StepNode[..., str]:
    return price().next(pay)


@flow
def arguments_are_bound_by_position() -> StepNode[..., int]:
    return number().next(add(2))


@flow
def arguments_are_bound_by_keyword() -> StepNode[..., int]:
    return number().next(add(more=2))


@flow
def keyword_only_arguments_are_bound() -> StepNode[..., str]:
    return number().next(save("out", mode="a"))


@flow
def a_date_is_bound() -> StepNode[..., int]:
    return numbers().next(since(datetime.date(2026, 1, 1)))


@flow
def arguments_are_bound_in_a_map() -> StepNode[..., int]:
    return numbers().map(add(more=3)).agg(total)


@flow
def arguments_are_bound_in_agg() -> StepNode[..., int]:
    return numbers().map(add).agg(since(day=datetime.date(2026, 1, 1)))


@flow
def parameters_of_the_flow_are_bound(more: int = 2, *, path: str = "out") -> StepNode[..., str]:
    return number().next(add(more)).next(save(path))


@flow
def a_first_step_takes_all_arguments() -> StepNode[..., int]:
    return add(1, more=2)


@flow
def any_number_of_arguments_takes_one() -> StepNode[..., str]:
    return words().map(gather).agg(join)


@flow
def a_step_with_options_fits() -> StepNode[..., str]:
    return words().map(timed, concurrency=2, batch=10, tolerate=0.5).agg(join)


@flow
def a_decorated_step_has_the_types_of_its_decorator() -> StepNode[..., str]:
    return one_word().next(join)


@flow
def a_block_is_extended_twice() -> StepNode[..., str]:
    block: MapBlock[str] = words().map(shout)
    return block.next(shout).agg(join)


@flow
def a_step_is_used_twice() -> StepNode[..., int]:
    return number().next(add).next(add)


class Grade(enum.Enum):
    GOOD = 1
    BAD = 2


@step
def model(rows: list[int], scale: float = 1.0) -> float:
    return sum(rows) * scale


@step
def score(row: int, model: float) -> float:
    return row * model


@step
def report(total: int, scores: list[float], parts: dict[str, float] | None = None) -> str:
    return str(total)


@step
def is_large(value: int) -> bool:
    return value > 1


@step
def size(value: int) -> Literal["small", "large"]:
    return "small"


@step
def grade(value: int) -> Grade:
    return Grade.GOOD


@step
def tidy() -> None:
    return None


@flow
def scored(rows: list[int], factor: float = 2.0) -> StepNode[..., float]:
    trained = model(rows, factor)
    return trained.next(half)


@flow
def per_row(row: int, factor: float = 2.0) -> StepNode[..., float]:
    return score(row, factor).next(half)


@flow
def a_result_is_an_argument() -> StepNode[..., str]:
    raw = numbers()
    trained = raw.next(model)
    scores = raw.map(score(model=trained.result)).agg(untyped)
    return report(raw.next(total).result, [trained.result], {"model": trained.result}).after(scores)


@flow
def a_result_is_the_first_argument() -> StepNode[..., float]:
    return model(numbers().result, number().result)


@flow
def chains_wait_for_chains() -> StepNode[..., int]:
    return number().after(tidy(), numbers()).next(add).after(words().map(length).agg(total))


@flow
def a_flow_may_return_two_chains(limit: int = 1) -> tuple[StepNode[..., int], StepNode[..., str]]:
    return number().next(add(limit)), words().next(join)


@flow
def a_flow_may_return_four_chains() -> tuple[
    StepNode[..., int], StepNode[..., str], StepNode[..., int], StepNode[..., float]
]:
    return number(), words().next(join), number(), number().next(half)


@flow
def flows_are_steps(factor: float = 1.0) -> StepNode[..., float]:
    return numbers().next(scored).next(half)


@flow
def flows_are_steps_with_arguments(factor: float = 1.0) -> StepNode[..., float]:
    return numbers().next(scored(factor=factor)).next(half)


@flow
def flows_are_steps_of_maps() -> StepNode[..., float]:
    return numbers().map(per_row(factor=number().result)).next(half).agg(mean)


@flow
def flows_close_maps() -> StepNode[..., float]:
    return numbers().map(add).agg(scored(factor=1.5)).next(half)


@flow
def flows_start_chains() -> StepNode[..., float]:
    return scored([1, 2], factor=number().result).next(half)


@flow
def flows_are_returned() -> StepNode[..., float]:
    return scored(numbers().result)


@flow
def switches_choose() -> StepNode[..., Any]:
    chosen = number().switch(is_large, {True: add, False: untyped})
    return chosen.next(untyped)


@flow
def switches_choose_by_literals() -> StepNode[..., int]:
    return number().switch(size, {"small": add, "large": add(more=2)}).next(add)


@flow
def switches_choose_by_members() -> StepNode[..., float]:
    return number().switch(grade, {Grade.GOOD: half}, default=per_row(factor=1.0)).next(half)


@flow
def switches_choose_by_numbers() -> StepNode[..., int]:
    return number().switch(add, {1: add, 2: add(more=2)}, default=add)


@flow
def switches_choose_for_items() -> StepNode[..., float]:
    return numbers().map(add).switch(is_large, {True: per_row, False: half}).next(half).agg(mean)


@flow
def maps_over_a_parameter(values: list[int], names: Sequence[str]) -> StepNode[..., float]:
    return each(values).map(per_row(factor=2.0)).agg(mean).after(each(names).map(shout).agg(join))


@flow
def maps_over_results(value: int) -> StepNode[..., float]:
    return each([number().result, value]).map(half).agg(mean)


@flow
def maps_over_what_a_switch_gives() -> StepNode[..., float]:
    return number().switch(is_large, {True: numbers_up_to, False: numbers_up_to(more=2)}).map(half).agg(mean)


@step
def numbers_up_to(value: int, more: int = 0) -> list[int]:
    return list(range(value + more))


@step
def first_of(values: Iterator[float], least: float = 0.0) -> float:
    return max(next(values), least)


@flow
def results_are_taken_one_by_one() -> StepNode[..., float]:
    block = numbers().map(half)
    return half(block.agg(mean).result).after(block.agg(first_of(least=1.0)))
