"""Replaying a step of a run: exactly its input, once, and a debugger at the user's line where it fails."""

import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import steps
from aws.deployed import Deployed
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from strategies import CHAINS, Chain, comparable, draw
from support.local_runs import Local
from support.remote_runs import remote_results

from lokki import Retry, flow, step
from lokki.base.item_path import ItemPath
from lokki.cli.commands.replay import replay_command
from lokki.config import LokkiConfig
from lokki.emulator.s3.client import S3Server
from lokki.engine.invocation import StepFailedError
from lokki.errors import LokkiError, ParameterError, RunError
from lokki.graph import FlowGraph
from lokki.plan import lower
from lokki.plans.operations import FanOut
from lokki.results.flow_results import Items, local
from lokki.results.replay import debug, fetch

LABEL, SINCE = "ä", datetime.date(2026, 2, 3)


@dataclass
class Told:
    """A run of `chained` (item 2 fails at its second step) and what replaying it told and noted."""

    folder: Path
    log: Path
    lines: list[str]

    def fetch(self, step_id: str, item: ItemPath = (), graph: FlowGraph | None = None) -> object:
        self.lines.clear()
        self.log.write_text("")
        return fetch(
            lower(graph or steps.chained()), local("chained", self.folder).latest(), step_id, item, self.lines.append
        )

    def replay(self, step_id: str, item: ItemPath = ()) -> object:
        return self.fetch(step_id, item).run()  # type: ignore[attr-defined]

    @property
    def noted(self) -> list[str]:
        return steps.noted(self.log)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    log = tmp_path / "log"
    Path(f"{log}.fail.20").touch()
    with pytest.raises(RunError):
        Local(tmp_path, "inline").run(steps.chained(), {"log": str(log)}, run_id="one")
    return Told(tmp_path, log, [])


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(LokkiError) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}"


def test_a_failed_item_fails_again_on_the_input_that_it_had(told: Told) -> None:
    with pytest.raises(StepFailedError) as caught:
        told.replay("second", (2,))
    failure = caught.value.failure
    assert (failure.step, failure.error, failure.message, failure.attempts) == (
        "second",
        "ValueError",
        "cannot take 20",
        1,
    )
    assert isinstance(caught.value.__cause__, ValueError)
    assert "replay.py" not in failure.traceback
    assert told.noted == ["second 20"]  # what first() returned was kept
    assert told.lines == []


def test_a_mended_step_gives_its_result(told: Told) -> None:
    Path(f"{told.log}.fail.20").unlink()
    assert told.replay("second", (2,)) == 21
    assert told.noted == ["second 20"]


def test_earlier_steps_of_an_item_run_again_when_what_they_returned_is_not_kept(told: Told) -> None:
    assert told.replay("third", (1,)) == 22
    assert told.noted == ["first 1", "second 10", "third 11"]
    assert told.lines == [
        "first() runs again on item 1: the run does not keep what it returned",
        "second() runs again on item 1: the run does not keep what it returned",
    ]
    assert told.replay("first", (5,)) == 50  # an item that the run did not get to
    assert told.noted == ["first 5"]


def test_an_item_that_failed_earlier_did_not_get_to_a_step(told: Told) -> None:
    assert error_of(lambda: told.fetch("third", (2,))) == (
        "RunError: item 2 failed at second() in one, before third(): replay --step second."
    )
    assert told.noted == []


@pytest.mark.parametrize(
    ("step_id", "item", "message"),
    [
        ("second", (), "second() ran on 6 items of numbers() in one: say which item, by --item 0 to 5."),
        ("second", (6,), "second() ran on 6 items of numbers() in one: say another item than 6, by --item 0 to 5."),
        ("second", (0, 1), "second() ran on 6 items of numbers() in one: say another item than 0/1, by --item 0 to 5."),
        ("second", (-1,), "second() ran on 6 items of numbers() in one: say another item than -1, by --item 0 to 5."),
        ("numbers", (0,), "numbers() ran once in one, on no item: leave out --item."),
        ("fourth", (0,), "the run one has no step 'fourth'; it has numbers, first, second, third, total."),
    ],
)
def test_a_step_or_an_item_that_there_is_not_is_said(told: Told, step_id: str, item: ItemPath, message: str) -> None:
    assert error_of(lambda: told.fetch(step_id, item)) == f"ParameterError: {message}"


def test_a_step_that_the_flow_has_no_more_is_said(told: Told) -> None:
    @flow
    def chained(log: str):
        return steps.numbers(6).map(steps.first(log=log)).agg(steps.total)

    assert error_of(lambda: told.fetch("second", (1,), chained())) == (
        "ParameterError: the flow has no step 'second' any more; it has numbers, first, total."
    )


def test_a_map_over_nothing_has_no_item_to_replay(tmp_path: Path) -> None:
    Local(tmp_path).run(steps.doubled(), {"count": 0}, run_id="one")
    run = local("doubled", tmp_path).latest()
    with pytest.raises(ParameterError, match=r"^numbers\(\) gave no items in one, so that double\(\) did not run\.$"):
        fetch(lower(steps.doubled()), run, "double", (0,), print)


def test_a_step_that_ran_once_gets_what_it_got(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Path(f"{log}.fail.2").touch()

    @flow
    def tolerant(log: str, count: int = 4):
        return steps.numbers(count).map(steps.second(log=log), tolerate=1).agg(steps.collect).next(steps.wrap)

    Local(tmp_path).run(tolerant(), {"log": str(log)}, run_id="one")
    run = local("tolerant", tmp_path).latest()
    found = {name: fetch(lower(tolerant()), run, name, (), print) for name in ("numbers", "collect", "wrap")}
    assert {name: each.value for name, each in found.items()} == {
        "numbers": None,
        "collect": [1, 2, 4],
        "wrap": [1, 2, 4],
    }
    assert {name: each.run() for name, each in found.items()} == {
        "numbers": [0, 1, 2, 3],
        "collect": [1, 2, 4],
        "wrap": [[1, 2, 4]],
    }


@step(retry=Retry(attempts=5, delay=0), env={"BIRD": "goose"})
def fragile_bird(number: int, log: str) -> str:
    steps.note(log, f"{number} {os.environ['BIRD']}")
    if "calm" not in os.environ:
        raise ConnectionError("shy")
    return "honk"


@flow
def shy(log: str):
    return steps.numbers(1).map(fragile_bird(log=log)).agg(steps.collect)


def test_a_step_is_tried_once_with_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("calm", "yes")
    Local(tmp_path).run(shy(), {"log": str(log)}, run_id="one")
    monkeypatch.delenv("calm")
    log.unlink()
    with pytest.raises(StepFailedError):
        fetch(lower(shy()), local("shy", tmp_path).latest(), "fragile_bird", (0,), print).run()
    assert steps.noted(log) == ["0 goose"]
    assert "BIRD" not in os.environ


@pytest.mark.parametrize("graph", [steps.locks_last(), steps.locks_inside()])
def test_a_result_that_does_not_pickle_fails_again(tmp_path: Path, graph: FlowGraph) -> None:
    with pytest.raises(RunError):
        Local(tmp_path).run(graph, run_id="one")
    with pytest.raises(StepFailedError) as caught:
        fetch(lower(graph), local(graph.name, tmp_path).latest(), "lock", (2,), print).run()
    assert caught.value.failure.error == "ResultError"


@given(CHAINS.filter(lambda chain: "succeed_late" not in repr(chain)))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_every_step_of_a_random_run_replays_to_what_it_returned(chain: Chain) -> None:
    with tempfile.TemporaryDirectory() as folder:
        steps.TRIP[:] = []
        graph = draw(chain)
        Local(Path(folder)).run(graph, {"label": LABEL, "since": SINCE}, run_id="one")
        run, plan = local(graph.name, Path(folder)).latest(), lower(graph)
        for op in plan.ops:
            if not isinstance(op, FanOut):
                replayed = fetch(plan, run, op.id, (), lambda line: None).run()
                kept = run.step(op.id)
                assert comparable(replayed) == comparable(list(kept) if isinstance(kept, Items) else kept)
                continue
            results = run.step(op.calls[-1].id)
            assert isinstance(results, Items)
            failed = results.failures()
            for index in range(len(results)):
                if index not in failed:
                    again = fetch(plan, run, op.calls[-1].id, (index,), lambda line: None)
                    assert comparable(again.run()) == comparable(results[index])
                else:
                    again = fetch(plan, run, failed[index].step, (index,), lambda line: None)
                    with pytest.raises(StepFailedError, match="not this one"):
                        again.run()


def test_items_of_an_emulated_run_replay_as_those_of_a_local_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Path(f"{log}.fail.20").touch()
    told: list[str] = []
    with S3Server("acme-artifacts") as s3:
        deployed = Deployed(steps.chained(), LokkiConfig(), s3)
        assert deployed.run({"log": str(log), "count": 4}).status == "FAILED"
        run = remote_results("chained", bucket=s3.bucket, executions=deployed, environ=s3.variables("reader")).latest()
        again = fetch(lower(steps.chained()), run, "second", (2,), told.append)
        with pytest.raises(StepFailedError, match="cannot take 20"):
            again.run()
        Path(f"{log}.fail.20").unlink()
        assert fetch(lower(steps.chained()), run, "third", (1,), told.append).run() == 22
        assert fetch(lower(steps.chained()), run, "numbers", (), told.append).run() == [0, 1, 2, 3]
    assert told == [
        f"{step_id}() runs again on item {item}: the run does not keep what it returned"
        for step_id, item in (("first", 2), ("first", 1), ("second", 1))
    ]


# --- the debugger ---


def parse(text: str) -> object:
    wanted = "the users own line"
    return json.loads(text) if wanted else None


def test_the_debugger_begins_at_the_users_line_below_which_the_library_is() -> None:
    try:
        parse("{oops")
    except ValueError as raised:
        error = raised
    shown = io.StringIO()
    debug(error, io.StringIO("p wanted\np text\ndown\np s\nq\n"), shown)
    assert "return json.loads(text) if wanted else None" in shown.getvalue()
    assert "'the users own line'" in shown.getvalue()
    assert shown.getvalue().count("'{oops'") == 2  # text, and the library's s


# --- the command ---


PROGRAM = """
import sys
from lokki import flow, step

@step
def get_birds() -> list[str]:
    return ["goose", "duck"]

@step
def flap_bird(bird: str) -> str:
    wing = bird.upper()
    if bird == "duck":
        raise ValueError(f"no wing on {wing}")
    print("flapping")
    return f"flappy {bird}"

@step
def join_birds(birds: list[str]) -> str:
    return ", ".join(birds)

@flow
def birds_flow():
    return get_birds().map(flap_bird, tolerate=1).agg(join_birds)

if __name__ == "__main__":
    from lokki.cli.commands.replay import replay_command
    from lokki.runner import LocalRunner
    if sys.argv[1] == "run":
        LocalRunner().run(birds_flow(), run_id="one")
    else:
        sys.exit(replay_command(birds_flow(), "python birds.py").main(sys.argv[2:], standalone_mode=False))
"""


def python(folder: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "birds.py", *arguments], cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    (folder / "birds.py").write_text(PROGRAM)
    assert python(folder, "run") == (0, "flapping\n", "")
    return folder


def test_the_command_prints_the_result(birds: Path) -> None:
    assert python(birds, "replay", "one", "--step", "flap_bird", "--item", "0") == (
        0, "flapping\nflappy goose\n", "flap_bird() runs again on item 0 as in one\n",
    )  # fmt: skip
    assert python(birds, "replay", "one", "--step", "join_birds") == (
        0, "flappy goose\n", "join_birds() runs again as in one\n",
    )  # fmt: skip


def test_the_command_prints_the_users_traceback(birds: Path) -> None:
    code, out, err = python(birds, "replay", "one", "--step", "flap_bird", "--item", "1")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "flap_bird() runs again on item 1 as in one",
        "Traceback (most recent call last):",
        f'  File "{birds}/birds.py", line 13, in flap_bird',
        '    raise ValueError(f"no wing on {wing}")',
        "ValueError: no wing on DUCK",
        "error: flap_bird() raised ValueError: no wing on DUCK at birds.py:13",
    ]


def test_the_command_opens_the_debugger_in_the_step(birds: Path) -> None:
    code, out, _ = python(birds, "replay", "one", "--step", "flap_bird", "--item", "1", "--pdb", stdin="p wing\nq\n")
    assert code == 1
    assert "birds.py(13)flap_bird()" in out
    assert "(Pdb) 'DUCK'\n" in out


def test_the_command_refuses_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = replay_command(steps.doubled(), "lokki")
    result = CliRunner().invoke(command, ["nowhere", "--step", "double"], standalone_mode=False)
    assert str(result.exception) == (
        "there is no run 'nowhere' in .lokki/runs (the latest: none). For a run on AWS, add --deployed."
    )
    assert "Missing option '--step'" in CliRunner().invoke(command, ["one"]).output
    assert not (tmp_path / ".lokki").exists()


def test_the_command_reads_an_items_path_and_refuses_what_is_none(birds: Path) -> None:
    code, _, err = python(birds, "replay", "one", "--step", "flap_bird", "--item", "0/1")
    assert code == 1
    assert err.endswith("get_birds() in one: say another item than 0/1, by --item 0 to 1.\n")
    code, _, err = python(birds, "replay", "one", "--step", "flap_bird", "--item", "first")
    assert code == 1
    assert err.endswith(
        "'first' names no item: give its index from 0, such as 3, or one index for each map, such as 3/7.\n"
    )


# --- graphs ---


@step
def load(count: int = 4) -> list[int]:
    return list(range(count))


@step
def weigh(rows: list[int]) -> dict[str, int]:
    return {"weight": sum(rows)}


@step
def score(row: int, model: dict[str, int]) -> int:
    return row * model["weight"]


@step
def is_even(row: int) -> bool:
    return row % 2 == 0


@step
def half(row: int, by: int = 2) -> float:
    return row / by


@step
def negate(row: int) -> int:
    return -row


@step
def report(rows: list[object], *others: object) -> list[object]:
    return [*rows, *others]


@flow
def graph():
    rows = load()
    model = rows.next(weigh)
    block = rows.map(score(model=model.result)).switch(is_even, {True: half, False: negate})
    total = rows.map(negate).agg(report(model.result))
    single = model.next(count_of).switch(is_even, {True: half(by=3), False: negate})
    return block.agg(report(single.result, total.result, [rows.result]))


@step
def count_of(model: dict[str, int]) -> int:
    return model["weight"]


def test_steps_of_a_graph_replay_to_what_they_returned(tmp_path: Path) -> None:
    result = Local(tmp_path).run(graph(), run_id="run")
    of, plan = local("graph", tmp_path).latest(), lower(graph())

    def again(step_id: str, item: ItemPath = ()) -> object:
        return fetch(plan, of, step_id, item, lambda line: None).run()

    assert again("report_2") == result
    once = {call.id for call in plan.calls} - {call.id for block in plan.fan_outs for call in block.calls}
    skipped = {"negate_3"}
    for step_id in once - skipped:
        value = of.step(step_id)
        assert again(step_id) == (list(value) if isinstance(value, Items) else value)
    assert again("half", (2,)) == 6.0
    assert [again("score", (number,)) for number in range(4)] == [0, 6, 12, 18]
    with pytest.raises(
        ParameterError, match=r"negate_3\(\) was skipped in run: is_even_2\(\) returned True, for which"
    ):
        again("negate_3")
    with pytest.raises(ParameterError, match=r"negate\(\) was skipped for item 0 in run: another case was chosen"):
        again("negate", (0,))
