"""Whether one step's result fits the next step's first parameter, by their annotations.

Every answer is on the safe side: a chain is refused only where the annotations leave no doubt, so that whatever mypy
accepts is accepted here too. What is not annotated fits everything.
"""

from __future__ import annotations

import collections
import enum
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable
from weakref import WeakKeyDictionary

UNKNOWN: typing.Final = typing.Any
"""The annotation of what is not annotated."""

_WRAPPERS = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired, typing.ReadOnly)

# Generic classes whose first argument is what iterating them yields. Others may order their arguments as they like.
_COLLECTIONS = {
    list,
    set,
    frozenset,
    collections.deque,
    abc.Iterable,
    abc.Iterator,
    abc.Reversible,
    abc.Collection,
    abc.Sequence,
    abc.MutableSequence,
    abc.Set,
    abc.MutableSet,
    abc.KeysView,
    abc.ValuesView,
    abc.Generator,
}
_MAPPINGS = {
    dict,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    collections.ChainMap,
    abc.Mapping,
    abc.MutableMapping,
}

_JSON_SCALARS = (str, int, float, bool, type(None))

_ELEMENTS: dict[type, type] = {str: str, bytes: int, bytearray: int, range: int}

# Classes that type checkers take for others. https://typing.python.org/en/latest/spec/special-types.html
_PROMOTIONS: dict[object, tuple[type, ...]] = {
    float: (int,),
    complex: (int, float),
    bytes: (bytearray, memoryview),
}


def signature(fn: Callable[..., object]) -> inspect.Signature:
    """Return how a function can be called.

    One that does not tell, such as some builtins, can be called in any way.
    """
    try:
        return inspect.signature(fn)
    except ValueError:
        return inspect.signature(_anything)


def is_decorated(fn: Callable[..., object]) -> bool:
    """Tell whether a decorator stands before the annotated function.

    It may take and return something else than the annotations say.
    """
    return hasattr(fn, "__wrapped__")


_evaluated: WeakKeyDictionary[types.FunctionType, dict[str, object]] = WeakKeyDictionary()
"""The annotations of functions, as far as all of one could be evaluated."""


def hints(fn: Callable[..., object]) -> dict[str, object]:
    """Return the evaluated annotations of a function.

    They are evaluated once in a process. What cannot be evaluated is left out, and so fits everything.

    Names that exist for type checkers only (``if TYPE_CHECKING:``) cannot be evaluated. A class is called by the
    parameters of its ``__init__``.
    """
    inner = inspect.unwrap(fn)
    is_function = isinstance(inner, types.FunctionType)  # others may say that they equal one another
    if is_function and inner in _evaluated:
        return _evaluated[inner].copy()
    target: object = getattr(inner, "__init__" if isinstance(inner, type) else "__func__", inner)
    evaluated: dict[str, object] = {}
    is_complete = True
    for name, hint in getattr(target, "__annotations__", {}).items():
        alone = types.SimpleNamespace(
            __annotations__={name: hint}, __type_params__=getattr(target, "__type_params__", ())
        )
        try:
            evaluated |= typing.get_type_hints(alone, getattr(target, "__globals__", {}), include_extras=True)
        except Exception:  # an annotation is an expression of the user's, which may raise anything
            is_complete = False  # a name may be there later
    if isinstance(inner, type):
        evaluated.pop("return", None)
    if is_function and is_complete:
        _evaluated[inner] = evaluated
    return evaluated.copy()


def describe(annotation: object) -> str:
    """Write an annotation as its author would.

    >>> describe(list[str]), describe(int | None), describe(dict[str, "Bird"])
    ('list[str]', 'int | None', 'dict[str, Bird]')
    """
    if annotation is type(None):
        return "None"
    if annotation is typing.Any:
        return "Any"
    if annotation is ...:
        return "..."
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, list):
        return f"[{', '.join(map(describe, annotation))}]"
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if _is_union(annotation):
        return " | ".join(map(describe, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(_describe_value, arguments))}]"
    if isinstance(origin, type) and arguments:
        return f"{_class_name(origin)}[{', '.join(map(describe, arguments))}]"
    return _class_name(annotation) if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def accepts(target: object, source: object) -> bool:
    """Tell whether a parameter may get a value of another annotation.

    ``target`` is the parameter's, ``source`` the value's. False only when that is certain.

    >>> accepts(float, int), accepts(str, int), accepts(list[str], list[int]), accepts(abc.Iterable[str], list[str])
    (True, False, False, True)
    """
    return _accepts(target, source, frozenset())


def element(annotation: object) -> object | None:
    """Return what iterating a map's source yields.

    By the source's annotation; None when a map cannot run over it.

    ``str``, ``bytes`` and mappings can be iterated in Python but not mapped over: it is never what was meant. In a
    union they are passed over, since the value may be of another kind.

    >>> describe(element(tuple[int, str])), element(list), element(str), element(dict[str, int])
    ('int | str', typing.Any, None, None)
    """
    elements: list[object] = []
    for part in parts(annotation):
        kind = typing.get_origin(part) or part
        if part is object or not isinstance(kind, type) or _is_elastic(kind):
            elements.append(UNKNOWN)
        elif not issubclass(kind, abc.Iterable):
            return None
        elif not issubclass(kind, str | bytes | bytearray | abc.Mapping):
            elements.append(_element_of(part))
    return union_of(elements) if elements else None


def lazy_kind(annotation: object) -> object:
    """Return what takes results one by one, None for all else.

    >>> lazy_kind(abc.Iterator[int]) is abc.Iterator, lazy_kind(list[int]), lazy_kind(abc.Iterable[int] | None)
    (True, None, None)
    """
    kind = typing.get_origin(_plain(annotation)) or _plain(annotation)
    return kind if kind in (abc.Iterable, abc.Iterator, abc.Sequence) else None


def list_of(item: object) -> object:
    """Return the annotation of a list of such items."""
    return list if item is UNKNOWN else list[item]  # type: ignore[valid-type]


def is_json(annotation: object) -> bool:
    """Tell whether values of an annotation are JSON as they are.

    ``Any`` says nothing, and is taken for JSON.

    >>> is_json(dict[str, list[int] | None]), is_json(set[int]), is_json(enum.Enum)
    (True, False, False)
    """
    return _is_json(annotation, ())


def _is_json(annotation: object, outer: tuple[object, ...]) -> bool:
    if any(annotation is other for other in outer):
        return True  # a recursive alias
    return all(_is_json_kind(part, (*outer, annotation)) for part in parts(annotation))


def _is_json_kind(kind: object, outer: tuple[object, ...]) -> bool:
    if _is_literal(kind):
        return all(type(value) in _JSON_SCALARS for value in typing.get_args(kind))
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type) or origin is object or origin in _JSON_SCALARS or typing.is_typeddict(origin):
        return True
    if origin in _MAPPINGS or (origin in _COLLECTIONS and not issubclass(origin, abc.Set)):
        return all(_is_json(argument, outer) for argument in typing.get_args(kind))
    return False


def member(annotation: object) -> object:
    """Return the annotation of a list's members or a dict's values.

    Unknown where the annotation does not say.

    >>> member(list[int]), member(dict[str, float]), member(list), member(int | None)
    (<class 'int'>, <class 'float'>, typing.Any, typing.Any)
    """
    annotation = _plain(annotation)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in _MAPPINGS:
        return arguments[1] if len(arguments) == 2 else UNKNOWN
    return UNKNOWN if _is_union(annotation) else _element_of(annotation)


def members(annotation: object, count: int) -> list[object]:
    """Return the annotations of so many members of a list, a tuple or a dict.

    >>> members(tuple[int, str], 2), members(list[int], 2)
    ([<class 'int'>, <class 'str'>], [<class 'int'>, <class 'int'>])
    """
    arguments = typing.get_args(_plain(annotation))
    if typing.get_origin(_plain(annotation)) is tuple and len(arguments) == count and ... not in arguments:
        return list(arguments)
    return [member(annotation)] * count


def contained(members: list[object], annotation: object) -> object:
    """Return members in the kind of container that an annotation names.

    A list for any other annotation.

    >>> contained([1, 2], tuple[int, ...] | None), contained([1], set[int]), contained([1], list[int])
    ((1, 2), {1}, [1])
    """
    kinds = {typing.get_origin(_plain(part)) or _plain(part) for part in parts(annotation)} - {type(None), None}
    if kinds == {tuple}:
        return tuple(members)
    if kinds == {set}:
        return set(members)
    return frozenset(members) if kinds == {frozenset} else members


def _accepts(target: object, source: object, assumed: frozenset[tuple[int, int]]) -> bool:
    if isinstance(target, typing.TypeAliasType) or isinstance(source, typing.TypeAliasType):
        pair = (id(target), id(source))
        if pair in assumed:
            return True  # a recursive alias: it fits unless something on the way does not
        assumed |= {pair}
    targets = parts(target)
    return all(
        any(_accepts_part(alternative, part, assumed) for alternative in targets) or _accepts_members(targets, part)
        for part in parts(source)
    )


def _accepts_part(target: object, source: object, assumed: frozenset[tuple[int, int]]) -> bool:
    if target is object or _is_open(target) or _is_open(source):
        return True
    if typing.get_origin(source) is typing.Literal:
        (value,) = typing.get_args(source)
        if typing.get_origin(target) is typing.Literal:
            return value in typing.get_args(target)
        source = type(value)
    target_kind, source_kind = typing.get_origin(target) or target, typing.get_origin(source) or source
    if isinstance(source_kind, type) and _is_open_class(source_kind):
        return True
    if target_kind is typing.Literal:
        return False
    if not isinstance(target_kind, type) or not isinstance(source_kind, type):
        return True
    return _accepts_kind(target_kind, source_kind) and _accepts_arguments(target, source, assumed)


def _accepts_members(targets: list[object], source: object) -> bool:
    """Tell whether all values of an Enum or bool are target literals."""
    if source is bool:
        members: list[object] = [True, False]
    elif isinstance(source, enum.EnumType):
        members = list(source)
    else:
        return False
    literals = [value for target in targets if _is_literal(target) for value in typing.get_args(target)]
    return all(value in literals for value in members)


def _accepts_kind(target: type, source: type) -> bool:
    if target is abc.Hashable or typing.is_protocol(target):
        return True
    if target.__module__ == "typing" or _is_open_class(target):
        return True
    if (_is_elastic(source) or typing.is_protocol(source)) and target.__module__ in ("collections.abc", "typing"):
        return True
    if issubclass(source, _PROMOTIONS.get(target, ())):
        return True
    if typing.is_typeddict(source):
        return typing.is_typeddict(target) or issubclass(dict, target)
    if typing.is_typeddict(target):
        return issubclass(source, dict)
    try:
        return issubclass(source, target)
    except TypeError:
        return True


def _accepts_arguments(target: object, source: object, assumed: frozenset[tuple[int, int]]) -> bool:
    target_args, source_args = typing.get_args(target), typing.get_args(source)
    kinds = {typing.get_origin(target), typing.get_origin(source)}
    if not target_args:
        return True
    if kinds <= _MAPPINGS and len(target_args) == len(source_args):
        return all(_accepts(want, give, assumed) for want, give in zip(target_args, source_args, strict=True))
    if kinds == {tuple} and not _is_open_ended(target_args) and not _is_open_ended(source_args):
        return len(target_args) == len(source_args) and all(
            _accepts(want, give, assumed) for want, give in zip(target_args, source_args, strict=True)
        )
    return _accepts(_element_of(target), _element_of(source), assumed)


def _element_of(annotation: object) -> object:
    """Return what iterating a value of one kind yields.

    Unknown unless the kind's first argument is that.
    """
    if isinstance(annotation, type) and annotation in _ELEMENTS:
        return _ELEMENTS[annotation]
    arguments, kind = typing.get_args(annotation), typing.get_origin(annotation)
    if not arguments:
        return UNKNOWN
    if kind is tuple:
        if _is_open_ended(arguments) and arguments[1:] != (...,):
            return UNKNOWN
        return union_of([argument for argument in arguments if argument is not ...])
    return arguments[0] if kind in _COLLECTIONS or kind in _MAPPINGS else UNKNOWN


def parts(annotation: object) -> list[object]:
    """Return the alternatives that an annotation stands for.

    These are the members of a union, each value of a Literal alone, or the annotation itself, unwrapped.
    """
    annotation = _plain(annotation)
    if _is_union(annotation):
        return [part for argument in typing.get_args(annotation) for part in parts(argument)]
    if _is_literal(annotation):
        return [typing.Literal[value] for value in typing.get_args(annotation)]
    return [annotation]


def _plain(annotation: object) -> object:
    while True:
        if annotation is None:
            return type(None)
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeAliasType):
            annotation = annotation.__value__
        elif typing.get_origin(annotation) in _WRAPPERS:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


def _is_open(annotation: object) -> bool:
    """Tell whether an annotation says nothing that can be checked.

    Such are Any, Never, a name in quotes and a type variable.
    """
    if annotation is typing.Any or annotation is typing.Never or annotation is typing.NoReturn:
        return True
    kind = typing.get_origin(annotation) or annotation
    return not isinstance(kind, type) and kind is not typing.Literal


def _is_open_class(kind: type) -> bool:
    """Tell whether a class says of itself that it may be anything.

    It does so as ``class Untyped(Any)``.
    """
    return typing.Any in kind.__mro__


def _is_elastic(kind: type) -> bool:
    """Tell whether type checkers know more of a kind than Python does.

    They do of ``TextIO``, and of the metaclasses of ``type[X]``.
    """
    return kind.__module__ == "typing" or kind is type or _is_open_class(kind)


def _is_open_ended(arguments: tuple[object, ...]) -> bool:
    """Tell whether a tuple's arguments leave its length open.

    With ``...``, or with another tuple unpacked.
    """
    return any(
        argument is ... or typing.get_origin(argument) is typing.Unpack or getattr(argument, "__unpacked__", False)
        for argument in arguments
    )


def _is_literal(annotation: object) -> bool:
    return typing.get_origin(annotation) is typing.Literal


def _is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in (types.UnionType, typing.Union)


def union_of(parts: list[object]) -> object:
    """Return the annotation of a value that is of one of these."""
    if any(part is UNKNOWN for part in parts):
        return UNKNOWN
    return typing.Union[tuple(parts)] if parts else UNKNOWN  # noqa: UP007 (the parts are known only at run time)


def _class_name(kind: type) -> str:
    return kind.__qualname__.rpartition("<locals>.")[2]


def _describe_value(value: object) -> str:
    return str(value) if isinstance(value, enum.Enum) and not isinstance(value, str | int) else repr(value)


def _anything(*args: object, **kwargs: object) -> None:
    """Stands in for a function that does not tell its parameters."""
