"""Every error that lokki raises on purpose: what happened, where in the user's code, what to do next."""

from __future__ import annotations


class LokkiError(Exception):
    """The base of all errors that lokki raises; its text is one sentence that a user can act on."""


class FlowError(LokkiError, ValueError):
    """A flow is drawn in a way that could not run: an open map block, a lost chain, types that do not fit.

    ``place``: file and line that it is about, where that is known. The text of some begins with it.
    """

    place = ""


class ParameterError(LokkiError, ValueError):
    """A flow was given parameters that it does not have, lacks ones it needs, or values of the wrong type."""


class ConfigError(LokkiError, ValueError):
    """lokki.yml or the environment holds settings that lokki does not know or cannot read."""


class StoreError(LokkiError):
    """An object cannot be read or written: it is missing, foreign, truncated, corrupt or too large.

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
    """Return the error for bytes that are not those that lokki wrote, or are not there any more."""
    error = StoreError(f"{problem}. {advice}".rstrip())
    error.damage = problem
    return error


class ResultError(LokkiError, TypeError):
    """A step returned something that cannot travel to the next step (it does not pickle, or cannot be iterated)."""


class StepTimeoutError(LokkiError, TimeoutError):
    """A step ran longer than its ``timeout``; reported deployed as ``States.Timeout``."""


class WorkerError(LokkiError):
    """A worker process died while it ran a step; reported deployed as ``Runtime.ExitError``."""


class RunError(LokkiError):
    """A run ended without a result: a step failed, too many items failed, or the run's time was up.

    ``run_id``: the run, where it was started from Python.
    """

    run_id = ""


class RunFolderError(LokkiError):
    """A run's folder cannot be used: it does not exist, belongs to another flow, or is in use."""


class EventError(LokkiError):
    """A Lambda handler was invoked with something that lokki's state machines do not send."""


class TooManyFailuresError(LokkiError):
    """More items of a map block failed than it tolerates."""


class BatchTimeoutError(LokkiError):
    """A batch has too many items for the time that the Lambda function has."""


class AwsError(LokkiError):
    """AWS refused or failed a call: no credentials, a missing permission, a stack that cannot be updated."""


class EmulatorError(LokkiError):
    """The emulator was given something that it does not do as AWS would: a field, a resource, a platform."""


class StopSignal(BaseException):
    """Ends a step from outside: no failure of the step, and no ``except Exception`` of the step's catches it."""
