"""A flow compiled for AWS: the one value that a build, its checks and an estimate are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lokki.builder.names import DeployedFunction, deployed_functions, deployed_name, function_suffixes
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.loading import file_of
from lokki.plan import Plan, lower
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch


@dataclass(frozen=True, slots=True)
class Compiled:
    """A lowered flow with its settings and the functions it needs.

    - ``plan``: calls and maps, in order
    - ``steps``: each step once, in the order of its first call
    - ``config``: the project's settings
    - ``functions``: the Lambda functions of all steps
    - ``file``: the name of the flow's file, "" where there is none
    """

    plan: Plan
    steps: tuple[AnyStep, ...]
    config: LokkiConfig
    functions: tuple[DeployedFunction, ...]
    file: str = ""

    @property
    def name(self) -> str:
        """The flow's name on AWS.

        Raises ConfigError or FlowError for a name that AWS does not take, so it is not computed before it is needed.
        """
        return deployed_name(self.plan.flow, self.config)

    @property
    def suffixes(self) -> dict[str, str]:
        """What follows the flow's name in the name of each function.

        Raises FlowError for two functions of one name.
        """
        return function_suffixes(self.name, [function.name for function in self.functions])

    @property
    def maps(self) -> tuple[FanOut, ...]:
        """The map blocks, in order."""
        return tuple(self.plan.fan_outs)

    @property
    def larger_functions(self) -> Mapping[str, DeployedFunction]:
        """The functions with more memory, by the names of their steps."""
        return {function.step.name: function for function in self.functions if function.larger}

    def step_of(self, call: Call) -> AnyStep:
        """Return the step that a call runs."""
        return self.plan.steps[call.step]

    def memory(self, step: AnyStep) -> int:
        """Return the megabytes of a step's function."""
        return step.options.memory or self.config.lambda_defaults.memory


def most_at_once(block: Block, weigh: Callable[[Op], int]) -> int:
    """Return how many operations of a block are in progress at most.

    ``weigh``: how many a call or a map block counts as.
    """

    def most(op: Op) -> int:
        match op:
            case Fork():
                return sum(most_at_once(branch, weigh) for branch in op.branches)
            case Switch():
                return max(most_at_once(case.block, weigh) for case in op.cases)
            case Call() | FanOut():
                return weigh(op)

    return max(map(most, block), default=0)


def compile_flow(graph: FlowGraph, config: LokkiConfig) -> Compiled:
    """Lower a flow and name the functions that it needs."""
    file = file_of(graph)
    functions = tuple(deployed_functions(graph.steps))
    return Compiled(lower(graph), tuple(graph.steps), config, functions, "" if file is None else file.name)
