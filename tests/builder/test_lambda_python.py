"""Which Python functions get: that which builds, if Lambda has it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from lokki.base.quotas import PYTHONS
from lokki.builder.cloudformation import RUNTIME
from lokki.builder.lambda_pkg import BASE_IMAGE
from lokki.builder.package_types import LAMBDA_PYTHON_TEXT, lambda_python


@pytest.mark.parametrize(
    ("here", "expected"),
    [((3, 13), (3, 13)), ((3, 14), (3, 14)), ((3, 15), (3, 15)), ((3, 16), (3, 15)), ((4, 0), (3, 15))],
)
def test_functions_have_the_python_that_builds_or_the_newest_below(
    here: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert lambda_python(here) == expected


def test_template_and_image_have_the_same_python() -> None:
    assert f"python{LAMBDA_PYTHON_TEXT}" == RUNTIME
    assert f"public.ecr.aws/lambda/python:{LAMBDA_PYTHON_TEXT}" == BASE_IMAGE


def test_cloudformation_knows_all_of_them() -> None:
    spec = find_spec("cfnlint")
    assert spec is not None
    assert spec.origin is not None
    schemas = (Path(spec.origin).parent / "data" / "schemas" / "resources").glob("*.json")
    [function] = [
        schema for path in schemas if (schema := json.loads(path.read_text()))["typeName"] == "AWS::Lambda::Function"
    ]
    known = json.dumps(function["properties"]["Runtime"])
    assert [f'"python{major}.{minor}"' in known for major, minor in PYTHONS] == [True] * len(PYTHONS)
