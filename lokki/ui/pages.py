"""The pages: what is known of runs as what the templates show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from jinja2 import ChoiceLoader, PackageLoader

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, format_item, item_name
from lokki.progress.displays import seconds as duration
from lokki.reports.facts import FailedCall, FailureGroup
from lokki.reports.gathering import shorten_trace
from lokki.reports.page import ENDED_BADLY, Content, page_environment, report_values
from lokki.reports.samples import Sample, replay_of
from lokki.results.items import LogLine
from lokki.ui.failures import PAGE as FAILED_PAGE
from lokki.ui.failures import FailedEntry, FailedItems
from lokki.ui.listing import ListedRun, ListPage, RunQuery, params_text
from lokki.ui.logs import LogPart
from lokki.ui.sources import RunView

_PARAMETERS = 120
"""Characters of the parameters in the list of runs."""

_CELL = 300
_LINE = 4_000
_TRACEBACK = 50_000
"""Characters of an error in a table, of a line of a log, and of a traceback: a step may raise and print any number."""

_COLUMNS = (
    ("run", "run"),
    ("flow", "flow"),
    ("status", "status"),
    ("started", "started"),
    ("time", "time"),
    ("failed", "failed"),
)


@dataclass(frozen=True, slots=True)
class ListRow:
    """A run as the list shows it."""

    address: str
    id: str
    flow: str
    status: str
    is_bad: bool
    started: str
    took: str
    failed: str
    place: str
    params: str
    error: str


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column that runs can be sorted by.

    ``order``: how they are sorted by it now, as ``aria-sort`` says it; empty where they are not.
    """

    title: str
    address: str
    order: str


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A failed item as the list of them shows it."""

    address: str
    name: str
    summary: str
    where: str


@dataclass(frozen=True, slots=True)
class CallView:
    """A call of a run, of an item or of none.

    * ``failure``: why it failed, None where it did not.
    * ``value``: the item that it was given, as Python writes it.
    """

    step: str
    item: ItemPath
    failure: Failure | None
    value: str


@dataclass(frozen=True, slots=True)
class RunAddress:
    """Where the pages on a run are.

    ``root``: the address of the list, without its last slash.
    """

    root: str
    source: str
    run_id: str

    def page(self, name: str = "", **values: str) -> str:
        """Return the address of one of the run's pages, by default of the first."""
        address = f"{self.root}/runs/{quote(self.source)}/{quote(self.run_id)}"
        return f"{address}{f'/{name}' if name else ''}{f'?{urlencode(values)}' if values else ''}"

    def item(self, step: str, item: ItemPath) -> str:
        """Return the address of the page on a call, of an item or of none."""
        return self.page("item", step=step, **({"item": format_item(item)} if item else {}))


class Pages:
    """Fills the templates.

    * ``root``: the address of the list, without its last slash.
    * ``shorten``: shortens the paths in a text.
    """

    def __init__(self, root: str, shorten: Callable[[str], str]) -> None:
        self.root = root
        self._shorten = shorten
        # Reports have the parts that both have.
        self._environment = page_environment(ChoiceLoader([PackageLoader("lokki.ui"), PackageLoader("lokki.reports")]))

    def file(self, name: str) -> str:
        """Return the style, or the script."""
        return self._environment.get_template(name).render()

    def runs(self, selection: ListPage, query: RunQuery, problems: Sequence[str], poll: int) -> str:
        """Write the list of runs.

        ``problems``: why runs of some places are not listed.
        """
        columns = [
            Column(title, query.address(sort=query.sorted_by(name)), _order(query, name)) for name, title in _COLUMNS
        ]
        return self._render(
            "runs.html",
            poll,
            rows=list(map(self._row, selection.runs)),
            selection=selection,
            query=query,
            columns=columns,
            previous=query.address(page=selection.page - 1) if selection.page > 1 else "",
            following=query.address(page=selection.page + 1) if selection.page < selection.pages else "",
            problems=problems,
        )

    def run(self, view: RunView, address: RunAddress, poll: int) -> str:
        """Write the page of a run."""
        subject = view.subject

        def item_address(call: FailedCall) -> str:
            return address.item(call.step, call.item)

        links = [("log", address.page("log"))]
        if subject.facts.failed_items:
            links.insert(0, (f"failed items ({subject.facts.failed_items:,})", address.page("failed")))
        content = Content(_samples(view, subject.facts.groups), None, None, view.commands, links, item_address)
        return self._render("run.html", poll, **report_values(subject, content))

    def failed(self, view: RunView, address: RunAddress, failed: FailedItems, page: int, poll: int) -> str:
        """Write a page of a run's failed items."""
        pages = max(1, math.ceil(failed.total / FAILED_PAGE))
        return self._render(
            "failed.html",
            poll,
            run=view.subject.run,
            back=address.page(),
            rows=[_failed_row(item, address) for item in failed.items],
            failed=failed,
            page=page,
            pages=pages,
            previous=address.page("failed", page=str(page - 1)) if page > 1 else "",
            following=address.page("failed", page=str(page + 1)) if page < pages else "",
        )

    def item(self, view: RunView, address: RunAddress, call: CallView, log: LogPart) -> str:
        """Write the page on a call of a run."""
        return self._render(
            "item.html",
            0,
            run=view.subject.run,
            back=address.page(),
            name=item_name(call.step, call.item),
            call=call,
            message="" if call.failure is None else _cut(call.failure.message, _LINE),
            traceback="" if call.failure is None else shorten_trace(call.failure.traceback, _TRACEBACK),
            replay=view.replay(call.step, call.item),
            lines=list(map(_line, log.lines)),
        )

    def log(
        self, title: str, address: RunAddress, step: str, item: str, steps: Sequence[str], part: LogPart, poll: int
    ) -> str:
        """Write the page with a run's log.

        * ``title``: the flow and how its run is.
        * ``step``, ``item``: what the lines were chosen by.
        """
        chosen = {name: value for name, value in (("step", step), ("item", item)) if value}
        return self._render(
            "log.html",
            poll,
            title=title,
            run_id=address.run_id,
            back=address.page(),
            step=step,
            item=item,
            steps=steps,
            lines=list(map(_line, part.lines)),
            earlier=address.page("log", before=str(part.earlier), **chosen) if part.earlier else "",
        )

    def problem(self, title: str, text: str) -> str:
        """Write a page that says why there is nothing to be seen."""
        return self._render("problem.html", 0, title=title, text=text)

    def _render(self, template: str, poll: int, **values: object) -> str:
        return self._shorten(self._environment.get_template(template).render(root=self.root, poll=poll, **values))

    def _row(self, run: ListedRun) -> ListRow:
        info, params = run.info, params_text(run.info)
        return ListRow(
            RunAddress(self.root, run.source, info.id).page(),
            info.id,
            info.flow or "?",
            info.status.replace("_", " "),
            info.status in ENDED_BADLY,
            f"{info.started.astimezone():%Y-%m-%d %H:%M:%S}",
            "" if info.seconds is None else duration(info.seconds),
            f"{run.failed:,}" if run.failed else "",
            run.place,
            _cut(params, _PARAMETERS),
            _cut(info.error, _CELL),
        )


def _order(query: RunQuery, name: str) -> str:
    if query.sort.removeprefix("-") != name:
        return ""
    return "descending" if query.sort.startswith("-") else "ascending"


def _samples(view: RunView, groups: Sequence[FailureGroup]) -> list[Sample]:
    """Return the examples of failures with their commands.

    Items and logs have pages of their own: to fetch them takes too long for a page that is made again each second.
    """
    calls = [example for group in groups for example in group.examples]
    return [Sample(call, "", replay_of(call, view.replay), ()) for call in calls]


def _failed_row(item: FailedEntry, address: RunAddress) -> FailedRow:
    failure = item.failure
    name = item_name(failure.step, item.path)
    return FailedRow(address.item(failure.step, item.path), name, _cut(failure.summary, _CELL), failure.where)


def _line(line: LogLine) -> tuple[str, str, str]:
    """Return the time, the step and item, and the text of a line."""
    return line.time[11:23], item_name(line.step, line.item), _cut(line.text, _LINE)


def _cut(text: str, most: int) -> str:
    """Cut a text off that is too long.

    >>> _cut("birds", 5), _cut("birds", 4)
    ('birds', 'bir…')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"
