"""What a run of a deployed flow did cost, by what AWS counted of it.

Counted are the state transitions of the run itself, the children of its maps and what Lambda billed; what the children
came through and what went to S3 is what the plan says for these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lokki.builder.compiled import Compiled
from lokki.estimate import prices
from lokki.estimate.cost import CostLine, MapEstimate, Workload, child_transitions, estimate, estimate_map
from lokki.plans.operations import FanOut


@dataclass(frozen=True, slots=True)
class BilledInvocation:
    """What Lambda billed of one invocation.

    ``megabytes``: the memory that its function has.
    """

    call: str
    milliseconds: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class BilledCall:
    """What Lambda billed of all invocations of a call."""

    invocations: int = 0
    seconds: float = 0.0
    gigabyte_seconds: float = 0.0

    def __add__(self, other: BilledInvocation) -> BilledCall:
        seconds = other.milliseconds / 1000
        gigabytes = other.megabytes / 1024
        return BilledCall(self.invocations + 1, self.seconds + seconds, self.gigabyte_seconds + seconds * gigabytes)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a run did cost.

    - ``estimated``: what an estimate says for the same numbers of items, None without measures
    - ``notes``: how both were found, in words
    """

    lines: tuple[CostLine, ...]
    estimated: tuple[CostLine, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def dollars(self) -> float:
        """What the run did cost in all."""
        return sum(line.dollars for line in self.lines)


@dataclass(frozen=True, slots=True)
class CountedUsage:
    """What AWS counted of a run.

    - ``transitions``: of the run itself, without those of its children
    - ``children``: how many each map started, by the map's id
    - ``calls``: what Lambda billed, by the id of the call
    """

    transitions: int
    children: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, BilledCall] = field(default_factory=dict)

    @property
    def invocations(self) -> int:
        """Of how many invocations it is known what they were billed."""
        return sum(call.invocations for call in self.calls.values())


def sum_by_call(billed: Iterable[BilledInvocation]) -> dict[str, BilledCall]:
    """Add up what was billed, by the id of the call."""
    calls: dict[str, BilledCall] = {}
    for invocation in billed:
        calls[invocation.call] = calls.get(invocation.call, BilledCall()) + invocation
    return calls


def spent(compiled: Compiled, workload: Workload, counted: CountedUsage) -> tuple[CostLine, ...]:
    """Return the bill of a run.

    ``workload``: the numbers of items that it had. Raises as `estimate`.
    """
    requests = estimate(compiled, workload).requests
    transitions, executions, hours = counted.transitions, 0, 0.0
    for op in compiled.plan.fan_outs:
        if children := counted.children.get(op.id, 0):
            block = replace(estimate_map(compiled, op, workload), children=children)
            transitions += child_transitions(op, block)
            executions += children if block.express else 0
            hours += _express_hours(op, block, counted) if block.express else 0.0
    gigabyte_seconds = sum(call.gigabyte_seconds for call in counted.calls.values())
    return (
        CostLine(prices.TRANSITIONS, transitions),
        CostLine(prices.EXPRESS_REQUESTS, executions),
        CostLine(prices.EXPRESS_DURATION, hours),
        CostLine(prices.LAMBDA_REQUESTS, counted.invocations),
        CostLine(prices.LAMBDA_DURATION[compiled.config.architecture], gigabyte_seconds),
        CostLine(prices.S3_PUTS, requests.puts),
        CostLine(prices.S3_GETS, requests.gets),
    )


def _express_hours(op: FanOut, block: MapEstimate, counted: CountedUsage) -> float:
    """Return the gigabyte-hours of a map's children.

    They last as long as their functions at least.
    """
    seconds = sum(counted.calls.get(call.id, BilledCall()).seconds for call in op.calls) / block.children
    ticks = max(1, math.ceil(round(seconds / prices.EXPRESS_TICK, 6)))
    return block.children * ticks * prices.EXPRESS_TICK * prices.EXPRESS_MEMORY / 1024 / 3600
