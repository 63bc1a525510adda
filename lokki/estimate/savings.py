"""Settings with which the child executions of a map would cost less.

A STANDARD child is billed for its start and for each of its steps, whatever these do. Batches that size themselves,
the default, make children few, so that they cost nearly nothing: the better way. An EXPRESS child is billed by its
duration, which is less for short items, but it ends after five minutes, also when it spends them waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lokki.builder.batching import sizes_itself
from lokki.builder.compiled import Compiled
from lokki.builder.timing import fits_express
from lokki.estimate.cost import Estimate, MapEstimate, Workload, children_cost, count_children
from lokki.estimate.limits import larger_batch
from lokki.plans.operations import FanOut

EXPRESS: Final = "execution_type: EXPRESS"
"""The setting for all maps of a flow."""

WORTH: Final = 0.10
"""Dollars of a run that are worth a word."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What the children of a map cost, and what they would cost instead.

    - ``id``: of the map's source
    - ``dollars``: what the children cost, beside their functions
    - ``alternatives``: what they would cost by setting, such as ``no batch=``; the best advice first
    """

    id: str
    children: int
    dollars: float
    alternatives: tuple[tuple[str, float], ...]


def savings(compiled: Compiled, workload: Workload, estimate: Estimate) -> list[Saving]:
    """Return the maps whose children would cost less with another setting."""
    blocks = {block.id: block for block in estimate.maps}
    listed = [
        _saving(compiled, op, blocks[op.key], workload)
        for op in compiled.maps
        if op.key in blocks and not blocks[op.key].express
    ]
    return [saving for saving in listed if saving.alternatives]


def _saving(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> Saving:
    dollars = children_cost(op, block)
    larger = larger_batch(compiled, op, block, workload)
    alternatives = (
        {}
        if larger is None
        else {larger.setting: count_children(compiled, op, workload, larger.items, express=False, batched=True)}
    )
    # The setting is for all maps of the flow, so all of them must fit. EXPRESS batches do not size themselves.
    if not sizes_itself(compiled, op) and all(fits_express(compiled, fan_out) for fan_out in compiled.maps):
        alternatives[EXPRESS] = count_children(
            compiled, op, workload, block.batch, express=True, batched=block.in_batches
        )
    costs = [(setting, children_cost(op, other)) for setting, other in alternatives.items()]
    return Saving(op.key, block.children, dollars, tuple(cost for cost in costs if dollars - cost[1] >= WORTH))
