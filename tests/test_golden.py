"""What is built from each of `build_flows.BUILDS`, byte for byte. `pytest --update-golden` rewrites the files."""

from pathlib import Path

import pytest
from build_flows import BUILDS

from lokki.builder.cloudformation import dump_template
from lokki.builder.state_machine import dump_state_machine

GOLDEN = Path(__file__).parent / "golden"


def compare(path: Path, built: bytes, update: bool) -> None:
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(built)
    assert built.decode() == path.read_text()


@pytest.mark.parametrize("name", BUILDS)
def test_the_state_machine_is_the_golden_one(name: str, update_golden: bool) -> None:
    compare(GOLDEN / name / "statemachine.json", dump_state_machine(BUILDS[name].state_machine()), update_golden)


@pytest.mark.parametrize("name", BUILDS)
def test_the_template_is_the_golden_one(name: str, update_golden: bool) -> None:
    compare(GOLDEN / name / "template.yaml", dump_template(BUILDS[name].template()), update_golden)


def test_every_golden_folder_belongs_to_a_flow() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(BUILDS)
