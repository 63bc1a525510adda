"""Which runs a page of the list shows, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import msgspec

from lokki.results.items import RunInfo

PAGE = 50
"""How many runs a page shows."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in the list.

    * ``source``: the key of what it is read from, and ``place`` where it ran, in words.
    * ``failed``: how many items failed, None where that is not known without asking for it.
    """

    info: RunInfo
    source: str
    place: str
    failed: int | None = None


SORTS: Mapping[str, Callable[[ListedRun], tuple[float | str, ...]]] = {
    "started": lambda run: (run.info.started.timestamp(), run.info.id),
    "run": lambda run: (run.info.id,),
    "flow": lambda run: (run.info.flow, run.info.started.timestamp()),
    "status": lambda run: (run.info.status, run.info.started.timestamp()),
    "time": lambda run: (-1.0 if run.info.seconds is None else run.info.seconds,),
    "failed": lambda run: (run.failed or 0,),
}
"""What runs can be sorted by."""


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What a reader of the list asks for.

    * ``status``, ``flow``: of the runs, empty for all.
    * ``params``: words that must stand in a run's parameters, written as ``name=value``.
    * ``sort``: one of `SORTS`, behind a ``-`` for the largest first.
    """

    status: str = ""
    flow: str = ""
    params: str = ""
    sort: str = "-started"
    page: int = 1

    @classmethod
    def read(cls, values: Mapping[str, str]) -> RunQuery:
        """Read a query from an address, leaving out what means nothing."""
        sort = values.get("sort", "-started")
        return cls(
            values.get("status", ""),
            values.get("flow", ""),
            values.get("params", "").strip(),
            sort if sort.removeprefix("-") in SORTS else "-started",
            page_number(values.get("page", "")),
        )

    def address(self, **changes: str | int) -> str:
        """Return the part of an address that asks for this, with changes."""
        query = replace(self, page=1)
        query = replace(query, **changes)  # type: ignore[arg-type]  # mypy knows no fields by their names
        values = {"status": query.status, "flow": query.flow, "params": query.params}
        values |= {"sort": query.sort if query.sort != "-started" else ""}
        values |= {"page": str(query.page) if query.page > 1 else ""}
        return f"?{urlencode({name: value for name, value in values.items() if value})}"

    def sorted_by(self, name: str) -> str:
        """Return the sort that a click on a column's head asks for."""
        return name if self.sort == f"-{name}" else f"-{name}"


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of the list.

    * ``runs``: on this page; ``total``: how many fit the query, and ``pages`` how many pages they fill.
    * ``statuses``, ``flows``: of all runs, to choose from.
    """

    runs: Sequence[ListedRun]
    total: int
    page: int
    pages: int
    statuses: Sequence[str]
    flows: Sequence[str]


def select_runs(runs: Iterable[ListedRun], query: RunQuery) -> ListPage:
    """Return the page of the list that a query asks for.

    Past the last page it is the last one.
    """
    runs = list(runs)
    chosen = sorted(
        filter(lambda run: _fits(run, query), runs),
        key=SORTS[query.sort.removeprefix("-")],
        reverse=query.sort.startswith("-"),
    )
    pages = max(1, math.ceil(len(chosen) / PAGE))
    page = min(query.page, pages)
    return ListPage(
        chosen[(page - 1) * PAGE : page * PAGE],
        len(chosen),
        page,
        pages,
        sorted({run.info.status for run in runs}),
        sorted({run.info.flow for run in runs if run.info.flow}),
    )


def _fits(run: ListedRun, query: RunQuery) -> bool:
    """Tell whether a run fits a query.

    Its parameters are asked for last, as those of a run on AWS take a request.
    """
    if (query.status and run.info.status != query.status) or (query.flow and run.info.flow != query.flow):
        return False
    if not query.params:
        return True
    text = params_text(run.info).casefold()
    return all(word in text for word in query.params.casefold().split())


def params_text(info: RunInfo) -> str:
    """Write the parameters of a run as they are searched.

    Texts stand there as they are, all else as JSON.

    >>> from datetime import datetime
    >>> params_text(RunInfo("a", "birds", "finished", datetime(2026, 1, 1), 1.0, {"place": "sea", "rows": [1, 2]}))
    'place=sea rows=[1,2]'
    """
    return " ".join(
        f"{name}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in info.params.items()
    )


def page_number(text: str) -> int:
    """Read the number of a page or of a place, 1 for what is none."""
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) <= 15 else 1
