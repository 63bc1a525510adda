"""The folder of an emulation and its processes: nothing is left, however the emulation ends."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.emulated_project import Project, make_project
from test_emulator_functions import alive, wait_until_dead
from test_emulator_run import command

from lokki.emulator.scratch import PREFIX, Scratch, Secret, remove_abandoned, temporary_files_in

PROGRAM = """
    import os, subprocess, sys, time
    sys.path[:0] = {path!r}
    from pathlib import Path
    from lokki.emulator.scratch import Scratch, Secret
    secret = Secret.new()
    with Scratch(secret, Path({parent!r})) as scratch:
        (scratch.folder / "code").mkdir()
        # As a step's program may: a session of its own, so that no signal to a group reaches it.
        function = dict(os.environ, AWS_SESSION_TOKEN=secret.token)
        child = subprocess.Popen(["sleep", "600"], env=function, start_new_session=True)
        installer = dict(os.environ, TMPDIR=str(scratch.folder))
        other = subprocess.Popen(["sleep", "600"], env=installer, start_new_session=True)
        [reaper] = Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()[:1]
        print(child.pid, other.pid, reaper, flush=True)
        time.sleep(600 if len(sys.argv) > 1 else 0)
"""


def emulator(parent: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that has a scratch folder and two processes; it prints their ids, and the reaper's."""
    program = textwrap.dedent(PROGRAM).format(path=sys.path, parent=str(parent))
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def pids(running: subprocess.Popen[str]) -> list[int]:
    assert running.stdout is not None
    return [int(word) for word in running.stdout.readline().split()]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_a_killed_emulator_leaves_neither_folder_nor_process(
    tmp_path: Path, number: signal.Signals, to: Callable[[int, int], None]
) -> None:
    with emulator(tmp_path, "wait") as running:
        started = pids(running)
        assert [path.name[: len(PREFIX)] for path in tmp_path.iterdir()] == [PREFIX]
        to(running.pid, number)
    wait_until_dead(*started)
    assert list(tmp_path.iterdir()) == []


def test_an_emulator_that_ends_leaves_nothing(tmp_path: Path) -> None:
    with emulator(tmp_path) as running:
        started = pids(running)
    assert (running.returncode, list(tmp_path.iterdir())) == (0, [])
    assert len(started) == 3
    wait_until_dead(*started)


def test_an_emulator_whose_reaper_was_killed_removes_its_folder_itself(tmp_path: Path) -> None:
    secret = Secret.new()
    with Scratch(secret, tmp_path) as scratch:
        assert scratch.folder.stat().st_mode & 0o777 == 0o700
        wait_until(lambda: bool(processes_in(scratch.folder)))
        [reaper] = processes_in(scratch.folder)
        os.kill(reaper, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_the_next_emulation_removes_what_was_killed_with_its_reaper_and_nothing_else(tmp_path: Path) -> None:
    with emulator(tmp_path, "wait") as killed:
        *children, reaper = pids(killed)
        os.kill(reaper, signal.SIGKILL)
        killed.kill()
    for child in children:
        os.kill(child, signal.SIGKILL)
    [abandoned] = tmp_path.iterdir()
    (tmp_path / "lokki-emulator.txt").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    with Scratch(Secret.new(), tmp_path) as living:
        assert abandoned.exists(), "it may be about to be locked"
        old = time.time() - 3600
        for folder in (abandoned, living.folder):
            os.utime(folder, (old, old))
        remove_abandoned(tmp_path)
        assert not abandoned.exists()
        assert living.folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{PREFIX}link", "lokki-emulator.txt"]


@pytest.mark.parametrize("variable", [None, "/var/tmp"])
def test_temporary_files_go_into_the_folder_and_then_where_they_went_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("TMPDIR", variable)
    before = tempfile.gettempdir()
    with temporary_files_in(tmp_path):
        assert (tempfile.gettempdir(), os.environ["TMPDIR"]) == (str(tmp_path), str(tmp_path))
    assert (tempfile.gettempdir(), os.environ.get("TMPDIR")) == (before, variable)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("scratch"))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_at_whatever_moment_the_command_is_killed_nothing_is_left(
    project: Project, tmp_path: Path, seconds: float, number: signal.Signals
) -> None:
    with command(project, tmp_path, "hanging") as running:
        time.sleep(seconds)
        running.send_signal(number)
        running.communicate(timeout=30)
    wait_until(lambda: not processes_in(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {".lokki"}


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose temporary files would be in a folder, or whose command line names it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and alive(int(path.name)):
            found.append(int(path.name))
    return found
