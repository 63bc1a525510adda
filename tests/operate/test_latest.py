"""A run that failed goes on with the newest deployment: what is taken over, what runs again, and what is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aws.deployed import Deployed as InProcess
from aws.deployed import Handlers
from aws.fake_account import FakeAws, FakeLogs, FakeStates, deployed
from aws.loopback_aws import LoopbackAws
from support.command import RUN_ID, Ran
from support.deployed_project import new_project
from support.golden import compare
from support.random_flows import drawn, evaluate

from lokki import flow, step
from lokki.cli.account import Account
from lokki.cli.commands.invoke import InvokeOptions, go_on
from lokki.cli.last_words import OutputOptions
from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws
from lokki.emulator.s3.client import S3Server
from lokki.emulator.states.services import Caller, FunctionReply
from lokki.errors import AwsError, ParameterError
from lokki.graph import FlowGraph

pytestmark = pytest.mark.slow

CALLS: Counter[str] = Counter()
"""How often each step was called, with its argument."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-latest") as server:
        yield server


@dataclass
class Operated:
    """A flow that is deployed again and again, under one name, and its runs."""

    s3: S3Server
    states: FakeStates = field(init=False)
    account: Account = field(init=False)
    starts: list[str] = field(default_factory=list)

    def deploy(self, graph: FlowGraph) -> None:
        in_process = InProcess(graph, LokkiConfig(artifact_bucket=self.s3.bucket, inline_limit=16), self.s3)
        if self.starts:
            self.states.flow = in_process
        else:
            self.states = FakeStates(in_process)
        self.starts.append(graph.name)
        aws = FakeAws(self.states, FakeLogs(), self.s3.variables("caller"))
        self.account = Account(graph, cast("Aws", aws), deployed(in_process, {}), "python birds.py", "", "")

    def fail(self, run_id: str, **params: Any) -> None:
        CALLS.clear()
        assert self.account.runs.start(run_id, params)
        assert self.states.infos[run_id]["status"] == "FAILED"
        CALLS.clear()

    def go_on(self, run_id: str) -> str:
        """Go on with a run and return the id of the new one."""
        CALLS.clear()
        assert go_on(self.account, run_id, InvokeOptions(), OutputOptions()) == 0
        return list(self.states.infos)[-1]


BROKEN: set[str] = set()
"""The steps that fail; mending one is to take it out."""


def called(name: str, value: object = "") -> None:
    CALLS[f"{name} {value}".strip()] += 1
    if name in BROKEN or f"{name} {value}" in BROKEN:
        raise ValueError(f"{name} broke at {value}")


@step
def load(count: int) -> list[int]:
    called("load")
    return list(range(count))


@step
def work(number: int) -> str:
    called("work", number)
    return f"{number:>20}"  # too long for an event


@step
def again(text: str) -> str:
    called("again", int(text))
    return text


@step
def join(texts: list[str]) -> str:
    called("join")
    return ",".join(text.strip() for text in texts)


@step
def publish(text: str, title: str) -> str:
    called("publish")
    return f"{title}: {text}"


@flow
def birds(count: int = 10, title: str = "birds"):
    return load(count).map(work, concurrency=2).agg(join).next(publish(title=title))


def test_items_and_steps_that_succeeded_are_taken_over(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(s3)
    operated.deploy(birds())
    BROKEN.update({"work 7"})
    operated.fail("items")
    BROKEN.clear()
    new = operated.go_on("items")
    out, err = capsys.readouterr()
    assert out == "birds: 0,1,2,3,4,5,6,7,8,9\n"
    lines = err.splitlines()
    done = int(lines[2].split()[1])
    assert lines[:4] == [
        f"the run {new} goes on from items:", "  load: kept", f"  work: {done} of 10 items run again", "  join: runs",
    ]  # fmt: skip
    assert CALLS.pop("join") == CALLS.pop("publish") == 1
    assert (len(CALLS), set(CALLS.values()), "work 7" in CALLS, "work 0" in CALLS) == (done, {1}, True, False)
    run = operated.account.results.run(new)
    assert [int(text) for text in run.step("work")] == list(range(10))
    assert list(run.step("load")) == list(range(10))


def test_a_map_that_ended_is_not_begun_again(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(s3)
    operated.deploy(birds())
    BROKEN.update({"publish"})
    operated.fail("later", count=4, title="four")
    BROKEN.update({"join"})
    BROKEN.remove("publish")
    new = operated.go_on("later")
    BROKEN.clear()
    assert capsys.readouterr().out == "four: 0,1,2,3\n"
    assert CALLS == {"publish": 1}
    assert [int(text) for text in operated.account.results.run(new).step("work")] == [0, 1, 2, 3]


def test_a_run_that_took_over_fails_and_goes_on_in_turn(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    operated = Operated(s3)
    operated.deploy(birds())
    BROKEN.update({"work 1", "work 3"})
    operated.fail("first", count=5)
    BROKEN.remove("work 1")
    go_on(operated.account, "first", InvokeOptions(), OutputOptions())
    second = list(operated.states.infos)[-1]
    BROKEN.clear()
    BROKEN.update({"publish"})
    go_on(operated.account, second, InvokeOptions(), OutputOptions())
    third = list(operated.states.infos)[-1]
    BROKEN.clear()
    capsys.readouterr()
    last = operated.go_on(third)
    assert capsys.readouterr().out == "birds: 0,1,2,3,4\n"
    assert CALLS == {"publish": 1}
    assert [int(text) for text in operated.account.results.run(last).step("work")] == [0, 1, 2, 3, 4]


def drawn_as(version: str) -> FlowGraph:
    """Return a flow as it is deployed first, and with a change of each kind."""
    title = "new" if version == "default" else "old"

    @flow
    def versions(count: int = 2, title: str = title, of: str = "of"):
        loaded = load(count)
        text = loaded.map(work).agg(joined_twice if version == "wired" else join)
        first, second = text.next(publish(title=title)), text.next(publish(title=of))
        return both(first.result, second.result) if version != "swapped" else both(second.result, first.result)

    return versions()


@step
def joined_twice(texts: list[str]) -> str:
    called("joined_twice")
    return 2 * join.fn(texts)


@step
def both(first: str, second: str) -> str:
    called("both")
    return f"{first}; {second}"


@pytest.mark.parametrize(
    ("version", "result", "calls"),
    [
        ("same", "old: 0,1; of: 0,1", {"both": 1}),
        ("default", "new: 0,1; of: 0,1", {"publish": 1, "both": 1}),
        ("wired", "old: 0,10,1; of: 0,10,1", {"joined_twice": 1, "join": 1, "publish": 2, "both": 1}),
        ("swapped", "of: 0,1; old: 0,1", {"both": 1}),
    ],
)
def test_what_reads_other_than_it_did_runs_again(
    s3: S3Server, capsys: pytest.CaptureFixture[str], version: str, result: str, calls: dict[str, int]
) -> None:
    operated = Operated(s3)
    operated.deploy(drawn_as("first"))
    BROKEN.update({"both"})
    operated.fail(f"of-{version}")
    BROKEN.clear()
    operated.deploy(drawn_as(version))
    capsys.readouterr()
    operated.go_on(f"of-{version}")
    out, err = capsys.readouterr()
    assert (out, CALLS) == (f"{result}\n", calls), err


def test_only_a_run_that_failed_goes_on_and_only_with_parameters_that_fit(s3: S3Server) -> None:
    operated = Operated(s3)
    operated.deploy(birds())
    BROKEN.update({"load"})
    operated.fail("refused", count=2)
    BROKEN.clear()
    operated.states.infos["refused"]["status"] = "RUNNING"
    with pytest.raises(AwsError, match=r"^the run refused is in progress. Stop it first: stop refused$"):
        operated.go_on("refused")
    operated.states.infos["refused"].update(status="ABORTED", input='{"count": 2, "color": "red"}')
    with pytest.raises(ParameterError, match=r"^unknown parameter 'color'"):
        operated.go_on("refused")
    assert list(operated.states.infos) == ["refused"]


@dataclass
class FailsAt:
    """Functions of which the invocation of a number fails."""

    inner: Handlers
    number: int
    count: int = 0

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        self.count += 1
        if self.count == self.number:
            return FunctionReply(
                b'{"errorType": "BrokenError", "errorMessage": "broke", "stackTrace": []}', failed=True
            )
        return self.inner.invoke(function, payload, timeout, caller)


def check(s3: S3Server, seeds: range, numbers: Sequence[int]) -> int:
    """Let random graphs fail at the invocations of some numbers, go on with each, and compare with plain calls."""
    went_on = 0
    for seed in seeds:
        for number in numbers:
            operated = Operated(s3)
            operated.deploy(drawn([seed]))
            in_process = operated.states.flow
            assert isinstance(in_process.functions, Handlers)
            in_process.functions = cast("Handlers", FailsAt(in_process.functions, number))
            assert operated.account.runs.start(f"r{seed}-{number}", {})
            if operated.states.infos[f"r{seed}-{number}"]["status"] == "SUCCEEDED":
                continue
            operated.deploy(drawn([seed]))
            new = operated.go_on(f"r{seed}-{number}")
            assert operated.account.results.run(new).result() == evaluate([seed]), (seed, number)
            went_on += 1
    return went_on


def test_random_graphs_that_failed_anywhere_give_what_they_give(s3: S3Server) -> None:
    assert check(s3, range(8), [2, 9]) > 5


FLOW = """
from lokki import flow, main, step

@step
def load(count: int) -> list[int]:
    print("loading")
    return list(range(count))

@step
def work(number: int) -> int:
    print("working on", number)
    if number == 7:
        raise ValueError("7 is too much")
    return number * 10

@step
def total(numbers: list[int]) -> int:
    raise ValueError("there is no total")

@flow
def NAME(count: int = 10):
    return load(count).map(work, concurrency=1).agg(total)

if __name__ == "__main__":
    main(NAME)
"""
MORE = """
@step
def tell(total: int) -> str:
    return f"{total} in all"

@flow"""


def new_id(ran: Ran) -> str:
    """Return the id of the run that a command started."""
    match = re.search(r"the run (\S+) goes on from", ran.err)
    assert match is not None, ran.err
    return match[1]


def printed(text: str) -> Counter[str]:
    """Count what steps printed of a run's log."""
    return Counter(line.partition("| ")[2] for line in text.splitlines() if "| loading" in line or "| working" in line)


def test_mended_code_goes_on_on_aws(account: LoopbackAws, tmp_path: Path, update_golden: bool) -> None:
    project = new_project(tmp_path, account, FLOW)
    said: list[str] = []

    def note(*arguments: str, code: int) -> Ran:
        """Run a command, and keep what it says."""
        ran = project.run(*arguments)
        assert ran.code == code, ran.err
        text = re.sub(rf"{project.folder}/|/tmp/\S+/(?=flow.py)", "", f"$ {' '.join(arguments)}\n{ran.err}{ran.out}\n")
        text = re.sub(RUN_ID, "RUN", text.replace(project.stack, "birds"))
        text = re.sub(r"[\d.]+ s$", "0.00 s", text, flags=re.MULTILINE)
        said.append(text)
        return ran

    # On AWS: an item fails, then a later step; both are mended, and a step is added at the end.
    assert project.run("deploy", "--yes").code == 0
    for command_name, run_id in (("invoke", "first"), ("run", "here"), ("emulate", "emulated")):
        assert project.run(command_name, "--run-id", run_id, "--quiet").code == 1
    project.edit("number == 7", "number == 70")
    assert project.run("deploy", "--yes").code == 0
    second = note("redrive", "first", "--latest", code=1)
    account.wait()
    assert printed(project.run("logs", new_id(second)).out) == {f"working on {number}": 1 for number in (7, 8, 9)}
    project.edit('raise ValueError("there is no total")', "return sum(numbers)")
    note("redrive", "here", "--latest", code=0)
    assert note("redrive", "emulated", "--latest", "--quiet", code=0).out == "450\n"
    project.edit("\n@flow", MORE)
    project.edit(".agg(total)", ".agg(total).next(tell)")
    note("redrive", new_id(second), "--latest", code=1)
    assert project.run("deploy", "--yes").code == 0
    third = note("redrive", new_id(second), "--latest", code=0)
    assert (third.out, printed(project.run("logs", new_id(third)).out)) == ("450 in all\n", {})
    note("redrive", new_id(third), "--latest", code=1)
    program = "import lokki, sys\nrun = lokki.remote(sys.argv[1]).run(sys.argv[2])\nprint(list(run.step('work')))\n"
    (project.folder / "look.py").write_text(program)
    looked = project.python("look.py", project.stack, new_id(third))
    assert looked.out == f"{[number * 10 for number in range(10)]}\n", looked.err
    compare("latest.txt", "".join(said), update_golden)
