"""`lokki.main` in processes that are its own, and in those of somebody else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.command import Place

FLOW = """
import threading, time
from lokki import flow, main, step

@step
def get(number: int) -> int:
    print("a line")
    return number

@flow
def a_flow(number: int = 1):
    \"\"\"Give a number back.\"\"\"
    return get(number)

@flow
def b_flow():
    \"\"\"Give two.\"\"\"
    return get(2)

"""

DAEMON = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write("flows.py", f"{FLOW}if __name__ == '__main__':\n    main(a_flow, b_flow)\n")
    return place


# ---- in somebody else's process


SUITE = """
import gc, os, sys, threading, time
import pytest
from lokki import main
from flows import a_flow, b_flow

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

def state():
    return sys.excepthook, gc.get_freeze_count(), sys.stdout, sys.stderr, os.fstat(1), os.fstat(2)

@pytest.mark.parametrize("executor", ["threads", "processes", "inline"])
def test_result(capsys, executor):
    before = state()
    with pytest.raises(SystemExit) as ended:
        main(a_flow, argv=["run", "--number", "3", "--executor", executor])
    assert (ended.value.code, state()) == (0, before)
    out, err = capsys.readouterr()
    assert out == "3\\n"
    assert "get | a line\\n" in err

def test_result_in_the_descriptors(capfd):
    with pytest.raises(SystemExit):
        main(a_flow, argv=["run"])
    os.write(1, b"and on")
    assert capfd.readouterr().out == "1\\nand on"

def test_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(a_flow, b_flow, argv=["run", "b-flow", "--number", "3"])
    assert ended.value.code == 2
    assert "No such option" in capsys.readouterr().err

def test_on_a_thread():
    codes = []
    def run():
        try:
            main(a_flow, argv=["run"])
        except SystemExit as end:
            codes.append(end.code)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [0]

def test_with_the_arguments_of_the_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["flows.py", "run"])
    with pytest.raises(SystemExit):
        main(a_flow)

def test_fails():
    assert False
"""


def test_a_suite_that_calls_main_beside_a_daemon_thread_reports_its_failure(place: Place) -> None:
    place.write("test_flows.py", SUITE)
    for option in ("--capture=fd", "--capture=no"):
        ran = place.run("-m", "pytest", "-q", "-p", "no:cacheprovider", option)
        wanted = "1 failed, 7 passed" if option == "--capture=fd" else "failed"
        assert (ran.code, wanted in ran.out) == (1, True), ran.out


@pytest.mark.parametrize(
    ("ending", "out"),
    [
        ("try:\n    main(a_flow)\nfinally:\n    print('cleaned up')\n", "cleaned up"),
        ("try:\n    main(a_flow)\nexcept SystemExit:\n    print('goes on')\n", "goes on"),
        (("import contextlib\nwith contextlib.closing(contextlib.ExitStack()) as s:\n"
         "    s.callback(print, 'closed')\n    main(a_flow)\n"), "closed"),
        (("def cli():\n    try:\n        main(a_flow)\n    finally:\n        print('cleaned up')\n"
         "if __name__ == '__main__':\n    cli()\n"), "cleaned up"),
        ("import atexit\natexit.register(print, 'at the end')\nmain(a_flow)\n", "at the end"),
    ],
)  # fmt: skip
def test_what_a_script_does_after_main_is_done(place: Place, ending: str, out: str) -> None:
    place.write("script.py", f"{FLOW}{DAEMON}{ending}")
    ran = place.run("script.py", "run", "--quiet")
    assert (ran.code, ran.out.startswith("1\n"), (ran.out + ran.err).count(out)) == (0, True, 1), ran


def test_a_profiler_around_a_script_writes_what_it_measured(place: Place) -> None:
    place.write("script.py", f"{FLOW}{DAEMON}main(a_flow)\n")
    ran = place.run("-m", "cProfile", "-o", "profile.bin", "script.py", "run", "--quiet")
    assert (ran.out, (place.folder / "profile.bin").stat().st_size > 1000) == ("1\n", True), ran.err


def test_a_prompt_after_a_script_stays(place: Place) -> None:
    place.write("script.py", f"{FLOW}{DAEMON}main(a_flow)\n")
    ran = place.run("-i", "script.py", "run", "--quiet", stdin="print(get.name)\n")
    assert ran.out == "1\nget\n", ran.err


def test_a_script_alone_does_not_wait_for_a_thread_that_is_left_behind(place: Place) -> None:
    place.write("script.py", f"{FLOW}{DAEMON}if __name__ == '__main__':\n    main(a_flow)\n")
    for program in (("script.py",), ("-m", "script")):
        began = time.monotonic()
        ran = place.run(*program, "run", "--quiet")
        assert (ran.code, ran.out, time.monotonic() - began < 30) == (0, "1\n", True)


def test_a_process_of_multiprocessing_may_run_a_flow(place: Place) -> None:
    place.write(
        "script.py",
        f"{FLOW}import multiprocessing\ndef child():\n    main(a_flow, argv=['run', '--quiet'])\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('fork').Process(target=child)\n"
        "    process.start()\n    process.join()\n    print('code', process.exitcode)\n",
    )
    assert place.run("script.py").out == "1\ncode 0\n"


# ---- several flows in a file


def test_a_file_of_several_flows_runs_the_one_that_is_named(place: Place) -> None:
    assert place.run("flows.py", "run", "a-flow", "--number", "5", "--quiet").out == "5\n"
    assert place.run("flows.py", "run", "b_flow", "--quiet").out == "2\n"


def test_a_file_of_several_flows_says_which_there_are(place: Place) -> None:
    ran = place.run("flows.py", "--help")
    assert "a-flow: Give a number back." in ran.out
    assert "b-flow: Give two." in ran.out
    ran = place.run("flows.py", "run", "c-flow")
    assert (ran.code, ran.lines[-1]) == (2, "Error: There is no flow 'c-flow' here. Did you mean 'b-flow'?")


def test_the_command_that_resumes_names_the_flow(place: Place) -> None:
    place.write("flows.py", FLOW.replace("return number\n", "return 1 / 0\n") + "main(a_flow, b_flow)\n")
    ran = place.run("flows.py", "run", "b-flow", "--run-id", "r")
    assert (ran.code, ran.lines[-1].endswith("python flows.py run b-flow --resume r")) == (1, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("main()", "main() takes a flow: write main(birds_flow)."),
        ("main(a_flow, a_flow)", "main() has two flows of the name a-flow: rename the function of one."),
        (
            "main(a_flow, ['run'])",
            (
                "main() takes a flow, not ['run']: write main(birds_flow, argv=[\"run\"]) for arguments, "
                "main(one_flow, other_flow) for several flows."
            ),
        ),
    ],
)
def test_what_main_cannot_take_is_said(place: Place, call: str, message: str) -> None:
    place.write("script.py", f"{FLOW}{call}\n")
    ran = place.run("script.py", "run")
    assert (ran.code, ran.err) == (1, f"error: {message}\n")


# ---- how it is called


@pytest.mark.parametrize("program", [("flows.py",), ("lokki",), ("-m", "lokki")])
def test_each_command_line_tells_the_version(place: Place, program: tuple[str, ...]) -> None:
    ran = place.run(*program, "--version")
    assert (ran.code, ran.out.startswith("lokki, version ")) == (0, True)


def test_lokki_is_a_module_too(place: Place) -> None:
    ran = place.run("-m", "lokki", "run", "flows.py:a_flow", "--run-id", "r")
    assert (ran.code, ran.out) == (0, "1\n")
    assert json.loads((place.folder / ".lokki/runs/r/run.json").read_text())["status"] == "finished"
    place.write("flows.py", FLOW.replace("return number\n", "return 1 / 0\n"))
    ran = place.run("-m", "lokki", "run", "flows.py:a_flow", "--run-id", "s")
    assert ran.lines[-1].endswith("python -m lokki run flows.py:a_flow --resume s")
