"""What a run's failure looks like on the terminal: the same words for `run`, `emulate` and `invoke`."""

from __future__ import annotations

from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.command import Place, Ran
from support.deployed_project import Project, new_project

FLOW = r"""
import os
import time

from lokki import flow, main, step


@step
def get_birds(fault: str) -> list[int]:
    if fault == "step":
        raise RuntimeError("no birds\nat all")
    return [0, 1, 2]


@step(timeout=2)
def flap_bird(bird: int, fault: str) -> int:
    if bird == 1 and fault in ("item", "tolerated", "two items", "slow"):
        raise ValueError(f"{bird} is lame")
    if bird == 1 and fault == "death":
        os._exit(3)
    if bird == 2 and fault == "two items":
        raise ValueError("2 is lame, too")
    if (bird, fault) in ((1, "late"), (2, "slow")):
        time.sleep(60)
    return bird


@step
def join_birds(birds: list[int], fault: str) -> int:
    if fault in ("agg", "tolerated"):
        raise RuntimeError("agg broke")
    return sum(birds)


@step(timeout=2)
def weigh_birds(birds: int, fault: str) -> int:
    if fault == "timeout":
        time.sleep(60)
    if fault == "library":
        os.makedirs("")
    return birds


@flow
def NAME(fault: str):
    birds = get_birds(fault).map(flap_bird(fault=fault), concurrency=1, TOLERATE)
    return birds.agg(join_birds(fault=fault)).next(weigh_birds(fault=fault))


if __name__ == "__main__":
    main(NAME)
"""


TWO_FAILED = (
    "2 of 3 items failed in the map over get_birds() (tolerated: 0.4); first item 1: flap_bird() raised ValueError: "
    "1 is lame at flow.py:18"
)


def last_words(ran: Ran) -> str:
    """Return what a command said of its failure, without how to resume."""
    assert ran.code == 1, ran.err
    return ran.err[ran.err.index("error: ") :].partition("\n")[0]


def assert_same_words(project: Project, fault: str, error: str, *local_options: str) -> None:
    """Fail a flow by all commands and compare what they say."""
    options = ("--fault", fault, "--quiet")
    local = project.run("run", "--workers", "1", *options, *local_options)
    emulated = project.run("emulate", "--workers", "1", *options)
    invoked = project.run("invoke", *options)
    assert [last_words(local), last_words(emulated), last_words(invoked)] == [f"error: {error}"] * 3
    run_id = invoked.err.split()[-1]
    assert invoked.err.endswith(f"\nresume with: python flow.py redrive {run_id}\n")
    assert project.run("redrive", run_id, "--quiet").err == invoked.err
    assert f"error: {error}\n" in project.run("show", run_id).out


@pytest.mark.slow
def test_a_failure_is_told_in_the_same_words_wherever_a_flow_runs(account: LoopbackAws, tmp_path: Path) -> None:
    project = new_project(tmp_path, account, FLOW.replace(", TOLERATE", ""))
    assert project.run("deploy", "--yes").code == 0
    failed = "item 1 failed in the map over get_birds() (tolerated: none); flap_bird() raised"
    late, died = "took longer than its timeout of 2 seconds", "the worker process exited with code 3"
    assert_same_words(project, "step", "get_birds() raised RuntimeError: no birds … at flow.py:11")
    assert_same_words(project, "agg", "join_birds() raised RuntimeError: agg broke at flow.py:31")
    assert_same_words(project, "item", f"{failed} ValueError: 1 is lame at flow.py:18")
    assert_same_words(project, "late", f"{failed} StepTimeoutError: {late} at flow.py:15")
    assert_same_words(project, "death", f"{failed} WorkerError: {died} at flow.py:15", "--executor", "processes")
    assert_same_words(project, "timeout", f"weigh_birds() raised StepTimeoutError: {late} at flow.py:35")
    lost = "FileNotFoundError: [Errno 2] No such file or directory: ''"
    assert_same_words(project, "library", f"weigh_birds() raised {lost} at flow.py:40")


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["", ", batch=2"])
def test_failures_that_were_tolerated_are_not_why_a_run_failed(
    account: LoopbackAws, tmp_path: Path, batch: str
) -> None:
    text = FLOW.replace("TOLERATE", f"tolerate=0.4{batch}").replace("(timeout=2)", "")
    project = new_project(tmp_path, account, text)
    assert project.run("deploy", "--yes").code == 0
    if not batch:
        # Who waits for the run is told of items that failed in batches when their map has ended: another is the first.
        assert_same_words(project, "two items", TWO_FAILED)
    assert_same_words(project, "tolerated", "join_birds() raised RuntimeError: agg broke at flow.py:31")


NESTED = """
from lokki import StepNode, flow, main, step


@step
def sizes() -> list[int]:
    return [0, 1, 2, 3]


@step
def members(size: int, fault: str) -> list[int]:
    return size if fault == "no list" else list(range(size))


@step
def work(member: int, fault: str) -> int:
    if member == 1:
        raise KeyError("one")
    return member


@step
def total(results: list[int]) -> int:
    return sum(results)


@flow
def one_list(size: int, fault: str) -> StepNode[..., int]:
    return members(size, fault).map(work(fault=fault)).agg(total)


@flow
def NAME(fault: str):
    return sizes().map(one_list(fault=fault), concurrency=1, TOLERATE).agg(total)


if __name__ == "__main__":
    main(NAME)
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["", ", batch=1"])
def test_a_failure_in_maps_below_maps_is_told_in_the_same_words(
    account: LoopbackAws, tmp_path: Path, batch: str
) -> None:
    project = new_project(tmp_path, account, NESTED.replace("TOLERATE", f"tolerate=1{batch}"))
    assert project.run("deploy", "--yes").code == 0
    failed = "of 4 items failed in the map over sizes() (tolerated: 1); first item"
    shape = "returned int, but .map() runs over its items: return a list or another iterable at flow.py:10"
    assert_same_words(project, "no list", f"2 {failed} 0: one_list_members() raised ResultError: members() {shape}")
    inner = "'one' (item 2/1 in the map over one_list_members(); tolerated: none) at flow.py:18"
    assert_same_words(project, "item", f"2 {failed} 2: one_list_work() raised KeyError: {inner}")


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["", ", batch=2"])
def test_items_that_were_tolerated_are_not_why_a_run_took_too_long(
    account: LoopbackAws, tmp_path: Path, batch: str
) -> None:
    text = FLOW.replace("TOLERATE", f"tolerate=0.4{batch}").replace("(timeout=2)", "(timeout=50)")
    project = new_project(tmp_path, account, text.replace("@flow", "@flow(timeout=8)"))
    assert project.run("deploy", "--yes").code == 0
    assert_same_words(project, "slow", "the run took longer than the flow's timeout of 8 seconds.")


@pytest.mark.parametrize("command_name", ["run", "emulate", "invoke"])
def test_a_flow_that_cannot_be_drawn_is_told_in_the_same_words(tmp_path: Path, command_name: str) -> None:
    (tmp_path / "flow.py").write_text(FLOW.replace(", TOLERATE", "").replace(".agg(join_birds(fault=fault))", ""))
    ran = Place(tmp_path).run("flow.py", command_name, "--fault", "none")
    assert ran.code == 1
    assert last_words(ran).startswith("error: flow.py:4")


@pytest.mark.slow
def test_a_traceback_leads_to_the_file_on_this_machine(account: LoopbackAws, tmp_path: Path) -> None:
    project = new_project(tmp_path, account, FLOW.replace(", TOLERATE", ""))
    assert project.run("deploy", "--yes").code == 0
    texts = [project.run(name, "--fault", "agg", "--quiet").err for name in ("run", "emulate", "invoke")]
    [text] = {text[: text.index("error: ")] for text in texts}
    assert text.startswith("Traceback (most recent call last):\n")
    assert f'  File "{project.folder}/flow.py", line 31, in join_birds\n' in text
