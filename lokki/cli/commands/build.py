"""The command ``build``: writes what AWS runs."""

from __future__ import annotations

from pathlib import Path

import click

from lokki.builder.builder import Builder
from lokki.builder.checks import check_build
from lokki.builder.compiled import compile_flow
from lokki.config import load_config
from lokki.graph import FlowGraph


def build_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that builds a flow; it is called as ``<program> build [<flow>]``."""

    def build(env: str | None, check: bool) -> int:
        config = load_config(environment=env)
        compiled = compile_flow(graph, config)
        bundle = Builder(click.echo).build_compiled(graph, compiled)
        if not check:
            return 0
        findings, notes = check_build(compiled, bundle, Path(config.build_dir))
        for note in notes:
            click.echo(f"note: {note}")
        for finding in findings:
            click.echo(finding)
        click.echo(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
        return 1 if findings else 0

    again = f"{program} build {flow}".rstrip()
    return click.Command(
        "build",
        params=[
            click.Option(["--env"], metavar="NAME", help="Use this environment of lokki.yml (default: $LOKKI_ENV)."),
            click.Option(["--check"], is_flag=True, help="Check the result against AWS's limits, and with cfn-lint."),
        ],
        help=f"Write Lambda packages, state machine and template of {graph.name} (to build_dir of lokki.yml).",
        callback=build,
        epilog=f"Exit codes: 0 done, 1 failed or something was found, 2 wrong usage. Example: {again} --check",
        context_settings={"max_content_width": 100},
    )
