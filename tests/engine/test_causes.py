"""Why a task failed, as Step Functions tells it."""

import json

import pytest

from lokki.base.failures import Failure
from lokki.engine.causes import reported_failure


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


KILLED = "RequestId: 1 Error: Runtime exited with error: signal: killed"


@pytest.mark.parametrize(
    ("error", "message", "advice"),
    [
        ("Runtime.OutOfMemory", KILLED, " (out of memory: give"),
        ("Runtime.ExitError", KILLED, " (perhaps out of memory: give"),
        ("Lambda.Unknown", "The cause could not be determined", " (perhaps out of memory: give"),
        ("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: exit status 3", ""),
        ("ValueError", KILLED, ""),
    ],
)
def test_whoever_dies_of_memory_is_told_what_to_do(error: str, message: str, advice: str) -> None:
    told = reported_failure("flap_bird", error, json.dumps({"errorType": error, "errorMessage": message})).message
    rest = " the step a larger memory=, or memory_max= for another try)" if advice else ""
    assert told == message + advice + rest


@pytest.mark.parametrize("cause", ["", "Task timed out", "{}", '{"errorMessage"', "[1]"])
def test_any_other_cause_is_its_text(cause: str) -> None:
    assert reported_failure("flap_bird", "States.Timeout", cause) == Failure("flap_bird", "States.Timeout", cause)
