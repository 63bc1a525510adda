"""Why a task failed, as Step Functions tells it."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lokki import flow, step
from lokki.base.failures import Failure
from lokki.base.values import Json
from lokki.engine.causes import THRESHOLD, reported_failure
from lokki.engine.events import Event, ItemFailed, ItemsFailed, MapFinished, MapStarted, RunFailed, StepFailed
from lokki.observing.translating import RunTranslator, localize_failure
from lokki.plan import lower


def test_a_functions_error_has_the_users_traceback_and_place() -> None:
    frames = [
        '  File "/var/task/lokki/runtime/handler.py", line 104, in handle\n    reply = Work(request).reply()\n',
        '  File "/var/task/flows/birds.py", line 26, in flap_bird\n    raise ConnectionError("no answer")\n',
    ]
    cause = json.dumps({"errorMessage": "no answer", "errorType": "ConnectionError", "stackTrace": frames})
    head, last = "Traceback (most recent call last):\n", "ConnectionError: no answer\n"
    users = '  File "flows/birds.py", line 26, in flap_bird\n    raise ConnectionError("no answer")\n'
    own = '  File "lokki/runtime/handler.py", line 104, in handle\n    reply = Work(request).reply()\n'
    assert reported_failure("flap_bird", "ConnectionError", cause) == Failure(
        "flap_bird", "ConnectionError", "no answer", "flows/birds.py:26", head + users + last, head + own + users + last
    )


def frame(file: str, line: int) -> str:
    return f'  File "{file}", line {line}, in flap\n    fly()\n'


@pytest.mark.parametrize(
    ("files", "reported", "here"),
    [
        (("/var/task/birds.py", "/var/lang/lib/python3.13/json/decoder.py"), "birds.py:0", "/home/birds.py:0"),
        (("/var/task/birds.py", "<frozen os>"), "birds.py:0", "/home/birds.py:0"),
        (("/var/task/birds.py", "/var/task/pandas/frame.py"), "pandas/frame.py:1", "/home/birds.py:0"),
        (("/opt/python/bridge.py", "/opt/python/fly.py"), "/opt/python/bridge.py:0", "/opt/python/bridge.py:0"),
        ((), "", ""),
    ],
)
def test_an_error_that_a_library_raises_is_at_the_users_line(files: Sequence[str], reported: str, here: str) -> None:
    frames: list[Json] = [frame(file, line) for line, file in enumerate(files)]
    failure = reported_failure("flap", "ValueError", json.dumps({"errorMessage": "no", "stackTrace": frames}))
    local = localize_failure(failure, lambda path: f"/home/{path}" if path == "birds.py" else path)
    assert (failure.where, local.where) == (reported, here)
    assert localize_failure(local, lambda path: path).where == here


EXITED = "RequestId: 1 Error: Runtime exited "
KILLED = f"{EXITED}with error: signal: killed"
ADVICE = "out of memory: give the step a larger memory=, or memory_max= for another try"


@pytest.mark.parametrize(
    ("error", "message", "words"),
    [
        ("Runtime.OutOfMemory", KILLED, f"WorkerError: the worker process was killed by SIGKILL ({ADVICE})"),
        ("Runtime.ExitError", KILLED, f"WorkerError: the worker process was killed by SIGKILL (perhaps {ADVICE})"),
        ("Lambda.Unknown", "No reason.", f"Lambda.Unknown: No reason. (perhaps {ADVICE})"),
        (
            "Runtime.ExitError",
            f"{EXITED}with error: signal: segmentation fault (core dumped)",
            "WorkerError: the worker process was killed by SIGSEGV",
        ),
        (
            "Runtime.ExitError",
            f"{EXITED}with error: signal: signal 40",
            "WorkerError: the worker process was killed by signal 40",
        ),
        (
            "Runtime.ExitError",
            f"{EXITED}with error: exit status 3",
            "WorkerError: the worker process exited with code 3",
        ),
        (
            "Runtime.ExitError",
            f"{EXITED}without providing a reason",
            "WorkerError: the worker process exited with code 0",
        ),
        (
            "Sandbox.Timedout",
            "2026-11-27T10:00:00.123Z 1 Task timed out after 2.50 seconds",
            "StepTimeoutError: took longer than its timeout of 2.5 seconds",
        ),
        ("ValueError", KILLED, f"ValueError: {KILLED}"),
        ("Runtime.ExitError", "who knows", "Runtime.ExitError: who knows"),
    ],
)
def test_what_lambda_says_is_told_in_the_words_of_a_local_run(error: str, message: str, words: str) -> None:
    failure = reported_failure("flap_bird", error, json.dumps({"errorType": error, "errorMessage": message}))
    assert failure.summary == words


@pytest.mark.parametrize(
    ("message", "line", "summary"),
    [
        ("ConnectionError: no answer", "call()", "ConnectionError: no answer"),
        ("Flaky: no answer", 'raise Flaky("no answer")', "Flaky: no answer"),
        ("Paris: not found", "raise Exception(f'{city}: not found')", "Exception: Paris: not found"),
        ("http://x: no answer", "raise Exception(text)", "Exception: http://x: no answer"),
        ("no answer", "raise Exception(text)", "Exception: no answer"),
    ],
)
def test_an_error_that_is_tried_again_as_any_exception_has_its_own_class(message: str, line: str, summary: str) -> None:
    frames = [f'  File "/var/task/flow.py", line 3, in work\n    {line}\n']
    cause = json.dumps({"errorMessage": message, "errorType": "Exception", "stackTrace": frames})
    assert reported_failure("work", "Exception", cause).summary == summary


@step
def get_birds() -> list[int]:
    return [1]


@step
def flap_bird(bird: int) -> int:
    return bird


@step
def join(birds: list[int]) -> int:
    return len(birds)


@flow(timeout=60)
def birds_flow():
    return get_birds().map(flap_bird, tolerate=0.5).agg(join)


FAILURE = Failure("flap_bird", "ValueError", "lame", "birds.py:3", 'File "birds.py", line 3, in flap_bird', "")
MAP = (MapStarted("get_birds", ("flap_bird",), 3), ItemFailed("get_birds", (1,), FAILURE))
LOST = Failure("join", "TooManyFailuresError", "1 of 3 items of the map failed; tolerated: none.")
MAP_FAILED = (
    "item 1 failed in the map over get_birds() (tolerated: 0.5); flap_bird() raised ValueError: lame at birds.py:3"
)


@pytest.mark.parametrize(
    ("events", "message", "words"),
    [
        (MAP, f"{THRESHOLD}: The threshold was exceeded", MAP_FAILED),
        ((), f"{THRESHOLD}: The threshold was exceeded", f"{THRESHOLD}: The threshold was exceeded"),
        (
            (*MAP[:1], ItemsFailed("get_birds", 2)),
            f"{THRESHOLD}: too many",
            "2 of 3 items failed in the map over get_birds() (tolerated: 0.5).",
        ),
        (
            (*MAP, MapFinished("get_birds", 1, 2, 1.0), StepFailed("get_birds-2", replace(FAILURE, step="join"))),
            "ValueError: lame",
            "join() raised ValueError: lame at birds.py:3",
        ),
        (
            (
                *MAP,
                MapFinished("get_birds", 1, 2, 1.0),
                StepFailed("join", LOST),
            ),
            f"TooManyFailuresError: {LOST.message}",
            MAP_FAILED,
        ),
        (
            # Of the two items that failed inside a batch, Step Functions says nothing.
            (*MAP, MapFinished("get_birds", 0, 1, 1.0), StepFailed("join", replace(LOST, message="3 of 3 items"))),
            "TooManyFailuresError: 3 of 3 items",
            "TooManyFailuresError: 3 of 3 items",
        ),
        (MAP, "States.Timeout", "the run took longer than the flow's timeout of 60 seconds."),
        (MAP, "States.ItemReaderFailed: no file", "States.ItemReaderFailed: no file"),
    ],
)
def test_why_a_run_failed_is_told_in_the_words_of_a_local_run(
    events: Sequence[Event], message: str, words: str
) -> None:
    translator = RunTranslator(lower(birds_flow()), lambda path: path)
    for event in events:
        translator.translate(event)
    assert translator.translate(RunFailed(1.0, message)) == RunFailed(1.0, words)


def test_failures_lead_to_the_files_of_this_machine() -> None:
    translator = RunTranslator(lower(birds_flow()), lambda path: f"/here/{path}")
    failed = replace(FAILURE, where="/here/birds.py:3", traceback='File "/here/birds.py", line 3, in flap_bird')
    assert translator.translate(ItemFailed("get_birds", (1,), FAILURE)) == ItemFailed("get_birds", (1,), failed)
    placeless = Failure("flap_bird", "WorkerError", "it died")
    place = f"{__file__}:{flap_bird.fn.__code__.co_firstlineno}"
    assert translator.translate(StepFailed("x", placeless)) == StepFailed("x", replace(placeless, where=place))


@pytest.mark.parametrize("cause", ["", "Task timed out", "{}", '{"errorMessage"', "[1]"])
def test_any_other_cause_is_its_text(cause: str) -> None:
    assert reported_failure("flap_bird", "States.Timeout", cause) == Failure("flap_bird", "States.Timeout", cause)
