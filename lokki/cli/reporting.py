"""The report of a run on this machine, written to the file that an option names."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from lokki.base.item_path import ItemPath, format_item
from lokki.cli.output import write_file
from lokki.cli.text import from_here
from lokki.graph import FlowGraph
from lokki.local_run.runs import Runs
from lokki.reports.samples import ReplayCommand
from lokki.reports.writing import local_subject, write_page


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """Which report is to be written.

    * ``option``: the one that named the file.
    * ``against``: the run that it is held against.
    * ``replay``, ``resume``: how to call these commands on the run; empty where that is not known.
    * ``graph``, ``environment``: the flow and its settings, to tell what the run costs.
    """

    run_id: str
    file: Path
    option: str = "--output"
    against: str | None = None
    replay: str = ""
    resume: str = ""
    graph: FlowGraph | None = None
    environment: str | None = None


def write_report(runs: Runs, request: ReportRequest) -> None:
    """Write the report of a run on this machine.

    Raises RunFolderError for a run that there is not, RunError for a file that cannot be written.
    """
    subject = local_subject(runs, runs.load(request.run_id))
    other = None if request.against is None else local_subject(runs, runs.load(request.against))
    is_over = subject.run.status in ("finished", "running")
    commands = {} if is_over or not request.resume else {"fix it and go on with": request.resume}
    text = write_page(
        subject,
        replay_commands(request.replay, request.run_id),
        other=other,
        graph=request.graph,
        environment=request.environment,
        commands=commands,
    )
    write_file(request.file, from_here(text).encode(errors="replace"), request.option)


def replay_commands(command: str, run_id: str, options: str = "") -> ReplayCommand:
    """Return what writes the command that runs a failed call of a run again.

    ``command``: how replay is called; without one there are none. ``options``: what follows.
    """

    def write(step: str, item: ItemPath) -> str:
        if not command or not step.isidentifier():  # of a child execution it is not always known which step failed
            return ""
        which = f" --item {format_item(item)}" if item else ""
        return f"{command} {shlex.quote(run_id)} --step {shlex.quote(step)}{which}{options}"

    return write
