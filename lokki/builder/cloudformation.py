"""The CloudFormation template of a flow: functions, log groups, roles, the state machine and its schedule.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import date

from lokki.base.quotas import CHILDREN_AT_ONCE, FUNCTION_NAME_LENGTH, LAYERS, LEAST_DISK, STACK_RESOURCES
from lokki.base.starts import utc_moment
from lokki.base.values import Json
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.dead_letters import QUEUE, EventParts, joined_parts
from lokki.builder.environment import function_environment
from lokki.builder.merging import (
    NO_TEMPLATE,
    UserTemplate,
    check_references,
    digest_of_resources,
    merged_template,
)
from lokki.builder.names import (
    FLOW_NAME_PATTERN,
    DeployedFunction,
    function_id,
    log_group_id,
    role_id,
    version_id,
)
from lokki.builder.notifications import Sender, notification_parts
from lokki.builder.package_types import LAMBDA_PYTHON_TEXT, Code, ImageCode, ZipCode
from lokki.builder.permissions import (
    FunctionRole,
    RoleSettings,
    TemplatePart,
    attribute,
    lambda_role,
    own_permissions,
    ref,
    schedule_role,
    step_functions_role,
    sub,
)
from lokki.builder.placeholders import (
    BUCKET_PARAMETER,
    CONCURRENCY_PARAMETER,
    FLOW_PARAMETER,
    has_unbounded_map,
    substitutions,
)
from lokki.builder.settings import default_permissions
from lokki.builder.starts import start_parts
from lokki.builder.state_machine import dump_state_machine, state_machine_of
from lokki.builder.timing import at_once, function_timeout
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.errors import FlowError, ParameterError
from lokki.graph import FlowGraph
from lokki.plan import Plan, bind_parameters

RUNTIME = f"python{LAMBDA_PYTHON_TEXT}"
HANDLER = "handler.lambda_handler"

LIVE = "live"
"""The alias through which runs are started: it points at the version of the state machine that is in use."""

_OF_NO_VERSION = ("ReservedConcurrentExecutions", "Tags")
"""Properties of a function that are of all its versions.
https://docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html"""

START_PARAMETER = "ScheduleStart"
_STARTS_LATER = "ScheduleStartsLater"

_SHARED_ROLE = "LambdaExecutionRole"
"""Of the steps that have no permissions of their own."""

_KEPT: TemplatePart = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
"""Of versions: they outlive their place in the template, unless the deployment that made them fails.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html"""


def build_template(
    graph: FlowGraph, config: LokkiConfig, packages: Mapping[str, Code], user: UserTemplate = NO_TEMPLATE
) -> dict[str, Json]:
    """Return the template of a flow.

    ``packages`` says for each step where its code is, ``user`` what else is in the stack. The state machine's
    definition is in it as text, the same as ``statemachine.json``, so that the template is whole and a change set shows
    every change. Raises FlowError for a flow that no stack can hold, ConfigError for settings that AWS does not take.
    """
    return template_of(compile_flow(graph, config), packages, user)


def template_of(compiled: Compiled, packages: Mapping[str, Code], user: UserTemplate = NO_TEMPLATE) -> dict[str, Json]:
    """Return the template of a compiled flow.

    Raises what `build_template` raises.
    """
    plan, config, suffixes = compiled.plan, compiled.config, compiled.suffixes
    check_references(compiled.steps, user)
    resources: TemplatePart = {}
    versions: dict[str, str] = {}
    for function in compiled.functions:
        code = packages[function.step.name]
        if not function.larger:  # the larger one writes to the same group
            group = f"/aws/lambda/${{FlowName}}-{suffixes[function.name]}"
            resources[log_group_id(function.name)] = _log_group(group, config)
        properties = _function_properties(compiled, function, suffixes[function.name], code)
        properties["Environment"] = {
            "Variables": function_environment(function.step, config, digest_of_resources(function.step, user))
        }
        version = version_id(function.name, _content(properties, code, config))
        versions[function.name] = version
        resources[function_id(function.name)] = {"Type": "AWS::Lambda::Function", "Properties": properties}
        resources[version] = _version(function.name)
    resources |= _roles(compiled)
    resources["StateMachineLogs"] = _log_group("/aws/vendedlogs/states/${FlowName}", config)
    resources["StateMachine"] = _state_machine(compiled, versions)
    resources |= _live()
    if plan.options.schedule is not None:
        resources["Schedule"] = _schedule(plan, config)
    resources |= _event_resources(compiled)
    if len(resources) > STACK_RESOURCES:
        raise FlowError(
            f"the flow {plan.flow!r} has {len(compiled.steps)} steps, which make {len(resources)} resources; "
            f"a stack holds {STACK_RESOURCES}. Split the flow."
        )
    if len(resources) + len(user.resources) > STACK_RESOURCES:
        raise FlowError(
            f"{user.path} has {len(user.resources)} resources and the flow {plan.flow!r} makes {len(resources)}; "
            f"a stack holds {STACK_RESOURCES}. Make a stack of your own of some."
        )
    template: dict[str, Json] = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"The flow {plan.flow}, built by lokki.",
        "Parameters": _parameters(compiled, packages),
        **({"Conditions": {_STARTS_LATER: _starts_later()}} if plan.options.schedule_start else {}),
        "Resources": resources,
        "Outputs": _outputs(),
    }
    return merged_template(template, user) if user.path else template


def _parameters(compiled: Compiled, packages: Mapping[str, Code]) -> TemplatePart:
    config = compiled.config
    images = [code for code in packages.values() if isinstance(code, ImageCode)]
    room = FUNCTION_NAME_LENGTH - len("-") - max(len(suffix) for suffix in compiled.suffixes.values())
    parameters: TemplatePart = {
        FLOW_PARAMETER: {
            "Type": "String",
            "Description": "The name of the state machine; the names of all else begin with it.",
            "Default": compiled.name,
            "AllowedPattern": f"^{FLOW_NAME_PATTERN}$",
            "MaxLength": room,
        },
        BUCKET_PARAMETER: _parameter("The bucket that holds the code and what steps hand on.", config.artifact_bucket),
    }
    if images:
        parameters["ECRRepoPrefix"] = _parameter(
            "The registry, and what the names of the images' repositories begin with.", config.ecr_repo_prefix
        )
    if any(not code.tag for code in images):
        parameters["ImageTag"] = _parameter("The tag of the images.", config.lambda_defaults.image_tag)
    if has_unbounded_map(compiled):
        parameters[CONCURRENCY_PARAMETER] = {
            "Type": "Number",
            "Description": "How many items of a map run at once: as many as the account runs functions.",
            "Default": at_once(config),
            "MinValue": 1,
            "MaxValue": CHILDREN_AT_ONCE,
        }
    if plan_starts := compiled.plan.options.schedule_start:
        moment = _scheduler_time(plan_starts, compiled.plan)
        parameters[START_PARAMETER] = _parameter("When the schedule begins; empty once it has.", moment)
    return parameters


def _parameter(description: str, default: str) -> TemplatePart:
    parameter: TemplatePart = {"Type": "String", "Description": description}
    return parameter | ({"Default": default} if default else {"MinLength": 1})


def _function_properties(compiled: Compiled, function: DeployedFunction, suffix: str, code: Code) -> TemplatePart:
    """Return the properties of a function.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
    """
    step, config = function.step, compiled.config
    properties: TemplatePart = {
        "FunctionName": sub(f"${{FlowName}}-{suffix}"),
        "Description": sub(f"The step {step.name} of ${{FlowName}}{', with more memory' if function.larger else ''}"),
        **_code(code),
        "Architectures": [config.architecture],
        "MemorySize": _memory(compiled, function),
        "Timeout": function_timeout(compiled, step),
        "Role": config.roles.lambda_ or attribute(role_id(step.name) if own_permissions(step) else _SHARED_ROLE),
        "Environment": {},
        "LoggingConfig": {"LogGroup": ref(log_group_id(step.name)), **_log_format(config)},
    }
    disk = step.options.disk or config.lambda_defaults.disk
    if config.lambda_defaults.snap_start and isinstance(code, ZipCode):
        properties["SnapStart"] = _snap_start(step.name, disk)
    if disk != LEAST_DISK:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-ephemeral-storage.html
        properties["EphemeralStorage"] = {"Size": disk}
    if config.tracing:
        properties["TracingConfig"] = {"Mode": "Active"}
    properties |= _account_properties(step, code, config)
    properties["Tags"] = _tags(config)
    return properties


def _log_format(config: LokkiConfig) -> TemplatePart:
    """Return how the runtime writes logs, nothing for its default.

    As JSON, the runtime drops what is below a level of its own, by default INFO:
    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
    """
    if config.log_format == "Text":
        return {}
    level = {"WARNING": "WARN", "CRITICAL": "FATAL"}.get(config.log_level, config.log_level)
    return {"LogFormat": config.log_format, "ApplicationLogLevel": level}


def _account_properties(step: AnyStep, code: Code, config: LokkiConfig) -> TemplatePart:
    """Return what an account asks for, and most do not."""
    properties: TemplatePart = {}
    defaults = config.lambda_defaults
    layers = list(dict.fromkeys((*defaults.layers, *step.options.layers)))
    if len(layers) > LAYERS:
        raise FlowError(
            f"{step.name}() has {len(layers)} layers with those of lambda_defaults; Lambda takes {LAYERS}. Remove some."
        )
    if layers and not isinstance(code, ZipCode):
        raise FlowError(
            f"{step.name}() has layers, which are for zip packages, and its package is an image. "
            "Put what they hold into the image."
        )
    if layers:
        properties["Layers"] = [*layers]
    if defaults.vpc.subnets:
        vpc: TemplatePart = {
            "SubnetIds": [*defaults.vpc.subnets],
            "SecurityGroupIds": [*defaults.vpc.security_groups],
        }
        properties["VpcConfig"] = vpc
    if "environment" in config.encrypt:
        properties["KmsKeyArn"] = config.kms_key
    if step.options.reserved_concurrency is not None:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
        properties["ReservedConcurrentExecutions"] = step.options.reserved_concurrency
    return properties


def _snap_start(step: str, disk: int) -> TemplatePart:
    """Return when snapshots are taken.

    Raises FlowError for a step with more /tmp than a snapshot may have.
    https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes
    """
    if disk > LEAST_DISK:
        raise FlowError(
            f"{step}() has {disk} MB of /tmp, and with lambda_defaults.snap_start Lambda gives {LEAST_DISK}. "
            "Lower its disk (@step(disk=…), lambda_defaults.disk), or remove snap_start from lokki.yml."
        )
    return {"ApplyOn": "PublishedVersions"}


def _memory(compiled: Compiled, function: DeployedFunction) -> int:
    """Return the megabytes of a function.

    Raises FlowError for a larger function that is not larger by these settings.
    """
    step = function.step
    first, largest = compiled.memory(step), step.options.memory_max
    if not function.larger or largest is None:
        return first
    if largest <= first:
        raise FlowError(
            f"@step(memory_max={largest}) of {step.name}(): its function has {first} MB by lambda_defaults.memory, and "
            "memory_max is for another try with more. Give more, or give @step(memory=…)."
        )
    return largest


def _content(properties: TemplatePart, code: Code, config: LokkiConfig) -> str:
    """Return as text all that a version of a function is made of."""
    # Lambda makes no version where only these have changed, so a new id for it would fail the deployment.
    content = {name: value for name, value in properties.items() if name not in _OF_NO_VERSION}
    parameters = [config.artifact_bucket]  # what the template's parameters stand for
    if isinstance(code, ImageCode):
        parameters += [config.ecr_repo_prefix, "" if code.tag else config.lambda_defaults.image_tag]
    return json.dumps([content, parameters])


def _version(step: str) -> TemplatePart:
    """Return a version of a function.

    It stays when the function has a newer one, since runs may still use it, and goes with its function:
    https://docs.aws.amazon.com/lambda/latest/api/API_DeleteFunction.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-version.html
    """
    return {"Type": "AWS::Lambda::Version", **_KEPT, "Properties": {"FunctionName": ref(function_id(step))}}


def _code(code: Code) -> TemplatePart:
    match code:
        case ZipCode(key):
            place: TemplatePart = {"S3Bucket": ref("S3Bucket"), "S3Key": key}
            return {"PackageType": "Zip", "Code": place, "Runtime": RUNTIME, "Handler": HANDLER}
        case ImageCode(repository, tag):
            uri = f"${{ECRRepoPrefix}}/{repository}:{tag or '${ImageTag}'}"
            return {"PackageType": "Image", "Code": {"ImageUri": sub(uri)}, "ImageConfig": {"Command": [HANDLER]}}


def _roles(compiled: Compiled) -> TemplatePart:
    """Return the roles that the settings do not name.

    A role that they name for the state machine starts scheduled runs, too.
    """
    config, settings = compiled.config, _role_settings(compiled.config)
    roles: TemplatePart = {}
    if not config.roles.lambda_:
        for role in _function_roles(compiled):
            roles |= lambda_role(role, settings)
    if not config.roles.pipeline:
        functions = [function_id(function.name) for function in compiled.functions]
        roles |= step_functions_role("StepFunctionsExecutionRole", functions, settings, maps=bool(compiled.maps))
        if compiled.plan.options.schedule is not None:
            roles |= schedule_role("ScheduleRole", settings, QUEUE if config.notify.failed else "")
    return roles


def _role_settings(config: LokkiConfig) -> RoleSettings:
    return RoleSettings(
        config.tracing,
        config.kms_key,
        config.permissions_boundary,
        tuple(_tags(config)),
        "environment" in config.encrypt,
        bool(config.lambda_defaults.vpc.subnets),
    )


def _event_resources(compiled: Compiled) -> TemplatePart:
    """Return what starts runs by events, and what tells of their ends."""
    role, sender = compiled.config.roles.pipeline, _sender(compiled)
    parts = start_parts(compiled, role, EventParts(sender.settings))
    return joined_parts(parts, notification_parts(compiled.config.notify, sender)).with_queue(role)


def _sender(compiled: Compiled) -> Sender:
    """Return who tells of runs.

    A role that the settings name for the state machine is that of all which starts or watches runs.
    """
    config = compiled.config
    command = f"python {shlex.quote(compiled.file or 'flow.py')}"
    options = compiled.plan.options
    starts = options.schedule is not None or bool(options.on)
    return Sender(command, _role_settings(config), config.roles.pipeline, starts)


def _function_roles(compiled: Compiled) -> Iterator[FunctionRole]:
    """Yield the role that steps share, and those of single steps.

    A step with permissions of its own has one.
    """
    everybody = default_permissions(compiled.config)
    sharing = tuple(log_group_id(step.name) for step in compiled.steps if not own_permissions(step))
    if sharing:
        yield FunctionRole(_SHARED_ROLE, "The functions of ${FlowName}", sharing, everybody)
    for step in compiled.steps:
        if own := own_permissions(step):
            # The description of a role is Latin text, as the names of functions are and those of steps need not be.
            description = f"The step {compiled.suffixes[step.name]} of ${{FlowName}}"
            yield FunctionRole(role_id(step.name), description, (log_group_id(step.name),), (*everybody, *own))


def _log_group(name: str, config: LokkiConfig) -> TemplatePart:
    return {
        "Type": "AWS::Logs::LogGroup",
        # A log group that outlived its stack would be in the way of the next one of the same name.
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {
            "LogGroupName": sub(name),
            "RetentionInDays": config.log_retention,
            # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
            **({"KmsKeyId": config.kms_key} if "logs" in config.encrypt else {}),
            "Tags": _tags(config),
        },
    }


def _state_machine(compiled: Compiled, versions: Mapping[str, str]) -> TemplatePart:
    """Return the state machine, which invokes versions of functions.

    So a run in progress keeps its code.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html

    Log groups under /aws/vendedlogs/ need no resource policy of their own, of which a region has ten:
    https://docs.aws.amazon.com/step-functions/latest/dg/bp-cwl.html
    """
    config = compiled.config
    functions = {name: f"${{{version}}}" for name, version in versions.items()}
    destination: TemplatePart = {"CloudWatchLogsLogGroup": {"LogGroupArn": attribute("StateMachineLogs")}}
    properties: TemplatePart = {
        "StateMachineName": ref("FlowName"),
        "StateMachineType": "STANDARD",
        "RoleArn": config.roles.pipeline or attribute("StepFunctionsExecutionRole"),
        "DefinitionString": dump_state_machine(state_machine_of(compiled)).decode(),
        "DefinitionSubstitutions": {
            placeholder: _resolved(text) for placeholder, text in substitutions(compiled, functions).items()
        },
        "LoggingConfiguration": {"Level": "ERROR", "IncludeExecutionData": False, "Destinations": [destination]},
        "TracingConfiguration": {"Enabled": config.tracing},
        "Tags": _tags(config),
    }
    return {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}


def _resolved(text: str) -> Json:
    """Return a text whose placeholders CloudFormation resolves."""
    # cfn-lint warns of Fn::Sub in a text without placeholders (W1020).
    if whole := re.fullmatch(r"\$\{(\w+)\}", text):
        return ref(whole[1])
    return sub(text) if "${" in text else text


def _live() -> TemplatePart:
    """Return a version of the state machine and the alias of new runs.

    The alias points at the version. Older versions stay, for `rollback`, and go with the state machine:
    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DeleteStateMachine.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachineversion.html
    """
    version: TemplatePart = {
        "StateMachineArn": ref("StateMachine"),
        "StateMachineRevisionId": attribute("StateMachine", "StateMachineRevisionId"),
    }
    alias: TemplatePart = {
        "Name": LIVE,
        "RoutingConfiguration": [{"StateMachineVersionArn": ref("StateMachineVersion"), "Weight": 100}],
    }
    return {
        "StateMachineVersion": {"Type": "AWS::StepFunctions::StateMachineVersion", **_KEPT, "Properties": version},
        "Live": {"Type": "AWS::StepFunctions::StateMachineAlias", "Properties": alias},
    }


def _schedule(plan: Plan, config: LokkiConfig) -> TemplatePart:
    """Return the schedule that starts runs.

    Raises FlowError for a flow whose parameters do not all have defaults.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-scheduler-schedule.html
    """
    try:
        defaults = bind_parameters(plan.params, {})
    except ParameterError as error:
        raise FlowError(f"the flow {plan.flow!r} cannot run on a schedule: {error}") from None
    target: TemplatePart = {
        "Arn": ref("Live"),
        "RoleArn": config.roles.pipeline or attribute("ScheduleRole"),
        "Input": json.dumps(defaults, ensure_ascii=False),
    }
    if config.notify.failed:
        # What is dropped is noticed by the queue. The numbers are Scheduler's own:
        # https://docs.aws.amazon.com/scheduler/latest/APIReference/API_RetryPolicy.html
        target["RetryPolicy"] = {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
        target["DeadLetterConfig"] = {"Arn": attribute(QUEUE)}
    period: TemplatePart = {}
    if plan.options.schedule_start:
        later: Json = [_STARTS_LATER, ref(START_PARAMETER), ref("AWS::NoValue")]
        period["StartDate"] = {"Fn::If": later}
    if plan.options.schedule_end:
        period["EndDate"] = _scheduler_time(plan.options.schedule_end, plan)
    return {
        "Type": "AWS::Scheduler::Schedule",
        "Properties": {
            "Name": ref("FlowName"),
            "Description": sub("Runs ${FlowName}"),
            "ScheduleExpression": plan.options.schedule,
            "ScheduleExpressionTimezone": plan.options.timezone or "UTC",
            **period,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": target,
        },
    }


def _scheduler_time(moment: date, plan: Plan) -> str:
    """Return a time as Scheduler takes it."""
    return f"{utc_moment(moment, plan.options.timezone):%Y-%m-%dT%H:%M:%SZ}"


def _starts_later() -> TemplatePart:
    """Return the condition under which a schedule has a beginning.

    Scheduler takes none that is past, also where it only changes a schedule, so deploying leaves it out then:
    https://docs.aws.amazon.com/scheduler/latest/APIReference/API_UpdateSchedule.html
    """
    return {"Fn::Not": [{"Fn::Equals": [ref(START_PARAMETER), ""]}]}


def _tags(config: LokkiConfig) -> list[Json]:
    tags: TemplatePart = {**dict(sorted(config.tags.items())), "lokki:flow": ref("FlowName")}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _outputs() -> TemplatePart:
    return {
        "StateMachineArn": {"Description": "The state machine.", "Value": ref("StateMachine")},
        "LiveArn": {"Description": "The version of it that is in use; start executions of this.", "Value": ref("Live")},
        "StateMachineLogGroup": {"Description": "Failures of runs.", "Value": ref("StateMachineLogs")},
        "Artifacts": {"Description": "What steps hand on.", "Value": sub("s3://${S3Bucket}/lokki/${FlowName}/")},
    }
