"""The files in the folder of one run, each checked when it is read.

Every name in a run's folder is decided here, or in `lokki.store.keys` where the object has the same name on S3. In the
order in which they are written: the record, the lock, the log; for each step its result or its items, then its outcome,
last of all; for a map block its parts (`lokki.local_run.journal`), then the outcome of the block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from isal import isal_zlib

from lokki.base.values import Inline, Json, JsonField, Ref, ref_from_reply
from lokki.engine.regrouping import Group
from lokki.errors import DamagedError, StoreError, damaged
from lokki.local_run.journal import Parts
from lokki.local_run.seal import Seal
from lokki.local_run.written_items import WrittenItems
from lokki.store import codec
from lokki.store.keys import Keys, describe_place
from lokki.store.local import LocalStore

RECORD = "run.json"
"""What is known of the run: `lokki.local_run.runs.RunRecord`."""

LOCK = "lock"
"""Held while the run is in progress."""

LOG = "events.jsonl"
"""Every event of the run, what steps printed and logged among them."""

CHECKSUMS = "checksums.json"
"""Of an emulated run: the checksums of its other files."""

_OUTCOME = "output.json"
_GROUPS = "groups.json"
_MAP_OUTCOME = "map_results/manifest.json"

_CHUNK = 2**20
_AGAIN = "Run the step that writes it again."

type StepOutcome = dict[str, Json]
"""What is written of a step that runs once and has ended: a reference to its result, or what is known of its items."""


class MapOutcome(msgspec.Struct, frozen=True):
    """What became of the items of a map block that has ended."""

    items: int
    succeeded: int
    failed: int


class RunFolder:
    """The files of one run.

    `lokki.local_run.runs.Runs.folder_of` makes it. What is read raises StoreError where it is not what lokki wrote.
    """

    def __init__(self, runs: Path, store: LocalStore, seal: Seal) -> None:
        self.run_id = seal.run_id
        self.keys = Keys(seal.run_id)
        self.path = runs.absolute() / seal.run_id  # steps may change the working directory
        self._runs = runs
        self._store = store
        self._seal = seal

    def outcome_path(self, step_id: str) -> Path:
        """Return where the outcome of a step that runs once is."""
        return self.path / step_id / _OUTCOME

    def map_outcome_path(self, source_id: str) -> Path:
        """Return where the outcome of a map block is."""
        return self.path / source_id / _MAP_OUTCOME

    def outcome(self, step_id: str) -> StepOutcome | None:
        """Return the outcome of a step that runs once, or None until it has ended."""
        return self._read(f"{step_id}/{_OUTCOME}")

    def write_outcome(self, step_id: str, outcome: bytes) -> None:
        """Write the outcome of a step.

        Last of all: where there is an outcome, everything that it names is whole.
        """
        self._write(f"{step_id}/{_OUTCOME}", outcome)

    def write_items_outcome(self, step_id: str, written: WrittenItems, value: Mapping[str, Json]) -> None:
        """Write the outcome of the source of a map block.

        ``value``: the reference to its result, where that is read as one value, too.
        """
        outcome = {
            **value,
            "items": written.count,
            "map_manifest_key": self.keys.map_manifest(step_id),
            "manifest_crc32": written.manifest_crc32,
            "pack_bytes": written.pack_bytes,
        }
        self.write_outcome(step_id, msgspec.json.encode(outcome))

    def output(self, step_id: str) -> Path:
        """Return where the result of a step is that has a file of its own."""
        return self.path.parent / self.keys.output(step_id)

    def result(self, step_id: str, load: Callable[[Ref], object] | None = None) -> object:
        """Load the result of a step that runs once.

        ``load``: loads the value of a reference, by default `RunFolder.load`.
        """
        return (load or self.load)(ref_from_reply(self._existing_outcome(step_id)))

    def map_outcome(self, source_id: str) -> MapOutcome | None:
        """Return the outcome of a map block, or None until it has ended."""
        key = f"{source_id}/{_MAP_OUTCOME}"
        outcome = self._read(key)
        try:
            return None if outcome is None else msgspec.convert(outcome, MapOutcome)
        except msgspec.ValidationError as error:
            raise damaged(f"{self.path / key} is damaged: {error}", _AGAIN) from None

    def failed_items(self, source_id: str) -> int:
        """Return how many items of a map block failed, 0 until it has ended."""
        outcome = self.map_outcome(source_id)
        return 0 if outcome is None else outcome.failed

    def write_map_outcome(self, source_id: str, outcome: MapOutcome) -> None:
        """Write the outcome of a map block, after which its results are final."""
        self._write(f"{source_id}/{_MAP_OUTCOME}", msgspec.json.encode(outcome))

    def forget_outcome(self, step_id: str) -> None:
        """Remove the outcome of a step, so that it runs again."""
        _remove(self.outcome_path(step_id))

    def forget_map_outcome(self, source_id: str) -> None:
        """Remove the outcome of a map block, so that it runs its unfinished items."""
        _remove(self.map_outcome_path(source_id))

    def groups(self, call_id: str) -> list[Group] | None:
        """Return what a call made that regroups items, in the order of the items.

        None before it has.
        """
        key = f"{call_id}/{_GROUPS}"
        content = self._read(key)
        try:
            return None if content is None else msgspec.convert(content.get("groups"), list[Group])
        except msgspec.ValidationError as error:
            raise damaged(f"{self.path / key} is damaged: {error}", _AGAIN) from None

    def write_groups(self, call_id: str, groups: list[Group]) -> None:
        """Write what a call made that regroups items."""
        self._write(f"{call_id}/{_GROUPS}", msgspec.json.encode({"groups": groups}))

    def forget_items(self, call_id: str) -> None:
        """Remove the items that a call regrouped, and its outcome before them."""
        for path in (self.outcome_path(call_id), self.manifest(call_id), self.pack(call_id)):
            _remove(path)

    def forget_groups(self, call_id: str) -> None:
        """Remove it, so that what follows runs anew."""
        _remove(self.path / call_id / _GROUPS)

    def parts(self, source_id: str) -> Parts:
        """Return where the results of a map block are."""
        return Parts(self.map_outcome_path(source_id).parent, self._seal)

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
            raise damaged(f"{self.outcome_path(source_id)} names no items", _AGAIN)
        return items

    def check_items(self, source_id: str) -> None:
        """Raise StoreError unless all items of a map block are there."""
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
        """Load the value that a reference stands for.

        ``modules``: as `lokki.store.codec.loads` has it.
        """
        if isinstance(ref, Inline):
            return ref.result
        return codec.loads(self._store.read(ref), url=describe_place(ref), modules=modules, crc32=ref.crc32)

    @contextmanager
    def reading(self, step_id: str, *, resumable: bool = False) -> Iterator[None]:
        """Let errors about damaged files say which step to run again.

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
            problem = error.damage.replace("local:///", f"{self._runs}/")
            command = "" if resumable else f"run --resume {self.run_id} --from {step_id}"
            advice = f"{step_id}() runs again when the run is resumed."
            if command:
                advice = f"Run {step_id}() again, and what follows it: {command}"
            located = DamagedError(f"{problem}. {advice}")
            located.step, located.command = step_id, command
            raise located from error

    def _existing_outcome(self, step_id: str) -> StepOutcome:
        outcome = self.outcome(step_id)
        if outcome is None:
            raise damaged(f"{self.outcome_path(step_id)} is not there any more", _AGAIN)
        return outcome

    def _read(self, key: str) -> StepOutcome | None:
        path = self.path / key
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise damaged(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
        content = self._seal.open(key, text, str(path))
        try:
            outcome: StepOutcome = msgspec.json.decode(content, type=dict[str, JsonField])
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise damaged(f"{path} is damaged: {error}", _AGAIN) from None
        outcome.pop("checksum", None)
        return outcome

    def _write(self, key: str, outcome: bytes) -> None:
        # Not waiting for the disk: what a power cut leaves of it is noticed by its checksum, and the step runs again.
        self._store.write_soon(f"{self.run_id}/{key}", [self._seal.close(key, outcome)])


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
