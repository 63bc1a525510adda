"""What is built from each of `build_flows.BUILDS`, byte for byte. `pytest --update-golden` rewrites the files."""

import pytest
from build_flows import BUILDS
from support.golden import GOLDEN, compare

from lokki.builder.state_machine import dump_state_machine
from lokki.builder.template_text import dump_template


@pytest.mark.parametrize("name", BUILDS)
def test_the_state_machine_is_the_golden_one(name: str, update_golden: bool) -> None:
    compare(f"{name}/statemachine.json", dump_state_machine(BUILDS[name].state_machine()).decode(), update_golden)


@pytest.mark.parametrize("name", BUILDS)
def test_the_template_is_the_golden_one(name: str, update_golden: bool) -> None:
    compare(f"{name}/template.yaml", dump_template(BUILDS[name].template()).decode(), update_golden)


def test_every_golden_folder_belongs_to_a_flow() -> None:
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(BUILDS)
