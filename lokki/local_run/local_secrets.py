"""The values of steps' secrets on this machine: the environment's variables, or fetched with the user's own keys."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

from lokki.base.access import SSM
from lokki.chain import AnyStep
from lokki.errors import RunError


@contextmanager
def secrets_of(steps: Iterable[AnyStep]) -> Iterator[None]:
    """Set the variables of all secrets that are not set, until the run ends.

    Worker processes inherit them. Raises RunError for a value that cannot be had, and for the variable of a resource
    that is not set.
    """
    steps = list(steps)
    check_resources(steps, os.environ)
    values = secret_values(secret_sources(steps), os.environ)
    additions = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in additions})
    try:
        yield
    finally:
        for name in additions:
            os.environ.pop(name, None)


def check_resources(steps: Iterable[AnyStep], environ: Mapping[str, str]) -> None:
    """Raise RunError for the variable of a resource that is not set.

    Nobody knows on this machine what the stack's resources are called.
    """
    for step in steps:
        for variable, resource in step.options.resources.items():
            if variable not in environ:
                raise RunError(
                    f"{variable} of {step.name}() is {resource!r}, which is a resource of the deployed flow. To run on "
                    f"this machine, set {variable} to the one to use."
                )


def secret_sources(steps: Iterable[AnyStep]) -> dict[str, str]:
    """Return where the values of all secrets are, by variable.

    Raises RunError where two steps want different ones in a variable that is not set.
    """
    sources: dict[str, str] = {}
    for step in steps:
        for variable, source in step.options.secrets.items():
            other = sources.setdefault(variable, source)
            if other != source and variable not in os.environ:
                raise RunError(
                    f"{variable} is {other} for one step and {source} for {step.name}(); steps of a local run share "
                    f"one environment. Set {variable}, or name one of them differently."
                )
    return sources


def secret_values(sources: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each variable: the environment's, else fetched.

    Raises RunError for a value that cannot be had.
    """
    secrets = UserSecrets(environ)
    return {variable: secrets.value(variable, source) for variable, source in sources.items()}


class UserSecrets:
    """Values of secrets as the user has them.

    They are the environment's variables, or else fetched from the user's account, those of a service all through one
    client, and so over one connection.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def value(self, variable: str, source: str) -> str:
        """Return the value of a variable.

        Raises RunError for one that cannot be had.
        """
        return self._environ[variable] if variable in self._environ else self._fetch(variable, source)

    def _fetch(self, variable: str, source: str) -> str:
        # Only here: most runs have no secrets to fetch, and boto3 takes long to import.
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            is_parameter = source.startswith(SSM)
            with _unlogged():
                value = self._parameter(source.removeprefix(SSM)) if is_parameter else self._secret(source)
        except (BotoCoreError, ClientError) as error:
            reason = str(error).rstrip(".")
            raise RunError(
                f"the secret {source} cannot be fetched: {reason}. Set {variable} in the environment, or sign in to "
                "the account that has it."
            ) from None
        if not isinstance(value, str) or "\0" in value:
            raise RunError(f"the secret {source} of {variable} is no text that a variable can hold.")
        return value

    @cached_property
    def _parameter(self) -> Callable[[str], object]:
        # Only here, as above.
        import boto3

        ssm = boto3.client("ssm", region_name=_region())
        return lambda name: ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"].get("Value")

    @cached_property
    def _secret(self) -> Callable[[str], object]:
        # Only here, as above.
        import boto3

        manager = boto3.client("secretsmanager", region_name=_region())
        return lambda name: manager.get_secret_value(SecretId=name).get("SecretString")


@contextmanager
def _unlogged() -> Iterator[None]:
    """Let botocore log no answer, as it does with ``--log-level debug``."""
    logger = logging.getLogger("botocore.parsers")
    previous, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = previous


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or None  # boto3 itself reads AWS_DEFAULT_REGION only
