"""The Lambda handler of a step: reads what is upstream, runs the step, writes the result and answers with where it is.

The events and replies are described in docs/contract.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from lokki.base.item_path import item_to_json
from lokki.base.options import Retry
from lokki.base.placeholders import FlowParameter
from lokki.base.quotas import STATE_BYTES
from lokki.base.values import INLINE_LIMIT, Json, JsonField
from lokki.base.variables import SECRETS_VARIABLE, is_traced
from lokki.chain import AnyStep, StepNode
from lokki.decorators import Flow
from lokki.engine.invocation import BatchItemError, StepFailedError
from lokki.errors import ConfigError, EventError
from lokki.runtime.event import Batch, Entry, HandledCall, Request, parse_calls, parse_event, plain_text
from lokki.runtime.log import Log
from lokki.runtime.work import Context, Reply, Settings, Work
from lokki.store.keys import LATEST_SUFFIX
from lokki.store.s3 import S3Store

if TYPE_CHECKING:
    from lokki.store.takeover import Takeover

MOST_INLINE = STATE_BYTES // 2
"""Bytes up to which a value can travel inline, whatever LOKKI_INLINE_LIMIT says: a state holds more than the value."""

_UNTRACED = 60.0
"""Seconds for which a function tells a collector nothing that could not be reached."""

type Handler = Callable[[object, Context], Reply]


class Secrets(Protocol):
    """The values of a function's secrets, which no failure shows."""

    @property
    def known(self) -> tuple[str, ...]:
        """All values that it has had."""

    def refresh(self, *, force: bool = False) -> str:
        """Read them again when they are old, or ``force`` says so.

        Returns why that failed, or "".
        """


class _NoSecrets:
    """Those of a function that has none."""

    known: tuple[str, ...] = ()

    def refresh(self, *, force: bool = False) -> str:
        """Read nothing."""
        return ""


class _Place(msgspec.Struct, frozen=True):
    """Where a step or a flow is to be imported from."""

    module: str
    attribute: str

    def load(self) -> object:
        """Import it."""
        return getattr(import_module(self.module), self.attribute)


class _PackagedStep(msgspec.Struct, frozen=True):
    """What ``step.json`` says; docs/contract.md has its fields."""

    flow: _Place
    step: _Place
    calls: dict[str, JsonField]


def packaged_handler(handler_file: str) -> Handler:
    """Make the handler of the step that ``step.json`` beside a file describes.

    Every package has the same ``handler.py``, which hands over its own path. The two are packed together with this very
    lokki, so there is one format. Raises ConfigError for a ``step.json`` that no build wrote.
    """
    # No paths of pathlib, which a cold start need not import.
    path = os.path.join(os.path.dirname(handler_file), "step.json")  # noqa: PTH118, PTH120
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            packaged = msgspec.json.decode(file.read(), type=_PackagedStep)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Build the flow again.") from None
    secrets = _read_secrets(os.environ)  # before the step's module is imported, which may look at them
    step, flow = packaged.step.load(), packaged.flow.load()
    if not isinstance(step, StepNode) or not isinstance(flow, Flow):
        raise ConfigError(f"{path} names what is no step or no flow. Build the flow again.")
    return make_handler(step, flow=flow, calls=packaged.calls, secrets=secrets)


def _read_secrets(environ: MutableMapping[str, str]) -> Secrets:
    """Read the secrets that the environment names into it."""
    if SECRETS_VARIABLE not in environ:
        return _NoSecrets()
    # Only here: no other function needs http before its step runs.
    from lokki.runtime.secret_values import SecretValues

    values = SecretValues(environ)
    values.refresh(force=True)
    return values


def make_handler(
    step: AnyStep,
    *,
    flow: Flow[...] | None = None,
    calls: Mapping[str, Json] | None = None,
    environ: Mapping[str, str] = os.environ,
    secrets: Secrets | None = None,
) -> Handler:
    """Make the Lambda handler of a step.

    ``flow``: whose parameters the first step's handler validates; ``calls``: the occurrences of the step in the flow,
    as ``step.json`` has them (docs/contract.md); default: one, with no bound arguments. From the
    environment: LOKKI_ARTIFACT_BUCKET, LOKKI_FLOW_NAME, and LOKKI_INLINE_LIMIT and LOKKI_LOG_LEVEL if they are set.
    ``secrets`` are refreshed before each call of the step, and after a restore; default: none.
    Where AWS_LAMBDA_INITIALIZATION_TYPE is ``snap-start``, each restore makes random numbers and the store anew.

    What the step raises, ``sys.exit()`` too, the handler raises as an error that has the name of the class in
    ``Retry.on`` that it is an instance of, by which Step Functions knows it, or else its own, and the step's traceback.
    Raises EventError for an event that no state machine of lokki sends; ParameterError with all that is wrong with the
    flow's parameters; StoreError, ResultError, BatchTimeoutError, CostLimitError and TooManyFailuresError. None of
    these is the step's, so none is tried again.
    """
    single: Mapping[str, Json] = {step.name: {"first": flow is not None}}
    if environ is os.environ:
        _prepare_for_programs(os.environ)
    handled = parse_calls(step.name, calls if calls is not None else single)
    function = _Function(step, flow.params if flow is not None else (), handled, environ, secrets or _NoSecrets())
    function.start()  # while Lambda starts the function, it has a full CPU
    # docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
    if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        # Only here: no other function needs the runtime's hooks and random.
        from lokki.runtime.restoring import call_after_restore, reseed

        call_after_restore(reseed, partial(function.secrets.refresh, force=True), function.start)

    def lambda_handler(event: object, context: Context) -> Reply:
        return function.handle(event, context)

    return lambda_handler


def _prepare_for_programs(environ: MutableMapping[str, str]) -> None:
    """Let steps start programs of packages by their names.

    They can do so in an environment that is active here, too.
    """
    root = environ.get("LAMBDA_TASK_ROOT", "")
    # What installs packages into a folder puts their programs into bin/ there, where Lambda does not look.
    folder = f"{root}/bin" if root else ""
    path = environ.get("PATH", os.defpath)
    # Not Path.is_dir(): a cold start need not import pathlib.
    if folder and os.path.isdir(folder) and folder not in path.split(os.pathsep):  # noqa: PTH112
        environ["PATH"] = f"{path}{os.pathsep}{folder}"
    # Where the runtime imports packages from, programs in Python do not look by themselves: neither those in bin/, nor
    # `python -m` in another directory.
    others = environ.get("PYTHONPATH", "")
    if root and root not in others.split(os.pathsep):
        environ["PYTHONPATH"] = f"{root}{os.pathsep}{others}".rstrip(os.pathsep)


class _Function:
    """One Lambda function: a step and the calls of it that the flow has."""

    def __init__(
        self,
        step: AnyStep,
        params: tuple[FlowParameter, ...],
        calls: Mapping[str, HandledCall],
        environ: Mapping[str, str],
        secrets: Secrets,
    ) -> None:
        self._step = step
        self._params = params
        self._calls = calls
        self._environ = environ
        self.secrets = secrets
        self._settings: Settings | None = None
        self._takeovers: dict[str, Takeover | None] = {}
        self._is_cold = True
        self._untraced_until = float("-inf")

    def start(self) -> None:
        """Read the environment anew, and make a new store.

        It has no connections and no keys yet.
        """
        # After a restore, the clock by which obstore's keys expire may have stood still since the snapshot.
        self._settings = None
        if self._environ.get("LOKKI_ARTIFACT_BUCKET"):
            self.settings()

    def settings(self) -> Settings:
        """Read the environment, once.

        Raises ConfigError for what is missing or wrong.
        """
        if self._settings is None:
            bucket, flow = self._environ.get("LOKKI_ARTIFACT_BUCKET"), self._environ.get("LOKKI_FLOW_NAME")
            if not bucket or not flow:
                raise ConfigError(
                    "LOKKI_ARTIFACT_BUCKET and LOKKI_FLOW_NAME must be set; the template of lokki sets them."
                )
            log = Log({"flow": flow, "step": self._step.name}, self._environ.get("LOKKI_LOG_LEVEL") or "INFO")
            store = S3Store(bucket, f"lokki/{flow}/", environ=self._environ)
            self._settings = Settings(flow, _inline_limit(self._environ), store, log)
        return self._settings

    def handle(self, event: object, context: Context) -> Reply:
        """Handle one invocation."""
        settings = self.settings()
        began = time.monotonic()
        log = settings.log
        if problem := self.secrets.refresh():
            log.write("WARNING", "secrets", problem=problem)
        try:
            request = parse_event(event, self._calls)
            log = _about(log, request)
            log.write("INFO", "start")
            handled = self._calls[request.call.id]
            work = Work(self._step, request, handled, self._params, settings, context, log, self.secrets.known)
            is_told = is_traced(self._environ) and began >= self._untraced_until
            reply = self._traced_reply(work) if is_told else self._reply(work)
            size = len(msgspec.json.encode(reply))
        except UnicodeEncodeError:  # lokki never puts such text inline; what an item carries goes on as it came
            refused = EventError("the event has text that cannot be encoded, such as half of a surrogate pair.")
            _raise_by_name(refused, None, log, began)
        # The step may raise anything. Its message and values stay out of lokki's log: it may hold what nobody may read.
        except Exception as error:
            _raise_by_name(error, self._step.options.retry, log, began)
        log.write("INFO", "end", seconds=_since(began), bytes=size)
        return reply

    def _traced_reply(self, work: Work) -> Reply:
        # Only here: a function without a collector needs no http.
        from lokki.runtime.tracing import InvocationTrace

        trace = InvocationTrace(self._environ, work, is_cold=self._is_cold)
        self._is_cold = False
        try:
            return self._reply(msgspec.structs.replace(work, observe=trace.take_item))
        except Exception as error:  # the step may raise anything, and it goes on as it came
            trace.fail(error)
            raise
        finally:
            if problem := trace.send():
                # A collector that does not answer is not waited for by each item.
                self._untraced_until = time.monotonic() + _UNTRACED
                work.log.write("WARNING", "trace", problem=problem)

    def _reply(self, work: Work) -> Reply:
        """Do the work, or take over what an earlier run did of it."""
        run_id = work.request.run_id
        if not run_id.endswith(LATEST_SUFFIX):
            return _own_reply(work)
        # Only here: runs that take nothing over start faster without it.
        from lokki.runtime.taking_over import taken_reply, with_earlier_results
        from lokki.store.takeover import read_takeover

        if run_id not in self._takeovers:
            self._takeovers = {run_id: read_takeover(work.settings.store, work.keys)}
        takeover = self._takeovers[run_id]
        if takeover is None:
            return _own_reply(work)
        taken = taken_reply(work, takeover)
        if taken is None:
            return _own_reply(msgspec.structs.replace(work, request=with_earlier_results(work.request, takeover)))
        work.log.write("INFO", "taken over", earlier=takeover.run)
        return taken


def _own_reply(work: Work) -> Reply:
    batch = work.request.input
    if not isinstance(batch, Batch):
        return work.reply()
    from lokki.runtime.batches import run_batch  # only here: other functions start faster without it

    return run_batch(work, batch)


def _inline_limit(environ: Mapping[str, str]) -> int:
    text = environ.get("LOKKI_INLINE_LIMIT") or str(INLINE_LIMIT)
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"LOKKI_INLINE_LIMIT={text!r}: give a number of bytes, such as {INLINE_LIMIT}; 0 is off.")
    return min(int(text), MOST_INLINE)


def _about(log: Log, request: Request) -> Log:
    payload = request.input
    alone = payload if isinstance(payload, Entry) else None
    if isinstance(payload, Batch) and (payload.size == 1 or len(payload.entries) == 1):
        # What the step prints belongs to this item, as it does out of batches.
        entry = payload.entries[payload.first] if payload.first < len(payload.entries) else None
        alone = entry if isinstance(entry, Entry) else None
    return log.about(
        run=request.run_id,
        call=request.call.id,
        item=item_to_json(alone.item) if alone is not None else None,
        items=len(payload.entries) if isinstance(payload, Batch) and alone is None else None,
        attempt=request.attempt,
    )


def _raise_by_name(error: Exception, retry: Retry | None, log: Log, began: float) -> NoReturn:
    """Log a failure and raise it.

    The step's own error is raised by the name that Step Functions knows, one of lokki's as it is.
    """
    if not isinstance(error, StepFailedError) or error.__cause__ is None:
        log.write("ERROR", "failure", error=type(error).__name__, seconds=_since(began))
        raise error
    cause = error.__cause__
    log.write("ERROR", "failure", error=type(cause).__name__, where=error.failure.where, seconds=_since(began))
    kind, name = type(cause), error_name(cause, retry)
    message = error.failure.message if name == kind.__name__ else f"{kind.__name__}: {error.failure.message}"
    if isinstance(error, BatchItemError):
        message = f"item {error.index}: {message}"
    message = plain_text(message)
    named = type(name, (Exception,), {"__module__": kind.__module__})
    raise named(message).with_traceback(cause.__traceback__) from cause


def error_name(error: BaseException, retry: Retry | None) -> str:
    """Return the name by which Step Functions is told of an error.

    It is that of the class in ``Retry.on`` that the error is an instance of, or else of its own class. Step Functions
    compares the names of errors and knows no subclasses
    (https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html), so an error that only happens
    to have the name of another class in ``Retry.on`` gets the name of its module, too.

    >>> error_name(ConnectionResetError(), Retry(on=(OSError,))), error_name(KeyError(), Retry(on=(OSError,)))
    ('OSError', 'KeyError')
    """
    kind = type(error)
    retried = retry.on if retry is not None else ()
    match = next((other for other in retried if isinstance(error, other)), None)
    if match is not None:
        return match.__name__
    taken = kind.__name__ in {other.__name__ for other in retried}
    return f"{kind.__module__}.{kind.__qualname__}" if taken else kind.__name__


def _since(began: float) -> float:
    return round(time.monotonic() - began, 6)
