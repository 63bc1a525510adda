"""A step's package without the code of other steps: what stays, what goes, and that lines keep their numbers."""

import ast

import pytest

from lokki.builder.lambda_pkg import Importable
from lokki.builder.packages.trimming import STUB, trim

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
    made = trim({path: each.encode() for path, each in files.items()}, STEPS).files[of]
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
        "class Reader:\n    read = flap_bird\n",
        "def read(name, reader=flap_bird):\n    return reader\n",
        "__all__ = ['flap_bird']\n",
        "found = resolve('birds:flap_bird')\n",
        "found = '{0.flap_bird.fn}'.format\n",
        "found = loads(b'cbirds\\nflap_bird\\n.')\n",
        "if True:\n    READERS = {'bird': flap_bird}\n",
        "@step\ndef other(bird):\n    return flap_bird(bird)\n",
    ],
)
def test_a_step_that_anything_but_a_flow_mentions_keeps_its_body(mention: str) -> None:
    text = f"{BIRDS}\n\n{mention}"
    assert package("get_birds", text)["birds.py"] == text
    assert package("get_birds", helpers=f"from birds import *\n\n{mention}")["birds.py"] == BIRDS


def test_an_import_by_another_name_keeps_the_body() -> None:
    assert package("get_birds", other="from birds import flap_bird as loud\n")["birds.py"] == BIRDS


COMPUTED = [
    ("kind = 'flap'\nglobals()[f'{kind}_bird']", "birds.py:35 uses globals()"),
    ("def find(name):\n    return eval(name)", "birds.py:35 uses eval()"),
    ("def find(name):\n    return vars()[name]", "birds.py:35 uses vars()"),
    ("import sys\nlast = list(sys.modules)[-1]", "birds.py:35 uses sys.modules"),
    ("from sys import modules as all_of_them", "birds.py:34 uses modules"),
    ("import sys\nhere = getattr(sys, 'mod' 'ules')", "birds.py:35 uses getattr() with 'modules'"),
    ("import inspect", "birds.py:34 uses inspect"),
    ("def find(name):\n    return louder.__globals__[name]", "birds.py:35 uses __globals__"),
    ("from importlib import import_module\nimport_module(HONK)", "import_module() with a name that is computed"),
    ("from importlib import import_module as load", "birds.py:34 uses import_module"),
    ("import birds\ndef find(name):\n    return getattr(birds, name)", "getattr() with a name that is computed"),
    ("import birds\ndef find(name):\n    return map(getattr, [birds], [name])", "getattr() with a name that is"),
    ("import birds, operator\nfind = operator.attrgetter(HONK)", "attrgetter() with a name that is computed"),
    ("def find(name):\n    return [each.fn for each in birds_flow().steps]", "birds.py:35 uses the flow birds_flow()"),
]


@pytest.mark.parametrize(("code", "reason"), COMPUTED)
def test_a_module_that_can_reach_functions_by_computed_names_keeps_all_bodies(code: str, reason: str) -> None:
    text = f"{BIRDS}\n\n{code}\n"
    made = trim({"birds.py": text.encode()}, STEPS)
    assert made.files["get_birds"] == {"birds.py": text.encode()}
    assert reason in made.reason
    elsewhere = trim({"birds.py": BIRDS.encode(), "helpers.py": f"from birds import *\n{code}\n".encode()}, STEPS)
    assert elsewhere.files["get_birds"]["birds.py"] == BIRDS.encode()


def test_what_draws_flows_and_what_is_for_the_command_line_reaches_no_step() -> None:
    more = """
def label(bird, field):
    return getattr(bird, field), getattr(bird, "name", "")

@flow
def other_flow():
    kind = "flap"
    start = get_birds()
    return start.map(flap_bird).agg(join_birds) if kind else globals()[f"{kind}_bird"]()

main(birds_flow)

if __name__ == "__main__":
    print(birds_flow().steps, eval("flap_bird"), flap_bird.fn("duck"))
"""
    text = BIRDS.replace("import flow, step", "import flow, main, step") + more
    assert STUB in package("get_birds", text)["birds.py"]


@pytest.mark.parametrize(
    "drawing",
    [
        "READERS['bird'] = flap_bird",
        "READERS.update(bird=flap_bird)",
        "register(flap_bird)",
        "call = lambda: flap_bird(1)",
    ],
)
def test_a_flow_that_keeps_a_step_for_later_keeps_its_body(drawing: str) -> None:
    text = f"{BIRDS}\n\n@flow\ndef other_flow():\n    {drawing}\n    return get_birds()\n"
    assert package("get_birds", text)["birds.py"] == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("@step(memory=1024)\n", "@step(memory=1024)\n@register('bird')\n"),
        ("@step(memory=1024)\n", "@register\n@step(memory=1024)\n"),
        ("from lokki import flow, step", "from team import flow, step"),
        ("HONK = ", "step = wrapped(step)\nHONK = "),
        ("HONK = ", "def step(function):\n    return function\nHONK = "),
    ],
)
def test_a_decorator_that_is_not_lokkis_alone_keeps_the_body(before: str, after: str) -> None:
    text = BIRDS.replace(before, after)
    assert text != BIRDS
    assert "return louder(twice(bird))" in package("get_birds", text)["birds.py"]


@pytest.mark.parametrize(
    ("imports", "decorators"),
    [
        ("import lokki", ("lokki.step", "lokki.flow")),
        ("from lokki import flow as draw, step as task", ("task", "draw")),
    ],
)
def test_lokki_is_known_by_other_names(imports: str, decorators: tuple[str, str]) -> None:
    text = BIRDS.replace("from lokki import flow, step", imports)
    text = text.replace("@step", f"@{decorators[0]}").replace("@flow", f"@{decorators[1]}")
    assert package("get_birds", text)["birds.py"].count(STUB) == 1


def test_a_file_that_names_a_step_as_frameworks_do_keeps_its_body() -> None:
    def stubs(config: bytes) -> int:
        made = trim({"birds.py": BIRDS.encode(), "config.yaml": config}, STEPS).files["get_birds"]["birds.py"]
        return made.count(STUB.encode())

    assert [stubs(text) for text in (b"a: 1", b"_target_: birds.flap_bird\n", b"reader: birds:flap_bird")] == [1, 0, 0]


def test_files_that_are_no_python_are_no_reason_to_keep_anything() -> None:
    assert STUB in package("get_birds", broken="def (", deep=f"x = {'-' * 100_000}1")["birds.py"]


def test_two_functions_of_one_name_and_files_that_are_no_utf8_stay() -> None:
    twice = BIRDS + "\n\n@step\ndef flap_bird(bird):\n    return bird\n"
    assert package("get_birds", twice)["birds.py"] == twice
    latin = b"# -*- coding: latin-1 -*-\n" + BIRDS.replace("goose", "g\xe4nse").encode("latin-1")
    assert trim({"birds.py": latin}, STEPS).files["join_birds"] == {"birds.py": latin}


def test_a_file_whose_lines_end_in_carriage_returns_stays() -> None:
    old = "# Birds\rHONK = 1\r" + BIRDS
    assert package("get_birds", old)["birds.py"] == old
    dos = BIRDS.replace("\n", "\r\n")
    made = package("get_birds", dos)["birds.py"]
    assert made != dos
    assert ast.dump(ast.parse(made)) == ast.dump(ast.parse(package("get_birds")["birds.py"]))


def test_steps_in_other_modules_and_packages_go_too() -> None:
    head = "from lokki import step\n\n@step\ndef"
    places = {"one": "flows.a", "two": "flows", "three": "main"}
    steps = {name: Importable(module, name) for name, module in places.items()}
    files = {
        "flows/a.py": f"{head} one(x):\n    return 1\n".encode(),
        "flows/__init__.py": f"{head} two(x):\n    return 2\n".encode(),
        "main.py": f"from flows import two\nfrom flows.a import one\n{head} three(x):\n    return 3\n".encode(),
        "data.csv": b"one,two\n",
        "lokki/runner.py": b"def one():\n    return two()\n",
    }
    assert trim(files, steps).files["three"] == {
        **files,
        "flows/a.py": f"{head} one(x):\n    {STUB}\n".encode(),
        "flows/__init__.py": f"{head} two(x):\n    {STUB}\n".encode(),
    }


def test_what_is_left_is_python() -> None:
    odd = (
        "from lokki import step\n"
        "@step\ndef get_birds():\n    @cache\n    def inner():\n        pass\n"
        "    x = '''\n  text\n'''\n    return [\n x]\n\n"
        "@step\ndef flap_bird(a,\n  b=1):\n\n    # first\n\n    return 1; pass\n\n"
        "@step\ndef join_birds(): pass\n"
    )
    for name in STEPS:
        made = package(name, odd)["birds.py"]
        assert made.count("\n") == odd.count("\n")
        ast.parse(made)
    assert package("join_birds", odd)["birds.py"].count(STUB) == 2


def test_a_body_that_names_its_own_step_goes_with_it() -> None:
    again = BIRDS.replace("return louder(twice(bird))", "return bird.flap_bird(twice(bird))")
    assert STUB in package("get_birds", again)["birds.py"]
    assert "bird.flap_bird(" in package("flap_bird", again)["birds.py"]


def test_a_step_that_another_step_calls_goes_where_the_caller_goes() -> None:
    calling = BIRDS.replace("return louder(twice(bird))", "return get_birds.fn()[0]")
    body = 'return ["goose"]'
    assert body in package("flap_bird", calling)["birds.py"]
    assert body in package("get_birds", calling)["birds.py"]
    assert body not in package("join_birds", calling)["birds.py"]


def test_the_body_of_a_step_of_no_flow_stays_and_so_does_what_it_calls() -> None:
    other = "\n\n@step\ndef other(bird: str) -> str:\n    return flap_bird.fn(bird)\n"
    made = package("get_birds", BIRDS + other)["birds.py"]
    assert "return louder(twice(bird))" in made
    assert "return flap_bird.fn(bird)" in made
    module = f"from lokki import step\nfrom birds import flap_bird{other}"
    assert "return louder(twice(bird))" in package("get_birds", elsewhere=module)["birds.py"]


def test_the_trees_of_packages_are_what_parsing_their_files_gives() -> None:
    files = {"birds.py": BIRDS.encode(), "helpers.py": b"import birds\n\n\ndef count(names):\n    return len(names)\n"}
    made = trim(files, STEPS)
    for name in STEPS:
        parsed = {path: ast.dump(ast.parse(source)) for path, source in made.files[name].items()}
        assert {path: ast.dump(tree) for path, tree in made.trees[name].items()} == parsed
        lines = {path: _raises(ast.parse(source)) for path, source in made.files[name].items()}
        assert {path: _raises(tree) for path, tree in made.trees[name].items()} == lines
    assert len({made.files[name]["birds.py"] for name in STEPS}) == len(STEPS)


def test_packages_share_the_trees_of_what_none_of_them_leaves_out() -> None:
    made = trim({"birds.py": BIRDS.encode(), "helpers.py": b"names = []\n"}, STEPS)
    assert len({made.trees[name]["helpers.py"] for name in STEPS}) == 1


def _raises(tree: ast.Module) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Raise)]
