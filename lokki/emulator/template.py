"""A built folder, read as far as the emulator needs it: template, state machine and packages.

Each file is decoded once. A property that the emulator does not know is refused: it could change what a function does
on AWS.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from lokki.base.quotas import DEFINITION_BYTES, LEAST_DISK
from lokki.base.values import Json, JsonField
from lokki.builder.merging import MERGED_FILE
from lokki.builder.permissions import from_code
from lokki.emulator.functions.process import FunctionSpec
from lokki.emulator.iam.checking import Role
from lokki.emulator.iam.policies import PolicyStatement
from lokki.emulator.states.definition import StateMachine, check_expressions, read_definition
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.services import ACCOUNT, REGION
from lokki.emulator.user_resources import UserResources, mark
from lokki.errors import EmulatorError
from lokki.plan import Plan
from lokki.plan_json import plan_from_definition

_FUNCTION = "AWS::Lambda::Function"
_VERSION = "AWS::Lambda::Version"
_MACHINE = "StateMachine"
"""The logical id of the flow's own: others tell of its runs and start them."""
_FIRST = "1"
"""What version each function has here: the state machine invokes versions, and a new function's first is 1."""

_PSEUDO = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
_READ = (
    "Architectures", "Environment", "EphemeralStorage", "FunctionName", "Handler", "ImageConfig", "MemorySize",
    "PackageType", "Runtime", "Timeout",
)  # fmt: skip
"""Properties of functions that the emulator follows; ``Code`` is one more."""

_IGNORED = (
    "Description", "KmsKeyArn", "Layers", "LoggingConfig", "ReservedConcurrentExecutions", "SnapStart", "Tags",
    "TracingConfig", "VpcConfig",
)  # fmt: skip
"""Properties of functions that change nothing here."""

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9_]+)\}")


type _Sections = dict[str, dict[str, JsonField]]


class _PackagePlace(msgspec.Struct):
    """Where a step's package is, as a zip or as an image."""

    zip: str = ""
    key: str = ""
    repository: str = ""


class _BuildRecord(msgspec.Struct):
    """What the emulator reads of ``build.json``."""

    packages: dict[str, _PackagePlace]


class _Environment(msgspec.Struct, rename="pascal"):
    variables: dict[str, str | int | float | bool] = {}


class _Storage(msgspec.Struct, rename="pascal"):
    size: int = LEAST_DISK


class _ImageConfig(msgspec.Struct, rename="pascal"):
    command: list[str] = []


class _Function(msgspec.Struct, rename="pascal"):
    """The properties of a function, without references.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
    """

    function_name: str
    package_type: str
    timeout: int
    memory_size: int
    handler: str = ""
    runtime: str | None = None
    architectures: tuple[str, ...] = ("x86_64",)
    environment: _Environment = msgspec.field(default_factory=_Environment)
    ephemeral_storage: _Storage = msgspec.field(default_factory=_Storage)
    image_config: _ImageConfig = msgspec.field(default_factory=_ImageConfig)


@dataclass(frozen=True, slots=True)
class Built:
    """A built flow, ready to be run.

    * ``name``, ``bucket``: of its state machine and for its data.
    * ``functions``: with their unpacked packages.
    * ``plan``: the operations, without their arguments.
    * ``user``: the resources of ``merge_template``.
    """

    name: str
    bucket: str
    machine: StateMachine
    functions: tuple[FunctionSpec, ...]
    plan: Plan
    user: UserResources


def read_bundle(folder: Path, code: Path, images: Mapping[str, Path] | None = None) -> Built:
    """Read what a build wrote, and unpack its packages below ``code``.

    ``images``: for packages that are images, the folder with what is in /var/task, by step. Raises EmulatorError for
    what is missing and for what the emulator does not do.
    """
    try:
        merged = folder / MERGED_FILE
        sections = msgspec.json.decode(merged.read_bytes(), type=_Sections) if merged.exists() else {}
        template = yaml.safe_load((folder / "template.yaml").read_bytes())
        user = UserResources(sections, Fields(template, "template.yaml").mapping("Parameters"))
        stack = Stack(template, user.ids)
        text = (folder / "statemachine.json").read_text(encoding="utf-8")
        definition: Json = json.loads(text)
        record = msgspec.json.decode((folder / "build.json").read_bytes(), type=_BuildRecord)
    except (OSError, ValueError, yaml.YAMLError, msgspec.MsgspecError) as error:
        raise EmulatorError(f"{folder} is not what a build writes: {error}. Build the flow again.") from None
    if len(text.encode()) > DEFINITION_BYTES:
        raise EmulatorError(
            f"{folder}: the state machine has {len(text.encode()):,} bytes; AWS takes {DEFINITION_BYTES:,}."
        )
    machine = stack.properties(_MACHINE)
    if machine is None:
        raise EmulatorError(f"{folder}: template.yaml has no {_MACHINE}. Build the flow again.")
    # Two files of two builds would show a run that nobody can deploy.
    if json.loads(machine.text("DefinitionString")) != definition:
        raise EmulatorError(f"{folder}: template.yaml and statemachine.json hold different definitions. Build again.")
    substitutions = stack.resolved(machine.mapping("DefinitionSubstitutions"))
    definition = _substituted(definition, {name: str(value) for name, value in substitutions.items()})
    check_expressions(definition, Expressions())
    name = str(stack.resolve(machine.value("StateMachineName")))
    packages = _Packages(record.packages, folder, code, images or {}, {})
    functions = tuple(_read_function(stack, fields, packages) for fields in stack.of_type(_FUNCTION))
    bucket = str(stack.parameters["S3Bucket"])
    return Built(name, bucket, read_definition(definition, name), functions, plan_from_definition(definition), user)


class Stack:
    """A template whose references can be resolved.

    Parameters have their defaults. ``of_user``: the resources for which marks stand. Raises EmulatorError for what is
    no template.
    """

    def __init__(self, template: object, of_user: frozenset[str] = frozenset()) -> None:
        self._of_user = of_user
        fields = Fields(template, "template.yaml")
        parameters = fields.mapping("Parameters") if "Parameters" in fields else {}
        self.parameters: dict[str, Json] = {
            name: parameter["Default"]
            for name, parameter in parameters.items()
            if isinstance(parameter, dict) and "Default" in parameter
        }
        self._resources = {
            name: Fields(resource, f"template.yaml: {name}") for name, resource in fields.mapping("Resources").items()
        }

    def of_type(self, kind: str) -> list[Fields]:
        """Return the properties of lokki's resources of a type, unresolved."""
        own = (resource for name, resource in self._resources.items() if name not in self._of_user)
        return [resource.inside("Properties") for resource in own if resource.text("Type") == kind]

    def properties(self, name: str) -> Fields | None:
        """Return the properties of a resource, unresolved.

        None where it has none.
        """
        resource = self._resources.get(name)
        return resource.inside("Properties") if resource is not None and "Properties" in resource else None

    def resolved(self, properties: Mapping[str, Json]) -> dict[str, Json]:
        """Return properties with their references resolved."""
        return {name: self.resolve(value) for name, value in properties.items()}

    def resolve(self, value: Json) -> Json:
        """Return a value with its references resolved.

        They are Ref, Fn::Sub and Fn::GetAtt of an ARN; raises EmulatorError for other functions.
        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
        """
        if isinstance(value, list):
            return [self.resolve(member) for member in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": str(name), **rest} if not rest:
                return self._ref(name)
            case {"Fn::Sub": str(text), **rest} if not rest:
                return re.sub(r"\$\{([A-Za-z0-9_:.]+)\}", lambda match: str(self._ref(match[1])), text)
            case {"Fn::GetAtt": [str(name), str(attribute)], **rest} if not rest and name in self._of_user:
                return mark(name, attribute)
            case {"Fn::GetAtt": [str(name), "Arn"], **rest} if not rest:
                return self._arn(name)
        for name in value:
            if name.startswith("Fn::"):
                raise EmulatorError(f"template.yaml: the emulator does not know {name}.")
        return self.resolved(value)

    def _ref(self, name: str) -> Json:
        if name in self.parameters:
            return self.parameters[name]
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._of_user:
            return mark(name)
        resource = self._resources.get(name)
        if resource is None:
            problem = "it is no resource and no parameter with a default"
            raise EmulatorError(f"template.yaml: {name!r} has no value: {problem}.")
        if resource.text("Type") == _VERSION:
            return f"{self._arn(resource.inside('Properties').inside('FunctionName').text('Ref'))}:{_FIRST}"
        return name

    def _arn(self, name: str) -> str:
        resource = self._resources.get(name)
        if resource is None:
            raise EmulatorError(f"template.yaml: there is no resource {name!r}.")
        if resource.text("Type") == _FUNCTION:
            function = self.resolve(resource.inside("Properties").value("FunctionName"))
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
        return f"arn:aws:emulated:{REGION}:{ACCOUNT}:{name}"


def _substituted(definition: Json, values: Mapping[str, str]) -> Json:
    """Put DefinitionSubstitutions into their places.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html
    """
    if isinstance(definition, str):
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), definition)
    if isinstance(definition, list):
        return [_substituted(member, values) for member in definition]
    if isinstance(definition, dict):
        return {name: _substituted(member, values) for name, member in definition.items()}
    return definition


def _read_function(stack: Stack, fields: Fields, packages: _Packages) -> FunctionSpec:
    name = str(stack.resolve(fields.value("FunctionName")))
    properties = stack.resolved({key: fields.value(key) for key in _READ if key in fields})
    code = fields.inside("Code")
    role = read_role(stack, fields.value("Role")) if "Role" in fields else None
    fields.ignore(_IGNORED)
    if unknown := fields.unread:
        raise EmulatorError(f"template.yaml: the function {name}: the emulator does not know {unknown[0]}.")
    try:
        function = msgspec.convert(properties, _Function)
    except msgspec.ValidationError as error:
        raise EmulatorError(f"template.yaml: the function {name}: {error}.") from None
    _check_machine(function)
    if function.package_type == "Image":
        handler = "".join(function.image_config.command[:1])
        # Unresolved: the prefix of the registry is a parameter that may have no value here.
        root = packages.image(code.inside("ImageUri").text("Fn::Sub"), name)
    else:
        handler = function.handler
        root = packages.unpacked(str(stack.resolve(code.value("S3Key"))), name)
    return FunctionSpec(
        name,
        root,
        handler,
        float(function.timeout),
        function.memory_size,
        {key: str(value) for key, value in function.environment.variables.items()},
        _FIRST,
        function.ephemeral_storage.size,
        role,
    )


def read_role(stack: Stack, value: Json) -> Role | None:
    """Read the role of a function, None where it is not of this template."""
    match value:
        case {"Fn::GetAtt": [str(name), "Arn"]} if (role := stack.properties(name)) is not None:
            statements = [
                statement
                for policy in (*role.objects("Policies"), *_managed_policies(stack, role))
                for statement in policy.inside("PolicyDocument").objects("Statement")
            ]
            return Role(name, tuple(_read_statement(stack, fields) for fields in statements))
    return None


def _managed_policies(stack: Stack, role: Fields) -> Iterator[Fields]:
    references = role.value("ManagedPolicyArns") if "ManagedPolicyArns" in role else []
    for reference in references if isinstance(references, list) else []:
        policy = stack.properties(str(reference.get("Ref"))) if isinstance(reference, dict) else None
        if policy is not None:
            yield policy


def _read_statement(stack: Stack, fields: Fields) -> PolicyStatement:
    """Read a statement as it is for calls of a function's code."""
    patterns: dict[str, tuple[str, ...]] = {}
    effect = fields.text("Effect")
    if effect not in ("Allow", "Deny"):
        raise EmulatorError(f"{fields.where}: the Effect {effect} is neither Allow nor Deny. Build again.")
    conditions: Mapping[str, Json] = fields.mapping("Condition") if "Condition" in fields else {}
    if conditions == from_code():
        conditions = {}  # all calls that are checked come from the flow's functions
    for operator, keys in conditions.items():
        if operator != "StringLike" or not isinstance(keys, dict):
            raise EmulatorError(f"{fields.where}: the emulator does not know the condition {operator}.")
        patterns |= {key: _texts(stack.resolve(value)) for key, value in keys.items()}
    actions, resources = (_texts(stack.resolve(fields.value(name))) for name in ("Action", "Resource"))
    return PolicyStatement(actions, resources, patterns, denies=effect == "Deny")


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _check_machine(function: _Function) -> None:
    """Refuse code for another processor, another system or another Python."""
    name, architecture = function.function_name, function.architectures[0]
    machine = _MACHINES.get(platform.machine().lower(), platform.machine())
    if sys.platform != "linux" or architecture != machine:
        raise EmulatorError(
            f"the package of {name} is for Linux on {architecture}, and this is {sys.platform} on {machine}. "
            "Emulate on such a machine, or set architecture in lokki.yml."
        )
    runtime = function.runtime
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if runtime is not None and runtime != own:
        raise EmulatorError(f"the function {name} is for {runtime}, and this is {own}. Emulate with {runtime}.")


@dataclass(frozen=True, slots=True)
class _Packages:
    """The packages of a build, unpacked below a folder.

    ``written``: the files there, by name, checksum and size: what several packages have is written once and linked.
    """

    places: Mapping[str, _PackagePlace]
    bundle: Path
    code: Path
    images: Mapping[str, Path]
    written: dict[tuple[str, int, int], Path]

    def unpacked(self, key: str, name: str) -> Path:
        """Unpack the zip that has a key in the bucket, and return its folder."""
        archive = next((place.zip for place in self.places.values() if place.key == key), "")
        if not (self.bundle / archive).is_file():
            raise EmulatorError(f"{self.bundle} has no package with the key {key}, which {name} asks for. Build again.")
        root = self.code / name
        root.mkdir()
        with zipfile.ZipFile(self.bundle / archive) as file:
            for member in file.infolist():
                self._unpack(file, member, root)
        return root

    def _unpack(self, file: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path) -> None:
        content = (member.filename, member.CRC, member.file_size)
        copy = self.written.get(content)
        if copy is None or member.is_dir():
            self.written[content] = destination = Path(file.extract(member, root))
            if mode := member.external_attr >> 16 & 0o777:  # a package may have programs; zipfile drops their modes
                destination.chmod(mode)
        else:
            (root / member.filename).parent.mkdir(parents=True, exist_ok=True)
            (root / member.filename).hardlink_to(copy)

    def image(self, uri: str, name: str) -> Path:
        """Return the folder with what an image has in /var/task."""
        steps = (step for step, place in self.places.items() if place.repository and f"/{place.repository}:" in uri)
        step = next(steps, None)
        if step is None or step not in self.images:
            raise EmulatorError(
                f"the package of {name} is an image, which the emulator cannot build. "
                "Set package_type: zip in lokki.yml."
            )
        return self.images[step]
