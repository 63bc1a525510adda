"""The command line: ``python flow.py run`` through `lokki.main`, and ``lokki run flow.py``.

Exit codes: 0 done; 1 the run failed, or what lokki was given cannot work (the flow, lokki.yml, a run's folder); 2 wrong
usage (unknown command or option, a wrong or missing parameter); 130 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import atexit
import difflib
import gc
import importlib
import io
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from types import TracebackType
from typing import NoReturn, cast

import click

from lokki.cli_flow import DONE, EPILOG, FAILED, INTERRUPTED, SETTINGS, USAGE, described, from_here
from lokki.decorators import Flow
from lokki.drawing import draw
from lokki.errors import FlowError, LokkiError
from lokki.failures import place_in_users_files, users_place
from lokki.graph import FlowGraph
from lokki.loading import is_importing, load_flow
from lokki.plan import lower


def main(flow: Flow[...], argv: Sequence[str] | None = None) -> None:
    """Run the command line for one flow and end the process; see `lokki.main`.

    Returns where the flow's file is only imported: by a worker process, or by ``lokki run``.
    """
    if _in_worker_process() or is_importing():
        return
    arguments = sys.argv[1:] if argv is None else list(argv)
    again = _called_as()

    def make() -> click.Command:
        if not isinstance(flow, Flow):
            raise FlowError(f"main() takes a flow, not {flow!r}: write main(birds_flow), without calling the flow.")
        return flow_group(flow(), again)

    _end(make, arguments, again)


def console(argv: Sequence[str] | None = None) -> None:
    """Run the command ``lokki`` and end the process."""
    _end(lokki_group, sys.argv[1:] if argv is None else list(argv), "lokki")


type Maker = Callable[[FlowGraph, str, str], click.Command]


@dataclass(frozen=True, slots=True)
class FlowCommand:
    """A command that works on a flow, and the module with the function that makes it: ``<name>_command``.

    The module is imported when the command is called, so that the others start without what it needs: the builder, the
    emulator, boto3. The function takes the graph, and how the command is called: ``<program> <name> [<flow>]``.
    """

    name: str
    text: str
    module: str

    def make(self, graph: FlowGraph, program: str, flow: str) -> click.Command:
        """Make the command."""
        maker = cast("Maker", getattr(importlib.import_module(self.module), f"{self.name}_command"))
        return maker(graph, program, flow)


class SuggestingGroup(click.Group):
    """A group that says which command an unknown one may have meant, and makes some commands when they are called."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, help=text, epilog=EPILOG, context_settings=SETTINGS)
        self._late: dict[str, Callable[[], click.Command]] = {}

    def add_late(self, name: str, text: str, make: Callable[[], click.Command]) -> None:
        """Add a command that is made when it is called."""
        self.add_command(click.Command(name, short_help=text))
        self._late[name] = make

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with a suggestion."""
        if args and args[0] in self._late:
            return args[0], self._late[args[0]](), args[1:]
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(names)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


def flow_group(graph: FlowGraph, again: str) -> click.Group:
    """Make the command line of one flow; ``again``: how this command line is called."""
    group = SuggestingGroup(graph.name, _help(graph))
    for command in FLOW_COMMANDS:
        group.add_late(command.name, command.text, partial(command.make, graph, again, ""))
    group.add_late("runs", _RUNS, partial(_runs_command, graph.name))
    return group


def lokki_group() -> click.Group:
    """Make the command line for any flow: each command takes the flow's file first."""
    group = SuggestingGroup("lokki", "Run data pipelines here and on AWS. COMMAND --help tells more.")
    click.version_option(package_name="lokki", prog_name="lokki")(group)
    for command in FLOW_COMMANDS:
        group.add_command(_on_named_flow(command))
    group.add_late("runs", _RUNS, partial(_runs_command, None))
    return group


def _runs_command(flow: str | None) -> click.Command:
    # Imported here so that the other commands start without what reads runs.
    from lokki.cli_runs import runs_command

    return runs_command(flow)


def _on_named_flow(command: FlowCommand) -> click.Command:
    """Make the command of ``lokki`` that takes the flow's file first and hands all else on."""

    @click.pass_context
    def callback(ctx: click.Context, /, flow: str, options: tuple[str, ...]) -> int:
        if flow == "--help":
            click.echo(ctx.get_help())
            return 0
        if flow.startswith("-"):
            ctx.fail(f"Name the flow before its options: lokki {command.name} FLOW.py {flow} …")
        made = command.make(load_flow(flow)(), "lokki", flow)
        called = f"lokki {command.name} {shlex.quote(flow)}"
        code: int = made.main(list(options), called, standalone_mode=False)
        return code

    return click.Command(
        command.name,
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        params=[
            click.Argument(["flow"], metavar="FLOW.py[:NAME]"),
            click.Argument(["options"], nargs=-1, type=click.UNPROCESSED),
        ],
        help=f"{command.text} lokki {command.name} FLOW.py --help tells the options.",
        short_help=command.text,
        options_metavar="",
        callback=callback,
    )


def _help(graph: FlowGraph) -> str:
    """Write the help of a flow: its docstring as it is, its parameters, its drawing."""
    paragraphs = (graph.doc or f"The flow {graph.name}.").replace("\f", "").split("\n\n")
    if graph.params:
        paragraphs.append("\n".join(["Parameters:", *(f"  {described(param)}" for param in graph.params)]))
    paragraphs.append("\n".join(["Steps:", *(f"  {line}" for line in draw(lower(graph)).split("\n"))]))
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in paragraphs)


_RUNS = "List the runs on this machine, the latest first."

FLOW_COMMANDS = (
    FlowCommand("run", "Run a flow on this machine and print its result.", "lokki.cli_run"),
    FlowCommand("build", "Write Lambda packages, state machine and template.", "lokki.cli_build"),
    FlowCommand("emulate", "Build, and run what was built as AWS would.", "lokki.cli_emulate"),
    FlowCommand("deploy", "Build, show what would change on AWS, and change it.", "lokki.cli_deploy"),
    FlowCommand("rollback", "Let new runs on AWS use the version before.", "lokki.cli_deploy"),
    FlowCommand("destroy", "Remove a flow from AWS.", "lokki.cli_deploy"),
    FlowCommand("estimate", "Estimate cost, time and limits of a run on AWS.", "lokki.cli_estimate"),
    FlowCommand("invoke", "Run a deployed flow on AWS and print its result.", "lokki.cli_operate"),
    FlowCommand("show", "Show the runs on AWS, or all of one run.", "lokki.cli_show"),
    FlowCommand("logs", "Show what a run on AWS printed and logged.", "lokki.cli_logs"),
    FlowCommand("redrive", "Let a run on AWS go on where it failed.", "lokki.cli_operate"),
    FlowCommand("stop", "Stop a run on AWS.", "lokki.cli_operate"),
    FlowCommand("replay", "Run one step of a run again, with a debugger if wanted.", "lokki.cli_replay"),
)


_RUN_STEPS_HERE = {"run", "replay"}


def _in_worker_process() -> bool:
    """Tell whether this process is a worker, also while Python starts it anew and imports the user's file for that."""
    # Not imported for this, to start faster: where there is a parent process, it is loaded.
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None:
        return False
    # The same mark by which multiprocessing itself knows a process that still imports the file.
    is_starting = getattr(multiprocessing.current_process(), "_inheriting", False)
    return is_starting or multiprocessing.parent_process() is not None


def _called_as() -> str:
    """Return how to call this program again: ``python flow.py``, or ``python -m package.flow``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return f"python {shlex.quote(sys.argv[0])}"


def _end(make: Callable[[], click.Command], arguments: Sequence[str], program: str) -> NoReturn:
    """Run a command line and end the process; the one place where errors become lines on the terminal."""
    if "--traceback" not in arguments and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show_error_of_user
    try:
        code = make().main(list(arguments), program, standalone_mode=False)
        _leave(code if isinstance(code, int) else DONE, *(arguments[:1] or [""]))
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except LokkiError as error:
        if "--traceback" in arguments:
            traceback.print_exc()
        click.echo(f"error: {from_here(_placed(error))}", err=True)
        sys.exit(FAILED)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code is not click.echo.__code__:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is held back: Python would complain
        click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        sys.exit(FAILED)


def _placed(error: LokkiError) -> str:
    """Return what an error says, and where in the user's code if it is about a flow."""
    place = place_in_users_files(error.__traceback__) or error.place if isinstance(error, FlowError) else ""
    return str(error) if str(error).startswith(f"{place}:") else f"{place}: {error}".removeprefix(": ")


def _leave(code: int, command: str) -> NoReturn:
    """End the process. A step that was left behind on a thread may go on printing, at which Python would abort."""
    if not any(thread.daemon for thread in threading.enumerate()):
        if command not in _RUN_STEPS_HERE:
            atexit.register(_spare_the_collector)
        sys.exit(code)
    # Imported here so that commands that leave no threads behind start without it.
    from lokki.local_run.output import flush_all

    # As Python does at its end: idle pools of the user's are told to end, and threads that are no daemons waited for.
    threading._shutdown()  # type: ignore[attr-defined]  # typeshed leaves it out
    atexit._run_exitfuncs()
    flush_all()
    os._exit(code)


def _spare_the_collector() -> None:
    """Let Python end without looking for garbage in all modules, which takes a twentieth of a second with pandas.

    Called at the very end: a program that catches SystemExit goes on with its collector.
    That is not for processes in which steps have run: what they left behind in cycles is closed by the collector. What
    the user's modules left open while they were imported is written here.
    """
    kinds = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}
    files = cast("list[io.IOBase]", [each for each in gc.get_objects() if type(each) in kinds])
    for file in files:
        with suppress(OSError, ValueError):  # a full disk, or a file that is closed
            file.flush()
    gc.freeze()


def _show_error_of_user(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show what the user's code raised while it was imported or drew the flow; Python calls this at its end."""
    text = users_traceback(error)
    if text is None:
        sys.__excepthook__(kind, error, trace)
        text = "error: this is a mistake in lokki; please report it with the lines above.\n"
    sys.stderr.write(text)


def users_traceback(error: BaseException) -> str | None:
    """Format an error as Python does, without frames of lokki and of what called it, and a line that says where.

    Returns None for an error that comes from no code of the user's.
    """
    described = traceback.TracebackException.from_exception(error)
    current: traceback.TracebackException | None = described
    while current is not None:
        current.stack = traceback.StackSummary.from_list(_users_frames(current.stack))
        current = current.__cause__ or current.__context__
    if not described.stack and not isinstance(error, SyntaxError):
        return None
    where = users_place(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    message = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
    return f"{''.join(described.format())}error: {from_here(where)}: {message}\n"


def _users_frames(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    packages = (__file__, click.__file__, importlib.__file__)
    own = ("<frozen importlib", *(str(PurePath(file).parent) for file in packages))
    first = next((number for number, frame in enumerate(stack) if frame.filename.startswith(own)), 0)
    return [frame for frame in stack[first:] if not frame.filename.startswith(own)]
