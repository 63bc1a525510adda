"""Images for Lambda: built and pushed by whichever program is there, into repositories of ECR as moto has it."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from aws.moto_server import Aws as Server
from support.image_program import program

from lokki.deploy.aws import Aws, connect
from lokki.deploy.images import (
    Image,
    ImageBuilder,
    Registry,
    find_builder,
    make_repository,
    missing_images,
    registry_of,
    remove_repository,
)
from lokki.errors import AwsError

_names = count(1)
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def here(aws: Server, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return connect()


def image(tag: str = "c0ffee", content: str = "c0ffee", folder: Path = Path("lambdas/flap_bird")) -> Image:
    return Image("flap_bird", f"flow{next(_names)}/flap-bird", tag, content, folder)


def step_folder(folder: Path, dockerfile: str = "FROM scratch\n") -> Path:
    (folder / "flap_bird").mkdir()
    (folder / "flap_bird" / "Dockerfile").write_text(dockerfile)
    return folder / "flap_bird"


@pytest.fixture
def registry(here: Aws) -> Registry:
    return registry_of(f"{HOST}/my-team", here)


def push(here: Aws, registry: Registry, one: Image) -> None:
    """Put an image into its repository, as a push does."""
    make_repository(here, registry, registry.prefix + one.repository)
    for tag in {one.tag, one.content}:
        here.ecr.put_image(
            repositoryName=registry.prefix + one.repository,
            imageManifest=json.dumps(
                {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"digest": f"sha256:{one.content}"}, "layers": []}
            ),
            imageTag=tag,
        )


def test_a_registry_is_read_and_must_be_in_ecr_and_in_the_region(here: Aws) -> None:
    assert registry_of(f"{HOST}/my-team", here) == Registry(HOST, "123456789012", "us-east-1", "my-team/")
    assert registry_of(HOST, here).prefix == ""
    with pytest.raises(AwsError) as caught:
        registry_of("ghcr.io/my-team", here)
    assert str(caught.value) == (
        "ecr_repo_prefix: ghcr.io is no registry in ECR, and Lambda takes images from nowhere else. It looks like "
        "123456789012.dkr.ecr.us-east-1.amazonaws.com."
    )
    with pytest.raises(AwsError) as caught:
        registry_of(f"{HOST.replace('us-east-1', 'eu-north-1')}/my-team", here)
    assert str(caught.value) == (
        "ecr_repo_prefix: 123456789012.dkr.ecr.eu-north-1.amazonaws.com is in eu-north-1 and the flow goes to us-east-1"
        "; Lambda takes images from its own region only. Give --region eu-north-1, or another registry in lokki.yml."
    )


def test_a_repository_is_made_once_scans_what_is_pushed_and_drops_what_has_no_tag(
    here: Aws, registry: Registry
) -> None:
    name = f"my-team/{image().repository}"
    assert make_repository(here, registry, name)
    assert not make_repository(here, registry, name)
    [found] = here.ecr.describe_repositories(repositoryNames=[name])["repositories"]
    assert found["imageScanningConfiguration"] == {"scanOnPush": True}
    [rule] = json.loads(here.ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])["rules"]
    assert (rule["selection"]["tagStatus"], rule["action"]) == ("untagged", {"type": "expire"})
    assert remove_repository(here, registry, name)
    assert not remove_repository(here, registry, name)


def test_only_what_is_not_there_is_built(here: Aws, registry: Registry) -> None:
    there, missing = image(), image()
    push(here, registry, there)
    assert missing_images(here, registry, [there, missing]) == [missing]


def test_a_tag_of_ones_own_for_other_code_is_refused(here: Aws, registry: Registry) -> None:
    old = image("v1", "old")
    push(here, registry, old)
    assert missing_images(here, registry, [old]) == []
    with pytest.raises(AwsError) as caught:
        missing_images(here, registry, [Image(old.step, old.repository, "v1", "new", old.folder)])
    assert str(caught.value) == (
        f"the image my-team/{old.repository}:v1 holds other code than flap_bird() has now. Give another --image-tag, "
        "or remove image_tag from lokki.yml: then each image is tagged by its content."
    )


@pytest.mark.parametrize(("name", "plain"), [("docker", ["--provenance=false"]), ("podman", []), ("buildah", [])])
def test_images_are_built_and_pushed_and_the_token_goes_through_a_pipe(
    here: Aws, registry: Registry, tmp_path: Path, name: str, plain: list[str]
) -> None:
    used = program(tmp_path / "bin", name)
    assert find_builder(used.environ) == name
    builder = ImageBuilder(name, "arm64", used.environ)
    builder.log_in(here, registry)
    one = image("v1", folder=step_folder(tmp_path))
    names = builder.build(one, registry)
    for each in names:
        builder.push(each)
    base = f"{HOST}/my-team/{one.repository}"
    login, build, *pushes = used.calls()
    assert login[:-1] == ["login", "--username", "AWS", "--password-stdin", HOST]
    assert login[-1]
    tags = ["-t", f"{base}:c0ffee", "-t", f"{base}:v1"]
    assert build == ["build", "--platform", "linux/arm64", *plain, *tags, str(one.folder)]
    assert pushes == [["push", f"{base}:c0ffee"], ["push", f"{base}:v1"]]


@pytest.mark.parametrize("variable", ["HOME", "NETRC"])
def test_an_image_that_asks_for_passwords_is_given_those_of_the_user(
    registry: Registry, tmp_path: Path, variable: str
) -> None:
    used = program(tmp_path / "bin", "podman")
    passwords = tmp_path / ".netrc"
    environ = {**used.environ, variable: str(tmp_path if variable == "HOME" else passwords)}
    one = image(folder=step_folder(tmp_path, "RUN --mount=type=secret,id=netrc uv\n"))
    plain = image(folder=step_folder(tmp_path / "bin"))
    ImageBuilder("podman", "arm64", environ).build(one, registry)
    passwords.write_text("machine acme login goose password honk\n")
    for each in (one, plain):
        ImageBuilder("podman", "arm64", environ).build(each, registry)
    secrets = ["--secret", f"id=netrc,src={passwords}"]
    assert [call[3:5] if "--secret" in call else [] for call in used.calls()] == [[], secrets, []]


def test_without_a_program_that_builds_images_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AwsError) as caught:
        find_builder({"PATH": str(tmp_path)})
    assert str(caught.value) == (
        "images cannot be built: none of docker, podman, buildah is installed. Install one, or set package_type: zip "
        "in lokki.yml."
    )


def test_what_the_program_said_is_shown_when_it_fails(registry: Registry, tmp_path: Path) -> None:
    used = program(tmp_path / "bin", "docker", fails="build")
    with pytest.raises(AwsError) as caught:
        ImageBuilder("docker", "x86_64", used.environ).build(image(folder=step_folder(tmp_path)), registry)
    assert str(caught.value) == (
        "docker could not build the image of flap_bird(); it said:\n  step 3/9 failed\n  no space left on device\n"
        "Fix that and deploy again."
    )
