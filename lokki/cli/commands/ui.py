"""The command ``ui`` serves a page of runs on this machine, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lokki.cli.commands.runs import ROOT
from lokki.cli.hidden_modules import is_hidden_from_library
from lokki.cli.options import DONE, EPILOG, SETTINGS, env_option, stack_options
from lokki.cli.program import CommandLine
from lokki.cli.text import from_here
from lokki.emulator.run_files import emulated_name
from lokki.errors import LokkiError
from lokki.graph import FlowGraph
from lokki.loading import file_of, load_flow, package_locator
from lokki.local_run.runs import RunRecord
from lokki.plan import lower

if TYPE_CHECKING:  # start-up: see _serve
    from click.shell_completion import CompletionItem

    from lokki.cli.account import Account
    from lokki.reports.samples import ReplayCommand
    from lokki.ui.folder import CommandOf
    from lokki.ui.sources import RunSource

type FlowsHere = Callable[[], Mapping[str, FlowGraph]]
"""Draws the flows of a program, by how its commands name them: not at all where there is one alone."""


def ui_command(program: str, flows: FlowsHere | None) -> click.Command:
    """Make the command that serves pages.

    ``flows``: those of the program; None where the command line names files.
    """

    def show(files: tuple[str, ...], port: int, remote: bool, **options: str | None) -> int:
        if remote and flows is None and not files:
            raise click.UsageError(f"--remote shows runs of deployed flows: name their files: {program} ui FLOW.py")
        if files and not remote:
            raise click.UsageError("Runs on this machine are shown of all flows: a file is for --remote alone.")
        graphs = {file: load_flow(file)() for file in files} if flows is None else flows()
        # Commands for flows of other programs are those of lokki, with the flow's file.
        command_of = partial(_command_of, program, "lokki" if flows is not None else program, graphs)
        _serve(program, graphs, command_of, port, options if remote else None)
        return DONE

    files = click.Argument(["files"], nargs=-1, metavar="[FLOW.py[:NAME]]...", shell_complete=_complete_file)
    return click.Command(
        "ui",
        params=[
            *([files] if flows is None else []),
            click.Option(["--port"], type=click.IntRange(0, 65535), default=0, help="The port. Default: a free one."),
            click.Option(["--remote"], is_flag=True, help="Show runs on AWS, too."),
            env_option(),
            *stack_options(),
        ],
        help="Watch the runs of this folder in the browser, as they go: a page on this machine that nobody else can "
        "open. Ctrl-C ends it.",
        callback=show if flows is None else partial(show, ()),
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def _complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # Imported here, as it is only needed for completion.
    from lokki.cli.completion import file_words

    return file_words(incomplete)


def _serve(
    program: str,
    graphs: Mapping[str, FlowGraph],
    command_of: CommandOf,
    port: int,
    remote: Mapping[str, str | None] | None,
) -> None:
    """Serve pages.

    ``remote``: the options that say where flows are deployed; None to show runs on this machine alone.
    """
    try:
        # Only here: the libraries of the extra may be missing, and no other command needs them.
        from lokki.ui.folder import FolderRuns
        from lokki.ui.server import serve_pages
    except ImportError as error:
        if is_hidden_from_library(error) or (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise LokkiError(f"ui needs {error.name}: pip install starlette uvicorn") from None
    root = Path.cwd() / ROOT  # flows that are loaded to read their values may change the working directory
    sources: list[RunSource] = [FolderRuns(root, command_of, _replay_of)]
    if remote is not None:
        sources += [_find_deployed(program, name, graph, remote) for name, graph in graphs.items()]
    with suppress(KeyboardInterrupt):  # how it is ended
        serve_pages(sources, port, _announce, from_here)


def _announce(address: str) -> None:
    click.echo(f"{address}\nOpen this address in a browser on this machine. Ctrl-C ends it.")


def _replay_of(call: str, run_id: str) -> ReplayCommand:
    # Imported here as above.
    from lokki.cli.reporting import replay_commands

    return replay_commands(call, run_id)


def _command_of(
    program: str, program_of_files: str, graphs: Mapping[str, FlowGraph], command: str, run: RunRecord
) -> str:
    """Return how a command is called for the flow of a run.

    Empty where no file of the flow is known.
    """
    flow = run.flow.removesuffix(emulated_name(""))
    name = next((name for name, graph in graphs.items() if graph.name == flow), None)
    if name is not None:
        return str(CommandLine(program, command, name))
    return str(CommandLine(program_of_files, command, run.file)) if run.file else ""


def _find_deployed(program: str, name: str, graph: FlowGraph, options: Mapping[str, str | None]) -> RunSource:
    # Imported here so that runs on this machine are shown without boto3.
    from lokki.cli.account import find_account

    return deployed_runs_of(find_account(graph, program, name, options))


def deployed_runs_of(account: Account) -> RunSource:
    """Return the runs of a deployed flow as pages show them."""
    # Imported here as above.
    from lokki.cli.reporting import replay_commands
    from lokki.ui.deployed import DeployedSource

    call = str(CommandLine(account.program, "replay", account.flow))
    return DeployedSource(
        account.runs,
        account.results,
        lower(account.graph),
        package_locator(file_of(account.graph)),
        lambda run_id: replay_commands(call, run_id, f" --deployed{account.where}"),
        lambda run_id: account.command("redrive", run_id),
    )
