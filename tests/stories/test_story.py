"""The whole life of a deployed flow, by the commands that a user types and in Python, on an AWS on loopback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.command import Ran
from support.deploy_role import NOT_SEEN, actions, own
from support.deployed_project import Project, new_project, told
from support.golden import compare

FLOW = '''
import logging
import os
from dataclasses import dataclass

from lokki import flow, main, step


@dataclass
class Bird:
    name: str
    loudness: int


@step
def get_birds(count: int) -> list[str]:
    print("looking for birds")
    return ["goose", "duck", "seagull", "swan", "owl"][:count]


@step
def flap_bird(bird: str, feeder: str) -> Bird:
    print(f"flapping {bird}")
    logging.getLogger("birds").warning("hear %s", bird)
    if bird == "seagull" and not os.path.exists(feeder):
        raise ConnectionError(f"no answer from {bird}")
    return Bird(f"flappy {bird}", len(bird))


@step
def join_birds(birds: list[Bird]) -> str:
    return ", ".join(bird.name for bird in birds)


@flow
def NAME(count: int = 3, feeder: str = "/"):
    """Make birds flap."""
    return get_birds(count).map(flap_bird(feeder=feeder), concurrency=1).agg(join_birds)


if __name__ == "__main__":
    main(NAME)
'''


@pytest.fixture
def birds(account: LoopbackAws, tmp_path: Path) -> Project:
    return new_project(tmp_path, account, FLOW)


def steady(project: Project, text: str) -> str:
    """Leave out what differs from run to run."""
    text = text.replace(project.stack, "birds").replace(project.bucket, "my-bucket").replace(f"{project.folder}/", "")
    text = re.sub(r"\d\d\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
    text = re.sub(r"\d+\.\d\d? s\b", "0.00 s", text)
    text = re.sub(r"objects, [\d.]+ \w+", "objects, N KiB", text)
    text = text.replace("/var/task/", "")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r" +\n", "\n", text)


@pytest.mark.slow
def test_a_flow_from_its_first_deployment_to_its_end(birds: Project, update_golden: bool) -> None:
    def run(*arguments: str, code: int = 0) -> Ran:
        ran = birds.run(*arguments)
        assert ran.code == code, ran.err
        return Ran(ran.code, steady(birds, ran.out), steady(birds, ran.err))

    # It is deployed and runs, and the same call again gives the same run.
    run("deploy", "--yes")
    invoked = run("invoke", "--run-id", "monday")
    assert invoked.out == "flappy goose, flappy duck, flappy seagull\n"
    assert invoked.err.splitlines() == [
        "birds: run monday started",
        "get_birds: 3 items in 0.00 s",
        "flap_bird: 3 items in 0.00 s",
        "join_birds: done in 0.00 s",
        "birds: finished in 0.00 s",
    ]
    assert run("invoke", "--run-id", "monday", "--count", "3", "--quiet").out == invoked.out
    other = run("invoke", "--run-id", "monday", "--count", "2", code=1)
    assert other.err == ("error: the run monday was started with other parameters (none). Choose another --run-id.\n")
    table = run("show").out.splitlines()
    assert table[0].split() == ["RUN", "STATUS", "STARTED", "TIME", "ITEMS", "FAILED"]
    assert table[1].split() == ["monday", "succeeded", "TIME", "0.00", "s", "3", "0"]
    logs = [line.partition(" ")[2] for line in run("logs", "monday").out.splitlines()]
    assert logs[0] == "get_birds | looking for birds"
    assert {line for line in logs if "flapping" in line} == {
        "flap_bird[0] | flapping goose",
        "flap_bird[1] | flapping duck",
        "flap_bird[2] | flapping seagull",
    }
    only = run("logs", "monday", "--step", "flap_bird", "--item", "1").out.splitlines()
    assert only[0].endswith(" flap_bird[1] | flapping duck")
    assert all("flap_bird[1] | " in line for line in only)

    # One step changes, and is deployed alone; runs use it, and after a rollback no more.
    before = birds.code()
    birds.edit("flappy {bird}", "happy {bird}")
    assert run("deploy", "--dry-run").err.splitlines()[-1] == "dry run: nothing was changed"
    run("deploy", "--yes")
    assert [step for step, code in birds.code().items() if code != before[step]] == ["flap_bird"]
    assert run("invoke", "--quiet").out == "happy goose, happy duck, happy seagull\n"
    run("rollback", "--yes")
    assert run("invoke", "--quiet").out == "flappy goose, flappy duck, flappy seagull\n"

    # A run fails, is looked at, its item is replayed, and it goes on when what it needs is there.
    feeder = birds.folder / "feeder"
    failed = run("invoke", "--run-id", "tuesday", "--feeder", str(feeder), "--count", "5", code=1)
    assert failed.out == ""
    compare("story-failed.txt", failed.err, update_golden)
    compare("story-shown.txt", run("show", "tuesday").out, update_golden)
    replayed = run("replay", "tuesday", "--deployed", "--step", "flap_bird", "--item", "2", code=1)
    assert "raise ConnectionError" in replayed.err
    assert replayed.err.splitlines()[-1].startswith(
        "error: flap_bird() raised ConnectionError: no answer from seagull at flow.py:"
    )
    good = run("replay", "tuesday", "--deployed", "--step", "flap_bird", "--item", "0")
    assert good.out == "flapping goose\nBird(name='happy goose', loudness=5)\n"  # with the code that is here
    feeder.touch()
    redriven = run("redrive", "tuesday")
    assert redriven.out == "flappy goose, flappy duck, flappy seagull, flappy swan, flappy owl\n"
    again = run("redrive", "tuesday", code=1)
    assert again.err.startswith("error: the run tuesday cannot be redriven: Execution is SUCCEEDED")

    # Its results in Python.
    program = birds.folder / "look.py"
    program.write_text(
        "import lokki\n"
        f"birds = lokki.remote({birds.stack!r}, file='flow.py')\n"
        "run = birds.run('tuesday')\n"
        "print([each.id for each in birds.runs()][0], run.status, run.result())\n"
        "print(run.step('get_birds')[3], run.step('flap_bird')[2].name, len(run.step('flap_bird')))\n"
        "print(len(run.logs()) > 10, '<table>' in birds._repr_html_())\n"
    )
    looked = birds.python("look.py")
    assert looked.out.splitlines() == [
        "tuesday succeeded flappy goose, flappy duck, flappy seagull, flappy swan, flappy owl",
        "swan flappy seagull 5",
        "True True",
    ], looked.err

    # It goes without a trace.
    assert told(run("destroy", "--yes"))[-1] == "birds is gone"
    assert birds.left() == []

    # All that it called is allowed by the role in the docs, and the role allows nothing else of lokki's own.
    called = actions(birds.account.calls(birds.stack))
    assert called - own() == set()
    assert own() - called == NOT_SEEN

    gone = run("show", code=1)
    assert gone.err == (
        "error: birds is not deployed: there is no stack birds in us-east-1. Deploy it first, or give --stack-name or "
        "--region.\n"
    )
