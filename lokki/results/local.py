"""Local runs as results are read.

Nothing is written, locked or forced to disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import cached_property
from mmap import ACCESS_READ, mmap
from os import SEEK_END
from pathlib import Path

from lokki.base.failures import Failure
from lokki.base.item_path import format_item
from lokki.base.values import Ref
from lokki.emulator.run_files import emulated_name
from lokki.errors import RunFolderError, StoreError, damaged
from lokki.local_run.folder import RunFolder
from lokki.local_run.journal_reader import PENDING, StepResults
from lokki.local_run.run_values import kept_case
from lokki.local_run.runs import RunRecord, Runs, recorded_plan
from lokki.plan import Plan
from lokki.plans.operations import Case, Switch, switch_around
from lokki.results.emulated import emulated_run
from lokki.results.items import (
    FlatPaths,
    Kept,
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
from lokki.results.log import log_lines
from lokki.results.modules import OwnModule
from lokki.store.codec import MAINS, MISSING


class LocalCatalog:
    """The runs of a flow in a directory, emulated ones too.

    ``file``: the flow's, for values of classes that it defines.
    """

    def __init__(self, flow: str, root: Path, file: Path | None = None) -> None:
        self._flow = flow
        self._runs = Runs(root)
        self._file = file

    def list(self) -> list[RunInfo]:
        """Return all runs, the latest first."""
        return [_info(record, self._flow) for record in self._runs.list() if self._is_own(record)]

    def info(self, run_id: str) -> RunInfo:
        """Return what is known of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """
        return _info(self._record(run_id), self._flow)

    def kept(self, run_id: str) -> Kept:
        """Return what a run keeps."""
        record = self._record(run_id)
        file = self._file or self._file_of(record)
        if record.flow != self._flow:
            return emulated_run(self._runs, self._flow, record, file)
        return LocalRun(self._runs, record, file)

    def _record(self, run_id: str) -> RunRecord:
        record = self._runs.load(run_id)
        if not self._is_own(record):
            raise RunFolderError(f"the run {run_id!r} is one of {record.flow}, not of {self._flow}.")
        return record

    def _file_of(self, record: RunRecord) -> Path | None:
        """Return the flow's file that a run names.

        None when the file is not there any more.
        """
        file = self._runs.folder.parent.absolute().parent / record.file
        return file if record.file and file.is_file() else None

    def _is_own(self, record: RunRecord) -> bool:
        return record.flow in (self._flow, emulated_name(self._flow))


class LocalRun:
    """What a local run keeps in its folder.

    Of a map block that is all results of the last inner step; of the steps before it only what let an unfinished item
    go on: what they returned for items that failed later, and for items on which they took longer than 50 ms.
    """

    def __init__(self, runs: Runs, record: RunRecord, file: Path | None) -> None:
        self._record = record
        self._folder = runs.folder_of(record)
        self._values = ValueReader(self._folder, record, file)

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
        with self._folder.reading(step_id):
            self._check_ended(step_id)
            return self._folder.result(step_id, self._values.load)

    def result(self) -> object:
        """Return what the flow returned."""
        return result_of(self._plan, self.output, self._case_of)

    @cached_property
    def _plan(self) -> Plan:
        return recorded_plan(self._record)

    def _case_of(self, switch: Switch) -> Case:
        with self._folder.reading(switch.on):
            self._check_ended(switch.on)
            case = kept_case(switch, self._folder.outcome(switch.on))
            if case is None:
                raise self._folder.lost_case(switch.on)
            return case

    def items(self, step_id: str) -> CheckedItems:
        """Return the items that the source of a map block gave."""
        with self._folder.reading(step_id):
            self._check_ended(step_id)  # written last: without it the manifest may not belong to this run
            self._folder.check_items(step_id)
            items = ManifestItems(_mapped(self._folder.manifest(step_id)), self._values.load)
            if len(items) != self._folder.items(step_id):
                raise damaged(f"{self._folder.manifest(step_id)} is damaged: it lists {len(items)} items")
        return CheckedItems(items, self._folder, step_id)

    def results(self, place: Place) -> JournalItems:
        """Return what a map block's step returned for each item."""
        source = str(place.source)
        with self._folder.reading(source):
            self._check_ended(source)
            items = self._folder.items(source)
        paths: Paths = self.items(source).paths() if place.paths else FlatPaths(items)
        return JournalItems(self._folder, items, place, self._record, self._values, paths)

    def log(self) -> Iterator[LogLine]:
        """Yield what was printed and logged, and what failed.

        Nothing for a run that kept no log.
        """
        return log_lines(self._folder.path)

    def _check_ended(self, step_id: str) -> None:
        if self._folder.outcome(step_id) is None:
            around = switch_around(self._plan.ops, step_id)
            # The outcome is written last of all, so a run that finished has had it, where it was to run.
            if self._record.status == "finished" and (around is None or self._chose(*around)):
                raise self._folder.lost_outcome(step_id)
            raise StoreError(
                f"the run {self._record.run_id} has no result of {step_id}(): it is {self._record.status}. "
                f"Resume it by --resume {self._record.run_id}."
                if self._record.status != "finished"
                else f"the run {self._record.run_id} has no result of {step_id}(): its switch chose another case."
            )

    def _chose(self, switch: Switch, case: Case) -> bool:
        """Tell whether the step of a switch ran, and chose a case."""
        return kept_case(switch, self._folder.outcome(switch.on)) is case


class ValueReader:
    """Loads values of a run.

    Where a class is missing, the error says how to name the flow's file.
    """

    def __init__(self, folder: RunFolder, record: RunRecord, file: Path | None) -> None:
        self.modules = OwnModule.of_program(file) if file is not None else None
        self._folder = folder
        self._record = record
        self._file = file

    def load(self, ref: Ref) -> object:
        """Load the value that a reference stands for."""
        with self.explaining():
            return self._folder.load(ref, self.modules)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Add to errors about a value what the user can do."""
        try:
            yield
        except StoreError as error:
            # What is damaged is not helped by another name of a class.
            if error.damage or not (hint := self._hint(str(error))):
                raise
            raise StoreError(f"{error}{hint}") from error

    def _hint(self, problem: str) -> str:
        """Say how to name the flow's file where that may help.

        It may where a class is not known here.
        """
        if self._file is not None:
            return "" if self._file.is_file() else f" (there is no file {self._file})"
        if MISSING not in problem and not any(name in problem for name in MAINS):
            return ""
        return (
            f' If it is of a class in the flow\'s file, name that: lokki.local("{self._record.flow}", file="flow.py").'
        )


class CheckedItems:
    """The items of a map block.

    An error about a damaged one says how to get it again.
    """

    def __init__(self, items: ManifestItems, folder: RunFolder, step_id: str) -> None:
        self._items = items
        self._folder = folder
        self._step_id = step_id

    def __len__(self) -> int:
        return len(self._items)

    def value(self, index: int) -> object:
        """Load an item."""
        with self._folder.reading(self._step_id):
            return self._items.value(index)

    def value_beside(self, index: int, name: str) -> object:
        """Load a value that comes with an item."""
        with self._folder.reading(self._step_id):
            return self._items.value_beside(index, name)

    def failures(self) -> Mapping[int, Failure]:
        """Return nothing, as what a source gave has not failed."""
        return {}

    def paths(self) -> Paths:
        """Return how the items are named."""
        return self._items


class JournalItems:
    """What a map block's step returned for each item.

    It is read from the journals when it is first asked for.
    """

    def __init__(
        self, folder: RunFolder, items: int, place: Place, record: RunRecord, values: ValueReader, paths: Paths
    ) -> None:
        self._paths = paths
        self._folder = folder
        self._items = items
        self._place = place
        self._record = record
        self._values = values
        self._results: StepResults | None = None

    def __len__(self) -> int:
        return self._items

    def value(self, index: int) -> object:
        """Load what the step returned for an item."""
        with self._reading():
            results = self._scanned()
            if index not in results:
                raise self._missing(index, results)
            with self._values.explaining():
                value = results.value(index, self._values.modules)
        return value[self._place.field] if self._place.field and isinstance(value, dict) else value

    def paths(self) -> Paths:
        """Return how the items are named."""
        return self._paths

    def failures(self) -> Mapping[int, Failure]:
        """Return the items that failed at this step or before, with why."""
        with self._reading():
            failures = self._scanned().failures
        if self._place.is_last:
            return failures
        # An item that fails at a later step has a result here.
        return {index: failure for index, failure in failures.items() if failure.step in self._place.until}

    def _reading(self) -> AbstractContextManager[None]:
        return self._folder.reading(self._place.inner[0])

    def _missing(self, index: int, results: StepResults) -> Exception:
        failure = results.failures.get(index)
        step, run_id = self._place.id, self._record.run_id
        # What a switch gave is there under the block's own name.
        last = f"{self._place.result}()" if "." not in self._place.result else f'step("{self._place.map}")'
        if failure is not None and index in self.failures():
            return failed_item(self._paths.path(index), failure)
        if results.status[index] == PENDING:
            item = format_item(self._paths.path(index))
            return StoreError(
                f"item {item} of {self._place.source}() has no result: the run {run_id} is {self._record.status}. "
                f"Resume it by --resume {run_id}."
            )
        item = format_item(self._paths.path(index))
        return StoreError(
            f"what {step}() returned for item {item} is not kept: of a map block, a run keeps the results of its last "
            f"step, {last}, and of others what unfinished items needed. "
            f"Compute it again: replay {run_id} --step {step} --item {item}."
        )

    def _scanned(self) -> StepResults:
        """Read where all results are, once.

        Raises StoreError when a map block that has ended lacks any.
        """
        if self._results is None:
            key = self._place.key
            results = StepResults(self._folder.parts(key), self._items, None if self._place.is_last else self._place.id)
            outcome = self._folder.map_outcome(key)
            if outcome is not None:
                results.check_complete(outcome.succeeded, outcome.failed)
            elif self._record.status == "finished":
                raise self._folder.lost_outcome(f"the map over {key}", "Run the map again.")
            self._results = results
        return self._results


def _mapped(path: Path) -> bytes | mmap:
    with path.open("rb") as file:
        if file.seek(0, SEEK_END) == 0:
            return b""
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _info(record: RunRecord, flow: str) -> RunInfo:
    took = None if record.status in ("running", "killed") else record.seconds
    started = datetime.fromisoformat(record.started)
    return RunInfo(
        record.run_id, flow, record.status, started, took, record.params, record.error, emulated=record.flow != flow
    )
