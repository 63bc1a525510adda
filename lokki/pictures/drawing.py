"""A flow drawn as text, for ``--help``."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lokki.plan import Plan
from lokki.plans.levels import drawn_block
from lokki.plans.operations import Block, Call, Case, FanOut, Fork, Switch, arguments_text
from lokki.plans.templates import Item, Output, Reads, Results


def draw(plan: Plan) -> str:
    """Draw a plan from top to bottom.

    The steps of map blocks are set in, branches stand between double lines, and the cases of a switch follow the step
    that chooses::

        get_birds(limit=$limit)
        ╔═ side by side
        ║ count
        ╟─
        ║ └─▶ each item, at most 10 at a time
        ║     flap_bird
        ║     is_large
        ║     ├ true ─▶ weigh
        ║     └ else ─▶ measure
        ║ ┌─◀ all results
        ║ join_birds
        ╚═
        report(birds=join_birds.result)
    """
    lines = list(_block(drawn_block(plan.ops), None))
    if plan.result is not None:
        ids = ", ".join(output.id for output in plan.outputs)
        lines.append(f"returns ({ids})" if plan.returns_tuple else f"returns {ids}")
    return "\n".join(lines)


def _block(block: Block, previous: Reads) -> Iterator[str]:
    """Yield the lines of a block.

    ``previous``: what the first operation reads if nothing is said of it.
    """
    for op in block:
        match op:
            case Call():
                yield _call(op, previous)
                previous = Output(op.id)
            case FanOut():
                over = "" if previous in (None, Output(op.source)) else f" of {op.source}"
                yield "└─▶ " + ", ".join([f"each item{over}", *map_options(op)])
                yield from (f"    {line}" for line in _block(op.body, Item()))
                yield "┌─◀ all results"
                previous = Results(op.id)
            case Fork():
                yield from _fork(op, previous)
                previous = None
            case Switch():
                for case in op.cases:
                    yield from _case(case, is_last=case is op.cases[-1])
                previous = Output(op.id)


def _fork(fork: Fork, previous: Reads) -> Iterator[str]:
    for number, branch in enumerate(fork.branches):
        yield "╟─" if number else "╔═ side by side"
        yield from (f"║ {line}" for line in _block(branch, previous))
    yield "╚═"


def _case(case: Case, *, is_last: bool) -> Iterator[str]:
    value = "else" if case.value is None else msgspec.json.encode(case.value).decode()
    begin = f"{'└' if is_last else '├'} {value} ─▶ "
    further = ("  " if is_last else "│ ") + " " * (len(begin) - 2)
    for number, line in enumerate(_block(case.block, None)):
        yield f"{further if number else begin}{line}"


def _call(call: Call, previous: Reads) -> str:
    arguments = arguments_text(call)
    text = f"{call.gives}({arguments})" if arguments else call.gives
    # What comes right before is what a step reads, as far as nothing else is said.
    if isinstance(call.reads, Output | Results) and previous is not None and call.reads != previous:
        text += f"  ◁ {call.reads.id}"
    return f"{text}  after {', '.join(call.after)}" if call.after else text


def map_options(op: FanOut) -> list[str]:
    """Say how a map block runs its items, as far as the flow says."""
    options = op.options
    texts = []
    if options.concurrency is not None:
        texts.append(f"at most {options.concurrency} at a time")
    if options.batch is not None:
        texts.append(f"{options.batch} to a batch")
    if options.tolerate is not None:
        share = isinstance(options.tolerate, float)
        texts.append(f"{options.tolerate * 100:g} % may fail" if share else f"{options.tolerate} may fail")
    return texts
