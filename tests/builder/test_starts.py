"""What starts runs by events: what may be written in ``@flow(on=[…])``, the rules of it, and one run for each event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws.event_patterns import matches_pattern
from aws.loopback_integrations import with_integrations
from aws.policies import ACCOUNT, REGION, Call, Roles, Use, allowing
from build_flows import BUILDS, started_flow
from support.emulation import FunctionError, World, make_world

from lokki import After, Allow, Event, FinishedRun, Flow, S3Created, S3Object, Write, flow, step
from lokki.base.starts import EventParameter, Start, feedback_problem, values_of_event
from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.config import LambdaDefaultsConfig, LokkiConfig, NotifyConfig, PermissionsConfig, RolesConfig
from lokki.emulator.states.outcome import Outcome
from lokki.errors import FlowError, ParameterError
from lokki.plan import bind_parameters

TEMPLATE = BUILDS["starts"].template()
ROLES = Roles(TEMPLATE)
HERE = f"arn:aws:states:{REGION}:{ACCOUNT}"
STARTS, SQS = "arn:aws:states:::states:startExecution", "arn:aws:states:::sqs:sendMessage"


def object_event(bucket: str, key: str, **fields: Json) -> dict[str, Json]:
    detail: Json = {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "1", **fields}}
    return {"id": "7bf7", "source": "aws.s3", "detail-type": "Object Created", "detail": detail}


def run_event(flow_name: str, status: str = "SUCCEEDED") -> dict[str, Json]:
    detail: Json = {
        "stateMachineArn": f"{HERE}:stateMachine:{flow_name}",
        "executionArn": f"{HERE}:execution:{flow_name}:monday",
        "name": "monday",
        "status": status,
    }
    return {
        "id": "7bf8",
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": detail,
    }


ORDER: dict[str, Json] = {
    "id": "7bf9",
    "source": "shop",
    "detail-type": "order",
    "detail": {"country": "se", "n": [1, None]},
}


def definition() -> Json:
    properties: Any = TEMPLATE["Resources"]["Start"]["Properties"]
    text = str(properties["DefinitionString"])
    for name, value in properties["DefinitionSubstitutions"].items():
        text = text.replace(f"${{{name}}}", "live" if name == "Live" else ROLES.text(value))
    filled: Json = json.loads(text)
    return with_integrations(filled)


def started(event: Json, error: str = "") -> tuple[World, Outcome]:
    """Let the state machine work on an event; starts fail with an error."""
    world = make_world({STARTS: lambda payload: "arn", SQS: lambda payload: "1"})
    if error:

        def fail(payload: Json) -> Json:
            raise FunctionError(error, "no luck")

        world.functions.answers[STARTS] = fail
    return world, world.start(definition(), event).run()


def calls(world: World, service: str) -> list[Any]:
    return [payload for name, payload in world.functions.invocations if name == service]


# --- which events ---


@pytest.mark.parametrize(
    ("start", "key", "matches"),
    [
        (S3Created("s3://inbox/raw/", suffix=".csv"), "raw/a.csv", True),
        (S3Created("s3://inbox/raw/", suffix=".csv"), "raw/2026/a.csv", True),
        (S3Created("s3://inbox/raw/", suffix=".csv"), "raw/a.CSV", False),
        (S3Created("s3://inbox/raw/", suffix=".csv"), "raw2/a.csv", False),
        (S3Created("s3://inbox/raw/", suffix=".csv"), "raw/a.csv.gz", False),
        (S3Created("s3://inbox/", suffix=".csv"), "a.csv", True),
        (S3Created("s3://inbox/", suffix="*\\.csv"), "a*\\.csv", True),
        (S3Created("s3://inbox/", suffix="*\\.csv"), "ab.csv", False),
        (S3Created("s3://inbox/"), "anything", True),
        (S3Created("s3://inbox/raw/"), "raw/", True),
        (S3Created("s3://inbox/raw/"), "rawest", False),
        (S3Created("s3://inbox/birds.csv"), "birds.csv", True),
        (S3Created("s3://inbox/birds.csv"), "birds.csv2", False),
    ],
)
def test_an_object_starts_a_run_if_it_is_where_the_flow_listens(start: S3Created, key: str, matches: bool) -> None:
    pattern = dict(start.pattern)
    assert matches_pattern(pattern, object_event("inbox", key)) is matches
    assert not matches_pattern(pattern, object_event("other", key))
    assert not matches_pattern(pattern, object_event("inbox", key) | {"detail-type": "Object Deleted"})


def rules_of(event: Json) -> list[str]:
    """Return the rules of the template that an event matches."""

    def filled(value: Json) -> Json:
        if isinstance(value, dict) and value.keys() & {"Fn::Sub", "Ref"}:
            return ROLES.text(value)
        if isinstance(value, dict):
            return {name: filled(member) for name, member in value.items()}
        return [filled(member) for member in value] if isinstance(value, list) else value

    rules = {
        name: each["Properties"] for name, each in TEMPLATE["Resources"].items() if each["Type"] == "AWS::Events::Rule"
    }
    return [name for name, each in rules.items() if matches_pattern(filled(each["EventPattern"]), event)]


def test_each_start_has_a_rule_of_its_own() -> None:
    assert rules_of(object_event("acme-lake", "raw/a.csv")) == ["On1"]
    assert rules_of(object_event("acme-maps", "a")) == ["On2"]
    assert rules_of(run_event("birds-flow")) == ["On3"]
    assert rules_of(ORDER) == ["On4"]
    assert rules_of(run_event("birds-flow", "FAILED")) == rules_of(run_event("birds-flow2")) == []
    assert rules_of(ORDER | {"source": "shop2"}) == []


# --- one run for each event ---

EVENTS = [
    object_event("acme-lake", "raw/ä b'\".csv", **{"size": 5, "etag": "e1", "version-id": "v1"}),
    object_event("acme-maps", "a"),
    run_event("birds-flow"),
    ORDER,
    {**ORDER, "detail": {}},
]
VALUES: list[Json] = [
    {"upload": {"bucket": "acme-lake", "key": "raw/ä b'\".csv", "size": 5, "etag": "e1", "version": "v1"}},
    {"upload": {"bucket": "acme-maps", "key": "a", "size": 0, "etag": "", "version": ""}},
    {"earlier": {"flow": "birds-flow", "run_id": "monday"}},
    {"event": {"country": "se", "n": [1, None]}},
    {"event": {}},
]


@pytest.mark.parametrize(("event", "values"), [*zip(EVENTS, VALUES, strict=True)])
def test_an_event_is_the_same_parameter_here_and_deployed(event: Json, values: Json) -> None:
    graph = started_flow()
    params = [EventParameter(each.name, each.annotation, each.required) for each in graph.params]
    assert values_of_event(graph.options.on, params, event) == values
    world, outcome = started(event)
    [call] = calls(world, STARTS)
    assert (outcome.status, call["Input"], call["StateMachineArn"]) == ("SUCCEEDED", values, "live")
    assert isinstance(values, dict)
    assert bind_parameters(graph.params, values).items() >= values.items()


def name_of(event: Json) -> str:
    world, _ = started(event)
    [call] = calls(world, STARTS)
    assert len(call["Name"]) <= 80
    return str(call["Name"])


def test_the_same_event_has_the_same_run_and_another_event_another() -> None:
    first = object_event("acme-lake", "raw/a.csv", etag="e1")
    assert name_of(first) == name_of(first | {"id": "another", "time": "later"})  # S3 told it twice
    others = [
        object_event("acme-lake", "raw/a.csv", etag="e1", sequencer="2"),
        object_event("acme-lake", "raw/b.csv", etag="e1"),
        object_event("acme-maps", "raw/a.csv", etag="e1"),
        run_event("birds-flow"),
        run_event("geese-flow"),
        ORDER,
        ORDER | {"id": "7bfa"},
    ]
    assert len({name_of(event) for event in (first, *others)}) == 8
    assert name_of(ORDER) == "event-7bf9"


def test_a_run_that_there_is_already_is_no_failure() -> None:
    world, outcome = started(ORDER, "StepFunctions.ExecutionAlreadyExistsException")
    assert outcome.status == "SUCCEEDED"
    assert len(calls(world, STARTS)) == 1
    assert calls(world, SQS) == []


def test_an_event_whose_run_cannot_be_started_is_kept() -> None:
    world, outcome = started(ORDER, "StepFunctions.ExecutionLimitExceeded")
    assert (outcome.status, len(calls(world, STARTS))) == ("SUCCEEDED", 6)
    [kept] = calls(world, SQS)
    assert json.loads(kept["MessageBody"])["event"] == ORDER


def test_the_role_starts_runs_and_writes_to_the_queue_and_nothing_else() -> None:
    statements = ROLES.statements("StartRole")
    wanted = [
        Call("StartRole", "states:StartExecution", f"{HERE}:stateMachine:started-flow"),
        Call("StartRole", "sqs:SendMessage", ROLES.arn("DeadLetters")),
    ]
    used: set[Use] = set()
    for call in wanted:
        used |= allowing(statements, call)
        assert not allowing(statements, Call(call.role, call.action, f"{call.resource}2"))
    assert used == {use for statement in statements for use in statement.all_uses}


# --- what may be written ---


@step
def keep(value: object) -> int:
    return 0


@step(permissions=[Write("s3://inbox/raw/done/")])
def write_back(upload: S3Object) -> int:
    return 0


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: S3Created("in/raw"), "S3Created('in/raw'): give \"s3://bucket/prefix/\" for all below a prefix"),
        (lambda: S3Created("s3://inbox/*/"), "S3Created('s3://inbox/*/'): '*' cannot stand in it"),
        (
            lambda: S3Created("s3://inbox/a.csv", ".csv"),
            "S3Created('s3://inbox/a.csv'): it is one object",
        ),
        (lambda: After("no name"), "After('no name'): give a flow, or the name that one is deployed under."),
        (lambda: After(keep.fn), "After(<function keep"),  # type: ignore[arg-type]
        (lambda: Event({}), "Event({}): give a pattern with fields"),
        (lambda: Event({"source": "shop"}), "Event({'source': 'shop'}): source: give a list of values"),
        (lambda: Event({"source": []}), "Event({'source': []}): source: give a list of values"),
        (lambda: Event({"a": [{"sufix": "x"}]}), "Event({'a': [{'sufix': 'x'}]}): a: {'sufix': 'x'} is no rule"),
        (lambda: Event({"a": ["x" * 2048]}), "Event(…): the pattern has 2,059 characters; a rule takes 2,048."),
        (lambda: flow(on=S3Created("s3://inbox/")), "@flow(on=S3Created("),  # type: ignore[call-overload]
    ],
)
def test_what_is_no_start_is_refused(make: Any, problem: str) -> None:
    with pytest.raises(FlowError) as caught:
        make()
    assert str(caught.value).startswith(problem)


def flow_of(function: Any, *on: Start) -> Flow[...]:
    made: Flow[...] = flow(on=list(on))(function)
    return made


def none() -> Any:
    return keep(1)


def upload_only(upload: S3Object) -> Any:
    return keep(upload)


def more(upload: S3Object, limit: int) -> Any:
    return keep(upload)


def two(upload: S3Object, earlier: FinishedRun) -> Any:
    return keep(upload)


def untyped(upload: Any) -> Any:
    return keep(upload)


@pytest.mark.parametrize(
    ("function", "on", "problem"),
    [
        (none, [S3Created("s3://inbox/")], "give it a parameter for the object, such as upload: S3Object."),
        (untyped, [S3Created("s3://inbox/")], "give it a parameter for the object, such as upload: S3Object."),
        (upload_only, [After("birds")], "give it a parameter for the other run, such as earlier: FinishedRun."),
        (upload_only, [Event({"source": ["a"]})], "give it a parameter named event, for the event's detail."),
        (more, [S3Created("s3://inbox/")], "its parameter 'limit' has no default that a run could use. Give it one."),
        (
            two,
            [S3Created("s3://inbox/"), After("birds")],
            "its parameter 'upload' has no default that a run could use.",
        ),
        (upload_only, [After("upload-only")], "@flow(on=[After(flow='upload-only')]): it would start itself for ever."),
        (upload_only, ["s3://inbox/"], "@flow(on=['s3://inbox/']): give S3Created("),
    ],
)
def test_a_flow_that_could_not_take_its_events_is_refused(function: Any, on: list[Any], problem: str) -> None:
    with pytest.raises(FlowError) as caught:
        flow_of(function, *on)
    assert problem in str(caught.value)


def test_a_flow_may_be_started_by_another_one() -> None:
    assert After(started_flow) == After("started-flow")
    assert flow_of(upload_only, S3Created("s3://inbox/"))().options.on == (S3Created("s3://inbox/"),)


@pytest.mark.parametrize(
    ("permission", "url", "suffix", "loops"),
    [
        (Write("s3://inbox/raw/"), "s3://inbox/raw/", "", True),
        (Write("s3://inbox/"), "s3://inbox/raw/", ".csv", True),
        (Write("s3://inbox/raw/done/"), "s3://inbox/raw/", ".csv", True),
        (Write("s3://inbox/out/"), "s3://inbox/raw/", "", False),
        (Write("s3://other/raw/"), "s3://inbox/raw/", "", False),
        (Write("s3://inbox/raw/log.json"), "s3://inbox/raw/", ".csv", False),
        (Write("s3://inbox/raw/log.csv"), "s3://inbox/raw/", ".csv", True),
        (Write("s3://inbox/raw/*.json"), "s3://inbox/raw/", ".csv", False),
        (Write("s3://inbox/a.csv"), "s3://inbox/a.csv", "", True),
        (Allow("s3:PutObject", "arn:aws:s3:::inbox/raw/*"), "s3://inbox/raw/", "", True),
        (Allow("s3:*", "arn:aws:s3:::inbox*"), "s3://inbox/raw/", "", True),
        (Allow("s3:Put*", "*"), "s3://inbox/raw/", "", True),
        (Allow("s3:GetObject", "arn:aws:s3:::inbox/raw/*"), "s3://inbox/raw/", "", False),
        (Allow("s3:PutObject", "arn:aws:s3:::inbox/out/*"), "s3://inbox/raw/", "", False),
    ],
)
def test_a_flow_that_writes_where_it_listens_is_noticed(
    permission: Write | Allow, url: str, suffix: str, loops: bool
) -> None:
    assert bool(feedback_problem([S3Created(url, suffix)], [permission])) is loops


def test_it_is_refused_when_it_is_drawn_at_its_place() -> None:
    def loop(upload: S3Object) -> Any:
        return write_back(upload)

    with pytest.raises(FlowError) as caught:
        flow_of(loop, S3Created("s3://inbox/raw/"))()
    place, _, text = str(caught.value).partition(": ")
    assert place == f"{__file__}:{loop.__code__.co_firstlineno}"
    assert text.startswith(
        "the flow 'loop' would not end: it is started by s3://inbox/raw/, and Write(\"s3://inbox/raw/done/\")"
    )


def built(config: LokkiConfig) -> Any:
    made = flow_of(upload_only, S3Created("s3://inbox/"))
    return build_template(made(), config, {"keep": ZipCode("code.zip")})


def test_a_role_of_the_settings_does_all_of_it() -> None:
    role = "arn:aws:iam::123456789012:role/pipeline"
    roles = RolesConfig(pipeline=role, lambda_=role)
    notify = NotifyConfig(failed=("birds@example.com",))
    made = built(LokkiConfig(artifact_bucket="acme", roles=roles, notify=notify))["Resources"]
    assert not [each for each in made.values() if each["Type"] == "AWS::IAM::Role"]
    assert {made[name]["Properties"]["RoleArn"] for name in ("Start", "Notify", "StateMachine")} == {role}
    rules = [each["Properties"] for each in made.values() if each["Type"] == "AWS::Events::Rule"]
    assert [(len(each["Targets"]), each["Targets"][0]["RoleArn"]) for each in rules] == [(1, role)] * 3


def test_it_is_refused_when_the_settings_make_it_so() -> None:
    writes = LambdaDefaultsConfig(permissions=PermissionsConfig(write=("s3://inbox/out/",)))
    with pytest.raises(FlowError, match=r"'upload-only' would not end: it is started by s3://inbox/, and Write"):
        built(LokkiConfig(artifact_bucket="acme", lambda_defaults=writes))
    with pytest.raises(FlowError, match=r"is where its steps write what they hand on"):
        built(LokkiConfig(artifact_bucket="inbox"))
    assert "On1" in built(LokkiConfig(artifact_bucket="acme"))["Resources"]


def test_an_event_of_another_kind_is_refused() -> None:
    params = [EventParameter("upload", S3Object, True)]
    for event in (ORDER, {}, [], None, "x", run_event("birds")):
        with pytest.raises(ParameterError) as caught:
            values_of_event([S3Created("s3://inbox/")], params, event)
        assert str(caught.value) == "this event does not start the flow, which is started by S3Created."
