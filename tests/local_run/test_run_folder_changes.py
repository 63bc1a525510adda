"""Folders of runs that change under a run: never a wrong result, nothing written into another run, one clear line."""

import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from support.local_runs import EXECUTORS, Local, drop_outcomes, forkable, outcomes_in

from lokki import flow, step
from lokki.chain import StepNode
from lokki.engine.events import ItemsFinished, MapStarted, StepFinished, StepSkipped
from lokki.errors import DamagedError, LokkiError, RunFolderError
from lokki.local_run import journal, journal_reader
from lokki.local_run.journal import Parts
from lokki.local_run.runs import Runs
from lokki.local_run.seal import Seal
from lokki.results.flow_results import Items, local
from lokki.runner import Executor, Resume

CALLED: list[str] = []


@step
def source() -> list[object]:
    CALLED.append("source")
    return [1, (2, 2), 3, (4, 4)]


@step
def twice(item: object) -> object:
    CALLED.append(f"twice {item}")
    return (item, item) if isinstance(item, tuple) else item


@step
def gather(results: list[object]) -> list[object]:
    CALLED.append("gather")
    return results


@step
def close(results: Collection[object]) -> int:
    CALLED.append("close")
    return len(results)


@flow
def chain() -> StepNode[..., int]:
    return source().map(twice).agg(gather).next(close)


RESULT = 4
GONE = "was removed, moved or replaced during the run: start a new run."


@pytest.fixture(autouse=True)
def fresh() -> None:
    CALLED.clear()


def after(kind: type, act: Callable[[], object]) -> Callable[[object], None]:
    """Return a listener that acts once, at the first event of a kind."""
    done: list[object] = []

    def listen(event: object) -> None:
        if isinstance(event, kind) and not done:
            done.append(event)
            act()

    return listen


def remove(folder: Path) -> None:
    """Remove a folder in one step: while files are removed one by one, other threads make new ones beside them."""
    removed = folder.rename(folder.with_name("removed"))
    shutil.rmtree(removed)


def replace_by_another(folder: Path) -> None:
    """Remove a run, and let another begin that has its id."""
    shutil.rmtree(folder)
    Local(folder.parent.parent, "inline").run(chain(), run_id="run")


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("moment", [StepFinished, ItemsFinished])
def test_a_run_whose_folder_is_removed_ends_with_one_line(tmp_path: Path, executor: Executor, moment: type) -> None:
    folder = tmp_path / "runs" / "run"
    running = Local(tmp_path, executor, also=after(moment, lambda: remove(folder)))
    with pytest.raises(RunFolderError) as caught:
        running.run(chain(), run_id="run")
    assert str(caught.value) == f"the folder {folder} {GONE}"
    assert not folder.exists()


@pytest.mark.parametrize("moment", [StepFinished, ItemsFinished])
def test_a_run_writes_nothing_into_another_that_has_taken_its_place(tmp_path: Path, moment: type) -> None:
    folder = tmp_path / "runs" / "run"
    running = Local(tmp_path, "inline", also=after(moment, lambda: replace_by_another(folder)))
    with pytest.raises(RunFolderError, match=GONE):
        running.run(chain(), run_id="run")
    assert Runs(tmp_path).load("run").status == "finished"
    assert local("chain", tmp_path).run("run").result() == RESULT


def test_a_run_whose_folder_is_moved_ends_with_one_line_and_goes_on_where_it_is_put_back(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "runs" / "run", tmp_path / "elsewhere"
    with pytest.raises(RunFolderError, match=GONE):
        Local(tmp_path, "inline", also=after(StepFinished, lambda: folder.rename(elsewhere))).run(chain(), run_id="run")
    assert not folder.exists()
    elsewhere.rename(folder)
    CALLED.clear()
    assert Local(tmp_path, "inline").run(chain(), resume=Resume("run")) == RESULT
    assert "source" not in CALLED


@pytest.mark.parametrize(
    ("file", "ended", "named"),
    [
        ("outcomes.jsonl", "source", "source"),
        ("source/map_manifest.json", "source", "source"),
        ("source/items.pkl.gz", "source", "source"),
        ("source/map_results/part-0001.jsonl", "source.map", "twice"),
        ("source/map_results/part-0001.pkl.gz", "source.map", "twice"),
        ("outcomes.jsonl", "source.map", "source"),
        ("outcomes.jsonl", "gather", "gather"),
        ("gather/output.pkl.gz", "gather", "gather"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "removed", "another"])
def test_a_file_that_is_damaged_under_a_run_ends_it_with_a_line_and_resuming_gives_the_result(
    tmp_path: Path, file: str, ended: str, named: str, damage: str
) -> None:
    run = tmp_path / "runs" / "run"
    path = run / file

    def act(event: object) -> None:
        if not done and ended in outcomes_in(run):
            done.append(path)
            content = path.read_bytes()
            path.unlink()
            if damage == "cut":
                path.write_bytes(content[:-7])
            elif damage == "another":
                path.mkdir()

    done: list[Path] = []
    running = Local(tmp_path, "inline", also=act, inline_limit=0)
    try:
        assert running.run(chain(), run_id="run") == RESULT
    except DamagedError as error:
        assert str(error).endswith(f"{named}() runs again when the run is resumed.")  # noqa: PT017
        assert str(path.parent) in str(error)  # noqa: PT017
    assert done
    assert Local(tmp_path, "inline").run(chain(), resume=Resume("run")) == RESULT


def test_only_items_whose_results_are_damaged_run_again(tmp_path: Path) -> None:
    pack = tmp_path / "runs" / "run" / "source" / "map_results" / "part-0001.pkl.gz"

    def spoil(event: object) -> None:
        if isinstance(event, ItemsFinished) and event.count and len(CALLED) == 5:
            content = bytearray(pack.read_bytes())
            content[-1] ^= 1  # of the last item
            pack.write_bytes(content)

    with pytest.raises(DamagedError, match=r"part-0001\.pkl\.gz at \d+ is damaged.*twice\(\) runs again when"):
        Local(tmp_path, "inline", also=spoil).run(chain(), run_id="run")
    CALLED.clear()
    resumed = Local(tmp_path, "inline")
    assert resumed.run(chain(), resume=Resume("run")) == RESULT
    assert CALLED == ["twice (4, 4)", "gather", "close"]
    assert resumed.of(StepSkipped) == [StepSkipped("source")]


@flow
def tolerant() -> StepNode[..., list[object]]:
    return source().map(twice, tolerate=4).agg(gather)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_damage_that_a_map_could_tolerate_as_a_failure_is_none(tmp_path: Path, executor: Executor) -> None:
    pack = tmp_path / "runs" / "run" / "source" / "items.pkl.gz"

    def spoil() -> None:
        content = bytearray(pack.read_bytes())
        content[-1] ^= 1
        pack.write_bytes(content)

    with pytest.raises(DamagedError, match=r"items\.pkl\.gz at \d+ is damaged.*source\(\) runs again when"):
        Local(tmp_path, executor, also=after(StepFinished, spoil)).run(tolerant(), run_id="run")
    assert Local(tmp_path, "inline").run(tolerant(), resume=Resume("run")) == [1, ((2, 2), (2, 2)), 3, ((4, 4), (4, 4))]


# ---- another run's files


def test_a_pack_and_a_journal_of_another_run_give_no_results(tmp_path: Path) -> None:
    for root in ("mine", "other"):
        Local(tmp_path / root, "inline").run(chain(), run_id="run")
    folder = tmp_path / "mine" / "runs" / "run" / "source" / "map_results"
    theirs = tmp_path / "other" / "runs" / "run" / "source" / "map_results"
    assert journal_reader.scan(Parts(folder, Runs(tmp_path / "mine").load("run").seal), 4).finished == 4
    for name in ("part-0001.jsonl", "part-0001.pkl.gz"):
        shutil.copyfile(theirs / name, folder / name)
    assert journal_reader.scan(Parts(folder, Runs(tmp_path / "mine").load("run").seal), 4).finished == 0
    results = local("chain", tmp_path / "mine").run("run").step("twice")
    with pytest.raises(DamagedError, match=r"Run twice\(\) again, and what follows it: run --resume run --from twice$"):
        list(results)  # type: ignore[call-overload]
    assert Local(tmp_path / "mine", "inline").run(chain(), resume=Resume("run", from_step="twice")) == RESULT
    repaired = local("chain", tmp_path / "mine").run("run").step("twice")
    assert isinstance(repaired, Items)
    assert list(repaired) == [1, ((2, 2), (2, 2)), 3, ((4, 4), (4, 4))]


def test_a_pack_of_another_part_is_told_from_the_parts_own(tmp_path: Path) -> None:
    """Both have whole values of the same length in the same places."""
    parts = Parts(tmp_path, Seal("run", "2026-01-01"))
    for name, value in (("part-0001", (1, 1)), ("part-0002", (2, 2))):
        part = journal.PartWriter(parts, name, 4096)
        part.add(int(name[-1]) - 1, value)
        part.close()
    assert journal_reader.results(parts, 2, failed=0) == [(1, 1), (2, 2)]
    shutil.copyfile(tmp_path / "part-0002.pkl.gz", tmp_path / "part-0001.pkl.gz")
    with pytest.raises(LokkiError, match=r"part-0001\.pkl\.gz at 0 holds another value than it should"):
        journal_reader.results(parts, 2, failed=0)
    journal_reader.repair(parts)
    assert journal_reader.scan(parts, 2).status == bytearray([journal_reader.PENDING, journal_reader.DONE])


def test_the_record_of_another_run_is_refused(tmp_path: Path) -> None:
    for run_id in ("one", "two"):
        Local(tmp_path, "inline").run(chain(), run_id=run_id)
    shutil.copyfile(tmp_path / "runs" / "two" / "run.json", tmp_path / "runs" / "one" / "run.json")
    with pytest.raises(RunFolderError, match=r"one/run\.json cannot be read: run\.json is damaged: it was changed, or"):
        Runs(tmp_path).load("one")
    assert {record.run_id: record.status for record in Runs(tmp_path).list()} == {"one": "damaged", "two": "finished"}


# ---- runs of the first lokki, without checksums


@step
def numbers(count: int) -> list[object]:
    return [(n, n) if n % 2 == 0 else n for n in range(count)]


@step
def double(item: object) -> object:
    return item if isinstance(item, tuple) else item * 2  # type: ignore[operator]


@step
def as_tuple(results: list[object]) -> tuple[object, ...]:
    return tuple(results)


@flow
def old_flow(count: int = 4) -> StepNode[..., int]:
    return numbers(count).map(double).agg(as_tuple).next(close)


def old_run(root: Path) -> Path:
    """Copy a run that the first lokki wrote: all but its last step has ended."""
    folder = root / "runs" / "old"
    shutil.copytree(Path(__file__).parents[1] / "old_runs" / "format-1", folder)
    return folder


def test_a_run_without_checksums_is_read_and_goes_on(tmp_path: Path) -> None:
    old_run(tmp_path)
    run = local("old-flow", tmp_path).run("old")
    assert run.step("as_tuple") == ((0, 0), 2, (2, 2), 6)
    doubled = run.step("double")
    assert isinstance(doubled, Items)
    assert list(doubled) == [(0, 0), 2, (2, 2), 6]
    resumed = Local(tmp_path, "inline")
    assert resumed.run(old_flow(), resume=Resume("old")) == 4
    assert resumed.of(StepSkipped) == [StepSkipped("numbers"), StepSkipped("numbers.map"), StepSkipped("as_tuple")]
    assert Runs(tmp_path).load("old").format == 1
    assert local("old-flow", tmp_path).run("old").result() == 4


def test_a_map_block_without_checksums_goes_on_with_them(tmp_path: Path) -> None:
    folder = old_run(tmp_path)
    shutil.rmtree(folder / "as_tuple")
    (folder / "numbers" / "map_results" / "manifest.json").unlink()
    journal_path = folder / "numbers" / "map_results" / "part-0001.jsonl"
    lines = journal_path.read_bytes().splitlines(keepends=True)
    journal_path.write_bytes(b"".join(lines[:2]))
    resumed = Local(tmp_path, "inline")
    assert resumed.run(old_flow(), resume=Resume("old")) == 4
    [started] = resumed.of(MapStarted)
    assert 0 < started.finished < 4
    assert local("old-flow", tmp_path).run("old").step("as_tuple") == ((0, 0), 2, (2, 2), 6)


# ---- what others may read


def test_nobody_but_the_owner_may_read_anything_of_a_run_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(PRIVATE)
    (tmp_path / ".lokki" / "runs").mkdir(parents=True, mode=0o777)
    program = f"import os, runpy, sys; os.umask(0); sys.argv = {['flow.py', 'run', '--run-id', 'one']!r}; "
    program += "runpy.run_path('flow.py', run_name='__main__')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env=forkable(), capture_output=True)
    assert stat.S_IMODE((tmp_path / "flow.py").stat().st_mode) & 0o044
    readable = [
        f"{path.relative_to(tmp_path)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in [tmp_path / ".lokki", *(tmp_path / ".lokki").rglob("*")]
        if path.stat().st_mode & 0o077
    ]
    assert readable == []
    assert (tmp_path / ".lokki" / "runs" / "one" / "events.jsonl").exists()
    assert (tmp_path / ".lokki" / ".gitignore").read_text() == "*\n"


def python(folder: Path, command: str) -> tuple[int, str, list[str]]:
    """Run a command as it is typed, ``python flow.py …``; return its exit code, stdout and the lines of stderr."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, check=False, env=forkable(), capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_the_command_that_an_error_about_a_damaged_file_names_works(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(PRIVATE)
    assert python(tmp_path, "python flow.py run --quiet --run-id one") == (0, "2\n", [])
    gathered = tmp_path / ".lokki" / "runs" / "one" / "gather" / "output.pkl.gz"
    gathered.write_bytes(gathered.read_bytes()[:-1])
    replay = "python flow.py replay one --step count"
    code, _, [line] = python(tmp_path, replay)
    problem, _, command = line.partition(" again, and what follows it: ")
    assert (code, command) == (1, "python flow.py run --resume one --from gather")
    assert problem.startswith("error: .lokki/runs/one/gather/output.pkl.gz is damaged or no gzip: it ends too early.")
    assert python(tmp_path, f"{command} --quiet") == (0, "2\n", [])
    assert python(tmp_path, replay)[:2] == (0, "2\n")


def test_the_command_that_a_run_names_which_met_a_damaged_file_works(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(PRIVATE)
    assert python(tmp_path, "python flow.py run --quiet --run-id one")[0] == 0
    folder = tmp_path / ".lokki" / "runs" / "one"
    (folder / "gather" / "output.pkl.gz").unlink()
    drop_outcomes(folder, "count")
    code, _, [line, hint] = python(tmp_path, "python flow.py run --quiet --resume one")
    assert code == 1
    assert line.startswith("error: .lokki/runs/one/gather/output.pkl.gz is not there: no such file under ")
    assert line.endswith("gather() runs again when the run is resumed.")
    command = hint.removeprefix("fix it and resume with: ")
    assert python(tmp_path, f"{command} --quiet") == (0, "2\n", [])


PRIVATE = """
from lokki import flow, main, step

@step
def source() -> list[object]:
    print("a secret")
    return [1, (2, 2)]

@step
def same(item: object) -> object:
    return item

@step
def gather(results: list[object]) -> tuple[object, ...]:
    return tuple(results)

@step
def count(results: tuple[object, ...]) -> int:
    return len(results)

@flow
def private():
    return source().map(same).agg(gather).next(count)

if __name__ == "__main__":
    main(private)
"""


def test_a_folder_that_lokki_did_not_make_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Local(tmp_path, "inline").run(chain(), run_id="run")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700


def test_a_file_where_the_folder_of_runs_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunFolderError, match=r"the folder .*/runs/run cannot be made: .*File exists"):
        Local(tmp_path, "inline").run(chain(), run_id="run")
