"""The law of the local runner on random chains, as a function and as a program."""

import datetime
import os
import pickle
import sys
import tempfile
from pathlib import Path

import steps
from drawn_chain import DESCRIPTION, Chain, drawn_chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import CHAINS, call, comparable, draw

from lokki import Flow
from lokki.errors import RunError
from lokki.graph import FlowGraph
from lokki.runner import Executor
from support.local_runs import Local

LABEL, SINCE = "ä \U0001f986", datetime.date(2026, 2, 3)


def check(executor: Executor, examples: int) -> None:
    """Compare runs of random chains, whole and interrupted by a failure and resumed, with a direct call."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(CHAINS, st.integers(0, 25), st.sampled_from([0, 200, 4096]))
    def law(chain: Chain, trip_at: int, inline_limit: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            local = Local(Path(folder), executor, workers=2, inline_limit=inline_limit)
            steps.TRIP[:] = []
            expected = comparable(call(chain, LABEL, SINCE))
            params = {"label": LABEL, "since": SINCE}
            try:
                result = local.run(drawn(chain, [trip_at] if trip_at else [], executor, Path(folder)), params)
            except RunError:
                assert trip_at
                result = local.resume(drawn(chain, [], executor, Path(folder)))
            assert comparable(result) == expected

    law()


def drawn(chain: Chain, trip: list[int], executor: Executor, folder: Path) -> FlowGraph:
    """Draw a chain, where worker processes find it if there are to be any, and say when its steps trip."""
    if executor != "processes":
        steps.TRIP[:] = trip
        return draw(chain)
    (folder / "chain").write_bytes(pickle.dumps((chain, trip)))
    os.environ[DESCRIPTION] = str(folder / "chain")
    flow: Flow[..., object] = drawn_chain  # its parameters are those of the run
    return flow()


if __name__ == "__main__":
    check(sys.argv[1], int(sys.argv[2]))  # type: ignore[arg-type]
