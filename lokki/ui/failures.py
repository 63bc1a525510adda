"""The failed items of a run, map by map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.errors import LokkiError
from lokki.observing.translating import localize_failure
from lokki.ui.sources import RunView

PAGE = 50
"""How many items a page shows."""


@dataclass(frozen=True, slots=True)
class FailedEntry:
    """An item that failed for good, and why."""

    path: ItemPath
    failure: Failure


@dataclass(frozen=True, slots=True)
class FailedItems:
    """A page of the failed items of a run.

    ``problems``: why those of some maps are not known.
    """

    items: list[FailedEntry]
    total: int
    problems: list[str]


def failed_items(view: RunView, page: int) -> FailedItems:
    """Read a page of the failed items.

    Raises StoreError for a run whose plan cannot be read.
    """
    items: list[FailedEntry] = []
    problems: list[str] = []
    total = 0
    first = (page - 1) * PAGE
    kept = view.subject.run.kept
    for op_id, place in kept.maps().items():
        try:
            results = kept.results(place)
            failures, paths = results.failures(), results.paths()
            for index in sorted(failures)[max(0, first - total) : max(0, first + PAGE - total)]:
                path = paths.path(index)
                items.append(FailedEntry(path, _whole(view, path, failures[index])))
        except LokkiError as error:  # it has not begun, or is damaged: others are shown
            problems.append(f"{op_id}: {error}")
        else:
            total += len(failures)
    return FailedItems(items, total, problems)


def call_failure(view: RunView, step: str, item: ItemPath) -> Failure | None:
    """Return why a call failed for good, None if it did not.

    Raises ParameterError for a step that the run does not have.
    """
    run = view.subject.run
    place = run.place(step)
    if place.source is None:
        op = view.subject.facts.report.ops.get(step)
        return _example(view, step, ()) if op is not None and op.status == "failed" else None
    try:
        results = run.kept.results(place)
        index = results.paths().index(item)
        failure = None if index is None else results.failures().get(index)
        return None if failure is None else _whole(view, item, failure)
    except LokkiError:  # results of an emulated run, or of one on AWS, are there when the map has ended
        return _example(view, step, item)


def _whole(view: RunView, item: ItemPath, failure: Failure) -> Failure:
    """Return a failure that a run keeps, with what its events add.

    The replies of batches have no traceback, and a function that died names no line.
    """
    local = localize_failure(failure, view.locate)
    if local.where and local.traceback:
        return local
    same = (example for example in _examples(view, failure.step, item) if _is_same(example, local))
    example = next(same, local)
    return replace(
        local,
        where=local.where or example.where,
        traceback=local.traceback or example.traceback,
        full_traceback=local.full_traceback or example.full_traceback,
    )


def _is_same(example: Failure, failure: Failure) -> bool:
    """Tell whether an example is this failure, and not one of an earlier try.

    Either may have the beginning of a long message only.
    """
    short, long = sorted((example.message, failure.message), key=len)
    return example.error == failure.error and bool(short or not long) and long.startswith(short)


def _example(view: RunView, step: str, item: ItemPath) -> Failure | None:
    """Return why a call failed that is among the examples."""
    return next(_examples(view, step, item), None)


def _examples(view: RunView, step: str, item: ItemPath) -> Iterator[Failure]:
    """Yield the failures of a call that are among the examples.

    Those of an error that was tried again each time are none.
    """
    for group in view.subject.facts.groups:
        for example in group.examples if group.count else ():
            if (example.step, example.item) == (step, item):
                yield example.failure
