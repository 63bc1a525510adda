"""What annotations say; that `accepts` agrees with mypy is test_typing.py's subject."""

from __future__ import annotations

import collections
import enum
import functools
import types
import typing
from collections.abc import Callable, Generator, ItemsView, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Never, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.signatures import UNKNOWN, accepts, describe, element, hints, is_decorated, member, signature

if TYPE_CHECKING:
    from decimal import Decimal


class Color(enum.Enum):
    RED = "red"


class Nest:
    size: str

    def __init__(self, size: int) -> None:
        self.count = size

    def grow(self, by: int) -> Nest:
        return Nest(self.count + by)


def known_and_not(a: int, b: Decimal, c: list[str], d: a_doc_string) -> Decimal:  # type: ignore[name-defined] # noqa: F821
    raise NotImplementedError


def logged[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


@logged
def logs(word: str) -> int:
    return len(word)


def test_annotations_that_cannot_be_evaluated_are_left_out_one_by_one() -> None:
    assert hints(known_and_not) == {"a": int, "c": list[str]}


def test_names_of_the_enclosing_function_are_left_out() -> None:
    class Local: ...

    def uses(value: Local, count: int) -> Local:
        return value

    assert hints(uses) == {"count": int}


def test_a_method_is_annotated_without_self() -> None:
    assert hints(Nest(1).grow) == {"by": int, "return": Nest}


def test_a_class_is_called_by_its_init() -> None:
    assert hints(Nest) == {"size": int}


def test_a_decorated_function_shows_its_annotations() -> None:
    assert (hints(logs), is_decorated(logs), is_decorated(known_and_not)) == ({"word": str, "return": int}, True, False)


def test_builtins_say_nothing() -> None:
    assert (hints(len), hints(print)) == ({}, {})


def test_a_function_that_hides_its_parameters_takes_anything() -> None:
    signature(max).bind(1, 2, key=3)
    assert str(signature(logs)) == "(word: 'str') -> 'int'"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (UNKNOWN, "Any"),
        (list[str], "list[str]"),
        (dict[str, int | None], "dict[str, int | None]"),
        (typing.Union[int, str], "int | str"),  # noqa: UP007
        (Literal["a", 1], "Literal['a', 1]"),
        (Literal[Color.RED], "Literal[Color.RED]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Callable[..., str], "Callable[..., str]"),
        (typing.List[int], "list[int]"),  # noqa: UP006
        (list["Nest"], "list[Nest]"),
        (Nest, "Nest"),
        ("Nest", "Nest"),
    ],
)
def test_an_annotation_is_written_as_its_author_would(annotation: object, text: str) -> None:
    assert describe(annotation) == text


def test_a_local_class_is_written_by_its_name() -> None:
    class Local: ...

    assert describe(list[Local]) == "list[Local]"


@pytest.mark.parametrize(
    ("annotation", "item"),
    [
        (list, UNKNOWN),
        (list[int], int),
        (Generator[str], str),
        (Iterator[str], str),
        (tuple[int, ...], int),
        (tuple[int, str], int | str),
        (set[int] | list[str], int | str),
        (range, int),
        (ItemsView[str, int], UNKNOWN),
        (enumerate[int], UNKNOWN),
        (TextIO, UNKNOWN),
        (type[Color], UNKNOWN),
        (UNKNOWN, UNKNOWN),
        (object, UNKNOWN),
        (list[int] | str, int),
        (int, None),
        (None, None),
        (str, None),
        (bytes, None),
        (dict[str, int], None),
        (Mapping[str, int], None),
        (collections.Counter[str], None),
        (list[int] | None, None),
        (str | dict[str, int], None),
    ],
)
def test_a_map_runs_over_iterables_but_strings_bytes_and_mappings(annotation: object, item: object) -> None:
    assert element(annotation) == item


def test_members_of_lists_and_values_of_dicts_are_known() -> None:
    assert [member(kind) for kind in (list[int], dict[str, int], tuple[int, ...], Iterable[str], dict, int)] == [
        int,
        int,
        int,
        str,
        UNKNOWN,
        UNKNOWN,
    ]


SCALARS: list[object] = [int, float, str, bool, bytes, None, Nest, Color, Literal["a"], Any, object]


def either(one: Any, other: Any) -> object:
    return typing.Union[one, other]  # noqa: UP007 (a union of what is known only at run time)


def generics(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        inner.map(lambda kind: types.GenericAlias(list, (kind,)))
        | inner.map(lambda kind: types.GenericAlias(Iterable, (kind,)))
        | inner.map(lambda kind: types.GenericAlias(dict, (str, kind)))
        | st.tuples(inner, inner).map(lambda kinds: types.GenericAlias(tuple, kinds))
        | st.tuples(inner, inner).map(lambda kinds: either(*kinds))
    )


ANNOTATIONS: st.SearchStrategy[Any] = st.recursive(st.sampled_from(SCALARS), generics, max_leaves=6)


@given(ANNOTATIONS)
def test_every_annotation_accepts_itself(annotation: object) -> None:
    assert accepts(annotation, annotation)


@given(ANNOTATIONS, ANNOTATIONS)
def test_a_union_accepts_what_its_parts_accept(one: Any, other: Any) -> None:
    assert accepts(either(one, other), one)
    assert accepts(one, either(one, other)) == accepts(one, other)


@given(ANNOTATIONS)
def test_what_is_not_annotated_fits_everything(annotation: object) -> None:
    assert accepts(UNKNOWN, annotation)
    assert accepts(annotation, UNKNOWN)
    assert accepts(object, annotation)
    assert accepts(annotation, Never)


@given(ANNOTATIONS, ANNOTATIONS)
def test_lists_fit_as_their_items_do(one: Any, other: Any) -> None:
    assert accepts(types.GenericAlias(list, (one,)), types.GenericAlias(list, (other,))) == accepts(one, other)


def test_annotations_are_evaluated_once_and_anew_while_a_name_is_missing() -> None:
    names: dict[str, object] = {}
    exec("def waits(word: 'Later', count: 'int' = 0): ...", names)
    waits: Any = names["waits"]
    assert hints(waits) == {"count": int}
    names["Later"] = str
    assert hints(waits) == {"word": str, "count": int}
    names["Later"] = bytes
    hints(waits).clear()
    assert hints(waits) == {"word": str, "count": int}
