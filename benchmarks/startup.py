"""What starting lokki costs, against a Python that does nothing."""

from __future__ import annotations

from measuring import EXAMPLES, Program, Row, Table, at_most, interleaved, median, median_and_min, python, seconds

REPEATS = 15
TARGET_SECONDS = 0.25
NOTHING, HELP, RUN_HELP, RUN = "python -c pass", "birds --help", "birds run --help", "birds run"


def measure() -> Table:
    birds = EXAMPLES / "birds_flow_example.py"
    programs = [
        Program(NOTHING, python("-c", "pass"), ""),
        Program(HELP, python(birds, "--help"), "Usage"),
        Program(RUN_HELP, python(birds, "run", "--help"), "Usage"),
        Program(RUN, python(birds, "run"), "flappy goose, flappy duck, flappy seagul"),
    ]
    samples = interleaved(programs, {}, REPEATS)
    above = {name: median(samples[name]) - median(samples[NOTHING]) for name in samples}
    rows = (
        Row(NOTHING, median_and_min(seconds(samples[NOTHING]))),
        Row(HELP, median_and_min(seconds(samples[HELP])), f"+{above[HELP]:.3f} s"),
        Row(RUN_HELP, median_and_min(seconds(samples[RUN_HELP])), f"+{above[RUN_HELP]:.3f} s"),
        Row(
            RUN,
            median_and_min(seconds(samples[RUN])),
            f"+{above[RUN]:.3f} s",
            *at_most(above[RUN], TARGET_SECONDS, "+"),
        ),
    )
    return Table("Start-up", "Wall time of the whole process. Ratio: seconds above a Python that does nothing.", rows)
