"""The values of steps' secrets on this machine: the environment's variables, or fetched with the user's own keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from lokki.base.access import SSM
from lokki.chain import AnyStep
from lokki.errors import RunError


@contextmanager
def secrets_of(steps: Iterable[AnyStep]) -> Iterator[None]:
    """Set the variables of all secrets that are not set, until the run ends.

    Worker processes inherit them. Raises RunError for a value that cannot be had.
    """
    values = secret_values(secret_sources(steps), os.environ)
    additions = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in additions})
    try:
        yield
    finally:
        for name in additions:
            os.environ.pop(name, None)


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
    return {
        variable: environ[variable] if variable in environ else _fetch(variable, source)
        for variable, source in sources.items()
    }


def _fetch(variable: str, source: str) -> str:
    # Only here: most runs have no secrets to fetch, and boto3 takes long to import.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    region = os.environ.get("AWS_REGION") or None  # boto3 itself reads AWS_DEFAULT_REGION only
    try:
        if source.startswith(SSM):
            ssm = boto3.client("ssm", region_name=region)
            answer = ssm.get_parameter(Name=source.removeprefix(SSM), WithDecryption=True)
            value = answer["Parameter"].get("Value")
        else:
            manager = boto3.client("secretsmanager", region_name=region)
            value = manager.get_secret_value(SecretId=source).get("SecretString")
    except (BotoCoreError, ClientError) as error:
        reason = str(error).rstrip(".")
        raise RunError(
            f"the secret {source} cannot be fetched: {reason}. Set {variable} in the environment, or sign in to the "
            "account that has it."
        ) from None
    if not isinstance(value, str) or "\0" in value:
        raise RunError(f"the secret {source} of {variable} is no text that a variable can hold.")
    return value
