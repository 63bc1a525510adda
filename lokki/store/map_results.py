"""What the results of a map look like in a store.

They are a manifest and the files that it lists.

Step Functions' ResultWriter writes them, with ``OutputType`` JSON and ``Transformation`` FLATTEN: a file of succeeded
children is one array of what they replied, and a file of failed ones an array of AWS's records of them. A batch whose
reply is too large for a state has its results in an object of its own, which its entry names.
https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
"""

from __future__ import annotations

from collections.abc import Buffer, Iterable, Iterator

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.values import Inline, JsonField, Ref, Stored
from lokki.errors import StoreError
from lokki.store.base import Store
from lokki.store.manifest import EntryValue


class ResultFile(msgspec.Struct, frozen=True):
    """An object that a manifest lists."""

    Key: str


class ResultFiles(msgspec.Struct, frozen=True):
    """The files of a map run, by how the children in them ended."""

    SUCCEEDED: list[ResultFile]
    FAILED: list[ResultFile] = []


class ResultsManifest(msgspec.Struct, frozen=True):
    """What ResultWriter writes last."""

    ResultFiles: ResultFiles


class BatchFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an item failed inside a batch that went on without it.

    ``where``: the file in the package and the line; "" where that is not known.
    """

    step: str
    error: str
    message: str
    where: str = ""

    @property
    def failure(self) -> Failure:
        """The same as a failure of a run."""
        return Failure(self.step, self.error, self.message, self.where)


class ItemResult(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What became of an item whose child execution succeeded.

    One of these, and no other, is there:

    * ``result``: the value itself.
    * ``result_url``: where it is, with ``range`` and ``crc32`` if it is in a pack.
    * ``failed``: why the item failed inside its batch.
    * ``entries_url``: where the results of a whole batch are; the entry has no index then.

    ``values`` has what is beside the result, for a map below this one; ``path`` is there in a map below another one.
    """

    index: int = -1
    result: JsonField | msgspec.UnsetType = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | None = None
    crc32: int | None = None
    failed: BatchFailure | msgspec.UnsetType = msgspec.UNSET
    entries_url: str | msgspec.UnsetType = msgspec.UNSET
    values: dict[str, EntryValue] | None = None
    path: ItemPath | None = None

    @property
    def ref(self) -> Ref:
        """Where the result of an item is that has not failed."""
        if isinstance(self.result_url, str):
            return Stored(self.result_url, self.range, self.crc32)
        assert not isinstance(self.result, msgspec.UnsetType)  # `item_results` yields nothing without a result
        return Inline(self.result)


class FailedChild(msgspec.Struct, frozen=True):
    """AWS's record of a child execution that did not succeed.

    It failed, timed out or was stopped.
    """

    Input: str
    Error: str = "States.TaskFailed"
    Cause: str = ""


class _ChildItem(msgspec.Struct, frozen=True):
    index: int
    path: ItemPath | None = None


class _ChildInput(msgspec.Struct, frozen=True):
    """The input of a child execution.

    `lokki.builder.state_machine` makes it from an item, or from a batch of them.
    """

    item: _ChildItem | None = None
    Items: list[_ChildItem] = []


_LEAST_BYTES = 1024

_MANIFEST = msgspec.json.Decoder(ResultsManifest)
_RESULTS = msgspec.json.Decoder(list[ItemResult])
_CHILDREN = msgspec.json.Decoder(list[FailedChild])
_CHILD_INPUT = msgspec.json.Decoder(_ChildInput)


def read_result_files(store: Store, url: str, earlier: Iterable[str] = ()) -> ResultFiles:
    """Read which files of results a map has.

    ``earlier``: the keys of the manifests of runs whose items it took over, the oldest first.
    Raises StoreError for what ResultWriter does not write.
    """
    urls = [*map(store.url, earlier), url]
    manifests = [_decode(_MANIFEST, store.read(Stored(part)), part).ResultFiles for part in urls]
    if len(manifests) == 1:
        return manifests[0]
    return ResultFiles(
        [file for files in manifests for file in files.SUCCEEDED],
        [file for files in manifests for file in files.FAILED],
    )


def item_results(store: Store, url: str, files: ResultFiles, items: int) -> Iterator[ItemResult]:
    """Yield what became of the items whose children succeeded.

    ``url``: of the manifest, for errors. ``items``: how many items the map had. Each item comes once, in any order.
    Raises StoreError for files that cannot be read, are not those of lokki's maps, or are those of another map.
    """
    # A byte for each item: a set of ten million indexes would not fit into a small function.
    listed = bytearray()
    for entries in _entries(store, files):
        for entry in entries:
            index = entry.index
            if not 0 <= index < len(listed):
                if not 0 <= index < items:
                    raise _foreign(url)
                listed += bytes(min(items, 2 * index + _LEAST_BYTES) - len(listed))
            if listed[index]:
                raise _foreign(url)
            listed[index] = True
            yield entry


def failed_children(store: Store, files: ResultFiles) -> Iterator[FailedChild]:
    """Yield the children of a map that did not succeed.

    Raises StoreError as `item_results` does.
    """
    urls = [store.url(file.Key) for file in files.FAILED]
    for url, content in zip(urls, store.read_many(map(Stored, urls)), strict=True):
        yield from _decode(_CHILDREN, content, url)


def child_items(text: str | bytes) -> list[int]:
    """Return the indexes of a child's items from its input.

    None for a text that is no input of a child of lokki's maps.
    """
    return [item.index for item in _child_items(text)]


def child_paths(text: str | bytes) -> dict[int, ItemPath]:
    """Return the paths of a child's items by their indexes, from its input.

    Only items of maps below maps have any.
    """
    return {item.index: item.path for item in _child_items(text) if item.path is not None}


def _child_items(text: str | bytes) -> list[_ChildItem]:
    try:
        child = _CHILD_INPUT.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return []
    return [child.item] if child.item else child.Items


def _foreign(url: str) -> StoreError:
    return StoreError(f"{url} lists results of an item that this map did not have, or of one item twice.")


def _entries(store: Store, files: ResultFiles) -> Iterator[list[ItemResult]]:
    """Yield the entries of each file, then of each object of a batch's own."""
    spilled: list[str] = []
    for entries in _decoded(store, [store.url(file.Key) for file in files.SUCCEEDED]):
        elsewhere = [entry.entries_url for entry in entries if isinstance(entry.entries_url, str)]
        spilled += elsewhere
        yield [entry for entry in entries if entry.entries_url is msgspec.UNSET] if elsewhere else entries
    # At the end, so that they are read together. They lead to no further objects: those have no index.
    yield from _decoded(store, spilled)


def _decoded(store: Store, urls: list[str]) -> Iterator[list[ItemResult]]:
    for url, content in zip(urls, store.read_many(map(Stored, urls)), strict=True):
        entries = _decode(_RESULTS, content, url)
        _check_fields(entries, url)
        yield entries


def _check_fields(entries: Iterable[ItemResult], url: str) -> None:
    for entry in entries:
        alternatives = (entry.result, entry.result_url, entry.failed, entry.entries_url)
        loose = (entry.range, entry.crc32) != (None, None) and entry.result_url is msgspec.UNSET
        if alternatives.count(msgspec.UNSET) != len(alternatives) - 1 or loose:
            raise StoreError(f"{url} has an entry that holds no result, or more than one.")


def _decode[T](decoder: msgspec.json.Decoder[T], content: Buffer, url: str) -> T:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if bytes(memoryview(content)[:1]) == b"{" and decoder is _RESULTS:
            raise StoreError(
                f"{url} holds single objects, as Step Functions writes for a map whose results are JSON Lines. "
                "lokki's state machines have OutputType JSON and Transformation FLATTEN: deploy what lokki built."
            ) from None
        raise StoreError(f"{url} is not what Step Functions writes for a map of lokki: {error}.") from None
