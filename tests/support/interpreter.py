"""The meaning of a plan in a page: its calls one after another, as plain functions. Engines are compared with it."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from lokki.base.values import Json
from lokki.engine.invocation import Inputs, Invocation, prepare
from lokki.plan import Plan, bind_parameters
from lokki.plans.levels import drawn_block
from lokki.plans.operations import Block, Call, Case, CaseValue, FanOut, Fork, Switch
from lokki.plans.templates import Item, Output, Results, Source

type Values = Mapping[Source, object]


class MissingCaseError(Exception):
    """A step returned what its switch has no case for."""


def interpret(plan: Plan, params: Mapping[str, object] | None = None) -> object:
    """Return the result of a run. Steps are called once for each call and item, and again as their retries say.

    Raises whatever a step raises, and KeyError for a value that is read before it is there.
    """
    values = Interpreter(plan, bind_parameters(plan.params, params or {})).run(drawn_block(plan.ops), {})
    results = tuple(values[output] for output in plan.outputs)
    return results if plan.returns_tuple else results[0]


class Interpreter:
    """Runs blocks of a plan. ``order`` has the ids of calls as they ran, one for each item.

    What calls, items and cases are is in methods of their own, for plans whose steps are made up.
    """

    def __init__(self, plan: Plan, params: Mapping[str, Json]) -> None:
        self.plan, self.params = plan, params
        self.order: list[str] = []

    def run(self, block: Block, values: Values) -> dict[Source, object]:
        """Run a block and return the values that it was given and those that it made."""
        result = dict(values)
        for op in block:
            match op:
                case Call():
                    self.order.append(op.id)
                    value = self.call(op, result)
                    result[Output(op.id)] = list(value) if op.fans_out and isinstance(value, Iterator) else value
                case FanOut():
                    result[Results(op.id)] = list(self._map(op, result))
                case Fork():
                    # Each branch gets what was there before the fork, and so reads nothing of another one.
                    result |= {s: v for branch in op.branches for s, v in self.run(branch, dict(result)).items()}
                case Switch():
                    case_ = self.case(op, result[Output(op.on)])
                    result[Output(op.id)] = self.run(case_.block, result)[Output(case_.output)]
        return result

    def _map(self, op: FanOut, values: Values) -> Iterator[object]:
        items = list(self.items(values[Output(op.source)]))
        failed = 0
        for item in items:
            try:
                result = self.run(op.body, {**values, Item(): item, Item(op.id): item})
            except Exception:
                failed += 1
                if op.options.too_many(failed, len(items)):
                    raise
            else:
                yield result[Output(op.result)]

    def items(self, value: object) -> Iterable[object]:
        """Return the items of what a source returned."""
        assert isinstance(value, Iterable)
        return value

    def case(self, switch: Switch, value: object) -> Case:
        """Return the case for what a call returned."""
        return chosen(switch, value)

    def call(self, call: Call, values: Values) -> object:
        """Return what a call returns, at its last try or before."""
        invocation = prepare(call, self.plan.steps[call.step], self.params)
        for _ in range(invocation.retry.attempts - 1 if invocation.retry is not None else 0):
            with suppress(Exception):
                return self._once(invocation, call, values)
        return self._once(invocation, call, values)

    def _once(self, invocation: Invocation, call: Call, values: Values) -> object:
        # Anew for each use, since a step may change what it gets.
        first = None if call.reads is None else anew(values[call.reads])
        if not invocation.values:
            return invocation(first)
        return invocation(Inputs(first, {source: anew(values[source]) for source in invocation.values}))


def anew(value: object) -> object:
    copied: object = pickle.loads(pickle.dumps(value))
    return copied


def chosen(switch: Switch, value: object) -> Case:
    """Return the case for what a step returned. True is not 1 here."""
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, bool | int | str) else value.name
    for case in switch.cases:
        if case.value is None or (is_kind_of(case.value, value) and case.value == value):
            return case
    raise MissingCaseError(f"{switch.on}: {value!r}")


def is_kind_of(case: CaseValue, value: object) -> bool:
    return isinstance(case, bool) == isinstance(value, bool)
