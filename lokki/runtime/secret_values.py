"""The values of a step's secrets, which a function reads when it starts.

The function's environment names them in LOKKI_SECRETS; the values are in this process's environment only. They are read
before the step's module is imported, again by the first call five minutes later or after that, as AWS's own extension
does, and after a restore from a snapshot.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/retrieving-secrets_lambda.html
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping

import msgspec

from lokki.base.access import SSM
from lokki.base.values import Json, JsonField
from lokki.base.variables import SECRETS_VARIABLE
from lokki.errors import ConfigError
from lokki.runtime.aws_json import AwsCallError, AwsServices

SECONDS = 300.0
"""How long values are used before they are read again."""


class SecretValues:
    """Secrets, by the variables that get their values.

    ``seconds``: how long values are used before they are read again.
    """

    def __init__(self, environ: MutableMapping[str, str], seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._environ = environ
        self._sources = msgspec.json.decode(environ[SECRETS_VARIABLE], type=dict[str, str])
        self._read = float("-inf")
        self._values: set[str] = set()

    @property
    def known(self) -> tuple[str, ...]:
        """All values that were read, those of before the last refresh too.

        A module may keep one that it had when it was imported.
        """
        return tuple(self._values)

    def refresh(self, *, force: bool = False) -> str:
        """Read the values into the environment when they are old.

        Where that fails, the step goes on with those that it has, and the reason is returned. With ``force`` they are
        read whatever their age, and ConfigError is raised for one that cannot be read.
        """
        if force:
            self._fetch_all()
        elif time.monotonic() - self._read >= self._seconds:
            try:
                self._fetch_all(patient=False)
            except ConfigError as error:
                self._read = time.monotonic()  # the next try is in five minutes, not at the next item
                return str(error)
        return ""

    def _fetch_all(self, *, patient: bool = True) -> None:
        with AwsServices(self._environ) as services:
            for variable, source in self._sources.items():
                try:
                    value = fetch_secret(source, services, patient=patient)
                    self._environ[variable] = value
                    self._values.add(value)
                except ConfigError:
                    raise
                except AwsCallError as error:
                    raise _unreadable(variable, source, error) from None
                # A value may be no text for a variable; the error that says so may hold it.
                except ValueError:
                    raise ConfigError(
                        f"the secret {source} of {variable} is no text that a variable can hold."
                    ) from None
        self._read = time.monotonic()


def fetch_secret(source: str, services: AwsServices, *, patient: bool = True) -> str:
    """Return the value of a secret.

    ``patient``: try again where that may help, which takes seconds of the step's time. Raises AwsCallError, and
    ValueError for one that is no text.
    """
    if source.startswith(SSM):
        body: JsonField = {"Name": source.removeprefix(SSM), "WithDecryption": True}
        answer = services.call("ssm", "AmazonSSM.GetParameter", body, patient=patient)
        parameter = answer.get("Parameter")
        return _text(parameter.get("Value") if isinstance(parameter, dict) else None)
    target = "secretsmanager.GetSecretValue"
    answer = services.call("secretsmanager", target, {"SecretId": source}, patient=patient)
    return _text(answer.get("SecretString"))


def _text(value: Json) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    return value


def _unreadable(variable: str, source: str, error: AwsCallError) -> ConfigError:
    advice = "Check that it is in this account and region"
    if error.code == "AccessDeniedException":
        advice = 'Check the role; a key of your own needs permissions=[Allow("kms:Decrypt", its ARN)]'
    return ConfigError(f"the secret {source} of {variable} cannot be read: {error}. {advice}.")
