"""The command ``run``: a flow on this machine, with progress on stderr and nothing but the result on stdout."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO, cast

import click

from lokki.base.naming import check_run_id
from lokki.cli.ending import leave_at_once, owns_process
from lokki.cli.options import (
    DONE,
    FAILED,
    INTERRUPTED,
    Called,
    from_here,
    output_options,
    parameter_command,
    parameter_options,
    resume_option,
    run_id_option,
    text_of,
)
from lokki.cli.output import check_writable, shown, write_result
from lokki.cli.parameters import PREFIX, check_required, given_parameters
from lokki.config import load_config
from lokki.engine.report import RunReport
from lokki.errors import LokkiError, ParameterError, RunError, RunFolderError
from lokki.graph import FlowGraph
from lokki.local_run.interrupts import acknowledge_interrupt, given_up_by, interruptible, raise_interrupt
from lokki.local_run.levels import LogLevels
from lokki.local_run.output import capture_streams
from lokki.local_run.streams import BorrowedStreams, RedirectedStreams
from lokki.progress.displays import LINES_PER_MAP, Display, JsonLines, LiveBars, Nothing, PlainLines, Words
from lokki.progress.run_log import Recorder
from lokki.runner import Executor, LocalRunner, Resume


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says of a run, beside the flow's parameters; ``again``: how to call it again."""

    executor: Executor = "threads"
    workers: int | None = None
    run_id: str | None = None
    resume: Resume | None = None
    environment: str | None = None
    log_format: str = "human"
    quiet: bool = False
    output: Path | None = None
    traceback: bool = False
    again: str = ""
    keep_going: bool = False
    log_level: str | None = None


def run_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that runs a flow on this machine; it is called as ``<program> run [<flow>]``."""
    text = f"Run {graph.name} on this machine and print its result."
    return parameter_command(graph, Called(program, "run", flow), text, _run_options(), _run)


def _run_options() -> list[click.Parameter]:
    return [
        *parameter_options(),
        click.Option(
            ["--executor"],
            type=click.Choice(["threads", "processes", "inline"]),
            default="threads",
            help="Where the items of maps run: threads for steps that wait, processes for Python that keeps a CPU "
            "busy, inline for debuggers. Default: threads.",
        ),
        click.Option(["--workers"], type=click.IntRange(min=1), help="How many items run at one time."),
        run_id_option(),
        resume_option("Go on with a run that failed, was interrupted or was killed; default: the latest."),
        click.Option(["--force"], is_flag=True, help="Resume although the flow or the parameters have changed."),
        click.Option(
            ["--from", "from_step"],
            metavar="STEP",
            help="Resume, and run this step again and all that follows it, although their results are there.",
        ),
        click.Option(
            ["--retry-failed"],
            is_flag=True,
            help="Resume, and run items again whose failures were tolerated, and all that follows their map.",
        ),
        click.Option(
            ["--keep-going"],
            is_flag=True,
            help="Run all items of a map although more fail than it tolerates, to see all failures at once.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
            help="The least severe log records to show, of libraries too. Default: of your code what lokki.yml says, "
            "of libraries WARNING.",
        ),
        *output_options(),
    ]


def _run(graph: FlowGraph, again: str, values: dict[str, object], by_option: list[str]) -> int:
    """Run the command ``run`` with the options as click hands them on."""
    resume, output, run_id = text_of(values, "resume"), text_of(values, "output"), text_of(values, "run_id")
    if resume is not None and run_id is not None:
        raise click.UsageError("--run-id names a new run; --resume goes on with an old one. Give one of them.")
    for name, option in (("force", "--force"), ("from_step", "--from"), ("retry_failed", "--retry-failed")):
        if values[name] and resume is None:
            raise click.UsageError(f"{option} only makes sense with --resume.")
    if run_id is not None:
        check_run_id(run_id)
    pairs = cast("tuple[str, ...]", values["pairs"])
    options = {key: value for key, value in values.items() if key.startswith(PREFIX)}
    given = given_parameters(graph.params, options, pairs, text_of(values, "file"))
    if resume is None:
        check_required(graph.params, given, by_option)
    run_options = RunOptions(
        cast("Executor", values["executor"]),
        cast("int | None", values["workers"]),
        run_id,
        _resume(values, resume) if resume is not None else None,
        text_of(values, "env"),
        str(values["log_format"]),
        bool(values["quiet"]),
        Path(output).absolute() if output is not None else None,  # steps may change the working directory
        bool(values["traceback"]),
        again,
        bool(values["keep_going"]),
        text_of(values, "log_level"),
    )
    return run_flow(graph, given, run_options)


def _log_levels(asked: str | None, configured: str) -> LogLevels:
    levels = logging.getLevelNamesMapping()
    own = levels[asked or configured]
    return LogLevels(own, own if asked is not None else max(own, logging.WARNING))


def _resume(values: dict[str, object], run_id: str) -> Resume:
    return Resume(
        run_id or None,
        force=bool(values["force"]),
        from_step=text_of(values, "from_step"),
        retry_failed=bool(values["retry_failed"]),
    )


def run_flow(graph: FlowGraph, params: Mapping[str, object], options: RunOptions) -> int:
    """Run a flow as the command line says; return the exit code.

    Raises ParameterError for parameters that do not fit and for an id that no run could have.
    """
    with interruptible():
        return _run_interruptibly(graph, params, options)


def _run_interruptibly(graph: FlowGraph, params: Mapping[str, object], options: RunOptions) -> int:
    # A debugger gets the terminal as it is.
    direct = options.executor == "inline" and options.log_format == "human" and not options.quiet and os.isatty(2)
    descriptors = RedirectedStreams(direct=direct) if owns_process() else BorrowedStreams()
    recorder = Recorder(_display(options, descriptors.terminal), descriptors.start)
    ending = _Ending(options, descriptors, recorder)
    try:
        with given_up_by(ending.give_up) if owns_process() else nullcontext(), ExitStack() as ended:
            # In this order, whatever happens on the way: what is held back is shown before the display ends.
            ended.callback(recorder.close)
            ended.callback(descriptors.end, recorder)
            if options.output is not None:
                check_writable(options.output)
            config = load_config(environment=options.environment)
            levels = _log_levels(options.log_level, config.log_level)

            def abandon(error: LokkiError) -> None:
                recorder.close()
                descriptors.end(recorder)
                leave_at_once(ending.failed(error))

            runner = LocalRunner(
                abandon=abandon if owns_process() else None,
                executor=options.executor,
                workers=options.workers,
                listener=recorder,
                inline_limit=config.inline_limit,
                keep_going=options.keep_going,
                captured=levels,
            )
            emit, through = (recorder.take_shown, descriptors.terminal) if direct else (recorder, None)
            ended.callback(capture_streams(emit, levels, through))
            result = runner.run(graph, params, run_id=options.run_id, resume=options.resume)
        raise_interrupt()
    except KeyboardInterrupt:
        acknowledge_interrupt()
        return ending.interrupted()
    except ParameterError:
        raise
    except LokkiError as error:
        return ending.failed(error)
    return ending.finished(result)


class _Ending:
    """Says how a run ended: the result to stdout, or why there is none, and how to go on, to stderr."""

    def __init__(
        self, options: RunOptions, descriptors: RedirectedStreams | BorrowedStreams, recorder: Recorder
    ) -> None:
        self._options = options
        self._descriptors = descriptors
        self._recorder = recorder
        self._is_gone = False  # the run's folder was removed under it: it cannot be resumed

    @property
    def _resume(self) -> str:
        run_id = self._recorder.report.run_id
        return f"{self._options.again} --resume {run_id}" if run_id and not self._is_gone else ""

    def interrupted(self) -> int:
        """Say that the run was interrupted."""
        self._say(f"interrupted{f'; resume with: {self._resume}' if self._resume else ''}", event="interrupted")
        return INTERRUPTED

    def give_up(self) -> NoReturn:
        """End the process of a run that was interrupted while a step keeps the main thread for ever."""
        # On a thread: the main one may have the recorder's lock.
        closing = threading.Thread(target=self._recorder.close, daemon=True)
        closing.start()
        closing.join(0.3)
        os._exit(self.interrupted())

    def failed(self, error: LokkiError) -> int:
        """Say what failed: the traceback of the user's step, one line of what and where, and how to go on."""
        text = from_here(str(error))
        trace = _trace(self._recorder.report, error, self._options.traceback)
        self._is_gone = isinstance(error, RunFolderError)
        go_on = f"\nfix it and resume with: {self._resume}" if self._resume else ""
        self._say(f"{trace}error: {text}{go_on}", event="error", message=text)
        return FAILED

    def finished(self, result: object) -> int:
        """Hand over the result."""
        output = self._options.output
        if output is None:
            return self._print(result)
        try:
            write_result(output, result)
        except RunError as error:
            return self._keep_result(from_here(str(error)))
        if not self._options.quiet:
            shown_path = from_here(str(output))
            self._say(f"result written to {shown_path}", event="result_written", path=shown_path)
        return DONE

    def _print(self, result: object) -> int:
        stdout = self._descriptors.stdout
        try:
            text = shown(result)
            stdout.write(f"{text}\n" if text is not None else "")
            stdout.flush()
        except RunError as error:
            return self._keep_result(from_here(str(error)))
        except OSError as error:
            self._descriptors.discard()
            if isinstance(error, BrokenPipeError):
                return FAILED  # whoever read the result has gone
            return self._keep_result(f"the result cannot be printed: {error.strerror}")
        return DONE

    def _keep_result(self, problem: str) -> int:
        text = f"{problem}; the result is kept: write it to a file with: {self._resume} --output FILE"
        self._say(f"error: {text}", event="error", message=text)
        return FAILED

    def _say(self, text: str, **fields: str) -> None:
        terminal = self._descriptors.terminal
        with suppress(OSError):
            if self._options.log_format == "json":
                JsonLines(terminal).write({**fields, **({"resume": self._resume} if self._resume else {})})
            else:
                terminal.write(f"{text}\n")
                terminal.flush()


def _display(options: RunOptions, terminal: TextIO) -> Display:
    if options.quiet:
        return Nothing()
    if options.log_format == "json":
        return JsonLines(terminal)
    live = terminal.isatty() and options.executor != "inline" and os.environ.get("TERM") not in ("dumb", "unknown")
    words = Words(options.again, None if options.keep_going else LINES_PER_MAP)
    return LiveBars(terminal, words) if live else PlainLines(terminal, words=words)


def _trace(report: RunReport, error: LokkiError, everything: bool) -> str:
    """Return the traceback of the failure that ended the run; ``everything``: lokki's own frames too."""
    failure = report.failure
    if failure is not None and str(failure) in str(error):
        return failure.full_traceback if everything else failure.traceback
    return "".join(traceback.format_exception(error)) if everything else ""
