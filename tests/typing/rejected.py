"""Flows that mypy rejects, as marked, and that fail when resolved. Run through both by test_typing.py.

Those whose names end in ``_at_run_time`` are beyond what types can say: mypy accepts them, resolving them fails.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from inferred import lettered, modelled, weights_flow

from lokki import StepNode, each, flow, step


class Bird:
    pass


class Goose(Bird):
    pass


@step
def words() -> list[str]:
    return ["goose"]


@step
def number() -> int:
    return 1


@step
def word() -> str:
    return "goose"


@step
def table() -> dict[str, int]:
    return {}


@step
def bird() -> Bird:
    return Bird()


@step
def maybe() -> int | None:
    return None


@step
def maybe_words() -> list[str] | None:
    return None


@step
def number_or_word() -> int | str:
    return 1


@step
def nothing() -> None:
    return None


@step
def shout(word: str) -> str:
    return word.upper()


@step
def add(value: int, more: int = 1) -> int:
    return value + more


@step
def pet(goose: Goose) -> str:
    return "petted"


@step
def save(value: object, path: str) -> str:
    return path


@step
def since(value: object, day: datetime.date) -> int:
    return 1


@step
def total(values: list[int]) -> int:
    return sum(values)


@step
def join(values: Sequence[str]) -> str:
    return ", ".join(values)


@step
def lonely() -> int:
    return 1


@step
def by_name(*, value: int) -> int:
    return value


def plain(value: int) -> int:
    return value


def runs_with_parameters_of_the_wrong_type() -> None:
    weights_flow.run("3")  # E: call-overload
    weights_flow.run()  # E: call-overload
    weights_flow.run(3, executor="fibers")  # E: call-overload
    weights_flow.using(root="runs").run(3, unti="g")  # E: call-arg
    weights_flow.using(workers="two")  # E: arg-type
    word: str = weights_flow.run(3)  # E: assignment
    word.upper()


@flow
def next_of_the_wrong_type() -> StepNode[..., Any]:
    return number().next(shout)  # E: arg-type


@flow
def none_goes_nowhere() -> StepNode[..., Any]:
    return nothing().next(add)  # E: arg-type


@flow
def a_base_is_not_its_subclass() -> StepNode[..., Any]:
    return bird().next(pet)  # E: arg-type


@flow
def an_optional_may_be_none() -> StepNode[..., Any]:
    return maybe().next(add)  # E: arg-type


@flow
def a_union_may_be_the_other() -> StepNode[..., Any]:
    return number_or_word().next(add)  # E: arg-type


@flow
def a_map_over_an_int() -> StepNode[..., Any]:
    return number().map(add).agg(total)  # E: misc


@flow
def a_map_over_none() -> StepNode[..., Any]:
    return maybe_words().map(shout).agg(join)  # E: misc


@flow
def a_map_of_the_wrong_type() -> StepNode[..., Any]:
    return words().map(add).agg(total)  # E: arg-type


@flow
def an_inner_step_of_the_wrong_type() -> StepNode[..., Any]:
    return words().map(shout).next(add).agg(total)  # E: arg-type


@flow
def an_inner_map_of_the_wrong_type() -> StepNode[..., Any]:
    return words().map(shout).map(add).agg(total)  # E: arg-type


@flow
def agg_of_the_wrong_type() -> StepNode[..., Any]:
    return words().map(shout).agg(total)  # E: arg-type


@flow
def agg_of_a_step_for_one_item() -> StepNode[..., Any]:
    return words().map(shout).agg(shout)  # E: arg-type


@flow
def agg_on_a_step() -> StepNode[..., Any]:
    return words().agg(join)  # E: arg-type


@flow
def after_agg_the_wrong_type() -> StepNode[..., Any]:
    return words().map(shout).agg(join).next(add)  # E: arg-type


@flow
def a_step_without_parameters_downstream() -> StepNode[..., Any]:
    return number().next(lonely)  # E: arg-type


@flow
def a_step_with_keywords_only_downstream() -> StepNode[..., Any]:
    return number().next(by_name)  # E: arg-type


@flow
def no_step_downstream() -> StepNode[..., Any]:
    return number().next(plain)  # E: arg-type


@flow
def an_unknown_keyword() -> StepNode[..., Any]:
    return number().next(add(less=1))  # E: call-overload


@flow
def too_many_arguments() -> StepNode[..., Any]:
    return number().next(add(1, 2, 3))  # E: call-overload


@flow
def a_bound_argument_of_the_wrong_type() -> StepNode[..., Any]:
    return number().next(save(path=5))  # E: call-overload


@flow
def a_date_for_a_string() -> StepNode[..., Any]:
    return number().next(save(path=datetime.date(2026, 1, 1)))  # E: call-overload


@flow
def a_number_for_a_date() -> StepNode[..., Any]:
    return number().next(since(20260101))  # E: call-overload


@flow
def a_parameter_of_the_wrong_type(path: int = 5) -> StepNode[..., Any]:
    return number().next(save(path=path))  # E: call-overload


@flow
def a_chain_as_an_argument() -> StepNode[..., Any]:
    return number().next(add(number()))  # E: call-overload


@flow
def a_chain_in_a_chain() -> StepNode[..., Any]:
    return number().next(number().next(add))  # E: arg-type


@flow
def arguments_after_chaining() -> StepNode[..., Any]:
    return number().next(add)(2)  # E: call-overload, no-any-return


@flow
def a_map_block_in_a_map() -> StepNode[..., Any]:
    return words().map(words().map(shout)).agg(join)  # E: arg-type


@step
def model(rows: list[int], scale: float = 1.0) -> float:
    return sum(rows) * scale


@step
def is_large(value: int) -> bool:
    return value > 1


@step
def size(value: int) -> Literal["small", "large"]:
    return "small"


@step
def numbers() -> list[int]:
    return [1]


@flow
def a_result_of_the_wrong_type() -> StepNode[..., Any]:
    return numbers().next(model(scale=words().result))  # E: call-overload


@flow
def a_result_of_the_wrong_type_in_a_list() -> StepNode[..., Any]:
    return total([word().result])  # E: list-item


@flow
def a_result_of_a_block() -> StepNode[..., Any]:
    return join(words().map(shout).result)  # E: attr-defined


@flow
def a_result_itself() -> StepNode[..., Any]:
    return number().result  # E: return-value


@flow
def waiting_for_a_block() -> StepNode[..., Any]:
    return number().after(words().map(shout))  # E: arg-type


@flow
def a_flow_of_the_wrong_type() -> StepNode[..., Any]:
    return words().next(modelled)  # E: arg-type


@flow
def a_flow_after_a_flow_of_the_wrong_type() -> StepNode[..., Any]:
    return numbers().next(modelled(scale=2.0)).next(lettered)  # E: arg-type


@flow
def a_flow_with_an_argument_of_the_wrong_type() -> StepNode[..., Any]:
    return numbers().next(modelled(scale="2"))  # E: call-overload


@flow
def a_flow_with_an_unknown_argument() -> StepNode[..., Any]:
    return numbers().next(modelled(scales=2.0))  # E: call-overload


@flow
def a_flow_for_items_of_the_wrong_type() -> StepNode[..., Any]:
    return numbers().map(lettered(times=2)).agg(join).next(add)  # E: arg-type


@flow
def a_flow_that_closes_the_wrong_map() -> StepNode[..., Any]:
    return words().map(shout).agg(modelled)  # E: arg-type


@flow
def a_switch_on_the_wrong_type() -> StepNode[..., Any]:
    return word().switch(is_large, {True: shout, False: shout})  # E: arg-type


@flow
def a_switch_with_a_case_of_the_wrong_type() -> StepNode[..., Any]:
    return number().switch(is_large, {True: add, False: shout})  # E: dict-item


@flow
def a_switch_with_a_case_that_cannot_happen_at_run_time() -> StepNode[..., Any]:
    return number().switch(size, {"small": add, "large": add, "medium": add})


@flow
def a_switch_with_a_wrong_default() -> StepNode[..., Any]:
    return number().switch(is_large, {True: add}, default=shout)  # E: arg-type


@flow
def a_switch_that_gives_the_wrong_type() -> StepNode[..., Any]:
    return number().switch(is_large, {True: add, False: add}).next(shout)  # E: arg-type


@flow
def a_switch_without_a_case_at_run_time() -> StepNode[..., Any]:
    return number().switch(is_large, {True: add})


@flow
def a_flow_without_its_argument_at_run_time() -> StepNode[..., Any]:
    return modelled(scale=2.0)


@flow
def a_map_over_a_parameter_of_another_type(values: list[int]) -> StepNode[..., Any]:
    return each(values).map(shout).agg(join)  # E: arg-type


@flow
def a_map_over_a_number(value: int) -> StepNode[..., Any]:
    return each(value).map(add).agg(total)  # E: arg-type


@flow
def a_parameter_that_is_mapped_over_itself(values: list[str]) -> StepNode[..., Any]:
    return values.map(shout).agg(join)  # E: attr-defined, no-any-return


@step
def first_word(values: Iterator[str]) -> str:
    return next(values)


@flow
def an_iterator_of_another_type() -> StepNode[..., Any]:
    return numbers().map(add).agg(first_word)  # E: arg-type


@flow
def an_open_map_block() -> StepNode[..., Any]:
    return words().map(shout)  # E: return-value


@flow
def a_flow_that_returns_none() -> StepNode[..., Any]:  # E: return
    words().map(shout).agg(join)


@flow
def a_map_over_a_string_at_run_time() -> StepNode[..., Any]:
    return word().map(shout).agg(join)


@flow
def a_map_over_a_mapping_at_run_time() -> StepNode[..., Any]:
    return table().map(shout).agg(join)


@flow
def a_first_step_without_its_argument_at_run_time() -> StepNode[..., Any]:
    return save(path="out")


@flow
def all_arguments_and_a_value_at_run_time() -> StepNode[..., Any]:
    return number().next(add(value=1, more=2))
