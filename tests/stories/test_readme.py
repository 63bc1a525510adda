"""The README is run: its files are written, its commands are typed in, and what they print is what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from aws.loopback_aws import LoopbackAws
from support.pages import run_page

ROOT = Path(__file__).parents[2]


def test_every_command_of_the_readme_prints_what_the_readme_shows(tmp_path: Path, account: LoopbackAws) -> None:
    account.client("s3").create_bucket(Bucket="my-bucket")
    assert run_page(ROOT / "README.md", tmp_path, account.environ) >= 15
    command = [sys.executable, "birds_flow.py", "destroy", "--yes"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | account.environ, check=True, capture_output=True)


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
