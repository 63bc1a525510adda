"""What a shell offers when Tab is pressed."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from support.command import Place

from lokki.cli.completion import completion_command
from lokki.cli.main import lokki_group
from lokki.local_run.runs import RunRecord, Runs

FLOW = """
from typing import Literal
from lokki import flow, step

print("a file may print what it likes")

@step
def get(limit: int, color: str) -> int:
    return limit

@flow
def birds_flow(limit: int = 3, color: Literal["red", "blue"] = "red"):
    return get(limit, color)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path)
    place.write("broken_flow.py", "1 / 0\n")
    return place


_numbers = count(1)


def fresh_flow() -> str:
    """Write the flow under another name, as a process imports a file once."""
    name = f"completed_flow_{next(_numbers)}.py"
    Path(name).write_text(FLOW)
    return name


def offered(*words: str) -> list[str]:
    """Return what is offered for the last word."""
    shell = ShellComplete(lokki_group("lokki"), {}, "lokki", "_LOKKI_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_are_offered() -> None:
    assert offered("ru") == ["run", "runs"]
    assert offered("runs", "") == ["clean", "report", "show"]
    assert offered("runs", "report", "--ag") == ["--against"]


def test_the_shell_offers_files_for_the_flow() -> None:
    shell = ShellComplete(lokki_group("lokki"), {}, "lokki", "_LOKKI_COMPLETE")
    assert [item.type for item in shell.get_completions(["run"], "bi")] == ["file"]


def test_parameters_of_a_flow_and_their_values_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert offered("run", fresh_flow(), "--li") == ["--limit"]
    assert offered("run", fresh_flow(), "--color", "") == ["red", "blue"]
    assert offered("draw", fresh_flow(), "--limit", "3", "--") == ["--output", "--help"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["broken_flow.py", "nowhere.py"])
def test_of_a_file_that_cannot_be_imported_nothing_is_offered(name: str) -> None:
    assert offered("run", name, "--li") == []


def test_runs_are_offered() -> None:
    record = RunRecord("20260101-one", "birds", {}, ["a = a()"], {}, "finished", "2026-01-01T00:00:00.000000+00:00")
    Runs(Path(".lokki")).new(record)
    assert offered("runs", "show", "2026") == ["20260101-one"]
    assert offered("replay", fresh_flow(), "2026") == ["20260101-one"]
    assert offered("replay", fresh_flow(), "2027") == []


def test_each_shell_has_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/fish")
    assert "complete --no-files --command lokki" in CliRunner().invoke(completion_command()).output
    assert "_LOKKI_COMPLETE=bash_complete" in CliRunner().invoke(completion_command(), ["bash"]).output
