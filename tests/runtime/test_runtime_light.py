"""What a cold start of a function loads. Each library here would be paid for at every start."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

HANDLER = """
import sys
from birds_flow_example import birds_flow, flap_bird
from lokki.runtime.handler import make_handler
handler = make_handler(flap_bird, flow=birds_flow, calls={"flap_bird": {"reads": "item"}}, environ={
    "LOKKI_ARTIFACT_BUCKET": "bucket", "LOKKI_FLOW_NAME": "birds-flow", "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
})
"""
INVOKED = """
class Context:
    def get_remaining_time_in_millis(self): return 1000
handler({"run_id": "run-1", "call": "flap_bird", "params": {}, "items": [{"index": 0, "item": "goose"}]}, Context())
"""

HEAVY = {
    "boto3", "botocore", "click", "yaml", "rich", "numpy", "pandas", "pydantic", "requests",  # libraries
    "asyncio", "multiprocessing", "http", "email", "ssl", "subprocess", "unittest", "xml", "sqlite3", "zipfile",
    "tempfile", "shutil", "gzip", "json", "configparser", "argparse", "ctypes", "random", "difflib", "pprint",
    "snapshot_restore_py", "hashlib",
}  # fmt: skip
"""What has no business in a function that runs a step; the runtime client itself may load some of it."""


def loaded(code: str) -> set[str]:
    """Return the modules that a fresh Python has loaded after some code."""
    code += "\nprint('loaded', *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.splitlines()[-1].split()[1:])


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_a_cold_start_loads_nothing_heavy() -> None:
    assert packages(loaded(HANDLER)) & HEAVY == set()


def test_an_item_of_a_map_loads_nothing_heavy_either() -> None:
    assert packages(loaded(HANDLER + INVOKED)) & HEAVY == set()


def test_a_cold_start_loads_only_what_runs_a_step() -> None:
    own = {name for name in loaded(HANDLER) if name.startswith("lokki.")}
    assert {name for name in own if name.count(".") == 1} == {
        f"lokki.{name}"
        for name in ("base", "chain", "decorators", "engine", "errors", "plan", "plans", "runtime", "store")
    }
    assert {name for name in own if name.startswith(("lokki.base.", "lokki.engine.", "lokki.store."))} == {
        f"lokki.{name}"
        for name in (
            "base.convert", "base.failures", "base.item_path", "base.naming", "base.options",
            "base.placeholders", "base.quotas", "base.signatures", "base.values", "base.variables", "engine.invocation",
            "store.arrays", "store.base", "store.codec", "store.keys", "store.profile", "store.s3",
            "store.vector_registers",
        )
    }  # fmt: skip


def test_a_heavy_library_would_be_seen() -> None:
    assert packages(loaded("import sys, tempfile, yaml")) >= {"tempfile", "yaml"}
