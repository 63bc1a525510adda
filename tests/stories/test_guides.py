"""The tutorial and the guides are run as the README is: files written, commands typed in, what they print compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.pages import blocks, run_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_tutorial_goes_from_an_empty_folder_to_aws_and_back(tmp_path: Path, account: LoopbackAws) -> None:
    """With pandas on Lambda, a thousand objects in S3, and a role that may read them. Its steps print what it shows."""
    for bucket in ("my-bucket", "penguin-lake"):
        account.client("s3").create_bucket(Bucket=bucket)
    assert run_page(DOCS / "tutorial.md", tmp_path, account.environ) >= 15


RUN = ["notebooks", "big-maps", "recipes", "from-metaflow", "from-prefect", "from-chalice"]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_guide_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    assert run_page(DOCS / f"guides/{page}.md", tmp_path, {}) >= 1


def test_every_guide_with_code_is_run() -> None:
    pages = {path.stem for path in (DOCS / "guides").glob("*.md")}
    assert {page for page in pages if blocks((DOCS / f"guides/{page}.md").read_text())} == set(RUN)
