"""What a run of a deployed flow will cost and how long it will take at least, counted from its plan. Pure functions.

Counted is what a run does in which nothing fails: retries, cold starts, logs, traces and stored bytes come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lokki.builder.state_machine import BATCH_BYTES
from lokki.builder.timing import execution_type
from lokki.config import LokkiConfig
from lokki.errors import ParameterError
from lokki.estimate import prices
from lokki.estimate.prices import Price
from lokki.plan import Call, FanOut, Plan

_INLINE_ENTRY = 24
"""Bytes of an entry of a manifest around a value: ``{"index":100000,"item":}``."""
_STORED_ENTRY = 180
"""Bytes of an entry that says where the value is."""

_PART = 8 * 2**20
"""Bytes that the store uploads or downloads at a time, and from which on an upload has several requests."""
_PARALLEL = 4 * _PART
"""Bytes from which on the store downloads an object in several requests."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a step is: seconds for one call of it, and the bytes of its result, or of one item of it for a map's source.

    ``stored``: whether that goes to S3 and does not travel inside of the states.
    """

    seconds: float = 1.0
    size: int = 100
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What is estimated: the number of items of each map, by its source's id, and a measure of each step, by its id.

    ``functions_at_once``: how many functions the account runs at one time.
    """

    items: Mapping[str, int]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    functions_at_once: int = prices.FUNCTIONS_AT_ONCE.value

    def measure(self, call: Call) -> Measure:
        """Return the measure of a call: its own, else a second and a small result."""
        return self.measures.get(call.id, Measure())


@dataclass(frozen=True, slots=True)
class Requests:
    """How often a part of a run asks S3 and Lambda for something, and the gigabyte-seconds that functions run."""

    puts: int = 0
    gets: int = 0
    invocations: int = 0
    gigabyte_seconds: float = 0.0

    def __add__(self, other: Requests) -> Requests:
        return Requests(
            self.puts + other.puts,
            self.gets + other.gets,
            self.invocations + other.invocations,
            self.gigabyte_seconds + other.gigabyte_seconds,
        )


@dataclass(frozen=True, slots=True)
class MapEstimate:
    """One map block: how many child executions it starts, each with at most ``batch`` items, and what each takes.

    ``at_once``: how many of them run at one time; ``dispatch``: the seconds that starting all of them takes at least.
    """

    id: str
    express: bool
    items: int
    batch: int
    children: int
    child_seconds: float
    at_once: int
    dispatch: float
    seconds: float

    @property
    def shares(self) -> tuple[tuple[int, int], ...]:
        """How many children have how many items each: the last one may have fewer than the others."""
        full, rest = divmod(self.items, self.batch)
        return tuple(share for share in ((full, self.batch), (min(rest, 1), rest)) if share[0])


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the bill."""

    price: Price
    quantity: float

    @property
    def dollars(self) -> float:
        """What it costs."""
        return self.price.of(self.quantity)


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that was counted. ``seconds``: how long the run takes at least."""

    transitions: int
    express_executions: int
    express_gigabyte_hours: float
    requests: Requests
    maps: tuple[MapEstimate, ...]
    seconds: float
    lines: tuple[Line, ...]

    @property
    def children(self) -> int:
        """How many child executions are started."""
        return sum(each.children for each in self.maps)

    @property
    def dollars(self) -> float:
        """What the run costs."""
        return sum(line.dollars for line in self.lines)


def estimate(plan: Plan, config: LokkiConfig, workload: Workload) -> Estimate:
    """Count what a run will do.

    Raises ParameterError for a map whose number of items is not given, ConfigError for settings that cannot be built.
    """
    requests = Requests()
    maps: list[MapEstimate] = []
    transitions, seconds, express_hours = 0, 0.0, 0.0
    for position, op in enumerate(plan.ops):
        transitions += 1
        if isinstance(op, FanOut):
            each = estimate_map(plan, op, config, workload)
            maps.append(each)
            requests += _map_requests(op, each, config, workload)
            transitions += each.children * (1 if each.express else 1 + len(op.inner))
            if each.express:
                express_hours += _express_hours(each)
            seconds += each.seconds
        else:
            before = plan.ops[position - 1] if position else None
            requests += _call_requests(plan, position, config, workload)
            if isinstance(before, FanOut):
                requests += _reading_results(before, maps[-1], workload)
            seconds += workload.measure(op).seconds
    express = sum(each.children for each in maps if each.express)
    lines = (
        Line(prices.TRANSITIONS, transitions),
        Line(prices.EXPRESS_REQUESTS, express),
        Line(prices.EXPRESS_DURATION, express_hours),
        Line(prices.LAMBDA_REQUESTS, requests.invocations),
        Line(prices.LAMBDA_DURATION[config.architecture], requests.gigabyte_seconds),
        Line(prices.S3_PUTS, requests.puts),
        Line(prices.S3_GETS, requests.gets),
    )
    return Estimate(transitions, express, express_hours, requests, tuple(maps), seconds, lines)


def estimate_map(plan: Plan, op: FanOut, config: LokkiConfig, workload: Workload) -> MapEstimate:
    """Count what a map block starts, and how long it takes at least."""
    if op.id not in workload.items:
        raise ParameterError(f"how many items does {op.id}() give? Say it: --items {op.id}=1000.")
    items = workload.items[op.id]
    source = workload.measures.get(op.id, Measure())
    batch = min(op.options.batch or 1, max(1, BATCH_BYTES // entry_size(source)), max(items, 1))
    children = math.ceil(items / batch)
    express = execution_type(plan, op, config) == "EXPRESS"
    child_seconds = batch * sum(workload.measure(call).seconds for call in op.inner)
    rate = (prices.EXPRESS_STARTS if express else prices.STANDARD_STARTS).value
    at_once = min(
        op.options.concurrency or workload.functions_at_once,
        prices.CHILDREN_AT_ONCE.value,
        workload.functions_at_once,
        max(children, 1),
    )
    dispatch = children / rate
    seconds = max(dispatch + child_seconds, math.ceil(children / at_once) * child_seconds) if children else 0.0
    return MapEstimate(op.id, express, items, batch, children, child_seconds, at_once, dispatch, seconds)


def entry_size(measure: Measure) -> int:
    """Return the bytes of an item, or of an item's result, in manifests and in states."""
    return _STORED_ENTRY if measure.stored else _INLINE_ENTRY + measure.size


def memory(call: Call, config: LokkiConfig) -> int:
    """Return the megabytes of a call's function."""
    return call.step.options.memory or config.lambda_defaults.memory


def puts(size: int) -> int:
    """Return the requests that an upload of so many bytes has: one, or one for each part and two around them."""
    return 1 if size <= _PART else math.ceil(size / _PART) + 2


def gets(size: int) -> int:
    """Return the requests that a download of so many bytes has: one, or one for each part and the first."""
    return 1 if size < _PARALLEL else math.ceil(size / _PART) + 1


def _express_hours(each: MapEstimate) -> float:
    """Return the gigabyte-hours of a map's EXPRESS children."""
    seconds = 0.0
    for children, items in each.shares:
        # Rounded before it is rounded up: 0.7 / 0.1 is a little less than 7 in binary, and 0.3 / 0.1 a little more.
        ticks = math.ceil(round(each.child_seconds * items / each.batch / prices.EXPRESS_TICK, 6))
        seconds += children * max(ticks, 1) * prices.EXPRESS_TICK
    return seconds * prices.EXPRESS_MEMORY / 1024 / 3600


def _invocations(call: Call, config: LokkiConfig, count: int, seconds: float) -> Requests:
    billed = max(math.ceil(round(seconds * 1000, 6)), 1) / 1000
    return Requests(invocations=count, gigabyte_seconds=count * billed * memory(call, config) / 1024)


def _call_requests(plan: Plan, position: int, config: LokkiConfig, workload: Workload) -> Requests:
    """Count what a call outside of maps does, without reading the results of a map."""
    call = plan.ops[position]
    assert isinstance(call, Call)
    measure = workload.measure(call)
    requests = _invocations(call, config, 1, measure.seconds)
    before = plan.ops[position - 1] if position else None
    if isinstance(before, Call) and workload.measure(before).stored:
        requests += Requests(gets=gets(workload.measure(before).size))
    if call.fans_out:
        items = workload.items.get(call.id, 0)
        pack = items * measure.size if measure.stored else 0
        return requests + Requests(puts=puts(pack) + puts(items * entry_size(measure)))
    return requests + Requests(puts=puts(measure.size) if measure.stored else 0)


def _map_requests(op: FanOut, each: MapEstimate, config: LokkiConfig, workload: Workload) -> Requests:
    """Count what the children of a map do, what its ItemReader reads and its ResultWriter writes."""
    requests = Requests(gets=1, puts=2 if each.items else 1)  # the manifest; manifest.json and a file of results
    for children, items in each.shares:
        given, spilled = workload.measures.get(op.id, Measure()), False
        for call in op.inner:
            measure = workload.measure(call)
            requests += _invocations(call, config, children, items * measure.seconds)
            read = (items * gets(given.size) if given.stored else 0) + spilled
            spilled = _spills(op, measure, items)
            own = puts(measure.size * items) if measure.stored else 0  # without batch, a share has one item
            requests += Requests(puts=children * (own + spilled), gets=children * read)
            given = measure
    return requests


def _reading_results(op: FanOut, each: MapEstimate, workload: Workload) -> Requests:
    """Count what the step after a map reads: manifest.json, the file of results, and what is stored elsewhere."""
    measure = workload.measure(op.inner[-1])
    requests = Requests(gets=1 + (gets(each.items * entry_size(measure)) if each.items else 0))
    for children, items in each.shares:
        requests += Requests(gets=children if _spills(op, measure, items) else 0)
        if measure.stored:
            # The results of a batch are neighbours in one object, which are read together as far as a part goes.
            together = max(1, min(items, _PART // max(measure.size, 1)))
            requests += Requests(gets=children * math.ceil(items / together) * gets(measure.size * together))
    return requests


def _spills(op: FanOut, measure: Measure, items: int) -> bool:
    """Tell whether a batch's reply is too large for a state, so that it goes to S3."""
    return op.options.batch is not None and items * entry_size(measure) > BATCH_BYTES
