"""Emulated runs, by the real command, read in Python and replayed as local ones are."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.command import Place
from support.damage import DAMAGES

from lokki import local
from lokki.cli.reporting import replay_commands
from lokki.emulator.run_files import HISTORY
from lokki.emulator.s3.client import S3Server
from lokki.errors import EmulatorError, LokkiError
from lokki.local_run.checksums import CHECKSUMS
from lokki.results.flow_results import FlowResults, Items, Run
from lokki.ui.app import make_app
from lokki.ui.folder import FolderRuns

pytestmark = pytest.mark.slow
"""The command emulates two runs first, which takes nine seconds."""

PROGRAM = """
import os
from dataclasses import dataclass
from lokki import flow, main, step

WINGED = False  # a wing of duck's is put on by mending the step: no file of this machine is seen by an emulated one

@dataclass
class Bird:
    name: str
    weight: int = 1

@step
def get_birds(names: list[str]) -> list[Bird]:
    return [Bird(name) for name in names]

@step
def feed_bird(bird: Bird, **extra: int) -> Bird:
    return Bird(bird.name, bird.weight + 1)

@step
def flap_bird(bird: Bird, wings: str) -> str:
    assert isinstance(bird, Bird), type(bird)
    wing = bird.name.upper()
    if bird.name == "duck" and not (WINGED or os.path.exists(wings)):
        raise ValueError(f"no wing on {wing}")
    print("flapping")
    return f"flappy {bird.name} of {bird.weight}"

@step
def join_birds(birds: list[str]) -> str:
    return ", ".join(birds)

@flow
def birds_flow(wings: str, names: list[str] = ["goose", "duck", "swan"]):
    fed = get_birds(names).map(feed_bird(**{"a -> b": 1, ") -> c = d(": 2}))
    return fed.next(flap_bird(wings=wings)).agg(join_birds)

if __name__ == "__main__":
    main(birds_flow)
"""

FLAPPED = ["flappy goose of 2", "flappy duck of 2", "flappy swan of 2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder with runs: failed, redriven and finished ones that were emulated, and a local one."""
    made = Place(tmp_path_factory.mktemp("birds"))
    made.write("birds_emulated.py", PROGRAM)
    wings = made.folder / "wings"
    for run_id in ("failed", "redriven"):
        assert emulate(made, "--run-id", run_id, "--wings", str(wings)) == (1, "")
    made.write("birds_emulated.py", PROGRAM.replace("WINGED = False", "WINGED = True"))
    assert emulate(made, "--resume", "redriven") == (0, f"{', '.join(FLAPPED)}\n")
    assert emulate(made, "--run-id", "finished", "--wings", str(wings)) == (0, f"{', '.join(FLAPPED)}\n")
    assert made.run("birds_emulated.py", "run", "--run-id", "here", "--wings", str(wings), "--quiet").code == 0
    made.write("birds_emulated.py", PROGRAM)
    return made


def emulate(place: Place, *arguments: str) -> tuple[int, str]:
    """Emulate the items one after the other, so that it is known which one fails first."""
    done = place.run("birds_emulated.py", "emulate", "--workers", "1", "--quiet", *arguments)
    return done.code, done.out


def results(place: Place) -> FlowResults:
    return local("birds-flow", place.folder / ".lokki", file=place.folder / "birds_emulated.py")


def items(run: Run, step_id: str) -> Items:
    found = run.step(step_id)
    assert isinstance(found, Items)
    return found


def described(birds: Items) -> list[tuple[str, object]]:
    return [(type(bird).__module__, vars(bird)) for bird in birds]


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(LokkiError) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}"


def test_the_pages_of_emulated_runs_are_those_of_local_ones(place: Place) -> None:
    source = FolderRuns(place.folder / ".lokki", lambda command, run: f"python birds.py {command}", replay_commands)
    pages = TestClient(make_app([source], "", lambda text: text.replace(f"{place.folder}/", "")))

    def read(address: str) -> str:
        return re.sub(r"<[^>]*>", "", pages.get(address).text)

    listed = read("/?flow=birds-flow&status=failed")
    assert ("failed" in listed, "emulated" in listed, "redriven" in listed) == (True, True, False)
    line = PROGRAM.split("raise ValueError")[0].count("\n") + 1
    for address, texts in {
        "": (
            "emulated on this machine",
            f"ValueError in flap_bird at birds_emulated.py:{line}",
            "emulate --resume failed",
        ),
        "/failed": ("1 item", "flap_bird[1]", "ValueError: no wing on DUCK"),
        "/item?step=flap_bird&item=1": (
            f"ValueError: no wing on DUCK at birds_emulated.py:{line}",
            "item: Bird(name=&#39;duck&#39;, weight=1)",
            "replay failed --step flap_bird --item 1",
            f"File &#34;birds_emulated.py&#34;, line {line}, in flap_bird",
        ),
        "/log?step=flap_bird&item=0": ("flapping",),
    }.items():
        page = read(f"/runs/here/failed{address}")
        assert [text for text in texts if text not in page] == [], page
    assert "redriven finished" in read("/runs/here/redriven")


@pytest.mark.parametrize("run_id", ["finished", "redriven", "here"])
def test_a_finished_run_has_what_each_step_returned(place: Place, run_id: str) -> None:
    run = results(place).run(run_id)
    assert (run.status, run.emulated) == ("finished", run_id != "here")
    assert run.result() == run.step("join_birds") == ", ".join(FLAPPED)
    assert run.params == {"wings": str(place.folder / "wings"), "names": ["goose", "duck", "swan"]}
    assert run.steps == ["get_birds", "feed_bird", "flap_bird", "join_birds"]
    assert described(items(run, "get_birds")) == [
        ("birds_emulated", {"name": name, "weight": 1}) for name in ("goose", "duck", "swan")
    ]
    assert list(items(run, "flap_bird")) == FLAPPED
    assert items(run, "flap_bird").failures() == {}


def test_a_failed_run_has_what_it_finished_and_why_items_failed(place: Place) -> None:
    run = results(place).run("failed")
    assert repr(run) == "<emulated run failed of birds-flow: failed>"
    assert error_of(run.result).startswith(
        "RunError: the run failed has no result; it is failed: item 1 failed in the map"
    )
    flapped = items(run, "flap_bird")
    assert flapped[0] == "flappy goose of 2"
    [(index, failure)] = flapped.failures().items()
    assert (index, failure.error, failure.message) == (1, "ValueError", "no wing on DUCK")
    assert error_of(lambda: flapped[2]) == (
        "StoreError: item 2 of get_birds() has no result: the run did not finish it."
    )
    assert described(items(run, "feed_bird")[:2]) == [
        ("birds_emulated", {"name": name, "weight": 2}) for name in ("goose", "duck")
    ]
    assert error_of(lambda: run.step("join_birds")) == (
        "StoreError: the run failed has no result of join_birds(): it did not get that far, or failed."
    )


def test_the_log_has_what_was_printed_and_what_failed(place: Place) -> None:
    lines = results(place).run("failed").logs()
    assert [(line.step, line.item, line.text) for line in lines] == [
        ("flap_bird", (0,), "flapping"),
        ("flap_bird", (1,), "failed: ValueError: no wing on DUCK"),
    ]


def test_runs_of_both_kinds_are_listed(place: Place) -> None:
    found = results(place).runs()
    assert [(run.id, run.emulated) for run in found] == [
        ("here", False), ("finished", True), ("redriven", True), ("failed", True),
    ]  # fmt: skip
    shown = found._repr_html_()
    assert "<td>here</td><td>finished</td>" in shown
    assert "<td>finished</td><td>finished (emulated)</td>" in shown
    listed = place.run("birds_emulated.py", "runs").out.splitlines()
    assert [line.split()[0] for line in listed] == ["RUN", "here", "finished", "redriven", "failed"]
    assert error_of(lambda: local("fish-flow", place.folder / ".lokki").run("failed")) == (
        "RunFolderError: the run 'failed' is one of birds-flow (emulated), not of fish-flow."
    )


def replay(place: Place, *arguments: str, stdin: str = "") -> tuple[int, str, list[str]]:
    done = place.run("birds_emulated.py", "replay", *arguments, stdin=stdin)
    return done.code, done.out, done.err.splitlines()


def test_a_failed_item_fails_again_and_others_give_what_they_gave(place: Place) -> None:
    code, out, told = replay(place, "failed", "--step", "flap_bird", "--item", "1")
    assert (code, out) == (1, "")
    assert told[0] == "flap_bird() runs again on item 1 as in failed"
    assert told[-2:] == [
        "ValueError: no wing on DUCK",
        "error: flap_bird() raised ValueError: no wing on DUCK at birds_emulated.py:26",
    ]
    for run_id in ("failed", "redriven", "finished"):
        assert replay(place, run_id, "--step", "flap_bird", "--item", "0") == (
            0, "flapping\nflappy goose of 2\n", [f"flap_bird() runs again on item 0 as in {run_id}"],
        )  # fmt: skip
    assert replay(place, "finished", "--step", "join_birds") == (
        0, f"{', '.join(FLAPPED)}\n", ["join_birds() runs again as in finished"],
    )  # fmt: skip


def test_an_item_that_the_run_did_not_get_to_is_computed_from_its_beginning(place: Place) -> None:
    assert replay(place, "failed", "--step", "flap_bird", "--item", "2") == (
        0,
        "flapping\nflappy swan of 2\n",
        [
            "feed_bird() runs again on item 2: the run does not keep what it returned",
            "flap_bird() runs again on item 2 as in failed",
        ],
    )


def test_the_debugger_opens_at_the_failed_items_line(place: Place) -> None:
    arguments = ("failed", "--step", "flap_bird", "--item", "1", "--pdb")
    code, out, _ = replay(place, *arguments, stdin="p wing, bird\nq\n")
    assert code == 1
    assert "(Pdb) ('DUCK', Bird(name='duck', weight=2))\n" in out


def test_reading_needs_nothing_of_the_extra(place: Place) -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(('moto', 'awslambdaric', 'jsonata', 'werkzeug')); import lokki; "
        "print(lokki.local('birds-flow').run('finished').result())"
    )
    assert place.run("-c", program).out == f"{', '.join(FLAPPED)}\n"


def test_what_a_killed_run_left_is_read_up_to_a_line_cut_short(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder / ".lokki", tmp_path / ".lokki")
    history = tmp_path / ".lokki/runs/finished" / HISTORY
    (history.parent / CHECKSUMS).unlink()  # written when a run ends
    history.write_bytes(history.read_bytes()[:-5])
    run = local("birds-flow", tmp_path / ".lokki").run("finished")
    assert run.result() == ", ".join(FLAPPED)
    history.unlink()
    assert error_of(run.result).startswith("StoreError: the history of the run cannot be read: ")
    shutil.rmtree(history.parent / "objects")
    assert "is not kept in" in error_of(lambda: run.step("get_birds"))
    (history.parent / "statemachine.json").write_text("{")
    again = local("birds-flow", tmp_path / ".lokki").run("finished")
    assert error_of(lambda: again.steps).startswith("StoreError: the run finished keeps no state machine that can be")


# --- what was in S3 ---


def test_objects_are_kept_by_key_where_a_file_can_have_that_name(tmp_path: Path) -> None:
    with S3Server("my-artifacts", objects=tmp_path / "objects") as s3:
        for key in ("bird", "bird/wing", "größe/ä %20.gz"):
            s3.write("my-artifacts", key, key.encode())
        s3.write("my-artifacts", "bird", b"duck")
    found = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in found.items()} == {
        "objects/bird": "duck",
        "objects/größe/ä %20.gz": "größe/ä %20.gz",
    }


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (None, EmulatorError, "what was in S3 cannot be saved: .*/proc/nowhere"),
        (LookupError("goose"), LookupError, "goose"),
    ],
)
def test_objects_that_cannot_be_kept_are_said_but_hide_no_other_error(
    raised: Exception | None, seen: type[Exception], message: str
) -> None:
    def use() -> None:
        with S3Server("my-artifacts", objects=Path("/proc/nowhere")) as s3:
            s3.write("my-artifacts", "bird", b"duck")
            if raised is not None:
                raise raised

    with pytest.raises(seen, match=message):
        use()


def answers(run: Callable[[], Run]) -> dict[str, object]:
    """Return what each step of a finished run gave, and its result, or the errors."""
    found: dict[str, object] = {}
    for name in ("get_birds", "flap_bird", "join_birds", "result"):
        try:
            value = run().result() if name == "result" else run().step(name)
            found[name] = [str(each) for each in value] if isinstance(value, Items) else value
        except LokkiError as error:
            found[name] = "error" if "\n" not in str(error) else str(error)
    return found


def test_a_damaged_file_of_an_emulated_run_gives_the_right_value_or_one_line(place: Place, tmp_path: Path) -> None:
    original = place.folder / ".lokki" / "runs" / "finished"
    expected = answers(lambda: results(place).run("finished"))
    assert "error" not in expected.values()
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file() and path.stat().st_size)
    others = sorted(path for path in (original.parent / "redriven").rglob("*") if path.is_file())
    damaged = 0
    for seed in range(150):
        chance = random.Random(seed)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        shutil.copytree(original, tmp_path / "runs" / "finished")
        file = chance.choice(files)
        done = chance.choice(DAMAGES)(chance, tmp_path / "runs" / "finished" / file, others)
        flow = local("birds-flow", tmp_path, file=place.folder / "birds_emulated.py")
        for name, value in answers(lambda flow=flow: flow.run("finished")).items():  # type: ignore[misc]
            assert value in (expected[name], "error"), f"seed {seed}: {file} {done}"
            damaged += value == "error"
    assert damaged > 20


def test_an_emulated_run_is_its_owners_alone(place: Place) -> None:
    paths = [place.folder / ".lokki", *(place.folder / ".lokki" / "runs").rglob("*")]
    assert len(paths) > 30
    assert [str(path) for path in paths if path.stat().st_mode & 0o077] == []


def test_a_damaged_run_is_not_redriven(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder, tmp_path / "copy")
    copy = Place(tmp_path / "copy")
    [manifest] = (copy.folder / ".lokki/runs/failed/objects").rglob("map_manifest.json")
    manifest.write_bytes(manifest.read_bytes().replace(b'"index":0', b'"index":7'))
    done = copy.run("birds_emulated.py", "emulate", "--quiet", "--resume", "failed")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: ") or "map_manifest.json is damaged" in done.err
    assert "map_manifest.json is damaged: it was changed" in done.err
