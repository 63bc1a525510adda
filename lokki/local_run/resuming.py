"""What of a run's folder is removed when the run is resumed, and what stays of results of older code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lokki.engine.events import CodeChanged
from lokki.errors import RunFolderError, StoreError
from lokki.local_run import journal_reader
from lokki.local_run.again import Rerun, operation_of
from lokki.local_run.folder import RunFolder
from lokki.local_run.run_values import RunValues
from lokki.local_run.runs import RunRecord
from lokki.local_run.schedule import Schedule, Unit, units_in
from lokki.plan import Plan
from lokki.plans.operations import MAP, Call, FanOut, calls_in, switch_around
from lokki.plans.templates import Results


class Resuming:
    """The folder of a run that is resumed."""

    def __init__(self, plan: Plan, folder: RunFolder, values: RunValues) -> None:
        self._plan = plan
        self._folder = folder
        self._values = values

    def forget(self, rerun: Rerun, run_id: str, begin: Callable[[], None]) -> None:
        """Remove the results that are to be computed again.

        `clean` removes those that depend on them. ``begin``: records that the run is in progress. Raises RunFolderError
        when failed items are to run again and there are none.
        """
        blocks = list(self._plan.fan_outs) if rerun.failed_items else []
        failed = [op for op in blocks if self._failed_items(op)]
        if rerun.failed_items and not failed and all(map(self._values.is_finished, self._values.units())):
            raise RunFolderError(
                f"no item of the run {run_id!r} failed, so there is none to run again; "
                f"--resume {run_id} gives its result."
            )
        self._check_not_skipped(rerun, run_id)
        if rerun != Rerun():
            begin()  # first, so that a kill from here on leaves a run that says it has to go on
        for op in failed:
            # Its journal stays: in it the items that have their results are told from those that failed.
            self._folder.forget_map_outcome(op.key)
        if rerun.operation:
            self._remove_results(next(unit for unit in units_in(self._plan.ops) if unit.id == rerun.operation))

    def _check_not_skipped(self, rerun: Rerun, run_id: str) -> None:
        """Raise RunFolderError for an operation of a case that was not chosen."""
        if not rerun.operation or any(unit.id == rerun.operation for unit in self._values.units()):
            return
        step_id = operation_of(self._plan, rerun.operation.removesuffix(MAP)).id
        around = switch_around(self._plan.ops, step_id)
        chooser = "" if around is None else f" Run the step again that chooses: --from {around[0].on}."
        raise RunFolderError(f"{rerun.operation} was skipped in {run_id}: its switch chose another case.{chooser}")

    def forget_damaged(self, step_id: str) -> None:
        """Let the operation of a step run again, whose results are damaged."""
        op = operation_of(self._plan, step_id)
        if isinstance(op, FanOut):
            journal_reader.repair(self._folder.parts(op.key))
            self._folder.forget_map_outcome(op.key)
            for call in self._plan.calls:  # what its items give now may be other lists, or other results
                if call.regroups is not None and Results(op.id) in call.regroups.reads:
                    self._folder.forget_groups(call.id)
        else:
            self._folder.forget_outcome(op.id)

    def clean(
        self, remaining: Schedule, record: RunRecord, code: dict[str, str]
    ) -> tuple[RunRecord, list[CodeChanged]]:
        """Remove half-written files, and results of what is computed again.

        Returns the record as it is then, and which steps' code has changed since they gave results that stay.
        """
        for half in self._folder.path.rglob(".*.part"):
            half.unlink()
        for unit in remaining.stale:
            self._remove_results(unit)
        for unit in remaining.partial:
            if isinstance(unit, Call):  # what it numbers the items by stays
                self._folder.forget_items(unit.id)
        finished = remaining.finished
        partial_maps = [op for op in remaining.partial if isinstance(op, FanOut) and self._has_results(op)]
        older = {name: record.code.get(name, "") for name in step_names([*finished, *partial_maps])}
        blocks = {op.key for op in [*finished, *partial_maps] if isinstance(op, FanOut)}
        parts = {key: parts for key, parts in record.changed_code.items() if key in blocks}
        failed = sum(self._failed_items(op) for op in finished if isinstance(op, FanOut))
        changed = [name for name, checksum in older.items() if checksum not in ("", code[name])]
        unfinished = step_names(partial_maps)
        return replace(record, code=code | older, changed_code=parts, failed=failed), [
            CodeChanged(name, self._finished_items(partial_maps) if name in unfinished else None) for name in changed
        ]

    def _remove_results(self, op: Unit) -> None:
        if isinstance(op, FanOut):
            self._folder.remove_map_results(op.key)
        else:
            self._folder.remove_results(op.id)

    def _has_results(self, op: FanOut) -> bool:
        """Tell whether a map block has begun, on items whose number is known."""
        if not self._folder.parts(op.key).folder.exists():
            return False
        try:
            return self._folder.outcome(op.source) is not None
        except StoreError:  # damaged: what regroups the items does so again
            return False

    def _failed_items(self, op: FanOut) -> int:
        """Return how many items of a map block failed, 0 for one not finished."""
        with self._folder.reading(op.calls[0].id):
            return self._folder.failed_items(op.key)

    def _finished_items(self, partial_maps: list[FanOut]) -> int:
        """Return how many items of unfinished map blocks have their results."""
        return sum(
            journal_reader.scan(self._folder.parts(op.key), self._folder.items(op.source)).finished
            for op in partial_maps
        )


def step_names(ops: Sequence[Unit]) -> list[str]:
    """Name the steps of some operations, each once, in order."""
    return list(dict.fromkeys(call.step for call in calls_in(tuple(ops))))
