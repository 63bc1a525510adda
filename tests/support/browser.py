"""A browser without a window, as people's: Debian's chromium, driven by its own chromedriver.

Its profile is made for each test, and whatever a page asks the network for is counted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

OVERFLOW = """
const page = document.documentElement
return [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect()
  return box.width && box.right > innerWidth + 1 && !element.closest('.scroll, .log, svg')
}).concat(page.scrollWidth > innerWidth ? [page] : []).map(element => element.outerHTML.slice(0, 80))
"""


class Browser:
    """A browser that shows one page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        """Show a file."""
        self.driver.get(page.resolve().as_uri())

    def show(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Be a screen of this size, in front of a reader who prefers dark pages, or light ones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def ask(self, script: str) -> Any:
        """Return what a script says of the page."""
        return self.driver.execute_script(script)

    def overflow(self) -> list[str]:
        """Return the elements that stick out of the screen on the right, and the page if it can be moved sideways.

        But for what is in a box that scrolls by itself, and in drawings.
        """
        elements: list[str] = self.ask(OVERFLOW)
        return elements

    def complaints(self) -> list[str]:
        """Return what stands on the console."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Return what was asked for."""
        entries = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages: list[Mapping[str, Any]] = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it.

    Without chromium the test is skipped, but not in CI, which installs it.
    """
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver are not here")
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = program
    for argument in ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(driver_program))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
