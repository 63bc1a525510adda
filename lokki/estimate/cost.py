"""What a run of a deployed flow costs and how long it takes at least, counted from its plan.

Counted is what a run does in which nothing fails: retries, cold starts, logs, traces and stored bytes come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lokki.base import quotas
from lokki.builder.batching import concurrency_limit, in_batches, sizes_itself
from lokki.builder.compiled import Compiled
from lokki.builder.states import parameters_state
from lokki.builder.tasks import BATCH_BYTES
from lokki.builder.timing import execution_type, function_timeout
from lokki.engine.batch_size import default_batch
from lokki.errors import ParameterError
from lokki.estimate import prices
from lokki.estimate.prices import Price
from lokki.plan import Plan
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch, operations_in, sources_of
from lokki.plans.templates import Item, Output, Results, Source

_INLINE_ENTRY = 24
"""Bytes of an entry of a manifest around a value: ``{"index":100000,"item":}``."""
_STORED_ENTRY = 180
"""Bytes of an entry that says where the value is."""

_BINDING_SECONDS = 0.001
"""What checking the parameters takes, where that is an invocation of its own."""

_PART = 8 * 2**20
"""Bytes that the store uploads or downloads at a time, and from which on an upload has several requests."""
_PARALLEL = 4 * _PART
"""Bytes from which on the store downloads an object in several requests."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How long a step takes and how much it returns.

    - ``seconds``: of one call
    - ``size``: bytes of its result, or of one item of it for a map's source
    - ``stored``: whether that goes to S3 and does not travel inside of the states
    """

    seconds: float = 1.0
    size: int = 100
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What is estimated.

    - ``items``: the number of items of each map, by its source's id
    - ``measures``: a measure of each step, by the id of its call
    - ``functions_at_once``: how many functions the account runs at one time
    """

    items: Mapping[str, int]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    functions_at_once: int = quotas.FUNCTIONS_AT_ONCE

    def measure(self, call: Call) -> Measure:
        """Return the measure of a call.

        It is its own, else a second and a small result.
        """
        return self.measures.get(call.id, Measure())


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests to S3 and Lambda, and the gigabyte-seconds of functions."""

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
    """The child executions of one map block.

    - ``id``: the name that the map's results are kept under, which is mostly that of its source
    - ``express``: whether the children are EXPRESS executions
    - ``batch``: most items of a child
    - ``in_batches``: whether children have batches, even if of one item
    - ``handed_back``: how often a function hands back what it has no time for
    - ``child_seconds``: what a full child takes
    - ``at_once``: how many children run at one time
    - ``dispatch``: the seconds that starting all of them takes at least
    - ``seconds``: what the whole map takes at least
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
    in_batches: bool = False
    handed_back: int = 0

    @property
    def shares(self) -> tuple[tuple[int, int], ...]:
        """How many children have how many items each.

        The last one may have fewer than the others.
        """
        full, rest = divmod(self.items, self.batch)
        return tuple(share for share in ((full, self.batch), (min(rest, 1), rest)) if share[0])


@dataclass(frozen=True, slots=True)
class CostLine:
    """A line of the bill."""

    price: Price
    quantity: float

    @property
    def dollars(self) -> float:
        """What it costs."""
        return self.price.of(self.quantity)


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that was counted of a run.

    ``seconds``: how long the run takes at least.
    """

    transitions: int
    express_executions: int
    express_gigabyte_hours: float
    requests: Requests
    maps: tuple[MapEstimate, ...]
    seconds: float
    lines: tuple[CostLine, ...]

    @property
    def children(self) -> int:
        """How many child executions are started."""
        return sum(block.children for block in self.maps)

    @property
    def dollars(self) -> float:
        """What the run costs."""
        return sum(line.dollars for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Count:
    """What a part of a run does. Parts that follow each other are added.

    - ``maps``: of its map blocks, by the names that their results are kept under
    - ``express_hours``: gigabyte-hours of EXPRESS children
    """

    requests: Requests = field(default_factory=Requests)
    maps: Mapping[str, MapEstimate] = field(default_factory=dict)
    transitions: int = 0
    seconds: float = 0.0
    express_hours: float = 0.0

    def __add__(self, other: _Count) -> _Count:
        return _Count(
            self.requests + other.requests,
            {**self.maps, **other.maps},
            self.transitions + other.transitions,
            self.seconds + other.seconds,
            self.express_hours + other.express_hours,
        )


def estimate(compiled: Compiled, workload: Workload) -> Estimate:
    """Count what a run will do.

    Of branches side by side the longest counts for the time. Of a switch the dearest case counts: which one runs is not
    known before. Raises ParameterError for a map without a number of items, ConfigError for settings that cannot be
    built.
    """
    counted = _around(compiled, workload) + _Counter(compiled, workload).block(compiled.plan.ops)
    lines = _bill(compiled, counted)
    express = sum(block.children for block in counted.maps.values() if block.express)
    maps = tuple(counted.maps.values())
    return Estimate(counted.transitions, express, counted.express_hours, counted.requests, maps, counted.seconds, lines)


def _bill(compiled: Compiled, counted: _Count) -> tuple[CostLine, ...]:
    requests = counted.requests
    return (
        CostLine(prices.TRANSITIONS, counted.transitions),
        CostLine(prices.EXPRESS_REQUESTS, sum(block.children for block in counted.maps.values() if block.express)),
        CostLine(prices.EXPRESS_DURATION, counted.express_hours),
        CostLine(prices.LAMBDA_REQUESTS, requests.invocations),
        CostLine(prices.LAMBDA_DURATION[compiled.config.architecture], requests.gigabyte_seconds),
        CostLine(prices.S3_PUTS, requests.puts),
        CostLine(prices.S3_GETS, requests.gets),
    )


def _around(compiled: Compiled, workload: Workload) -> _Count:
    """Count the states before and after the plan's own.

    A flow that begins with branches has its parameters checked first; a result that is not the last one's is fetched.
    """
    plan = compiled.plan
    binding = _Count()
    if parameters_state(plan) is not None:
        first = next(plan.calls)
        binding = _Count(_invocations(compiled, first, 1, _BINDING_SECONDS), transitions=1)
    return binding if plan.result is None else binding + _Count(transitions=1)


class _Counter:
    """Counts the operations of a plan, one after another."""

    def __init__(self, compiled: Compiled, workload: Workload) -> None:
        self._compiled = compiled
        self._workload = workload

    def block(self, block: Block) -> _Count:
        """Count a block."""
        counted = _Count()
        for op in block:
            counted += self._op(op)
        return counted

    def _op(self, op: Op) -> _Count:
        match op:
            case Call():
                return self._call(op)
            case FanOut():
                return self._map(op)
            case Fork():
                branches = [self.block(branch) for branch in op.branches]
                summed = sum(branches, _Count(transitions=1))
                return replace(summed, seconds=max(branch.seconds for branch in branches))
            case Switch():
                dearest = max((self.block(case.block) for case in op.cases), key=self._dollars)
                return _Count(transitions=1) + dearest

    def _dollars(self, counted: _Count) -> tuple[float, float]:
        """Order what could run instead of each other, the dearest last."""
        return sum(line.dollars for line in _bill(self._compiled, counted)), counted.seconds

    def _call(self, call: Call) -> _Count:
        requests = _call_requests(self._compiled, call, self._workload)
        for source in sources_of(call):
            requests += self._reading(source)
        return _Count(requests, transitions=1, seconds=self._workload.measure(call).seconds)

    def _map(self, op: FanOut) -> _Count:
        return self.map_of(op, estimate_map(self._compiled, op, self._workload))

    def map_of(self, op: FanOut, block: MapEstimate) -> _Count:
        """Count a map block whose children are counted already."""
        outside = Requests()
        for source in op.outside:
            readers = sum(source in sources_of(call) for call in op.calls)
            outside += _times(self._reading(source), readers * block.children)
        return _Count(
            _map_requests(self._compiled, op, block, self._workload) + outside,
            {op.key: block},
            1 + child_transitions(op, block),
            block.seconds,
            _express_hours(block) if block.express else 0.0,
        )

    def _reading(self, source: Source) -> Requests:
        """Count what one call fetches of a value."""
        match source:
            case Output(op_id):
                measure = measure_of(self._compiled.plan, self._workload, op_id)
                items = self._workload.items.get(op_id, 1)  # what a map's source gives is read whole
                return Requests(gets=gets(items * measure.size) if measure.stored else 0)
            case Results(fan_out_id):
                op = self._compiled.plan.fan_out(fan_out_id)
                block = estimate_map(self._compiled, op, self._workload)
                return _reading_results(self._compiled.plan, op, block, self._workload)
            case Item():
                return Requests()


def measure_of(plan: Plan, workload: Workload, op_id: str) -> Measure:
    """Return the measure of what a call or a switch gives.

    Of a switch, that of the case that gives most.
    """
    op = next(op for op in operations_in(plan.ops) if op.id == op_id)
    if isinstance(op, Switch):
        measures = [measure_of(plan, workload, case.output) for case in op.cases]
        return max(measures, key=lambda measure: (measure.stored, measure.size))
    return workload.measure(op) if isinstance(op, Call) else Measure()


def _times(requests: Requests, count: int) -> Requests:
    return Requests(gets=requests.gets * count)


def path_of(block: Block, workload: Workload) -> tuple[Call | Switch, ...]:
    """Return the calls and switches of a map's body that an item meets.

    Of a switch, those of the case that takes longest.
    """
    path: list[Call | Switch] = []
    for op in block:
        match op:
            case Call():
                path.append(op)
            case Switch():
                cases = [path_of(case.block, workload) for case in op.cases]
                path += [op, *max(cases, key=lambda case: _path_seconds(case, workload))]
            case Fork() | FanOut():
                raise TypeError(f"the body of a map holds {op.id}")
    return tuple(path)


def _path_seconds(path: Sequence[Call | Switch], workload: Workload) -> float:
    return sum(workload.measure(op).seconds for op in path if isinstance(op, Call))


def estimate_map(compiled: Compiled, op: FanOut, workload: Workload) -> MapEstimate:
    """Count what a map block starts, and how long it takes at least."""
    if op.source not in workload.items:
        raise ParameterError(f"how many items does {op.source}() give? Say it: --items {op.source}=1000.")
    express = execution_type(compiled, op) == "EXPRESS"
    batched = in_batches(compiled, op)
    batch = op.options.batch or 1
    if sizes_itself(compiled, op):
        batch = default_batch_of(compiled, op, workload)
    block = count_children(compiled, op, workload, batch, express=express, batched=batched)
    again = sum(_handed_back(compiled, call, block, workload) for call in op.calls) if batched else 0
    return replace(block, handed_back=again)


def map_dollars(compiled: Compiled, op: FanOut, workload: Workload, block: MapEstimate) -> float:
    """Return what a map block costs whose children are counted already."""
    return sum(line.dollars for line in _bill(compiled, _Counter(compiled, workload).map_of(op, block)))


def default_batch_of(compiled: Compiled, op: FanOut, workload: Workload) -> int:
    """Return how many items a batch of a map has that sizes itself."""
    return default_batch(workload.items[op.source], batches_at_once(compiled, op, workload))


def batches_at_once(compiled: Compiled, op: FanOut, workload: Workload) -> int:
    """Return for how many functions the batches of a map are made."""
    return concurrency_limit(compiled, op) or min(workload.functions_at_once, quotas.CHILDREN_AT_ONCE)


def _handed_back(compiled: Compiled, call: Call, block: MapEstimate, workload: Workload) -> int:
    """Return how often the function of a call hands items back."""
    in_time = items_in_time(compiled, call, workload)
    if block.batch <= in_time:
        return 0
    return sum(children * (math.ceil(items / in_time) - 1) for children, items in block.shares)


def items_in_time(compiled: Compiled, call: Call, workload: Workload) -> int:
    """Return for how many items of a batch the function of a call has time."""
    seconds, timeout = workload.measure(call).seconds, function_timeout(compiled, compiled.step_of(call))
    return max(1, int(round(timeout / max(seconds, 1e-6), 6)))  # rounded, as 0.7 / 0.1 is a little less than 7


def count_children(
    compiled: Compiled, op: FanOut, workload: Workload, batch: int, *, express: bool, batched: bool
) -> MapEstimate:
    """Count the children of a map for a size of batches and a kind of child."""
    items = workload.items[op.source]
    source = workload.measures.get(op.source, Measure())
    batch = min(batch, max(1, BATCH_BYTES // entry_size(source)), max(items, 1))
    children = math.ceil(items / batch)
    child_seconds = batch * _path_seconds(path_of(op.body, workload), workload)
    # More children may start than functions run; those wait, in the map or for a function.
    at_once = min(
        concurrency_limit(compiled, op) or workload.functions_at_once,
        quotas.CHILDREN_AT_ONCE,
        workload.functions_at_once,
        max(children, 1),
    )
    dispatch = children / starts_per_second(express=express)
    seconds = max(dispatch + child_seconds, math.ceil(children / at_once) * child_seconds) if children else 0.0
    return MapEstimate(op.key, express, items, batch, children, child_seconds, at_once, dispatch, seconds, batched)


def starts_per_second(*, express: bool) -> int:
    """Return how many children a map starts in a second."""
    return quotas.EXPRESS_STARTS if express else quotas.STANDARD_STARTS


def child_transitions(op: FanOut, block: MapEstimate) -> int:
    """Return the transitions that the children of a map are billed.

    The start of each child is one, and a STANDARD child has one for each of its states: steps, and Choices of switches.
    An item meets one case of each; a batch is shown to all of them, as its items may take each.
    """
    if block.express:
        return block.children
    # A Pass ends a child with a batch. What is handed back is another task, and another question.
    states = _states(op.body, batch=block.in_batches, alone=block.batch == 1)
    return block.children * (1 + states + block.in_batches) + 2 * block.handed_back


def _states(block: Block, *, batch: bool, alone: bool) -> int:
    """Return how many states a child comes through at most.

    ``alone``: whether it has one item, which meets one case of each switch.
    """
    count = 0
    for op in block:
        if isinstance(op, Switch):
            cases = [_states(case.block, batch=batch, alone=alone) for case in op.cases]
            # Before each case of a batch there is a Choice.
            count += (max(cases) if alone else sum(cases)) + (len(cases) if batch else 1)
        else:
            # After each call on a batch, a Choice asks whether items are left.
            count += 2 if batch else 1
    return count


def children_cost(op: FanOut, block: MapEstimate) -> float:
    """Return the dollars of a map's children, without their functions."""
    cost = prices.TRANSITIONS.of(child_transitions(op, block))
    if block.express:
        cost += prices.EXPRESS_REQUESTS.of(block.children) + prices.EXPRESS_DURATION.of(_express_hours(block))
    return cost


def entry_size(measure: Measure) -> int:
    """Return the bytes of an item, or of a result, in manifests and states."""
    return _STORED_ENTRY if measure.stored else _INLINE_ENTRY + measure.size


def puts(size: int) -> int:
    """Return the requests of an upload of so many bytes.

    There is one, or one for each part and two around them.
    """
    return 1 if size <= _PART else math.ceil(size / _PART) + 2


def gets(size: int) -> int:
    """Return the requests of a download of so many bytes.

    There is one, or one for each part and the first.
    """
    return 1 if size < _PARALLEL else math.ceil(size / _PART) + 1


def _express_hours(block: MapEstimate) -> float:
    """Return the gigabyte-hours of a map's EXPRESS children."""
    seconds = 0.0
    for children, items in block.shares:
        # Rounded before it is rounded up: 0.7 / 0.1 is a little less than 7 in binary, and 0.3 / 0.1 a little more.
        ticks = math.ceil(round(block.child_seconds * items / block.batch / prices.EXPRESS_TICK, 6))
        seconds += children * max(ticks, 1) * prices.EXPRESS_TICK
    return seconds * prices.EXPRESS_MEMORY / 1024 / 3600


def _invocations(compiled: Compiled, call: Call, count: int, seconds: float) -> Requests:
    # Lambda bills whole milliseconds; rounded first, as 2.007 * 1000 is a little more than 2,007 in binary.
    billed = max(math.ceil(round(seconds * 1000, 6)), 1) / 1000
    return Requests(invocations=count, gigabyte_seconds=count * billed * compiled.memory(compiled.step_of(call)) / 1024)


def _call_requests(compiled: Compiled, call: Call, workload: Workload) -> Requests:
    """Count what a call outside of maps does.

    What reading its values takes is not part of it.
    """
    measure = workload.measure(call)
    requests = _invocations(compiled, call, 1, measure.seconds)
    if call.fans_out:
        items = workload.items.get(call.id, 0)
        pack = items * measure.size if measure.stored else 0
        requests += Requests(puts=puts(pack) + puts(items * entry_size(measure)))
        return requests + Requests(puts=puts(pack) if call.keeps_value and measure.stored else 0)
    return requests + Requests(puts=puts(measure.size) if measure.stored else 0)


def _map_requests(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> Requests:
    """Count what a map reads, what its children do and what it writes."""
    requests = Requests(gets=1, puts=2 if block.items else 1)  # the manifest; manifest.json and a file of results
    requests += Requests(invocations=block.handed_back)
    for children, items in block.shares:
        spilled = False
        taken = path_of(op.body, workload)
        for call in op.calls if block.batch > 1 else [call for call in taken if isinstance(call, Call)]:
            measure = workload.measure(call)
            # The items of a batch that chose another case cost their way past, and no reading.
            passed = items if call in taken else 0
            requests += _invocations(compiled, call, children, passed * measure.seconds)
            downloads = passed * _fetched_of_item(compiled, op, call, workload) + spilled
            spilled = _spills(block, measure, items)
            own = puts(measure.size * items) if measure.stored else 0  # without batch, a share has one item
            requests += Requests(puts=children * (own + spilled), gets=children * downloads)
    return requests


def _fetched_of_item(compiled: Compiled, op: FanOut, call: Call, workload: Workload) -> int:
    """Return how many requests fetch what an item has for a call."""
    inside = {inner.id for inner in operations_in(op.body)}
    fetched = 0
    for source in sources_of(call):
        if isinstance(source, Item):
            measure = workload.measures.get(op.source, Measure())
        elif source.id in inside:
            measure = measure_of(compiled.plan, workload, source.id)
        else:
            continue
        fetched += gets(measure.size) if measure.stored else 0
    return fetched


def _reading_results(plan: Plan, op: FanOut, block: MapEstimate, workload: Workload) -> Requests:
    """Count what the step after a map reads.

    It reads manifest.json, the file of results, and what is stored elsewhere.
    """
    measure = measure_of(plan, workload, op.result)
    requests = Requests(gets=1 + (gets(block.items * entry_size(measure)) if block.items else 0))
    for children, items in block.shares:
        requests += Requests(gets=children if _spills(block, measure, items) else 0)
        if measure.stored:
            # The results of a batch are neighbours in one object, which are read together as far as a part goes.
            together = max(1, min(items, _PART // max(measure.size, 1)))
            requests += Requests(gets=children * math.ceil(items / together) * gets(measure.size * together))
    return requests


def _spills(block: MapEstimate, measure: Measure, items: int) -> bool:
    """Tell whether a batch's reply is too large for a state.

    Then it goes to S3.
    """
    return block.in_batches and items * entry_size(measure) > BATCH_BYTES
