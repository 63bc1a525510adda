"""Results of classes of the flow's own file are read by whatever runs or reads the flow, however it was started."""

from __future__ import annotations

import gzip
import json
import pickletools
import shutil
from pathlib import Path

import pytest
from support.command import Place

FLOW = """
import enum, os, sys, threading, time
from dataclasses import dataclass
from typing import NamedTuple
from lokki import flow, main, step

if os.environ.get("SPAWN"):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

@dataclass
class Bird:
    number: int

    class Egg(NamedTuple):
        number: int

class Color(enum.Enum):
    RED = 1

@step
def numbers() -> list[Bird]:
    return [Bird(1), Bird(2)]

@step
def hatch(bird: Bird) -> tuple[Bird, Bird.Egg, Color]:
    assert type(bird) is Bird
    return bird, Bird.Egg(bird.number), Color.RED

@step
def count(found: list[tuple[Bird, Bird.Egg, Color]]) -> Bird:
    if not os.path.exists("go"):
        raise ValueError("not yet")
    assert all(type(bird) is Bird and type(egg) is Bird.Egg and color is Color.RED for bird, egg, color in found)
    return Bird(sum(bird.number for bird, _, _ in found))

@step
def show(bird: Bird) -> str:
    return str(bird)

@flow
def own_flow():
    return numbers().map(hatch).agg(count).next(show)

if __name__ == "__main__":
    main(own_flow)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write("own.py", FLOW)
    return place


PROGRAMS = {"file": ("own.py", "run"), "module": ("-m", "own", "run"), "lokki": ("lokki", "run", "own.py")}


@pytest.mark.parametrize(
    ("first", "then", "executors"),
    [
        ("file", "lokki", ("threads", "processes")),
        ("lokki", "file", ("processes", "threads")),
        ("module", "file", ("inline", "inline")),
        ("file", "module", ("processes", "inline")),
    ],
)
def test_a_run_goes_on_however_it_was_started(place: Place, first: str, then: str, executors: tuple[str, str]) -> None:
    failed = place.run(*PROGRAMS[first], "--run-id", "r", "--executor", executors[0], env={"SPAWN": "1"})
    assert "ValueError: not yet" in failed.err
    place.write("go", "")
    ran = place.run(*PROGRAMS[then], "--resume", "r", "--executor", executors[1])
    assert (ran.code, ran.out) == (0, "Bird(number=3)\n"), ran.err


def modules(path: Path) -> set[object]:
    names: set[object] = set()
    content = path.read_bytes()
    for operation, argument, _ in pickletools.genops(gzip.decompress(content)):
        if operation.name == "SHORT_BINUNICODE" and argument in ("own", "__main__", "__mp_main__"):
            names.add(argument)
    return names


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_values_name_the_module_that_others_can_import(place: Place, executor: str) -> None:
    place.write("go", "")
    place.run("own.py", "run", "--run-id", "r", "--executor", executor, env={"SPAWN": "1"})
    run = place.folder / ".lokki" / "runs" / "r"
    assert modules(run / "count" / "output.pkl.gz") == {"own"}
    assert json.loads((run / "run.json").read_text())["file"] == "own.py"


READ = """
import lokki, pickle
run = lokki.local("own-flow").run("r")
print(run.step("count"), list(run.step("hatch")))
"""


def test_results_are_read_elsewhere_by_the_file_that_the_run_names(place: Place) -> None:
    place.write("go", "")
    assert place.run("own.py", "run", "--run-id", "r").code == 0
    moved = Place(place.folder / "moved")
    moved.folder.mkdir()
    shutil.move(place.folder / ".lokki", moved.folder)
    shutil.move(place.folder / "own.py", moved.folder)
    elsewhere = Place(place.folder / "elsewhere")
    elsewhere.folder.mkdir()
    elsewhere.write("read.py", READ.replace('local("own-flow")', 'local("own-flow", root="../moved/.lokki")'))
    ran = elsewhere.run("read.py")
    assert ran.out.startswith("Bird(number=3) [(Bird(number=1), Egg(number=1), <Color.RED: 1>)"), ran.err


OLD = """
import lokki.runner
from lokki.loading import name_main
lokki.runner.name_main = lambda: None
import runpy, sys
sys.argv = ["own.py", *sys.argv[1:]]
exec(compile(open("own.py").read(), "own.py", "exec"))
"""


def test_runs_that_name_the_module_main_are_read(place: Place) -> None:
    place.write("old.py", OLD)
    for executor in ("threads", "processes"):
        (place.folder / "go").unlink(missing_ok=True)
        place.run("old.py", "run", "--run-id", executor)
        assert b"__main__" in (place.folder / ".lokki" / "runs" / executor / "numbers" / "items.pkl.gz").read_bytes()
        place.write("go", "")
        ran = place.run("lokki", "run", "own.py", "--resume", executor, "--executor", executor)
        assert (ran.code, ran.out) == (0, "Bird(number=3)\n"), ran.err


def test_a_program_whose_flow_is_elsewhere_keeps_the_names_of_its_classes(place: Place) -> None:
    place.write("go", "")
    place.write(
        "program.py",
        "import sys\nfrom own import own_flow\nfrom lokki import main\nclass Mine: pass\n"
        "try:\n    main(own_flow)\nfinally:\n    print(Mine.__module__, 'program' in sys.modules)\n",
    )
    assert place.run("program.py", "run", "--quiet").out == "Bird(number=3)\n__main__ False\n"


# ---- files that hide modules of Python


@pytest.mark.parametrize("name", ["numbers", "queue"])
def test_a_file_that_hides_a_module_of_python_is_told_of(place: Place, name: str) -> None:
    place.write(f"{name}.py", FLOW)
    word = f"{name}.py hides the module {name!r} of Python: rename the file."
    for program in ((f"{name}.py", "run"), ("-m", name, "run")):
        ran = place.run(*program)
        assert (ran.code, ran.err.splitlines()[-1]) == (1, f"{'ImportError' if name == 'numbers' else 'error'}: {word}")
    ran = place.run("lokki", "run", f"{name}.py")
    assert (ran.code, ran.err.splitlines()) == (1, [f"error: {word}"])
