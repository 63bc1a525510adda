"""The resource types of EventBridge, SNS, SQS and CloudWatch that stacks may have; moto has them."""

from __future__ import annotations

import json
from typing import Any

from aws.loopback_protocol import Fields
from aws.loopback_resources import Made, Resource, ResourceError, Where
from lokki.emulator.states.services import ACCOUNT, REGION


class Rule(Resource):
    known = frozenset({"Description", "EventPattern", "Name", "Tags", "Targets"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("Name") or where.name()
        return self._put(name, properties)

    def update(self, made: Made, properties: Fields) -> Made:
        return self._put(made.physical, properties)

    def delete(self, made: Made) -> None:
        events = self.client("events")
        targets = events.list_targets_by_rule(Rule=made.physical)["Targets"]
        if targets:
            events.remove_targets(Rule=made.physical, Ids=[each["Id"] for each in targets])
        events.delete_rule(Name=made.physical)

    def _put(self, name: str, properties: Fields) -> Made:
        targets = properties.get("Targets", [])
        # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html
        if len(targets) > 5:
            raise ResourceError("The requested resource exceeds the maximum number allowed: 5 targets")
        pattern = json.dumps(properties["EventPattern"])
        if len(pattern) > 2048:
            raise ResourceError("Event pattern is longer than 2048 characters")
        events = self.client("events")
        arn = events.put_rule(Name=name, EventPattern=pattern, Description=properties.get("Description", ""))["RuleArn"]
        answer = events.put_targets(Rule=name, Targets=[_whole_numbers(target) for target in targets])
        assert not answer["FailedEntries"], answer
        return Made(name, {"Arn": arn})


class Connection(Resource):
    known = frozenset({"AuthParameters", "AuthorizationType", "Description", "Name"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("Name") or where.name()
        given = {key: properties[key] for key in ("AuthorizationType", "AuthParameters")}
        events = self.client("events")
        arn = events.create_connection(Name=name, **given)["ConnectionArn"]
        secret = events.describe_connection(Name=name)["SecretArn"]
        return Made(name, {"Arn": arn, "ArnForPolicy": arn.rpartition("/")[0], "SecretArn": secret})

    def update(self, made: Made, properties: Fields) -> Made:
        given = {key: properties[key] for key in ("AuthorizationType", "AuthParameters")}
        self.client("events").update_connection(Name=made.physical, **given)
        return made

    def delete(self, made: Made) -> None:
        self.client("events").delete_connection(Name=made.physical)


class Topic(Resource):
    known = frozenset({"KmsMasterKeyId", "Subscription", "Tags", "TopicName"})

    def create(self, properties: Fields, where: Where) -> Made:
        sns = self.client("sns")
        name = properties.get("TopicName") or where.name(256)
        attributes = {key: properties[key] for key in ("KmsMasterKeyId",) if key in properties}
        arn = sns.create_topic(Name=name, Attributes=attributes, Tags=properties.get("Tags", []))["TopicArn"]
        return self._subscribed(arn, properties)

    def update(self, made: Made, properties: Fields) -> Made:
        sns = self.client("sns")
        for each in sns.list_subscriptions_by_topic(TopicArn=made.physical)["Subscriptions"]:
            sns.unsubscribe(SubscriptionArn=each["SubscriptionArn"])
        return self._subscribed(made.physical, properties)

    def delete(self, made: Made) -> None:
        self.client("sns").delete_topic(TopicArn=made.physical)

    def _subscribed(self, arn: str, properties: Fields) -> Made:
        for each in properties.get("Subscription", []):
            self.client("sns").subscribe(TopicArn=arn, Protocol=each["Protocol"], Endpoint=each["Endpoint"])
        return Made(arn, {"TopicArn": arn, "TopicName": arn.rpartition(":")[2]})


class Queue(Resource):
    replaced_by = frozenset({"QueueName"})
    known = frozenset({"MessageRetentionPeriod", "SqsManagedSseEnabled", "Tags"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("QueueName") or where.name(80)
        tags = {each["Key"]: each["Value"] for each in properties.get("Tags", [])}
        url = self.client("sqs").create_queue(QueueName=name, Attributes=_attributes(properties), tags=tags)["QueueUrl"]
        return Made(url, {"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", "QueueName": name, "QueueUrl": url})

    def update(self, made: Made, properties: Fields) -> Made:
        self.client("sqs").set_queue_attributes(QueueUrl=made.physical, Attributes=_attributes(properties))
        return made

    def delete(self, made: Made) -> None:
        self.client("sqs").delete_queue(QueueUrl=made.physical)


class QueuePolicy(Resource):
    known = frozenset({"PolicyDocument", "Queues"})

    def create(self, properties: Fields, where: Where) -> Made:
        return self._put(where.name(), properties)

    def update(self, made: Made, properties: Fields) -> Made:
        return self._put(made.physical, properties)

    def delete(self, made: Made) -> None:
        """Leave it to the end of the queue, which goes after it."""

    def _put(self, name: str, properties: Fields) -> Made:
        for url in properties["Queues"]:
            attributes = {"Policy": json.dumps(properties["PolicyDocument"])}
            self.client("sqs").set_queue_attributes(QueueUrl=url, Attributes=attributes)
        return Made(name)


class Alarm(Resource):
    replaced_by = frozenset({"AlarmName"})
    known = frozenset(
        {
            "AlarmDescription", "ComparisonOperator", "Dimensions", "EvaluationPeriods", "MetricName", "Namespace",
            "Period", "Statistic", "Tags", "Threshold", "TreatMissingData",
        }
    )  # fmt: skip

    def create(self, properties: Fields, where: Where) -> Made:
        return self._put(properties.get("AlarmName") or where.name(255), properties)

    def update(self, made: Made, properties: Fields) -> Made:
        return self._put(made.physical, properties)

    def delete(self, made: Made) -> None:
        self.client("cloudwatch").delete_alarms(AlarmNames=[made.physical])

    def _put(self, name: str, properties: Fields) -> Made:
        given = _whole_numbers({key: value for key, value in properties.items() if key != "AlarmName"})
        self.client("cloudwatch").put_metric_alarm(AlarmName=name, **given)
        return Made(name, {"Arn": f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{name}"})


def _attributes(properties: Fields) -> dict[str, str]:
    return {
        name: str(properties[name]).lower()
        for name in ("MessageRetentionPeriod", "SqsManagedSseEnabled")
        if name in properties
    }


def _whole_numbers(value: Any) -> Any:
    """Return properties with the numbers that YAML or a parameter gave as text."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 7 else value
