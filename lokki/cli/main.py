"""The command line: ``python flow.py run`` through `lokki.main`, and ``lokki run flow.py``.

Exit codes: 0 done; 1 the run failed, or what lokki was given cannot work (the flow, lokki.yml, a run's folder); 2 wrong
usage (unknown command or option, a wrong or missing parameter); 130 interrupted by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import click

from lokki.base.failures import error_text, first_line, place_in_users_files, trace_of, users_place
from lokki.base.naming import suggestion
from lokki.cli.ending import is_called_by_script_alone, leave, owning, owns_process
from lokki.cli.hidden_modules import hidden_module, is_hidden_from_library
from lokki.cli.options import DONE, EPILOG, FAILED, INTERRUPTED, SETTINGS, USAGE, parameter_line
from lokki.cli.program import CommandLine, program_words
from lokki.cli.text import from_here
from lokki.decorators import Flow
from lokki.errors import FlowError, LokkiError
from lokki.graph import FlowGraph
from lokki.loading import check_hides_nothing, is_importing, load_flow
from lokki.pictures.drawing import draw
from lokki.plan import lower

if TYPE_CHECKING:  # start-up: see _runs_command
    from click.shell_completion import CompletionItem

    from lokki.cli.commands.runs import CallOf
    from lokki.local_run.runs import RunRecord


def run_command_line(flows: Sequence[Flow[...]], argv: Sequence[str] | None = None) -> None:
    """Run the command line of some flows and end the process.

    Returns where the flow's file is only imported: by a worker process, or by ``lokki run``.
    """
    # With arguments it is called on purpose, also in a process that somebody else's multiprocessing started.
    if (argv is None and _in_worker_process()) or is_importing():
        return
    arguments = sys.argv[1:] if argv is None else list(argv)
    program = program_words()

    def make() -> click.Command:
        _check_flows(flows)
        for flow in flows:
            module = sys.modules.get(flow.__module__)
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and getattr(module, flow.__name__, None) is flow:
                check_hides_nothing(Path(file))
        return flow_group(flows[0](), program) if len(flows) == 1 else flows_group(flows, program)

    _end(make, arguments, program, alone=argv is None and is_called_by_script_alone())


def console(argv: Sequence[str] | None = None) -> None:
    """Run the command ``lokki`` and end the process."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    program = program_words()
    _end(lambda: lokki_group(program), arguments, program, alone=argv is None and is_called_by_script_alone())


def _check_flows(flows: Sequence[object]) -> None:
    """Raise FlowError for anything that `lokki.main` cannot take."""
    if not flows:
        raise FlowError("main() takes a flow: write main(birds_flow).")
    for flow in flows:
        if not isinstance(flow, Flow):
            hint = "main(birds_flow), without calling the flow"
            if isinstance(flow, list | tuple):
                hint = 'main(birds_flow, argv=["run"]) for arguments, main(one_flow, other_flow) for several flows'
            raise FlowError(f"main() takes a flow, not {flow!r}: write {hint}.")
    names = [flow.name for flow in flows if isinstance(flow, Flow)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FlowError(f"main() has two flows of the name {twice}: rename the function of one.")


type Maker = Callable[[FlowGraph, str, str], click.Command]


@dataclass(frozen=True, slots=True)
class FlowCommand:
    """A command that works on a flow, and the module that makes it.

    The module has a function ``<name>_command``, which takes the graph and how the command is called: ``<program>
    <name> [<flow>]``. It is imported when the command is called, so that the others start without what it needs: the
    builder, the emulator, boto3.
    """

    name: str
    text: str
    module: str

    def make(self, graph: FlowGraph, program: str, flow: str) -> click.Command:
        """Make the command."""
        maker: Maker = getattr(importlib.import_module(self.module), f"{self.name}_command")
        return maker(graph, program, flow)


class SuggestingGroup(click.Group):
    """A group that says which command an unknown one may have meant.

    Some of its commands are made when they are called.
    """

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
            ctx.fail(f"No such command {args[0]!r}. {suggestion(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def flow_group(graph: FlowGraph, program: str) -> click.Group:
    """Make the command line of one flow.

    ``program``: how this command line is called.
    """
    group = _versioned(SuggestingGroup(graph.name, _help(graph)))
    for command in FLOW_COMMANDS:
        group.add_late(command.name, command.text, partial(command.make, graph, program, ""))
    group.add_late(
        "runs", _RUNS, partial(_runs_command, graph.name, lambda command, run: f"{program} {command}", graph)
    )
    group.add_late("ui", _UI, partial(_ui_command, program, lambda: {"": graph}))
    return group


def flows_group(flows: Sequence[Flow[...]], program: str) -> click.Group:
    """Make the command line of a file with several flows.

    Each command takes a flow's name first; only that flow is drawn. ``program``: how this command line is called.
    """
    by_name = {flow.name: flow for flow in flows}
    listed = "\n".join(["Flows:", *(f"  {name}{_summary(flow)}" for name, flow in by_name.items())])
    group = _versioned(SuggestingGroup("flows", f"COMMAND FLOW --help tells more.\n\n\b\n{listed}"))

    def find(name: str) -> Flow[...]:
        flow = by_name.get(name.replace("_", "-"))
        if flow is None:
            raise click.UsageError(f"There is no flow {name!r} here. {suggestion(name, by_name)}")
        return flow

    for command in FLOW_COMMANDS:
        group.add_command(_on_named_flow(command, NamedFlow(program, "FLOW", "|".join(by_name), find, tuple(by_name))))
    group.add_late("runs", _RUNS, partial(_runs_command, None, partial(_call_of_flow, program)))
    group.add_late("ui", _UI, partial(_ui_command, program, lambda: {name: flow() for name, flow in by_name.items()}))
    return group


def lokki_group(program: str) -> click.Group:
    """Make the command line of the program ``lokki``.

    Each command takes the flow's file first.
    """
    group = _versioned(SuggestingGroup("lokki", "Run data pipelines here and on AWS. COMMAND --help tells more."))
    for command in FLOW_COMMANDS:
        group.add_command(_on_named_flow(command, NamedFlow(program, "FLOW.py", "FLOW.py[:NAME]", load_flow)))
    group.add_late("runs", _RUNS, partial(_runs_command, None, partial(_call_of_file, program)))
    group.add_late("ui", _UI, partial(_ui_command, program, None))
    group.add_late("completion", "Print a script that completes lokki's words in your shell.", _completion_command)
    group.add_late("init", "Make a project with a flow, its tests and its settings.", _init_command)
    group.add_late("bootstrap", "Make a bucket on AWS that flows use by themselves.", _bootstrap_command)
    return group


def _completion_command() -> click.Command:
    # Imported here as below.
    from lokki.cli.completion import completion_command

    return completion_command()


def _init_command() -> click.Command:
    # Imported here as below.
    from lokki.cli.commands.init import init_command

    return init_command()


def _bootstrap_command() -> click.Command:
    # Imported here so that the other commands start without boto3.
    from lokki.cli.commands.bootstrap import bootstrap_command

    return bootstrap_command()


def _versioned(group: SuggestingGroup) -> SuggestingGroup:
    click.version_option(package_name="lokki", prog_name="lokki")(group)
    return group


def _summary(flow: Flow[...]) -> str:
    first = (flow.__doc__ or "").strip().partition("\n")[0]
    return f": {first}" if first else ""


def _runs_command(flow: str | None, call_of: CallOf, graph: FlowGraph | None = None) -> click.Command:
    # Imported here so that the other commands start without what reads runs.
    from lokki.cli.commands.runs import runs_command

    return runs_command(flow, call_of, graph)


def _ui_command(program: str, flows: Callable[[], Mapping[str, FlowGraph]] | None) -> click.Command:
    # Imported here as above.
    from lokki.cli.commands.ui import ui_command

    return ui_command(program, flows)


def _call_of_flow(program: str, command: str, run: RunRecord) -> str:
    """Return how a command is called for one of several flows."""
    # Imported here as above.
    from lokki.emulator.run_files import emulated_name

    return str(CommandLine(program, command, run.flow.removesuffix(emulated_name(""))))


def _call_of_file(program: str, command: str, run: RunRecord) -> str:
    """Return how a command of ``lokki`` is called for a flow."""
    return str(CommandLine(program, command, run.file)) if run.file else ""


@dataclass(frozen=True, slots=True)
class NamedFlow:
    """How a program's commands name the flow that they work on.

    * ``word``: stands for the name in messages, and ``metavar`` in help.
    * ``find``: returns the flow of a name.
    * ``names``: of all flows, where they are known.
    """

    program: str
    word: str
    metavar: str
    find: Callable[[str], Flow[...]]
    names: Sequence[str] = ()

    def complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the flows' names, or files."""
        # Imported here, as it is only needed for completion.
        from click.shell_completion import CompletionItem

        # Imported here, too.
        from lokki.cli.completion import file_words

        own = [CompletionItem(name) for name in self.names if name.startswith(incomplete)]
        return own if self.names else file_words(incomplete)


def _on_named_flow(command: FlowCommand, named: NamedFlow) -> click.Command:
    """Make a command that takes the flow first and hands all else on."""
    called = f"{named.program} {command.name}"

    @click.pass_context
    def callback(ctx: click.Context, /, flow: str, options: tuple[str, ...]) -> int:
        if flow == "--help":
            click.echo(ctx.get_help())
            return 0
        if flow.startswith("-"):
            ctx.fail(f"Name the flow before its options: {called} {named.word} {flow} …")
        flow_command = command.make(named.find(flow)(), named.program, flow)
        code: int = flow_command.main(list(options), f"{called} {shlex.quote(flow)}", standalone_mode=False)
        return code

    named_command = _NamedFlowCommand(
        command.name,
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        params=[
            click.Argument(["flow"], metavar=named.metavar, shell_complete=named.complete),
            click.Argument(["options"], nargs=-1, type=click.UNPROCESSED, shell_complete=_complete_options),
        ],
        help=f"{command.text} {called} {named.word} --help tells the options.",
        short_help=command.text,
        options_metavar="",
        callback=callback,
    )
    named_command.make = lambda name: command.make(named.find(name)(), named.program, name)
    return named_command


class _NamedFlowCommand(click.Command):
    """A command that takes the flow first.

    ``make``: makes the command on a flow of a name, whose words a shell completes.
    """

    make: Callable[[str], click.Command]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer what the command on the flow takes."""
        # Imported here, as it is only needed for completion.
        from lokki.cli.completion import flow_words

        flow: str | None = ctx.params.get("flow")
        words = ctx.params.get("options") or ()
        return flow_words(lambda: self.make(flow), words, incomplete) if flow else []


def _complete_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return ctx.command.shell_complete(ctx, incomplete)


def _help(graph: FlowGraph) -> str:
    """Write the help of a flow.

    It has the flow's docstring as it is, its parameters and its drawing.
    """
    paragraphs = (graph.doc or f"The flow {graph.name}.").replace("\f", "").split("\n\n")
    if graph.params:
        paragraphs.append("\n".join(["Parameters:", *(f"  {parameter_line(param)}" for param in graph.params)]))
    paragraphs.append("\n".join(["Steps:", *(f"  {line}" for line in draw(lower(graph)).split("\n"))]))
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in paragraphs)


_RUNS = "List the runs on this machine, the latest first."
_UI = "Watch runs in the browser: a page on this machine."

FLOW_COMMANDS = (
    FlowCommand("run", "Run a flow on this machine and print its result.", "lokki.cli.commands.run"),
    FlowCommand("draw", "Draw a flow: as text, SVG, Mermaid or a page.", "lokki.cli.commands.draw"),
    FlowCommand("build", "Write Lambda packages, state machine and template.", "lokki.cli.commands.build"),
    FlowCommand("emulate", "Build, and run what was built as AWS would.", "lokki.cli.commands.emulate"),
    FlowCommand("deploy", "Build, show what would change on AWS, and change it.", "lokki.cli.commands.deploy"),
    FlowCommand("rollback", "Let new runs on AWS use the version before.", "lokki.cli.commands.deploy"),
    FlowCommand("destroy", "Remove a flow from AWS.", "lokki.cli.commands.deploy"),
    FlowCommand("doctor", "Check what a deployment needs: account, bucket, permissions.", "lokki.cli.commands.doctor"),
    FlowCommand("prune", "Delete old versions on AWS that nothing needs.", "lokki.cli.commands.deploy"),
    FlowCommand("clean", "Delete results of old runs on AWS.", "lokki.cli.commands.clean"),
    FlowCommand("estimate", "Estimate cost, time and limits of a run on AWS.", "lokki.cli.commands.estimate"),
    FlowCommand("invoke", "Run a deployed flow on AWS and print its result.", "lokki.cli.commands.invoke"),
    FlowCommand("show", "Show the runs on AWS, or all of one run.", "lokki.cli.commands.show"),
    FlowCommand("logs", "Show what a run on AWS printed and logged.", "lokki.cli.commands.logs"),
    FlowCommand("redrive", "Let a run on AWS go on where it failed.", "lokki.cli.commands.invoke"),
    FlowCommand("stop", "Stop a run on AWS.", "lokki.cli.commands.invoke"),
    FlowCommand("backfill", "Start the runs of past days, here or on AWS.", "lokki.cli.commands.backfill"),
    FlowCommand("replay", "Run one step of a run again, with a debugger if wanted.", "lokki.cli.commands.replay"),
)


def _in_worker_process() -> bool:
    """Tell whether this process is a worker of multiprocessing.

    It is one also while Python starts it and imports the user's file for that.
    """
    # Not imported for this, to start faster: where there is a parent process, it is loaded.
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None:
        return False
    # The same mark by which multiprocessing itself knows a process that still imports the file.
    is_starting = getattr(multiprocessing.current_process(), "_inheriting", False)
    return is_starting or multiprocessing.parent_process() is not None


def _end(make: Callable[[], click.Command], arguments: Sequence[str], program: str, *, alone: bool) -> NoReturn:
    """Run a command line and end the process.

    ``alone``: the process is there for nothing else.
    """
    # In somebody else's process an error of the user's file is raised as it is.
    if alone and "--traceback" not in arguments and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show_error_of_user
    with owning(alone):
        leave(_exit_code(make, arguments, program), *(arguments[:1] or [""]))


def _exit_code(make: Callable[[], click.Command], arguments: Sequence[str], program: str) -> int:
    """Run a command line and return its exit code.

    This is the one place where errors become lines on the terminal.
    """
    try:
        code = make().main(list(arguments), program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return USAGE if isinstance(error, click.UsageError) else FAILED
    except LokkiError as error:
        if "--traceback" in arguments:
            traceback.print_exc()
        click.echo(f"error: {from_here(_placed(error))}", err=True)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except OSError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code is not click.echo.__code__:
            raise
        if owns_process():  # for what is held back: Python would complain
            # Imported here so that --help does not load what runs flows.
            from lokki.local_run.descriptors import hide

            hide(sys.stdout.fileno())
        click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        return FAILED
    return code if isinstance(code, int) else DONE


def _placed(error: LokkiError) -> str:
    """Return what an error says, behind the place in the user's code.

    Only errors about a flow have a place.
    """
    place = place_in_users_files(error.__traceback__) or error.place if isinstance(error, FlowError) else ""
    return str(error) if str(error).startswith(f"{place}:") else f"{place}: {error}".removeprefix(": ")


def _show_error_of_user(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show what the user's code raised while it was imported or drew the flow.

    Python calls this at its end.
    """
    text = users_traceback(error) if not is_hidden_from_library(error) else None
    if text is None and (hidden := hidden_module(error)):
        name, file = hidden
        text = f"error: {from_here(file)} hides Python's own module {name!r}, which lokki needs. Rename it.\n"
    elif text is None:
        sys.__excepthook__(kind, error, trace)
        text = "error: this is a mistake in lokki; please report it with the lines above.\n"
    sys.stderr.write(text)


def users_traceback(error: BaseException) -> str | None:
    """Format an error of the user's code as Python does, and say where.

    Frames of lokki and of what called it are left out. Returns None for an error that comes from no code of the
    user's.
    """
    report = traceback.TracebackException.from_exception(error)
    current: traceback.TracebackException | None = report
    while current is not None:
        current.stack = traceback.StackSummary.from_list(_users_frames(current.stack))
        current = current.__cause__ or current.__context__
    if not report.stack and not isinstance(error, SyntaxError):
        return None
    where = users_place(trace_of(error))
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    message = first_line(error_text(error))
    kind = f"{type(error).__name__}{': ' if message else ''}{message}"
    return f"{''.join(report.format())}error: {from_here(where)}: {kind}\n"


def _users_frames(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    packages = (PurePath(__file__).parent, click.__file__, importlib.__file__)
    own = ("<frozen importlib", *(str(PurePath(path).parent) for path in packages))
    first = next((number for number, frame in enumerate(stack) if frame.filename.startswith(own)), 0)
    return [frame for frame in stack[first:] if not frame.filename.startswith(own)]
