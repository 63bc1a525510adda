"""Names of flows, occurrences, states and runs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.item_path import ItemPath, format_item, item_from_json, item_name, item_to_json, parse_item
from lokki.base.naming import (
    check_run_id,
    check_state_names,
    check_step_name,
    flow_name,
    occurrence_ids,
    state_name,
)
from lokki.errors import FlowError, ParameterError

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
FEW_NAMES = st.sampled_from(["clean", "clean_2", "clean_3", "clean2", "load", "clean_2_2"])


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("birds_flow", "birds-flow"),
        ("BirdsFlow", "birds-flow"),
        ("HTMLParser", "html-parser"),
        ("loadS3Files_v2", "load-s3-files-v2"),
        ("_private_flow_", "private-flow"),
        ("x", "x"),
    ],
)
def test_a_flow_is_named_like_its_function_in_kebab_case(function: str, name: str) -> None:
    assert flow_name(function) == name


@pytest.mark.parametrize("function", ["<lambda>", "größe", "_", "_1", ""])
def test_a_flow_without_a_name_for_aws_is_refused(function: str) -> None:
    with pytest.raises(FlowError) as error:
        flow_name(function)
    assert str(error.value) == (
        f"a flow cannot be named {function!r}: AWS takes ASCII letters, digits and '_', a letter first. "
        "Rename the flow's function."
    )


def test_a_flow_name_may_have_64_characters_and_no_more() -> None:
    assert flow_name("a" * 64) == "a" * 64
    with pytest.raises(FlowError, match="has 65 characters; AWS leaves room for 64"):
        flow_name("a" * 65)


@given(NAMES)
def test_a_flow_name_has_all_letters_and_digits_of_the_function(function: str) -> None:
    if any(character.isalpha() for character in function.lstrip("_0123456789")[:1]):
        try:
            name = flow_name(function)
        except FlowError:
            assert not function.replace("_", "")[:1].isalpha()
        else:
            assert name.replace("-", "") == function.replace("_", "").lower()


@pytest.mark.parametrize("name", ["größe", "naïve", "数", "clean_2"])
def test_any_identifier_names_a_step(name: str) -> None:
    check_step_name(name)


@pytest.mark.parametrize("name", ["_", "__", "<lambda>", "two words", ""])
def test_a_step_without_a_name_for_aws_is_refused(name: str) -> None:
    with pytest.raises(FlowError, match="a step cannot be named"):
        check_step_name(name)


def test_a_step_name_leaves_room_for_a_number_and_map() -> None:
    check_step_name("a" * 73)
    check_step_name("a_" * 73)
    with pytest.raises(FlowError, match="is too long for AWS: a state's name has at most 80 characters, of which 73"):
        check_step_name("a" * 74)


@given(st.lists(FEW_NAMES, max_size=12))
def test_ids_are_injective_and_the_first_occurrence_keeps_its_name(names: list[str]) -> None:
    ids = occurrence_ids(names)
    assert len(set(ids)) == len(names)
    for name in names:
        assert ids[names.index(name)] == name
    assert all(step_id == name or step_id.startswith(f"{name}_") for name, step_id in zip(names, ids, strict=True))


@given(st.lists(FEW_NAMES, max_size=12))
def test_states_are_injective_or_refused(names: list[str]) -> None:
    states = [state_name(step_id) for step_id in occurrence_ids(names)]
    try:
        check_state_names((state, step_id) for state, step_id in zip(states, occurrence_ids(names), strict=True))
    except FlowError:
        assert len({state.lower() for state in states}) < len(states)
    else:
        assert len({state.lower() for state in states}) == len(states)


def test_two_names_of_one_state_are_refused_by_both_names() -> None:
    with pytest.raises(FlowError) as error:
        check_state_names([("GetBirds", "get_birds()"), ("GetBirds", "getBirds()")])
    assert str(error.value) == (
        "get_birds() and getBirds() would both be the state 'GetBirds' on AWS (case does not count). "
        "Rename one of the functions."
    )


@pytest.mark.parametrize("run_id", ["a", "2026-01-01_x", "A" * 80])
def test_a_run_id_names_an_execution(run_id: str) -> None:
    check_run_id(run_id)


@pytest.mark.parametrize("run_id", ["", "a" * 81, "-a", "_a", "a/b", "..", "a b", "ä", "a\n"])
def test_other_run_ids_are_refused(run_id: str) -> None:
    with pytest.raises(ParameterError, match="cannot be a run id"):
        check_run_id(run_id)


PATHS = st.lists(st.integers(0, 10**12), max_size=4).map(tuple)


@given(PATHS.filter(bool))
def test_an_item_is_read_as_it_is_written(path: ItemPath) -> None:
    assert parse_item(format_item(path)) == path
    assert item_name("work", path) == f"work[{format_item(path)}]"


@given(PATHS)
def test_an_item_comes_back_from_json(path: ItemPath) -> None:
    assert item_from_json(msgspec.json.decode(msgspec.json.encode(item_to_json(path)))) == path


@pytest.mark.parametrize("value", [True, -1, 1.0, "3", [], [True], [0, -1], [[0]], {"index": 1}, 2**80])
def test_what_is_no_item_in_json_names_none(value: object) -> None:
    assert item_from_json(value) == ()


@pytest.mark.parametrize("text", ["", "a", "-1", "1.5", "3/", "/3", "3//7", "3\n", "³", "9" * 5000, "3/-7"])
def test_text_that_names_no_item_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"names no item: give its index from 0, such as 3, or one index for each"):
        parse_item(text)
