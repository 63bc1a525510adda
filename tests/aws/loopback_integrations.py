"""Service integrations of Step Functions beyond Lambda: functions for the emulator, which call moto or the web.

https://docs.aws.amazon.com/step-functions/latest/dg/integrate-optimized.html
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from lokki.base.values import Json
from lokki.emulator.states.services import FunctionReply

_PREFIX = "arn:aws:states:::"
_LAMBDA = f"{_PREFIX}lambda:invoke"


def with_integrations(definition: Json) -> Json:
    """Return a definition in which each integration is a function of its name, so that the emulator reads it."""
    if isinstance(definition, list):
        return [with_integrations(each) for each in definition]
    if not isinstance(definition, dict):
        return definition
    changed = {name: with_integrations(each) for name, each in definition.items()}
    resource = definition.get("Resource")
    if definition.get("Type") == "Task" and isinstance(resource, str) and resource != _LAMBDA:
        assert resource.startswith(_PREFIX), resource
        changed |= {"Resource": _LAMBDA, "Arguments": {"FunctionName": resource, "Payload": definition["Arguments"]}}
    return changed


@dataclass
class Integrations:
    """Calls what state machines call. ``webhooks``: where on loopback a URL's beginning leads."""

    client: Callable[[str], Any]
    webhooks: dict[str, str] = field(default_factory=dict)

    def knows(self, function: str) -> bool:
        """Tell whether a function is an integration."""
        return function.startswith(_PREFIX)

    def invoke(self, function: str, payload: bytes) -> FunctionReply:
        """Call a service; an error has the name that Step Functions gives it."""
        arguments: dict[str, Any] = json.loads(payload)
        try:
            answer = self._call(function.removeprefix(_PREFIX), arguments)
        except ClientError as error:
            code, service = error.response["Error"]["Code"], function.removeprefix(_PREFIX).partition(":")[0]
            # https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
            names = {"states": "StepFunctions", "sqs": "SQS", "sns": "SNS"}
            name = f"{names[service]}.{code.removesuffix('Exception')}Exception"
            return _failure(name, error.response["Error"]["Message"])
        except urllib.error.HTTPError as error:
            return _failure(f"States.Http.StatusCode.{error.code}", error.read().decode())
        except OSError as error:
            return _failure("States.Http.Socket", str(error))
        return FunctionReply(json.dumps(answer).encode())

    def _call(self, resource: str, arguments: dict[str, Any]) -> Json:
        match resource:
            case "sns:publish":
                return str(self.client("sns").publish(**arguments)["MessageId"])
            case "sqs:sendMessage":
                return str(self.client("sqs").send_message(**arguments)["MessageId"])
            case "states:startExecution":
                given = {f"{name[0].lower()}{name[1:]}": value for name, value in arguments.items()}
                given["input"] = json.dumps(given["input"])
                return str(self.client("stepfunctions").start_execution(**given)["executionArn"])
            case "http:invoke":
                return self._post(arguments)
        raise AssertionError(f"no such integration: {resource}")

    def _post(self, arguments: Mapping[str, Any]) -> Json:
        """Call a webhook with what the connection adds."""
        assert set(arguments) == {"ApiEndpoint", "Method", "Authentication", "Headers", "RequestBody"}, arguments
        name = arguments["Authentication"]["ConnectionArn"].split("/")[1]
        connection = self.client("events").describe_connection(Name=name)
        key = connection["AuthParameters"]["ApiKeyAuthParameters"]
        url: str = arguments["ApiEndpoint"]
        assert url.startswith("https://"), url
        for beginning, place in self.webhooks.items():
            if url.startswith(beginning):
                url = place + url.removeprefix(beginning)
        assert url.startswith("http://127.0.0.1:"), f"{url} is not on loopback"
        body = json.dumps(arguments["RequestBody"]).encode()
        headers = {**arguments["Headers"], key["ApiKeyName"]: "(the connection's)"}
        request = urllib.request.Request(url, body, headers, method=arguments["Method"])
        with urllib.request.urlopen(request, timeout=10) as answer:
            return {"StatusCode": answer.status}


def _failure(name: str, message: str) -> FunctionReply:
    return FunctionReply(json.dumps({"errorType": name, "errorMessage": message}).encode(), failed=True)
