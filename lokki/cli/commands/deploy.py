"""The commands ``deploy``, ``rollback``, ``destroy`` and ``prune`` show a change, ask, and do it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import click

from lokki.builder.builder import Builder
from lokki.builder.names import deployed_name
from lokki.cli.options import DONE, EPILOG, FAILED, SETTINGS, env_option, stack_options
from lokki.cli.program import CommandLine
from lokki.config import LokkiConfig, load_config
from lokki.deploy import deployment, removal
from lokki.deploy.aws import Aws, connect
from lokki.deploy.deployed import find_deployed
from lokki.deploy.live import plan_rollback, point_live_at
from lokki.deploy.own_bucket import with_bucket, with_key
from lokki.deploy.pruning import plan_pruning, prune, pruning_in_words
from lokki.errors import AwsError
from lokki.graph import FlowGraph


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the command line says of a deployment."""

    stack: str | None = None
    region: str | None = None
    image_tag: str | None = None
    environment: str | None = None
    dry_run: bool = False
    yes: bool = False


def deploy_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that deploys a flow.

    It is called as ``<program> deploy [<flow>]``.
    """

    def callback(
        env: str | None, stack_name: str | None, region: str | None, image_tag: str | None, dry_run: bool, yes: bool
    ) -> int:
        options = DeployOptions(stack_name, region, image_tag, env, dry_run, yes)
        return deploy_flow(graph, options, str(CommandLine(program, "invoke", flow)))

    return click.Command(
        "deploy",
        params=[
            env_option(),
            *stack_options(),
            click.Option(["--image-tag"], metavar="TAG", help="Tag of image packages (default: from their content)."),
            click.Option(["--dry-run"], is_flag=True, help="Show what would change, and change nothing."),
            yes_option(),
        ],
        help=f"Build {graph.name}, show what would change on AWS, and change it after a yes. Prints the ARN of the "
        "state machine.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def rollback_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that lets new runs use an earlier version."""

    def callback(env: str | None, stack_name: str | None, region: str | None, to: int | None, yes: bool) -> int:
        return rollback_flow(graph, DeployOptions(stack_name, region, environment=env, yes=yes), to)

    return click.Command(
        "rollback",
        params=[
            env_option(),
            *stack_options(),
            click.Option(["--to"], type=click.IntRange(min=1), metavar="N", help="Which; default: the one before."),
            yes_option(),
        ],
        help=f"Let new runs of {graph.name} use the version before: state machine and code of all steps. Runs that "
        "go on are not touched. The next deploy undoes it.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def destroy_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that removes a flow from AWS."""

    def callback(env: str | None, stack_name: str | None, region: str | None, keep_data: bool, yes: bool) -> int:
        options = DeployOptions(stack_name, region, environment=env, yes=yes)
        return destroy_flow(graph, options, keep_data=keep_data)

    return click.Command(
        "destroy",
        params=[
            env_option(),
            *stack_options(),
            click.Option(["--keep-data"], is_flag=True, help="Keep what the runs wrote to the bucket."),
            yes_option(),
        ],
        help=f"Remove {graph.name} from AWS: its stack, its packages and what its runs wrote. Shows that, and asks.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def prune_command(graph: FlowGraph, program: str, flow: str = "") -> click.Command:
    """Make the command that deletes old versions."""

    def callback(
        env: str | None, stack_name: str | None, region: str | None, keep: int, dry_run: bool, yes: bool
    ) -> int:
        options = DeployOptions(stack_name, region, environment=env, dry_run=dry_run, yes=yes)
        return prune_flow(graph, options, keep)

    return click.Command(
        "prune",
        params=[
            env_option(),
            *stack_options(),
            click.Option(
                ["--keep"],
                type=click.IntRange(min=1),
                default=5,
                metavar="N",
                help="How many of the latest versions stay, for a rollback. Default: 5.",
            ),
            click.Option(["--dry-run"], is_flag=True, help="Show what would go, and delete nothing."),
            yes_option(),
        ],
        help=f"Delete old versions of {graph.name}'s functions and state machine. What new runs, runs in progress and "
        "runs that can be redriven use stays.",
        callback=callback,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def deploy_flow(graph: FlowGraph, options: DeployOptions, invoke: str) -> int:
    """Build a flow, deploy it and return the exit code.

    ``invoke``: how to run it when it is deployed.
    """
    aws = connect(options.region)
    config = with_key(aws, with_bucket(aws, _settings(options)), _tell)
    bundle = Builder(_tell).build(graph, config)
    plan = deployment.plan(aws, deployment.Target(bundle, config, options.stack))
    try:
        for line in deployment.describe_plan(aws, plan):
            _tell(line)
        if options.dry_run:
            _tell("dry run: nothing was changed")
        wants = not options.dry_run and (plan.changes_nothing or agrees("Deploy this?", yes=options.yes))
    except BaseException:  # Ctrl-C at the question, too
        deployment.discard(aws, plan)
        raise
    if not wants:
        deployment.discard(aws, plan)
        return DONE if options.dry_run else FAILED
    arn = deployment.deploy(aws, plan, _tell)
    _tell(f"{bundle.flow} is deployed; run it with: {invoke}")
    click.echo(arn)
    return DONE


def rollback_flow(graph: FlowGraph, options: DeployOptions, to: int | None) -> int:
    """Let new runs use an earlier version and return the exit code."""
    config = _settings(options)
    aws = connect(options.region)
    deployed = find_deployed(aws, deployed_name(graph.name, config), options.stack)
    plan = plan_rollback(aws, deployed.state_machine, to)
    _tell(f"new runs of {deployed.flow} would use {plan.target} in the place of {plan.current}")
    if not agrees("Roll back?", yes=options.yes):
        return FAILED
    point_live_at(aws, deployed.state_machine, plan.target.arn)
    _tell(f"new runs of {deployed.flow} use {plan.target}; the next deploy undoes this")
    return DONE


def destroy_flow(graph: FlowGraph, options: DeployOptions, *, keep_data: bool) -> int:
    """Remove a flow from AWS and return the exit code."""
    config = _settings(options)
    aws: Aws = connect(options.region)
    plan = removal.plan_removal(aws, deployed_name(graph.name, config), options.stack, keep_data=keep_data)
    _tell(f"this goes from {plan.region}, for good:")
    for line in removal.describe_removal(plan):
        _tell(f"  {line}")
    if not agrees("Remove all of this?", yes=options.yes):
        return FAILED
    removal.remove(aws, plan, _tell)
    _tell(f"{plan.flow} is gone" + ("; what its runs wrote stays" if keep_data and plan.values[0] else ""))
    return DONE


def prune_flow(graph: FlowGraph, options: DeployOptions, keep: int) -> int:
    """Delete old versions and return the exit code."""
    config = _settings(options)
    aws = connect(options.region)
    deployed = find_deployed(aws, deployed_name(graph.name, config), options.stack)
    plan = plan_pruning(aws, deployed, keep)
    if not plan.state_machine and not plan.functions:
        _tell(f"{plan.flow} has no version that is not needed")
        return DONE
    _tell("this goes, for good:")
    for line in pruning_in_words(plan):
        _tell(f"  {line}")
    if options.dry_run:
        _tell("dry run: nothing was deleted")
        return DONE
    if not agrees("Delete these?", yes=options.yes):
        return FAILED
    prune(aws, plan, _tell)
    return DONE


def _settings(options: DeployOptions) -> LokkiConfig:
    config = load_config(environment=options.environment)
    if options.image_tag is None:
        return config
    return replace(config, lambda_defaults=replace(config.lambda_defaults, image_tag=options.image_tag))


def agrees(question: str, *, yes: bool) -> bool:
    """Ask whether to go ahead, unless ``--yes`` says so already.

    Raises AwsError where there is no terminal to ask on.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise AwsError("nothing was changed: there is no terminal to ask on. Give --yes to agree beforehand.")
    confirmed = click.confirm(question, err=True)
    if not confirmed:
        _tell("nothing was changed")
    return confirmed


def yes_option() -> click.Option:
    """Make the option that agrees beforehand."""
    return click.Option(["--yes", "--confirm"], is_flag=True, help="Do not ask.")


def _tell(line: str) -> None:
    click.echo(line, err=True)
