"""One invocation of one call, between the event and the reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from lokki.base.failures import Failure, failure_of, hide_values
from lokki.base.item_path import ItemPath, item_to_json
from lokki.base.values import Inline, Json, JsonField, Ref, Stored, inline_json, ref_to_json
from lokki.chain import AnyStep
from lokki.engine.invocation import Attempts, Invocation, StepFailedError, prepare, run
from lokki.errors import BatchTimeoutError, EventError, StoreError
from lokki.graph import FlowParameter
from lokki.plan import PARTS_OF_BATCH, bind_parameters, started_by_aws
from lokki.plans.operations import Call
from lokki.runtime.event import Batch, Entry, HandledCall, Request, ResultsKey, Spilled, parse_entry, plain_text
from lokki.runtime.log import Log
from lokki.store.base import Store, load, reader, save
from lokki.store.codec import Pack, member_checksum
from lokki.store.keys import Keys

if TYPE_CHECKING:
    from lokki.runtime.values import CallValues

BATCH_MARGIN = 0.5
"""Seconds that a batch keeps for writing its results."""

MOST_REPLY = 200_000
"""Bytes of a batch's reply that fit into a state beside the run's id and the parameters; a state holds 256 KiB.
https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"""

_LONGEST_PLACE = 500
"""Bytes that a part of a batch needs where its entries are in an object of their own: a bucket's name and a key."""

_FAILURE_TEXT = 1000
"""Characters of a tolerated failure's message that travel with the results."""

type Reply = dict[str, Json]


class Context(Protocol):
    """What a handler uses of Lambda's context object.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function is stopped."""


class Settings(msgspec.Struct, frozen=True):
    """What a function knows from its environment.

    ``inline_limit``: bytes up to which values travel inline.
    """

    flow: str
    inline_limit: int
    store: Store
    log: Log


class Work(msgspec.Struct, frozen=True):
    """One invocation of one call.

    * ``flow_params``: what the first call checks the run's parameters against.
    * ``secrets``: values that no failure of the step shows.
    """

    step: AnyStep
    request: Request
    handled: HandledCall
    flow_params: tuple[FlowParameter, ...]
    settings: Settings
    context: Context
    log: Log
    secrets: tuple[str, ...] = ()

    def reply(self) -> Reply:
        """Do what the event asks for and return the reply.

        Raises StepFailedError when the step failed, or LokkiErrors.
        """
        call, params = self.request.call, self.request.params
        checks_params = self.handled.first or self.request.bind
        if checks_params:
            params = bind_parameters(self.flow_params, started_by_aws(self.flow_params, params))
        if self.request.bind:
            return {"params": dict(params)}
        invocation = self._choosing(prepare(call, self.step, params))
        if self.secrets:
            invocation = replace(invocation, secrets=self.secrets)
        match self.request.input:
            case Entry() as entry:
                return self._item(invocation, entry)
            case Batch() as batch:
                return self._batch(invocation, list(self._entries(batch)), _room(batch))
            case source:
                reply = self._once(call, invocation, self._inputs(source))
        return {**reply, "params": dict(params)} if checks_params else reply

    def _choosing(self, invocation: Invocation) -> Invocation:
        """Return an invocation that fails where its result has no case."""
        call = self.request.call
        if not call.cases:
            return invocation
        from lokki.engine.switching import choosing  # only here: other functions start faster without it

        return replace(invocation, fn=choosing(invocation.fn, call.cases, call.step))

    def _case(self, result: object) -> int | None:
        """Return the number of the case that a result chooses.

        None for a call that has no switch.
        """
        call = self.request.call
        if not call.cases:
            return None
        from lokki.engine.switching import choose_case  # only here: see above

        return choose_case(call.cases, result, call.step)

    def _inputs(self, source: Ref | ResultsKey | None) -> object:
        """Return what the step is called with outside of map blocks."""
        if self.handled.values:
            return self._call_values().inputs(source)
        if isinstance(source, ResultsKey):
            return self._results(source)
        return None if source is None else load(self.settings.store, source)

    def _item_loaders(self) -> Callable[[Entry], Callable[[], object]]:
        """Return what makes the loader of the step's input for an item.

        Each call of a loader loads it anew.
        """
        if not self.handled.values and self.request.call.reads is not None:
            return lambda entry: reader(self.settings.store, entry.ref)
        values = self._call_values()
        values.fetch()
        return values.of_item

    def _call_values(self) -> CallValues:
        from lokki.runtime.values import CallValues  # only here: other functions start faster without it

        return CallValues(self.settings.store, self.handled, self.request.values)

    def _results(self, source: ResultsKey) -> list[object]:
        from lokki.runtime.results import load_results  # only here: other functions start faster without it

        return load_results(self.settings.store, source, self.handled.tolerate)

    def _once(self, call: Call, invocation: Invocation, value: object) -> Reply:
        """Run a step outside of map blocks and write its result.

        The source of a map block writes its items instead.
        """
        result = self._run_once(invocation, value)
        store, keys, limit = self.settings.store, self._keys, self.settings.inline_limit
        chosen = self._case(result)
        case: Reply = {} if chosen is None else {"case": chosen}
        if not call.fans_out:
            return ref_to_json(save(store, keys.output(call.id), result, limit)) | case
        reply = self._send_items(call, invocation, result) | case
        if not call.keeps_value:
            return reply
        return reply | ref_to_json(save(store, keys.output(call.id), result, limit))

    def _send_items(self, call: Call, invocation: Invocation, result: object) -> Reply:
        """Write the items of a map block."""
        # Only here: other functions start faster without it.
        from lokki.runtime.sending import send_items
        from lokki.store.manifest import check_is_no_iterator, check_items

        items = _Items(check_items(call.gives, result))
        if call.keeps_value:
            check_is_no_iterator(call.gives, result)
        keys = self._keys
        try:
            count = send_items(self.settings.store, keys, call.id, items, self.settings.inline_limit)
        except BaseException as error:
            if error is items.failure:  # a generator is the step's code: its errors are the step's
                failure = failure_of(call.id, error, 1, invocation.defined_at)
                raise StepFailedError(hide_values(failure, invocation.secrets)) from error
            raise
        return {"map_manifest_key": keys.map_manifest(call.id), "items": count}

    def _item(self, invocation: Invocation, entry: Entry) -> Reply:
        """Run a step on one item of a map block.

        Step Functions tries again when it fails.
        """
        if entry.failed is not None:
            raise EventError(f"item {entry.index} failed before; only batches hand on items that failed.")
        if self._passes_by(entry):
            return self._same_entry(entry)
        result = self._run_once(invocation, self._item_loaders()(entry)())
        key = self._keys.item_output(invocation.id, (entry.index,))
        return self._next_entry(entry, save(self.settings.store, key, result, self.settings.inline_limit), result)

    def _passes_by(self, entry: Entry) -> bool:
        """Tell whether an item's switches chose other cases than the call's."""
        item_call = self.handled.item_call
        return item_call is not None and not item_call.is_for(entry)

    def _same_entry(self, entry: Entry) -> Reply:
        from lokki.runtime.values import same_entry  # only here: other functions start faster without it

        return same_entry(entry)

    def _next_entry(self, entry: Entry, ref: Ref, result: object) -> Reply:
        """Return an item's entry after its call."""
        item_call = self.handled.item_call
        if item_call is None:
            return {"index": entry.index, **ref_to_json(ref)}
        from lokki.runtime.values import next_entry  # only here: see above

        return next_entry(item_call, entry, ref, self._case(result))

    def _run_once(self, invocation: Invocation, value: object) -> object:
        """Call the step without its retries and its timeout.

        Those are Step Functions' and Lambda's.
        """
        return run(replace(invocation, retry=None, timeout=None), value, self._attempts())

    def _batch(self, invocation: Invocation, entries: list[Entry], room: int) -> Reply:
        """Run a step on the items of a batch.

        Each has the step's own retries; large results are written as one object.

        ``room``: the bytes that the reply may have.
        """
        members: list[bytes] = []
        pack = Pack()
        folder = self._keys.batch_output(invocation.id, entries[0].index, entries[-1].index) if entries else ""

        def keep(result: object) -> Ref:
            text = inline_json(result, self.settings.inline_limit)
            if text is not None:
                return Inline(msgspec.json.decode(text))
            member, place = pack.add(result)
            members.append(member)
            return Stored(self.settings.store.url(folder), place, member_checksum(member))

        keeping = replace(
            invocation,
            fn=keep,
            takes_value=True,
            values=(),
            make_arguments=lambda values: ([], {}),
            retry=None,
            timeout=None,
        )
        load_item = self._item_loaders()
        replies: list[Json] = []
        longest = 0.0
        for done, entry in enumerate(entries):
            if entry.failed is not None:
                replies.append({"index": entry.index, "failed": entry.failed})
                continue
            if self._passes_by(entry):
                replies.append(self._same_entry(entry))
                continue
            self._check_time(longest, done, len(entries))
            began = time.monotonic()
            replies.append(self._try(invocation, keeping, entry, load_item))
            longest = max(longest, time.monotonic() - began)
        if members:
            self.settings.store.write(folder, members)
        return {"items": self._small(replies, folder, room)}

    def _try(
        self, invocation: Invocation, keeping: Invocation, entry: Entry, loader: Callable[[Entry], Callable[[], object]]
    ) -> Reply:
        """Run the step on an item, with retries, and return the item's next entry.

        That has the item's failure where the map tolerates some; else it is raised.

        A result that does not pickle, and an item that cannot be read, are failures of the item that are not tried
        again, as they are locally.
        """
        try:
            load_item = loader(entry)
            result = run(invocation, load_item(), self._attempts((entry.index,)), fresh_value=load_item)
            ref = run(keeping, result, self._attempts())
            assert isinstance(ref, Inline | Stored)  # it is what `keep` returned
            return self._next_entry(entry, ref, result)
        except StepFailedError as error:
            raised: Exception = error
            failure = error.failure
        except StoreError as error:
            raised = error
            failure = failure_of(invocation.id, error, 1, invocation.defined_at)
        item = item_to_json((entry.index,))
        self.log.write("ERROR", "item failure", item=item, error=failure.error, where=failure.where)
        if not self.handled.tolerate:
            raise raised
        message = plain_text(failure.message[:_FAILURE_TEXT])
        return {"index": entry.index, "failed": {"step": failure.step, "error": failure.error, "message": message}}

    def _small(self, replies: list[Json], folder: str, room: int) -> list[Json]:
        """Return the entries of a batch, or where they are.

        They are in an object of their own when they are too large for a state.
        """
        text = msgspec.json.encode(replies)
        if len(text) <= room:
            return replies
        key = f"{folder.rpartition('/')[0]}/entries.json"
        return [{"entries_url": self.settings.store.write(key, [text]).result_url}]

    def _entries(self, batch: Batch) -> Iterator[Entry]:
        for entry in batch.entries:
            if isinstance(entry, Spilled):
                yield from map(parse_entry, self._spilled(entry))
            else:
                yield entry

    def _spilled(self, spilled: Spilled) -> list[Json]:
        content = self.settings.store.read(Stored(spilled.url))
        try:
            return msgspec.json.decode(content, type=list[JsonField])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{spilled.url} is not what lokki writes for a large batch: {error}.") from None

    def _check_time(self, longest: float, done: int, items: int) -> None:
        """Stop before an item that would most likely be cut off.

        The error says what to do.
        """
        left = self._seconds_left()
        if done and left < longest + BATCH_MARGIN:
            raise BatchTimeoutError(
                f"{self.request.call.id}() has {left:.1f} s left after {done} of {items} items, and one took "
                f"{longest:.1f} s. Give .map() a smaller batch= or the step a longer timeout=."
            )

    def _sleep(self, seconds: float) -> None:
        left = self._seconds_left()
        if left < seconds + BATCH_MARGIN:
            raise BatchTimeoutError(
                f"{self.request.call.id}() has {left:.1f} s left, too little to wait {seconds:g} s for the next try. "
                "Give .map() a smaller batch= or the step a longer timeout=."
            )
        time.sleep(seconds)

    def _seconds_left(self) -> float:
        return self.context.get_remaining_time_in_millis() / 1000

    def _attempts(self, item: ItemPath = ()) -> Attempts:
        def retried(step_id: str, attempt: int, wait: float, failure: Failure) -> None:
            log = self.log.about(item=item_to_json(item), attempt=attempt)
            log.write("WARNING", "retry", wait=wait, error=failure.error, where=failure.where)

        return Attempts(self._sleep, _limited, retried)

    @property
    def _keys(self) -> Keys:
        return Keys(f"lokki/{self.settings.flow}/{self.request.run_id}")


def _room(batch: Batch) -> int:
    """Return the bytes that the reply for a batch may have.

    All that there are, or a part's share of them.
    """
    if len(batch.entries) == batch.of:
        return MOST_REPLY
    return (MOST_REPLY - PARTS_OF_BATCH * _LONGEST_PLACE) * len(batch.entries) // batch.of


class _Items:
    """The items that a step returned.

    Remembers the error that making them ended with, to tell it from lokki's.
    """

    def __init__(self, items: Iterable[object]) -> None:
        self._items = items
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[object]:
        try:
            yield from self._items
        except BaseException as error:
            self.failure = error
            raise


def _limited(function: Callable[[], object], seconds: float) -> object:
    # Only here: a function starts faster without it, and only batches of steps with a timeout need it.
    from lokki.engine.limits import TimeLimit

    limit = TimeLimit()
    try:
        return limit(function, seconds)
    finally:
        limit.close()
