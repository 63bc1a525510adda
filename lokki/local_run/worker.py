"""What a worker does, on whichever executor.

It takes items, runs the inner steps on each, and writes results to a part of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lokki.base.failures import Failure, failure_of
from lokki.base.item_path import ItemPath
from lokki.base.values import Inline, Json, Ref
from lokki.chain import AnyStep
from lokki.engine.context import at_item
from lokki.engine.events import StepRetried, StepWork
from lokki.engine.invocation import Attempts, Inputs, Invocation, StepFailedError, StoppedError, prepare, run
from lokki.engine.limits import TimeLimit
from lokki.engine.switching import choose_case, choosing
from lokki.errors import LokkiError, ResultError, StoreError, damaged
from lokki.local_run.body import ITEM, Body, BodyCall
from lokki.local_run.feed import CHUNK_SECONDS, Chunk, PendingRetry
from lokki.local_run.forks import guarded
from lokki.local_run.interrupts import raise_interrupt
from lokki.local_run.journal import Parts, PartWriter
from lokki.local_run.journal_reader import partial_value
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.shared_values import Loaders, copies_of, sized_copies
from lokki.plans.operations import Call
from lokki.plans.templates import Source, source_name
from lokki.store.codec import loads
from lokki.store.manifest import ManifestEntry, check_items, entries, listing


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that failed for good.

    ``inherited``: it did so in a level before, of which listeners were told then.
    """

    index: int
    path: ItemPath
    failure: Failure
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker did.

    * ``finished``: how many items it finished, in ``seconds``; ``failures``: which failed.
    * ``leaving``: its process ends now, as a step was late.
    * ``retry``: the item to be tried again elsewhere for that.
    * ``slowest``: the item of those finished that took longest, and for how many seconds.
    * ``steps``: what was spent on each step, where there are several.
    """

    finished: int
    seconds: float
    failures: list[FailedItem] = field(default_factory=list)
    leaving: bool = False
    retry: PendingRetry | None = None
    slowest: tuple[ItemPath, float] = ((), 0.0)
    steps: Mapping[str, StepWork] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many items, from the first, have come to their end."""
        return self.finished + len(self.failures)


@dataclass(frozen=True, slots=True)
class MapJob:
    """What a worker must know of a map block.

    * ``inner``: its steps; ``pack``: where its items are; ``parts``: where results go.
    * ``own_process``: no other worker runs in this process, so that each step can have the environment that it wants.
    * ``body``: what its steps read and give, where they are no line; None for a line.
    * ``shared``: the values that all items read; ``values``: the file with them, for worker processes.
    * ``ready``: takes large results for the step after the map, where that runs in this process and wants a list.
    """

    id: str
    inner: tuple[Invocation, ...]
    pack: Path
    parts: Parts
    inline_limit: int
    own_process: bool = False
    body: Body | None = None
    shared: Loaders = field(default_factory=dict)
    values: Path | None = None
    ready: ReadyResults | None = None


class ItemState:
    """What the calls of a body gave for one item, and which cases they chose."""

    def __init__(self, index: int, loaders: dict[str, Callable[[], object]], shared: Loaders) -> None:
        self._index = index
        self._shared = shared
        self._given = loaders
        self._chosen: dict[str, int] = {}

    def is_chosen(self, call: BodyCall) -> bool:
        """Tell whether a call runs, as far as it is a case of switches."""
        return all(self._chosen.get(switch) == position for switch, position in call.only)

    def inputs(self, call: BodyCall) -> object:
        """Return what a call is called with, anew each time."""
        first = None
        if call.reads is not None:
            load_first = self._given.get(call.reads)
            assert call.call.reads is not None
            first = self._shared[call.call.reads]() if load_first is None else load_first()
        values = call.call.values
        return Inputs(first, {source: self._value(source) for source in values}) if values else first

    def give(self, call: BodyCall, result: object) -> None:
        """Keep a result that a later call reads, and the case that it chose."""
        if call.is_read:
            copies = copies_of(result, f"what {call.call.id}() returned for item {self._index}")
            self._given.update(dict.fromkeys(call.gives, copies))
        if call.call.cases:
            self._chosen[call.switch] = choose_case(call.call.cases, result, call.call.step)

    def record(self, names: tuple[tuple[str, str], ...]) -> dict[str, object]:
        """Return some values by the names that the next level has for them."""
        return {name: self._given[own]() for name, own in names}

    def _value(self, source: Source) -> object:
        if source in self._shared:
            return self._shared[source]()
        load = self._given.get(source_name(source))
        return self._given[ITEM]() if load is None else load()


class Worker:
    """Runs items of one map block, and writes what becomes of them.

    Its part of the block's journals is its own.
    """

    def __init__(
        self,
        job: MapJob,
        part: str,
        stop: threading.Event,
        retried: Callable[[StepRetried], None],
        limit: TimeLimit | None = None,
        mark: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._job = job
        self._part = PartWriter(job.parts, part, job.inline_limit, job.ready)
        self._pack = job.pack.open("rb")
        self._stop = stop
        self._retried = retried
        self._mark = mark
        self.first_error: tuple[int, BaseException] | None = None
        self._index = self._position = -1
        self._item: ItemPath = ()
        self._retry: PendingRetry | None = None
        self._work: dict[str, StepWork] = {}
        self._limit = limit or TimeLimit()
        self._own_limit = self._limit if limit is None else None
        self._attempts = Attempts(self._sleep, self._limit, self._tell_of_retry)

    def run(self, chunk: Chunk) -> Report:
        """Run items until they are done or the run is stopped.

        Their results are written when it returns.
        """
        began = flushed = last = time.perf_counter()
        finished = 0
        slowest: tuple[ItemPath, float] = ((), 0.0)
        failures: list[FailedItem] = []
        retry: PendingRetry | None = None
        run_item = self._run_item if self._job.body is None else self._run_body
        is_handed_on = self._job.ready is not None
        try:
            if chunk.retry is not None:
                self._sleep(chunk.retry.wait)
            for line, entry in zip(chunk.lines, entries(chunk.lines), strict=True):
                if self._stop.is_set() or self._limit.exceeded:
                    break
                inherited = entry.failed is not None
                failure = self._inherit(entry) if inherited else run_item(line, entry, chunk)
                if is_handed_on:
                    self._part.hand_on()  # here, where no variable refers to the result
                now = time.perf_counter()
                if failure is not None:
                    failures.append(FailedItem(entry.index, entry.path, failure, inherited))
                else:
                    finished += 1
                    if now - last > slowest[1]:
                        slowest = (entry.path, now - last)
                last = now
                # Not after each item: a line costs two system calls, which a million quick items would feel.
                if now - flushed > CHUNK_SECONDS:
                    self._part.flush()
                    flushed = now
        except StoppedError:
            retry = self._retry if self._limit.exceeded else None
        self._part.flush()
        work, self._work = self._work, {}
        return Report(finished, time.perf_counter() - began, failures, self._limit.exceeded, retry, slowest, work)

    def close(self) -> None:
        """Force everything to disk."""
        if self._own_limit is not None:
            self._own_limit.close()
        self._pack.close()
        self._part.close()

    def _inherit(self, entry: ManifestEntry) -> Failure | None:
        """Write down that an item failed in a level before."""
        if entry.failed is not None:
            self._part.fail(entry.index, entry.failed)
        return entry.failed

    def _run_item(self, line: bytes, entry: ManifestEntry, chunk: Chunk) -> Failure | None:
        """Run the inner steps on one item, and return why it failed, if it did.

        A step may change the value that it gets, and fail: ``restart`` gives that value anew.
        """
        restart: Callable[[], object] = partial(self._start_value, line, chunk)
        index, inner = entry.index, self._job.inner
        self._index, self._item, self._position = index, entry.path, 0
        try:
            if not isinstance(entry.ref, Inline) or index in chunk.partials:
                self._mark_at(chunk.retry)  # the code of a value's class may end this process while it is read
            value, position = self._start(entry, chunk)
        except StoreError as error:
            if error.damage:
                raise  # no failure of the item: whatever the map tolerates, its result could be had
            return self._failed(restart, failure_of(inner[0].id, error, 1, inner[0].defined_at))
        last = len(inner) - 1
        while True:
            self._position = position
            invocation = inner[position]
            began = time.perf_counter()
            try:
                result = self._call(invocation, value, restart, chunk.retry)
                seconds = time.perf_counter() - began
                if position == last:
                    if last:
                        self._note_work(invocation.id, seconds, 0)
                    self._part.add(index, result)
                    return None
                copies, size = sized_copies(result, f"what {invocation.id}() returned for item {index}")
                self._note_work(invocation.id, seconds, size)
                handed_on = copies()
                if time.perf_counter() - began > CHUNK_SECONDS:
                    # Lost in a kill, this result would cost more than to write it down.
                    self._part.add(index, handed_on, step=invocation.id)
                    self._part.flush()
            except StepFailedError as error:
                self._note_error(error.__cause__ or error)
                return self._failed(restart, error.failure)
            except LokkiError as error:  # the result does not pickle, or not unpickle
                self._note_error(error)
                return self._failed(restart, failure_of(invocation.id, error, 1, invocation.defined_at))
            value, restart = handed_on, copies
            position += 1

    def _run_body(self, line: bytes, entry: ManifestEntry, chunk: Chunk) -> Failure | None:
        """Run the calls of a body that is no line on one item.

        Returns why it failed, if it did. An item that was not finished begins anew: what it needs of its calls is more
        than one value.
        """
        body, inner = self._job.body, self._job.inner
        assert body is not None
        self._index, self._item, self._position = entry.index, entry.path, 0
        self._mark_at(chunk.retry)  # the code of a value's class may end this process while it is read
        state = ItemState(entry.index, self._loaders(line, entry, chunk), self._job.shared)
        for position, call in enumerate(body.calls):
            if not state.is_chosen(call):
                continue
            self._position = position
            invocation = inner[position]
            get_inputs = partial(state.inputs, call)
            try:
                inputs = get_inputs()
                began = time.perf_counter()
                result = self._call(invocation, inputs, get_inputs, chunk.retry)
                self._note_work(invocation.id, time.perf_counter() - began, 0)
                if call.call.fans_out:
                    check_items(call.call.gives, result)
                state.give(call, result)
                if body.result in call.gives:
                    outcome = result
            except StepFailedError as error:
                self._note_error(error.__cause__ or error)
                return self._fail(error.failure)
            except LokkiError as error:  # a value that cannot be read, or a result that does not pickle
                if isinstance(error, StoreError) and error.damage:
                    raise
                self._note_error(error)
                return self._fail(failure_of(invocation.id, error, 1, invocation.defined_at))
        self._part.add(entry.index, state.record(body.record) if body.record else outcome)
        return None

    def _loaders(self, line: bytes, entry: ManifestEntry, chunk: Chunk) -> dict[str, Callable[[], object]]:
        """Return what loads an item, and the values that come with it."""
        values = entry.values or {}
        loaders = {name: self._loader(value.ref, entry.index) for name, value in values.items()}
        return loaders | {ITEM: partial(self._start_value, line, replace(chunk, partials={}))}

    def _loader(self, ref: Ref, index: int) -> Callable[[], object]:
        if isinstance(ref, Inline):
            return copies_of(ref.result, f"a value that comes with item {index}")
        return partial(self._load, ref, index)

    def _fail(self, failure: Failure) -> Failure:
        """Write down why an item failed."""
        raise_interrupt()  # as in `_failed`
        self._part.fail(self._index, failure)
        return failure

    def _call(
        self, invocation: Invocation, value: object, restart: Callable[[], object], retry: PendingRetry | None
    ) -> object:
        used_up = self._mark_at(retry)
        at_item(invocation.id, self._item)
        try:
            if invocation.env and self._job.own_process:
                with environment(invocation.env):
                    return run(invocation, value, self._attempts, used_up, restart)
            return run(invocation, value, self._attempts, used_up, restart)
        finally:
            at_item("", ())

    def _mark_at(self, retry: PendingRetry | None) -> int:
        """Record what this worker is at, in case its process dies.

        Returns how many tries the step has used up.
        """
        used_up = retry.attempts if retry is not None and retry.position == self._position else 0
        if self._mark is not None:
            self._mark(self._index, self._position, used_up + 1)
        return used_up

    def _start(self, entry: ManifestEntry, chunk: Chunk) -> tuple[object, int]:
        """Return what the item's next inner step gets, and that step's position."""
        partial = chunk.partials.get(entry.index)
        if partial is not None:
            ids = [invocation.id for invocation in self._job.inner]
            if partial.step in ids[:-1]:  # unless the flow was changed
                try:
                    return partial_value(partial), ids.index(partial.step) + 1
                except StoreError as error:
                    if not error.damage:
                        raise
        return self._load(entry.ref, entry.index), 0

    def _load(self, ref: Ref, index: int) -> object:
        """Load an item, or a value that comes with it, from the pack of the items."""
        if isinstance(ref, Inline):
            return ref.result
        if ref.range is None:
            raise damaged(f"{ref.result_url}: item {index} has no range in the pack", "Run its step again.")
        offset, length = ref.range
        if self._pack.tell() != offset:
            self._pack.seek(offset)
        return loads(self._pack.read(length), url=f"{ref.result_url} at {offset}", crc32=ref.crc32)

    def _start_value(self, line: bytes, chunk: Chunk) -> object:
        """Return anew what the item's first step here gets."""
        [entry] = entries([line])
        return self._start(entry, chunk)[0]

    def _failed(self, restart: Callable[[], object], failure: Failure) -> Failure:
        """Write down why an item failed, and what the failed step got.

        The item goes on there when the run is resumed.
        """
        raise_interrupt()  # Ctrl-C ended what the step had started: the run is interrupted, the step has not failed
        if self._position > 0:
            with suppress(ResultError, StoreError):  # a value that cannot be read again: its steps run again instead
                self._part.add(self._index, restart(), step=self._job.inner[self._position - 1].id)
        self._part.fail(self._index, failure)
        return failure

    def _note_work(self, step: str, seconds: float, size: int) -> None:
        """Count a call of one of several steps."""
        calls, before_seconds, before_size = self._work.get(step, (0, 0.0, 0))
        self._work[step] = calls + 1, before_seconds + seconds, before_size + size

    def _note_error(self, error: BaseException) -> None:
        self.first_error = self.first_error or (self._index, error)

    def _sleep(self, seconds: float) -> None:
        self._part.flush()
        if self._limit.exceeded:
            raise StoppedError  # the next try is another process's
        remaining = self._limit.deadline.remaining
        if self._stop.wait(seconds if remaining is None else min(seconds, remaining)) or self._limit.deadline.passed:
            raise StoppedError

    def _tell_of_retry(self, step_id: str, attempt: int, wait: float, failure: Failure) -> None:
        raise_interrupt()
        self._retry = PendingRetry(self._index, self._position, attempt, wait)
        if self._mark is not None:
            self._mark(self._index, self._position, attempt + 1)
        self._retried(StepRetried(step_id, self._item, attempt, wait, failure))


def guarded_call(
    call: Call, step: AnyStep, params: Mapping[str, Json], environ: Mapping[str, str], *, in_map: bool = False
) -> Invocation:
    """Prepare a call for this machine, where a step may fork.

    Its children do not go on with the run. In a map, the items of a map below it are a list. ``environ``: what the
    variables were before code of the user's ran, which may take secrets out of the environment.
    """
    invocation = prepare(call, step, params)
    fn = choosing(invocation.fn, call.cases, call.step) if call.cases else invocation.fn
    if in_map and call.fans_out:
        fn = listing(fn)
    secrets = tuple(environ.get(name, "") for name in step.options.secrets)
    return replace(invocation, fn=guarded(fn), secrets=secrets)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process while some steps run."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
