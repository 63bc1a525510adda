"""The parameters of a flow as options of the command line."""

from __future__ import annotations

import codecs
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from lokki.base import signatures
from lokki.base.convert import ConversionError, from_json, to_json
from lokki.base.naming import suggestion
from lokki.base.values import Json
from lokki.errors import ParameterError
from lokki.graph import FlowParameter
from lokki.plan import bind_parameters

if typing.TYPE_CHECKING:  # start-up: only needed for completion
    from click.shell_completion import CompletionItem

PREFIX = "parameter_"
"""What the names under which click hands on a flow's parameters begin with, so that they meet no option of lokki."""

_NUMBERS = (int, float, bool)
_TIMES = (datetime.date, datetime.datetime, datetime.time)
_FROM_TEXT = (*_NUMBERS, *_TIMES, str, bytes, datetime.timedelta, decimal.Decimal, uuid.UUID)


class ParameterType(click.ParamType[object]):
    """Converts the text of an option to the JSON of a parameter's value."""

    def __init__(self, annotation: object) -> None:
        self.annotation = annotation
        self.name = metavar(annotation)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Return the JSON of a text.

        Fails with a usage error for text that the annotation does not describe.
        """
        if not isinstance(value, str):
            return value
        try:
            return _Converted(from_text(value, self.annotation))
        except ConversionError as error:
            self.fail(f"{value!r} is {error}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer a shell the values of a Literal or an Enum.

        For a path it offers files.
        """
        # Imported here, as it is only needed for completion.
        from click.shell_completion import CompletionItem

        if self.name == "PATH":
            return [CompletionItem(incomplete, type="file")]
        values = [value for part in _union_parts(self.annotation) for value in _choices(part)]
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]


class _Converted:
    """JSON that an option was converted to.

    click leaves it alone, whatever JSON it is.
    """

    def __init__(self, json: Json) -> None:
        self.json = json


def options_for(params: Sequence[FlowParameter], taken: Iterable[str]) -> dict[str, click.Option]:
    """Return the options for a flow's parameters, by name.

    A parameter has none where one of the ``taken`` options has its name.
    """
    flags_in_use = set(taken)
    options = {}
    for param in params:
        option = _option(param)
        flags = {*option.opts, *option.secondary_opts}
        if not flags & flags_in_use:
            flags_in_use |= flags
            options[param.name] = option
    return options


def _option(param: FlowParameter) -> click.Option:
    flag = f"--{param.name.replace('_', '-')}"
    annotation = effective_annotation(param)
    default = default_text(param)
    name = f"{PREFIX}{param.name}"
    if _without_none(annotation) is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=default)
    element = list_element(annotation)
    if element is not None:
        kind = ParameterType(element)
        text = f"may be given several times; {default}"
        return click.Option([flag, name], type=kind, multiple=True, help=text, metavar=kind.name)
    return click.Option([flag, name], type=ParameterType(annotation), help=default, metavar=metavar(annotation))


def read_parameters(
    params: Sequence[FlowParameter], options: Mapping[str, object], pairs: Iterable[str], file: str | None
) -> dict[str, object]:
    """Put together what the command line says of the parameters.

    ``-p`` pairs win over the file, and options over both. Raises click.UsageError for a file that is no JSON object,
    for a pair that is none and for an unknown parameter; it names the option.
    """
    by_name = {param.name: param for param in params}
    values: dict[str, object] = {}
    if file is not None:
        for name, value in _read(file).items():
            values[name] = _checked(_known(name, by_name, "--params"), value, "--params")
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is no name=value, such as limit=5.", param_hint="-p")
        param = _known(name, by_name, "-p")
        try:
            values[name] = _checked(param, from_text(text, effective_annotation(param)), "-p")
        except ConversionError as error:
            raise click.BadParameter(f"{name}: {text!r} is {error}", param_hint="-p") from None
    for key, value in options.items():
        name = key.removeprefix(PREFIX)
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, _Converted):
            values[name] = _checked(by_name[name], value.json, option)
        elif isinstance(value, tuple) and value:
            values[name] = _checked(by_name[name], [member.json for member in value], option)
        elif isinstance(value, bool):
            values[name] = value
    return values


def check_required(params: Sequence[FlowParameter], values: Mapping[str, object], options: Iterable[str]) -> None:
    """Raise click.UsageError with the required parameters that have no value.

    ``options``: the names of parameters that have an option of their own.
    """
    by_option = set(options)
    missing = [param for param in params if param.required and param.name not in values]
    if missing:
        hints = (
            f"--{param.name.replace('_', '-')} {metavar(effective_annotation(param))}"
            if param.name in by_option
            else f"-p {param.name}={metavar(effective_annotation(param))}"
            for param in missing
        )
        raise click.UsageError(f"Missing: {', '.join(hints)}.")


def from_text(text: str, annotation: object) -> Json:
    """Turn text of the command line into the JSON of a value.

    Numbers, dates and the like are written as they are, all else as JSON. Raises ConversionError for text that the
    annotation does not describe.

    >>> from_text("5", int), from_text("5", str), from_text("[1, 2]", list[int]), from_text("2026-01-01", datetime.date)
    (5, '5', [1, 2], '2026-01-01')
    """
    parts = _union_parts(annotation)
    if len(parts) > 1:
        return _from_any(text, parts)
    kind = parts[0]
    if kind is type(None):
        if text != "null":
            raise ConversionError("not null")
        return None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enum(text, kind)
    if typing.get_origin(kind) is typing.Literal:
        return _literal(text, typing.get_args(kind))
    if _is_path(kind):
        return text
    if kind in _TIMES:
        try:
            return to_json(kind.fromisoformat(text), kind)
        except ValueError as error:
            raise ConversionError(f"not {signatures.describe(kind)} ({error})") from None
    if kind in _FROM_TEXT:
        try:
            return to_json(msgspec.convert(text, kind, strict=kind not in _NUMBERS), kind)
        except msgspec.ValidationError as error:
            raise ConversionError(f"not {signatures.describe(kind)} ({error})") from None
    try:
        value: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        if kind is signatures.UNKNOWN:
            return text
        raise ConversionError(f"no JSON, which {signatures.describe(kind)} is given as") from None
    from_json(value, kind)
    return value


def effective_annotation(param: FlowParameter) -> object:
    """Return a parameter's annotation, or else the type of its default."""
    if param.annotation is signatures.UNKNOWN and type(param.default) in _FROM_TEXT:
        return type(param.default)
    return param.annotation


def list_element(annotation: object) -> object | None:
    """Return what a list, set or tuple of any length holds.

    That is None for all else, and for elements that have no form as text.

    >>> list_element(list[int]), list_element(list[dict[str, int]]), list_element(int)
    (<class 'int'>, None, None)
    """
    kind = _without_none(annotation)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if not (isinstance(origin, type) and issubclass(origin, Iterable)) or issubclass(origin, Mapping):
        return None
    if len(arguments) != 1 and arguments[1:] != (...,):
        return None
    element = _plain(arguments[0])
    textual = (isinstance(element, type) and issubclass(element, (*_FROM_TEXT, enum.Enum, Path))) or (
        typing.get_origin(element) is typing.Literal
    )
    return element if textual else None


def metavar(annotation: object) -> str:
    """Return how ``--help`` shows what a parameter takes.

    That is such as ``INTEGER``, ``DATE``, ``red|green``.
    """
    parts = _union_parts(annotation)
    if len(parts) > 1:
        return "|".join(metavar(part) for part in parts)
    kind = parts[0]
    if choices := _choices(kind):
        return "|".join(choices)
    names = {
        int: "INTEGER",
        str: "TEXT",
        bytes: "BASE64",
        datetime.datetime: "DATETIME",
        datetime.timedelta: "DURATION",
    }
    if _is_path(kind):
        return "PATH"
    if kind in _FROM_TEXT and isinstance(kind, type):
        return names.get(kind, kind.__name__.upper())
    if kind is type(None):
        return "null"
    return "VALUE" if kind is signatures.UNKNOWN else "JSON"


def _choices(kind: object) -> list[str]:
    """Return the values of a Literal or an Enum, as they are typed."""
    if typing.get_origin(kind) is typing.Literal:
        return [_literal_text(value) for value in typing.get_args(kind)]
    return [str(member.value) for member in kind] if isinstance(kind, type) and issubclass(kind, enum.Enum) else []


def default_text(param: FlowParameter) -> str:
    """Write a parameter's default, or that it is required.

    That is ``required``, or ``default: 2026-01-01``.
    """
    if param.required:
        return "required"
    value = to_json(param.default, effective_annotation(param))
    return f"default: {value if isinstance(value, str) and value else msgspec.json.encode(value).decode()}"


def _plain(annotation: object) -> object:
    """Return what an alias, a NewType or Annotated stands for."""
    while True:
        if isinstance(annotation, typing.TypeAliasType):
            annotation = annotation.__value__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


def _union_parts(annotation: object) -> tuple[object, ...]:
    annotation = _plain(annotation)
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return (annotation,)
    return tuple(part for member in typing.get_args(annotation) for part in _union_parts(member))


def _without_none(annotation: object) -> object:
    parts = [part for part in _union_parts(annotation) if part is not type(None)]
    return parts[0] if len(parts) == 1 else annotation


def _is_path(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Path)


def _from_any(text: str, parts: tuple[object, ...]) -> Json:
    """Read text as any type of a union.

    None is tried first, and last what any text fits.
    """
    problems = []
    for part in sorted(parts, key=lambda part: 0 if part is type(None) else 2 if part is str or _is_path(part) else 1):
        try:
            return from_text(text, part)
        except ConversionError as error:
            problems.append(str(error))
    raise ConversionError(" and ".join(dict.fromkeys(problems)))


def _enum(text: str, kind: type[enum.Enum]) -> Json:
    """Find a member of an enum by its value, else by its name."""
    by_value = {str(member.value): member for member in reversed(kind)}
    by_text = {**kind.__members__, **by_value}
    if text not in by_text:
        raise ConversionError(f"none of {', '.join(str(member.value) for member in kind)}")
    return to_json(by_text[text], kind)


def _literal(text: str, values: tuple[object, ...]) -> Json:
    by_text = {_literal_text(value): value for value in reversed(values)}
    if text not in by_text:
        raise ConversionError(f"none of {', '.join(map(_literal_text, values))}")
    return to_json(by_text[text], signatures.UNKNOWN)


def _literal_text(value: object) -> str:
    return "null" if value is None else str(value)


def _known(name: str, by_name: Mapping[str, FlowParameter], option: str) -> FlowParameter:
    if name not in by_name:
        hint = suggestion(name, by_name)
        raise click.BadParameter(f"the flow has no parameter {name!r}. {hint}", param_hint=option)
    return by_name[name]


def _checked(param: FlowParameter, value: object, option: str) -> object:
    """Return a value that a parameter can have, or raise click.BadParameter."""
    try:
        bind_parameters((param,), {param.name: value})
    except ParameterError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    return value


def _decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8, or in PowerShell's UTF-16."""
    # UTF-16 begins with a mark that says so.
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig")


def _read(file: str) -> dict[str, object]:
    content = read_json(file, "--params")
    if not isinstance(content, dict):
        raise click.BadParameter(f'{file} holds no JSON object, such as {{"limit": 5}}.', param_hint="--params")
    return dict(content)


def read_json(file: str, option: str) -> Json:
    """Read a file of JSON that an option names."""
    try:
        content: Json = msgspec.json.decode(_decoded(Path(file).read_bytes()))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} cannot be read as JSON: {error}.", param_hint=option) from None
    return content
