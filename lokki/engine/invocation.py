"""Calling a step, in the local runner and in the Lambda handler alike.

Both bind arguments, retry and limit time with this code.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import inspect
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from types import CodeType

from lokki.base import signatures
from lokki.base.convert import ConversionError, from_json
from lokki.base.failures import Failure, failure_of, hide_values
from lokki.base.options import Retry
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import ParameterError, StopSignal
from lokki.plans.operations import Call
from lokki.plans.templates import Item, Output, Results, Source, Template, fill, sources_in

type Limit = Callable[[Callable[[], object], float], object]
"""Runs a function for at most so many seconds, and raises StepTimeoutError when it takes longer."""

_IMMUTABLE = (
    str | int | float | complex | bytes | None | datetime.date | datetime.time | datetime.timedelta | datetime.tzinfo
    | decimal.Decimal | enum.Enum | uuid.UUID | PurePath
)  # fmt: skip


class StoppedError(StopSignal):
    """The run ended while a step ran or waited for its next try.

    The step has not failed, and is not tried again.
    """


class StepFailedError(Exception):
    """A step failed for good.

    ``failure`` says why; the step's own exception is the cause.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class BatchItemError(StepFailedError):
    """An item of a batch failed for good, and with it the batch.

    ``index``: of the item in its map.
    """

    def __init__(self, failure: Failure, index: int) -> None:
        super().__init__(failure)
        self.index = index


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call with the arguments of one run.

    ``make_arguments`` makes them anew where a step could change them, of the values of the run that they need.
    ``values`` says which these are: where there are any, the invocation is called with `Inputs`.

    ``defined_at``: ``file:line`` of the step's function. ``sets_decimals``: the flow's file has used decimal's context.
    ``secrets``: values that no failure of it shows. ``lazy``: whether it takes the results of a map one by one, as
    `lokki.engine.lazy` has them.
    """

    id: str
    fn: Callable[..., object]
    takes_value: bool
    make_arguments: Callable[[Mapping[Source, object]], tuple[list[object], dict[str, object]]]
    retry: Retry | None
    timeout: float | None
    env: Mapping[str, str]
    defined_at: str = ""
    sets_decimals: bool = False
    values: tuple[Source, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    lazy: bool = False

    def __call__(self, value: object) -> object:
        """Call the step once.

        ``value`` is what comes down the chain; a first step does not use it. Where ``values`` are needed, it is the
        `Inputs` that have them.

        Each call has a context of its own (`contextvars`, decimal's context, numpy's error handling): it begins as it
        was when the flow's file had been imported, and what the step changes in it ends with the call. So no result
        depends on which items a worker ran before.
        """
        return copy_context().run(self._call, value)

    def _call(self, value: object) -> object:
        if self.sets_decimals:
            copy_decimals()
        values: Mapping[Source, object] = {}
        if type(value) is Inputs:  # not isinstance, which asks values of users what class they are of
            values = value.values
            value = value.first
        args, kwargs = self.make_arguments(values)
        return self.fn(value, *args, **kwargs) if self.takes_value else self.fn(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a call that needs several values of the run is called with.

    * ``first``: what fills the step's first parameter, None where nothing does.
    * ``values``: what its other arguments need. Each call has values of its own, since a step may change them.
    """

    first: object
    values: Mapping[Source, object]


def copy_decimals() -> None:
    """Give the current context a decimal context of its own.

    Copies of a context share the decimal context, which can be changed.
    """
    decimal.setcontext(decimal.getcontext().copy())


def _has_decimals() -> bool:
    return any(isinstance(value, decimal.Context) for value in copy_context().values())


@dataclass(frozen=True, slots=True)
class Attempts:
    """What retrying a step needs from outside.

    That is to sleep, to limit the step's time, and to report a retry.
    """

    sleep: Callable[[float], None]
    limit: Limit
    retried: Callable[[str, int, float, Failure], None]


def prepare(call: Call, step: AnyStep, params: Mapping[str, Json]) -> Invocation:
    """Fill the parameters of a run into a call.

    They are converted by the annotations of the step; values of the run are never converted.

    Raises ParameterError for a value that the step's annotation does not describe.
    """
    hints = signatures.hints(step.fn)
    makers = []
    for argument in call.arguments:
        hint = hints.get(argument.parameter, signatures.UNKNOWN)
        name = f"the argument {argument.parameter!r} of {step.name}()"
        if call.passes_on:
            hint, name = signatures.list_of(hint), f"the list {call.id!r} for {step.name}()"
        makers.append((argument, _maker(argument.template, params, hint, name)))

    def make(values: Mapping[Source, object]) -> tuple[list[object], dict[str, object]]:
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for argument, maker in makers:
            if argument.keyword is None:
                args.append(maker(values))
            else:
                kwargs[argument.keyword] = maker(values)
        return args, kwargs

    # Made here too, so that a wrong parameter is an error before the step is called.
    once = make(_NOT_YET)
    # What no step can change is shared by all calls: to convert it anew costs more than many a step.
    constant = not call.values and all(isinstance(value, _IMMUTABLE) for value in (*once[0], *once[1].values()))
    options = step.options
    kind = _lazy_kind(call, step, hints)
    return Invocation(
        call.id,
        _pass_on if call.passes_on else _taking_iterator(step.fn) if kind is Iterator else step.fn,
        call.reads is not None,
        (lambda values: once) if constant else make,
        options.retry,
        options.timeout,
        options.env,
        definition_place(step.fn),
        _has_decimals(),
        call.values,
        lazy=kind is not None and isinstance(call.reads, Results),
    )


def takes_one_by_one(call: Call, step: AnyStep) -> bool:
    """Tell whether a call takes the results of a map one by one."""
    return isinstance(call.reads, Results) and _lazy_kind(call, step, signatures.hints(step.fn)) is not None


def _lazy_kind(call: Call, step: AnyStep, hints: Mapping[str, object]) -> object:
    """Return what a step takes the results of a map as, None for a list."""
    # Below a map, results come as a value of the item, so what a call reads does not tell.
    if call.reads is None or call.passes_on or signatures.is_decorated(step.fn):
        return None
    first = next(iter(signatures.signature(step.fn).parameters.values()), None)
    if first is None or first.kind is first.VAR_POSITIONAL:
        return None
    return signatures.lazy_kind(hints.get(first.name, signatures.UNKNOWN))


def _taking_iterator(fn: Callable[..., object]) -> Callable[..., object]:
    def call(first: Iterable[object], *args: object, **kwargs: object) -> object:
        return fn(first if hasattr(first, "__next__") else iter(first), *args, **kwargs)

    return call


def _pass_on(value: object) -> object:
    return value


class _NotYet(Mapping[Source, object]):
    """Has None for each value, while arguments are made before the run."""

    def __getitem__(self, source: Source) -> object:
        return None

    def __iter__(self) -> Iterator[Source]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NOT_YET = _NotYet()


def _maker(
    template: Template, params: Mapping[str, Json], annotation: object, name: str
) -> Callable[[Mapping[Source, object]], object]:
    """Return what makes an argument anew for each call.

    ``name``: says which argument it is.
    """
    if not any(sources_in(template)):
        value = fill(template, params)
        return lambda values: _converted(value, annotation, name)

    def build(template: Template, annotation: object, values: Mapping[Source, object]) -> object:
        if isinstance(template, Output | Item | Results):
            return values[template]
        if isinstance(template, list) and any(sources_in(template)):
            parts = zip(template, signatures.members(annotation, len(template)), strict=True)
            return signatures.contained([build(member, part, values) for member, part in parts], annotation)
        if isinstance(template, dict) and any(sources_in(template)):
            inner = signatures.member(annotation)
            return {name: build(member, inner, values) for name, member in template.items()}
        return _converted(fill(template, params), annotation, name)

    return lambda values: build(template, annotation, values)


def _converted(value: Json, annotation: object, name: str) -> object:
    try:
        return from_json(value, annotation)
    except ConversionError as error:
        raise ParameterError(f"{name} is {error}.") from None


def run(
    invocation: Invocation,
    value: object,
    attempts: Attempts,
    tried: int = 0,
    fresh_value: Callable[[], object] | None = None,
) -> object:
    """Call a step with its retries and its timeout.

    * ``tried``: how many of its tries were used up before.
    * ``fresh_value``: gives the value anew for each further try, since one that failed may have changed it; by default
      they share it.

    Raises StepFailedError when it failed for good, and what stops the run: KeyboardInterrupt, StoppedError.
    """
    attempt = tried + 1
    while True:
        try:
            if invocation.timeout is None:
                return invocation(value)
            return attempts.limit(partial(invocation, value), invocation.timeout)
        except (KeyboardInterrupt, StopSignal):
            raise
        # A user's step may raise anything; sys.exit() in a step is a failure of the step, as it is on AWS.
        except BaseException as error:
            failure = failure_of(invocation.id, error, attempt, invocation.defined_at)
            if invocation.secrets:
                failure = hide_values(failure, invocation.secrets)
            retry = invocation.retry
            if retry is None or attempt >= retry.attempts or not retry.matches(error):
                raise StepFailedError(failure) from error
            wait = retry.wait(attempt)
            attempts.retried(invocation.id, attempt, wait, failure)
        attempts.sleep(wait)
        attempt += 1
        if fresh_value is not None:
            value = fresh_value()


def definition_place(fn: Callable[..., object]) -> str:
    """Return ``file:line`` of where a function is defined, or nothing."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if isinstance(code, CodeType) else ""
