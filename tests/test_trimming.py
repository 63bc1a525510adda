"""A step's package without the code of other steps: what stays, what goes, and that lines keep their numbers."""

import ast

import pytest

from lokki.builder.lambda_pkg import Importable
from lokki.builder.trimming import STUB, without_other_steps

BIRDS = '''"""Birds."""
from lokki import flow, step

HONK = "honk"


def louder(text):
    return text + "!"


@step
def get_birds() -> list[str]:
    """Get them."""
    return ["goose"]


@step(memory=1024)
def flap_bird(bird: str) -> str:
    def twice(text):
        return text * 2

    return louder(twice(bird))  # here


@step
def join_birds(birds): return ", ".join(birds)


@flow
def birds_flow():
    return get_birds().map(flap_bird).agg(join_birds)
'''
STEPS = {name: Importable("birds", name) for name in ("get_birds", "flap_bird", "join_birds")}


def package(of: str, text: str = BIRDS, **others: str) -> dict[str, str]:
    files = {"birds.py": text, **{f"{name}.py": other for name, other in others.items()}}
    made = without_other_steps({path: each.encode() for path, each in files.items()}, STEPS)[of]
    return {path: each.decode() for path, each in made.items()}


def test_the_bodies_of_other_steps_go_and_all_lines_stay_in_their_places() -> None:
    made = package("get_birds")["birds.py"]
    body = "    def twice(text):\n        return text * 2\n\n    return louder(twice(bird))  # here\n"
    assert made == BIRDS.replace(body, f"    {STUB}\n\n\n\n")
    assert made.count("\n") == BIRDS.count("\n")


def test_a_step_keeps_its_own_body() -> None:
    made = package("flap_bird")["birds.py"]
    assert made == BIRDS.replace('    """Get them."""\n    return ["goose"]\n', f"    {STUB}\n\n")


def test_a_package_changes_only_with_what_its_step_has_in_it() -> None:
    changed = BIRDS.replace("text * 2", "text * 3")
    assert package("get_birds", changed) == package("get_birds")
    assert package("flap_bird", changed) != package("flap_bird")
    helper = BIRDS.replace('"honk"', '"quack"')
    assert all(package(name, helper) != package(name) for name in STEPS)


@pytest.mark.parametrize(
    "mention",
    [
        "def helper():\n    return flap_bird.fn('duck')\n",
        "loud = flap_bird\n",
        "def tail(chain):\n    return chain.map(flap_bird)\n",
        "found = globals()['flap_bird']\n",
        "@step\ndef other(bird):\n    return flap_bird(bird)\n",
    ],
)
def test_a_step_that_anything_but_a_flow_mentions_keeps_its_body(mention: str) -> None:
    text = f"{BIRDS}\n\n{mention}"
    assert package("get_birds", text)["birds.py"] == text
    elsewhere = mention.replace("flap_bird", "birds.flap_bird").replace("'birds.flap_bird'", "'flap_bird'")
    assert package("get_birds", helpers=f"import birds\n\n{elsewhere}")["birds.py"] == BIRDS


def test_an_import_by_another_name_keeps_the_body() -> None:
    assert package("get_birds", other="from birds import flap_bird as loud\n")["birds.py"] == BIRDS


def test_two_functions_of_one_name_and_files_that_are_no_utf8_stay() -> None:
    twice = BIRDS + "\n\n@step\ndef flap_bird(bird):\n    return bird\n"
    assert package("get_birds", twice)["birds.py"] == twice
    latin = b"# -*- coding: latin-1 -*-\n" + BIRDS.replace("goose", "g\xe4nse").encode("latin-1")
    assert without_other_steps({"birds.py": latin}, STEPS)["join_birds"] == {"birds.py": latin}


def test_a_file_whose_lines_end_in_carriage_returns_stays() -> None:
    old = "# Birds\rHONK = 1\r" + BIRDS
    assert package("get_birds", old)["birds.py"] == old
    dos = BIRDS.replace("\n", "\r\n")
    made = package("get_birds", dos)["birds.py"]
    assert made != dos
    assert ast.dump(ast.parse(made)) == ast.dump(ast.parse(package("get_birds")["birds.py"]))


def test_steps_in_other_modules_and_packages_go_too() -> None:
    places = {"one": "flows.a", "two": "flows", "three": "main"}
    steps = {name: Importable(module, name) for name, module in places.items()}
    files = {
        "flows/a.py": b"def one(x):\n    return 1\n",
        "flows/__init__.py": b"def two(x):\n    return 2\n",
        "main.py": b"from flows import two\nfrom flows.a import one\n\ndef three(x):\n    return 3\n",
        "data.csv": b"one,two\n",
        "lokki/runner.py": b"def one():\n    return two()\n",
    }
    assert without_other_steps(files, steps)["three"] == {
        **files,
        "flows/a.py": f"def one(x):\n    {STUB}\n".encode(),
        "flows/__init__.py": f"def two(x):\n    {STUB}\n".encode(),
    }


def test_what_is_left_is_python() -> None:
    odd = (
        "def get_birds():\n    @cache\n    def inner():\n        pass\n    x = '''\n  text\n'''\n    return [\n x]\n\n"
    )
    odd += "def flap_bird(a,\n  b=1):\n\n    # first\n\n    return 1; pass\n\ndef join_birds(): pass\n"
    for name in STEPS:
        made = package(name, odd)["birds.py"]
        assert made.count("\n") == odd.count("\n")
        ast.parse(made)
    assert package("join_birds", odd)["birds.py"].count(STUB) == 2
