"""Names on AWS: injective, and never longer than AWS takes."""

from __future__ import annotations

import string

import pytest
from build_flows import BUILDS
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.naming import state_name
from lokki.builder.names import (
    deployed_name,
    function_id,
    function_placeholder,
    function_suffixes,
    log_group_id,
    map_label,
    shorten,
)
from lokki.config import LokkiConfig
from lokki.errors import ConfigError, FlowError

flow_names = st.text(string.ascii_lowercase + "-", min_size=1, max_size=55).map(lambda name: f"f{name}"[:55])
step_names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=70).filter(str.isidentifier)


def test_names_that_fit_are_left_as_they_are() -> None:
    assert function_suffixes("birds-flow", ["get_birds", "flap_bird"]) == {
        "get_birds": "get_birds",
        "flap_bird": "flap_bird",
    }


def test_a_long_name_is_its_beginning_and_a_hash_of_all_of_it() -> None:
    assert shorten("a" * 20, 20) == "a" * 20
    assert shorten("a" * 21, 20) == "aaaaaaaaaaa_7df8e299"
    assert shorten("a" * 20 + "b", 20) == "aaaaaaaaaaa_edb326b2"
    assert shorten("a" * 20, 8) == "42492da0"


@given(flow_names, st.lists(step_names, unique=True, max_size=8))
def test_names_of_functions_fit_and_differ(flow: str, steps: list[str]) -> None:
    names = [f"{flow}-{suffix}" for suffix in function_suffixes(flow, steps).values()]
    assert all(len(name) <= 64 and set(name) <= set(string.ascii_letters + string.digits + "-_") for name in names)
    assert len(set(names)) == len(steps)


@given(flow_names, flow_names, step_names, step_names)
def test_functions_of_two_flows_never_share_a_name(flow: str, other: str, step: str, other_step: str) -> None:
    names = [f"{flow}-{function_suffixes(flow, [step])[step]}"]
    names.append(f"{other}-{function_suffixes(other, [other_step])[other_step]}")
    assert (names[0] == names[1]) == ((flow, step) == (other, other_step))


def test_steps_whose_shortened_names_collide_are_refused() -> None:
    long = "step_" * 14
    twin = shorten(long, 53)
    with pytest.raises(FlowError, match=f"would both be named birds-flow-{twin}"):
        function_suffixes("birds-flow", [long, twin])


@given(st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=90))
def test_labels_of_maps_fit(step_id: str) -> None:
    label = map_label(step_id)
    assert len(label) <= 40
    assert label == step_id or len(step_id) > 40


@given(st.lists(step_names, unique_by=state_name, min_size=1, max_size=8))
def test_logical_ids_differ_whatever_the_steps_are_called(steps: list[str]) -> None:
    steps = [*steps, *(name for name in ("state_machine", "schedule", "lambda_execution_role") if name not in steps)]
    steps = list({state_name(name): name for name in steps}.values())
    fixed = ["LambdaExecutionRole", "StepFunctionsExecutionRole", "ScheduleRole", "Schedule", "StateMachine"]
    ids = [*fixed, "StateMachineLogs", *map(function_id, steps), *map(log_group_id, steps)]
    assert len(set(ids)) == len(ids)
    assert all(each.isalnum() for each in ids)
    placeholders = {function_placeholder(name) for name in steps} | {"ArtifactBucket", "FlowName"}
    assert len(placeholders) == len(steps) + 2


def test_the_settings_can_give_a_flow_another_name() -> None:
    assert deployed_name("birds-flow", LokkiConfig()) == "birds-flow"
    assert deployed_name("birds-flow", LokkiConfig(flow_name="geese_2")) == "geese_2"


@pytest.mark.parametrize("name", ["2birds", "birds flow", "vögel", "birds/flow", "birds'", "${FlowName}", "b" * 56])
def test_a_name_that_aws_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="flow_name: a flow cannot be deployed as"):
        deployed_name("birds-flow", LokkiConfig(flow_name=name))


def test_a_flow_whose_own_name_is_too_long_says_what_to_set() -> None:
    with pytest.raises(FlowError) as caught:
        deployed_name("b" * 56, LokkiConfig())
    assert str(caught.value) == (
        f"the flow '{'b' * 56}' cannot be deployed under its name: it has 56 characters; functions are named after it, "
        "which leaves room for 55. Set flow_name in lokki.yml."
    )
    assert deployed_name("b" * 55, LokkiConfig()) == "b" * 55


@pytest.mark.parametrize("name", BUILDS)
def test_the_template_takes_no_flow_name_that_would_make_a_name_too_long(name: str) -> None:
    template = BUILDS[name].template()
    longest = "f" * template["Parameters"]["FlowName"]["MaxLength"]
    functions = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::Lambda::Function"]
    lengths = [len(each["FunctionName"]["Fn::Sub"].replace("${FlowName}", longest)) for each in functions]
    assert max(lengths) == 64
    assert len(template["Parameters"]["FlowName"]["Default"]) <= len(longest)
