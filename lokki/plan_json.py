"""Plans as JSON: what is written of a plan beside runs and state machines, and read where the flow's code is not.

The written form has all of a plan but its functions and the annotations of its parameters::

    {"format": 1, "flow": "birds-flow", "params": [{"name": "limit", "default": 5}], "ops": [
        {"kind": "call", "id": "get_birds", "step": "get_birds", "fans_out": true,
         "arguments": [{"parameter": "limit", "value": {"$param": "limit"}}]},
        {"kind": "map", "id": "get_birds.map", "source": "get_birds", "concurrency": 10, "body": [
            {"kind": "call", "id": "flap_bird", "step": "flap_bird", "reads": {"kind": "item"}}]},
        {"kind": "call", "id": "join_birds", "step": "join_birds",
         "reads": {"kind": "results", "id": "get_birds.map"}}]}

What has its default is left out. Readers are strict: they refuse a plan in which they do not know something, since
what they would make of the rest might be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from lokki.base import signatures
from lokki.base.convert import parameter_json
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.placeholders import FlowParameter
from lokki.base.values import Json
from lokki.errors import LokkiError, StoreError
from lokki.plan import Plan
from lokki.plans.operations import (
    MAP,
    Argument,
    Block,
    Call,
    Case,
    FanOut,
    Fork,
    Gather,
    Op,
    Regrouping,
    Spread,
    Switch,
    operations_in,
)
from lokki.plans.templates import Item, Output, Reads, Results, Source, template_from_json, template_to_json

LINE_FORMAT = 1
"""The format of a plan that is a line of calls and map blocks, as lokki 0.1 knows it."""

GRAPH_FORMAT = 2
"""The format of any other plan.

A change that an older reader would misread needs a new format; a plan is written in the oldest one that can hold it.
"""


_OLD_TEXT = re.compile(r"""("|')(?:\\.|(?!\1)[^\\])*\1""")


class _Output(msgspec.Struct, frozen=True, tag_field="kind", tag="output", forbid_unknown_fields=True):
    id: str


class _Item(msgspec.Struct, frozen=True, tag_field="kind", tag="item", omit_defaults=True, forbid_unknown_fields=True):
    id: str = ""


class _Results(msgspec.Struct, frozen=True, tag_field="kind", tag="results", forbid_unknown_fields=True):
    id: str


class _Spread(msgspec.Struct, frozen=True, tag_field="kind", tag="spread", forbid_unknown_fields=True):
    level: str
    items: _Output | _Item | _Results


class _Gather(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="gather", forbid_unknown_fields=True
):
    level: str
    spread: str
    inner: str
    tolerate: int | float | None = None


class _Argument(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    parameter: str
    value: object  # Json: msgspec takes no recursive alias
    keyword: str | None = None
    variadic: bool = False


class _Call(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="call", forbid_unknown_fields=True):
    id: str
    step: str
    reads: _Output | _Item | _Results | None = None
    arguments: tuple[_Argument, ...] = ()
    fans_out: bool = False
    keeps_value: bool = False
    after: tuple[str, ...] = ()
    cases: tuple[bool | int | str | None, ...] = ()
    passes_on: bool = False
    regroups: _Spread | _Gather | None = None


class _Map(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="map", forbid_unknown_fields=True):
    id: str
    source: str
    body: tuple[_Operation, ...]
    concurrency: int | None = None
    batch: int | None = None
    tolerate: int | float | None = None
    output: str = ""
    item: _Output | _Item | _Results | None = None
    carries: tuple[_Output | _Item | _Results, ...] = ()
    keeps: tuple[_Output | _Item | _Results, ...] = ()


class _Fork(msgspec.Struct, frozen=True, tag_field="kind", tag="fork", forbid_unknown_fields=True):
    id: str
    branches: tuple[tuple[_Operation, ...], ...]


class _Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: bool | int | str | None
    block: tuple[_Operation, ...]
    output: str


class _Switch(msgspec.Struct, frozen=True, tag_field="kind", tag="switch", forbid_unknown_fields=True):
    id: str
    on: str
    cases: tuple[_Case, ...]


type _Operation = _Call | _Map | _Fork | _Switch


class _Parameter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    name: str
    default: object = msgspec.UNSET  # Json, as above


class _Options(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    schedule: str | None = None
    timezone: str | None = None
    timeout: int | float | None = None


class _Plan(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    format: int
    flow: str
    ops: tuple[_Operation, ...]
    params: tuple[_Parameter, ...] = ()
    options: _Options | None = None
    result: str | tuple[str, ...] | None = None


def shape(plan: Plan) -> Plan:
    """Return a plan as it is read back from its written form.

    It has no functions. Its parameters have no annotations, and the JSON of their defaults.
    """
    params = (
        FlowParameter(param.name)
        if param.required
        else FlowParameter(param.name, default=parameter_json(param.default, param.annotation))
        for param in plan.params
    )
    # What starts a flow, and when, is no part of how it runs, nor what it may cost.
    options = replace(plan.options, on=(), schedule_start=None, schedule_end=None, max_cost=None)
    return replace(plan, params=tuple(params), options=options, steps={})


def plan_to_json(plan: Plan) -> dict[str, Json]:
    """Write a plan."""
    params = tuple(
        _Parameter(param.name) if param.required else _Parameter(param.name, param.default)
        for param in shape(plan).params
    )
    options = _Options(plan.options.schedule, plan.options.timezone, plan.options.timeout)
    written = _Plan(
        LINE_FORMAT if _is_line(plan) else GRAPH_FORMAT,
        plan.flow,
        _written_block(plan.ops),
        params,
        None if options == _Options() else options,
        _written_result(plan),
    )
    # Through text, so that it equals what a reader gets, in which there are no tuples.
    document: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(written))
    return document


def plan_from_json(value: object) -> Plan:
    """Read a plan.

    Raises StoreError for a format, a kind of operation or a field that this lokki does not know.
    """
    form = value.get("format") if isinstance(value, dict) else None
    if form not in (LINE_FORMAT, GRAPH_FORMAT):
        raise StoreError(f"the plan has the format {form!r}, of which this lokki knows nothing. Install a newer lokki.")
    try:
        plan = msgspec.convert(value, _Plan)
        params = tuple(
            FlowParameter(param.name)
            if param.default is msgspec.UNSET
            else FlowParameter(param.name, signatures.UNKNOWN, param.default)
            for param in plan.params
        )
        options = plan.options or _Options()
        flow_options = FlowOptions(options.schedule, options.timezone, options.timeout)
        return Plan(plan.flow, params, _read_block(plan.ops), flow_options, result=_read_result(plan.result))
    except (msgspec.ValidationError, LokkiError, TypeError, RecursionError) as error:
        raise StoreError(f"the plan is none that lokki writes: {str(error).removesuffix('.')}.") from None


def _is_line(plan: Plan) -> bool:
    """Tell whether a reader of the first format understands a plan."""
    calls = list(plan.calls)
    return (
        plan.result is None
        and all(isinstance(op, Call | FanOut) for op in operations_in(plan.ops))
        and not any(call.values or call.after or call.keeps_value or call.cases for call in calls)
        and not any(call.passes_on or call.regroups for call in calls)
        and all(fan_out.key == fan_out.source and not fan_out.output for fan_out in plan.fan_outs)
    )


def _written_result(plan: Plan) -> str | tuple[str, ...] | None:
    match plan.result:
        case None:
            return None
        case Output(output_id):
            return output_id
        case outputs:
            return tuple(output.id for output in outputs)


def _read_result(result: str | tuple[str, ...] | None) -> Output | tuple[Output, ...] | None:
    if result is None or isinstance(result, str):
        return None if result is None else Output(result)
    return tuple(map(Output, result))


def _written_block(block: Block) -> tuple[_Operation, ...]:
    return tuple(map(_written_op, block))


def _written_op(op: Op) -> _Operation:
    match op:
        case Call():
            return _written_call(op)
        case FanOut():
            return _written_map(op)
        case Fork(fork_id, branches):
            return _Fork(fork_id, tuple(map(_written_block, branches)))
        case Switch(switch_id, on, cases):
            written = (_Case(case.value, _written_block(case.block), case.output) for case in cases)
            return _Switch(switch_id, on, tuple(written))


def _written_map(fan_out: FanOut) -> _Map:
    options = fan_out.options
    return _Map(
        fan_out.id,
        fan_out.source,
        _written_block(fan_out.body),
        options.concurrency,
        options.batch,
        options.tolerate,
        fan_out.output,
        _written_reads(fan_out.item),
        tuple(map(_written_source, fan_out.carries)),
        tuple(map(_written_source, fan_out.keeps)),
    )


def _written_call(call: Call) -> _Call:
    arguments = tuple(
        _Argument(argument.parameter, template_to_json(argument.template), argument.keyword, argument.variadic)
        for argument in call.arguments
    )
    reads = _written_reads(call.reads)
    return _Call(
        call.id,
        call.step,
        reads,
        arguments,
        call.fans_out,
        call.keeps_value,
        call.after,
        call.cases,
        call.passes_on,
        _written_regrouping(call.regroups),
    )


def _written_regrouping(regrouping: Regrouping | None) -> _Spread | _Gather | None:
    match regrouping:
        case Spread(level, items):
            return _Spread(level, _written_source(items))
        case Gather(level, spread, inner, tolerate):
            return _Gather(level, spread, inner, tolerate)
        case None:
            return None


def _written_reads(reads: Reads) -> _Output | _Item | _Results | None:
    return None if reads is None else _written_source(reads)


def _written_source(source: Source) -> _Output | _Item | _Results:
    match source:
        case Output(call_id):
            return _Output(call_id)
        case Item(fan_out_id):
            return _Item(fan_out_id)
        case Results(fan_out_id):
            return _Results(fan_out_id)


def _read_block(block: tuple[_Operation, ...]) -> Block:
    return tuple(map(_read_op, block))


def _read_op(op: _Operation) -> Op:
    match op:
        case _Map():
            options = MapOptions(op.concurrency, op.batch, op.tolerate)
            return FanOut(
                op.id,
                op.source,
                _read_block(op.body),
                options,
                op.output,
                _read_reads(op.item),
                tuple(map(_read_source, op.carries)),
                tuple(map(_read_source, op.keeps)),
            )
        case _Fork():
            return Fork(op.id, tuple(map(_read_block, op.branches)))
        case _Switch():
            return Switch(
                op.id, op.on, tuple(Case(case.value, _read_block(case.block), case.output) for case in op.cases)
            )
        case _Call():
            return _read_call(op)


def _read_call(op: _Call) -> Call:
    arguments = tuple(
        Argument(
            argument.parameter,
            template_from_json(argument.value),
            argument.keyword,
            argument.variadic,
        )
        for argument in op.arguments
    )
    reads = _read_reads(op.reads)
    return Call(
        op.id,
        op.step,
        arguments,
        reads,
        op.fans_out,
        op.keeps_value,
        op.after,
        op.cases,
        op.passes_on,
        _read_regrouping(op.regroups),
    )


def _read_regrouping(regrouping: _Spread | _Gather | None) -> Regrouping | None:
    match regrouping:
        case _Spread(level=level, items=items):
            return Spread(level, _read_source(items))
        case _Gather(level=level, spread=spread, inner=inner, tolerate=tolerate):
            return Gather(level, spread, inner, tolerate)
        case None:
            return None


def _read_reads(reads: _Output | _Item | _Results | None) -> Reads:
    return None if reads is None else _read_source(reads)


def _read_source(source: _Output | _Item | _Results) -> Source:
    match source:
        case _Output(id=call_id):
            return Output(call_id)
        case _Item(id=fan_out_id):
            return Item(fan_out_id)
        case _Results(id=fan_out_id):
            return Results(fan_out_id)


# --- beside a state machine ---


def outline(plan: Plan) -> Plan:
    """Return the operations of a plan and who reads what, without arguments.

    Parameters and options of the flow are left out, too.
    """
    return Plan(plan.flow, (), tuple(map(_outline_of, plan.ops)), FlowOptions(), result=plan.result)


def plan_comment(plan: Plan) -> str:
    """Write the comment of a flow's state machine.

    It has words for people, and the outline of the plan for `plan_from_definition`. Arguments are left out, since they
    may be large, and a definition has at most 1 MiB:
    https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
    """
    return f"{plan.flow}, built by lokki. {msgspec.json.encode(plan_to_json(outline(plan))).decode()}"


def plan_from_definition(definition: Json) -> Plan:
    """Read the outline of a plan from the definition of its state machine.

    Raises StoreError for a definition that lokki did not build.
    """
    comment = definition.get("Comment") if isinstance(definition, dict) else None
    _, brace, text = comment.partition("{") if isinstance(comment, str) else ("", "", "")
    if not brace:
        return _plan_from_states(definition)
    try:
        return plan_from_json(msgspec.json.decode(brace + text))
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"the plan in the state machine's comment cannot be read: {error}.") from None


def _outline_of(op: Op) -> Op:
    match op:
        case Call():
            return replace(op, arguments=())
        case FanOut():
            return replace(op, body=tuple(map(_outline_of, op.body)))
        case Fork():
            return replace(op, branches=tuple(tuple(map(_outline_of, branch)) for branch in op.branches))
        case Switch():
            cases = tuple(replace(case, block=tuple(map(_outline_of, case.block))) for case in op.cases)
            return replace(op, cases=cases)


# --- as lokki 0.1 left them, which wrote no plans as JSON ---


class _OldPayload(msgspec.Struct, frozen=True):
    call: str


class _OldArguments(msgspec.Struct, frozen=True):
    Payload: _OldPayload


class _OldBatcher(msgspec.Struct, frozen=True):
    MaxItemsPerBatch: int


class _OldState(msgspec.Struct, frozen=True):
    Arguments: _OldArguments | None = None
    ItemProcessor: _OldMachine | None = None
    ItemBatcher: _OldBatcher | None = None
    Next: str | None = None


class _OldMachine(msgspec.Struct, frozen=True):
    StartAt: str
    States: dict[str, _OldState]


class _OldLine:
    """A flow of lokki 0.1, put together from its parts.

    It was a line of calls and map blocks.
    """

    def __init__(self, flow: str) -> None:
        self._flow = flow
        self._ops: list[Op] = []
        self._reads: Reads = None

    def add_call(self, call_id: str, step: str) -> None:
        """Add a call that runs once."""
        self._ops.append(Call(call_id, step, (), self._reads))
        self._reads = Output(call_id)

    def add_map(self, calls: list[tuple[str, str]], options: MapOptions) -> None:
        """Add a map block over the last call, of calls by their ids and steps.

        Raises StoreError where there is no last call.
        """
        source = self._ops[-1] if self._ops else None
        if not isinstance(source, Call) or not calls:
            raise StoreError("the run's plan cannot be read: it has a map that follows no step. Start a new run.")
        self._ops[-1] = replace(source, fans_out=True)
        readings: list[Reads] = [Item(), *(Output(call_id) for call_id, _ in calls)]
        body = tuple(Call(call_id, step, (), reads) for (call_id, step), reads in zip(calls, readings, strict=False))
        self._ops.append(FanOut(f"{source.id}{MAP}", source.id, body, options))
        self._reads = Results(f"{source.id}{MAP}")

    def plan(self) -> Plan:
        """Return what was put together."""
        return Plan(self._flow, (), tuple(self._ops), FlowOptions())


def plan_from_lines(flow: str, lines: list[str]) -> Plan:
    """Read the operations of a plan from the lines of a ``run.json``.

    They are of lokki 0.1, which kept no JSON of plans. An argument's name with ``->`` in it misleads the reader, as it
    did then: lines have no quotes around such names.
    """
    line = _OldLine(flow)
    for text in lines:
        over, colon, body = text.removeprefix("map over ").partition(": ")
        if text.startswith("map over ") and colon and over.isidentifier():
            # Texts among the arguments may hold anything; without them an arrow is an arrow.
            line.add_map([_old_call(call) for call in _OLD_TEXT.sub("", body).split(" -> ")], MapOptions())
        else:
            line.add_call(*_old_call(text))
    return line.plan()


def _old_call(text: str) -> tuple[str, str]:
    call_id, _, call = text.partition(" = ")
    return call_id, call.partition("(")[0]


def _plan_from_states(definition: Json) -> Plan:
    """Read the operations of a plan from the states of a machine.

    It is one that lokki 0.1 built, without JSON of the plan in its comment. The names of steps are not known; the ids
    of calls stand for them.
    """
    line = _OldLine("")
    try:
        for state in _in_order(msgspec.convert(definition, _OldMachine)):
            if state.ItemProcessor is not None:
                batch = state.ItemBatcher.MaxItemsPerBatch if state.ItemBatcher is not None else None
                calls = [_called_by(inner) for inner in _in_order(state.ItemProcessor)]
                line.add_map([(call_id, call_id) for call_id in calls], MapOptions(batch=batch))
            else:
                line.add_call(_called_by(state), _called_by(state))
    except (msgspec.ValidationError, KeyError, LokkiError) as error:
        raise StoreError(f"the run's state machine is none that lokki builds: {error!r}.") from None
    return line.plan()


def _in_order(machine: _OldMachine) -> Iterator[_OldState]:
    name: str | None = machine.StartAt
    while name is not None:
        state = machine.States[name]
        yield state
        name = state.Next


def _called_by(state: _OldState) -> str:
    if state.Arguments is None:
        raise KeyError("Arguments")
    return state.Arguments.Payload.call
