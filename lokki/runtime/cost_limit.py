"""Ending a run before a map with whose items it would cost more than ``@flow(max_cost=…)`` allows.

Only functions that give the items of maps load this module, and only where a flow has such a limit.
"""

from __future__ import annotations

import math

import msgspec

from lokki.base.values import JsonField, Stored
from lokki.engine.batch_size import default_batch
from lokki.errors import CostLimitError, StoreError
from lokki.runtime.event import ItemCount
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.takeover import is_missing


class MapPrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a map costs by the number of its items, in dollars.

    * ``alone``: a child with one item.
    * ``child``, ``item``: any other child, and each of its items.
    * ``batch``, ``bytes``: most items of a child, and most bytes of their entries.
    * ``at_once``: how many children run at one time, where batches size themselves.
    * ``again``: each time that a function hands back what it has no time for.
    * ``in_time``: for how many items it has time, for each step that has not enough for a whole batch.
    """

    alone: float
    child: float = 0.0
    item: float = 0.0
    batch: int = 1
    bytes: int = 0
    at_once: int = 0
    again: float = 0.0
    in_time: tuple[int, ...] = ()

    def dollars(self, items: ItemCount) -> float:
        """Return what so many items cost."""
        batch = min(self.batch, default_batch(items.count, self.at_once)) if self.at_once else self.batch
        if items.size:
            batch = max(1, min(batch, self.bytes * items.count // items.size))
        full, rest = divmod(items.count, batch)
        return full * self._child(batch) + (self._child(rest) if rest else 0.0)

    def _child(self, items: int) -> float:
        if items == 1:
            return self.alone
        handed_back = sum(math.ceil(items / most) - 1 for most in self.in_time)
        return self.child + items * self.item + handed_back * self.again


class CostLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call that gives the items of maps knows of its run's limit.

    * ``flow``: its name, and ``over`` the id of the call whose result the items are, as they were drawn.
    * ``dollars``: what a run may cost.
    * ``run``: what it costs beside the children of its maps.
    * ``maps``: the prices of all maps that have these items.
    * ``others``: the ids of the calls that give the items of the flow's other maps.
    """

    flow: str
    over: str
    dollars: float
    run: float
    maps: tuple[MapPrice, ...]
    others: tuple[str, ...] = ()


def check_cost(fields: dict[str, JsonField], store: Store, keys: Keys, call_id: str, items: ItemCount) -> None:
    """Raise CostLimitError for more items than the run may pay.

    ``fields``: of a `CostLimit`. What other maps cost stands beside their items. Each writes before it reads, so that
    of two side by side one sees both.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html#ConsistencyModel
    """
    limit = msgspec.convert(fields, CostLimit)
    cost = sum(price.dollars(items) for price in limit.maps)
    if limit.others:
        store.write(keys.cost(call_id), [msgspec.json.encode(cost)])
    cost += limit.run + sum(_cost_of(store, keys.cost(other)) for other in limit.others)
    if cost > limit.dollars:
        noun = "item" if items.count == 1 else "items"
        raise CostLimitError(
            f"the map over {limit.over}() has {items.count:,} {noun}, for which the run would cost about "
            f"{dollars(cost)}, and max_cost= of {limit.flow} allows ${limit.dollars:,g}. So nothing of the map ran: "
            "raise max_cost=, or have fewer items"
        )


def _cost_of(store: Store, key: str) -> float:
    """Return what another map of the run costs, 0 where it has not begun."""
    try:
        return msgspec.json.decode(store.read(Stored(store.url(key))), type=float)
    except StoreError as error:
        if is_missing(error):
            return 0.0
        raise


def dollars(amount: float) -> str:
    """Write an amount with four significant digits, and cents at least.

    >>> dollars(1234.5), dollars(0.5), dollars(0.0000123456), dollars(0)
    ('$1,234.50', '$0.50', '$0.00001235', '$0.00')
    """
    if amount == 0 or amount >= 0.1:
        return f"${amount:,.2f}"
    return f"${amount:.{3 - math.floor(math.log10(amount))}f}"
