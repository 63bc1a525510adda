"""The CloudFormation template of a flow: functions, log groups, roles, the state machine and its schedule.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from lokki.base.quotas import CHILDREN_AT_ONCE, FUNCTION_NAME_LENGTH, LEAST_DISK, STACK_RESOURCES
from lokki.base.values import Json
from lokki.builder.environment import function_environment
from lokki.builder.names import (
    FLOW_NAME_PATTERN,
    DeployedFunction,
    deployed_functions,
    deployed_name,
    function_id,
    function_placeholder,
    function_suffixes,
    log_group_id,
    version_id,
)
from lokki.builder.package_types import LAMBDA_PYTHON_TEXT, Code, ImageCode, ZipCode
from lokki.builder.permissions import (
    Mapped,
    RoleSettings,
    attribute,
    lambda_role,
    ref,
    schedule_role,
    step_functions_role,
    sub,
)
from lokki.builder.state_machine import (
    BUCKET_PLACEHOLDER,
    CONCURRENCY_PLACEHOLDER,
    FLOW_PLACEHOLDER,
    INVOKE_PLACEHOLDER,
    READ_PLACEHOLDER,
    WRITE_PLACEHOLDER,
    build_state_machine,
    dump_state_machine,
    map_substitutions,
)
from lokki.builder.timing import at_once, function_timeout
from lokki.config import LokkiConfig
from lokki.errors import FlowError, ParameterError
from lokki.graph import FlowGraph
from lokki.plan import FanOut, Plan, bind_parameters, lower

RUNTIME = f"python{LAMBDA_PYTHON_TEXT}"
HANDLER = "handler.lambda_handler"

_CONCURRENCY = "MapConcurrency"

LIVE = "live"
"""The alias through which runs are started: it points at the version of the state machine that is in use."""

_KEPT: Mapped = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
"""Of versions: they outlive their place in the template, unless the deployment that made them fails.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html"""


def build_template(graph: FlowGraph, config: LokkiConfig, packages: Mapping[str, Code]) -> dict[str, Json]:
    """Return the template of a flow; ``packages`` says for each step where its code is.

    The state machine's definition is in it as text, the same as ``statemachine.json``, so that the template is whole
    and a change set shows every change. Raises FlowError for a flow that no stack can hold, ConfigError for settings
    that AWS does not take.
    """
    plan = lower(graph)
    name = deployed_name(plan.flow, config)
    functions = deployed_functions(graph.steps)
    suffixes = function_suffixes(name, [each.name for each in functions])
    resources: dict[str, Json] = {}
    versions: dict[str, str] = {}
    for each in functions:
        code = packages[each.step.name]
        if not each.larger:  # the larger one writes to the same group
            resources[log_group_id(each.name)] = _log_group(f"/aws/lambda/${{FlowName}}-{suffixes[each.name]}", config)
        function = _function(plan, each, suffixes[each.name], code, config)
        version = version_id(each.name, _content(function, code, config))
        versions[each.name] = version
        resources[function_id(each.name)] = function
        resources[version] = _version(each.name)
    resources |= _roles(plan, graph, config)
    resources["StateMachineLogs"] = _log_group("/aws/vendedlogs/states/${FlowName}", config)
    resources["StateMachine"] = _state_machine(graph, plan, config, versions)
    resources |= _live()
    if plan.options.schedule is not None:
        resources["Schedule"] = _schedule(plan, config)
    if len(resources) > STACK_RESOURCES:
        raise FlowError(
            f"the flow {plan.flow!r} has {len(graph.steps)} steps, which make {len(resources)} resources; "
            f"a stack holds {STACK_RESOURCES}. Split the flow."
        )
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"The flow {plan.flow}, built by lokki.",
        "Parameters": _parameters(plan, name, suffixes, config, packages),
        "Resources": resources,
        "Outputs": _outputs(),
    }


def _parameters(
    plan: Plan, name: str, suffixes: Mapping[str, str], config: LokkiConfig, packages: Mapping[str, Code]
) -> Mapped:
    images = [code for code in packages.values() if isinstance(code, ImageCode)]
    room = FUNCTION_NAME_LENGTH - len("-") - max(len(suffix) for suffix in suffixes.values())
    parameters: Mapped = {
        FLOW_PLACEHOLDER: {
            "Type": "String",
            "Description": "The name of the state machine; the names of all else begin with it.",
            "Default": name,
            "AllowedPattern": f"^{FLOW_NAME_PATTERN}$",
            "MaxLength": room,
        },
        "S3Bucket": _parameter("The bucket that holds the code and what steps hand on.", config.artifact_bucket),
    }
    if images:
        parameters["ECRRepoPrefix"] = _parameter(
            "The registry, and what the names of the images' repositories begin with.", config.ecr_repo_prefix
        )
    if any(not code.tag for code in images):
        parameters["ImageTag"] = _parameter("The tag of the images.", config.lambda_defaults.image_tag)
    if _unbounded(plan):
        parameters[_CONCURRENCY] = {
            "Type": "Number",
            "Description": "How many items of a map run at once: as many as the account runs functions.",
            "Default": at_once(config),
            "MinValue": 1,
            "MaxValue": CHILDREN_AT_ONCE,
        }
    return parameters


def _parameter(description: str, default: str) -> Mapped:
    parameter: Mapped = {"Type": "String", "Description": description}
    return parameter | ({"Default": default} if default else {"MinLength": 1})


def _function(plan: Plan, function: DeployedFunction, suffix: str, code: Code, config: LokkiConfig) -> Mapped:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html"""
    step = function.step
    properties: Mapped = {
        "FunctionName": sub(f"${{FlowName}}-{suffix}"),
        "Description": sub(f"The step {step.name} of ${{FlowName}}{', with more memory' if function.larger else ''}"),
        **_code(code),
        "Architectures": [config.architecture],
        "MemorySize": _memory(function, config),
        "Timeout": function_timeout(plan, step, config),
        "Role": config.roles.lambda_ or attribute("LambdaExecutionRole"),
        "Environment": {"Variables": function_environment(step, config)},
        "LoggingConfig": {"LogGroup": ref(log_group_id(step.name))},
    }
    disk = step.options.disk or config.lambda_defaults.disk
    if config.lambda_defaults.snap_start and isinstance(code, ZipCode):
        properties["SnapStart"] = _snap_start(step.name, disk)
    if disk != LEAST_DISK:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-ephemeral-storage.html
        properties["EphemeralStorage"] = {"Size": disk}
    if config.tracing:
        properties["TracingConfig"] = {"Mode": "Active"}
    properties["Tags"] = _tags(config)
    return {"Type": "AWS::Lambda::Function", "Properties": properties}


def _snap_start(step: str, disk: int) -> Mapped:
    """Return when snapshots are taken. Raises FlowError for a step with more /tmp than a snapshot may have.

    https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes
    """
    if disk > LEAST_DISK:
        raise FlowError(
            f"{step}() has {disk} MB of /tmp, and with lambda_defaults.snap_start Lambda gives {LEAST_DISK}. "
            "Lower its disk (@step(disk=…), lambda_defaults.disk), or remove snap_start from lokki.yml."
        )
    return {"ApplyOn": "PublishedVersions"}


def _memory(function: DeployedFunction, config: LokkiConfig) -> int:
    """Return the megabytes of a function. Raises FlowError for a larger one that is not larger by these settings."""
    step = function.step
    first, largest = step.options.memory or config.lambda_defaults.memory, step.options.memory_max
    if not function.larger or largest is None:
        return first
    if largest <= first:
        raise FlowError(
            f"@step(memory_max={largest}) of {step.name}(): its function has {first} MB by lambda_defaults.memory, and "
            "memory_max is for another try with more. Give more, or give @step(memory=…)."
        )
    return largest


def _content(function: Mapped, code: Code, config: LokkiConfig) -> str:
    """Return what a version of a function holds, as text: all that Lambda tells versions apart by, so not the tags."""
    properties = {name: value for name, value in cast("Mapped", function["Properties"]).items() if name != "Tags"}
    given = [config.artifact_bucket]  # what the template's parameters stand for
    if isinstance(code, ImageCode):
        given += [config.ecr_repo_prefix, "" if code.tag else config.lambda_defaults.image_tag]
    return json.dumps([properties, given])


def _version(step: str) -> Mapped:
    """Make a version of a function. It stays when the function has a newer one, since runs may still use it.

    It goes with its function: https://docs.aws.amazon.com/lambda/latest/api/API_DeleteFunction.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-version.html
    """
    return {"Type": "AWS::Lambda::Version", **_KEPT, "Properties": {"FunctionName": ref(function_id(step))}}


def _code(code: Code) -> Mapped:
    match code:
        case ZipCode(key):
            place: Mapped = {"S3Bucket": ref("S3Bucket"), "S3Key": key}
            return {"PackageType": "Zip", "Code": place, "Runtime": RUNTIME, "Handler": HANDLER}
        case ImageCode(repository, tag):
            uri = f"${{ECRRepoPrefix}}/{repository}:{tag or '${ImageTag}'}"
            return {"PackageType": "Image", "Code": {"ImageUri": sub(uri)}, "ImageConfig": {"Command": [HANDLER]}}


def _roles(plan: Plan, graph: FlowGraph, config: LokkiConfig) -> Mapped:
    """Make the roles that the settings do not give. A given role of the state machine starts scheduled runs, too."""
    settings = RoleSettings(config.tracing, config.kms_key, config.permissions_boundary, tuple(_tags(config)))
    roles: Mapped = {}
    if not config.roles.lambda_:
        roles |= lambda_role("LambdaExecutionRole", [log_group_id(step.name) for step in graph.steps], settings)
    if not config.roles.pipeline:
        functions = [function_id(each.name) for each in deployed_functions(graph.steps)]
        roles |= step_functions_role("StepFunctionsExecutionRole", functions, settings, maps=_has_maps(plan))
        if plan.options.schedule is not None:
            roles |= schedule_role("ScheduleRole", settings)
    return roles


def _has_maps(plan: Plan) -> bool:
    return any(isinstance(op, FanOut) for op in plan.ops)


def _log_group(name: str, config: LokkiConfig) -> Mapped:
    return {
        "Type": "AWS::Logs::LogGroup",
        # A log group that outlived its stack would be in the way of the next one of the same name.
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {"LogGroupName": sub(name), "RetentionInDays": config.log_retention, "Tags": _tags(config)},
    }


def _state_machine(graph: FlowGraph, plan: Plan, config: LokkiConfig, versions: Mapping[str, str]) -> Mapped:
    """Make the state machine, which invokes versions of functions: a run that goes on keeps its code.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html

    Log groups under /aws/vendedlogs/ need no resource policy of their own, of which a region has ten:
    https://docs.aws.amazon.com/step-functions/latest/dg/bp-cwl.html
    """
    functions = {function_placeholder(name): ref(version) for name, version in versions.items()}
    destination: Mapped = {"CloudWatchLogsLogGroup": {"LogGroupArn": attribute("StateMachineLogs")}}
    properties: Mapped = {
        "StateMachineName": ref("FlowName"),
        "StateMachineType": "STANDARD",
        "RoleArn": config.roles.pipeline or attribute("StepFunctionsExecutionRole"),
        "DefinitionString": dump_state_machine(build_state_machine(graph, config)).decode(),
        "DefinitionSubstitutions": {**_substitutions(plan), **functions},
        "LoggingConfiguration": {"Level": "ERROR", "IncludeExecutionData": False, "Destinations": [destination]},
        "TracingConfiguration": {"Enabled": config.tracing},
        "Tags": _tags(config),
    }
    return {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}


def _substitutions(plan: Plan) -> Mapped:
    """Return what the definition's placeholders stand for, but for functions: in China and GovCloud, other ARNs.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
    """
    actions = "arn:${AWS::Partition}:states:::"
    values: Mapped = {
        BUCKET_PLACEHOLDER: ref("S3Bucket"),
        FLOW_PLACEHOLDER: ref("FlowName"),
        INVOKE_PLACEHOLDER: sub(f"{actions}lambda:invoke"),
    }
    if not _has_maps(plan):
        return values
    values |= {
        READ_PLACEHOLDER: sub(f"{actions}s3:getObject"),
        WRITE_PLACEHOLDER: sub(f"{actions}s3:putObject"),
        **map_substitutions(plan),
    }
    # An expression, since what is filled in is text, and the field of a number takes text only as JSONata.
    return values | ({CONCURRENCY_PLACEHOLDER: sub(f"{{% ${{{_CONCURRENCY}}} %}}")} if _unbounded(plan) else {})


def _unbounded(plan: Plan) -> bool:
    """Tell whether some map has no bound of its own on how many items run at once."""
    return any(isinstance(op, FanOut) and op.options.concurrency is None for op in plan.ops)


def _live() -> Mapped:
    """Make a version of the state machine, and the alias through which runs are started, which points at it.

    Older versions stay, for `rollback`, and go with the state machine:
    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DeleteStateMachine.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachineversion.html
    """
    version: Mapped = {
        "StateMachineArn": ref("StateMachine"),
        "StateMachineRevisionId": attribute("StateMachine", "StateMachineRevisionId"),
    }
    alias: Mapped = {
        "Name": LIVE,
        "RoutingConfiguration": [{"StateMachineVersionArn": ref("StateMachineVersion"), "Weight": 100}],
    }
    return {
        "StateMachineVersion": {"Type": "AWS::StepFunctions::StateMachineVersion", **_KEPT, "Properties": version},
        "Live": {"Type": "AWS::StepFunctions::StateMachineAlias", "Properties": alias},
    }


def _schedule(plan: Plan, config: LokkiConfig) -> Mapped:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-scheduler-schedule.html"""
    try:
        defaults = bind_parameters(plan.params, {})
    except ParameterError as error:
        raise FlowError(f"the flow {plan.flow!r} cannot run on a schedule: {error}") from None
    return {
        "Type": "AWS::Scheduler::Schedule",
        "Properties": {
            "Name": ref("FlowName"),
            "Description": sub("Runs ${FlowName}"),
            "ScheduleExpression": plan.options.schedule,
            "ScheduleExpressionTimezone": plan.options.timezone or "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {
                "Arn": ref("Live"),
                "RoleArn": config.roles.pipeline or attribute("ScheduleRole"),
                "Input": json.dumps(defaults, ensure_ascii=False),
            },
        },
    }


def _tags(config: LokkiConfig) -> list[Json]:
    tags: Mapped = {**dict(sorted(config.tags.items())), "lokki:flow": ref("FlowName")}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _outputs() -> Mapped:
    return {
        "StateMachineArn": {"Description": "The state machine.", "Value": ref("StateMachine")},
        "LiveArn": {"Description": "The version of it that is in use; start executions of this.", "Value": ref("Live")},
        "StateMachineLogGroup": {"Description": "Failures of runs.", "Value": ref("StateMachineLogs")},
        "Artifacts": {"Description": "What steps hand on.", "Value": sub("s3://${S3Bucket}/lokki/${FlowName}/")},
    }
