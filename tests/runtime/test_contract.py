"""docs/contract.md says what the handler does: each of its examples is run."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aws.moto_server import Aws
from support.lambda_function import FLOW, RUN, Context

from lokki.base.values import Json
from lokki.builder.compiled import compile_flow
from lokki.builder.cost_limits import cost_limits
from lokki.builder.lambda_pkg import HANDLER_SOURCE, Importable, StepCode, describe_calls, step_json
from lokki.config import LokkiConfig
from lokki.plan import lower
from lokki.runtime.handler import Handler, make_handler

DOCUMENT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r'^```(\w+) title="([^"\n]*)"\n(.*?)^```$', DOCUMENT, re.MULTILINE | re.DOTALL)
BUCKET = "my-artifacts"


def blocks(language: str, kind: str) -> list[tuple[str, str]]:
    """Return what is behind the kind of each such block, and its text."""
    found = []
    for block_language, told, text in BLOCKS:
        block_kind, _, rest = told.partition(" ")
        if (block_language, block_kind) == (language, kind):
            found.append((rest, text))
    return found


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The flows of the document, as the module `birds`."""
    path = tmp_path_factory.mktemp("flow") / "birds.py"
    path.write_text("\n\n".join(text for kind in ("flow", "graph", "limit") for _, text in blocks("python", kind)))
    spec = importlib.util.spec_from_file_location("birds", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["birds"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["birds"]


@pytest.fixture(scope="module")
def handlers(aws: Aws, birds: ModuleType) -> dict[str, Handler]:
    """The handlers of the flow's steps, by call; `join_birds_2` is not in the flow, and reads one value."""
    aws.s3.create_bucket(Bucket=BUCKET)
    environ = {**aws.environ, "LOKKI_ARTIFACT_BUCKET": BUCKET, "LOKKI_FLOW_NAME": FLOW}
    described = describe_calls(lower(birds.birds_flow()))
    described["join_birds"]["join_birds_2"] = {"reads": "output"}
    graph = describe_calls(lower(birds.nests_flow()))
    limit = limited_calls(birds)
    made = {}
    for name, calls in (described | graph | limit).items():
        drawn = birds.nests_flow if name in graph else birds.rows_flow if name in limit else birds.birds_flow
        lambda_handler = make_handler(getattr(birds, name), flow=drawn, calls=calls, environ=environ)
        made.update(dict.fromkeys(calls, lambda_handler))
    return made


def limited_calls(birds: ModuleType) -> dict[str, dict[str, Json]]:
    compiled = compile_flow(birds.rows_flow(), LokkiConfig())
    return describe_calls(compiled.plan, cost_limits(compiled))


def test_every_example_is_what_the_handler_does(aws: Aws, handlers: dict[str, Handler]) -> None:
    outcome: dict[str, Any] = {}
    checked = []
    for language, told, text in BLOCKS:
        kind, _, name = told.partition(" ")
        if language != "json" or kind in ("log", "step.json"):
            continue
        value = json.loads(text)
        key = f"lokki/{FLOW}{name}" if name.startswith("/") else f"lokki/{FLOW}/{RUN}/{name}"
        if kind == "event":
            outcome = invoked(handlers[name], value)
        elif kind == "given":
            aws.s3.put_object(Bucket=BUCKET, Key=key, Body=text.strip().encode())
        elif kind == "object":
            assert json.loads(aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()) == value
        else:
            assert {kind: value} == outcome
        checked.append(kind)
    assert (checked.count("event"), checked.count("reply"), checked.count("error")) == (18, 13, 5)


def invoked(lambda_handler: Handler, event: object) -> dict[str, Any]:
    try:
        return {"reply": lambda_handler(event, Context())}
    except Exception as error:
        return {"error": {"errorType": type(error).__name__, "errorMessage": str(error)}}


def test_the_generated_handler_is_what_build_writes(birds: ModuleType) -> None:
    calls = describe_calls(lower(birds.birds_flow())) | limited_calls(birds)
    assert blocks("python", "handler.py") == [("", HANDLER_SOURCE)]
    described = dict(blocks("json", "step.json"))
    assert [*described] == ["flap_bird", "list_rows"]
    for (name, text), drawn in zip(described.items(), ("birds_flow", "rows_flow"), strict=True):
        code = StepCode(FLOW, name, Importable("birds", drawn), Importable("birds", name), calls[name], {}, {})
        assert json.loads(step_json(code)) == json.loads(text)


def test_the_log_lines_are_those_of_the_handler(
    handlers: dict[str, Handler], capsys: pytest.CaptureFixture[str]
) -> None:
    event = next(json.loads(text) for name, text in blocks("json", "event") if name == "flap_bird")
    capsys.readouterr()
    handlers["flap_bird"](event, Context())
    told = [json.loads(text) for _, text in blocks("json", "log")]
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in logged] == [list(line) for line in told]
    assert [{**line, "seconds": 0} for line in logged] == [{**line, "seconds": 0} for line in told]
