"""What happens in a run, as frozen values. Progress, logs and the report are folds of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, item_to_json
from lokki.base.values import Json


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began, or went on where it had stopped."""

    flow: str
    run_id: str
    params: dict[str, Json]
    resumed: bool = False
    folder: str = ""


@dataclass(frozen=True, slots=True)
class CodeChanged:
    """A run goes on with results of a step whose code has changed.

    ``items``: how many, of a map block that is not finished and whose other items the changed code will run; else None.
    """

    step: str
    items: int | None = None


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step that runs once began."""

    id: str


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """A step or a map block has its result from before the resume."""

    id: str


@dataclass(frozen=True, slots=True)
class StepNotChosen:
    """A step does not run, since its switch chose another case."""

    id: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step that runs once has its result in the store.

    ``items``: how many there are, when it is the source of a map block.
    """

    id: str
    seconds: float
    size: int
    items: int | None = None


@dataclass(frozen=True, slots=True)
class StepRetried:
    """A try of a step failed, and another follows.

    ``wait``: the seconds until then. ``item``: the item that it failed on, inside a map block.
    """

    id: str
    item: ItemPath
    attempt: int
    wait: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step that runs once failed for good."""

    id: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class MapStarted:
    """A map block began.

    * ``items``: how many there are; ``finished``: how many have results from before the run was resumed.
    * ``workers``: how many run items at the same time.
    """

    id: str
    steps: tuple[str, ...]
    items: int
    finished: int = 0
    workers: int = 1


type StepWork = tuple[int, float, int]
"""Calls of a step of a map, their seconds, and the bytes of what they returned, 0 where that is not known."""


def add_work(to: dict[str, StepWork], more: Mapping[str, StepWork]) -> None:
    """Add the work of steps to what is known of them."""
    for step, (calls, seconds, size) in more.items():
        others = to.get(step, (0, 0.0, 0))
        to[step] = others[0] + calls, others[1] + seconds, others[2] + size


@dataclass(frozen=True, slots=True)
class ItemsFinished:
    """Items of a map block have their results in the store.

    ``count``: how many; ``seconds``: what one worker spent on them.

    ``slowest``: the item that took longest, and ``slowest_seconds`` how long; ``()`` where that is not known.
    ``steps``: of a map of several steps, the work of each by its id.
    """

    id: str
    count: int
    seconds: float
    slowest: ItemPath = ()
    slowest_seconds: float = 0.0
    steps: Mapping[str, StepWork] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """An item of a map block failed for good."""

    id: str
    item: ItemPath
    failure: Failure


@dataclass(frozen=True, slots=True)
class ItemsFailed:
    """Further items of a map block failed for good.

    ``count``: how many; no more is known of them here.
    """

    id: str
    count: int


@dataclass(frozen=True, slots=True)
class MapFinished:
    """All items of a map block were run.

    ``failed`` of them failed and were tolerated.
    """

    id: str
    succeeded: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A line that a step printed or logged.

    ``stream``: stdout, stderr or log. ``id``: empty when the step is not known.
    """

    id: str
    item: ItemPath
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has its result."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run ended without a result.

    It can be resumed.
    """

    seconds: float
    message: str


@dataclass(frozen=True, slots=True)
class RunInterrupted:
    """The run was stopped by the user.

    It can be resumed.
    """

    seconds: float


type Event = (
    RunStarted
    | CodeChanged
    | StepStarted
    | StepSkipped
    | StepNotChosen
    | StepFinished
    | StepRetried
    | StepFailed
    | MapStarted
    | ItemsFinished
    | ItemFailed
    | ItemsFailed
    | MapFinished
    | StepOutput
    | RunFinished
    | RunFailed
    | RunInterrupted
)


def event_to_json(event: Event) -> dict[str, Json]:
    """Return an event as the object that logs and ``--json`` have.

    Its kind is ``event`` (``step_started``), its fields follow; the item is ``index``, as `item_to_json` writes it.
    """
    fields: dict[str, Json] = msgspec.to_builtins(event)
    if isinstance(event, StepRetried | ItemFailed | StepOutput):
        # The field was `index` before items had paths, and programs read it.
        fields["item"] = item_to_json(event.item)
        fields = {"index" if field == "item" else field: value for field, value in fields.items()}
    elif isinstance(event, ItemsFinished) and not event.steps:
        del fields["steps"]
    return {"event": _kind(type(event).__name__), **fields}


@cache
def _kind(name: str) -> str:
    """Return what an event is in logs, by the name of its class."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
