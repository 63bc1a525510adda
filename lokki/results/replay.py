"""Running one step of a finished or failed run again, here, on exactly the input that it had there."""

from __future__ import annotations

import os
import pdb
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import FrameType, TracebackType
from typing import NoReturn, TextIO

from lokki.base.failures import users_place
from lokki.base.item_path import ItemPath, format_item
from lokki.base.values import Json
from lokki.engine.context import at_item
from lokki.engine.invocation import Attempts, Inputs, Invocation, prepare, run
from lokki.engine.switching import choose_case
from lokki.errors import ParameterError, RunError, StoreError
from lokki.local_run.body import ITEM, Body, body_of
from lokki.local_run.local_secrets import check_resources, secret_values
from lokki.local_run.schedule import units_in
from lokki.local_run.shared_values import copies_of
from lokki.local_run.worker import ItemState, environment
from lokki.plan import Plan, bind_parameters
from lokki.plans.levels import drawn_sources
from lokki.plans.operations import Call, Case, FanOut, Switch, calls_in, giver_of, operations_in
from lokki.plans.templates import Item, Output, Results, Source, source_name
from lokki.results.flow_results import Items, Run
from lokki.store.codec import dumps, loads
from lokki.store.manifest import check_items


@dataclass(frozen=True, slots=True)
class Replay:
    """One call of a run with all that it needs.

    ``value`` is what comes down the chain, None for a first step.
    """

    call: Call
    invocation: Invocation
    value: object
    item: ItemPath = ()

    def run(self) -> object:
        """Run the step once and return its result.

        Without its retries and its timeout; a source's items come as a list.

        The result must pickle, as in a run. Raises StepFailedError, whose cause is what the step raised.
        """
        return _run_once(self.call, self.invocation, self.value, self.item)


def fetch(plan: Plan, of: Run, step_id: str, item: ItemPath, tell: Callable[[str], None]) -> Replay:
    """Fetch the input that a step had in a run.

    ``item``: the path of the item, for a step inside of a map block.

    Where the run does not keep what an earlier step of the map block returned for the item, that step is run again,
    and ``tell`` is told. Raises ParameterError for a step or an item that there is not, RunError for an item that did
    not get as far, StoreError where the input is not there, StepFailedError when an earlier step fails now.
    """
    call, block = _find(plan, step_id, of)
    names = {param.name for param in plan.params}
    params = bind_parameters(plan.params, {name: value for name, value in of.params.items() if name in names})
    calls = {step.id: step for step in plan.calls}
    prepare_call = cache(lambda step_id: _prepare(calls[step_id], plan, params))
    if block is None:
        if item:
            raise ParameterError(f"{step_id}() ran once in {of.id}, on no item: leave out --item.")
        _check_chosen(plan, of, call)
        return Replay(call, prepare_call(step_id), _inputs(plan, of, call))
    index, body = _checked_item(plan, of, block, call, item), body_of(block)
    if body.is_line:
        value = _item_input(of, block, call, prepare_call, index, tell)
    else:
        value = _body_inputs(plan, of, block, body, call, prepare_call, index, tell)
    return Replay(call, prepare_call(step_id), value, item)


def _prepare(call: Call, plan: Plan, params: Mapping[str, Json]) -> Invocation:
    """Prepare a call, with its step's secrets in its environment."""
    step = plan.steps[call.step]
    invocation = prepare(call, step, params)
    check_resources([step], os.environ)
    values = secret_values(step.options.secrets, os.environ)
    return replace(invocation, env={**invocation.env, **values}, secrets=tuple(values.values()))


def debug(error: BaseException, stdin: TextIO | None = None, stdout: TextIO | None = None) -> None:
    """Open Python's debugger where an error was raised.

    It begins at the user's own line that led to it.
    """
    debugger = _Debugger(error, stdin, stdout)
    debugger.reset()
    debugger.interaction(None, error)


class _Debugger(pdb.Pdb):
    """Begins at the last frame of the user's.

    From there ``down`` leads into libraries and ``up`` to lokki.
    """

    def __init__(self, error: BaseException, stdin: TextIO | None, stdout: TextIO | None) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self._place = users_place(error.__traceback__)

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        stack, current = super().get_stack(f, t)
        own = [
            number for number, (frame, line) in enumerate(stack) if f"{frame.f_code.co_filename}:{line}" == self._place
        ]
        return stack, own[-1] if own else current


def _find(plan: Plan, step_id: str, of: Run) -> tuple[Call, FanOut | None]:
    of.place(step_id)
    for op in units_in(plan.ops):
        for call in calls_in((op,)):
            if call.id == step_id:
                return call, op if isinstance(op, FanOut) else None
    steps = ", ".join(call.id for call in plan.calls)
    raise ParameterError(f"the flow has no step {step_id!r} any more; it has {steps}.")


def _inputs(plan: Plan, of: Run, call: Call) -> object:
    """Return what a step that runs once was called with."""
    first = None if call.reads is None else _value(plan, of, call.reads)
    return Inputs(first, {source: _value(plan, of, source) for source in call.values}) if call.values else first


def _value(plan: Plan, of: Run, source: Source) -> object:
    """Return a value of a run."""
    match source:
        case Output(op_id):
            return of.kept.output(giver_of(plan.ops, op_id, lambda switch: _chosen_case(plan, of, switch)))
        case Results(fan_out_id):
            maps = of.kept.maps()
            if fan_out_id not in maps:
                over = plan.fan_out(fan_out_id).source
                raise ParameterError(f"the run {of.id} has no map over {over}(): the flow has changed since.")
            return list(Items(of.kept.results(maps[fan_out_id])).succeeded())
        case Item(fan_out_id):
            raise ParameterError(f"the items of {fan_out_id} are read in its own steps only.")


def _chosen_case(plan: Plan, of: Run, switch: Switch) -> Case:
    on = next(call for call in plan.calls if call.id == switch.on)
    return switch.cases[choose_case(on.cases, of.kept.output(on.id), on.step)]


def _check_chosen(plan: Plan, of: Run, call: Call) -> None:
    """Raise ParameterError for a call in a case that was not chosen."""
    for op in operations_in(plan.ops):
        if isinstance(op, Switch):
            holds = [case for case in op.cases if call in calls_in(case.block)]
            if holds and _chosen_case(plan, of, op) is not holds[0]:
                value = of.kept.output(op.on)
                raise ParameterError(
                    f"{call.id}() was skipped in {of.id}: {op.on}() returned {value!r}, for which its switch has "
                    "another case."
                )


def _body_inputs(
    plan: Plan,
    of: Run,
    block: FanOut,
    body: Body,
    call: Call,
    prepare_call: Callable[[str], Invocation],
    item: int,
    tell: Callable[[str], None],
) -> object:
    """Return what a step of a map's body was called with for an item.

    The body is no line. The steps before it run again, since a run keeps the results of such bodies alone.
    """
    outside = {source: copies_of(_value(plan, of, source), source_name(source)) for source in body.outside}
    items = of.kept.items(block.source)
    loaders: dict[str, Callable[[], object]] = {
        source_name(source): partial(items.value_beside, item, source_name(source)) for source in block.carries
    }
    path = items.paths().path(item)
    state = ItemState(item, loaders | {ITEM: partial(items.value, item)}, outside)
    for step in body.calls:
        if not state.is_chosen(step):
            if step.call.id == call.id:
                raise ParameterError(
                    f"{call.id}() was skipped for item {format_item(path)} in {of.id}: another case was chosen."
                )
            continue
        value = state.inputs(step)
        if step.call.id == call.id:
            return value
        tell(f"{step.call.id}() runs again on item {format_item(path)}: the run does not keep what it returned")
        state.give(step, _run_once(step.call, prepare_call(step.call.id), value, path))
    raise AssertionError(f"{call.id} is none of the body's calls")


def _checked_item(plan: Plan, of: Run, block: FanOut, call: Call, item: ItemPath) -> int:
    """Return the place of an item among those of its map block."""
    items = of.kept.items(block.source)
    index, count, source = items.paths().index(item), len(items), drawn_sources(plan.ops)[block.id]
    if index is None:
        which = f"another item than {format_item(item)}" if item else "which item"
        last = format_item(items.paths().path(count - 1)) if count else ""
        raise ParameterError(
            f"{call.id}() ran on {count} items of {source}() in {of.id}: say {which}, by --item "
            f"{format_item(items.paths().path(0))} to {last}."
            if count
            else f"{source}() gave no items in {of.id}, so that {call.id}() did not run."
        )
    return index


def _item_input(
    of: Run,
    block: FanOut,
    call: Call,
    prepare_call: Callable[[str], Invocation],
    item: int,
    tell: Callable[[str], None],
) -> object:
    """Return what a map block's step got for an item.

    The latest value that is kept, and from there what steps return now.
    """
    earlier = block.calls[: block.calls.index(call)]
    if call.reads in block.own_items:
        return of.kept.items(block.source).value(item)
    path = of.kept.items(block.source).paths().path(item)
    _check_reached(of, earlier, call, item)
    value, following = _latest_kept(of, block, earlier, item)
    for step in following:
        tell(f"{step.id}() runs again on item {format_item(path)}: the run does not keep what it returned")
        # A copy, as between steps of a run.
        value = loads(dumps(_run_once(step, prepare_call(step.id), value, path)))
    return value


def _check_reached(of: Run, earlier: Sequence[Call], call: Call, item: int) -> None:
    results = of.kept.results(of.place(earlier[-1].id))
    failure = results.failures().get(item)
    if failure is not None and failure.step in [step.id for step in earlier]:
        place = format_item(results.paths().path(item))
        raise RunError(
            f"item {place} failed at {failure.step}() in {of.id}, before {call.id}(): replay --step {failure.step}."
        )


def _latest_kept(of: Run, block: FanOut, earlier: Sequence[Call], item: int) -> tuple[object, Sequence[Call]]:
    """Return the latest value of an item, and the steps after it.

    Those made what the step got from it.
    """
    for number in reversed(range(len(earlier))):
        try:
            return of.kept.results(of.place(earlier[number].id)).value(item), earlier[number + 1 :]
        except (RunError, StoreError):
            continue
    return of.kept.items(block.source).value(item), earlier


def _run_once(call: Call, invocation: Invocation, value: object, item: ItemPath) -> object:
    def whole(*args: object, **kwargs: object) -> object:
        result = invocation.fn(*args, **kwargs)
        if call.fans_out:
            result = list(check_items(call.gives, result))
        dumps(result)
        return result

    once = replace(invocation, fn=whole, retry=None, timeout=None)
    at_item(call.id, item)
    try:
        with environment(invocation.env):
            return run(once, value, Attempts(_never, _never, _never))
    finally:
        at_item("", ())


def _never(*args: object) -> NoReturn:
    raise AssertionError("a replayed step has one try and no timeout")
