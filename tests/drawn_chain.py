"""A random chain where worker processes find it: in a module, described by a file that the environment names."""

import datetime
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import steps

from lokki import StepNode, flow

DESCRIPTION = "LOKKI_TEST_CHAIN"
"""The environment variable with the path of the description: a chain, and what `steps.TRIP` is."""


@dataclass(frozen=True)
class Block:
    """A map block: its inner steps, the step that closes it, and whether failures are tolerated."""

    inner: tuple[str, ...]
    closing: str
    tolerant: bool


type Segment = str | Block


@dataclass(frozen=True)
class Chain:
    """A flow: what its first step returns, and what follows it."""

    kind: str
    count: int
    mapped_at_once: bool
    segments: tuple[Segment, ...]


@flow
def drawn_chain(label: str, since: datetime.date):
    chain, steps.TRIP[:] = pickle.loads(Path(os.environ[DESCRIPTION]).read_bytes())
    return chained(chain, label, since)


def chained(chain: Chain, label: str, since: datetime.date) -> StepNode[..., object]:
    def bound(name: str) -> StepNode[..., object]:
        if name == "tag":
            return steps.tag(label=label, since=since)
        return getattr(steps, name)

    head = steps.values(chain.kind, chain.count)
    for number, segment in enumerate(segments(chain)):
        if isinstance(segment, str):
            head = head.next(bound(segment))
            continue
        if number or not is_mapped_at_once(chain):
            head = head.next(steps.split)
        first, *others = segment.inner
        block = head.map(bound(first), tolerate=1.0 if segment.tolerant else None)
        for name in others:
            block = block.next(bound(name))
        head = block.agg(bound(segment.closing))
    return head


def is_mapped_at_once(chain: Chain) -> bool:
    return chain.mapped_at_once or chain.kind == "streamed"


def segments(chain: Chain) -> tuple[Segment, ...]:
    """Return the segments; a generator must be mapped over, since it does not pickle."""
    if chain.kind == "streamed" and isinstance(chain.segments[0], str):
        return (Block(("same",), "collect", False), *chain.segments)
    return chain.segments
