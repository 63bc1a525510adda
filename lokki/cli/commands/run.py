"""The command ``run`` runs a flow on this machine, with nothing but the result on stdout."""

from __future__ import annotations

import click

from lokki.cli.options import (
    RunRequest,
    event_option,
    output_options,
    pair_options,
    parameter_command,
    report_option,
    resume_option,
    run_id_option,
)
from lokki.cli.program import CommandLine
from lokki.graph import FlowGraph


def run_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that runs a flow on this machine.

    It is called as ``<program> run [<flow>]``.
    """
    text = f"Run {graph.name} on this machine and print its result."
    return parameter_command(graph, CommandLine(program, "run", flow), text, _run_options(), _run)


def _run_options() -> list[click.Parameter]:
    return [
        *pair_options(),
        click.Option(
            ["--executor"],
            type=click.Choice(["threads", "processes", "inline"]),
            default="threads",
            help="Where the items of maps run: threads for steps that wait, processes for Python that keeps a CPU "
            "busy, inline for debuggers. Default: threads.",
        ),
        click.Option(["--workers"], type=click.IntRange(min=1), help="How many items run at one time."),
        event_option(),
        run_id_option(),
        resume_option("Go on with a run that failed, was interrupted or was killed; default: the latest."),
        click.Option(["--force"], is_flag=True, help="Resume although the flow or the parameters have changed."),
        click.Option(
            ["--from", "from_step"],
            metavar="STEP",
            help="Resume, and run this step again and all that depends on it, although their results are there.",
        ),
        click.Option(
            ["--retry-failed"],
            is_flag=True,
            help="Resume, and run items again whose failures were tolerated, and all that depends on their map.",
        ),
        click.Option(
            ["--keep-going"],
            is_flag=True,
            help="Run all items of a map although more fail than it tolerates, to see all failures at once.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
            help="The least severe log records to show, of libraries too. Default: of your code what lokki.yml says, "
            "of libraries WARNING.",
        ),
        *output_options(),
        report_option(),
    ]


def _run(request: RunRequest) -> int:
    # Only here: what runs flows takes as long to import as all else, and help needs none of it.
    from lokki.cli.local_runs import run_locally

    return run_locally(request)
