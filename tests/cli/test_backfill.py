"""The command backfill: one run for each period, each once, whatever ends the command in between."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.command import Place
from support.deployed_project import new_project

from lokki.cli.periods import (
    BackfillOutcome,
    PeriodRun,
    RunState,
    carry_out,
    last_whole_period,
    period_parameter,
    period_runs,
    period_starts,
)
from lokki.errors import LokkiError, ParameterError
from lokki.graph import FlowParameter

PAGE = (Path(__file__).parents[2] / "docs" / "starts.md").read_text().partition("## Past days")[2]


def days(*numbers: int) -> list[PeriodRun]:
    return [PeriodRun(f"sales-{number}", datetime(2026, 10, number), {}) for number in numbers]


@dataclass
class FakeEngine:
    """Runs that go on for two looks; ``fails`` fail each time, and what others do ends in a state."""

    states: dict[str, RunState] = field(default_factory=dict)
    fails: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    others: dict[str, RunState] = field(default_factory=dict)
    begun: list[tuple[str, bool]] = field(default_factory=list)
    most: int = 0
    left: dict[str, int] = field(default_factory=dict)

    def state(self, run_id: str) -> RunState:
        return self.states.get(run_id, RunState.ABSENT)

    def begin(self, run: PeriodRun, *, again: bool) -> None:
        if run.run_id in self.refuses:
            raise LokkiError("it cannot be redriven.")
        self.begun.append((run.run_id, again))
        self.states[run.run_id] = RunState.RUNNING
        self.left[run.run_id] = 2
        self.most = max(self.most, sum(state is RunState.RUNNING for state in self.states.values()))

    def problem(self, run_id: str) -> str:
        return "no luck"

    def wait(self) -> None:
        for run_id in [each for each, state in self.states.items() if state is RunState.RUNNING]:
            self.left[run_id] = self.left.get(run_id, 2) - 1
            if self.left[run_id] == 0:
                ended = RunState.FAILED if run_id in self.fails else RunState.FINISHED
                self.states[run_id] = self.others.pop(run_id, ended)


def filled(engine: FakeEngine, *numbers: int, at_once: int = 2) -> tuple[BackfillOutcome, list[str]]:
    told: list[str] = []
    outcome = carry_out(
        days(*numbers), engine, at_once, lambda run, words: told.append(f"{run.run_id} {words}"), engine.wait
    )
    return outcome, told


def test_each_run_is_done_once_and_a_bounded_number_at_one_time() -> None:
    engine = FakeEngine()
    outcome, told = filled(engine, *range(1, 8), at_once=3)
    assert [run.run_id for run in outcome.finished] == [f"sales-{number}" for number in range(1, 8)]
    assert engine.begun == [(f"sales-{number}", False) for number in range(1, 8)]
    assert engine.most == 3
    assert told[:3] == ["sales-1 started", "sales-2 started", "sales-3 started"]
    again, _ = filled(engine, *range(1, 8))
    assert (len(again.skipped), len(engine.begun)) == (7, 7)


def test_what_failed_is_resumed_once_and_the_others_go_on() -> None:
    engine = FakeEngine({"sales-2": RunState.FAILED}, fails={"sales-2"})
    outcome, told = filled(engine, 1, 2, 3)
    assert engine.begun == [("sales-1", False), ("sales-2", True), ("sales-3", False)]
    assert [run.run_id for run in outcome.failed] == ["sales-2"]
    assert "sales-2 failed: no luck" in told
    refusing, told = filled(FakeEngine({"sales-2": RunState.FAILED}, refuses={"sales-2"}), 1, 2, 3)
    assert [run.run_id for run in refusing.failed] == ["sales-2"]
    assert "sales-2 failed: it cannot be redriven." in told


@pytest.mark.parametrize("ends", [RunState.FINISHED, RunState.FAILED])
def test_what_somebody_else_does_is_waited_for_and_resumed_if_it_fails(ends: RunState) -> None:
    engine = FakeEngine({"sales-1": RunState.RUNNING}, others={"sales-1": ends})
    outcome, told = filled(engine, 1)
    assert told[0] == "sales-1 is in progress; waiting for it"
    assert [run.run_id for run in outcome.finished] == ["sales-1"]
    assert engine.begun == ([("sales-1", True)] if ends is RunState.FAILED else [])


def labels(since: str, until: str, every: str) -> list[str]:
    starts = period_starts(datetime.fromisoformat(since), datetime.fromisoformat(until), every)
    return [f"{start:%m-%dT%H}" for start in starts]


def test_periods_begin_one_after_the_other() -> None:
    assert labels("2026-02-27", "2026-03-02", "day") == ["02-27T00", "02-28T00", "03-01T00", "03-02T00"]
    assert labels("2026-02-27T22:00", "2026-02-28T01:30", "hour") == ["02-27T22", "02-27T23", "02-28T00", "02-28T01"]
    assert labels("2026-02-27", "2026-03-12", "week") == ["02-27T00", "03-06T00"]
    assert labels("2026-10-31", "2027-03-01", "month") == ["10-31T00", "11-30T00", "12-31T00", "01-31T00", "02-28T00"]
    assert labels("2026-12-01", "2027-12-01", "month")[-1] == "12-01T00"
    assert labels("2026-03-02", "2026-03-01", "day") == []


def test_the_last_period_is_the_last_that_is_over() -> None:
    now = datetime(2026, 11, 28, 9, 30)
    assert last_whole_period(datetime(2026, 11, 1), now, "day") == datetime(2026, 11, 27)
    assert last_whole_period(datetime(2026, 11, 1), now, "month") < datetime(2026, 11, 1)
    assert last_whole_period(datetime(2026, 11, 28, 6), now, "hour") == datetime(2026, 11, 28, 8)
    assert last_whole_period(datetime(2027, 1, 1), now, "day") < datetime(2027, 1, 1)


DAY, AT = FlowParameter("day", date | None, None), FlowParameter("at", datetime)


def test_a_run_is_named_after_its_period_and_the_parameters_that_were_set() -> None:
    start = datetime(2026, 10, 1)
    [plain] = period_runs("sales", DAY, [start], {}, is_date=True)
    assert (plain.run_id, plain.params) == ("sales-2026-10-01", {"day": "2026-10-01"})
    [one], [other] = (period_runs("sales", DAY, [start], {"shop": shop}, is_date=True) for shop in ("a", "b"))
    assert one.run_id != other.run_id
    assert re.fullmatch("sales-2026-10-01-[0-9a-f]{8}", one.run_id)
    [hour] = period_runs("sales" * 20, AT, [start.replace(hour=6)], {}, is_date=False)
    assert (hour.run_id[-16:], len(hour.run_id), hour.params) == ("-2026-10-01T0600", 80, {"at": "2026-10-01T06:00:00"})


def test_the_parameter_is_the_only_date_or_the_chosen_one() -> None:
    limit = FlowParameter("limit", int, 5)
    assert period_parameter([limit, DAY], None) == (DAY, True)
    assert period_parameter([AT, DAY], "at") == (AT, False)
    for params, name, problem in (
        ([limit], None, "it has none, such as day: date."),
        ([DAY, AT], None, "it has day, at: choose one by --into."),
        ([limit, DAY], "limit", "--into limit: give a parameter of the flow that is a date or a datetime (day)."),
    ):
        with pytest.raises(ParameterError) as caught:
            period_parameter(params, name)
        assert str(caught.value).endswith(problem)


# --- the command ---

SALES = """
import os
import time
from datetime import date

from lokki import flow, main, step


@step
def count(day: date) -> str:
    with open(f"{day}.txt", "a") as file:
        file.write("x")
    time.sleep(0.1)
    return str(day)


@flow
def sales(day: date):
    return count(day)


if __name__ == "__main__":
    main(sales)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.write("sales.py", SALES)
    return made


def test_wrong_usage_starts_nothing(place: Place) -> None:
    for options, problem in (
        ("--since 2026-10-01 --day 2026-10-01", "'day' is what the backfill fills"),
        ("--since 2026-10-01 --every hour", "'day' is a date, which has no hours: give --every day."),
        ("--since 2999-01-01", "no period is over since then"),
    ):
        ran = place.run("sales.py", "backfill", *options.split())
        assert (ran.code, problem in ran.err) == (2, True), ran.err
    assert not (place.folder / ".lokki").exists()


@pytest.mark.slow
def test_the_page_shows_what_the_commands_say(tmp_path: Path) -> None:
    place = Place(tmp_path)
    [program], [shown] = (re.findall(rf"```{name}\n(.*?)```", PAGE, re.DOTALL) for name in ("python", "console"))
    place.write("sales.py", program)
    for command, lines in re.findall(r"\$ python (.*)\n([^$]*)", shown):
        ran = place.run(*shlex.split(command))
        assert (ran.code, ran.out, ran.err) == (0, "", lines)
    options = ("--since", "2026-10-02", "--until", "2026-10-03", "--shop", "closed")
    for begun in ("started", "resumed"):
        ran = place.run("sales.py", "backfill", *options)
        assert ran.code == 1
        assert re.search(rf"sales-2026-10-03-[0-9a-f]{{8}} {begun}\n.* failed: .*no sales on 2026-10-03", ran.err), (
            ran.err
        )


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_thirty_days_are_filled_although_the_command_is_killed_twice(place: Place) -> None:
    """First the command alone is killed, whose runs go on; then with all of its runs."""
    command = ("sales.py", "backfill", "--since", "2026-09-01", "--until", "2026-09-30", "--at-once", "4")
    killed = 0
    for runs_too in (False, True):
        process = place.start(*command)
        assert process.stderr is not None
        finished = 0
        while finished < 5:
            finished += process.stderr.readline().endswith(" finished\n")
        runs = children(process.pid) if runs_too else []
        for pid in (process.pid, *runs):
            os.kill(pid, signal.SIGKILL)
        killed += len(runs)
        process.wait()
        process.stderr.close()
        assert process.stdout is not None
        process.stdout.close()
    ran = place.run(*command)
    assert ran.code == 0, ran.err
    assert re.search(r"(\d+) finished, (\d+) done before\n$", ran.err), ran.err
    tries = [len((place.folder / f"2026-09-{day:02}.txt").read_text()) for day in range(1, 31)]
    assert 30 <= sum(tries) <= 30 + killed
    assert place.run(*command).err.endswith("30 done before\n")


@pytest.mark.slow
def test_ctrl_c_interrupts_its_runs_and_the_same_command_goes_on(place: Place) -> None:
    place.write("sales.py", SALES.replace("time.sleep(0.1)", "time.sleep(0.1 if os.path.exists('fast') else 60)"))
    command = ("sales.py", "backfill", "--since", "2026-09-01", "--until", "2026-09-02", "--at-once", "2")
    process = place.start(*command)
    deadline = time.monotonic() + 30
    while not (place.folder / "2026-09-02.txt").exists() or not (place.folder / "2026-09-01.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.endswith("interrupted; the same command goes on\n")) == (130, True), err
    place.write("fast", "")
    ran = place.run(*command)
    assert (ran.code, ran.err.count("resumed")) == (0, 2), ran.err


@pytest.mark.slow
def test_runs_on_aws_are_started_redriven_and_skipped(tmp_path: Path, account: LoopbackAws) -> None:
    flow = SALES.replace("sales", "NAME").replace(
        'with open(f"{day}.txt", "a") as file:', "if day == date(2026, 9, 2):"
    )
    flow = flow.replace('file.write("x")', f'assert os.path.exists("{tmp_path}/mended")')
    project = new_project(tmp_path, account, flow)
    assert project.run("deploy", "--yes").code == 0
    command = ("backfill", "--since", "2026-09-01", "--until", "2026-09-03", "--remote", "--at-once", "3")
    ran = project.run(*command)
    assert (ran.code, ran.err.count(" started\n"), ran.err.count(" finished\n")) == (1, 3, 2), ran.err
    assert f"{project.stack}-2026-09-02 failed: AssertionError" in ran.err
    (tmp_path / "mended").touch()
    ran = project.run(*command)
    assert (ran.code, ran.err.count(" is done\n"), ran.err.count(" resumed\n")) == (0, 2, 1), ran.err
    assert ran.err.endswith("1 finished, 2 done before\n")
