"""The command ``bootstrap`` makes a bucket that flows without one of their own use."""

from __future__ import annotations

import click

from lokki.cli.commands.deploy import agrees, yes_option
from lokki.cli.options import DONE, EPILOG, FAILED, SETTINGS, region_option
from lokki.deploy.aws import connect
from lokki.deploy.own_bucket import find_own_bucket, make_bucket


def bootstrap_command() -> click.Command:
    """Make the command."""
    return click.Command(
        "bootstrap",
        params=[region_option(), yes_option()],
        help="Make a bucket for code and results in your account: private, TLS only. Flows whose lokki.yml names no "
        "artifact_bucket use it. Doing it again changes nothing. Prints its name.",
        short_help="Make a bucket on AWS that flows use by themselves.",
        callback=bootstrap_account,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def bootstrap_account(region: str | None, yes: bool) -> int:
    """Make the bucket and return the exit code."""
    aws = connect(region)
    bucket = find_own_bucket(aws)
    what = "is there; its settings are made anew" if bucket.exists else "is made"
    click.echo(f"account {bucket.account}, {bucket.region}: the bucket {bucket.name} {what}", err=True)
    if not bucket.exists and not agrees("Make it?", yes=yes):
        return FAILED
    make_bucket(aws, bucket, lambda line: click.echo(line, err=True))
    click.echo(bucket.name)
    return DONE
