"""The README is run: its files are written, its commands are typed in, and what they print is what it shows."""

from __future__ import annotations

import re
from pathlib import Path

from support.pages import run_page

ROOT = Path(__file__).parents[2]


def test_every_command_of_the_readme_prints_what_the_readme_shows(tmp_path: Path) -> None:
    assert run_page(ROOT / "README.md", tmp_path, {}) == 6
    assert (tmp_path / "penguins.svg").read_text() == (ROOT / "docs/images/penguins.svg").read_text()


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
