"""The trace of a run is the same tree from a run here, an emulated one and one on AWS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.collector import Collector, collecting
from support.deployed_project import new_project

from lokki.engine.otlp import trace_id

FLOW = """
from lokki import flow, main, step

@step
def load(count: int) -> list[int]:
    return list(range(count))

@step
def work(number: int) -> int:
    if number == 2:
        raise ValueError("2 is too much")
    return number

@step
def total(numbers: list[int]) -> int:
    return sum(numbers)

@flow
def NAME(count: int = 4):
    return load(count).map(work, tolerate=1, batch=2).agg(total)

if __name__ == "__main__":
    main(NAME)
"""


def take_tree(collector: Collector) -> str:
    """Return the tree of all spans received so far but the run's name, and forget them."""
    _, *lines = collector.tree()
    collector.spans.clear()
    return re.sub(r"run birds-\d+", "run NAME", "\n".join(lines))


HERE = """\
  load
  map load
    work
      work[2]
  total"""

WITH_FUNCTIONS = """\
  load
    load
  map load
    work
      work
      work
        work[2]
      work[2]
  total
    total"""


REDRIVEN = """\
  load
  map load
    work
      work[2]
  run NAME
    map load
      work
        work[2]"""


def test_the_page_shows_the_trees_that_are_sent() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text()
    for title, tree in (("here", HERE), ("with functions", WITH_FUNCTIONS)):
        assert f'```text title="{title}"\nrun birds-flow\n{tree}\n```' in page


@pytest.mark.slow
def test_one_tree_from_here_emulated_and_on_aws(account: LoopbackAws, tmp_path: Path) -> None:
    with collecting() as collector:
        project = new_project(tmp_path, account, FLOW)
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        assert project.run("run", "--run-id", "here", "--quiet", **traced).out == "4\n"
        assert take_tree(collector) == HERE
        assert project.run("emulate", "--run-id", "alone", "--quiet", **traced).out == "4\n"
        assert take_tree(collector) == HERE

        # What functions tell of themselves hangs below the same spans.
        project.settings(lambda_env=traced)
        assert project.run("emulate", "--run-id", "emulated", "--quiet", **traced).out == "4\n"
        assert take_tree(collector) == WITH_FUNCTIONS
        assert project.run("deploy", "--yes").code == 0
        assert project.run("invoke", "--run-id", "deployed", "--quiet", **traced).out == "4\n"
        assert collector.named(f"run {project.stack}").attributes["lokki.engine"] == "aws"
        assert take_tree(collector) == WITH_FUNCTIONS

        # A run that nobody waited for: its functions have told of themselves, and show tells the rest.
        assert project.run("invoke", "--run-id", "alone", "--no-wait").code == 0
        account.wait()
        shown = project.run("show", "alone", "--trace", **traced)
        assert (shown.code, shown.out) == (0, f"sent the trace {trace_id('alone')}\n"), shown.err
        assert take_tree(collector) == WITH_FUNCTIONS

        # A run that is redriven adds to its trace.
        project.settings()
        project.edit("tolerate=1", "tolerate=0")
        assert project.run("deploy", "--yes").code == 0
        assert project.run("invoke", "--run-id", "again", "--quiet", **traced).code == 1
        sent = {span.id: span for span in collector.spans if "[" not in span.name}
        collector.spans.clear()
        assert project.run("redrive", "again", "--quiet", **traced).code == 1
        once_more = {span.id: span for span in collector.spans}
        assert {span_id: once_more[span_id] for span_id in sent} == sent
        assert take_tree(collector) == REDRIVEN
        refused = project.run("show", "alone", "--trace")
        assert (refused.code, "needs OTEL_EXPORTER_OTLP_ENDPOINT" in refused.err) == (2, True)
