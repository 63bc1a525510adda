"""The picture of a plan, put together along its own tree."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from lokki.base import signatures
from lokki.base.convert import ConversionError, parameter_json
from lokki.graph import FlowParameter
from lokki.pictures.combining import Lane, beside, boxed, framed, stacked
from lokki.pictures.drawing import map_options
from lokki.pictures.shapes import Mark, Picture, shortened
from lokki.plan import Plan
from lokki.plans.levels import drawn_block
from lokki.plans.operations import MAP, Block, Call, Case, FanOut, Fork, Op, Switch, arguments_text, read_next
from lokki.plans.templates import Item, Output, Reads, Results

type Marks = Mapping[str, Mark]
"""What a run made of its operations, by their ids."""

_OPTIONS_WIDTH = 60


def figure_of(plan: Plan, marks: Marks | None = None) -> Picture:
    """Return the picture of a plan, or of a run of it.

    ``marks``: what the run made of its calls and map blocks.
    """
    start = [_note(lines)] if (lines := input_lines(plan)) else []
    end = [_note([returned_text(plan)])] if plan.result is not None else []
    return stacked([*start, *_block(drawn_block(plan.ops), None, marks or {}), *end])


def input_lines(plan: Plan) -> list[str]:
    """Say what starts a run and which parameters it takes."""
    schedule = plan.options.schedule
    zone = f" {plan.options.timezone}" if plan.options.timezone else ""
    return [*([f"{schedule}{zone}"] if schedule else []), *map(_parameter, plan.params)]


def returned_text(plan: Plan) -> str:
    """Say what the flow returns."""
    ids = ", ".join(output.id for output in plan.outputs)
    return f"returns ({ids})" if plan.returns_tuple else f"returns {ids}"


def call_lines(call: Call, previous: Reads) -> list[str]:
    """Return a call's id, its arguments and what it reads.

    What comes right before it, ``previous``, needs no word.
    """
    lines = [call.id]
    if arguments := arguments_text(call):
        lines.append(arguments)
    if isinstance(call.reads, Output | Results) and call.reads != previous:
        lines.append(
            f"reads {'results of ' if isinstance(call.reads, Results) else ''}{call.reads.id.removesuffix(MAP)}"
        )
    if call.after:
        lines.append(f"after {', '.join(call.after)}")
    return lines


def map_lines(fan_out: FanOut) -> list[str]:
    """Say over what a map block runs, and how."""
    options = ", ".join(map_options(fan_out))
    return [f"each item of {fan_out.source}", *([options] if options else [])]


def case_text(case: Case) -> str:
    """Write the value that a case is for."""
    return "else" if case.value is None else msgspec.json.encode(case.value).decode()


def _block(block: Block, previous: Reads, marks: Marks) -> list[Picture]:
    pictures = []
    for op in block:
        pictures.append(_operation(op, previous, marks))
        previous = read_next(op)
    return pictures


def _operation(op: Op, previous: Reads, marks: Marks) -> Picture:
    inner = partial(_inner, marks=marks)
    match op:
        case Call():
            lines = call_lines(op, previous)
            return boxed(_short(lines), "choice" if op.cases else "step", "\n".join(lines), marks.get(op.id))
        case FanOut():
            lines = map_lines(op)
            return framed(inner(op.body, Item()), _short(lines, _OPTIONS_WIDTH), "\n".join(lines), marks.get(op.id))
        case Fork():
            return beside([Lane(inner(branch, previous)) for branch in op.branches])
        case Switch():
            return beside([Lane(inner(case.block, None), shortened(case_text(case), 24)) for case in op.cases])


def _inner(block: Block, previous: Reads, marks: Marks) -> Picture:
    return stacked(_block(block, previous, marks))


def _note(lines: list[str]) -> Picture:
    return boxed(_short(lines), "note", "\n".join(lines))


def _short(lines: list[str], most: int | None = None) -> list[str]:
    return [shortened(line) if most is None else shortened(line, most) for line in lines]


def _parameter(param: FlowParameter) -> str:
    kind = "" if param.annotation is signatures.UNKNOWN else f": {signatures.describe(param.annotation)}"
    if param.required:
        return f"{param.name}{kind}"
    try:
        default = msgspec.json.encode(parameter_json(param.default, param.annotation)).decode()
    except (ConversionError, UnicodeEncodeError):  # a plan of another lokki, or half of a surrogate pair
        default = "…"
    return f"{param.name}{kind} = {default}"
