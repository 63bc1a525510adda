"""What stands for a value while a flow is drawn, a parameter of the flow or the result of a chain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Never

from lokki.base import signatures
from lokki.errors import FlowError

_VERBS = {"next", "map", "agg", "switch", "after", "result"}


class Placeholder(ABC):
    """Can be passed to a step or a flow, and refuses anything else."""

    __slots__ = ()

    def _refuse(self, *args: object, **kwargs: object) -> Never:
        raise FlowError(self._refusal())

    @abstractmethod
    def _refusal(self) -> str:
        """Say that there is no value yet, and what to do instead."""

    @abstractmethod
    def _no_chain(self, verb: str) -> str:
        """Say that nothing can be chained to it, and what to write."""

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__") and name.endswith("__"):
            # Python's own probing (copy, inspect, typing) must see an ordinary object.
            raise AttributeError(name)
        if name in _VERBS:
            raise FlowError(self._no_chain(name))
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


class Param(Placeholder):
    """Stands for a flow's parameter while the flow is drawn.

    ``argument``: what it is bound to where the flow is a step of another one; None for a parameter of the run.
    """

    __slots__ = ("_annotation", "_argument", "_name")

    def __init__(self, name: str, annotation: object, argument: object = None) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_annotation", annotation)
        object.__setattr__(self, "_argument", argument)

    def __repr__(self) -> str:
        return f"<parameter {parameter_name(self)}>"

    def _refusal(self) -> str:
        name = parameter_name(self)
        return (
            f"the flow's parameter {name!r} has no value while the flow is drawn: it can only be passed to a step. "
            f"Compute with it inside a step that takes {name}."
        )

    def _no_chain(self, verb: str) -> str:
        name = parameter_name(self)
        if verb == "map":
            return f"the flow's parameter {name!r} is no chain, so it has no .map. Begin one: each({name}).map."
        return (
            f"the flow's parameter {name!r} is no chain, so it has no .{verb}. Begin a chain with a step that takes "
            f"it: step({name})."
        )


class ChainResult(Placeholder):
    """Stands for the result of a chain.

    ``chain`` is held as an object, of which this module knows nothing; ``text`` writes it as the user did.
    """

    __slots__ = ("_chain", "_text")

    def __init__(self, chain: object, text: Callable[[], str]) -> None:
        object.__setattr__(self, "_chain", chain)
        object.__setattr__(self, "_text", text)

    def __repr__(self) -> str:
        return f"<the result of {awaited_text(self)}>"

    def _refusal(self) -> str:
        return (
            f"the result of {awaited_text(self)} has no value while the flow is drawn: it can only be passed to a "
            "step. Compute with it inside a step that takes it."
        )

    def _no_chain(self, verb: str) -> str:
        text = awaited_text(self)
        return f"the result of {text} is no chain, so it has no .{verb}. Leave .result out: {text}.{verb}."


def parameter_name(placeholder: Param) -> str:
    """Return the name of the parameter that a placeholder stands for."""
    name: str = object.__getattribute__(placeholder, "_name")
    return name


def parameter_annotation(placeholder: Param) -> object:
    """Return the annotation of the parameter that a placeholder stands for."""
    annotation: object = object.__getattribute__(placeholder, "_annotation")
    return annotation


def parameter_argument(placeholder: Param) -> object:
    """Return what a parameter is bound to, None for one of the run."""
    argument: object = object.__getattribute__(placeholder, "_argument")
    return argument


def awaited_chain(placeholder: ChainResult) -> object:
    """Return the chain whose result a placeholder stands for."""
    chain: object = object.__getattribute__(placeholder, "_chain")
    return chain


def awaited_text(placeholder: ChainResult) -> str:
    """Write the chain whose result a placeholder stands for."""
    text: Callable[[], str] = object.__getattribute__(placeholder, "_text")
    return text()


def placeholders_in(value: object) -> Iterator[Placeholder]:
    """Yield the placeholders in an argument, those in lists and dicts too."""
    if isinstance(value, Placeholder):
        yield value
    elif isinstance(value, dict | list | tuple):
        for member in value.values() if isinstance(value, dict) else value:
            yield from placeholders_in(member)
