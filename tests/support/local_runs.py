"""Running flows on this machine in tests: in this process, noting its events, or in a program of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lokki.engine.events import Event
from lokki.graph import FlowGraph
from lokki.local_run.folder import OUTCOMES
from lokki.runner import Executor, LocalRunner, Resume

TESTS = Path(__file__).parent.parent
EXECUTORS: tuple[Executor, ...] = ("threads", "inline", "processes")


@dataclass
class Local:
    """A place for runs; ``events`` are those of the last run."""

    root: Path
    executor: Executor = "threads"
    workers: int | None = 2
    inline_limit: int = 4096
    keep_going: bool = False
    events: list[Event] = field(default_factory=list)
    also: Callable[[Event], None] = lambda event: None

    def run(
        self,
        graph: FlowGraph,
        params: Mapping[str, object] | None = None,
        run_id: str | None = None,
        resume: Resume | None = None,
    ) -> object:
        self.events = []

        def listen(event: Event) -> None:
            self.events.append(event)
            self.also(event)

        runner = LocalRunner(
            root=self.root,
            executor=self.executor,
            workers=self.workers,
            listener=listen,
            inline_limit=self.inline_limit,
            keep_going=self.keep_going,
        )
        return runner.run(graph, params, run_id=run_id, resume=resume)

    def resume(self, graph: FlowGraph, params: Mapping[str, object] | None = None, *, force: bool = False) -> object:
        return self.run(graph, params, resume=Resume(force=force))

    def of[E](self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def outcomes_in(run: Path) -> set[str]:
    """Return what has an outcome in a run's folder: steps, and maps as ``source.map``."""
    journal = run / OUTCOMES
    whole, _, _ = journal.read_bytes().rpartition(b"\n") if journal.exists() else (b"", b"", b"")
    latest = dict(msgspec.json.decode(line[9:]) for line in whole.splitlines())
    return {name for name, outcome in latest.items() if outcome is not None}


def drop_outcomes(run: Path, *names: str) -> None:
    """Take the lines about steps and maps out of a run's journal, as a power cut may."""
    journal = run / OUTCOMES
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if msgspec.json.decode(line[9:])[0] not in names))


@dataclass
class Program:
    """A run in a Python process, and a process group, of its own."""

    process: subprocess.Popen[bytes]
    root: Path

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        return self.process.wait(seconds)

    def kill(self, number: int, *, group: bool = False) -> None:
        try:
            (os.killpg if group else os.kill)(self.process.pid, number)
        except ProcessLookupError:
            return

    def result(self) -> object:
        """Return the result; it must be JSON."""
        assert self.process.returncode == 0, self.errors()
        return json.loads((self.root / "result.json").read_bytes())

    def errors(self) -> str:
        return (self.root / "stderr.txt").read_text()

    def members(self) -> list[int]:
        """Return the processes of its group that are alive."""
        return [pid for pid, group in groups() if group == self.process.pid]

    def wait_for_all(self) -> None:
        """Wait until its workers have ended too."""
        wait_until(lambda: not self.members())

    def close(self) -> None:
        self.kill(signal.SIGKILL, group=True)
        self.process.wait(10)


def start(root: Path, flow: str, executor: str, params: Mapping[str, object], *flags: str) -> Program:
    """Start a flow of `steps` (or ``module:flow``, or a file) in a program; its flags are `support.program`'s."""
    root.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "support.program", flow, executor, str(root), json.dumps(params), *flags]
    with (root / "stderr.txt").open("ab") as errors:
        process = subprocess.Popen(program, env=forkable(), stderr=errors, cwd=root, start_new_session=True)
    return Program(process, root)


def forkable() -> dict[str, str]:
    """Return an environment for a program that finds the tests' modules and has one thread, so that it may fork."""
    return {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OPENBLAS_NUM_THREADS": "1"}


def groups() -> list[tuple[int, int]]:
    """Return the ids of all processes that are no zombies, each with its process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found.append((int(entry.name), int(fields[2])))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def assert_clean(root: Path) -> None:
    """Assert that no run under the root left half a file: all JSON parses, and nothing temporary is left."""
    for path in (root / "runs").rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".json":
            msgspec.json.decode(path.read_bytes())
