"""What commands for deployed flows have in common: which stack in which account, and how to call another command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import click

from lokki.builder.names import deployed_name
from lokki.cli.options import Called
from lokki.config import load_config
from lokki.deploy.aws import Aws, connect
from lokki.deploy.deployed import Deployed, find_deployed
from lokki.graph import FlowGraph
from lokki.loading import file_of
from lokki.operate.executions import DeployedRuns, results_of, runs_of
from lokki.results.flow_results import FlowResults

_PLACES = (("env", "--env"), ("stack_name", "--stack-name"), ("region", "--region"))


@dataclass(frozen=True, slots=True)
class Account:
    """A deployed flow in its account. ``program``, ``flow``: how it is called, ``where``: options that lead there."""

    graph: FlowGraph
    aws: Aws
    deployed: Deployed
    program: str
    flow: str
    where: str

    @property
    def runs(self) -> DeployedRuns:
        """The runs of the flow."""
        return runs_of(self.aws, self.deployed)

    @property
    def results(self) -> FlowResults:
        """The results of the flow."""
        return results_of(self.aws, self.deployed, file_of(self.graph))

    def command(self, name: str, *arguments: str) -> str:
        """Return how to call a command for this deployed flow."""
        return f"{Called(self.program, name, self.flow)} {shlex.join(arguments)}{self.where}"


def stack_options() -> list[click.Parameter]:
    """Make the options that say where a flow is deployed."""
    return [
        click.Option(["--stack-name"], metavar="NAME", help="The stack (default: named as the flow)."),
        click.Option(["--region"], metavar="REGION", help="The region (default: $AWS_REGION or the profile's)."),
    ]


def env_option() -> click.Option:
    """Make the option that chooses settings."""
    return click.Option(["--env"], metavar="NAME", help="Use this environment of lokki.yml (default: $LOKKI_ENV).")


def find_account(graph: FlowGraph, program: str, flow: str, values: dict[str, object]) -> Account:
    """Find a deployed flow as the options say. Raises AwsError when it is not there, ConfigError for wrong settings."""
    given = {name: str(values[name]) for name, _ in _PLACES if values.get(name) is not None}
    name = deployed_name(graph.name, load_config(environment=given.get("env")))
    aws = connect(given.get("region"))
    where = "".join(f" {option} {shlex.quote(given[key])}" for key, option in _PLACES if key in given)
    return Account(graph, aws, find_deployed(aws, name, given.get("stack_name")), program, flow, where)
