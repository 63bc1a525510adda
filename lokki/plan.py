"""The plan of a flow: what is called in which order, and who reads what.

A plan is data. Its nodes name their steps, and the functions stand beside them in `Plan.steps`, so that a plan can be
written as JSON (`lokki.plan_json`) and read where the flow's code is not. The local run, the builder, the handler and
whatever shows a run all follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from lokki.base import signatures
from lokki.base.convert import ChangeError, ConversionError, from_json, parameter_json
from lokki.base.options import FlowOptions
from lokki.base.placeholders import FlowParameter
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import FlowError, ParameterError
from lokki.plans.operations import Block, Call, FanOut, block_lines, calls_in, fan_outs_in
from lokki.plans.templates import Output

if TYPE_CHECKING:  # start-up: functions on Lambda have their calls from step.json, and no graph
    from lokki.graph import FlowGraph

PARAMETERS_BYTES = 180_000
"""Most bytes of a run's parameters as JSON.

A state's 256 KiB hold them beside a value, and the 200,000 bytes of a batch beside its largest item.
"""

_ADDED_BY_AWS = {"Comment", "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow, lowered: its operations in order, each with an id of its own.

    ``steps`` has the functions by the names of their steps. It counts in no comparison, and is empty in a plan that was
    read back from JSON, which tells what a flow does and cannot run it. ``result`` is what the flow returns, a tuple
    where the flow returned one of chains; None stands for the result of the last operation.
    """

    flow: str
    params: tuple[FlowParameter, ...]
    ops: Block
    options: FlowOptions
    steps: Mapping[str, AnyStep] = field(default_factory=dict, compare=False, repr=False)
    result: Output | tuple[Output, ...] | None = None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the result is made of.

        It is one value, or the members of the tuple that the flow returned.
        """
        if self.result is None:
            return (Output(self.ops[-1].id),)
        return self.result if isinstance(self.result, tuple) else (self.result,)

    @property
    def returns_tuple(self) -> bool:
        """Whether the flow returned a tuple of chains."""
        return isinstance(self.result, tuple)

    @property
    def calls(self) -> Iterator[Call]:
        """All calls, those in map blocks, branches and cases included, in order."""
        return calls_in(self.ops)

    @property
    def fan_outs(self) -> Iterator[FanOut]:
        """All map blocks, the outer ones first, in order."""
        return fan_outs_in(self.ops)

    def fan_out(self, fan_out_id: str) -> FanOut:
        """Return the map block of an id. Raises KeyError where there is none."""
        return {fan_out.id: fan_out for fan_out in self.fan_outs}[fan_out_id]


def lower(graph: FlowGraph) -> Plan:
    """Turn a resolved flow into its plan.

    Raises FlowError for a default that cannot travel as JSON, naming parameter and type.
    """
    _check_defaults(graph)
    steps = {step.name: step for step in graph.steps}
    return Plan(graph.name, graph.params, graph.block, graph.options, steps, graph.returns)


def plan_lines(plan: Plan) -> list[str]:
    """Write a plan for people, a line for each operation.

    The lines of two plans are equal exactly when the plans compute the same from the same parameters. Options are left
    out: a timeout, a retry or a bound on concurrency changes no result.
    """
    lines = block_lines(plan.ops)
    if plan.result is None:
        return lines
    ids = ", ".join(output.id for output in plan.outputs)
    return [*lines, f"returns ({ids})" if plan.returns_tuple else f"returns {ids}"]


def bind_parameters(params: tuple[FlowParameter, ...], values: Mapping[str, object]) -> dict[str, Json]:
    """Return the JSON of all parameters of a run, defaults included.

    Values may be JSON or of the annotated types. Raises ParameterError that names every unknown, missing and wrong one.
    """
    names = {param.name for param in params}
    problems = [f"unknown parameter {name!r}{_all_names(names)}" for name in values if name not in names]
    bound: dict[str, Json] = {}
    for param in params:
        value = values.get(param.name, param.default)
        if param.name not in values and param.required:
            problems.append(f"{param.name!r} is required{_annotation(param)}")
            continue
        try:
            bound[param.name] = _parameter_json(value, param)
        except ConversionError as error:
            problems.append(f"{param.name!r} is {error}")
    if problems:
        raise ParameterError("; ".join(problems) + ".")
    _check_size(bound)
    return bound


def started_by_aws(params: tuple[FlowParameter, ...], execution_input: Mapping[str, Json]) -> dict[str, Json]:
    """Return an execution's input without what AWS's own tools add to it.

    What the flow has a parameter for stays.

    The console fills in a comment, and a state machine that starts another one says which execution it is:
    https://docs.aws.amazon.com/step-functions/latest/dg/concepts-nested-workflows.html
    """
    added = _ADDED_BY_AWS - {param.name for param in params}
    return {name: value for name, value in execution_input.items() if name not in added}


def _check_size(bound: Mapping[str, Json]) -> None:
    size = len(msgspec.json.encode(bound))
    if size > PARAMETERS_BYTES:
        raise ParameterError(
            f"the parameters have {size:,} bytes as JSON, and a run takes {PARAMETERS_BYTES:,}: Step Functions hands "
            "them from state to state. Put what is large into a file or an object, and pass where that is."
        )


def _all_names(names: set[str]) -> str:
    return f" (the flow takes {', '.join(sorted(names))})" if names else " (the flow takes none)"


def _annotation(param: FlowParameter) -> str:
    return "" if param.annotation is signatures.UNKNOWN else f" ({signatures.describe(param.annotation)})"


def _parameter_json(value: object, param: FlowParameter) -> Json:
    """Return the JSON of a value for a parameter.

    The value is of the annotated type, or JSON that makes one.
    """
    try:
        return parameter_json(value, param.annotation)
    except ChangeError:
        raise
    except ConversionError as error:
        try:
            # JSON of the annotated type, such as "2026-01-01" for a date, or 3.0 for an int
            plain = parameter_json(value, signatures.UNKNOWN)
            return parameter_json(from_json(plain, param.annotation), param.annotation)
        except ConversionError:
            raise error from None


def _check_defaults(graph: FlowGraph) -> None:
    for param in graph.params:
        if not param.required:
            try:
                parameter_json(param.default, param.annotation)
            except ConversionError as error:
                raise FlowError(f"the default of {graph.name}'s parameter {param.name!r} is {error}.") from None
