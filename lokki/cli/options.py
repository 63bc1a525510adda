"""What commands that run a flow have in common: an option for each of the flow's parameters, and where output goes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from lokki.base import signatures
from lokki.base.item_path import ItemPath, parse_item
from lokki.cli.parameters import default_text, effective_annotation, options_for
from lokki.errors import ParameterError
from lokki.graph import FlowGraph, FlowParameter

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: that of wrong usage is click's, and 130 is what shells say of a program that Ctrl-C ended."""

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
SETTINGS = {"max_content_width": 100}

type Run = Callable[[FlowGraph, str, dict[str, object], list[str]], int]
"""Runs a flow: takes its graph, how to call the command again, what click read, and the parameters with an option."""


@dataclass(frozen=True, slots=True)
class Called:
    """How a command is called: ``<program> <name> [<flow>]``."""

    program: str
    name: str
    flow: str = ""

    def __str__(self) -> str:
        return f"{self.program} {self.name} {shlex.quote(self.flow)}" if self.flow else f"{self.program} {self.name}"


def item_option(text: str) -> click.Option:
    """Make the option that names an item: ``--item 3``, and ``--item 3/7`` in a map below a map."""
    return click.Option(["--item"], metavar="N", callback=_parsed_item, help=text)


def _parsed_item(ctx: click.Context, param: click.Parameter, value: str | None) -> ItemPath:
    try:
        return () if value is None else parse_item(value)
    except ParameterError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def parameter_command(
    graph: FlowGraph, called: Called, text: str, own: list[click.Parameter], run: Run
) -> click.Command:
    """Make a command that runs a flow, with an option for each parameter of the flow before the command's own."""
    taken = {name for option in own for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    options = options_for(graph.params, taken)

    @click.pass_context
    def callback(ctx: click.Context, /, **values: object) -> int:
        try:
            return run(graph, str(called), values, list(options))
        except ParameterError as error:
            raise click.UsageError(str(error), ctx) from error
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    return click.Command(
        called.name,
        params=[*options.values(), *own],
        help=f"{text}{_by_pair(graph, list(options))}",
        short_help=text,
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def parameter_options() -> list[click.Parameter]:
    """Make the options by which parameters are given all at once, or where an option has their name."""
    path = click.Path(dir_okay=False)
    return [
        click.Option(["-p", "pairs"], multiple=True, metavar="NAME=VALUE", help="Set a parameter; may be repeated."),
        click.Option(["--params", "file"], type=path, help="Read parameters from a JSON file; -p and options win."),
    ]


def run_id_option() -> click.Option:
    """Make the option that names a run."""
    return click.Option(["--run-id"], metavar="ID", help="Name the run (default: the time and some random characters).")


def resume_option(text: str) -> click.Option:
    """Make the option that goes on with a run."""
    return click.Option(["--resume"], is_flag=False, flag_value="", metavar="[RUN]", help=text)


def output_options() -> list[click.Parameter]:
    """Make the options that say which settings are used, and where results, progress and errors go."""
    path = click.Path(dir_okay=False)
    return [
        click.Option(["--env"], metavar="NAME", help="Use this environment of lokki.yml (default: $LOKKI_ENV)."),
        click.Option(["--output"], type=path, help="Write the result to a file: as JSON for .json, else pickled."),
        click.Option(["--log-format"], type=click.Choice(["human", "json"]), default="human", help="What stderr gets."),
        click.Option(["--quiet"], is_flag=True, help="Show errors only; the run's log has everything."),
        click.Option(["--traceback"], is_flag=True, help="Show lokki's own frames in tracebacks too."),
    ]


def text_of(values: dict[str, object], name: str) -> str | None:
    """Return the value of an option that takes text."""
    value = values[name]
    return None if value is None else str(value)


def described(param: FlowParameter) -> str:
    """Describe a parameter in help: ``limit: int (default: 5)``."""
    annotation = effective_annotation(param)
    kind = "" if annotation is signatures.UNKNOWN else f": {signatures.describe(annotation)}"
    return f"{param.name}{kind} ({default_text(param)})"


def _by_pair(graph: FlowGraph, by_option: list[str]) -> str:
    """Say which parameters have no option of their own."""
    others = [f"  {described(param)}" for param in graph.params if param.name not in by_option]
    title = "Parameters that are given by -p NAME=VALUE only, since an option has their name:"
    return "\n\n\b\n" + "\n".join([title, *others]) if others else ""


def from_here(text: str) -> str:
    """Shorten paths below the current directory."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # a step has removed it
        return text
    return text if here == "/" else text.replace(f"{here}/", "")
