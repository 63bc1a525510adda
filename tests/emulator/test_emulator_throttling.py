"""An account with few concurrent executions: what is invoked beyond them is throttled, and tried again as AWS does."""

import threading
from dataclasses import dataclass, field

import msgspec
import pytest
from click.testing import CliRunner
from support.emulated_project import make_project
from support.emulation import FakeFunctions, FastClock, distributed, machine, task

from lokki.base.values import Json
from lokki.cli.commands.emulate import emulate_command
from lokki.emulator.functions.throttling import ThrottledFunctions
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome
from lokki.emulator.states.services import ExecutionSettings, Services

THROTTLED = "Lambda.TooManyRequestsException"


@dataclass
class Account:
    """An account in which each invocation takes five seconds of the clock, by default a hundred times as fast."""

    concurrency: int
    clock: FastClock = field(default_factory=lambda: FastClock(100.0))
    history: list[HistoryEvent] = field(default_factory=list)
    running: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, event: Json) -> Json:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.clock.wait(5.0)
        with self.lock:
            self.running -= 1
        return event

    def run(self, items: int, retry: Json, *, express: bool) -> Outcome:
        """Run a map of so many items, all of them at one time as far as the account lets them."""
        functions = ThrottledFunctions(FakeFunctions({"work": self.work}), self.concurrency)
        settings = ExecutionSettings(workers=items)
        services = Services(functions, NoObjects(), self.clock, self.history.append, settings, stop=self.clock.stop)
        inner = task(Retry=[retry])
        each = distributed({"Work": inner}, express=express, Items=list(range(items)), Label="each")
        read = read_definition(machine({"Each": each}), "throttled")
        return Execution(services, read.states, Identity("throttled", "run-1"), None).run()

    def throttled(self) -> int:
        return sum(event.type == "TaskFailed" and event.details["error"] == THROTTLED for event in self.history)


class NoObjects:
    def read(self, bucket: str, key: str) -> bytes:
        raise AssertionError("nothing is read")

    def write(self, bucket: str, key: str, content: bytes) -> None:
        raise AssertionError("nothing is written")


def patient(retries: int) -> Json:
    return {
        "ErrorEquals": [THROTTLED],
        "IntervalSeconds": 1,
        "MaxAttempts": retries,
        "MaxDelaySeconds": 10,
        "JitterStrategy": "FULL",
    }


@pytest.mark.parametrize("express", [False, True])
def test_two_hundred_items_of_five_seconds_get_through_an_account_that_runs_ten_at_once(express: bool) -> None:
    # An express child has five minutes, at full speed three seconds for 200 threads: too few where a machine is busy.
    account = Account(10, FastClock(20.0 if express else 100.0))
    assert account.run(200, patient(200), express=express) == Outcome("SUCCEEDED", list(range(200)))
    assert account.most == 10
    assert account.throttled() >= 190, "all but ten were refused at first"


def test_a_map_whose_retries_end_before_the_work_does_fails_as_on_aws() -> None:
    account = Account(10)
    outcome = account.run(200, patient(3), express=False)
    assert (outcome.status, outcome.error) == ("FAILED", "States.ExceedToleratedFailureThreshold")
    ended = {event.details["error"] for event in account.history if event.type == "ExecutionFailed" and event.child}
    assert ended == {THROTTLED}


def test_a_throttled_express_child_has_five_minutes_all_the_same() -> None:
    account = Account(1)
    outcome = account.run(100, patient(10_000), express=True)  # 500 seconds of work
    assert outcome.error == "States.ExceedToleratedFailureThreshold"
    assert any(event.type == "ExecutionTimedOut" for event in account.history)


@pytest.mark.slow
def test_the_command_throttles_and_the_flow_gets_through(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path_factory.mktemp("throttled"))
    monkeypatch.chdir(project.folder)
    options = ["--count", "12", "--account-concurrency", "1", "--quiet", "--run-id", "few"]
    result = CliRunner().invoke(emulate_command(project.flow("doubled"), "flow"), options)
    assert (result.exit_code, result.stdout) == (0, "132\n"), result.stderr
    history = (project.folder / ".lokki/runs/few/history.jsonl").read_bytes().splitlines()
    told = [msgspec.json.decode(line) for line in history]
    assert any(each["type"] == "TaskRetried" and each["error"] == THROTTLED for each in told)
