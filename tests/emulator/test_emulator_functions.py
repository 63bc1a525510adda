"""Lambda functions in real processes under awslambdaric: environment, errors, limits, warm workers, and their end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from lokki.base.values import Json
from lokki.emulator.functions import bootstrap
from lokki.emulator.functions.pool import LambdaFunctions
from lokki.emulator.functions.process import FunctionSpec, Surroundings
from lokki.emulator.functions.sandbox import Sandbox, SharedSandbox, make_sandbox
from lokki.emulator.states.services import (
    Caller,
    EmulationStoppedError,
    FunctionReply,
    InvocationTimeoutError,
    ServiceError,
)

CALLER = Caller("arn:run", "Work")

HANDLER = """
    import os, sys, time, threading, subprocess
    STARTED = time.time()
    def lambda_handler(event, context):
        global COUNT
        COUNT = globals().get("COUNT", 0) + 1
        do = event.get("do")
        if do == "environment":
            return {"variables": dict(os.environ), "path": sys.path, "folder": os.getcwd(), "stdin": sys.stdin.read()}
        if do == "pid":
            return [os.getpid(), COUNT]
        if do == "try":
            try:
                return repr(eval(event["expression"]))
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        if do == "print":
            print("honk"); print("honk", file=sys.stderr)
        if do == "exit":
            os._exit(3)
        if do == "quit":
            sys.exit()
        if do == "kill":
            os.kill(os.getpid(), 9)
        if do in ("11", "40"):
            os.kill(os.getpid(), int(do))
        if do == "sleep":
            time.sleep(event["seconds"])
        if do == "fill":
            kept = b"x" * (400 * 2**20); time.sleep(5)
        if do == "fill together":
            fill = "kept = b'x' * (90 * 2 ** 20); import time; time.sleep(5)"
            children = [subprocess.Popen([sys.executable, "-c", fill]) for _ in range(3)]
            time.sleep(5)
        if do == "reserve":
            kept = bytearray(64 * 2**30)
        if do == "raise":
            raise LookupError("no goose")
        if do == "set":
            return {1}
        if do == "large":
            return "x" * (6 * 2**20)
        if do == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            return child.pid
        if do == "run":
            done = subprocess.run([sys.executable, *event["python"]], capture_output=True, text=True)
            return (done.stdout + done.stderr).strip()
        if do == "find":
            import importlib.util
            return [name for name in event["modules"] if importlib.util.find_spec(name)]
        return context.get_remaining_time_in_millis()
"""


@contextmanager
def functions(
    folder: Path, *, most: int = 4, stop: threading.Event | None = None, sandbox: Sandbox | None = None, **handlers: str
) -> Iterator[tuple[LambdaFunctions, list[str]]]:
    """Run functions: each of these handlers, by name; yield them and what they write."""
    lines: list[str] = []
    (folder / "scratch").mkdir()
    specs = []
    for name, source in handlers.items():
        package = folder / name
        package.mkdir()
        (package / "handler.py").write_text(textwrap.dedent(source))
        specs.append(FunctionSpec(name, package, "handler.lambda_handler", 2.0, 256, {"BIRD": "goose"}))
    around = Surroundings(
        sandbox or make_sandbox(folder / "sandbox"),
        folder / "scratch",
        {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        lambda spec, caller, text: lines.append(f"{spec.name}/{caller.state if caller else ''}: {text}"),
    )
    running = LambdaFunctions(specs, around, most, stop or threading.Event())
    try:
        yield running, lines
    finally:
        running.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[LambdaFunctions]:
    with functions(tmp_path, one=HANDLER) as (running, _):
        yield running


def invoke(running: LambdaFunctions, event: dict[str, Json], name: str = "one", timeout: float = 60.0) -> Json:
    reply = running.invoke(arn(name), msgspec.json.encode(event), timeout, CALLER)
    assert not reply.failed, reply.payload
    value: Json = msgspec.json.decode(reply.payload)
    return value


def failed(running: LambdaFunctions, event: dict[str, Json], name: str = "one") -> dict[str, str]:
    reply: FunctionReply = running.invoke(arn(name), msgspec.json.encode(event), 60.0, CALLER)
    assert reply.failed
    return msgspec.json.decode(reply.payload, type=dict[str, object])  # type: ignore[return-value]


def arn(name: str) -> str:
    return f"arn:aws:lambda:us-east-1:123456789012:function:{name}"


@pytest.fixture(params=["own", "shared"])
def everywhere(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LambdaFunctions]:
    """Functions where Linux lets a user have a root of their own, and where it does not."""
    sandbox = None if request.param == "own" else SharedSandbox.create(tmp_path / "shared", "for a test")
    with functions(tmp_path, sandbox=sandbox, one=HANDLER) as (running, _):
        yield running


def test_a_function_sees_its_own_environment_and_nothing_of_this_one(one: LambdaFunctions) -> None:
    os.environ["LOKKI_TEST_LEAK"] = "leaked"
    try:
        seen = invoke(one, {"do": "environment"})
    finally:
        del os.environ["LOKKI_TEST_LEAK"]
    assert isinstance(seen, dict)
    variables = seen["variables"]
    assert isinstance(variables, dict)
    assert variables.pop("AWS_LAMBDA_LOG_STREAM_NAME").startswith("[$LATEST]")  # type: ignore[union-attr]
    assert variables.pop("AWS_LAMBDA_RUNTIME_API").startswith("127.0.0.1:")  # type: ignore[union-attr]
    variables.pop("LC_CTYPE", None)  # Python sets it itself where there is no such locale (PEP 538)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert variables == {
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": "one",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/one",
        "AWS_REGION": "us-east-1",
        "BIRD": "goose",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "LAMBDA_TASK_ROOT": "/var/task",
        "LANG": "en_US.UTF-8",
        "LD_LIBRARY_PATH": (
            "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"
        ),
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "PYTHONPATH": "/var/runtime",
        "TZ": ":UTC",
        "_HANDLER": "handler.lambda_handler",
    }
    path = seen["path"]
    assert isinstance(path, list)
    assert (path[0], path[-1]) == ("/var/task", "/var/runtime")
    assert not any("site-packages" in str(each) for each in path)
    assert (seen["folder"], seen["stdin"]) == ("/var/task", "")


def test_a_package_that_misses_a_dependency_fails_as_on_aws(everywhere: LambdaFunctions) -> None:
    modules = ["lokki", "moto", "msgspec", "obstore", "pytest", "yaml"]
    found = ["boto3", "json", "s3transfer"]  # what Lambda's own Python has
    assert invoke(everywhere, {"do": "find", "modules": [*modules, *found]}) == found


def test_a_program_that_a_step_starts_sees_what_the_step_sees(everywhere: LambdaFunctions) -> None:
    for module, told in (("pytest", "no"), ("msgspec", "no"), ("boto3", "yes"), ("handler", "yes"), ("sqlite3", "yes")):
        program = f"import importlib.util; print('yes' if importlib.util.find_spec('{module}') else 'no')"
        assert invoke(everywhere, {"do": "run", "python": ["-c", program]}) == told, module


def tried(running: LambdaFunctions, expression: str) -> str:
    return str(invoke(running, {"do": "try", "expression": expression}))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaFunctions]:
    """Functions of which one process serves many tests."""
    with functions(tmp_path_factory.mktemp("lasting"), one=HANDLER) as (running, _):
        yield running


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("os.environ.get('HOME')", "None"),
        ("os.path.expanduser('~')", "'/home/sbx_user1051'"),
        (
            "os.makedirs(os.path.expanduser('~/.cache'))",
            "OSError: [Errno 30] Read-only file system: '/home/sbx_user1051'",
        ),
        ("open('/var/task/made.txt', 'w')", "OSError: [Errno 30] Read-only file system: '/var/task/made.txt'"),
        ("open('made.txt', 'w')", "OSError: [Errno 30] Read-only file system: 'made.txt'"),
        ("open('/var/lang/lib/made.txt', 'w')", "OSError: [Errno 30] Read-only file system: '/var/lang/lib/made.txt'"),
        ("os.mkdir('/made')", "OSError: [Errno 30] Read-only file system: '/made'"),
        ("open('/tmp/made.txt', 'w').write('x')", "1"),
        ("open('/dev/null', 'w').write('x')", "1"),
        ("__import__('tempfile').gettempdir()", "'/tmp'"),
        ("os.path.exists('/dev/shm')", "False"),
        ("__import__('multiprocessing').Lock()", "FileNotFoundError: [Errno 2] No such file or directory"),
        ("__import__('multiprocessing').Pool(2)", "FileNotFoundError: [Errno 2] No such file or directory"),
        ("len(__import__('multiprocessing').Pipe())", "2"),
        ("sys.executable", f"'/var/lang/bin/python{sys.version_info[0]}.{sys.version_info[1]}'"),
        ("sys.prefix", "'/var/lang'"),
        ("[each for each in ('sh', 'cat', 'sed') if not __import__('shutil').which(each)]", "[]"),
        ("[each for each in ('git', 'gcc', 'uv', 'pip', 'tar') if __import__('shutil').which(each)]", "[]"),
        ("subprocess.run(['bash', '-c', 'echo $0 | sed s/b/d/'], capture_output=True, text=True).stdout", "'dash\\n'"),
        ("(os.getuid(), os.getgid(), __import__('getpass').getuser())", "(993, 990, 'sbx_user1051')"),
        (f"os.path.exists({str(Path(__file__))!r})", "False"),
        ("os.path.isdir('/root') or os.path.isdir('/home/sbx_user1051')", "False"),
        ("os.listdir('/home')", "[]"),
        ("__import__('ssl').create_default_context().cert_store_stats()['x509_ca'] > 0", "True"),
        ("str(__import__('zoneinfo').ZoneInfo('Europe/Helsinki'))", "'Europe/Helsinki'"),
        ("__import__('ctypes').CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)", "-1"),
    ],
)
def test_a_function_sees_of_a_machine_what_lambda_shows(lasting: LambdaFunctions, expression: str, told: str) -> None:
    assert tried(lasting, expression) == told


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("os.makedirs(os.path.expanduser('~/.cache'))", "NotADirectoryError: "),
        ("__import__('multiprocessing').Lock()", "FileNotFoundError: [Errno 2] No such file or directory"),
        ("__import__('multiprocessing').Pool(2)", "FileNotFoundError: [Errno 2] No such file or directory"),
        ("__import__('concurrent.futures').futures.ProcessPoolExecutor().submit(abs, 1)", "FileNotFoundError: "),
        ("open(__import__('tempfile').gettempdir() + '/made.txt', 'w').write('x')", "1"),
    ],
)
def test_where_functions_share_the_machine_what_can_be_hidden_is(tmp_path: Path, expression: str, told: str) -> None:
    sandbox = SharedSandbox.create(tmp_path / "shared", "for a test")
    with functions(tmp_path, sandbox=sandbox, one=HANDLER) as (running, _):
        assert tried(running, expression).startswith(told)


def test_tmp_has_the_functions_size_and_each_process_its_own(one: LambdaFunctions) -> None:
    one.put(replace(one.spec(arn("one")), disk=16))
    assert tried(one, "open('/tmp/small', 'wb').write(bytes(2 ** 20))") == "1048576"
    assert tried(one, "open('/tmp/large', 'wb').write(bytes(2 ** 25))") == "OSError: [Errno 28] No space left on device"
    assert tried(one, "sorted(os.listdir('/tmp'))") == "['large', 'small']", "a warm process keeps its files"
    failed(one, {"do": "kill"})
    assert tried(one, "os.listdir('/tmp')") == "[]"


def test_a_machine_that_gives_no_root_is_shared_and_says_why(tmp_path: Path) -> None:
    program = f"""
    import os, sys
    sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
    from pathlib import Path
    user, group = os.getuid(), os.getgid()
    os.unshare(os.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {{user}} 1"), ("gid_map", f"0 {{group}} 1")):
        Path("/proc/self", name).write_text(text)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    import test_emulator_functions as this
    sandbox = this.make_sandbox(Path({str(tmp_path / "sandbox")!r}))
    with this.functions(Path({str(tmp_path)!r}), sandbox=sandbox, one=this.HANDLER) as (running, _):
        print(sandbox.problem, this.tried(running, "os.environ['LAMBDA_TASK_ROOT']"), sep="\\n")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    problem = "OSError: [Errno 28] No space left on device"
    assert done.stdout.splitlines() == [problem, repr(str(tmp_path / "one"))], done.stderr


def test_a_worker_is_kept_warm(one: LambdaFunctions) -> None:
    first, second = (invoke(one, {"do": "pid"}) for _ in range(2))
    assert isinstance(first, list)
    assert second == [first[0], 2]


@pytest.mark.parametrize(
    ("do", "kind", "message"),
    [
        ("raise", "LookupError", "no goose"),
        ("set", "Runtime.MarshalError", "Unable to marshal response: Object of type set is not JSON serializable"),
        ("exit", "Runtime.ExitError", "RequestId: * Error: Runtime exited with error: exit status 3"),
        ("quit", "Runtime.ExitError", "RequestId: * Error: Runtime exited without providing a reason"),
        ("kill", "Runtime.ExitError", "RequestId: * Error: Runtime exited with error: signal: killed"),
        ("11", "Runtime.ExitError", "RequestId: * Error: Runtime exited with error: signal: segmentation fault"),
        ("40", "Runtime.ExitError", "RequestId: * Error: Runtime exited with error: signal: signal 40"),
        ("fill", "Runtime.OutOfMemory", "RequestId: * Error: Runtime exited with error: signal: killed"),
        ("fill together", "Runtime.OutOfMemory", "RequestId: * Error: Runtime exited with error: signal: killed"),
        ("reserve", "MemoryError", ""),
        ("sleep", "Sandbox.Timedout", "RequestId: * Error: Task timed out after 2.00 seconds"),
        (
            "large",
            "Function.ResponseSizeTooLarge",
            "Response payload size (6291458 bytes) exceeded maximum allowed payload size (6291456 bytes).",
        ),
    ],
)
def test_a_function_that_fails_is_told_as_lambda_tells_it(
    one: LambdaFunctions, do: str, kind: str, message: str
) -> None:
    if kind == "Runtime.OutOfMemory":  # which a busy machine may take its time to fill
        one.put(replace(one.spec(arn("one")), timeout=120.0))
    told = failed(one, {"do": do, "seconds": 60})
    words = told["errorMessage"].split()
    if words[:1] == ["RequestId:"]:
        words[1] = "*"
    assert (told["errorType"], " ".join(words)) == (kind, message)
    assert isinstance(invoke(one, {}), int), "the next invocation finds a worker"


def test_a_function_that_cannot_start_is_told_as_lambda_tells_it(tmp_path: Path) -> None:
    with functions(tmp_path, lacking="import nowhere", broken="raise ValueError('no')", empty="") as (running, lines):
        assert failed(running, {}, "lacking") == {
            "errorMessage": "Unable to import module 'handler': No module named 'nowhere'",
            "errorType": "Runtime.ImportModuleError",
            "requestId": "",
            "stackTrace": [],
        }
        assert failed(running, {}, "broken")["errorType"] == "ValueError"
        assert failed(running, {}, "empty")["errorType"] == "Runtime.HandlerNotFound"
    assert any("[ERROR] Runtime.ImportModuleError" in line for line in lines)


def test_what_a_function_prints_is_told_with_its_caller(tmp_path: Path) -> None:
    with functions(tmp_path, one=HANDLER) as (running, lines):
        invoke(running, {"do": "print"})
        running.close()
        assert lines == ["one/Work: honk", "one/Work: honk"]


def test_an_unknown_function_is_refused(one: LambdaFunctions) -> None:
    with pytest.raises(ServiceError, match=r"Lambda\.ResourceNotFoundException: Function not found: arn:two"):
        one.invoke("arn:two", b"{}", 1.0, CALLER)


def test_a_function_goes_on_when_its_caller_no_longer_waits(one: LambdaFunctions) -> None:
    invoke(one, {"do": "pid"})
    with pytest.raises(InvocationTimeoutError):
        invoke(one, {"do": "sleep", "seconds": 0.8}, timeout=0.4)
    time.sleep(1.5)
    assert invoke(one, {"do": "pid"})[1] == 3  # type: ignore[index]


def test_invocations_run_at_one_time_in_processes_of_their_own(one: LambdaFunctions) -> None:
    found: list[Json] = []
    threads = [
        threading.Thread(target=lambda: found.append(invoke(one, {"do": "sleep", "seconds": 0.5}))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = {invoke(one, {"do": "pid"})[0] for _ in range(2)}  # type: ignore[index]
    assert len(found) == 4
    assert len(pids) == 1, "one after the other they are the same warm one"


def test_idle_workers_of_other_functions_make_room(tmp_path: Path) -> None:
    names = {f"f{n}": HANDLER for n in range(4)}
    with functions(tmp_path, most=2, **names) as (running, _):
        pids = {invoke(running, {"do": "pid"}, name)[0] for name in names}  # type: ignore[index]
        assert len(pids) == 4
        assert len([pid for pid in pids if alive(pid)]) == 2  # type: ignore[arg-type]


def test_a_stopped_emulation_waits_for_no_function(tmp_path: Path) -> None:
    stop = threading.Event()
    with functions(tmp_path, stop=stop, one=HANDLER) as (running, _):
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(EmulationStoppedError):
            invoke(running, {"do": "sleep", "seconds": 60})


def test_nothing_runs_or_lies_about_after_the_end(tmp_path: Path) -> None:
    with functions(tmp_path, one=HANDLER) as (running, _):
        pid, child = invoke(running, {"do": "pid"})[0], invoke(running, {"do": "child"})  # type: ignore[index]
        assert alive(pid)  # type: ignore[arg-type]
        assert alive(child)  # type: ignore[arg-type]
    wait_until_dead(pid, child)  # type: ignore[arg-type]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    "busy",
    [
        "time.sleep(60)",  # a worker that waits for work sees its API go first
        pytest.param('this.invoke(running, {"do": "sleep", "seconds": 60})', marks=pytest.mark.slow),
    ],
)
def test_workers_and_their_children_end_when_the_emulator_is_killed(tmp_path: Path, busy: str) -> None:
    program = f"""
    import sys, time
    sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
    from pathlib import Path
    import test_emulator_functions as this
    with this.functions(Path({str(tmp_path)!r}), one=this.HANDLER) as (running, _):
        print(this.invoke(running, {{"do": "pid"}})[0], this.invoke(running, {{"do": "child"}}), flush=True)
        {busy}
    """
    emulator = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    with emulator:
        assert emulator.stdout is not None
        pids = [int(word) for word in emulator.stdout.readline().split()]
        assert all(alive(pid) for pid in pids)
        emulator.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    wait_until_dead(*pids)


def test_a_worker_whose_client_fails_first_ends_with_its_children_when_the_emulator_does(tmp_path: Path) -> None:
    client = tmp_path / "awslambdaric"
    client.mkdir()
    (client / "__init__.py").touch()
    (client / "__main__.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "raise RuntimeError('Failed to get next')\n"
    )
    command = [sys.executable, bootstrap.__file__, "", str(2**40), "handler.lambda_handler"]
    worker = subprocess.Popen(
        command,
        env={**os.environ, "LAMBDA_TASK_ROOT": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        time.sleep(0.3)  # the client has failed by now
        assert worker.stdin is not None
        worker.stdin.close()
    wait_until_dead(child)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(*pids: int) -> None:
    end = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)
