"""The names of what lokki keeps, and the rule that every key follows."""

from __future__ import annotations

from dataclasses import dataclass

from lokki.base.item_path import ItemPath, format_item
from lokki.base.values import Stored
from lokki.errors import StoreError, damaged

_LONGEST_KEY = 1024

LATEST_SUFFIX = "-latest"
"""Ends the id of a run that takes over what an earlier one did, so that no other run has to look for that."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one run's objects.

    `prefix` is ``lokki/<flow>/<run_id>`` on S3 and ``<run_id>`` locally.

    Ids are those of the plan: one for each occurrence of a step in the flow.
    """

    prefix: str

    def output(self, id: str) -> str:  # noqa: A002
        """Return the key of a step's result."""
        return f"{self.prefix}/{id}/output.pkl.gz"

    def item_output(self, id: str, item: ItemPath) -> str:  # noqa: A002
        """Return the key of a step's result for one item of a map."""
        return f"{self.prefix}/{id}/{format_item(item)}/output.pkl.gz"

    def batch_output(self, id: str, first: int, last: int) -> str:  # noqa: A002
        """Return the key of a step's packed results for a batch.

        ``first`` and ``last``: the indexes of the batch's items in the manifest of their map.
        """
        return f"{self.prefix}/{id}/{first}-{last}/output.pkl.gz"

    def batch_left(self, id: str, first: int, last: int) -> str:  # noqa: A002
        """Return the key of the entries that a batch had when it failed."""
        return f"{self.prefix}/{id}/{first}-{last}/left.json"

    def items(self, id: str) -> str:  # noqa: A002
        """Return the key of the packed items of a map."""
        return f"{self.prefix}/{id}/items.pkl.gz"

    def map_manifest(self, id: str) -> str:  # noqa: A002
        """Return the key of the list of items of a map."""
        return f"{self.prefix}/{id}/map_manifest.json"

    def groups(self, id: str) -> str:  # noqa: A002
        """Return the key of the table of the lists that a spread put together."""
        return f"{self.prefix}/{id}/groups.json"

    def cost(self, id: str) -> str:  # noqa: A002
        """Return the key of what a map costs, where a run may not cost more."""
        return f"{self.prefix}/{id}/cost.json"

    def left_items(self, id: str) -> str:  # noqa: A002
        """Return the key of the items that a run still has to run.

        It goes on from another one.
        """
        # Under a name that the state machine may read: `builder.permissions`.
        return f"{self.prefix}/{id}/left/map_manifest.json"

    def takeover(self) -> str:
        """Return the key of what the run takes over from an earlier one."""
        return f"{self.prefix}/redrive.json"

    def map_results(self, id: str) -> str:  # noqa: A002
        """Return the prefix of a map's results, with its ``/``."""
        return f"{self.prefix}/{id}/map_results/"


def check_key(key: str) -> str:
    """Return a key if it names one object, the same in every store.

    That is: parts of printable text between single ``/``, none of them ``.`` or ``..``, of at most 1,024 bytes in all
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).

    Raises StoreError if it is anything else.
    """
    reason = None
    if not key.isprintable():  # control characters, separators of lines, lone surrogates
        reason = "it has characters that cannot be printed"
    elif len(key.encode()) > _LONGEST_KEY:
        reason = f"it is longer than {_LONGEST_KEY} bytes"
    elif not {"", ".", ".."}.isdisjoint(key.split("/")):
        reason = "it is empty or has an empty, '.' or '..' part"
    if reason:
        raise StoreError(f"{key!r} is no key of a stored object: {reason}. Use names such as 'birds/goose.pkl.gz'.")
    return key


def describe_place(place: Stored) -> str:
    """Describe where a stored value is, for messages.

    Its URL, and where in the object it is.
    """
    if place.range is None:
        return place.result_url
    offset, length = place.range
    return f"{place.result_url} (bytes {offset} to {offset + length})"


def check_range(place: Stored, size: int) -> tuple[int, int]:
    """Return the offset and length that a place asks for.

    ``size``: how many bytes the object has.

    Raises StoreError if the object does not have these bytes.
    """
    offset, length = place.range or (0, size)
    if offset < 0 or length < 0 or offset + length > size:
        raise truncation_error(place, f"the object has {size} bytes")
    return offset, length


def truncation_error(place: Stored, reason: str) -> StoreError:
    """Return the error for bytes that are not there."""
    return damaged(
        f"{describe_place(place)} is truncated: {reason}", "Delete the object and run the step that wrote it again."
    )
