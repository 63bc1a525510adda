"""Reports of runs: what is gathered of events, what stands on the page, and how the page behaves in a browser."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.browser import Browser, browser
from support.command import Place

from lokki import StepNode, flow, step
from lokki.base.failures import Failure
from lokki.builder.compiled import compile_flow
from lokki.config import LokkiConfig
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepSkipped,
    StepStarted,
    event_to_json,
)
from lokki.local_run.runs import Runs
from lokki.reports.costs import estimate_of
from lokki.reports.facts import BUCKETS, Activity, Durations
from lokki.reports.gathering import EXAMPLES, GROUPS
from lokki.reports.timed import facts_of, logged_events
from lokki.reports.writing import local_subject, write_page

HOSTILE = "</script></pre><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"

PROGRAM = f"""
import time
from lokki import Retry, flow, main, step

@step
def load(rows: int) -> list[int]:
    print("loading", {HOSTILE!r})
    return list(range(rows))

@step
def work(row: int) -> int:
    print(f"row {{row}}", {HOSTILE!r})
    time.sleep(0.002)
    if row % 3 == 1:
        raise ValueError(f"row {{row}} " + {HOSTILE!r})
    if row == 2:
        raise KeyError("column")
    return row

@step
def total(rows: list[int]) -> int:
    if len(rows) < 3:
        raise RuntimeError({HOSTILE!r})
    return sum(rows)

@flow
def hostile_flow(rows: int = 12, note: str = {HOSTILE!r}):
    return load(rows).map(work, tolerate=1.0).agg(total)

if __name__ == "__main__":
    main(hostile_flow)
"""


def failure(step: str, error: str, message: str = "", where: str = "flow.py:1") -> Failure:
    return Failure(step, error, message, where, f"Traceback of {message}")


def timed(*events: Event) -> list[tuple[float, Event]]:
    """Put events a second apart."""
    return [(100.0 + number, event) for number, event in enumerate(events)]


# --- gathering ---


def test_times_and_numbers_of_a_run_are_gathered() -> None:
    facts = facts_of(
        timed(
            RunStarted("birds", "one", {}),
            StepStarted("load"),
            StepFinished("load", 1.0, 87, 5),
            MapStarted("load", ("clean", "work"), 5, 0, 2),
            ItemsFinished("load", 1, 0.3, (2,), 0.3),
            ItemsFinished("load", 2, 0.1, (1,), 0.07),
            StepRetried("work", (3,), 1, 1.0, failure("work", "OSError")),
            ItemFailed("load", (3,), failure("work", "ValueError", "bad 3")),
            ItemsFailed("load", 1),
            MapFinished("load", 3, 2, 5.5),
            RunFinished(11.0),
        )
    )
    work = facts.ops["load.map"]
    assert (facts.seconds, facts.finished_items, facts.failed_items, facts.unlisted) == (10.0, 3, 2, 1)
    assert facts.ops["load"].spans == [(101.0, 102.0)]
    assert work.spans == [(103.0, 109.0)]
    assert (work.tries, work.durations.items, work.durations.means) == (1, 3, 2)
    assert (work.durations.slowest_item, work.durations.slowest) == ((2,), 0.3)
    assert [(group.error, group.count, group.retried) for group in facts.groups] == [
        ("ValueError", 1, 0), ("OSError", 0, 1),
    ]  # fmt: skip
    assert facts.gaps == [(0.0, 1.0), (2.0, 3.0), (9.0, 10.0)]
    assert facts.report.ops["load.map"].status == "finished"


def test_a_pause_before_a_resume_is_no_part_of_the_time() -> None:
    events = [
        (10.0, RunStarted("birds", "one", {})),
        (11.0, StepStarted("load")),
        (12.0, StepFinished("load", 1.0, 87)),
        (12.0, StepStarted("work")),
        (13.0, StepFailed("work", failure("work", "ValueError"))),
        (14.0, RunFailed(4.0, "no")),
        (5000.0, RunStarted("birds", "one", {}, resumed=True)),
        (5000.0, StepSkipped("load")),
        (5001.0, StepStarted("work")),
        (5003.0, StepFinished("work", 2.0, 9)),
        (5003.0, RunFinished(3.0)),
    ]
    facts = facts_of(events)
    assert facts.seconds == 7.0
    assert facts.pauses == [(14.0, 5000.0)]
    assert facts.ops["work"].seconds == 3.0
    assert {op.id: op.status for op in facts.report.ops.values()} == {"load": "restored", "work": "finished"}
    assert facts.gaps == [(0.0, 1.0), (3.0, 5.0)]


def test_a_map_that_is_taken_over_keeps_its_numbers() -> None:
    events = [
        RunStarted("birds", "one", {}),
        MapStarted("load", ("clean", "work"), 5, 0, 2),
        ItemsFinished("load", 4, 0.3),
        ItemFailed("load", (3,), failure("work", "ValueError", "bad 3")),
        MapFinished("load", 4, 1, 1.0),
        StepStarted("join"),
        StepFailed("join", failure("join", "ValueError")),
        RunFailed(4.0, "no"),
        RunStarted("birds", "one", {}, resumed=True),
        StepSkipped("load.map"),
        StepStarted("join"),
        StepFinished("join", 1.0, 3),
        RunFinished(3.0),
    ]
    op = facts_of(timed(*events)).report.ops["load.map"]
    assert (op.status, op.steps, op.items, op.finished, op.failed) == ("restored", ("clean", "work"), 5, 4, 1)


def test_what_ran_when_a_run_was_killed_ends_with_its_last_event() -> None:
    events = [
        (10.0, RunStarted("birds", "one", {})),
        (11.0, StepStarted("load")),
        (12.0, StepOutput("load", (), "stdout", "half")),
        (50.0, RunStarted("birds", "one", {}, resumed=True)),
        (51.0, StepStarted("load")),
        (52.0, RunInterrupted(2.0)),
    ]
    assert facts_of(events).ops["load"].spans == [(11.0, 12.0), (51.0, 52.0)]


def test_groups_and_examples_are_bounded() -> None:
    events: list[Event] = [RunStarted("birds", "one", {}), MapStarted("load", ("work",), 10_000)]
    events += [ItemFailed("load", (n,), failure("work", f"E{n % 100}", f"item {n}")) for n in range(10_000)]
    facts = facts_of(timed(*events))
    assert len(facts.groups) == GROUPS
    assert all(group.count == 100 and len(group.examples) == EXAMPLES and group.messages for group in facts.groups)
    assert facts.unlisted == 5_000
    assert facts.report.ops["load.map"].failed == 10_000


def test_activity_grows_coarser_and_keeps_its_sums() -> None:
    activity = Activity(0.0)
    for second in range(1000):
        activity.add(float(second), 2, 1)
    assert len(activity.finished) <= BUCKETS
    assert (sum(activity.finished), sum(activity.failed)) == (2000, 1000)
    assert activity.width * BUCKETS >= 1000


def test_durations_are_counted_in_steps_of_one_two_and_five() -> None:
    durations = Durations()
    durations.add(10, 0.15)
    durations.add(1, 3.0)
    durations.note_slowest((4,), 3.0)
    bars = list(durations.bars)
    assert bars[0] == (0.01, 0.02, 10)
    assert bars[-1] == (2.0, 5.0, 1)
    assert (durations.quantile(0.5), durations.quantile(0.99)) == (0.02, 3.0)


def test_the_log_gives_the_events_that_were_written(tmp_path: Path) -> None:
    events: list[Event] = [
        RunStarted("birds", "one", {}, resumed=True, folder="runs"),
        StepOutput("work", (3, 7), "stdout", "half"),
        ItemFailed("load", (3,), failure("work", "ValueError")),
        ItemsFinished("load", 3, 0.5, (2,), 0.25),
        StepFinished("load", 1.0, 87, 5),
    ]
    lines = [json.dumps({"time": "2026-01-01T00:00:00.500+00:00", **event_to_json(event)}) for event in events]
    (tmp_path / "events.jsonl").write_text("\n".join(["no json", '{"event": "unknown"}', *lines, '{"time": "2026']))
    read = list(logged_events(tmp_path))
    assert [event for _, event in read] == events
    assert {at for at, _ in read} == {1767225600.5}
    assert list(logged_events(tmp_path / "nowhere")) == []


# --- the page ---


@step
def numbers() -> list[int]:
    return []


@step(memory=256)
def quick(number: int) -> int:
    return number


@step(memory=2048)
def slow(number: int) -> int:
    return number


@step
def count(numbers: list[int]) -> int:
    return len(numbers)


@flow
def two_steps() -> StepNode[..., int]:
    return numbers().map(quick).next(slow).agg(count)


def test_each_step_of_a_map_costs_by_its_own_time_and_memory() -> None:
    compiled = compile_flow(two_steps(), LokkiConfig())

    def gigabyte_seconds(*finished: ItemsFinished) -> float:
        maps = MapStarted("numbers", ("quick", "slow"), 10, 0, 1), *finished, MapFinished("numbers", 10, 0, 5.0)
        cost = estimate_of(compiled, facts_of(timed(RunStarted("two-steps", "one", {}, False, ""), *maps)))
        assert cost is not None
        return cost.requests.gigabyte_seconds

    others = 2 * 0.001 * 0.5  # a millisecond each, the least that Lambda bills
    own = {"quick": (5, 0.5, 0), "slow": (5, 2.0, 0)}
    told = ItemsFinished("numbers", 5, 2.5, steps=own)
    assert gigabyte_seconds(told, told) == pytest.approx(1.0 * 0.25 + 4.0 * 2 + others)
    assert gigabyte_seconds(replace(told, steps={}), replace(told, steps={})) == pytest.approx(
        2.5 * 0.25 + 2.5 * 2 + others
    )


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a folder with a run of 12 rows, whose report is one.html, and one of 3, which failed."""
    place = Place(tmp_path_factory.mktemp("reports"))
    place.write("flow.py", PROGRAM)
    ran = place.run("flow.py", "run", "--run-id", "one", "--report", "one.html", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "42\n", "")
    ran = place.run("flow.py", "run", "--run-id", "two", "--rows", "3", "--report", "two.html")
    assert (ran.code, ran.lines[-1]) == (1, "report written to two.html")
    return place


def read(place: Place, name: str) -> Page:
    return Page((place.folder / name).read_text())


def test_a_report_tells_what_failed_and_how_to_run_it_again(place: Place) -> None:
    page = read(place, "one.html")
    first = re.findall(r"replay one --step work --item (\d+)", page.words)[0]  # workers end in any order
    for text in (
        "4 ValueError in work at flow.py:15",
        "1 KeyError in work at flow.py:17",
        f"ValueError: row {first} {HOSTILE}",
        f"item: {first}",
        f"python flow.py replay one --step work --item {first}",
        f" row {first} {HOSTILE}\n",
        "7/12",
        "each item of load: work",
        "estimated cost on AWS",
    ):
        assert text in page.words, text
    longest = page.words.partition("What took longest")[2].partition("Steps")[0]
    assert re.search(r"^work\[\d+\]\d", longest, re.MULTILINE), longest  # named as an item is everywhere
    again = re.search(r"python (flow\.py replay one --step work --item 2)", page.words)
    assert again
    assert "KeyError: 'column'" in place.run(*again[1].split()).err


def test_the_report_of_a_failed_run_begins_with_its_error(place: Place) -> None:
    page = read(place, "two.html")
    assert f"total() raised RuntimeError: {HOSTILE} at flow.py:23" in page.words
    assert "python flow.py run --resume two" in page.words
    assert "python flow.py replay two --step total" in page.words


@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_hostile_texts_are_texts_and_nothing_else(place: Place, name: str) -> None:
    page = read(place, name)
    tags = {tag for tag, _ in page.tags}
    assert tags & {"script", "img", "iframe", "object", "link", "form", "base"} == set()
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    hrefs = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert hrefs
    assert {f"#{name}" for name in ids} >= set(hrefs)
    policy = next(attributes for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_run_is_held_against_another(place: Place) -> None:
    ran = place.run("lokki", "runs", "report", "two", "--against", "one", "--output", "both.html")
    assert (ran.code, ran.out) == (0, "report written to both.html\n")
    page = read(place, "both.html")
    assert "Against one" in page.words
    assert "parameter rows: 12 → 3" in page.words
    assert "7 → 1, failed 5 → 2" in page.words
    assert "lokki replay flow.py two --step total" in page.words


def test_a_report_that_cannot_be_written_is_said_before_the_run(place: Place) -> None:
    ran = place.run("flow.py", "run", "--report", "nowhere/a.html")
    assert (ran.code, ran.out, ran.err) == (1, "", "error: --report nowhere/a.html: there is no folder nowhere.\n")
    ran = place.run("flow.py", "runs", "report", "three")
    assert ran.code == 1
    assert "there is no run 'three'" in ran.err


def test_a_run_of_the_first_lokki_which_kept_no_log_has_a_report(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "old_runs" / "format-1"
    run_id = json.loads((old / "run.json").read_text())["run_id"]
    shutil.copytree(old, tmp_path / "runs" / run_id)
    runs = Runs(tmp_path)
    page = Page(write_page(local_subject(runs, runs.load(run_id)), lambda step, item: ""))
    assert "The run kept no log" in page.words
    assert "did not run" not in page.words


@pytest.mark.slow
def test_an_emulated_run_has_a_report(place: Place) -> None:
    ran = place.run("flow.py", "emulate", "--run-id", "cloud", "--report", "cloud.html")
    assert ran.code == 0, ran.err
    page = read(place, "cloud.html")
    for text in ("emulated on this machine", "4 ValueError in work at flow.py:15", "replay cloud --step work --item 2"):
        assert text in page.words, text


# --- a million items ---


WRITE = "from lokki.cli.main import console; console(['runs', 'report', 'one', '--output', 'million.html'])"


def write_million(place: Place) -> None:
    """Let the log of a run tell of a million items, of which every fortieth failed."""
    log = place.folder / ".lokki" / "runs" / "one" / "events.jsonl"
    head = [line for line in log.read_text().splitlines() if "items_finished" not in line and "item_failed" not in line]
    trace = "Traceback (most recent call last):\n" + '  File "flow.py", line 1, in work\n' * 8
    with log.open("w") as file:
        started = next(number for number, line in enumerate(head) if "map_started" in line)
        file.writelines(f"{line}\n" for line in head[: started + 1])
        for number in range(25_000):
            at = f"2026-11-28T10:{number // 6000:02}:{number // 100 % 60:02}.{number % 100:02}0+00:00"
            failed = ItemFailed(
                "load", (number * 40,), Failure("work", f"Error{number % 70}", f"item {number}", "flow.py:1", trace)
            )
            for event in (ItemsFinished("load", 39, 0.001 * (number % 97 + 1), (number * 40 + 1,), 0.0005), failed):
                file.write(json.dumps({"time": at, **event_to_json(event)}) + "\n")
        for line in head[started + 1 :]:
            counts = {"succeeded": 975_000, "failed": 25_000} if '"map_finished"' in line else {}
            file.write(json.dumps({**json.loads(line), **counts}) + "\n")


@pytest.mark.slow
def test_a_million_items_make_a_small_report_in_little_memory(place: Place, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(place.folder) + "/.", str(tmp_path)], check=True)
    million = Place(tmp_path)
    write_million(million)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path, capture_output=True, text=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert done.stdout == "report written to million.html\n", done.stderr
    assert (tmp_path / "million.html").stat().st_size < 500_000
    assert most < 200_000 or most == before, f"{most} KiB"
    page = read(million, "million.html")
    for text in ("975,000/12", "25,000", "975,000 of 975,000 items were told together"):
        assert text in page.words, text


# --- in a browser ---


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one.html", "two.html"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_report_is_readable_on_a_phone_and_asks_nobody(place: Place, window: Browser, name: str, dark: bool) -> None:
    window.show(360, dark=dark)
    window.open(place.folder / name)
    assert window.overflow() == []
    assert window.ask("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)"
    )
    assert window.complaints() == []
    assert [url for url in window.requests() if not url.startswith("file:")] == []
    assert window.ask("return document.title").startswith("hostile-flow: ")


NESTED = """
import os
from lokki import flow, main, step

@step
def customers(count: int) -> list[int]:
    return list(range(count))

@step
def months(customer: int) -> list[int]:
    return [customer * 10 + month for month in range(3)]

@step
def bill(month: int) -> int:
    if month == 21:
        raise ValueError("no such month")
    return month

@step
def total(bills: list[int]) -> int:
    return sum(bills)

@step
def is_much(totals: list[int]) -> bool:
    return sum(totals) > 10

@step
def publish(totals: list[int]) -> int:
    if "BROKEN" in os.environ:
        raise RuntimeError("nobody there")
    return sum(totals)

@step
def drop(totals: list[int]) -> int:
    return 0

@step
def collect(totals: list[int]) -> list[int]:
    return totals

@flow
def per_customer(customer: int):
    return months(customer).map(bill, tolerate=1).agg(total)

@flow
def billing_flow(count: int = 3):
    return customers(count).map(per_customer).agg(collect).switch(is_much, {True: publish, False: drop})

if __name__ == "__main__":
    main(billing_flow)
"""


@pytest.mark.slow
def test_a_report_of_maps_below_maps_of_switches_and_of_a_resume_opens(tmp_path: Path, window: Browser) -> None:
    place = Place(tmp_path)
    place.write("nested.py", NESTED)
    broken = place.run("nested.py", "run", "--run-id", "n", "--report", "broken.html", env={"BROKEN": "1"})
    resumed = place.run("nested.py", "run", "--resume", "n", "--report", "resumed.html")
    assert (broken.code, resumed.code, resumed.out) == (1, 0, "78\n")
    page = read(place, "resumed.html")
    for text in (
        "replay n --step per_customer_bill --item 2/1",
        "item: 21",
        "each item of per_customer_months: per_customer_bill",
        "lists of per_customer_months joined into one",
        "results over per_customer_months put back into lists",
        "8/9 items, 1 failed",
        "The run was paused for",
        "– skipped",
    ):
        assert text in page.words, text
    for name in ("broken.html", "resumed.html"):
        window.show(360)
        window.open(tmp_path / name)
        assert (window.overflow(), window.complaints()) == ([], [])
        assert [url for url in window.requests() if not url.startswith("file:")] == []


@pytest.mark.slow
def test_a_report_is_used_with_the_keyboard_alone(place: Place, window: Browser) -> None:
    from selenium.webdriver import ActionChains, Keys

    window.show(1000)
    window.open(place.folder / "one.html")
    reached = set()
    for _ in range(60):
        ActionChains(window.driver).send_keys(Keys.TAB).perform()
        reached.add(
            window.ask("const e = document.activeElement; return e.localName + ' ' + e.textContent.slice(0, 40)")
        )
    tags = {text.partition(" ")[0] for text in reached}
    assert tags >= {"a", "summary", "pre", "div"}
    [second] = window.driver.find_elements("css selector", "details:not([open]) > summary")[:1]
    second.send_keys(Keys.ENTER)
    assert window.ask("return document.querySelectorAll('details[open]').length") == 2
    link = window.driver.find_element("css selector", "svg a[href='#op-load']")
    window.ask("document.querySelector(\"svg a[href='#op-load']\").focus()")
    assert link == window.driver.switch_to.active_element
    link.send_keys(Keys.ENTER)
    assert window.ask("return location.hash") == "#op-load"
    assert window.complaints() == []
