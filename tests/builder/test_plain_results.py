"""lokki.builder.requirements.plain_results: which functions provably hand on plain values of Python."""

import ast

import pytest

from lokki.builder.requirements.plain_results import returns_plain_values
from lokki.builder.requirements.statements import Statements

MODULE = """
import json
import numpy as np
from dataclasses import dataclass
from lokki import step
from models import make

@dataclass
class Score:
    mean: float
    count: int = 1

class Odd(Score):
    pass

table = make()

"""

PLAIN = [
    "return float(make(x))",
    "score = float(make(x))\n    return {'score': score, 'all': [int(one) for one in x]}",
    "found = {}\n    for key in make(x):\n        found[str(key)] = round(float(key), 2)\n    return found",
    "found = []\n    for one in make(x):\n        found.append(float(one))\n    return sorted(found)",
    "return Score(float(x), count=2)",
    "yield float(x)",
    "return f'{make(x)}' + 'b'",
    "return json.loads(make(x))['a']",
    "a, b = 1, 2\n    return a + b",
    "from sklearn import fit\n    return bool(fit(x).score(x) > 0.5)",
    "return float(x) if x else None",
    "print(make(x))",
    "return [str(column) for column in make(x).columns if column.ok]",
]

OTHERS = [
    "return x",
    "return make(x)",
    "return np.float64(1)",
    "return sum(make(x))",
    "return round(make(x))",
    "return make(x).tolist()",
    "yield make(x)",
    "return Score(make(x))",
    "return Odd(1.0)",
    "return table",
    "x = x\n    return x",
    "found = []\n    found.append(make(x))\n    return found",
    "found = []\n    same = found\n    same.append(make(x))\n    return found",
    "found = {}\n    make(found)\n    return found",
    "found = {}\n    make([found])\n    return found",
    "found = {}\n    found['a'] = make(x)\n    return found",
    "found = {}\n    found[make(x)] = 1\n    return found",
    "found = []\n    found.unknown(make(x))\n    return found",
    "found = []\n    found += [make(x)]\n    return found",
    "found = other = []\n    other.append(make(x))\n    return found",
    "rows = [[]]\n    for row in rows:\n        row.append(make(x))\n    return rows",
    "found = 1\n    def change():\n        nonlocal found\n        found = make(x)\n    change()\n    return found",
    "with make(x) as found:\n        return found",
    "try:\n        make(x)\n    except ValueError as error:\n        return error",
    "return [table for table in [1]] + [table]",
    "match x:\n        case found:\n            return found",
    "float = make\n    return float(x)",
    "return lambda: 1",
]


def proved(body: str, head: str = "@step\ndef f(x):", *, plain_input: bool = False, module: str = MODULE) -> bool:
    source = f"{module}{head}\n    {body}\n"
    compile(source, "flow.py", "exec")
    return returns_plain_values(ast.parse(source), Statements({}), "f", plain_input=plain_input)


@pytest.mark.parametrize("body", PLAIN)
def test_what_is_made_of_plain_values_is_plain(body: str) -> None:
    assert proved(body)


@pytest.mark.parametrize("body", OTHERS)
def test_anything_else_is_not(body: str) -> None:
    assert not proved(body)


def test_a_plain_input_gives_plain_sums_of_it() -> None:
    assert proved("return x * 2", plain_input=True)
    assert not proved("return x * 2")
    assert not proved("return make(x)", plain_input=True)
    assert proved("return x + y", "@step\ndef f(x, y=1, *, z='a'):", plain_input=True)
    assert not proved("return x + y", "@step\ndef f(x, y=table):", plain_input=True)


def test_lists_of_arrays_are_plain_where_the_annotation_says_numbers() -> None:
    assert proved("return make(x).tolist()", "@step\ndef f(x) -> list[float]:")
    assert not proved("return make(x).tolist()", "@step\ndef f(x) -> list[Score]:")


def test_decorators_stars_and_second_functions_prove_nothing() -> None:
    assert proved("return 1", "@step(memory=512)\ndef f(x):")
    assert not proved("return 1", "@make\n@step\ndef f(x):")
    assert not proved("return 1", module=f"{MODULE}from numpy import *\n")
    assert not proved("return 1", module=f"{MODULE}def f(x): return make(x)\n")
    assert not returns_plain_values(ast.parse(MODULE), Statements({}), "f", plain_input=False)
