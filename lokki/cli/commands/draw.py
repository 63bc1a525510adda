"""The command ``draw`` draws a flow, on the terminal or into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from lokki.cli.options import DONE, EPILOG, SETTINGS
from lokki.cli.output import write_file
from lokki.graph import FlowGraph
from lokki.pictures.drawing import draw
from lokki.pictures.mermaid import mermaid
from lokki.pictures.page import page
from lokki.pictures.svg import svg
from lokki.plan import Plan, lower

FORMATS: Mapping[str, Callable[[Plan, str], str]] = {
    ".svg": lambda plan, doc: svg(plan),
    ".mmd": lambda plan, doc: mermaid(plan),
    ".html": page,
}
"""How a plan and its flow's docstring are written, by the ending of the file."""


def draw_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that draws a flow."""

    def show(output: Path | None) -> int:
        plan = lower(graph)
        if output is None:
            click.echo(draw(plan))
            return DONE
        if output.suffix.lower() not in FORMATS:
            endings = ", ".join(FORMATS)
            raise click.UsageError(
                f"--output {output}: the name must end in one of {endings}, which says what is drawn."
            )
        text = FORMATS[output.suffix.lower()](plan, graph.doc)
        write_file(output, text.encode(errors="replace"))
        return DONE

    return click.Command(
        "draw",
        params=[
            click.Option(
                ["--output"],
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                help="Draw into this file: .svg for READMEs and pages, .mmd for Mermaid, .html for a page of its own. "
                "Default: as text, on stdout.",
            )
        ],
        help=f"Draw {graph.name}: its steps, maps, branches and switches, its parameters and its schedule.",
        callback=show,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )
