"""The command ``runs`` lists the runs on this machine, and removes old ones."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lokki.builder.packages.sizes import size_text
from lokki.cli.options import env_option
from lokki.cli.run_details import run_details
from lokki.cli.text import align_columns, count_text, from_here
from lokki.emulator.run_files import emulated_name
from lokki.errors import ParameterError, RunFolderError
from lokki.graph import FlowGraph
from lokki.local_run.runs import RunRecord, Runs
from lokki.progress.displays import seconds

if TYPE_CHECKING:  # start-up: only needed for completion
    from click.shell_completion import CompletionItem

ROOT = Path(".lokki")
_PARAMETERS = 40
"""Characters of the parameters in the list of runs."""


type CallOf = Callable[[str, RunRecord], str]
"""Returns how a command, such as ``replay``, is called for the flow of a run."""


def runs_command(flow: str | None, call_of: CallOf, graph: FlowGraph | None = None) -> click.Group:
    """Make the command for the runs of one flow, or of all flows.

    ``graph``: of the one flow.
    """

    @click.group("runs", invoke_without_command=True, help="List the runs on this machine, the latest first.")
    @click.pass_context
    def runs(ctx: click.Context) -> None:
        if ctx.invoked_subcommand is None:
            click.echo(runs_list(Runs(ROOT), flow))

    @runs.command(help="Show all of one run: parameters, steps, items that failed, which code gave which results.")
    @click.argument("run_id", metavar="RUN", shell_complete=_complete_run)
    def show(run_id: str) -> None:
        here = Runs(ROOT)
        record = here.load(run_id)
        if not _is_of(record, flow):
            raise RunFolderError(f"the run {run_id!r} is one of {record.flow}, not of {flow}.")
        click.echo(from_here("\n".join(run_details(here, record))))

    @runs.command(help="Remove the folders of all runs but the latest that have ended. Runs that go on are kept.")
    @click.option("--keep", type=click.IntRange(min=0), required=True, help="How many of the latest runs to keep.")
    def clean(keep: int) -> None:
        removed = clean_runs(Runs(ROOT), flow, keep)
        click.echo(f"removed {count_text(len(removed), 'run')}")

    runs.add_command(_report_command(flow, call_of, graph))
    return runs


def _report_command(flow: str | None, call_of: CallOf, graph: FlowGraph | None) -> click.Command:
    def report(run_id: str, output: Path | None, against: str | None, env: str | None) -> None:
        here = Runs(ROOT)
        for record in map(here.load, filter(None, (against, run_id))):
            if not _is_of(record, flow):
                raise RunFolderError(f"the run {record.run_id!r} is one of {record.flow}, not of {flow}.")
        is_emulated = record.flow.endswith(emulated_name(""))
        call = call_of("emulate" if is_emulated else "run", record)
        # Imported here so that the other commands start without the template engine and what estimates.
        from lokki.cli.reporting import ReportRequest, write_report

        request = ReportRequest(
            run_id,
            output or Path(f"{run_id}.html"),
            against=against,
            replay=call_of("replay", record),
            resume=f"{call} --resume {run_id}" if call else "",
            graph=graph,
            environment=env,
        )
        write_report(here, request)
        click.echo(f"report written to {from_here(str(request.file))}")

    file = click.Path(dir_okay=False, path_type=Path)
    return click.Command(
        "report",
        params=[
            click.Argument(["run_id"], metavar="RUN", shell_complete=_complete_run),
            click.Option(["--output"], type=file, metavar="FILE", help="The file. Default: RUN.html, here."),
            click.Option(["--against"], metavar="RUN", help="Compare the run with this one."),
            env_option(),
        ],
        help="Write all of one run into an HTML file: drawing, timeline, failures, times of items, cost.",
        callback=report,
    )


def _complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # Imported here, as it is only needed for completion.
    from lokki.cli.completion import run_ids

    return run_ids(incomplete)


def runs_list(runs: Runs, flow: str | None) -> str:
    """Return the runs of a flow, or of all flows, as a table."""
    records = _of(runs, flow)
    if not records:
        return f"no runs in {runs.folder}"
    rows: list[tuple[str, ...]] = [("RUN", "FLOW", "STATUS", "STARTED", "TIME", "FAILED", "SIZE", "PARAMETERS")]
    rows += [_row(record, runs.size(record.run_id)) for record in records]
    return "\n".join(align_columns(rows))


def clean_runs(runs: Runs, flow: str | None, keep: int) -> list[str]:
    """Remove the runs that have ended but for the latest.

    What killed runs left behind goes, too. Returns the ids. ``keep``: how many of the latest stay.
    """
    records = [record for record in _of(runs, flow) if record.status != "running"]
    removed = []
    for record in records[keep:]:
        with suppress(RunFolderError, ParameterError):  # it has been resumed, or removed, just now
            runs.remove(record.run_id)
            removed.append(record.run_id)
    for record in records[:keep]:
        _remove_temporary(runs, record.run_id)
    removals = runs.folder.glob(".removed-*")
    starts = (path for path in runs.folder.glob(".new-*") if _is_old(path))
    for half in [*removals, *starts]:
        shutil.rmtree(half, ignore_errors=True)
    return removed


def _of(runs: Runs, flow: str | None) -> list[RunRecord]:
    """Return the runs of a flow, or of all flows, the latest first.

    Emulated runs are among them.
    """
    return [record for record in runs.list() if _is_of(record, flow)]


def _is_of(record: RunRecord, flow: str | None) -> bool:
    return flow is None or record.flow in (flow, emulated_name(flow))


def _remove_temporary(runs: Runs, run_id: str) -> None:
    """Remove files that a killed run was writing."""
    with suppress(RunFolderError), runs.locked(run_id, patience=0.0):
        for half in (runs.folder / run_id).rglob(".*.part"):
            half.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    """Tell whether the folder of a run that begins was left by a killed one.

    Such a folder exists for a moment only.
    """
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > 60
    return False


def _row(record: RunRecord, size: int) -> tuple[str, ...]:
    started = datetime.fromisoformat(record.started).astimezone()
    took = "" if record.status in ("running", "killed", "damaged") else seconds(record.seconds)
    return (
        record.run_id,
        record.flow or "?",
        record.status,
        f"{started:%Y-%m-%d %H:%M:%S}",
        took,
        f"{record.failed:,}" if record.failed else "",
        size_text(size),
        _parameters(record),
    )


def _parameters(record: RunRecord) -> str:
    """Write the parameters on one line, cut off if they are too long.

    `runs show` has all of them.
    """
    text = " ".join(f"{name}={value}" for name, value in record.params.items())
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= _PARAMETERS else f"{text[: _PARAMETERS - 1]}…"
