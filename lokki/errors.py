"""Every error that lokki raises on purpose.

Each says what happened, where in the user's code, and what to do next.
"""

from __future__ import annotations


class LokkiError(Exception):
    """The base of all errors that lokki raises.

    Its text is one sentence that a user can act on.
    """


class FlowError(LokkiError, ValueError):
    """A flow is drawn in a way that could not run.

    Such as an open map block, a lost chain, or types that do not fit.

    ``place``: file and line that it is about, where that is known. The text of some begins with it.
    """

    place = ""


class ParameterError(LokkiError, ValueError):
    """A flow was run with wrong parameters.

    They are unknown, missing, or of the wrong type.
    """


class ConfigError(LokkiError, ValueError):
    """lokki.yml or the environment holds wrong settings.

    lokki does not know them, or cannot read them.
    """


class StoreError(LokkiError):
    """An object cannot be read or written.

    It is missing, foreign, truncated, corrupt or too large.

    ``damage``: what is wrong, without advice, where the object is gone or its bytes are not those that lokki wrote.
    """

    damage = ""


class DamagedError(StoreError):
    """A file of a local run is gone, or is not what lokki wrote.

    ``step``: the one that writes it anew. ``command``: of lokki's, that does so; it stands in the text.
    """

    step = ""
    command = ""


def damaged(problem: str, advice: str = "") -> StoreError:
    """Return the error for bytes that are not what lokki wrote.

    Also for bytes that are not there any more.
    """
    error = StoreError(f"{problem}. {advice}".rstrip())
    error.damage = problem
    return error


class ResultError(LokkiError, TypeError):
    """A step returned what cannot travel to the next step.

    It does not pickle, or cannot be iterated.
    """


class NoCaseError(LokkiError, LookupError):
    """The step of a switch returned a value for which there is no case."""


class StepTimeoutError(LokkiError, TimeoutError):
    """A step ran longer than its ``timeout``.

    Deployed, it is reported as ``States.Timeout``.
    """


class WorkerError(LokkiError):
    """A worker process died while it ran a step.

    Deployed, it is reported as ``Runtime.ExitError``.
    """


class RunError(LokkiError):
    """A run ended without a result.

    A step failed, too many items failed, or the run's time was up.

    ``run_id``: the run, where it was started from Python.
    """

    run_id = ""


class RunFolderError(LokkiError):
    """A run's folder cannot be used.

    It does not exist, belongs to another flow, or is in use.
    """


class EventError(LokkiError):
    """A Lambda handler was invoked by no state machine of lokki.

    Its event has a form that they do not send.
    """


class TooManyFailuresError(LokkiError):
    """More items of a map block failed than it tolerates."""


class CostLimitError(LokkiError):
    """A map has so many items that its run would cost more than allowed."""


class ItemFailedError(LokkiError):
    """An item cannot go on, as it failed before the map below it was done."""


class BatchTimeoutError(LokkiError):
    """A batch has more items than the function's time allows."""


class AwsError(LokkiError):
    """AWS refused or failed a call.

    Such as for lack of credentials or a permission, or a stack that cannot be updated.
    """


class EmulatorError(LokkiError):
    """The emulator does not do this as AWS would.

    A field, a resource or a platform is not supported.
    """


class StopSignal(BaseException):
    """Ends a step from outside.

    It is no failure of the step, and no ``except Exception`` of the step's catches it.
    """
