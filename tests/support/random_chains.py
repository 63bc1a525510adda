"""The law of the local runner on random chains, as a function and as a program: a process with one thread may fork."""

import datetime
import sys
import tempfile
from pathlib import Path

import steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import CHAINS, Chain, call, comparable, draw

from lokki.errors import RunError
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
            steps.TRIP[:] = [trip_at] if trip_at else []
            params = {"label": LABEL, "since": SINCE}
            try:
                result = local.run(draw(chain), params)
            except RunError:
                assert trip_at
                steps.TRIP[:] = []
                result = local.resume(draw(chain))
            assert comparable(result) == expected

    law()


if __name__ == "__main__":
    check(sys.argv[1], int(sys.argv[2]))  # type: ignore[arg-type]
