"""Golden files: what is generated, whole, as a person has read it. ``pytest --update-golden`` rewrites them."""

from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "golden"


def compare(name: str, made: str, update: bool) -> None:
    """Assert that a text is that of a golden file, or make it so."""
    path = GOLDEN / name
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made)
    assert made == path.read_text()
