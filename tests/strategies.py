"""Random chains of steps: as data, as a flow, and as a direct call of the plain functions."""

import copy
import datetime
from collections.abc import Iterable

import pandas as pd
import steps
from drawn_chain import Block, Chain, chained, is_mapped_at_once, segments
from hypothesis import strategies as st

from lokki import flow
from lokki.graph import FlowGraph

UNARY = st.sampled_from([*steps.UNARY, "tag"])
INNER = st.sampled_from([*steps.UNARY, "tag", "split", "fragile"])


def block(inner: list[str], closing: str) -> Block:
    """Make a block that tolerates failures if it has a fragile step; then its others must not trip the run."""
    tolerant = "fragile" in inner
    return Block(tuple("same" if tolerant and name == "trip" else name for name in inner), closing, tolerant)


BLOCKS = st.builds(block, st.lists(INNER, min_size=1, max_size=4), st.sampled_from([*steps.CLOSING]))
CHAINS = st.builds(
    Chain,
    st.sampled_from(steps.KINDS),
    st.integers(0, 12),
    st.booleans(),
    st.lists(BLOCKS | BLOCKS | UNARY, min_size=1, max_size=4).map(tuple),
)


def draw(chain: Chain) -> FlowGraph:
    """Draw the flow of a chain, with a parameter `label`."""

    @flow
    def random_chain(label: str, since: datetime.date):
        return chained(chain, label, since)

    return random_chain()


def call(chain: Chain, label: str, since: datetime.date) -> object:
    """Call the plain functions as the flow does."""

    def apply(name: str, value: object) -> object:
        fn = getattr(steps, name).fn
        retry = getattr(steps, name).options.retry
        for _ in range(retry.attempts - 1 if retry else 0):
            try:
                return fn(copy.deepcopy(value))
            except ConnectionError:
                pass
        return fn(value, label, since) if name == "tag" else fn(value)

    value: object = steps.values.fn(chain.kind, chain.count)
    for number, segment in enumerate(segments(chain)):
        if isinstance(segment, str):
            value = apply(segment, value)
            continue
        if number or not is_mapped_at_once(chain):
            value = apply("split", value)
        assert isinstance(value, Iterable)
        results = []
        for item in value:
            try:
                for name in segment.inner:
                    item = apply(name, item)
                results.append(item)
            except ValueError:
                assert segment.tolerant
        value = apply(segment.closing, results)
    return value


def comparable(value: object) -> object:
    """Turn a value into one that compares by types too, tables included."""
    kind = type(value).__name__
    if isinstance(value, pd.DataFrame):
        return (kind, str(value.dtypes.to_dict()), comparable(value.to_dict("split")))
    if isinstance(value, dict):
        return (kind, [(comparable(key), comparable(member)) for key, member in value.items()])
    if isinstance(value, list | tuple):
        return (kind, [comparable(member) for member in value])
    return (kind, value)
