"""Handing out items: each once, in order, in chunks that fit how long they take."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lokki.local_run.feed import CHUNK_SECONDS, LARGEST_CHUNK, Chunk, Feed, PendingRetry, chunk_size
from lokki.local_run.journal import Record
from lokki.local_run.journal_reader import DONE, FAILED, Partial, Scan


def feed(status: list[int], workers: int = 2, partials: dict[int, Partial] | None = None) -> Feed:
    lines = (b'{"index":%d}' % index for index in range(len(status)))
    return Feed(lines, Scan(bytearray(status), partials or {}), workers)


@given(
    st.lists(st.sampled_from([0, DONE, FAILED]), max_size=300),
    st.integers(1, 8),
    st.lists(st.none() | st.floats(1e-7, 1), min_size=1),
)
def test_every_unfinished_item_comes_out_once_and_in_order(
    status: list[int], workers: int, seconds: list[float | None]
) -> None:
    source = feed(status, workers)
    assert source.pending == sum(state != DONE for state in status)
    taken: list[int] = []
    turn = 0
    while (work := source.take(seconds[turn % len(seconds)])) is not None:
        assert work.lines == [b'{"index":%d}' % index for index in work.indexes]
        assert 1 <= len(work.lines) <= LARGEST_CHUNK
        taken += work.indexes
        turn += 1
    assert taken == [index for index, state in enumerate(status) if state != DONE]
    assert source.pending == 0


@given(st.floats(1e-9, 100), st.integers(0, 10**7), st.integers(1, 64))
def test_a_chunk_takes_no_longer_than_it_should_nor_starves_others(seconds: float, pending: int, workers: int) -> None:
    size = chunk_size(seconds, pending, workers)
    assert size == 1 or size * seconds <= CHUNK_SECONDS
    assert size == 1 or size * workers <= pending


def test_items_given_back_come_out_alone_but_the_finished_ones() -> None:
    source = feed([0] * 8, workers=1)
    work = source.take(1e-6)
    assert work is not None
    assert work.indexes == [0, 1, 2, 3]
    retry = PendingRetry(2, 1, 2, 0.5)
    source.give_back(work, without={0}, retry=retry)
    again = [source.take(1e-6) for _ in range(3)]
    assert sorted((item.indexes, item.retry) for item in again if item is not None) == [
        ([1], None),
        ([2], retry),
        ([3], None),
    ]
    rest = source.take(1e-6)
    assert rest is not None
    assert rest.indexes[0] == 4


def test_how_often_an_item_was_tried_is_kept_when_it_is_given_back_again() -> None:
    source = feed([0], workers=1)
    work = source.take(None)
    assert work is not None
    retry = PendingRetry(0, 0, 1, 0.0)
    source.give_back(work, without=(), retry=retry)
    second = source.take(None)
    assert second == Chunk(work.lines, [0], {}, retry)
    source.give_back(second, without=())
    assert source.take(None) == second


def test_an_unfinished_item_comes_with_where_it_goes_on() -> None:
    partial = Partial("flap", Path("part-0001.pkl.gz"), Record(1))
    source = feed([0, 0, 0], workers=1, partials={1: partial})
    works = [source.take(None) for _ in range(3)]
    assert [work.partials for work in works if work is not None] == [{}, {1: partial}, {}]
