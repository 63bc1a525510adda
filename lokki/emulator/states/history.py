"""The history of executions, as frozen events named as AWS names them.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lokki.base.values import Json


@dataclass(frozen=True, slots=True)
class Child:
    """Which part of a map a child execution is.

    * ``map``: the name of the map's state.
    * ``index``: that of its first item; ``items``: how many it has.
    """

    map: str
    index: int
    items: int

    @property
    def indexes(self) -> range:
        """The indexes of its items."""
        return range(self.index, self.index + self.items)


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of an execution.

    * ``number`` counts from 1 in each execution, ``seconds`` from its start.
    * ``type``: AWS's name without its category, such as ``TaskStateEntered``, ``TaskFailed``, ``MapRunStarted``.
    * ``details``: the fields that AWS has, and ``attempt`` and ``wait`` of ``TaskRetried``, an event that AWS lacks.
    """

    execution: str
    number: int
    type: str
    state: str
    seconds: float
    details: dict[str, Json] = field(default_factory=dict)
    child: Child | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the event as a JSON object."""
        fields: dict[str, Json] = {
            "execution": self.execution,
            "number": self.number,
            "type": self.type,
            "state": self.state,
            "seconds": round(self.seconds, 6),
        }
        if self.child is not None:
            fields["child"] = {"map": self.child.map, "index": self.child.index, "items": self.child.items}
        return {**fields, **self.details}
