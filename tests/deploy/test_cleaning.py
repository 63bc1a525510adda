"""Results of old runs go, but for what can be redriven and what later runs took over."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aws.loopback_aws import LoopbackAws
from support.deployed_project import HONK, new_project

from lokki.builder.settings import check_retention
from lokki.cli.account import Account, find_account
from lokki.config import LokkiConfig
from lokki.deploy.cleaning import cleaning_in_words, plan_cleaning
from lokki.errors import ConfigError
from lokki.loading import load_flow
from lokki.store.takeover import Takeover


@pytest.mark.slow
def test_results_go_that_are_old_and_that_nothing_needs(
    account: LoopbackAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, account, HONK.replace('"honk " * times', '"honk " * times * 5000'))
    assert project.here(monkeypatch, "deploy", "--yes").code == 0
    states, s3 = account.client("stepfunctions"), account.client("s3")
    for name, times in (("good", 1), ("bad-latest", "no number"), ("other", 1)):
        text = json.dumps({"times": times})
        states.start_execution(stateMachineArn=f"{project.machine}:live", name=name, input=text)
    account.wait()
    prefix = f"lokki/{project.stack}/"

    def put(key: str, content: bytes = b"old") -> None:
        s3.put_object(Bucket=project.bucket, Key=prefix + key, Body=content)

    put("bad-latest/redrive.json", msgspec.json.encode(Takeover("first-latest")))
    put("first-latest/redrive.json", msgspec.json.encode(Takeover("zeroth")))
    for run_id in ("zeroth", "forgotten"):
        put(f"{run_id}/honk/output.pkl.gz")

    with monkeypatch.context() as changed:
        for name, value in project.environment().items():
            changed.setenv(name, value)
        changed.chdir(tmp_path)
        graph = load_flow(f"{tmp_path / 'flow.py'}:{project.name}")()
        deployed: Account = find_account(graph, "python flow.py", "", {"stack_name": None, "region": None, "env": None})

        def gone(days: int, older: int) -> tuple[set[str], int, int]:
            now = datetime.now(UTC) + timedelta(days=days)
            plan = plan_cleaning(deployed.aws, deployed.deployed, deployed.runs.store, timedelta(days=older), now)
            return {run.id for run in plan.runs}, plan.needed, plan.remaining

        everything = {"good", "other", "bad-latest", "first-latest", "zeroth", "forgotten"}
        assert gone(days=10, older=11) == (set(), 0, 6)
        # The failed run can be redriven, reads what it took over, and of the forgotten one nobody knows.
        assert gone(days=10, older=5) == ({"good", "other"}, 4, 4)
        assert gone(days=20, older=5) == (everything, 0, 0)
        plan = plan_cleaning(deployed.aws, deployed.deployed, deployed.runs.store, timedelta())
        assert cleaning_in_words(plan)[-1] == (
            "of these, 4 as old: they can be redriven, or later runs read their results"
        )

    none = project.here(monkeypatch, "clean", "--older-than", "30d", "--yes")
    assert (none.code, none.err.splitlines()) == (0, [f"nothing of {project.stack} is so old and not needed"])
    assert project.here(monkeypatch, "clean", "--older-than", "month").code == 2
    dry = project.here(monkeypatch, "clean", "--older-than", "0d", "--dry-run")
    assert (dry.code, dry.err.splitlines()[-1]) == (0, "dry run: nothing was deleted")
    unasked = project.here(monkeypatch, "clean", "--older-than", "0d")
    assert (unasked.code, "there is no terminal to ask on" in unasked.err) == (1, True)
    shown = project.here(monkeypatch, "show", "--stored")
    assert f"stored in s3://{project.bucket}/{prefix}: 6 objects" in shown.out
    cleaned = project.here(monkeypatch, "clean", "--older-than", "0d", "--yes")
    assert cleaned.err.splitlines()[-2:] == [
        f"s3://{project.bucket}/{prefix}{name}/: 1 object deleted" for name in ("good", "other")
    ]
    assert "4 objects" in project.here(monkeypatch, "show", "--stored").out
    assert project.here(monkeypatch, "destroy", "--yes").code == 0
    assert project.left() == []


@pytest.mark.parametrize(
    ("days", "timeout", "least"), [(0, 1e9, 0), (15, None, 0), (15, 86_400.0, 0), (15, 86_401.0, 16), (30, 2e6, 38)]
)
def test_results_stay_as_long_as_a_run_may_need_them(days: int, timeout: float | None, least: int) -> None:
    config = LokkiConfig(retention=days)
    if not least:
        check_retention(config, timeout)
        return
    with pytest.raises(ConfigError, match=rf"retention: {days} days are too few: .* Set {least} or more"):
        check_retention(config, timeout)
