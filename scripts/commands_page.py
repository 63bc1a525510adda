"""The reference of the command line, from the parser itself."""

from __future__ import annotations

from collections.abc import Iterator

import click

from lokki import StepNode, flow, step
from lokki.cli.main import flow_group, lokki_group

INTRODUCTION = """# Commands

Each command with all that it takes, from the parser itself. `python flow.py COMMAND` is
`lokki COMMAND flow.py`.
The parameters of your flow are options of `run`, `emulate`, `invoke`, `estimate` and `backfill` beside these;
[the command line](../cli.md) tells how values are written, what the exit codes are, and what stdout gets.
"""


def commands_page() -> str:
    """Return the page in Markdown."""

    @step
    def birds() -> list[str]:
        return []

    @flow
    def birds_flow() -> StepNode[..., list[str]]:
        """Make birds flap."""
        return birds()

    parts = [INTRODUCTION]
    for group, program, names in (
        (flow_group(birds_flow(), "python flow.py"), "python flow.py", None),
        (lokki_group("lokki"), "lokki", ("init", "completion", "bootstrap")),
    ):
        context = click.Context(group, info_name=program)
        for name in names or group.commands:
            found, command, _ = group.resolve_command(context, [name])
            if found is not None and command is not None:
                parts.extend(_section(command, context, name, 2))
    return "\n".join(parts)


def _section(command: click.Command, parent: click.Context, name: str, depth: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100)
    yield f"{'#' * depth} {name}\n"
    help_text = (command.help or command.short_help or "").replace("\b\n", "")
    yield f"{help_text.strip()}\n"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    rows = [record for param in command.get_params(context) if (record := _row(param, context))]
    if rows:
        yield "| Option | Does |\n|---|---|"
        yield "\n".join(f"| {name} | {text} |" for name, text in rows) + "\n"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _section(inner, context, f"{name} {inner.name}" if depth == 2 else str(inner.name), depth + 1)


def _row(param: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """Return the cells of an option; arguments stand in the usage, and `--help` is everywhere."""
    record = param.get_help_record(context)
    if record is None or record[0] == "--help":
        return None
    names, text = record
    return f"`{names}`".replace("|", "\\|"), " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
