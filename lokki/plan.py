"""The plan of a flow: what is called in which order, and who reads what.

A plan is data. Its nodes name their steps, and the functions stand beside them in `Plan.steps`, so that a plan can be
written as JSON (`lokki.plan_json`) and read where the flow's code is not. The local run, the builder, the handler and
whatever shows a run all follow it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat

import msgspec

from lokki.base import signatures
from lokki.base.convert import ChangeError, ConversionError, from_json, parameter_json, to_json
from lokki.base.options import FlowOptions
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import FlowError, ParameterError
from lokki.graph import FlowGraph, FlowParameter, MapCloseEntry, MapOpenEntry, Param, TaskEntry, parameter_name
from lokki.plans.operations import MAP, Argument, Block, Call, FanOut, Op, block_lines, calls_in, fan_outs_in
from lokki.plans.templates import Item, Output, ParamRef, Reads, Results, Template

PARAMETERS_BYTES = 180_000
"""Most bytes of a run's parameters as JSON.

A state's 256 KiB hold them beside a value, and the 200,000 bytes of a batch beside its largest item.
"""

PARTS_OF_BATCH = 64
"""Most parts that a batch is tried in when its function runs out of memory.

What is left after them runs in the larger function. It bounds the history of the execution, and the size of all
replies, which a state must hold.
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

    Raises FlowError for an argument or a default that cannot travel as JSON, naming step, parameter and type.
    """
    _check_defaults(graph)
    ops: list[Op] = []
    reads: Reads = None
    sources = {entry.source_id for entry in graph.entries if isinstance(entry, MapOpenEntry)}
    for entry in graph.entries:
        match entry:
            case TaskEntry(node, step_id) | MapCloseEntry(node, step_id):
                ops.append(Call(step_id, node.name, _arguments(node, reads), reads, step_id in sources))
                reads = Output(step_id)
            case MapOpenEntry(source_id=source):
                ops.append(FanOut(f"{source}{MAP}", source, _body(entry), entry.options))
                reads = Results(f"{source}{MAP}")
    return Plan(graph.name, graph.params, tuple(ops), graph.options, {step.name: step for step in graph.steps})


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


def _body(entry: MapOpenEntry) -> Block:
    calls: list[Call] = []
    reads: Reads = Item()
    for step, step_id in zip(entry.inner_steps, entry.inner_ids, strict=True):
        calls.append(Call(step_id, step.name, _arguments(step, reads), reads))
        reads = Output(step_id)
    return tuple(calls)


def _arguments(step: AnyStep, reads: Reads) -> tuple[Argument, ...]:
    """Turn the arguments that a step was called with into templates."""
    if step.arguments is None:
        return ()
    parameters = list(signatures.signature(step.fn).parameters.values())
    positional = _positional(parameters, skipped=0 if reads is None else 1)
    hints = signatures.hints(step.fn)
    arguments = []
    for value in step.arguments.args:
        name, variadic = next(positional)
        arguments.append(Argument(name, _template(step, name, value, hints), variadic=variadic))
    catch_all = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for keyword, value in step.arguments.kwargs.items():
        name = keyword if keyword in names else catch_all
        arguments.append(Argument(name, _template(step, name, value, hints), keyword))
    return tuple(arguments)


def _positional(parameters: list[inspect.Parameter], skipped: int) -> Iterator[tuple[str, bool]]:
    """Yield the parameters of arguments by position, and which are variadic.

    A decorator may add arguments by position that are for no parameter in particular: they get no name.
    """
    names = [(p.name, False) for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    return chain(names[skipped:], repeat((rest, True)))


def _template(step: AnyStep, name: str, value: object, hints: dict[str, object]) -> Template:
    try:
        return _convert(value, hints.get(name, signatures.UNKNOWN))
    except ConversionError as error:
        raise FlowError(f"{step.where}: the argument {name!r} of {step.name}() is {error}.") from None


def _convert(value: object, annotation: object) -> Template:
    if isinstance(value, Param):
        return ParamRef(parameter_name(value))
    if type(value) in (list, tuple) and _has_placeholder(value):
        return [_convert(member, signatures.member(annotation)) for member in value]  # type: ignore[attr-defined]
    if type(value) is dict and _has_placeholder(value):
        if not all(type(name) is str for name in value):
            raise ConversionError(f"{value!r}; in a dict with parameters of the flow, keys must be strings")
        return {name: _convert(member, signatures.member(annotation)) for name, member in value.items()}
    return _as_template(to_json(value, annotation))


def _as_template(value: Json) -> Template:
    return value  # type: ignore[return-value]  # JSON is a template without places; list is invariant


def _has_placeholder(value: object) -> bool:
    if isinstance(value, Param):
        return True
    if isinstance(value, dict):
        return any(_has_placeholder(member) for member in value.values())
    return isinstance(value, list | tuple) and any(_has_placeholder(member) for member in value)
