"""Calls outside of map blocks: each runs its step here, and its result is written before the outcome that names it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import msgspec

from lokki.base.values import Inline, Json, ref_to_json
from lokki.engine.invocation import Attempts, Invocation, run
from lokki.engine.lazy import UnloadedError
from lokki.engine.regrouping import Group
from lokki.engine.switching import choose_case
from lokki.errors import LokkiError
from lokki.local_run.folder import RunFolder
from lokki.local_run.forks import guarded
from lokki.local_run.regrouping import ItemRegrouper
from lokki.local_run.run_values import CASE, RunValues
from lokki.local_run.written_items import WrittenItems, write_items
from lokki.plans.operations import Call
from lokki.store.base import Store, save
from lokki.store.manifest import check_is_no_iterator, check_items


class _SourceError(Exception):
    """Carries an error of the user's generator past our own handlers."""

    def __init__(self, raised: Exception) -> None:
        super().__init__()
        self.raised = raised


class CallRunner:
    """Runs steps once each, and keeps their results.

    ``check_folder``: raises RunFolderError unless the run's folder is still in its place.
    """

    def __init__(
        self,
        store: Store,
        folder: RunFolder,
        values: RunValues,
        inline_limit: int,
        check_folder: Callable[[], None],
        regrouping: ItemRegrouper,
    ) -> None:
        self._store = store
        self._regrouping = regrouping
        self._folder = folder
        self._values = values
        self._inline_limit = inline_limit
        self._check_folder = check_folder

    def run(self, call: Call, invocation: Invocation, attempts: Attempts) -> tuple[int, int | None]:
        """Run a step and write its outcome.

        Returns the size of its result in bytes, and how many items it has: None where no map runs over them.
        """
        try:
            return (self._run_source if call.fans_out else self._run_step)(call, invocation, attempts)
        except UnloadedError as stopped:
            raise stopped.error from None

    def regroup(self, call: Call) -> tuple[int, int]:
        """Make the items of the next level of a map block, and write them.

        Returns their size in bytes, and how many there are.
        """
        self._check_folder()
        groups: list[Group] = []
        items = self._regrouping.items(call, groups)
        with tempfile.TemporaryFile(dir=self._folder.path) as spool:
            written = write_items(self._store, self._folder.keys, call.id, items, self._inline_limit, spool)
        self._check_folder()
        self._folder.write_groups(call.id, groups)
        self._folder.write_items_outcome(call.id, written, {})
        return written.pack_bytes + written.manifest_bytes, written.count

    def _run_step(self, call: Call, invocation: Invocation, attempts: Attempts) -> tuple[int, None]:
        inputs = partial(self._values.inputs, call, lazy=invocation.lazy)
        result = run(invocation, inputs(), attempts, fresh_value=inputs)
        self._check_folder()
        outcome, size = self._keep(call, result)
        self._folder.write_outcome(call.id, msgspec.json.encode(outcome))
        return size, None

    def _keep(self, call: Call, result: object) -> tuple[dict[str, Json], int]:
        """Save a result, and return what is written of it, and its size."""
        ref = save(self._store, self._folder.keys.output(call.id), result, self._inline_limit, checked=True)
        outcome = ref_to_json(ref)
        size = (
            len(msgspec.json.encode(outcome))
            if isinstance(ref, Inline)
            else self._folder.output(call.id).stat().st_size
        )
        if call.cases:
            outcome[CASE] = call.cases[choose_case(call.cases, result, call.step)]
        return outcome, size

    def _run_source(self, call: Call, invocation: Invocation, attempts: Attempts) -> tuple[int, int]:
        """Run a step and write its items.

        A generator runs here, so its tries and its timeout include that.
        """
        value: dict[str, Json] = {}

        def make_items(*args: object, **kwargs: object) -> object:
            result = invocation.fn(*args, **kwargs)
            if call.keeps_value:
                try:
                    value.update(self._keep(call, check_is_no_iterator(call.gives, result))[0])
                except (LokkiError, OSError) as error:
                    return error
            return self._write_items(call, result)

        writing = replace(invocation, fn=guarded(make_items))
        inputs = partial(self._values.inputs, call, lazy=invocation.lazy)
        outcome = run(writing, inputs(), attempts, fresh_value=inputs)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, WrittenItems)
        self._check_folder()
        self._folder.write_items_outcome(call.id, outcome, value)
        return outcome.pack_bytes + outcome.manifest_bytes, outcome.count

    def _write_items(self, call: Call, result: object) -> WrittenItems | Exception:
        """Return what was written of the items.

        An error of ours, which is no failure of the step, is returned and not raised.
        """
        try:
            self._check_folder()
            items = _guarded(check_items(call.gives, result))
            with tempfile.TemporaryFile(dir=self._folder.path) as spool:
                return write_items(self._store, self._folder.keys, call.id, items, self._inline_limit, spool)
        except _SourceError as error:
            raise error.raised from None
        except (LokkiError, OSError) as error:
            return error


def _guarded(items: Iterable[object]) -> Iterator[object]:
    """Yield the user's items, and mark errors of their making as the user's."""
    try:
        yield from items
    except (LokkiError, OSError) as error:
        raise _SourceError(error) from error
