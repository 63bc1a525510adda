"""AWS's protocols: requests and answers of a service by botocore's model of it, so that no double can invent an API."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.validate import ParamValidator
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import SerializationContext, get_serializer_class
from moto.core.utils import get_service_model
from werkzeug.datastructures import Headers, MultiDict

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

type Fields = dict[str, Any]

SERVICES = {"states": "stepfunctions", "cloudwatch": "cloudwatch", "monitoring": "cloudwatch"}
"""boto3's names of services whose signatures have another one."""

COMMON_ERRORS = {
    "AccessDeniedException", "ThrottlingException", "Throttling", "ValidationError", "ValidationException",
    "InternalFailure", "ServiceUnavailable",
}  # fmt: skip
"""https://docs.aws.amazon.com/step-functions/latest/apireference/CommonErrors.html"""

_CREDENTIAL = re.compile(r"Credential=([^/,\s]*)/\d*/[^/]*/([^/]+)/aws4_request")


class ApiError(Exception):
    """An error that a service answers with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A request: who sent it, by the access key, to which service, and what it asks for."""

    actor: str
    service: str
    action: str


@dataclass(frozen=True, slots=True)
class Api:
    """A service done here: its operations by name; each takes the request's fields and returns the answer's."""

    service: str
    operations: Mapping[str, Callable[[Fields], Fields]]

    def answer(self, action: str, environ: WSGIEnvironment, body: bytes) -> Answer:
        """Do what a request asks for. Raises AssertionError for an answer that is not as AWS's model has it."""
        if action not in self.operations:
            raise AssertionError(f"the loopback AWS has no {self.service}:{action}")
        service = get_service_model(self.service)
        model = service.operation_model(action)
        protocol = str(service.metadata["protocol"])
        parser = PROTOCOL_PARSERS[protocol](model)
        values = MultiDict(parse_qsl(body.decode(), keep_blank_values=True)) if protocol == "query" else MultiDict()
        parsed = parser.parse(
            {"body": body, "headers": Headers(), "method": "POST", "url_params": {}, "url_path": "/", "values": values}
        )
        try:
            result = self.operations[action](parsed)
        except ApiError as error:
            known = {shape.name for shape in model.error_shapes}
            codes = known | {str(shape.error_code) for shape in model.error_shapes} | COMMON_ERRORS
            if error.code not in codes:
                raise AssertionError(f"{self.service}:{action} has no error {error.code}") from error
            return error_answer(protocol, error)
        if model.output_shape is None:
            assert not result, f"{self.service}:{action} answers nothing"
        else:
            report = ParamValidator().validate(result, model.output_shape)
            if report.has_errors():
                raise AssertionError(f"{self.service}:{action}: {report.generate_report()}")
        if protocol == "json":
            return Answer(200, json.dumps(result, default=_epoch).encode(), _json_headers())
        serializer = get_serializer_class(self.service, protocol)(model, SerializationContext(str(uuid.uuid4())))
        made = serializer.serialize(result)
        return Answer(made["status_code"], _bytes(made["body"]), made["headers"])


def error_answer(protocol: str, error: ApiError) -> Answer:
    """Write an error in the format of a protocol."""
    request = str(uuid.uuid4())
    if "json" in protocol:
        described = json.dumps({"__type": error.code, "message": error.message}).encode()
        return Answer(error.status, described, {**_json_headers(), "x-amzn-ErrorType": error.code})
    code, message = escape(error.code), escape(error.message)
    inner = f"<Code>{code}</Code><Message>{message}</Message>"
    if protocol == "rest-xml":
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}<RequestId>{request}</RequestId></Error>'
    else:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>{request}</RequestId></ErrorResponse>"
        )
    return Answer(error.status, text.encode(), {"Content-Type": "text/xml", "x-amzn-RequestId": request})


def read_call(environ: WSGIEnvironment, body: bytes) -> Call | None:
    """Tell who asks for what; None for a request that no client of AWS has signed."""
    found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    if found is None:
        return None
    service = SERVICES.get(found[2], found[2])
    protocol = protocol_of(service)
    if protocol == "json":
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    elif protocol in ("query", "ec2"):
        action = dict(parse_qsl(body.decode())).get("Action", "")
    else:
        action = _rest_action(service, environ)
    return Call(found[1], service, action)


def protocol_of(service: str) -> str:
    """Return the name of a service's protocol."""
    return str(get_service_model(service).metadata["protocol"])


def _rest_action(service: str, environ: WSGIEnvironment) -> str:
    """Find the operation whose method, path and query fit best: the one that says most of them."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    copies = "HTTP_X_AMZ_COPY_SOURCE" in environ
    best = (-1, -1, "")
    for method, pattern, literals, required, name in _rest_operations(service):
        if method != environ["REQUEST_METHOD"] or not pattern.fullmatch(environ.get("PATH_INFO", "")):
            continue
        if any(query.get(key) != value for key, value in literals) or any(key not in query for key in required):
            continue
        if name == "ListDirectoryBuckets":  # asked of another host
            continue
        if service == "s3" and copies != (name in ("CopyObject", "UploadPartCopy")) and method == "PUT":
            continue
        best = max(best, (len(literals) + len(required), pattern.pattern.count("/"), name))
    return best[2]


def _rest_operations(service: str) -> list[tuple[str, re.Pattern[str], list[tuple[str, str]], list[str], str]]:
    known = _OPERATIONS.get(service)
    if known is not None:
        return known
    model = get_service_model(service)
    found = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        path, _, query = operation.http["requestUri"].partition("?")
        pattern = re.sub(r"\\\{(\w+)(\\\+)?\\\}", lambda m: ".+" if m[2] else "[^/]+", re.escape(path))
        shape = operation.input_shape
        members = {} if shape is None else shape.members
        wanted = [] if shape is None else shape.required_members
        required = [
            str(members[each].serialization.get("name", each))
            for each in wanted
            if members[each].serialization.get("location") == "querystring"
        ]
        found.append(
            (
                str(operation.http["method"]),
                re.compile(pattern + "/?"),
                parse_qsl(query, keep_blank_values=True),
                required,
                name,
            )
        )
    _OPERATIONS[service] = found
    return found


_OPERATIONS: dict[str, list[tuple[str, re.Pattern[str], list[tuple[str, str]], list[str], str]]] = {}


def _json_headers() -> dict[str, str]:
    return {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": str(uuid.uuid4())}


def _epoch(value: object) -> float:
    assert isinstance(value, datetime)
    return round(value.timestamp(), 3)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def page(found: list[Any], request: Fields, default: int, *, size: str = "maxResults") -> tuple[list[Any], Fields]:
    """Return a page of what was found, and the field with the token of the next one if there is one."""
    try:
        start = int(request.get("nextToken") or 0)
    except ValueError:
        raise ApiError("InvalidToken", f"Invalid Token: '{request['nextToken']}'") from None
    end = start + (request.get(size) or default)
    return found[start:end], {"nextToken": str(end)} if end < len(found) else {}
