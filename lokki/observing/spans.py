"""The spans of a run, made of its events: the run, its steps and maps, and of items those that failed or were slow.

The same for every engine. What functions on Lambda tell of themselves hangs below these spans, whose ids follow from
the run's. Loaded only where the environment names a collector.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, format_item
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.engine.otlp import (
    SLOW,
    Attributes,
    AttributeValue,
    Span,
    SpanEvent,
    describe_function,
    exception_event,
    export,
    span_id,
)
from lokki.plan import Plan

_MOST_FAILED, _MOST_SLOW, _MOST_EVENTS = 100, 10, 50
_SECONDS, _SHORT = 10.0, 2.0
_NANO = 1_000_000_000


@dataclass(slots=True)
class _Part:
    """A part of the run that has begun."""

    span: Span
    events: list[SpanEvent] = field(default_factory=list)
    attributes: dict[str, AttributeValue] = field(default_factory=dict)

    def add(self, event: SpanEvent) -> None:
        if len(self.events) < _MOST_EVENTS:
            self.events.append(event)

    def end(self, at: int, failure: Failure | None) -> Span:
        attributes = {**self.span.attributes, **self.attributes}
        return msgspec.structs.replace(
            self.span, end=at, attributes=attributes, events=tuple(self.events), failure=failure
        )


@dataclass(slots=True)
class _Items:
    """The items of a map that have spans, and how many failed."""

    failed: list[Span] = field(default_factory=list)
    slow: list[tuple[float, Span]] = field(default_factory=list)
    failures: int = 0

    def add_slow(self, seconds: float, span: Span) -> None:
        self.slow = sorted([*self.slow, (seconds, span)], key=lambda pair: -pair[0])[:_MOST_SLOW]


class SpanFold:
    """Makes spans of the events of a run, in order of time.

    * ``engine``: where the run is: local, emulated or aws.
    * ``link``: a ``traceparent`` that the run was started under; "" for none.
    """

    def __init__(self, plan: Plan, engine: str, link: str = "") -> None:
        self.run_id = ""
        self.spans: list[Span] = []
        self._functions = {call.id: describe_function(plan.steps[call.step].fn) for call in plan.calls}
        self._engine = engine
        self._link = link
        self._salt: tuple[str, ...] = ()
        self._is_rest = self._has_ended = False
        self._begun: set[tuple[str, ...]] = {()}
        self._used: set[tuple[str, ...]] = set()
        self._run: _Part | None = None
        self._parts: dict[str, _Part] = {}
        self._items: defaultdict[str, _Items] = defaultdict(_Items)
        self._steps: dict[str, tuple[str, ...]] = {}

    def take(self, at: int, event: Event) -> None:
        """Take an event and when it was, in nanoseconds since 1970."""
        match event:
            case RunStarted():
                self._begin(at, event)
            case StepStarted(step_id):
                self._start_call(at, step_id)
            case StepFinished(step_id, _, size):
                self._end(at, step_id, None, {"lokki.bytes": size})
            case StepFailed(step_id, failure):
                self._end(at, step_id, failure, {"lokki.attempts": failure.attempts})
            case StepRetried(step_id, item, attempt, _, failure):
                self._retry(at, step_id, item, attempt, failure)
            case StepSkipped(step_id) if self._run is not None:
                self._run.add(SpanEvent(at, "kept", {"lokki.call": step_id}))
            case RunFinished():
                self._finish(at, None)
            case RunFailed(_, message):
                self._finish(at, Failure("", "RunError", message))
            case RunInterrupted():
                self._finish(at, Failure("", "KeyboardInterrupt", "the run was interrupted"))
            case _:
                self._take_of_map(at, event)

    def _take_of_map(self, at: int, event: Event) -> None:
        match event:
            case MapStarted(key, steps, items, finished):
                self._steps[key] = steps
                self._start(at, _map_name(key), f"map {key}", {"lokki.items": items, "lokki.items.kept": finished})
                for step_id in steps:
                    self._start_call(at, step_id, self._id(_map_name(key)))
            case ItemsFinished(key, _, _, slowest, seconds) if slowest and seconds >= SLOW:
                self._items[key].add_slow(seconds, self._item(at, key, slowest, int(seconds * _NANO)))
            case ItemFailed(key, item, failure):
                items_of_map = self._items[key]
                items_of_map.failures += 1
                if len(items_of_map.failed) < _MOST_FAILED:
                    span = self._item(at, key, item, 0, failure.step)
                    items_of_map.failed.append(msgspec.structs.replace(span, failure=failure))
            case MapFinished(key, succeeded, failed):
                self._end_map(at, key, {"lokki.items.succeeded": succeeded, "lokki.items.failed": failed})

    def _id(self, *names: str) -> str:
        """Return the id of a part of the run.

        Functions hang what they tell below the id that has no salt, so that is used where it can be.
        """
        return span_id(self.run_id, *names, *(self._salt if self._is_rest or names in self._used else ()))

    def _begin(self, at: int, event: RunStarted) -> None:
        self.run_id = event.run_id
        # A run that goes on has further spans in its trace, and none twice; which it has, only the whole run tells.
        self._has_ended = False
        self._is_rest = event.resumed and self._run is None
        self._salt = (str(at),) if event.resumed else ()
        self._used = {*self._begun} if self._run is not None else set()
        attributes: Attributes = {"lokki.flow": event.flow, "lokki.run": event.run_id, "lokki.engine": self._engine}
        first = span_id(event.run_id) if event.resumed else ""
        self._run = _Part(Span(self._id(), first, f"run {event.flow}", at, at, attributes, link=self._link))

    def _start_call(self, at: int, step_id: str, parent: str = "") -> None:
        code = self._functions.get(step_id)  # what regroups items has none
        named: Attributes = {"code.function.name": code} if code else {}
        self._start(at, step_id, step_id, {"lokki.call": step_id, **named}, parent)

    def _start(self, at: int, name: str, title: str, attributes: Attributes, parent: str = "") -> None:
        self._begun.add((name,))
        self._parts[name] = _Part(Span(self._id(name), parent or self._id(), title, at, at, attributes))

    def _end(self, at: int, name: str, failure: Failure | None, attributes: Attributes) -> None:
        part = self._parts.pop(name, None)
        if part is not None:
            part.attributes.update(attributes)
            self.spans.append(part.end(at, failure))

    def _retry(self, at: int, step_id: str, item: ItemPath, attempt: int, failure: Failure) -> None:
        part = self._parts.get(step_id)
        if part is not None:
            event = exception_event(at, failure)
            more: Attributes = {"lokki.attempt": attempt, **({"lokki.item": format_item(item)} if item else {})}
            part.add(SpanEvent(at, event.name, {**event.attributes, **more}))

    def _item(self, at: int, key: str, item: ItemPath, took: int, step_id: str = "") -> Span:
        steps = self._steps.get(key, ())
        parent = step_id if step_id in steps else next(iter(steps), _map_name(key))
        name = format_item(item)
        fields: Attributes = {"lokki.item": name}
        self._begun.add((key, name, parent))
        return Span(self._id(key, name, parent), self._id(parent), f"{parent}[{name}]", at - took, at, fields)

    def _end_map(self, at: int, key: str, attributes: Attributes, failure: Failure | None = None) -> None:
        items = self._items.pop(key, _Items())
        for step_id in self._steps.pop(key, ()):
            self._end(at, step_id, None, {})
        self._end(at, _map_name(key), failure, attributes)
        self.spans += [*items.failed, *(span for _, span in items.slow)]

    def _finish(self, at: int, failure: Failure | None) -> None:
        for key in list(self._steps):
            self._end_map(at, key, {"lokki.items.failed": self._items[key].failures}, failure)
        for name in list(self._parts):
            self._end(at, name, failure, {})
        if self._run is not None and not self._has_ended:
            self._has_ended = True
            self.spans.append(self._run.end(at, failure))


class RunTracer:
    """A listener that sends the spans of the run when it ends.

    It hands events on. That spans cannot be sent is one warning, and fails no run.
    """

    def __init__(
        self,
        listener: Callable[[Event], None],
        plan: Plan,
        engine: str,
        environ: Mapping[str, str],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._listener = listener
        self._fold = SpanFold(plan, engine, environ.get("TRACEPARENT", ""))
        self._flow = plan.flow
        self._environ = environ
        self._now = now
        self._is_sent = False

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self._fold.take(self._now(), event)
        if isinstance(event, RunFinished | RunFailed | RunInterrupted) and not self._is_sent:
            self._is_sent = True
            patience = _SHORT if isinstance(event, RunInterrupted) else _SECONDS
            problem = send_spans(self._fold, self._flow, self._environ, patience)
            if problem:
                self._listener(StepOutput("", (), "stderr", problem))
        self._listener(event)


def send_spans(fold: SpanFold, flow: str, environ: Mapping[str, str], seconds: float = _SECONDS) -> str:
    """Send the spans of a run that has ended, and return a warning.

    It is empty where there is none. ``seconds``: how long that may take.
    """
    problem = export(fold.run_id, fold.spans, {"service.name": flow}, environ, seconds)
    return f"warning: the run's trace was not sent: {problem}" if problem else ""


def _map_name(key: str) -> str:
    """Return the name of a map among the parts of a run.

    Calls have no dot in theirs.
    """
    return f"{key}.map"
