"""The command ``estimate`` says what a run would cost on AWS, and which limits it would meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import click
import msgspec

from lokki.base.quotas import FUNCTIONS_AT_ONCE, NEW_ACCOUNT_FUNCTIONS
from lokki.builder.compiled import compile_flow
from lokki.builder.cost_limits import declared_seconds, steps_without_seconds
from lokki.cli.commands.runs import ROOT
from lokki.cli.options import (
    DONE,
    SETTINGS,
    env_option,
    pair_options,
    parameter_options,
    parameter_values,
    read_options,
)
from lokki.cli.parameters import read_parameters
from lokki.config import LokkiConfig, load_config
from lokki.errors import AwsError
from lokki.estimate import prices
from lokki.estimate.cost import Estimate, Measure, Workload, estimate
from lokki.estimate.limits import Problem, problems
from lokki.estimate.measured import Measured, measure_latest_run
from lokki.estimate.savings import EXPRESS, Saving, savings
from lokki.graph import FlowGraph
from lokki.plan import Plan
from lokki.progress.displays import seconds as duration
from lokki.runtime.cost_limit import dollars

_NOTES = (
    f"Prices of us-east-1, on demand, as of {prices.READ}, without free tiers.",
    "Not counted: retries, cold starts, logs, traces, data that stays stored.",
)


def estimate_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that estimates a run of a flow.

    It is called as ``<program> estimate [<flow>]``.
    """
    own: list[click.Parameter] = [
        *pair_options(),
        click.Option(
            ["--items"], multiple=True, metavar="[STEP=]N", help="How many items a step gives to its map block."
        ),
        click.Option(["--seconds"], multiple=True, metavar="[STEP=]S", help="How long a step takes, for one item."),
        click.Option(
            ["--bytes", "sizes"], multiple=True, metavar="[STEP=]N", help="How large a result, or one item, is."
        ),
        env_option(),
    ]
    return click.Command(
        "estimate",
        params=[*parameter_options(graph, own).values(), *own],
        help=f"Estimate what a run of {graph.name} costs on AWS, and which limits it meets. What no option says is "
        f"taken from the latest finished run here, if there is one: {program} runs",
        callback=lambda **values: _estimate(graph, values),
        context_settings=SETTINGS,
    )


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """What the command line says of an estimate."""

    pairs: tuple[str, ...] = ()
    file: str | None = None
    items: tuple[str, ...] = ()
    seconds: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    env: str | None = None


def _estimate(graph: FlowGraph, values: dict[str, object]) -> int:
    options = read_options(values, EstimateOptions)
    params = read_parameters(graph.params, parameter_values(values), options.pairs, options.file)
    config = load_config(environment=options.env)
    compiled = compile_flow(graph, config)
    plan = compiled.plan
    latest = measure_latest_run(plan, ROOT)
    workload = workload_of(plan, latest, config, read_numbers(plan, options))
    functions, source = _functions_at_once(config) if workload.items else (workload.functions_at_once, "")
    workload = replace(workload, functions_at_once=functions)
    cost = estimate(compiled, workload)
    size = len(msgspec.json.encode(params))
    limits, cheaper = problems(compiled, workload, cost, size), savings(compiled, workload, cost)
    notes = tuple(seconds_notes(plan, latest))
    click.echo(report(compiled.plan, workload, latest, Findings(cost, limits, cheaper, notes)))
    if source:
        click.echo(source)
    return DONE


def _functions_at_once(config: LokkiConfig) -> tuple[int, str]:
    """Return how many functions the account runs at one time.

    Beside it a line that says where the number is from.
    """
    if config.map_concurrency:
        return config.map_concurrency, f"Functions at one time: {config.map_concurrency:,}, by map_concurrency."
    # Only here: boto3 takes longer to import than all else that an estimate does.
    from lokki.deploy.aws import connect
    from lokki.deploy.deployment import functions_at_once

    try:
        aws = connect()
        limit = functions_at_once(aws, patient=False)
    except AwsError:
        limit = 0
    if limit:
        return limit, f"Functions at one time: {limit:,}, as the account in {aws.region} says."
    return FUNCTIONS_AT_ONCE, (
        f"Functions at one time: {FUNCTIONS_AT_ONCE:,}, AWS's default, since no account could be asked. A new one may "
        f"have {NEW_ACCOUNT_FUNCTIONS}: set map_concurrency in lokki.yml."
    )


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """Numbers by the ids of steps.

    Those under "" hold for all other steps.
    """

    items: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)


def workload_of(plan: Plan, latest: Measured | None, config: LokkiConfig, numbers: StepNumbers) -> Workload:
    """Put together what is estimated.

    It is what the command line says, else what the latest run had, else what the steps say, else a second and 100
    bytes.
    """
    items = dict(latest.items) if latest is not None else {}
    for block in plan.fan_outs:
        if (count := numbers.items.get(block.source, numbers.items.get(""))) is not None:
            items[block.source] = int(count)
    measures: dict[str, Measure] = {}
    measured = latest.measures if latest is not None else {}
    for call in plan.calls:
        measure = measured.get(call.id) or Measure(declared_seconds(plan, call) or Measure().seconds)
        seconds = numbers.seconds.get(call.id, numbers.seconds.get("", measure.seconds))
        size = numbers.sizes.get(call.id, numbers.sizes.get(""))
        if size is None:
            measures[call.id] = Measure(seconds, measure.size, measure.stored)
        else:
            measures[call.id] = Measure(seconds, int(size), size > config.inline_limit)
    return Workload(items, measures)


def read_numbers(plan: Plan, options: EstimateOptions) -> StepNumbers:
    """Read the numbers of the command line, such as ``5`` and ``step=5``.

    Raises click.BadParameter for what is neither, and for a step that there is not.
    """
    sources = [block.source for block in plan.fan_outs]
    steps = [call.id for call in plan.calls]
    return StepNumbers(
        _read_each(options.items, _Numbers("--items", sources, "maps over")),
        _read_each(options.seconds, _Numbers("--seconds", steps)),
        _read_each(options.sizes, _Numbers("--bytes", steps)),
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    """An option that takes numbers, and the steps for which it may."""

    option: str
    ids: Sequence[str]
    noun: str = "steps"

    @property
    def wants_seconds(self) -> bool:
        """Whether fractions are allowed."""
        return self.option == "--seconds"


def _read_each(texts: Iterable[str], numbers: _Numbers) -> dict[str, float]:
    values: dict[str, float] = {}
    ids, option = numbers.ids, numbers.option
    for text in texts:
        name, equals, number = text.rpartition("=")
        if (equals or name) and name not in ids:
            hint = f"there is no {name!r} (there are {numbers.noun}: {', '.join(ids)})."
            raise click.BadParameter(hint, param_hint=option)
        try:
            value = float(number.replace("_", ""))
        except ValueError:
            value = -1.0
        if not math.isfinite(value) or value < 0 or not (numbers.wants_seconds or value.is_integer()):
            noun = "seconds" if numbers.wants_seconds else "a whole number"
            example = f"{ids[0]}=5" if ids else "5"
            raise click.BadParameter(f"{text!r}: give {noun}, such as {example}.", param_hint=option)
        values[name] = value
    return values


@dataclass(frozen=True, slots=True)
class Findings:
    """The cost of a run, the limits that it meets, and what would cost less.

    ``notes``: on the ``seconds=`` of steps.
    """

    cost: Estimate
    limits: Sequence[Problem]
    cheaper: Sequence[Saving]
    notes: Sequence[str] = ()


def seconds_notes(plan: Plan, latest: Measured | None) -> Iterator[str]:
    """Yield which steps should say that they take longer, or how long at all."""
    measures = latest.measures if latest is not None else {}
    unknown = steps_without_seconds(plan) if plan.options.max_cost is not None else []
    for call in plan.calls:
        seconds, measure = declared_seconds(plan, call), measures.get(call.id)
        if call.id in unknown:
            took = "run the flow here to see how long it takes" if measure is None else f"it took {_of(measure)}"
            yield f"not built: max_cost= needs @step(seconds=…) of {call.step}(); {took}"
        elif seconds is not None and measure is not None and measure.seconds > 2 * seconds:
            yield f"slower: {call.id} took {_of(measure)}, and its step says seconds={seconds:g}"


def _of(measure: Measure) -> str:
    return f"{_seconds(measure.seconds)} here"


def report(plan: Plan, workload: Workload, latest: Measured | None, findings: Findings) -> str:
    """Write an estimate as text.

    It says what is assumed, then maps, the bill, time, limits and what would cost less.
    """
    cost, limits = findings.cost, findings.limits
    source = f"measured in {latest.run_id}, or as given" if latest is not None else "as given, or 1 s"
    lines = [f"{plan.flow}, each step {source}:"]
    lines += [
        f"  {call.id}: {_seconds(workload.measure(call).seconds)}, {workload.measure(call).size:,} bytes"
        f"{', in S3' if workload.measure(call).stored else ''}"
        for call in plan.calls
    ]
    for block in cost.maps:
        kind = "EXPRESS" if block.express else "STANDARD"
        lines.append(
            f"  map over {block.id}: {block.items:,} items, {block.children:,} {kind} children of {block.batch}, "
            f"started in {duration(block.dispatch)}, {block.at_once:,} at one time"
        )
    lines += ["", *_bill(cost), "", f"time: at least {duration(cost.seconds)}"]
    for limit in limits:
        word = "breaks" if limit.breaks else "waits"
        lines.append(f"{word}: {limit.text}; the limit is {limit.limit.value:,} {limit.limit.unit}")
        lines.append(f"  to avoid it: {limit.advice}")
    lines += [*([] if limits else ["no limit is met"]), *map(saving_text, findings.cheaper)]
    return "\n".join([*lines, *findings.notes, "", *_NOTES])


def saving_text(saving: Saving) -> str:
    """Write what the children of a map cost, and what makes them cheaper."""
    children = f"the {saving.children:,} STANDARD children of the map over {saving.id}()"
    lines = [f"cheaper: {children} cost {dollars(saving.dollars)}"]
    for setting, cost in saving.alternatives:
        limit = ", but a child that waits for a function ends after 5 minutes, too" if setting == EXPRESS else ""
        lines.append(f"  with {setting}: {dollars(cost)}{limit}")
    return "\n".join(lines)


def _bill(cost: Estimate) -> list[str]:
    rows = [(line.price.unit, f"{line.quantity:,.6g}" if isinstance(line.quantity, float) else f"{line.quantity:,}",
             dollars(line.dollars)) for line in cost.lines if line.quantity]  # fmt: skip
    rows.append(("total", "", dollars(cost.dollars)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{unit:<{widths[0]}}  {count:>{widths[1]}}  {amount:>{widths[2]}}" for unit, count, amount in rows]


def _seconds(value: float) -> str:
    return f"{value:.4g} s"
