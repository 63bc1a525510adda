"""Where worker processes come from: each imports the flow's own code anew and shares only its libraries' import."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import steps
from support.forking import again, ended, run, start
from support.local_runs import groups, wait_until

from lokki.local_run.libraries import THREAD_VARIABLES, inner_threads, libraries

PROCESSES = ("--executor", "processes", "--quiet")


def install(folder: Path, name: str, text: str) -> dict[str, str]:
    """Put a library where installed ones are; return the environment that finds it."""
    place = folder / "site-packages"
    place.mkdir(exist_ok=True)
    (place / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(place)}


def members(program: subprocess.Popen[str]) -> list[int]:
    return [pid for pid, group in groups() if group == program.pid and pid != program.pid]


def test_each_worker_makes_what_the_flows_file_makes_when_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("".join(f"{number:07}\n" for number in range(1000)))
    (tmp_path / "helping.py").write_text("import random\nrng = random.Random()\n")
    functions = """
import helping, random
rng = random.Random()
lines = open("numbers.txt", "rb", buffering=0)
CONFIG = {"rate": 1}
"""
    body = """
time.sleep(0.3)
drawn = [rng.randrange(10**9), helping.rng.randrange(10**9), random.randrange(10**9)]
return [os.getpid(), int(lines.read(8)), CONFIG["rate"], __name__, *drawn]
"""
    text = "CONFIG['rate'] = 100\n    main(forking)"
    code, out, errors = run(tmp_path, body, *PROCESSES, "--workers", "4", count=4, functions=functions, main=text)
    assert code == 0, errors
    results = [re.findall(r"[\w]+", line) for line in out.strip("[] \n").split("], [")]
    assert {row[1] for row in results} <= {"0", "1"}  # a worker that took two items has read two lines
    assert {(row[2], row[3]) for row in results} == {("1", "forking")}
    for drawn in (4, 5, 6):
        assert len({row[drawn] for row in results}) == 4


def test_a_library_is_imported_once_and_its_generators_differ(tmp_path: Path) -> None:
    library = """
import os, random
with open("imported", "a") as file:
    file.write(f"{os.getpid()}\\n")
shared, fixed = random.Random(), random.Random(7)
"""
    env = install(tmp_path, "drawing", library)
    body = "time.sleep(0.3)\nreturn [drawing.shared.randrange(10**9), drawing.fixed.randrange(10**9)]"
    options = (*PROCESSES, "--workers", "3")
    code, out, errors = run(tmp_path, body, *options, count=3, functions="import drawing", env=env)
    assert code == 0, errors
    rows = re.findall(r"(\d+), (\d+)", out)
    assert len({row[0] for row in rows}) == 3
    assert len((tmp_path / "imported").read_text().split()) == 2  # this program's own, and the server's
    assert len({row[1] for row in rows}) == 1


def test_numpys_generators_differ_in_workers(tmp_path: Path) -> None:
    env = install(
        tmp_path, "drawing", "import numpy\nrng, fixed = numpy.random.default_rng(), numpy.random.default_rng(1)"
    )
    functions = "import drawing, numpy\nown = numpy.random.default_rng()"
    body = """
time.sleep(0.3)
sources = (numpy.random.randint, drawing.rng.integers, own.integers, drawing.fixed.integers)
return [int(draw(10**9)) for draw in sources]
"""
    code, out, errors = run(tmp_path, body, *PROCESSES, "--workers", "2", count=2, functions=functions, env=env)
    assert code == 0, errors
    first, second = re.findall(r"\d+, \d+, \d+, \d+", out)
    same = [one == other for one, other in zip(first.split(", "), second.split(", "), strict=True)]
    assert same == [False, False, False, True]


def test_workers_are_started_anew_where_a_library_has_threads(tmp_path: Path) -> None:
    env = install(
        tmp_path,
        "threaded",
        "import os, threading\nPID = os.getpid()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    )
    body = "print('printed')\ntime.sleep(0.3)\nreturn threaded.PID == os.getpid()"
    options = ("--executor", "processes", "--workers", "2")
    code, out, errors = run(tmp_path, body, *options, count=2, functions="import threaded", env=env)
    assert (code, out) == (0, "[true, true]\n"), errors
    assert errors.count(" | printed") == 2


@pytest.mark.parametrize(("own", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_libraries_in_workers_do_not_use_more_threads_than_there_are_cpus(
    tmp_path: Path, own: dict[str, str], expected: str
) -> None:
    body = "return os.environ.get('OMP_NUM_THREADS')"
    code, out, errors = run(tmp_path, body, *PROCESSES, "--workers", "64", env=own)
    assert (code, out) == (0, f'["{expected}"]\n'), errors


def test_cpus_are_shared_out_to_the_libraries_of_all_workers() -> None:
    assert inner_threads(3, 8, {"MKL_NUM_THREADS": "8"}) == {
        name: "2" for name in THREAD_VARIABLES if name != "MKL_NUM_THREADS"
    }
    assert set(inner_threads(16, 8, {}).values()) == {"1"}


def test_the_libraries_of_a_flow_are_those_that_its_own_modules_name() -> None:
    assert libraries(steps, "steps", sys.modules) == []
    found = libraries(sys.modules[__name__], __name__, sys.modules)
    assert "pytest" in found
    assert "hypothesis" in sys.modules  # by pytest's plugin; no module of this test's names it
    assert not [name for name in found if name.startswith(("hypothesis", "lokki", "steps"))]


def test_a_worker_that_is_killed_while_its_children_live_is_noticed(tmp_path: Path) -> None:
    body = """
with ProcessPoolExecutor(2, mp_context=FORK) as pool:
    list(pool.map(abs, range(4)))
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
return number
"""
    program = start(tmp_path, body, "--executor", "processes", count=2)
    try:
        code, out, errors = ended(program)
        assert members(program), "nothing was left behind"
    finally:
        os.killpg(program.pid, signal.SIGKILL)
    assert (code, out) == (1, "")
    assert "WorkerError: the worker process was killed by SIGKILL (perhaps out of memory)" in errors


BUSY = "import hashlib\nopen(f'busy-{os.getpid()}', 'w').close()\nhashlib.pbkdf2_hmac('sha256', b'x', b'y', 3 * 10**8)"


def test_no_worker_inside_c_code_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    program = start(tmp_path, BUSY, *PROCESSES, "--workers", "3", count=3)
    wait_until(lambda: len(list(tmp_path.glob("busy-*"))) == 3)
    assert len(members(program)) == 4
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    wait_until(lambda: not members(program), 1.0)


def test_a_run_whose_server_is_killed_ends_and_can_be_resumed(tmp_path: Path) -> None:
    body = """
open(f"busy-{os.getpid()}-{os.getppid()}", "w").close()
time.sleep(0 if os.path.exists("again") else 60)
return 1
"""
    program = start(tmp_path, body, "--executor", "processes", "--workers", "2", "--run-id", "one", count=2)
    wait_until(lambda: len(list(tmp_path.glob("busy-*"))) == 2)
    [server] = {int(path.name.split("-")[2]) for path in tmp_path.glob("busy-*")}
    os.kill(server, signal.SIGKILL)
    code, _, errors = ended(program)
    assert code == 1
    assert "error: the process that starts worker processes was killed by SIGKILL; resume the run." in errors
    assert members(program) == []
    (tmp_path / "again").touch()
    assert ended(again(tmp_path, *PROCESSES, "--resume", "one"))[:2] == (0, "[1, 1]\n")


def test_a_worker_takes_its_input_from_nowhere(tmp_path: Path) -> None:
    code, out, errors = run(tmp_path, "return [sys.stdin.read(), os.read(0, 10) == b'']", *PROCESSES)
    assert (code, out) == (0, '[["", true]]\n'), errors


def test_workers_are_like_the_run_however_long_its_arguments_and_odd_its_path(tmp_path: Path) -> None:
    (tmp_path / "marking.py").write_text("MARK = 1\n")
    functions = "from pathlib import Path\nsys.path.insert(0, Path('no text'))"
    body = "import marking\nreturn [sum(map(len, sys.argv)) > 300_000, sys.argv[0], marking.MARK]"
    main = "sys.argv += ['x' * 100_000] * 3\n    main(forking, argv=sys.argv[1:-3])"
    code, out, errors = run(tmp_path, body, *PROCESSES, functions=functions, main=main)
    assert (code, out) == (0, '[[true, "forking.py", 1]]\n'), errors


@pytest.mark.parametrize("way", ["spawn", "forkserver", "fork"])
def test_a_step_on_a_worker_starts_processes_in_each_way(tmp_path: Path, way: str) -> None:
    functions = "def triple(number):\n    return number * 3"
    body = f'with multiprocessing.get_context("{way}").Pool(1) as pool:\n    return pool.map(triple, [number, 1])'
    code, out, errors = run(tmp_path, body, *PROCESSES, count=2, functions=functions)
    assert (code, out) == (0, "[[0, 3], [3, 3]]\n"), errors
