"""Settings: what lokki.yml (global and local) and the environment say, checked whole and merged into frozen values.

The dataclasses below are the schema. A new setting is a new field with a default: its annotation says what is accepted,
and the checks, the merge, the error messages and the environments follow from it.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from errno import EINVAL
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Self, get_args, get_origin

from lokki.base import quotas
from lokki.base.naming import nearest_name
from lokki.errors import ConfigError

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True, slots=True)
class _Between:
    low: int
    high: int
    unit: str

    @property
    def expected(self) -> str:
        return f"a whole number of {self.unit} from {self.low} to {self.high}"

    def accept(self, value: object) -> int | None:
        return value if isinstance(value, int) and self.low <= value <= self.high else None


@dataclass(frozen=True, slots=True)
class _ZeroOrBetween:
    """A number in a range, or 0, which turns the setting off."""

    low: int
    high: int
    unit: str

    @property
    def expected(self) -> str:
        return f"0, or a whole number of {self.unit} from {self.low} to {self.high}"

    def accept(self, value: object) -> int | None:
        return value if isinstance(value, int) and (value == 0 or self.low <= value <= self.high) else None


@dataclass(frozen=True, slots=True)
class _NumberOf:
    """One of some numbers."""

    numbers: tuple[int, ...]
    unit: str

    @property
    def expected(self) -> str:
        return f"a number of {self.unit} out of {', '.join(map(str, self.numbers))}"

    def accept(self, value: object) -> int | None:
        return value if isinstance(value, int) and value in self.numbers else None


@dataclass(frozen=True, slots=True)
class _OneOf:
    """One of some words, whose case is that of this list."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"one of {', '.join(word or _quoted(word) for word in self.words)}"

    def accept(self, value: object) -> str | None:
        folded = {word.lower(): word for word in self.words}
        return folded.get(value.lower()) if isinstance(value, str) else None


type _Limit = _Between | _ZeroOrBetween | _NumberOf | _OneOf

# All limits; inline values travel in the state.
TimeoutSeconds = Annotated[int, _Between(1, quotas.FUNCTION_SECONDS, "seconds")]
DiskMegabytes = Annotated[int, _Between(quotas.LEAST_DISK, quotas.MOST_DISK, "MB")]
MemoryMegabytes = Annotated[int, _Between(quotas.LEAST_MEMORY, quotas.MOST_MEMORY, "MB")]
InlineBytes = Annotated[int, _Between(0, quotas.STATE_BYTES, "bytes")]
AtOnce = Annotated[int, _Between(0, quotas.CHILDREN_AT_ONCE, "items")]
LogLevel = Annotated[str, _OneOf(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))]
PackageType = Annotated[str, _OneOf(("", "zip", "image"))]
Architecture = Annotated[str, _OneOf(("x86_64", "arm64"))]
Dependencies = Annotated[str, _OneOf(("imported", "all"))]
ExecutionType = Annotated[str, _OneOf(("", "STANDARD", "EXPRESS"))]
LogFormat = Annotated[str, _OneOf(("Text", "JSON"))]
Encrypted = Annotated[str, _OneOf(("environment", "logs"))]
ResultDays = Annotated[int, _ZeroOrBetween(quotas.REDRIVE_DAYS + 1, quotas.MOST_RESULT_DAYS, "days")]
RetentionDays = Annotated[int, _NumberOf(quotas.RETENTION_DAYS, "days")]


@dataclass(frozen=True, slots=True)
class _Settings:
    """A section of lokki.yml.

    A field whose name ends in ``_`` (``lambda_``) has the key without it, and with it.
    """

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return the section for a plain dict, such as YAML gives.

        Absent and None keys get the defaults. Raises ConfigError with one line for each unknown key, wrong type and
        value out of its limits.
        """
        problems: list[str] = []
        values = _checked_section(cls, data, _Place("", (), problems))
        _refuse(problems)
        return _built(cls, values)


@dataclass(frozen=True, slots=True)
class RolesConfig(_Settings):
    """ARNs of existing IAM roles, or "" for those that lokki makes.

    - ``pipeline``: of the state machine
    - ``lambda_``: of the functions
    """

    pipeline: str = ""
    lambda_: str = ""


@dataclass(frozen=True, slots=True)
class PermissionsConfig(_Settings):
    """What all steps may do on AWS.

    - ``read``, ``write``: URLs of S3
    - ``allow``: by the action, the ARNs that it is for
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class VpcConfig(_Settings):
    """Where in networks of the account functions run; nowhere without subnets.

    Ids, such as ``subnet-0a1b2c3d`` and ``sg-0a1b2c3d``.
    """

    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LambdaDefaultsConfig(_Settings):
    """What a function gets unless its step says otherwise.

    - ``timeout``: seconds
    - ``memory``, ``disk``: megabytes
    - ``snap_start``: whether functions start from snapshots that Lambda takes of them when they are deployed
    - ``permissions``: beside those of each step
    - ``layers``: ARNs of layers, beside those of each step
    - ``vpc``: the network of all functions
    """

    timeout: TimeoutSeconds = 900
    memory: MemoryMegabytes = 512
    image_tag: str = "latest"
    disk: DiskMegabytes = quotas.LEAST_DISK
    snap_start: bool = False
    permissions: PermissionsConfig = field(default_factory=PermissionsConfig)
    layers: tuple[str, ...] = ()
    vpc: VpcConfig = field(default_factory=VpcConfig)


@dataclass(frozen=True, slots=True)
class NotifyConfig(_Settings):
    """Who hears when a deployed run ends.

    Each is an e-mail address, the ARN of an SNS topic or the URL of a webhook.
    """

    failed: tuple[str, ...] = ()
    succeeded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LokkiConfig(_Settings):
    """All settings of a project.

    docs/configuration.md says what each means. ``inline_limit``: bytes, 0 is off.
    """

    artifact_bucket: str = ""
    ecr_repo_prefix: str = ""
    build_dir: str = "lokki-build"
    flow_name: str = ""
    log_level: LogLevel = "INFO"
    inline_limit: InlineBytes = 4096
    roles: RolesConfig = field(default_factory=RolesConfig)
    lambda_env: Mapping[str, str] = field(default_factory=dict, hash=False)
    lambda_defaults: LambdaDefaultsConfig = field(default_factory=LambdaDefaultsConfig)
    package_type: PackageType = ""
    architecture: Architecture = "x86_64"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dependencies: Dependencies = "imported"
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    log_retention: RetentionDays = 30
    execution_type: ExecutionType = ""
    tracing: bool = True
    map_concurrency: AtOnce = 0
    kms_key: str = ""
    permissions_boundary: str = ""
    provided: tuple[str, ...] = ()
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    log_format: LogFormat = "Text"
    encrypt: tuple[Encrypted, ...] = ()
    merge_template: str = ""
    retention: ResultDays = 0

    def __post_init__(self) -> None:
        """Keep read-only copies of the mappings, whoever made the value."""
        object.__setattr__(self, "lambda_env", MappingProxyType(dict(self.lambda_env)))
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    @property
    def packages(self) -> str:
        """How steps are packaged: ``"zip"`` or ``"image"``.

        As set, else images when there is a registry.
        """
        return self.package_type or ("image" if self.ecr_repo_prefix else "zip")


@dataclass(frozen=True, slots=True)
class _ConfigFile(LokkiConfig):
    """The schema of a whole lokki.yml.

    It has the settings, and named environments that each hold settings again.
    """

    environments: Mapping[str, LokkiConfig] = field(default_factory=dict)


_VARIABLES: Final = (
    ("LOKKI_ARTIFACT_BUCKET", "artifact_bucket"),
    ("LOKKI_S3_BUCKET", "artifact_bucket"),
    ("LOKKI_ECR_REPO_PREFIX", "ecr_repo_prefix"),
    ("LOKKI_BUILD_DIR", "build_dir"),
    ("LOKKI_FLOW_NAME", "flow_name"),
    ("LOKKI_LOG_LEVEL", "log_level"),
)


def load_config(
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
    environment: str | None = None,
    home: Path | None = None,
) -> LokkiConfig:
    """Read the settings of a project.

    They are in ``<home>/.lokki/lokki.yml``, ``<directory>/lokki.yml`` and the environment variables; the later wins.
    Mappings merge key by key, anything else is replaced. The environment named by ``environment``, else by LOKKI_ENV,
    is merged over both files and below the variables. Defaults: the current directory, ``os.environ``, the user's home.
    Raises ConfigError with every problem of every source, one line each. Nothing else in this module does I/O.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    shared = (home or Path.home()) / ".lokki" / "lokki.yml"
    local = (directory or Path()) / "lokki.yml"
    files: list[dict[str, object] | None] = []
    for path, source in (
        (shared, str(shared) if home else "~/.lokki/lokki.yml"),
        (local, str(local) if directory else "./lokki.yml"),
    ):
        place = _Place(source, (), problems)
        try:
            if path.is_fifo():  # which would be waited for for ever
                raise OSError(EINVAL, "It is a pipe")
            content = path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():
                place.report("is a link to a file that does not exist; correct the link or remove it")
        except OSError as error:
            place.report(f"cannot be read: {error.strerror}; make it a file that you may read, or remove it")
            files.append(None)
        else:
            files.append(_checked_file(content, place))

    variables = _checked_variables(environ, problems)
    chosen = environment or environ.get("LOKKI_ENV")
    asked_by = "" if environment else "LOKKI_ENV"
    layers = _layers(files, chosen, _Place(asked_by, (), problems))
    _refuse(problems)
    return _built(LokkiConfig, reduce(deep_merge, [*layers, variables]))


def deep_merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Merge two plain mappings into a new one.

    Mappings are merged key by key, scalars and lists of ``over`` replace ``base``'s. Associative as long as no key
    holds a mapping in one source and something else in another; checked settings do not.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = deep_merge(below, value)
        merged[key] = value
    return merged


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, and the list that collects problems.

    - ``source``: the file or variable
    - ``path``: of its key
    """

    source: str
    path: tuple[str, ...]
    problems: list[str]

    def inside(self, key: object) -> "_Place":
        return _Place(self.source, (*self.path, _written(key)), self.problems)

    def report(self, problem: str) -> None:
        self.problems.append(": ".join(part for part in (self.source, ".".join(self.path), problem) if part))


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _checked_file(content: bytes, place: _Place) -> dict[str, object] | None:
    """Return the settings in a lokki.yml, None if it is no YAML at all.

    Every problem is reported.
    """
    import yaml  # here, since it takes longer to import than this module and few runs have a file

    try:
        text = content.decode("utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            return {}
        _check_nodes(root, place, set())
        data: object = yaml.constructor.SafeConstructor().construct_document(root)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place.report(f"line {line}: is not UTF-8 text; save the file as UTF-8")
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        place.report(f"line {line}, column {column}: holds a character that YAML does not allow; remove it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        place.report(f"{where}is not valid YAML ({_written(error.problem or 'unreadable')}); correct that place")
    except RecursionError:
        place.report("is nested too deeply to be read; settings need no more than a few levels")
    else:
        return _checked_section(_ConfigFile, data, place)
    return None


def _check_nodes(node: "yaml.Node", place: _Place, visited: set[int]) -> None:
    """Report keys that stand twice, and scalars that their tag belies.

    The second become text. ``visited``: the ids of nodes.
    """
    import yaml  # as in _checked_file

    if id(node) in visited:  # an alias; it may even stand inside its own anchor
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            inside = place
            if isinstance(key, yaml.ScalarNode):
                inside = place.inside(key.value)
                if key.tag != "tag:yaml.org,2002:merge":
                    _check_nodes(key, inside, visited)
                same = (key.tag, key.value)
                if same in lines:
                    line = key.start_mark.line + 1
                    inside.report(f"is given again in line {line}, first in line {lines[same]}; keep one")
                lines.setdefault(same, key.start_mark.line + 1)
            _check_nodes(value, inside, visited)
    elif isinstance(node, yaml.SequenceNode):
        for member in node.value:
            _check_nodes(member, place, visited)
    else:
        try:
            yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError, AttributeError):  # all let out by PyYAML, as for "2026-02-30"
            kind = node.tag.rpartition(":")[2]
            place.report(f"line {node.start_mark.line + 1}: {_quoted(node.value)} is no {kind}; put it in quotes")
            node.tag = "tag:yaml.org,2002:str"


def _checked_variables(environ: Mapping[str, str], problems: list[str]) -> dict[str, object]:
    """Return the settings in the environment variables.

    An empty variable counts as unset, others are ignored.
    """
    values: dict[str, object] = {}
    first: dict[str, str] = {}
    for variable, key in _VARIABLES:
        text = environ.get(variable)
        if not text:
            continue
        place = _Place(variable, (), problems)
        if key in first and environ[first[key]] != text:
            other = f"{first[key]} is {_quoted(environ[first[key]])}"
            place.inside(key).report(f"is {_quoted(text)} but {other}, and both mean the same; unset one")
        first.setdefault(key, variable)
        values |= _checked_section(LokkiConfig, {key: text}, place)
    return values


def _built[Section: _Settings](schema: type[Section], values: Mapping[str, object]) -> Section:
    """Make the section from checked values."""
    kinds = {one.name: one.type for one in fields(schema)}
    sections = dict(values)
    for name, value in values.items():
        kind = kinds[name]
        if isinstance(kind, type) and issubclass(kind, _Settings) and isinstance(value, Mapping):
            sections[name] = _built(kind, value)
    return replace(schema(), **sections)


def _layers(files: list[dict[str, object] | None], chosen: str | None, place: _Place) -> list[Mapping[str, object]]:
    """Return the settings to merge, the weakest first.

    Those of the files come first, then those under the chosen environment of each. None is a broken file.
    """
    settings: list[Mapping[str, object]] = [{}]
    environments: list[Mapping[str, object]] = []
    for values in files:
        plain = dict(values or {})
        named = plain.pop("environments", {})
        settings.append(plain)
        environments.append(named if isinstance(named, Mapping) else {})
    if not chosen:
        return settings
    names = sorted({name for named in environments for name in named})
    if chosen not in names and None not in files:
        others = f"known are {', '.join(names)}" if names else "no lokki.yml names any under environments"
        place.report(f"unknown environment {_quoted(chosen)}{_suggestion(chosen, names) or ';'} {others}")
    for named in environments:
        overrides = named.get(chosen)
        if isinstance(overrides, Mapping):
            settings.append(overrides)
    return settings


def _checked(annotation: object, value: object, place: _Place) -> object | None:
    """Return a value as it is merged, None if it is absent or reported."""
    if isinstance(annotation, type) and issubclass(annotation, _Settings):
        return _checked_section(annotation, value, place)
    if get_origin(annotation) is Mapping:
        return _checked_mapping(get_args(annotation)[1], value, place)
    if get_origin(annotation) is tuple:
        return _checked_list(get_args(annotation)[0], value, place)
    kind, limit = get_args(annotation) if get_origin(annotation) is Annotated else (annotation, None)
    return None if value is None else _checked_scalar(kind, limit, value, place)


def _checked_section(schema: type[_Settings], data: object, place: _Place) -> dict[str, object]:
    """Return the settings by the names of their fields.

    Unknown keys and bad values are reported and left out.
    """
    by_key = {key: one for one in fields(schema) for key in (one.name, one.name.removesuffix("_"))}
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        keys = ", ".join(one.name.removesuffix("_") for one in fields(schema))
        place.report(f"must be a section with keys such as {keys}, not {_kind(data)}")
        return {}
    values: dict[str, object] = {}
    for key, value in data.items():
        inside = place.inside(key)
        known_field = by_key.get(key)
        if known_field is None:
            inside.report(_unknown_key(schema, key))
            continue
        checked = _checked(known_field.type, value, inside)
        if known_field.name in values and checked is not None:
            inside.report(f"{known_field.name.removesuffix('_')} is given in both spellings; keep one")
        elif checked is not None:
            values[known_field.name] = checked
    return values


def _checked_mapping(annotation: object, data: object, place: _Place) -> dict[str, object]:
    """Check a section whose keys the user chooses.

    An empty one stays, so that an environment may change nothing.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        place.report(f"must be a section of names and values, not {_kind(data)}")
        return {}
    values: dict[str, object] = {}
    for key, value in data.items():
        inside = place.inside(key)
        if not isinstance(key, str):
            inside.report(f"a name must be text, not {_kind(key)}; put it in quotes")
            continue
        checked = _checked(annotation, value, inside)
        if checked is not None:
            values[key] = checked
    return values


def _checked_list(annotation: object, data: object, place: _Place) -> tuple[object, ...] | None:
    """Check a list.

    One that is absent sets nothing; an empty one stays, so that it can take back a list below it.
    """
    if data is None:
        return None
    if not isinstance(data, list | tuple):
        place.report(f"must be a list, not {_kind(data)}; write it as [a, b]")
        return None
    values = []
    for number, value in enumerate(data, 1):
        inside = place.inside(number)
        if value is None:
            inside.report("is empty; remove it from the list")
            continue
        checked = _checked(annotation, value, inside)
        if checked is not None:
            values.append(checked)
    return tuple(values)


def _checked_scalar(kind: object, limit: _Limit | None, value: object, place: _Place) -> object | None:
    names = {str: "text", int: "a whole number", bool: "true or false"}
    if not isinstance(kind, type) or kind not in names:
        raise TypeError(f"settings of type {kind} cannot be checked; teach lokki.config._checked")
    expected = names[kind] if limit is None else limit.expected
    if type(value) is not kind:  # isinstance would take True for a whole number
        place.report(f"must be {expected}, not {_kind(value)}{_remedy(kind, limit, value)}")
        return None
    if limit is None:
        return value
    accepted = limit.accept(value)
    if accepted is None and isinstance(limit, _OneOf):
        place.report(f"must be {expected}, not {_quoted(value)}{_suggestion(_written(value), limit.words)}")
    elif accepted is None:
        place.report(f"must be {expected}, not {_written(value)}")
    return accepted


def _remedy(kind: type, limit: _Limit | None, value: object) -> str:
    if kind is str and limit is None and isinstance(value, bool | int | float | date):
        return "; put it in quotes"
    if kind is int and isinstance(value, str) and value.isdecimal():
        return "; remove the quotes"
    return ""


def _kind(value: object) -> str:
    kinds = (  # bool before int, which it is a subclass of
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a decimal number"),
        (str, "text"),
        (date, "a date"),
        ((list, tuple), "a list"),
        (Mapping, "a section"),
        (type(None), "empty"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _unknown_key(schema: type[_Settings], key: object) -> str:
    """Say what may have been meant by an unknown key.

    Keys one section down count, too.
    """
    own = {one.name.removesuffix("_"): one.type for one in fields(schema)}
    spellings = {name: name for name in own}
    for section, kind in own.items():
        if isinstance(kind, type) and issubclass(kind, _Settings):
            for one in fields(kind):
                spellings.setdefault(one.name.removesuffix("_"), f"{section}.{one.name.removesuffix('_')}")
    return f"unknown key{_suggestion(_written(key), spellings) or f'; known keys are {", ".join(own)}'}"


def _suggestion(word: str, names: Iterable[str]) -> str:
    """Ask whether a near name was meant, or say nothing.

    A mapping gives the form in which to show each name.
    """
    folded = {name.casefold().replace("-", "_"): names[name] if isinstance(names, Mapping) else name for name in names}
    # At 0.7 memroy finds memory and WARN finds WARNING, but lambda_memory_size does not find lambda_defaults.
    near = nearest_name(word.casefold().replace("-", "_"), folded, 0.7)
    return f", did you mean {_quoted(folded[near])}?" if near is not None else ""


def _quoted(value: object) -> str:
    return f'"{_written(value)}"'


def _written(value: object) -> str:
    """Write any key or value on one line of reasonable length."""
    if isinstance(value, int) and abs(value) >= 10**20:  # Python refuses to write more than 4,300 digits
        return "a number of more than 20 digits"
    text = str(value)
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:80])
    return line if len(text) <= 80 else f"{line}…"
