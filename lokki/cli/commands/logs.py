"""The command ``logs`` shows what the functions of a deployed flow printed in a run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from lokki.base.item_path import ItemPath, item_name
from lokki.builder.names import function_id
from lokki.cli.account import Account, find_account
from lokki.cli.options import DONE, env_option, item_option, stack_options
from lokki.errors import RunFolderError
from lokki.graph import FlowGraph
from lokki.operate.logs import LogWindow, follow_lines, run_lines
from lokki.plan import lower
from lokki.results.items import LogLine

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that shows the logs of a run on AWS."""

    def logs(run_id: str | None, step: str | None, item: ItemPath, since: int, follow: bool, **values: object) -> int:
        account = find_account(graph, program, flow, values)
        groups = _groups(account, step)
        for line in _lines(account, run_id or _latest(account), groups, since, follow=follow):
            if (step is None or line.step == step) and (not item or line.item == item):
                click.echo(f"{line.time} {item_name(line.step, line.item)} | {line.text}")
        return DONE

    return click.Command(
        "logs",
        params=[
            click.Argument(["run_id"], metavar="[RUN]", required=False),
            click.Option(["--step"], metavar="NAME", help="Only lines of this step."),
            item_option("Only lines of this item of a map, from 0."),
            click.Option(["--since"], callback=_since, metavar="10m|TIME", help="Only lines since then."),
            click.Option(["--follow"], is_flag=True, help="Show what comes until the run has ended."),
            env_option(),
            *stack_options(),
        ],
        help="Show what a run on AWS printed and logged, all its functions in order of time; default: the latest run.",
        callback=logs,
    )


def since_milliseconds(text: str, now: datetime) -> int:
    """Return a time in milliseconds since 1970.

    ``text``: how long ago, or a time in ISO 8601, of this machine's zone if it names none.

    >>> since_milliseconds("10m", datetime(1970, 1, 1, 1, tzinfo=UTC)), since_milliseconds("1970-01-01T00:01:00Z", None)
    (3000000, 60000)

    Raises ValueError for anything else.
    """
    duration = re.fullmatch(r"(\d+)([smhd])", text)
    moment = (
        now - timedelta(seconds=int(duration[1]) * _UNITS[duration[2]])
        if duration is not None
        else datetime.fromisoformat(text).astimezone()
    )
    return int(moment.timestamp() * 1000)


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    if value is None:
        return 0
    try:
        return since_milliseconds(value, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r}: give 30s, 10m, 2h, 1d or a time such as 2026-01-31T12:00.") from None


def _latest(account: Account) -> str:
    runs = account.runs.recent(1)
    if not runs:
        raise RunFolderError(f"there is no run of {account.deployed.flow}. Start one first: invoke")
    return runs[0].id


def _groups(account: Account, step: str | None) -> list[str]:
    """Return the log groups of one step, or of all."""
    groups = account.deployed.log_groups
    if step is None:
        return sorted(set(groups.values()))
    calls = {call.id: call.step for call in lower(account.graph).calls}
    if step not in calls:
        raise click.UsageError(f"{account.graph.name} has no step {step!r}; it has {', '.join(calls)}.")
    group = groups.get(function_id(calls[step]))
    return [group] if group is not None else sorted(set(groups.values()))


def _lines(account: Account, run_id: str, groups: list[str], since: int, *, follow: bool) -> Iterator[LogLine]:
    runs = account.runs
    execution = runs.execution(run_id)
    window = LogWindow.of(execution["startDate"], execution.get("stopDate"))
    if not follow:
        return run_lines(runs.cloudwatch, groups, run_id, window, since)

    def has_ended() -> bool:
        return runs.execution(run_id).get("stopDate") is not None

    return follow_lines(runs.cloudwatch, groups, run_id, window, has_ended, time.sleep, since)
