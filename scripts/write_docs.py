"""Write the pages of the documentation that are made from the code, or check that they are current.

``uv run scripts/write_docs.py`` writes docs/reference/api.md (from docstrings), docs/reference/commands.md (from the
parser of the command line), docs/messages.md (from what the code raises) and docs/llms.txt (from the navigation).
With ``--check`` it writes nothing and names those that are not current; the exit code is 1 then.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from api_page import api_page
from commands_page import commands_page
from llms_text import llms_text
from messages_page import messages_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def written_pages() -> Mapping[str, str]:
    """Return the text of each page that is made from the code, by its path below docs/."""
    pages = {
        "reference/api.md": api_page(ROOT),
        "reference/commands.md": commands_page(),
        "messages.md": messages_page(ROOT / "lokki"),
    }
    return pages | {"llms.txt": llms_text(ROOT, pages)}


def outdated() -> list[str]:
    """Return the pages whose text is not what the code says."""
    return [
        path
        for path, text in written_pages().items()
        if not (DOCS / path).exists() or (DOCS / path).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write or check the pages."""
    if sys.argv[1:] == ["--check"]:
        if old := outdated():
            sys.exit(f"not current: {', '.join(old)}. Write them with: uv run scripts/write_docs.py")
        return
    for path, text in written_pages().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
