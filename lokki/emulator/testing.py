"""Flows run as AWS would, for tests: the fixture ``lokki_emulated`` of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import msgspec

from lokki.base.item_path import ItemPath
from lokki.base.quotas import IMAGE_BYTES, UNZIPPED_BYTES
from lokki.builder.builder import Builder
from lokki.builder.compiled import compile_flow
from lokki.builder.states import machine_of
from lokki.config import load_config
from lokki.decorators import Flow
from lokki.emulator.account import EmulatedAccount
from lokki.emulator.local_settings import emulator_settings
from lokki.emulator.run import EmulationOptions
from lokki.emulator.run_files import HISTORY, OBJECTS
from lokki.emulator.scratch import Scratch, Secret, temporary_files_in
from lokki.emulator.session import Session
from lokki.engine.events import Event, ItemFailed, StepFailed, StepOutput, StepRetried
from lokki.errors import RunError
from lokki.plan import Plan

type AccountHook = Callable[[EmulatedAccount], object]
"""What `Emulated.before_run` and `Emulated.after_run` take."""


@dataclass(frozen=True, slots=True)
class EmulatedCall:
    """A call of a step's function, each try for itself.

    ``item``: the item that it was called on, the first of its batch; ``items``: how many.
    """

    step: str
    item: ItemPath = ()
    items: int = 1


@dataclass(frozen=True, slots=True)
class EmulatedRun:
    """What became of a flow that ran as it would on AWS.

    * ``result``: what the flow returned; None for a run that failed.
    * ``calls``: which functions were called, in order; those of a map in the order in which they happened to begin.
    * ``waits``: the seconds between tries, which the run counted and did not wait.
    * ``failures``: of steps and items, as texts.
    * ``output``: the lines that steps printed and logged.
    * ``folder``: all that was in S3 is below it.
    """

    run_id: str
    result: object
    calls: tuple[EmulatedCall, ...]
    waits: tuple[float, ...]
    failures: tuple[str, ...]
    output: tuple[str, ...]
    folder: Path

    @property
    def objects(self) -> Mapping[str, bytes]:
        """What was in S3 at the end, by key."""
        root = self.folder / OBJECTS
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }


class Emulated:
    """Builds flows and runs what was built on this machine, as AWS would.

    ``folder``: for builds and runs.
    """

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._folder = folder
        self._workers = workers
        self._numbers = count(1)
        self._runs: list[EmulatedRun] = []
        self._before: list[AccountHook] = []
        self._after: list[AccountHook] = []

    def before_run[Hook: AccountHook](self, hook: Hook) -> Hook:
        """Call a function with the account before each run.

        It puts there what steps need. ``account.client("dynamodb")`` is a client of boto3. Each run has an account of
        its own. Returns the function, so that this is a decorator.
        """
        self._before.append(hook)
        return hook

    def after_run[Hook: AccountHook](self, hook: Hook) -> Hook:
        """Call a function with the account after each run.

        Also after one that failed. Returns the function, as `before_run` does.
        """
        self._after.append(hook)
        return hook

    @property
    def latest(self) -> EmulatedRun:
        """The run that ended last, also one that failed.

        Raises RunError before there is one.
        """
        if not self._runs:
            raise RunError("no flow has run yet: call lokki_emulated(birds_flow, limit=3).")
        return self._runs[-1]

    def __call__(self, flow: Flow[...], /, **params: object) -> EmulatedRun:
        """Build a flow and run it with these parameters.

        It has the settings of lokki.yml. Waits between tries are counted and skipped. Raises RunError for a run that
        failed, which `latest` has, and what ``build`` and ``emulate`` raise.
        """
        graph = flow()
        own = load_config()
        config = replace(emulator_settings(own), build_dir=str(self._folder / f"build-{flow.name}"))
        compiled = compile_flow(graph, config)
        most = IMAGE_BYTES if own.packages == "image" else UNZIPPED_BYTES  # a zip stands for an image here
        with Scratch(Secret.new()) as scratch, temporary_files_in(scratch.folder):
            Builder(write=_say_nothing, zip_bytes=most).build_compiled(graph, compiled)
        events: list[Event] = []
        options = EmulationOptions(
            self._workers, skip_waits=True, prepare=_calling(self._before), inspect=_calling(self._after)
        )
        session = Session(Path(config.build_dir), events.append, options, self._folder)
        run_id = f"test-{next(self._numbers)}"
        result: object = None
        try:
            result = session.run(graph, params, run_id, plan=compiled.plan)
        finally:
            with suppress(FileNotFoundError):  # it did not begin
                self._runs.append(self._run(compiled.plan, run_id, result, events))
        return self._runs[-1]

    def _run(self, plan: Plan, run_id: str, result: object, events: list[Event]) -> EmulatedRun:
        folder = self._folder / "runs" / run_id
        return EmulatedRun(
            run_id,
            result,
            tuple(_calls(folder / HISTORY, plan)),
            tuple(event.wait for event in events if isinstance(event, StepRetried)),
            tuple(str(event.failure) for event in events if isinstance(event, StepFailed | ItemFailed)),
            tuple(event.text for event in events if isinstance(event, StepOutput)),
            folder,
        )

    def __repr__(self) -> str:
        return f"<{len(self._runs)} emulated runs in {self._folder}>"


def _calling(hooks: Sequence[AccountHook]) -> AccountHook:
    def call(account: EmulatedAccount) -> None:
        for hook in hooks:
            hook(account)

    return call


class _Child(msgspec.Struct, frozen=True):
    index: int
    items: int = 1


class _Scheduled(msgspec.Struct, frozen=True):
    """What counts here of a history event."""

    type: str
    state: str
    child: _Child | None = None


def _calls(history: Path, plan: Plan) -> Iterator[EmulatedCall]:
    states = machine_of(plan).calls
    for line in history.read_bytes().splitlines():
        event = msgspec.json.decode(line, type=_Scheduled)
        if event.type == "TaskScheduled" and event.state in states:
            item = () if event.child is None else (event.child.index,)
            yield EmulatedCall(states[event.state], item, 1 if event.child is None else event.child.items)


def _say_nothing(line: str) -> None:
    """Do nothing."""
