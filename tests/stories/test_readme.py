"""The README is run: its files are written, its commands are typed in, and what they print is what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aws.loopback_aws import LoopbackAws

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    name: str
    text: str


def blocks(markdown: str) -> list[Block]:
    found = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def commands(console: str) -> list[tuple[str, str]]:
    """Split a console block into commands and what they print."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def neutral(text: str, folder: Path) -> str:
    """Put what changes from run to run (times, run ids, sizes, the folder) into one form."""
    text = text.replace(f"{folder}/", "")
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{4}", "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)
    return re.sub(r" *\d+(\.\d+)? (s|KB|B|KiB|MiB)\b", r" N \2", text)


def agrees(shown: str, printed: str) -> bool:
    """Tell whether the README shows what was printed; ``...`` at its begin or end stands for whatever there is."""
    if shown.endswith("\n...\n"):
        return printed.startswith(shown.removesuffix("...\n"))
    if shown.startswith("...\n"):
        return printed.endswith(shown.removeprefix("...\n"))
    return shown == printed


def test_every_command_of_the_readme_prints_what_the_readme_shows(tmp_path: Path, account: LoopbackAws) -> None:
    ran = 0
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    environment = os.environ | path | account.environ
    account.client("s3").create_bucket(Bucket="my-bucket")
    for block in blocks((ROOT / "README.md").read_text()):
        if block.name:
            (tmp_path / block.name).write_text(block.text)
        if block.language != "console":
            continue
        for command, shown in commands(block.text):
            done = subprocess.run(
                command,
                shell=True,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            printed = neutral(done.stdout, tmp_path)
            assert agrees(neutral(shown, tmp_path), printed), f"$ {command}\n{printed}"
            ran += 1
    assert ran >= 15
    command = [sys.executable, "birds_flow.py", "destroy", "--yes"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
