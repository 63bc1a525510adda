"""What IAM checks for a request to a service that speaks JSON, CBOR or Query.

An operation is nearly always the action of its name. The exceptions are here, from the Service Authorization Reference:
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lokki.base.values import Json
from lokki.emulator.iam.policies import ANY, Need
from lokki.emulator.states.services import ACCOUNT, REGION

type InputFields = Mapping[str, Json]

_OF_OTHER_NAMES = {("kms", "ReEncrypt")}
"""Operations whose actions have other names, and which are let through."""


_PREFIXES = {
    "IoTSecuredTunneling": "iot",
    "cloudcontrolapi": "cloudformation",
    "monitoring": "cloudwatch",
    "mturk-requester": "mechanicalturk",
    "tagging": "tag",
}
"""The prefixes of actions of services that requests are signed for by another name."""


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """A call of an operation.

    * ``service``: as requests are signed for it.
    * ``fields``: of its input.
    * ``secret_arn``: returns the ARN of a secret by its name, "" where there is none.
    """

    service: str
    operation: str
    region: str
    fields: InputFields
    secret_arn: Callable[[str], str]

    def arn(self, resource: str, service: str = "") -> str:
        """Return an ARN of the account; one that is an ARN already stays."""
        if resource.startswith("arn:"):
            return resource
        return f"arn:aws:{service or self.service}:{self.region or REGION}:{ACCOUNT}:{resource}"

    def text(self, name: str) -> str:
        """Return a text of the input, "" where there is none."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """Return a list of texts of the input."""
        value = self.fields.get(name)
        return [member for member in value if isinstance(member, str)] if isinstance(value, list) else []


def service_needs(call: ServiceCall) -> list[Need]:
    """Return what a call needs; nothing where that is not known."""
    if call.service == "sts" and call.operation in ("GetCallerIdentity", "GetSessionToken"):
        return []  # these need no permission: docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    if call.service == "sts" and call.operation == "AssumeRole":
        return [Need("sts:AssumeRole", call.text("RoleArn"))]
    rules = {
        "dynamodb": _dynamodb,
        "secretsmanager": _secrets_manager,
        "sns": _sns,
        "sqs": _sqs,
        "ssm": _ssm,
    }
    return list(rules.get(call.service, _other)(call))


def _dynamodb(call: ServiceCall) -> Iterator[Need]:
    """Yield what a call of DynamoDB needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html
    """
    operation = call.operation
    match operation:
        case "ListTables" | "DescribeLimits" | "DescribeEndpoints" | "ListBackups" | "ListGlobalTables":
            yield Need(f"dynamodb:{operation}", ANY)
        case "BatchGetItem" | "BatchWriteItem":
            yield from (Need(f"dynamodb:{operation}", _table(call, name)) for name in _keys(call, "RequestItems"))
        case "TransactGetItems" | "TransactWriteItems":
            actions = {"Get": "GetItem", "Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem"}
            for kind, fields in _members(call.fields.get("TransactItems")):
                name = fields.get("TableName")
                action = actions.get(kind, "ConditionCheckItem")
                yield Need(f"dynamodb:{action}", _table(call, name if isinstance(name, str) else ""))
        case "ExecuteStatement":
            yield from _partiql(call, [call.text("Statement")])
        case "BatchExecuteStatement" | "ExecuteTransaction":
            listed = call.fields.get("Statements" if operation == "BatchExecuteStatement" else "TransactStatements")
            members = [member for member in listed if isinstance(member, dict)] if isinstance(listed, list) else []
            yield from _partiql(call, [str(member.get("Statement")) for member in members])
        case _:
            index = call.text("IndexName") if operation in ("Query", "Scan") else ""
            table = _table(call, call.text("TableName")) if call.text("TableName") else _own_arn(call)
            yield Need(f"dynamodb:{operation}", f"{table}/index/{index}" if index else table)


def _table(call: ServiceCall, name: str) -> str:
    return call.arn(name if name.startswith("arn:") else f"table/{name}") if name else ""


_PARTIQL = re.compile(
    r'\s*(?:(select|delete)\b.*?\bfrom|(insert)\s+into|(update))\s+"?([\w.-]+?)"?(?:\."([\w.-]+)")?(?:\s|$)',
    re.I | re.S,
)
"""The verb of a statement, its table and its index."""


def _partiql(call: ServiceCall, statements: Iterable[str]) -> Iterator[Need]:
    """Yield what statements in PartiQL need.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-iam.html
    """
    for match in filter(None, map(_PARTIQL.match, statements)):
        verb = next(filter(None, match.groups()[:3])).title()
        table, index = _table(call, match[4]), match[5]
        yield Need(f"dynamodb:PartiQL{verb}", f"{table}/index/{index}" if index else table)


def _keys(call: ServiceCall, name: str) -> list[str]:
    value = call.fields.get(name)
    return list(value) if isinstance(value, dict) else []


def _members(value: Json) -> Iterator[tuple[str, InputFields]]:
    for member in value if isinstance(value, list) else []:
        for kind, fields in member.items() if isinstance(member, dict) else []:
            if isinstance(fields, dict):
                yield kind, fields


def _sqs(call: ServiceCall) -> Iterator[Need]:
    """Yield what a call of SQS needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
    """
    # A batch is authorized as its messages are.
    action = f"sqs:{call.operation.removesuffix('Batch')}"
    if url := call.text("QueueUrl"):
        yield Need(action, call.arn(url.rpartition("/")[2]))
    elif name := call.text("QueueName"):
        yield Need(action, call.arn(name))
    else:
        yield Need(action, ANY if call.operation == "ListQueues" else call.text("SourceArn"))


def _secrets_manager(call: ServiceCall) -> Iterator[Need]:
    """Yield what a call of Secrets Manager needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecretsmanager.html
    """
    action = f"secretsmanager:{call.operation}"
    names = [call.text("SecretId") or call.text("Name")] if call.operation != "BatchGetSecretValue" else []
    if call.operation in ("ListSecrets", "GetRandomPassword", "BatchGetSecretValue"):
        yield Need(action, ANY)
        action, names = "secretsmanager:GetSecretValue", call.texts("SecretIdList")
    for name in filter(None, names):
        # A secret that is not there yet gets six characters behind its name.
        own = name if re.search(r"^arn:.*-\w{6}$", name) else "" if name.startswith("arn:") else call.secret_arn(name)
        yield Need(action, own or f"{call.arn(name if name.startswith('arn:') else f'secret:{name}')}-AbCdEf")


def _ssm(call: ServiceCall) -> Iterator[Need]:
    """Yield what a call of Systems Manager needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html
    """
    action = f"ssm:{call.operation}"
    if call.operation == "DescribeParameters":
        yield Need(action, ANY)
    elif "Parameter" not in call.operation:
        yield from _other(call)
    else:
        for name in call.texts("Names") or [call.text("Path") or call.text("Name")]:
            # A version or a label may follow the name.
            bare = name if name.startswith("arn:") else name.partition(":")[0]
            yield Need(action, call.arn(bare if bare.startswith("arn:") else f"parameter/{bare.strip('/')}"))


def _sns(call: ServiceCall) -> Iterator[Need]:
    """Yield what a call of SNS needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsns.html
    """
    action = f"sns:{call.operation.removesuffix('Batch')}"
    name = call.text("Name") if call.operation == "CreateTopic" else ""
    # A subscription is authorized by its topic, whose ARN it begins with.
    arn = call.arn(name) if name else ":".join(_own_arn(call).split(":")[:6])
    is_topic = arn and "/" not in arn
    yield Need(action, arn if is_topic else "")


def _other(call: ServiceCall) -> Iterator[Need]:
    """Yield the action of the operation's name, on whatever resource.

    Which one IAM checks differs by service: an alias of a key is none, a version of a state machine is its machine.
    """
    prefix = _PREFIXES.get(call.service, call.service)
    if (prefix, call.operation) not in _OF_OTHER_NAMES:
        yield Need(f"{prefix}:{call.operation}", "", hint=_own_arn(call))


def _own_arn(call: ServiceCall) -> str:
    """Return the first ARN of the service in the input, or ""."""
    start = re.compile(rf"arn:[a-z-]+:{re.escape(call.service)}:")
    return next((value for value in call.fields.values() if isinstance(value, str) and start.match(value)), "")
