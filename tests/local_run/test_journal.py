"""Checkpoints: what is written is found again, whatever a kill or a power cut did to the end of the files."""

import os
import resource
import signal
import tempfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.base.failures import Failure
from lokki.errors import ResultError, StoreError
from lokki.local_run import journal, journal_reader
from lokki.local_run.journal import Parts, PartWriter
from lokki.local_run.journal_reader import DONE, FAILED, PENDING, StepResults
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.seal import Seal

FAILURE = Failure("flap", "ValueError", "no", "birds.py:3", "trace", "full", 2)
BIG = {"payload": os.urandom(5000), "on": date(2026, 1, 1)}


def parts(folder: Path, run_id: str = "run") -> Parts:
    return Parts(folder, Seal(run_id, "2026-01-01"))


def written(folder: Path, name: str = "part-0001") -> PartWriter:
    return PartWriter(parts(folder), name, 100)


def mark(part: PartWriter) -> bytes:
    return journal._line(b"[]", part._start)


def test_what_is_written_is_found_in_the_order_of_the_items(tmp_path: Path) -> None:
    first, second = written(tmp_path), written(tmp_path, "part-0002")
    first.add(3, "goose")
    second.add(1, BIG)
    first.add(0, None)
    second.fail(2, FAILURE)
    for part in (first, second):
        part.close()
    found = journal_reader.scan(parts(tmp_path), 5)
    assert list(found.status) == [DONE, DONE, FAILED, DONE, PENDING]
    assert found.finished == 3
    assert journal_reader.results(parts(tmp_path), 5, failed=2) == [None, BIG, "goose"]
    assert StepResults(parts(tmp_path), 5).failures == {2: FAILURE}


def test_a_large_result_is_what_it_was_when_it_was_added(tmp_path: Path) -> None:
    """A step may fill the same memory anew for each item."""
    part = written(tmp_path)
    memory = bytearray()
    for index in range(12):
        memory[:] = os.urandom(1) * (100_000 if index % 2 else 100)  # what compresses, and small ones between them
        memory += os.urandom(index * 20_000)
        part.add(index, memory)
        part.add(12 + index, bytes(memory))
    part.close()
    results = journal_reader.results(parts(tmp_path), 24, failed=0)
    assert results[:12] == results[12:]
    assert len({bytes(result) for result in results[:12] if isinstance(result, bytearray)}) == 12


class Unreadable:
    """Pickles, and raises when it is read."""

    def __reduce__(self) -> tuple[type[int], tuple[str, bytes]]:
        return int, ("no number", os.urandom(100_000))


def test_large_results_are_ready_for_the_next_step_as_far_as_there_is_room(tmp_path: Path) -> None:
    ready = ReadyResults(most_bytes=500_000, free_memory=lambda: 0)
    part = PartWriter(parts(tmp_path), "part-0001", 100, ready)
    memory = bytearray(os.urandom(200_000))
    text = "a line\n" * 20_000
    added = [bytes(memory), "small", text, bytearray(memory), b"no room" * 40_000]
    part.add(0, memory)
    memory[:5] = b"later"
    part.add(4, text, step="inner")
    for index, value in enumerate(added[1:], 1):
        part.add(index, value)
    part.close()
    copies = ready.take()
    assert copies == {0: added[0], 2: text}
    assert copies[2] is text, "nobody can change a text"
    assert ready.take() == {}
    by_disk = journal_reader.results(parts(tmp_path), 5, failed=0)
    assert by_disk == journal_reader.results(parts(tmp_path), 5, 0, copies) == added
    assert journal_reader.results(parts(tmp_path), 5, 0, {1: "ready"})[1] == "ready"


def test_a_result_that_cannot_be_copied_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    ready = ReadyResults()
    part = PartWriter(parts(tmp_path), "part-0001", 100, ready)
    part.add(0, Unreadable())
    part.close()
    assert ready.take() == {}
    with pytest.raises(StoreError, match="does not unpickle: "):
        journal_reader.results(parts(tmp_path), 1, failed=0)


def test_a_large_result_that_finds_no_room_takes_no_smaller_one_with_it_to_a_wrong_place(tmp_path: Path) -> None:
    part = written(tmp_path)
    part.add(0, BIG)
    part.flush()
    part.add(1, BIG)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            part.add(2, os.urandom(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    part.close()
    assert list(journal_reader.scan(parts(tmp_path), 3).status) == [DONE, PENDING, PENDING]


def test_results_that_are_missing_are_an_error(tmp_path: Path) -> None:
    part = written(tmp_path)
    part.add(0, "goose")
    part.close()
    with pytest.raises(StoreError, match="holds 1 results where 3 should be"):
        journal_reader.results(parts(tmp_path), 4, failed=1)


def test_an_item_that_failed_and_succeeded_later_is_finished(tmp_path: Path) -> None:
    first, second = written(tmp_path), written(tmp_path, "part-0002")
    first.fail(0, FAILURE)
    second.add(0, 1)
    first.close()
    second.close()
    assert list(journal_reader.scan(parts(tmp_path), 1).status) == [DONE]
    assert StepResults(parts(tmp_path), 1).failures == {}


@pytest.mark.parametrize("value", ["goose", BIG])
def test_what_an_inner_step_returned_is_found_until_its_item_is_finished(tmp_path: Path, value: object) -> None:
    part = written(tmp_path)
    part.add(0, value, step="flap")
    part.add(1, value, step="flap")
    part.add(1, value)
    part.flush()
    found = journal_reader.scan(parts(tmp_path), 2)
    assert list(found.status) == [PENDING, DONE]
    assert set(found.partials) == {0}
    assert found.partials[0].step == "flap"
    assert journal_reader.partial_value(found.partials[0]) == value
    part.close()


def test_parts_are_numbered_on_from_whatever_file_there_is(tmp_path: Path) -> None:
    assert parts(tmp_path).next_number() == 1
    written(tmp_path, "part-0007-1-2").close()
    assert parts(tmp_path).next_number() == 8
    (tmp_path / "part-10012.pkl.gz").touch()  # a kill before its journal was made
    assert parts(tmp_path).next_number() == 10013


def test_a_part_is_never_written_over(tmp_path: Path) -> None:
    written(tmp_path).close()
    with pytest.raises(FileExistsError):
        written(tmp_path)


def test_a_value_that_does_not_pickle_leaves_the_part_as_it_was(tmp_path: Path) -> None:
    part = written(tmp_path)
    part.add(0, BIG)
    with pytest.raises(ResultError):
        part.add(1, lambda: None)
    part.add(2, BIG)
    part.close()
    assert journal_reader.results(parts(tmp_path), 3, failed=1) == [BIG, BIG]


def test_a_part_of_a_longer_map_is_refused(tmp_path: Path) -> None:
    part = written(tmp_path)
    part.add(7, 1)
    part.close()
    with pytest.raises(StoreError, match="more items than this run has"):
        journal_reader.scan(parts(tmp_path), 7)


def test_what_a_dead_worker_had_written_can_be_added(tmp_path: Path) -> None:
    part = written(tmp_path)
    part.add(1, 1)
    part.add(0, "x", step="flap")
    part.flush()
    found = journal_reader.Scan(bytearray(3))
    journal_reader.scan_part(parts(tmp_path), "part-0001", found)
    journal_reader.scan_part(parts(tmp_path), "part-0002", found)  # died before it began
    assert (list(found.status), list(found.partials)) == ([PENDING, DONE, PENDING], [0])
    part.close()


values = st.integers() | st.text(max_size=300) | st.binary(max_size=3000) | st.none() | st.dates()
operations = st.lists(st.tuples(st.sampled_from(["result", "after", "failed", "flush", "sync"]), values), max_size=40)


@settings(deadline=None, max_examples=80)
@given(operations, st.data())
def test_whatever_the_end_of_the_files_lost_the_rest_is_right(
    steps: list[tuple[str, object]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = written(folder)
        safe, wanted = 0, {}
        for index, (kind, value) in enumerate(steps):
            if kind == "failed":
                part.fail(index, FAILURE)
            elif kind in ("flush", "sync"):
                part.flush()
                if kind == "sync":
                    part._sync()
                    safe = index
            else:
                part.add(index, value, step="flap" if kind == "after" else None)
                wanted[index] = (kind, value)
        part.flush()
        forced = synced_pack(folder, safe)
        for path in (part.path, journal.pack_path(part.path)):
            whole = path.read_bytes()
            least = whole.rfind(mark(part)) + len(mark(part)) if safe else 0
            if path != part.path:
                least = forced
            cut = data.draw(st.integers(least, len(whole)))
            blanked = data.draw(st.none() | st.integers(cut, len(whole)))
            path.write_bytes(whole[:cut] + (b"" if blanked is None else bytes(blanked - cut) + whole[blanked:]))
        found = journal_reader.scan(parts(folder), len(steps))
        for index, (kind, value) in wanted.items():
            kept = found.status[index] == DONE if kind == "result" else index in found.partials
            assert kept or index >= safe
            if kept and kind == "after":
                assert journal_reader.partial_value(found.partials[index]) == value
        done = [value for index, (kind, value) in wanted.items() if found.status[index] == DONE]
        assert journal_reader.results(parts(folder), len(steps), failed=len(steps) - len(done)) == done
        os.close(part._journal)
        os.close(part._pack_file)


def synced_pack(folder: Path, safe: int) -> int:
    """Return how much of the pack was forced to disk."""
    end = 0
    for line in (folder / "part-0001.jsonl").read_bytes().splitlines():
        for record in journal._DECODER.decode(line[9:]):
            if record.index < safe and isinstance(record.range, tuple):
                end = max(end, sum(record.range))
    return end
