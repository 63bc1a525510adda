"""How long the steps of a flow took in its latest local run, and what they returned, for estimates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lokki.config import LokkiConfig
from lokki.engine.events import StepWork, add_work
from lokki.errors import StoreError
from lokki.estimate.cost import Measure, Workload, path_of
from lokki.local_run.folder import LOG, RunFolder
from lokki.local_run.journal import pack_path
from lokki.local_run.outcomes import StepOutcome
from lokki.local_run.runs import Runs
from lokki.local_run.schedule import units_in
from lokki.plan import Plan
from lokki.plans.operations import Call, FanOut

_RECORD = 40
"""Bytes of a journal's record beside an inline result."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run tells of its steps, as far as it has them.

    - ``items``: how many each map has, by its source's id
    - ``measures``: a measure of each step, by the id of its call
    """

    run_id: str
    items: dict[str, int]
    measures: dict[str, Measure]


class _Event(msgspec.Struct, frozen=True):
    """What counts of a line of a run's log."""

    event: str = ""
    id: str = ""
    seconds: float = 0.0
    count: int = 0
    items: int | None = None
    steps: dict[str, StepWork] = {}


def measure_latest_run(plan: Plan, root: Path) -> Measured | None:
    """Measure the latest finished run of a flow, None without one.

    Of a map block of several steps the run knows what each took. Where the log is of an older lokki, what all took is
    divided among them evenly; of a switch, among those of its longest case.
    """
    runs = Runs(root)
    for record in runs.list(plan.flow):
        folder = runs.folder_of(record)
        log = folder.path / LOG
        if record.status == "finished" and log.exists():
            return _read(plan, folder, list(_events(log)))
    return None


def _read(plan: Plan, folder: RunFolder, events: list[_Event]) -> Measured:
    seconds = {event.id: event.seconds for event in events if event.event == "step_finished"}
    spent: dict[str, float] = defaultdict(float)
    done: dict[str, int] = defaultdict(int)
    work: dict[str, StepWork] = {}
    for event in events:
        if event.event == "items_finished":
            spent[event.id] += event.seconds
            done[event.id] += event.count
            add_work(work, event.steps)
    items: dict[str, int] = {}
    measures: dict[str, Measure] = {}
    for op in units_in(plan.ops):
        if isinstance(op, FanOut):
            if done[op.key]:
                path = [call for call in path_of(op.body, Workload({})) if isinstance(call, Call)]
                seconds_of_one = spent[op.key] / done[op.key] / len(path)
                share = Measure(seconds_of_one, *_result_size(folder.parts(op.key).paths(), done[op.key]))
                measures.update(inner_measures(op, work, share))
            continue
        outcome = _outcome(folder, op.id)
        if op.id in seconds and outcome is not None:
            measures[op.id] = _measure(op, folder, seconds[op.id], outcome)
            if op.fans_out and (count := _count(outcome)) is not None:
                items[op.id] = count
    return Measured(folder.run_id, items, measures)


def inner_measures(fan_out: FanOut, work: Mapping[str, StepWork], share: Measure) -> dict[str, Measure]:
    """Return the measure of each step of a map, by the id of its call.

    ``work``: of each step, as far as it is known. ``share``: what is taken for a step without, its part of what is
    known of all; with the size of an item's result.
    """
    return {call.id: _inner(work.get(call.id), share, fan_out.result == call.id) for call in fan_out.calls}


def _inner(work: StepWork | None, share: Measure, is_result: bool) -> Measure:
    if work is None:
        return share
    calls, seconds, size = work
    if is_result or not size:
        return replace(share, seconds=seconds / calls)
    return Measure(seconds / calls, size // calls, size // calls > LokkiConfig().inline_limit)


def _measure(call: Call, folder: RunFolder, seconds: float, outcome: StepOutcome) -> Measure:
    if call.fans_out:
        count = max(_count(outcome) or 0, 1)
        pack = _size(folder.pack(call.id))
        return Measure(seconds, (pack or _size(folder.manifest(call.id))) // count, pack > 0)
    if "result_url" in outcome:
        return Measure(seconds, _size(folder.output(call.id)), stored=True)
    return Measure(seconds, len(msgspec.json.encode(outcome)))


def _count(outcome: StepOutcome) -> int | None:
    """Return how many items the source of a map gave."""
    count = outcome.get("items")
    return count if isinstance(count, int) else None


def _result_size(journals: list[Path], items: int) -> tuple[int, bool]:
    """Return the average bytes of a result, and whether it is stored."""
    packs = sum(_size(pack_path(path)) for path in journals)
    if packs:
        return packs // items, True
    return max(sum(map(_size, journals)) // items - _RECORD, 1), False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _outcome(folder: RunFolder, step_id: str) -> StepOutcome | None:
    try:
        return folder.outcome(step_id)
    except StoreError:
        return None


def _events(log: Path) -> Iterator[_Event]:
    with log.open("rb") as lines:
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=_Event)
            except msgspec.DecodeError:
                continue  # another kind of event, with fields of the same names, or a line cut short
