"""The command ``backfill`` starts the runs of past periods, here or on AWS, and goes on where it was ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Protocol, Self

import click
import msgspec

from lokki.base.convert import parameter_json
from lokki.base.values import Json
from lokki.cli.options import (
    DONE,
    EPILOG,
    FAILED,
    INTERRUPTED,
    SETTINGS,
    env_option,
    pair_options,
    parameter_options,
    parameter_values,
    read_options,
    stack_options,
)
from lokki.cli.parameters import read_parameters
from lokki.cli.periods import (
    EVERY,
    BackfillOutcome,
    Engine,
    PeriodRun,
    RunState,
    carry_out,
    last_whole_period,
    now_in_utc,
    period_parameter,
    period_runs,
    period_starts,
)
from lokki.cli.program import CommandLine
from lokki.errors import LokkiError, ParameterError, RunFolderError
from lokki.graph import FlowGraph
from lokki.loading import file_of
from lokki.local_run.interrupts import interruptible
from lokki.local_run.runs import Runs
from lokki.plan import bind_parameters

if TYPE_CHECKING:  # start-up: see _engine
    from lokki.operate.executions import DeployedRuns

_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_STATES = {"finished": RunState.FINISHED, "running": RunState.RUNNING}
_DEPLOYED_STATES = {
    "succeeded": RunState.FINISHED,
    "running": RunState.RUNNING,
    "pending_redrive": RunState.RUNNING,
}


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """What the command line says, beside parameters and the stack."""

    since: datetime
    until: datetime | None = None
    every: str = "day"
    into: str | None = None
    at_once: int = 1
    remote: bool = False
    dry_run: bool = False
    env: str | None = None
    executor: str | None = None
    pairs: tuple[str, ...] = ()
    file: str | None = None


def backfill_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that starts the runs of past periods."""
    own = _own_options()
    options = parameter_options(graph, own)

    @click.pass_context
    def callback(ctx: click.Context, /, **values: object) -> int:
        try:
            return _backfill(graph, CommandLine(program, "backfill", flow), values)
        except ParameterError as error:
            raise click.UsageError(str(error), ctx) from error

    return click.Command(
        "backfill",
        params=[*options.values(), *own],
        help=f"Start the runs of {graph.name} for past periods that have not finished. The same command goes on after "
        "an interruption, and resumes what failed.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def _own_options() -> list[click.Parameter]:
    return [
        click.Option(["--since"], type=_MOMENT, required=True, help="When the first period begins."),
        click.Option(["--until"], type=_MOMENT, help="When the last one begins; default: the last that is over (UTC)."),
        click.Option(["--every"], type=click.Choice(EVERY), default="day", help="How long a period is; default: day."),
        click.Option(["--into"], metavar="NAME", help="The parameter to fill; default: the only date or datetime."),
        click.Option(
            ["--at-once"], type=click.IntRange(1, 100), default=1, help="How many runs at one time (default: 1)."
        ),
        click.Option(["--remote"], is_flag=True, help="Start runs of the deployed flow on AWS."),
        click.Option(["--dry-run"], is_flag=True, help="Show what each run would be, and start none."),
        click.Option(
            ["--executor"],
            type=click.Choice(["threads", "processes", "inline"]),
            help="Where the items of maps run, on this machine.",
        ),
        *pair_options(),
        env_option(),
        *stack_options(),
    ]


def _backfill(graph: FlowGraph, call: CommandLine, values: Mapping[str, object]) -> int:
    options = read_options(values, BackfillOptions)
    runs = _runs(graph, options, values)
    if not runs:
        raise ParameterError("no period is over since then: give an earlier --since, or --until.")
    with _engine(graph, call, options, values) as engine:
        if options.dry_run:
            for run in runs:
                click.echo(f"{run.run_id}  {engine.state(run.run_id)}", err=True)
            return DONE
        try:
            with interruptible():
                tell = lambda run, words: click.echo(f"{run.run_id} {words}", err=True)  # noqa: E731
                outcome = carry_out(runs, engine, options.at_once, tell, partial(time.sleep, engine.interval))
        except KeyboardInterrupt:
            engine.interrupt()
            click.echo("interrupted; the same command goes on", err=True)
            return INTERRUPTED
    return _ended(outcome)


def _ended(outcome: BackfillOutcome) -> int:
    counts = (("finished", outcome.finished), ("done before", outcome.skipped), ("failed", outcome.failed))
    click.echo(", ".join(f"{len(listed)} {word}" for word, listed in counts if listed), err=True)
    if outcome.failed:
        click.echo("the same command resumes what failed", err=True)
    return FAILED if outcome.failed else DONE


def _runs(graph: FlowGraph, options: BackfillOptions, values: Mapping[str, object]) -> list[PeriodRun]:
    """Return all runs of the backfill.

    Raises ParameterError for parameters that do not fit.
    """
    param, is_date = period_parameter(graph.params, options.into)
    set_values = read_parameters(graph.params, parameter_values(values), options.pairs, options.file)
    if param.name in set_values:
        raise ParameterError(f"{param.name!r} is what the backfill fills: leave it out, or choose another by --into.")
    if is_date and options.every == "hour":
        raise ParameterError(f"{param.name!r} is a date, which has no hours: give --every day.")
    by_name = {entry.name: entry for entry in graph.params}
    others: dict[str, Json] = {
        name: parameter_json(value, by_name[name].annotation) for name, value in set_values.items()
    }
    until = options.until or last_whole_period(options.since, now_in_utc(), options.every)
    starts = [*period_starts(options.since, until, options.every)]
    runs = period_runs(graph.name, param, starts, others, is_date=is_date)
    if runs:
        bind_parameters(graph.params, runs[0].params)  # so that a missing one is told before anything is started
    return runs


class _ClosingEngine(Engine, Protocol):
    interval: float

    def interrupt(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


def _engine(
    graph: FlowGraph, call: CommandLine, options: BackfillOptions, values: Mapping[str, object]
) -> _ClosingEngine:
    if not options.remote:
        return _LocalEngine(graph, options)
    # Imported here so that a backfill of this machine needs no boto3.
    from lokki.cli.account import find_account

    return _DeployedEngine(find_account(graph, call.program, call.flow, values).runs)


class _LocalEngine:
    """Runs on this machine, each in a process of its own.

    The command ``run`` does them. A process that is left when this one is killed ends its run, and the next backfill
    waits for it.
    """

    interval = 0.05

    def __init__(self, graph: FlowGraph, options: BackfillOptions) -> None:
        file = file_of(graph)
        if file is None:
            raise LokkiError("a backfill runs the flow's file, and this flow is in none: write it to a file.")
        target = f"{file}:{getattr(graph.origin, '__name__', graph.name)}"
        self._command = [sys.executable, "-m", "lokki", "run", target]
        self._options = ["--quiet"]
        if options.env is not None:
            self._options += ["--env", options.env]
        if options.executor is not None:
            self._options += ["--executor", options.executor]
        self._runs = Runs(Path(".lokki"))
        self._processes: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for process, output in self._processes.values():
            process.wait()
            output.close()

    def state(self, run_id: str) -> RunState:
        """Return what is known of a run."""
        process, _ = self._processes.get(run_id, (None, None))
        if process is not None and process.poll() is None:
            return RunState.RUNNING
        try:
            return _STATES.get(self._runs.load(run_id).status, RunState.FAILED)
        except RunFolderError:
            return RunState.FAILED if (self._runs.folder / run_id).exists() else RunState.ABSENT

    def begin(self, run: PeriodRun, *, again: bool) -> None:
        """Start a run, or resume it."""
        which = ["--resume", run.run_id] if again else ["--run-id", run.run_id]
        params = [] if again else ["--params", "/dev/stdin"]
        output = TemporaryFile()  # noqa: SIM115 - closed with the engine
        # In a group of its own, so that Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            [*self._command, *which, *params, *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            process_group=0,
        )
        self._processes[run.run_id] = process, output
        # Not on the command line: parameters may be long, or for nobody else's eyes.
        with suppress(BrokenPipeError), process.stdin or nullcontext() as stdin:
            if stdin is not None:
                stdin.write(msgspec.json.encode(dict(run.params)))

    def problem(self, run_id: str) -> str:
        """Return the error that a run ended with."""
        _, output = self._processes[run_id]
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or [line for line in lines if line.strip()] or ["its process died"])[-1]

    def interrupt(self) -> None:
        """Interrupt what is running, so that it can be resumed."""
        for process, _ in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


class _DeployedEngine:
    """Runs of a deployed flow, which go on whatever becomes of this process."""

    interval = 5.0

    def __init__(self, runs: DeployedRuns) -> None:
        self._runs = runs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the runs in progress."""

    def state(self, run_id: str) -> RunState:
        """Return what is known of a run."""
        try:
            status = self._runs.describe(run_id).status
        except RunFolderError:
            return RunState.ABSENT
        return _DEPLOYED_STATES.get(status, RunState.FAILED)

    def begin(self, run: PeriodRun, *, again: bool) -> None:
        """Start a run, or redrive it."""
        if again:
            self._runs.redrive(run.run_id)
        else:
            self._runs.start(run.run_id, run.params)

    def problem(self, run_id: str) -> str:
        """Return the error that a run ended with."""
        return self._runs.describe(run_id).error or "it was stopped"

    def interrupt(self) -> None:
        """Leave the runs in progress."""
