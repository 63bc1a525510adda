"""The deployed flow that a command works on, in its account."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from lokki.builder.names import deployed_name
from lokki.cli.options import read_options
from lokki.cli.program import CommandLine
from lokki.config import load_config
from lokki.deploy.aws import Aws, connect
from lokki.deploy.deployed import Deployed, find_deployed
from lokki.graph import FlowGraph
from lokki.loading import file_of
from lokki.operate.executions import DeployedRuns, results_of, runs_of
from lokki.results.flow_results import FlowResults


@dataclass(frozen=True, slots=True)
class _Where:
    """The options that say where a flow is deployed."""

    env: str | None = None
    stack_name: str | None = None
    region: str | None = None

    @property
    def words(self) -> str:
        """The options as they follow a command."""
        options = (("--env", self.env), ("--stack-name", self.stack_name), ("--region", self.region))
        return "".join(f" {option} {shlex.quote(value)}" for option, value in options if value is not None)


@dataclass(frozen=True, slots=True)
class Account:
    """A deployed flow in its account.

    * ``program``, ``flow``: how commands for it are called.
    * ``where``: the options that lead there, as they follow a command.
    * ``environment``: that of the settings.
    """

    graph: FlowGraph
    aws: Aws
    deployed: Deployed
    program: str
    flow: str
    where: str
    environment: str | None = None

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
        return f"{CommandLine(self.program, name, self.flow)} {shlex.join(arguments)}{self.where}"


def find_account(graph: FlowGraph, program: str, flow: str, values: Mapping[str, object]) -> Account:
    """Find a deployed flow as a command's options say.

    Raises AwsError when it is not there, ConfigError for wrong settings.
    """
    options = read_options(values, _Where)
    name = deployed_name(graph.name, load_config(environment=options.env))
    aws = connect(options.region)
    return Account(graph, aws, find_deployed(aws, name, options.stack_name), program, flow, options.words, options.env)
