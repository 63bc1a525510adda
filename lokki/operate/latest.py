"""What a new run takes over from a run that failed, so that it goes on there with the newest deployment.

A call is taken over where the old run has its reply and nothing that went into it has changed: its place in the flow,
the flow's parameters that it reads, and the results that it reads, all of them taken over as well. Of a map that failed
the items with results are. Code may have changed; that is said, and is what the command is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from lokki.base.naming import operation_state
from lokki.base.options import MapOptions
from lokki.base.values import Json, Stored
from lokki.builder.states import parameters_state
from lokki.errors import AwsError, StoreError
from lokki.local_run.schedule import Schedule, Unit, schedule, units_in
from lokki.operate.executions import DeployedRuns
from lokki.operate.machine import results_folder
from lokki.plan import Plan, bind_parameters, started_by_aws
from lokki.plan_json import outline, plan_from_definition, plan_to_json
from lokki.plans.operations import Call, Case, FanOut, Op, Switch, operations_in
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.map_results import (
    ResultFile,
    ResultFiles,
    ResultsManifest,
    child_items,
    failed_children,
    item_results,
    read_result_files,
)
from lokki.store.takeover import MapTakeover, Takeover, is_missing, read_takeover

_CHANGED = " (its code has changed since)"


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A deployed run that failed.

    * ``definition``: of its state machine.
    * ``params``: what it was started with.
    * ``outputs``: what its states gave, by their names.
    * ``ended_map_runs``: the folders of the results of its maps that ended well.
    * ``maps``: what it took over itself of maps.
    """

    run_id: str
    definition: Json
    params: Mapping[str, Json]
    outputs: Mapping[str, Json]
    ended_map_runs: frozenset[str]
    maps: Mapping[str, MapTakeover]


class _Arguments(msgspec.Struct, frozen=True):
    FunctionName: str = ""
    Payload: dict[str, object] = {}


class _TaskState(msgspec.Struct, frozen=True):
    Arguments: _Arguments = _Arguments()

    @property
    def inputs(self) -> tuple[object, ...]:
        """The names of the parameters and values that the state hands on."""
        members = (self.Arguments.Payload.get(name) for name in ("params", "values"))
        return tuple(sorted(member) if isinstance(member, dict) else member for member in members)


class _Left(msgspec.Struct, frozen=True):
    """An entry of a batch that failed: with a result, or why there is none."""

    failed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def has_failed(self) -> bool:
        return self.failed is not msgspec.UNSET


def plan_takeover(
    earlier: EarlierRun, plan: Plan, definition: Json, store: Store, keys: Keys
) -> tuple[Takeover, list[str]]:
    """Decide what a new run takes over.

    ``plan``, ``definition``: of the newest deployment; ``keys``: of the new run.
    Returns it with a line on each step for people. Raises AwsError where the flow here is not the one that is deployed,
    ParameterError for parameters that it does not take, StoreError for what cannot be read.
    """
    if plan_to_json(outline(plan)) != plan_to_json(plan_from_definition(definition)):
        raise AwsError(f"{plan.flow} is deployed with other steps than it has here. Deploy it first: deploy.")
    comparison = _Comparison(earlier, plan, definition, store, keys)
    return comparison.takeover(), comparison.lines()


class _Comparison:
    """The newest deployment beside a run of an older one."""

    def __init__(self, earlier: EarlierRun, plan: Plan, definition: Json, store: Store, keys: Keys) -> None:
        self._earlier = earlier
        self._plan = plan
        self._store = store
        self._keys = keys
        self._old_tasks = dict(_tasks(earlier.definition))
        self._new_tasks = dict(_tasks(definition))
        self._old_ops = {op.id: _shape(op) for op in operations_in(plan_from_definition(earlier.definition).ops)}
        self._new_ops = {op.id: _shape(op) for op in operations_in(outline(plan).ops)}
        self._changed_params = self._find_changed_params()
        self._maps = {op.id: taken for op in plan.fan_outs if (taken := self._map_takeover(op)) is not None}
        self._schedule = self._make_schedule()

    def takeover(self) -> Takeover:
        """Return what the new run takes over."""
        calls = [unit.id for unit in self._schedule.finished if isinstance(unit, Call)]
        maps = {op.key: self._maps[op.id] for op in self._plan.fan_outs if self._is_taken(op)}
        return Takeover(self._earlier.run_id, {call_id: self._full_reply(call_id) for call_id in calls}, maps)

    def lines(self) -> list[str]:
        """Say what becomes of each step."""
        units = [unit for unit in units_in(self._plan.ops, self._chosen) if _is_of_user(unit)]
        calls = {call.id for call in self._plan.calls}
        gone = [op.id for op in self._old_ops.values() if isinstance(op, Call) and op.id not in calls]
        return [*map(self._line, units), *(f"{call_id}: no longer in the flow" for call_id in gone)]

    def _line(self, unit: Unit) -> str:
        calls = unit.calls if isinstance(unit, FanOut) else (unit,)
        name = " → ".join(call.id for call in calls)
        changed = _CHANGED if any(map(self._has_new_code, calls)) else ""
        if unit.id in self._schedule.kept:
            return f"{name}: kept{changed}"
        if isinstance(unit, FanOut) and self._is_taken(unit):
            items = self._maps[unit.id].items
            return f"{name}: {items - self._results(self._maps[unit.id]):,} of {items:,} items run again{changed}"
        if unit.id not in self._old_ops:
            return f"{name}: new"
        return f"{name}: runs{' again' if operation_state(unit.id) in self._earlier.outputs else ''}"

    def _make_schedule(self) -> Schedule:
        """Decide what runs, and drop the maps that cannot be taken over.

        All maps over the result of one call read one list of items, so they end together or run again together.
        """
        while True:
            plan = schedule(self._plan.ops, self._is_finished, self._chosen)
            running = {op.source for op in self._plan.fan_outs if op.id not in plan.kept}
            shared = {op.id for op in self._plan.fan_outs if op.source in running and self._shares_source(op)}
            if not shared & self._maps.keys():
                return plan
            self._maps = {op_id: taken for op_id, taken in self._maps.items() if op_id not in shared}

    def _shares_source(self, fan_out: FanOut) -> bool:
        return any(op.source == fan_out.source and op.id != fan_out.id for op in self._plan.fan_outs)

    def _is_taken(self, fan_out: FanOut) -> bool:
        """Tell whether items of a map keep their results."""
        goes_on = any(unit.id == fan_out.id for unit in (*self._schedule.finished, *self._schedule.partial))
        return goes_on and fan_out.id in self._maps

    def _is_finished(self, unit: Unit) -> bool:
        if isinstance(unit, FanOut):
            return unit.id in self._maps and self._maps[unit.id].complete
        return self._is_same(unit) and self._reply(unit.id) is not None

    def _is_same(self, unit: Unit) -> bool:
        """Tell whether a unit has the place and the parameters that it had."""
        calls = unit.calls if isinstance(unit, FanOut) else (unit,)
        return self._old_ops.get(unit.id) == self._new_ops[unit.id] and not any(
            self._changed_params.intersection(call.params) or self._task(call, old=True) != self._task(call)
            for call in calls
        )

    def _task(self, call: Call, *, old: bool = False) -> tuple[object, ...]:
        tasks = self._old_tasks if old else self._new_tasks
        return tasks[operation_state(call.id)].inputs

    def _has_new_code(self, call: Call) -> bool:
        old, new = (tasks.get(operation_state(call.id)) for tasks in (self._old_tasks, self._new_tasks))
        return old is not None and new is not None and old.Arguments.FunctionName != new.Arguments.FunctionName

    def _reply(self, call_id: str) -> dict[str, Json] | None:
        output = self._earlier.outputs.get(operation_state(call_id))
        return output if isinstance(output, dict) else None

    def _full_reply(self, call_id: str) -> dict[str, Json]:
        """Return what a call replied, with all items of a map.

        The earlier run may have had only the rest of them.
        """
        reply = {name: value for name, value in (self._reply(call_id) or {}).items() if name != "params"}
        for taken in self._earlier.maps.values():
            if taken.source == call_id:
                reply |= {"map_manifest_key": taken.manifest, "items": taken.items}
        return reply

    def _chosen(self, switch: Switch) -> Case | None:
        number = (self._reply(switch.on) or {}).get("case")
        is_case = isinstance(number, int) and switch.on in self._old_ops and 0 <= number < len(switch.cases)
        return switch.cases[number] if is_case and isinstance(number, int) else None

    def _find_changed_params(self) -> set[str]:
        """Return the parameters that the newest deployment has with other values."""
        started = started_by_aws(self._plan.params, self._earlier.params)
        bound = bind_parameters(self._plan.params, started)
        outputs = self._earlier.outputs.values()
        checked = next((output["params"] for output in outputs if isinstance(output, dict) and "params" in output), {})
        previous = checked if isinstance(checked, dict) else {}
        return {name for name, value in bound.items() if name not in previous or previous[name] != value}

    def _map_takeover(self, fan_out: FanOut) -> MapTakeover | None:
        """Return what the earlier run has of a map, None for nothing."""
        source = self._full_reply(fan_out.source)
        manifest, items = source.get("map_manifest_key"), source.get("items")
        if not self._is_same(fan_out) or not isinstance(manifest, str) or not isinstance(items, int):
            return None
        previous = self._earlier.maps.get(fan_out.key)
        output = self._earlier.outputs.get(operation_state(fan_out.id))
        key = output.get("results_manifest_key") if isinstance(output, dict) else None
        results = previous.results if previous is not None else ()
        complete = False
        if isinstance(key, str):
            results, complete = (*results, key), key.split("/")[-2] in self._earlier.ended_map_runs
        taken = MapTakeover(
            fan_out.source, manifest, items, results, complete or (previous is not None and previous.complete)
        )
        if not results or not self._is_readable(taken):
            return None
        left = () if taken.complete else self._left_by_batches(fan_out, results[-1])
        return msgspec.structs.replace(taken, results=(*left, *results))

    def _left_by_batches(self, fan_out: FanOut, key: str) -> tuple[str, ...]:
        """Write down the results that failed batches had.

        Returns the key of their manifest.

        ``key``: of the manifest of the results of the map, which has no others than those of whole batches.
        """
        last = fan_out.body[-1]
        if not isinstance(last, Call):
            return ()
        files = read_result_files(self._store, self._store.url(key))
        old = Keys("/".join(key.split("/")[:3]))  # lokki/<flow>/<run>/…
        entries: list[msgspec.Raw] = []
        for child in failed_children(self._store, files):
            indexes = child_items(child.Input)
            # A batch that left nothing has no such object.
            with suppress(StoreError):
                url = self._store.url(old.batch_left(last.id, indexes[0], indexes[-1]))
                entries += msgspec.json.decode(self._store.read(Stored(url)), type=list[msgspec.Raw])
        succeeded = [entry for entry in entries if not msgspec.json.decode(entry, type=_Left).has_failed]
        if not succeeded:
            return ()
        folder = f"{self._keys.map_results(fan_out.key)}left"
        self._store.write(f"{folder}/SUCCEEDED_0.json", [msgspec.json.encode(succeeded)])
        manifest = ResultsManifest(ResultFiles([ResultFile(f"{folder}/SUCCEEDED_0.json")]))
        self._store.write(f"{folder}/manifest.json", [msgspec.json.encode(manifest)])
        return (f"{folder}/manifest.json",)

    def _is_readable(self, taken: MapTakeover) -> bool:
        try:
            self._results(taken)
        except StoreError as error:
            if is_missing(error):
                return False
            raise
        return True

    def _results(self, taken: MapTakeover) -> int:
        """Return how many items have results."""
        *older, last = taken.results
        url = self._store.url(last)
        return sum(1 for _ in item_results(self._store, url, read_result_files(self._store, url, older), taken.items))


def _tasks(definition: Json) -> Iterator[tuple[str, _TaskState]]:
    """Yield the states that invoke functions, by their names.

    Those in maps and branches are among them.
    """
    if isinstance(definition, list):
        for member in definition:
            yield from _tasks(member)
    if isinstance(definition, dict):
        states = definition.get("States")
        for name, state in states.items() if isinstance(states, dict) else ():
            if isinstance(state, dict) and state.get("Type") == "Task":
                yield name, msgspec.convert(state, _TaskState)
        for member in definition.values():
            yield from _tasks(member)


def _shape(op: Op) -> Op:
    """Return an operation without what changes no result.

    That is what it waits for, and how many items run at one time.
    """
    match op:
        case Call():
            return replace(op, after=())
        case FanOut():
            return replace(op, options=MapOptions())
        case _:
            return op


def _is_of_user(unit: Unit) -> bool:
    return isinstance(unit, FanOut) or unit.regroups is None


def earlier_run(runs: DeployedRuns, run_id: str) -> EarlierRun:
    """Read a run that failed.

    Raises RunFolderError for one that does not exist, AwsError for one that has not failed.
    """
    info = runs.describe(run_id)
    if info.status in ("running", "pending_redrive"):
        raise AwsError(f"the run {run_id} is in progress. Stop it first: stop {run_id}")
    if info.status == "succeeded":
        raise AwsError(f"the run {run_id} has succeeded: there is nothing to go on with. Start a new run: invoke.")
    definition = runs.definition(run_id)
    plan = plan_from_definition(definition)
    states = [operation_state(op.id) for op in operations_in(plan.ops)]
    names = [*states, parameters_state(plan) or ""]
    map_runs = {results_folder(run["mapRunArn"]) for run in runs.map_runs(run_id) if run["status"] == "SUCCEEDED"}
    takeover = read_takeover(runs.store, Keys(f"{runs.deployed.prefix}{run_id}"))
    maps = {} if takeover is None else takeover.maps
    return EarlierRun(run_id, definition, info.params, runs.outputs(run_id, names), frozenset(map_runs), maps)
