"""A refusal as each service writes it, so that an SDK raises what it raises on AWS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape

import msgspec

from lokki.emulator.iam.policies import Need
from lokki.emulator.states.services import ACCOUNT


@dataclass(frozen=True, slots=True)
class Denial:
    """An answer that says that something is not allowed."""

    status: str
    headers: list[tuple[str, str]]
    content: bytes


def reason(need: Need, role: str, function: str) -> str:
    """Return why IAM refuses.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """
    user = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{function}"
    # SQS writes its actions in lower case.
    action = need.action.lower() if need.action.startswith("sqs:") else need.action
    on = f" on resource: {need.resource}" if need.resource else ""
    why = f"no identity-based policy allows the {action} action"
    return f"User: {user} is not authorized to perform: {action}{on} because {why}"


def s3_denial(message: str, method: str) -> Denial:
    """Return S3's.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    text = f"<Error><Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>"
    content = b"" if method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return _denial("403 Forbidden", "application/xml", content)


def deleted(errors: Iterable[tuple[str, str, str]], answer: bytes = b"") -> bytes:
    """Return S3's answer to a deletion of many objects, some denied.

    * ``errors``: key, version and message of each denied one.
    * ``answer``: that for the others, "" where there are none.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    texts = []
    for key, version, message in errors:
        of_version = f"<VersionId>{escape(version)}</VersionId>" if version else ""
        place = f"<Key>{escape(key)}</Key>{of_version}"
        texts.append(f"<Error>{place}<Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>")
    start, end = answer.rpartition(b"</")[0], b"</DeleteResult>"
    if b"<DeleteResult" not in start:
        start = (
            b'<?xml version="1.0" encoding="UTF-8"?>\n<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        )
    return start + "".join(texts).encode() + end


def json_denial(message: str, service: str, content_type: str) -> Denial:
    """Return that of services that speak JSON.

    SQS names errors by those that it had in Query, too:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-json-faqs.html
    """
    spaces = {"dynamodb": "com.amazon.coral.service#", "sqs": "com.amazon.coral.service#"}
    content = msgspec.json.encode({"__type": f"{spaces.get(service, '')}AccessDeniedException", "Message": message})
    if service == "sqs":
        query = ("x-amzn-query-error", "AccessDenied;Sender")
        return _denial("403 Forbidden", content_type, content, query)
    return _denial("400 Bad Request", content_type, content)


def query_denial(message: str, service: str) -> Denial:
    """Return that of services that speak Query.

    https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html
    """
    code = "AuthorizationError" if service == "sns" else "AccessDenied"
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return _denial("403 Forbidden", "text/xml", f"<ErrorResponse>{error}</ErrorResponse>".encode())


def cbor_denial(message: str) -> Denial:
    """Return that of services that speak CBOR.

    https://smithy.io/2.0/additional-specs/protocols/smithy-rpc-v2.html
    """
    fields = {"__type": "com.amazonaws#AccessDeniedException", "message": message}
    content = bytes([0xA0 + len(fields)]) + b"".join(map(_cbor_text, [*sum(fields.items(), ())]))
    return _denial("400 Bad Request", "application/cbor", content, ("smithy-protocol", "rpc-v2-cbor"))


def _cbor_text(text: str) -> bytes:
    encoded = text.encode()
    return b"\x79" + len(encoded).to_bytes(2) + encoded


def _denial(status: str, content_type: str, content: bytes, *headers: tuple[str, str]) -> Denial:
    return Denial(status, [("Content-Type", content_type), ("Content-Length", str(len(content))), *headers], content)
