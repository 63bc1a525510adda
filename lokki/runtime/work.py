"""One invocation of one call, between the event and the reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from lokki.base.failures import Failure, failure_of, hide_values
from lokki.base.item_path import ItemPath
from lokki.base.placeholders import FlowParameter
from lokki.base.values import Json, Ref, ref_to_json
from lokki.chain import AnyStep
from lokki.engine.invocation import Attempts, Invocation, StepFailedError, prepare, run
from lokki.errors import ItemFailedError, StopSignal
from lokki.plan import bind_parameters, started_by_aws
from lokki.plans.operations import Call
from lokki.runtime.event import Batch, Entry, HandledCall, ItemCount, Request, ResultsKey
from lokki.runtime.log import Log
from lokki.store.base import Store, load, reader, save
from lokki.store.keys import Keys

if TYPE_CHECKING:
    from lokki.runtime.values import CallValues

_NO_ATTEMPTS = Attempts(time.sleep, lambda function, seconds: function(), lambda *retry: None)
"""For calls that Step Functions tries again, and Lambda ends."""

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
    * ``observe``: is told how long an item of a batch took, and why it failed; for traces.
    """

    step: AnyStep
    request: Request
    handled: HandledCall
    flow_params: tuple[FlowParameter, ...]
    settings: Settings
    context: Context
    log: Log
    secrets: tuple[str, ...] = ()
    observe: Callable[[ItemPath, float, Failure | None], None] | None = None

    def reply(self) -> Reply:
        """Do what the event asks for and return the reply.

        Raises StepFailedError when the step failed, or LokkiErrors.
        """
        params = self._params()
        if self.request.bind:
            return {"params": params}
        if self.handled.regroups is not None:
            return self._regroup()
        invocation, source = self._invocation(params), self.request.input
        if isinstance(source, Entry):
            return self._item(invocation, source)
        if isinstance(source, Batch):
            raise TypeError("a batch is for lokki.runtime.batches")
        if invocation.lazy:
            from lokki.runtime.results import load_error  # only here: other functions start faster without it

            with load_error():
                reply = self._once(self.request.call, invocation, self._inputs(source, lazy=True))
        else:
            reply = self._once(self.request.call, invocation, self._inputs(source))
        return {**reply, "params": params} if self._checks_params else reply

    def checked_params(self) -> Reply:
        """Return the field of a reply with the parameters.

        There is none where the call does not check them.
        """
        return {"params": self._params()} if self._checks_params else {}

    def prepared(self) -> Invocation:
        """Return the call with its arguments."""
        return self._invocation(self._params())

    @property
    def _checks_params(self) -> bool:
        return self.handled.first or self.request.bind

    def _params(self) -> dict[str, Json]:
        params = self.request.params
        if not self._checks_params:
            return params
        return dict(bind_parameters(self.flow_params, started_by_aws(self.flow_params, params)))

    def _invocation(self, params: Mapping[str, Json]) -> Invocation:
        invocation = self._choosing(prepare(self.request.call, self.step, params))
        return replace(invocation, secrets=self.secrets) if self.secrets else invocation

    def check_list(self, result: object) -> None:
        """Raise ResultError for what no map below this one can run over."""
        call = self.request.call
        if call.fans_out:
            from lokki.store.manifest import check_items  # only here: other functions start faster without it

            check_items(call.gives, result)

    def _regroup(self) -> Reply:
        """Make the items of the next level of a map block, which runs no step."""
        from lokki.runtime.regrouping import send_regrouped  # only here: other functions start faster without it

        keys, call = self.keys, self.request.call
        settings = self.settings
        sent = send_regrouped(settings.store, keys, self.handled, self.request, settings.inline_limit)
        self.check_cost(sent)
        return {"map_manifest_key": keys.map_manifest(call.id), "items": sent.count}

    def _choosing(self, invocation: Invocation) -> Invocation:
        """Return an invocation that fails where its result has no case."""
        call = self.request.call
        if call.fans_out and isinstance(self.request.input, Entry | Batch):
            from lokki.store.manifest import listing  # only here: other functions start faster without it

            invocation = replace(invocation, fn=listing(invocation.fn))
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

    def _inputs(self, source: Ref | ResultsKey | None, *, lazy: bool = False) -> object:
        """Return what the step is called with outside of map blocks.

        ``lazy``: whether it takes the results of a map one by one.
        """
        if self.handled.values:
            return self._call_values().inputs(source, lazy=lazy)
        if isinstance(source, ResultsKey):
            return self._results(source, lazy=lazy)
        return None if source is None else load(self.settings.store, source)

    def item_loaders(self) -> Callable[[Entry], Callable[[], object]]:
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

    def _results(self, source: ResultsKey, *, lazy: bool) -> Sequence[object]:
        from lokki.runtime.results import find_results, load_results  # only here: other functions start faster without

        results = find_results if lazy else load_results
        return results(self.settings.store, source, self.handled.tolerate)

    def _once(self, call: Call, invocation: Invocation, value: object) -> Reply:
        """Run a step outside of map blocks and write its result.

        The source of a map block writes its items instead.
        """
        result = self._run_once(invocation, value)
        store, keys, limit = self.settings.store, self.keys, self.settings.inline_limit
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
        keys = self.keys
        try:
            sent = send_items(self.settings.store, keys, call.id, items, self.settings.inline_limit)
        except BaseException as error:
            if error is items.failure and not isinstance(error, StopSignal):
                # A generator is the step's code: its errors are the step's.
                failure = failure_of(call.id, error, 1, invocation.defined_at)
                raise StepFailedError(hide_values(failure, invocation.secrets)) from error
            raise
        self.check_cost(sent)
        return {"map_manifest_key": keys.map_manifest(call.id), "items": sent.count}

    def check_cost(self, items: ItemCount) -> None:
        """Raise CostLimitError for more items than the run may pay."""
        if self.handled.max_cost:
            from lokki.runtime.cost_limit import check_cost  # only here: other functions start faster without it

            check_cost(self.handled.max_cost, self.settings.store, self.keys, self.request.call.id, items)

    def _item(self, invocation: Invocation, entry: Entry) -> Reply:
        """Run a step on one item of a map block.

        Step Functions tries again when it fails.
        """
        if entry.failed is not None:
            place = " at {where}" if "where" in entry.failed else ""
            raise ItemFailedError(("{step}() raised {error}: {message}" + place).format(**entry.failed))
        if self.passes_by(entry):
            return self.same_entry(entry)
        result = self._run_once(invocation, self.item_loaders()(entry)())
        self.check_list(result)
        key = self.keys.item_output(invocation.id, (entry.index,))
        return self.next_entry(entry, save(self.settings.store, key, result, self.settings.inline_limit), result)

    def passes_by(self, entry: Entry) -> bool:
        """Tell whether an item's switches chose other cases than the call's."""
        item_call = self.handled.item_call
        return item_call is not None and not item_call.is_for(entry)

    def same_entry(self, entry: Entry) -> Reply:
        """Return the entry of an item that the call is not run on."""
        from lokki.runtime.values import same_entry  # only here: other functions start faster without it

        return same_entry(entry)

    def next_entry(self, entry: Entry, ref: Ref, result: object) -> Reply:
        """Return an item's entry after its call."""
        item_call = self.handled.item_call
        if item_call is None:
            return {"index": entry.index, **entry.path_field, **ref_to_json(ref)}
        from lokki.runtime.values import next_entry  # only here: see above

        return next_entry(item_call, entry, ref, self._case(result))

    def _run_once(self, invocation: Invocation, value: object) -> object:
        """Call the step without its retries and its timeout.

        Those are Step Functions' and Lambda's.
        """
        return run(replace(invocation, retry=None, timeout=None), value, _NO_ATTEMPTS)

    def seconds_left(self) -> float:
        """Return how many seconds the function has left."""
        return self.context.get_remaining_time_in_millis() / 1000

    @property
    def keys(self) -> Keys:
        """Where the run's objects are."""
        return Keys(f"lokki/{self.settings.flow}/{self.request.run_id}")


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
