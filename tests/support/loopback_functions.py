"""The Lambda functions that moto knows, really run by the emulator, and what they write in moto's CloudWatch Logs."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.awslambda.exceptions import UnknownFunctionException
from moto.awslambda.models import lambda_backends
from moto.logs.models import logs_backends

from lokki.emulator.functions import LambdaFunctions, make_runtime
from lokki.emulator.services import ACCOUNT, REGION, Caller, Reply, ServiceError
from lokki.emulator.worker import FunctionSpec, LogEvent, Surroundings

if TYPE_CHECKING:
    from moto.awslambda.models import LambdaFunction

_SETTLED = 0.05
"""Seconds after an invocation's end in which lines that it wrote may still be read from its process's pipe."""

_GROUP = "AWS_LAMBDA_LOG_GROUP_NAME"


class LoopbackFunctions:
    """Invokes functions by ARN with the code and configuration that moto has at that moment, of that version."""

    def __init__(self, folder: Path, variables: Mapping[str, str], workers: int) -> None:
        self.logs = FunctionLogs()
        self._folder = folder / "code"
        self._folder.mkdir()
        self._groups: dict[str, str] = {}
        self._versions: dict[str, int] = {}
        self._specs: dict[str, tuple[object, FunctionSpec]] = {}
        self._lock = threading.Lock()
        temporary = folder / "tmp"
        temporary.mkdir()
        runtime = make_runtime(folder / "runtime")
        around = Surroundings(runtime, temporary, variables, lambda *told: None, follow=self.logs.follow)
        self._pool = LambdaFunctions((), around, workers, threading.Event())

    def close(self) -> None:
        """End all processes."""
        self._pool.close()

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller, stop: threading.Event) -> Reply:
        """Invoke a function; ``stop`` ends the wait for it."""
        try:
            known: LambdaFunction = lambda_backends[ACCOUNT][REGION].get_function(function)
        except UnknownFunctionException as error:
            raise ServiceError("Lambda.ResourceNotFoundException", str(error.description)) from None
        return self._pool.invoke(self._current(known).arn, payload, timeout, caller, stop)

    def set_log_group(self, name: str, group: str) -> None:
        """Take a function's LoggingConfig, which moto does not keep."""
        self._groups[name] = group

    def changed(self, name: str) -> None:
        """Take note that a function's code or configuration is another one."""
        backend: Any = lambda_backends[ACCOUNT][REGION]
        backend.get_function(name).code_or_config_updated = True

    def publish(self, name: str, description: str) -> tuple[str, bool]:
        """Publish a version; return its ARN, and whether it is new: of an unchanged function it is the last one.

        moto counts the versions that there are, and so gives numbers anew; AWS never does. It shares with each version
        what it changes in place.
        """
        backend: Any = lambda_backends[ACCOUNT][REGION]
        function = backend.get_function(name)
        before = [each for each in backend.list_versions_by_function(name) if str(each.version) != "$LATEST"]
        if before and not function.code_or_config_updated:
            return str(before[-1].function_arn), False
        version = backend.publish_version(name, description)
        function.code_or_config_updated = False
        number = max(self._versions.get(name, 0), *(int(each.version) for each in before), 0) + 1
        self._versions[name] = number
        if int(version.version) != number:
            version.set_version(number)
        backend._lambdas._arns[version.function_arn] = version
        version.code = dict(version.code)
        version.environment_vars = dict(version.environment_vars)
        return str(version.function_arn), True

    def forget(self, name: str) -> None:
        """Forget what is known of a deleted function; a new one of its name counts its versions from 1."""
        self._groups.pop(name, None)
        self._versions.pop(name, None)

    def _current(self, known: LambdaFunction) -> FunctionSpec:
        """Return the function as it is now; the same value until it changes, so that its processes are kept."""
        if known.package_type != "Zip":
            raise ServiceError("Lambda.AWSLambdaException", f"{known.function_arn} is an image, which is not run here.")
        digest = hashlib.sha256(known.code_bytes).hexdigest()
        version = "" if str(known.version) == "$LATEST" else str(known.version)
        group = self._groups.get(known.function_name, f"/aws/lambda/{known.function_name}")
        environment = {_GROUP: group, **known.environment_vars}
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
        self._write(event, f"START RequestId: {event.request} Version: {event.spec.version or '$LATEST'}\n")

    def _end(self, stream: str) -> None:
        event, _, _ = self.ended.pop(stream)
        milliseconds = event.seconds * 1000
        self.started.discard(event.request)
        self._write(event, f"END RequestId: {event.request}\n")
        self._write(
            event,
            f"REPORT RequestId: {event.request}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {int(milliseconds) + 1} ms\tMemory Size: {event.spec.memory} MB\t"
            f"Max Memory Used: {min(64, event.spec.memory)} MB\t\n",
        )

    def _write(self, event: LogEvent, message: str) -> None:
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
        backend.put_log_events(name, known or stream, [{"timestamp": _now(), "message": message}])


def _now() -> int:
    return int(time.time() * 1000)
