"""Chains of steps: immutable values that the body of a flow puts together. Each knows only what is upstream of it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import Field, dataclass, field, replace
from itertools import count
from typing import Any, ClassVar, Concatenate, Generic, Never, NoReturn, ParamSpec, Protocol, Self, TypeVar, overload

from lokki.base.naming import nearest_name
from lokki.base.options import MapOptions, StepOptions
from lokki.base.placeholders import ChainResult, FlowParameter, Param, Placeholder, awaited_chain
from lokki.errors import FlowError


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a step was called with inside a flow.

    These are values, or placeholders for the flow's parameters.
    """

    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SwitchCases:
    """The step of a switch that chooses, and the cases with their values.

    The default has None, and is the last one.
    """

    on: AnyStep
    cases: tuple[tuple[object, AnyStep], ...]


# Written out, not inferred: of classes whose methods take each other, pyright infers invariance, and would refuse .map.
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Takes[T, U](Protocol):
    """What takes a ``T`` and returns a ``U``, for type checkers.

    It is a step or a flow. StepNode alone would not do: of ``StepNode[[float], str]`` pyright knows no
    ``StepNode[[int], str]``.
    """

    def _function(self) -> Callable[Concatenate[T, ...], U]:
        """Return what it is as a plain function."""


type AnyStep = StepNode[..., Any]
type AnyBlock = MapBlock[Any]
type Chain = AnyStep | AnyBlock


class SubFlow(ABC):
    """A flow, as chains know it, which can be a step of another one."""

    __name__: str
    params: tuple[FlowParameter, ...]

    @abstractmethod
    def draw_body(self, placeholders: list[Param]) -> Chain | tuple[Chain, ...]:
        """Call its function with placeholders and return what it returns.

        Raises FlowError for anything but chains, and for chains that are dropped.
        """

    @abstractmethod
    def as_step(self) -> AnyStep:
        """Return the step that runs the flow."""


class NoAttributeError(FlowError, AttributeError):
    """A chain was asked for an attribute that it does not have.

    It may be a method of the value that the chain will have.
    """


_PACKAGE = f"{__file__.rpartition('/')[0]}/"

_USES = {
    "<": "__lt__", ">": "__gt__", "<=": "__le__", ">=": "__ge__",
    "+": "__add__ __radd__ __pos__", "-": "__sub__ __rsub__ __neg__",
    "*": "__mul__ __rmul__", "/": "__truediv__ __rtruediv__", "//": "__floordiv__ __rfloordiv__",
    "%": "__mod__ __rmod__", "**": "__pow__ __rpow__", "@": "__matmul__ __rmatmul__", "&": "__and__ __rand__",
    "|": "__or__ __ror__", "^": "__xor__ __rxor__", "~": "__invert__", "<<": "__lshift__ __rlshift__",
    ">>": "__rshift__ __rrshift__", "if": "__bool__", "for": "__iter__", "in": "__contains__", "len()": "__len__",
    "[…]": "__getitem__ __setitem__ __delitem__", "next()": "__next__", "reversed()": "__reversed__",
    "int()": "__int__ __index__ __trunc__", "float()": "__float__", "complex()": "__complex__", "bytes()": "__bytes__",
    "abs()": "__abs__", "round()": "__round__ __floor__ __ceil__", "divmod()": "__divmod__ __rdivmod__",
    "open()": "__fspath__", "await": "__await__", "async for": "__aiter__ __anext__",
}  # fmt: skip
"""What a user writes, and the methods that Python calls for it."""


class _Refused:
    """A method that cannot even be looked up.

    ``with`` looks up two methods before it calls one.
    """

    def __init__(self, use: str) -> None:
        self._use = use

    def __get__(self, chain: _NoValue | None, kind: type) -> Self:
        if chain is not None:
            raise chain._no_value(self._use)
        return self


def _refusal(use: str) -> Callable[..., Never]:
    def refuse(chain: _NoValue, *args: object) -> Never:
        raise chain._no_value(use)

    return refuse


def _refuse_attribute(chain: _NoValue, name: str) -> Never:
    # What Python and notebooks probe for; and what an instance that is being unpickled does not have yet.
    if name.startswith("_") or name in chain.__dataclass_fields__:
        raise AttributeError(name)
    raise chain._no_result() if name == "result" else chain._no_attribute(name)


def _refusing[C: type](kind: C) -> C:
    """Give a class methods that refuse all operators.

    Written out they would tell type checkers that there are some.
    """
    methods = {name: _refusal(use) for use, names in _USES.items() for name in names.split()}
    entered = {"__enter__": _Refused("with"), "__aenter__": _Refused("async with")}
    for name, method in {**methods, **entered, "__getattr__": _refuse_attribute}.items():
        setattr(kind, name, method)
    return kind


@_refusing
class _NoValue(ABC):
    """Raises FlowError for all that would look at the value of a chain.

    What is drawn has no value yet.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __eq__(self, other: object) -> bool:
        """Compare by identity, and refuse to compare with a value.

        A value could never be equal.
        """
        if not isinstance(other, _NoValue) and (_DRAWING.get() is not None or self._is_begun()):
            raise self._no_value("==")
        return self is other

    __hash__ = object.__hash__

    def __str__(self) -> str:
        if _DRAWING.get() is not None and not _is_called_by_lokki():
            raise self._no_value("str()")
        return self._text()

    def __format__(self, spec: str) -> str:
        if spec or (_DRAWING.get() is not None and not _is_called_by_lokki()):
            raise self._no_value("format()")
        return self._text()

    @abstractmethod
    def _text(self) -> str:
        """Write the chain as the user did."""

    def _is_begun(self) -> bool:
        """Tell whether this is a chain, and not a step that was only defined."""
        return True

    @abstractmethod
    def _tested(self) -> str:
        """Name the function that a test would call instead."""

    def _no_value(self, use: str) -> FlowError:
        if _DRAWING.get() is None:
            return FlowError(
                f"{self._text()} has no value, so `{use}` cannot use it: calling a step runs nothing. In a test, call "
                f"its function: {self._tested()}.fn(…). To run a whole flow, call its .run(…)."
            )
        return FlowError(
            f"{self._text()} has no value while the flow is drawn, so `{use}` cannot use it: steps run later. "
            "Put the decision inside a step, or use .map() to run a step per item."
        )

    @abstractmethod
    def _no_result(self) -> NoAttributeError:
        """Say why it has no ``.result`` that could be passed to a step."""

    def _no_attribute(self, name: str) -> NoAttributeError:
        verbs = [verb for verb in ("next", "map", "agg", "result", "after", "switch") if hasattr(type(self), verb)]
        near = nearest_name(name, verbs)
        hint = f"Did you mean .{near}?" if near is not None else "Use the value inside the next step, which gets it."
        return NoAttributeError(
            f"{self._text()} has no attribute {name!r}: it is a chain of steps, whose value is there when they run. "
            f"{hint}"
        )


@dataclass(frozen=True, eq=False)
class StepNode(_NoValue, Generic[P, R_co]):  # noqa: UP046 (see R_co)
    """A step, alone or at the end of a chain.

    Steps are values: calling one, or chaining one, makes a new one and changes nothing. ``fn`` is the plain function,
    for unit tests: ``flap_bird.fn("goose")``.

    * ``upstream``: the chain whose result fills its first parameter.
    * ``waits_for``: chains that it waits for without reading them; ``replaces``: what it was before it did.
    * ``flow``: for the step that is a flow, that flow; ``choice``: for a switch, its cases.
    * ``provenance``: in which drawing it was made, and when.
    """

    fn: Callable[P, R_co]
    name: str
    options: StepOptions = field(default_factory=StepOptions)
    arguments: Arguments | None = None
    upstream: AnyStep | AnyBlock | None = None
    where: str = ""
    waits_for: tuple[AnyStep, ...] = ()
    replaces: AnyStep | None = None
    flow: SubFlow | None = None
    choice: SwitchCases | None = None
    provenance: Provenance = field(init=False, repr=False, default_factory=lambda: _provenance())

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The plain function, for inspect and for documentation tools."""
        return self.fn

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> StepNode[P, R_co]: ...
    # mypy infers Never for a type variable in place of this Any.
    @overload
    def __call__[**Q](
        self: StepNode[Concatenate[Any, Q], R_co], *args: Q.args, **kwargs: Q.kwargs
    ) -> StepNode[Concatenate[Any, Q], R_co]: ...
    def __call__(self, *args: object, **kwargs: object) -> StepNode[..., R_co]:
        """Bind arguments to the step, without running it.

        They are all arguments for a first step, and all but the first for a step that gets it from upstream. Each is a
        JSON value, a placeholder of the flow's parameters, or what the parameter's annotation says (a date, an Enum, a
        dataclass, a Path …). Raises FlowError for arguments on a chained step.
        """
        if self.upstream is not None:
            raise FlowError(
                f"{self} is a chain already; bind arguments where the step joins it: .next({self.name}(…))."
            )
        arguments = Arguments(
            tuple(_snapshot(value, self.name) for value in args),
            {name: _snapshot(value, self.name) for name, value in kwargs.items()},
        )
        return _drawn(replace(self, arguments=arguments, where=_caller()), self)

    @property
    def result(self) -> R_co:
        """Stands for the result of the chain, as an argument of a step.

        It can be passed to a step or a flow, also inside a list or a dict, and refuses anything else, since there is no
        value while the flow is drawn. Raises FlowError outside of a flow, and for a step that was not started.
        """
        if _DRAWING.get() is None or self.provenance.drawing is not _DRAWING.get() or not self._is_begun():
            raise AttributeError("result")  # for `_refuse_attribute`, which says why
        result: Any = ChainResult(self, self._text)
        return result  # type: ignore[no-any-return]  # the placeholder of an R_co

    def after(self, *chains: StepNode[..., object]) -> StepNode[P, R_co]:
        """Run the step at the end of this chain when those chains have ended.

        It reads nothing of them. Raises FlowError for anything but chains of this flow.
        """
        for chain in chains:
            _check_awaited(chain, self)
        later = replace(self, waits_for=(*self.waits_for, *chains), replaces=self, where=self.where or _caller())
        return _drawn(later, self, *chains)

    def next[T, U](self: StepNode[P, T], step: Takes[T, U]) -> StepNode[[], U]:
        """Run ``step`` on this step's result.

        A chain takes no more arguments, so all chains to the same result have the same type. Raises FlowError when
        ``step`` is no single step.
        """
        return _append(self, step, "next")

    def map[T, U](
        self: StepNode[P, Iterable[T]],
        step: Takes[T, U],
        *,
        concurrency: int | None = None,
        batch: int | None = None,
        tolerate: int | float | None = None,
    ) -> MapBlock[U]:
        """Open a map block, which runs ``step`` once for each item.

        The items are those of this step's result, which may be a generator.

        ``concurrency``: the most items (deployed with ``batch``: batches) that run at one time; default: no bound
        deployed, the executor's workers locally. ``batch``: items that one child execution handles one after another;
        default: one while no more items than that may run at once, and more for many items. It has no local meaning,
        since results do not depend on it. ``tolerate``: how many items may fail, as a number
        (``5``) or as a share (``0.05``), before the run fails; ``.agg`` gets the results of the others. Default: none.
        Raises FlowError for options that make no sense and when ``step`` is no single step.
        """
        first = _single_step(step, "map", self)
        options = MapOptions(concurrency, batch, tolerate)
        return _drawn(MapBlock(self, (replace(first, where=_caller()),), ("map",), options), self, step)

    @overload
    def switch[S, T, U](
        self: StepNode[P, T],
        on: Takes[T, S],
        cases: Mapping[S, Takes[T, U]],
        *,
        default: Takes[T, U] | None = None,
    ) -> StepNode[[], U]: ...
    # Of cases that are unlike in what else they take, or in being flows, mypy infers no common type.
    @overload
    def switch[S, T](
        self: StepNode[P, T],
        on: Takes[T, S],
        cases: Mapping[S, Takes[T, Any]],
        *,
        default: Takes[T, Any] | None = None,
    ) -> StepNode[[], Any]: ...
    def switch(self, on: object, cases: Mapping[Any, object], *, default: object = None) -> StepNode[[], Any]:
        """Run one of several steps on this step's result.

        The step ``on`` gets that result, too, and returns a bool, str, int or Enum; the case for what it returned runs.
        ``default``: runs for all else; without it that is an error of the run. Raises FlowError for cases that cannot
        be, and for values of a Literal, Enum or bool that have none.
        """
        return _drawn(_switched(on, cases, default, self), self, on, *cases.values(), default)

    def agg(self, step: Never) -> NoReturn:
        """Raise TypeError, since only a map block has results to aggregate.

        So no argument passes a type checker.
        """
        raise TypeError(
            f".agg() must be called on the result of .map(); {self} is a step. "
            f"Use {self}.next({_name(step)}) to run {_name(step)} on its result."
        )

    def _is_begun(self) -> bool:
        return self.arguments is not None or self.upstream is not None or self.waits_for != ()

    def _function(self) -> Callable[P, R_co]:
        return self.fn

    def _tested(self) -> str:
        return self.name

    def _text(self) -> str:
        return _chain_text(self)

    def _no_result(self) -> NoAttributeError:
        if not self._is_begun():
            return NoAttributeError(
                f"{self.name} has no result: it is a step that was not started. Call it: {self.name}(…).result."
            )
        if _DRAWING.get() is None:
            return NoAttributeError(
                f"{self._text()}.result stands for a result in the body of a flow only. In a test, call the step's "
                f"function: {self._tested()}.fn(…)."
            )
        return NoAttributeError(_foreign(self))

    def __repr__(self) -> str:
        return f"<step {self._text()}>"


@dataclass(frozen=True, eq=False)
class MapBlock(_NoValue, Generic[R_co]):  # noqa: UP046 (see R_co)
    """An open map block.

    * ``source``: the step whose items it runs over.
    * ``inner_steps``: those that each item goes through.
    * ``joined``: by which method each of them came, ``map`` or ``next``.
    """

    source: AnyStep
    inner_steps: tuple[AnyStep, ...]
    joined: tuple[str, ...]
    options: MapOptions = field(default_factory=MapOptions)
    provenance: Provenance = field(init=False, repr=False, default_factory=lambda: _provenance())

    def next[T, U](self: MapBlock[T], step: Takes[T, U]) -> MapBlock[U]:
        """Run ``step`` on the result of each item.

        Raises FlowError when ``step`` is no single step.
        """
        return _extend(self, step, "next", MapOptions())

    def map[T, U](
        self: MapBlock[T],
        step: Takes[T, U],
        *,
        concurrency: int | None = None,
        batch: int | None = None,
        tolerate: int | float | None = None,
    ) -> MapBlock[U]:
        """Run ``step`` on the result of each item, as ``next`` does.

        It opens no second map. Raises FlowError for options, which belong to the ``.map`` that opened the block.
        """
        return _extend(self, step, "map", MapOptions(concurrency, batch, tolerate))

    @overload
    def switch[S, T, U](
        self: MapBlock[T],
        on: Takes[T, S],
        cases: Mapping[S, Takes[T, U]],
        *,
        default: Takes[T, U] | None = None,
    ) -> MapBlock[U]: ...
    # Of cases that are unlike in what else they take, or in being flows, mypy infers no common type.
    @overload
    def switch[S, T](
        self: MapBlock[T],
        on: Takes[T, S],
        cases: Mapping[S, Takes[T, Any]],
        *,
        default: Takes[T, Any] | None = None,
    ) -> MapBlock[Any]: ...
    def switch(self, on: object, cases: Mapping[Any, object], *, default: object = None) -> MapBlock[Any]:
        """Run one of several steps on each item, as a chain's ``switch`` does."""
        last = replace(_switched(on, cases, default, self), upstream=None)
        steps, joined = (*self.inner_steps, last), (*self.joined, "switch")
        return _drawn(MapBlock(self.source, steps, joined, self.options), self, on, *cases.values(), default)

    @overload
    def agg[T, U](self: MapBlock[T], step: Takes[list[T], U]) -> StepNode[[], U]: ...
    @overload
    def agg[T, U](self: MapBlock[T], step: Takes[Iterator[T], U]) -> StepNode[[], U]: ...
    def agg(self, step: Takes[Never, Any]) -> StepNode[[], Any]:
        """Close the block with a step that gets the list of all results.

        They are in the order of the items. A step that takes an Iterable, an Iterator or a Sequence, by the annotation
        of its first parameter, gets them one by one: each is loaded when it is used.
        """
        return _append(self, step, "agg")

    def _tested(self) -> str:
        return self.inner_steps[-1].name

    def _text(self) -> str:
        return _chain_text(self)

    def _no_result(self) -> NoAttributeError:
        return NoAttributeError(
            f"{self._text()} has no result: it is an open map block, with a result for each item. Close it with "
            ".agg(step), whose step gets the list of results."
        )

    def __repr__(self) -> str:
        return f"<map block {self._text()}>"


def each[T](values: Iterable[T]) -> StepNode[[], list[T]]:
    """Begin a chain with a list that the flow was given.

    So ``each(names).map(greet)`` runs ``greet`` for each of ``names``. Items of a parameter or of a written list are
    converted as an argument of ``greet`` is, by its annotation.

    ``values``: a parameter of the flow, a result, or a list.

    Raises FlowError for anything else, and outside of a flow.
    """
    if not is_drawing():
        raise FlowError("each() begins a chain in the body of a flow; anywhere else, call the step's function.")
    value: object = values
    if not isinstance(value, Placeholder | list | tuple):
        raise FlowError(
            f"each() takes a parameter of the flow, a result or a list, and no {type(value).__name__}. "
            "Let a step return what the map runs over: step(…).map(…)."
        )
    arguments = Arguments((_snapshot(value, "each"),))
    return _drawn(StepNode(pass_on, "each", arguments=arguments, where=_caller()))


def pass_on() -> Never:
    """Stand for the function of `each`, which none runs."""
    raise AssertionError("lokki itself passes on what each() was called with")


@dataclass(slots=True)
class Drawing:
    """The chains that the body of one flow made, and what went into them."""

    flow: str
    chains: list[Chain] = field(default_factory=list)
    used: list[object] = field(default_factory=list)

    def dropped(self, heads: Iterable[object]) -> list[Chain]:
        """Return the chains that lead nowhere, of which none is among ``heads``.

        ``heads``: what the flow returned.
        """
        used = {id(value) for value in (*self.used, *heads)}
        return [chain for chain in self.chains if id(chain) not in used]


_DRAWING: ContextVar[Drawing | None] = ContextVar("lokki_drawing", default=None)


_NUMBERS = count()
"""Numbers chains in the order in which they are made."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a chain comes from.

    * ``drawing``: of the flow in whose body it was made; None outside of flows.
    * ``number``: greater than those of all chains that were there before.
    """

    drawing: Drawing | None
    number: int


def _provenance() -> Provenance:
    return Provenance(_DRAWING.get(), next(_NUMBERS))


def is_drawing() -> bool:
    """Tell whether the body of a flow runs now."""
    return _DRAWING.get() is not None


@contextmanager
def drawing(flow: str) -> Iterator[Drawing]:
    """Watch which chains are made and used while the body of a flow runs."""
    current = Drawing(flow)
    token = _DRAWING.set(current)
    try:
        yield current
    finally:
        _DRAWING.reset(token)


def _drawn[C: Chain](chain: C, *used: object) -> C:
    current = _DRAWING.get()
    if current is not None:
        current.chains.append(chain)
        current.used += used
    return chain


def _use(chain: Chain) -> None:
    current = _DRAWING.get()
    if current is not None:
        current.used.append(chain)


def _snapshot(value: object, step: str) -> object:
    """Copy the lists and dicts of an argument.

    A step keeps what it was called with, though they may change later. The chains whose results are in it are used.
    """
    if isinstance(value, StepNode | MapBlock):
        result = f" To pass its result, write {value}.result." if isinstance(value, StepNode) and is_drawing() else ""
        raise FlowError(
            f"{step}() was called with {value}, which has no value while the flow is drawn. "
            f"Chain them instead: {value}.{_verb(value)}({step}).{result}"
        )
    if isinstance(value, ChainResult):
        chain = awaited_chain(value)
        assert isinstance(chain, StepNode)
        check_drawing(chain)
        _use(chain)
        return value
    try:
        if type(value) is list:
            return [_snapshot(member, step) for member in value]
        if type(value) is tuple:
            return tuple(_snapshot(member, step) for member in value)
        if type(value) is dict:
            return {name: _snapshot(member, step) for name, member in value.items()}
    except RecursionError:
        raise FlowError(f"{step}() was called with a {type(value).__name__} that contains itself.") from None
    return value


def check_drawing(chain: Chain) -> None:
    """Refuse a chain that was made while another flow was drawn."""
    if chain.provenance.drawing is not None and chain.provenance.drawing is not _DRAWING.get():
        raise FlowError(_foreign(chain))


def _foreign(chain: Chain) -> str:
    other = chain.provenance.drawing
    origin = f"while the flow {other.flow}() was drawn" if other is not None else "outside of any flow"
    return (
        f"{chain} was made {origin}, so its result cannot be used here. Make the chain in the flow that uses it, or "
        "pass its .result to the flow as an argument."
    )


def _check_awaited(chain: object, waiting: AnyStep) -> None:
    if isinstance(chain, MapBlock):
        raise FlowError(f"{waiting} cannot wait for {chain}, an open map block. Close it with .agg(step) first.")
    if isinstance(chain, ChainResult):
        raise FlowError(f"{waiting}.after() takes chains, and no results: leave .result out.")
    if not isinstance(chain, StepNode):
        raise FlowError(f"{waiting}.after() takes chains, but {_name(chain)} is not one.")
    if not chain._is_begun():
        raise FlowError(f"{waiting} cannot wait for {chain}, a step that was not started. Call it: {chain}(…).")
    check_drawing(chain)


def _append[U](upstream: Chain, step: Takes[Never, U], verb: str) -> StepNode[[], U]:
    last = _single_step(step, verb, upstream)
    return _drawn(replace(last, upstream=upstream, where=_caller()), upstream, step)


def _switched(on: object, cases: Mapping[Any, object], default: object, upstream: Chain) -> AnyStep:
    if isinstance(on, SubFlow):
        raise FlowError(f"{upstream}.switch() takes a step that chooses, but {on.__name__} is a flow.")
    if not isinstance(cases, Mapping) or not cases:
        raise FlowError(f"{upstream}.switch() takes a dict of cases, such as {{True: step, False: other_step}}.")
    if None in cases:
        raise FlowError(f"{upstream}.switch() has a case for None. Give what is for all other values as default=.")
    chooses = _joined_step(on, upstream)
    steps: list[tuple[object, AnyStep]] = [(value, _joined_step(step, upstream)) for value, step in cases.items()]
    if default is not None:
        steps.append((None, _joined_step(default, upstream)))
    choice = SwitchCases(chooses, tuple(steps))
    return StepNode(chooses.fn, chooses.name, chooses.options, upstream=upstream, where=_caller(), choice=choice)


def _joined_step(step: object, upstream: Chain) -> AnyStep:
    return replace(_single_step(step, "switch", upstream), where=_caller())


def _extend[U](block: AnyBlock, step: Takes[Never, U], verb: str, options: MapOptions) -> MapBlock[U]:
    last = _single_step(step, verb, block)
    if options != MapOptions():
        raise FlowError(
            f"Nested .map() is not supported: {block} is an open map block, and .map({last.name}, …) only adds to it. "
            "Give the options to the .map() that opens the block, or close it with .agg() first."
        )
    inner_steps = (*block.inner_steps, replace(last, where=_caller()))
    return _drawn(MapBlock(block.source, inner_steps, (*block.joined, verb), block.options), block, step)


def _single_step(step: object, verb: str, upstream: Chain) -> AnyStep:
    """Return ``step`` as a step that is not chained to anything yet.

    Raises FlowError for anything else, and for an ``upstream`` of another flow's drawing.
    """
    check_drawing(upstream)
    if isinstance(step, SubFlow):
        return step.as_step()
    if isinstance(step, MapBlock):
        raise FlowError(
            f"Nested .map() is not supported: {upstream}.{verb}() takes one step, but {step} is a map block. "
            "Close the outer block with .agg() before the next .map(). For a map below a map, map over a @flow "
            "that has the inner one."
        )
    if not isinstance(step, StepNode):
        hint = f" Put @step above def {_name(step)}." if _name(step).isidentifier() and callable(step) else ""
        raise FlowError(f"{upstream}.{verb}() takes a step, but {_name(step)} is not one.{hint}")
    if step.upstream is not None:
        raise FlowError(
            f"{upstream}.{verb}() takes one step, but {step} is a chain. Add its steps one after another with .next()."
        )
    return step


def _chain_text(chain: Chain) -> str:
    """Write a chain as the user did.

    It walks up the chain in a loop, since that may be long.
    """
    texts: list[str] = []
    current: Chain | None = chain
    while current is not None:
        if isinstance(current, MapBlock):
            inner = (
                f".{verb}({_call_text(step)})" for verb, step in zip(current.joined, current.inner_steps, strict=True)
            )
            texts.append("".join(inner))
            current = current.source
        else:
            call, upstream = _call_text(current), current.upstream
            texts.append(call if upstream is None else f".{_joining_verb(current, upstream)}({call})")
            current = upstream
    return "".join(reversed(texts))


def _call_text(step: AnyStep) -> str:
    if step.choice is not None:
        return f"{_call_text(step.choice.on)}, …"
    return f"{step.name}()" if step.arguments is not None else step.name


def _joining_verb(step: AnyStep, upstream: Chain) -> str:
    return "switch" if step.choice is not None else _verb(upstream)


def _verb(upstream: Chain) -> str:
    return "agg" if isinstance(upstream, MapBlock) else "next"


def _name(value: object) -> str:
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else repr(value)


def _is_called_by_lokki() -> bool:
    """Tell whether lokki's own code called the method that asks.

    It does so for the text of an error.
    """
    return sys._getframe(2).f_code.co_filename.startswith(_PACKAGE)


def _caller() -> str:
    """Return ``file:line`` of the code that called the method of a chain."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
