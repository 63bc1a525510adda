"""What of a resumed run is to run again, although its results are there.

It is decided from the plan, before anything is removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from lokki.base.naming import suggestion
from lokki.errors import RunFolderError
from lokki.plan import Plan
from lokki.plans.operations import Op, calls_in


@dataclass(frozen=True, slots=True)
class Rerun:
    """What a resumed run runs again although its results are there.

    * ``operation``: the position in the plan of the first operation to run again, with all that follow it; None for
      none.
    * ``failed_items``: whether items run again whose failures were tolerated, with all that follows their map block.
    """

    operation: int | None = None
    failed_items: bool = False


def operation_of(plan: Plan, name: str) -> int:
    """Return the position of the operation that a step belongs to.

    ``name``: a call's id, or a step's name.

    A step that stands in the flow more than once is found by the ids of its calls (``clean_2``); by its name it is the
    first of them. An inner step of a map block belongs to the block. Raises RunFolderError for a name that is neither.
    """
    for names_of in (_ids, _step_names):
        for position, operation in enumerate(plan.ops):
            if name in names_of(operation):
                return position
    ids = list(dict.fromkeys(call_id for operation in plan.ops for call_id in _ids(operation)))
    raise RunFolderError(f"{plan.flow} has no step {name!r}. {suggestion(name, ids)}")


def _ids(operation: Op) -> list[str]:
    return [call.id for call in calls_in((operation,))]


def _step_names(operation: Op) -> list[str]:
    return [call.step for call in calls_in((operation,))]
