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
"""Most bytes of a run's parameters as JSON.

A state's 256 KiB hold them beside a value, and the 200,000 bytes of a batch beside its largest item.
"""

PARTS_OF_BATCH = 64
"""Most parts that a batch is tried in when its function runs out of memory.

What is left after them runs in the larger function. It bounds the history of the execution, and the size of all
replies, which a state must hold.
"""

MAP = ".map"
"""Ends the id of a map block, after the id of its source: ``get_birds.map``.

The id of a call is an identifier, which has no dot in it, so the two never collide.
"""

_PARAMETER = "$param"
_ADDED_BY_AWS = {"Comment", "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"}


@dataclass(frozen=True, slots=True)
class ParamRef:
    """The place of a flow's parameter in a step's arguments."""

    name: str


type Template = None | bool | int | float | str | ParamRef | list[Template] | dict[str, Template]
"""JSON in which parameters of the flow have places."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call.

    * ``parameter``: the parameter of the step that it is for; empty where a decorator hides which one that is.
    * ``template``: its value.
    * ``keyword``: the name that it is passed by; None for one that is passed by position.
    * ``variadic``: whether it is one of many for ``*args``.
    """

    parameter: str
    template: Template
    keyword: str | None = None
    variadic: bool = False


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
    """One occurrence of a step in a flow.

    * ``id``: unlike that of any other call of the flow; it names the call's state and the folder of its results.
    * ``step``: the name of the step, by which `Plan.steps` has its function.
    * ``fans_out``: whether its result is the items of a map block.
    """

    id: str
    step: str
    arguments: tuple[Argument, ...]
    reads: Reads
    fans_out: bool = False

    @property
    def params(self) -> tuple[str, ...]:
        """The flow's parameters that its arguments need, sorted."""
        return tuple(sorted({name for argument in self.arguments for name in _names(argument.template)}))


@dataclass(frozen=True, slots=True)
class FanOut:
    """A map block, whose body runs once for each item of its source.

    * ``id``: unlike that of any call or other map block of the flow.
    * ``source``: the id of the call whose result is the items.
    """

    id: str
    source: str
    body: Block
    options: MapOptions = field(default_factory=MapOptions)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of its body, in order."""
        return tuple(calls_in(self.body))


type Op = Call | FanOut
type Block = tuple[Op, ...]
"""Operations that run one after another: a flow, or the body of a map block."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow, lowered: its operations in order, each with an id of its own.

    ``steps`` has the functions by the names of their steps. It counts in no comparison, and is empty in a plan that was
    read back from JSON, which tells what a flow does and cannot run it.
    """

    flow: str
    params: tuple[FlowParameter, ...]
    ops: Block
    options: FlowOptions
    steps: Mapping[str, AnyStep] = field(default_factory=dict, compare=False, repr=False)

    @property
    def calls(self) -> Iterator[Call]:
        """All calls, those in map blocks included, in order."""
        return calls_in(self.ops)

    @property
    def fan_outs(self) -> Iterator[FanOut]:
        """All map blocks, the outer ones first, in order."""
        return _fan_outs_in(self.ops)

    def fan_out(self, fan_out_id: str) -> FanOut:
        """Return the map block of an id. Raises KeyError where there is none."""
        return {fan_out.id: fan_out for fan_out in self.fan_outs}[fan_out_id]


def calls_in(block: Block) -> Iterator[Call]:
    """Yield the calls of a block, those in map blocks included, in order."""
    for op in block:
        if isinstance(op, FanOut):
            yield from calls_in(op.body)
        else:
            yield op


def _fan_outs_in(block: Block) -> Iterator[FanOut]:
    for op in block:
        if isinstance(op, FanOut):
            yield op
            yield from _fan_outs_in(op.body)


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
    return [_line(op) for op in plan.ops]


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


def fill(template: Template, params: Mapping[str, Json]) -> Json:
    """Put the parameters of a run into their places."""
    if isinstance(template, ParamRef):
        return params[template.name]
    if isinstance(template, list):
        return [fill(member, params) for member in template]
    if isinstance(template, dict):
        return {name: fill(member, params) for name, member in template.items()}
    return template


def template_to_json(template: Template) -> Json:
    """Write a template as JSON.

    The place of a parameter is ``{"$param": name}``; in a dict of the user's, a ``$`` that begins a key is doubled.
    """
    if isinstance(template, ParamRef):
        return {_PARAMETER: template.name}
    if isinstance(template, list):
        return [template_to_json(member) for member in template]
    if isinstance(template, dict):
        return {f"${key}" if key.startswith("$") else key: template_to_json(m) for key, m in template.items()}
    return template


def template_from_json(value: object) -> Template:
    """Read what `template_to_json` wrote.

    Raises TypeError for what is no JSON.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [template_from_json(member) for member in value]
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} is no JSON")
    name = value.get(_PARAMETER)
    if isinstance(name, str) and len(value) == 1:
        return ParamRef(name)
    return {key.removeprefix("$") if key.startswith("$$") else key: template_from_json(m) for key, m in value.items()}


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


def _names(template: Template) -> Iterator[str]:
    if isinstance(template, ParamRef):
        yield template.name
    elif isinstance(template, list | dict):
        for member in template.values() if isinstance(template, dict) else template:
            yield from _names(member)


def arguments_text(call: Call) -> str:
    """Write a call's arguments for people, each under its parameter.

    They are sorted, however they were passed; those for ``*args`` stay in order.
    """
    texts = [(label := _label(argument), f"{label}={_template_text(argument.template)}") for argument in call.arguments]
    return ", ".join(text for _, text in sorted(texts, key=itemgetter(0)))


def _line(op: Op) -> str:
    if isinstance(op, Call):
        return f"{op.id} = {op.step}({arguments_text(op)})"
    body = [f"({_line(inner)})" if isinstance(inner, FanOut) else _line(inner) for inner in op.body]
    return f"map over {op.source}: " + " -> ".join(body)


def _label(argument: Argument) -> str:
    if argument.variadic:
        return f"*{argument.parameter}"
    name = argument.keyword or argument.parameter
    # A step that takes **kwargs can be given names with blanks and brackets, which would read as something else.
    return name if name.isidentifier() else msgspec.json.encode(name).decode()


def _template_text(template: Template) -> str:
    if isinstance(template, ParamRef):
        return f"${template.name}"
    if isinstance(template, list):
        return f"[{', '.join(map(_template_text, template))}]"
    if isinstance(template, dict):
        return "{" + ", ".join(f"{name!r}: {_template_text(member)}" for name, member in template.items()) + "}"
    return msgspec.json.encode(template).decode()
