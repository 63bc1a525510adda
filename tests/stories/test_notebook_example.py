"""The example notebook, executed by a kernel as a user executes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PENGUINS = Path(__file__).parents[2] / "examples" / "penguins"


def outputs(cell: Any, kind: str) -> str:
    """Return what a cell shows of a kind, such as text/plain."""
    shown = [output.data.get(kind, "") for output in cell.outputs if "data" in output]
    printed = [output.text for output in cell.outputs if output.output_type == "stream" and kind == "text/plain"]
    return "\n".join([*printed, *shown])


@pytest.mark.slow
def test_the_notebook_shows_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(PENGUINS, tmp_path / "penguins")
    notebook = nbformat.read(PENGUINS / "penguins.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "commit it without outputs"
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "penguins")}}
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    drawing, ran, runs, frame, items, first, means, failed, lost, resumed = cells
    assert outputs(drawing, "image/svg+xml").startswith("<svg ")
    assert outputs(ran, "text/plain").count(" g off") == 2
    assert outputs(runs, "text/html").count("<tr>") == 4
    assert [line.split()[-1] for line in outputs(frame, "text/plain").splitlines()[2:]] == ["0.2", "0.5", "0.8"]
    assert "10 items&gt;</caption>" in outputs(items, "text/html")
    assert "'variant': " in outputs(first, "text/plain")
    assert outputs(means, "text/plain").startswith("variant\n")
    assert "check() raised ValueError: 2700.0 g is no penguin" in outputs(failed, "text/plain")
    assert "failed: check() raised ValueError" in outputs(lost, "text/html")
    assert "4.675" in outputs(resumed, "text/plain")
