"""The pages of `lokki ui` as an application: who is let in, what stands there, and what damage does to it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import httpx2
import pytest
from starlette.testclient import TestClient

from lokki import flow, step
from lokki.base.failures import Failure
from lokki.cli.reporting import replay_commands
from lokki.engine.events import (
    Event,
    ItemsFinished,
    MapStarted,
    RunStarted,
    StepFinished,
    StepOutput,
    StepStarted,
    event_to_json,
)
from lokki.errors import AwsError, RunError, StoreError
from lokki.local_run.runs import RunRecord, Runs
from lokki.reports.facts import FailedCall, FailureGroup, RunFacts
from lokki.results.flow_results import Run
from lokki.results.items import ItemSource, Kept, Paths, Place, RunInfo
from lokki.ui.app import make_app
from lokki.ui.failures import call_failure, failed_items
from lokki.ui.folder import FolderRuns
from lokki.ui.guard import Guard
from lokki.ui.listing import ListedRun, RunQuery, select_runs
from lokki.ui.logs import LINES, LogChoice, LogPart, log_part
from lokki.ui.sources import RunSource, RunView

HOSTILE = "</script></table><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
SECRET = "a-secret"
HOST = "127.0.0.1:4321"
START = datetime(2026, 11, 28, tzinfo=UTC)


@step
def load(rows: int) -> list[int]:
    return list(range(rows))


@step
def work(row: int) -> int:
    if row % 3 == 1:
        raise ValueError(f"row {row} {HOSTILE}")
    return row


@step
def total(rows: list[int]) -> int:
    if len(rows) < 3:
        raise RuntimeError(HOSTILE)
    return sum(rows)


@flow
def watched_flow(rows: int = 200, note: str = HOSTILE):
    return load(rows).map(work, tolerate=1.0).agg(total)


def logged(event: Event) -> str:
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event_to_json(event)})


def command_of(command: str, run: RunRecord) -> str:
    return f"python flow.py {command}"


def client(root: Path, *others: RunSource) -> TestClient:
    sources = [FolderRuns(root, command_of, replay_commands), *others]
    app = Guard(make_app(sources, f"/{SECRET}", lambda text: text.replace(str(root), "HERE")), SECRET, [HOST])
    return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of 200 rows, one that failed, and four that are damaged."""
    root = tmp_path_factory.mktemp("pages") / ".lokki"
    watched_flow.using(root=root, executor="inline", progress=False, run_id="one").run()
    with pytest.raises(RunError):
        watched_flow.using(root=root, executor="inline", progress=False, run_id="two").run(rows=3)
    runs = root / "runs"
    # What steps print is noted by the command line.
    printed = [StepOutput("load", (), "stdout", f"loading {HOSTILE}")]
    printed += [StepOutput("work", (row,), "stdout", f"row {row}") for row in range(200)]
    with (runs / "one" / "events.jsonl").open("a") as file:
        file.writelines(f"{line}\n" for line in map(logged, printed))
    for name in ("cut", "strange", "bare", "planless"):
        shutil.copytree(runs / "one", runs / name)
    text = (runs / "one" / "run.json").read_text()
    (runs / "cut" / "run.json").write_text(text[: len(text) // 2])
    (runs / "strange" / "run.json").write_bytes(b"\xff\x00" * 100)
    (runs / "bare" / "run.json").unlink()
    record = replace(Runs(root).load("one"), run_id="planless", plan={"version": 99})
    Runs(root).save(record)
    return root


@pytest.fixture(scope="module")
def pages(root: Path) -> TestClient:
    return client(root)


def words(answer: httpx2.Response) -> str:
    """Return the texts of a page as a reader sees them."""
    return unescape(re.sub(r"<[^>]*>", " ", answer.text))


def get(pages: TestClient, address: str) -> httpx2.Response:
    return pages.get(f"/{SECRET}/{address}")


# --- who is let in ---


@pytest.mark.parametrize("path", ["/", "/wrong/", "/lokki.css", "/a-secre/", f"//{SECRET}/", "/%C3%A4/"])
def test_without_the_secret_there_is_nothing(pages: TestClient, path: str) -> None:
    answer = pages.get(path)
    assert (answer.status_code, "lokki ui printed" in answer.text) == (404, True)


@pytest.mark.parametrize("host", ["evil.example:4321", "127.0.0.1", "127.0.0.1:80", "localhost:4321", ""])
def test_another_name_for_this_machine_is_refused(pages: TestClient, host: str) -> None:
    answer = pages.get(f"/{SECRET}/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (403, "This page is read under its own address alone.\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_runs_are_only_read(pages: TestClient, method: str) -> None:
    answer = pages.request(method, f"/{SECRET}/runs/here/one")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_the_page(pages: TestClient) -> None:
    answer = pages.head(f"/{SECRET}/")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("address", ["", "runs/here/one", "lokki.css", "lokki.js", "runs/here/nope", "nowhere"])
def test_each_answer_has_the_policy(pages: TestClient, address: str) -> None:
    headers = get(pages, address).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; style-src-elem")
    assert policy.endswith("form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")


def test_a_page_that_has_not_changed_is_not_sent_again(pages: TestClient) -> None:
    tag = get(pages, "").headers["ETag"]
    again = pages.get(f"/{SECRET}/", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)


# --- the list ---


def test_the_list_has_all_runs_the_damaged_ones_too(pages: TestClient) -> None:
    answer = get(pages, "")
    text = words(answer)
    assert answer.status_code == 200
    ids = re.findall(r'runs/here/(\w+)">', answer.text)
    assert (sorted(ids), ids.index("two") < ids.index("one")) == (
        ["bare", "cut", "one", "planless", "strange", "two"],
        True,
    )
    assert answer.text.count('<td class="status bad">damaged</td>') == 3
    assert f"rows=200 note={HOSTILE}"[:100] in text
    assert "total() raised RuntimeError" in text
    assert "rows=3" in text


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("status=failed", ["two"]),
        ("flow=watched-flow&status=finished", ["one", "planless"]),
        ("params=rows%3D3", ["two"]),
        ("params=ROWS%3D200+onerror", ["one", "planless"]),
        ("params=rows%3D4", []),
        ("flow=other", []),
    ],
)
def test_runs_are_found_by_status_flow_and_parameters(pages: TestClient, query: str, ids: list[str]) -> None:
    assert sorted(re.findall(r'runs/here/(\w+)">', get(pages, f"?{query}").text)) == ids


class UnreachableRuns:
    """A deployed flow whose account does not answer."""

    key, title, poll = "aws-far", "far on AWS", 5000

    def runs(self) -> list[ListedRun]:
        raise AwsError("cannot list the runs: no credentials. Sign in again.")

    def view(self, run_id: str) -> RunView:
        raise AwsError("cannot read the run: no credentials. Sign in again.")

    def log(self, run_id: str, choice: LogChoice) -> LogPart:
        raise AwsError("cannot read the log: no credentials. Sign in again.")


class ManyRuns(UnreachableRuns):
    """A flow of 120 runs."""

    def runs(self) -> list[ListedRun]:
        start = datetime(2026, 11, 28, tzinfo=UTC)
        infos = [
            RunInfo(
                f"r{number:03}", "f", "finished", start + timedelta(minutes=number), number % 7 + 0.5, {"n": number}
            )
            for number in range(120)
        ]
        return [ListedRun(info, self.key, "AWS") for info in infos]


def test_many_runs_are_paged_and_sorted(tmp_path: Path) -> None:
    pages = client(tmp_path, ManyRuns())
    first = get(pages, "")
    assert re.findall(r'/(r\d+)">', first.text) == [f"r{number:03}" for number in range(119, 69, -1)]
    assert "120 runs, page 1 of 3" in words(first)
    assert ('href="?page=2"' in first.text, 'rel="prev"' in first.text) == (True, False)
    last = get(pages, "?page=99&sort=time")
    assert "120 runs, page 3 of 3" in words(last)
    assert re.findall(r"(\d)\.50 s", words(last)) == ["5"] * 3 + ["6"] * 17
    assert re.findall(r'aria-sort="(\w+)" class="number"><a href="([^"]*)"', last.text) == [
        ("ascending", "?sort=-time")
    ]
    assert get(pages, "?page=-1&sort=%3Cb%3E&status=").status_code == 200


def test_queries_are_read_with_what_they_mean() -> None:
    query = RunQuery.read({"status": "failed", "sort": "-nonsense", "page": "1e9", "params": " a=1 "})
    assert query == RunQuery("failed", "", "a=1", "-started", 1)
    assert query.address(page=3) == "?status=failed&params=a%3D1&page=3"
    assert query.address(sort=query.sorted_by("started")) == "?status=failed&params=a%3D1&sort=started"


def test_sorting_takes_runs_without_times_and_ties() -> None:
    info = RunInfo("a", "f", "running", datetime(2026, 1, 1, tzinfo=UTC), None, {})
    runs = [ListedRun(replace(info, id=name, seconds=took), "here", "") for name, took in [("b", None), ("a", 2.0)]]
    assert [run.info.id for run in select_runs(runs, RunQuery(sort="time")).runs] == ["b", "a"]


def test_what_cannot_be_listed_says_so_beside_the_others(root: Path) -> None:
    pages = client(root, UnreachableRuns())
    text = words(get(pages, ""))
    assert "far on AWS: cannot list the runs: no credentials. Sign in again." in text
    assert "watched-flow" in text
    assert "cannot read the run: no credentials" in words(get(pages, "runs/aws-far/x"))
    assert "cannot read the log: no credentials" in words(get(pages, "runs/aws-far/x/log"))


# --- a run ---


def test_a_run_is_shown_as_its_report_shows_it(pages: TestClient) -> None:
    answer = get(pages, "runs/here/one")
    text = words(answer)
    for part in (
        "run  one , started",
        "67   ValueError  in  work  at",
        "each item of load: work",
        "133/200",
        "failed items (67)",
        "python flow.py replay one --step work --item 1",
        "Parameters and code",
        "Items by duration",
    ):
        assert part in text, part
    assert 'data-poll="0"' in answer.text
    assert f'href="/{SECRET}/runs/here/one/item?step=work&amp;item=1"' in answer.text
    failed = words(get(pages, "runs/here/two"))
    assert "python flow.py run --resume two" in failed
    assert "total() raised RuntimeError" in failed


def test_failed_items_are_paged_and_each_has_a_page(pages: TestClient) -> None:
    first, second = (get(pages, f"runs/here/one/failed?page={number}") for number in (1, 2))
    assert "67 items, page 1 of 2" in words(first)
    names = [re.findall(r"work\[(\d+)\]", answer.text) for answer in (first, second)]
    assert [list(map(int, numbers)) for numbers in names] == [list(range(1, 151, 3)), list(range(151, 200, 3))]
    item = words(get(pages, "runs/here/one/item?step=work&item=4"))
    for part in (
        f"ValueError: row 4 {HOSTILE} at",
        "item:  4",
        "python flow.py replay one --step work --item 4",
        "Traceback (most recent call last):",
        "row 4",
        "failed: ValueError: row 4",
    ):
        assert part in item, part
    assert "row 7" not in item
    good = words(get(pages, "runs/here/one/item?step=work&item=3"))
    assert ("Traceback" in good, "row 3" in good) == (False, True)
    step = words(get(pages, "runs/here/two/item?step=total"))
    assert f"RuntimeError: {HOSTILE} at" in step


@dataclass(frozen=True)
class BatchItems:
    """The items of a map as its batches replied: failures without a traceback, and of a death without a line."""

    items: ItemSource
    replied: dict[int, Failure]

    def failures(self) -> dict[int, Failure]:
        return self.replied

    def paths(self) -> Paths:
        return self.items.paths()


@dataclass(frozen=True)
class BatchRun:
    """What a run in batches keeps."""

    kept: Kept
    replied: dict[int, Failure]

    def maps(self) -> Mapping[str, Place]:
        return self.kept.maps()

    def results(self, place: Place) -> BatchItems:
        return BatchItems(self.kept.results(place), self.replied)


def test_an_item_of_a_batch_has_the_line_and_the_traceback_that_events_have_of_the_same_failure(root: Path) -> None:
    view = FolderRuns(root, command_of, replay_commands).view("one")
    run = view.subject.run
    lost = replace(run.kept.results(run.kept.maps()["load.map"]).failures()[1], message="lost", where="")
    tried, late = (replace(lost, error=error, where="flow.py:9") for error in ("ValueError", "TypeError"))
    died = Failure("work", "WorkerError", "the worker process ended with Runtime.ExitError")
    short = Failure("work", "TypeError", "lo", "flow.py:7")
    groups = [
        FailureGroup("work", "ValueError", "flow.py:9", 1, 2, [FailedCall("work", (1,), "load.map", tried)]),
        FailureGroup("work", "TypeError", "", 1, 0, [FailedCall("work", (4,), "load.map", late)]),
        FailureGroup(
            "work", "WorkerError", "", 1, 0, [FailedCall("work", (1,), "load.map", replace(died, where="flow.py:3"))]
        ),
    ]
    kept = cast("Kept", BatchRun(run.kept, {1: died, 4: short, 7: replace(died, message="")}))
    subject = replace(view.subject, run=Run(run.info, kept), facts=RunFacts(groups=groups))
    listed = failed_items(replace(view, subject=subject), 1)
    assert [entry.failure for entry in listed.items] == [
        replace(died, where="flow.py:3"),
        replace(short, traceback=late.traceback, full_traceback=late.full_traceback),
        replace(died, message=""),
    ]
    assert late.traceback


class Unfinished:
    """What a run on AWS keeps while its map goes on: no results."""

    def __init__(self, kept: Kept) -> None:
        self.place = kept.places()["work"]

    def places(self) -> Mapping[str, Place]:
        return {"work": self.place}

    def results(self, place: Place) -> ItemSource:
        raise StoreError("no results")


def test_an_item_that_is_tried_again_has_not_failed(root: Path) -> None:
    view = FolderRuns(root, command_of, replay_commands).view("one")
    run = view.subject.run
    failure = Failure("work", "ValueError", "no", "flow.py:9")
    for count, shown in ((0, None), (1, failure)):
        group = FailureGroup(
            "work", "ValueError", "flow.py:9", count, 1, [FailedCall("work", (1,), "load.map", failure)]
        )
        unfinished = Run(run.info, cast("Kept", Unfinished(run.kept)))
        subject = replace(view.subject, run=unfinished, facts=RunFacts(groups=[group]))
        assert call_failure(replace(view, subject=subject), "work", (1,)) == shown


def test_lines_of_a_step_and_of_an_item_are_chosen(pages: TestClient) -> None:
    everything = words(get(pages, "runs/here/one/log"))
    assert (f"loading {HOSTILE}" in everything, "row 199" in everything) == (True, True)
    one = words(get(pages, "runs/here/one/log?step=work&item=5"))
    assert ("row 5" in one, "row 6" in one, "loading" in one) == (True, False, False)
    assert "Nothing was printed" in words(get(pages, "runs/here/one/log?step=total"))


@pytest.mark.parametrize(
    ("address", "code", "text"),
    [
        ("runs/here/nope", 404, "there is no run 'nope' in"),
        ("runs/here/..", 404, "Not Found"),
        ("runs/here/.git", 404, "cannot be a run id"),
        ("runs/there/one", 404, "there are no runs of 'there' here"),
        ("runs/here/one/item?step=nope", 404, "has no step 'nope'"),
        ("runs/here/one/item?step=work&item=x", 404, "'x' names no item"),
        ("runs/here/one/log?item=-1", 404, "'-1' names no item"),
        ("runs/here/nope/log", 404, "there is no run 'nope' in"),
        ("runs/here/cut", 200, "run.json cannot be read"),
        ("runs/here/strange", 200, "run.json cannot be read"),
        ("runs/here/bare", 200, "run.json cannot be read"),
        ("runs/here/planless", 200, "This run cannot be read"),
        ("runs/here/bare/failed", 200, "run.json cannot be read"),
    ],
)
def test_what_is_not_there_or_damaged_says_so(pages: TestClient, address: str, code: int, text: str) -> None:
    answer = get(pages, address)
    assert (answer.status_code, text in words(answer)) == (code, True), words(answer)


def test_the_log_of_a_damaged_run_is_shown_all_the_same(pages: TestClient) -> None:
    assert "row 199" in words(get(pages, "runs/here/cut/log"))


class Tags(HTMLParser):
    """The elements of a page, as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


ADDRESSES = (
    "", "?params=%22%3E%3Cimg%3E&status=%3Cb%3E", "runs/here/one", "runs/here/two", "runs/here/one/failed",
    "runs/here/one/item?step=work&item=4", "runs/here/one/log", "runs/here/cut", "runs/here/%3Cimg%20src=x%3E",
    "runs/%3Cimg%20src=x%3E/one", "runs/here/one/log?step=%22%3E%3Cimg%3E", "runs/here/one/item?step=%3Cimg%3E",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_hostile_texts_are_texts_and_nothing_else(pages: TestClient, address: str) -> None:
    tags = Tags(get(pages, address).text).tags
    names = {tag for tag, _ in tags}
    assert names & {"img", "iframe", "object", "base", "embed"} == set()
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert scripts == [{"src": f"/{SECRET}/lokki.js", "defer": None}]
    hrefs = [attributes.get("href") or "" for _, attributes in tags if "href" in attributes]
    assert [href for href in hrefs if not href.startswith((f"/{SECRET}/", "#", "?", "data:,"))] == []


@step
def shout(length: int) -> str:
    raise RuntimeError("z" * length)


@flow
def shouting_flow(length: int = 200_000):
    return shout(length)


def test_what_a_run_says_at_length_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        shouting_flow.using(root=tmp_path, executor="inline", progress=False, run_id="loud").run()
    with (tmp_path / "runs" / "loud" / "events.jsonl").open("a") as file:
        file.write(f"{logged(StepOutput('shout', (), 'stdout', 'y' * 100_000))}\n")
    pages = client(tmp_path)
    for address in ("", "runs/here/loud", "runs/here/loud/log", "runs/here/loud/item?step=shout"):
        answer = get(pages, address)
        assert (answer.status_code, "zzz…" in answer.text, len(answer.content) < 80_000) == (200, True, True), address
    assert "in shout" in words(get(pages, "runs/here/loud/item?step=shout"))


def test_a_start_that_no_calendar_has_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    record = {"run_id": "old", "flow": "f", "params": {}, "plan": [], "code": {}, "status": "<b>"}
    (folder / "run.json").write_text(json.dumps({**record, "started": "0001-01-01T00:00:00+14:00"}))
    assert get(client(tmp_path), "").text.count('<td class="status bad">damaged</td>') == 1


# --- a run that goes on ---


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a run that somebody holds the lock of."""
    plan = recorded_plan_of(tmp_path)
    runs = Runs(tmp_path)
    record = RunRecord("live", "watched-flow", {}, plan, {}, "running", datetime.now(UTC).isoformat())
    runs.new(record)
    with runs.locked("live"):
        yield tmp_path


def recorded_plan_of(root: Path) -> dict[str, object]:
    watched_flow.using(root=root / "other", executor="inline", progress=False, run_id="a").run(rows=9)
    plan: dict[str, object] = json.loads((root / "other" / "runs" / "a" / "run.json").read_text())["plan"]
    return plan


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(running: Path) -> None:
    pages = client(running)
    log = running / "runs" / "live" / "events.jsonl"

    def write(*events: Event, end: str = "\n") -> None:
        with log.open("a") as file:
            file.writelines(logged(event) + end for event in events)

    assert 'data-poll="1000"' in get(pages, "runs/here/live").text
    write(RunStarted("watched-flow", "live", {}), StepStarted("load"), StepFinished("load", 0.1, 9, 1000))
    write(MapStarted("load", ("work",), 1000, 0, 2), ItemsFinished("load", 250, 0.1))
    text = words(get(pages, "runs/here/live"))
    assert ("Progress" in text, "250/1,000, 2 running" in text) == (True, True)
    write(ItemsFinished("load", 100, 0.1), StepOutput("work", (7,), "stdout", "hello"))
    write(ItemsFinished("load", 50, 0.1), end="")  # not whole yet
    answer = get(pages, "runs/here/live")
    assert ("350/1,000" in words(answer), '<progress value="350" max="1000"' in answer.text) == (True, True)
    assert "hello" in words(get(pages, "runs/here/live/log"))
    log.write_text("")  # begun anew
    assert "Progress" not in words(get(pages, "runs/here/live"))
    log.unlink()
    assert "The run kept no log" in words(get(pages, "runs/here/live"))


# --- parts of a log ---


def write_log(path: Path, lines: int) -> None:
    with path.open("w") as file:
        for number in range(lines):
            event = StepOutput("work", (number % 1000,), "stdout", f"line {number}" + "x" * (number % 300))
            file.write(f"{logged(event)}\n")


def test_a_long_log_is_read_backwards_in_parts_that_join(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_log(path, 3_300)
    numbers: list[int] = []
    part = log_part(path, LogChoice())
    while True:
        assert len(part.lines) <= LINES
        numbers[:0] = [int(line.text.partition("x")[0].removeprefix("line ")) for line in part.lines]
        if part.earlier is None:
            break
        part = log_part(path, LogChoice(before=part.earlier))
    assert numbers == list(range(3_300))


def test_a_log_that_ends_in_the_midst_of_a_line_or_is_none_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert log_part(path, LogChoice()) == LogPart([])
    write_log(path, 3)
    path.write_text(f'no json\n{path.read_text()}{{"time": "2026')
    assert [line.text[:6] for line in log_part(path, LogChoice()).lines] == ["line 0", "line 1", "line 2"]
    assert [line.text[:6] for line in log_part(path, LogChoice(item=(1,))).lines] == ["line 1"]
