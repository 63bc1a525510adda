"""Every line of docs/flows.md runs, and gives what stands behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "flows.md"


def test_the_flows_of_the_page_give_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = "\n".join(blocks)
    runs = re.findall(r"^(\w+)\.run\((.*)\)  # (.+)$", text, re.MULTILINE)
    names: dict[str, Any] = {"__name__": "flows_page"}
    exec(compile(re.sub(r"^\w+\.run\(.*$", "", text, flags=re.MULTILINE), str(PAGE), "exec"), names)
    monkeypatch.chdir(tmp_path)
    for name, arguments, result in runs:
        launcher = names[name].using(executor="inline", progress=False)
        assert repr(eval(f"launcher.run({arguments})", {"launcher": launcher})) == result, name
    assert len(runs) == 10
