"""lokki.config: what the files and the environment say, in which order, and every mistake that they can hold."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lokki.config import LambdaDefaultsConfig, LokkiConfig, RolesConfig, VpcConfig, deep_merge, load_config
from lokki.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
KNOWN = ", ".join(one.name for one in fields(LokkiConfig))
LEVELS = "DEBUG, INFO, WARNING, ERROR, CRITICAL"
RETENTIONS = "1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653"


@dataclass(frozen=True)
class Project:
    """A home and a project directory of a user."""

    home: Path
    directory: Path

    @property
    def shared(self) -> Path:
        return self.home / ".lokki" / "lokki.yml"

    @property
    def local(self) -> Path:
        return self.directory / "lokki.yml"

    def write(self, local: str | bytes | None = None, shared: str | bytes | None = None) -> "Project":
        for path, content in ((self.local, local), (self.shared, shared)):
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self

    def load(self, environ: Mapping[str, str] | None = None, environment: str | None = None) -> LokkiConfig:
        return load_config(self.directory, environ or {}, environment, self.home)

    def problems(self, environ: Mapping[str, str] | None = None, environment: str | None = None) -> list[str]:
        """The lines of the error, with the two files called ``shared`` and ``local``."""
        with pytest.raises(ConfigError) as caught:
            self.load(environ, environment)
        text = str(caught.value).replace(str(self.shared), "shared").replace(str(self.local), "local")
        return text.split("\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "home", tmp_path / "work")
    made.home.mkdir()
    made.directory.mkdir()
    return made


# Where settings come from


def test_without_files_and_variables_there_are_the_defaults(project: Project) -> None:
    assert project.load() == LokkiConfig(
        artifact_bucket="",
        ecr_repo_prefix="",
        build_dir="lokki-build",
        flow_name="",
        log_level="INFO",
        inline_limit=4096,
        roles=RolesConfig(pipeline="", lambda_=""),
        lambda_env={},
        lambda_defaults=LambdaDefaultsConfig(timeout=900, memory=512, image_tag="latest"),
        package_type="",
        architecture="x86_64",
        include=(),
        exclude=(),
        provided=(),
        tags={},
        log_retention=30,
        dependencies="imported",
        execution_type="",
        tracing=True,
    )


def test_every_setting_can_be_given(project: Project) -> None:
    project.write("""
        artifact_bucket: bucket
        ecr_repo_prefix: prefix
        build_dir: out
        flow_name: birds
        log_level: error
        inline_limit: 0
        roles: {pipeline: p, lambda: l}
        lambda_env: {A: a}
        lambda_defaults: {timeout: 1, memory: 128, image_tag: v1, disk: 1024, snap_start: yes,
                          layers: [l], vpc: {subnets: [s], security_groups: [g, h]}}
        package_type: ZIP
        architecture: ARM64
        include: ["data/*.csv"]
        exclude: [a, b]
        dependencies: ALL
        tags: {team: birds}
        log_retention: 3653
        execution_type: express
        tracing: off
        map_concurrency: 100
        kms_key: k
        permissions_boundary: b
        log_format: json
        encrypt: [Logs, environment]
    """)
    assert project.load() == LokkiConfig(
        "bucket", "prefix", "out", "birds", "ERROR", 0, RolesConfig("p", "l"), {"A": "a"},
        LambdaDefaultsConfig(1, 128, "v1", 1024, True, layers=("l",), vpc=VpcConfig(("s",), ("g", "h"))),
        "zip", "arm64", ("data/*.csv",), ("a", "b"), "all",
        {"team": "birds"}, 3653, "EXPRESS", False, 100, "k", "b", log_format="JSON", encrypt=("logs", "environment"),
    )  # fmt: skip


def test_a_list_replaces_the_list_below_it_even_an_empty_one(project: Project) -> None:
    project.write(shared="{include: [a, b], exclude: [c]}", local="{include: [d], exclude: []}")
    assert project.load() == LokkiConfig(include=("d",), exclude=())


@pytest.mark.parametrize(
    ("config", "packages"),
    [
        (LokkiConfig(), "zip"),
        (LokkiConfig(ecr_repo_prefix="registry/birds"), "image"),
        (LokkiConfig(ecr_repo_prefix="registry/birds", package_type="zip"), "zip"),
        (LokkiConfig(package_type="image"), "image"),
    ],
)
def test_packages_are_images_where_they_have_a_registry_unless_a_setting_says_otherwise(
    config: LokkiConfig, packages: str
) -> None:
    assert config.packages == packages


def test_the_local_file_overrides_the_global_one_key_by_key(project: Project) -> None:
    project.write(
        shared="{build_dir: g, flow_name: g, lambda_env: {A: g, B: g}, lambda_defaults: {timeout: 1, memory: 200}}",
        local="{build_dir: l, lambda_env: {B: l, C: l}, lambda_defaults: {memory: 300}}",
    )
    assert project.load() == LokkiConfig(
        build_dir="l",
        flow_name="g",
        lambda_env={"A": "g", "B": "l", "C": "l"},
        lambda_defaults=LambdaDefaultsConfig(timeout=1, memory=300),
    )


def test_each_source_overrides_those_before_it(project: Project) -> None:
    shared = ["artifact_bucket: global", "environments: {prod: {artifact_bucket: global prod}}"]
    local = ["artifact_bucket: local", "environments: {prod: {artifact_bucket: local prod}}"]
    found = [project.write(shared=shared[0]).load().artifact_bucket]
    found.append(project.write(local=local[0]).load().artifact_bucket)
    found.append(project.write(shared="\n".join(shared)).load({"LOKKI_ENV": "prod"}).artifact_bucket)
    found.append(project.write(local="\n".join(local)).load({"LOKKI_ENV": "prod"}).artifact_bucket)
    found.append(project.load({"LOKKI_ENV": "prod", "LOKKI_ARTIFACT_BUCKET": "variable"}).artifact_bucket)
    assert found == ["global", "local", "global prod", "local prod", "variable"]


@pytest.mark.parametrize("spelling", ["lambda", "lambda_"])
def test_the_role_of_the_functions_has_two_spellings_for_one_setting(project: Project, spelling: str) -> None:
    project.write(shared="roles: {lambda_: global, pipeline: p}", local=f"roles: {{{spelling}: local}}")
    assert project.load().roles == RolesConfig(pipeline="p", lambda_="local")


@pytest.mark.parametrize("empty", ["", "# nothing\n", "---\n", "null", "{}", "\ufeff"])
def test_an_empty_file_sets_nothing(project: Project, empty: str) -> None:
    assert project.write(local=empty, shared="flow_name: birds").load() == LokkiConfig(flow_name="birds")


def test_a_key_without_a_value_is_as_if_absent(project: Project) -> None:
    project.write(
        shared="{flow_name: birds, roles: {pipeline: p}, lambda_env: {A: a}, lambda_defaults: {timeout: 5}}",
        local="{flow_name: , roles: , lambda_env: {A: , B: }, lambda_defaults: {timeout: null}, environments: }",
    )
    assert project.load() == LokkiConfig(
        flow_name="birds",
        roles=RolesConfig(pipeline="p"),
        lambda_env={"A": "a"},
        lambda_defaults=LambdaDefaultsConfig(timeout=5),
    )


def test_an_empty_text_in_a_file_overrides(project: Project) -> None:
    assert project.write(shared="flow_name: birds", local='flow_name: ""').load().flow_name == ""


def test_anchors_and_merge_keys_work(project: Project) -> None:
    project.write("""
        lambda_defaults: &usual {timeout: 60, memory: 256}
        environments:
          prod: {lambda_defaults: {<<: *usual, memory: 1024}}
    """)
    assert project.load(environment="prod").lambda_defaults == LambdaDefaultsConfig(timeout=60, memory=1024)


def test_a_file_in_utf_8_with_a_byte_order_mark_is_read(project: Project) -> None:
    assert project.write("flow_name: möwe".encode("utf-8-sig")).load().flow_name == "möwe"


def test_the_defaults_of_the_arguments_are_the_users_surroundings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(local="flow_name: local", shared="build_dir: global")
    monkeypatch.chdir(project.directory)
    monkeypatch.setenv("HOME", str(project.home))
    monkeypatch.setenv("LOKKI_LOG_LEVEL", "debug")
    for variable in ("LOKKI_ARTIFACT_BUCKET", "LOKKI_S3_BUCKET", "LOKKI_ECR_REPO_PREFIX", "LOKKI_ENV"):
        monkeypatch.setenv(variable, "")
    for variable in ("LOKKI_BUILD_DIR", "LOKKI_FLOW_NAME"):
        monkeypatch.delenv(variable, raising=False)
    assert load_config() == LokkiConfig(flow_name="local", build_dir="global", log_level="DEBUG")
    project.write(local="a: 1", shared="b: 1")
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert str(caught.value).split("\n") == [
        f"~/.lokki/lokki.yml: b: unknown key; known keys are {KNOWN}, environments",
        f"./lokki.yml: a: unknown key; known keys are {KNOWN}, environments",
    ]


def test_yaml_is_imported_only_when_there_is_a_file(project: Project) -> None:
    program = (
        "import sys; from pathlib import Path; from lokki.config import load_config\n"
        "load_config(Path(sys.argv[1]), {}, None, Path(sys.argv[1])); print('yaml' in sys.modules)"
    )

    def imported() -> str:
        command = [sys.executable, "-c", program, str(project.directory)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert imported() == "False\n"
    project.write("")
    assert imported() == "True\n"


# Environment variables


def test_every_variable_sets_its_key(project: Project) -> None:
    environ = {
        "LOKKI_ARTIFACT_BUCKET": "bucket",
        "LOKKI_ECR_REPO_PREFIX": "prefix",
        "LOKKI_BUILD_DIR": "out",
        "LOKKI_FLOW_NAME": "birds",
        "LOKKI_LOG_LEVEL": "Warning",
    }
    assert project.load(environ) == LokkiConfig("bucket", "prefix", "out", "birds", "WARNING")


@pytest.mark.parametrize(
    "environ",
    [
        {"LOKKI_S3_BUCKET": "b"},
        {"LOKKI_S3_BUCKET": "b", "LOKKI_ARTIFACT_BUCKET": "b"},
        {"LOKKI_S3_BUCKET": "b", "LOKKI_ARTIFACT_BUCKET": ""},
        {"LOKKI_S3_BUCKET": "", "LOKKI_ARTIFACT_BUCKET": "b"},
    ],
)
def test_the_bucket_has_two_variables_for_one_setting(project: Project, environ: dict[str, str]) -> None:
    assert project.load(environ) == LokkiConfig(artifact_bucket="b")


def test_an_empty_variable_counts_as_unset(project: Project) -> None:
    project.write("{flow_name: birds, log_level: error}")
    environ = {"LOKKI_FLOW_NAME": "", "LOKKI_LOG_LEVEL": "", "LOKKI_ENV": ""}
    assert project.load(environ) == LokkiConfig(flow_name="birds", log_level="ERROR")


def test_variables_of_other_tools_are_ignored(project: Project) -> None:
    assert project.load({"LOKKI_INLINE_LIMIT": "x", "LOKKI_BUCKET": "x", "lokki_flow_name": "x"}) == LokkiConfig()


def test_wrong_variables_are_reported_all_at_once(project: Project) -> None:
    environ = {"LOKKI_LOG_LEVEL": "loud", "LOKKI_S3_BUCKET": "one", "LOKKI_ARTIFACT_BUCKET": "two"}
    clash = 'is "one" but LOKKI_ARTIFACT_BUCKET is "two", and both mean the same; unset one'
    assert project.problems(environ) == [
        f"LOKKI_S3_BUCKET: artifact_bucket: {clash}",
        f'LOKKI_LOG_LEVEL: log_level: must be one of {LEVELS}, not "loud"',
    ]


# Named environments


def test_an_environment_is_merged_over_the_rest_of_both_files(project: Project) -> None:
    project.write(
        shared="{build_dir: g, environments: {prod: {build_dir: gp, lambda_env: {A: p, B: p}}, dev: {build_dir: gd}}}",
        local="{build_dir: l, lambda_env: {Z: l}, environments: {prod: {lambda_env: {B: lp}}}}",
    )
    assert project.load() == LokkiConfig(build_dir="l", lambda_env={"Z": "l"})
    assert project.load(environment="prod") == LokkiConfig(build_dir="gp", lambda_env={"Z": "l", "A": "p", "B": "lp"})
    assert project.load(environment="dev") == LokkiConfig(build_dir="gd", lambda_env={"Z": "l"})


def test_the_argument_wins_over_the_variable(project: Project) -> None:
    project.write("environments: {prod: {flow_name: p}, dev: {flow_name: d}}")
    chosen = [("dev", "prod"), ("dev", None), ("dev", ""), ("", "prod"), ("", None)]
    found = [project.load({"LOKKI_ENV": variable}, argument).flow_name for variable, argument in chosen]
    assert found == ["p", "d", "d", "p", ""]


@pytest.mark.parametrize("empty", ["", "{}", "null"])
def test_an_environment_may_change_nothing(project: Project, empty: str) -> None:
    project.write(f"flow_name: birds\nenvironments:\n  dev: {empty}\n")
    assert project.load(environment="dev") == LokkiConfig(flow_name="birds")


def test_an_unknown_environment_is_refused_with_the_known_ones(project: Project) -> None:
    assert project.problems(environment="prod") == [
        'unknown environment "prod"; no lokki.yml names any under environments'
    ]
    project.write(shared="environments: {prod-eu: {}, dev: {}}", local="environments: {test: {}, dev: {}}")
    assert project.problems(environment="prod_eu") == [
        'unknown environment "prod_eu", did you mean "prod-eu"? known are dev, prod-eu, test'
    ]
    assert project.problems({"LOKKI_ENV": "x"}) == ['LOKKI_ENV: unknown environment "x"; known are dev, prod-eu, test']


def test_every_environment_is_checked_not_only_the_chosen_one(project: Project) -> None:
    project.write("environments: {prod: {log_level: WARN}, dev: {environments: {}, roles: {lamda: x}}, 1: {}}")
    assert project.problems(environment="prod") == [
        f'local: environments.prod.log_level: must be one of {LEVELS}, not "WARN", did you mean "WARNING"?',
        f"local: environments.dev.environments: unknown key; known keys are {KNOWN}",
        'local: environments.dev.roles.lamda: unknown key, did you mean "lambda"?',
        "local: environments.1: a name must be text, not a whole number; put it in quotes",
    ]


def test_an_environment_that_a_broken_file_may_hold_is_not_called_unknown(project: Project) -> None:
    project.write(shared="environments: {dev: {}}", local="environments: {prod: {}")
    assert project.problems(environment="prod") == [
        "local: line 1, column 24: is not valid YAML (expected ',' or '}', but got '<stream end>'); correct that place"
    ]


# Mistakes

MISTAKES = [
    ("lambda_defaults: {memroy: 1}", ['lambda_defaults.memroy: unknown key, did you mean "memory"?']),
    ("artifact-bucket: b", ['artifact-bucket: unknown key, did you mean "artifact_bucket"?']),
    ("Flow_Name: b", ['Flow_Name: unknown key, did you mean "flow_name"?']),
    ("enviroments: {}", ['enviroments: unknown key, did you mean "environments"?']),
    ("memory: 512", ['memory: unknown key, did you mean "lambda_defaults.memory"?']),
    ("memroy: null", ['memroy: unknown key, did you mean "lambda_defaults.memory"?']),
    ("roles: {x: 1}", ["roles.x: unknown key; known keys are pipeline, lambda"]),
    ("roles: {on: x}", ["roles.True: unknown key; known keys are pipeline, lambda"]),
    ('roles: {"a\\nb": x}', ["roles.a\\nb: unknown key; known keys are pipeline, lambda"]),
    (f"roles: {{{'x' * 99}: x}}", [f"roles.{'x' * 80}…: unknown key; known keys are pipeline, lambda"]),
    ("roles: {lambda: a, lambda_: a}", ["roles.lambda_: lambda is given in both spellings; keep one"]),
    ("roles: arn", ["roles: must be a section with keys such as pipeline, lambda, not text"]),
    ("lambda_env: [A=1]", ["lambda_env: must be a section of names and values, not a list"]),
    ("environments: prod", ["environments: must be a section of names and values, not text"]),
    ("[]", [f"must be a section with keys such as {KNOWN}, environments, not a list"]),
    ("flow_name birds", [f"must be a section with keys such as {KNOWN}, environments, not text"]),
    ("flow_name: 1", ["flow_name: must be text, not a whole number; put it in quotes"]),
    ("flow_name: yes", ["flow_name: must be text, not true or false; put it in quotes"]),
    ("flow_name: 2026-01-01", ["flow_name: must be text, not a date; put it in quotes"]),
    ("flow_name: [a]", ["flow_name: must be text, not a list"]),
    ("flow_name: {a: b}", ["flow_name: must be text, not a section"]),
    ("flow_name: !!binary YQ==", ["flow_name: must be text, not bytes"]),
    (
        "lambda_defaults: {image_tag: 1.10}",
        ["lambda_defaults.image_tag: must be text, not a decimal number; put it in quotes"],
    ),
    (
        "lambda_env: {A: 1, B: on, 2: c}",
        [
            "lambda_env.A: must be text, not a whole number; put it in quotes",
            "lambda_env.B: must be text, not true or false; put it in quotes",
            "lambda_env.2: a name must be text, not a whole number; put it in quotes",
        ],
    ),
    *(
        (
            f"lambda_defaults: {{timeout: {given}}}",
            [f"lambda_defaults.timeout: must be a whole number of seconds from 1 to 1800, not {shown}"],
        )
        for given, shown in [
            ("0", "0"),
            ("1801", "1801"),
            ("-1", "-1"),
            ("true", "true or false"),
            ("60.0", "a decimal number"),
            ('"60"', "text; remove the quotes"),
            ("15m", "text"),
            ("0x" + "f" * 5000, "a number of more than 20 digits"),
        ]
    ),
    *(
        (
            f"lambda_defaults: {{memory: {given}}}",
            [f"lambda_defaults.memory: must be a whole number of MB from 128 to 10240, not {given}"],
        )
        for given in ("127", "10241")
    ),
    *(
        (f"inline_limit: {given}", [f"inline_limit: must be a whole number of bytes from 0 to 262144, not {given}"])
        for given in ("-1", "262145")
    ),
    *(
        (f"{key}: {given}", [f'{key}: must be one of {words}, not "{given}"'])
        for key, given, words in [
            ("package_type", "docker", '"", zip, image'),
            ("architecture", "intel", "x86_64, arm64"),
            ("execution_type", "fast", '"", STANDARD, EXPRESS'),
        ]
    ),
    ("log_retention: 31", [f"log_retention: must be a number of days out of {RETENTIONS}, not 31"]),
    ("tracing: 1", ["tracing: must be true or false, not a whole number"]),
    ("include: data", ["include: must be a list, not text; write it as [a, b]"]),
    (
        "exclude: [a, , 1]",
        ["line 1, column 14: is not valid YAML (expected the node content, but found ','); correct that place"],
    ),
    (
        "exclude: [a, null, 1]",
        [
            "exclude.2: is empty; remove it from the list",
            "exclude.3: must be text, not a whole number; put it in quotes",
        ],
    ),
    (
        "log_level: 10",
        [f"log_level: must be one of {LEVELS}, not a whole number"],
    ),
    (
        "flow_name: a\nlambda_defaults:\n  timeout: 1\n  timeout: 2\nflow_name: b\nflow_name: c\n",
        [
            "lambda_defaults.timeout: is given again in line 4, first in line 3; keep one",
            "flow_name: is given again in line 5, first in line 1; keep one",
            "flow_name: is given again in line 6, first in line 1; keep one",
        ],
    ),
    ("flow_name: 2026-02-30", ['flow_name: line 1: "2026-02-30" is no timestamp; put it in quotes']),
    ("flow_name: =", ['flow_name: line 1: "=" is no value; put it in quotes']),
    ("flow_name: !Ref Name", ['flow_name: line 1: "Name" is no !Ref; put it in quotes']),
    ("flow_name: !!bool maybe", ['flow_name: line 1: "maybe" is no bool; put it in quotes']),
    (
        "roles: {? [a] : b}",
        ["line 1, column 11: is not valid YAML (found unhashable key); correct that place"],
    ),
    (
        "flow_name: a\n  build_dir: b\n",
        ["line 2, column 12: is not valid YAML (mapping values are not allowed here); correct that place"],
    ),
    (
        "roles:\n\tlambda: x",
        ["line 2, column 1: is not valid YAML (found character '\\t' that cannot start any token); correct that place"],
    ),
    (
        "flow_name: *nobody",
        ["line 1, column 12: is not valid YAML (found undefined alias 'nobody'); correct that place"],
    ),
    (
        "flow_name: a\n---\nflow_name: b\n",
        ["line 2, column 1: is not valid YAML (but found another document); correct that place"],
    ),
    ("roles:\n  lambda: \x07", ["line 2, column 11: holds a character that YAML does not allow; remove it"]),
    ("&a {roles: *a}", ["roles.roles: unknown key; known keys are pipeline, lambda"]),
    (b"flow_name: a\nbuild_dir: \xff\n", ["line 2: is not UTF-8 text; save the file as UTF-8"]),
    ("flow_name: a".encode("utf-16"), ["line 1: is not UTF-8 text; save the file as UTF-8"]),
]


def test_settings_that_are_nested_too_deeply_are_a_mistake(project: Project) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's own, which libraries may have raised
    try:
        problems = project.write("[" * 1000).problems()
    finally:
        sys.setrecursionlimit(before)
    assert problems == ["local: is nested too deeply to be read; settings need no more than a few levels"]


@pytest.mark.parametrize(("content", "lines"), MISTAKES, ids=[str(content)[:40] for content, _ in MISTAKES])
def test_a_mistake_names_file_key_what_is_wrong_and_what_to_do(
    project: Project, content: str | bytes, lines: list[str]
) -> None:
    assert project.write(content).problems() == [f"local: {line}" for line in lines]


def test_the_limits_themselves_are_accepted(project: Project) -> None:
    for timeout, memory, inline_limit in ((1, 128, 0), (1800, 10240, 262144)):
        project.write(f"{{inline_limit: {inline_limit}, lambda_defaults: {{timeout: {timeout}, memory: {memory}}}}}")
        assert project.load() == LokkiConfig(
            inline_limit=inline_limit, lambda_defaults=LambdaDefaultsConfig(timeout, memory)
        )


def test_all_mistakes_of_all_sources_come_at_once(project: Project) -> None:
    project.write(
        shared="{roles: {pipeline: 1, lamda: x}, flow_name: [], environments: {prod: {build_dir: 2}}}",
        local="roles: }\n",
    )
    assert project.problems({"LOKKI_LOG_LEVEL": "INF"}) == [
        "shared: roles.pipeline: must be text, not a whole number; put it in quotes",
        'shared: roles.lamda: unknown key, did you mean "lambda"?',
        "shared: flow_name: must be text, not a list",
        "shared: environments.prod.build_dir: must be text, not a whole number; put it in quotes",
        "local: line 1, column 8: is not valid YAML (expected the node content, but found '}'); correct that place",
        f'LOKKI_LOG_LEVEL: log_level: must be one of {LEVELS}, not "INF", did you mean "INFO"?',
    ]


def test_a_directory_in_place_of_a_file_is_a_mistake(project: Project) -> None:
    project.local.mkdir()
    (project.home / ".lokki").write_text("")
    assert project.problems() == [
        "shared: cannot be read: Not a directory; make it a file that you may read, or remove it",
        "local: cannot be read: Is a directory; make it a file that you may read, or remove it",
    ]


def test_a_pipe_is_not_waited_for(project: Project) -> None:
    os.mkfifo(project.local)
    assert project.problems() == ["local: cannot be read: It is a pipe; make it a file that you may read, or remove it"]


def test_links_that_lead_nowhere_are_mistakes(project: Project) -> None:
    project.shared.parent.mkdir()
    project.shared.symlink_to(project.shared)
    project.local.symlink_to("gone.yml")
    assert project.problems() == [
        "shared: cannot be read: Too many levels of symbolic links; make it a file that you may read, or remove it",
        "local: is a link to a file that does not exist; correct the link or remove it",
    ]


# Plain dicts


def test_from_dict_checks_a_plain_dict_and_names_every_problem() -> None:
    data = {"roles": {"lambda": "l"}, "lambda_env": {"A": "a"}, "log_level": "debug", "flow_name": None}
    assert LokkiConfig.from_dict(data) == LokkiConfig(
        log_level="DEBUG", roles=RolesConfig(lambda_="l"), lambda_env={"A": "a"}
    )
    with pytest.raises(ConfigError) as caught:
        LokkiConfig.from_dict({"environments": {}, "lambda_defaults": {"timeout": "x"}, "lambda_env": {"A": None}})
    assert str(caught.value).split("\n") == [
        f"environments: unknown key; known keys are {KNOWN}",
        "lambda_defaults.timeout: must be a whole number of seconds from 1 to 1800, not text",
    ]


def test_each_section_has_from_dict() -> None:
    assert RolesConfig.from_dict({"lambda": "l", "pipeline": "p"}) == RolesConfig("p", "l")
    assert LambdaDefaultsConfig.from_dict({"memory": 1024}) == LambdaDefaultsConfig(memory=1024)
    with pytest.raises(ConfigError, match=re.escape('memroy: unknown key, did you mean "memory"?')):
        LambdaDefaultsConfig.from_dict({"memroy": 1})


def test_a_configuration_cannot_be_changed() -> None:
    given = {"A": "a"}
    config = LokkiConfig(lambda_env=given)
    given["A"] = "changed"
    assert config.lambda_env == {"A": "a"}
    with pytest.raises(TypeError):
        config.lambda_env["A"] = "changed"  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        config.flow_name = "changed"  # type: ignore[misc]
    assert len({config, LokkiConfig(lambda_env={"A": "a"}), LokkiConfig(lambda_env={"A": "b"})}) == 2
    assert len({LokkiConfig(tags={"A": "a"}), LokkiConfig(tags={"A": "b"}), LokkiConfig(tags={"A": "a"})}) == 2


# Laws

# Files take time on a busy machine. The alphabet holds what YAML and the error lines treat in a special way; with all
# of Unicode, hypothesis would spend the first second on its tables.
law = hypothesis_settings(deadline=None)
texts = st.text("ab12é -:,[]{}&*!|>'\"%@`#?=~<.\n\t\r\0\x07\x85\u2028\ufeff", max_size=8)
scalars = st.none() | st.booleans() | st.integers() | texts
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
mappings = st.dictionaries(st.sampled_from("abc"), plain, max_size=3)
# In these a key that is upper-case always holds a mapping and one that is lower-case never does.
shaped = st.recursive(
    st.dictionaries(st.sampled_from("ab"), scalars | st.lists(scalars, max_size=2)),
    lambda inner: st.builds(
        lambda leaves, nested: leaves | nested,
        st.dictionaries(st.sampled_from("ab"), scalars),
        st.dictionaries(st.sampled_from("AB"), inner),
    ),
    max_leaves=6,
)


@law
@given(mappings)
def test_merging_with_nothing_changes_nothing(data: dict[str, object]) -> None:
    assert deep_merge({}, data) == data == deep_merge(data, {})
    assert deep_merge(data, data) == data


@law
@given(shaped, shaped, shaped)
def test_merging_is_associative_where_no_key_changes_its_kind(
    first: dict[str, object], second: dict[str, object], third: dict[str, object]
) -> None:
    assert deep_merge(first, deep_merge(second, third)) == deep_merge(deep_merge(first, second), third)


def test_merging_is_not_associative_where_a_key_changes_its_kind() -> None:
    first, second, third = {"a": {"x": 1}}, {"a": 5}, {"a": {"y": 2}}
    assert deep_merge(deep_merge(first, second), third) == {"a": {"y": 2}}
    assert deep_merge(first, deep_merge(second, third)) == {"a": {"x": 1, "y": 2}}


@law
@given(mappings, mappings)
def test_each_key_of_a_merge_is_the_later_ones_unless_both_hold_mappings(
    base: dict[str, object], over: dict[str, object]
) -> None:
    before = repr((base, over))
    merged = deep_merge(base, over)
    assert repr((base, over)) == before
    assert set(merged) == {*base, *over}
    for key, value in merged.items():
        below, above = base.get(key), over.get(key)
        if isinstance(below, dict) and isinstance(above, dict):
            assert value == deep_merge(below, above)
        else:
            assert value == (above if key in over else below)


def test_scalars_and_lists_are_replaced() -> None:
    base = {"list": [1, 2], "text": "a", "section": {"kept": 1, "replaced": [1]}, "was": {"a": 1}, "becomes": 1}
    over = {"list": [3], "text": "b", "section": {"replaced": []}, "was": 1, "becomes": {"a": 1}}
    merged = {
        "list": [3],
        "text": "b",
        "section": {"kept": 1, "replaced": []},
        "was": 1,
        "becomes": {"a": 1},
    }
    assert deep_merge(base, over) == merged


valid = st.fixed_dictionaries(
    {},
    optional={
        "flow_name": texts,
        "log_level": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        "inline_limit": st.integers(0, 262144),
        "roles": st.fixed_dictionaries({}, optional={"pipeline": texts, "lambda": texts}),
        "lambda_env": st.dictionaries(st.sampled_from("ABC"), texts),
        "include": st.lists(texts, max_size=3),
        "tracing": st.booleans(),
        "lambda_defaults": st.fixed_dictionaries(
            {}, optional={"timeout": st.integers(1, 1800), "memory": st.integers(128, 10240), "image_tag": texts}
        ),
    },
)


@law
@given(valid, valid, valid, valid)
def test_load_config_is_the_merge_of_its_sources(
    tmp_path_factory: pytest.TempPathFactory,
    shared: dict[str, object],
    local: dict[str, object],
    shared_prod: dict[str, object],
    local_prod: dict[str, object],
) -> None:
    root = tmp_path_factory.mktemp("merge")
    project = Project(root / "home", root / "work").write(
        yaml.safe_dump({**local, "environments": {"prod": local_prod}}),
        yaml.safe_dump({**shared, "environments": {"prod": shared_prod}}),
    )
    merged = deep_merge(deep_merge(deep_merge(shared, local), shared_prod), local_prod)
    assert project.load(environment="prod") == LokkiConfig.from_dict(merged)


@law
@given(
    st.binary(max_size=40)
    | st.lists(texts).map(lambda parts: "".join(parts).encode())
    | plain.map(lambda data: yaml.dump(data).encode())
)
def test_any_file_is_read_or_refused_line_by_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("any")
    project = Project(root, root).write(content)
    lines: list[str] = []
    try:
        project.load()
    except ConfigError as error:
        lines = str(error).splitlines()
    assert [line for line in lines if not line.startswith(f"{project.local}: ")] == []


@law
@given(st.dictionaries(st.sampled_from([one.name for one in fields(LokkiConfig)]) | texts, plain))
def test_any_dict_is_read_or_refused(data: dict[str, object]) -> None:
    known = {one.name for one in fields(LokkiConfig)}
    problems: str | None = None
    try:
        LokkiConfig.from_dict(data)
    except ConfigError as error:
        problems = str(error)
    assert problems is None if data == {} else problems != ""
    assert problems is not None or set(data) <= known


# The page for users


def documented() -> list[tuple[str, str, str]]:
    """Key, default and variable of each row of the table of settings."""
    section = DOCS.read_text("utf-8").split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in section.splitlines() if "| `" in line]
    return [(key, default, variable) for key, default, variable in rows]


def defaults(config: object, prefix: str = "") -> list[tuple[str, object]]:
    """Each key of lokki.yml, with dots, and its default, in the order of the fields."""
    assert is_dataclass(config)
    found: list[tuple[str, object]] = []
    for one in fields(config):
        key, value = prefix + one.name.removesuffix("_"), getattr(config, one.name)
        found += (
            defaults(value, f"{key}.")
            if is_dataclass(value)
            else [(key, list(value) if isinstance(value, tuple) else value)]
        )
    return found


def test_the_page_lists_every_setting_with_its_default() -> None:
    assert [(key, yaml.safe_load(default)) for key, default, _ in documented()] == defaults(LokkiConfig())


def test_the_variables_on_the_page_set_their_keys(project: Project) -> None:
    for key, _, variable in documented():
        if variable:
            assert project.load({variable: "ERROR"}) == LokkiConfig.from_dict({key: "ERROR"})


def test_the_examples_on_the_page_do_what_it_says(project: Project) -> None:
    page = DOCS.read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    wrong, lines = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    project.write(example)
    assert project.load(environment="prod") == LokkiConfig(
        artifact_bucket="acme-artifacts-prod",
        log_level="DEBUG",
        roles=RolesConfig("arn:aws:iam::123456789012:role/pipeline", "arn:aws:iam::123456789012:role/worker"),
        lambda_env={"API_URL": "https://api.example.com", "PAGE_SIZE": "100"},
        lambda_defaults=LambdaDefaultsConfig(timeout=300, memory=2048),
    )
    assert project.write(wrong).problems() == lines.replace("./lokki.yml", "local").splitlines()
