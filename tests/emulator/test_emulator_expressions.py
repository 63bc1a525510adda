"""JSONata as Step Functions has it: templates, null, numbers, its own functions, and what has no value."""

import hashlib
import json
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.base.values import Json
from lokki.emulator.states.expressions import Expressions, Scope
from lokki.emulator.states.failures import StatesError
from lokki.errors import EmulatorError

STATES: dict[str, Json] = {
    "input": {
        "run_id": "r",
        "none": None,
        "one": [{"index": 0, "result": None}],
        "nothing": [],
        "whole": 1.0,
        "half": 0.5,
        "large": 2**53,
        "text": "äö€😀",
        "nested": {"deep": [{"a": 1}, {"a": [2, 3]}]},
    },
    "context": {"Execution": {"Name": "r", "Input": {"limit": None}}},
    "result": {"Payload": {"params": {"a": 1}, "result": [1]}},
}
VARIABLES: dict[str, Json] = {"params": {"limit": 5, "none": None}}


def fill(template: Json) -> Json:
    return Expressions().fill(template, Scope(STATES, VARIABLES), "State.Field")


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        (" {% $states.input %}", " {% $states.input %}"),
        (7, 7),
        (None, None),
        ("{% $states.input.run_id %}", "r"),
        ("{% $states.input.none %}", None),
        ("{% $params.limit %}", 5),
        ("{% $params.none %}", None),
        ("{% $states.input.one %}", [{"index": 0, "result": None}]),
        ("{% $states.input.nothing %}", []),
        ("{% $states.input.whole %}", 1),
        ("{% $states.input.half %}", 0.5),
        ("{% $states.input.large %}", 2**53),
        ("{% $states.input.text %}", "äö€😀"),
        ("{% $states.context.Execution.Input %}", {"limit": None}),
        ("{% 'lokki/' & $states.context.Execution.Name & '/x' %}", "lokki/r/x"),
        ("{% $merge([{'a': $states.input.none}, {'item': 2}]) %}", {"a": None, "item": 2}),
        ("{% $sift($states.result.Payload, function($v, $k) { $k != 'params' }) %}", {"result": [1]}),
        ("{% $states.input.nested.deep.a %}", [1, 2, 3]),
        ("{% [1..3] %}", [1, 2, 3]),
        ({"a": ["{% 1 + 1 %}", {"b": "{% $params %}"}]}, {"a": [2, {"b": {"limit": 5, "none": None}}]}),
    ],
)  # fmt: skip
def test_a_template_has_its_expressions_replaced(template: Json, value: Json) -> None:
    filled = fill(template)
    assert filled == value
    assert type(filled) is type(value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$partition([1, 2, 3, 4, 5], 2)", [[1, 2], [3, 4], [5]]),
        ("$range(0, 10, 2)", [0, 2, 4, 6, 8, 10]),
        ("$range(3, 1, -1)", [3, 2, 1]),
        ("$hash('goose', 'SHA-256')", hashlib.sha256(b"goose").hexdigest()),
        ("$random(7) = $random(7)", True),
        ("$length($uuid())", 36),
        ("""$parse('{"a": [null, 1]}')""", {"a": [None, 1]}),
    ],
)
def test_the_functions_that_step_functions_adds_are_there(expression: str, value: Json) -> None:
    assert fill(f"{{% {expression} %}}") == value


@pytest.mark.parametrize(
    ("expression", "cause"),
    [
        ("$states.input.absent", "returned nothing (undefined)"),
        ("$sift({'params': 1}, function($v, $k) { $k != 'params' })", "returned nothing (undefined)"),
        ("1 + 'a'", "failed: The right side of the + operator must evaluate to a number"),
        ("$sum", "returned a function"),
        ("$partition([1], 0)", "$partition takes an array and a size"),
    ],
)
def test_an_expression_without_a_value_fails_the_state(expression: str, cause: str) -> None:
    with pytest.raises(StatesError) as caught:
        fill(f"{{% {expression} %}}")
    assert caught.value.error == "States.QueryEvaluationError"
    assert cause in caught.value.cause


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("$eval('1')", "State.Field: Step Functions has no $eval; use $parse."),
        ("1 +", "State.Field: '1 +' is not JSONata: Unexpected end of expression"),
    ],
)
def test_what_step_functions_would_not_take_is_refused(expression: str, message: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        Expressions().check({"a": ["x", f"{{% {expression} %}}"]}, "State")
    assert str(caught.value) == message.replace("State.Field", "State.a")


def test_a_value_is_not_changed_by_what_reads_it() -> None:
    states: dict[str, Json] = {"input": {"a": None, "b": [None]}}
    scope = Scope(states, {})
    expressions = Expressions()
    assert [expressions.fill("{% $states.input %}", scope) for _ in range(2)] == [{"a": None, "b": [None]}] * 2
    assert states == {"input": {"a": None, "b": [None]}}


NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.sampled_from(["", "text"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=8)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, VALUES), VALUES, st.lists(NAMES, max_size=3))
def test_a_path_of_names_gives_what_the_library_gives(
    variables: dict[str, Json], value: Json, names: list[str]
) -> None:
    """It is looked up without the library, which gets the same one with a comment in it."""
    scope = Scope({"input": value, "context": {}}, variables)

    def of(expression: str) -> str:
        try:
            return json.dumps(Expressions().fill(f"{{% {expression} %}}", scope, "Field"))
        except StatesError as error:
            return error.cause.replace("/**/", "")

    for start in ("$states.input", "$a", "$b"):
        path = ".".join([start, *names])
        assert of(path) == of(f"{path}/**/")


@pytest.mark.slow
def test_the_expressions_give_the_same_in_the_reference_implementation(tmp_path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    expressions = [
        "$states.input.run_id", "$states.input.none", "$params.limit", "$states.input.one", "$states.input.nothing",
        "$states.input.half", "$states.input.text", "$states.context.Execution.Input",
        "'lokki/' & $states.context.Execution.Name & '/x'", "$merge([{'a': $states.input.none}, {'item': 2}])",
        "$sift($states.result.Payload, function($v, $k) { $k != 'params' })", "$states.input.nested.deep.a", "[1..3]",
        "$states.result.Payload.result", "$params", "$merge([$states.input, {'item': $states.result.Payload}])",
    ]  # fmt: skip
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "jsonata@2.0.6"],
        check=True,
        timeout=120,
    )
    program = """
    const jsonata = require('jsonata');
    const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
    (async () => {
      const values = [];
      for (const text of given.expressions) values.push(await jsonata(text).evaluate(null, given.bindings));
      console.log(JSON.stringify(values));
    })();
    """
    (tmp_path / "evaluate.js").write_text(program)
    asked = json.dumps({"expressions": expressions, "bindings": {"states": STATES, **VARIABLES}})
    run = subprocess.run(
        ["node", "evaluate.js"], input=asked, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert [fill(f"{{% {text} %}}") for text in expressions] == json.loads(run.stdout)
