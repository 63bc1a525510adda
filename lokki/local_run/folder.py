"""The files of one run: where each is, and that it is what lokki wrote there when it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec
from isal import isal_zlib

from lokki.base.values import Inline, Ref, ref_from_json
from lokki.errors import DamagedError, StoreError, damaged
from lokki.local_run.journal import Parts
from lokki.local_run.runs import RunRecord, Runs
from lokki.store import codec
from lokki.store.items import WrittenItems
from lokki.store.keys import Keys, shown

_CHUNK = 2**20
_AGAIN = "Run the step that writes it again."

type Outcome = dict[str, object]
"""What is written of a step that runs once and has ended: a reference to its result, or what is known of its items."""


class MapOutcome(msgspec.Struct, frozen=True):
    """What is written of a map block that has ended: how many items it had, and what became of them."""

    items: int
    succeeded: int
    failed: int


class RunFolder:
    """The files of one run. What is read raises StoreError where it is not what lokki wrote."""

    def __init__(self, runs: Runs, record: RunRecord) -> None:
        self.keys = Keys(record.run_id)
        self.path = runs.folder.absolute() / record.run_id  # steps may change the working directory
        self._runs = runs
        self._record = record

    def outcome_path(self, step_id: str) -> Path:
        """Return where it is written what a step that runs once handed on."""
        return self.path / step_id / "output.json"

    def map_outcome_path(self, source_id: str) -> Path:
        """Return where it is written that a map block has ended."""
        return self.path / source_id / "map_results" / "manifest.json"

    def outcome(self, step_id: str) -> Outcome | None:
        """Return what a step that runs once handed on; None while it has not ended."""
        return self._read(f"{step_id}/output.json")

    def write_outcome(self, step_id: str, outcome: bytes) -> None:
        """Write what a step handed on, last of all: where it is, everything that it names is whole."""
        self._write(f"{step_id}/output.json", outcome)

    def write_items_outcome(self, step_id: str, written: WrittenItems) -> None:
        """Write what the source of a map block handed on."""
        outcome = {
            "items": written.count,
            "map_manifest_key": self.keys.map_manifest(step_id),
            "manifest_crc32": written.manifest_crc32,
            "pack_bytes": written.pack_bytes,
        }
        self.write_outcome(step_id, msgspec.json.encode(outcome))

    def output(self, step_id: str) -> Path:
        """Return where the result of a step that runs once is, where it does not stand in its outcome."""
        return self.path.parent / self.keys.output(step_id)

    def result(self, step_id: str, load: Callable[[Ref], object] | None = None) -> object:
        """Load what a step that runs once returned; ``load``: default `RunFolder.load`."""
        return (load or self.load)(ref_from_json(self._existing_outcome(step_id)))

    def map_outcome(self, source_id: str) -> MapOutcome | None:
        """Return how many items of a map block succeeded and failed; None while it has not ended."""
        key = f"{source_id}/map_results/manifest.json"
        outcome = self._read(key)
        try:
            return None if outcome is None else msgspec.convert(outcome, MapOutcome)
        except msgspec.ValidationError as error:
            raise damaged(f"{self.path / key} is damaged: {error}", _AGAIN) from None

    def failed_items(self, source_id: str) -> int:
        """Return how many items of a finished map block failed; 0 for one that is not finished."""
        outcome = self.map_outcome(source_id)
        return 0 if outcome is None else outcome.failed

    def write_map_outcome(self, source_id: str, outcome: MapOutcome) -> None:
        """Write that a map block has ended."""
        self._write(f"{source_id}/map_results/manifest.json", msgspec.json.encode(outcome))

    def forget_outcome(self, step_id: str) -> None:
        """Remove what a step handed on, so that it runs again."""
        _remove(self.path / step_id / "output.json")

    def forget_map_outcome(self, source_id: str) -> None:
        """Remove the mark that a map block has ended, so that items without a result run again."""
        _remove(self.path / source_id / "map_results" / "manifest.json")

    def parts(self, source_id: str) -> Parts:
        """Return where the results of a map block are."""
        return Parts(self.path / source_id / "map_results", self._record.seal)

    def pack(self, source_id: str) -> Path:
        """Return where the packed items of a map block are."""
        return self.path.parent / self.keys.items(source_id)

    def manifest(self, source_id: str) -> Path:
        """Return where the list of the items of a map block is."""
        return self.path.parent / self.keys.map_manifest(source_id)

    def items(self, source_id: str) -> int:
        """Return how many items a map block has."""
        items = self._existing_outcome(source_id).get("items")
        if not isinstance(items, int):
            raise damaged(f"{self.path / source_id / 'output.json'} names no items", _AGAIN)
        return items

    def check_items(self, source_id: str) -> None:
        """Raise StoreError unless the items of a map block are there, and their list is whole."""
        outcome = self._existing_outcome(source_id)
        pack, manifest = self.pack(source_id), self.manifest(source_id)
        try:
            size = pack.stat().st_size
            checksum = _checksum(manifest)
        except OSError as error:
            raise damaged(f"{error.filename} cannot be read: {error.strerror}", _AGAIN) from error
        # The first lokki noted neither.
        if outcome.get("pack_bytes", size) != size:
            raise damaged(f"{pack} is damaged: it has {size} bytes, not {outcome['pack_bytes']}", _AGAIN)
        if outcome.get("manifest_crc32", checksum) != checksum:
            raise damaged(f"{manifest} is damaged: it was changed, or is the file of another run", _AGAIN)

    def load(self, ref: Ref, modules: Mapping[str, str] | None = None) -> object:
        """Load the value that a reference stands for; ``modules`` as `lokki.store.codec.loads` has it."""
        if isinstance(ref, Inline):
            return ref.result
        return codec.loads(self._runs.store.read(ref), url=shown(ref), modules=modules, crc32=ref.crc32)

    @contextmanager
    def reading(self, step_id: str, *, resumable: bool = False) -> Iterator[None]:
        """Let errors about damaged files say how to get what was in them: which step to run again.

        ``resumable``: whether the run forgets what is damaged, so that resuming it is enough. Raises DamagedError.
        """
        try:
            yield
        except OSError as error:
            if resumable:
                raise
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}. Start a new run.") from error
        except StoreError as error:
            if not error.damage or isinstance(error, DamagedError):
                raise
            problem = error.damage.replace("local:///", f"{self._runs.folder}/")
            command = "" if resumable else f"run --resume {self._record.run_id} --from {step_id}"
            again = f"{step_id}() runs again when the run is resumed."
            if command:
                again = f"Run {step_id}() again, and what follows it: {command}"
            described = DamagedError(f"{problem}. {again}")
            described.step, described.command = step_id, command
            raise described from error

    def _existing_outcome(self, step_id: str) -> Outcome:
        outcome = self.outcome(step_id)
        if outcome is None:
            raise damaged(f"{self.path / step_id / 'output.json'} is not there any more", _AGAIN)
        return outcome

    def _read(self, key: str) -> Outcome | None:
        path = self.path / key
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise damaged(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
        content = self._record.seal.open(key, text, str(path))
        try:
            outcome: object = msgspec.json.decode(content)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise damaged(f"{path} is damaged: {error}", _AGAIN) from None
        if not isinstance(outcome, dict):
            raise damaged(f"{path} is damaged: it is no object", _AGAIN)
        outcome.pop("checksum", None)
        return cast("Outcome", outcome)

    def _write(self, key: str, outcome: bytes) -> None:
        self._runs.store.write(f"{self._record.run_id}/{key}", [self._record.seal.close(key, outcome)])


def _remove(path: Path) -> None:
    """Remove a file, whatever stands in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = isal_zlib.crc32(chunk, checksum)
    return checksum
