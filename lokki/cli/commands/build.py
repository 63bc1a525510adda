"""The command ``build`` writes what AWS runs."""

from __future__ import annotations

from pathlib import Path

import click

from lokki.builder.builder import Builder
from lokki.builder.checks import check_build
from lokki.builder.compiled import compile_flow
from lokki.cli.options import DONE, FAILED, SETTINGS, env_option
from lokki.cli.program import CommandLine
from lokki.cli.text import count_text
from lokki.config import load_config
from lokki.graph import FlowGraph


def build_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that builds a flow.

    It is called as ``<program> build [<flow>]``.
    """

    def build(env: str | None, check: bool) -> int:
        config = load_config(environment=env)
        compiled = compile_flow(graph, config)
        bundle = Builder(click.echo).build_compiled(graph, compiled)
        if not check:
            return DONE
        findings, notes = check_build(compiled, bundle, Path(config.build_dir))
        for note in notes:
            click.echo(f"note: {note}")
        for finding in findings:
            click.echo(finding)
        click.echo(count_text(len(findings), "finding"))
        return FAILED if findings else DONE

    return click.Command(
        "build",
        params=[
            env_option(),
            click.Option(["--check"], is_flag=True, help="Check the result against AWS's limits, and with cfn-lint."),
        ],
        help=f"Write Lambda packages, state machine and template of {graph.name} (to build_dir of lokki.yml).",
        callback=build,
        epilog=f"Exit codes: 0 done, 1 failed or something was found, 2 wrong usage. Example: "
        f"{CommandLine(program, 'build', flow)} --check",
        context_settings=SETTINGS,
    )
