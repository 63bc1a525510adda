"""The secrets of an emulated run: the values that a local run would use, put where functions fetch them.

They are in the memory of the server's process only, and in no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from lokki.base.access import SSM
from lokki.base.variables import SECRETS_VARIABLE
from lokki.emulator.functions.process import FunctionSpec
from lokki.emulator.s3.client import S3Server
from lokki.errors import EmulatorError
from lokki.local_run.local_secrets import UserSecrets
from lokki.runtime.aws_json import AwsCallError, AwsServices

_NAME_IN_ARN = re.compile(r"arn:[^:]*:secretsmanager:[^:]*:[^:]*:secret:(.*)-\w{6}")


def put_secrets(functions: Iterable[FunctionSpec], server: S3Server) -> None:
    """Put the values of all secrets of functions into the server.

    They come from this process's environment, or else from the user's account. Raises RunError for one that cannot be
    had, and EmulatorError for one that the server does not take.
    """
    wanted: dict[tuple[str, str], None] = {}  # each once: functions share secrets
    for function in functions:
        sources = msgspec.json.decode(function.environment.get(SECRETS_VARIABLE, "{}"), type=dict[str, str])
        wanted.update(dict.fromkeys(sources.items()))
    values: dict[str, str] = {}
    secrets = UserSecrets(os.environ)
    for variable, source in wanted:
        value = secrets.value(variable, source)
        if values.setdefault(source, value) != value:
            raise EmulatorError(f"{variable} and another variable hold different values for the secret {source}.")
    with AwsServices(server.variables("emulator")) as services:
        for source, value in values.items():
            _put(source, value, services)


def _put(source: str, value: str, services: AwsServices) -> None:
    try:
        if source.startswith(SSM):
            parameter = {"Name": source.removeprefix(SSM), "Value": value, "Type": "SecureString"}
            services.call("ssm", "AmazonSSM.PutParameter", {**parameter})
        else:
            match = _NAME_IN_ARN.fullmatch(source)
            secret = {"Name": match[1] if match else source, "SecretString": value, "ClientRequestToken": "0" * 32}
            services.call("secretsmanager", "secretsmanager.CreateSecret", {**secret})
    except AwsCallError as error:
        raise EmulatorError(f"the emulator cannot hold the secret {source}: {error}.") from None
