"""The Lambda functions that moto knows, really run by the emulator, and what they write in moto's CloudWatch Logs."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.awslambda.exceptions import UnknownFunctionException
from moto.awslambda.models import lambda_backends
from moto.logs.models import logs_backends

from lokki.emulator.functions.pool import LambdaFunctions
from lokki.emulator.functions.process import FunctionSpec, LogEvent, Surroundings
from lokki.emulator.functions.sandbox import make_sandbox
from lokki.emulator.states.services import ACCOUNT, REGION, Caller, FunctionReply, ServiceError

if TYPE_CHECKING:
    from moto.awslambda.models import LambdaFunction

_SETTLED = 0.05
"""Seconds after an invocation's end in which lines that it wrote may still be read from its process's pipe."""

_GROUP, _FORMAT, _LEVEL = "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL"


class LoopbackFunctions:
    """Invokes functions by ARN with the code and configuration that moto has at that moment, of that version."""

    def __init__(self, folder: Path, variables: Mapping[str, str], workers: int, shared: Sequence[Path]) -> None:
        self.logs = FunctionLogs()
        self._folder = folder / "code"
        self._folder.mkdir()
        self._logging: dict[str, dict[str, str]] = {}
        self._snap_starts: dict[str, str] = {}
        self._versions: dict[str, int] = {}
        self._specs: dict[str, tuple[object, FunctionSpec]] = {}
        self._lock = threading.Lock()
        temporary = folder / "tmp"
        temporary.mkdir()
        sandbox = make_sandbox(folder / "sandbox", shared)
        around = Surroundings(sandbox, temporary, variables, lambda *told: None, follow=self.logs.follow)
        self._pool = LambdaFunctions((), around, workers, threading.Event())

    def close(self) -> None:
        """End all processes."""
        self._pool.close()

    def invoke(
        self, function: str, payload: bytes, timeout: float, caller: Caller, stop: threading.Event
    ) -> FunctionReply:
        """Invoke a function; ``stop`` ends the wait for it."""
        try:
            known: LambdaFunction = lambda_backends[ACCOUNT][REGION].get_function(function)
        except UnknownFunctionException as error:
            raise ServiceError("Lambda.ResourceNotFoundException", str(error.description)) from None
        return self._pool.invoke(self._current(known).arn, payload, timeout, caller, stop)

    def set_logging(self, name: str, config: Mapping[str, str]) -> None:
        """Take a function's LoggingConfig, which moto does not keep, as Lambda tells it to the runtime."""
        variables = {_GROUP: config.get("LogGroup", f"/aws/lambda/{name}"), _FORMAT: config.get("LogFormat", "Text")}
        level = {_LEVEL: config["ApplicationLogLevel"]} if "ApplicationLogLevel" in config else {}
        self._logging[name] = {**variables, **level}

    def set_snap_start(self, name: str, applied: str) -> None:
        """Take when snapshots of a function are made, which moto does not keep."""
        self._snap_starts[name] = applied

    def publish(self, name: str, description: str) -> tuple[str, bool]:
        """Publish a version; return its ARN, and whether it is new: of an unchanged function it is the last one.

        moto numbers versions by how many there are, so that it gives a deleted one's number again, which AWS never
        does; it takes every update for a change; and a version shares with the function what is changed in place.
        """
        backend: Any = lambda_backends[ACCOUNT][REGION]
        function = backend.get_function(name)
        listed = backend.list_versions_by_function(function.function_name)
        before = [each for each in listed if str(each.version) != "$LATEST"]
        snap_start = self._snap_starts.get(function.function_name, "None")
        same_start = before and self._snap_starts.get(before[-1].function_arn, "None") == snap_start
        if same_start and _told_apart(before[-1]) == _told_apart(function):
            return str(before[-1].function_arn), False
        function.code_or_config_updated = True
        version = backend.publish_version(function.function_name, description)
        number = max([self._versions.get(function.function_name, 0), *(int(each.version) for each in before)]) + 1
        self._versions[function.function_name] = number
        version.set_version(number)
        self._snap_starts[version.function_arn] = snap_start
        backend._lambdas._arns[version.function_arn] = version
        version.code, version.environment_vars = dict(version.code), dict(version.environment_vars)
        return str(version.function_arn), True

    def forget(self, name: str) -> None:
        """Forget what is known of a deleted function; a new one of its name counts its versions from 1."""
        self._logging.pop(name, None)
        self._snap_starts.pop(name, None)
        self._versions.pop(name, None)

    def _current(self, known: LambdaFunction) -> FunctionSpec:
        """Return the function as it is now: the same value while nothing changes, so that its processes are kept."""
        if known.package_type != "Zip":
            raise ServiceError("Lambda.AWSLambdaException", f"{known.function_arn} is an image, which is not run here.")
        digest = hashlib.sha256(known.code_bytes).hexdigest()
        version = "" if str(known.version) == "$LATEST" else str(known.version)
        logging = self._logging.get(known.function_name, {_GROUP: f"/aws/lambda/{known.function_name}"})
        environment = {**logging, **known.environment_vars}
        seen = (digest, known.handler, known.timeout, known.memory_size, sorted(environment.items()), version)
        with self._lock:
            before = self._specs.get(known.function_arn)
            if before is not None and before[0] == seen:
                return before[1]
            spec = FunctionSpec(
                known.function_name,
                self._unpacked(digest, known.code_bytes),
                str(known.handler),
                float(known.timeout),
                int(known.memory_size),
                environment,
                version,
            )
            self._specs[known.function_arn] = (seen, spec)
            self._pool.put(spec)
            return spec

    def _unpacked(self, digest: str, code: bytes) -> Path:
        folder = self._folder / digest
        if not folder.exists():
            with zipfile.ZipFile(io.BytesIO(code)) as archive:
                archive.extractall(folder)
        return folder


@dataclass
class FunctionLogs:
    """Puts what functions write into their log groups, as Lambda does; without such a group it is lost."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: dict[str, tuple[LogEvent, float, int]] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    latest: dict[str, int] = field(default_factory=dict)

    def follow(self, event: LogEvent) -> None:
        """Take an event. The end of an invocation is written when its last lines have come."""
        with self.lock:
            match event.kind:
                case "start":
                    self._start(event)
                case "line":
                    self._write(event, f"{event.text}\n")
                case "end":
                    if event.request not in self.started:
                        self._start(event)
                    self.ended[event.stream] = (event, time.monotonic(), _now())

    def settle(self) -> None:
        """Wait until all that was written is there."""
        while True:
            with self.lock:
                for stream, (_, ended, _) in [*self.ended.items()]:
                    if time.monotonic() - ended >= _SETTLED:
                        self._end(stream)
                if not self.ended:
                    return
            time.sleep(_SETTLED / 5)

    def _start(self, event: LogEvent) -> None:
        if event.stream in self.ended:
            self._end(event.stream)
        self.started.add(event.request)
        version = event.spec.version or "$LATEST"
        text = f"START RequestId: {event.request} Version: {version}\n"
        self._write(event, _platform_line(event, "start", {"version": version}) or text)

    def _end(self, stream: str) -> None:
        event, _, moment = self.ended.pop(stream)
        moment = max(moment, self.latest.pop(stream, 0))
        milliseconds = event.seconds * 1000
        self.started.discard(event.request)
        metrics = {"durationMs": round(milliseconds, 3), "billedDurationMs": int(milliseconds) + 1}
        if line := _platform_line(event, "report", {"status": "success", "metrics": metrics}):
            self._write(event, line, moment)
            return
        self._write(event, f"END RequestId: {event.request}\n", moment)
        self._write(
            event,
            f"REPORT RequestId: {event.request}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {int(milliseconds) + 1} ms\tMemory Size: {event.spec.memory} MB\t"
            f"Max Memory Used: {min(64, event.spec.memory)} MB\t\n",
            moment,
        )

    def _write(self, event: LogEvent, message: str, moment: int | None = None) -> None:
        moment = moment or _now()
        self.latest[event.stream] = moment
        backend: Any = logs_backends[ACCOUNT][REGION]
        name = event.spec.environment[_GROUP]
        group = backend.groups.get(name)
        if group is None:
            return
        day = time.strftime("%Y/%m/%d", time.gmtime())
        stream = f"{day}/{event.stream}"
        known = next((each for each in group.streams if each.endswith(event.stream)), None)
        if known is None:
            backend.create_log_stream(name, stream)
        backend.put_log_events(name, known or stream, [{"timestamp": moment, "message": message}])


def _platform_line(event: LogEvent, kind: str, record: dict[str, object]) -> str:
    """Return a line of the platform of a function that logs as JSON, "" of another.

    https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html
    """
    if event.spec.environment.get(_FORMAT) != "JSON":
        return ""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    line = {"time": moment, "type": f"platform.{kind}", "record": {"requestId": event.request, **record}}
    return json.dumps(line) + "\n"


def _told_apart(function: LambdaFunction) -> list[object]:
    """Return what makes a version differ from the one before."""
    known = (function.handler, function.timeout, function.memory_size, function.run_time, function.role)
    return [function.code_sha_256, function.environment_vars, function.architectures, *known]


def _now() -> int:
    return int(time.time() * 1000)
