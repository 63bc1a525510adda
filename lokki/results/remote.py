"""Deployed runs as results are read, with values from S3.

The rest is from Step Functions. Emulated runs are read so too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from lokki.base.failures import Failure
from lokki.base.item_path import format_item
from lokki.base.naming import operation_state, state_name
from lokki.base.values import Inline, Json, Ref, Stored, ref_from_reply
from lokki.engine.causes import child_failure, item_at_fault
from lokki.errors import StoreError
from lokki.plan import Plan
from lokki.plan_json import plan_from_definition
from lokki.plans.operations import Case, Switch, switch_around
from lokki.results.items import (
    FlatPaths,
    Load,
    LogLine,
    ManifestItems,
    Paths,
    Place,
    RunInfo,
    failed_item,
    map_places,
    places_of,
    result_of,
)
from lokki.store import codec
from lokki.store.base import Store
from lokki.store.keys import Keys, describe_place
from lokki.store.manifest import value_beside
from lokki.store.map_results import (
    BatchFailure,
    ItemResult,
    ResultFiles,
    child_items,
    failed_children,
    item_results,
    read_result_files,
)
from lokki.store.takeover import MapTakeover, read_takeover


class History(Protocol):
    """What Step Functions and CloudWatch know of a run.

    The run's id is the name of its execution.
    """

    def definition(self, run_id: str) -> Json:
        """Return the state machine's definition as the run has it."""

    def output(self, run_id: str, state: str) -> Json:
        """Return what a state of the run itself gave.

        That is the reply of a task's function, and the output of another state; None when there is none. States of a
        map's children are not looked at.

        For a map that failed or ends a branch: ``{"results_manifest_key": key}`` of what its Map Run wrote.
        """

    def logs(self, run_id: str) -> Iterator[LogLine]:
        """Yield what the functions logged in the run, in order of time."""


class Executions(History, Protocol):
    """The same, and which runs of one flow there are."""

    def list(self) -> list[RunInfo]:
        """Return all runs, the latest first.

        Their status is that of the execution, in small letters.
        """

    def describe(self, run_id: str) -> RunInfo:
        """Return what is known of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """


class RemoteCatalog:
    """The runs of a deployed flow.

    ``store``: reads what is under the flow's prefix in its bucket.

    ``modules``: where to look here for what modules of these names have there.
    """

    def __init__(
        self, flow: str, store: Store, executions: Executions, modules: Mapping[str, str] | None = None
    ) -> None:
        self._flow = flow
        self._store = store
        self._executions = executions
        self._modules = modules

    def list(self) -> list[RunInfo]:
        """Return all runs, the latest first."""
        return self._executions.list()

    def info(self, run_id: str) -> RunInfo:
        """Return what is known of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """
        return self._executions.describe(run_id)

    def kept(self, run_id: str) -> RemoteRun:
        """Return what a run keeps."""
        return RemoteRun(self._store, self._executions, self._flow, run_id, self._modules)


class RemoteRun:
    """What a deployed run keeps.

    Small results are in its states; others, and all of a map's results, in S3.

    ``modules``: where to look here for what modules of these names have there.
    """

    def __init__(
        self, store: Store, history: History, flow: str, run_id: str, modules: Mapping[str, str] | None = None
    ) -> None:
        self._store = store
        self._history = history
        self._run_id = run_id
        self._keys = Keys(f"lokki/{flow}/{run_id}")
        self._modules = modules

    def places(self) -> Mapping[str, Place]:
        """Return the run's steps in order, by id."""
        return places_of(self._plan)

    def maps(self) -> Mapping[str, Place]:
        """Return the run's map blocks in order, by id."""
        return map_places(self._plan)

    def output(self, step_id: str) -> object:
        """Return the result of a step that runs once.

        No map block may run over it.
        """
        return self._load(ref_from_reply(self._reply(step_id)))

    def result(self) -> object:
        """Return what the flow returned."""
        return result_of(self._plan, self.output, self._case_of)

    def _case_of(self, switch: Switch) -> Case:
        number = self._reply(switch.on).get("case")
        if not isinstance(number, int) or not 0 <= number < len(switch.cases):
            raise StoreError(f"the run {self._run_id} does not say which case {switch.on}() chose.")
        return switch.cases[number]

    def _reply(self, step_id: str) -> dict[str, Json]:
        reply = self._history.output(self._run_id, state_name(step_id))
        if not isinstance(reply, dict):
            raise StoreError(
                f"the run {self._run_id} has no result of {step_id}(): it did not get that far, or failed"
                f"{', or its switch chose another case' if switch_around(self._plan.ops, step_id) else ''}."
            )
        return reply

    @cached_property
    def _plan(self) -> Plan:
        return plan_from_definition(self._history.definition(self._run_id))

    @cached_property
    def _earlier(self) -> Mapping[str, MapTakeover]:
        """What the run took over of maps, by the names of their results."""
        takeover = read_takeover(self._store, self._keys)
        return {} if takeover is None else takeover.maps

    def items(self, step_id: str) -> ManifestItems:
        """Return the items that the source of a map block gave."""
        keys = [taken.manifest for taken in self._earlier.values() if taken.source == step_id]
        url = self._store.url(keys[0] if keys else self._keys.map_manifest(step_id))
        return ManifestItems(bytes(self._store.read(Stored(url))), self._load)

    def results(self, place: Place) -> RemoteItems:
        """Return what a map block's step returned for each item."""
        source = str(place.source)
        items = self.items(source)
        count = len(items)
        state = operation_state(place.map)
        output = self._history.output(self._run_id, state)
        key = output.get("results_manifest_key") if isinstance(output, dict) else None
        taken = self._earlier.get(place.key)
        keys = (*(() if taken is None else taken.results), *((key,) if isinstance(key, str) else ()))
        outcomes = read_results(self._store, keys, place.inner, count, place.field)
        homes = {} if taken is None else self._homes(taken, count)

        def own(index: int) -> Ref:
            return Stored(self._store.url(homes.get(index, self._keys).item_output(place.id, (index,))))

        return RemoteItems(self._load, own, place, items if place.paths else FlatPaths(count), count, outcomes)

    def _homes(self, taken: MapTakeover, items: int) -> dict[int, Keys]:
        """Return of which run the objects of an item are that was taken over."""
        homes: dict[int, Keys] = {}
        for key in taken.results:
            run = Keys("/".join(key.split("/")[:3]))  # lokki/<flow>/<run>/…
            url = self._store.url(key)
            entries = item_results(self._store, url, read_result_files(self._store, url), items)
            homes |= {entry.index: run for entry in entries}
        return homes

    def log(self) -> Iterator[LogLine]:
        """Yield what was printed and logged, in order of time."""
        return self._history.logs(self._run_id)

    def _load(self, ref: Ref) -> object:
        if isinstance(ref, Inline):
            return ref.result
        return codec.loads(self._store.read(ref), url=describe_place(ref), modules=self._modules, crc32=ref.crc32)


class RemoteItems:
    """What a map block's step returned for each item.

    ResultWriter's files and the step's own objects have it.

    ``own``: says where the step's own object for an item is, if there is one.
    """

    def __init__(
        self,
        load: Load,
        own: Callable[[int], Ref],
        place: Place,
        paths: Paths,
        count: int,
        outcomes: Mapping[int, Ref | Failure],
    ) -> None:
        self._paths = paths
        self._load = load
        self._own = own
        self._place = place
        self._count = count
        self._outcomes = outcomes

    def __len__(self) -> int:
        return self._count

    def value(self, index: int) -> object:
        """Load what the step returned for an item."""
        outcome = self._outcomes.get(index)
        if not self._place.is_last:
            return self._inner_value(index, outcome)
        if isinstance(outcome, Failure):
            raise failed_item(self._paths.path(index), outcome)
        if outcome is None:
            item = format_item(self._paths.path(index))
            raise StoreError(f"item {item} of {self._place.source}() has no result: the run did not finish it.")
        return self._load(outcome)

    def paths(self) -> Paths:
        """Return how the items are named."""
        return self._paths

    def failures(self) -> Mapping[int, Failure]:
        """Return the items that failed, with why.

        At whichever inner step, where the step is not known.
        """
        failed = {index: outcome for index, outcome in self._outcomes.items() if isinstance(outcome, Failure)}
        # An item that fails at a later step has a result here.
        own = self._place.until
        return {i: failure for i, failure in failed.items() if self._place.is_last or failure.step in own}

    def _inner_value(self, index: int, outcome: Ref | Failure | None) -> object:
        """Load an object of the step's own for an item.

        What travelled inside the child execution, or in a batch's pack, has none.
        """
        if isinstance(outcome, Failure) and index in self.failures():
            raise failed_item(self._paths.path(index), outcome)
        step, item = self._place.id, format_item(self._paths.path(index))
        try:
            return self._load(self._own(index))
        except StoreError as error:
            raise StoreError(
                f"what {step}() returned for item {item} has no object of its own: results of inner steps that are "
                f"small, or of a batch, are in the child execution only. Compute it again: replay RUN --step {step} "
                f"--item {item}. ({error})"
            ) from None


def has_results(output: Json) -> bool:
    """Tell whether the output of a map's state says where its results are.

    At the end of a branch, it is what the branch hands out.
    """
    return isinstance(output, dict) and "results_manifest_key" in output


def read_results(
    store: Store, keys: Sequence[str], inner: Sequence[str], items: int, field: str = ""
) -> dict[int, Ref | Failure]:
    """Read what became of each item of a map, by its index.

    ``keys``: of the manifests that ResultWriter wrote, for this run and those that it took over, the latest last;
    without any there are no results. ``items``: how many there were.
    ``field``: the name of the value beside the result that is meant; empty for the result.
    Raises StoreError for files that cannot be read or are not those of a lokki map.
    """
    if not keys:
        return {}
    *earlier, latest = keys
    url = store.url(latest)
    files = read_result_files(store, url, earlier)
    failures = dict(_failures(store, url, files, inner))
    results = {entry.index: _result(entry, field) for entry in item_results(store, url, files, items)}
    return failures | results  # an item that succeeded when the run was redriven has not failed


def _result(entry: ItemResult, field: str) -> Ref | Failure:
    """Read an item's result, or why it failed inside its batch."""
    if isinstance(entry.failed, BatchFailure):
        return entry.failed.failure
    return value_beside(entry.values, field, entry.index) if field else entry.ref


def _failures(store: Store, url: str, files: ResultFiles, inner: Sequence[str]) -> Iterator[tuple[int, Failure]]:
    for child in failed_children(store, files):
        indexes = child_items(child.Input)
        if not indexes:
            raise StoreError(f"{url} lists a failed child execution whose input has no items of a map of lokki.")
        at_fault, cause = item_at_fault(child.Cause, indexes)
        failure = child_failure(inner, child.Error, cause)
        yield from ((index, failure) for index in (indexes if at_fault is None else [at_fault]))
