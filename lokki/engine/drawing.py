"""A flow drawn as text, for ``--help``."""

from __future__ import annotations

from lokki.plan import Plan
from lokki.plans.operations import Call, FanOut, arguments_text


def draw(plan: Plan) -> str:
    """Draw a plan from top to bottom, the steps of map blocks set in.

    ::

        get_birds(limit)
        └─▶ each item, at most 10 at a time
            flap_bird
        ┌─◀ all results
        join_birds
    """
    lines: list[str] = []
    for op in plan.ops:
        if isinstance(op, FanOut):
            lines.append("└─▶ " + ", ".join(["each item", *_options(op)]))
            lines.extend(f"    {_call(call)}" for call in op.calls)
            lines.append("┌─◀ all results")
        elif isinstance(op, Call):
            lines.append(_call(op))
    return "\n".join(lines)


def _call(call: Call) -> str:
    arguments = arguments_text(call)
    return f"{call.step}({arguments})" if arguments else call.step


def _options(op: FanOut) -> list[str]:
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
