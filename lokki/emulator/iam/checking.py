"""The layer of the server that asks of each request of a function whether its role allows it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from xml.etree import ElementTree

import msgspec

from lokki.emulator.iam.denials import Denial, cbor_denial, deleted, json_denial, query_denial, reason, s3_denial
from lokki.emulator.iam.policies import Need, PolicyStatement, allowed
from lokki.emulator.iam.s3_needs import delete_need, s3_needs
from lokki.emulator.iam.service_needs import InputFields, ServiceCall, service_needs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_CREDENTIAL = re.compile(r"([^/,=]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_CBOR_PATH = re.compile(r"/service/[^/]+/operation/(\w+)")


@dataclass(frozen=True, slots=True)
class Role:
    """The role of a function, by its logical id."""

    name: str
    statements: tuple[PolicyStatement, ...]


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of functions, by the access keys that these have.

    ``permissive``: what is not allowed is noted and let through.
    """

    by_key: Mapping[str, Role] = field(default_factory=dict)
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What a function asked for and its role does not allow."""

    function: str
    need: Need


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who sends a request."""

    function: str
    role: Role


@dataclass(frozen=True, slots=True)
class Present:
    """What the server has.

    * ``has_object``: whether an object is there, by bucket and key.
    * ``secret_arn``: the ARN of a secret by its name, or "".
    """

    has_object: Callable[[str, str], bool]
    secret_arn: Callable[[str], str]


class Authorized:
    """The application, for what the role of whoever asks allows."""

    def __init__(self, app: WSGIApplication, roles: Roles, present: Present) -> None:
        self._app = app
        self.roles = roles
        self._present = present
        self._lock = threading.Lock()
        self._missing: dict[Missing, None] = {}

    @property
    def missing(self) -> list[Missing]:
        """What was not allowed until now, each once."""
        with self._lock:
            return list(self._missing)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse to."""
        match = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")) or _CREDENTIAL.search(
            parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
        )
        role = self.roles.by_key.get(match[1]) if match else None
        if match is None or role is None:
            return self._app(environ, start_response)
        function, region, service = match.groups()
        asking = _Asking(function, role)
        if service == "s3" and environ["REQUEST_METHOD"] == "POST" and _deletes_many(environ):
            return self._delete_many(environ, start_response, asking)
        needs = self._s3_needs(environ) if service == "s3" else _needs(environ, service, region, self._present)
        denied = self._denied(asking, needs)
        if not denied or self.roles.permissive:
            return self._app(environ, start_response)
        # Its body is read first: some clients take an answer that comes before they have sent it for a failure.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        denial = _denial(environ, service, reason(denied[0], role.name, function))
        start_response(denial.status, denial.headers)
        return [denial.content]

    def _denied(self, asking: _Asking, needs: Iterable[Need]) -> list[Need]:
        """Return what is not allowed, and note it."""
        denied = [need for need in needs if not allowed(asking.role.statements, need)]
        with self._lock:
            self._missing.update(dict.fromkeys(Missing(asking.function, need) for need in denied))
        return denied

    def _delete_many(self, environ: WSGIEnvironment, start_response: StartResponse, asking: _Asking) -> Iterable[bytes]:
        """Delete those objects of a list that may be deleted."""
        bucket = _path(environ).strip("/")
        content = _body(environ)
        objects = _listed_objects(content)
        needs = {entry: delete_need(bucket, *entry) for entry in objects}
        denied = set(self._denied(asking, needs.values()))
        if not denied or self.roles.permissive:
            return self._app(environ, start_response)
        role, function = asking.role.name, asking.function
        errors = [(*entry, reason(need, role, function)) for entry, need in needs.items() if need in denied]
        answer = b""
        if len(errors) < len(needs):
            rest = _without(content, {entry for entry, need in needs.items() if need in denied})
            environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(rest), str(len(rest))
            answer = b"".join(self._app(environ, _ignore_start))
        content = deleted(errors, answer)
        start_response("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
        return [content]

    def _s3_needs(self, environ: WSGIEnvironment) -> list[Need]:
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_X_AMZ")
        }
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        return s3_needs(method, _path(environ), query, headers, self._present.has_object)


def _path(environ: WSGIEnvironment) -> str:
    # WSGI has the bytes of the path as Latin text.
    return str(environ.get("PATH_INFO", "")).encode("latin-1").decode(errors="replace")


def _deletes_many(environ: WSGIEnvironment) -> bool:
    return "delete" in parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)


def _ignore_start(status: str, headers: list[tuple[str, str]], *rest: object) -> Callable[[bytes], object]:
    """Take the start of an answer that becomes part of another."""
    return lambda content: None


def _body(environ: WSGIEnvironment) -> bytes:
    """Read the body of a request, and leave it there to be read again."""
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(content)
    return bytes(content)


def _listed_objects(content: bytes) -> list[tuple[str, str]]:
    """Return key and version of the objects that a request would delete."""
    try:
        return [_key_and_version(member) for member in ElementTree.fromstring(content) if _tag(member) == "Object"]
    except ElementTree.ParseError:  # which S3 refuses
        return []


def _without(content: bytes, objects: set[tuple[str, str]]) -> bytes:
    """Return a list of objects without some of them."""
    tree = ElementTree.fromstring(content)
    for member in [*tree]:
        if _tag(member) == "Object" and _key_and_version(member) in objects:
            tree.remove(member)
    for element in tree.iter():
        element.tag = _tag(element)  # moto reads no names with a prefix, which ElementTree would write
    return ElementTree.tostring(tree)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _key_and_version(element: ElementTree.Element) -> tuple[str, str]:
    fields = {_tag(member): member.text or "" for member in element}
    return fields.get("Key", ""), fields.get("VersionId", "")


def _needs(environ: WSGIEnvironment, service: str, region: str, present: Present) -> list[Need]:
    """Return what a request to another service needs; nothing for REST."""
    fields: InputFields = {}
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        operation = str(target).rpartition(".")[2]
        try:
            decoded: object = msgspec.json.decode(_body(environ) or b"{}")
        except msgspec.MsgspecError:  # which the service refuses
            return []
        fields = decoded if isinstance(decoded, dict) else {}
    elif match := _CBOR_PATH.fullmatch(str(environ.get("PATH_INFO", ""))):
        operation = match[1]
    elif str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        form = {name: values[0] for name, values in parse_qs(_body(environ).decode(errors="replace")).items()}
        operation, fields = form.get("Action", ""), form
    else:
        return []
    if not operation:
        return []
    return service_needs(ServiceCall(service, operation, region, fields, present.secret_arn))


def _denial(environ: WSGIEnvironment, service: str, message: str) -> Denial:
    if service == "s3":
        return s3_denial(message, environ["REQUEST_METHOD"])
    if environ.get("HTTP_X_AMZ_TARGET"):
        return json_denial(message, service, str(environ.get("CONTENT_TYPE") or "application/x-amz-json-1.0"))
    if _CBOR_PATH.fullmatch(str(environ.get("PATH_INFO", ""))):
        return cbor_denial(message)
    return query_denial(message, service)
