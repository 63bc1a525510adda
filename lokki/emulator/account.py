"""The account of an emulated run, for those who fill it before the run and look into it afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lokki.base.values import Json
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class EmulatedAccount:
    """An account in moto, until the run has ended.

    ``environ``: the variables with which programs reach it.
    """

    environ: Mapping[str, str]

    def client(self, service: str) -> Any:
        """Return a client of boto3 for a service, such as ``"dynamodb"``.

        Its class is made by boto3, by the name of the service, so no type says it.
        """
        # Only here: most runs need none, and boto3 takes long to import.
        import boto3

        session = boto3.session.Session(
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.environ["AWS_SESSION_TOKEN"],
            region_name=self.environ["AWS_REGION"],
        )
        make: Callable[..., Any] = session.client
        return make(service, endpoint_url=self.environ["AWS_ENDPOINT_URL"])

    def make_stack(self, name: str, template: Mapping[str, Json]) -> dict[str, str]:
        """Make a stack by moto's CloudFormation.

        It leaves out what moto does not know. Returns its outputs. Raises EmulatorError for a template that moto does
        not take.
        """
        # Only here, as above.
        from botocore.exceptions import ClientError

        client = self.client("cloudformation")
        try:
            client.create_stack(StackName=name, TemplateBody=msgspec.json.encode(template).decode())
            [stack] = client.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            raise EmulatorError(f"the emulator cannot make the resources of merge_template: {error}") from None
        return {output["OutputKey"]: str(output["OutputValue"]) for output in stack.get("Outputs", [])}


def run_seed(program: str, account: EmulatedAccount) -> None:
    """Run a program of the user's that fills the account.

    Raises EmulatorError for one that fails.
    """
    environ = {name: value for name, value in os.environ.items() if name != "AWS_PROFILE"}
    # What it prints is no part of the run's result, which is on stdout.
    done = subprocess.run([sys.executable, program], env={**environ, **account.environ}, stdout=2, check=False)
    if done.returncode:
        raise EmulatorError(f"{program}, which fills the emulated account, ended with {done.returncode}.")
