"""The plan of a flow: what is called in which order, and who reads what. Runner, builder and handler all follow it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from operator import itemgetter

import msgspec

from lokki.base import signatures
from lokki.base.convert import ChangeError, ConversionError, from_json, parameter_json, to_json
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import FlowError, ParameterError
from lokki.graph import FlowGraph, FlowParameter, MapCloseEntry, MapOpenEntry, Param, TaskEntry, parameter_name

PARAMETERS_BYTES = 180_000
"""Most bytes of a run's parameters as JSON. A state's 256 KiB hold them beside a value, and the 200,000 bytes of a
batch beside its largest item."""

PARTS_OF_BATCH = 64
"""Most parts that a batch whose function runs out of memory is tried in; what is left then runs in the larger function.

It bounds the history of the execution, and the size of all replies, which a state must hold."""

_ADDED_BY_AWS = {"Comment", "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"}


@dataclass(frozen=True, slots=True)
class ParamRef:
    """The place of a flow's parameter in a step's arguments."""

    name: str


type Template = None | bool | int | float | str | ParamRef | list[Template] | dict[str, Template]
"""JSON in which parameters of the flow have places."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: the parameter of the step that it is for, its template, and how it is passed."""

    parameter: str
    template: Template
    keyword: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Reads the result of the call of this id."""

    id: str


@dataclass(frozen=True, slots=True)
class Item:
    """Reads one item of the map block that the call is in."""


@dataclass(frozen=True, slots=True)
class Results:
    """Reads the list of results of the map block of this id."""

    id: str


type Reads = Output | Item | Results | None
"""What fills a step's first parameter; None for a first step, which has only its own arguments."""


@dataclass(frozen=True, slots=True)
class Call:
    """One occurrence of a step: a Task. ``fans_out`` when its result is the items of a map block."""

    id: str
    step: AnyStep
    arguments: tuple[Argument, ...]
    reads: Reads
    fans_out: bool = False

    @property
    def params(self) -> tuple[str, ...]:
        """The flow's parameters that its arguments need, sorted."""
        return tuple(sorted({name for argument in self.arguments for name in _names(argument.template)}))


@dataclass(frozen=True, slots=True)
class FanOut:
    """A map block: its inner calls run for each item of the call whose id it has."""

    id: str
    inner: tuple[Call, ...]
    options: MapOptions


type Op = Call | FanOut


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow, lowered: its operations in order, each with an id of its own."""

    flow: str
    params: tuple[FlowParameter, ...]
    ops: tuple[Op, ...]
    options: FlowOptions

    @property
    def calls(self) -> Iterator[Call]:
        """All calls, inner ones included, in order."""
        for op in self.ops:
            if isinstance(op, FanOut):
                yield from op.inner
            else:
                yield op


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
                ops.append(Call(step_id, node, _arguments(node, reads), reads, step_id in sources))
                reads = Output(step_id)
            case MapOpenEntry():
                ops.append(FanOut(entry.source_id, _inner(entry), entry.options))
                reads = Results(entry.source_id)
    return Plan(graph.name, graph.params, tuple(ops), graph.options)


def describe(plan: Plan) -> list[str]:
    """Write the plan as lines of text, equal exactly when two plans compute the same from the same parameters.

    Options are left out: a timeout, a retry or a bound on concurrency changes no result.
    """
    lines = []
    for op in plan.ops:
        if isinstance(op, FanOut):
            lines.append(f"map over {op.id}: " + " -> ".join(_describe_call(call) for call in op.inner))
        else:
            lines.append(_describe_call(op))
    return lines


def bind_parameters(params: tuple[FlowParameter, ...], given: Mapping[str, object]) -> dict[str, Json]:
    """Return the JSON of all parameters of a run: what was given, by each parameter's annotation, and defaults.

    Values may be JSON or of the annotated types. Raises ParameterError that names every unknown, missing and wrong one.
    """
    known = {param.name for param in params}
    problems = [f"unknown parameter {name!r}{_known(known)}" for name in given if name not in known]
    bound: dict[str, Json] = {}
    for param in params:
        value = given.get(param.name, param.default)
        if param.name not in given and param.required:
            problems.append(f"{param.name!r} is required{_wanted(param)}")
            continue
        try:
            bound[param.name] = _parameter_json(value, param)
        except ConversionError as error:
            problems.append(f"{param.name!r} is {error}")
    if problems:
        raise ParameterError("; ".join(problems) + ".")
    _check_size(bound)
    return bound


def started_by_aws(params: tuple[FlowParameter, ...], given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the parameters in an execution's input: without what AWS's own tools add and the flow does not take.

    The console fills in a comment, and a state machine that starts another one says which execution it is:
    https://docs.aws.amazon.com/step-functions/latest/dg/concepts-nested-workflows.html
    """
    added = _ADDED_BY_AWS - {param.name for param in params}
    return {name: value for name, value in given.items() if name not in added}


def _check_size(bound: Mapping[str, Json]) -> None:
    size = len(msgspec.json.encode(bound))
    if size > PARAMETERS_BYTES:
        raise ParameterError(
            f"the parameters have {size:,} bytes as JSON, and a run takes {PARAMETERS_BYTES:,}: Step Functions hands "
            "them from state to state. Put what is large into a file or an object, and pass where that is."
        )


def fill(template: Template, params: Mapping[str, Json]) -> Json:
    """Put the parameters of a run into their places."""
    if isinstance(template, ParamRef):
        return params[template.name]
    if isinstance(template, list):
        return [fill(member, params) for member in template]
    if isinstance(template, dict):
        return {name: fill(member, params) for name, member in template.items()}
    return template


def _known(known: set[str]) -> str:
    return f" (the flow takes {', '.join(sorted(known))})" if known else " (the flow takes none)"


def _wanted(param: FlowParameter) -> str:
    return "" if param.annotation is signatures.UNKNOWN else f" ({signatures.describe(param.annotation)})"


def _parameter_json(value: object, param: FlowParameter) -> Json:
    """Return the parameter's JSON: a value of the annotated type, or JSON that makes one."""
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


def _inner(entry: MapOpenEntry) -> tuple[Call, ...]:
    calls: list[Call] = []
    reads: Reads = Item()
    for step, step_id in zip(entry.inner_steps, entry.inner_ids, strict=True):
        calls.append(Call(step_id, step, _arguments(step, reads), reads))
        reads = Output(step_id)
    return tuple(calls)


def _arguments(step: AnyStep, reads: Reads) -> tuple[Argument, ...]:
    """Turn the arguments that a step was called with into templates, each with the parameter that it is for."""
    if step.arguments is None:
        return ()
    parameters = list(signatures.signature(step.fn).parameters.values())
    positional = _positional(parameters, skipped=0 if reads is None else 1)
    hints = signatures.hints(step.fn)
    made = []
    for value in step.arguments.args:
        name = next(positional)
        made.append(Argument(name, _template(step, name, value, hints)))
    catch_all = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for keyword, value in step.arguments.kwargs.items():
        name = keyword if keyword in names else catch_all
        made.append(Argument(name, _template(step, name, value, hints), keyword))
    return tuple(made)


def _positional(parameters: list[inspect.Parameter], skipped: int) -> Iterator[str]:
    """Name the parameters that arguments by position are for; ``*args`` takes all that are left.

    A decorator may add arguments by position that are for no parameter in particular: they get no name.
    """
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    return chain(names[skipped:], repeat(rest))


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


def _names(template: Template) -> Iterator[str]:
    if isinstance(template, ParamRef):
        yield template.name
    elif isinstance(template, list | dict):
        for member in template.values() if isinstance(template, dict) else template:
            yield from _names(member)


def describe_arguments(call: Call) -> str:
    """Write each argument under its parameter, sorted, however it was passed; ``*args`` in order."""
    parameters = signatures.signature(call.step.fn).parameters
    texts = []
    for argument in call.arguments:
        parameter = parameters.get(argument.parameter)
        by_name = parameter is not None and parameter.kind is not parameter.VAR_POSITIONAL
        label = argument.keyword or (argument.parameter if by_name else f"*{argument.parameter}")
        texts.append((label, f"{label}={_describe_template(argument.template)}"))
    return ", ".join(text for _, text in sorted(texts, key=itemgetter(0)))


def _describe_call(call: Call) -> str:
    return f"{call.id} = {call.step.name}({describe_arguments(call)})"


def _describe_template(template: Template) -> str:
    if isinstance(template, ParamRef):
        return f"${template.name}"
    if isinstance(template, list):
        return f"[{', '.join(map(_describe_template, template))}]"
    if isinstance(template, dict):
        return "{" + ", ".join(f"{name!r}: {_describe_template(member)}" for name, member in template.items()) + "}"
    return msgspec.json.encode(template).decode()
