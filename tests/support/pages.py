"""Pages in Markdown, run: their files are written, their commands typed in, and what they print is what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.command import RUN_ID


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code; ``name`` is the title that stands behind its language."""

    language: str
    name: str
    text: str


def blocks(markdown: str) -> list[Block]:
    pattern = r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$'
    return [Block(*parts) for parts in re.findall(pattern, markdown, re.MULTILINE | re.DOTALL)]


def commands(console: str) -> list[tuple[str, str]]:
    """Split a console block into commands and what they print."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def neutral(text: str, folder: Path) -> str:
    """Put what changes from run to run (times, run ids, sizes, the folder) into one form."""
    text = text.replace(f"{folder}/", "")
    text = re.sub(RUN_ID, "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)
    text = re.sub(r"passed in \d+\.\d+s", "passed in N s", text)
    return re.sub(r" *\d+(\.\d+)? (s|KB|B|KiB|MiB)\b", r" N \2", text)


def agrees(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed; ``...`` at its begin or end stands for whatever there is."""
    if shown == "...\n":
        return True
    if shown.endswith("\n...\n"):
        return printed.startswith(shown.removesuffix("...\n"))
    if shown.startswith("...\n"):
        return printed.endswith(shown.removeprefix("...\n"))
    return shown == printed


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> int:
    """Write the page's files into the folder, run its commands there, and return how many they were.

    Each is run by a shell of its own, but after `cd` in the folder that it names, where files are written then.

    Raises AssertionError for the first command that prints anything else than the page shows.
    """
    ran = 0
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.name:
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text)
        if block.language != "console":
            continue
        for command, shown in commands(block.text):
            if command.startswith("cd "):  # as in a shell that is still open
                folder = folder / command.removeprefix("cd ")
                continue
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=os.environ | path | dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            printed = neutral(done.stdout, folder)
            assert agrees(neutral(shown, folder), printed), f"$ {command}\n{printed}"
            ran += 1
    return ran
