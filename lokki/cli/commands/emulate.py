"""The command ``emulate``: builds a flow and runs what was built on this machine as AWS would."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import click

from lokki.base.naming import check_run_id
from lokki.base.quotas import IMAGE_BYTES, UNZIPPED_BYTES
from lokki.builder.builder import Builder
from lokki.cli.options import (
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
from lokki.cli.output import Output, check_writable, output_of
from lokki.cli.parameters import PREFIX, check_required, given_parameters
from lokki.config import LokkiConfig, load_config
from lokki.engine.report import RunReport
from lokki.errors import EmulatorError, LokkiError, ParameterError
from lokki.graph import FlowGraph
from lokki.local_run.interrupts import interruptible
from lokki.progress.run_log import Recorder

BUCKET = "emulated-artifacts"
"""The name of the bucket where the settings have none: nobody else sees it."""

BUILD_DIR = ".lokki/emulated-build"
"""Where a flow is built whose settings would not do here, so that the user's own build stays as it is."""

_MOST_PROCESSES = 32
"""The most functions at one time unless ``--workers`` says otherwise."""

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class EmulateOptions:
    """What the command line says, beside the flow's parameters; ``again``: how to call it again."""

    workers: int | None = None
    run_id: str | None = None
    resume: str | None = None
    environment: str | None = None
    output: Output = field(default_factory=Output)
    slow_start: bool = False
    chaos: str | None = None
    account_concurrency: int | None = None
    again: str = ""


def emulate_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that emulates a flow; it is called as ``<program> emulate [<flow>]``."""
    text = f"Build {graph.name} and run what was built here as AWS would: its state machine, its packages, S3."
    return parameter_command(graph, Called(program, "emulate", flow), text, _own_options(), _emulate)


def _own_options() -> list[click.Parameter]:
    return [
        *parameter_options(),
        click.Option(["--workers"], type=click.IntRange(min=1), help="How many functions run at one time."),
        run_id_option(),
        resume_option("Redrive a run that failed or was interrupted, from where it stopped; default: the latest."),
        *output_options(),
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
    ]


def _emulate(graph: FlowGraph, again: str, values: dict[str, object], by_option: list[str]) -> int:
    run_id = text_of(values, "run_id")
    if run_id is not None:
        check_run_id(run_id)
    options = {key: value for key, value in values.items() if key.startswith(PREFIX)}
    given = given_parameters(graph.params, options, cast("tuple[str, ...]", values["pairs"]), text_of(values, "file"))
    resume = text_of(values, "resume")
    if resume is None:
        check_required(graph.params, given, by_option)
    elif run_id is not None or given:
        raise click.UsageError("--resume goes on with an old run and its parameters: give neither --run-id nor others.")
    return emulate_flow(
        graph,
        given,
        EmulateOptions(
            cast("int | None", values["workers"]),
            run_id,
            resume,
            text_of(values, "env"),
            output_of(values),
            bool(values["slow_start"]),
            text_of(values, "chaos"),
            cast("int | None", values["account_concurrency"]),
            again,
        ),
    )


def emulate_flow(graph: FlowGraph, params: Mapping[str, object], options: EmulateOptions) -> int:
    """Build and emulate a flow as the command line says; return the exit code.

    Raises ParameterError for parameters that do not fit.
    """
    recorder = Recorder(options.output.display(), lambda emit: None)
    try:
        with interruptible():
            result = _result(graph, params, options, recorder)
    except KeyboardInterrupt:
        recorder.close()
        options.output.say(f"interrupted{_go_on(recorder.report, options, '; resume with: ')}", event="interrupted")
        return INTERRUPTED
    except ParameterError:
        recorder.close()
        raise
    except LokkiError as error:
        recorder.close()
        text = from_here(str(error))
        trace, go_on = (
            _trace(recorder.report, error, options),
            _go_on(recorder.report, options, "\nfix it and resume with: "),
        )
        options.output.say(f"{trace}error: {text}{go_on}", event="error", message=text)
        return FAILED
    recorder.close()
    return options.output.hand_over(result, f'lokki.local("{graph.name}").run("{recorder.report.run_id}").result()')


def _result(graph: FlowGraph, params: Mapping[str, object], options: EmulateOptions, recorder: Recorder) -> object:
    try:
        # Only here: the libraries of the extra take a second to import, and may be missing.
        from lokki.emulator.run import EmulationOptions
        from lokki.emulator.scratch import Scratch, Secret, temporary_files_in
        from lokki.emulator.session import Session
    except ImportError as error:
        raise EmulatorError(f"emulate needs {error.name}: install lokki with its extra, lokki[emulator].") from None
    if options.output.file is not None:
        check_writable(options.output.file)
    own = load_config(environment=options.environment)
    config = emulated(own)

    def report(line: str) -> None:
        if not options.output.quiet and options.output.log_format == "human":
            sys.stderr.write(f"{line}\n")

    with Scratch(Secret.new()) as scratch, temporary_files_in(scratch.folder):
        most = IMAGE_BYTES if own.packages == "image" else UNZIPPED_BYTES  # a zip stands for an image here
        Builder(write=report, zip_bytes=most).build(graph, config)
    concurrency = options.account_concurrency
    workers = options.workers or _workers(concurrency)
    settings = EmulationOptions(
        workers, options.chaos, options.slow_start, account_concurrency=concurrency, note=report
    )
    session = Session(Path(config.build_dir), recorder, settings)
    if options.resume is not None:
        return session.resume(graph, options.resume or None)
    return session.run(graph, params, options.run_id)


def _workers(account_concurrency: int | None) -> int:
    """Return how many functions run at one time: one for each CPU, or as many as the account would run of few."""
    cpus = max(2, os.process_cpu_count() or 1)
    return cpus if account_concurrency is None else min(account_concurrency, max(cpus, _MOST_PROCESSES))


def emulated(config: LokkiConfig) -> LokkiConfig:
    """Return the settings to build with: the user's, but for what this machine cannot run, and a bucket's name.

    Raises EmulatorError for packages that cannot be made to run here.
    """
    if sys.platform != "linux":
        raise EmulatorError("emulate runs packages for Lambda, which is Linux, so it runs on Linux only.")
    here = _ARCHITECTURES.get(platform.machine().lower(), config.architecture)
    wanted = replace(config, artifact_bucket=config.artifact_bucket or BUCKET, architecture=here, package_type="zip")
    return (
        config
        if wanted == replace(config, package_type="zip") and config.packages == "zip"
        else replace(wanted, build_dir=BUILD_DIR)
    )


def _trace(report: RunReport, error: LokkiError, options: EmulateOptions) -> str:
    if report.failure is not None:
        return report.failure.full_traceback if options.output.traceback else report.failure.traceback
    return "".join(traceback.format_exception(error)) if options.output.traceback else ""


def _go_on(report: RunReport, options: EmulateOptions, words: str) -> str:
    return f"{words}{options.again} --resume {report.run_id}" if report.run_id else ""
