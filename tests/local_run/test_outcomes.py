"""The journal of outcomes: what was added is found, whatever a kill, a power cut or a full disk did to its end."""

import errno
import os
import resource
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.errors import StoreError
from lokki.local_run.disk import FLUSH_SECONDS, LaterFlush
from lokki.local_run.outcomes import OutcomeJournal

NAMES = st.sampled_from(["load", "load.map", "größe", "a" * 60])
ENTRIES = st.lists(st.tuples(NAMES, st.none() | st.integers(0, 9)), max_size=12)


def journal_in(folder: Path, start: int = 7) -> OutcomeJournal:
    return OutcomeJournal(folder / "outcomes.jsonl", start)


def add(journal: OutcomeJournal, name: str, count: int | None) -> None:
    if count is None:
        journal.forget(name)
    else:
        journal.add(name, msgspec.json.encode({"items": count, "text": "ä\n\x00" * count}))


def counts(journal: OutcomeJournal) -> dict[str, object]:
    """Return what is found, None for what was forgotten."""
    found = {name: journal.find(name) for name in ["load", "load.map", "größe", "a" * 60]}
    return {name: None if one[0] is None else one[0]["items"] for name, one in found.items() if one is not None}


@settings(max_examples=30, deadline=None)
@given(ENTRIES, ENTRIES, st.data())
def test_the_latest_outcome_of_each_is_found_by_writer_and_readers_and_behind_torn_lines(
    entries: list[tuple[str, int | None]], later: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        writer, reader = journal_in(folder), journal_in(folder)
        for entry in entries:
            add(writer, *entry)
            assert counts(reader) == counts(writer)
        assert counts(writer) == dict(entries)
        content = writer.path.read_bytes() if entries else b""
        size = data.draw(st.integers(0, len(content)))
        blank = data.draw(st.booleans())
        writer.path.write_bytes(content[:size] + (bytes(len(content) - size) if blank else b""))
        whole = content[:size].count(b"\n")
        if not blank and content[size : size + 1] == b"\n":
            whole += bool(later)  # all of a line but its end, which the next one gives it
        resumed = journal_in(folder)
        for entry in later:
            add(resumed, *entry)
        assert counts(resumed) == counts(journal_in(folder)) == dict([*entries[:whole], *later])


def test_a_journal_of_another_run_tells_nothing(tmp_path: Path) -> None:
    add(journal_in(tmp_path, start=8), "load", 3)
    assert counts(journal_in(tmp_path)) == {}


def test_a_line_that_another_version_of_lokki_wrote_is_refused(tmp_path: Path) -> None:
    with suppress(StoreError):  # it reads what it wrote
        journal_in(tmp_path).add("load", b'["a list"]')
    with pytest.raises(StoreError, match=r"outcomes\.jsonl cannot be read: .* Start a new run\."):
        journal_in(tmp_path).find("load")


def test_what_a_full_disk_takes_half_of_is_not_there_and_what_follows_is(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    add(journal, "load", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            add(journal, "load.map", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert counts(journal) == {"load": 1}
    add(journal, "load.map", 3)
    assert counts(journal) == counts(journal_in(tmp_path)) == {"load": 1, "load.map": 3}


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_stands_in_place_of_a_journal_is_told_of_and_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "outcomes.jsonl"
    if kind == "folder":
        (path / "below").mkdir(parents=True)
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("somebody else's")
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    journal = journal_in(tmp_path)
    with pytest.raises(OSError, match="it is not a file"):
        journal.find("load")
    add(journal, "load", 1)
    assert counts(journal) == {"load": 1}
    if kind == "link":
        assert (tmp_path / "elsewhere").read_text() == "somebody else's"


# --- forcing to disk ---


class Disk:
    """Takes what is forced to it, or says once that it lost something, as systems do."""

    def __init__(self, *, loses: bool = False) -> None:
        self.took: list[float] = []
        self.loses = loses
        self.tried = threading.Event()

    def force(self) -> None:
        loses, self.loses = self.loses, False
        if not loses:
            self.took.append(time.monotonic())
        self.tried.set()
        if loses:
            raise OSError(errno.EIO, "Input/output error")


def end_of_threads() -> None:
    while any(thread.name == "lokki-disk" for thread in threading.enumerate()):
        time.sleep(0.01)


def test_changes_are_forced_to_disk_together_within_about_a_second() -> None:
    disk = Disk()
    later = LaterFlush(disk.force)
    began = time.monotonic()
    for _ in range(50):
        later.changed()
    assert disk.tried.wait(30)
    end_of_threads()
    [took] = disk.took
    assert took - began >= FLUSH_SECONDS
    later.flush()
    assert disk.took == [took]  # there was nothing new


def test_a_flush_forces_what_changed_at_once_and_leaves_no_thread() -> None:
    disk = Disk()
    later = LaterFlush(disk.force)
    later.changed()
    later.flush()
    assert len(disk.took) == 1
    assert not any(thread.name == "lokki-disk" for thread in threading.enumerate())


def test_what_a_disk_did_not_take_is_forced_to_it_again() -> None:
    disk = Disk(loses=True)
    later = LaterFlush(disk.force)
    later.changed()
    with pytest.raises(OSError, match="Input/output error"):
        later.flush()
    later.flush()
    assert len(disk.took) == 1


def test_what_was_lost_while_nobody_waited_is_said_by_the_next_flush_and_once() -> None:
    disk = Disk(loses=True)
    later = LaterFlush(disk.force)
    later.changed()
    assert disk.tried.wait(30)
    end_of_threads()
    with pytest.raises(OSError, match="Input/output error"):
        later.flush()
    later.flush()


def test_a_journal_and_its_name_are_on_disk_when_it_was_flushed(tmp_path: Path) -> None:
    forced: list[Path] = []
    journal = OutcomeJournal(tmp_path / "outcomes.jsonl", 7, forced.append)
    for number in range(9):
        add(journal, "load", number)
    journal.flush()
    assert forced == [journal.path, tmp_path]


def test_a_journal_that_was_removed_with_its_run_is_flushed_without_an_error(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    add(journal, "load", 2)
    journal.path.unlink()
    journal.flush()
    assert counts(journal) == {}
