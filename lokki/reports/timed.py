"""The events of a run with their times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lokki.base.item_path import item_from_json
from lokki.engine import events
from lokki.engine.events import Event
from lokki.local_run.folder import LOG
from lokki.reports.facts import RunFacts
from lokki.reports.gathering import Gathering

type TimedEvent = tuple[float, Event]
"""An event and when it was, in seconds since 1970."""

_KINDS: Mapping[str, type[Event]] = {
    "code_changed": events.CodeChanged,
    "step_started": events.StepStarted,
    "step_skipped": events.StepSkipped,
    "step_not_chosen": events.StepNotChosen,
    "step_finished": events.StepFinished,
    "step_retried": events.StepRetried,
    "step_failed": events.StepFailed,
    "map_started": events.MapStarted,
    "items_finished": events.ItemsFinished,
    "item_failed": events.ItemFailed,
    "items_failed": events.ItemsFailed,
    "map_finished": events.MapFinished,
    "step_output": events.StepOutput,
    "run_finished": events.RunFinished,
    "run_failed": events.RunFailed,
    "run_interrupted": events.RunInterrupted,
}
"""The events by the names that logs have for them."""


def logged_events(folder: Path) -> Iterator[TimedEvent]:
    """Yield the events of a run on this machine.

    Nothing for a run that kept no log. A line that is damaged, or was being written when the run was killed, is passed
    over.
    """
    try:
        with (folder / LOG).open("rb") as lines:
            yield from filter(None, map(timed_event, lines))
    except FileNotFoundError:
        return


def facts_of(timed_events: Iterable[TimedEvent]) -> RunFacts:
    """Fold events into what they tell."""
    gathering = Gathering()
    for at, event in timed_events:
        gathering.take(at, event)
    return gathering.facts()


def timed_event(line: bytes) -> TimedEvent | None:
    """Read a line of a log, None for one that is damaged."""
    try:
        fields: dict[str, object] = msgspec.json.decode(line, type=dict[str, object])
        at = datetime.fromisoformat(str(fields.get("time"))).replace(tzinfo=UTC).timestamp()
        if fields.get("event") == "run_started":
            return at, _run_started(fields)
        kind = _KINDS[str(fields.get("event"))]
        if "index" in fields:
            # A path of several indices is a list in JSON, one of a single index is that.
            fields["item"] = item_from_json(fields["index"])
        event: Event = msgspec.convert(fields, kind)
        return at, event
    except (ValueError, KeyError, RecursionError):  # msgspec's errors are ValueErrors
        return None


def _run_started(fields: Mapping[str, object]) -> events.RunStarted:
    """Read how a run began.

    Without its parameters: msgspec knows no type for any JSON, and the run's record has them.
    """
    flow, run_id = str(fields.get("flow", "")), str(fields.get("run_id", ""))
    return events.RunStarted(flow, run_id, {}, fields.get("resumed") is True, str(fields.get("folder", "")))
