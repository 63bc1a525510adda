"""Steps that fork: their children print, take locks, are ended and end, and have no part in the run."""

import os
import signal
import time
from pathlib import Path

import pytest
from support.forking import again, ended, run, start
from support.local_runs import EXECUTORS, wait_until

PRINTS = """
def loud(number):
    print("working on", number)
    logging.getLogger("loud").warning("logged by %s", number)
    return number * number
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_children_of_pools_print_and_log_while_other_threads_do(tmp_path: Path, executor: str) -> None:
    body = "print('item', number)\nwith FORK.Pool(2) as pool:\n    return sum(pool.map(loud, range(6)))"
    code, out, errors = run(tmp_path, body, "--executor", executor, count=12, functions=PRINTS)
    assert (code, out) == (0, f"{[55] * 12}\n"), errors
    assert errors.splitlines().count("working on 3") == 12
    assert errors.count("loud: logged by 3\n") + errors.count("\nlogged by 3\n") == 12
    assert errors.count(" | item ") == 12


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_child_that_prints_by_a_reference_to_the_stream_of_its_parent_is_heard(tmp_path: Path, executor: str) -> None:
    body = """
stream = sys.stdout
with ProcessPoolExecutor(1, mp_context=FORK) as pool:
    return pool.submit(say).result()
"""
    say = "OUT = sys.stderr\ndef say():\n    print('to stdout'); print('to stderr', file=OUT); return 1\n"
    code, out, errors = run(tmp_path, body, "--executor", executor, functions=say)
    assert (code, out) == (0, "[1]\n"), errors
    assert "to stdout\n" in errors
    assert "to stderr\n" in errors


@pytest.mark.parametrize("executor", EXECUTORS)
def test_children_are_ended_by_terminate_at_once(tmp_path: Path, executor: str) -> None:
    busy = """
import hashlib
def busy(): hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**8)
def idle(): time.sleep(60)
def ended(target, after):
    process = FORK.Process(target=target)
    process.start()
    time.sleep(after)
    process.terminate()
    process.join(30)
    return process.exitcode
"""
    body = "return [ended(busy, 0.2), ended(idle, 0.2)] + [ended(idle, 0) for _ in range(20)]"
    code, out, errors = run(tmp_path, body, "--executor", executor, functions=busy)
    assert (code, out) == (0, f"{[[-15] * 22]}\n"), errors


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_child_treats_signals_as_a_program_without_lokki_does(tmp_path: Path, executor: str) -> None:
    handlers = """
def handlers():
    names = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    return [*names, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]
"""
    body = "with FORK.Pool(1) as pool:\n    return [pool.apply(handlers)]"
    code, out, errors = run(tmp_path, body, "--executor", executor, functions=handlers)
    without = [str(signal.default_int_handler), "0", "0", []]
    assert code == 0, errors
    assert [part.split(" at ")[0] for part in out.split('"')[1::2]] == [
        part.split(" at ")[0] for part in map(str, without[:3])
    ]
    assert out.rstrip().endswith("[]]]]")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_child_that_comes_back_from_its_step_ends_and_leaves_the_run_alone(tmp_path: Path, executor: str) -> None:
    body = """
pid = os.fork()
if pid == 0:
    if number == 1:
        sys.exit(3)
    if number == 2:
        raise ValueError("in the child")
    if number == 3:
        os._exit(4)
    return "from the child"
return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    done = run(tmp_path, body, "--executor", executor, "--run-id", "one", count=4)
    assert done[:2] == (0, "[0, 3, 1, 4]\n"), done[2]
    assert done[2].count("ValueError: in the child") == 1
    assert [path.name for path in (tmp_path / ".lokki" / "runs").iterdir()] == ["one"]
    log = (tmp_path / ".lokki" / "runs" / "one" / "events.jsonl").read_text()
    assert log.count('"event":"run_finished"') == 1, log


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_program_started_with_preexec_fn_prints_and_ends(tmp_path: Path, executor: str) -> None:
    body = """
program = [sys.executable, "-c", "import os; os.write(1, b'program %d ends\\\\n' % (os.getpid() == os.getsid(0)))"]
return subprocess.run(program, preexec_fn=os.setsid).returncode
"""
    code, out, errors = run(tmp_path, body, "--executor", executor, count=8)
    assert (code, out) == (0, f"{[0] * 8}\n"), errors
    assert errors.count("program 1 ends") == 8


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_killed_run_leaves_behind_does_not_keep_it_from_being_resumed(tmp_path: Path, executor: str) -> None:
    body = """
if os.path.exists("again"):
    return number
with ProcessPoolExecutor(2, mp_context=FORK) as pool:
    pids = [pool.submit(os.getpid).result() for _ in range(2)]
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open("begun.new", "w") as file:
        file.write(" ".join(map(str, [*pids, program.pid])))
    os.rename("begun.new", "begun")
    time.sleep(60)
"""
    program = start(tmp_path, body, "--executor", executor, "--run-id", "one", "--quiet")
    try:
        wait_until((tmp_path / "begun").exists)
        left = [int(pid) for pid in (tmp_path / "begun").read_text().split()]
        os.kill(program.pid, signal.SIGKILL)
        (tmp_path / "again").touch()
        code, out, errors = ended(again(tmp_path, "--executor", executor, "--resume", "one", "--quiet"))
        assert (code, out) == (0, "[0]\n"), errors
        assert all(Path(f"/proc/{pid}").exists() for pid in left)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def test_who_reads_the_output_does_not_wait_for_what_a_step_left_behind(tmp_path: Path) -> None:
    body = "pid = os.fork()\nif pid == 0:\n    time.sleep(60)\nreturn pid"
    began = time.monotonic()
    code, out, errors = run(tmp_path, body, "--quiet")
    assert time.monotonic() - began < 30
    os.kill(int(out.strip(" []\n")), signal.SIGKILL)
    assert (code, errors) == (0, "")
