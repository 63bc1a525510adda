"""The command ``replay`` runs one step of a run again, with a debugger at its failure if wanted."""

from __future__ import annotations

from dataclasses import dataclass

import click

from lokki.base.item_path import ItemPath, format_item
from lokki.cli.commands.runs import ROOT
from lokki.cli.options import DONE, FAILED, SETTINGS, item_option
from lokki.cli.output import result_text
from lokki.cli.program import CommandLine
from lokki.cli.text import from_here
from lokki.engine.invocation import StepFailedError
from lokki.errors import DamagedError, RunFolderError, StoreError
from lokki.graph import FlowGraph
from lokki.loading import file_of
from lokki.plan import lower
from lokki.results.flow_results import FlowResults, local
from lokki.results.replay import debug, fetch


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A step of a run to replay, on an item if a map runs it.

    ``debugger``: open one where the step fails.
    """

    run_id: str
    step: str
    item: ItemPath = ()
    debugger: bool = False


def replay_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that replays a step of a run, here or on AWS.

    It is called as ``<program> replay [<flow>]``.
    """

    def callback(run_id: str, step: str, item: ItemPath, debugger: bool, deployed: bool, **values: object) -> int:
        request = ReplayRequest(run_id, step, item, debugger)
        if deployed:
            from lokki.cli.account import find_account  # start-up: boto3 is for deployed flows only

            return replay(graph, find_account(graph, program, flow, values).results, request)
        try:
            return replay(graph, local(graph.name, ROOT, file=file_of(graph)), request)
        except DamagedError as error:
            called = f"{CommandLine(program, 'run', flow)} {error.command.removeprefix('run ')}"
            raise StoreError(str(error).replace(error.command, called)) from error
        except RunFolderError as error:
            raise RunFolderError(f"{str(error).rstrip('.')}. For a run on AWS, add --deployed.") from None

    return click.Command(
        "replay",
        params=[
            click.Argument(["run_id"], metavar="RUN"),
            click.Option(["--step"], required=True, metavar="NAME", help="The step to run again."),
            item_option("Which item, for a step in a map, from 0."),
            click.Option(["--pdb", "debugger"], is_flag=True, help="Open Python's debugger where the step fails."),
            click.Option(["--deployed"], is_flag=True, help="The run is one on AWS, not one on this machine."),
            click.Option(["--env"], metavar="NAME", help="With --deployed: the environment of lokki.yml."),
            click.Option(["--stack-name"], metavar="NAME", help="With --deployed: the stack."),
            click.Option(["--region"], metavar="REGION", help="With --deployed: the region."),
        ],
        help="Run one step of a run again, here and once, on exactly the input that it had. "
        f"See: {program} runs, {program} show",
        callback=callback,
        context_settings=SETTINGS,
    )


def replay(graph: FlowGraph, results: FlowResults, request: ReplayRequest) -> int:
    """Replay a step of a run and print its result, or its traceback.

    Returns the exit code. Raises LokkiError for a run, a step or an item that there is not.
    """

    def tell(line: str) -> None:
        click.echo(line, err=True)

    try:
        call = fetch(lower(graph), results.run(request.run_id), request.step, request.item, tell)
        where = f" on item {format_item(request.item)}" if request.item else ""
        tell(f"{request.step}() runs again{where} as in {request.run_id}")
        result = call.run()
    except StepFailedError as error:
        tell(f"{error.failure.traceback}error: {from_here(str(error.failure))}")
        if request.debugger and error.__cause__ is not None:
            debug(error.__cause__)
        return FAILED
    text = result_text(result)
    if text is not None:
        click.echo(text)
    return DONE
