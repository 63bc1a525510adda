"""One execution environment of a Lambda function: a process under Lambda's runtime client.

It is kept warm between invocations.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import msgspec

from lokki.base.quotas import FUNCTION_PAYLOAD_BYTES, LEAST_DISK
from lokki.emulator.functions.connections import belongs_to
from lokki.emulator.functions.runtime_api import InvocationEvent, RuntimeApi
from lokki.emulator.functions.sandbox import Sandbox
from lokki.emulator.iam.checking import Role
from lokki.emulator.states.services import ACCOUNT, REGION, Caller, FunctionReply
from lokki.engine.causes import SIGNALS

INIT_SECONDS = 10.0
"""How long a function may take to start before that counts as time of its first invocation.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html"""

_WORDS = {signal.Signals[name].value: words for words, name in SIGNALS.items()}
"""What Lambda calls a signal, by its number."""

_PAGE = os.sysconf("SC_PAGE_SIZE")

_FULL_LOOK = 5
"""Every such look at the memory is one at other processes too, which costs a file of each thread."""

_HEADROOM = 4 * 2**30
"""Address space beyond the memory: threads and allocators reserve much that they never use."""


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A Lambda function, as the template has it.

    * ``folder``: its unpacked code.
    * ``timeout``: seconds; ``memory``: MB; ``disk``: MB of /tmp.
    * ``role``: what it may do; None where that is not known.
    * ``version``: the number of a published version; without it the function is ``$LATEST``.
    """

    name: str
    folder: Path
    handler: str
    timeout: float
    memory: int
    environment: Mapping[str, str]
    version: str = ""
    disk: int = LEAST_DISK
    role: Role | None = None

    @property
    def arn(self) -> str:
        """The function's ARN, with its version."""
        qualifier = f":{self.version}" if self.version else ""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}{qualifier}"


@dataclass(frozen=True, slots=True)
class LogEvent:
    """The start of an invocation, a line of its log, or its end.

    * ``stream``: the process's log stream.
    * ``request``: the invocation's id, "" for a line outside of one.
    * ``seconds``: how long it took, at its end.
    """

    spec: FunctionSpec
    stream: str
    kind: Literal["start", "line", "end"]
    request: str
    text: str = ""
    seconds: float = 0.0


type FunctionLogger = Callable[[FunctionSpec, Caller | None, str], None]


def _follow_nothing(event: LogEvent) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes share.

    * ``scratch``: a folder for their temporary files.
    * ``variables``: those with which they reach AWS.
    * ``log``: gets each line that a function writes.
    * ``start_delay``: seconds that each start takes longer.
    * ``follow``: gets events for a log as Lambda keeps it.
    """

    sandbox: Sandbox
    scratch: Path
    variables: Mapping[str, str]
    log: FunctionLogger
    start_delay: float = 0.0
    follow: Callable[[LogEvent], None] = _follow_nothing


class FunctionProcess:
    """A process of a function, which handles one invocation at a time.

    `pending`: the reply to come; `caller`: who asked for it.
    """

    def __init__(self, spec: FunctionSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.pending: Future[FunctionReply] | None = None
        self.caller: Caller | None = None
        self._surroundings = surroundings
        self._events: SimpleQueue[InvocationEvent | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._request = ""
        self._deadline = 0.0
        self._taken = 0.0
        self._stream = f"[{spec.version or '$LATEST'}]{uuid.uuid4().hex}"
        self._killed_for = ""
        self._looks, self._others = 0, 0
        self._temporary = Path(tempfile.mkdtemp(prefix=f"{spec.name}-", dir=surroundings.scratch))
        self._api = RuntimeApi(self)
        self._process = self._start()  # after the API: it asks for its first event at once
        targets = (self._serve, self._read, self._watch)
        self._threads = [threading.Thread(target=target, name=f"lokki-{spec.name}", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can take another invocation."""
        return self._process.poll() is None and not self._killed_for

    def begin(self, payload: bytes, caller: Caller) -> Future[FunctionReply]:
        """Give it an event, and return the reply to come.

        The function's timeout counts from when it takes the event.
        """
        future: Future[FunctionReply] = Future()
        request = str(uuid.uuid4())
        with self._lock:
            self.pending, self._request, self.caller = future, request, caller
            self._taken = time.monotonic()
            self._deadline = self._taken + INIT_SECONDS + self._surroundings.start_delay + self.spec.timeout
            if self._process.poll() is not None:  # it ended between two invocations, and `_watch` had nobody to tell
                self._end(_exit_error(self._process.returncode, request))
                return future
        self._events.put(InvocationEvent(request, payload, 0, self.spec.arn))
        return future

    def check(self) -> None:
        """Kill the process if it has used up its time or its memory."""
        with self._lock:
            if self.pending is None or self._killed_for:
                return
            if time.monotonic() > self._deadline:
                message = f"RequestId: {self._request} Error: Task timed out after {self.spec.timeout:.2f} seconds"
                self._follow("line", self._request, message)
                self._kill(_error("Sandbox.Timedout", message))
            elif self._memory() > self.spec.memory * 2**20:
                # The name that Lambda gives since 2024 (https://github.com/awslabs/aws-deployment-framework/issues/758).
                message = f"RequestId: {self._request} Error: Runtime exited with error: signal: killed"
                self._kill(_error("Runtime.OutOfMemory", message))

    def _memory(self) -> int:
        """Return the bytes of memory that the process uses.

        Those of the programs that it started are looked at every few times only.
        """
        self._looks += 1
        own = _resident(self._process.pid)
        if self._looks % _FULL_LOOK == 0:
            self._others = sum(map(_resident, _descendants(self._process.pid)))
        return own + self._others

    def crash(self) -> None:
        """Kill the process in the middle of whatever it does."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """End the process and its children, and remove its folder."""
        with self._lock:
            self._killed_for = self._killed_for or "closed"
        self._signal(signal.SIGKILL)
        self._process.wait()  # before the threads are joined: the end of the process is what they wait for
        self._events.put(None)
        self._api.shutdown()
        self._api.server_close()
        for thread in self._threads:
            thread.join()
        assert self._process.stdin is not None
        self._process.stdin.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def is_own(self, peer: tuple[str, int], here: tuple[str, int]) -> bool:
        """Tell whether a connection to the runtime API is the process's."""
        return belongs_to(self._process.pid, peer, here)

    def take(self) -> InvocationEvent | None:
        """Hand the next event to the process, whose time begins."""
        event = self._events.get()
        if event is None:
            return None
        with self._lock:
            # The timeout counts from here, not from `begin`: a cold start is no time of the function's.
            self._taken = time.monotonic()
            self._deadline = self._taken + self.spec.timeout
        self._follow("start", event.request)
        ends = int((time.time() + self.spec.timeout) * 1000)
        return InvocationEvent(event.request, event.payload, ends, event.function)

    def answer(self, request: str, payload: bytes, *, failed: bool) -> None:
        """Take the response to the current event."""
        reply = FunctionReply(payload, failed)
        if not failed and len(payload) > FUNCTION_PAYLOAD_BYTES:
            size = f"Response payload size ({len(payload)} bytes) exceeded maximum allowed payload size"
            reply = _error("Function.ResponseSizeTooLarge", f"{size} ({FUNCTION_PAYLOAD_BYTES} bytes).")
        with self._lock:
            if request == self._request:  # an answer that comes after the timeout is for nobody
                self._end(reply)

    def init_failed(self, payload: bytes) -> None:
        """Take the error of the function's start.

        The process ends by itself.
        """
        with self._lock:
            self._killed_for = "init"
            if self.pending is not None:
                self._end(FunctionReply(payload, failed=True))

    def _start(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        if self._surroundings.start_delay:
            time.sleep(self._surroundings.start_delay)
        # Exactly what Lambda sets, and nothing of this process's environment.
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
        variables = {
            "AWS_LAMBDA_FUNCTION_NAME": spec.name,
            "AWS_LAMBDA_FUNCTION_VERSION": spec.version or "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self._stream,
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
            "_HANDLER": spec.handler,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            **self._surroundings.sandbox.variables(spec.folder, self._temporary),
            **self._surroundings.variables,
            "AWS_ACCESS_KEY_ID": spec.name,  # so that S3's log has which function asked
            **spec.environment,
        }
        space = spec.memory * 2**20 + _HEADROOM  # a limit for what is asked for at once; `check` sees the rest
        return subprocess.Popen(
            self._surroundings.sandbox.command(spec.folder, spec.disk, space, spec.handler),
            cwd=spec.folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: it is killed with all that it started, and not by Ctrl-C
        )

    def _serve(self) -> None:
        self._api.serve_forever(poll_interval=0.05)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                # The runtime writes the lines of one message with carriage returns between them.
                text = line.decode(errors="replace").rstrip("\r\n").replace("\r", "\n")
                self._surroundings.log(self.spec, self.caller, text)
                self._follow("line", self._request, text)

    def _watch(self) -> None:
        """Report the end of the process to whoever waits for a reply."""
        code = self._process.wait()
        with self._lock:
            if self.pending is not None:
                self._end(_exit_error(code, self._request))

    def _kill(self, reply: FunctionReply) -> None:
        self._killed_for = "limit"
        self._signal(signal.SIGKILL)
        self._end(reply)

    def _end(self, reply: FunctionReply) -> None:
        """Resolve the current reply, with the lock held."""
        request, future, self.pending, self._request = self._request, self.pending, None, ""
        if future is not None:
            self._follow("end", request, seconds=time.monotonic() - self._taken)
            future.set_result(reply)

    def _follow(self, kind: Literal["start", "line", "end"], request: str, text: str = "", seconds: float = 0) -> None:
        self._surroundings.follow(LogEvent(self.spec, self._stream, kind, request, text, seconds))

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)  # its group has its number


def _error(kind: str, message: str) -> FunctionReply:
    return FunctionReply(msgspec.json.encode({"errorType": kind, "errorMessage": message}), failed=True)


def _exit_error(code: int, request: str) -> FunctionReply:
    """Return the error for a process that ended without a reply."""
    if code < 0:
        reason = f"with error: signal: {_WORDS.get(-code, f'signal {-code}')}"
    else:
        reason = f"with error: exit status {code}" if code else "without providing a reason"
    return _error("Runtime.ExitError", f"RequestId: {request} Error: Runtime exited {reason}")


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process started, and those that they did."""
    for task in _listed(f"/proc/{pid}/task"):
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text("ascii").split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - many times a second
    except OSError:
        return []


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process uses.

    Where that cannot be known they are 0.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/statm", os.O_RDONLY)  # without pathlib: this is many times a second
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 200).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(descriptor)
