"""The examples: where they are, how to run one, and what each prints."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

BIRDS = """\
flappy goose, flappy duck, flappy seagul
"""

BODY_MASS = """\
body_mass_g of 342 penguins
species    island     birds    mean    std     min     max  outliers
Adelie     Biscoe        44  3709.7  487.7  2850.0  4775.0
Adelie     Dream         56  3688.4  455.1  2900.0  4650.0
Adelie     Torgersen     51  3706.4  445.1  2900.0  4700.0
Chinstrap  Dream         68  3733.1  384.3  2700.0  4800.0  PAL0809 N72A1 (-2.9)
Gentoo     Biscoe       123  5076.0  504.1  3950.0  6300.0  PAL0809 N6A1 (-2.6), PAL0708 N39A2 (+2.6)
"""

BILL_LENGTH = """\
bill_length_mm of 342 penguins
species    island     birds    mean    std     min     max  outliers
Adelie     Biscoe        44    39.0    2.5    34.5    45.6
Adelie     Dream         56    38.5    2.5    32.1    44.1
Adelie     Torgersen     51    39.0    3.0    33.5    46.0
Chinstrap  Dream         68    48.8    3.3    40.9    58.0  PAL0910 N98A2 (+3.0), PAL0708 N71A2 (+3.7)
Gentoo     Biscoe       123    47.5    3.1    40.9    59.6  PAL0708 N56A2 (+3.7)
"""

SPECIES = """\
3 species by 4 measures
Biscoe      38 of  42 right
Dream       27 of  31 right
Torgersen    8 of  13 right
"""

VARIANTS = """\
A: 3 groups, 107 birds, 252 g off
B: 7 groups, 226 birds, 217 g off
"""

ISLANDS = """\
body_mass_g, mean 4201.8
Adelie     Biscoe -492.1 (44), Dream -513.4 (56), Torgersen -495.4 (52)
Chinstrap  Dream -468.7 (68)
Gentoo     Biscoe +874.3 (124)
"""

SWEEP = """\
C=0.001  89.1% right, worst fold 87.7%
C=0.01   94.9% right, worst fold 93.0%
C=0.1    97.5% right, worst fold 95.6%
C=1      97.9% right, worst fold 95.6%  <- best
C=10     97.0% right, worst fold 95.6%
"""

LOADED = """\
Adelie: 152 birds, 151 weighed, 3701 g
Chinstrap: 68 birds, 68 weighed, 3733 g
Gentoo: 124 birds, 123 weighed, 5076 g
"""

# https://oeis.org/A006880 and https://oeis.org/A007508 for 10^6; https://oeis.org/A005250 for the gap
PRIMES_TO_A_MILLION = """\
78,498 primes, 8,169 pairs of twins
widest gap: 114, from 492,113 to 492,227
"""


def run_example(name: str, *options: str, folder: Path) -> str:
    """Run an example in an empty folder and return what it printed; fail with what it said when it failed."""
    command = [sys.executable, str(EXAMPLES / name), "run", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
