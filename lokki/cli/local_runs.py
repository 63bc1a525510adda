"""A run on this machine from the command line: its streams, its log and its end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from lokki.base.options import Executor
from lokki.cli.ending import drop_process, leave_at_once, owns_process
from lokki.cli.last_words import LastWords, NextCommands, OutputOptions
from lokki.cli.options import RunRequest, read_options
from lokki.cli.program import CommandLine
from lokki.config import load_config
from lokki.errors import LokkiError, ParameterError, RunFolderError
from lokki.graph import FlowGraph
from lokki.local_run.interrupts import acknowledge_interrupt, given_up_by, interruptible, raise_interrupt
from lokki.local_run.levels import LogLevels
from lokki.local_run.output import capture_streams
from lokki.local_run.runs import Runs
from lokki.local_run.streams import BorrowedStreams, RedirectedStreams
from lokki.progress.displays import LINES_PER_MAP, Words
from lokki.progress.run_log import Recorder
from lokki.runner import LocalRunner, Resume


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says of a run, beside parameters and output.

    ``resume``: the run to resume, empty for the latest; None for a new run.
    """

    executor: Executor = "threads"
    workers: int | None = None
    run_id: str | None = None
    resume: str | None = None
    force: bool = False
    from_step: str | None = None
    retry_failed: bool = False
    env: str | None = None
    keep_going: bool = False
    log_level: str | None = None

    @property
    def resumed(self) -> Resume | None:
        """Which run is resumed and how, or None for a new run."""
        if self.resume is None:
            return None
        return Resume(self.resume or None, force=self.force, from_step=self.from_step, retry_failed=self.retry_failed)


def run_locally(request: RunRequest) -> int:
    """Run a flow as a command line says, and return the exit code.

    Raises click.UsageError for options that do not go together, and what `_LocalRun.run` raises.
    """
    options = read_options(request.values, RunOptions)
    if options.resume is not None and options.run_id is not None:
        raise click.UsageError("--run-id names a new run; --resume goes on with an old one. Give one of them.")
    changes = {"--force": options.force, "--from": options.from_step, "--retry-failed": options.retry_failed}
    for option, value in changes.items():
        if value and options.resume is None:
            raise click.UsageError(f"{option} only makes sense with --resume.")
    output = read_options(request.values, OutputOptions)
    with interruptible():
        code = (local := _LocalRun(request.graph, options, output, str(request.call))).run(request.params)
    return local.write_report(code, request.call)


def _log_levels(level: str | None, configured: str) -> LogLevels:
    levels = logging.getLevelNamesMapping()
    own = levels[level or configured]
    return LogLevels(own, own if level is not None else max(own, logging.WARNING))


class _LocalRun:
    """A run in this process, with its streams, its log and its end.

    ``command``: how to call the command again.
    """

    def __init__(self, graph: FlowGraph, options: RunOptions, output: OutputOptions, command: str) -> None:
        self._graph = graph
        self._options = options
        self._output = output
        self._command = command
        # A debugger gets the terminal as it is.
        self._direct = (
            options.executor == "inline" and output.log_format == "human" and not output.quiet and os.isatty(2)
        )
        self._streams = RedirectedStreams(direct=self._direct) if owns_process() else BorrowedStreams()
        words = Words(command, None if options.keep_going else LINES_PER_MAP)
        display = output.display(self._streams.terminal, words, live=options.executor != "inline")
        self._recorder = Recorder(display, self._streams.start)
        self._is_gone = False  # the run's folder was removed under it: it cannot be resumed
        retrieve = lambda: f"write it to a file with: {self._resume()} --output FILE"  # noqa: E731
        self._words = LastWords(output, self._streams, NextCommands(self._resume, retrieve, resumes_finished=True))

    def run(self, params: Mapping[str, object]) -> int:
        """Run the flow with these parameters and return the exit code.

        Raises ParameterError for parameters that do not fit and for an id that no run could have.
        """
        try:
            result = self._result(params)
            raise_interrupt()
        except KeyboardInterrupt:
            acknowledge_interrupt()
            return self._words.interrupted()
        except ParameterError:
            raise
        except LokkiError as error:
            return self._failed(error)
        return self._words.finished(result)

    def _result(self, params: Mapping[str, object]) -> object:
        with given_up_by(self._give_up) if owns_process() else nullcontext(), ExitStack() as cleanup:
            # In this order, whatever happens on the way: what is held back is shown before the display ends.
            cleanup.callback(self._recorder.close)
            cleanup.callback(self._streams.end, self._recorder)
            self._output.check_writable()
            config = load_config(environment=self._options.env)
            levels = _log_levels(self._options.log_level, config.log_level)
            runner = LocalRunner(
                abandon=self._abandon if owns_process() else None,
                executor=self._options.executor,
                workers=self._options.workers,
                listener=self._recorder,
                inline_limit=config.inline_limit,
                keep_going=self._options.keep_going,
                captured=levels,
            )
            emit, through = (
                (self._recorder.take_shown, self._streams.terminal) if self._direct else (self._recorder, None)
            )
            cleanup.callback(capture_streams(emit, levels, through))
            return runner.run(self._graph, params, run_id=self._options.run_id, resume=self._options.resumed)

    def write_report(self, code: int, call: CommandLine) -> int:
        """Write the run's report, if one was asked for, and return the exit code."""
        report = self._output.report
        run_id = self._recorder.report.run_id
        if report is None or not run_id or self._is_gone:
            return code
        # Imported here so that runs without a report start without the template engine.
        from lokki.cli.reporting import ReportRequest, write_report

        replay = str(CommandLine(call.program, "replay", call.flow))
        environment = self._options.env
        request = ReportRequest(run_id, report, "--report", None, replay, self._resume(), self._graph, environment)
        return self._words.reported(code, report, lambda: write_report(Runs(Path(".lokki")), request))

    def _failed(self, error: LokkiError) -> int:
        self._is_gone = isinstance(error, RunFolderError)
        return self._words.failed(str(error), self._recorder.report, error)

    def _resume(self) -> str:
        run_id = self._recorder.report.run_id
        return f"{self._command} --resume {run_id}" if run_id and not self._is_gone else ""

    def _abandon(self, error: LokkiError) -> None:
        """End the process from another thread, as the main one is stuck in a step."""
        self._recorder.close()
        self._streams.end(self._recorder)
        leave_at_once(self._failed(error))

    def _give_up(self) -> NoReturn:
        """End the process of an interrupted run whose step never ends."""
        # On a thread: the main one may have the recorder's lock.
        closing = threading.Thread(target=self._recorder.close, daemon=True)
        closing.start()
        closing.join(0.3)
        drop_process(self._words.interrupted())
