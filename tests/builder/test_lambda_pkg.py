"""lokki.builder.lambda_pkg: the handler and the Dockerfile of each step, byte for byte, and names of repositories."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from build_flows import BUILDS, Build
from hypothesis import given
from hypothesis import strategies as st

from lokki import StepNode, step
from lokki.base.naming import state_name
from lokki.base.values import Json
from lokki.builder.lambda_pkg import (
    HANDLER_SOURCE,
    Importable,
    StepCode,
    describe_calls,
    dockerfile,
    generate_lambda_dir,
    repository,
    step_json,
)
from lokki.builder.packages.sources import collect
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan import lower
from lokki.plans.templates import Item
from lokki.runtime.event import parse_calls

GOLDEN = Path(__file__).parents[1] / "golden"
FLOW = Importable("birds", "birds_flow")
STEP = Importable("birds", "flap_bird")
REQUIREMENTS = {"requirements.txt": b"isal==1.9.1\n"}
CALLS: dict[str, Json] = {"flap_bird": {"reads": "item"}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def code(
    calls: dict[str, Json] = CALLS,
    flow: Importable = FLOW,
    step: Importable = STEP,
    requirements: Mapping[str, bytes] = REQUIREMENTS,
) -> StepCode:
    return StepCode("birds-flow", "flap_bird", flow, step, calls, {"birds.py": b"birds"}, requirements)


def packaged(build: Build) -> dict[str, dict[str, bytes]]:
    """The folder of each step without the code that it has of the project and of lokki."""
    graph = build.graph
    project = collect(graph, build.config)
    calls = describe_calls(lower(graph))
    return {
        step.name: generate_lambda_dir(
            StepCode(graph.name, step.name, project.flow, project.steps[step.name], calls[step.name], {}, REQUIREMENTS),
            build.config,
        )
        for step in graph.steps
    }


@pytest.mark.parametrize("name", BUILDS)
def test_the_folders_of_the_steps_are_the_golden_ones(name: str, update_golden: bool) -> None:
    built = {
        f"{step}/{path}": content.decode()
        for step, files in packaged(BUILDS[name]).items()
        for path, content in files.items()
        if path not in ("requirements.txt", "handler.py")
    }
    folder = GOLDEN / name / "lambdas"
    if update_golden:
        for path, text in built.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    assert built == {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", BUILDS)
def test_a_handler_says_what_the_plan_says(name: str) -> None:
    plan = lower(BUILDS[name].graph)
    described = describe_calls(plan)
    first = next(plan.calls)
    around = {call.id: op for op in plan.fan_outs for call in op.calls}
    for call in plan.calls:
        handled = parse_calls(call.step, described[call.step])[call.id]
        found = handled.call
        assert (found.id, found.fans_out, found.passes_on) == (call.id, call.fans_out, call.passes_on)
        assert (found.keeps_value, found.cases) == (call.keeps_value, call.cases)
        assert found.arguments == call.arguments
        # What a map below a map gave is the item of the level after it.
        is_item = call.id in around and call.reads in around[call.id].own_items
        assert type(found.reads) is (Item if is_item else type(call.reads))
        assert (handled.first, handled.binds) == (call is plan.ops[0], call is first and call is not plan.ops[0])


def test_what_a_map_tolerates_is_known_to_its_inner_steps_and_to_the_one_that_closes_it() -> None:
    described = describe_calls(lower(BUILDS["batches"].graph))
    tolerated = {
        call: about["tolerate"]
        for calls in described.values()
        for call, about in calls.items()
        if isinstance(about, dict)
    }
    assert tolerated == {
        "fetch": None, "predict": 5, "add_up": 5, "spread": None, "call_service": 0.29, "label": 0.29, "join": 0.29,
    }  # fmt: skip


@given(st.dictionaries(st.text(min_size=1), json_values, min_size=1, max_size=3))
def test_step_json_holds_the_calls_exactly_whatever_is_bound(calls: dict[str, Json]) -> None:
    read = json.loads(step_json(code(calls)))
    assert repr(read["calls"]) == repr(calls)  # with the types of numbers: 1 == 1.0 == True


def test_step_json_says_from_where_to_import_the_step_and_its_flow() -> None:
    assert json.loads(step_json(code(step=Importable("a.steps", "flap")))) == {
        "flow": {"name": "birds-flow", "module": "birds", "attribute": "birds_flow"},
        "step": {"name": "flap_bird", "module": "a.steps", "attribute": "flap"},
        "calls": {"flap_bird": {"reads": "item"}},
    }


@pytest.mark.slow
def test_the_handler_is_the_same_for_every_step_of_every_flow() -> None:
    handlers = {files["handler.py"] for name in BUILDS for files in packaged(BUILDS[name]).values()}
    assert handlers == {HANDLER_SOURCE.encode()}


def test_a_change_of_another_step_changes_no_step_json() -> None:
    @step
    def load() -> list[int]:
        return [1]

    @step
    def double(number: int, by: int = 2) -> int:
        return number * by

    @step
    def add(numbers: list[int], start: int = 0) -> int:
        return sum(numbers, start)

    def step_files(chain: StepNode[..., int]) -> dict[str, bytes]:
        calls = describe_calls(lower(FlowGraph("birds-flow", chain)))
        return {name: step_json(code(dict(calls[name]))) for name in calls}

    one = step_files(load().map(double).agg(add))
    other = step_files(load().map(double(by=3)).next(double).agg(add))
    assert {name for name in one if one[name] != other[name]} == {"double"}


def test_a_zip_has_no_dockerfile_and_an_image_has() -> None:
    zipped = generate_lambda_dir(code(), LokkiConfig())
    image = generate_lambda_dir(code(), LokkiConfig(package_type="image"))
    assert list(zipped) == ["birds.py", "handler.py", "requirements.txt", "step.json"]
    assert {**zipped, "Dockerfile": image["Dockerfile"]} == image
    assert list(image) == sorted(image)


def test_the_dockerfile_is_one_that_every_builder_takes_and_names_one_platform() -> None:
    for architecture, platform, wheels in (("x86_64", "linux/amd64", "x86_64"), ("arm64", "linux/arm64", "aarch64")):
        text = dockerfile(code(), LokkiConfig(architecture=architecture))
        assert re.findall(r"--platform=(\S+)", text) == [platform, platform]
        assert re.findall(r"--python-platform (\S+)", text) == [f"{wheels}-manylinux_2_34"]
        assert "<<" not in text
        assert "syntax=" not in text


def test_the_dockerfile_takes_each_package_from_its_index_and_the_password_from_a_secret() -> None:
    wanted = {**REQUIREMENTS, "requirements-1.txt": b"--index-url http://acme/simple\nhonk==1\n"}
    text = dockerfile(code(requirements=wanted), LokkiConfig())
    install = (
        " && python -m uv pip install --no-cache --no-deps --only-binary :all: --python-platform "
        "x86_64-manylinux_2_34 \\\n    --target /build/packages --requirements /build/"
    )
    assert (
        "COPY requirements-1.txt requirements.txt /build/\n"
        "RUN --mount=type=secret,id=netrc export NETRC=/run/secrets/netrc \\\n"
        " && mkdir -p /build/packages \\\n"
        f"{install}requirements-1.txt \\\n{install}requirements.txt \\\n"
    ) in text
    assert " && rm Dockerfile requirements-1.txt requirements.txt \\\n" in text
    assert "secret" not in dockerfile(code(), LokkiConfig())


@given(st.lists(st.from_regex(r"[A-Za-z_äÖ][A-Za-z0-9_äÖ]{0,8}", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_repositories_are_named_as_ecr_takes_it_and_apart(names: list[str]) -> None:
    # https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
    pattern = r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*"
    usable = [name for name in names if state_name(name)]
    made = [repository("birds-flow", name) for name in usable]
    assert all(re.fullmatch(pattern, name) for name in made)
    states = {state_name(name).lower() for name in usable}  # steps of one flow differ in these
    assert len(set(made)) >= len(states)
