"""Runs of a deployed flow that are left, stopped, followed and refused: commands against the account on loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from aws.loopback_aws import LoopbackAws
from support.command import command
from support.deployed_project import Project, new_project
from support.golden import compare
from support.ui import served_by

FLOW = """
import time
from lokki import flow, main, step

@step
def get_birds(count: int) -> list[int]:
    return list(range(count))

@step
def wait_for(bird: int, seconds: float, **others: object) -> int:
    print(f"waiting for {bird}")
    time.sleep(seconds)
    return bird

@step
def total(birds: list[int]) -> int:
    return sum(birds)

@flow
def NAME(count: int = 4, seconds: float = 0.0):
    return get_birds(count).map(wait_for(seconds=seconds, **{"a -> b": "$param"}), concurrency=2).agg(total)

if __name__ == "__main__":
    main(NAME)
"""


@pytest.fixture(scope="module")
def birds(account: LoopbackAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = new_project(tmp_path_factory.mktemp("birds"), account, FLOW)
    deployed = made.run("deploy", "--yes")
    assert deployed.code == 0, deployed.err
    yield made
    made.account.wait()
    gone = made.run("destroy", "--yes")
    assert gone.code == 0, gone.err


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(("flow.py", *arguments)),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_running(project: Project, run_id: str) -> None:
    """Wait until a run has begun its map."""
    states = project.account.client("stepfunctions")
    arn = f"{project.machine.replace(':stateMachine:', ':execution:')}:{run_id}"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if states.list_map_runs(executionArn=arn)["mapRuns"]:
                return
        except states.exceptions.ExecutionDoesNotExist:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{run_id} does not run")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_alone_and_the_same_call_comes_back_to_it(birds: Project) -> None:
    options = ("invoke", "--run-id", "left", "--seconds", "3")
    with start(birds, *options) as waiting:
        wait_until_running(birds, "left")
        time.sleep(1.5)  # its first looks
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "the run is in progress; see it by: python flow.py show left"
    back = birds.run(*options)
    assert (back.code, back.out) == (0, "6\n"), back.err
    shown = birds.run("show", "left", "--cost")
    assert shown.code == 0, shown.err
    # Two steps and four items, of which each waits for three seconds; each child is four transitions of 19.
    assert re.search(r"^state transitions +19 +\$0\.0004750", shown.out, re.MULTILINE), shown.out
    assert re.search(r"^Lambda: 1[2-9]\.\d+ s billed of 6 invocations", shown.out, re.MULTILINE), shown.out


@pytest.mark.slow
def test_a_run_is_stopped_and_goes_on_where_it_was(birds: Project) -> None:
    with start(birds, "invoke", "--run-id", "stopped", "--seconds", "2", "--stop-on-interrupt") as waiting:
        wait_until_running(birds, "stopped")
        time.sleep(1.5)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; resume with: python flow.py redrive stopped"
    again = birds.run("stop", "stopped")
    assert (again.code, again.err) == (1, "error: the run stopped has ended already: it is aborted.\n")
    table = birds.run("show").out.splitlines()
    assert [line.split()[:2] for line in table if line.startswith("stopped")] == [["stopped", "aborted"]]
    redriven = birds.run("redrive", "stopped")
    assert (redriven.code, redriven.out) == (0, "6\n"), redriven.err


@pytest.mark.slow
def test_stop_ends_a_run_that_somebody_waits_for(birds: Project) -> None:
    with start(birds, "invoke", "--run-id", "ended", "--seconds", "5") as waiting:
        wait_until_running(birds, "ended")
        stopped = birds.run("stop", "ended", "--reason", "too windy")
        out, err = waiting.communicate(timeout=30)
    assert stopped.err == "stopped; resume with: python flow.py redrive ended\n"
    assert (waiting.returncode, out) == (1, "")
    assert err.splitlines()[-2:] == [
        "error: the run ended was stopped: Stopped: too windy",
        "resume with: python flow.py redrive ended",
    ]


@pytest.mark.slow
def test_logs_are_followed_until_the_run_has_ended(birds: Project) -> None:
    started = birds.run("invoke", "--run-id", "followed", "--seconds", "1", "--no-wait")
    assert (started.code, started.out) == (0, "followed\n")
    followed = birds.run("logs", "followed", "--follow", "--step", "wait_for")
    lines = [line.partition(" ")[2] for line in followed.out.splitlines()]
    assert sorted(line for line in lines if "waiting" in line) == [
        f"wait_for[{item}] | waiting for {item}" for item in range(4)
    ]
    assert birds.run("logs", "followed", "--since", "2h").out.count("waiting for") == 4
    assert birds.run("logs", "followed", "--since", "0s").out == ""
    assert birds.run("logs").out.count("waiting for") == 4  # that which was started last


@pytest.mark.slow
def test_a_deployed_run_is_watched_on_the_page_of_runs(birds: Project) -> None:
    def read(address: str) -> str:
        with urlopen(address, timeout=20) as answer:
            text: str = answer.read().decode()
        return re.sub(r"<[^>]*>", " ", text)

    with served_by(start(birds, "ui", "--remote")) as address:
        started = birds.run("invoke", "--run-id", "watched", "--seconds", "4", "--no-wait")
        assert started.code == 0, started.err
        wait_until_running(birds, "watched")
        run = f"{address}runs/aws-{birds.stack}/watched"
        assert "seconds=4" in read(f"{address}?status=running&params=seconds%3D4")
        going_on = read(run)
        assert ("watched running" in going_on, "Progress" in going_on, "0/4" in going_on) == (True, True, True)
        birds.account.wait()
        ended = read(run)
        assert ("watched succeeded" in ended, "4/4" in ended, "Progress" in ended) == (True, True, False)
        assert re.findall(r"waiting for (\d)", read(f"{run}/log?step=wait_for&item=2")) == ["2"]
        assert "item:  2" in read(f"{run}/item?step=wait_for&item=2")
        assert "has no run" in str(refusal(f"{address}runs/aws-{birds.stack}/nobody"))


def refusal(address: str) -> str:
    with pytest.raises(HTTPError) as refused:
        urlopen(address, timeout=20)
    assert refused.value.code == 404
    return refused.value.read().decode()


@pytest.mark.slow
def test_what_aws_refuses_is_one_line_each(
    birds: Project, update_golden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    user = "User: arn:aws:iam::123456789012:user/anna is not authorized to perform"

    def note(case: str, *arguments: str, **env: str | None) -> None:
        ran = birds.here(monkeypatch, *arguments, **env)
        assert ran.code == 1, ran.err
        line = re.sub(r"birds[-_]\d+", "birds", ran.err.splitlines()[-1])
        lines.append(f"{case}:\n  {line}\n")

    refuse = birds.account.refuse
    note("no credentials", "show", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    refuse("DescribeStacks", "ExpiredToken", "The security token included in the request is expired", status=403)
    note("an expired token", "invoke")
    refuse("StartExecution", "AccessDeniedException", f"{user}: states:StartExecution on resource: arn:aws:x")
    note("no permission to start", "invoke")
    refuse("FilterLogEvents", "AccessDeniedException", f"{user}: logs:FilterLogEvents on resource: arn:aws:x")
    birds.run("invoke", "--run-id", "once", "--quiet")
    note("no permission to read logs", "logs", "once")
    note("no such run", "show", "never")
    note("no such run, to redrive", "redrive", "never")
    note("nothing to redrive", "redrive", "once")
    note("an id with other parameters", "invoke", "--run-id", "once", "--count", "2")
    note("a run that is not here", "replay", "once", "--step", "total")
    note("another stack", "show", "--stack-name", "nowhere")
    compare("operate-errors.txt", "".join(lines), update_golden)
    for action in ("DescribeStacks", "ListExecutions", "GetExecutionHistory", "DescribeMapRun"):
        refuse(action, "ThrottlingException", "Rate exceeded", times=2)
    assert birds.run("show", "once").code == 0  # throttled calls are made again


@pytest.mark.slow
def test_the_workflow_in_the_docs_does_what_it_says(account: LoopbackAws, tmp_path: Path) -> None:
    project = new_project(tmp_path, account, FLOW)
    (project.folder / "flow.py").rename(project.folder / "birds_flow.py")
    (project.folder / "lokki.yml").write_text(
        f"artifact_bucket: nowhere\nenvironments:\n  prod:\n    artifact_bucket: {project.bucket}\n"
    )
    workflow = yaml.safe_load((Path(__file__).parents[2] / "docs/examples/deploy.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    for line in runs:
        done = project.python(*line.removeprefix("uv run ").split())
        assert done.code == 0, done.err
    assert done.out == f"{project.machine}\n"
    assert project.execute() == "6"
    assert project.python("birds_flow.py", "destroy", "--yes", "--env", "prod").code == 0


GRAPH = """
import pathlib
from typing import Literal
from lokki import StepNode, flow, main, step

@step
def load(count: int) -> list[int]:
    return list(range(count))

@step
def train(rows: list[int]) -> dict[str, int]:
    return {"weight": sum(rows)}

@step
def score(row: int, model: dict[str, int]) -> int:
    return row * model["weight"]

@step
def kind(row: int) -> Literal["even", "odd"]:
    return "odd" if row % 2 else "even"

@step
def half(row: int) -> int:
    return row // 2

@step
def negate(row: int) -> int:
    return -row

@step
def total(rows: list[int], worst: int) -> int:
    if sum(rows) > worst:
        raise ValueError("too much")
    return sum(rows)

@step
def check(rows: list[int]) -> None:
    print("checked", len(rows))

@flow
def graded(row: int) -> StepNode[..., int]:
    return negate(row).switch(kind, {"even": half, "odd": negate})

@flow
def NAME(count: int = 4, worst: int = 1000):
    rows = load(count)
    model = rows.next(train)
    scored = rows.map(score(model=model.result)).switch(kind, {"even": half, "odd": negate}).agg(total(worst=worst))
    batched = rows.map(graded, batch=2).agg(total(worst=1000))
    chosen = scored.switch(kind, {"even": half, "odd": negate}).after(rows.next(check))
    return chosen, batched

if __name__ == "__main__":
    main(NAME)
"""


@pytest.mark.slow
def test_a_graph_is_deployed_followed_and_told_as_it_runs_here(account: LoopbackAws, tmp_path: Path) -> None:
    graph = new_project(tmp_path, account, GRAPH)
    deployed = graph.run("deploy", "--yes")
    assert deployed.code == 0, deployed.err
    here, there = graph.run("run"), graph.run("invoke", "--run-id", "first")
    assert (there.code, there.out) == (0, here.out), there.err
    shown = graph.run("show", "first").out
    rows = {line.split("  ")[0].strip(): line for line in shown.splitlines()}
    assert "skipped" in rows["negate_2"], shown
    assert "finished" in rows["half_2"], shown
    assert "finished" in rows["map over load: score → kind → half → negate"], shown
    failed = graph.run("invoke", "--run-id", "second", "--worst", "1")
    assert failed.code == 1
    assert "error: total() raised ValueError: too much at flow.py:" in failed.err
    account.wait()
    gone = graph.run("destroy", "--yes")
    assert gone.code == 0, gone.err


NESTED = """
from lokki import StepNode, flow, main, step

@step
def load(count: int) -> list[int]:
    return list(range(count))

@step
def parts(row: int) -> list[int]:
    return list(range(row))

@step
def score(part: int, row: int, worst: int) -> int:
    if part == worst:
        raise ValueError("too much")
    return row * 10 + part

@step
def total(scores: list[int], row: int) -> list[int]:
    return [row, *scores]

@step
def join(rows: list[list[int]]) -> list[list[int]]:
    return rows

@flow
def one_row(row: int, worst: int) -> StepNode[..., list[int]]:
    return parts(row).map(score(row=row, worst=worst)).agg(total(row=row))

@flow
def NAME(count: int = 4, worst: int = 1000):
    return load(count).map(one_row(worst=worst)).agg(join)

if __name__ == "__main__":
    main(NAME)
"""


@pytest.mark.slow
def test_a_map_below_a_map_is_deployed_followed_and_told_as_it_runs_here(account: LoopbackAws, tmp_path: Path) -> None:
    nested = new_project(tmp_path, account, NESTED)
    deployed = nested.run("deploy", "--yes")
    assert deployed.code == 0, deployed.err
    here, there = nested.run("run"), nested.run("invoke", "--run-id", "first")
    assert here.out == "[[0], [1, 10], [2, 20, 21], [3, 30, 31, 32]]\n"
    assert (there.code, there.out) == (0, here.out), there.err
    failed = [nested.run(*command, "--worst", "2") for command in (("run",), ("invoke", "--run-id", "second"))]
    for done in failed:
        assert done.code == 1
        assert "item 3/2 failed in the map over one_row_parts() (tolerated: none); " in done.err, done.err
        assert "raised ValueError: too much at flow.py:" in done.err
    account.wait()
    gone = nested.run("destroy", "--yes")
    assert gone.code == 0, gone.err
