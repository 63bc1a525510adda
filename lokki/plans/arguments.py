"""The arguments of calls as templates: JSON, with places for parameters of the flow and for values of the run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import chain, repeat

from lokki.base import signatures
from lokki.base.convert import ConversionError, to_json
from lokki.base.placeholders import (
    ChainResult,
    Param,
    awaited_chain,
    parameter_annotation,
    parameter_argument,
    parameter_name,
    placeholders_in,
)
from lokki.base.values import Json
from lokki.errors import FlowError
from lokki.plans.operations import Argument
from lokki.plans.templates import Item, Output, ParamRef, Reads, Results, Template
from lokki.plans.units import Bound, CallUnit, Chains, PassingUnit, source_of


def inputs_of(call: CallUnit) -> tuple[Reads, tuple[Argument, ...]]:
    """Return what fills a call's first parameter, and its arguments.

    A result that is passed as the first argument by position is read as if the step were chained to it.

    Raises FlowError for an argument that cannot travel as JSON, naming step, parameter and type.
    """
    arguments = _passed_on(call) if isinstance(call, PassingUnit) else _arguments(call)
    if call.reads is not None:
        return source_of(call.reads), arguments
    first = arguments[0] if arguments else None
    if first is None or first.keyword is not None or not isinstance(first.template, Output | Results | Item):
        return None, arguments
    return first.template, arguments[1:]


def _arguments(call: CallUnit) -> tuple[Argument, ...]:
    """Turn the arguments that a step was called with into templates."""
    step = call.node
    if step.arguments is None:
        return ()
    parameters = list(signatures.signature(step.fn).parameters.values())
    positional = _positional(parameters, skipped=0 if call.reads is None else 1)
    hints = signatures.hints(step.fn)
    arguments = []
    for value in step.arguments.args:
        name, variadic = next(positional)
        arguments.append(Argument(name, _template(call, name, value, hints), variadic=variadic))
    catch_all = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for keyword, value in step.arguments.kwargs.items():
        name = keyword if keyword in names else catch_all
        arguments.append(Argument(name, _template(call, name, value, hints), keyword))
    return tuple(arguments)


def _passed_on(call: PassingUnit) -> tuple[Argument, ...]:
    """Return the argument of a call that gives it to a map block."""
    if call.reads is not None or call.node.arguments is None:
        return ()
    item = signatures.hints(call.node.fn).get(call.parameter, signatures.UNKNOWN)
    [value] = call.node.arguments.args
    try:
        return (Argument(call.parameter, _convert(value, signatures.list_of(item), call.chains)),)
    except ConversionError as error:
        raise FlowError(f"{call.node.where}: each() gives {call.node.name}() what it does not take: {error}.") from None


def _positional(parameters: list[inspect.Parameter], skipped: int) -> Iterator[tuple[str, bool]]:
    """Yield the parameters of arguments by position, and which are variadic.

    A decorator may add arguments by position that are for no parameter in particular: they get no name.
    """
    names = [(p.name, False) for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    return chain(names[skipped:], repeat((rest, True)))


def _template(call: CallUnit, name: str, value: object, hints: dict[str, object]) -> Template:
    step = call.node
    try:
        return _convert(value, hints.get(name, signatures.UNKNOWN), call.chains)
    except ConversionError as error:
        raise FlowError(f"{step.where}: the argument {name!r} of {step.name}() is {error}.") from None


def _convert(value: object, annotation: object, chains: Chains) -> Template:
    if isinstance(value, Param):
        return _parameter(value)
    if isinstance(value, ChainResult):
        return source_of(chains[id(awaited_chain(value))])
    has_placeholder = next(placeholders_in(value), None) is not None
    if has_placeholder and isinstance(value, list | tuple):
        inner = signatures.member(annotation)
        return [_convert(member, inner, chains) for member in value]
    if has_placeholder and type(value) is dict:
        if not all(type(name) is str for name in value):
            raise ConversionError(f"{value!r}; in a dict with parameters of the flow, keys must be strings")
        inner = signatures.member(annotation)
        return {name: _convert(member, inner, chains) for name, member in value.items()}
    return _as_template(to_json(value, annotation))


def _parameter(placeholder: Param) -> Template:
    """Return the place of a parameter, or what it is bound to."""
    bound = parameter_argument(placeholder)
    if not isinstance(bound, Bound):
        return ParamRef(parameter_name(placeholder))
    if bound.provider is not None:
        return source_of(bound.provider)
    return _convert(bound.value, parameter_annotation(placeholder), bound.chains)


def _as_template(value: Json) -> Template:
    return value  # type: ignore[return-value]  # JSON is a template without places; list is invariant
