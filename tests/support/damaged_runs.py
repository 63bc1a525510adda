"""Runs to damage, and all doors through which what they keep is read."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lokki import flow, step
from lokki.chain import StepNode
from lokki.cli.commands.runs import runs_list
from lokki.cli.run_details import run_details
from lokki.decorators import Flow
from lokki.engine.events import Event, ItemsFinished
from lokki.errors import LokkiError
from lokki.graph import FlowGraph
from lokki.local_run.runs import Runs
from lokki.plan import Plan, lower
from lokki.progress.displays import Nothing
from lokki.progress.run_log import Recorder
from lokki.results.flow_results import Items, local
from lokki.results.replay import fetch
from lokki.runner import LocalRunner, Resume

COUNT = 9
BROKEN: set[str] = set()
"""The steps that fail."""


def fail_if_broken(name: str) -> None:
    if name in BROKEN:
        raise ValueError(f"{name} is broken")


@step
def numbers(salt: int) -> list[object]:
    kinds = (lambda n: n + salt, lambda n: (n, salt), lambda n: {"text": f"{n} {salt} " * 300})
    return [kinds[n % 3](n) for n in range(COUNT)]


@step
def shape(item: object) -> object:
    return item if isinstance(item, int) else ("shaped", item)


@step
def fragile(value: object) -> object:
    if isinstance(value, tuple) and value[1] and isinstance(value[1], tuple) and value[1][0] == 4:
        fail_if_broken("fragile")
    return [value, {"honk"}] if isinstance(value, tuple) else value


@step
def stubborn(value: object) -> object:
    if isinstance(value, int) and value % 2 == 0:
        raise ValueError("even")
    return (value,)


@step
def collect(results: list[object]) -> list[object]:
    fail_if_broken("collect")
    return results


@step
def swell(value: object) -> object:
    return {"of": value, "payload": b"honk" * 3000}


@step
def last(value: object) -> object:
    fail_if_broken("last")
    return [len(str(value)), value]


@step
def begin(salt: int) -> dict[str, int]:
    return {"salt": salt}


@step
def pair(value: object) -> object:
    return (value, "pair")


@flow
def whole(salt: int = 0) -> StepNode[..., object]:
    return numbers(salt).map(shape).next(fragile).agg(collect).next(swell).next(last)


@flow
def tolerant(salt: int = 0) -> StepNode[..., object]:
    return numbers(salt).map(stubborn, tolerate=COUNT).agg(collect).next(swell)


@flow
def plain(salt: int = 0) -> StepNode[..., object]:
    return begin(salt).next(pair).next(swell).next(last)


@step
def halves(item: object) -> list[object]:
    return [item, (item, "half")] if item != "none" else []


@flow
def part(item: object) -> StepNode[..., object]:
    return halves(item).map(shape).next(pair).agg(collect)


@flow
def nested(salt: int = 0) -> StepNode[..., object]:
    return numbers(salt).map(part).agg(collect).next(swell)


@dataclass(frozen=True)
class Kind:
    """A kind of run: its flow, which steps failed in it, and whether it was interrupted in the middle of its map."""

    name: str
    flow: Flow[...]
    broken: frozenset[str] = frozenset()
    interrupted: bool = False

    @property
    def is_finished(self) -> bool:
        return not self.broken and not self.interrupted

    @cached_property
    def graph(self) -> FlowGraph:
        """Its flow, drawn once: thousands of runs are damaged."""
        return self.flow()

    @cached_property
    def plan(self) -> Plan:
        """What its flow does, lowered once."""
        return lower(self.graph)


KINDS = (
    Kind("finished", whole),
    Kind("failed", whole, frozenset({"fragile"})),
    Kind("halfway", whole, frozenset({"collect"})),
    Kind("stopped", whole, interrupted=True),
    Kind("tolerated", tolerant),
    Kind("plain", plain),
    Kind("ended", plain, frozenset({"last"})),
    Kind("nested", nested),
    Kind("nested-stopped", nested, interrupted=True),
)


def make(root: Path, kind: Kind, salt: int) -> None:
    """Make a run of a kind."""
    finished: list[Event] = []

    recorder = Recorder(Nothing(), lambda emit: None)

    def listen(event: Event) -> None:
        recorder(event)
        if kind.interrupted and isinstance(event, ItemsFinished):
            finished.append(event)
            if len(finished) == 4:
                raise KeyboardInterrupt

    BROKEN.update(kind.broken)
    try:
        runner = LocalRunner(root=root, executor="inline", listener=listen)
        with suppress(LokkiError, KeyboardInterrupt):
            runner.run(kind.graph, {"salt": salt}, run_id=kind.name)
    finally:
        BROKEN.clear()
        recorder.close()


def resume(root: Path, kind: Kind, from_step: str | None = None) -> object:
    return LocalRunner(root=root, executor="inline").run(kind.graph, resume=Resume(kind.name, from_step=from_step))


type Answers = dict[str, object]
"""What each door gave: a value, or the error."""


def answers(root: Path, kind: Kind) -> Answers:
    """Ask at all doors that only read."""
    found: Answers = {}

    def ask(door: str, question: Callable[[], object]) -> None:
        try:
            found[door] = question()
        except LokkiError as error:
            found[door] = error

    runs = Runs(root)
    ask("table", lambda: bool(runs_list(runs, None)))
    ask("details", lambda: len(list(run_details(runs, runs.load(kind.name)))) > 3)
    ask("result", lambda: local(kind.graph.name, root).run(kind.name).result())
    ask("logs", lambda: len(local(kind.graph.name, root).run(kind.name).logs()))
    for call in kind.plan.calls:
        if call.regroups is not None:
            continue
        ask(f"step {call.id}", lambda call_id=call.id: values(root, kind, call_id))  # type: ignore[misc]
        ask(f"replay {call.id}", lambda call_id=call.id: replayed(root, kind, call_id))  # type: ignore[misc]
    return found


def values(root: Path, kind: Kind, step_id: str) -> object:
    """Return what a step gave: for a step in a map, each item's value or error, and which items failed."""
    value = local(kind.graph.name, root).run(kind.name).step(step_id)
    if not isinstance(value, Items):
        return value
    return [*each(value)], sorted(value.failures())


def each(items: Items) -> Iterator[object]:
    for index in range(len(items)):
        try:
            yield items[index]
        except LokkiError as error:
            yield error


def replayed(root: Path, kind: Kind, step_id: str) -> object:
    of = local(kind.graph.name, root).run(kind.name)
    place = of.place(step_id)
    item = () if place.source is None else (1, 0) if place.paths else (1,)
    return fetch(kind.plan, of, step_id, item, lambda line: None).run()


def copied(runs: Path, kind: Kind, root: Path) -> Path:
    """Copy a run to a place where it can be damaged; return its folder."""
    shutil.rmtree(root, ignore_errors=True)
    folder = root / "runs" / kind.name
    shutil.copytree(runs / "runs" / kind.name, folder)
    return folder


ADVICE = re.compile(
    r"[Rr]esume|--from|[Ss]tart a new run|replay|No such|there is no run|it is damaged|failures\(\) has"
)


def problem(error: LokkiError) -> str:
    """Say what is wrong with the text of an error: more than a line, or no advice."""
    text = str(error)
    if "\n" in text:
        return f"more than one line: {text!r}"
    return "" if ADVICE.search(text) else f"no advice: {text!r}"


def differences(before: object, now: object, *, lenient: bool) -> Iterator[str]:
    """Yield what is wrong with an answer: another value than before, or an error that does not help.

    ``lenient``: results of a run that has not ended may be lost, as if they had not been computed.
    """
    if isinstance(now, LokkiError):
        if str(now) != str(before):
            yield problem(now)
    elif isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now) == 2:
        if isinstance(before[0], list) and isinstance(now[0], list) and len(before[0]) == len(now[0]):
            for old, new in zip(before[0], now[0], strict=True):
                yield from differences(old, new, lenient=lenient)
            if before[1] != now[1] and not (lenient and set(now[1]) <= set(before[1])):
                yield f"other failures: {now[1]} instead of {before[1]}"
        elif before != now:
            yield f"{now!r} instead of {before!r}"
    elif isinstance(before, LokkiError) or type(before) is not type(now) or before != now:
        yield f"{now!r} instead of {before!r}"


def recovered(root: Path, kind: Kind, salt: int) -> object:
    """Resume a run as its errors advise until there is a result; at most as often as there are steps."""
    from_step: str | None = None
    told: list[str] = []
    for _ in range(6):
        try:
            return resume(root, kind, from_step)
        except LokkiError as error:
            told.append(problem(error) or str(error))
        if "tart a new run" in told[-1]:
            shutil.rmtree(root)
            return LocalRunner(root=root, executor="inline").run(kind.graph, {"salt": salt})
        advised = re.search(r"--from (\w+)", told[-1])
        from_step = advised[1] if advised else None
    raise AssertionError(f"the advice does not help: {told}")
