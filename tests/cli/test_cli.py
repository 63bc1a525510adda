"""The command line as a user meets it: real processes, what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Place

ROOT = Path(__file__).parents[2]
EXECUTORS = ["threads", "processes", "inline"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.copy("work.py")
    return found


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place for commands that leave nothing behind."""
    found = Place(tmp_path_factory.mktemp("typed"))
    found.copy("typed.py", "work.py")
    return found


def events(place: Place, run: str = "*") -> list[dict[str, object]]:
    """Read the log of the only run, or of the one named."""
    [log] = (place.folder / ".lokki" / "runs").glob(f"{run}/events.jsonl")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


# ---- running


@pytest.mark.parametrize(
    "command", [("work.py", "run"), ("lokki", "run", "work.py"), ("lokki", "run", "work:work_flow")]
)
def test_stdout_gets_the_result_and_stderr_what_happened(place: Place, command: tuple[str, ...]) -> None:
    ran = place.run(*command)
    assert (ran.code, ran.out) == (0, '{\n  "total": 6\n}\n')
    assert ran.lines == [
        "work-flow: run RUN started",
        "numbers: 4 items in 0.00 s",
        "work: 4 items in 0.00 s",
        "total: done in 0.00 s",
        "work-flow: finished in 0.00 s",
    ]


def test_a_flow_in_a_package_runs_as_a_module_and_says_so(place: Place) -> None:
    place.write("pkg/__init__.py", "")
    place.write("pkg/names.py", "NAME = 'goose'\n")
    text = (place.folder / "work.py").read_text()
    place.write("pkg/flow.py", f"from .names import NAME\n{text}")
    place.write("bad.txt", "2")
    for program in (("-m", "pkg.flow"), ("lokki",)):
        named = ("pkg.flow",) if program == ("lokki",) else ()
        failed = place.run(*program, "run", *named, "--executor", "processes")
        again = re.search(r"resume with: (.*)\n", failed.err)
        assert again is not None
        words = ["python", "-m", "pkg.flow", "run"] if program[0] == "-m" else ["lokki", "run", "pkg.flow"]
        assert again[1].split()[:-1] == [*words, "--resume"]


def test_hints_call_the_program_as_it_was_started(place: Place) -> None:
    place.write("bad.txt", "2")
    place.write("venv/bin/x", "")
    python = place.folder / "venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    shutil.copy(Path(sys.executable).parent.parent / "pyvenv.cfg", place.folder / "venv")
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv is not None, "install it: pip install uv"
    site = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "UV_NO_PROJECT": "1"}
    for number, (typed, said) in enumerate(
        (
            ([sys.executable, "work.py"], "python work.py"),
            ([sys.executable, "-X", "utf8", "work.py"], "python -X utf8 work.py"),
            (["venv/bin/python", "work.py"], "venv/bin/python work.py"),
            ([str(python), "-m", "work"], "venv/bin/python -m work"),
            ([uv, "run", "--python", sys.executable, "work.py"], f"uv run --python {sys.executable} work.py"),
            ([uv, "run", "--python", sys.executable, "lokki"], f"uv run --python {sys.executable} lokki"),
        )
    ):
        words = ["run", "work.py"] if said.endswith("lokki") else ["run"]
        ran = subprocess.run(
            [*typed, *words, "--run-id", f"r{number}"],
            cwd=place.folder,
            env=place.environment(site),
            capture_output=True,
            text=True,
            check=False,
        )
        hint = f"fix it and resume with: {said} {' '.join(words)} --resume r{number}"
        assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, hint)


def test_the_run_id_may_be_chosen_once(place: Place) -> None:
    assert place.run("work.py", "run", "--run-id", "monday", "--quiet").err == ""
    ran = place.run("work.py", "run", "--run-id", "monday")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == ("error: there is a run 'monday' already. Resume it by --resume monday, or choose another id.\n")


# ---- usage


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["runn"], "Error: No such command 'runn'. Did you mean 'run'?"),
        (
            ["launch"],
            (
                "Error: No such command 'launch'. There are: backfill, build, clean, deploy, destroy, doctor, draw, "
                "emulate, estimate, invoke, logs, prune, redrive, replay, rollback, run, runs, show, stop, ui."
            ),
        ),
        (["run", "--quite"], "Error: No such option '--quite'. Did you mean '--quiet'?"),
        (["run", "extra"], "Error: Got unexpected extra argument (extra)"),
        (["run", "--workers", "0"], "Error: Invalid value for '--workers': 0 is not in the range x>=1."),
        (
            ["run", "--executor", "thread"],
            "Error: Invalid value for '--executor': 'thread' is not one of 'threads', 'processes', 'inline'.",
        ),
        (["run", "--force"], "Error: --force only makes sense with --resume."),
        (["run", "--from", "show"], "Error: --from only makes sense with --resume."),
        (["run", "--retry-failed"], "Error: --retry-failed only makes sense with --resume."),
        (
            ["run", "--resume", "x", "--run-id", "y"],
            "Error: --run-id names a new run; --resume goes on with an old one. Give one of them.",
        ),
        (
            ["run", "--run-id", "../up"],
            (
                "Error: '../up' cannot be a run id: give 1 to 80 ASCII letters, digits, '-' and '_', a letter or digit "
                "first (it names the execution on AWS and a folder here)."
            ),
        ),
        (["run", "--output", "."], "Error: Invalid value for '--output': File '.' is a directory."),
        (["runs", "clean"], "Error: Missing option '--keep'."),
        (["runs", "clean", "--keep", "-1"], "Error: Invalid value for '--keep': -1 is not in the range x>=0."),
    ],
)
def test_wrong_usage_is_said_with_a_suggestion(typed: Place, arguments: list[str], last: str) -> None:
    ran = typed.run("work.py", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0].startswith("Usage: python work.py ")
    assert ran.err.splitlines()[-1] == last


def test_wrong_parameters_are_said_before_anything_runs(typed: Place) -> None:
    ran = typed.run("typed.py", "run", "--ratio", "much")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        2,
        "Error: Invalid value for '--ratio': 'much' is not float (Expected `float`, got `str`)",
    )
    assert not (typed.folder / ".lokki").exists()


@pytest.mark.parametrize("command", [("work.py",), ("lokki",)])
def test_no_command_shows_the_help(typed: Place, command: tuple[str, ...]) -> None:
    ran = typed.run(*command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: ")
    assert "Commands:" in ran.err


def test_lokki_says_where_the_flow_goes(typed: Place) -> None:
    ran = typed.run("lokki", "run", "--quiet", "work.py")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        2,
        "Error: Name the flow before its options: lokki run FLOW.py --quiet …",
    )
    ran = typed.run("lokki", "run", "work.py", "--quite")
    assert (ran.code, ran.err.splitlines()) == (
        2,
        [
            "Usage: lokki run work.py [OPTIONS]",
            "Try 'lokki run work.py --help' for help.",
            "",
            "Error: No such option '--quite'. Did you mean '--quiet'?",
        ],
    )


# ---- help


def test_help_of_a_flow_without_parameters() -> None:
    ran = Place(ROOT).run("examples/birds_flow_example.py", "--help", env={"COLUMNS": "80"})
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        """\
Usage: python examples/birds_flow_example.py [OPTIONS] COMMAND [ARGS]...

  Make birds flap.

  Steps:
    get_birds
    └─▶ each item
        flap_bird
    ┌─◀ all results
    join_birds

Options:
  --version  Show the version and exit.
  --help     Show this message and exit.

Commands:
  backfill  Start the runs of past days, here or on AWS.
  build     Write Lambda packages, state machine and template.
  clean     Delete results of old runs on AWS.
  deploy    Build, show what would change on AWS, and change it.
  destroy   Remove a flow from AWS.
  doctor    Check what a deployment needs: account, bucket, permissions.
  draw      Draw a flow: as text, SVG, Mermaid or a page.
  emulate   Build, and run what was built as AWS would.
  estimate  Estimate cost, time and limits of a run on AWS.
  invoke    Run a deployed flow on AWS and print its result.
  logs      Show what a run on AWS printed and logged.
  prune     Delete old versions on AWS that nothing needs.
  redrive   Let a run on AWS go on where it failed.
  replay    Run one step of a run again, with a debugger if wanted.
  rollback  Let new runs on AWS use the version before.
  run       Run a flow on this machine and print its result.
  runs      List the runs on this machine, the latest first.
  show      Show the runs on AWS, or all of one run.
  stop      Stop a run on AWS.
  ui        Watch runs in the browser: a page on this machine.

  Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""
    )


def test_help_of_a_flow_with_parameters(typed: Place) -> None:
    ran = typed.run("typed.py", "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.partition("\nOptions:")[0] == (
        """\
Usage: python typed.py [OPTIONS] COMMAND [ARGS]...

  Take one of everything.

  In it:
    * lists and
    * layout stay as they are

  Parameters:
    count: int (required)
    ratio: float (default: 0.5)
    name: str (default: goose)
    day: date (default: 2026-01-01)
    at: datetime (default: 2026-01-01T12:30:00)
    clock: time (default: 09:30:00)
    wait: timedelta (default: PT300S)
    path: Path (default: data)
    dry: bool (default: false)
    color: Color (default: red)
    mode: Literal['fast', 'slow', 3] (default: fast)
    note: str | None (default: null)
    most: int | None (default: null)
    tags: list[str] (default: ["a"])
    sizes: list[int] (default: [1,2])
    colors: set[Color] (default: ["blue"])
    key: UUID (default: 00000000-0000-0000-0000-000000000001)
    price: Decimal (default: 1.50)
    box: Box (default: {"width":3,"label":""})
    extra: dict[str, int] (default: {})
    loose: int (default: 7)
    workers: int (default: 2)

  Steps:
    show(at=$at, box=$box, clock=$clock, color=$color, colors=$colors, count=$count, day=$day, dry=$dry, extra=$extra, key=$key, loose=$loose, mode=$mode, most=$most, name=$name, note=$note, path=$path, price=$price, ratio=$ratio, sizes=$sizes, tags=$tags, wait=$wait, workers=$workers)
"""  # noqa: E501
    )


def test_help_of_run_shows_each_parameter_as_an_option(typed: Place) -> None:
    ran = typed.run("typed.py", "run", "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.partition("  -p NAME=VALUE")[0] == (
        """\
Usage: python typed.py run [OPTIONS]

  Run typed-flow on this machine and print its result.

  Parameters that are given by -p NAME=VALUE only, since an option has their name:
    workers: int (default: 2)

Options:
  --count INTEGER                 required
  --ratio FLOAT                   default: 0.5
  --name TEXT                     default: goose
  --day DATE                      default: 2026-01-01
  --at DATETIME                   default: 2026-01-01T12:30:00
  --clock TIME                    default: 09:30:00
  --wait DURATION                 default: PT300S
  --path PATH                     default: data
  --dry / --no-dry                default: false
  --color red|blue                default: red
  --mode fast|slow|3              default: fast
  --note TEXT|null                default: null
  --most INTEGER|null             default: null
  --tags TEXT                     may be given several times; default: ["a"]
  --sizes INTEGER                 may be given several times; default: [1,2]
  --colors red|blue               may be given several times; default: ["blue"]
  --key UUID                      default: 00000000-0000-0000-0000-000000000001
  --price DECIMAL                 default: 1.50
  --box JSON                      default: {"width":3,"label":""}
  --extra JSON                    default: {}
  --loose INTEGER                 default: 7
"""
    )
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    own = re.findall(
        r"^  (--?[a-z-]+)",
        ran.out.partition("  -p NAME=VALUE")[1] + ran.out.partition("  -p NAME=VALUE")[2],
        re.MULTILINE,
    )
    assert len(own) == 19
    assert [option for option in own if f"`{option}" not in page] == []


def test_help_of_lokki(typed: Place) -> None:
    version = typed.run("lokki", "--version")
    assert re.fullmatch(r"lokki, version \d+\.\d+\.\d+\n", version.out)
    ran = typed.run("lokki", "run", "--help")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "Usage: lokki run FLOW.py[:NAME] [OPTIONS]...")
    assert typed.run("lokki", "run", "work.py", "--help").out.startswith("Usage: lokki run work.py [OPTIONS]\n")


# ---- parameters


def test_parameters_arrive_with_their_types(typed: Place) -> None:
    ran = typed.run(
        *("typed.py", "run", "--quiet", "--count", "-3", "--ratio", "2", "--name", "", "--day", "2026-02-03"),
        *("--at", "2026-02-03T04:05:06", "--clock", "07:08", "--wait", "PT1M", "--path", "a b/c", "--dry"),
        *("--color", "blue", "--mode", "3", "--note", "5", "--most", "6", "--tags", "x", "--tags", "y, z"),
        *("--sizes", "7", "--colors", "RED", "--key", "00000000-0000-0000-0000-0000000000ff", "--price", "9.99"),
        *("--box", '{"width": 8, "label": "big"}', "--extra", '{"a": 1}', "--loose", "10", "-p", "workers=11"),
    )
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "count = -3",
        "ratio = 2.0",
        "name = ''",
        "day = datetime.date(2026, 2, 3)",
        "at = datetime.datetime(2026, 2, 3, 4, 5, 6)",
        "clock = datetime.time(7, 8)",
        "wait = datetime.timedelta(seconds=60)",
        "path = PosixPath('a b/c')",
        "dry = True",
        "color = <Color.BLUE: 'blue'>",
        "mode = 3",
        "note = '5'",
        "most = 6",
        "tags = ['x', 'y, z']",
        "sizes = [7]",
        "colors = {<Color.RED: 'red'>}",
        "key = UUID('00000000-0000-0000-0000-0000000000ff')",
        "price = Decimal('9.99')",
        "box = Box(width=8, label='big')",
        "extra = {'a': 1}",
        "loose = 10",
        "workers = 11",
    ]


# ---- failing


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failing_item_is_told_with_the_users_lines_and_how_to_go_on(place: Place, executor: str) -> None:
    place.write("bad.txt", "2 retry-3")
    ran = place.run("work.py", "run", "--executor", executor, "--workers", "1", "--run-id", "r", "--count", "3")
    assert (ran.code, ran.out) == (1, "")
    assert [line.replace(f"{place.folder}/", "") if "File" in line else line for line in ran.lines] == [
        "work-flow: run r started",
        "numbers: 3 items in 0.00 s",
        "work[2]: failed: ValueError: unlucky 2",
        "Traceback (most recent call last):",
        '  File "work.py", line 23, in work',
        '    raise ValueError(f"unlucky {number}")',
        "ValueError: unlucky 2",
        (
            "error: item 2 failed in the map over numbers() (tolerated: none); work() raised ValueError: unlucky 2 at "
            "work.py:23"
        ),
        "fix it and resume with: python work.py run --resume r",
    ]
    everything = place.run("work.py", "run", "--resume", "--traceback", "--quiet", "--executor", executor)
    assert "invocation.py" in everything.err
    (place.folder / "bad.txt").unlink()
    before = len((place.folder / "ran.txt").read_text().split())
    mended = place.run("work.py", "run", "--resume", "r", "--executor", executor)
    assert (mended.code, mended.out) == (0, '{\n  "total": 3\n}\n')
    assert mended.lines == [
        "work-flow: run r resumed",
        "numbers: kept from before",
        "work: 3 items in 0.00 s",
        "total: done in 0.00 s",
        "work-flow: finished in 0.00 s",
    ]
    assert len((place.folder / "ran.txt").read_text().split()) == before + 1


def test_parameters_on_resume_are_laid_over_those_of_the_run(place: Place) -> None:
    place.write("bad.txt", "1")
    assert place.run("work.py", "run", "--count", "3", "--run-id", "r", "--quiet").code == 1
    (place.folder / "bad.txt").unlink()
    refused = place.run("work.py", "run", "--resume", "--seconds", "0.01")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "error: the run 'r' was started with another flow or other parameters:\n"
        "  - parameter seconds = 0\n"
        "  + parameter seconds = 0.01\n"
        "Start a new run, or keep its results all the same with --force.\n"
    )
    ran = place.run("work.py", "run", "--resume", "--seconds", "0.01", "--force", "--quiet")
    assert (ran.code, json.loads(ran.out)) == (0, {"total": 3})


@pytest.mark.parametrize(
    ("name", "text", "err"),
    [
        (
            "drawing.py",
            "from lokki import flow, main\n@flow\ndef bad_flow():\n    return missing()\nmain(bad_flow)\n",
            (
                "Traceback (most recent call last):\n"
                '  File "drawing.py", line 4, in bad_flow\n'
                "    return missing()\n"
                "           ^^^^^^^\n"
                "NameError: name 'missing' is not defined\n"
                "error: drawing.py:4: NameError: name 'missing' is not defined\n"
            ),
        ),
        (
            "open.py",
            (
                "from lokki import flow, main, step\n@step\ndef a() -> list[int]:\n    return []\n"
                "@flow\ndef bad_flow():\n    return a().map(a)\nmain(bad_flow)\n"
            ),
            (
                "error: open.py:5: the flow 'bad-flow' ends in an open Map block: a().map(a). "
                "Close it with .agg(step), whose step gets the list of results.\n"
            ),
        ),
        (
            "loop.py",
            "from lokki import flow, main\n@flow\ndef bad_flow():\n    return bad_flow()\nmain(bad_flow)\n",
            (
                "error: loop.py:4: the flow bad_flow() reaches itself: bad_flow() > bad_flow(). A flow is a step of "
                "other flows only; what is to be repeated belongs into a loop inside a step, or into a map.\n"
            ),
        ),
        (
            "dropped.py",
            (
                "from work import numbers, total\nfrom lokki import flow, main\n"
                "@flow\ndef bad_flow():\n    chain = numbers()\n    chain.next(total)\n    return chain.next(total)\n"
                "main(bad_flow)\n"
            ),
            (
                "error: dropped.py:6: numbers().next(total) was started and dropped: it is not part of what bad_flow() "
                "returns, so it would never run. Chaining returns a new chain: use its result.\n"
            ),
        ),
        (
            "called.py",
            "from work import work_flow\nfrom lokki import main\nmain(work_flow())\n",
            (
                "error: main() takes a flow, not <flow work-flow: numbers().map(work()).agg(total)>: "
                "write main(birds_flow), without calling the flow.\n"
            ),
        ),
    ],
)
def test_a_flow_that_cannot_be_drawn_is_the_users_error(place: Place, name: str, text: str, err: str) -> None:
    place.write(name, text)
    ran = place.run(name, "run")
    assert (ran.code, ran.out, ran.err.replace(f"{place.folder}/", "")) == (1, "", err)


@pytest.mark.parametrize(
    ("text", "err"),
    [
        (
            "def f(:\n",
            (
                '  File "broken.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax\n'
                "error: broken.py:1: SyntaxError: invalid syntax (broken.py, line 1)\n"
            ),
        ),
        (
            "import no_such_module\n",
            (
                "Traceback (most recent call last):\n"
                '  File "broken.py", line 1, in <module>\n    import no_such_module\n'
                "ModuleNotFoundError: No module named 'no_such_module'\n"
                "error: broken.py:1: ModuleNotFoundError: No module named 'no_such_module'\n"
            ),
        ),
        (
            "def f():\n    raise ValueError\nf()\n",
            (
                'Traceback (most recent call last):\n  File "broken.py", line 3, in <module>\n    f()\n    ~^^\n'
                '  File "broken.py", line 2, in f\n    raise ValueError\nValueError\n'
                "error: broken.py:2: ValueError\n"
            ),
        ),
        (
            "from lokki import step\n\n@step(retry=3)\ndef a(): ...\n",
            "error: broken.py:3: @step(retry=3): give a Retry, such as retry=Retry(attempts=3).\n",
        ),
        ("x = 1\n", "error: broken.py has no flow: put @flow above the function that chains the steps.\n"),
    ],
)
def test_a_file_that_cannot_be_imported_is_the_users_error(place: Place, text: str, err: str) -> None:
    place.write("broken.py", text)
    ran = place.run("lokki", "run", "broken.py")
    assert (ran.code, ran.out, ran.err.replace(f"{place.folder}/", "")) == (1, "", err)


def test_a_bad_lokki_yml_is_told_before_anything_runs(place: Place) -> None:
    place.write("lokki.yml", "log_levle: DEBUG\n")
    ran = place.run("work.py", "run")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert ran.err.startswith("error: ./lokki.yml: ")
    assert not (place.folder / ".lokki").exists()


def test_environments_of_lokki_yml_are_chosen_by_name(place: Place) -> None:
    place.copy("noisy.py")
    place.write("lokki.yml", "log_level: ERROR\nenvironments:\n  chatty:\n    log_level: INFO\n")
    logged = [
        "is logged" in place.run("noisy.py", "run", *arguments, env=env).err
        for arguments, env in (([], {}), (["--env", "chatty"], {}), ([], {"LOKKI_ENV": "chatty"}))
    ]
    assert logged == [False, True, True]
    ran = place.run("work.py", "run", "--env", "chaty")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "chatty" in ran.err


# ---- results


def test_the_result_goes_to_a_file_whole_and_with_the_users_mode(place: Place) -> None:
    os.umask(before := os.umask(0))
    ran = place.run("work.py", "run", "--output", "out.json")
    assert (ran.code, ran.out, ran.lines[-1]) == (0, "", "result written to out.json")
    path = place.folder / "out.json"
    assert path.read_text() == '{\n  "total": 6\n}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~before
    (place.folder / "link.pkl").symlink_to("real.pkl")
    assert place.run("work.py", "run", "--output", "link.pkl", "--quiet").err == ""
    assert (place.folder / "link.pkl").is_symlink()
    assert pickle.loads((place.folder / "real.pkl").read_bytes()) == {"total": 6}
    assert [path.name for path in place.folder.iterdir() if path.name.endswith(".part")] == []


def test_a_device_is_written_to_and_not_replaced(place: Place) -> None:
    ran = place.run("work.py", "run", "--output", "/dev/null", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("output", ["nowhere/out.json", "/proc/out.json"])
def test_a_place_where_nothing_can_be_written_is_found_before_the_run(place: Place, output: str) -> None:
    ran = place.run("work.py", "run", "--output", output)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert ran.err.startswith(f"error: --output {output}: ")
    assert not (place.folder / "ran.txt").exists()


DEEP = "__import__('functools').reduce(lambda inner, number: [inner], range(1500), [])"


@pytest.mark.parametrize("value", ["object()", "float('nan')", "[1, {2: float('inf')}]", "{1+1j}", DEEP])
def test_a_result_that_is_no_json_is_kept(place: Place, value: str) -> None:
    text = "from lokki import flow, main, step\n"
    text += f"from datetime import date\n@step\ndef a():\n    return {value.replace('object()', '1j')}\n"
    place.write("odd.py", f"{text}@flow\ndef odd_flow():\n    return a()\nmain(odd_flow)\n")
    ran = place.run("odd.py", "run", "--output", "out.json", "--quiet", "--run-id", "r")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert ran.err.startswith("error: --output out.json: the result is no JSON: ")
    assert ran.err.endswith(
        " (under a name without .json it is pickled); the result is kept: write it to a file with: "
        "python odd.py run --resume r --output FILE\n"
    )
    again = place.run("odd.py", "run", "--resume", "r", "--output", "out.pkl", "--quiet")
    assert (again.code, again.err) == (0, "")
    assert isinstance(pickle.loads((place.folder / "out.pkl").read_bytes()), complex | float | list | set)


@pytest.mark.parametrize("command", ["runs", "--help", "run --help", "runs clean --keep 1"])
def test_output_that_cannot_be_written_is_an_error_of_one_line(place: Place, command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} work.py {command} > /dev/full"],
        cwd=place.folder,
        env=place.environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", ["run --quiet", "runs", "--help"])
def test_a_reader_that_has_gone_ends_the_program_quietly(place: Place, command: str) -> None:
    script = f"{sys.executable} work.py {command}; echo $? > code.txt"
    process = subprocess.Popen(
        ["sh", "-c", script],
        cwd=place.folder,
        env=place.environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(20)
    assert (place.folder / "code.txt").read_text() == "1\n"


def test_a_terminal_that_has_gone_does_not_end_the_run(place: Place) -> None:
    script = f"{sys.executable} work.py run --count 50 2>&1 >out.txt | true; cat out.txt"
    done = subprocess.run(
        ["bash", "-c", script], cwd=place.folder, env=place.environment({}), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ('{\n  "total": 1225\n}\n', "")


def test_a_full_disk_under_stdout_is_said(place: Place) -> None:
    script = f"{sys.executable} work.py run --quiet --run-id r > /dev/full"
    done = subprocess.run(
        ["sh", "-c", script], cwd=place.folder, env=place.environment({}), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        (
            "error: the result cannot be printed: No space left on device; the result is kept: write it to a "
            "file with: python work.py run --resume r --output FILE\n"
        ),
    )


def test_closed_descriptors_are_no_trouble(place: Place) -> None:
    script = f"{sys.executable} work.py run --output out.json >&- 2>&-"
    subprocess.run(["sh", "-c", script], cwd=place.folder, env=place.environment({}), check=True)
    assert json.loads((place.folder / "out.json").read_text()) == {"total": 6}


# ---- logs


def test_as_json_every_line_of_stderr_is_json(place: Place) -> None:
    place.copy("noisy.py")
    for executor in EXECUTORS:
        ran = place.run("noisy.py", "run", "--log-format", "json", "--executor", executor, "--output", "out.json")
        lines = [json.loads(line) for line in ran.err.splitlines()]
        assert (ran.code, lines[0]["event"], lines[-2]["event"]) == (0, "run_started", "run_finished")
        assert lines[-1].items() >= {"event": "result_written", "path": "out.json"}.items()
        assert [line for line in lines if "time" not in line] == []


def test_as_json_the_end_of_a_run_says_how_to_go_on(place: Place) -> None:
    place.write("bad.txt", "2")
    ran = place.run("work.py", "run", "--log-format", "json", "--run-id", "r")
    *_, failed, last = [json.loads(line) for line in ran.err.splitlines()]
    assert (ran.code, failed["event"], last.pop("time") >= failed["time"]) == (1, "run_failed", True)
    assert last == {
        "event": "error",
        "message": "item 2 failed in the map over numbers() (tolerated: none); work() raised ValueError: unlucky 2 at "
        "work.py:23",
        "resume": "python work.py run --resume r",
    }
    ran = place.run("work.py", "run", "--log-format", "json", "--resume", "nosuch")
    assert [json.loads(line)["message"] for line in ran.err.splitlines()] == [
        "there is no run 'nosuch' in .lokki/runs (the latest: r)."
    ]


LOUD = [
    "printed",
    "to stderr",
    "WARNING noisy: logged",
    "noisy.py:23: UserWarning: warned",
    '  warnings.warn("warned", stacklevel=1)',
    "bytes",
    "done",
    "x" * 100_000,
    "no end",
]
PAST_PYTHON = [
    "from a child",
    "its errors",
    "from C, held back in its own buffer",
    "garbage \\xff\\xfe\x00 on one",
    "100%",
    "y" * 70_000,
]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_whatever_steps_write_is_shown_and_logged_and_never_on_stdout(place: Place, executor: str) -> None:
    place.copy("noisy.py")
    ran = place.run("noisy.py", "run", "--executor", executor, "--workers", "8")
    assert (ran.code, ran.out) == (0, "8\n")
    lines = ran.err.replace(f"{place.folder}/", "").split("\n")
    logged = [event for event in events(place) if event["event"] == "step_output"]
    loud = [line for line in lines if line.startswith("loud | ")]
    assert loud == [f"loud | {text}" for text in LOUD]
    assert [line for line in lines if line in PAST_PYTHON] == PAST_PYTHON
    assert [event["text"] for event in logged if not event["id"]] == PAST_PYTHON
    for item in range(8):
        mine = [line for line in lines if line.startswith(f"chatter[{item}] | ")]
        expected = [*(f"item {item} says {turn}" for turn in range(30)), f"INFO noisy: item {item} is logged"]
        assert mine[:31] == [f"chatter[{item}] | {text}" for text in expected]
        texts = [event["text"] for event in logged if (event["id"], event["index"]) == ("chatter", item)]
        assert texts[:31] == expected
        assert texts[31:] == [f"item {item} ends"]
    assert "count | counting" in lines


def test_logging_that_the_user_has_set_up_keeps_its_form_and_its_place(place: Place) -> None:
    place.copy("noisy.py")
    for executor in EXECUTORS:
        ran = place.run("noisy.py", "run", "--executor", executor, env={"LOGGING": "--set-up"})
        assert "loud | <WARNING logged>" in ran.lines
        assert "chatter[3] | <INFO item 3 is logged>" in ran.lines


LIBRARY = """\
import logging

def call() -> None:
    for name in ("DEBUG", "INFO", "WARNING"):
        logging.getLogger("library").log(logging.getLevelNamesMapping()[name], "library %s", name)
"""
LOGS = """\
import logging
import library
from lokki import flow, main, step

@step
def numbers() -> list[int]:
    return [1]

@step
def work(number: int) -> int:
    library.call()
    for name in ("DEBUG", "INFO", "WARNING"):
        logging.getLogger("own").log(logging.getLevelNamesMapping()[name], "own %s", name)
    return number

@step
def total(found: list[int]) -> None:
    return None

@flow
def logs():
    return numbers().map(work).agg(total)

if __name__ == "__main__":
    main(logs)
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_libraries_log_warnings_only_unless_asked(place: Place, executor: str) -> None:
    place.write("logs.py", LOGS)
    place.write("site-packages/library.py", LIBRARY)
    site = {"PYTHONPATH": str(place.folder / "site-packages")}
    everything = {f"{who} {level}" for who in ("own", "library") for level in ("DEBUG", "INFO", "WARNING")}
    for options, environ, shown in (
        ((), {}, {"own INFO", "own WARNING", "library WARNING"}),
        ((), {"LOKKI_LOG_LEVEL": "debug"}, {"own DEBUG", "own INFO", "own WARNING", "library WARNING"}),
        (("--log-level", "debug"), {}, everything),
        (("--log-level", "ERROR"), {}, set()),
    ):
        ran = place.run("logs.py", "run", "--executor", executor, *options, env=site | environ)
        assert ran.code == 0
        assert set(re.findall(r"(?:own|library) [A-Z]+$", ran.err, re.MULTILINE)) == shown


def test_quiet_keeps_everything_for_the_log(place: Place) -> None:
    place.copy("noisy.py")
    ran = place.run("noisy.py", "run", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "8\n", "")
    assert sum(event["event"] == "step_output" for event in events(place)) > 250


LEFT_BEHIND = """
import threading, time
from lokki import flow, main, step

def chatter():
    while True:
        print("x" * 1000)

@step
def a() -> int:
    threading.Thread(target=chatter, daemon=True).start()
    time.sleep(0.05)
    return 1

@flow
def chatty_flow():
    return a()

main(chatty_flow)
"""


def test_a_thread_that_is_left_behind_and_prints_does_not_spoil_the_end(place: Place) -> None:
    place.write("chatty.py", LEFT_BEHIND)
    for _ in range(3):  # Python itself would abort now and then
        ran = place.run("chatty.py", "run")
        assert (ran.code, ran.out) == (0, "1\n")


IDLE_POOL = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from lokki import flow, main, step

POOL = ThreadPoolExecutor(1)

def slow():
    time.sleep(0.3)
    print("done after all")

@step
def a() -> int:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    POOL.submit(slow)
    return 1

@flow
def pool_flow():
    return a()

main(pool_flow)
"""


def test_a_pool_of_the_users_ends_its_work_and_does_not_hold_the_end(place: Place) -> None:
    place.write("pool.py", IDLE_POOL)
    began = time.monotonic()
    ran = place.run("pool.py", "run")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "1")
    assert "done after all" in ran.out + ran.err
    assert time.monotonic() - began < 30


LEFT_OPEN = """
from lokki import flow, main, step

class Notes:
    def __init__(self, name):
        self.itself = self
        self.file = open(name, "w")
        self.file.write("kept")

plain = open("plain.txt", "w")
plain.write("kept")
notes = Notes("notes.txt")

@step
def a() -> int:
    return 1

@flow
def open_flow():
    return a()

main(open_flow)
"""


@pytest.mark.parametrize("command", ["run", "runs", "--help"])
def test_what_the_users_file_left_open_is_written_at_the_end(place: Place, command: str) -> None:
    place.write("open.py", LEFT_OPEN)
    assert place.run("open.py", command).code == 0
    assert [(place.folder / name).read_text() for name in ("plain.txt", "notes.txt")] == ["kept", "kept"]


def test_a_program_that_goes_on_after_a_command_keeps_its_garbage_collector(place: Place) -> None:
    place.write(
        "going_on.py",
        "import gc\nfrom lokki import main\nfrom work import work_flow\n"
        "try:\n    main(work_flow)\nexcept SystemExit as end:\n    print(end.code, gc.get_freeze_count())\n",
    )
    ran = place.run("going_on.py", "runs")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "0 0")


def test_a_step_may_change_the_folder_it_works_in(place: Place) -> None:
    text = "import os\nfrom lokki import flow, main, step\n@step\ndef a() -> int:\n    os.chdir('/')\n    return 1\n"
    place.write("moving.py", f"{text}@flow\ndef moving_flow():\n    return a()\nmain(moving_flow)\n")
    ran = place.run("moving.py", "run", "--output", "out.json", "--quiet", "--run-id", "r")
    assert (ran.code, ran.err) == (0, "")
    assert (place.folder / "out.json").read_text() == "1\n"
    assert events(place, "r")[-1]["event"] == "run_finished"


def test_an_interrupt_ends_a_step_that_runs_once(place: Place) -> None:
    # It sleeps in pieces: of a signal that comes just before a system call, Python knows when that call has ended.
    text = "import time\nfrom lokki import flow, main, step\n@step\ndef a() -> int:\n    print('begun')\n"
    text += "    for _ in range(300):\n        time.sleep(0.1)\n    return 1\n"
    text += "@flow\ndef slow_flow():\n    return a()\nmain(slow_flow)\n"
    place.write("slow.py", text)
    for executor in ("threads", "inline"):
        terminal = place.on_terminal("slow.py", "run", "--executor", executor, "--run-id", executor)
        terminal.wait_for("begun")
        terminal.type("\x03")
        ran = terminal.end()
        assert (ran.code, ran.out) == (130, "")
        assert ran.err.endswith(f"interrupted; resume with: python slow.py run --resume {executor}\n")


UNENCODABLE = """
from lokki import flow, main, step

@step
def first(bad: str) -> list[int]:
    if bad == "call":
        raise ValueError("bad \\udc80")
    return [0]

@step
def second(number: int) -> int:
    raise ValueError("bad \\udc80")

@step
def last(numbers: list[int]) -> int:
    return len(numbers)

@flow
def bad_flow(bad: str = "item"):
    return first(bad).map(second).agg(last)

main(bad_flow)
"""


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("call", "first() raised ValueError: bad \\udc80 at bad.py:7"),
        (
            "item",
            (
                "item 0 failed in the map over first() (tolerated: none); "
                "second() raised ValueError: bad \\udc80 at bad.py:12"
            ),
        ),
    ],
)
def test_a_failure_whose_text_no_file_could_hold_is_told_and_kept(
    place: Place, executor: str, bad: str, message: str
) -> None:
    place.write("bad.py", UNENCODABLE)
    ran = place.run("bad.py", "run", "--run-id", "r", "--executor", executor, "--bad", bad)
    assert (ran.code, ran.out) == (1, "")
    assert ran.lines[-2:] == [f"error: {message}", "fix it and resume with: python bad.py run --resume r"]
    record = json.loads((place.folder / ".lokki" / "runs" / "r" / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["error"].replace(f"{place.folder}/", "")) == ("failed", message)
    failed = events(place, "r")[-1]
    assert (failed["event"], str(failed["message"]).replace(f"{place.folder}/", "")) == ("run_failed", message)


# ---- worker processes


def test_without_worker_processes_nothing_of_them_is_loaded(place: Place) -> None:
    place.write("at_end.py", "import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n")
    text = (place.folder / "work.py").read_text()
    place.write("work.py", f"import at_end\n{text}")
    loaded = [
        set(place.run("work.py", "run", "--executor", executor, "--quiet").err.split())
        & {"multiprocessing", "lokki.local_run.threads", "lokki.local_run.processes"}
        for executor in EXECUTORS
    ]
    light = {"lokki.local_run.threads"}
    assert loaded == [light, light | {"multiprocessing", "lokki.local_run.processes"}, light]


LATE = """
import logging, time
from lokki import flow, main, step

@step
def numbers() -> list[int]:
    return [0]

@step(timeout=0.2)
def late(number: int) -> int:
    logging.getLogger("late").debug("begins")
    print("no end", end="")
    time.sleep(30)
    return number

@step
def count(found: list[int]) -> int:
    return len(found)

@flow
def late_flow():
    return numbers().map(late, tolerate=1.0).agg(count)

main(late_flow)
"""


def test_a_worker_process_that_leaves_a_late_step_behind_hands_on_what_it_wrote(place: Place) -> None:
    place.write("late.py", LATE)
    place.write("lokki.yml", "log_level: DEBUG\n")
    ran = place.run("late.py", "run", "--executor", "processes", "--workers", "1")
    written = [(event["stream"], event["text"]) for event in events(place) if event["event"] == "step_output"]
    assert (ran.code, ran.out, written) == (0, "0\n", [("log", "DEBUG late: begins"), ("stdout", "no end")])


def test_a_file_without_its_guard_runs_once_on_worker_processes(place: Place) -> None:
    place.copy("unguarded.py")
    ran = place.run("unguarded.py", "run", "--executor", "processes", "--workers", "2")
    assert (ran.code, ran.out, len(ran.lines)) == (0, "12\n", 5)
    assert len(list((place.folder / ".lokki" / "runs").iterdir())) == 1


def test_lokki_runs_a_file_without_its_guard_once(place: Place) -> None:
    place.copy("unguarded.py")
    ran = place.run("lokki", "run", "unguarded.py")
    assert (ran.code, ran.out, len(ran.lines)) == (0, "12\n", 5)


# ---- interruption


@pytest.fixture
def slow(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A run of 5,000 items of 20 ms, in the middle of its map."""
    process = place.start("work.py", "run", "--count", "5000", "--seconds", "0.02", "--workers", "2")
    wait_for_items(place)
    yield process
    process.kill()
    process.communicate()


def wait_for_items(place: Place, count: int = 10) -> None:
    end = time.monotonic() + 20
    ran = place.folder / "ran.txt"
    while not ran.exists() or len(ran.read_text().split()) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does(place: Place, executor: str, number: signal.Signals) -> None:
    options = ("--count", "100", "--seconds", "0.02", "--workers", "2", "--executor", executor)
    process = place.start("work.py", "run", "--run-id", "r", *options)
    wait_for_items(place)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; resume with: python work.py run --resume r"
    assert "Traceback" not in err
    done = len((place.folder / "ran.txt").read_text().split())
    assert done < 100
    ran = place.run("work.py", "run", "--resume", "--executor", executor, "--quiet")
    assert (ran.code, json.loads(ran.out), ran.err) == (0, {"total": 4950}, "")
    assert len((place.folder / "ran.txt").read_text().split()) <= 100 + 2


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_second_interrupt_ends_at_once(place: Place, executor: str) -> None:
    process = place.start("work.py", "run", "--count", "4", "--seconds", "30", "--executor", executor, "--run-id", "r")
    wait_for_items(place, 2)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # it waits for the items that are running
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5.0  # not the 10 s that it would wait
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; resume with: python work.py run --resume r"
    assert "Traceback" not in err


# ---- the list of runs


def test_runs_are_listed_and_removed_but_never_one_that_goes_on(place: Place, slow: subprocess.Popen[str]) -> None:
    place.copy("unguarded.py")
    assert place.run("unguarded.py", "run", "--run-id", "other", "--quiet").code == 0
    assert place.run("work.py", "run", "--run-id", "fine", "--quiet").code == 0
    place.write("bad.txt", "1")
    assert place.run("work.py", "run", "--run-id", "failed", "--quiet").code == 1
    runs = place.folder / ".lokki" / "runs"
    for left in (".removed-old", ".new-old", ".new-now"):
        (runs / left).mkdir()
    os.utime(runs / ".new-old", (0, 0))
    (runs / "failed" / "numbers" / ".x.part").write_text("half")
    listed = place.run("lokki", "runs").out.splitlines()
    assert listed[0].split() == [*["RUN", "FLOW", "STATUS", "STARTED", "TIME", "FAILED", "SIZE", "PARAMETERS"]]
    assert [line.split()[:3] for line in listed[1:4]] == [
        ["failed", "work-flow", "failed"],
        ["fine", "work-flow", "finished"],
        ["other", "unguarded-flow", "finished"],
    ]
    assert listed[4].split()[1:3] == ["work-flow", "running"]
    row = r"work-flow +{} +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +\d\.\d\d s +{}\d\.\d KiB +count=4 seconds=0"
    assert re.fullmatch("fine +" + row.format("finished", ""), listed[2])
    assert re.fullmatch("failed +" + row.format("failed", "1 +"), listed[1])
    assert len(place.run("work.py", "runs").out.splitlines()) == 4
    assert place.run("work.py", "runs", "clean", "--keep", "1").out == "removed 1 run\n"
    assert sorted(path.name for path in runs.iterdir() if not path.name[0].isdigit()) == [
        ".new-now",
        "failed",
        "other",
    ]
    assert not (runs / "failed" / "numbers" / ".x.part").exists()
    assert place.run("lokki", "runs", "clean", "--keep", "0").out == "removed 2 runs\n"
    slow.kill()
    slow.wait()
    assert place.run("lokki", "runs").out.splitlines()[1].split()[1:3] == ["work-flow", "killed"]
    assert place.run("lokki", "runs", "clean", "--keep", "0").out == "removed 1 run\n"
    assert place.run("lokki", "runs").out == "no runs in .lokki/runs\n"


def test_all_of_one_run_is_shown(place: Place) -> None:
    text = (place.folder / "work.py").read_text()
    place.write("work.py", text.replace("work(seconds=seconds))", "work(seconds=seconds), tolerate=2)"))
    place.write("bad.txt", "1 2 3")
    assert place.run("work.py", "run", "--run-id", "r", "--quiet", "--workers", "1").code == 1
    place.write("work.py", (place.folder / "work.py").read_text().replace("return number\n", "return number + 0\n"))
    place.write("bad.txt", "3")
    resumed = place.run("work.py", "run", "--resume", "r")
    assert resumed.lines[1] == (
        "work: its code has changed since it gave the results that are kept of 1 item; run it again with: "
        "python work.py run --resume r --from work"
    )
    shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", place.run("work.py", "runs", "show", "r").out)
    assert re.sub(r"\d\.\d\d s", "0.00 s", shown).splitlines() == [
        "run        r",
        "flow       work-flow",
        "status     finished",
        "started    TIME, ran 0.00 s",
        "parameters",
        "  count = 4",
        "  seconds = 0",
        "steps",
        "  numbers: gave 4 items",
        "  work: 4 items, 1 failed",
        "    item 3: work() raised ValueError: unlucky 3 at work.py:23",
        "    its items have results of different code; run --resume r --from work runs all of them again",
        "    code that it began with: 1 item (0)",
        "    code of TIME: 2 items (1–2)",
        "  total: done",
    ]
    assert place.run("lokki", "runs", "show", "none").lines == [
        "error: there is no run 'none' in .lokki/runs (the latest: r)."
    ]


# ---- terminals


def test_a_debugger_talks_with_the_user(place: Place) -> None:
    place.copy("debug.py")
    terminal = place.on_terminal("debug.py", "run", "--executor", "inline")
    assert "-> breakpoint()" in terminal.wait_for(r"\(Pdb\) ")
    terminal.type("p doubled * 100\n")
    terminal.wait_for(r"400\r\n\(Pdb\) ")
    terminal.type("doubled = 50\n")
    terminal.wait_for(r"\(Pdb\) ")
    terminal.type("c\n")
    ran = terminal.end()
    assert (ran.code, ran.out) == (0, "52\n")


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_bars_show_a_map_while_it_runs(place: Place, executor: str) -> None:
    place.write("bad.txt", "retry-1 retry-2 3")
    text = (
        (place.folder / "work.py").read_text().replace("work(seconds=seconds))", "work(seconds=seconds), tolerate=9)")
    )
    place.write("work.py", text)
    terminal = place.on_terminal(
        "work.py", "run", "--count", "40", "--seconds", "0.05", "--executor", executor, "--workers", "2"
    )
    terminal.wait_for(r"work .*━.* \d+/40, 2 running, [123] failed, [12] retried, \d+\.\d items/s.* 0:00:0\d")
    ran = terminal.end()
    assert (ran.code, ran.out) == (0, '{\n  "total": 774\n}\n')
    assert re.search(r"✓.* work .*━.* 40/40, 3 failed, 2 retried, \d+\.\d items/s", ran.err)
    assert "work[3]: failed: ValueError: unlucky 3\n" in ran.err


def test_the_terminal_is_in_order_after_a_failure(place: Place) -> None:
    place.write("bad.txt", "3")
    ran = place.on_terminal("work.py", "run", "--run-id", "r").end()
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith(
        "ValueError: unlucky 3\nerror: item 3 failed in the map over numbers() (tolerated: none); work() raised "
        "ValueError: unlucky 3 at work.py:23\nfix it and resume with: python work.py run --resume r\n"
    )


def test_the_terminal_is_in_order_after_ctrl_c(place: Place) -> None:
    terminal = place.on_terminal("work.py", "run", "--count", "100", "--seconds", "0.05", "--run-id", "r")
    terminal.wait_for(r" \d+/100, \d+ running")
    terminal.type("\x03")
    ran = terminal.end()
    assert (ran.code, ran.out) == (130, "")
    assert re.search(r" \d+/100, .*, interrupted", ran.err)
    assert ran.err.endswith("interrupted; resume with: python work.py run --resume r\n")


def test_a_terminal_that_cannot_redraw_gets_lines(place: Place) -> None:
    ran = place.on_terminal("work.py", "run", TERM="dumb").end()
    assert (ran.code, "\x1b" in ran.err, "work: 4 items" in ran.err) == (0, False, True)


# ---- start-up


def test_help_and_run_load_nothing_that_they_do_not_need(typed: Place) -> None:
    heavy = {"rich", "yaml", "boto3", "obstore", "pandas", "numpy", "importlib.metadata"}
    code = (
        "import atexit, sys, runpy\nsys.argv = ['work.py', *{!r}]\n"
        "atexit.register(lambda: print(*[name for name in {!r} if name in sys.modules], 'end', file=sys.stderr))\n"
        "runpy.run_path('work.py', run_name='__main__')\n"
    )
    cases = (
        (["--help"], {"lokki.runner", "lokki.local_run"}),
        (["run", "--help"], {"lokki.runner", "lokki.local_run"}),
        (["emulate", "--help"], {"lokki.runner", "lokki.builder.builder"}),
        (["run"], {"lokki.results.flow_results"}),
    )
    for arguments, more in cases:
        ran = typed.run("-c", code.format(arguments, heavy | more))
        assert ran.err.splitlines()[-1] == "end", arguments
