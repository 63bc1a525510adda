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

from dataclasses import replace

import msgspec

from lokki.base import signatures
from lokki.base.convert import parameter_json
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.errors import LokkiError, StoreError
from lokki.graph import FlowParameter
from lokki.plan import (
    Argument,
    Block,
    Call,
    FanOut,
    Item,
    Op,
    Output,
    Plan,
    Reads,
    Results,
    template_from_json,
    template_to_json,
)

PLAN_FORMAT = 1
"""The format in which plans are written; a change that an older reader would misread needs a new one."""


class _Output(msgspec.Struct, frozen=True, tag_field="kind", tag="output", forbid_unknown_fields=True):
    id: str


class _Item(msgspec.Struct, frozen=True, tag_field="kind", tag="item", forbid_unknown_fields=True):
    """Has no fields."""


class _Results(msgspec.Struct, frozen=True, tag_field="kind", tag="results", forbid_unknown_fields=True):
    id: str


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


class _Map(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="map", forbid_unknown_fields=True):
    id: str
    source: str
    body: tuple[_Call | _Map, ...]
    concurrency: int | None = None
    batch: int | None = None
    tolerate: int | float | None = None


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
    ops: tuple[_Call | _Map, ...]
    params: tuple[_Parameter, ...] = ()
    options: _Options = _Options()


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
    return replace(plan, params=tuple(params), steps={})


def plan_to_json(plan: Plan) -> dict[str, Json]:
    """Write a plan."""
    params = tuple(
        _Parameter(param.name) if param.required else _Parameter(param.name, param.default)
        for param in shape(plan).params
    )
    options = _Options(plan.options.schedule, plan.options.timezone, plan.options.timeout)
    written = _Plan(PLAN_FORMAT, plan.flow, _written_block(plan.ops), params, options)
    # Through text, so that it equals what a reader gets, in which there are no tuples.
    document: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(written))
    return document


def plan_from_json(value: object) -> Plan:
    """Read a plan. Raises StoreError for a format, a kind of operation or a field that this lokki does not know."""
    form = value.get("format") if isinstance(value, dict) else None
    if form != PLAN_FORMAT:
        raise StoreError(f"the plan has the format {form!r}, of which this lokki knows nothing. Install a newer lokki.")
    try:
        plan = msgspec.convert(value, _Plan)
        params = tuple(
            FlowParameter(param.name)
            if param.default is msgspec.UNSET
            else FlowParameter(param.name, signatures.UNKNOWN, param.default)
            for param in plan.params
        )
        options = FlowOptions(plan.options.schedule, plan.options.timezone, plan.options.timeout)
        return Plan(plan.flow, params, _read_block(plan.ops), options)
    except (msgspec.ValidationError, LokkiError, TypeError, RecursionError) as error:
        raise StoreError(f"the plan is none that lokki writes: {str(error).removesuffix('.')}.") from None


def _written_block(block: Block) -> tuple[_Call | _Map, ...]:
    return tuple(_written_map(op) if isinstance(op, FanOut) else _written_call(op) for op in block)


def _written_map(fan_out: FanOut) -> _Map:
    options = fan_out.options
    return _Map(
        fan_out.id,
        fan_out.source,
        _written_block(fan_out.body),
        options.concurrency,
        options.batch,
        options.tolerate,
    )


def _written_call(call: Call) -> _Call:
    arguments = tuple(
        _Argument(argument.parameter, template_to_json(argument.template), argument.keyword, argument.variadic)
        for argument in call.arguments
    )
    return _Call(call.id, call.step, _written_reads(call.reads), arguments, call.fans_out)


def _written_reads(reads: Reads) -> _Output | _Item | _Results | None:
    match reads:
        case Output(call_id):
            return _Output(call_id)
        case Item():
            return _Item()
        case Results(fan_out_id):
            return _Results(fan_out_id)
        case None:
            return None


def _read_block(block: tuple[_Call | _Map, ...]) -> Block:
    return tuple(map(_read_op, block))


def _read_op(op: _Call | _Map) -> Op:
    if isinstance(op, _Map):
        options = MapOptions(op.concurrency, op.batch, op.tolerate)
        return FanOut(op.id, op.source, _read_block(op.body), options)
    arguments = tuple(
        Argument(
            argument.parameter,
            template_from_json(argument.value),
            argument.keyword,
            argument.variadic,
        )
        for argument in op.arguments
    )
    return Call(op.id, op.step, arguments, _read_reads(op.reads), op.fans_out)


def _read_reads(reads: _Output | _Item | _Results | None) -> Reads:
    match reads:
        case _Output(id=call_id):
            return Output(call_id)
        case _Item():
            return Item()
        case _Results(id=fan_out_id):
            return Results(fan_out_id)
        case None:
            return None
