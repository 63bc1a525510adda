"""One invocation on a batch: as many items as there is time for, and how far it came.

The state machine invokes the function again for what is left, until nothing is. So the number of items in a batch never
makes it late: only an item that takes longer than all the time of the function fails, alone. Only functions inside of
map blocks load this module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from lokki.base.failures import Failure, failure_of
from lokki.base.item_path import item_to_json
from lokki.base.naming import CODE_FOLDER
from lokki.base.quotas import STATE_BYTES
from lokki.base.values import Inline, Json, JsonField, Ref, Stored, inline_json
from lokki.engine.invocation import Attempts, BatchItemError, Invocation, StepFailedError, run
from lokki.errors import BatchTimeoutError, EventError, ResultError, StepTimeoutError, StopSignal, StoreError
from lokki.runtime.event import Batch, Entry, Spilled, parse_entry, plain_text
from lokki.runtime.work import Reply, Work
from lokki.store.base import save
from lokki.store.codec import Pack, member_checksum

if TYPE_CHECKING:
    from lokki.engine.limits import Alarm

MOST_REPLY = 200_000
"""Bytes of a batch's reply that fit into a state beside the run's id and the parameters; a state holds 256 KiB.
https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"""

_STATE_ROOM = STATE_BYTES - 12_000
"""Bytes of a state beside the run's id and names."""

MOST_DONE = 16_000
"""Bytes of the entries of a batch that goes on: its next event has them beside 200,000 bytes of items."""

PACK_BYTES = 8 * 2**20
"""Bytes of results from which on they are written, so that a function holds few of them."""

_FAILURE_TEXT = 1000
"""Characters of a tolerated failure's message that travel with the results."""

_TIMEOUTS = ("Sandbox.Timedout", "States.Timeout")
_MEMORY = (
    "the worker process was killed by SIGKILL (out of memory: give the step a larger memory=, or memory_max= for "
    "another try)"
)
"""As `lokki.engine.causes` says it of an item that is in no batch."""


class _HandBack(StopSignal):
    """What runs is left to the next invocation.

    ``tried``: how many of the item's tries are used up.
    """

    def __init__(self, tried: int) -> None:
        super().__init__(tried)
        self.tried = tried


def run_batch(work: Work, batch: Batch) -> Reply:
    """Run a step on items of a batch, and reply with their entries.

    Each has the step's own retries; large results are written as one object, or as several where they are many
    megabytes. Where items are left, the reply has ``next``, the first of them, and the entries of all before it.
    """
    batch_run = _BatchRun(work, work.prepared(), batch)
    try:
        return batch_run.reply()
    finally:
        batch_run.close()


class _BatchRun:
    def __init__(self, work: Work, invocation: Invocation, batch: Batch) -> None:
        self._work = work
        self._batch = batch
        # Without a timeout of the step's own, an item may take what is left of the function's time.
        self._invocation = replace(invocation, timeout=math.inf if invocation.timeout is None else invocation.timeout)
        self._entries = [entry for part in batch.entries for entry in self._expanded(part)]
        self._results = _Results(work, invocation, self._entries[0] if len(self._entries) == 1 else None)
        self._total = work.seconds_left()
        # For writing the results: a large function may have more of them.
        self._margin = 0.5 + min(4.5, self._total / 100)
        self._alarm: Alarm | None = None
        self._ran = 0
        self._longest = 0.0
        self._began = time.monotonic()
        self._tried = 0
        self._tries_here = 0

    def close(self) -> None:
        """End what watches the time."""
        if self._alarm is not None:
            self._alarm.close()

    def reply(self) -> Reply:
        """Run what there is time for."""
        batch, items = self._batch, len(self._entries)
        done = self._done_before()
        first = len(done)
        end = min(batch.first + batch.size, items) if batch.size else items
        load_item = self._work.item_loaders()
        tried = 0
        try:
            for position in range(first, end):
                if self._ran and self._is_late():
                    break
                self._results.entries.append(self._entry(position, load_item))
        except _HandBack as back:
            tried = back.tried
        except Exception:
            self._leave(done)
            raise
        entries = [*done, *self._results.written()]
        following = first + len(self._results.entries)
        if following >= items:
            return {"items": self._small(entries, self._room())}
        reply: Reply = {"items": self._small(entries, MOST_DONE), "next": following}
        if following < end:
            self._work.log.write("INFO", "handed back", done=following - first, left=items - following)
        return reply | {"tried": tried} if tried else reply

    def _room(self) -> int:
        """Return the bytes that the entries of all items may have.

        A state has them beside the parameters and the values of the run that the map reads.
        """
        request = self._work.request
        inline = [value.result for value in request.values.values() if isinstance(value, Inline)]
        return min(MOST_REPLY, _STATE_ROOM - len(msgspec.json.encode([request.params, inline])))

    def _is_late(self) -> bool:
        """Tell whether an item would most likely be cut off."""
        rang = self._alarm is not None and self._alarm.rang
        return rang or self._work.seconds_left() < self._longest + self._margin

    def _done_before(self) -> list[Json]:
        """Return the entries of what earlier invocations did."""
        done = [entry for part in self._batch.done for entry in self._expanded_json(part)]
        if len(done) != self._batch.first:  # else items would be left out silently
            raise EventError(
                f"the event has {len(done)} entries that are done, and begins with item {self._batch.first}."
            )
        if self._batch.redriven and len(self._entries) > 1:
            # What is not there, or cannot be read, is done again.
            with suppress(StoreError):
                left = self._read_entries(self._work.settings.store.url(self._key("left.json", self._entries)))
                done = max(done, left, key=len)
        return done

    def _leave(self, done: list[Json]) -> None:
        """Write the entries of a batch that fails, for a redrive to go on with."""
        if self._results.entries:
            # The failure is what the run is to be told of, and not that this could not be written.
            with suppress(StoreError):
                text = msgspec.json.encode([*done, *self._results.written()])
                self._work.settings.store.write(self._key("left.json", self._entries), [text])

    def _entry(self, position: int, load_item: Callable[[Entry], Callable[[], object]]) -> Reply:
        entry = self._entries[position]
        is_next = position == self._batch.first
        if entry.failed is not None:
            return {"index": entry.index, **entry.path_field, "failed": entry.failed}
        if self._work.passes_by(entry):
            return self._work.same_entry(entry)
        if is_next and self._batch.died:
            return self._dead(entry)
        began = self._began = time.monotonic()
        self._tried, self._tries_here = self._batch.tried if is_next else 0, 0
        reply = self._try(entry, load_item)
        self._ran += 1
        self._longest = max(self._longest, time.monotonic() - began)
        if self._work.observe is not None and "failed" not in reply:
            self._work.observe(entry.item, time.monotonic() - began, None)
        return reply

    def _dead(self, entry: Entry) -> Reply:
        """Return the entry of an item that its function died of, alone."""
        died = self._batch.died
        if not self._work.handled.tolerate:
            raise EventError("the event says that the function died of an item, and its map tolerates no failure.")
        if died in _TIMEOUTS:
            return self._failed(entry, Failure(self._invocation.id, "StepTimeoutError", self._late()))
        words = _MEMORY if died == "Runtime.OutOfMemory" else f"the worker process ended with {died}"
        return self._failed(entry, Failure(self._invocation.id, "WorkerError", words))

    def _try(self, entry: Entry, loader: Callable[[Entry], Callable[[], object]]) -> Reply:
        """Run the step on an item, with retries, and return the item's next entry.

        That has the item's failure where the map tolerates some; else it is raised.

        A result that does not pickle, and an item that cannot be read, are failures of the item that are not tried
        again, as they are locally.
        """
        try:
            load_item = loader(entry)
            result = self._run(entry, load_item)
            self._work.check_list(result)
            ref = run(self._results.keeping, result, self._attempts(entry))
            assert isinstance(ref, Inline | Stored)  # it is what `keep` returned
            return self._work.next_entry(entry, ref, result)
        except StepFailedError as error:
            reply = self._failed(entry, error.failure)
            # A child of one item fails with it, and is counted by Step Functions. It says by itself which one it was.
            if len(self._entries) == 1:
                raise
            if not self._work.handled.tolerate:
                raise BatchItemError(error.failure, entry.index) from error.__cause__
            return reply
        except (ResultError, StoreError) as error:
            reply = self._failed(entry, failure_of(self._invocation.id, error, 1, self._invocation.defined_at))
            if len(self._entries) == 1:
                raise
            if not self._work.handled.tolerate:
                raise type(error)(f"item {entry.index}: {error}") from None
            return reply

    def _run(self, entry: Entry, load_item: Callable[[], object]) -> object:
        invocation, retry = self._invocation, self._invocation.retry
        if self._tried and retry is not None:
            self._tried = min(self._tried, retry.attempts - 1)
            self._sleep(retry.wait(self._tried))
        return run(invocation, load_item(), self._attempts(entry), self._tried, load_item)

    def _failed(self, entry: Entry, failure: Failure) -> Reply:
        item = item_to_json(entry.item)
        self._work.log.write("ERROR", "item failure", item=item, error=failure.error, where=failure.where)
        if self._work.observe is not None:
            self._work.observe(entry.item, time.monotonic() - self._began, failure)
        message = plain_text(failure.message[:_FAILURE_TEXT])
        place = plain_text(failure.where.removeprefix(CODE_FOLDER)[:_FAILURE_TEXT])
        where: Reply = {"where": place} if place else {}
        return {
            "index": entry.index,
            **entry.path_field,
            "failed": {"step": failure.step, "error": failure.error, "message": message, **where},
        }

    # --- time ---

    def _attempts(self, entry: Entry) -> Attempts:
        def retried(step_id: str, attempt: int, wait: float, failure: Failure) -> None:
            self._tried = attempt
            log = self._work.log.about(item=item_to_json(entry.item), attempt=attempt)
            log.write("WARNING", "retry", wait=wait, error=failure.error, where=failure.where)

        return Attempts(self._sleep, self._limit, retried)

    def _limit(self, function: Callable[[], object], seconds: float) -> object:
        """Run a try of an item until its time, or the function's, is up.

        An item that has had all the time of the function fails; another one is run again by the next invocation.
        """
        # Only here: a function starts faster without it.
        from lokki.engine.limits import Alarm, TimeLimit

        is_first = self._ran == self._tries_here == 0
        self._tries_here += 1
        left = self._work.seconds_left() - self._margin
        if seconds <= left:
            limit = TimeLimit()
            try:
                return limit(function, seconds)
            finally:
                limit.close()
        if self._alarm is None:
            self._alarm = Alarm(left, self._late())
        try:
            return self._alarm.run(function)
        except StepTimeoutError:
            if is_first or not self._alarm.rang:
                raise
            raise _HandBack(self._tried) from None

    def _late(self) -> str:
        """Say of an item that it is late, as a local run does."""
        timeout = self._invocation.timeout or math.inf
        return f"took longer than its timeout of {min(timeout, math.ceil(self._total)):g} seconds"

    def _sleep(self, seconds: float) -> None:
        left = self._work.seconds_left()
        if left >= seconds + self._margin:
            time.sleep(seconds)
            return
        if self._total - 1 >= seconds + self._margin and (self._ran or self._tries_here):
            raise _HandBack(self._tried)
        raise BatchTimeoutError(
            f"{self._work.request.call.id}() has {left:.1f} s left, too little to wait {seconds:g} s for the next try. "
            "Give .map() a smaller batch= or the step a longer timeout=."
        )

    # --- entries ---

    def _small(self, entries: list[Json], room: int) -> list[Json]:
        """Return the entries of a batch, or where they are.

        They are in an object of their own when they are too large for a state.
        """
        text = msgspec.json.encode(entries)
        if len(text) <= room:
            return entries
        key = self._key("entries.json", self._entries[: len(entries)])
        return [{"entries_url": self._work.settings.store.write(key, [text]).result_url}]

    def _key(self, name: str, entries: list[Entry]) -> str:
        folder = self._work.keys.batch_output(self._invocation.id, entries[0].index, entries[-1].index)
        return f"{folder.rpartition('/')[0]}/{name}"

    def _expanded(self, part: Entry | Spilled) -> Iterable[Entry]:
        return map(parse_entry, self._read_entries(part.url)) if isinstance(part, Spilled) else (part,)

    def _expanded_json(self, part: Json) -> Iterable[Json]:
        url = part.get("entries_url") if isinstance(part, dict) else None
        return self._read_entries(url) if isinstance(url, str) else (part,)

    def _read_entries(self, url: str) -> list[Json]:
        content = self._work.settings.store.read(Stored(url))
        try:
            return msgspec.json.decode(content, type=list[JsonField])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{url} is not what lokki writes for a large batch: {error}.") from None


class _Results:
    """The results of a batch: inline, or together in an object.

    * ``entries``: those of the items that were run.
    * ``keeping``: writes the result of an item, as a call that can fail.

    ``only``: the item of a batch that has one. Its result is an object of its own, where readers of the run look.
    """

    def __init__(self, work: Work, invocation: Invocation, only: Entry | None) -> None:
        self.entries: list[Reply] = []
        self.keeping = replace(
            invocation,
            fn=self._keep,
            takes_value=True,
            values=(),
            make_arguments=lambda values: ([], {}),
            retry=None,
            timeout=None,
        )
        self._work = work
        self._id = invocation.id
        self._only = only
        self._pack = Pack()
        self._members: list[bytes] = []
        self._packed = 0

    def written(self) -> list[Reply]:
        """Write what is not written yet, and return all entries."""
        if self._members:
            self._write()
        return self.entries

    def _keep(self, result: object) -> Ref:
        settings = self._work.settings
        if self._only is not None:
            key = self._work.keys.item_output(self._id, (self._only.index,))
            return save(settings.store, key, result, settings.inline_limit)
        text = inline_json(result, settings.inline_limit)
        if text is not None:
            return Inline(msgspec.json.decode(text))
        if self._pack.size >= PACK_BYTES:
            self._write()
        member, place = self._pack.add(result)
        self._members.append(member)
        return Stored("", place, member_checksum(member))

    def _write(self) -> None:
        """Write the results of the entries so far as one object.

        It is named by the first and the last of these entries. So invocations of the same event that come differently
        far write different objects, and none has the name of another one's.
        """
        entries = self.entries[self._packed :]
        first, last = (msgspec.convert(entry["index"], int) for entry in (entries[0], entries[-1]))
        url = self._work.settings.store.write(self._work.keys.batch_output(self._id, first, last), self._members)
        for entry in entries:
            _set_url(entry, url.result_url)
        self._packed, self._pack, self._members = len(self.entries), Pack(), []


def _set_url(entry: Reply, url: str) -> None:
    """Put the URL of a pack where an entry has a place in it."""
    values = entry.get("values")
    for ref in (entry, *(values.values() if isinstance(values, dict) else ())):
        if isinstance(ref, dict) and ref.get("result_url") == "":
            ref["result_url"] = url
