"""The fixture `lokki_emulated`: results, calls, objects, and time that is not waited."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from lokki import RunError
from lokki.emulator.testing import Emulated, EmulatedCall

FLOWS = """
from lokki import Retry, flow, step


@step
def numbers(count: int) -> list[int]:
    print("counting")
    return list(range(count))


@step
def large(number: int) -> bytes:
    return bytes(5000)


@step
def total(values: list[bytes]) -> int:
    return sum(map(len, values))


@step(retry=Retry(attempts=3, delay=30))
def refuse(number: int) -> int:
    raise ConnectionError("nobody there")


@flow
def large_flow(count: int = 2):
    return numbers(count).map(large).agg(total)


@flow
def refused_flow():
    return refuse(1)
"""


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of flows in a project of their own."""
    (tmp_path / "fixture_flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("fixture_flows", None)
    import fixture_flows

    return fixture_flows


@pytest.mark.slow
def test_a_flow_runs_as_on_aws_and_shows_its_calls_and_objects(lokki_emulated: Emulated, flows: ModuleType) -> None:
    run = lokki_emulated(flows.large_flow, count=2)
    assert run.result == 10_000
    assert sorted(run.calls, key=lambda call: (call.step, call.item)) == [
        EmulatedCall("large", (0,)), EmulatedCall("large", (1,)), EmulatedCall("numbers"), EmulatedCall("total"),
    ]  # fmt: skip
    assert run.output == ("counting",)
    assert (run.waits, run.failures) == ((), ())
    assert any(key.startswith(f"lokki/large-flow/{run.run_id}/large/") for key in run.objects)
    assert lokki_emulated.latest is run


@pytest.mark.slow
def test_waits_between_tries_are_counted_and_skipped(lokki_emulated: Emulated, flows: ModuleType) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match="nobody there"):
        lokki_emulated(flows.refused_flow)
    run = lokki_emulated.latest
    assert (run.waits, [call.step for call in run.calls], run.result) == ((30.0, 60.0), ["refuse"] * 3, None)
    assert time.monotonic() - began < 60
    [failure] = run.failures
    assert "nobody there" in failure


def test_before_a_run_there_is_no_latest(lokki_emulated: Emulated) -> None:
    with pytest.raises(RunError, match="no flow has run yet"):
        lokki_emulated.latest  # noqa: B018
