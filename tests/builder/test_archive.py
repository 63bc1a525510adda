"""lokki.builder.packages.archive: zip files with equal bytes for equal content, and bytecode that Python takes."""

import hashlib
import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.builder.package_types import BuildError
from lokki.builder.packages.archive import bytecode, content_digest, digest_of, pack, write_archive

FILES = {"b/c.txt": b"text " * 99, "a.py": b"x = 1\n", "ä.bin": os.urandom(300), "empty": b"", "b/run": b"\x7fELF"}

paths = st.lists(st.text("abä.-_ ", min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(paths, st.binary(max_size=200), max_size=6)


def archive(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    write_archive(file, [pack(path, content) for path, content in files.items()])
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        return {info.filename: file.read(info) for info in file.infolist()}


@given(trees)
def test_zipfile_reads_what_was_packed(files: dict[str, bytes]) -> None:
    assert unpacked(archive(files)) == files


def test_the_order_of_the_files_does_not_matter() -> None:
    assert archive(FILES) == archive(dict(reversed(FILES.items())))


def test_entries_are_sorted_of_1980_and_have_the_modes_that_lambda_needs() -> None:
    file = io.BytesIO()
    members = [pack(path, content, executable=path == "b/run") for path, content in FILES.items()]
    write_archive(file, members)
    with zipfile.ZipFile(file) as read:
        entries = [
            (one.filename, one.date_time, one.create_system, oct(one.external_attr >> 16)) for one in read.infolist()
        ]
    date = (1980, 1, 1, 0, 0, 0)
    assert entries == [
        ("a.py", date, 3, "0o100644"),
        ("b/c.txt", date, 3, "0o100644"),
        ("b/run", date, 3, "0o100755"),
        ("empty", date, 3, "0o100644"),
        ("ä.bin", date, 3, "0o100644"),
    ]


def test_the_unzip_of_the_system_takes_it(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive(FILES))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", "a.zip", "out"], cwd=tmp_path, check=True)
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == FILES


def test_more_files_than_a_zip_holds_are_refused() -> None:
    member = pack("a", b"")
    with pytest.raises(BuildError, match=r"70,000 files; a zip file holds 65,535\. Use package_type: image\."):
        write_archive(io.BytesIO(), [member] * 70_000)


def test_the_digest_is_of_names_modes_and_content_alone() -> None:
    digest = content_digest({"a": b"1", "b": b"2"})
    assert digest == content_digest({"b": b"2", "a": b"1"})
    others = [
        content_digest({"a": b"2", "b": b"1"}),
        content_digest({"a": b"1"}),
        content_digest({"a": b"1", "c": b"2"}),
        digest_of([("a", hashlib.sha256(b"1").hexdigest(), True), ("b", hashlib.sha256(b"2").hexdigest(), False)]),
    ]
    assert len({digest, *others}) == 5


def test_python_imports_bytecode_without_its_source_being_looked_at(tmp_path: Path) -> None:
    made = bytecode("pack/age.py", b"made_from = 'the source that was packed'\n")
    assert made is not None
    path, content = made
    assert path == "pack/__pycache__/age.cpython-313.pyc"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(content)
    (tmp_path / "pack" / "age.py").write_text("made_from = 'the source in the folder'\n")
    code = "import sys; sys.path[:] = [sys.argv[1], *sys.path]; import pack.age; print(pack.age.made_from)"
    run = subprocess.run([sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout == "the source that was packed\n"


def test_what_does_not_compile_has_no_bytecode() -> None:
    assert bytecode("a.py", b"def {{ name }}(): pass") is None
    assert bytecode("a.py", b"\0") is None


@pytest.mark.parametrize("action", ["error", "always", "ignore"])
def test_bytecode_does_not_depend_on_what_is_done_about_warnings(action: str, recwarn: pytest.WarningsRecorder) -> None:
    source = b"pattern = '\\S'  # as many packages write it, of which Python warns\n"
    with warnings.catch_warnings(action="ignore"):
        expected = bytecode("a.py", source)
    assert expected is not None
    warnings.simplefilter(action)
    assert bytecode("a.py", source) == expected
    assert list(recwarn) == []


def test_bytecode_does_not_depend_on_the_hash_seed() -> None:
    source = (
        "def f(x): return x in {'a', 'b', 'c'}, {'k': 1, 'l': 2}, ('p', 'q'), frozenset({'u', 'v'}), 1e9, 10**30\n" * 20
    )
    code = (
        "import hashlib, sys; from lokki.builder.packages.archive import bytecode\n"
        "print(hashlib.sha256(bytecode('a/b.py', sys.argv[1].encode())[1]).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, source],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(outputs) == 1
