"""The items of a distributed map: read from S3, selected and put into batches. Pure functions.

Reading: https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html
Batching: https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from lokki.base.quotas import STATE_BYTES
from lokki.base.values import Json
from lokki.emulator.states.failures import DATA_LIMIT, ITEM_READER_FAILED, StatesError

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a map that one child execution works on.

    * ``index``: that of its first item; ``items``: how many it has.
    """

    input: Json
    index: int
    items: int


def read_items(content: bytes, kind: Literal["JSON", "JSONL"], most: int | None) -> list[Json]:
    """Return the items of a dataset.

    They are the members of a JSON array, the pairs of a JSON object, or the values of JSON lines. Raises StatesError,
    States.ItemReaderFailed.
    """
    try:
        if kind == "JSONL":
            dataset: Json = [msgspec.json.decode(line) for line in content.splitlines() if line.strip()]
        else:
            dataset = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise StatesError(ITEM_READER_FAILED, f"The dataset is no {kind}: {error}") from None
    items = as_items(dataset)
    if items is None:
        raise StatesError(ITEM_READER_FAILED, "Attempting to map over non-iterable node.")
    return items[:most]


def as_items(value: Json) -> list[Json] | None:
    """Return what a map iterates over in an array or an object.

    An object's items are its pairs, as objects with Key and Value. Of other values there are none: None.
    """
    if isinstance(value, dict):
        return [{"Key": name, "Value": member} for name, member in value.items()]
    return value if isinstance(value, list) else None


def single(inputs: Iterable[Json]) -> Iterator[Share]:
    """Give each item an execution of its own.

    Raises StatesError for an input that is too large for one.
    """
    for index, payload in enumerate(inputs):
        size = len(_encode(payload))
        if size > STATE_BYTES:
            raise StatesError(DATA_LIMIT, f"The input of item {index} has {size} bytes, more than {STATE_BYTES}.")
        yield Share(payload, index, 1)


def batches(
    inputs: Sequence[Json], max_items: int | None, max_bytes: int | None, batch_input: tuple[Json] | None
) -> Iterator[Share]:
    """Put items into batches of at most so many items and bytes of input.

    A batch is ``{"BatchInput": …, "Items": […]}``, and never larger than a state's 256 KiB. Raises StatesError for
    an item that fits no batch.
    """
    frame: dict[str, Json] = {} if batch_input is None else {"BatchInput": batch_input[0]}
    limit = min(max_bytes or STATE_BYTES, STATE_BYTES)
    empty = len(_encode({**frame, "Items": []}))  # what every batch has, whatever is in it
    batch: list[Json] = []
    size, first = empty, 0
    for index, payload in enumerate(inputs):
        added = len(_encode(payload))
        if batch and (len(batch) == max_items or size + added + 1 > limit):
            yield Share({**frame, "Items": batch}, first, len(batch))
            batch, size, first = [], empty, index
        if empty + added > limit:  # alone in a batch, and still too large
            raise StatesError(DATA_LIMIT, f"Item {index} has {added} bytes, too many for a batch of {limit}.")
        size += added + (1 if batch else 0)  # the comma between two items
        batch.append(payload)
    if batch:
        yield Share({**frame, "Items": batch}, first, len(batch))
