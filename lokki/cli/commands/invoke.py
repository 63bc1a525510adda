"""The commands ``invoke``, ``redrive`` and ``stop`` work on runs of a deployed flow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import click

from lokki.base.values import Json
from lokki.cli.account import Account, find_account
from lokki.cli.last_words import LastWords, NextCommands, OutputOptions, StandardStreams
from lokki.cli.options import (
    DONE,
    INTERRUPTED,
    RunRequest,
    env_option,
    output_options,
    pair_options,
    parameter_command,
    read_options,
    run_id_option,
    stack_options,
)
from lokki.cli.output import check_writable, result_text
from lokki.cli.program import CommandLine
from lokki.engine.causes import RunTranslator
from lokki.engine.events import Event, RunFailed, RunInterrupted
from lokki.engine.report import RunReport
from lokki.errors import AwsError, ParameterError
from lokki.graph import FlowGraph
from lokki.loading import file_of, package_locator
from lokki.local_run.runs import new_run_id
from lokki.operate.following import begin, begin_new, follow, look
from lokki.operate.watching import Watch
from lokki.plan import bind_parameters, lower, started_by_aws
from lokki.progress.displays import Display


@dataclass(frozen=True, slots=True)
class InvokeOptions:
    """What the command line says of waiting for a run."""

    run_id: str | None = None
    no_wait: bool = False
    stop_on_interrupt: bool = False


def invoke_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that runs a deployed flow.

    It is called as ``<program> invoke [<flow>]``.
    """
    text = f"Run {graph.name} as it is deployed on AWS, and print its result."
    own = [*pair_options(), run_id_option(), *_wait_options(), *output_options(), *stack_options()]
    return parameter_command(graph, CommandLine(program, "invoke", flow), text, own, _invoke)


def redrive_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that resumes a failed run on AWS."""

    def redrive(**values: object) -> int:
        options, output = _options(values)
        run_id = options.run_id or ""
        account = find_account(graph, program, flow, values)
        watch = begin(account.runs, run_id)
        watch, _ = look(account.runs, watch)
        account.runs.redrive(run_id)
        return wait_for(account, replace(watch, outcome=""), options, output)

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
        click.echo(f"stopped; resume with: {account.command('redrive', run_id)}", err=True)
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


def _options(values: Mapping[str, object]) -> tuple[InvokeOptions, OutputOptions]:
    options, output = read_options(values, InvokeOptions), read_options(values, OutputOptions)
    if output.output is not None:
        check_writable(output.output)
    return options, output


def _invoke(request: RunRequest) -> int:
    options, output = _options(request.values)
    graph, call = request.graph, request.call
    account = find_account(graph, call.program, call.flow, request.values)
    params = bind_parameters(graph.params, request.params)
    run_id = options.run_id or new_run_id()
    # Defaults are those of the flow that is deployed, which its first function adds.
    if not account.runs.start(run_id, {name: params[name] for name in request.params}):
        check_same_parameters(account, run_id, params)
    if options.no_wait:
        click.echo(run_id)
        return DONE
    return wait_for(account, begin_new(account.runs, run_id, time.sleep), options, output)


def check_same_parameters(account: Account, run_id: str, params: Mapping[str, Json]) -> None:
    """Raise AwsError for a run that was started with other parameters."""
    previous = account.runs.describe(run_id).params
    try:
        is_equal = bind_parameters(account.graph.params, started_by_aws(account.graph.params, previous)) == dict(params)
    except ParameterError:
        is_equal = False
    if not is_equal:
        had = ", ".join(f"{name}={result_text(value)}" for name, value in previous.items()) or "none"
        raise AwsError(f"the run {run_id} was started with other parameters ({had}). Choose another --run-id.")


def wait_for(
    account: Account,
    watch: Watch,
    options: InvokeOptions,
    output: OutputOptions,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show a run until it ends, say how it did and return the exit code."""
    run_id = watch.run_id
    if options.no_wait:
        click.echo(run_id)
        return DONE
    streams = StandardStreams()
    retrieve = f'read it with lokki.remote("{account.deployed.flow}").run("{run_id}").result()'
    resume = account.command("redrive", run_id)
    # A run that is redriven keeps the version that it was started with.
    words = LastWords(output, streams, NextCommands(lambda: resume, lambda: retrieve, runs_new_code=False))
    listener = _Listener(account.graph, output.display(streams.terminal), is_json=output.log_format == "json")
    try:
        with closing(listener.display):
            for state in follow(account.runs, watch, listener, sleep):
                watch = state
    except KeyboardInterrupt:
        return _interrupted(account, run_id, options, words, resume)
    if watch.outcome == "finished":
        run = account.results.run(run_id)
        # Not result(): the run's history has its end, of which its description may tell a moment later.
        return words.finished(run.kept.result())
    return words.failed(_why(account, watch, listener.report), listener.report)


class _Listener:
    """Shows the events of a run in the words of a local one."""

    def __init__(self, graph: FlowGraph, display: Display, *, is_json: bool) -> None:
        self.display = display
        self._is_json = is_json
        self._translator = RunTranslator(lower(graph), package_locator(file_of(graph)))

    @property
    def report(self) -> RunReport:
        """The report of the events so far."""
        return self._translator.report

    def __call__(self, event: Event) -> None:
        """Take an event."""
        event = self._translator.translate(event)
        # How the run ended is said by the last words, but in JSON also by the event.
        if self._is_json or not isinstance(event, RunFailed | RunInterrupted):
            self.display.show(event, self.report)


def _interrupted(account: Account, run_id: str, options: InvokeOptions, words: LastWords, resume: str) -> int:
    """Stop the run if that is what Ctrl-C is to do, else leave it in progress."""
    if options.stop_on_interrupt:
        account.runs.stop(run_id, "interrupted by Ctrl-C")
        words.say(f"stopped; resume with: {resume}", "stopped", run_id=run_id, resume=resume)
    else:
        words.say(f"the run is in progress; see it by: {account.command('show', run_id)}", "detached", run_id=run_id)
    return INTERRUPTED


def _why(account: Account, watch: Watch, report: RunReport) -> str:
    if watch.outcome != "interrupted":
        return report.message
    info = account.runs.describe(watch.run_id)
    return f"the run {watch.run_id} was stopped{f': {info.error}' if info.error else '.'}"
