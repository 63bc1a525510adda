"""The command ``doctor`` says what stands between a flow and its deployment."""

from __future__ import annotations

import click

from lokki.cli.options import DONE, EPILOG, FAILED, SETTINGS, env_option, region_option
from lokki.config import load_config
from lokki.deploy.aws import connect
from lokki.deploy.doctor import examine
from lokki.graph import FlowGraph


def doctor_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that checks an account.

    It is called as ``<program> doctor [<flow>]``.
    """

    def callback(env: str | None, region: str | None) -> int:
        return examine_account(graph, env, region)

    return click.Command(
        "doctor",
        params=[env_option(), region_option()],
        help=f"Check what a deployment of {graph.name} needs: credentials, the bucket, quotas, the state machine, "
        "permissions. Changes nothing. Exit code 1 where a deployment would fail.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def examine_account(graph: FlowGraph, environment: str | None, region: str | None) -> int:
    """Print each check as it is made and return the exit code."""
    failed = False
    for check in examine(connect(region), graph, load_config(environment=environment)):
        click.echo(str(check))
        failed = failed or check.state == "failed"
    return FAILED if failed else DONE
