"""Emulated runs as results are read.

Nothing of the emulator's extra is needed.
"""

from __future__ import annotations

from collections.abc import Buffer, Iterable, Iterator
from pathlib import Path

import msgspec

from lokki.base.naming import LARGER_SUFFIX
from lokki.base.values import Json, Stored
from lokki.emulator.run_files import DEFINITION, HISTORY, OBJECTS
from lokki.errors import StoreError
from lokki.local_run.checksums import Checksums, read_checksums
from lokki.local_run.runs import RunRecord, Runs
from lokki.results.items import LogLine
from lokki.results.log import log_lines
from lokki.results.modules import OwnModule
from lokki.results.remote import RemoteRun, has_results
from lokki.store.keys import describe_place
from lokki.store.local import LocalStore

_SCHEME = "s3://"


def emulated_run(runs: Runs, flow: str, record: RunRecord, file: Path | None) -> RemoteRun:
    """Return what an emulated run of a flow keeps.

    ``file``: the flow's, for values of classes that it defines.
    """
    folder = runs.folder / record.run_id
    modules = OwnModule.of_package(file) if file is not None else None
    checksums = read_checksums(folder, record.seal)
    objects, history = KeptObjects(folder / OBJECTS, checksums), KeptHistory(folder, checksums)
    return RemoteRun(objects, history, flow, record.run_id, modules)


class KeptObjects:
    """A store of what was in S3 in a run, by key.

    It holds the one bucket that there was, whatever its name.
    """

    def __init__(self, folder: Path, checksums: Checksums) -> None:
        self._folder = folder
        self._files = LocalStore(folder)
        self._checksums = checksums

    def url(self, key: str) -> str:
        """Return a URL for a key."""
        return f"{_SCHEME}{OBJECTS}/{key}"

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Refuse to change a run that has ended."""
        raise StoreError(f"{key} cannot be written: the objects of an emulated run are only read.")

    def read(self, place: Stored) -> Buffer:
        """Return the bytes of an object, or of a range of it."""
        bucket, _, key = place.result_url.removeprefix(_SCHEME).partition("/")
        if not (place.result_url.startswith(_SCHEME) and bucket and key):
            raise StoreError(f"{place.result_url} is no URL of an object in S3.")
        try:
            content = self._files.read(Stored(self._files.url(key), place.range))
        except StoreError as error:
            raise StoreError(f"{describe_place(place)} is not kept in {self._folder}: {error}") from error.__cause__
        if place.range is None:  # a value in a pack has a checksum where it is named
            self._checksums.check(f"{OBJECTS}/{key}", content)
        return content

    def read_many(self, places: Iterable[Stored]) -> Iterator[Buffer]:
        """Yield the bytes of each place."""
        return map(self.read, places)


class _Event(msgspec.Struct, frozen=True):
    """What counts here of a history event.

    `HistoryEvent.to_json` writes it.
    """

    type: str
    state: str
    child: dict[str, object] | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    map_run: str = msgspec.field(default="", name="mapRunArn")


class KeptHistory:
    """What the history of one emulated run says of its execution."""

    def __init__(self, folder: Path, checksums: Checksums) -> None:
        self._folder = folder
        self._checksums = checksums

    def definition(self, run_id: str) -> Json:
        """Return the state machine's definition as the run has it."""
        try:
            content = (self._folder / DEFINITION).read_bytes()
            self._checksums.check(DEFINITION, content)
            definition: Json = msgspec.json.decode(content)
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise StoreError(f"the run {run_id} keeps no state machine that can be read: {error}.") from None
        return definition

    def output(self, run_id: str, state: str) -> Json:
        """Return what a state of the run itself gave.

        That is the reply of a task's function, and the output of another state; None when there is none. States of a
        map's children are not looked at.

        For a map that failed or ends a branch: ``{"results_manifest_key": key}`` of what its Map Run wrote.
        """
        map_run = last = ""
        output: msgspec.Raw | None = None
        replied = False
        for event in self._events():  # of several of a kind, the last counts: the run was redriven
            if event.state in (state, f"{state}{LARGER_SUFFIX}") and event.child is None:
                # One that is left after a failure goes on in the larger function, and has no output of its own.
                if event.type == "TaskSucceeded":  # at the end of a branch, the state's output is the branch's
                    output, replied = event.output, True
                elif event.type.endswith("StateExited") and last not in ("TaskFailed", "TaskTimedOut") and not replied:
                    output = event.output
                last = event.type
                map_run = event.map_run or map_run
        content: Json = None if output is None else msgspec.json.decode(output)
        if map_run and not has_results(content):
            return self._written(run_id, map_run.rpartition(":")[2])
        return content

    def logs(self, run_id: str) -> Iterator[LogLine]:
        """Yield what the functions logged in the run, in order of time."""
        return log_lines(self._folder)

    def _written(self, run_id: str, map_run: str) -> Json:
        """Return where the results are that a Map Run wrote.

        One that fails writes them too, one that is stopped does not.
        """
        objects = self._folder / OBJECTS
        for path in objects.glob(f"lokki/*/{run_id}/*/map_results/{map_run}/manifest.json"):
            return {"results_manifest_key": path.relative_to(objects).as_posix()}
        return None

    def _events(self) -> Iterator[_Event]:
        """Yield the events of the run.

        One that was being written when the run was killed is left out.
        """
        decode = msgspec.json.Decoder(_Event).decode
        try:
            content = (self._folder / HISTORY).read_bytes()
            self._checksums.check(HISTORY, content)
            for line in content.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield decode(line)
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"the history of the run cannot be read: {error}.") from error
