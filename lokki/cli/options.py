"""What commands have in common, such as shared options and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from lokki.base import signatures
from lokki.base.item_path import ItemPath, parse_item
from lokki.base.naming import check_run_id
from lokki.cli.parameters import (
    PREFIX,
    check_required,
    default_text,
    effective_annotation,
    options_for,
    read_json,
    read_parameters,
)
from lokki.cli.program import CommandLine
from lokki.errors import ParameterError
from lokki.graph import FlowGraph, FlowParameter

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: that of wrong usage is click's, and 130 is what shells say of a program that Ctrl-C ended."""

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
SETTINGS = {"max_content_width": 100}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A call of a command that runs a flow.

    * ``call``: how to call the command again.
    * ``params``: the flow's parameters that the command line sets.
    * ``values``: what click read of the command's own options, by name.
    """

    graph: FlowGraph
    call: CommandLine
    params: dict[str, object]
    values: Mapping[str, object]


type RunsFlow = Callable[[RunRequest], int]
"""Runs a flow as a command line says; returns the exit code."""


def parameter_command(
    graph: FlowGraph, call: CommandLine, text: str, own: list[click.Parameter], run: RunsFlow
) -> click.Command:
    """Make a command that runs a flow, with an option for each parameter.

    ``own``: the command's own options; a parameter with the name of one of them is set by ``-p`` only.
    """
    options = parameter_options(graph, own)

    @click.pass_context
    def callback(ctx: click.Context, /, **values: object) -> int:
        try:
            return run(RunRequest(graph, call, _parameters(graph, values, options), values))
        except ParameterError as error:
            raise click.UsageError(str(error), ctx) from error
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    return click.Command(
        call.name,
        params=[*options.values(), *own],
        help=f"{text}{_by_pair(graph, list(options))}",
        short_help=text,
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


@dataclass(frozen=True, slots=True)
class _ParameterValues:
    """The options that say where parameters come from."""

    pairs: tuple[str, ...]
    file: str | None
    run_id: str | None = None
    resume: str | None = None
    event: str | None = None


def _parameters(graph: FlowGraph, values: Mapping[str, object], by_option: Iterable[str]) -> dict[str, object]:
    """Return the parameters that the command line sets."""
    own = read_options(values, _ParameterValues)
    if own.run_id is not None:
        check_run_id(own.run_id)
    params = read_parameters(graph.params, parameter_values(values), own.pairs, own.file)
    if own.event is not None:
        params = _event_values(graph, own.event) | params
    if own.resume is None:  # a run that is resumed has all of them
        check_required(graph.params, params, by_option)
    return params


def _event_values(graph: FlowGraph, file: str) -> dict[str, object]:
    """Return the parameters of the run that an event in a file starts."""
    # Here, since few runs have an event.
    from lokki.base.starts import EventParameter, values_of_event

    params = [EventParameter(param.name, param.annotation, param.required) for param in graph.params]
    try:
        return dict(values_of_event(graph.options.on, params, read_json(file, "--event")))
    except ParameterError as error:
        raise click.BadParameter(f"{file}: {error}", param_hint="--event") from None


def event_option() -> click.Option:
    """Make the option for the event that starts a run."""
    path = click.Path(dir_okay=False)
    return click.Option(["--event"], type=path, help="Run as an event of EventBridge in a JSON file would start it.")


def read_options[T](values: Mapping[str, object], kind: type[T]) -> T:
    """Return what click read as a dataclass with a field for each option.

    Options without a field are left out. Paths are absolute: steps may change the working directory.
    """
    return msgspec.convert(values, kind, dec_hook=lambda _, path: Path(path).absolute())


def parameter_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return what click read of the options for a flow's parameters."""
    return {name: value for name, value in values.items() if name.startswith(PREFIX)}


def parameter_options(graph: FlowGraph, own: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Make an option for each parameter, but where an own option has its name."""
    taken = {name for option in own for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    return options_for(graph.params, taken)


def pair_options() -> list[click.Parameter]:
    """Make the options that set parameters by name or from a file."""
    path = click.Path(dir_okay=False)
    return [
        click.Option(["-p", "pairs"], multiple=True, metavar="NAME=VALUE", help="Set a parameter; may be repeated."),
        click.Option(["--params", "file"], type=path, help="Read parameters from a JSON file; -p and options win."),
    ]


def item_option(text: str) -> click.Option:
    """Make the option that names an item.

    That is ``--item 3``, and ``--item 3/7`` in a map below a map.
    """
    return click.Option(["--item"], metavar="N", callback=_read_item, help=text)


def _read_item(ctx: click.Context, param: click.Parameter, value: str | None) -> ItemPath:
    try:
        return () if value is None else parse_item(value)
    except ParameterError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def run_id_option() -> click.Option:
    """Make the option that names a run."""
    return click.Option(["--run-id"], metavar="ID", help="Name the run (default: the time and some random characters).")


def resume_option(text: str) -> click.Option:
    """Make the option that resumes a run."""
    return click.Option(["--resume"], is_flag=False, flag_value="", metavar="[RUN]", help=text)


def env_option() -> click.Option:
    """Make the option that chooses settings."""
    return click.Option(["--env"], metavar="NAME", help="Use this environment of lokki.yml (default: $LOKKI_ENV).")


def region_option() -> click.Option:
    """Make the option that chooses a region of AWS."""
    return click.Option(["--region"], metavar="REGION", help="The region (default: $AWS_REGION or the profile's).")


def stack_options() -> list[click.Parameter]:
    """Make the options that say where a flow is deployed."""
    name = click.Option(["--stack-name"], metavar="NAME", help="The stack (default: named as the flow).")
    return [name, region_option()]


def output_options() -> list[click.Parameter]:
    """Make the options for settings, and for where results and progress go."""
    path = click.Path(dir_okay=False)
    return [
        env_option(),
        click.Option(["--output"], type=path, help="Write the result to a file: as JSON for .json, else pickled."),
        click.Option(["--log-format"], type=click.Choice(["human", "json"]), default="human", help="What stderr gets."),
        click.Option(["--quiet"], is_flag=True, help="Show errors only; the run's log has everything."),
        click.Option(["--traceback"], is_flag=True, help="Show lokki's own frames in tracebacks too."),
    ]


def report_option() -> click.Option:
    """Make the option that writes a run's report."""
    text = "Write a report of the run to an HTML file, however it ends."
    return click.Option(["--report"], type=click.Path(dir_okay=False), metavar="FILE", help=text)


def parameter_line(param: FlowParameter) -> str:
    """Return a parameter's line in help.

    That is such as ``limit: int (default: 5)``.
    """
    annotation = effective_annotation(param)
    kind = "" if annotation is signatures.UNKNOWN else f": {signatures.describe(annotation)}"
    return f"{param.name}{kind} ({default_text(param)})"


def _by_pair(graph: FlowGraph, by_option: list[str]) -> str:
    """Say which parameters have no option of their own."""
    others = [f"  {parameter_line(param)}" for param in graph.params if param.name not in by_option]
    title = "Parameters that are given by -p NAME=VALUE only, since an option has their name:"
    return "\n\n\b\n" + "\n".join([title, *others]) if others else ""
