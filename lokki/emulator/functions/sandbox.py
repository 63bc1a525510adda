"""What a function's process sees of this machine: its package, Lambda's Python and little else.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html and
https://docs.aws.amazon.com/lambda/latest/dg/python-image.html: Amazon Linux 2023 in its minimal form
(https://docs.aws.amazon.com/linux/al2023/ug/minimal-container.html), read-only but for /tmp, and without /dev/shm.

Where Linux lets a user have a root of their own, a `NamespaceSandbox` shows exactly that. Elsewhere a `SharedSandbox`
hides what variables can hide.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lokki.errors import EmulatorError

_TASK_ROOT = "/var/task"
_RUNTIME_ROOT = "/var/runtime"
_LANGUAGE_ROOT = "/var/lang"

_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_OPTIONS = ("-I", "-S", "-B", "-X", "utf8")
_PROGRAMS = Path(__file__).parent
_BOOTSTRAP, _ENTER = _PROGRAMS / "bootstrap.py", _PROGRAMS / "enter_sandbox.py"
_HIDING = _PROGRAMS / "hiding"

_COMMANDS = (
    "[", "awk", "base32", "base64", "basename", "bash", "cat", "chmod", "chown", "cksum", "comm", "cp", "csplit",
    "curl", "cut", "date", "dd", "df", "dirname", "du", "echo", "egrep", "env", "expand", "expr", "factor", "false",
    "fgrep", "fmt", "fold", "gawk", "getent", "grep", "groups", "head", "hostid", "iconv", "id", "install", "join",
    "ldd", "link", "ln", "locale", "logname", "ls", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "mv", "nice",
    "nl", "nohup", "nproc", "numfmt", "od", "paste", "pathchk", "pr", "printenv", "printf", "pwd", "readlink",
    "realpath", "rm", "rmdir", "sed", "seq", "sh", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum",
    "shred", "shuf", "sleep", "sort", "split", "stat", "stdbuf", "stty", "sum", "sync", "tac", "tail", "tee", "test",
    "timeout", "touch", "tr", "true", "truncate", "tsort", "tty", "uname", "unexpand", "uniq", "unlink", "users",
    "vdir", "wc", "who", "whoami", "yes",
)  # fmt: skip
"""The programs of the minimal image: bash, coreutils, curl, gawk, glibc, grep and sed; neither tar nor git."""

_DEVICES = ("full", "null", "random", "urandom", "zero")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_TRUSTED = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/share/zoneinfo")
_LIBRARY_PATH = (
    f"{_LANGUAGE_ROOT}/lib:/lib64:/usr/lib64:{_RUNTIME_ROOT}:{_RUNTIME_ROOT}/lib:{_TASK_ROOT}:{_TASK_ROOT}/lib:/opt/lib"
)
_USERS = """root:x:0:0:root:/root:/bin/bash
sbx_user1051:x:993:990::/home/sbx_user1051:/sbin/nologin
"""


class Sandbox(Protocol):
    """Where functions' processes run, and what they see there."""

    @property
    def problem(self) -> str:
        """Why they see more than Lambda's would, or ""."""

    def command(self, code: Path, disk: int, space: int, handler: str) -> Sequence[str]:
        """Return the command line of a function's process.

        ``disk``: MB of /tmp; ``space``: most bytes of address space.
        """

    def variables(self, code: Path, temporary: Path) -> Mapping[str, str]:
        """Return the variables that tell a process where it is.

        ``temporary``: a folder of its own. https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
        """


def make_sandbox(folder: Path, shared: Sequence[Path] = ()) -> Sandbox:
    """Make the strictest sandbox that this machine lets a user have.

    * ``folder``: where it is made; it must not exist.
    * ``shared``: folders that functions see, and may write to, besides.

    Raises EmulatorError if boto3 or the runtime client is not installed.
    """
    folder.mkdir()
    sandbox = NamespaceSandbox.create(folder / "root", shared)
    problem = sandbox.problem_entering(folder)
    return sandbox if not problem else SharedSandbox.create(folder / "shared", problem)


@dataclass(frozen=True, slots=True)
class NamespaceSandbox:
    """A root of its own for each process.

    ``mounts``: kind, source and target of what is in all of them; kind ``w`` is writable, ``r`` is not.
    """

    root: Path
    mounts: tuple[tuple[str, str, str], ...]
    problem: str = ""

    @classmethod
    def create(cls, root: Path, shared: Sequence[Path]) -> NamespaceSandbox:
        """Make the folder that becomes the root."""
        for name in ("dev", "etc", "home", "opt", "proc", "tmp", "usr/bin", "var/lang/bin", "var/runtime", "var/task"):
            (root / name).mkdir(parents=True)
        (root / "bin").symlink_to("usr/bin")
        (root / "etc/passwd").write_text(_USERS)
        (root / "etc/group").write_text("root:x:0:\nsbx_user1051:x:990:\n")
        (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (root / "var/lang/bin/python3").symlink_to(_PYTHON)
        mounts = (*_system(root), *_python(root), *_runtime(), *(("w", str(path), str(path)) for path in shared))
        return cls(root, tuple(mounts))

    def problem_entering(self, folder: Path) -> str:
        """Try to go in once, and return why that fails, or ""."""
        if not hasattr(os, "unshare"):
            return "this is not Linux"
        # Tried, not looked up: kernels, containers and AppArmor forbid namespaces in ways that no file tells.
        command = (*self._entering(folder, 1), f"{_LANGUAGE_ROOT}/bin/{_PYTHON}", "-I", "-S", "-c", "pass")
        environment = {"LD_LIBRARY_PATH": _LIBRARY_PATH}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1] if done.returncode else ""

    def command(self, code: Path, disk: int, space: int, handler: str) -> Sequence[str]:
        """Return the program that goes in and becomes Lambda's Python."""
        inside = (
            f"{_LANGUAGE_ROOT}/bin/{_PYTHON}",
            *_OPTIONS,
            f"{_RUNTIME_ROOT}/{_BOOTSTRAP.name}",
            _RUNTIME_ROOT,
            str(space),
            handler,
        )
        return (*self._entering(code, disk), *inside)

    def variables(self, code: Path, temporary: Path) -> Mapping[str, str]:
        """Return Lambda's own."""
        return {
            "LAMBDA_TASK_ROOT": _TASK_ROOT,
            "LAMBDA_RUNTIME_DIR": _RUNTIME_ROOT,
            "LD_LIBRARY_PATH": _LIBRARY_PATH,
            "PATH": f"{_LANGUAGE_ROOT}/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "PYTHONPATH": _RUNTIME_ROOT,
        }

    def _entering(self, code: Path, disk: int) -> Sequence[str]:
        mounts = (("r", str(code), _TASK_ROOT), *self.mounts)
        lines = "\n".join("\t".join(mount) for mount in mounts)
        return (sys.executable, *_OPTIONS, str(_ENTER), str(self.root), str(disk * 2**20), lines)


@dataclass(frozen=True, slots=True)
class SharedSandbox:
    """The machine itself, less what variables can hide of it.

    ``folder`` has a Python of its own, without any package.
    """

    folder: Path
    problem: str

    @classmethod
    def create(cls, folder: Path, problem: str) -> SharedSandbox:
        """Make the folder."""
        (folder / "lang/bin").mkdir(parents=True)
        (folder / "lang/lib" / _PYTHON / "site-packages").mkdir(parents=True)
        (folder / "lang/pyvenv.cfg").write_text(f"home = {_executable().parent}\n")
        for name in (_PYTHON, "python3"):
            (folder / "lang/bin" / name).symlink_to(_executable())
        (folder / "runtime").mkdir()
        for _, source, target in _runtime():
            (folder / "runtime" / Path(target).name).symlink_to(source)
        return cls(folder, problem)

    def command(self, code: Path, disk: int, space: int, handler: str) -> Sequence[str]:
        """Return the program that the Python without packages runs."""
        runtime = self.folder / "runtime"
        python = self.folder / "lang/bin" / _PYTHON
        return (str(python), *_OPTIONS, str(_BOOTSTRAP), str(runtime), str(space), handler, str(_HIDING))

    def variables(self, code: Path, temporary: Path) -> Mapping[str, str]:
        """Return Lambda's, as far as they can be true here."""
        return {
            # A home that is not there and cannot be made, not even by root.
            "HOME": "/dev/null/sbx_user1051",
            "LAMBDA_TASK_ROOT": str(code),
            "LAMBDA_RUNTIME_DIR": str(self.folder / "runtime"),
            "PATH": f"{self.folder / 'lang/bin'}:/usr/bin:/bin",
            "PYTHONPATH": f"{_HIDING}:{self.folder / 'runtime'}",
            "TMPDIR": str(temporary),
        }


def _system(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the mounts of this machine's system.

    They are libraries, a few programs, devices and certificates.
    """
    for name in _LIBRARIES:
        if os.path.islink(name):  # noqa: PTH114 - as on Amazon Linux, /lib is /usr/lib on most machines
            (root / name[1:]).symlink_to(f"usr{name}")
        elif os.path.isdir(name):  # noqa: PTH112
            yield ("r", name, name)
    for name in _COMMANDS:
        path = next((Path(folder, name) for folder in ("/usr/bin", "/bin") if Path(folder, name).exists()), None)
        if path is not None:
            yield ("r", str(path.resolve()), f"/usr/bin/{name}")
    for name in _DEVICES:
        yield ("w", f"/dev/{name}", f"/dev/{name}")
    yield ("w", "/proc", "/proc")
    for name in (*_TRUSTED, "/etc/ld.so.cache", "/etc/resolv.conf"):
        if Path(name).exists():
            yield ("r", str(Path(name).resolve()) if Path(name).is_file() else name, name)


def _python(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the mounts of this Python, where Lambda has its own.

    The packages that are installed in it are left out.
    """
    base, library = Path(sys.base_prefix).resolve(), f"{_LANGUAGE_ROOT}/lib/{_PYTHON}"
    yield ("r", str(_executable()), f"{_LANGUAGE_ROOT}/bin/{_PYTHON}")
    if base == Path("/usr"):
        yield ("r", sysconfig.get_path("stdlib"), library)
    else:
        yield ("r", str(base / "lib"), f"{_LANGUAGE_ROOT}/lib")
    empty = root.with_name("no-packages")
    empty.mkdir()
    if (Path(sysconfig.get_path("stdlib")) / "site-packages").is_dir():
        yield ("r", str(empty), f"{library}/site-packages")


def _executable() -> Path:
    """Return this Python itself, not an environment's link to it."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _runtime() -> Iterator[tuple[str, str, str]]:
    """Yield the mounts of the runtime client, boto3 and what they require.

    Lambda's Python has them beside its library. The versions are those that are installed here.
    https://docs.aws.amazon.com/lambda/latest/dg/lambda-python.html
    """
    yield ("r", str(_BOOTSTRAP), f"{_RUNTIME_ROOT}/{_BOOTSTRAP.name}")
    pending, names = ["awslambdaric", "boto3"], set[str]()
    while pending:
        name = pending.pop()
        if name in names:
            continue
        names.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise EmulatorError(f"the emulator needs {name}: install lokki with its extra, lokki[emulator].") from None
        tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
        for top in sorted(tops):
            if not top.endswith((".dist-info", ".pth")):  # .pth files would run code of this environment's
                yield ("r", str(distribution.locate_file(top)), f"{_RUNTIME_ROOT}/{top}")
        requirements = (line for line in distribution.requires or () if "extra ==" not in line)
        pending += (re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements)
