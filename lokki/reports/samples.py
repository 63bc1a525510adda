"""What failed calls were given, and what they printed: of some, as examples of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from lokki.base.item_path import ItemPath
from lokki.errors import LokkiError
from lokki.reports.facts import FailedCall
from lokki.results.flow_results import Run
from lokki.results.items import LogLine, short

LINES = 20
MOST_LOG_LINES = 500_000
"""How much of a log is read: on AWS a page of it takes as long as a request."""

_LINE = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """A failed call with what helps to find out why.

    * ``value``: the item of the map block that it was at, as Python writes it, or why that is not known.
    * ``replay``: the command that runs it again.
    * ``lines``: the last that it printed.
    """

    call: FailedCall
    value: str
    replay: str
    lines: tuple[str, ...]


type ReplayCommand = Callable[[str, ItemPath], str]
"""Returns the command that runs a step again, on an item."""


def samples_of(run: Run, calls: Iterable[FailedCall], replay: ReplayCommand) -> list[Sample]:
    """Fetch what is known of failed calls.

    An item is loaded for each, which runs code that its value names, as whatever reads results does.
    """
    calls = list(calls)
    lines = _last_lines(run, calls)
    return [
        Sample(call, item_value(run, call.step, call.item), replay_of(call, replay), tuple(lines[number]))
        for number, call in enumerate(calls)
    ]


def replay_of(call: FailedCall, replay: ReplayCommand) -> str:
    """Return the command that runs a failed call again.

    None for a batch of which the item at fault is not known.
    """
    return replay(call.step, call.item) if call.item or not call.map else ""


def item_value(run: Run, step: str, item: ItemPath) -> str:
    """Return the item that a step was given, as Python writes it.

    Or why it is not known. To load it runs code that it names.
    """
    if not item:
        return ""
    try:
        source = run.place(step).source
        items = None if source is None else run.kept.items(source)
        place = None if items is None else items.paths().index(item)
        return "" if items is None or place is None else short(items.value(place))
    except LokkiError as error:
        return f"not known: {error}"


def _last_lines(run: Run, calls: list[FailedCall]) -> Mapping[int, deque[str]]:
    lines: dict[int, deque[str]] = {number: deque(maxlen=LINES) for number in range(len(calls))}
    wanted_by: dict[tuple[str, ItemPath], list[int]] = {}
    for number, call in enumerate(calls):
        for step in _steps_of(run, call):
            wanted_by.setdefault((step, call.item), []).append(number)
    if not calls:
        return lines
    try:
        for line in islice(run.kept.log(), MOST_LOG_LINES):
            for number in wanted_by.get((line.step, line.item), ()):
                lines[number].append(_text(line))
    except LokkiError as error:
        for own in lines.values():
            own.append(f"(its log cannot be read: {error})")
    return lines


def _steps_of(run: Run, call: FailedCall) -> tuple[str, ...]:
    """Return the steps that ran on a call's item.

    Outside of maps that is its own alone.
    """
    try:
        return run.place(call.step).inner or (call.step,)
    except LokkiError:  # a child execution that does not say which of its steps failed
        return (call.step,)


def _text(line: LogLine) -> str:
    text = f"{line.time[11:23]} {line.text}"
    return text if len(text) <= _LINE else f"{text[: _LINE - 1]}…"
