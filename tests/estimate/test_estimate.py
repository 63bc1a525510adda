"""Estimates: they agree with hand calculations in docs/estimate.md, and with what an emulated run really does."""

import ast
import operator
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import steps
from aws.deployed import Deployed
from aws.loopback_aws import LoopbackAws
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import graph_plans
from support.local_runs import Local

from lokki import flow, step
from lokki.builder.compiled import compile_flow
from lokki.cli.commands.estimate import EstimateOptions, estimate_command, read_numbers, workload_of
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.s3.client import S3Server
from lokki.errors import ParameterError
from lokki.estimate import prices
from lokki.estimate.cost import Estimate, Measure, Requests, Workload, estimate, gets, puts
from lokki.estimate.limits import problems
from lokki.estimate.measured import measure_latest_run
from lokki.estimate.savings import Saving, savings
from lokki.graph import FlowGraph
from lokki.observing.report import RunReport
from lokki.plan import lower
from lokki.plans.operations import Case, Fork, Op, Switch
from lokki.progress.displays import JsonLines
from lokki.runner import Executor

PAGE = (Path(__file__).parents[2] / "docs" / "estimate.md").read_text(encoding="utf-8")


# --- the page ---


@dataclass(frozen=True)
class Section:
    """A flow on the page: its code, its options, its bill as (line, formula, quantity, dollars), its time's formula."""

    graph: FlowGraph
    options: dict[str, list[str]]
    arm: bool
    express: bool
    bill: list[tuple[str, ...]]
    seconds: str


def sections() -> Iterator[tuple[str, Section]]:
    for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        names: dict[str, object] = {"step": step, "flow": flow}
        exec(compile(code, "estimate.md", "exec"), names)
        name = re.findall(r"@flow\ndef (\w+)", code)[0]
        words = re.findall(r"`(--.*?)`", text, re.DOTALL)[0].split()
        options: dict[str, list[str]] = {"--items": [], "--seconds": [], "--bytes": []}
        for option, value in zip(words[::2], words[1::2], strict=True):
            options[option].append(value)
        [seconds] = re.findall(r"^Time: `(.*)` seconds", text, re.MULTILINE)
        graph = names[name]()  # type: ignore[operator]
        yield (
            title,
            Section(
                graph,
                options,
                "architecture: arm64" in text,
                "execution_type: EXPRESS" in text,
                rows(text)[1:],
                seconds,
            ),
        )


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of a table but for the line under its header."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculated(formula: str) -> float:
    """Calculate a formula of numbers, + - * / and max."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(int() | float() as number):
                return number
            case ast.BinOp(left, op, right):
                return OPERATORS[type(op)](value(left), value(right))
            case ast.Call(ast.Name("max"), args):
                return max(map(value, args))
        raise AssertionError(ast.dump(node))

    return value(ast.parse(formula, mode="eval").body)


def test_a_formula_is_calculated() -> None:
    assert calculated("1 + (6 - 2) * max(3, 0.5) / 4") == 4


SECTIONS = dict(sections())


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_and_the_estimate_agree(title: str) -> None:
    section = SECTIONS[title]
    plan = lower(section.graph)
    config = LokkiConfig(
        architecture="arm64" if section.arm else "x86_64", execution_type="EXPRESS" if section.express else ""
    )
    items, seconds, sizes = (tuple(section.options[name]) for name in ("--items", "--seconds", "--bytes"))
    numbers = read_numbers(plan, EstimateOptions(items=items, seconds=seconds, sizes=sizes))
    workload = workload_of(plan, None, config, numbers)
    found = estimate(compile_flow(section.graph, config), workload)
    per_unit = {row[0]: float(row[1]) / int(row[2]) for row in PRICE_ROWS}
    for unit, formula, quantity, dollars in section.bill:
        assert calculated(formula) == pytest.approx(float(quantity), rel=1e-7)
        assert float(quantity) * per_unit[unit] == pytest.approx(float(dollars), rel=1e-6)
    assert {line.price.unit: line.quantity for line in found.lines if line.quantity} == {
        unit: pytest.approx(calculated(formula), rel=1e-9) for unit, formula, *_ in section.bill
    }
    assert {line.price.unit: line.dollars for line in found.lines if line.quantity} == {
        unit: pytest.approx(float(dollars), rel=1e-6) for unit, _, _, dollars in section.bill
    }
    assert found.dollars == pytest.approx(sum(float(dollars) for *_, dollars in section.bill), rel=1e-6)
    assert found.seconds == pytest.approx(calculated(section.seconds))


PRICE_ROWS = rows(PAGE.partition("## Prices")[2].partition("## How")[0])[1:]


def test_the_page_has_five_flows_and_the_prices_of_the_table() -> None:
    assert len(SECTIONS) == 5
    assert [
        (each.unit, row[1], str(each.per), each.source) for each, row in zip(prices.PRICES, PRICE_ROWS, strict=True)
    ] == PRICE_ROWS
    assert [float(row[1]) for row in PRICE_ROWS] == [each.dollars for each in prices.PRICES]
    assert f"it was read on {prices.READ}" in PAGE


def test_every_price_and_limit_names_a_page_of_aws() -> None:
    pattern = re.compile(r"https://(docs\.)?aws\.amazon\.com/\S+")
    assert all(pattern.fullmatch(each.source) for each in (*prices.PRICES, *prices.LIMITS))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", prices.READ)


def test_tiers_hold_from_where_they_begin() -> None:
    hours = prices.EXPRESS_DURATION
    # The page's own example: 100 million workflows of 10 seconds and 64 MB are 17,361.11 GB-hours, $382.97.
    assert hours.of(100e6 * 10 * 64 / 1024 / 3600) == pytest.approx(382.97, abs=0.005)
    assert (hours.of(0), hours.of(1000), hours.of(1001)) == (0, 60, pytest.approx(60.03))


# --- what an emulated run really does ---


@step
def pair(value: object) -> object:
    return (value,)  # no JSON has it: it goes to S3


INNER = {"same": steps.same, "pair": pair, "wrap": steps.wrap, "nothing": steps.nothing}


@dataclass(frozen=True)
class Shape:
    """A map block over items that are stored or not, with what follows it."""

    stored: bool
    items: int
    inner: tuple[str, ...]
    batch: int | None
    closing: str

    def draw(self) -> FlowGraph:
        @flow
        def shaped():
            block = steps.values("tuples" if self.stored else "ints", self.items).map(
                INNER[self.inner[0]], batch=self.batch
            )
            for name in self.inner[1:]:
                block = block.next(INNER[name])
            return block.agg(steps.CLOSING[self.closing]).next(steps.same)

        return shaped()

    def workload(self) -> Workload:
        """Say of each step whether its results go to S3."""
        graph = self.draw()
        plan = lower(graph)
        stored = self.stored
        measures = {"values": Measure(0.5, 30, stored)}
        for call in [
            call for call in plan.calls if call.id in {step_id for op in plan.ops[1:2] for step_id in ids(op)}
        ]:
            stored = {"same": stored, "wrap": stored, "pair": True, "nothing": False}[call.step]
            measures[call.id] = Measure(0.5, 30, stored)
        whole = stored and self.closing == "collect" and self.items > 0
        measures |= {plan.ops[2].id: Measure(0.5, 30, whole), plan.ops[3].id: Measure(0.5, 30, whole)}
        return Workload({"values": self.items}, measures)


def ids(op: object) -> list[str]:
    return [call.id for call in op.calls]  # type: ignore[attr-defined]


SHAPES = st.builds(
    Shape,
    st.booleans(),
    st.integers(0, 7),
    st.lists(st.sampled_from([*INNER]), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(1, 8),
    st.sampled_from([*steps.CLOSING]),
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


@pytest.mark.parametrize("kind", ["STANDARD", "EXPRESS"])
def test_requests_and_transitions_are_those_that_the_emulator_counts(s3: S3Server, kind: str) -> None:
    config = LokkiConfig(
        artifact_bucket="acme-artifacts", execution_type=kind, lambda_defaults=LambdaDefaultsConfig(timeout=60)
    )

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(SHAPES)
    def law(shape: Shape) -> None:
        deployed = Deployed(shape.draw(), config, s3)
        before = deployed.methods()
        assert deployed.run({}, "run").status == "SUCCEEDED"
        counted = deployed.methods() - before
        found = estimate(compile_flow(shape.draw(), config), shape.workload())
        assert found.transitions == deployed.transitions()
        assert found.children == deployed.children()
        assert found.express_executions == (deployed.children() if kind == "EXPRESS" else 0)
        assert (found.requests.invocations, found.requests.puts, found.requests.gets) == (
            deployed.functions.invocations.total(), counted["PUT"], counted["GET"],
        )  # fmt: skip

    law()


@step
def long_texts(count: int) -> list[str]:
    return ["x" * 3000] * count


@step
def longer(text: str) -> str:
    return text + "y" * 900


def test_batches_that_are_too_large_for_a_state_are_counted_as_they_are_made(s3: S3Server) -> None:
    @flow
    def large():
        return long_texts(150).map(longer, batch=100).next(steps.same).agg(steps.count)

    config = LokkiConfig(artifact_bucket="acme-artifacts")
    deployed = Deployed(large(), config, s3)
    before = deployed.methods()
    assert deployed.run({}, "run").status == "SUCCEEDED"
    counted = deployed.methods() - before
    sizes = {"long_texts": Measure(1, 3002), "longer": Measure(1, 3902), "same": Measure(1, 3902)}
    found = estimate(compile_flow(large(), config), Workload({"long_texts": 150}, sizes))
    assert found.maps[0].shares == ((2, 66), (1, 18))
    assert (found.transitions, found.children) == (deployed.transitions(), deployed.children())
    assert (found.requests.puts, found.requests.gets) == (counted["PUT"], counted["GET"]) == (8, 7)


# --- laws ---


def mapped(batch: int | None = None, inner: int = 1, concurrency: int | None = None) -> FlowGraph:
    @flow
    def birds():
        block = steps.values("ints", 1).map(steps.same, batch=batch, concurrency=concurrency)
        for _ in range(inner - 1):
            block = block.next(steps.same)
        return block.agg(steps.count)

    return birds()


def of(graph: FlowGraph, items: int, measure: Measure, kind: str = "STANDARD") -> Estimate:
    config = LokkiConfig(execution_type=kind, lambda_defaults=LambdaDefaultsConfig(timeout=60))
    compiled = compile_flow(graph, config)
    return estimate(compiled, Workload({"values": items}, {call.id: measure for call in compiled.plan.calls}))


MEASURES = st.builds(Measure, st.floats(0, 2), st.integers(0, 20_000_000), st.booleans())
BATCHES = st.none() | st.integers(1, 1000)
ITEMS = st.integers(0, 100_000)


@given(BATCHES, st.integers(1, 3), ITEMS, ITEMS, MEASURES, st.sampled_from(["STANDARD", "EXPRESS"]))
def test_more_items_never_cost_or_take_less(
    batch: int | None, inner: int, few: int, more: int, measure: Measure, kind: str
) -> None:
    # Batches that size themselves are fewer where one more item is worth it.
    graph = mapped(batch or 1, inner)
    first, second = of(graph, few, measure, kind), of(graph, few + more, measure, kind)
    assert second.dollars >= first.dollars * (1 - 1e-12)
    assert second.transitions >= first.transitions
    assert second.requests.invocations >= first.requests.invocations


@given(st.integers(1, 1000), st.integers(0, 1000), ITEMS, MEASURES)
def test_a_larger_batch_never_starts_more_children(batch: int, more: int, items: int, measure: Measure) -> None:
    found = [of(mapped(size), items, measure) for size in (1, batch, batch + more)]
    assert [each.children for each in found] == sorted((each.children for each in found), reverse=True)
    assert all(sum(n * size for n, size in each.maps[0].shares) == items for each in found)
    assert all(sum(n for n, _ in each.maps[0].shares) == each.children for each in found)


@given(ITEMS, MEASURES)
def test_the_bill_is_the_sum_of_its_lines(items: int, measure: Measure) -> None:
    found = of(mapped(), items, measure)
    assert found.dollars == sum(line.price.of(line.quantity) for line in found.lines)


def test_one_request_up_to_a_part_and_several_beyond() -> None:
    part = 8 * 2**20
    assert [puts(size) for size in (0, part, part + 1, 10 * part)] == [1, 1, 4, 12]
    assert [gets(size) for size in (0, part, 4 * part - 1, 4 * part, 10 * part)] == [1, 1, 1, 5, 11]


def test_how_many_items_there_are_must_be_said() -> None:
    with pytest.raises(ParameterError, match=r"^how many items does values\(\) give\? Say it: --items values=1000\.$"):
        estimate(compile_flow(mapped(), LokkiConfig()), Workload({}))


def test_requests_add_up() -> None:
    assert Requests(1, 2, 3, 4.0) + Requests(10, 20, 30, 40.0) == Requests(11, 22, 33, 44.0)


# --- limits ---


@step(timeout=60)
def quick(value: object) -> object:
    return value


@step
def slow(value: object) -> object:
    return value


def limits(graph: FlowGraph, items: int, measures: dict[str, Measure], kind: str = "", params: int = 0) -> list[str]:
    compiled = compile_flow(graph, LokkiConfig(execution_type=kind))
    workload = Workload({"values": items}, {call.id: Measure(0.1) for call in compiled.plan.calls} | measures)
    found = problems(compiled, workload, estimate(compiled, workload), params)
    return [f"{'breaks' if each.breaks else 'waits'} {each.limit.value}: {each.text} | {each.advice}" for each in found]


def one_map(inner: object, **options: object) -> FlowGraph:
    @flow
    def birds():
        return steps.values("ints", 1).map(inner, **options).agg(steps.count)  # type: ignore[call-overload]

    return birds()


def test_a_small_run_meets_no_limit() -> None:
    assert limits(one_map(slow), 1000, {}) == []


def test_starting_many_children_waits_and_batches_that_size_themselves_avoid_it() -> None:
    [found] = limits(one_map(slow, batch=1), 1_000_000, {})
    assert found == ("waits 100: starting 1,000,000 children of the map over values() takes 10000 s | leave out batch=")
    assert limits(one_map(slow, concurrency=1000), 1_000_000, {}) == []
    assert limits(one_map(slow, batch=250, concurrency=1000), 1_000_000, {}) == []


def test_express_children_start_faster() -> None:
    [found] = limits(one_map(quick), 1_000_000, {}, "EXPRESS")
    assert found == "waits 1000: starting 1,000,000 children of the map over values() takes 1000 s | set batch=250"
    assert limits(one_map(quick, batch=17), 1_000_000, {}, "STANDARD") == [
        ("waits 100: starting 58,824 children of the map over values() takes 588 s | leave out batch=")
    ]


def test_standard_children_that_would_fit_express_could_start_faster() -> None:
    [found] = limits(one_map(quick, batch=1), 1_000_000, {})
    assert found.endswith("takes 10000 s | leave out batch= or set execution_type: EXPRESS in lokki.yml")


def cheaper(graph: FlowGraph, items: int, seconds: float, **options: Any) -> list[Saving]:
    compiled = compile_flow(graph, LokkiConfig(**options))
    workload = Workload({"values": items}, {call.id: Measure(seconds) for call in compiled.plan.calls})
    return savings(compiled, workload, estimate(compiled, workload))


def test_batches_are_the_better_advice_and_express_the_other() -> None:
    [saving] = cheaper(one_map(quick, batch=1), 1_000_000, 0.1)
    assert saving == Saving(
        "values",
        1_000_000,
        pytest.approx(50.0),  # a start and a state of each child
        (
            ("no batch=", pytest.approx(0.2)),
            # a start of each, a million requests, and 0.1 s of 64 MB of each
            ("execution_type: EXPRESS", pytest.approx(25 + 1 + 1_000_000 * 0.1 / 16 / 3600 * 0.06)),
        ),
    )


@pytest.mark.parametrize(
    ("graph", "items", "seconds", "options", "settings"),
    [
        (one_map(quick), 1_000_000, 0.1, {}, []),
        (one_map(slow, batch=1), 1_000_000, 0.1, {}, ["no batch="]),  # tries of 900 s do not fit five minutes
        (one_map(quick, batch=1), 20_000, 16, {}, ["no batch=", "execution_type: EXPRESS"]),
        (one_map(quick, batch=1), 1_000, 0.1, {}, []),  # cents
        (one_map(quick), 1_000_000, 0.1, {"execution_type": "EXPRESS"}, []),
        (one_map(quick, batch=1000), 1_000_000, 0.01, {}, []),
    ],
)
def test_nothing_is_said_that_does_not_fit_or_saves_nothing(
    graph: FlowGraph, items: int, seconds: float, options: dict[str, str], settings: list[str]
) -> None:
    found = [setting for saving in cheaper(graph, items, seconds, **options) for setting, _ in saving.alternatives]
    assert found == settings


def test_what_is_said_to_cost_less_is_what_an_estimate_with_it_says() -> None:
    def total(graph: FlowGraph, kind: str = "") -> float:
        return of(graph, 100_000, Measure(0.1), kind).dollars

    def mapping(batch: int | None) -> FlowGraph:
        return mapped(batch=batch)

    config = LokkiConfig(lambda_defaults=LambdaDefaultsConfig(timeout=60))
    compiled = compile_flow(mapping(1), config)
    workload = Workload({"values": 100_000}, {call.id: Measure(0.1) for call in compiled.plan.calls})
    [saving] = savings(compiled, workload, estimate(compiled, workload))
    requests = 0.20 / 1_000_000  # batches also save requests to Lambda, which are no cost of children
    (batch, in_batches), (express, as_express) = saving.alternatives
    assert (batch, express) == ("no batch=", "execution_type: EXPRESS")
    assert total(mapping(1)) - total(mapping(None)) == pytest.approx(saving.dollars - in_batches + 98_000 * requests)
    assert total(mapping(1)) - total(mapping(1), "EXPRESS") == pytest.approx(saving.dollars - as_express)


@pytest.mark.parametrize(
    ("graph", "seconds", "message"),
    [
        (
            one_map(quick),
            61.5,
            "breaks 1800: quick() takes 61.5 s for one call; its function ends after 60 s | set @step(timeout=62)",
        ),
        (
            one_map(slow),
            2000,
            (
                "breaks 1800: slow() takes 2000 s for one call; its function ends after 900 s | give it less to do "
                "for each item, or more memory="
            ),
        ),
    ],
)
def test_a_function_that_would_not_end_in_time_breaks(graph: FlowGraph, seconds: float, message: str) -> None:
    inner = lower(graph).ops[1].calls[0].id  # type: ignore[union-attr]
    found = limits(graph, 100, {inner: Measure(seconds)})
    assert found[0] == message


def test_an_express_child_that_takes_more_than_five_minutes_breaks() -> None:
    found = limits(one_map(quick, batch=4), 8, {"quick": Measure(100)}, "EXPRESS")
    assert [line for line in found if "each child" in line] == [
        (
            "breaks 300: each child of the map over values() takes 400 s | set batch=3, or remove execution_type: "
            "EXPRESS from lokki.yml"
        )
    ]


def test_more_functions_than_an_account_has_wait() -> None:
    found = limits(one_map(slow, batch=1), 5000, {"slow": Measure(30)})
    assert found == [
        ("waits 1000: the map over values() would run 3,000 children at one time | ask AWS for a higher quota")
    ]
    assert limits(one_map(slow, batch=1, concurrency=2000), 5000, {"slow": Measure(30)}) == [
        (
            "waits 1000: the map over values() would run 3,000 children at one time | set concurrency=1000, or ask AWS "
            "for a higher quota"
        )
    ]
    assert limits(one_map(slow, concurrency=500), 5000, {"slow": Measure(30)}) == []


def test_a_batch_that_its_function_has_no_time_for_costs_an_invocation_more() -> None:
    def count(seconds: float) -> Estimate:
        compiled = compile_flow(one_map(slow, batch=100), LokkiConfig())
        workload = Workload({"values": 200}, {call.id: Measure(seconds) for call in compiled.plan.calls})
        assert not [each for each in problems(compiled, workload, estimate(compiled, workload)) if each.breaks]
        return estimate(compiled, workload)

    in_time, late = count(1), count(20)  # of 100 items, 45 are done in 900 seconds
    assert late.requests.invocations - in_time.requests.invocations == 2 * 2
    assert late.transitions - in_time.transitions == 2 * 2 * 2


def test_a_million_items_cost_little_more_than_their_lambda_time() -> None:
    compiled = compile_flow(one_map(slow), LokkiConfig())
    seconds = {call.id: Measure(0.001) for call in compiled.plan.calls} | {"slow": Measure(0.2)}
    bill = estimate(compiled, Workload({"values": 1_000_000}, seconds))
    lambda_time = next(line.dollars for line in bill.lines if "GB-second" in line.price.unit)
    assert lambda_time == pytest.approx(1.67, abs=0.01)
    assert bill.dollars <= 1.15 * lambda_time
    assert bill.seconds <= 1.3 * 1_000_000 * 0.2 / 1000


def test_results_that_do_not_fit_the_memory_break() -> None:
    big = {"slow": Measure(0.1, 1_000_000, stored=True)}
    assert limits(one_map(slow), 1000, big) == [
        "breaks 10240: count() gets 1,000 results, about 2,862 MB, and has 512 MB | set @step(memory=2862)"
    ]
    [found] = limits(one_map(slow), 5000, big)
    assert found.endswith("let the inner steps return less, or return where it is")


@step
def one_by_one(values: Iterable[object]) -> int:
    return sum(1 for _ in values)


def test_results_that_are_taken_one_by_one_need_no_memory() -> None:
    @flow
    def lazy():
        return steps.values("ints", 1).map(slow).agg(one_by_one)

    assert limits(lazy(), 5000, {"slow": Measure(0.1, 1_000_000, stored=True)}) == []


def test_a_state_that_is_too_large_breaks() -> None:
    found = limits(one_map(slow), 10, {}, params=300_000)
    assert found[0] == (
        "breaks 262144: values() has 300000 bytes of parameters and result in its state | pass large parameters as the "
        "URL of an object"
    )
    [inline] = limits(one_map(slow), 10, {"slow": Measure(0.1, 270_000)})
    assert inline.endswith("| set a smaller inline_limit in lokki.yml")


def test_a_flow_with_a_timeout_that_is_too_short_breaks() -> None:
    @flow(timeout=20)
    def late():
        return steps.values("ints", 1).map(slow, batch=1).agg(steps.count)

    assert limits(late(), 3000, {}) == ["breaks 20: the run takes at least 30 s | give @flow a longer timeout="]


# --- the command ---


def run(graph: FlowGraph, *arguments: str) -> str:
    result = CliRunner().invoke(estimate_command(graph, "lokki"), arguments, standalone_mode=False)
    if result.exception is not None:
        return f"{type(result.exception).__name__}: {result.exception}"
    return result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))  # whatever this machine's user has
    return tmp_path


def test_the_command_shows_what_is_assumed_the_bill_time_and_limits(folder: Path) -> None:
    assert run(steps.doubled(), "--items", "50_000", "--seconds", "double=0.5", "--bytes", "double=20000") == (
        """\
doubled, each step as given, or 1 s:
  numbers: 1 s, 100 bytes
  double: 0.5 s, 20,000 bytes, in S3
  total: 1 s, 100 bytes
  map over numbers: 50,000 items, 2,000 STANDARD children of 25, started in 20.0 s, 1,000 at one time

state transitions   8,003       $0.20
Lambda requests     2,002  $0.0004004
Lambda GB-seconds  12,501       $0.21
S3 PUT requests     2,004    $0.01002
S3 GET requests     2,003  $0.0008012
total                           $0.42

time: at least 34.5 s
waits: the map over numbers() would run 1,250 children at one time; the limit is 1,000 invocations
  to avoid it: ask AWS for a higher quota
breaks: total() gets 50,000 results, about 2,862 MB, and has 512 MB; the limit is 10,240 MB
  to avoid it: set @step(memory=2862)

Prices of us-east-1, on demand, as of 2026-11-23, without free tiers.
Not counted: retries, cold starts, logs, traces, data that stays stored.
Functions at one time: 1,000, AWS's default, since no account could be asked. A new one may have 10: set \
map_concurrency in lokki.yml.
"""
    )


def test_the_command_asks_the_account_how_many_functions_it_runs(
    folder: Path, account: LoopbackAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in account.environ.items():
        monkeypatch.setenv(name, value)
    account.functions_at_once = 50
    told = run(steps.doubled(), "--items", "500", "--seconds", "double=10")
    account.functions_at_once = 1_000
    assert "500 STANDARD children of 1, started in 5.00 s, 50 at one time" in told
    assert "time: at least 1 min 42 s\nwaits: the map over numbers() would run 500 children at one time; " in told
    assert told.endswith("Functions at one time: 50, as the account in us-east-1 says.\n")


def test_a_setting_says_how_many_functions_run_without_an_account(folder: Path) -> None:
    (folder / "lokki.yml").write_text("map_concurrency: 20")
    told = run(steps.doubled(), "--items", "500", "--seconds", "double=10")
    assert "20 at one time" in told
    assert told.endswith("Functions at one time: 20, by map_concurrency.\n")


def test_the_command_uses_the_latest_run(folder: Path) -> None:
    run_folder = folder / ".lokki/runs/one"
    (run_folder / "numbers/map_results").mkdir(parents=True)
    (run_folder / "total").mkdir()
    (run_folder / "run.json").write_text(
        '{"run_id": "one", "flow": "doubled", "params": {}, "plan": [], "code": {}, "status": "finished", '
        '"started": "2026-11-23T10:00:00+00:00"}'
    )
    (run_folder / "numbers/output.json").write_text(
        '{"items": 10, "map_manifest_key": "one/numbers/map_manifest.json"}'
    )
    (run_folder / "numbers/map_manifest.json").write_text("x" * 300)
    (run_folder / "numbers/map_results/part-0001.jsonl").write_text("x" * 500)
    (run_folder / "total/output.json").write_text('{"result_url": "local:///one/total/output.pkl.gz"}')
    (run_folder / "total/output.pkl.gz").write_bytes(b"x" * 5000)
    (run_folder / "events.jsonl").write_text(
        '{"event": "step_finished", "id": "numbers", "seconds": 2.0, "size": 300, "items": 10}\n'
        '{"event": "items_finished", "id": "numbers", "count": 4, "seconds": 1.0}\n'
        '{"event": "items_finished", "id": "numbers", "count": 6, "seconds": 2.0}\n'
        '{"event": "step_finished", "id": "total", "seconds": 4.0, "size": 5000, "items": null}\n'
        '{"event": "map_started", "items": ["not", "counted"]}\n{"event": "run_fin'
    )
    head = run(steps.doubled()).splitlines()[:5]
    assert head == [
        "doubled, each step measured in one, or as given:",
        "  numbers: 2 s, 30 bytes",
        "  double: 0.3 s, 10 bytes",
        "  total: 4 s, 5,000 bytes, in S3",
        "  map over numbers: 10 items, 10 STANDARD children of 1, started in 0.10 s, 10 at one time",
    ]
    assert run(steps.doubled(), "--items", "7", "--seconds", "total=1").splitlines()[1:5] == [
        "  numbers: 2 s, 30 bytes",
        "  double: 0.3 s, 10 bytes",
        "  total: 1 s, 5,000 bytes, in S3",
        "  map over numbers: 7 items, 7 STANDARD children of 1, started in 0.07 s, 7 at one time",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ParameterError: how many items does numbers() give? Say it: --items numbers=1000."),
        (["--items", "double=5"], "BadParameter: there is no 'double' (there are maps over: numbers)."),
        (["--seconds", "fly=5"], "BadParameter: there is no 'fly' (there are steps: numbers, double, total)."),
        (["--items", "many"], "BadParameter: 'many': give a whole number, such as numbers=5."),
        (["--items", "1.5"], "BadParameter: '1.5': give a whole number, such as numbers=5."),
        (["--items", "-3"], "BadParameter: '-3': give a whole number, such as numbers=5."),
        (["--seconds", "double=nan"], "BadParameter: 'double=nan': give seconds, such as numbers=5."),
        (["--bytes", "inf"], "BadParameter: 'inf': give a whole number, such as numbers=5."),
    ],
)
def test_the_command_says_what_is_missing_or_wrong(folder: Path, arguments: list[str], message: str) -> None:
    assert run(steps.doubled(), *arguments) == message


def test_the_command_takes_the_flows_parameters(folder: Path) -> None:
    found = run(steps.chained(), "--items", "5", "--log", "x" * 270_000)
    assert "the parameters have 270,010 bytes as JSON, and a run takes 180,000" in found


# --- graphs ---


@step
def rows(count: int = 4) -> list[int]:
    return list(range(count))


@step
def blob(values: list[int]) -> bytes:
    return bytes(values)


@step
def shift(value: int, by: bytes) -> int:
    return value + len(by)


@step
def is_small(value: int) -> bool:
    return value >= 0


@step
def is_even(value: int) -> bool:
    return value % 2 == 0


@step
def twice(value: int) -> int:
    return value * 2


@step
def summed(values: list[int]) -> int:
    return sum(values)


@step
def gathered(values: list[object], raw: bytes) -> int:
    return len(values) + len(raw)


@flow
def branches(count: int = 4):
    source = rows(count)
    raw = source.next(blob)
    shifted = source.map(shift(by=raw.result)).switch(is_small, {True: twice}, default=twice).agg(summed)
    # Each batch has items for both cases, as is counted.
    batched = source.map(shift(by=b""), batch=2).switch(is_even, {True: twice, False: twice}).next(twice).agg(summed)
    chosen = shifted.switch(is_small, {True: twice, False: twice})
    return gathered([chosen.result, batched.result], raw=raw.result)


@flow
def two_starts(count: int = 4):
    one, other = rows(count), rows(3)
    return gathered([one.result, other.result], raw=one.next(blob).result), other.next(summed)


@flow
def side_by_side(count: int = 4):
    raw, other = rows(count).next(blob), rows(3).next(summed)
    return gathered([other.result], raw=raw.result)


@pytest.mark.parametrize("drawn", [branches, two_starts, side_by_side])
def test_what_a_graph_does_is_what_the_emulator_counts(s3: S3Server, drawn: Callable[[], FlowGraph]) -> None:
    config = LokkiConfig(artifact_bucket="acme-artifacts")
    deployed = Deployed(drawn(), config, s3)
    before = deployed.methods()
    assert deployed.run({}, "run").status == "SUCCEEDED"
    counted = deployed.methods() - before
    compiled = compile_flow(drawn(), config)
    stored = {"blob": Measure(0.5, 30, stored=True)}
    measures = {call.id: stored.get(call.step, Measure(0.5, 30)) for call in compiled.plan.calls}
    found = estimate(compiled, Workload({"rows": 4}, measures))
    assert (found.transitions, found.children) == (deployed.transitions(), deployed.children())
    assert (found.requests.invocations, found.requests.puts, found.requests.gets) == (
        deployed.functions.invocations.total(), counted["PUT"], counted["GET"],
    )  # fmt: skip


def test_branches_take_as_long_as_the_longest_and_cost_as_much_as_all() -> None:
    compiled = compile_flow(two_starts(), LokkiConfig(artifact_bucket="acme-artifacts"))
    measures = {"rows": Measure(1.0), "rows_2": Measure(5.0), "blob": Measure(2.0), "summed": Measure(4.0)}
    found = estimate(compiled, Workload({}, measures | {"gathered": Measure(1.0)}))
    assert found.seconds == 5.0 + max(1.0 + 2.0 + 1.0, 4.0)
    assert found.requests.gigabyte_seconds == pytest.approx((5 + 1 + 2 + 1 + 4) * 512 / 1024)


@step
def small(value: int) -> bytes:
    return bytes(value)


@step
def both(first: bytes, second: bytes) -> int:
    return len(first) + len(second)


@step
def larger(raw: bytes) -> bytes:
    return raw * 2


@step
def sized(raw: bytes | int) -> int:
    return len(raw) if isinstance(raw, bytes) else raw


@flow
def pairs(row: int):
    first = small(row)
    return both(first.result, second=first.next(larger).result)


@flow
def stored_choices(count: int = 4):
    source = rows(count)
    inside = source.map(pairs).agg(summed)
    return inside.switch(is_small, {False: twice, True: small}).next(sized)


def test_values_of_cases_and_of_items_are_fetched_as_often_as_the_emulator_counts(s3: S3Server) -> None:
    config = LokkiConfig(artifact_bucket="acme-artifacts")
    deployed = Deployed(stored_choices(), config, s3)
    before = deployed.methods()
    assert deployed.run({}, "run").status == "SUCCEEDED"
    counted = deployed.methods() - before
    compiled = compile_flow(stored_choices(), config)
    stored = {"small", "larger"}
    measures = {call.id: Measure(0.5, 30, call.step in stored) for call in compiled.plan.calls}
    found = estimate(compiled, Workload({"rows": 4}, measures))
    assert (found.requests.puts, found.requests.gets) == (counted["PUT"], counted["GET"])


@flow
def cheap_or_dear(count: int = 4):
    cases = {True: many, False: twice}
    return rows(count).next(summed).switch(is_small, cases)


@flow
def many(value: int):
    return rows(value).map(twice, batch=1).agg(summed)


def test_the_dearest_case_is_the_one_that_costs_most_whatever_takes_its_time() -> None:
    compiled = compile_flow(cheap_or_dear(), LokkiConfig(artifact_bucket="acme-artifacts"))
    [inner] = [block.source for block in compiled.maps]

    def dollars(seconds: float) -> float:
        measures = {call.id: Measure(0.001) for call in compiled.plan.calls} | {"twice": Measure(seconds)}
        return estimate(compiled, Workload({inner: 100_000}, measures)).dollars

    assert dollars(0.001) == pytest.approx(dollars(60.0))
    assert dollars(60.0) > 5


@flow
def twice_again(value: int):
    return twice(value).next(twice)


@flow
def unequal_cases(count: int = 4):
    return rows(count).map(shift(by=b"")).switch(is_even, {True: twice, False: twice_again}).agg(summed)


def test_of_a_map_with_a_switch_the_measured_seconds_are_divided_among_its_longest_case(tmp_path: Path) -> None:
    log = tmp_path / "runs/one/events.jsonl"
    log.parent.mkdir(parents=True)
    (log.parent / "run.json").write_text(
        '{"run_id": "one", "flow": "unequal-cases", "params": {}, "plan": [], "code": {}, "status": "finished", '
        '"started": "2026-11-23T10:00:00+00:00"}'
    )
    log.write_text('{"event": "items_finished", "id": "rows", "count": 10, "seconds": 4.0}\n')
    measured = measure_latest_run(lower(unequal_cases()), tmp_path)
    assert measured is not None
    seconds = sorted(measure.seconds for measure in measured.measures.values())
    assert seconds == [pytest.approx(0.1)] * 5  # of five calls an item meets four at most


@step
def load_page(number: int) -> bytes:
    time.sleep(0.02)
    return os.urandom(20_000)


@step
def count_bytes(page: bytes) -> int:
    return len(page)


@flow
def pages(count: int = 6):
    return steps.numbers(count).map(load_page).map(count_bytes).agg(summed)


@pytest.mark.parametrize("executor", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_each_step_of_a_map_is_measured_by_itself(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    assert local.run(pages(), run_id="one") == 120_000
    with (tmp_path / "runs/one/events.jsonl").open("w") as log:
        for event in local.events:
            JsonLines(log).show(event, RunReport())
    measured = measure_latest_run(lower(pages()), tmp_path)
    assert measured is not None
    slow, quick = measured.measures["load_page"], measured.measures["count_bytes"]
    assert (slow.seconds >= 0.02, slow.stored, 20_000 < slow.size < 21_000) == (True, True, True)
    assert (quick.seconds < 0.01, quick.stored, quick.size < 100) == (True, False, True)


@flow
def read_whole(count: int = 4):
    source = rows(count)
    return gathered([source.map(twice).agg(summed).result], raw=source.next(blob).result)


def test_of_a_source_that_is_read_as_one_value_all_items_are_fetched() -> None:
    compiled = compile_flow(read_whole(), LokkiConfig(artifact_bucket="acme-artifacts"))

    def fetched(size: int) -> int:
        measures = {"rows": Measure(1.0, size, stored=True)}
        return estimate(compiled, Workload({"rows": 4}, measures)).requests.gets

    item = 9 * 2**20
    assert (gets(item), gets(4 * item)) == (1, 6)
    assert fetched(item) - fetched(10) == 6 - 1


@pytest.mark.parametrize("lasts", [995, 996])
def test_of_a_switch_the_longest_case_counts_for_the_history_of_a_run(lasts: int) -> None:
    """With 995 calls after the fork there are 25,000 events: two, four of the fork, two a switch and five a call."""
    call = graph_plans.call

    def chain(name: str, length: int) -> tuple[Op, ...]:
        return tuple(call(f"{name}_{number}", step="work") for number in range(length))

    def switched(name: str) -> tuple[Op, ...]:
        cases = [Case(text, chain(f"{name}_{text}", length), "") for text, length in (("few", 900), ("many", 2_000))]
        return call(name, step="work", cases=("few", "many")), Switch(f"{name}.switch", name, tuple(cases))

    fork = Fork("a.fork", (switched("a"), switched("b")))
    compiled = graph_plans.compiled(graph_plans.plan_of(call("first", step="work"), fork, *chain("last", lasts)))
    met = problems(compiled, Workload({}), estimate(compiled, Workload({})))
    assert [problem.text for problem in met] == (["the run's history has 25005 events"] if lasts == 996 else [])
