"""What commands that wait for a run write, beside its result: progress and last words to stderr, in words or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lokki.cli_run import DONE, FAILED, from_here, shown, write_result
from lokki.errors import RunError
from lokki.progress import Display, JsonLines, LiveBars, Nothing, PlainLines


@dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes, stdout without ``file``, and what stderr gets. ``traceback``: with lokki's own frames."""

    log_format: str = "human"
    quiet: bool = False
    file: Path | None = None
    traceback: bool = False

    def display(self) -> Display:
        """Return what shows a run's events: bars on a terminal, else lines."""
        if self.quiet:
            return Nothing()
        if self.log_format == "json":
            return JsonLines(sys.stderr)
        live = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        return LiveBars(sys.stderr) if live else PlainLines(sys.stderr)

    def say(self, text: str, **fields: str) -> None:
        """Say something in words, or its fields as a line of JSON."""
        if self.log_format == "json":
            JsonLines(sys.stderr).write(dict(fields))
        else:
            sys.stderr.write(f"{text}\n")

    def hand_over(self, result: object) -> int:
        """Write a result to the file, or else to stdout; return the exit code."""
        try:
            if self.file is not None:
                write_result(self.file, result)
                if not self.quiet:
                    path = from_here(str(self.file))
                    self.say(f"result written to {path}", event="result_written", path=path)
            elif (text := shown(result)) is not None:
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
        except RunError as error:
            self.say(f"error: {error}", event="error", message=str(error))
            return FAILED
        return DONE


def output_of(values: Mapping[str, object]) -> Output:
    """Read the options that `lokki.cli_flow.output_options` makes."""
    file = values["output"]
    return Output(
        str(values["log_format"]),
        bool(values["quiet"]),
        Path(str(file)) if file is not None else None,
        bool(values["traceback"]),
    )
