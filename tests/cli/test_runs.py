"""Run folders: listed, loaded, locked, removed."""

import fcntl
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lokki.errors import ParameterError, RunFolderError
from lokki.local_run.runs import RunRecord, Runs, changes, new_run_id

RECORD = RunRecord("one", "birds", {"n": 1}, ["a = a()"], {"a": "12"}, "finished", "2026-01-01T00:00:00.000000+00:00")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / ".lokki")


def test_a_new_run_has_a_folder_with_its_record(runs: Runs, tmp_path: Path) -> None:
    runs.new(RECORD)
    assert runs.load("one") == RECORD
    assert (tmp_path / ".lokki" / ".gitignore").read_text() == "*\n"
    assert [path.name for path in runs.folder.iterdir()] == ["one"]


def test_two_runs_cannot_have_one_id(runs: Runs) -> None:
    runs.new(RECORD)
    with pytest.raises(RunFolderError, match=r"there is a run 'one' already\. Resume it by --resume one"):
        runs.new(replace(RECORD, flow="other"))
    assert runs.load("one") == RECORD
    assert [path.name for path in runs.folder.iterdir()] == ["one"]


def test_of_many_that_begin_at_once_under_one_id_one_does(runs: Runs) -> None:
    outcomes: list[str] = []

    def begin() -> None:
        try:
            runs.new(RECORD)
            outcomes.append("begun")
        except RunFolderError:
            outcomes.append("refused")

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["begun"] + ["refused"] * 7


def test_runs_are_listed_the_latest_first(runs: Runs) -> None:
    assert runs.list() == []
    second = replace(RECORD, run_id="two", started="2026-01-02T00:00:00.000000+00:00")
    third = replace(RECORD, run_id="three", flow="fish", started="2026-01-03T00:00:00.000000+00:00")
    for record in (second, RECORD, third):
        runs.new(record)
    assert runs.list() == [third, second, RECORD]
    assert runs.list("birds") == [second, RECORD]


@pytest.mark.parametrize("content", [b"", b"{", b'{"run_id": 5}', b"\xff\xfe", None])
def test_a_damaged_record_spoils_no_list_and_can_be_removed(runs: Runs, content: bytes | None) -> None:
    runs.new(RECORD)
    runs.new(replace(RECORD, run_id="bad"))
    path = runs.folder / "bad" / "run.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"bad/run\.json cannot be read"):
        runs.load("bad")
    [damaged] = [record for record in runs.list() if record.run_id == "bad"]
    assert (damaged.status, damaged.flow) == ("damaged", "")
    assert runs.list("birds") == [RECORD]
    runs.remove("bad")
    assert runs.list() == [RECORD]


def test_a_running_run_that_nobody_is_at_was_killed(runs: Runs) -> None:
    runs.new(replace(RECORD, status="running"))
    assert runs.load("one").status == "killed"
    with runs.locked("one"):
        assert runs.load("one").status == "running"
        assert [record.status for record in runs.list()] == ["running"]
    assert runs.load("one").status == "killed"


def test_to_ask_for_a_run_leaves_no_trace_in_its_folder(runs: Runs) -> None:
    runs.new(replace(RECORD, status="running"))
    assert runs.load("one").status == "killed"
    assert sorted(path.name for path in (runs.folder / "one").iterdir()) == ["run.json"]
    lock = runs.folder / "one" / "lock"
    lock.write_text("12345\n")
    lock.chmod(0o400)
    before = lock.stat()
    assert runs.load("one").status == "killed"
    assert (lock.read_text(), lock.stat().st_mtime_ns) == ("12345\n", before.st_mtime_ns)


def test_a_run_that_is_going_on_is_neither_taken_nor_removed(runs: Runs) -> None:
    runs.new(RECORD)
    with runs.locked("one"):
        with (
            pytest.raises(RunFolderError, match=f"is in progress in process {os.getpid()}"),
            runs.locked("one", patience=0.05),
        ):
            pass
        with pytest.raises(RunFolderError, match=f"is in progress in process {os.getpid()}"):
            runs.remove("one")
    assert runs.list() == [RECORD]


def test_a_look_at_a_run_does_not_keep_it_from_being_resumed(runs: Runs) -> None:
    runs.new(RECORD)
    with runs.locked("one"):
        pass
    look = os.open(runs.folder / "one" / "lock", os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)  # as whoever asks for the run's status does, for a moment
    end_of_look = threading.Timer(0.05, fcntl.flock, (look, fcntl.LOCK_UN))
    end_of_look.start()
    with runs.locked("one"):
        assert runs.load("one").status == RECORD.status
    end_of_look.join()
    os.close(look)


def test_a_lock_is_given_back_also_where_a_forked_process_shares_it(runs: Runs) -> None:
    runs.new(RECORD)
    read, write = os.pipe()
    with runs.locked("one"):
        child = os.posix_spawn("/bin/sh", ["sh", "-c", f"read x <&{read}"], os.environ)
    with runs.locked("one", patience=0.0):
        os.close(write)
    os.close(read)
    os.waitpid(child, 0)


def test_removing_leaves_nothing_behind(runs: Runs) -> None:
    runs.new(RECORD)
    (runs.folder / ".removed-zero").mkdir()  # a removal that was cut short
    assert runs.size("one") > 100
    runs.remove("one")
    assert list(runs.folder.iterdir()) == []
    with pytest.raises(RunFolderError):
        runs.remove("one")
    with pytest.raises(ParameterError):
        runs.remove("../one")


def test_a_run_that_is_not_there_is_told_with_those_that_are(runs: Runs) -> None:
    runs.new(RECORD)
    with pytest.raises(RunFolderError, match=r"there is no run 'two' in .* \(the latest: one\)"):
        runs.load("two")


def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_run_id(datetime(2026, 11, 22, 14, 25, second, tzinfo=UTC)) for second in (0, 1, 2)]
    assert ids == sorted(ids)
    assert all(run_id.startswith("20261122-14250") for run_id in ids)
    assert len({new_run_id(datetime(2026, 11, 22, 14, 25, tzinfo=UTC)) for _ in range(1000)}) >= 999


def test_changes_are_told_in_lines() -> None:
    assert changes(RECORD, ["a = a()"], {"n": 1}) == []
    assert changes(RECORD, ["b = b()"], {"m": None}) == [
        "- a = a()",
        "+ b = b()",
        "+ parameter m = None",
        "- parameter n = 1",
    ]
    twice = replace(RECORD, plan=["a = a()", "b = b()"])
    assert changes(twice, ["b = b()", "a = a()"], {"n": 1}) == ["- a = a(); b = b()", "+ b = b(); a = a()"]
