"""How many items of a map one child execution has."""

from __future__ import annotations

from lokki.builder.compiled import Compiled
from lokki.plans.operations import FanOut


def in_batches(compiled: Compiled, fan_out: FanOut) -> bool:
    """Tell whether the children of a map have batches of items.

    Otherwise each has an item, of which Step Functions makes the step's tries.
    """
    return fan_out.options.batch not in (None, 1)
