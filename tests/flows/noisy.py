"""Steps that write to the terminal in every way there is."""

import ctypes
import logging
import os
import subprocess
import sys
import warnings

from lokki import flow, main, step

if "--set-up" in os.environ.get("LOGGING", ""):
    logging.basicConfig(format="<%(levelname)s %(message)s>", level=logging.DEBUG)

log = logging.getLogger("noisy")


@step
def loud() -> list[int]:
    print("printed")
    print("to stderr", file=sys.stderr)
    log.warning("logged")
    warnings.warn("warned", stacklevel=1)
    sys.stdout.buffer.write(b"bytes\n")
    sys.stdout.flush()
    subprocess.run(["sh", "-c", "echo from a child; echo its errors >&2"], check=True)
    ctypes.CDLL(None).puts(b"from C, held back in its own buffer")
    os.write(1, b"garbage \xff\xfe\x00 on one\n")
    os.write(1, b"1%\r50%\r100%\r\n")
    os.write(1, b"y" * 70_000 + b"\n")
    print("10%\r90%\rdone")
    print("x" * 100_000)
    print("no end", end="")
    return list(range(8))


@step
def chatter(number: int) -> int:
    for turn in range(30):
        print("item", number, "says", turn)
    log.info("item %d is logged", number)
    sys.stderr.write(f"item {number} ends")
    return number


@step
def count(numbers: list[int]) -> int:
    print("counting")
    return len(numbers)


@flow
def noisy_flow():
    return loud().map(chatter).agg(count)


if __name__ == "__main__":
    main(noisy_flow)
