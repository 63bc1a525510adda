"""`lokki ui` as its readers use it: started from the command line, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.browser import Browser, browser
from support.command import Place
from support.ui import serving

pytestmark = pytest.mark.slow

PROGRAM = """
import time
from pathlib import Path
from lokki import flow, main, step

@step
def customers(count: int) -> list[int]:
    print("customers are loaded")
    return list(range(count))

@step
def months(customer: int) -> list[int]:
    return [customer * 10 + month for month in range(3)]

@step
def bill(month: int) -> int:
    print(f"bill for {month}: " + "long " * 60)
    if month % 10 == 1:
        raise ValueError(f"no such month {month} <b>in</b> " + "a" * 200)
    return month

@step
def total(bills: list[int]) -> int:
    return sum(bills)

@step
def publish(totals: list[int]) -> int:
    if len(totals) == 3:
        raise RuntimeError("nobody there")
    return sum(totals)

@flow
def per_customer(customer: int):
    return months(customer).map(bill, tolerate=0.5).agg(total)

@flow
def billing_flow(count: int = 4, note: str = "north"):
    return customers(count).map(per_customer).agg(publish)

@step
def rows(count: int) -> list[int]:
    return list(range(count))

@step
def wait_for(row: int) -> int:
    # Each item ends when the test says so.
    while not Path(f"go-{row // 10}").exists():
        time.sleep(0.02)
    print(f"row {row} is done")
    if row == 13:
        raise ValueError("thirteen")
    return row

@step
def count_all(rows: list[int]) -> int:
    return len(rows)

@flow
def slow_flow(count: int = 20):
    return rows(count).map(wait_for, tolerate=1.0).agg(count_all)

if __name__ == "__main__":
    main(billing_flow, slow_flow)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a folder with a run that finished, one that failed, and one that is damaged."""
    place = Place(tmp_path_factory.mktemp("ui"))
    place.write("flow.py", PROGRAM)
    good = place.run("flow.py", "run", "billing-flow", "--run-id", "good", "--quiet")
    bad = place.run("flow.py", "run", "billing-flow", "--run-id", "bad", "--count", "3", "--quiet")
    assert (good.code, bad.code) == (0, 1), good.err
    place.write(".lokki/runs/broken/run.json", '{"run_id": "bro')
    return place


@pytest.fixture(scope="module")
def address(place: Place) -> Iterator[str]:
    with serving(place, "flow.py") as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        yield address


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


PAGES = {
    "runs": "",
    "filtered": "?status=failed&params=north",
    "good": "runs/here/good",
    "bad": "runs/here/bad",
    "broken": "runs/here/broken",
    "failed": "runs/here/good/failed",
    "item": "runs/here/good/item?step=per_customer_bill&item=2/1",
    "log": "runs/here/good/log",
}


def visit(window: Browser, url: str) -> None:
    window.driver.get(url)


def check_quiet(window: Browser, address: str) -> None:
    """Assert that the console is empty and that nothing but the page's own server was asked."""
    assert window.complaints() == []
    assert [url for url in window.requests() if not url.startswith((address, "data:"))] == []


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_readable_on_a_phone_in_light_and_dark(window: Browser, address: str, name: str) -> None:
    for dark, colour in ((False, "rgb(255, 255, 255)"), (True, "rgb(13, 17, 23)")):
        window.show(360, dark=dark)
        visit(window, address + PAGES[name])
        assert window.overflow() == []
        assert window.ask("return getComputedStyle(document.body).backgroundColor") == colour
    check_quiet(window, address)


def test_the_pages_lead_from_the_list_to_a_failed_item(window: Browser, address: str) -> None:
    window.show(1000)
    visit(window, address)
    assert window.ask("return document.querySelectorAll('tbody tr').length") == 3
    for link, title in (
        ("good", "billing-flow: good finished"),
        ("failed items (4)", "good: failed items"),
        ("per_customer_bill[2/1]", "good: per_customer_bill[2/1]"),
    ):
        window.driver.find_element("link text", link).click()
        assert window.driver.title == title
    text = window.ask("return document.querySelector('main').innerText")
    for part in ("ValueError: no such month 21", "item: 21", "replay", "--item 2/1", "Traceback", "bill for 21"):
        assert part in text, part
    window.driver.find_element("link text", "good").click()
    assert window.driver.title == "billing-flow: good finished"
    check_quiet(window, address)


def test_the_list_is_filtered_by_its_form(window: Browser, address: str) -> None:
    window.show(1000)
    visit(window, address)
    field = window.driver.find_element("name", "params")
    field.send_keys("count=3")
    field.submit()
    shown = "return [...document.querySelectorAll('tbody tr td:first-child')].map(cell => cell.textContent)"
    assert window.ask(shown) == ["bad"]
    assert "params=count%3D3" in window.driver.current_url
    window.driver.find_element("link text", "started").click()
    assert window.ask(shown) == ["bad"]
    check_quiet(window, address)


def test_all_is_reached_with_the_keyboard_alone(window: Browser, address: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(key: str) -> None:
        ActionChains(window.driver).send_keys(key).perform()

    window.show(1000)
    visit(window, address)
    press(Keys.TAB)
    assert window.ask("return document.activeElement.textContent") == "Skip to the content"
    assert window.ask("return document.activeElement.getBoundingClientRect().top") >= 0
    press(Keys.ENTER)
    assert window.ask("return document.activeElement.id") == "main"
    reached, outlines = [], set()
    for _ in range(20):
        press(Keys.TAB)
        reached.append(window.ask("const e = document.activeElement; return e.textContent.trim() || e.name"))
        outlines.add(window.ask("return getComputedStyle(document.activeElement).outlineStyle"))
        if reached[-1] == "good":
            break
    assert [text for text in reached if text in ("params", "filter", "status", "started", "broken", "bad", "good")] == [
        "params", "filter", "status", "started", "broken", "bad", "good",
    ]  # fmt: skip
    assert "none" not in outlines
    press(Keys.ENTER)
    assert window.driver.title == "billing-flow: good finished"
    check_quiet(window, address)


def wait_until(window: Browser, script: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not window.ask(f"return {script}"):
        assert time.monotonic() < end, window.ask("return document.querySelector('main').innerText")
        time.sleep(0.05)


def test_a_run_is_watched_as_it_goes(place: Place, window: Browser, address: str) -> None:
    window.show(1000)
    visit(window, f"{address}?flow=slow-flow")
    assert "No runs that fit" in window.ask("return document.body.innerText")
    process = place.start("flow.py", "run", "slow-flow", "--run-id", "slow", "--workers", "4", "--quiet")
    try:
        wait_until(window, "document.querySelector('tbody')?.innerText.includes('running')")
        window.driver.find_element("link text", "slow").click()
        wait_until(window, "document.querySelector('progress')?.max === 20")
        window.ask("document.querySelector('#steps .scroll').focus()")
        window.ask("window.mark = document.querySelector('#details')")
        (place.folder / "go-0").touch()
        wait_until(window, "document.querySelector('progress').value === 10")
        assert window.ask("return document.activeElement.getAttribute('aria-label')") == "Table of steps"
        assert window.ask("return window.mark.isConnected"), "what has not changed stays"
        first = window.driver.current_window_handle
        window.driver.switch_to.new_window("tab")
        visit(window, f"{address}runs/here/slow/log?step=wait_for")
        wait_until(window, "document.querySelectorAll('.log tr').length === 10")
        (place.folder / "go-1").touch()
        wait_until(window, "document.querySelectorAll('.log tr').length === 21")
        assert "failed: ValueError: thirteen" in window.ask("return document.querySelector('.log').innerText")
        window.driver.close()
        window.driver.switch_to.window(first)
        wait_until(window, "document.title === 'slow-flow: slow finished'")
        assert window.ask("return [document.querySelector('progress'), document.body.dataset.poll]") == [None, "0"]
        assert window.ask("return document.getElementById('live').textContent") == "slow-flow: slow finished"
        assert "ValueError" in window.ask("return document.querySelector('#failures').innerText")
        assert process.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    check_quiet(window, address)


def test_a_page_says_that_its_server_has_ended(place: Place, window: Browser) -> None:
    with serving(place, "flow.py") as address:
        visit(window, address)
    wait_until(window, "document.getElementById('live').textContent.includes('lokki ui has ended')")
    # It may have been asked while it ended.
    unreached = re.compile(r"Failed to load resource: net::ERR_(CONNECTION|EMPTY)_")
    assert [entry for entry in window.complaints() if not unreached.search(entry)] == []
    window.requests()


def test_a_port_that_is_taken_and_a_missing_extra_are_one_line(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = place.run("lokki", "ui", "--port", str(port))
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err
        == f"error: --port {port} cannot be used: Address already in use. Choose another, or none for a free one.\n"
    )
    code = "import sys; sys.modules['uvicorn'] = None; from lokki.cli.main import console; console(['ui'])"
    missing = subprocess.run([sys.executable, "-c", code], cwd=place.folder, capture_output=True, text=True)
    assert (missing.returncode, missing.stderr) == (1, "error: ui needs uvicorn: pip install starlette uvicorn\n")
    ran = place.run("lokki", "ui", "--remote")
    assert (ran.code, "--remote shows runs of deployed flows: name their files: lokki ui FLOW.py" in ran.err) == (
        2,
        True,
    )
