"""Arguments of calls: JSON in which parameters of the flow, and values that the run makes, have places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from lokki.base.values import Json


@dataclass(frozen=True, slots=True)
class ParamRef:
    """The place of a flow's parameter in a step's arguments."""

    name: str


@dataclass(frozen=True, slots=True)
class Output:
    """Reads the result of the call or the switch of this id."""

    id: str


@dataclass(frozen=True, slots=True)
class Item:
    """Reads the item that a map block is at.

    ``id``: the map block; empty for the innermost one that the reader is in.
    """

    id: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """Reads the list of results of the map block of this id."""

    id: str


type Source = Output | Item | Results
"""A value that the run makes. It is never converted: what arrives is what was returned."""

type Reads = Source | None
"""What fills a step's first parameter; None for a step that has only its own arguments."""

type Template = None | bool | int | float | str | ParamRef | Source | list[Template] | dict[str, Template]
"""JSON in which parameters of the flow and values of the run have places."""


def source_name(source: Source) -> str:
    """Return the name of a value in events, entries of items and variables.

    Names of two sources differ: an id of a call has no dot, and those of map blocks and switches end in other words.

    >>> source_name(Output("train")), source_name(Results("rows.map")), source_name(Item("rows.map"))
    ('train', 'rows.map', 'rows.map.item')
    """
    return f"{source.id}.item" if isinstance(source, Item) else source.id


def fill(template: Template, params: Mapping[str, Json]) -> Json:
    """Put the parameters of a run into their places.

    Raises TypeError for a template with a place for a value of the run, which is no JSON.
    """
    if isinstance(template, ParamRef):
        return params[template.name]
    if isinstance(template, Output | Item | Results):
        raise TypeError(f"{source_name(template)} is a value of the run, and no JSON")
    if isinstance(template, list):
        return [fill(member, params) for member in template]
    if isinstance(template, dict):
        return {name: fill(member, params) for name, member in template.items()}
    return template


def template_to_json(template: Template) -> Json:
    """Write a template as JSON.

    The place of a parameter is ``{"$param": name}``, those of values are ``{"$output": id}``, ``{"$results": id}`` and
    ``{"$item": id}``; in a dict of the user's, a ``$`` that begins a key is doubled.
    """
    match template:
        case ParamRef(name):
            return {"$param": name}
        case Output(source_id):
            return {"$output": source_id}
        case Results(source_id):
            return {"$results": source_id}
        case Item(source_id):
            return {"$item": source_id}
        case list():
            return [template_to_json(member) for member in template]
        case dict():
            return {f"${key}" if key.startswith("$") else key: template_to_json(m) for key, m in template.items()}
        case _:
            return template


def template_from_json(value: object) -> Template:
    """Read what `template_to_json` wrote.

    Raises TypeError for what is no JSON.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [template_from_json(member) for member in value]
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} is no JSON")
    place = _place_from_json(value)
    if place is not None:
        return place
    return {key.removeprefix("$") if key.startswith("$$") else key: template_from_json(m) for key, m in value.items()}


def _place_from_json(value: dict[object, object]) -> ParamRef | Source | None:
    [*members] = value.items()
    if len(members) != 1 or not isinstance(members[0][1], str):
        return None
    match members[0]:
        case ("$param", str(name)):
            return ParamRef(name)
        case ("$output", str(name)):
            return Output(name)
        case ("$results", str(name)):
            return Results(name)
        case ("$item", str(name)):
            return Item(name)
        case _:
            return None


def parameters_in(template: Template) -> Iterator[str]:
    """Yield the flow's parameters in a template, as often as they are there."""
    return (place.name for place in _places_in(template) if isinstance(place, ParamRef))


def sources_in(template: Template) -> Iterator[Source]:
    """Yield the values of the run in a template."""
    return (place for place in _places_in(template) if not isinstance(place, ParamRef))


def _places_in(template: Template) -> Iterator[ParamRef | Source]:
    if isinstance(template, ParamRef | Output | Item | Results):
        yield template
    elif isinstance(template, list | dict):
        for member in template.values() if isinstance(template, dict) else template:
            yield from _places_in(member)


def template_text(template: Template) -> str:
    """Write a template for people.

    It has ``$limit`` for a parameter, ``train.result`` for a value of the run.
    """
    match template:
        case ParamRef(name):
            return f"${name}"
        case Output(source_id):
            return f"{source_id}.result"
        case Results(source_id):
            return f"{source_id}.results"
        case Item(source_id):
            return f"{source_id}.item" if source_id else "item"
        case list():
            return f"[{', '.join(map(template_text, template))}]"
        case dict():
            return "{" + ", ".join(f"{name!r}: {template_text(member)}" for name, member in template.items()) + "}"
        case _:
            return msgspec.json.encode(template).decode()
