"""The commands ``invoke``, ``redrive`` and ``stop``: runs of a deployed flow, with progress as that of local ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import click

from lokki.base.item_path import format_item
from lokki.base.naming import check_run_id
from lokki.base.values import Json
from lokki.cli.account import Account, env_option, find_account, stack_options
from lokki.cli.options import (
    DONE,
    FAILED,
    INTERRUPTED,
    Called,
    output_options,
    parameter_command,
    parameter_options,
    run_id_option,
    text_of,
)
from lokki.cli.output import Output, check_writable, output_of, shown
from lokki.cli.parameters import PREFIX, check_required, given_parameters
from lokki.engine.events import Event, RunFailed, RunInterrupted
from lokki.engine.report import RunReport, fold
from lokki.errors import AwsError, LokkiError, ParameterError
from lokki.graph import FlowGraph
from lokki.local_run.runs import new_run_id
from lokki.operate.following import begin, begin_new, follow, look
from lokki.operate.watching import Watch
from lokki.plan import bind_parameters, started_by_aws

THRESHOLD = "States.ExceedToleratedFailureThreshold"
"""What a map fails with when more items failed than it tolerates.
https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html"""


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How a run is waited for."""

    wait: bool = True
    stop_on_interrupt: bool = False
    output: Output = field(default_factory=Output)
    sleep: Callable[[float], None] = time.sleep


def invoke_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that runs a deployed flow; it is called as ``<program> invoke [<flow>]``."""
    text = f"Run {graph.name} as it is deployed on AWS, and print its result."
    own = [*parameter_options(), run_id_option(), *_wait_options(), *output_options(), *stack_options()]
    return parameter_command(graph, Called(program, "invoke", flow), text, own, partial(_invoke, program, flow))


def redrive_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that lets a failed run go on where it failed."""

    def redrive(run_id: str, **values: object) -> int:
        options = _options(values)
        account = find_account(graph, program, flow, values)
        watch = begin(account.runs, run_id)
        watch, _ = look(account.runs, watch)
        account.runs.redrive(run_id)
        return wait_for(account, replace(watch, ended=""), options)

    return click.Command(
        "redrive",
        params=[click.Argument(["run_id"], metavar="RUN"), *_wait_options(), *output_options(), *stack_options()],
        help="Let a run on AWS that failed or was stopped go on from where it stopped, and print its result.",
        callback=redrive,
    )


def stop_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that stops a run."""

    def stop(run_id: str, reason: str, **values: object) -> int:
        account = find_account(graph, program, flow, values)
        account.runs.stop(run_id, reason)
        click.echo(f"stopped; go on with: {account.command('redrive', run_id)}", err=True)
        return DONE

    reason = click.Option(["--reason"], default="stopped by lokki", help="Why, for whoever looks at the run.")
    return click.Command(
        "stop",
        params=[click.Argument(["run_id"], metavar="RUN"), reason, env_option(), *stack_options()],
        help="Stop a run on AWS. What it has done is kept, and redrive goes on with it.",
        callback=stop,
    )


def _wait_options() -> list[click.Parameter]:
    return [
        click.Option(["--no-wait"], is_flag=True, help="Print the run's id, and do not wait for its end."),
        click.Option(["--stop-on-interrupt"], is_flag=True, help="Stop the run at Ctrl-C; else it goes on."),
    ]


def _options(values: Mapping[str, object]) -> WaitOptions:
    options = WaitOptions(not values["no_wait"], bool(values["stop_on_interrupt"]), output_of(values))
    if options.output.file is not None:
        check_writable(options.output.file)
    return options


def _invoke(
    program: str, flow: str, graph: FlowGraph, again: str, values: dict[str, object], by_option: list[str]
) -> int:
    run_id = text_of(values, "run_id")
    if run_id is not None:
        check_run_id(run_id)
    own = {key: value for key, value in values.items() if key.startswith(PREFIX)}
    given = given_parameters(graph.params, own, cast("tuple[str, ...]", values["pairs"]), text_of(values, "file"))
    check_required(graph.params, given, by_option)
    options = _options(values)
    account = find_account(graph, program, flow, values)
    bound = bind_parameters(graph.params, given)
    started = run_id or new_run_id()
    # Defaults are those of the flow that is deployed, which its first function adds.
    if not account.runs.start(started, {name: bound[name] for name in given}):
        _check_equal(account, started, bound)
    if not options.wait:
        click.echo(started)
        return DONE
    return wait_for(account, begin_new(account.runs, started, options.sleep), options)


def _check_equal(account: Account, run_id: str, bound: Mapping[str, Json]) -> None:
    """Raise AwsError for a run that was started with other parameters than these."""
    before = account.runs.describe(run_id).params
    try:
        params = account.graph.params
        is_equal = bind_parameters(params, started_by_aws(params, before)) == dict(bound)
    except ParameterError:
        is_equal = False
    if not is_equal:
        had = ", ".join(f"{name}={shown(value)}" for name, value in before.items()) or "none"
        raise AwsError(f"the run {run_id} was started with other parameters ({had}). Choose another --run-id.")


def wait_for(account: Account, watch: Watch, options: WaitOptions) -> int:
    """Show a run until it ends; print its result, or what failed and how to go on; return the exit code."""
    if not options.wait:
        click.echo(watch.run_id)
        return DONE
    display, seen = options.output.display(), _Seen()

    def emit(event: Event) -> None:
        seen.report = fold(seen.report, event)
        if not isinstance(event, RunFailed | RunInterrupted) or options.output.log_format == "json":
            display.show(event, seen.report)

    try:
        for now in follow(account.runs, watch, emit, options.sleep):
            watch = now
    except KeyboardInterrupt:
        display.close()
        return _interrupted(account, watch, options)
    except LokkiError:
        display.close()
        raise
    display.close()
    if watch.ended == "finished":
        return _hand_over(account, watch.run_id, options)
    return _failed(account, watch, seen.report, options)


@dataclass(slots=True)
class _Seen:
    report: RunReport = RunReport()  # noqa: RUF009 - it is frozen


def _interrupted(account: Account, watch: Watch, options: WaitOptions) -> int:
    run_id = watch.run_id
    if options.stop_on_interrupt:
        account.runs.stop(run_id, "interrupted by Ctrl-C")
        go_on = account.command("redrive", run_id)
        options.output.say(f"stopped; go on with: {go_on}", event="stopped", run_id=run_id)
    else:
        come_back = account.command("show", run_id)
        options.output.say(f"the run goes on; see it by: {come_back}", event="detached", run_id=run_id)
    return INTERRUPTED


def _failed(account: Account, watch: Watch, report: RunReport, options: WaitOptions) -> int:
    failure = report.failure
    trace = ""
    if failure is not None:
        trace = failure.full_traceback if options.output.traceback else failure.traceback
    if watch.ended == "interrupted":
        info = account.runs.describe(watch.run_id)
        text = f"the run {watch.run_id} was stopped{f': {info.error}' if info.error else '.'}"
    else:
        text = _why(report)
    go_on = account.command("redrive", watch.run_id)
    options.output.say(f"{trace}error: {text}\ngo on with: {go_on}", event="error", message=text, resume=go_on)
    return FAILED


def _why(report: RunReport) -> str:
    """Say why a run failed: by the failure of the user's step where that ended it, else as Step Functions has it."""
    failure = report.failure
    if failure is None or not (failure.error in report.message or THRESHOLD in report.message):
        return report.message
    return str(failure) if not report.failed_item else f"item {format_item(report.failed_item)} failed: {failure}"


def _hand_over(account: Account, run_id: str, options: WaitOptions) -> int:
    run = account.results.run(run_id)
    # Not result(): the run's history has its end, of which its description may tell a moment later.
    kept = f'lokki.remote("{account.deployed.flow}").run("{run_id}").result()'
    return options.output.hand_over(run.kept.output(run.steps[-1]), kept)
