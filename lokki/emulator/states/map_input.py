"""The inputs of a map's children: its items, overridden by ItemSelector and put into batches.

https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemselector.html
"""

from __future__ import annotations

from collections.abc import Iterable

from lokki.base.values import Json
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import ITEM_READER_FAILED, RUNTIME, StatesError
from lokki.emulator.states.items import Share, as_items, batches, read_items, single
from lokki.emulator.states.map_settings import MapSettings, Reader
from lokki.emulator.states.state import Visit
from lokki.errors import StoreError


def read_shares(settings: MapSettings, visit: Visit) -> list[Share]:
    """Return the share of each child execution.

    Raises StatesError for items that cannot be read, and for those that are too large.
    """
    items = _read(settings.source, visit)
    inputs: Iterable[Json] = items
    if settings.selector is not None:
        inputs = _selected(settings.selector[0], items, visit)
    batcher = settings.batcher
    if batcher is None:
        return list(single(inputs))
    batch_input = None if batcher.batch_input is None else (visit.fill(batcher.batch_input[0], "BatchInput"),)
    max_items = visit.whole(batcher.max_items, "MaxItemsPerBatch")
    max_bytes = visit.whole(batcher.max_bytes, "MaxInputBytesPerBatch")
    return list(batches(list(inputs), max_items, max_bytes, batch_input))


def _read(source: Reader | tuple[Json], visit: Visit) -> list[Json]:
    if not isinstance(source, Reader):
        items = as_items(visit.fill(source[0], "Items"))
        if items is None:
            raise StatesError(RUNTIME, f"Items of '{visit.state}' is neither an array nor an object.")
        return items
    bucket, key = visit.fill(source.bucket, "ItemReader.Bucket"), visit.fill(source.key, "ItemReader.Key")
    try:
        content = visit.services.objects.read(str(bucket), str(key))
    except StoreError as error:
        raise StatesError(ITEM_READER_FAILED, str(error)) from None
    return read_items(content, source.input_type, visit.whole(source.max_items, "MaxItems"))


def _selected(selector: Json, items: list[Json], visit: Visit) -> Iterable[Json]:
    frame = visit.frame
    for index, item in enumerate(items):
        # Only ItemSelector sees $states.context.Map; the fields of the map itself do not.
        context: Json = {**frame.context, "Map": {"Item": {"Index": index, "Value": item}}}
        scope = Scope({**frame.states(), "context": context}, visit.variables)
        yield visit.services.expressions.fill(selector, scope, f"{visit.state}.ItemSelector")
