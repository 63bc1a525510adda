"""An emulation from start to end: what was built, S3, functions and an execution of the state machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lokki.base.values import Json, Stored, ref_from_reply
from lokki.builder.states import machine_of
from lokki.emulator.account import EmulatedAccount
from lokki.emulator.functions.chaos import ChaosFunctions
from lokki.emulator.functions.pool import LambdaFunctions
from lokki.emulator.functions.process import FunctionSpec, Surroundings
from lokki.emulator.functions.sandbox import make_sandbox
from lokki.emulator.functions.throttling import ThrottledFunctions
from lokki.emulator.iam.checking import Roles
from lokki.emulator.run_files import DEFINITION, FUNCTION_LOGS, HISTORY, OBJECTS, SNAPSHOT
from lokki.emulator.s3.client import S3Server
from lokki.emulator.s3.faults import S3Faults
from lokki.emulator.scratch import Scratch, Secret
from lokki.emulator.secret_store import put_secrets
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome
from lokki.emulator.states.services import Caller, ExecutionSettings, Functions, RealClock, Services
from lokki.emulator.template import read_bundle
from lokki.emulator.translation import EventTranslator
from lokki.emulator.user_resources import make_resources
from lokki.engine.events import Event
from lokki.errors import RunFolderError, StoreError
from lokki.store.base import load
from lokki.store.local import LocalStore, open_to_append
from lokki.store.s3 import S3Store

SANDBOX_PAGE = "docs/emulator.md, What functions see"

_COLD_START = 2.0
_SMALL_FILES = 4096
_MOST_CHILDREN = 1000
"""Where AWS starts up to 10,000 children: each is a thread here."""


def _note_nothing(line: str) -> None:
    """Do nothing."""


def _leave_account(account: EmulatedAccount) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class EmulationOptions:
    """How an emulation is done.

    * ``workers``: functions at one time.
    * ``chaos``: a seed; invocations are throttled, doubled and crash, S3 refuses and is late, results come in small
      files, and waits between tries are skipped.
    * ``slow_start``: each cold start takes 2 s longer.
    * ``images``: for packages that are images, what is in their /var/task.
    * ``account_concurrency``: how many invocations Lambda takes at one time; more are throttled. None: as many as come.
    * ``shared``: folders of this machine that functions see.
    * ``skip_waits``: waits between tries, and of throttled calls, are counted and not waited.
    * ``permissive``: what roles do not allow is noted and let through.
    * ``note``: gets what a user should know before the run.
    * ``prepare``, ``inspect``: get the account before and after the run.
    """

    workers: int = 4
    chaos: str | None = None
    slow_start: bool = False
    images: Mapping[str, Path] | None = None
    account_concurrency: int | None = None
    shared: Sequence[Path] = ()
    skip_waits: bool = False
    permissive: bool = False
    note: Callable[[str], None] = _note_nothing
    prepare: Callable[[EmulatedAccount], object] = _leave_account
    inspect: Callable[[EmulatedAccount], object] = _leave_account

    @property
    def children(self) -> int:
        """Child executions of a map at one time.

        Where invocations may be throttled they are as many as AWS would start.
        """
        return self.workers if self.account_concurrency is None else max(self.workers, _MOST_CHILDREN)


class Emulation:
    """A built flow, running on this machine until the context ends.

    * ``bundle``: the folder that was built.
    * ``folder``: where history and logs are written, and at the end what is in S3.
    * ``emit``: gets lokki's events, from any thread.
    """

    def __init__(
        self, bundle: Path, folder: Path, emit: Callable[[Event], None], options: EmulationOptions | None = None
    ) -> None:
        self._bundle = bundle
        self._folder = folder
        self._emit = emit
        self._options = options or EmulationOptions()
        self._lock = threading.Lock()
        self._cleanup = ExitStack()
        self._resource_variables: dict[str, str] = {}
        self.stop = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            # In this order, and ended in the reverse: functions use S3, and everything is in the scratch folder.
            secret = Secret.new()
            scratch = cleanup.enter_context(Scratch(secret)).folder
            code = scratch / "code"
            code.mkdir()
            self.built = read_bundle(self._bundle, code, self._options.images)
            objects = self._folder / OBJECTS
            self.s3 = cleanup.enter_context(
                S3Server(self.built.bucket, self._s3_faults(), objects, secret, self._roles())
            )
            put_secrets(self.built.functions, self.s3)
            self._make_user_resources()
            self._options.prepare(self.account)
            LocalStore(self._folder).write(DEFINITION, [(self._bundle / DEFINITION).read_bytes()])
            self._history = cleanup.enter_context(os.fdopen(open_to_append(self._folder / HISTORY), "ab", buffering=0))
            logs = open_to_append(self._folder / FUNCTION_LOGS)
            self._logs = cleanup.enter_context(os.fdopen(logs, "a", 1, encoding="utf-8"))
            self._translator = EventTranslator(machine_of(self.built.plan), self._emit)
            functions = self._functions(scratch)
            cleanup.callback(functions.close)
            self._services = self._make_services(functions)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()  # first, so that no thread starts a process while they are ended
        self._cleanup.__exit__(kind, error, trace)  # what ends badly besides must not hide the error

    @property
    def account(self) -> EmulatedAccount:
        """The account that functions see, until the context ends."""
        return EmulatedAccount({**self.s3.variables("emulator"), **self._resource_variables})

    def _make_user_resources(self) -> None:
        if not self.built.user.ids:
            return
        before = self.built.functions
        functions = make_resources(before, self.built.user, self.account, os.environ)
        for marked, function in zip(before, functions, strict=True):
            names = [name for name, value in marked.environment.items() if value != function.environment[name]]
            self._resource_variables |= {name: function.environment[name] for name in names}
        self.built = replace(self.built, functions=functions)
        self.s3.set_roles(self._roles())

    def start(self, run_id: str, params: Mapping[str, Json]) -> Execution:
        """Make an execution with parameters of the flow, as JSON."""
        machine = self.built.machine
        return Execution(self._services, machine.states, Identity(machine.name, run_id, machine.timeout), dict(params))

    def keep(self, execution: Execution) -> None:
        """Write what another process needs to redrive an execution."""
        LocalStore(self._folder).write(SNAPSHOT, [msgspec.json.encode(execution.snapshot())])

    def revive(self, run_id: str, params: Mapping[str, Json]) -> Execution:
        """Make the execution that `keep` wrote, to be redriven.

        Raises RunFolderError if it cannot be read.
        """
        store = LocalStore(self._folder)
        execution = self.start(run_id, params)
        try:
            execution.restore(bytes(store.read(Stored(store.url(SNAPSHOT)))))
        except (StoreError, msgspec.MsgspecError) as error:
            raise RunFolderError(f"the emulated run {run_id!r} cannot be resumed: {error}") from None
        objects = self._folder / OBJECTS
        for path in sorted(objects.rglob("*")):
            if path.is_file():
                self.s3.write(self.built.bucket, path.relative_to(objects).as_posix(), path.read_bytes())
        return execution

    def result(self, outcome: Outcome) -> object:
        """Return the value that a flow returned, from an execution that succeeded."""
        flow = self.built.functions[0].environment["LOKKI_FLOW_NAME"]
        store = S3Store(self.built.bucket, f"lokki/{flow}/", environ=self.s3.variables("caller"))
        output = outcome.output
        if isinstance(output, dict) and isinstance(members := output.get("results"), list):
            return tuple(load(store, ref_from_reply(member)) for member in members)
        return load(store, ref_from_reply(output))

    def _make_services(self, functions: LambdaFunctions) -> Services:
        # Chaos outside of throttling: a doubled invocation counts twice, as it would on AWS.
        used: Functions = functions
        seed, concurrency = self._options.chaos, self._options.account_concurrency
        settings = ExecutionSettings(workers=self._options.children)
        if concurrency is not None:
            used = ThrottledFunctions(used, concurrency)
        if seed is not None:
            used = ChaosFunctions(used, seed, functions.crash)
            settings = replace(settings, seed=seed, file_bytes=_SMALL_FILES)
        clock = RealClock(self.stop, 0.0 if seed is not None or self._options.skip_waits else 1.0)
        return Services(used, self.s3, clock, self._listen, settings, stop=self.stop)

    def _functions(self, scratch: Path) -> LambdaFunctions:
        sandbox = make_sandbox(scratch / "sandbox", self._options.shared)
        if sandbox.problem:
            self._options.note(f"functions see more of this machine than on Lambda: {sandbox.problem} ({SANDBOX_PAGE})")
        temporary = scratch / "tmp"
        temporary.mkdir()
        delay = _COLD_START if self._options.slow_start else 0.0
        surroundings = Surroundings(sandbox, temporary, self.s3.variables("function"), self._log, delay)
        return LambdaFunctions(self.built.functions, surroundings, self._options.workers * 2, self.stop)

    def _roles(self) -> Roles:
        by_key = {spec.name: spec.role for spec in self.built.functions if spec.role is not None}
        return Roles(by_key, self._options.permissive)

    def _s3_faults(self) -> S3Faults:
        seed = self._options.chaos
        return S3Faults() if seed is None else S3Faults(seed, refused=0.05, late=0.05)

    def _listen(self, event: HistoryEvent) -> None:
        line = msgspec.json.encode(event.to_json()) + b"\n"
        with self._lock:  # unbuffered and in one piece: a killed run has whole lines but for the last
            self._history.write(line)
        self._translator(event)

    def _log(self, spec: FunctionSpec, caller: Caller | None, text: str) -> None:
        with self._lock:
            self._logs.write(f"{spec.name} | {text}\n")
        event = self._translator.output(caller, text)
        if event is not None:
            self._emit(event)
