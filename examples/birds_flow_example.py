"""Makes birds flap: a fan-out over a list, and back to one value.

Run it: uv run examples/birds_flow_example.py run
"""

from lokki import flow, main, step


@step
def get_birds() -> list[str]:
    return ["goose", "duck", "seagul"]


@step
def flap_bird(bird: str) -> str:
    return f"flappy {bird}"


@step
def join_birds(birds: list[str]) -> str:
    return ", ".join(birds)


@flow
def birds_flow():
    """Make birds flap."""
    return get_birds().map(flap_bird).agg(join_birds)


if __name__ == "__main__":
    main(birds_flow)
