"""Damaged files of runs: whatever happens to them, every door gives the right value or one line that helps."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.damage import DAMAGES, truncate
from support.damaged_runs import KINDS, Answers, Kind, answers, copied, differences, make, recovered, resume

SALT, OTHER_SALT = 100, 250


class Originals:
    """A run of each kind, with what its doors answer; and other runs of the same names, with other values."""

    def __init__(self, folder: Path) -> None:
        self.root, self.other = folder / "runs", folder / "other"
        self.work = folder / "work"
        for kind in KINDS:
            make(self.root, kind, SALT)
            make(self.other, kind, OTHER_SALT)
        self.files = {kind.name: self._files(kind) for kind in KINDS}
        self.others = {kind.name: self._others(kind) for kind in KINDS}
        self.answers: dict[str, Answers] = {}
        self.results: dict[str, object] = {}
        for kind in KINDS:
            copied(self.root, kind, self.work)
            self.answers[kind.name] = answers(self.work, kind)
            self.results[kind.name] = resume(self.work, kind)

    def _files(self, kind: Kind) -> list[Path]:
        folder = self.root / "runs" / kind.name
        return sorted(
            path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0
        )

    def _others(self, kind: Kind) -> list[Path]:
        """Return files to swap with: of other runs, of runs of the same id elsewhere, and of this run."""
        found = [path for root in (self.other, self.root) for path in (root / "runs").rglob("*") if path.is_file()]
        # The record says which run it is: with that of a run of the same id it is that run, whose files are not there.
        namesake = self.other / "runs" / kind.name / "run.json"
        return sorted(path for path in found if path != namesake)

    def wrong(self, seed: int, damages: object = DAMAGES) -> Iterator[str]:
        """Damage a run; yield what its doors say that is neither what they said before nor of help."""
        chance = random.Random(seed)
        kind = chance.choice(KINDS)
        folder = copied(self.root, kind, self.work)
        file = chance.choice(self.files[kind.name])
        damage = chance.choice(damages)  # type: ignore[call-overload]
        done = damage(chance, folder / file, self.others[kind.name])
        case = f"seed {seed}, {kind.name}: {file} {done}"
        now = answers(self.work, kind)
        for door, before in self.answers[kind.name].items():
            for difference in differences(before, now[door], lenient=not kind.is_finished):
                if difference and door not in ("logs", "details"):
                    yield f"{case}: {door}: {difference}"
        result = recovered(self.work, kind, SALT)
        if result != self.results[kind.name]:
            yield f"{case}: recovered {result!r}"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Originals]:
    memory = Path("/dev/shm")  # where thousands of runs cost no disk
    folder = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path_factory.mktemp("damage")
    yield Originals(folder)
    shutil.rmtree(folder)


def test_runs_are_as_they_should_be_before_they_are_damaged(originals: Originals) -> None:
    assert {kind.name: type(originals.results[kind.name]) for kind in KINDS} == {
        "finished": list,
        "failed": list,
        "halfway": list,
        "stopped": list,
        "tolerated": dict,
        "plain": list,
        "ended": list,
        "nested": dict,
        "nested-stopped": dict,
    }
    for kind in KINDS:
        assert recovered(originals.other, kind, OTHER_SALT) != originals.results[kind.name]


@pytest.mark.parametrize("first", [0, 50])
def test_a_damaged_file_gives_the_right_value_or_one_line_that_helps(originals: Originals, first: int) -> None:
    assert [wrong for seed in range(first, first + 50) for wrong in originals.wrong(seed)] == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11_000, 1000))
def test_ten_thousand_damaged_files_give_no_wrong_value(originals: Originals, first: int) -> None:
    assert [wrong for seed in range(first, first + 1000) for wrong in originals.wrong(seed)] == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20_000, 24_000, 1000))
def test_four_thousand_truncated_files_give_no_wrong_value(originals: Originals, first: int) -> None:
    assert [wrong for seed in range(first, first + 1000) for wrong in originals.wrong(seed, [truncate])] == []
