"""Going on with runs that failed, were interrupted or killed: nothing that is on disk is computed again."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import steps
from support.local_runs import EXECUTORS, Local, assert_clean, start, wait_until

from lokki import StepNode, flow, step
from lokki.cli.run_details import run_details
from lokki.engine.events import (
    CodeChanged,
    Event,
    ItemFailed,
    ItemsFinished,
    MapStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    StepSkipped,
    StepStarted,
)
from lokki.errors import ParameterError, RunError, RunFolderError
from lokki.local_run import journal
from lokki.local_run.folder import OUTCOMES
from lokki.local_run.journal import Parts
from lokki.local_run.journal_reader import DONE, StepResults
from lokki.local_run.threads import STOP_SECONDS
from lokki.results import flow_results as results
from lokki.results.items import Items
from lokki.runner import Executor, Resume


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def fail_at(log: Path, *numbers: int) -> None:
    for old in log.parent.glob(f"{log.name}.fail.*"):
        old.unlink()
    for number in numbers:
        Path(f"{log}.fail.{number}").touch()


def fresh(log: Path) -> None:
    log.write_text("")


EXPECTED = sum((number * 10 + 1) * 2 for number in range(6))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_only_failed_items_run_again_from_the_step_that_failed(tmp_path: Path, executor: Executor) -> None:
    local, log = Local(tmp_path, executor), tmp_path / "log"
    fail_at(log, 50)
    with pytest.raises(RunError, match="item 5 failed in the map over numbers"):
        local.run(steps.chained(), {"log": str(log)})
    before = steps.noted(log)
    fresh(log)
    fail_at(log)
    assert local.resume(steps.chained()) == EXPECTED
    assert set(before) & set(steps.noted(log)) == {"second 50"}
    assert local.of(StepSkipped) == [StepSkipped("numbers")]
    [started] = local.of(MapStarted)
    finished = sum(line.startswith("third") for line in before)
    assert (started.items, started.finished) == (6, finished)


def test_items_that_were_not_reached_run_on_resume(local: Local, tmp_path: Path) -> None:
    local.workers, log = 1, tmp_path / "log"
    fail_at(log, 10)
    with pytest.raises(RunError):
        local.run(steps.chained(), {"log": str(log)})
    fresh(log)
    fail_at(log)
    assert local.resume(steps.chained()) == EXPECTED
    noted = steps.noted(log)
    assert [line for line in noted if line.split()[1] in ("0", "1", "10", "11", "21")] == ["second 10", "third 11"]
    assert len(noted) == len(set(noted))


def test_a_run_can_fail_and_go_on_many_times(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for failing in ((0, 10), (20, 30), (30,), ()):
        fail_at(log, *failing)
        try:
            if not (tmp_path / "runs").exists():
                result = local.run(steps.chained(), {"log": str(log)})
            else:
                result = local.resume(steps.chained())
        except RunError:
            continue
    assert result == EXPECTED
    assert sorted(line for line in steps.noted(log) if line.startswith("first")) == [f"first {n}" for n in range(6)]


def test_tolerated_failures_are_not_run_again_when_their_map_is_finished(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @step
    def broken(results: list[int]) -> list[int]:
        if not Path(f"{log}.mended").exists():
            raise ValueError("broken")
        return results

    @flow
    def tolerant():
        return steps.numbers(4).map(steps.second(log=str(log)), tolerate=1).agg(broken)

    fail_at(log, 2)
    with pytest.raises(RunError, match=r"broken\(\) raised ValueError"):
        local.run(tolerant())
    fail_at(log)
    Path(f"{log}.mended").touch()
    assert local.resume(tolerant()) == [1, 2, 4]
    assert len(steps.noted(log)) == 4
    assert local.of(StepSkipped) == [StepSkipped("numbers"), StepSkipped("numbers.map")]


def test_a_tolerated_failure_runs_again_while_its_map_is_not_finished(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @flow
    def tolerant():
        return steps.numbers(6).map(steps.second(log=str(log)), tolerate=1).agg(steps.collect)

    fail_at(log, 2, 3)
    with pytest.raises(RunError, match="2 of 6 items failed"):
        local.run(tolerant())
    fail_at(log, 2)
    assert local.resume(tolerant()) == [1, 2, 4, 5, 6]
    assert [event.item for event in local.of(ItemFailed)] == [(2,)]


def test_a_finished_run_gives_its_result_without_running_anything(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = local.run(steps.chained(), {"log": str(log)}, run_id="done")
    fresh(log)
    for executor in EXECUTORS:
        local.executor = executor
        assert local.run(steps.chained(), resume=Resume("done")) == result
        assert local.of(StepStarted) == local.of(MapStarted) == []
        assert [type(event) for event in local.events] == [RunStarted, *[StepSkipped] * 3, RunFinished]
    assert steps.noted(log) == []


def test_a_run_goes_on_with_other_numbers_of_workers_and_other_executors(tmp_path: Path) -> None:
    local, log = Local(tmp_path, workers=3), tmp_path / "log"
    for executor, failing in (("threads", (0, 10, 20)), ("inline", (0, 10)), ("processes", (0,)), ("threads", ())):
        local.executor = executor  # type: ignore[assignment]
        fail_at(log, *failing)
        try:
            first = not (tmp_path / "runs").exists()
            result = local.run(steps.chained(), {"log": str(log)}) if first else local.resume(steps.chained())
        except RunError:
            assert failing
    assert result == EXPECTED


# --- what must not have changed ---


def failed_run(local: Local, graph: object, params: dict[str, object]) -> None:
    with pytest.raises(RunError):
        local.run(graph, params, run_id="one")  # type: ignore[arg-type]


def test_changed_parameters_are_refused_with_the_difference(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fail_at(log, 10)
    failed_run(local, steps.chained(), {"log": str(log)})
    with pytest.raises(RunFolderError) as caught:
        local.resume(steps.chained(), {"count": 7})
    assert str(caught.value) == (
        "the run 'one' was started with another flow or other parameters:\n"
        "  - parameter count = 6\n  + parameter count = 7\n"
        "Start a new run, or keep its results all the same with --force."
    )
    fail_at(log)
    assert local.resume(steps.chained(), {"count": 6}) == EXPECTED  # the same is no change


def test_a_changed_flow_is_refused_with_the_difference_unless_forced(local: Local, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    fail_at(tmp_path / "log", 1)

    def draw(*, longer: bool):
        @flow
        def changing():
            block = steps.numbers(3).map(steps.double).agg(steps.total)
            return (block.next(steps.add(amount=5)) if longer else block).next(steps.second(log=log))

        return changing()

    fail_at(tmp_path / "log", 6)
    failed_run(local, draw(longer=False), {})
    with pytest.raises(RunFolderError) as caught:
        local.resume(draw(longer=True))
    assert "\n  + add = add(amount=5)\n" in str(caught.value)
    assert local.resume(draw(longer=True), force=True) == 12
    assert local.of(StepSkipped) == [StepSkipped("numbers"), StepSkipped("numbers.map"), StepSkipped("total")]


def test_a_forced_resume_keeps_nothing_that_hangs_on_what_runs_anew(local: Local, tmp_path: Path) -> None:
    """A step put before finished ones: they run again, on what it returns."""
    log = str(tmp_path / "log")

    def draw(*, longer: bool):
        @flow
        def changing():
            numbers = steps.numbers(3)
            head = numbers.next(doubled_all) if longer else numbers
            return head.map(steps.add(amount=1)).agg(steps.total).next(steps.second(log=log))

        return changing()

    fail_at(tmp_path / "log", 6)
    failed_run(local, draw(longer=False), {})
    assert local.resume(draw(longer=True), force=True) == sum([1, 3, 5]) + 1


@step
def doubled_all(numbers: list[int]) -> list[int]:
    return [number * 2 for number in numbers]


def test_a_removed_and_an_added_parameter_are_shown(local: Local, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    fail_at(tmp_path / "log", 1)

    @flow
    def changing(number: int = 1):
        return steps.first(number, log=log).next(steps.second(log=log))

    before = changing()

    def redraw():
        @flow
        def changing(other: int = 1):
            return steps.first(other, log=log).next(steps.second(log=log))

        return changing()

    fail_at(tmp_path / "log", 10)
    failed_run(local, before, {})
    with pytest.raises(RunFolderError) as caught:
        local.resume(redraw())
    assert "\n  - parameter number = 1\n  + parameter other = 1\n" in str(caught.value)


def test_another_flows_run_is_refused(local: Local) -> None:
    local.run(steps.doubled(), run_id="one")
    with pytest.raises(RunFolderError, match="the run 'one' is one of doubled, not of chained"):
        local.run(steps.chained(), {"log": ""}, resume=Resume("one"))


def test_there_must_be_a_run_to_go_on_with(local: Local) -> None:
    with pytest.raises(RunFolderError, match="is left to resume: there is none"):
        local.resume(steps.doubled())
    local.run(steps.doubled(), run_id="one")
    with pytest.raises(RunFolderError, match="the latest, one, is finished"):
        local.resume(steps.doubled())
    with pytest.raises(RunFolderError, match="there is no run 'two'"):
        local.run(steps.doubled(), resume=Resume("two"))
    with pytest.raises(ParameterError, match="cannot be a run id"):
        local.run(steps.doubled(), resume=Resume("../one"))
    with pytest.raises(RunFolderError, match="there is a run 'one' already"):
        local.run(steps.doubled(), run_id="one")


def test_changed_code_of_a_step_whose_results_are_kept_is_told(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def draw(version: int):
        if version == 1:

            @step
            def grow(number: int) -> int:
                return number + 1
        else:

            @step(timeout=60)
            def grow(number: int) -> int:
                # a comment, a decorator and the layout do not count
                return (number + 1) if version == 2 else number + 2

        @flow
        def growing():
            return steps.numbers(3).map(grow).agg(steps.total).next(steps.second(log=str(log)))

        return growing()

    fail_at(log, 6)
    failed_run(local, draw(1), {})
    for _ in range(2):
        with pytest.raises(RunError):
            local.resume(draw(3))
        assert local.of(CodeChanged) == [CodeChanged("grow")]  # its map block is finished
    with pytest.raises(RunError):
        local.resume(draw(1))
    assert local.of(CodeChanged) == []
    fail_at(log)
    assert local.resume(draw(3)) == 7


def test_comments_and_options_of_a_step_are_not_its_code(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def draw(*, later: bool):
        if later:

            @step(timeout=60)
            def grow(number: int) -> int:
                # the same
                return number   +   1  # fmt: skip
        else:

            @step
            def grow(number: int) -> int:
                return number + 1

        @flow
        def growing():
            return steps.numbers(3).map(grow).agg(steps.total).next(steps.second(log=str(log)))

        return growing()

    fail_at(log, 6)
    failed_run(local, draw(later=False), {})
    fail_at(log)
    assert local.resume(draw(later=True)) == 7
    assert local.of(CodeChanged) == []


def test_a_run_that_is_going_on_is_refused(tmp_path: Path) -> None:
    program = start(tmp_path, "slow", "threads", {"log": str(tmp_path / "log"), "count": 400})
    try:
        wait_until(lambda: steps.noted(tmp_path / "log"))
        local = Local(tmp_path)
        with pytest.raises(
            RunFolderError, match=r"the run 'run' is in progress in process \d+\. Wait for it, or stop it: kill \d+"
        ):
            local.run(steps.slow(), resume=Resume("run"))
    finally:
        program.close()


# --- interrupted and killed ---


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_ends_a_run_that_goes_on_later(tmp_path: Path, executor: str) -> None:
    log = tmp_path / "log"
    program = start(tmp_path, "slow", executor, {"log": str(log), "count": 40})
    try:
        wait_until(lambda: len(steps.noted(log)) > 10)
        program.kill(signal.SIGINT, group=True)
        assert program.wait(8) == 130
        assert program.errors() == ""
        assert program.members() == []
        [record] = Local(tmp_path).of(RunStarted) or [runs(tmp_path).load("run")]
        assert record.status == "interrupted"
        began = len(set(steps.noted(log)))
        program = start(tmp_path, "slow", executor, {}, "resume")
        assert program.wait() == 0
        assert program.result() == sum(number * 20 for number in range(40))
    finally:
        program.close()
    first = [line for line in steps.noted(log) if line.startswith("first")]
    assert len(set(first)) == 40
    assert began > 10
    again = len(first) - 40
    assert again <= (1 if executor == "inline" else 0)  # the item at work when inline is interrupted
    assert_clean(tmp_path)


def test_ctrl_c_while_a_worker_is_owed_its_next_items_does_not_wait_for_it(tmp_path: Path) -> None:
    """It comes as what the worker has finished is told, before it is given more to do."""
    log = tmp_path / "log"
    told: list[Event] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, ItemsFinished):
            told.append(event)
            if len(told) == 1:  # a second one would end the run at once
                raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Local(tmp_path, "processes", also=interrupt).run(steps.slow(), {"log": str(log), "count": 40}, run_id="run")
    assert time.monotonic() - began < STOP_SECONDS  # after which workers that do not answer are killed
    result = Local(tmp_path, "processes").resume(steps.slow(), {"log": str(log), "count": 40})
    assert result == sum(number * 20 for number in range(40))
    firsts = [line for line in steps.noted(log) if line.startswith("first")]
    assert len(firsts) == len(set(firsts)) == 40


def runs(root: Path):
    from lokki.local_run.runs import Runs

    return Runs(root)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_second_ctrl_c_ends_a_run_with_a_hung_step_at_once(tmp_path: Path, executor: str) -> None:
    program = start(tmp_path, "hung", executor, {})
    try:
        wait_until(lambda: list(tmp_path.glob("runs/run/numbers/map_results/part-*.jsonl")))
        time.sleep(0.3)
        program.kill(signal.SIGINT, group=True)
        time.sleep(0.5)
        assert program.process.poll() is None
        program.kill(signal.SIGINT, group=True)
        assert program.wait(5) == 130
        assert program.errors() == ""
        assert program.members() == []
    finally:
        program.close()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, executor: str) -> None:
    log = tmp_path / "log"
    program = start(tmp_path, "slow", executor, {"log": str(log), "count": 40})
    try:
        wait_until(lambda: len(steps.noted(log)) > 20)
        program.kill(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
        wait_until(lambda: not program.members())  # the workers end by themselves
        assert runs(tmp_path).load("run").status == "killed"
        program = start(tmp_path, "slow", executor, {}, "resume")
        assert program.wait() == 0
        assert program.result() == sum(number * 20 for number in range(40))
    finally:
        program.close()
    again = len([line for line in steps.noted(log) if line.startswith("first")]) - 40
    assert again <= 2 * 2  # two workers, each at one item, after one that took a little less than 50 ms
    assert_clean(tmp_path)


# --- power cuts ---


def crippled(folder: Path, chance: random.Random) -> None:
    """Do to the files of a map block what a power cut may: lose or blank anything after the last sync mark."""
    for path in folder.glob("part-*.jsonl"):
        whole = path.read_bytes()
        kept = whole.rfind(b" []\n") + len(b" []\n") if b" []\n" in whole else 0
        pack = path.with_suffix(".pkl.gz")
        synced = 0
        for line in whole[:kept].splitlines():
            for record in journal._DECODER.decode(line[9:]):
                if not isinstance(record.range, journal.msgspec.UnsetType):
                    synced = max(synced, sum(record.range))
        for file, least in ((path, kept), (pack, synced)):
            size = file.stat().st_size
            cut = chance.randint(least, size)
            if chance.random() < 0.5:
                os.truncate(file, cut)
            else:
                with file.open("r+b") as blanked:
                    blanked.seek(cut)
                    blanked.write(bytes(chance.randint(0, size - cut)))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_power_cut_loses_no_more_than_what_was_not_forced_to_disk(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = tmp_path / "log"
    params = {"log": str(log), "count": 300, "seconds": 0.001}
    program = start(tmp_path, "storm", chance.choice(["threads", "processes"]), params)
    try:
        wait_until(lambda: len(steps.noted(log)) > chance.randint(50, 300))
        program.kill(signal.SIGKILL, group=True)
        program.wait()
    finally:
        program.close()
    folder = tmp_path / "runs" / "run" / "numbers" / "map_results"
    for _ in range(3):  # and again, while it goes on
        if runs(tmp_path).load("run").status != "finished":
            crippled(folder, chance)
            local = Local(tmp_path, also=interrupting(chance.randint(4, 9)))
            with suppress(KeyboardInterrupt):
                local.resume(steps.storm())
    assert Local(tmp_path).run(steps.storm(), resume=Resume("run")) == list(range(300))
    assert stored_numbers(tmp_path, "storm_c") == list(range(300))
    assert_clean(tmp_path)


@step
def first() -> list[str]:
    return ["first"]


@step
def more(names: list[str]) -> list[str]:
    return [*names, f"more {len(names)}"]


@flow
def long_chain() -> StepNode[..., list[str]]:
    return first().next(more).next(more).next(more).next(more).next(more)


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_that_takes_outcomes_costs_the_steps_from_the_first_one_on(tmp_path: Path, seed: int) -> None:
    """The disk need not have outcomes of the last second, nor take them in the order in which they were written."""
    chance = random.Random(seed)
    local = Local(tmp_path, also=interrupting(11))
    with pytest.raises(KeyboardInterrupt):
        local.run(long_chain(), run_id="run")
    ended = [event.id for event in local.of(StepFinished)]
    assert len(ended) == 5
    lost = sorted(chance.sample(ended, 2), key=ended.index)
    journal = tmp_path / "runs" / "run" / OUTCOMES
    lines = journal.read_bytes().splitlines(keepends=True)
    first, second = (ended.index(name) for name in lost)
    lines[first] = chance.choice([b"", bytes(len(lines[first])), lines[first][:-9]])
    lines[second] = lines[second][: chance.randrange(len(lines[second]))]
    journal.write_bytes(b"".join(lines))
    local = Local(tmp_path)
    assert local.resume(long_chain()) == ["first", *(f"more {number}" for number in range(1, 6))]
    assert [event.id for event in local.of(StepSkipped)] == ended[: ended.index(lost[0])]
    assert_clean(tmp_path)


def stored_numbers(root: Path, step_id: str) -> list[object]:
    values = results.local("storm", root).run("run").step(step_id)
    assert isinstance(values, Items)
    return [value["n"] for value in values]  # type: ignore[index]


def cut_pack(folder: Path) -> None:
    """Lose the end of each pack and the mark that it was forced to disk."""
    for path in folder.glob("part-*.jsonl"):
        path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b" []" not in line))
        pack = path.with_suffix(".pkl.gz")
        os.truncate(pack, pack.stat().st_size * 2 // 3)


def spoil_line(folder: Path) -> None:
    """Zero some bytes of the first line of each journal, which was forced to disk."""
    for path in folder.glob("part-*.jsonl"):
        content = path.read_bytes()
        path.write_bytes(content[:20] + bytes(4) + content[24:])


def tear_line(folder: Path) -> None:
    """Write half a line before the last mark, as on a disk that is full for a while."""
    for path in folder.glob("part-*.jsonl"):
        *lines, mark = path.read_bytes().splitlines(True)
        path.write_bytes(b"".join([*lines[:-1], lines[-1][:-7], b"\n", mark]))


@pytest.mark.parametrize("damage", [cut_pack, spoil_line, tear_line])
def test_what_a_resumed_run_computed_again_is_what_is_read_of_it_later(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    local = Local(tmp_path, "threads", also=interrupting(9))
    with pytest.raises(KeyboardInterrupt):
        local.run(steps.storm(), {"log": str(tmp_path / "log"), "count": 60, "seconds": 0.001}, run_id="run")
    folder = tmp_path / "runs" / "run" / "numbers" / "map_results"
    before = StepResults(Parts(folder, runs(tmp_path).load("run").seal), 60)
    damage(folder)
    after = StepResults(Parts(folder, runs(tmp_path).load("run").seal), 60)
    assert 0 <= after.status.count(DONE) < before.status.count(DONE) < 60
    assert Local(tmp_path).resume(steps.storm()) == list(range(60))
    assert stored_numbers(tmp_path, "storm_c") == list(range(60))
    assert list(run_details(runs(tmp_path), runs(tmp_path).load("run")))[-4:] == [
        "  storm_a: 60 items",
        "  storm_b: 60 items",
        "  storm_c: 60 items",
        "  storm_total: done",
    ]


def interrupting(after: int):
    left = [after]

    def listen(event: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return listen


# --- full disks ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, executor: Executor
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_200_000))
    local, log = Local(small_disk, executor), tmp_path / "log"
    params = {"log": str(log), "count": 150, "seconds": 0.0001}
    with pytest.raises(RunError, match="No space left on device"):
        local.run(spacious(), params)
    ballast.unlink()
    before = len([line for line in steps.noted(log) if line.startswith("c")])
    fresh(log)
    assert local.resume(spacious()) == list(range(150))
    assert before > 20
    assert local.of(MapStarted)[0].finished > 10
    assert_clean(small_disk)


@step
def fatten(value: dict[str, object], log: str) -> dict[str, object]:
    return {**value, "fat": random.Random(1).randbytes(9000)}


@step
def numbers_of(results: list[dict[str, object]]) -> list[int]:
    return [int(str(result["n"])) for result in results]


@flow
def spacious(log: str, count: int, seconds: float):
    block = steps.numbers(count).map(steps.storm_a(log=log, seconds=seconds))
    block = block.next(steps.storm_b(log=log, seconds=seconds)).next(steps.storm_c(log=log, seconds=seconds))
    return block.next(fatten(log=log)).agg(numbers_of)


def test_a_disk_without_room_for_the_run_is_said(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(2 * 2**20 - 4096 * 3))
    with pytest.raises((RunError, RunFolderError), match=r"No space left|cannot be"):
        Local(small_disk).run(steps.doubled(), {"count": 50_000})


# ---- running again what has its results


def pipeline(log: Path, tolerate: int = 0):
    """Draw numbers → map(second → third) → collect → collect_2."""

    @flow
    def made():
        block = steps.numbers(4).map(steps.second(log=str(log)), tolerate=tolerate).next(steps.third(log=str(log)))
        return block.agg(steps.collect).next(steps.collect)

    return made()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("name", "skipped", "ran"),
    [
        ("numbers", [], 18),
        ("first", ["numbers"], 18),
        ("third", ["numbers"], 18),
        ("total", ["numbers", "numbers.map"], 0),
    ],
)
def test_a_step_and_what_follows_it_run_again(
    tmp_path: Path, executor: Executor, name: str, skipped: list[str], ran: int
) -> None:
    local, log = Local(tmp_path, executor), tmp_path / "log"
    assert local.run(steps.chained(), {"log": str(log)}, run_id="r") == EXPECTED
    fresh(log)
    assert local.run(steps.chained(), resume=Resume("r", from_step=name)) == EXPECTED
    assert local.of(StepSkipped) == [StepSkipped(op) for op in skipped]
    assert len(steps.noted(log)) == ran


def test_a_step_that_stands_twice_is_found_by_the_ids_of_its_calls(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = local.run(pipeline(log), run_id="r")
    assert local.run(pipeline(log), resume=Resume("r", from_step="collect_2")) == result
    assert local.of(StepSkipped)[-1] == StepSkipped("collect")
    assert local.run(pipeline(log), resume=Resume("r", from_step="collect")) == result
    assert local.of(StepSkipped)[-1] == StepSkipped("numbers.map")


def test_running_again_from_a_step_takes_the_latest_run_also_a_finished_one(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    local.run(pipeline(log), run_id="first")
    local.run(pipeline(log), run_id="second")
    local.run(pipeline(log), resume=Resume(from_step="collect"))
    assert local.of(RunStarted)[0].run_id == "second"


def test_an_unknown_step_is_said_and_removes_nothing(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = local.run(pipeline(log), run_id="r")
    with pytest.raises(RunFolderError, match=r"made has no step 'colect'\. Did you mean 'collect'\?"):
        local.run(pipeline(log), resume=Resume("r", from_step="colect"))
    with pytest.raises(RunFolderError, match=r"There are: numbers, second, third, collect, collect_2\."):
        local.run(pipeline(log), resume=Resume("r", from_step="zzz"))
    fresh(log)
    assert local.run(pipeline(log), resume=Resume("r")) == result
    assert steps.noted(log) == []


def test_running_again_goes_on_after_a_failure_on_the_way(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = local.run(pipeline(log), run_id="r")
    fail_at(log, 2)
    with pytest.raises(RunError, match="item 2 failed"):
        local.run(pipeline(log), resume=Resume("r", from_step="second"))
    fail_at(log)
    fresh(log)
    assert local.resume(pipeline(log)) == result  # the latest that is not finished
    assert "second 2" in steps.noted(log)


def test_items_whose_failures_were_tolerated_run_again_and_no_others(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fail_at(log, 1, 3)
    graph = pipeline(log, tolerate=2)
    assert len(local.run(graph, run_id="r")) == 2  # type: ignore[arg-type]
    assert local_record(local, "r")["failed"] == 2
    fail_at(log, 3)
    fresh(log)
    assert len(local.run(graph, resume=Resume("r", retry_failed=True))) == 3  # type: ignore[arg-type]
    assert {line for line in steps.noted(log) if line.startswith("second")} == {"second 1", "second 3"}
    assert local_record(local, "r")["failed"] == 1
    fail_at(log)
    assert len(local.run(graph, resume=Resume(retry_failed=True))) == 4  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="no item of the run 'r' failed"):
        local.run(graph, resume=Resume("r", retry_failed=True))
    assert local_record(local, "r")["status"] == "finished"


def local_record(local: Local, run_id: str) -> dict[str, object]:
    record = json.loads((local.root / "runs" / run_id / "run.json").read_text())
    assert isinstance(record, dict)
    return record


def test_which_code_made_which_item_is_kept_with_the_run(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def draw(version: int):
        if version == 1:

            @step
            def grow(number: int, log: str) -> int:
                return int(steps.second.fn(number, log))
        else:

            @step
            def grow(number: int, log: str) -> int:
                return int(steps.second.fn(number, log)) + 0

        @flow
        def growing():
            return steps.numbers(4).map(grow(log=str(log))).agg(steps.total)

        return growing()

    fail_at(log, 2)
    local.workers = 1
    with pytest.raises(RunError):
        local.run(draw(1), run_id="r")
    fail_at(log)
    assert local.resume(draw(2)) == 10
    assert local.of(CodeChanged) == [CodeChanged("grow", 2)]
    [change] = local_record(local, "r")["changed_code"]["numbers"]  # type: ignore[index]
    parts = Parts(tmp_path / "runs" / "r" / "numbers" / "map_results", runs(tmp_path).load("r").seal)
    assert [part >= change["first_part"] for part in StepResults(parts, 4).part_numbers()] == [False, False, True, True]
    local.run(draw(2), resume=Resume("r", from_step="grow"))
    assert local_record(local, "r")["changed_code"] == {}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_that_keeps_going_runs_all_items_and_fails_with_all_failures(tmp_path: Path, executor: Executor) -> None:
    local, log = Local(tmp_path, executor, workers=1, keep_going=True), tmp_path / "log"
    fail_at(log, 0, 20, 50)
    with pytest.raises(RunError, match=r"3 of 6 items failed in the map over numbers\(\) \(tolerated: none\)"):
        local.run(steps.chained(), {"log": str(log)})
    assert [event.item for event in local.of(ItemFailed)] == [(0,), (2,), (5,)]
    fail_at(log)
    assert local.resume(steps.chained()) == EXPECTED
