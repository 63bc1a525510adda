"""What of a resumed run is to run again, although its results are there.

It is decided from the plan, before anything is removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from lokki.base.naming import suggestion
from lokki.errors import RunFolderError
from lokki.local_run.schedule import Unit, units_in
from lokki.plan import Plan
from lokki.plans.operations import calls_in


@dataclass(frozen=True, slots=True)
class Rerun:
    """What a resumed run runs again although its results are there.

    * ``operation``: the id of the call or the map block to run again, with all that depends on it; empty for none.
    * ``failed_items``: whether items run again whose failures were tolerated, with all that depends on their map block.
    """

    operation: str = ""
    failed_items: bool = False


def operation_of(plan: Plan, name: str) -> Unit:
    """Return the operation that a step belongs to.

    ``name``: a call's id, or a step's name.

    A step that stands in the flow more than once is found by the ids of its calls (``clean_2``); by its name it is the
    first of them. An inner step of a map block belongs to the block. Raises RunFolderError for a name that is neither.
    """
    for names_of in (_ids, _step_names):
        for operation in units_in(plan.ops):
            if name in names_of(operation):
                return operation
    ids = list(dict.fromkeys(call.id for call in plan.calls))
    raise RunFolderError(f"{plan.flow} has no step {name!r}. {suggestion(name, ids)}")


def _ids(operation: Unit) -> list[str]:
    return [call.id for call in calls_in((operation,))]


def _step_names(operation: Unit) -> list[str]:
    return [call.step for call in calls_in((operation,))]
