"""What a deployment changes, in words: whole lines for whole changes."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from build_flows import BUILDS

from lokki.builder.packages.folder import Bundle
from lokki.builder.template_text import dump_template
from lokki.deploy.changes import Action, ResourceChange, Templates, in_words
from lokki.deploy.deployment import Target

FUNCTION, MACHINE, LOGS = "AWS::Lambda::Function", "AWS::StepFunctions::StateMachine", "AWS::Logs::LogGroup"

type Template = dict[str, Any]


@pytest.fixture
def before() -> Template:
    return BUILDS["parameters-and-schedule"].template()


def words(before: Template, after: Template, *changes: ResourceChange) -> list[str]:
    return in_words(changes, Templates(before, after, {}, {}))


def changed(name: str, kind: str = FUNCTION, *properties: str, action: Action = "changed") -> ResourceChange:
    return ResourceChange(name, kind, action, properties)


def properties(template: Template, name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def test_a_new_flow_is_its_steps_and_what_they_share(before: Template) -> None:
    made = [ResourceChange(name, each["Type"], "created") for name, each in before["Resources"].items()]
    assert words({}, before, *made) == [
        "read_days                  created",
        "count_birds                created",
        "report                     created",
        "role of the steps          created",
        "role of the state machine  created",
        "role of the schedule       created",
        "logs of the state machine  created",
        "state machine              created",
        "schedule                   created",
    ]


def test_a_step_says_which_of_its_settings_change_and_no_values_of_variables(before: Template) -> None:
    after = copy.deepcopy(before)
    step = properties(after, "ReadDaysFunction")
    step["Code"]["S3Key"] = "another.zip"
    step |= {"MemorySize": 1024, "Timeout": 61, "Architectures": ["arm64"], "Role": "arn:given"}
    step["Environment"]["Variables"] |= {"TOKEN": "secret", "LOKKI_LOG_LEVEL": "ERROR"}
    step["Tags"] = step["Tags"][1:]
    [line] = words(before, after, changed("ReadDaysFunction"))
    assert line == (
        "read_days  architectures, code, variables ~LOKKI_LOG_LEVEL, +TOKEN, memory 256 → 1024 MB, role, "
        "tags -cost-center, timeout 60 → 61 s"
    )


def test_what_only_code_changes_is_said_once(before: Template) -> None:
    after = copy.deepcopy(before)
    properties(after, "ReadDaysFunction")["Code"]["S3Key"] = "another.zip"
    lines = words(
        before,
        after,
        changed("ReadDaysFunction"),
        ResourceChange("ReadDaysVersion00000001", "AWS::Lambda::Version", "created"),
        ResourceChange("StateMachineVersion", "AWS::StepFunctions::StateMachineVersion", "replaced"),
        ResourceChange("Live", "AWS::StepFunctions::StateMachineAlias", "changed"),
        changed("StateMachine", MACHINE, "DefinitionSubstitutions"),
    )
    assert lines == ["read_days      code", "state machine  uses the new code"]


def test_a_step_that_goes_takes_its_log_along(before: Template) -> None:
    after = copy.deepcopy(before)
    del after["Resources"]["ReportFunction"], after["Resources"]["ReportLogGroup"]
    gone = [
        changed(f"Report{part}", kind, action="deleted") for part, kind in (("Function", FUNCTION), ("LogGroup", LOGS))
    ]
    assert words(before, after, *gone) == ["report  deleted"]


def test_a_log_that_changes_alone_is_told(before: Template) -> None:
    after = copy.deepcopy(before)
    properties(after, "ReportLogGroup")["RetentionInDays"] = 7
    assert words(before, after, changed("ReportLogGroup", LOGS)) == ["logs of report  kept for 365 → 7 days"]


def test_states_and_permissions_and_schedules_are_named(before: Template) -> None:
    after = copy.deepcopy(before)
    machine = properties(after, "StateMachine")
    machine["DefinitionString"] = machine["DefinitionString"].replace('"Report"', '"Tell"').replace("915", "99")
    policy = properties(after, "StepFunctionsExecutionRole")["Policies"][0]["PolicyDocument"]
    policy["Statement"] = policy["Statement"][1:]
    properties(after, "Schedule")["ScheduleExpression"] = "rate(1 hour)"
    properties(after, "Schedule")["Target"]["Input"] = "{}"
    role = changed("StepFunctionsExecutionRole", "AWS::IAM::Role")
    schedule = changed("Schedule", "AWS::Scheduler::Schedule")
    lines = words(before, after, role, changed("StateMachine", MACHINE), schedule)
    given = '{"since": "2026-01-01", "days": 7, "bird": "goose", "limit"…'
    assert lines == [
        "role of the state machine  permissions -InvokeSteps",
        "state machine              states ~ReadDaysMap, -Report, +Tell",
        f"schedule                   cron(30 6 ? * MON-FRI *) → rate(1 hour), parameters {given} → {{}}",
    ]


def test_what_is_replaced_and_what_changes_only_by_reference_is_said(before: Template) -> None:
    assert words(before, before, changed("ReportFunction", FUNCTION, "FunctionName", action="replaced")) == [
        "report  replaced: function name"
    ]
    assert words(before, before, changed("ScheduleRole", "AWS::IAM::Role")) == [
        "role of the schedule  through what it refers to"
    ]


def test_values_of_parameters_are_compared(before: Template) -> None:
    templates = Templates(
        before, before, {"S3Bucket": "old", "FlowName": "birds"}, {"S3Bucket": "new", "FlowName": "birds"}
    )
    assert in_words([], templates) == ["parameter S3Bucket old → new"]


def test_what_only_the_account_changed_is_said_as_that(before: Template) -> None:
    change = changed("StateMachine", MACHINE, "DefinitionSubstitutions")
    templates = Templates(before, before, {"MapConcurrency": "10"}, {"MapConcurrency": "1000"})
    assert in_words([change], templates) == [
        "state machine  how many items of a map run at once",
        "parameter MapConcurrency 10 → 1000",
    ]


# --- schedules with a beginning and an end ---


def target(now: datetime) -> Target:
    build = BUILDS["account"]
    bundle = Bundle("account-flow", {}, {"template.yaml": dump_template(build.template())}, (), ())
    return Target(bundle, build.config, now=now)


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        (datetime(2098, 12, 31, tzinfo=UTC), "2099-01-01T10:00:00Z", ""),
        (datetime(2099, 1, 1, 10, tzinfo=UTC), "", ""),
        (datetime(2099, 6, 30, 21, tzinfo=UTC), "", "2099-06-30T21:00:00Z"),
    ],
)
def test_a_schedule_has_no_beginning_that_is_past_and_no_deployment_when_it_has_ended(
    day: datetime, start: str, end: str
) -> None:
    """Scheduler refuses both."""
    made = target(day)
    assert (made.parameters["ScheduleStart"], made.ended) == (start, end)
