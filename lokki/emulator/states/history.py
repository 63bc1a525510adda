"""The history of executions, as frozen events named as AWS names them.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lokki.base.values import Json


@dataclass(frozen=True, slots=True)
class Child:
    """Which part of a map a child execution is: the map's state, its items' first index and their number."""

    map: str
    index: int
    items: int


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of an execution. ``number`` counts from 1 in each execution, ``seconds`` since its beginning.

    ``type`` is AWS's name without its category: ``TaskStateEntered``, ``TaskFailed``, ``MapRunStarted`` …; ``details``
    are the fields that AWS has, and ``attempt``, ``wait`` for ``TaskRetried``, which AWS does not tell of.
    """

    execution: str
    number: int
    type: str
    state: str
    seconds: float
    details: dict[str, Json] = field(default_factory=dict)
    child: Child | None = None


def event_to_json(event: HistoryEvent) -> dict[str, Json]:
    """Return an event as a JSON object."""
    described: dict[str, Json] = {
        "execution": event.execution,
        "number": event.number,
        "type": event.type,
        "state": event.state,
        "seconds": round(event.seconds, 6),
    }
    if event.child is not None:
        described["child"] = {"map": event.child.map, "index": event.child.index, "items": event.child.items}
    return {**described, **event.details}
