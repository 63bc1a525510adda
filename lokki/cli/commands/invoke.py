"""The commands ``invoke``, ``redrive`` and ``stop`` work on runs of a deployed flow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import click

from lokki.base.values import Json
from lokki.base.variables import is_traced
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
from lokki.engine.events import Event, RunFailed, RunInterrupted
from lokki.errors import AwsError, LokkiError, ParameterError
from lokki.graph import FlowGraph
from lokki.loading import file_of, package_locator
from lokki.local_run.runs import RunRecord, Runs, new_run_id
from lokki.observing.report import RunReport
from lokki.observing.translating import RunTranslator
from lokki.operate.following import begin, begin_new, follow, look
from lokki.operate.watching import Watch
from lokki.plan import bind_parameters, lower, started_by_aws
from lokki.progress.displays import Display
from lokki.store.keys import LATEST_SUFFIX, Keys


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

    def redrive(*, latest: bool, **values: object) -> int:
        options, output = _options(values)
        run_id = options.run_id or ""
        if latest and (record := _record_here(run_id)) is not None:
            return _resume_here(graph, CommandLine(program, "redrive", flow), record, values)
        account = find_account(graph, program, flow, values)
        if latest:
            return go_on(account, run_id, options, output)
        watch = begin(account.runs, run_id)
        watch, earlier = look(account.runs, watch)
        account.runs.redrive(run_id)
        return wait_for(account, replace(watch, outcome=""), options, output, earlier=earlier)

    return click.Command(
        "redrive",
        params=[
            click.Argument(["run_id"], metavar="RUN"),
            click.Option(
                ["--latest"],
                is_flag=True,
                help="With the newest deployment, as a new run that takes over what succeeded. Goes on with runs on "
                "this machine, too, with today's code.",
            ),
            *_wait_options(),
            *output_options(),
            *stack_options(),
        ],
        help="Let a run on AWS that failed or was stopped go on from where it stopped, and print its result.",
        callback=redrive,
    )


def go_on(account: Account, run_id: str, options: InvokeOptions, output: OutputOptions) -> int:
    """Start a run that takes over what an earlier one did."""
    # Only here: no other command compares deployments.
    from lokki.deploy.live import live_definition
    from lokki.operate.latest import earlier_run, plan_takeover
    from lokki.store.takeover import write_takeover

    runs, store = account.runs, account.runs.store
    definition = live_definition(account.aws, account.deployed.state_machine)
    earlier = earlier_run(runs, run_id)
    new_id = f"{new_run_id()}{LATEST_SUFFIX}"
    keys = Keys(f"{account.deployed.prefix}{new_id}")
    takeover, lines = plan_takeover(earlier, lower(account.graph), definition, store, keys)
    write_takeover(store, keys, takeover)
    runs.start(new_id, earlier.params)
    if not output.quiet:
        words = LastWords(output, StandardStreams(), NextCommands(str, str))
        text = "\n".join((f"the run {new_id} goes on from {run_id}:", *(f"  {line}" for line in lines)))
        words.say(text, "goes_on", run_id=new_id, earlier=run_id, steps="; ".join(lines))
    return wait_for(account, begin_new(runs, new_id, time.sleep), options, output)


def _resume_here(graph: FlowGraph, call: CommandLine, record: RunRecord, values: Mapping[str, object]) -> int:
    """Resume a run on this machine by the command that started it."""
    # Only here: what runs flows here takes as long to import as all else.
    from lokki.cli.commands.emulate import emulate_command
    from lokki.cli.commands.run import run_command

    make = run_command if record.flow == graph.name else emulate_command
    words = ["--resume", record.run_id]
    for name in ("env", "output", "log_format"):
        words += [f"--{name.replace('_', '-')}", str(values[name])] if values[name] is not None else []
    words += [f"--{name}" for name in ("quiet", "traceback") if values[name]]
    return int(make(graph, call.program, call.flow).main(words, call.program, standalone_mode=False) or DONE)


def _record_here(run_id: str) -> RunRecord | None:
    runs = Runs(Path(".lokki"))
    return runs.load(run_id) if (runs.folder / run_id).is_dir() else None


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
    *,
    earlier: Iterable[Event] = (),
) -> int:
    """Show a run until it ends, say how it did and return the exit code.

    ``earlier``: what happened before it was redriven, which is not shown again.
    """
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
    for event in earlier:
        listener.learn(event)
    try:
        with closing(listener.display):
            for state in follow(account.runs, watch, listener, sleep):
                watch = state
    except KeyboardInterrupt:
        return _interrupted(account, run_id, options, words, resume)
    if watch.outcome and is_traced(os.environ) and (problem := send_trace_of(account, run_id)):
        words.say(problem, "warning", message=problem)
    if watch.outcome == "finished":
        run = account.results.run(run_id)
        # Not result(): the run's history has its end, of which its description may tell a moment later.
        return words.finished(run.kept.result())
    return words.failed(_why(account, watch, listener.report), listener.report)


def send_trace_of(account: Account, run_id: str) -> str:
    """Send the trace of a run, and return a warning, or nothing."""
    from lokki.operate.tracing import send_trace  # only here: few runs are traced

    locate = package_locator(file_of(account.graph))
    try:
        return send_trace(account.runs, run_id, lower(account.graph), locate, os.environ)
    except LokkiError as error:  # the run has ended, and its result is what counts
        return f"warning: the run's trace was not sent: {error}"


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

    def learn(self, event: Event) -> Event:
        """Return an event in the words of a local run, without showing it."""
        return self._translator.translate(event)

    def __call__(self, event: Event) -> None:
        """Take an event."""
        event = self.learn(event)
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
