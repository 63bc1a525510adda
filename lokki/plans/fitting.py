"""Whether the steps of a flow can be called as it calls them, by their signatures and annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator

from lokki.base import signatures
from lokki.base.placeholders import (
    ChainResult,
    Param,
    awaited_chain,
    awaited_text,
    parameter_annotation,
    parameter_argument,
    parameter_name,
    placeholders_in,
)
from lokki.chain import AnyStep
from lokki.errors import FlowError
from lokki.plans.switching import check_cases
from lokki.plans.units import Bound, CallUnit, DrawnUnit, ItemOf, MapUnit, PassingUnit, Provider, SwitchUnit


def check_names(calls: Iterable[CallUnit]) -> None:
    """Refuse two different steps of one name.

    A name belongs to one function with one set of options: it is one Lambda function.
    """
    by_name: dict[str, AnyStep] = {}
    for step in (call.node for call in calls):
        first = by_name.setdefault(step.name, step)
        if first.fn is not step.fn:
            raise FlowError(
                f"two steps are named {step.name!r}: {_place(first)} and {_place(step)}. "
                "Each becomes a Lambda function of that name; rename one of them."
            )
        if first.options != step.options:
            raise FlowError(
                f"the step {step.name!r} is used with two sets of options, {first.options} and {step.options}. "
                "Each name becomes one Lambda function; give one of them a function of its own."
            )


def _place(step: AnyStep) -> str:
    code = getattr(inspect.unwrap(step.fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else f"{step.fn!r}"


def check_fit(units: Iterable[DrawnUnit]) -> None:
    """Refuse calls that get what they do not take."""
    for unit in units:
        match unit:
            case CallUnit():
                _check_call(unit)
            case MapUnit():
                _check_map(unit)
            case SwitchUnit():
                _check_switch(unit)


def check_use(use: CallUnit) -> None:
    """Refuse a flow as a step that gets what it does not take."""
    _check_call(use)


def _check_switch(unit: SwitchUnit) -> None:
    _check_call(unit.on)
    check_cases(unit, returned(unit.on))
    for case in unit.cases:
        check_fit(case.units)


def _check_map(unit: MapUnit) -> None:
    block = unit.block
    if returned(ItemOf(unit)) is None:
        raise FlowError(
            f"{block.inner_steps[0].where}: .map() cannot run over {text_of(unit.source)}, "
            f"{signatures.describe(returned(unit.source))}: it takes a list or another iterable "
            "(strings, bytes and mappings have no items that could be meant)."
        )
    mapped = [step for verb, step in zip(block.joined, block.inner_steps, strict=True) if verb == "map"][1:]
    for inner in unit.body:
        if isinstance(inner, CallUnit):
            _check_call(inner, is_mapped=any(inner.node is step for step in mapped))
        else:
            check_fit([inner])


def _check_call(call: CallUnit, *, is_mapped: bool = False) -> None:
    step, reads = call.node, call.reads
    if isinstance(call, PassingUnit):
        return  # it calls no step
    if reads is None:
        _check_arguments(call, ())
        return
    first = _check_arguments(call, (object(),), text_of(reads))
    annotation, result = _hint(step, first), returned(reads)
    if isinstance(reads, MapUnit) and signatures.lazy_kind(annotation) is Iterator:
        # Results come as a list, or one by one to a step that asks for an iterator.
        annotation = signatures.list_of(signatures.element(annotation))
    if signatures.accepts(annotation, result):
        return
    problem = (
        f"{step.where}: {step.name}() takes {signatures.describe(annotation)} as {first!r}, "
        f"but gets {text_of(reads)}: {signatures.describe(result)}."
    )
    item = signatures.element(result)
    if is_mapped and isinstance(reads, CallUnit) and item is not None and signatures.accepts(annotation, item):
        problem = (
            f"{problem} Nested .map() is not supported: inside a map block .map({step.name}) runs on each item's "
            f"result. Close the block with .agg() before mapping over what {reads.node.name}() returns. For a map "
            "below a map, map over a @flow that has the inner one."
        )
    raise FlowError(problem)


def text_of(provider: Provider) -> str:
    """Say what a value is, for people."""
    match provider:
        case PassingUnit(text=text):
            return text
        case CallUnit(in_map=True):
            return f"what {provider.node.name}() returns for each item"
        case CallUnit():
            return f"what {provider.node.name}() returns"
        case MapUnit(result=CallUnit(node=last)):
            return f"the list of what {last.name}() returns"
        case MapUnit():
            return f"the list of results of {provider.block}"
        case SwitchUnit():
            return f"what the switch on {provider.on.node.name}() gives"
        case ItemOf(MapUnit(source=PassingUnit(text=text))):
            return f"each item of {text}"
        case ItemOf(unit):
            return f"each item of {unit.source.node.name}()"


def returned(provider: Provider) -> object:
    """Return the annotation of a value.

    None for an item where a map cannot run over its source.
    """
    match provider:
        case PassingUnit(annotation=annotation):
            return annotation
        case CallUnit():
            return _hint(provider.node, "return")
        case MapUnit():
            item = signatures.UNKNOWN if provider.result is None else returned(provider.result)
            return signatures.list_of(item)
        case SwitchUnit(cases=cases):
            return signatures.union_of([returned(case.result) for case in cases])
        case ItemOf(unit):
            return signatures.element(returned(unit.source))


def _check_arguments(call: CallUnit, upstream: tuple[object, ...], source_text: str = "") -> str:
    """Check that a step can be called as the flow calls it.

    Returns the name of the parameter that ``upstream`` fills. ``source_text``: says what that is.
    """
    step = call.node
    signature = signatures.signature(step.fn)
    arguments = step.arguments
    args, kwargs = (arguments.args, arguments.kwargs) if arguments else ((), {})
    where = f"{step.where}: " if step.where else ""
    if upstream and not any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
        for parameter in signature.parameters.values()
    ):
        raise FlowError(f"{where}{step.name}() takes no argument, but gets {source_text}. Give it a first parameter.")
    try:
        bound = signature.bind(*upstream, *args, **kwargs)
    except TypeError as error:
        if signatures.is_decorated(step.fn) and _binds(step.fn, (*upstream, *args), kwargs):
            return ""
        first = f" Its first argument is {source_text}." if upstream else ""
        raise FlowError(
            f"{where}{step.name}{signature} cannot be called as the flow calls it: {error}.{first} "
            f"Bind what is missing in the flow: {step.name}(…)."
        ) from None
    for name, value, annotation in _passed(signature, bound, step):
        _check_value(call, name, value, annotation)
        if isinstance(value, Param) and step.flow is None and not _is_bound(value):
            _check_is_annotated(step, name, value)
    return next(iter(signature.parameters), "")


def _is_bound(placeholder: Param) -> bool:
    """Tell whether a parameter stands for a value of the run, and no JSON."""
    bound = parameter_argument(placeholder)
    if not isinstance(bound, Bound):
        return False
    if isinstance(bound.value, Param):
        return _is_bound(bound.value)
    return bound.provider is not None or any(
        isinstance(placeholder, ChainResult) for placeholder in placeholders_in(bound.value)
    )


def _passed(
    signature: inspect.Signature, bound: inspect.BoundArguments, step: AnyStep
) -> Iterator[tuple[str, object, object]]:
    """Yield each argument with its parameter and the annotation that binds it.

    Each of those for ``*args`` and ``**kwargs`` comes alone.
    """
    for name, value in bound.arguments.items():
        annotation = _hint(step, name)
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                yield from ((name, member, annotation) for member in value)
            case inspect.Parameter.VAR_KEYWORD:
                yield from ((keyword, member, annotation) for keyword, member in value.items())
            case _:
                yield name, value, annotation


def _binds(fn: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    """Tell whether a decorated function takes these arguments.

    Its decorator may add some and remove some, so the wrapper's own signature counts.
    """
    try:
        inspect.signature(fn, follow_wrapped=False).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _check_value(call: CallUnit, name: str, value: object, annotation: object) -> None:
    """Check a parameter of the flow or a result, also in what contains it."""
    if isinstance(value, list | tuple | dict):
        values = list(value.values()) if isinstance(value, dict) else list(value)
        for member, inner in zip(values, signatures.members(annotation, len(values)), strict=True):
            _check_value(call, name, member, inner)
        return
    if isinstance(value, Param):
        passed, text = parameter_annotation(value), f"the flow's parameter {parameter_name(value)!r}"
    elif isinstance(value, ChainResult):
        passed = returned(call.chains[id(awaited_chain(value))])
        text = f"the result of {awaited_text(value)}"
    else:
        return
    if not signatures.accepts(annotation, passed):
        raise FlowError(
            f"{call.node.where}: {call.node.name}() takes {signatures.describe(annotation)} as {name!r}, but {text} is "
            f"{signatures.describe(passed)}."
        )


def _check_is_annotated(step: AnyStep, name: str, placeholder: Param) -> None:
    """Refuse to hand what is no JSON to a parameter without an annotation.

    A step would get the JSON of a date, say, which is a string.
    """
    passed = parameter_annotation(placeholder)
    if name not in signatures.hints(step.fn) and not signatures.is_json(passed):
        kind = signatures.describe(passed)
        raise FlowError(
            f"{step.where}: {step.name}() takes {name!r} without an annotation, so it would get the JSON of the flow's "
            f"parameter {parameter_name(placeholder)!r} and no {kind}. Annotate it: {name}: {kind}."
        )


def _hint(step: AnyStep, name: str) -> object:
    """Return the annotation that binds a step.

    Where a decorator may have changed what the function takes and returns, there is none.
    """
    if signatures.is_decorated(step.fn):
        return signatures.UNKNOWN
    return signatures.hints(step.fn).get(name, signatures.UNKNOWN)
