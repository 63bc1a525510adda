"""lokki.builder.builder, build_folder, checks and the command: what a build writes, says and refuses, and its bytes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from build_flows import BUILDS, EXAMPLES
from click.testing import CliRunner
from support.lowering import callers_of_lower
from support.wheels import make_wheel, offline_uv

import lokki
from lokki.builder.builder import Builder, Contents, assemble
from lokki.builder.checks import check_build, exceeded_limits
from lokki.builder.compiled import compile_flow
from lokki.builder.package_types import BuildError, ImageCode, ZipCode
from lokki.builder.packages.archive import content_digest
from lokki.builder.packages.folder import Bundle, write_bundle
from lokki.builder.packages.sources import collect
from lokki.builder.requirements.choose import Available
from lokki.builder.requirements.resolve import Resolved
from lokki.builder.requirements.vendoring import Installation, InstalledFile, install_once
from lokki.builder.settings import check_settings
from lokki.cli.commands.build import build_command
from lokki.config import LambdaDefaultsConfig, LokkiConfig, RolesConfig
from lokki.errors import ConfigError

ZIP = LokkiConfig(artifact_bucket="acme-artifacts", dependencies="all")
IMAGE = replace(ZIP, ecr_repo_prefix="123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme")
BIRDS = BUILDS["birds"].graph
RESOLVED = Resolved(("helper==1.0",), "x86_64-manylinux_2_34")

# Builds birds as a user does; prints the hash of each file that it wrote, with its mode.
BUILD = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
import birds_flow_example
from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
os.umask(int(sys.argv[3], 8))
settings = {"artifact_bucket": "acme-artifacts", "build_dir": sys.argv[2], **json.loads(sys.argv[4])}
config = LokkiConfig.from_dict(settings)
Builder(write=lambda line: None).build(birds_flow_example.birds_flow(), config)
out = Path(sys.argv[2])
def about(path):
    return [oct(path.stat().st_mode), path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()]
print(json.dumps({str(path.relative_to(out)): about(path) for path in sorted(out.rglob("*"))}))
"""


@dataclass(frozen=True)
class Surroundings:
    """What differs from one build to another without a reason for other bytes."""

    folder: Path
    seed: int = 0
    umask: str = "022"
    user: tuple[str, ...] = ()
    cache: Path | None = None

    def build(self, config: Mapping[str, object] | None = None) -> dict[str, list[object]]:
        project, out = self.folder / "project", self.folder / "out"
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / "birds_flow_example.py", project)
        if self.user:
            for path in (self.folder, project, project / "birds_flow_example.py"):
                os.chown(path, 65534, 65534)
        environ = {
            **os.environ,
            "PYTHONHASHSEED": str(self.seed),
            "XDG_CACHE_HOME": str(self.cache or self.folder / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.user:
            environ |= {"HOME": str(self.folder), "UV_CACHE_DIR": str(self.folder / "uv")}
        arguments = [str(project), str(out), self.umask, json.dumps(config or {})]
        command = [*self.user, sys.executable, "-c", BUILD, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, list[object]] = json.loads(done.stdout)
        return found


NOBODY = (
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"ecr_repo_prefix": "registry/acme"}], ids=["zip", "image"])
def test_builds_in_other_folders_with_other_umasks_and_hash_seeds_have_equal_bytes(
    tmp_path: Path, config: dict[str, object]
) -> None:
    first = Surroundings(tmp_path / "one", seed=1, umask="077").build(config)
    assert first == Surroundings(tmp_path / "two" / "deeper", seed=2, umask="002").build(config)
    modes = {mode for mode, _ in first.values()}
    assert modes == {"0o100644", "0o40755"}


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can build as somebody else")
def test_another_user_builds_equal_bytes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    theirs = tmp_path_factory.getbasetemp() / "theirs"
    theirs.mkdir()
    built = Surroundings(theirs, user=(shutil.which("setpriv") or "", *NOBODY)).build()
    assert (theirs / "out" / "template.yaml").stat().st_uid == 65534
    assert built == Surroundings(tmp_path).build()


@pytest.mark.slow
def test_builds_under_twenty_hash_seeds_have_equal_bytes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    builds = [Surroundings(tmp_path / str(seed), seed, cache=cache).build() for seed in range(20)]
    assert all(build == builds[0] for build in builds)


# What of lokki is in packages

# Builds birds as images, without any requirement, by the lokki of a folder; prints each file's size and hash.
BUILD_BY_COPY = """
import hashlib, json, sys
from dataclasses import replace
from pathlib import Path
copy, examples = sys.argv[1:]
sys.path[:0] = [copy, examples]
import birds_flow_example
import lokki
from lokki.builder.builder import Contents, assemble
from lokki.builder.compiled import compile_flow
from lokki.builder.packages.sources import collect, lokki_files
from lokki.builder.requirements.choose import Available
from lokki.builder.requirements.resolve import Resolved
from lokki.config import LokkiConfig
assert Path(lokki.__file__).is_relative_to(copy)
graph = birds_flow_example.birds_flow()
project = collect(graph, LokkiConfig())
resolved = dict.fromkeys(project.steps, Resolved((), "x86_64-manylinux_2_34"))
contents = Contents(replace(project, files={**project.files, **lokki_files()}, imports={}), Available(resolved))
config = LokkiConfig(artifact_bucket="acme-artifacts", ecr_repo_prefix="registry/acme", dependencies="all")
files = assemble(compile_flow(graph, config), contents).files
print(json.dumps({path: [len(content), hashlib.sha256(content).hexdigest()] for path, content in files.items()}))
"""

ONLY_ON_LAPTOPS = (
    *("builder", "cli", "deploy", "emulator", "estimate", "local_run", "operate", "progress", "results"),
    *("loading.py", "runner.py", "__main__.py", "store/local.py"),
)


def built_by(copy: Path) -> dict[str, tuple[int, str]]:
    """Build birds by the lokki in a folder; return size and hash of each file."""
    command = [sys.executable, "-c", BUILD_BY_COPY, str(copy), str(EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: (size, digest) for path, (size, digest) in json.loads(done.stdout).items()}


def comment(*places: Path) -> int:
    """Add a comment to each module at and below places; return how many there are."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
    for file in files:
        file.write_text(f"{file.read_text()}# A comment\n")
    return len(files)


@pytest.fixture(scope="module")
def birds() -> dict[str, tuple[int, str]]:
    return built_by(Path(lokki.__file__).parents[1])


def test_a_comment_in_what_runs_only_on_laptops_changes_no_package(
    birds: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    ours = Path(lokki.__file__).parent
    shutil.copytree(ours, tmp_path / "lokki", ignore=shutil.ignore_patterns("__pycache__"))
    assert comment(*(tmp_path / "lokki" / name for name in ONLY_ON_LAPTOPS)) > 100
    assert built_by(tmp_path) == birds
    comment(tmp_path / "lokki" / "runtime" / "handler.py")  # which is in every package
    changed = {path for path, content in built_by(tmp_path).items() if content != birds[path]}
    packages = {f"lambdas/{step.name}/lokki/runtime/handler.py" for step in BIRDS.steps}
    assert changed == {*packages, "template.yaml"}


def test_lokkis_part_of_a_package_is_small(birds: dict[str, tuple[int, str]]) -> None:
    """It has what draws graphs, reads secrets, takes over and traces: 543,000 bytes. A start loads two thirds."""
    for step in BIRDS.steps:
        sizes = [size for path, (size, _) in birds.items() if path.startswith(f"lambdas/{step.name}/lokki/")]
        assert 0 < sum(sizes) < 545_000


# Packages that are made without an index


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("vendored")
    make_wheel(folder / "wheels", "helper", {"helper.py": "x = 1\n"})
    return install_once(RESOLVED, offline_uv(folder / "wheels", folder / "uv"), folder / "cache")


def contents(installed: Installation | None, name: str = "birds", **files: bytes) -> Contents:
    build = BUILDS[name]
    project = collect(build.graph, LokkiConfig())
    steps = [step.name for step in build.graph.steps]
    more = {path.replace("__", "/"): content for path, content in files.items()}
    return Contents(
        replace(project, files={**project.files, **more}, imports={}),  # these packages are without lokki
        Available(
            dict.fromkeys(steps, RESOLVED),
            dict.fromkeys(steps, installed) if installed else {},
            dict.fromkeys(steps, installed) if installed else {},
        ),
    )


def with_files(installed: Installation, files: Mapping[str, InstalledFile]) -> Installation:
    return replace(installed, index=replace(installed.index, files=files))


def keys(bundle: Bundle) -> dict[str, str]:
    return {one.step: one.code.key if isinstance(one.code, ZipCode) else one.code.tag for one in bundle.packages}


def folder_digest(folder: Path) -> str:
    return content_digest(
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    )


def test_a_bundle_names_every_file_and_its_template_the_packages(installed: Installation) -> None:
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    own = ["birds_flow_example.py", "handler.py", "requirements.txt", "step.json"]
    assert sorted(bundle.files) == sorted(
        ["statemachine.json", "template.yaml"]
        + [f"lambdas/{step}/{name}" for step in ("get_birds", "flap_bird", "join_birds") for name in own]
    )
    for step, key in keys(bundle).items():
        assert re.fullmatch(rf"lokki-packages/birds-flow/{step.replace('_', '-')}-[0-9a-f]{{32}}\.zip", key)
        assert key.encode() in bundle.files["template.yaml"]


def test_changed_code_has_another_key_and_unchanged_code_the_same(installed: Installation) -> None:
    before = keys(assemble(compile_flow(BIRDS, ZIP), contents(installed)))
    assert keys(assemble(compile_flow(BIRDS, ZIP), contents(installed))) == before
    changes = [
        contents(installed, birds__py=b"x"),
        contents(with_files(installed, {**installed.index.files, "new.py": InstalledFile("00", 1)})),
    ]
    for changed in changes:
        after = keys(assemble(compile_flow(BIRDS, ZIP), changed))
        assert all(after[step] != before[step] for step in before)


def test_images_have_the_hash_of_their_folder_as_tag_unless_a_tag_is_set() -> None:
    bundle = assemble(compile_flow(BIRDS, IMAGE), contents(None))
    assert [one.code for one in bundle.packages] == [
        ImageCode(f"birds-flow/{one.step.replace('_', '-')}", content_digest(one.files)[:32]) for one in bundle.packages
    ]
    changed = assemble(compile_flow(BIRDS, IMAGE), contents(None, birds__py=b"x"))
    assert not set(keys(bundle).values()) & set(keys(changed).values())
    tagged = replace(IMAGE, lambda_defaults=LambdaDefaultsConfig(image_tag="v7"))
    bundle = assemble(compile_flow(BIRDS, tagged), contents(None))
    assert set(keys(bundle).values()) == {""}
    assert b"Default: v7" in bundle.files["template.yaml"]


def test_a_zip_holds_what_the_folder_has_what_it_requires_and_bytecode(installed: Installation, tmp_path: Path) -> None:
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    write_bundle(bundle, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "lambdas" / "flap_bird.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    plain = {path: content for path, content in files.items() if not path.endswith(".pyc")}
    own = {path: (tmp_path / "out" / "lambdas" / "flap_bird" / path).read_bytes() for path in bundle.packages[1].own}
    assert own.items() <= plain.items()
    assert sorted(plain) == sorted([*own, *(path for path in installed.select().paths if not path.endswith(".pyc"))])
    assert {path for path in files if path.endswith(".pyc")} == {
        f"__pycache__/{name}.cpython-313.pyc" for name in ("birds_flow_example", "handler", "helper")
    }


def test_a_file_that_the_project_and_a_package_both_have_is_refused(installed: Installation) -> None:
    with pytest.raises(BuildError, match=r"^helper\.py is in the project and in a package that it requires"):
        assemble(
            compile_flow(BIRDS, ZIP),
            replace(contents(installed), project=replace(contents(installed).project, files={"helper.py": b""})),
        )


def test_a_package_over_the_limit_is_refused_and_names_its_step(installed: Installation) -> None:
    large = with_files(installed, {"large/file": InstalledFile("00", 262_144_000)})
    with pytest.raises(BuildError, match=r"the zip package of get_birds\(\) has 250\.0 MiB unzipped"):
        assemble(compile_flow(BIRDS, ZIP), contents(large))


# The folder


def changes(bundle: Bundle, folder: Path) -> dict[str, str]:
    return {each.path: each.change for each in write_bundle(bundle, folder)}


def test_what_changed_is_told_and_what_did_not_is_not_made_again(installed: Installation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    zips = [f"lambdas/{step}.zip" for step in ("get_birds", "flap_bird", "join_birds")]
    documents = ["statemachine.json", "template.yaml"]
    assert changes(bundle, out) == dict.fromkeys([*documents, *zips], "new")
    before = (out / zips[0]).stat(), out.stat().st_ino
    assert changes(bundle, out) == dict.fromkeys([*documents, *zips], "unchanged")
    assert ((out / zips[0]).stat(), out.stat().st_ino) == before

    first = replace(bundle.packages[0], code=ZipCode("other"))
    bundle = replace(bundle, packages=(first, *bundle.packages[1:2]), files={**bundle.files, "template.yaml": b"new"})
    assert changes(bundle, out) == {
        "statemachine.json": "unchanged", "template.yaml": "changed", zips[0]: "changed", zips[1]: "unchanged",
        "lambdas/join_birds": "removed",
    }  # fmt: skip
    assert sorted(path.name for path in (out / "lambdas").glob("*.zip")) == ["flap_bird.zip", "get_birds.zip"]


@pytest.mark.parametrize("damage", ["edited", "lost", "zip lost", "zip cut"])
def test_a_damaged_folder_is_made_whole_again(installed: Installation, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    write_bundle(bundle, out)
    whole = folder_digest(out)
    match damage:
        case "edited":
            (out / "template.yaml").write_text("edited")
        case "lost":
            (out / "lambdas" / "flap_bird" / "handler.py").unlink()
        case "zip lost":
            (out / "lambdas" / "flap_bird.zip").unlink()
        case "zip cut":
            (out / "lambdas" / "flap_bird.zip").write_bytes(b"PK")
    write_bundle(bundle, out)
    assert folder_digest(out) == whole


def test_a_build_that_fails_leaves_the_last_one_whole_and_nothing_beside_it(
    installed: Installation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    write_bundle(bundle, out)
    whole = folder_digest(out)
    gone = replace(installed, archive=tmp_path / "gone.zip")
    broken = assemble(compile_flow(BIRDS, ZIP), contents(gone, birds__py=b"x"))
    with pytest.raises(
        BuildError, match=r"out cannot be written: No such file or directory\. The last build is as it was"
    ):
        write_bundle(broken, out)
    assert folder_digest(out) == whole
    assert list(tmp_path.iterdir()) == [out]


def test_what_another_version_of_lokki_built_is_replaced(installed: Installation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    write_bundle(bundle, out)
    whole = folder_digest(out)
    manifest = json.loads((out / "build.json").read_text())
    (out / "build.json").write_text(json.dumps({**manifest, "archives": ["lambdas/get_birds.zip"]}))
    assert {line.change for line in write_bundle(bundle, out)} == {"new"}
    assert folder_digest(out) == whole


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"packages": []}'])
def test_a_folder_with_somebody_elses_build_json_is_not_replaced(
    content: bytes, installed: Installation, tmp_path: Path
) -> None:
    (tmp_path / "build.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"holds files that lokki did not write"):
        write_bundle(assemble(compile_flow(BIRDS, ZIP), contents(installed)), tmp_path)
    assert (tmp_path / "build.json").read_bytes() == content


def test_a_folder_that_no_build_wrote_is_not_replaced(installed: Installation, tmp_path: Path) -> None:
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    (tmp_path / "mine.txt").write_text("mine")
    for precious in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match=r"holds files that lokki did not write, and a build replaces the whole"):
            write_bundle(bundle, precious)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_link_to_a_folder_stays_a_link(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    write_bundle(assemble(compile_flow(BIRDS, ZIP), contents(installed)), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "target" / "build.json").is_file()


# What a user meets


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all builds of this module share."""
    return tmp_path_factory.mktemp("cache")


REGISTRY = "123456789012.dkr.ecr.eu-north-1.amazonaws.com"
MISSING = [
    (LokkiConfig(), "artifact_bucket: my-bucket"),
    (LokkiConfig(artifact_bucket="b", package_type="image"), f"ecr_repo_prefix: {REGISTRY}/my-team"),
]


@pytest.mark.parametrize(("config", "line"), MISSING)
def test_a_setting_that_is_missing_is_named_with_the_line_to_add(config: LokkiConfig, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Builder().build(BIRDS, config)
    assert str(caught.value).startswith(f"{line.partition(':')[0]} is not set")
    assert str(caught.value).splitlines()[-1] == line


WRONG = [
    *(
        {"artifact_bucket": name}
        for name in (
            "s3://my-bucket",
            "my-bucket/birds",
            "My-Bucket",
            "my_bucket",
            "my..bucket",
            "10.0.0.1",
            "my-",
            "b",
        )
    ),
    *(
        {"ecr_repo_prefix": prefix}
        for prefix in ("registry/", "https://registry/acme", "registry/Acme", "registry//acme", "registry/-acme")
    ),
    *({"lambda_defaults": LambdaDefaultsConfig(image_tag=tag)} for tag in ("", "a b", "-a", "a" * 129)),
    {"roles": RolesConfig(pipeline="my-role")},
    {"roles": RolesConfig(lambda_="arn:aws:iam::123456789012:user/me")},
    *({"tags": {key: ""}} for key in ("aws:x", "AWS:x", "", "a%", "a" * 129)),
    *({"tags": {"a": value}} for value in ("100%", "a" * 257, "a\n")),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_texts_that_aws_would_refuse_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"(?s): .* is not valid: .*\.\nCorrect lokki.yml"):
        check_settings(replace(IMAGE, **wrong))


def test_texts_that_aws_takes_are_taken() -> None:
    tags = {
        "Größe": "",
        "a b": "é",
        "team/cost-center": "ops@acme.com = 1+1_2:3",
        "my:aws:x": "aws:y",
        "a" * 128: "a" * 256,
    }
    roles = RolesConfig("arn:aws-cn:iam::123456789012:role/path/p", "arn:aws:iam::123456789012:role/l+=,.@-_")
    for bucket in ("my-bucket", "my.bucket", "123", "a" * 63):
        for prefix in ("registry", "localhost:5000/a", "123456789012.dkr.ecr.eu-north-1.amazonaws.com/my-team/a_b.c"):
            check_settings(replace(IMAGE, artifact_bucket=bucket, ecr_repo_prefix=prefix, tags=tags, roles=roles))


def test_all_wrong_texts_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Builder().build(BIRDS, replace(ZIP, artifact_bucket="s3://b", tags={"a": "%"}))
    assert str(caught.value) == (
        "artifact_bucket: 's3://b' is not valid: the name of an S3 bucket has 3 to 63 of a-z, 0-9, '-' and '.', no "
        "s3:// and no path.\n"
        "tags.a: '%' is not valid: the value of a tag has at most 256 letters, digits, spaces and _.:/=+-@.\n"
        "Correct lokki.yml, or the variable that sets it."
    )


def steady(line: str) -> str:
    line = re.sub(r"[0-9a-f]{12}", "HASH", line)
    return re.sub(r"[\d.]+ ([KM]iB)", r"SIZE \1", re.sub(r"\d+\.\d s$", "TIME", line))


def test_a_build_reports_what_it_wrote_and_a_second_one_that_nothing_changed(tmp_path: Path, cache: Path) -> None:
    lines: list[str] = []
    builder = Builder(lines.append, cache=cache)
    config = replace(ZIP, build_dir=str(tmp_path / "out"))
    builder.build(BIRDS, config)
    first = [re.sub(" +", " ", steady(line)) for line in lines]
    zips = [
        f" new SIZE MiB HASH lambdas/{name}.zip (SIZE MiB unzipped)"
        for name in ("get_birds", "flap_bird", "join_birds")
    ]
    assert first == [
        "birds-flow: 3 zip packages for x86_64, requirements from nothing beyond lokki",
        " new SIZE KiB HASH statemachine.json",
        " new SIZE KiB HASH template.yaml",
        *zips,
        f"5 new in {tmp_path / 'out'}, TIME",
    ]
    lines.clear()
    builder.build(BIRDS, config)
    assert steady(lines[-1]) == f"nothing changed in {tmp_path / 'out'}, TIME"
    manifest = json.loads((tmp_path / "out" / "build.json").read_bytes())
    for path, archive in manifest["archives"].items():
        content = (tmp_path / "out" / path).read_bytes()
        assert archive == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.slow
# One requires pandas, which is below, and the other has layers, which images cannot have.
@pytest.mark.parametrize("name", sorted(BUILDS.keys() - {"penguins", "account"}))
def test_every_flow_builds_as_images_without_anything_installed(name: str, tmp_path: Path, cache: Path) -> None:
    graph = BUILDS[name].graph
    config = replace(IMAGE, build_dir=str(tmp_path / "out"))
    Builder(lambda line: None, cache=cache).build(graph, config)
    manifest = json.loads((tmp_path / "out" / "build.json").read_bytes())
    assert manifest["packages"].keys() == {step.name for step in graph.steps}


def test_the_command_builds_and_its_check_finds_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    (tmp_path / "lokki.yml").write_text("artifact_bucket: acme-artifacts\nenvironments: {prod: {build_dir: prod}}\n")
    ran = CliRunner().invoke(
        build_command(BIRDS, "python birds.py"), ["--env", "prod", "--check"], standalone_mode=False
    )
    assert (ran.return_value, ran.output.splitlines()[-1]) == (0, "0 findings"), ran.output
    assert (tmp_path / "prod" / "build.json").is_file()


def test_a_build_lowers_the_flow_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    (tmp_path / "lokki.yml").write_text("artifact_bucket: acme-artifacts\n")
    with callers_of_lower() as callers:
        ran = CliRunner().invoke(build_command(BIRDS, "python birds.py"), ["--check"], standalone_mode=False)
    assert (ran.return_value, callers) == (0, ["compile_flow"]), ran.output
    with callers_of_lower() as callers:
        Builder(lambda line: None, cache=cache).build(BIRDS, replace(ZIP, build_dir=str(tmp_path / "other")))
    assert callers == ["compile_flow"]


def test_each_limit_that_a_build_exceeds_is_a_finding(installed: Installation) -> None:
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    assert list(exceeded_limits(compile_flow(BIRDS, ZIP), bundle)) == []
    large = replace(
        bundle, files={**bundle.files, "statemachine.json": b" " * 1_048_577, "template.yaml": b" " * 1_048_577}
    )
    assert list(exceeded_limits(compile_flow(BIRDS, ZIP), large)) == [
        "statemachine.json: has 1,048,577 bytes, AWS takes 1,048,576; split the flow",
        "template.yaml: has 1,048,577 bytes, AWS takes 1,048,576; split the flow",
    ]
    heavy = replace(
        bundle.packages[0], vendored=replace(installed.select(), files={"x": InstalledFile("00", 262_144_000)})
    )
    assert list(exceeded_limits(compile_flow(BIRDS, ZIP), replace(bundle, packages=(heavy,)))) == [
        "lambdas/get_birds.zip: has 250.0 MiB unzipped, Lambda takes 250 MiB; require less"
    ]
    full = replace(ZIP, lambda_env={"TEXT": "x" * 4040})
    assert list(exceeded_limits(compile_flow(BIRDS, full), bundle)) == [
        f"template.yaml: the variables of {step.name}() have 4123 bytes, Lambda takes 4096" for step in BIRDS.steps
    ]
    long = replace(bundle, flow="b" * 81)
    found = list(exceeded_limits(compile_flow(BIRDS, ZIP), long))
    assert found[0] == f"template.yaml: the state machine's name {'b' * 81!r} is longer than 80 characters"
    assert all("is longer than 64 characters" in line for line in found[1:])


def test_a_map_whose_tries_may_take_longer_than_express_is_a_finding(installed: Installation) -> None:
    graph = BUILDS["inner-chain"].graph
    config = replace(ZIP, execution_type="EXPRESS", lambda_defaults=LambdaDefaultsConfig(timeout=100))
    bundle = assemble(compile_flow(graph, config), contents(installed, "inner-chain"))
    [line] = exceeded_limits(compile_flow(graph, config), bundle)
    assert re.fullmatch(
        r"statemachine\.json: an item of the map over fetch\(\) may take \d+ s with all tries, but an EXPRESS "
        r"execution ends after 300; shorten timeouts or retries, or remove execution_type",
        line,
    )


@pytest.mark.slow
def test_what_cfn_lint_finds_is_a_finding(installed: Installation, tmp_path: Path) -> None:
    bundle = assemble(compile_flow(BIRDS, ZIP), contents(installed))
    write_bundle(bundle, tmp_path / "out")
    assert check_build(compile_flow(BIRDS, ZIP), bundle, tmp_path / "out") == ([], [])
    template = tmp_path / "out" / "template.yaml"
    template.write_text(template.read_text().replace("MemorySize: 512", "MemorySize: 12"))
    findings, notes = check_build(compile_flow(BIRDS, ZIP), bundle, tmp_path / "out")
    assert notes == []
    assert any("E3034" in line or "12 is less than the minimum" in line for line in findings)
