"""A stand-in for Lambda's Python base image, made of this machine's Python 3.13 and awslambdaric, without a registry.

What it has in common with AWS's (https://docs.aws.amazon.com/lambda/latest/dg/python-image.html): a shell, Python in
/var/lang, the runtime in /var/runtime, code in /var/task, the variables that say so, and the entrypoint's name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lokki.builder.lambda_pkg import BASE_IMAGE
from lokki.builder.requirements.uv import Uv

_PROGRAMS = ("sh", "cat", "chmod", "cp", "env", "ls", "mkdir", "mv", "rm", "true")
_LIBRARIES = (
    "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2", "libpthread.so.0",
    "libresolv.so.2", "librt.so.1", "libstdc++.so.6", "libutil.so.1",
)  # fmt: skip
"""What wheels may expect of a system. https://peps.python.org/pep-0513/#the-manylinux1-policy"""

_NOT_OF_PYTHON = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "site-packages", "config-*", "__pycache__"
)

_ENTRYPOINT = """#!/bin/sh
export PYTHONPATH="$LAMBDA_RUNTIME_DIR"
exec /var/lang/bin/python -m awslambdaric "$@"
"""

_DOCKERFILE = """FROM scratch
COPY root /
ENV PATH=/var/lang/bin:/usr/bin:/bin LD_LIBRARY_PATH=/var/lang/lib LANG=en_US.UTF-8
ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime SSL_CERT_FILE=/etc/ssl/ca.pem PIP_CERT=/etc/ssl/ca.pem
WORKDIR /var/task
ENTRYPOINT ["/lambda-entrypoint.sh"]
"""


@dataclass(frozen=True)
class Buildah:
    """Buildah without an engine and without a registry, its images in a folder of its own."""

    folder: Path

    def run(self, *arguments: str) -> str:
        """Run a command and return what it prints."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """Return the whole command line."""
        storage = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]
        return ["buildah", *storage, "--storage-driver", "overlay", *arguments]

    def build(self, folder: Path, tag: str, *options: str) -> None:
        """Build the Dockerfile of a folder."""
        self.run("bud", "--quiet", "--isolation", "chroot", "--pull-never", *options, "--tag", tag, str(folder))

    def start_command(self, image: str) -> list[str]:
        """Return what a container of the image runs, as the image says: buildah itself ignores that."""
        config = json.loads(self.run("inspect", "--type", "image", image))["OCIv1"]["config"]
        command: list[str] = [*config["Entrypoint"], *config["Cmd"]]
        return command

    def running(self, image: str, environ: Mapping[str, str]) -> list[str]:
        """Return the command that runs a new container of the image."""
        container = self.run("from", "--pull-never", image).strip()
        variables = [option for name, value in environ.items() for option in ("--env", f"{name}={value}")]
        return self.command("run", "--isolation", "chroot", *variables, container, "--", *self.start_command(image))

    def clean(self) -> None:
        """Unmount what containers that were killed have left, so that the folder can be removed."""
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((path for path in mounts if Path(path).is_relative_to(self.folder)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)


@contextmanager
def buildah_with_base(folder: Path) -> Iterator[Buildah]:
    """Yield a Buildah in a folder that has the base image and nothing else."""
    assert shutil.which("buildah"), "install it: apt-get install --no-install-recommends buildah"
    buildah = Buildah(folder / "images")
    make_base_image(buildah, folder / "base")
    try:
        yield buildah
    finally:
        buildah.clean()


def make_base_image(buildah: Buildah, folder: Path) -> None:
    """Build the base image and give it the name of AWS's."""
    root = folder / "root"
    _copy_python(root)
    programs = [shutil.which(name) or "" for name in _PROGRAMS]
    for program in programs:
        _put(Path(program), root / "usr" / "bin" / Path(program).name)
    (root / "bin").symlink_to("usr/bin")
    extensions = (root / "var" / "lang" / "lib").rglob("*.so*")
    for library in sorted(_libraries([*map(Path, programs), Path(sys.executable), *extensions])):
        _put(library, root / library.relative_to("/"))
    certificates = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    _put(Path(certificates or ""), root / "etc" / "ssl" / "ca.pem")
    for name in ("passwd", "group", "nsswitch.conf"):
        _put(Path("/etc") / name, root / "etc" / name)
    for place in ("var/task", "tmp", "root"):
        (root / place).mkdir(parents=True, exist_ok=True)
    Uv(os.environ).run(
        ["pip", "install", "-q", "--python", sys.executable, "--target", str(root / "var" / "runtime"), "awslambdaric"],
        folder,
        "installing the runtime",
    )
    entrypoint = root / "lambda-entrypoint.sh"
    entrypoint.write_text(_ENTRYPOINT)
    entrypoint.chmod(0o755)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    buildah.build(folder, BASE_IMAGE)


def _copy_python(root: Path) -> None:
    """Copy Python, with pip and nothing else that is installed."""
    lang, prefix = root / "var" / "lang", Path(sys.base_prefix)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, lang / "lib" / library.name, ignore=_NOT_OF_PYTHON)
    packages = lang / "lib" / library.name / "site-packages"
    for pip in (library / "site-packages").glob("pip*"):
        shutil.copytree(pip, packages / pip.name)
    for shared in prefix.glob("lib/libpython3*.so*"):
        _put(shared, lang / "lib" / shared.name)
    _put(Path(os.path.realpath(sys.executable)), lang / "bin" / library.name)
    for alias in ("python", "python3"):
        (lang / "bin" / alias).symlink_to(library.name)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """Return the shared libraries of the system that programs and extensions need, and their loader."""
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)}
    places = {path.parent for path in found}
    found |= {place / name for place in places for name in _LIBRARIES if (place / name).exists()}
    return {path for path in found if not path.is_relative_to(sys.base_prefix)}


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
