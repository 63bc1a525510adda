"""The resource types of Step Functions and EventBridge Scheduler that stacks may have."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from aws.loopback_protocol import Fields
from aws.loopback_resources import Made, Resource, ResourceError, Where


class StateMachine(Resource):
    replaced_by = frozenset({"StateMachineName", "StateMachineType"})
    known = frozenset(
        {
            "Definition", "DefinitionString", "DefinitionSubstitutions", "EncryptionConfiguration",
            "LoggingConfiguration", "RoleArn", "Tags", "TracingConfiguration",
        }
    )  # fmt: skip
    volatile = frozenset({"StateMachineRevisionId"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("StateMachineName") or where.name(80)
        kind = properties.get("StateMachineType", "STANDARD")
        tags = [{"key": each["Key"], "value": each["Value"]} for each in properties.get("Tags", [])]
        given = self._given(properties)
        arn = self.client("stepfunctions").create_state_machine(name=name, type=kind, tags=tags, **given)
        return self._made(arn["stateMachineArn"], "INITIAL")

    def update(self, made: Made, properties: Fields) -> Made:
        client = self.client("stepfunctions")
        answer = client.update_state_machine(stateMachineArn=made.physical, **self._given(properties))
        return self._made(made.physical, answer["revisionId"])

    def delete(self, made: Made) -> None:
        self.client("stepfunctions").delete_state_machine(stateMachineArn=made.physical)

    def _made(self, arn: str, revision: str) -> Made:
        return Made(arn, {"Arn": arn, "Name": arn.rpartition(":")[2], "StateMachineRevisionId": revision})

    def _given(self, properties: Fields) -> Fields:
        definition = properties.get("DefinitionString") or json.dumps(properties["Definition"])
        values = properties.get("DefinitionSubstitutions", {})
        text = re.sub(r"\$\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), definition)
        given: Fields = {"definition": text, "roleArn": properties["RoleArn"]}
        for name in ("LoggingConfiguration", "TracingConfiguration", "EncryptionConfiguration"):
            if name in properties:
                given[f"{name[0].lower()}{name[1:]}"] = _lowered(properties[name])
        return given


class StateMachineVersion(Resource):
    replaced_by = frozenset({"StateMachineArn", "StateMachineRevisionId", "Description"})

    def create(self, properties: Fields, where: Where) -> Made:
        given = {"stateMachineArn": properties["StateMachineArn"]}
        if "StateMachineRevisionId" in properties:
            given["revisionId"] = properties["StateMachineRevisionId"]
        if "Description" in properties:
            given["description"] = properties["Description"]
        answer = self.client("stepfunctions").publish_state_machine_version(**given)
        return Made(answer["stateMachineVersionArn"], {"Arn": answer["stateMachineVersionArn"]})

    def delete(self, made: Made) -> None:
        self.client("stepfunctions").delete_state_machine_version(stateMachineVersionArn=made.physical)


class StateMachineAlias(Resource):
    replaced_by = frozenset({"Name"})
    known = frozenset({"DeploymentPreference", "Description", "RoutingConfiguration"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("Name") or where.name(80)
        client = self.client("stepfunctions")
        arn = client.create_state_machine_alias(name=name, **self._given(properties))["stateMachineAliasArn"]
        return Made(arn, {"Arn": arn})

    def update(self, made: Made, properties: Fields) -> Made:
        client = self.client("stepfunctions")
        client.update_state_machine_alias(stateMachineAliasArn=made.physical, **self._given(properties))
        return made

    def delete(self, made: Made) -> None:
        client = self.client("stepfunctions")
        with contextlib.suppress(client.exceptions.ResourceNotFound):
            client.delete_state_machine_alias(stateMachineAliasArn=made.physical)

    def _given(self, properties: Fields) -> Fields:
        preference = properties.get("DeploymentPreference")
        if (preference is None) == ("RoutingConfiguration" not in properties):
            raise ResourceError("exactly one of RoutingConfiguration and DeploymentPreference must be given")
        if preference is not None:
            if preference["Type"] != "ALL_AT_ONCE":
                raise ResourceError(f"the loopback AWS does not deploy {preference['Type']}")
            routes = [{"stateMachineVersionArn": preference["StateMachineVersionArn"], "weight": 100}]
        else:
            routes = [
                {"stateMachineVersionArn": each["StateMachineVersionArn"], "weight": int(each["Weight"])}
                for each in properties["RoutingConfiguration"]
            ]
        return {"routingConfiguration": routes, "description": properties.get("Description", "")}


class Schedule(Resource):
    replaced_by = frozenset({"Name"})
    known = frozenset(
        {
            "Description", "EndDate", "FlexibleTimeWindow", "GroupName", "KmsKeyArn", "ScheduleExpression",
            "ScheduleExpressionTimezone", "StartDate", "State", "Target",
        }
    )  # fmt: skip

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("Name") or where.name()
        answer = self.client("scheduler").create_schedule(**{**properties, "Name": name})
        return Made(name, {"Arn": answer["ScheduleArn"]})

    def update(self, made: Made, properties: Fields) -> Made:
        self.client("scheduler").update_schedule(**{**properties, "Name": made.physical})
        return made

    def delete(self, made: Made) -> None:
        client = self.client("scheduler")
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.delete_schedule(Name=made.physical)


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"{name[0].lower()}{name[1:]}": _lowered(each) for name, each in value.items()}
    return [_lowered(each) for each in value] if isinstance(value, list) else value
