"""The resolved flow: its parameters and its entries in order, checked as far as can be without running it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Never

from lokki.base import signatures
from lokki.base.naming import MAP_SUFFIX, check_state_names, occurrence_ids, state_name
from lokki.base.options import FlowOptions, MapOptions
from lokki.chain import AnyStep, Chain, MapBlock
from lokki.errors import FlowError


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A step that runs once, on what is upstream of it."""

    node: AnyStep
    id: str


@dataclass(frozen=True, slots=True)
class MapOpenEntry:
    """A map block, whose steps run once for each item of the source."""

    source: AnyStep
    inner_steps: tuple[AnyStep, ...]
    source_id: str
    inner_ids: tuple[str, ...]
    options: MapOptions = field(default_factory=MapOptions)


@dataclass(frozen=True, slots=True)
class MapCloseEntry:
    """The step that closes a map block and gets the list of its results."""

    agg_step: AnyStep
    id: str


type GraphEntry = TaskEntry | MapOpenEntry | MapCloseEntry


class Required:
    """The default of a parameter that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class FlowParameter:
    """A parameter of a flow.

    ``default``: ``REQUIRED`` for a parameter that has none.
    """

    name: str
    annotation: object = signatures.UNKNOWN
    default: object = REQUIRED

    @property
    def required(self) -> bool:
        """Whether a run must be given a value."""
        return self.default is REQUIRED


class Param:
    """Stands for a flow's parameter while the flow is drawn.

    It can be passed to a step, and refuses anything else.
    """

    __slots__ = ("_annotation", "_name")

    def __init__(self, name: str, annotation: object) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_annotation", annotation)

    def __repr__(self) -> str:
        return f"<parameter {parameter_name(self)}>"

    def _refuse(self, *args: object, **kwargs: object) -> Never:
        name = parameter_name(self)
        raise FlowError(
            f"the flow's parameter {name!r} has no value while the flow is drawn: it can only be passed to a step. "
            f"Compute with it inside a step that takes {name}."
        )

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__") and name.endswith("__"):
            # Python's own probing (copy, inspect, typing) must see an ordinary object.
            raise AttributeError(name)
        self._refuse()

    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__ = __str__ = __format__ = __index__ = _refuse
    __int__ = __float__ = __complex__ = __bytes__ = __hash__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = (
        _refuse
    )
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = _refuse
    __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __and__ = __rand__ = __or__ = __ror__ = __xor__ = _refuse
    __rxor__ = __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __matmul__ = __rmatmul__ = __neg__ = _refuse
    __pos__ = __abs__ = __invert__ = __round__ = __divmod__ = __rdivmod__ = __fspath__ = __setattr__ = _refuse
    __setitem__ = __delitem__ = __reversed__ = __enter__ = __exit__ = __await__ = __delattr__ = __next__ = _refuse
    __trunc__ = __floor__ = __ceil__ = __aiter__ = __anext__ = __aenter__ = __aexit__ = __buffer__ = _refuse


def parameter_name(placeholder: Param) -> str:
    """Return the name of the parameter that a placeholder stands for."""
    name: str = object.__getattribute__(placeholder, "_name")
    return name


def parameter_annotation(placeholder: Param) -> object:
    """Return the annotation of the parameter that a placeholder stands for."""
    annotation: object = object.__getattribute__(placeholder, "_annotation")
    return annotation


class FlowGraph:
    """A flow resolved: ``entries`` in the order in which they run.

    ``a().map(b).agg(c)`` becomes ``TaskEntry(a)``, ``MapOpenEntry(a, (b,))``, ``MapCloseEntry(c)``.
    Raises FlowError for an open map block at the end, for steps whose signatures or annotations do not fit what comes
    down the chain, and for names that collide.
    """

    def __init__(
        self,
        name: str,
        head: Chain,
        params: tuple[FlowParameter, ...] = (),
        options: FlowOptions | None = None,
        doc: str = "",
        origin: object = None,
    ) -> None:
        self.name = name
        self.head = head
        self.params = params
        self.options = options or FlowOptions()
        self.doc = doc
        self.origin = origin
        if isinstance(head, MapBlock):
            raise FlowError(
                f"the flow {name!r} ends in an open Map block: {head}. Close it with .agg(step), "
                "whose step gets the list of results."
            )
        _check_schedule(name, params, self.options)
        _check_steps(list(_steps(head)))
        self.entries: tuple[GraphEntry, ...] = _resolve(head)
        check_state_names(_states(self.entries))
        for chain in _upstream_first(head):
            _check_links(chain)

    def __repr__(self) -> str:
        return f"<flow {self.name}: {self.head}>"

    def __eq__(self, other: object) -> bool:
        """Compare by identity, and refuse to compare with a value.

        A test that does so takes calling a flow for running it.
        """
        if not isinstance(other, FlowGraph):
            function = getattr(self.origin, "__name__", "the flow")
            raise FlowError(
                f"{function}(…) only draws the flow, so `==` cannot use its result. "
                f"Run it: {function}.run(…) returns the result."
            )
        return self is other

    __hash__ = object.__hash__

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """The flow's steps, one of each name, in the order they first run."""
        first: dict[str, AnyStep] = {}
        for step in _steps(self.head):
            first.setdefault(step.name, step)
        return tuple(first.values())


def _upstream_first(head: Chain) -> list[Chain]:
    chains: list[Chain] = []
    current: Chain | None = head
    while current is not None:
        chains.append(current)
        current = current.source if isinstance(current, MapBlock) else current.upstream
    return chains[::-1]


def _steps(head: Chain) -> Iterator[AnyStep]:
    for chain in _upstream_first(head):
        if isinstance(chain, MapBlock):
            yield from chain.inner_steps
        else:
            yield chain


def _resolve(head: Chain) -> tuple[GraphEntry, ...]:
    ids = iter(occurrence_ids([step.name for step in _steps(head)]))
    entries: list[GraphEntry] = []
    previous = ""
    for chain in _upstream_first(head):
        if isinstance(chain, MapBlock):
            inner_ids = tuple(next(ids) for _ in chain.inner_steps)
            entries.append(MapOpenEntry(chain.source, chain.inner_steps, previous, inner_ids, chain.options))
            continue
        previous = next(ids)
        closes = isinstance(chain.upstream, MapBlock)
        entries.append(MapCloseEntry(chain, previous) if closes else TaskEntry(chain, previous))
    return tuple(entries)


def _states(entries: tuple[GraphEntry, ...]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if isinstance(entry, MapOpenEntry):
            yield state_name(entry.source_id) + MAP_SUFFIX, f"the map over {entry.source_id}()"
            yield from ((state_name(step_id), f"{step_id}()") for step_id in entry.inner_ids)
        else:
            yield state_name(entry.id), f"{entry.id}()"


def _check_schedule(name: str, params: tuple[FlowParameter, ...], options: FlowOptions) -> None:
    required = [param.name for param in params if param.required]
    if options.schedule is not None and required:
        raise FlowError(
            f"the flow {name!r} runs on a schedule, but its parameter {required[0]!r} has no default that a scheduled "
            "run could use. Give it one."
        )


def _check_steps(steps: list[AnyStep]) -> None:
    """Refuse two different steps of one name.

    A name belongs to one function with one set of options: it is one Lambda function.
    """
    by_name: dict[str, AnyStep] = {}
    for step in steps:
        first = by_name.setdefault(step.name, step)
        if first.fn is not step.fn:
            raise FlowError(
                f"two steps are named {step.name!r}: {_place(first)} and {_place(step)}. "
                "Each becomes a Lambda function of that name; rename one of them."
            )
        if first.options != step.options:
            raise FlowError(
                f"the step {step.name!r} is used with two sets of options, {first.options} and {step.options}. "
                "Each name becomes one Lambda function; give one of them a function of its own."
            )


def _place(step: AnyStep) -> str:
    code = getattr(inspect.unwrap(step.fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else f"{step.fn!r}"


def _check_links(chain: Chain) -> None:
    if isinstance(chain, MapBlock):
        item = signatures.element(_returns(chain.source))
        if item is None:
            raise FlowError(
                f"{chain.inner_steps[0].where}: .map() cannot run over what {chain.source.name}() returns, "
                f"{signatures.describe(_returns(chain.source))}: it takes a list or another iterable "
                "(strings, bytes and mappings have no items that could be meant)."
            )
        upstream, source_text, returned = chain.source, f"each item of {chain.source.name}()", item
        for verb, step in zip(chain.joined, chain.inner_steps, strict=True):
            _check_link(
                step,
                source_text,
                returned,
                inner_of=upstream if verb == "map" and upstream is not chain.source else None,
            )
            upstream, source_text, returned = step, f"what {step.name}() returns for each item", _returns(step)
    elif chain.upstream is None:
        _check_arguments(chain, ())
    elif isinstance(chain.upstream, MapBlock):
        last = chain.upstream.inner_steps[-1]
        item = _returns(last)
        returned = list if item is signatures.UNKNOWN else list[item]  # type: ignore[valid-type]
        _check_link(chain, f"the list of what {last.name}() returns", returned)
    else:
        _check_link(chain, f"what {chain.upstream.name}() returns", _returns(chain.upstream))


def _check_link(step: AnyStep, source_text: str, returned: object, inner_of: AnyStep | None = None) -> None:
    first = _check_arguments(step, (object(),), source_text)
    annotation = _hint(step, first)
    if signatures.accepts(annotation, returned):
        return
    problem = (
        f"{step.where}: {step.name}() takes {signatures.describe(annotation)} as {first!r}, "
        f"but gets {source_text}: {signatures.describe(returned)}."
    )
    item = signatures.element(returned)
    if inner_of is not None and item is not None and signatures.accepts(annotation, item):
        problem = (
            f"{problem} Nested .map() is not supported: inside a map block .map({step.name}) runs on each item's "
            f"result. Close the block with .agg() before mapping over what {inner_of.name}() returns."
        )
    raise FlowError(problem)


def _check_arguments(step: AnyStep, upstream: tuple[object, ...], source_text: str = "") -> str:
    """Check that a step can be called as the flow calls it.

    Returns the name of the parameter that ``upstream`` fills. ``source_text``: says what that is.
    """
    signature = signatures.signature(step.fn)
    arguments = step.arguments
    args, kwargs = (arguments.args, arguments.kwargs) if arguments else ((), {})
    where = f"{step.where}: " if step.where else ""
    if upstream and not any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
        for parameter in signature.parameters.values()
    ):
        raise FlowError(f"{where}{step.name}() takes no argument, but gets {source_text}. Give it a first parameter.")
    try:
        bound = signature.bind(*upstream, *args, **kwargs)
    except TypeError as error:
        if signatures.is_decorated(step.fn) and _binds(step.fn, (*upstream, *args), kwargs):
            return ""
        first = f" Its first argument is {source_text}." if upstream else ""
        raise FlowError(
            f"{where}{step.name}{signature} cannot be called as the flow calls it: {error}.{first} "
            f"Bind what is missing in the flow: {step.name}(…)."
        ) from None
    for name, value in bound.arguments.items():
        if isinstance(value, Param):
            _check_parameter(step, name, value)
            _check_is_annotated(step, name, value)
    return next(iter(signature.parameters), "")


def _binds(fn: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    """Tell whether a decorated function takes these arguments.

    Its decorator may add some and remove some, so the wrapper's own signature counts.
    """
    try:
        inspect.signature(fn, follow_wrapped=False).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _check_parameter(step: AnyStep, name: str, placeholder: Param) -> None:
    annotation, passed = _hint(step, name), parameter_annotation(placeholder)
    if not signatures.accepts(annotation, passed):
        raise FlowError(
            f"{step.where}: {step.name}() takes {signatures.describe(annotation)} as {name!r}, but the flow's "
            f"parameter {parameter_name(placeholder)!r} is {signatures.describe(passed)}."
        )


def _check_is_annotated(step: AnyStep, name: str, placeholder: Param) -> None:
    """Refuse to hand what is no JSON to a parameter without an annotation.

    A step would get the JSON of a date, say, which is a string.
    """
    passed = parameter_annotation(placeholder)
    if name not in signatures.hints(step.fn) and not signatures.is_json(passed):
        kind = signatures.describe(passed)
        raise FlowError(
            f"{step.where}: {step.name}() takes {name!r} without an annotation, so it would get the JSON of the flow's "
            f"parameter {parameter_name(placeholder)!r} and no {kind}. Annotate it: {name}: {kind}."
        )


def _hint(step: AnyStep, name: str) -> object:
    """Return the annotation that binds a step.

    Where a decorator may have changed what the function takes and returns, there is none.
    """
    if signatures.is_decorated(step.fn):
        return signatures.UNKNOWN
    return signatures.hints(step.fn).get(name, signatures.UNKNOWN)


def _returns(step: AnyStep) -> object:
    return _hint(step, "return")
