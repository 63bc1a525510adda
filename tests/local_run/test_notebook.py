"""A notebook is executed by a kernel: its cells define a flow, run it, read its results and go on after failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

DEFINITION = """
import asyncio
from dataclasses import dataclass

import lokki
from lokki import flow, main, step

@dataclass
class Bird:
    name: str

@step
def get_birds(names: list[str]) -> list[Bird]:
    print("getting", len(names))
    return [Bird(name) for name in names]

@step
def flap_bird(bird: Bird) -> Bird:
    if bird.name == "dodo":
        raise LookupError("no dodo left")
    async def flap():
        return Bird(f"flappy {bird.name}")
    return asyncio.run(flap())

@step
def join_birds(birds: list[Bird]) -> str:
    return ", ".join(bird.name for bird in birds)

@flow
def birds_flow(names: list[str]):
    return get_birds(names).map(flap_bird).agg(join_birds)
"""


class Notebook:
    """Cells that are executed one after another in one kernel."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client

    def run(self, source: str) -> Any:
        """Return the cell with its outputs. Raises CellExecutionError for a cell that fails."""
        cell = nbformat.v4.new_code_cell(source)
        self._client.nb.cells.append(cell)
        return self._client.execute_cell(cell, len(self._client.nb.cells) - 1)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=60, kernel_name="python3", resources=resources)
    with client.setup_kernel():
        made = Notebook(client)
        made.run(DEFINITION)
        yield made


def shown(cell: Any, kind: str) -> str:
    """Return what a cell shows: the texts of its displays, its result, or a stream by its name."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == kind:
            texts.append(output.text)
        elif output.output_type == kind:
            texts.append(output.data["text/plain"])
    return "".join(texts)


def uncoloured(error: CellExecutionError) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


def test_a_flow_of_a_cell_runs_and_shows_its_progress_below_the_cell(notebook: Notebook) -> None:
    cell = notebook.run('birds_flow.using(run_id="one").run(["goose", "duck"])')
    assert shown(cell, "execute_result") == "'flappy goose, flappy duck'"
    assert re.sub(r"\d+\.\d\d s", "N s", shown(cell, "display_data")) == (
        "birds-flow: run one started\nget_birds: 2 items in N s\nflap_bird: 2 items in N s\njoin_birds: done in N s\n"
        "birds-flow: finished in N s"
    )
    assert (shown(cell, "stdout"), shown(cell, "stderr")) == ("getting 2\n", "")


def test_results_of_classes_of_a_cell_are_read_back(notebook: Notebook) -> None:
    notebook.run('birds_flow.using(run_id="two", executor="threads").run(["goose"])')
    cell = notebook.run('lokki.local("birds-flow").run("two").step("flap_bird")[0]')
    assert shown(cell, "execute_result") == "Bird(name='flappy goose')"


def test_a_failing_step_shows_the_users_traceback_and_the_run_is_resumed(notebook: Notebook) -> None:
    with pytest.raises(CellExecutionError) as failed:
        notebook.run('birds_flow.using(run_id="three", progress=False).run(["goose", "dodo"])')
    text = uncoloured(failed.value)
    assert 'raise LookupError("no dodo left")' in text
    assert "fix it and resume with: birds_flow.resume('three')" in text
    assert "local_run" not in text  # frames of lokki's own
    notebook.run(DEFINITION.replace('bird.name == "dodo"', "False"))
    cell = notebook.run('birds_flow.resume("three")')
    assert shown(cell, "execute_result") == "'flappy goose, flappy dodo'"


def test_worker_processes_are_refused_in_one_line(notebook: Notebook) -> None:
    with pytest.raises(CellExecutionError) as failed:
        notebook.run('birds_flow.run(["goose"], executor="processes")')
    assert "RunError: worker processes import the flow anew, but it is not" in uncoloured(failed.value)


def test_the_kernel_lives_on_after_the_command_line(notebook: Notebook) -> None:
    cell = notebook.run(
        "import sys\n"
        'sys.argv = ["notebook", "run", "--quiet", "-p", "names=[\\"goose\\"]"]\n'
        "try:\n    main(birds_flow)\nexcept SystemExit as ended:\n    print(ended.code)"
    )
    assert shown(cell, "stdout").endswith("flappy goose\n0\n")
    assert shown(notebook.run("1 + 1"), "execute_result") == "2"
