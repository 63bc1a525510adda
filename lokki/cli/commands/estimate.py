"""The command ``estimate``: what a run would cost on AWS, how long it would take, and which limits it would meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import click
import msgspec

from lokki.base.quotas import NEW_ACCOUNT_FUNCTIONS
from lokki.builder.compiled import compile_flow
from lokki.cli.commands.runs import ROOT
from lokki.cli.parameters import PREFIX, given_parameters, options_for
from lokki.config import LokkiConfig, load_config
from lokki.errors import AwsError
from lokki.estimate import prices
from lokki.estimate.cost import Estimate, Measure, Workload, estimate
from lokki.estimate.limits import Problem, problems
from lokki.estimate.measured import Measured, measured
from lokki.estimate.savings import EXPRESS, Saving, savings
from lokki.graph import FlowGraph
from lokki.plan import FanOut, Plan
from lokki.progress.displays import seconds as duration

_NOTES = (
    f"Prices of us-east-1, on demand, as of {prices.READ}, without free tiers.",
    "Not counted: retries, cold starts, logs, traces, data that stays stored.",
)


def estimate_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that estimates a run of a flow; it is called as ``<program> estimate [<flow>]``."""
    own: list[click.Parameter] = [
        click.Option(["-p", "pairs"], multiple=True, metavar="NAME=VALUE", help="Set a parameter; may be repeated."),
        click.Option(["--params", "file"], type=click.Path(dir_okay=False), help="Read parameters from a JSON file."),
        click.Option(
            ["--items"], multiple=True, metavar="[STEP=]N", help="How many items a step gives to its map block."
        ),
        click.Option(["--seconds"], multiple=True, metavar="[STEP=]S", help="How long a step takes, for one item."),
        click.Option(
            ["--bytes", "sizes"], multiple=True, metavar="[STEP=]N", help="How large a result, or one item, is."
        ),
        click.Option(["--env"], metavar="NAME", help="Use this environment of lokki.yml (default: $LOKKI_ENV)."),
    ]
    taken = {name for option in own for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    return click.Command(
        "estimate",
        params=[*options_for(graph.params, taken).values(), *own],
        help=f"Estimate what a run of {graph.name} costs on AWS, and which limits it meets. What no option says is "
        f"taken from the latest finished run here, if there is one: {program} runs",
        callback=lambda **options: _estimate(graph, options),
        context_settings={"max_content_width": 100},
    )


def _estimate(graph: FlowGraph, options: dict[str, object]) -> int:
    given = given_parameters(
        graph.params,
        {key: value for key, value in options.items() if key.startswith(PREFIX)},
        _texts(options["pairs"]),
        None if options["file"] is None else str(options["file"]),
    )
    config = load_config(environment=None if options["env"] is None else str(options["env"]))
    compiled = compile_flow(graph, config)
    plan = compiled.plan
    before = measured(plan, ROOT)
    numbers = {name: parsed(plan, _texts(options[name]), f"--{name}") for name in ("items", "seconds")}
    workload = workload_of(plan, before, config, Given(numbers["items"], numbers["seconds"], _sizes(plan, options)))
    functions, why = _functions_at_once(config) if workload.items else (workload.functions_at_once, "")
    workload = replace(workload, functions_at_once=functions)
    found = estimate(compiled, workload)
    size = len(msgspec.json.encode(given))
    limits, cheaper = problems(compiled, workload, found, size), savings(compiled, workload, found)
    click.echo(report(plan, workload, before, found, limits, cheaper))
    if why:
        click.echo(why)
    return 0


def _functions_at_once(config: LokkiConfig) -> tuple[int, str]:
    """Return how many functions the account runs at one time, and a line that says where that is from."""
    if config.map_concurrency:
        return config.map_concurrency, f"Functions at one time: {config.map_concurrency:,}, by map_concurrency."
    # Only here: boto3 takes longer to import than all else that an estimate does.
    from lokki.deploy.aws import connect
    from lokki.deploy.deployment import functions_at_once

    try:
        aws = connect()
        known = functions_at_once(aws, patient=False)
    except AwsError:
        known = 0
    if known:
        return known, f"Functions at one time: {known:,}, as the account in {aws.region} says."
    assumed = prices.FUNCTIONS_AT_ONCE.value
    return assumed, (
        f"Functions at one time: {assumed:,}, AWS's default, since no account could be asked. A new one may have "
        f"{NEW_ACCOUNT_FUNCTIONS}: set map_concurrency in lokki.yml."
    )


class Given(msgspec.Struct, frozen=True):
    """What the command line says, by the ids of steps; under "" what holds for all others."""

    items: Mapping[str, float]
    seconds: Mapping[str, float]
    sizes: Mapping[str, float]


def workload_of(plan: Plan, before: Measured | None, config: LokkiConfig, given: Given) -> Workload:
    """Put together what is estimated: what the command line says, else the latest run, else a second and 100 bytes."""
    items = dict(before.items) if before is not None else {}
    for op in plan.ops:
        if isinstance(op, FanOut) and (count := given.items.get(op.source, given.items.get(""))) is not None:
            items[op.source] = int(count)
    measures: dict[str, Measure] = {}
    for call in plan.calls:
        known = before.measures.get(call.id, Measure()) if before is not None else Measure()
        seconds = given.seconds.get(call.id, given.seconds.get("", known.seconds))
        size = given.sizes.get(call.id, given.sizes.get(""))
        if size is None:
            measures[call.id] = Measure(seconds, known.size, known.stored)
        else:
            measures[call.id] = Measure(seconds, int(size), size > config.inline_limit)
    return Workload(items, measures)


def parsed(plan: Plan, texts: Iterable[str], option: str) -> dict[str, float]:
    """Read ``5`` and ``step=5``. Raises click.BadParameter for what is neither, and for a step that there is not."""
    sources = [fan_out.source for fan_out in plan.fan_outs]
    known = sources if option == "--items" else [call.id for call in plan.calls]
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if (equals or name) and name not in known:
            what = "maps over" if option == "--items" else "steps"
            raise click.BadParameter(f"there is no {name!r} (there are {what}: {', '.join(known)}).", param_hint=option)
        try:
            value = float(number.replace("_", ""))
        except ValueError:
            value = -1.0
        if not math.isfinite(value) or value < 0 or (option != "--seconds" and not value.is_integer()):
            wanted = "seconds" if option == "--seconds" else "a whole number"
            raise click.BadParameter(f"{text!r}: give {wanted}, such as {known[0]}=5.", param_hint=option)
        found[name] = value
    return found


def report(
    plan: Plan,
    workload: Workload,
    before: Measured | None,
    found: Estimate,
    limits: Sequence[Problem],
    cheaper: Sequence[Saving],
) -> str:
    """Write an estimate as text.

    It says what is assumed, then maps, the bill, time, limits and what would cost less.
    """
    source = f"measured in {before.run_id}, or as given" if before is not None else "as given, or 1 s"
    lines = [f"{plan.flow}, each step {source}:"]
    lines += [
        f"  {call.id}: {_seconds(workload.measure(call).seconds)}, {workload.measure(call).size:,} bytes"
        f"{', in S3' if workload.measure(call).stored else ''}"
        for call in plan.calls
    ]
    for each in found.maps:
        kind = "EXPRESS" if each.express else "STANDARD"
        lines.append(
            f"  map over {each.id}: {each.items:,} items, {each.children:,} {kind} children of {each.batch}, "
            f"started in {duration(each.dispatch)}, {each.at_once:,} at one time"
        )
    lines += ["", *_bill(found), "", f"time: at least {duration(found.seconds)}"]
    for limit in limits:
        word = "breaks" if limit.breaks else "waits"
        lines.append(f"{word}: {limit.text}; the limit is {limit.limit.value:,} {limit.limit.unit}")
        lines.append(f"  to avoid it: {limit.advice}")
    return "\n".join([*lines, *([] if limits else ["no limit is met"]), *map(saving_text, cheaper), "", *_NOTES])


def saving_text(saving: Saving) -> str:
    """Write what the children of a map cost, and with which setting they cost less."""
    children = f"the {saving.children:,} STANDARD children of the map over {saving.id}()"
    lines = [f"cheaper: {children} cost {dollars(saving.dollars)}"]
    for setting, cost in saving.alternatives:
        limit = ", but a child that waits for a function ends after 5 minutes, too" if setting == EXPRESS else ""
        lines.append(f"  with {setting}: {dollars(cost)}{limit}")
    return "\n".join(lines)


def _bill(found: Estimate) -> list[str]:
    rows = [(line.price.unit, f"{line.quantity:,.6g}" if isinstance(line.quantity, float) else f"{line.quantity:,}",
             dollars(line.dollars)) for line in found.lines if line.quantity]  # fmt: skip
    rows.append(("total", "", dollars(found.dollars)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{unit:<{widths[0]}}  {count:>{widths[1]}}  {cost:>{widths[2]}}" for unit, count, cost in rows]


def dollars(amount: float) -> str:
    """Write an amount with four significant digits, and cents at least.

    >>> dollars(1234.5), dollars(0.5), dollars(0.0000123456), dollars(0)
    ('$1,234.50', '$0.50', '$0.00001235', '$0.00')
    """
    if amount == 0 or amount >= 0.1:
        return f"${amount:,.2f}"
    return f"${amount:.{3 - math.floor(math.log10(amount))}f}"


def _seconds(value: float) -> str:
    return f"{value:.4g} s"


def _sizes(plan: Plan, options: Mapping[str, object]) -> dict[str, float]:
    return parsed(plan, _texts(options["sizes"]), "--bytes")


def _texts(value: object) -> tuple[str, ...]:
    assert isinstance(value, tuple)
    return value
