"""Surveys the prime numbers: pure Python that keeps a CPU busy, so that worker processes pay.

uv run examples/primes_flow_example.py run --executor processes
uv run examples/primes_flow_example.py run --executor processes --limit 200000000
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

from lokki import StepNode, flow, main, step


@dataclass(frozen=True, slots=True)
class Gap:
    """Two primes with none between them."""

    below: int
    above: int

    @property
    def width(self) -> int:
        """How far it is from one to the other."""
        return self.above - self.below


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in one range of numbers; its outermost primes are None where it has no prime."""

    primes: int
    twins: int
    first: int | None
    last: int | None
    widest: Gap | None


@step
def cut_into_ranges(limit: int, size: int) -> Iterator[range]:
    """Cut the numbers from 2 to below limit into ranges of at most ``size`` numbers."""
    for start in range(2, limit, size):
        yield range(start, min(start + size, limit))


@step
def survey(numbers: range) -> Survey:
    """Sieve one range, and walk from prime to prime through it."""
    is_prime = bytearray([1]) * len(numbers)
    for prime in small_primes(isqrt(numbers[-1])):
        # Smaller multiples have a smaller factor, which crosses them out.
        first_multiple = max(prime * prime, -(-numbers.start // prime) * prime)
        crossed_out = range(first_multiple - numbers.start, len(numbers), prime)
        is_prime[crossed_out.start :: prime] = bytes(len(crossed_out))
    return survey_of([numbers.start + place for place, prime in enumerate(is_prime) if prime])


@step
def sum_up(surveys: list[Survey]) -> str:
    """Join the ranges, in order; the gaps between one range's last prime and the next one's first count too."""
    primes = sum(part.primes for part in surveys)
    twins = sum(part.twins for part in surveys)
    gaps = [part.widest for part in surveys if part.widest is not None]
    ends = [(part.first, part.last) for part in surveys if part.first is not None and part.last is not None]
    for (_, below), (above, _) in pairwise(ends):
        gaps.append(Gap(below, above))
        twins += above - below == 2
    lines = [f"{primes:,} primes, {twins:,} pairs of twins"]
    if gaps:
        widest = max(gaps, key=lambda gap: (gap.width, -gap.below))
        lines.append(f"widest gap: {widest.width}, from {widest.below:,} to {widest.above:,}")
    return "\n".join(lines)


def small_primes(limit: int) -> list[int]:
    """Return the primes up to and including limit, by trial division."""
    primes: list[int] = []
    for number in range(2, limit + 1):
        root = isqrt(number)
        for prime in primes:
            if prime > root:
                primes.append(number)
                break
            if number % prime == 0:
                break
        else:
            primes.append(number)
    return primes


def survey_of(primes: list[int]) -> Survey:
    """Count the twins among consecutive primes, and find the first of the widest gaps."""
    twins, width = 0, 0
    widest = None
    for below, above in pairwise(primes):
        if above - below == 2:
            twins += 1
        if above - below > width:
            width, widest = above - below, Gap(below, above)
    if not primes:
        return Survey(0, 0, None, None, None)
    return Survey(len(primes), twins, primes[0], primes[-1], widest)


@flow
def primes_flow(limit: int = 50_000_000, size: int = 1_000_000) -> StepNode[..., str]:
    """Count the primes and the twins among them below a limit, and find the widest gap.

    limit is where to stop; size is how many numbers one item covers, about 0.04 s of work for a million.
    """
    return cut_into_ranges(limit, size).map(survey).agg(sum_up)


if __name__ == "__main__":
    main(primes_flow)
