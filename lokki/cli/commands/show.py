"""The command ``show`` lists the runs of a deployed flow, or shows all of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from lokki.base.item_path import item_name
from lokki.base.variables import is_traced
from lokki.builder.states import Machine
from lokki.cli.account import Account, find_account
from lokki.cli.commands.invoke import send_trace_of
from lokki.cli.options import DONE, FAILED, env_option, read_options, stack_options
from lokki.cli.output import check_writable, write_file
from lokki.cli.program import CommandLine
from lokki.cli.text import align_columns, from_here
from lokki.deploy.cleaning import describe_stored
from lokki.engine.events import Event, ItemFailed, ItemsFailed
from lokki.errors import AwsError
from lokki.graph import FlowGraph
from lokki.loading import file_of, package_locator
from lokki.observing.report import OpReport, RunReport, failure_in
from lokki.observing.translating import RunTranslator
from lokki.operate.following import begin, look
from lokki.operate.machine import console_link
from lokki.plan import lower
from lokki.progress.displays import seconds
from lokki.results.items import RunInfo, short
from lokki.store.keys import Keys


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """What the command line says of what to show."""

    run_id: str | None = None
    limit: int = 20
    failed: int = 10
    html: Path | None = None
    against: str | None = None
    cost: bool = False
    trace: bool = False
    stored: bool = False


def show_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that shows runs on AWS."""

    def show(**values: object) -> int:
        options = read_options(values, ShowOptions)
        _check_options(options)
        return _show(find_account(graph, program, flow, values), options)

    return click.Command(
        "show",
        params=[
            click.Argument(["run_id"], metavar="[RUN]", required=False),
            click.Option(["--limit"], type=click.IntRange(min=1), default=20, help="How many runs. Default: 20."),
            click.Option(["--failed"], type=click.IntRange(min=0), default=10, help="How many failed items; 10."),
            click.Option(
                ["--html"],
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                help="Write all of one run into an HTML file instead: drawing, timeline, failures, logs.",
            ),
            click.Option(["--against"], metavar="RUN", help="Compare the run with this one, in the HTML file."),
            click.Option(["--cost"], is_flag=True, help="Say what the run did cost; reads all its logs."),
            click.Option(["--trace"], is_flag=True, help="Send the trace of one run to OTEL_EXPORTER_OTLP_ENDPOINT."),
            click.Option(["--stored"], is_flag=True, help="Say how much all runs have in the bucket, too."),
            env_option(),
            *stack_options(),
        ],
        help="Show the latest runs on AWS; or one: its states, its maps, what failed, and where its data is.",
        callback=show,
    )


def _check_options(options: ShowOptions) -> None:
    if options.run_id is None and options.cost:
        raise click.UsageError("--cost is for one run: show RUN --cost")
    if options.run_id is None and options.html is not None:
        raise click.UsageError("--html is for one run: show RUN --html FILE")
    if options.against is not None and options.html is None:
        raise click.UsageError("--against is for a report: show RUN --html FILE --against RUN")
    if options.trace and (options.run_id is None or not is_traced(os.environ)):
        raise click.UsageError("--trace is for one run, and needs OTEL_EXPORTER_OTLP_ENDPOINT: show RUN --trace")


def _show(account: Account, options: ShowOptions) -> int:
    run_id = options.run_id
    if run_id is None:
        lines = runs_table(account, options.limit)
        click.echo("\n".join([*lines, *([_stored_line(account, None)] if options.stored else [])]))
    elif options.html is not None:
        write_deployed_report(account, run_id, options.html, options.against, cost=options.cost)
        click.echo(f"report written to {from_here(str(options.html))}")
    elif options.trace:
        return _send_trace(account, run_id)
    else:
        lines = describe_run(account, run_id, options.failed, cost=options.cost)
        click.echo("\n".join([*lines, _stored_line(account, run_id)]))
    return DONE


def _send_trace(account: Account, run_id: str) -> int:
    from lokki.engine.otlp import trace_id  # only here: few runs are traced

    if problem := send_trace_of(account, run_id):
        click.echo(problem, err=True)
        return FAILED
    click.echo(f"sent the trace {trace_id(run_id)}")
    return DONE


def _stored_line(account: Account, run_id: str | None) -> str:
    """Say how much a run, or all runs, have in the bucket, and where."""
    deployed = account.deployed
    prefix = deployed.prefix if run_id is None else f"{deployed.prefix}{run_id}/"
    place = f" in s3://{deployed.bucket}/{prefix}" if run_id is None else ""
    try:
        amount = describe_stored(account.aws, deployed.bucket, prefix)
    except AwsError as error:  # who looks at runs need not be allowed to list the bucket
        amount = str(error)
    return f"stored{place}: {amount}"


def write_deployed_report(
    account: Account, run_id: str, file: Path, against: str | None, *, cost: bool = False
) -> None:
    """Write the report of a run on AWS.

    ``cost``: with what it did cost. Raises RunError for a file that cannot be written.
    """
    # Imported here so that the other commands start without the template engine.
    from lokki.cli.reporting import replay_commands
    from lokki.reports.deployed import deployed_subject
    from lokki.reports.writing import write_page

    check_writable(file, "--html")
    plan, locate = lower(account.graph), package_locator(file_of(account.graph))
    subject = deployed_subject(account.runs, account.results, run_id, plan, locate)
    other = None if against is None else deployed_subject(account.runs, account.results, against, plan, locate)
    call = str(CommandLine(account.program, "replay", account.flow))
    replay = replay_commands(call, run_id, f" --deployed{account.where}")
    is_bad = subject.run.status in ("failed", "timed_out", "aborted")
    commands = {"fix it, deploy, and go on with": account.command("redrive", run_id, "--latest")} if is_bad else {}
    bill = None
    if cost:
        # Imported here as the template engine is.
        from lokki.cli.spending import bill_of_run

        bill = bill_of_run(account, run_id, subject.facts.report)
    text = write_page(subject, replay, other=other, commands=commands, bill=bill)
    write_file(file, from_here(text).encode(errors="replace"), "--html")


def runs_table(account: Account, limit: int) -> list[str]:
    """Return the runs that were started last as a table."""
    runs = account.runs.recent(limit)
    if not runs:
        return [f"no runs of {account.deployed.flow} yet; start one: {account.command('invoke').strip()}"]
    rows: list[tuple[str, ...]] = [("RUN", "STATUS", "STARTED", "TIME", "ITEMS", "FAILED")]
    return align_columns([*rows, *(_row(account, info) for info in runs)])


def _row(account: Account, info: RunInfo) -> tuple[str, ...]:
    counts = [run["itemCounts"] for run in account.runs.map_runs(info.id)]
    total = sum(count["total"] for count in counts)
    failed = sum(count["failed"] + count["timedOut"] for count in counts)
    items = (f"{total:,}", f"{failed:,}") if counts else ("", "")
    took = "" if info.seconds is None else seconds(info.seconds)
    return info.id, info.status, f"{info.started.astimezone():%Y-%m-%d %H:%M:%S}", took, *items


def describe_run(account: Account, run_id: str, failed: int, *, cost: bool = False) -> list[str]:
    """Return all that is known of a run, as lines.

    ``cost``: with what it did cost, for which its logs are read.
    """
    info = account.runs.describe(run_id)
    watch, events = look(account.runs, replace(begin(account.runs, run_id), most=max(failed, 1)))
    translator = RunTranslator(lower(account.graph), package_locator(file_of(account.graph)))
    events = [translator.translate(event) for event in events]
    report = translator.report
    took = f" in {seconds(info.seconds)}" if info.seconds is not None else ""
    params = ", ".join(f"{name}={short(value)}" for name, value in info.params.items()) or "none"
    lines = [
        f"{account.deployed.flow}: run {run_id} {info.status}{took}",
        f"started: {info.started.astimezone():%Y-%m-%d %H:%M:%S}",
        f"parameters: {params}",
        "",
        *align_columns([("STATE", "STATUS", "TIME", "ITEMS", "FAILED"), *_states(watch.machine, report)]),
    ]
    lines += _failed_items(events, failed)
    if cost:
        # Imported here so that the other commands start without what estimates.
        from lokki.cli.spending import bill_lines, bill_of_run

        lines += ["", *bill_lines(bill_of_run(account, run_id, report))]
    if info.error:
        message = report.message or info.error
        failure = failure_in(report, message)
        lines += ["", f"{failure.traceback if failure is not None else ''}error: {from_here(message)}"]
    data = f"s3://{account.deployed.bucket}/{Keys(account.deployed.prefix + run_id).prefix}/"
    return [*lines, "", f"data: {data}", f"console: {console_link(account.runs.arn(run_id))}"]


def _states(machine: Machine, report: RunReport) -> Iterable[tuple[str, ...]]:
    for state in machine.order:
        inside = machine.maps.get(state)
        op = report.ops.get(inside.id if inside else machine.calls[state])
        title = f"map over {inside.source}: {' → '.join(inside.inner)}" if inside else machine.calls[state]
        # What a finished run never came to stands in a case that was not chosen.
        missing = "skipped" if report.status == "finished" else "waiting"
        yield title, *(_state(op) if op is not None else (missing, "", "", ""))


def _state(op: OpReport) -> tuple[str, ...]:
    took = seconds(op.seconds) if op.status == "finished" else ""
    if op.is_map:
        return op.status, took, f"{op.finished:,}/{op.items or 0:,}", f"{op.failed:,}"
    return op.status, took, "" if op.items is None else f"{op.items:,}", ""


def _failed_items(events: Iterable[Event], most: int) -> list[str]:
    failed = [event for event in events if isinstance(event, ItemFailed)]
    others = sum(event.count for event in events if isinstance(event, ItemsFailed))
    if not failed or not most:
        return []
    lines = []
    for event in failed[:most]:
        failure = event.failure
        place = f" at {from_here(failure.where)}" if failure.where else ""
        lines.append(f"  {item_name(failure.step, event.item)}: {failure.summary}{place}")
    left = len(failed) - len(lines) + others
    more = [f"  ({left} more: --failed {len(lines) + left})"] if left else []
    return ["", "failed items:", *lines, *more]
