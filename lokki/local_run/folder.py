"""The files in the folder of one run, each checked when it is read.

Every name in a run's folder is decided here, or in `lokki.store.keys` where the object has the same name on S3. In the
order in which they are written: the record, the lock, the log; for each step its result or its items, then its outcome,
last of all, into the journal of outcomes; for a map block its parts (`lokki.local_run.journal`), then the outcome of
the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lokki.base.values import Inline, Json, JsonField, Ref, ref_from_reply
from lokki.engine.regrouping import Group
from lokki.errors import DamagedError, StoreError, damaged
from lokki.local_run.journal import Parts
from lokki.local_run.outcomes import OutcomeJournal, StepOutcome, remove_whatever
from lokki.local_run.seal import Seal
from lokki.local_run.written_items import WrittenItems
from lokki.plans.operations import MAP
from lokki.store import codec
from lokki.store.keys import Keys, describe_place
from lokki.store.local import LocalStore, flush_directory

RECORD = "run.json"
"""What is known of the run: `lokki.local_run.runs.RunRecord`."""

LOCK = "lock"
"""Held while the run is in progress."""

LOG = "events.jsonl"
"""Every event of the run, what steps printed and logged among them."""

CHECKSUMS = "checksums.json"
"""Of an emulated run: the checksums of its other files."""

OUTCOMES = "outcomes.jsonl"
"""The outcomes of steps and map blocks: `lokki.local_run.outcomes`."""

_GROUPS = "groups.json"
_PARTS = "map_results"
_OLD_OUTCOME = "output.json"
_OLD_MAP_OUTCOME = f"{_PARTS}/manifest.json"

_CHUNK = 2**20
_AGAIN = "Run the step that writes it again."


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
        self._outcomes = OutcomeJournal(self.path / OUTCOMES, seal.start(OUTCOMES))

    @property
    def outcomes_path(self) -> Path:
        """Return where the outcomes of steps and map blocks are."""
        return self._outcomes.path

    def outcome(self, step_id: str) -> StepOutcome | None:
        """Return the outcome of a step that runs once, or None until it has ended."""
        return self._outcome(step_id, f"{step_id}/{_OLD_OUTCOME}")

    def write_outcome(self, step_id: str, outcome: bytes) -> None:
        """Write the outcome of a step.

        Last of all: where there is an outcome, everything that it names is whole.
        """
        self._outcomes.add(step_id, outcome)

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
        outcome = self._outcome(source_id + MAP, f"{source_id}/{_OLD_MAP_OUTCOME}")
        try:
            return None if outcome is None else msgspec.convert(outcome, MapOutcome)
        except msgspec.ValidationError as error:
            raise damaged(f"{self.outcomes_path} is damaged: {error}", _AGAIN) from None

    def failed_items(self, source_id: str) -> int:
        """Return how many items of a map block failed, 0 until it has ended."""
        outcome = self.map_outcome(source_id)
        return 0 if outcome is None else outcome.failed

    def write_map_outcome(self, source_id: str, outcome: MapOutcome) -> None:
        """Write the outcome of a map block, after which its results are final."""
        self._outcomes.add(source_id + MAP, msgspec.json.encode(outcome))

    def forget_outcome(self, step_id: str) -> None:
        """Forget the outcome of a step, so that it runs again."""
        self._forget(step_id, f"{step_id}/{_OLD_OUTCOME}")

    def forget_map_outcome(self, source_id: str) -> None:
        """Forget the outcome of a map block, so that it runs its unfinished items."""
        self._forget(source_id + MAP, f"{source_id}/{_OLD_MAP_OUTCOME}")

    def flush(self) -> None:
        """Force all outcomes to disk.

        Raises OSError where the disk did not take them.
        """
        self._outcomes.flush()

    def remove_results(self, step_id: str) -> None:
        """Remove all that a step gave, and the results of the map block over it."""
        self.forget_outcome(step_id)
        self.forget_map_outcome(step_id)
        self._remove_folder(self.path / step_id)

    def remove_map_results(self, source_id: str) -> None:
        """Remove the results of a map block."""
        self.forget_map_outcome(source_id)
        self._remove_folder(self.parts(source_id).folder)

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
        key = f"{call_id}/{_GROUPS}"
        self._store.write(f"{self.run_id}/{key}", [self._seal.close(key, msgspec.json.encode({"groups": groups}))])

    def forget_items(self, call_id: str) -> None:
        """Remove the items that a call regrouped, and its outcome before them."""
        self.forget_outcome(call_id)
        for path in (self.manifest(call_id), self.pack(call_id)):
            remove_whatever(path)

    def forget_groups(self, call_id: str) -> None:
        """Remove it, so that what follows runs anew."""
        remove_whatever(self.path / call_id / _GROUPS)

    def parts(self, source_id: str) -> Parts:
        """Return where the results of a map block are."""
        return Parts(self.path / source_id / _PARTS, self._seal)

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
            raise damaged(f"{self.outcomes_path} names no items of {source_id}()", _AGAIN)
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

    def lost_outcome(self, step_id: str, advice: str = _AGAIN) -> StoreError:
        """Return the error for an outcome that was there and is not any more."""
        return damaged(f"{self.outcomes_path} has no outcome of {step_id} any more", advice)

    def lost_case(self, step_id: str) -> StoreError:
        """Return the error for the step of a switch whose outcome names no case."""
        return damaged(f"{self.outcomes_path} names no case that {step_id}() chose", _AGAIN)

    def _existing_outcome(self, step_id: str) -> StepOutcome:
        outcome = self.outcome(step_id)
        if outcome is None:
            raise self.lost_outcome(step_id)
        return outcome

    def _outcome(self, name: str, older: str) -> StepOutcome | None:
        """Return the outcome of a step or map block.

        ``older``: the file that a run has it in which lokki made before there was a journal.
        """
        try:
            found = self._outcomes.find(name)
        except OSError as error:
            raise damaged(f"{self.outcomes_path} cannot be read: {error.strerror}", _AGAIN) from error
        return self._read(older) if found is None else found[0]

    def _forget(self, name: str, older: str) -> None:
        try:
            if self._outcome(name, older) is None:
                return
        except StoreError:
            pass  # nobody can tell what it says
        self._outcomes.forget(name)

    def _remove_folder(self, folder: Path) -> None:
        if folder.exists():
            remove_whatever(folder)
            flush_directory(folder.parent)

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


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = codec.checksum_of(chunk, checksum)
    return checksum
