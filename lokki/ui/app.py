"""Which address is which page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from lokki.base.item_path import ItemPath, parse_item
from lokki.errors import LokkiError, ParameterError, RunFolderError
from lokki.reports.samples import item_value
from lokki.ui.failures import call_failure, failed_items
from lokki.ui.listing import ListedRun, RunQuery, page_number, select_runs
from lokki.ui.logs import LogChoice
from lokki.ui.pages import CallView, Pages, RunAddress
from lokki.ui.sources import RunSource


def make_app(sources: Sequence[RunSource], root: str, shorten: Callable[[str], str]) -> Starlette:
    """Make the application.

    * ``root``: the address of the list, without its last slash.
    * ``shorten``: shortens the paths in a text.
    """
    site = Routes(sources, Pages(root, shorten))
    routes = [
        Route("/", site.runs),
        Route("/runs/{source}/{run}", site.run),
        Route("/runs/{source}/{run}/failed", site.failed),
        Route("/runs/{source}/{run}/item", site.item),
        Route("/runs/{source}/{run}/log", site.log),
        Route("/lokki.css", site.style),
        Route("/lokki.js", site.script),
    ]
    return Starlette(routes=[Mount(root, routes=routes)], exception_handlers={LokkiError: site.problem})


@dataclass(frozen=True, slots=True)
class Routes:
    """Answers requests.

    Starlette calls these methods in threads, since what they read takes its time.
    """

    sources: Sequence[RunSource]
    pages: Pages

    def runs(self, request: Request) -> Response:
        """Answer with the list of runs."""
        query = RunQuery.read(request.query_params)
        runs: list[ListedRun] = []
        problems: list[str] = []
        for source in self.sources:
            try:
                runs += source.runs()
            except LokkiError as error:  # the others are shown
                problems.append(f"{source.title}: {error}")
        poll = 2 * max(source.poll for source in self.sources)
        return _html(request, self.pages.runs(select_runs(runs, query), query, problems, poll))

    def run(self, request: Request) -> Response:
        """Answer with the page of a run."""
        source, address = self._of(request)
        view = source.view(address.run_id)
        return _html(request, self.pages.run(view, address, source.poll if view.is_live else 0))

    def failed(self, request: Request) -> Response:
        """Answer with a page of a run's failed items."""
        source, address = self._of(request)
        view, page = source.view(address.run_id), page_number(request.query_params.get("page", ""))
        failed = failed_items(view, page)
        return _html(request, self.pages.failed(view, address, failed, page, source.poll if view.is_live else 0))

    def item(self, request: Request) -> Response:
        """Answer with the page on a call, of an item or of none."""
        source, address = self._of(request)
        step, item = request.query_params.get("step", ""), _item(request)
        view = source.view(address.run_id)
        run = view.subject.run
        log = source.log(address.run_id, LogChoice(run.place(step).inner or (step,), item))
        call = CallView(step, item, call_failure(view, step, item), item_value(run, step, item))
        return _html(request, self.pages.item(view, address, call, log))

    def log(self, request: Request) -> Response:
        """Answer with lines of a run's log."""
        source, address = self._of(request)
        step, item = request.query_params.get("step", ""), request.query_params.get("item", "")
        before = request.query_params.get("before", "")
        choice = LogChoice((step,) if step else (), _item(request), page_number(before) if before else None)
        part = source.log(address.run_id, choice)
        try:
            view = source.view(address.run_id)
            title = f"{view.subject.run.info.flow} {view.subject.run.status}"
            steps, is_live = list(view.subject.run.kept.places()), view.is_live
        except LokkiError:  # the log of a damaged run is there all the same
            if not part.lines:
                raise
            title, steps, is_live = "damaged run", [], False
        poll = source.poll if is_live and not before else 0
        return _html(request, self.pages.log(title, address, step, item, steps, part, poll))

    def style(self, request: Request) -> Response:
        """Answer with the style of all pages."""
        return Response(self.pages.file("lokki.css"), media_type="text/css")

    def script(self, request: Request) -> Response:
        """Answer with the script that keeps pages current."""
        return Response(self.pages.file("lokki.js"), media_type="text/javascript")

    def problem(self, request: Request, error: Exception) -> Response:
        """Answer with what is wrong with a run."""
        is_missing = isinstance(error, RunFolderError | ParameterError)
        title = "Not found" if is_missing else "This run cannot be read"
        code = HTTPStatus.NOT_FOUND if is_missing else HTTPStatus.OK
        return HTMLResponse(_encoded(self.pages.problem(title, str(error))), code)

    def _of(self, request: Request) -> tuple[RunSource, RunAddress]:
        key, run_id = request.path_params["source"], request.path_params["run"]
        source = next((source for source in self.sources if source.key == key), None)
        if source is None:
            raise RunFolderError(f"there are no runs of {key!r} here.")
        return source, RunAddress(self.pages.root, key, run_id)


def _item(request: Request) -> ItemPath:
    text = request.query_params.get("item", "")
    return parse_item(text) if text else ()


def _html(request: Request, text: str) -> Response:
    """Answer with a page, or that the reader has it already."""
    content = _encoded(text)
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
    return HTMLResponse(content, headers={"ETag": tag})


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")  # texts of users may have halves of characters
