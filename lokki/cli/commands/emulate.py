"""The command ``emulate`` builds a flow and runs what was built here, as AWS would."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from lokki.base.quotas import IMAGE_BYTES, UNZIPPED_BYTES
from lokki.cli.hidden_modules import is_hidden_from_library
from lokki.cli.last_words import LastWords, NextCommands, OutputOptions, StandardStreams
from lokki.cli.options import (
    RunRequest,
    event_option,
    output_options,
    pair_options,
    parameter_command,
    read_options,
    report_option,
    resume_option,
    run_id_option,
)
from lokki.cli.program import CommandLine
from lokki.config import load_config
from lokki.emulator.local_settings import emulator_settings
from lokki.errors import EmulatorError, LokkiError, ParameterError
from lokki.graph import FlowGraph
from lokki.local_run.interrupts import interruptible
from lokki.local_run.runs import Runs
from lokki.progress.run_log import Recorder

_MOST_PROCESSES = 32
"""The most functions at one time unless ``--workers`` says otherwise."""


@dataclass(frozen=True, slots=True)
class EmulateOptions:
    """What the command line says, beside parameters and output.

    ``resume``: the run to resume, empty for the latest; None for a new run.
    """

    workers: int | None = None
    run_id: str | None = None
    resume: str | None = None
    env: str | None = None
    slow_start: bool = False
    chaos: str | None = None
    account_concurrency: int | None = None
    suggest_permissions: bool = False
    seed: str | None = None


def emulate_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that emulates a flow.

    It is called as ``<program> emulate [<flow>]``.
    """
    text = f"Build {graph.name} and run what was built here as AWS would: its state machine, its packages, S3."
    return parameter_command(graph, CommandLine(program, "emulate", flow), text, _own_options(), _emulate)


def _own_options() -> list[click.Parameter]:
    return [
        *pair_options(),
        event_option(),
        click.Option(["--workers"], type=click.IntRange(min=1), help="How many functions run at one time."),
        run_id_option(),
        resume_option("Redrive a run that failed or was interrupted, from where it stopped; default: the latest."),
        *output_options(),
        report_option(),
        click.Option(["--slow-start"], is_flag=True, help="Let each cold start of a function take 2 s longer."),
        click.Option(
            ["--account-concurrency"],
            type=click.IntRange(min=1),
            help="Throttle as an account would in which so many functions may run at one time; new ones have 10.",
        ),
        click.Option(
            ["--chaos"],
            metavar="SEED",
            help="Throttle, crash and double invocations and let S3 refuse and be late, as the seed says.",
        ),
        click.Option(
            ["--suggest-permissions"],
            is_flag=True,
            help="Let steps do what their roles do not allow, and say at the end which permissions they lack.",
        ),
        click.Option(
            ["--seed"],
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Run this Python program first, whose boto3 reaches the emulated account: it makes what steps need.",
        ),
    ]


def _emulate(request: RunRequest) -> int:
    options = read_options(request.values, EmulateOptions)
    if options.resume is not None and (options.run_id is not None or request.params):
        raise click.UsageError("--resume goes on with an old run and its parameters: give neither --run-id nor others.")
    return emulate_flow(request, options, read_options(request.values, OutputOptions))


def emulate_flow(request: RunRequest, options: EmulateOptions, output: OutputOptions) -> int:
    """Build and emulate a flow, and return the exit code.

    Raises ParameterError for parameters that do not fit.
    """
    streams = StandardStreams()
    recorder = Recorder(output.display(streams.terminal), lambda emit: None)

    def resume() -> str:
        run_id = recorder.report.run_id
        return f"{request.call} --resume {run_id}" if run_id else ""

    def retrieve() -> str:
        return f'read it with lokki.local("{request.graph.name}").run("{recorder.report.run_id}").result()'

    words = LastWords(output, streams, NextCommands(resume, retrieve))
    lacking: list[Mapping[str, Sequence[str]]] = []
    try:
        with closing(recorder), interruptible():
            result = _result(request.graph, request.params, options, output, recorder, lacking)
    except KeyboardInterrupt:
        return words.interrupted()
    except ParameterError:
        raise
    except LokkiError as error:
        code = words.failed(str(error), recorder.report, error)
    else:
        code = words.finished(result)
    for lines_by_step in lacking:
        _say_suggestions(words, lines_by_step)
    run_id = recorder.report.run_id
    if output.report is None or not run_id:
        return code
    # Imported here so that runs without a report start without the template engine.
    from lokki.cli.reporting import ReportRequest, write_report

    replay = str(CommandLine(request.call.program, "replay", request.call.flow))
    wish = ReportRequest(run_id, output.report, "--report", None, replay, resume(), request.graph, options.env)
    return words.reported(code, output.report, lambda: write_report(Runs(Path(".lokki")), wish))


def _say_suggestions(words: LastWords, lacking: Mapping[str, Sequence[str]]) -> None:
    for step, lines in lacking.items():
        listed = "".join(f"\n    {line}," for line in lines)
        words.say(f"{step}(): permissions=[{listed}\n]", "permissions", step=step, permissions="\n".join(lines))
    if not lacking:
        words.say("no step lacks a permission for what it did", "permissions")


def _result(
    graph: FlowGraph,
    params: Mapping[str, object],
    options: EmulateOptions,
    output: OutputOptions,
    recorder: Recorder,
    lacking: list[Mapping[str, Sequence[str]]],
) -> object:
    """Build and run the flow.

    ``lacking``: gets the permissions that steps lack, once they ran, where they are asked for.
    """
    try:
        # Only here: the libraries of the extra take a second to import, and may be missing. Help needs no builder, too.
        from lokki.builder.builder import Builder
        from lokki.builder.compiled import compile_flow
        from lokki.emulator.account import run_seed
        from lokki.emulator.run import EmulationOptions
        from lokki.emulator.scratch import Scratch, Secret, temporary_files_in
        from lokki.emulator.session import Session
    except ImportError as error:
        if is_hidden_from_library(error):
            raise
        raise EmulatorError(f"emulate needs {error.name}: install lokki with its extra, lokki[emulator].") from None
    output.check_writable()
    own = load_config(environment=options.env)
    config = emulator_settings(own)

    def report(line: str) -> None:
        if not output.quiet and output.log_format == "human":
            sys.stderr.write(f"{line}\n")

    with Scratch(Secret.new()) as scratch, temporary_files_in(scratch.folder):
        most = IMAGE_BYTES if own.packages == "image" else UNZIPPED_BYTES  # a zip stands for an image here
        compiled = compile_flow(graph, config)
        Builder(write=report, zip_bytes=most).build_compiled(graph, compiled)
    concurrency = options.account_concurrency
    workers = options.workers or _workers(concurrency)
    settings = EmulationOptions(
        workers,
        options.chaos,
        options.slow_start,
        account_concurrency=concurrency,
        permissive=options.suggest_permissions,
        note=report,
    )
    if options.seed is not None:
        settings = replace(settings, prepare=partial(run_seed, options.seed))
    suggest = lacking.append if options.suggest_permissions else None
    session = Session(Path(config.build_dir), recorder, settings, suggest=suggest)
    if options.resume is not None:
        return session.resume(graph, options.resume or None, plan=compiled.plan)
    return session.run(graph, params, options.run_id, plan=compiled.plan)


def _workers(account_concurrency: int | None) -> int:
    """Return how many functions run at one time by default.

    That is one for each CPU, or as many as an account that runs few would run.
    """
    cpus = max(2, os.process_cpu_count() or 1)
    return cpus if account_concurrency is None else min(account_concurrency, max(cpus, _MOST_PROCESSES))
