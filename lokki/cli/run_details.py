"""What `runs show` tells of one run on this machine."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby, islice

from lokki.base.failures import Failure
from lokki.cli.text import count_text
from lokki.emulator.run_files import emulated_name
from lokki.errors import LokkiError
from lokki.local_run.journal_reader import StepResults
from lokki.local_run.runs import CodeOfParts, RunRecord, Runs
from lokki.progress.displays import seconds
from lokki.results.items import Kept, Place
from lokki.results.local import LocalCatalog

_FAILURES = 10
_RANGES = 12


def run_details(runs: Runs, record: RunRecord) -> Iterator[str]:
    """Yield the lines that tell all of a run.

    Of results that cannot be read, one says why.
    """
    started = datetime.fromisoformat(record.started).astimezone()
    yield f"run        {record.run_id}"
    yield f"flow       {record.flow}"
    yield f"status     {record.status}{f': {record.error}' if record.error else ''}"
    yield f"started    {started:%Y-%m-%d %H:%M:%S}, ran {seconds(record.seconds)}"
    yield from _titled("parameters", (f"{name} = {value!r}" for name, value in record.params.items()))
    flow = record.flow.removesuffix(emulated_name(""))
    results = LocalCatalog(flow, runs.folder.parent).kept(record.run_id)
    yield from _titled("steps", _steps(runs, record, results))


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == 0:
            yield title
        yield f"  {line}"


def _steps(runs: Runs, record: RunRecord, results: Kept) -> Iterator[str]:
    for place in results.places().values():
        try:
            yield f"{place.id}: {_state(results, place)}"
            if place.source is not None and place.is_last:
                yield from _failures(results, place)
                yield from _versions(runs, record, place.key, place.inner[0])
        except LokkiError as error:
            yield f"{place.id}: {error}"


def _state(results: Kept, place: Place) -> str:
    if place.source is not None:
        items = results.results(place)
        failed = len(items.failures())
        return f"{len(items):,} items{f', {failed:,} failed' if failed else ''}"
    if place.fans_out:
        return f"gave {len(results.items(place.id)):,} items"
    results.output(place.id)
    return "done"


def _failures(results: Kept, place: Place) -> Iterator[str]:
    failures: Mapping[int, Failure] = results.results(place).failures()
    for index in islice(sorted(failures), _FAILURES):
        yield f"  item {index}: {failures[index]}"
    if len(failures) > _FAILURES:
        yield f"  and {len(failures) - _FAILURES:,} more items that failed"


def _versions(runs: Runs, record: RunRecord, source: str, first_step: str) -> Iterator[str]:
    """Tell which items of a map have results of which code.

    Nothing is told of a map whose code never changed while it was in progress.
    """
    changes = record.changed_code.get(source, [])
    if not changes:
        return
    folder = runs.folder_of(record)
    with folder.reading(first_step):
        parts = StepResults(folder.parts(source), folder.items(source)).part_numbers()
    command = f"run --resume {record.run_id} --from {first_step}"
    yield f"  its items have results of different code; {command} runs all of them again"
    first = changes[0].first_part
    yield f"  code that it began with: {_items(parts, 1, first)}"
    ends = [*(change.first_part for change in changes[1:]), max(parts, default=0) + 1]
    for change, end in zip(changes, ends, strict=True):
        yield f"  code of {_since(change)}: {_items(parts, change.first_part, end)}"


def _since(change: CodeOfParts) -> str:
    return f"{datetime.fromisoformat(change.since).astimezone():%Y-%m-%d %H:%M:%S}"


def _items(parts: array[int], first: int, end: int) -> str:
    """Name the items whose results are in some parts.

    That is such as ``4 items (0–2, 7)``.
    """
    indexes = [index for index, part in enumerate(parts) if first <= part < end]
    ranges = []
    for _, group in groupby(enumerate(indexes), lambda pair: pair[1] - pair[0]):
        members = [index for _, index in group]
        ranges.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    more = f" and {len(ranges) - _RANGES:,} more ranges" if len(ranges) > _RANGES else ""
    return f"{count_text(len(indexes), 'item')} ({', '.join(ranges[:_RANGES])}{more})" if ranges else "no items"
