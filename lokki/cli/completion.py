"""What a shell offers when the user presses Tab: commands, files, options of a flow, ids of runs.

click does the talking with the shell: https://click.palletsprojects.com/en/stable/shell-completion/. Nothing here is
imported before a word is completed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from lokki.cli.options import DONE
from lokki.local_run.runs import Runs

SHELLS = ("bash", "zsh", "fish")


def completion_command() -> click.Command:
    """Make the command that prints a shell's script."""

    def completion(shell: str) -> int:
        kind = get_completion_class(shell)
        assert kind is not None, shell
        click.echo(kind(click.Command("lokki"), {}, "lokki", "_LOKKI_COMPLETE").source())
        return DONE

    default = Path(os.environ.get("SHELL", "bash")).name
    return click.Command(
        "completion",
        params=[
            click.Argument(
                ["shell"], type=click.Choice(SHELLS), required=False, default=default if default in SHELLS else "bash"
            )
        ],
        help="Print a script with which your shell completes lokki's words: "
        'eval "$(lokki completion bash)" in ~/.bashrc, or zsh or fish.',
        callback=completion,
    )


def file_words(incomplete: str) -> list[CompletionItem]:
    """Let the shell offer files."""
    return [CompletionItem(incomplete, type="file")]


def run_ids(incomplete: str) -> list[CompletionItem]:
    """Offer the runs on this machine, the latest first."""
    records = Runs(Path(".lokki")).list()
    return [
        CompletionItem(record.run_id, help=f"{record.flow} {record.status}")
        for record in records
        if record.run_id.startswith(incomplete)
    ]


def flow_words(make: Callable[[], click.Command], words: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Offer the options of a command on a flow, or the values of one.

    * ``make``: makes the command, for which the flow's file is imported.
    * ``words``: what stands before.
    """
    try:
        # What the file prints would be taken for words.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            command = make()
    # The user's file may raise anything while it is imported, and the shell shows no errors.
    except Exception:
        return []
    context = click.Context(command)
    option = next((param for param in command.get_params(context) if words and words[-1] in param.opts), None)
    if isinstance(option, click.Option) and not option.is_flag:
        return option.shell_complete(context, incomplete)
    if incomplete and not incomplete.startswith("-"):
        return run_ids(incomplete)
    offered = command.shell_complete(context, incomplete or "-")
    return [item for item in offered if str(item.value).startswith(incomplete)]
