"""The reports of five flows in a real browser, one of them of a million items, and the pictures of the site.

``pytest -m slow tests/ui/test_five_reports.py --update-golden`` takes the pictures in docs/images anew.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.browser import Browser, browser
from support.command import Place
from support.ui import serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MOST_BYTES = 3_000_000
PICTURE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Reported:
    """A run whose report is looked at.

    * ``command``: how it is run, without its id and its report; ``code`` with which that ends.
    * ``title``: of the report. ``texts``: what stands there.
    """

    command: tuple[str, ...]
    title: str
    texts: tuple[str, ...]
    code: int = 0
    broken: bool = False


REPORTS = {
    "line": Reported(
        ("birds_flow_example.py", "run"),
        "birds-flow: line finished",
        ("each item of get_birds: flap_bird", "join_birds"),
    ),
    "nested": Reported(
        ("weather.py", "run", "nested-flow"),
        "nested-flow: nested failed",
        (
            "publish() raised ConnectionError: nobody takes the bulletin",
            "lists of per_station_hours joined into one",
            "2 ValueError in per_station_read at weather.py:",
            "2 TimeoutError in per_station_read at weather.py:",
            "replay nested-flow nested --step per_station_read --item 0/2",
            "item: 2",
            " reading hour 2",
            "44/48 items, 4 failed",
        ),
        code=1,
        broken=True,
    ),
    "switch": Reported(
        ("weather.py", "run", "switch-flow"),
        "switch-flow: switch finished",
        ("– skipped", "ask_again", "limits"),
    ),
    "join": Reported(
        ("weather.py", "run", "weather-flow"),
        "weather-flow: join finished",
        ("bulletin", "91/96", "region", '"north"', "items failed"),
    ),
    "million": Reported(
        ("weather.py", "run", "million-flow"),
        "million-flow: million finished",
        (
            "999,000/1,000,000",
            "1,000 ArithmeticError in halve",
            "replay million-flow million --step halve --item",
            "items were told together with others",
        ),
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a folder with the runs of five flows and their reports."""
    place = Place(tmp_path_factory.mktemp("reports"))
    place.copy("weather.py")
    place.write("birds_flow_example.py", (ROOT / "examples/birds_flow_example.py").read_text())
    for name, reported in REPORTS.items():
        ran = place.run(
            *reported.command, "--run-id", name, "--report", f"{name}.html", "--quiet",
            env={"BROKEN": "1"} if reported.broken else {},
        )  # fmt: skip
        assert ran.code == reported.code, ran.err
    return place


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("name", REPORTS)
def test_the_report_opens_in_a_browser(place: Place, window: Browser, name: str) -> None:
    reported, file = REPORTS[name], place.folder / f"{name}.html"
    assert file.stat().st_size < MOST_BYTES
    for width, dark in ((1100, False), (360, True)):
        window.show(width, dark=dark)
        window.open(file)
        assert window.driver.title == reported.title
        assert window.overflow() == []
    window.ask("document.querySelectorAll('details').forEach(element => element.open = true)")
    text = window.ask("return document.querySelector('main').textContent")
    assert [part for part in reported.texts if part not in text] == []
    assert window.ask("return document.querySelector('svg.lokki-drawing').getBoundingClientRect().height") > 100
    sections = window.ask("return [...document.querySelectorAll('section')].map(section => section.id)")
    assert sections[:3] == ["drawing", "timeline", "steps"]
    links = "[...document.querySelectorAll('a[href^=\"#\"]')].map(link => link.getAttribute('href').slice(1))"
    assert window.ask(f"return {links}.filter(id => !document.getElementById(id))") == []
    assert window.complaints() == []
    assert [url for url in window.requests() if not url.startswith("file:")] == []


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a page: where it is, how large, and from which element's top on."""

    page: str
    width: int
    height: int
    dark: bool = False
    start: str = ""


PICTURES = {
    "ui-runs.png": Picture("", 1000, 430),
    "ui-run.png": Picture("runs/here/join", 1000, 800),
    "ui-dark.png": Picture("runs/here/join", 1000, 620, dark=True, start="#timeline"),
    "ui-phone.png": Picture("runs/here/nested/item?step=per_station_read&item=0/2", 360, 640),
    "report-failures.png": Picture("nested.html", 1000, 620, start="#failures"),
}


def test_the_pictures_of_the_site_are_small_and_used(place: Place, window: Browser, update_golden: bool) -> None:
    used = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    with serving(place, "weather.py") as address:
        for name, picture in PICTURES.items():
            window.show(picture.width, picture.height, picture.dark)
            is_report = picture.page.endswith(".html")
            window.driver.get((place.folder / picture.page).as_uri() if is_report else address + picture.page)
            if picture.start:
                window.ask(f"document.querySelector('{picture.start}').scrollIntoView()")
            image = base64.b64decode(window.driver.get_screenshot_as_base64())
            assert len(image) <= PICTURE_BYTES, name
            assert f"](images/{name})" in used, name
            if update_golden:
                (ROOT / "docs/images" / name).write_bytes(image)
            assert (ROOT / "docs/images" / name).stat().st_size <= PICTURE_BYTES
    assert window.complaints() == []
