"""A run may not cost more than ``@flow(max_cost=…)``: what functions are told is what an estimate says."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from aws.loopback_aws import LoopbackAws
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.deployed_project import new_project
from support.handled_emulation import Emulated, Handlers, Objects, emulate_here

from lokki import FlowGraph, flow, step
from lokki.base.values import Json
from lokki.builder.builder import Builder
from lokki.builder.compiled import compile_flow
from lokki.builder.cost_limits import cost_limits, declared_workload
from lokki.cli.commands.estimate import estimate_command
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.states.services import Caller
from lokki.errors import ConfigError, CostLimitError, FlowError
from lokki.estimate.cost import Measure, entry_size, estimate
from lokki.runtime.cost_limit import CostLimit, check_cost
from lokki.runtime.event import ItemCount, parse_event
from lokki.runtime.log import Log
from lokki.runtime.taking_over import taken_reply
from lokki.runtime.work import Settings, Work
from lokki.store.keys import Keys
from lokki.store.takeover import MapTakeover, Takeover


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step(seconds=0.5)
def double(number: int) -> int:
    return number * 2


@step
def unknown(number: int) -> int:
    return number


@step
def total(values: list[int]) -> int:
    return sum(values)


@step
def lists(count: int) -> list[list[int]]:
    return [list(range(count))] * 2


@step
def both(first: int, second: int) -> int:
    return first + second


# --- what a run costs ---


@dataclass(frozen=True)
class Shape:
    """A line with a map in it, and the settings that it is built with."""

    seconds: tuple[float, ...]
    memory: int
    batch: int | None
    concurrency: int | None
    functions: int
    express: bool

    def draw(self) -> FlowGraph:
        @flow(max_cost=1e9)
        def shaped():
            first, *others = [step(seconds=taken, memory=self.memory)(double) for taken in self.seconds]
            block = numbers(1).map(first, batch=self.batch, concurrency=self.concurrency)
            for inner in others:
                block = block.next(inner)
            return block.agg(total)

        return shaped()

    def config(self) -> LokkiConfig:
        kind, timeout = ("EXPRESS", 20) if self.express else ("STANDARD", 300)
        defaults = LambdaDefaultsConfig(timeout=timeout)
        return LokkiConfig(execution_type=kind, map_concurrency=self.functions, lambda_defaults=defaults)


SECONDS = st.floats(0.001, 250) | st.floats(0.001, 1)
SHAPES = st.builds(
    Shape,
    st.lists(SECONDS, min_size=1, max_size=1).map(tuple) | SECONDS.map(lambda taken: (taken, taken)),
    st.sampled_from([128, 512, 10_240]),
    st.none() | st.integers(1, 3000),
    st.none() | st.integers(1, 2000),
    st.sampled_from([0, 10, 300, 8_000]),
    st.booleans(),
)


@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_functions_know_what_an_estimate_says(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(SHAPES, st.integers(1, 3000) | st.integers(1, 10_000_000), st.integers(1, 4000))
    def law(shape: Shape, items: int, size: int) -> None:
        compiled = compile_flow(shape.draw(), shape.config())
        try:
            limits = cost_limits(compiled)
        except ConfigError:  # such batches do not fit an EXPRESS child
            assume(False)
        limit = msgspec.convert(limits["numbers"], CostLimit)
        counted = ItemCount(items, items * entry_size(Measure(size=size)))
        cost = limit.run + sum(price.dollars(counted) for price in limit.maps)
        workload = declared_workload(compiled, {"numbers": items})
        workload = replace(workload, measures={**workload.measures, "numbers": Measure(0.0, size)})
        estimated = estimate(compiled, workload)
        # The first of a month, which are the dearest.
        assume(estimated.express_gigabyte_hours < 1000 and estimated.requests.gigabyte_seconds < 6e9)
        assert cost == pytest.approx(estimated.dollars, rel=0.01)

    law()


@flow(max_cost=0.0021)
def doubled(count: int = 4):
    return numbers(count).map(double).agg(total)


def test_what_is_written_is_what_a_function_needs() -> None:
    [(source, limit)] = cost_limits(compile_flow(doubled(), LokkiConfig())).items()
    assert (source, json.loads(msgspec.json.encode(limit))) == (
        "numbers",
        {
            "flow": "doubled",
            "over": "numbers",
            "dollars": 0.0021,
            "run": 9.66166667e-05,
            # A start, the step, the question whether items are left and the end, a request, and half a second of half a
            # gigabyte for each item.
            "maps": [
                {
                    "alone": 0.000104366675,
                    "child": 0.0001002,
                    "item": 4.166675e-06,
                    "batch": 2000,
                    "bytes": 200_000,
                    "at_once": 1000,
                    # A task, a question and a request: a function has time for 1,800 items.
                    "again": 5.02e-05,
                    "in_time": [1800],
                }
            ],
        },
    )


# --- a run ---


def ended(graph: FlowGraph, **params: Json) -> tuple[str, object, int]:
    """Run a flow; return how it ended, its result or why there is none, and how often functions were invoked."""
    run: Emulated = emulate_here(graph, params, workers=2)
    if run.outcome.status == "SUCCEEDED":
        return "SUCCEEDED", run.result(), run.invocations
    return str(run.outcome.error), json.loads(str(run.outcome.cause))["errorMessage"], run.invocations


def test_a_run_that_is_too_dear_ends_before_its_map() -> None:
    assert ended(doubled(), count=19) == ("SUCCEEDED", 342, 21)
    assert ended(doubled(), count=20) == (
        "CostLimitError",
        (
            "the map over numbers() has 20 items, for which the run would cost about $0.002184, and max_cost= of "
            "doubled allows $0.0021. So nothing of the map ran: raise max_cost=, or have fewer items"
        ),
        1,
    )


def test_another_flow_that_it_is_a_step_of_has_its_own_limit() -> None:
    @flow
    def around(count: int):
        return doubled(count)

    assert ended(around(), count=20)[0] == "SUCCEEDED"


def test_maps_that_follow_each_other_count_together() -> None:
    @flow(max_cost=0.0021)
    def twice(count: int):
        middle = numbers(count).map(double).agg(total)
        return numbers(count).after(middle).map(double).agg(total)

    assert ended(twice(), count=9)[0] == "SUCCEEDED"
    error, message, invocations = ended(twice(), count=10)
    assert (error, invocations) == ("CostLimitError", 13)
    assert str(message).startswith("the map over numbers_2() has 10 items, for which the run would cost about $0.002")


def test_of_maps_side_by_side_one_sees_both() -> None:
    @flow(max_cost=0.0021)
    def side_by_side(count: int):
        return both(numbers(count).map(double).agg(total).result, numbers(count).map(double).agg(total).result)

    assert ended(side_by_side(), count=8)[0] == "SUCCEEDED"
    assert ended(side_by_side(), count=10)[0] == "CostLimitError"


def test_a_map_below_a_map_counts_the_items_of_all_lists() -> None:
    @step(seconds=0.1)
    def listed(values: list[int]) -> list[int]:
        return values

    @step(seconds=0.1)
    def summed(values: list[int]) -> int:
        return sum(values)

    @flow
    def of_list(values: list[int]):
        return listed(values).map(double).agg(summed)

    @flow(max_cost=0.0021)
    def nested(count: int):
        return lists(count).map(of_list).agg(total)

    assert ended(nested(), count=6)[0] == "SUCCEEDED"
    error, message, invocations = ended(nested(), count=10)
    # The lists, both of which one function gives, and the call that puts them together.
    assert (error, invocations) == ("CostLimitError", 4)
    assert str(message).startswith("the map over of_list_listed() has 20 items, for which the run would cost")


# --- a function ---


CALLER = Caller("run-1", "Numbers")


def handlers(graph: FlowGraph) -> Handlers:
    return Handlers(compile_flow(graph, LokkiConfig()), Objects(), 4096)


def test_an_event_that_comes_twice_is_decided_alike() -> None:
    @flow(max_cost=0.0021)
    def two_maps(count: int):
        return both(numbers(count).map(double).agg(total).result, numbers(count).map(double).agg(total).result)

    functions = handlers(two_maps())

    def replies(call: str, count: int) -> list[bytes]:
        event = {"run_id": "run-1", "call": call, "params": {"count": count}}
        return [functions.invoke("numbers", json.dumps(event).encode(), 9, CALLER).payload for _ in range(2)]

    first, again = replies("numbers", 10)
    assert first == again
    assert b"CostLimitError" not in first
    refused, refused_again = replies("numbers_2", 10)
    assert refused == refused_again
    assert b"CostLimitError" in refused
    costs = [functions.objects.contents[f"lokki/two-maps/run-1/{call}/cost.json"] for call in ("numbers", "numbers_2")]
    assert [round(float(cost), 6) for cost in costs] == [0.001044, 0.001044]


@pytest.mark.parametrize(("done", "fails"), [(0, True), (1, False)])
def test_a_run_that_takes_over_pays_for_the_items_that_are_left(done: int, fails: bool) -> None:
    functions, keys = handlers(doubled()), Keys("lokki/doubled/run-1")
    functions.invoke("numbers", b'{"run_id": "run-1", "call": "numbers", "params": {"count": 20}}', 9, CALLER)
    reply: dict[str, Json] = {"map_manifest_key": keys.map_manifest("numbers"), "items": 20}
    results = f"{keys.map_results('numbers')}5d1c/manifest.json"
    files = {"FAILED": [], "PENDING": [], "SUCCEEDED": [{"Key": "lokki/doubled/run-1/part", "Size": 40}] * done}
    functions.objects.contents["lokki/doubled/run-1/part"] = b'[{"index": 3, "result": 6}]'
    functions.objects.contents[results] = json.dumps({"ResultFiles": files}).encode()
    item_map = MapTakeover("numbers", keys.map_manifest("numbers"), 20, (results,), complete=False)
    calls = functions.calls["numbers"]
    request = parse_event({"run_id": "run-2-latest", "call": "numbers", "params": {"count": 20}}, calls)
    plan, log = functions.compiled.plan, Log({}, "CRITICAL")
    work = Work(
        numbers, request, calls["numbers"], plan.params, Settings("doubled", 4096, functions.objects, log), None, log  # type: ignore[arg-type]
    )  # fmt: skip
    takeover = Takeover("run-1", {"numbers": reply}, {"numbers": item_map})
    if fails:
        with pytest.raises(CostLimitError, match=r"^the map over numbers\(\) has 20 items"):
            taken_reply(work, takeover)
    else:
        left = taken_reply(work, takeover)
        assert left is not None
        assert left["items"] == 19


def test_one_item_is_told_as_one() -> None:
    limit = {"flow": "birds", "over": "get", "dollars": 1, "run": 0.5, "maps": [{"alone": 1.0}]}
    with pytest.raises(CostLimitError, match=r"^the map over get\(\) has 1 item, for .* about \$1\.50, .* \$1\. "):
        check_cost(limit, Objects(), Keys("lokki/birds/run-1"), "get", ItemCount(1))


# --- a build ---


def test_a_step_in_a_map_must_say_how_long_it_takes(tmp_path: Path) -> None:
    @flow(max_cost=20)
    def unmeasured():
        return numbers(3).map(double).next(unknown).agg(total)

    config = LokkiConfig(artifact_bucket="acme-artifacts", build_dir=str(tmp_path / "build"))
    message = (
        "@flow(max_cost=20): unknown() runs in a map of unmeasured and does not say how long it takes. Run the flow "
        "here, see what `estimate` measured, and write @step(seconds=…) above it."
    )
    with pytest.raises(FlowError) as raised:
        Builder(print, cache=tmp_path).build(unmeasured(), config)
    assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_no_run_would_keep_is_refused() -> None:
    @flow(max_cost=0.00001)
    def cheap():
        return numbers(3).map(double).agg(total)

    with pytest.raises(FlowError) as raised:
        cost_limits(compile_flow(cheap(), LokkiConfig()))
    assert str(raised.value) == (
        "@flow(max_cost=1e-05): a run of cheap costs $0.00009662 without any item, by seconds= of its steps. "
        "Raise max_cost=."
    )


# --- an estimate ---


def test_an_estimate_says_where_a_run_is_too_dear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def lines(graph: FlowGraph, *options: str) -> list[str]:
        done = CliRunner().invoke(estimate_command(graph, "lokki"), ["--items", "20", *options], standalone_mode=False)
        return done.output.splitlines()

    found = lines(doubled())
    assert "  double: 0.5 s, 100 bytes" in found
    assert "  double: 0.25 s, 100 bytes" in lines(doubled(), "--seconds", "double=0.25")
    assert found[found.index("time: at least 2.70 s") + 1 :][:2] == [
        (
            "breaks: by seconds= of its steps the run costs $0.002184, so it ends before a map; the limit is 0.0021 "
            "dollars"
        ),
        "  to avoid it: raise max_cost= of @flow, or have fewer items",
    ]

    @flow(max_cost=20)
    def unmeasured(count: int):
        return numbers(count).map(unknown).agg(total)

    missing = "not built: max_cost= needs @step(seconds=…) of unknown(); run the flow here to see how long it takes"
    assert missing in lines(unmeasured())


BIRDS = """
import time

from lokki import flow, main, step


@step
def get_birds(count: int) -> list[int]:
    return list(range(count))


@step(seconds=SECONDS)
def flap_bird(bird: int) -> int:
    time.sleep(0.02)
    return bird


@step
def count_birds(birds: list[int]) -> int:
    return len(birds)


@flow(max_cost=0.001)
def birds_flow(count: int):
    return get_birds(count).map(flap_bird).agg(count_birds)


if __name__ == "__main__":
    main(birds_flow)
"""


@pytest.mark.slow
def test_an_estimate_says_which_step_is_slower_than_it_says(tmp_path: Path) -> None:
    (tmp_path / "birds_flow.py").write_text(BIRDS.replace("SECONDS", "0.005"))

    def birds(*arguments: str) -> str:
        command = [sys.executable, "birds_flow.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert birds("run", "--count", "2") == "2\n"  # nothing costs here, so nothing is checked
    assert "slower: flap_bird took 0.02" in birds("estimate", "--count", "2")


@pytest.mark.slow
def test_an_emulated_run_ends_before_its_map_and_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    flow_file = tmp_path / "birds_flow.py"
    flow_file.write_text(BIRDS.replace("SECONDS", "0.02"))
    (tmp_path / "requirements.txt").write_text("")

    def emulated(*arguments: str) -> tuple[int, str, list[str]]:
        command = [sys.executable, "birds_flow.py", "emulate", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()[-2:]

    assert emulated("--count", "5")[:2] == (0, "5\n")
    assert emulated("--count", "10", "--run-id", "dear") == (
        1,
        "",
        [
            (
                "error: get_birds() raised CostLimitError: the map over get_birds() has 10 items, for which the run "
                "would cost about $0.001100, and max_cost= of birds-flow allows $0.001. So nothing of the map ran: "
                "raise max_cost=, or have fewer items at birds_flow.py:7"
            ),
            "fix it and resume with: python birds_flow.py emulate --resume dear",
        ],
    )
    flow_file.write_text(flow_file.read_text().replace("max_cost=0.001", "max_cost=0.002"))
    assert emulated("--resume", "dear")[:2] == (0, "10\n")


@pytest.mark.slow
def test_a_deployed_run_goes_on_where_the_limit_is_raised(
    account: LoopbackAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, account, BIRDS.replace("SECONDS", "0.02").replace("birds_flow", "NAME"))
    assert project.here(monkeypatch, "deploy", "--yes").code == 0
    invoked = project.here(monkeypatch, "invoke", "--count", "10", "--run-id", "dear")
    message = (
        "get_birds() raised CostLimitError: the map over get_birds() has 10 items, for which the run would cost about "
        f"$0.001100, and max_cost= of {project.stack} allows $0.001. So nothing of the map ran: raise max_cost=, or "
        "have fewer items at flow.py:7"
    )
    assert (invoked.code, message in invoked.err) == (1, True), invoked.err
    shown = project.here(monkeypatch, "show", "dear")
    assert message in shown.out + shown.err
    project.edit("max_cost=0.001", "max_cost=0.002")
    assert project.here(monkeypatch, "deploy", "--yes").code == 0
    again = project.here(monkeypatch, "redrive", "dear", "--latest")
    assert (again.code, again.out) == (0, "10\n"), again.err
