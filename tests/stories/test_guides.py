"""The tutorial and the guides are run as the README is: files written, commands typed in, what they print compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.pages import blocks, run_page

DOCS = Path(__file__).parents[2] / "docs"


PAGE = """
```text title="names/a.txt"
goose
```

```console
$ cat names/a.txt
goose
$ cd names
$ cat a.txt; echo took 0.12 s
...
took 9.99 s
```
"""


@pytest.mark.parametrize(
    ("page", "printed"),
    [(PAGE.replace("9.99 s", "long"), "took N s"), (PAGE.replace("\ngoose\n$", "\nduck\n$"), "goose")],
)
def test_a_page_that_shows_something_else_would_be_found(page: str, printed: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(AssertionError, match=printed):
        run_page(tmp_path / "page.md", tmp_path, {})


def test_a_page_that_shows_what_is_printed_is_true(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert run_page(tmp_path / "page.md", tmp_path, {}) == 2


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
