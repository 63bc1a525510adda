"""The command ``clean`` deletes what old runs on AWS wrote, as far as nothing needs it any more."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from lokki.cli.account import Account, find_account
from lokki.cli.commands.deploy import agrees, yes_option
from lokki.cli.options import DONE, EPILOG, FAILED, SETTINGS, env_option, stack_options
from lokki.deploy.cleaning import clean, cleaning_in_words, plan_cleaning
from lokki.graph import FlowGraph

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def clean_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that deletes results of old runs on AWS."""

    def callback(older_than: timedelta, dry_run: bool, yes: bool, **values: object) -> int:
        account = find_account(graph, program, flow, values)
        return clean_results(account, older_than, dry_run=dry_run, yes=yes)

    return click.Command(
        "clean",
        params=[
            click.Option(
                ["--older-than"],
                required=True,
                callback=_age,
                metavar="30d",
                help="Results of runs that ended so long ago go: hours (h), days (d), weeks (w).",
            ),
            click.Option(["--dry-run"], is_flag=True, help="Show what would go, and delete nothing."),
            yes_option(),
            env_option(),
            *stack_options(),
        ],
        help=f"Delete what old runs of {graph.name} on AWS wrote to the bucket. Shows it, and asks. Runs in progress, "
        "runs that can be redriven, and what later runs took over from others stay.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def clean_results(account: Account, older_than: timedelta, *, dry_run: bool, yes: bool) -> int:
    """Show what may go, delete it after a yes, and return the exit code."""
    plan = plan_cleaning(account.aws, account.deployed, account.runs.store, older_than)
    lines = cleaning_in_words(plan)
    if not plan.runs:
        for line in [f"nothing of {plan.flow} is so old and not needed", *lines[1:]]:
            _tell(line)
        return DONE
    _tell("this goes, for good:")
    for line in lines:
        _tell(f"  {line}")
    if dry_run:
        _tell("dry run: nothing was deleted")
        return DONE
    if not agrees("Delete these?", yes=yes):
        return FAILED
    clean(account.aws, plan, _tell)
    return DONE


def _age(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([hdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r}: give an age such as 30d, 12h or 4w.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _tell(line: str) -> None:
    click.echo(line, err=True)
