"""Which files beside modules are packed, and what is said of others."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.builder.packages.data_files import Base, FileChoice, Selection, path_matches
from lokki.builder.packages.sensitive import is_named_like_secret
from lokki.errors import LokkiError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def included(folder: Path, *patterns: str) -> tuple[list[str], list[str]]:
    """Return the files that patterns come to, and the notes, or the one error."""
    chosen = Selection()
    try:
        FileChoice((), (folder.resolve(),), frozenset()).include(patterns, [Base(folder)], chosen)
        files = sorted(chosen.read(250 * 2**20))
    except LokkiError as error:
        return [], [str(error)]
    return files, list(chosen.notes)


def test_the_examples_in_the_errors_of_include_work_as_written(folder: Path) -> None:
    write(folder, {"data/a.csv": "", "data/deep/b.csv": "", "c.sql": "", "sql/deep/d.sql": ""})
    [error] = included(folder, "nothing/*.csv")[1]
    examples = re.findall(r"such as (\S+) or (\S+)\.$", error)
    assert examples == [("data/*.csv", "**/*.sql")]
    assert included(folder, *examples[0])[0] == ["c.sql", "data/a.csv", "sql/deep/d.sql"]


SECRETS = [
    ".env", ".env.prod", "prod.env", "key.pem", "server.key", "id_rsa", "id_ed25519", "store.p12", "store.pfx", "a.jks",
    "passwords.kdbx", "terraform.tfstate", "terraform.tfstate.backup", "prod.tfvars", ".netrc", "_netrc", ".pypirc",
    ".npmrc", ".git-credentials", "credentials", "credentials.json", "my-credentials.json", "service-account.json",
    "service_account_prod.json", "client_secret_1.json", "secrets.yml", "kubeconfig", "CREDENTIALS.JSON", "Prod.PEM",
    ".aws/credentials", "sub/.ssh/id", "sub/.kube/config", "sub/prod.env",
]  # fmt: skip


def test_secrets_are_packed_only_where_they_are_named_and_the_build_says_so(folder: Path) -> None:
    write(folder, {"plain.txt": "", "secrets.py": "", "sub/a": "", **dict.fromkeys(SECRETS, "")})
    files, notes = included(folder, "*", "**/*", "sub")
    assert files == ["plain.txt", "secrets.py", "sub/a"]
    assert "credentials looks like a secret, so it is not packed; to pack it, name it in include" in notes
    visible = [secret for secret in SECRETS if not any(part.startswith(".") for part in secret.split("/"))]
    assert notes[-1] == f"{len(visible) - 8} more files are not packed, for such reasons"
    files, notes = included(folder, *SECRETS)
    assert files == sorted(SECRETS)
    assert sorted(notes) == [f"{secret} looks like a secret; it is packed since include names it" for secret in files]
    [error] = included(folder, "s*.env")[1]
    assert error.startswith("include: 's*.env' matches no file")
    [error] = included(folder, "sub/*.env")[1]
    assert error == (
        "include: 'sub/*.env' matches nothing but sub/prod.env, which looks like a secret: such files are packed only "
        "where include names each by its path."
    )


def test_private_keys_are_known_by_what_is_in_them(folder: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc"
    write(folder, {"data/deploy": key, "data/cloud.json": json.dumps({"k": key}), "data/a": ""})
    files, notes = included(folder, "data")
    assert files == ["data/a"]
    assert sorted(notes) == [
        f"data/{name} has a private key in it, so it is not packed; to pack it, name it in include"
        for name in ("cloud.json", "deploy")
    ]
    assert included(folder, "data/deploy") == (
        ["data/deploy"],
        ["data/deploy has a private key in it; it is packed since include names it"],
    )


def test_links_are_followed_within_the_project_and_out_of_it_only_where_they_are_named(folder: Path) -> None:
    write(folder, {"data/a.csv": "", "../shared/answer.txt": "", "../shared/deep/b.txt": ""})
    (folder / "inside").symlink_to("data")
    (folder / "data/c.csv").symlink_to("a.csv")
    (folder / "outside").symlink_to("../shared")
    (folder / "data/answer.csv").symlink_to("../../shared/answer.txt")
    (folder.parent / "shared/further").symlink_to(Path(__file__).parent)
    (folder.parent / "shared/again").symlink_to("deep")
    taken = "is a link out of the project, to ../shared; it is packed since include names it"
    left = "is a link out of the project, to {}, so it is not packed; to pack it, name it in include"
    assert included(folder, "inside/*.csv")[0] == ["inside/a.csv", "inside/c.csv"]
    assert included(folder, "*.csv") == (
        ["data/a.csv", "data/c.csv", "inside/a.csv", "inside/c.csv"],
        [
            f"outside {left.format('../shared')}",
            f"data/answer.csv {left.format('../../shared/answer.txt')}",
            f"inside/answer.csv {left.format('../../shared/answer.txt')}",
        ],
    )
    deep = ["outside/again/b.txt", "outside/answer.txt", "outside/deep/b.txt"]
    further = f"outside/further {left.format(Path(__file__).parent)}"
    assert included(folder, "outside") == (deep, [f"outside {taken}", further])
    assert included(folder, "outside/*.txt") == (["outside/answer.txt"], [f"outside {taken}"])
    assert included(folder, "data/answer.csv")[0] == ["data/answer.csv"]
    [error] = included(folder, "o*/*.txt")[1]
    assert error == (
        "include: 'o*/*.txt' matches nothing but outside, which is a link out of the project, to ../shared: such files "
        "are packed only where include names each by its path."
    )


def test_what_is_no_file_is_said_in_a_line_each(folder: Path) -> None:
    write(folder, {"data/a.csv": "", "data/sub/b.csv": ""})
    os.mkfifo(folder / "data" / "pipe")
    (folder / "data" / "broken").symlink_to("nowhere")
    (folder / "data" / "self").symlink_to("self")
    (folder / "data" / "up").symlink_to("../data")
    (folder / "data" / os.fsdecode(b"\xff.csv")).touch()
    bind = "import socket; socket.socket(socket.AF_UNIX).bind('socket')"  # there, since such paths must be short
    subprocess.run([sys.executable, "-c", bind], cwd=folder / "data", check=True)
    files, notes = included(folder, "data")
    assert files == ["data/a.csv", "data/sub/b.csv"]
    said = {
        "data/pipe": "is a pipe and not a file",
        "data/broken": "is a link to nowhere, where nothing is",
        "data/self": "cannot be read: Too many levels of symbolic links",
        "data/up": "is a link to a folder that it is in",
        r"'data/\udcff.csv'": "has a name that is not UTF-8",
    }
    for path, reason in said.items():
        assert any(note == f"{path} {reason}, so it is not packed" for note in notes), (path, notes)
    [error] = included(folder, "data/pipe")[1]
    assert error == "include: data/pipe is a pipe and not a file. Correct include in lokki.yml."
    [error] = included(folder, "data/so*")[1]
    assert error == (
        "include: 'data/so*' matches nothing but data/socket, which is a socket and not a file: remove that, or "
        "correct the pattern in lokki.yml."
    )


def test_odd_names_are_packed_as_they_are(folder: Path) -> None:
    names = ["data/new\nline", "data/${AWS::Region}", "data/a:b*?[x]", "data/-rf", "data/back\\slash", "data/trail. "]
    write(folder, {**dict.fromkeys(names, "")})
    assert included(folder, "data")[0] == sorted(names)
    for name in names:
        assert included(folder, name)[0] == [name]
    assert included(folder, ".")[0] == included(folder, "./")[0] == included(folder, "**")[0] == sorted(names)


def test_what_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    write(folder, {"data/small.csv": "a"})
    with (folder / "data/large.bin").open("wb") as file:
        file.truncate(10 * 2**40)
    [error] = included(folder, "data")[1]
    assert error.splitlines() == [
        "the data files of the packages have 10485760.0 MiB; Lambda takes 250 MiB. The largest are:",
        "  10485760.0 MiB  data/large.bin",
        "        0.0 MiB  data/small.csv",
        "Exclude in lokki.yml what the flow does not read, or let it read that from S3.",
    ]


NAMES = st.sampled_from(
    ["a", "b.csv", ".env", "key.pem", "tests", ".hidden", "c d", "é", "x\ny", "[z]", "\udcff", "b*"]
)
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["file", "file", "key", "folder", "pipe", "link"])
TARGETS = st.sampled_from([".", "..", "../..", "a", "b.csv", "nowhere", "../../outside", "../outside", "/dev/zero"])
PATTERNS = st.lists(NAMES | st.sampled_from(["*", "**", "*.csv", "?", "..", "[ab]*"]), min_size=1, max_size=3).map(
    "/".join
)


def make(folder: Path, place: str, kind: str, target: str) -> None:
    path = folder / place
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():  # writing to a pipe would wait for ever
            return
        match kind:
            case "file" | "key":
                path.write_text("-----BEGIN PRIVATE KEY-----" if kind == "key" else "text")
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to(target)
    except OSError:  # something that is no folder is on the way
        pass


@given(
    st.lists(st.tuples(PLACES, KINDS, TARGETS), max_size=12),
    st.lists(st.sampled_from(["*", "**", "*.csv", "a", "b.csv", "tests"]) | PATTERNS, min_size=1, max_size=2),
    st.lists(PATTERNS, max_size=1),
)
@settings(max_examples=150)
def test_whatever_is_in_a_folder_only_plain_files_of_it_are_packed_and_secrets_and_links_out_only_by_name(
    places: list[tuple[str, str, str]], patterns: list[str], exclude: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "deep" / "deeper" / "project"  # since links lead up two folders
        for above in (folder, folder.parent / "outside"):
            above.mkdir(parents=True)
            (above / "secret.txt").write_text("text")
        for place, kind, target in places:
            make(folder, place, kind, target)
        chosen = Selection()
        try:
            FileChoice(tuple(exclude), (folder,), frozenset()).include(patterns, [Base(folder)], chosen)
            contents, said = chosen.read(2**20), chosen.notes
        except LokkiError as error:
            contents, said = {}, (str(error),)
        for path, content in contents.items():
            assert (folder / path).is_file()
            assert path.encode()
            assert not path_matches(path, exclude)
            if path not in patterns:
                assert not is_named_like_secret(path)
                assert b"PRIVATE KEY" not in content
                plain = {part for pattern in patterns for part in pattern.split("/")}
                inside = (folder / path).resolve().is_relative_to(folder)
                assert inside or any(part in plain and (folder / part).exists() for part in path.split("/"))
        assert all("\n" not in line for line in said)
