"""What a built folder says: its template, as far as the emulator needs it, its state machine and its packages."""

from __future__ import annotations

import json
import platform
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from lokki.base.quotas import DEFINITION_BYTES, LEAST_DISK
from lokki.base.values import Json
from lokki.emulator.functions.process import FunctionSpec
from lokki.emulator.states.definition import StateMachine, check_expressions, read_definition
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.services import ACCOUNT, REGION
from lokki.errors import EmulatorError

type Properties = Mapping[str, Json]

_FUNCTION = "AWS::Lambda::Function"
_VERSION = "AWS::Lambda::Version"
_MACHINE = "AWS::StepFunctions::StateMachine"
_FIRST = "1"
"""What version each function has here: the state machine invokes versions, and a new function's first is 1."""

_PSEUDO = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
_KNOWN = {
    "Architectures", "Code", "Description", "Environment", "EphemeralStorage", "FunctionName", "Handler", "ImageConfig",
    "KmsKeyArn", "LoggingConfig", "MemorySize", "PackageType", "Role", "Runtime", "SnapStart", "Tags", "Timeout",
    "TracingConfig",
}  # fmt: skip
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9_]+)\}")


@dataclass(frozen=True, slots=True)
class Built:
    """A built flow, read: its name and bucket, the state machine, and for each function what to unpack, or where it is.

    ``calls``: the id of each task's call, by its state.
    """

    name: str
    bucket: str
    machine: StateMachine
    functions: tuple[FunctionSpec, ...]
    calls: Mapping[str, str]


def read_bundle(folder: Path, code: Path, images: Mapping[str, Path] | None = None) -> Built:
    """Read what a build wrote, and unpack its packages below ``code``.

    ``images``: for packages that are images, the folder with what is in /var/task, by step. Raises EmulatorError for
    what is missing and for what the emulator does not do.
    """
    try:
        template = yaml.safe_load((folder / "template.yaml").read_bytes())
        text = (folder / "statemachine.json").read_text(encoding="utf-8")
        manifest = json.loads((folder / "build.json").read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EmulatorError(f"{folder} is not what a build writes: {error}. Build the flow again.") from None
    stack = Stack(template)
    [machine] = stack.of_type(_MACHINE).values()
    if len(text.encode()) > DEFINITION_BYTES:
        raise EmulatorError(
            f"{folder}: the state machine has {len(text.encode()):,} bytes; AWS takes {DEFINITION_BYTES:,}."
        )
    if json.loads(cast("str", machine["DefinitionString"])) != json.loads(text):
        raise EmulatorError(f"{folder}: template.yaml and statemachine.json hold different definitions. Build again.")
    substitutions = cast("dict[str, str]", stack.resolve(machine["DefinitionSubstitutions"]))
    definition = _substituted(json.loads(text), substitutions)
    check_expressions(definition, Expressions())
    name = str(stack.resolve(machine["StateMachineName"]))
    described = cast("dict[str, dict[str, str]]", manifest["packages"])
    packages = _Packages(described, folder, code, images or {}, {})
    specs = [_function(stack, properties, packages) for properties in stack.of_type(_FUNCTION).values()]
    read = read_definition(definition, name)
    return Built(name, str(stack.parameters["S3Bucket"]), read, tuple(specs), _calls(definition))


class Stack:
    """A template with its parameters' defaults, whose references can be resolved."""

    def __init__(self, template: Properties) -> None:
        self._resources = cast("dict[str, dict[str, Json]]", template["Resources"])
        described = cast("dict[str, dict[str, Json]]", template.get("Parameters", {}))
        self.parameters: dict[str, Json] = {
            name: each["Default"] for name, each in described.items() if "Default" in each
        }

    def of_type(self, kind: str) -> dict[str, dict[str, Json]]:
        """Return the properties of all resources of a type, unresolved, by logical id."""
        return {
            name: cast("dict[str, Json]", each["Properties"])
            for name, each in self._resources.items()
            if each["Type"] == kind
        }

    def resolve(self, value: Json) -> Json:
        """Return a value with Ref, Fn::Sub and Fn::GetAtt of an ARN resolved. Raises EmulatorError for other functions.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
        """
        if isinstance(value, list):
            return [self.resolve(each) for each in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": str(name), **rest} if not rest:
                return self._ref(name)
            case {"Fn::Sub": str(text), **rest} if not rest:
                return re.sub(r"\$\{([A-Za-z0-9_:.]+)\}", lambda found: str(self._ref(found[1])), text)
            case {"Fn::GetAtt": [str(name), "Arn"], **rest} if not rest:
                return self._arn(name)
        for name in value:
            if name.startswith("Fn::"):
                raise EmulatorError(f"template.yaml: the emulator does not know {name}.")
        return {name: self.resolve(each) for name, each in value.items()}

    def _ref(self, name: str) -> Json:
        if name in self.parameters:
            return self.parameters[name]
        if name in _PSEUDO:
            return _PSEUDO[name]
        resource = self._resources.get(name)
        if resource is not None and resource["Type"] == _VERSION:
            function = cast("dict[str, dict[str, str]]", resource["Properties"])["FunctionName"]["Ref"]
            return f"{self._arn(function)}:{_FIRST}"
        if resource is not None:
            return name
        raise EmulatorError(f"template.yaml: {name!r} has no value: it is no resource and no parameter with a default.")

    def _arn(self, name: str) -> str:
        resource = self._resources.get(name)
        if resource is None:
            raise EmulatorError(f"template.yaml: there is no resource {name!r}.")
        if resource["Type"] == _FUNCTION:
            properties = cast("dict[str, Json]", resource["Properties"])
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.resolve(properties['FunctionName'])}"
        return f"arn:aws:emulated:{REGION}:{ACCOUNT}:{name}"


def _substituted(definition: Json, values: Mapping[str, str]) -> Json:
    """Put DefinitionSubstitutions into their places.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html
    """
    if isinstance(definition, str):
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), definition)
    if isinstance(definition, list):
        return [_substituted(each, values) for each in definition]
    if isinstance(definition, dict):
        return {name: _substituted(each, values) for name, each in definition.items()}
    return definition


def _function(stack: Stack, properties: Properties, packages: _Packages) -> FunctionSpec:
    name = str(stack.resolve(properties["FunctionName"]))
    if unknown := sorted(set(properties) - _KNOWN):
        raise EmulatorError(f"template.yaml: the function {name}: the emulator does not know {unknown[0]}.")
    _check_machine(name, properties)
    variables = cast("dict[str, dict[str, Json]]", properties.get("Environment", {})).get("Variables", {})
    place = cast("dict[str, Json]", properties["Code"])
    if properties["PackageType"] == "Image":
        handler = cast("list[str]", cast("dict[str, Json]", properties["ImageConfig"])["Command"])[0]
        root = packages.image(str(cast("dict[str, Json]", place["ImageUri"])["Fn::Sub"]), name)
    else:
        handler = str(properties["Handler"])
        root = packages.unpacked(str(stack.resolve(place["S3Key"])), name)
    return FunctionSpec(
        name,
        root,
        handler,
        float(cast("int", properties["Timeout"])),
        cast("int", properties["MemorySize"]),
        {key: str(value) for key, value in cast("dict[str, Json]", stack.resolve(variables)).items()},
        _FIRST,
        cast("dict[str, int]", properties.get("EphemeralStorage", {})).get("Size", LEAST_DISK),
    )


def _check_machine(name: str, properties: Properties) -> None:
    """Refuse code that cannot run here: for another processor, another system or another Python."""
    wanted = cast("list[str]", properties.get("Architectures", ["x86_64"]))[0]
    here = _MACHINES.get(platform.machine().lower(), platform.machine())
    if sys.platform != "linux" or wanted != here:
        raise EmulatorError(
            f"the package of {name} is for Linux on {wanted}, and this is {sys.platform} on {here}. "
            "Emulate on such a machine, or set architecture in lokki.yml."
        )
    runtime = properties.get("Runtime")
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if runtime is not None and runtime != own:
        raise EmulatorError(f"the function {name} is for {runtime}, and this is {own}. Emulate with {runtime}.")


@dataclass(frozen=True, slots=True)
class _Packages:
    """The packages of a build, unpacked below a folder; files that several have are written once and linked."""

    described: Mapping[str, Mapping[str, str]]
    bundle: Path
    code: Path
    images: Mapping[str, Path]
    written: dict[tuple[str, int, int], Path]

    def unpacked(self, key: str, name: str) -> Path:
        """Unpack the zip that has a key in the bucket; return its folder."""
        archive = next((each["zip"] for each in self.described.values() if each.get("key") == key), None)
        if archive is None or not (self.bundle / archive).is_file():
            raise EmulatorError(f"{self.bundle} has no package with the key {key}, which {name} asks for. Build again.")
        root = self.code / name
        root.mkdir()
        with zipfile.ZipFile(self.bundle / archive) as file:
            for member in file.infolist():
                content = (member.filename, member.CRC, member.file_size)
                known = self.written.get(content)
                if known is None or member.is_dir():
                    self.written[content] = place = Path(file.extract(member, root))
                    if mode := member.external_attr >> 16 & 0o777:  # programs run there
                        place.chmod(mode)
                else:
                    (root / member.filename).parent.mkdir(parents=True, exist_ok=True)
                    (root / member.filename).hardlink_to(known)
        return root

    def image(self, uri: str, name: str) -> Path:
        """Return the folder with what an image has in /var/task."""
        step = next((step for step, each in self.described.items() if f"/{each.get('repository')}:" in uri), None)
        if step is None or step not in self.images:
            raise EmulatorError(
                f"the package of {name} is an image, which the emulator cannot build. "
                "Set package_type: zip in lokki.yml."
            )
        return self.images[step]


def _calls(definition: Json) -> dict[str, str]:
    """Return the call of each task, as its payload has it."""
    found: dict[str, str] = {}
    for name, state in cast("dict[str, dict[str, Json]]", cast("dict[str, Json]", definition)["States"]).items():
        match state:
            case {"Type": "Task", "Arguments": {"Payload": {"call": str(call)}}}:
                found[name] = call
            case {"ItemProcessor": dict(processor)}:
                found |= _calls(processor)
    return found
